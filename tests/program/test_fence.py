"""The fence, which makes XLA write values before entries of them are selected: the same numbers with and without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobia
from jacobia._program.columns import fence
from jacobia._program.columns.interleave import arranged, by_rows, orders
from jacobia._program.columns.tape import Planes

pytestmark = pytest.mark.slow


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(fence, "_LARGE", 0)


def grid(x, c):
    u = x.reshape(4, 5)
    padded = jnp.pad(u, 1)
    return (padded[:-2, 1:-1] + padded[1:-1, 2:] + c * u**3).ravel()


def two_species(x, c):
    u, v = x.reshape(2, 3, 4)
    around = [jnp.roll(a, 1, 0) + jnp.roll(a, -1, 1) for a in (u, v)]
    return jnp.stack([around[0] * u + c * v, around[1] - u * v]).ravel()


def dense_row(x, c):
    return jnp.concatenate([jnp.sum(x**2)[None], c * x[1:] ** 2 * x[:-1]])


CASES = [(grid, 20), (two_species, 24), (dense_row, 9)]


def fresh(f, c):
    # A program of its own: the constant is part of it.
    return lambda x: f(x, c)


@pytest.mark.parametrize(("f", "n"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_the_fence_changes_no_number(always, f, n):
    f = fresh(f, 1.25)
    x = np.linspace(0.5, 2, n, dtype=np.float32)
    own, many = (lambda x: jacobia.jacobian(f)(x).nonzeros()[0]), np.stack([x, 2 * x, -x])
    assert "stablehlo.case" in jax.jit(own).lower(x).as_text()  # the fence is there

    @jax.jit
    def reference(many):
        gradient = jax.grad(lambda x: jnp.sum(jax.jacfwd(f)(x) ** 2))
        return jax.vmap(jax.jacfwd(f))(many), gradient(many[0])

    expected, gradient = map(np.asarray, reference(many))
    data, rows, cols = jacobia.jacobian(f)(x).nonzeros()
    np.testing.assert_allclose(data, expected[0, rows, cols], rtol=1e-5)
    assert np.count_nonzero(expected[0]) == np.count_nonzero(data)
    np.testing.assert_allclose(jax.jit(jax.vmap(own))(many), expected[:, rows, cols], rtol=1e-5)
    ours = jax.jit(jax.grad(lambda x: jnp.sum(own(x) ** 2)))(x)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4)


def test_no_value_of_the_input_opens_the_other_branch(always):
    jac, x = jacobia.jacobian(fresh(grid, 2.5)), np.ones(20, np.float32)
    expected = np.asarray(jac(x).nonzeros()[0])
    for first in np.float32([np.nan, np.inf, -3e18]):
        data, _, cols = map(np.asarray, jac(np.concatenate([[first], x[1:]])).nonzeros())
        own = cols == 0
        np.testing.assert_array_equal(data[~own], expected[~own])
        np.testing.assert_allclose(data[0], 7.5 * first**2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_inputs_of_other_types(always, dtype):
    f = fresh(grid, 3)
    x = np.linspace(0.5, 2, 20).astype(dtype)
    data, rows, cols = jacobia.jacobian(f, holomorphic=dtype == jnp.complex64)(x).nonzeros()
    expected = jax.jit(jax.jacfwd(f, holomorphic=dtype == jnp.complex64))(x)
    np.testing.assert_allclose(np.asarray(data), np.asarray(expected)[rows, cols], rtol=1e-2)


def test_a_key_of_random_numbers_among_the_arrays(always):
    key = jax.random.key(3, impl="rbg")
    f = lambda x: grid(x, 5.5) + jax.random.normal(key, (20,)) * x  # noqa: E731
    x = np.linspace(0.5, 2, 20, dtype=np.float32)
    data, rows, cols = jacobia.jacobian(f)(x).nonzeros()
    np.testing.assert_allclose(data, np.asarray(jax.jit(jax.jacfwd(f))(x))[rows, cols], rtol=1e-5)


def test_no_fence_where_few_numbers_are_written():
    f = fresh(grid, 4.5)
    text = jax.jit(lambda x: jacobia.jacobian(f)(x).nonzeros()[0]).lower(np.ones(20, np.float32)).as_text()
    assert "stablehlo.case" not in text


def test_nothing_to_tell_from():
    assert fence.apart(lambda given: [len(given)], [], 1 << 20) == [0]
    assert fence.apart(lambda given: [len(given)], [jnp.zeros(0)], 1 << 20) == [1]


@pytest.mark.parametrize("seed", range(8))
def test_most_rows_are_in_order_as_they_are_arranged(seed):
    rng = np.random.default_rng(seed)
    m, width = int(rng.integers(1, 200)), int(rng.integers(1, 6))
    ends = np.sort(rng.integers(0, m, rng.integers(0, 4)))
    cols = np.sort(rng.integers(0, 1000, (width, m)), axis=0).astype(np.int32)
    for part in np.split(np.arange(m), ends):
        cols[:, part] = cols[:, part][rng.permutation(width)]
    stretches = orders(cols)
    made = arranged(cols, stretches)
    np.testing.assert_array_equal(np.sort(made, axis=1), np.sort(cols.T, axis=1))
    both = jax.jit(lambda cols: (by_rows(Planes(cols), stretches), by_rows(cols, stretches)))
    for found in both(cols):
        np.testing.assert_array_equal(found, made)


def test_two_species_are_two_stretches():
    place = np.arange(50)
    own, other = np.stack([place, place + 1]), np.stack([place + 100])
    cols = np.concatenate([np.concatenate([own, other]), np.concatenate([own + 100, other - 100])], axis=1)
    stretches = orders(cols)
    assert [(start, order.tolist()) for start, order in stretches] == [(0, [0, 1, 2]), (50, [2, 0, 1])]
    assert (np.diff(arranged(cols, stretches), axis=1) > 0).all()
