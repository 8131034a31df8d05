"""Structural zeros: outputs, blocks and intermediates without tangents, in every reading of nonzeros.

Values are compared with JAX's dense derivatives. Shapes: M outputs, N inputs, nnz stored entries.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from reference import filled, scattered, views

from jacobia import coloring, hessian, jacobian, sparsity_pattern

pytestmark = pytest.mark.slow

X = np.array([0.5, 1.5, -0.7], np.float32)
MANY = 20  # steps: more than are walked one by one
WRITES = [lambda at, v: at.add(v), lambda at, v: at.set(v), lambda at, v: at.multiply(v, unique_indices=True)]


def padding(x):
    """Three zeros that are no constants."""
    return jnp.pad(x, 3)[:3]


@jax.custom_vjp
def flat(x):
    return 0 * x + 1


flat.defvjp(lambda x: (flat(x), None), lambda _, u: (jnp.zeros_like(u),))


def of_steps(length, step, *start):
    return lax.scan(lambda c, _: step(*c), start, None, length=length)


PROGRAMS = {
    "padding that is sliced": lambda x: jnp.pad(x, 2)[:2],
    "padding that is cut": lambda x: lax.pad(x, 0.0, [(-3, 2, 0)]),
    "padding beside x": lambda x: jnp.concatenate([padding(x), x, x * np.zeros(3)]),
    "padding twice": lambda x: jnp.concatenate([padding(x), padding(x)[::-1]]),
    "a constant": lambda x: jnp.ones(4),
    "a constant beside x": lambda x: (x[:2] * 2, jnp.ones((2, 2)), 3.0),
    "known zeros": lambda x: jnp.zeros((2, 3)) @ x,
    "no elements": lambda x: (x[:0], jnp.zeros((0, 2)), x[:0] @ jnp.zeros((0, 4)), jnp.zeros((0, 3)) @ x),
    "sums over no elements": lambda x: jnp.stack([x[:0].sum(), jnp.prod(x[:0]), jnp.cumsum(x[:0]).sum()]),
    "elements beyond the end": lambda x: x.at[np.array([7, 8])].get(mode="fill", fill_value=0),
    "writes beyond the end": lambda x: jnp.zeros(5).at[np.array([7, 8, 9])].add(x, mode="drop"),
    "all overwritten": lambda x: x.at[:].set(1.0),
    "rows of segments that are empty": lambda x: jax.ops.segment_sum(x, np.array([5, 5, 5]), 8)[:4],
    "running sums": lambda x: (jnp.cumsum(padding(x)), jnp.cumsum(jnp.pad(x, 3))[:3]),
    "windows": lambda x: lax.reduce_window(jnp.pad(x, 4), 0.0, lax.add, (2,), (1,), "VALID")[:2],
    "a convolution": lambda x: jnp.convolve(jnp.pad(x, 4), np.array([1.0, 2.0]))[:2],
    "an order": lambda x: jnp.sort(padding(x)),
    "a solve": lambda x: jnp.linalg.solve(2 * jnp.eye(3), padding(x)),
    "a transform": lambda x: jnp.real(jnp.fft.fft(padding(x))),
    "a custom rule": lambda x: flat(x),
    "a custom rule beside x": lambda x: jnp.concatenate([flat(x), jnp.sin(x), padding(flat(x))]),
    "a branch of zeros": lambda x: lax.cond(x[0] > 0, padding, lambda x: jnp.zeros(3), x),
    "branches of some": lambda x: lax.cond(x[0] > 0, lambda x: (x, jnp.zeros(2)), lambda x: (padding(x), x[:2]), x),
    "an index of the input": lambda x: padding(x)[jnp.int32(x)],
    "a place of the input": lambda x: jnp.zeros(4).at[jnp.int32(x[0])].set(padding(x)[0]),
    "no elements at places of the input": lambda x: (
        x.at[jnp.int32(x[:0])].add(x[:0] * 2), jnp.sin(x).at[jnp.int32(x[:0])].set(x[:0]),
        x[:0][jnp.int32(x[:0])], x[jnp.int32(x[:0])], lax.dynamic_slice(x[:0], (jnp.int32(x[0]),), (0,)),
        lax.dynamic_update_slice(x, x[:0], (jnp.int32(x[0]),)), jnp.zeros((2, 0)).at[jnp.int32(x[0])].add(x[:0]),
    ),
    "writes of nothing at a place of the input": lambda x: [
        write(x.at[jnp.int32(x[:1])], jnp.concatenate([x[:0], jnp.ones(1)])) for write in WRITES
    ],
    "steps of x that are zero": lambda x: lax.map(lambda v: 2 * v, jnp.tile(padding(x), (MANY, 1))),
    "a carry that is counted": lambda x: lax.fori_loop(0, x[0].astype(int) + MANY, lambda i, c: 0 * c, x),
} | {
    f"{name}, {length} steps": lambda x, f=f, length=length: f(length, x)
    for length in (0, 2, MANY)
    for name, f in {
        "a carry that becomes zero": lambda k, x: of_steps(k, lambda c: ((padding(c),), c[:1]), x),
        "a carry that is zero": lambda k, x: of_steps(k, lambda c: ((2 * c,), c), padding(x)),
        "a carry that is zero first": lambda k, x: of_steps(k, lambda c: ((jnp.sin(c) + x,), 1.0), padding(x)),
        "a carry of no elements": lambda k, x: of_steps(k, lambda c, d: ((2 * c, jnp.sin(d)), c), x[:0], x),
    }.items()
}  # fmt: skip


def check(made, expected):
    """Every reading of the nonzeros of views, and what is read afterwards."""
    expected = [np.asarray(e) for e in jax.tree.leaves(expected)]
    assert len(made) == len(expected)
    for J, full in zip(made, expected, strict=True):
        matrix = full.reshape(J.matrix.shape)
        np.testing.assert_allclose(scattered(J), matrix, atol=1e-5)
        assert J.pattern.shape == matrix.shape and coloring(J.pattern).num_colors <= min(matrix.shape)
        assert not (np.abs(matrix[~J.pattern.todense()]) > 1e-6).any()
        np.testing.assert_allclose(J.to_scipy().toarray(), matrix, atol=1e-5)
        np.testing.assert_allclose(filled(J.to_bcoo()), matrix, atol=1e-5)
        np.testing.assert_allclose(filled(J.to_bcsr()), matrix, atol=1e-5)
        np.testing.assert_allclose(scattered(J.matrix.T), matrix.T, atol=1e-5)
        np.testing.assert_allclose(J.matrix[-1:, :2], matrix[-1:, :2], atol=1e-5)
        np.testing.assert_allclose(J.matrix.diagonal(), np.diagonal(matrix), atol=1e-5)
        np.testing.assert_allclose(J[...], full, atol=1e-5)


def under_all(test):
    return pytest.mark.parametrize("name", PROGRAMS)(test)


@cache
def blocks_of(name):
    return jax.tree.leaves(jax.jit((jax.jacrev if "custom" in name else jax.jacfwd)(PROGRAMS[name]))(X))


@under_all
def test_jacobians(name):
    check(views(jacobian(PROGRAMS[name])(X)), blocks_of(name))


@under_all
def test_all_outputs_as_one_matrix(name):
    f = PROGRAMS[name]
    full = np.concatenate([np.asarray(b).reshape(-1, 3) for b in blocks_of(name)])
    pattern = sparsity_pattern(f, X)
    assert pattern.shape == full.shape and not full[~pattern.todense()].any()
    assert pattern == sparsity_pattern(f, jax.ShapeDtypeStruct((3,), np.float32))
    for given in ("auto", pattern, coloring(pattern)):
        J = jacobian(f, ravel=True, sparsity=given)(X)
        np.testing.assert_allclose(scattered(J), full, atol=1e-5)
        np.testing.assert_allclose(J[...], full, atol=1e-5)
    jitted = jax.jit(lambda x: jacobian(f, ravel=True)(x).to_bcoo().todense())
    np.testing.assert_allclose(jitted(X), full, atol=1e-5)


@pytest.mark.parametrize("name", [k for k in PROGRAMS if "custom" not in k and "count" not in k])
def test_hessians(name):
    def energy(x):
        return sum([jnp.sum(jnp.square(y)) for y in jax.tree.leaves(PROGRAMS[name](x))], 0.0)

    check([hessian(energy)(X)], jax.jit(jax.jacfwd(jax.grad(energy)))(X))


# Blocks


def of_two(a, b):
    return {"both": a * b, "a": jnp.sin(a), "padding of b": jnp.pad(b, 3)[:2], "one": jnp.ones(2), "none": b[:0]}


def linear(a, b):
    return jnp.sum(a * b**2)


LINEAR = [linear, lambda a, b: jnp.sum(a + b), lambda a, b: jnp.sum(jnp.pad(a, 3)[:3] * b)]


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), (1,)], ids=str)
def test_blocks_without_a_tangent(argnums):
    check(views(jacobian(of_two, argnums)(X, X + 1)), jax.jit(jax.jacfwd(of_two, argnums))(X, X + 1))


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("f", LINEAR)
def test_hessians_of_what_is_linear_in_an_argument(f, argnums):
    expected = jax.jit(jax.hessian(f, argnums))(X, X + 1)
    check(views(hessian(f, argnums)(X, X + 1)), expected)
    if isinstance(argnums, tuple):
        whole = np.block([[np.asarray(block) for block in row] for row in expected])
        check([hessian(f, argnums, ravel=True)(X, X + 1)], whole)


@pytest.mark.parametrize("f", LINEAR)
def test_hessians_of_what_is_linear_in_a_leaf(f):
    tree = lambda t: f(t["a"], t["b"])  # noqa: E731
    check(views(hessian(tree)({"a": X, "b": X + 1})), jax.jit(jax.hessian(tree))({"a": X, "b": X + 1}))


@pytest.mark.parametrize("name", ["padding that is sliced", "padding beside x", "a constant", "all overwritten",
                                  "a carry that becomes zero, 20 steps", "a branch of zeros"])  # fmt: skip
def test_samples(name):
    f, samples = PROGRAMS[name], np.stack([X, X + 1])
    J = jacobian(jax.vmap(f), batch_axis=0)(samples)
    expected = jax.jit(jax.vmap(jax.jacfwd(f)))(samples)
    made, full = views(J), jax.tree.leaves(expected)
    for own, each in zip(made, full, strict=True):
        np.testing.assert_allclose(scattered(own), np.asarray(each).reshape(own.matrix.shape), atol=1e-5)
        np.testing.assert_allclose(own[...], each, atol=1e-5)
    for own, each in zip(views(jax.vmap(jacobian(f))(samples)), full, strict=True):
        np.testing.assert_allclose(scattered(own), np.asarray(each).reshape(own.matrix.shape), atol=1e-5)


def test_no_samples():
    J = jacobian(jnp.sin, batch_axis=0)(np.zeros((0, 3), np.float32))
    data, rows, _ = J.nonzeros()
    assert data.shape == (0, len(rows))
    assert J[...].shape == (0, 3, 3)


def test_no_inputs():
    none = np.zeros((0,), np.float32)
    check([jacobian(lambda x: jnp.ones(2) + x.sum())(none)], np.zeros((2, 0)))
    check([hessian(lambda x: jnp.sum(x**2))(none)], np.zeros((0, 0)))
    assert sparsity_pattern(lambda x: x, none).nnz == 0


def test_all_of_it_by_nonzeros_in_two_shapes():
    f = lambda x: jnp.outer(x, jnp.ones(2)) * 2  # noqa: E731
    full = np.asarray(jax.jit(jax.jacfwd(f))(X))
    np.testing.assert_allclose(jacobian(f, mode="accumulate")(X)[...], full)
    np.testing.assert_allclose(jacobian(f, mode="accumulate", ravel=True)(X)[...], full.reshape(6, 3))
