"""References that share nothing with the library: central differences, comparison of trees.

Shapes: y.shape + x.shape for every block.
"""

import jax
import numpy as np

from jacobia import Jacobian

# Fourth order: f'(x) = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h, error h**4 and eps / h.
STEP = 1e-3
STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))
TOLERANCE = {
    "float16": 2e-2,
    "bfloat16": 4e-2,
    "float32": 3e-4,
    "complex64": 3e-4,
    "float64": 1e-8,
    "complex128": 1e-8,
}


def is_view(value):
    return isinstance(value, Jacobian)


def is_block(value):
    return value is None or is_view(value)


def views(tree):
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_view) if is_view(leaf)]


def dense(tree):
    """The whole matrix of every view of a tree, as NumPy arrays; None stays."""
    return jax.tree.map(lambda leaf: None if leaf is None else np.asarray(leaf), tree, is_leaf=is_block)


def wide(leaf):
    # NumPy, 64 bits, for whatever is inexact; the rest as it is.
    if not jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.inexact):
        return leaf
    is_complex = jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.complexfloating)
    return np.asarray(leaf).astype(np.complex128 if is_complex else np.float64)


def central_differences(f, *args, argnums=0, where=None, **kwargs):
    """The Jacobian of f in float64 (complex128 for complex inputs), nested as `jax.jacrev` nests it.

    Args:
      f: the function; keyword arguments are passed on.
      argnums: int (no tuple level) or tuple of ints.
      where: predicate on leaves; leaves it refuses have None in the result.

    Returns:
      A tree of NumPy arrays of shape y.shape + x.shape.
    """
    is_tuple = not isinstance(argnums, int)
    numbers = tuple(n % len(args) for n in (argnums if is_tuple else (argnums,)))
    leaves, tree = jax.tree.flatten(tuple(args[n] for n in numbers))
    chosen = [where is None or bool(where(leaf)) for leaf in leaves]

    with jax.enable_x64(True):
        leaves = [wide(leaf) if use else leaf for leaf, use in zip(leaves, chosen, strict=True)]
        rest = [arg if k in numbers else jax.tree.map(wide, arg) for k, arg in enumerate(args)]

        @jax.jit
        def outputs(chosen_leaves):
            it = iter(chosen_leaves)
            merged = [next(it) if use else leaf for leaf, use in zip(leaves, chosen, strict=True)]
            full = list(rest)
            for n, arg in zip(numbers, jax.tree.unflatten(tree, merged), strict=True):
                full[n] = arg
            return f(*full, **kwargs)

        points = [leaf for leaf, use in zip(leaves, chosen, strict=True) if use]
        ys, y_tree = jax.tree.flatten(outputs(points))
        blocks = [[np.zeros((y.size, x.size), np.result_type(wide(y), x)) for x in points] for y in ys]
        for j, x in enumerate(points):
            for column in range(x.size):
                step = STEP * max(1.0, abs(x.reshape(-1)[column]))
                for shift, weight in STENCIL:
                    moved = x.copy().reshape(-1)
                    moved[column] += shift * step
                    moved = [*points[:j], moved.reshape(x.shape), *points[j + 1 :]]
                    for i, y in enumerate(jax.tree.leaves(outputs(moved))):
                        blocks[i][j][:, column] += weight * wide(y).reshape(-1) / step

    def nested(i):
        it = iter(range(len(points)))
        row = []
        for use in chosen:
            j = next(it) if use else None
            row.append(blocks[i][j].reshape(ys[i].shape + points[j].shape) if use else None)
        row = jax.tree.unflatten(tree, row)
        return row if is_tuple else row[0]

    return jax.tree.unflatten(y_tree, [nested(i) for i in range(len(ys))])


def assert_close(actual, expected, *, tolerance=None):
    """Two trees have one structure, and every leaf the shape and, within tolerance, the values."""
    actual_leaves, actual_tree = jax.tree.flatten(actual, is_leaf=is_block)
    expected_leaves, expected_tree = jax.tree.flatten(expected, is_leaf=is_block)
    assert actual_tree == expected_tree
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        assert (a is None) == (e is None)
        if a is None:
            continue
        name = str(jax.numpy.result_type(a.dtype))
        a, e = wide(np.asarray(a)), wide(np.asarray(e))
        assert a.shape == e.shape
        limit = TOLERANCE.get(name, 0) if tolerance is None else tolerance
        if not limit:  # integers and booleans
            np.testing.assert_array_equal(a, e)
            continue
        scale = max(1.0, np.max(np.abs(e[np.isfinite(e)]), initial=0.0))
        np.testing.assert_allclose(a, e, rtol=limit, atol=limit * scale)
