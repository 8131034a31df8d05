"""References that share no code with the library: central differences, comparison of trees, and the work of views.

Shapes: y.shape + x.shape for every block.
"""

import functools
import re
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jacobia import Jacobian

# Fourth order: f'(x) = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h, error h**4 and eps / h.
STEP = 1e-3
STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))
# For second differences the errors are h**4 / 30 and eps / h**2, which are equal at 1e-10.
SECOND_STEP = 2e-3
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
    # Inexact leaves as 64-bit NumPy arrays; other leaves unchanged.
    if not jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.inexact):
        return leaf
    is_complex = jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.complexfloating)
    return np.asarray(leaf).astype(np.complex128 if is_complex else np.float64)


def remembered(differences):
    """The same differences of the same function, identical in bits of its arguments, are computed once."""
    known = weakref.WeakKeyDictionary()

    @functools.wraps(differences)
    def once(f, *args, **kwargs):
        if not isinstance(f, types.FunctionType):  # what may be equal to another one
            return differences(f, *args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [np.asarray(leaf) if hasattr(leaf, "dtype") else leaf for leaf in leaves]
        of = (tree, *((a.dtype, a.shape, a.tobytes()) if isinstance(a, np.ndarray) else (type(a), a) for a in arrays))
        found = known.setdefault(f, {})
        if of not in found:
            found[of] = differences(f, *args, **kwargs)
        return jax.tree.map(np.copy, found[of])

    return once


@remembered
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


@remembered
def second_differences(f, *args, argnums=0, **kwargs):
    """The Hessian of f in float64 (complex128), nested as `jax.hessian` nests it, from values of f alone.

    Returns:
      The output tree, with the tree of inputs twice in each leaf; arrays y.shape + x_i.shape + x_j.shape.
    """
    is_tuple = not isinstance(argnums, int)
    numbers = tuple(n % len(args) for n in (argnums if is_tuple else (argnums,)))
    with jax.enable_x64(True):

        def in_64_bits(leaf):
            return np.asarray(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64)

        points = jax.tree.map(in_64_bits, tuple(args[n] for n in numbers))
        leaves, tree = jax.tree.flatten(points)
        flat = np.concatenate([leaf.ravel() for leaf in leaves])
        ends = np.cumsum([leaf.size for leaf in leaves], dtype=int)

        def unravel(moved):
            parts = [
                moved[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
                for end, leaf in zip(ends, leaves, strict=True)
            ]
            return jax.tree.unflatten(tree, parts)

        @jax.jit
        @jax.vmap
        def outputs(moved):
            full = list(args)
            for n, arg in zip(numbers, unravel(moved), strict=True):
                full[n] = arg
            return f(*full, **kwargs)

        # A fourth-order stencil in one direction; at each of its points, the same stencil in the other direction.
        steps = np.array([shift for shift, _ in STENCIL]) * SECOND_STEP
        weights = np.array([weight for _, weight in STENCIL]) / SECOND_STEP
        moves = steps[None, :, None] * np.eye(flat.size)[:, None, :]
        moved = flat + moves[:, :, None, None] + moves[None, None]
        ys, y_tree = jax.tree.flatten(outputs(moved.reshape((flat.size * len(STENCIL)) ** 2, flat.size)))
        x_tree = jax.tree.structure(points if is_tuple else points[0])

        def nested(y):
            shape = np.shape(y)[1:]
            y = np.asarray(y).reshape(flat.size, len(STENCIL), flat.size, len(STENCIL), int(np.prod(shape)))
            full = np.einsum("isjtm,s,t->mij", y, weights, weights)
            blocks = [
                [
                    full[:, a - p.size : a, b - q.size : b].reshape(shape + p.shape + q.shape)
                    for b, q in zip(ends, leaves, strict=True)
                ]
                for a, p in zip(ends, leaves, strict=True)
            ]
            return jax.tree.unflatten(x_tree, [jax.tree.unflatten(x_tree, row) for row in blocks])

        return jax.tree.unflatten(y_tree, [nested(y) for y in ys])


def blocks_of_samples(full, y_axis, y_ndim, x_axis):
    """The diagonal blocks over samples of a whole Jacobian. Asserts that all other blocks are zero.

    Args:
      full: y.shape + x.shape, with the samples at `y_axis` of y and at `x_axis` of x.
      y_ndim: number of axes of y.

    Returns:
      (B,) + y.shape without the sample axis + x.shape without the sample axis.
    """
    moved = np.moveaxis(full, (y_axis % y_ndim, y_ndim + x_axis % (full.ndim - y_ndim)), (0, 1))
    samples = np.arange(len(moved))
    rest = moved.copy()
    rest[samples, samples] = 0
    np.testing.assert_allclose(rest, 0, atol=1e-9)
    return moved[samples, samples]


def assert_close(actual, expected, *, tolerance=None):
    """Assert that two trees have the same structure, and all leaves the same shapes and, within tolerance, values."""
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


def assert_helpful(caught, *words):
    """Assert that the message has the form of the library's errors and contains these words."""
    message = str(caught.value)
    assert re.search(r"\w+\(.*\).*: expected .+, got .+\. \S", message, re.DOTALL | re.IGNORECASE), message
    for word in words:
        assert word in message, (word, message)


NOTHING = (0, 0, 0, 0, 0, 0)


def work(view):
    """The counters of a view; `NOTHING` if it has not been read."""
    s = view.stats
    return s.rows_computed, s.columns_computed, s.pullbacks, s.pushforwards, s.seeds_run, s.kernel_calls


def passes(view):
    return view.stats.pullbacks + view.stats.pushforwards


def scattered(view):
    """The nonzeros of a view as a dense matrix."""
    data, rows, cols = view.nonzeros()
    out = np.zeros(view.matrix.shape, np.float32)
    out[..., rows, cols] = data
    return out


def filled(matrix):
    """A BCOO or BCSR array, of samples or not, as a NumPy array."""
    data, by_rows = np.asarray(matrix.data), hasattr(matrix, "indptr")
    places = [matrix.indptr, matrix.indices] if by_rows else [matrix.indices]
    samples, own = data.shape[:-1], 1 if by_rows else 2  # places are those of each sample, or of all of them
    places = [np.broadcast_to(a, samples + np.shape(a)[-own:]) for a in places]
    out = np.zeros(matrix.shape, data.dtype)
    for k in np.ndindex(samples):
        first, *columns = (a[k] for a in places)
        where = (np.repeat(np.arange(len(first) - 1), np.diff(first)), *columns) if by_rows else tuple(first.T)
        np.add.at(out[k], where, data[k])
    return out


def in_threads(work_of):
    """Results of `work_of(k)` in eight threads that start at once."""
    start = threading.Barrier(8)

    def run(k):
        start.wait(timeout=30)
        return work_of(k)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, range(8)))
