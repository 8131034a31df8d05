"""Loops of many steps: what their carry can depend on, and the values of a carry that depends on nearly every input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from jacobia import jacobian, sparsity_pattern
from jacobia._program.columns import closure
from jacobia._program.columns.closure import powers

pytestmark = pytest.mark.slow

N = 80  # more columns than are kept apart


# Powers of a step


def brute_force(step, entering, length):
    """One step after another: what enters, or is made of it by up to `length` steps."""
    reached = entering
    for _ in range(len(step) if length is None else length):
        before, reached = reached, reached | (step.astype(int) @ reached.astype(int) > 0)
        if np.array_equal(before, reached):
            break
    return reached


def drawn(size, density, seed):
    rng = np.random.default_rng(seed)
    return rng.random((size, size)) < density, rng.random((size, size // 2 + 1)) < 2 / (size + 1)


@pytest.mark.parametrize("length", [None, 0, 1, 2, 3, 7, 1000], ids=str)
@pytest.mark.parametrize("density", [0, 0.02, 0.05, 0.1, 0.3, 1])
@pytest.mark.parametrize("size", [0, 1, 2, 9, 40])
def test_powers_of_drawn_steps(size, density, length):
    for seed in range(8):
        step, entering = drawn(size, density, seed)
        found = powers(sp.csr_array(step), sp.csr_array(entering), length)
        assert found.dtype == bool
        np.testing.assert_array_equal(found.toarray(), brute_force(step, entering, length))


# Chains through all elements, forward, backward and closed to a ring, and rings that lead to each other: it takes many
# steps until nothing is new.
STRUCTURED = {
    "forward": np.eye(40, k=-1),
    "backward": np.eye(40, k=1),
    "around": np.roll(np.eye(40), 1, 0),
    "both": np.eye(40, k=1) + np.eye(40, k=-1),
    "rings": np.kron(np.eye(8), np.roll(np.eye(5), 1, 0)) + np.kron(np.eye(8, k=-1), np.diag([1, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("length", [*range(12), 37, 38, 39, 40, 41, 63, 64, 10**9, None], ids=str)
@pytest.mark.parametrize("name", STRUCTURED)
def test_powers_of_steps_that_go_far(name, length):
    step, entering = STRUCTURED[name].astype(bool), np.eye(40, dtype=bool)
    found = powers(sp.csr_array(step), sp.csr_array(entering), length)
    expected = brute_force(step, entering, None if length == 10**9 else length)
    np.testing.assert_array_equal(found.toarray(), expected)


@pytest.mark.parametrize("full", [0, 2], ids=["dense", "sparse"])
@pytest.mark.parametrize("length", [None, 5, 30], ids=str)
def test_products_of_dense_and_of_sparse_matrices_are_the_same(monkeypatch, length, full):
    monkeypatch.setattr(closure, "_FULL", full)
    step, entering = drawn(60, 0.03, 0)
    found = powers(sp.csr_array(step), sp.csr_array(entering), length)
    np.testing.assert_array_equal(found.toarray(), brute_force(step, entering, length))


@pytest.fixture
def products(monkeypatch):
    """A list that grows by one entry for each matrix product."""
    made, product = [], closure._product
    monkeypatch.setattr(closure, "_product", lambda a, b: made.append((a, b)) or product(a, b))
    return made


def test_a_long_loop_takes_no_more_products_than_an_endless_one(products):
    step, entering = sp.eye_array(100, k=-1, format="csr"), sp.eye_array(100, format="csr")
    powers(step, entering, None)
    endless = len(products)
    powers(step, entering, 10**6)
    assert len(products) == 2 * endless


def test_elements_that_all_reach_each_other_take_no_powers(products):
    step = sp.csr_array(STRUCTURED["both"].astype(bool))
    assert powers(step, sp.eye_array(40, format="csr"), None).nnz == 1600
    assert len(products) == 3  # step and entering of one group of elements


def test_nothing_is_looked_for_once_everything_depends_on_everything(products):
    assert powers(sp.csr_array(np.ones((40, 40), bool)), sp.eye_array(40, format="csr"), 31).nnz == 1600
    assert len(products) == 1


def test_nothing_is_looked_for_once_nothing_is_new(products):
    # The step moves nothing out of the last element, the only one that gets something.
    entering = sp.csr_array(np.eye(40, dtype=bool)[:, 39:])
    assert powers(sp.eye_array(40, k=-1, format="csr"), entering, 31).nnz == 1
    assert len(products) == 1


# Loops whose carry depends on nearly everything

reverse_p = Primitive("reverse_without_batching")
reverse_p.def_impl(lambda x: np.array(x)[::-1])  # Python runs it: nobody sees what it does
reverse_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(reverse_p, mlir.lower_fun(lambda x: x[::-1], multiple_results=False))
ad.deflinear2(reverse_p, lambda t, _: [reverse_p.bind(t)])


def stencil(x):
    padded = jnp.pad(x, 1)
    return 0.9 * x + 0.1 * jnp.sin(padded[:-2]) * x + 0.05 * padded[2:]


def below(x):
    return 0.9 * x + 0.1 * jnp.sin(jnp.pad(x, (1, 0))[:-1])


def above(x):
    return below(x[::-1])[::-1]


def until_small(step):
    return lambda x: lax.while_loop(lambda x: jnp.sum(x**2) > 0.5, step, x)


def scanned(step, length):
    return lambda x: lax.scan(lambda c, _: (step(c), None), x, None, length=length)[0]


def tree(x):
    """Carries of several shapes, beside one that is no tangent; the last depends on few."""

    def step(carry, k):
        count, a, b, total, few = carry
        a, b = stencil(a) + 0.1 * b.ravel(), 0.5 * b + k * total
        return (count + 1, a, b, 0.5 * total + 0.01 * jnp.sum(jnp.sin(a)), 0.9 * few), None

    start = (0, x[:N], 0.1 * x[N:].reshape(8, 10), x[3] ** 2, x[:1])
    return lax.scan(step, start, np.linspace(0.1, 0.2, 100))[0][1:]


def few_more(x):
    """Slots that one element leaves empty are taken by others: they have to be zero."""
    a, b = lax.scan(lambda c, _: ((stencil(c[0]), above(c[1])), None), (x, x[-20:]), None, length=100)[0]
    return a, b + x[:20] * np.minimum(np.arange(20), 1)


def each_sample(x):
    return jax.vmap(until_small(stencil))(x.reshape(2, -1)).ravel()


SQUARE = np.random.default_rng(0).normal(size=(N, N))
BAND = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
FULL, BELOW, ABOVE = np.ones((N, N), bool), np.tri(N, dtype=bool), np.tri(N, dtype=bool).T
FEW_MORE = np.eye(20, N, dtype=bool)
FEW_MORE[0], FEW_MORE[:, -20:] = False, np.tri(20, dtype=bool).T
# A program, and its pattern.
LOOPS = {
    "a stencil until it is small": (until_small(stencil), FULL),
    "what is below until it is small": (until_small(below), BELOW),
    "what is above until it is small": (until_small(above), ABOVE),
    "what is above, summed up": (lambda x: jnp.cumsum(until_small(above)(x)), FULL),
    "what is above, multiplied": (lambda x: SQUARE @ until_small(above)(x), FULL),
    "what is above, step by step": (lambda x: scanned(stencil, 3)(until_small(above)(x)), np.tri(N, k=3, dtype=bool).T),
    "two carries, one with a few more columns": (few_more, np.concatenate([FULL, FEW_MORE])),
    "a stencil many times": (scanned(stencil, 1000), FULL),
    "a stencil some times": (scanned(stencil, 40), BAND <= 40),
    "a stencil few times": (scanned(stencil, 20), BAND <= 20),
    "with the input at each step": (lambda x: scanned(lambda c: stencil(c) + 0.1 * x, 200)(x), FULL),
    "with all of its states": (
        lambda x: lax.scan(lambda c, _: (stencil(c), c[:1]), x, None, length=100)[0], FULL),
    "of half of the input": (lambda x: until_small(stencil)(x[::2]), np.tile([True, False], (N, N))),
    "samples, each until it is small": (each_sample, np.kron(np.eye(2), np.ones((N, N))).astype(bool)),
    "carries of several shapes": (
        tree, np.concatenate([np.ones((2 * N + 1, 2 * N), bool), np.eye(1, 2 * N, dtype=bool)])),
}  # fmt: skip


def given(n):
    return np.random.default_rng(0).uniform(0.2, 0.6, n)


def filled(f, x):
    data, rows, cols = jacobian(f, ravel=True)(x).nonzeros()
    out = np.zeros((int(rows.max()) + 1, x.size))
    out[rows, cols] = data
    return out


@pytest.mark.parametrize("name", LOOPS)
def test_loops_that_mix_nearly_everything(name, x64):
    f, pattern = LOOPS[name]
    x = given(pattern.shape[1])
    np.testing.assert_array_equal(sparsity_pattern(f, x).todense(), pattern)
    dense = np.concatenate([np.reshape(j, (-1, x.size)) for j in jax.tree.leaves(jax.jacfwd(f)(x))])
    np.testing.assert_allclose(filled(f, x), dense, rtol=1e-9, atol=1e-12)


def test_gradients_of_the_values_of_such_a_loop(x64):
    f, x = scanned(stencil, 40), given(N)
    rows, cols = sparsity_pattern(f, x).rows, sparsity_pattern(f, x).cols
    actual = jax.grad(lambda x: jnp.sum(jnp.sin(jacobian(f)(x).nonzeros()[0])))(x)
    expected = jax.grad(lambda x: jnp.sum(jnp.sin(jax.jacfwd(f)(x)[rows, cols])))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_a_loop_with_an_operation_that_has_no_batching_rule(x64):
    x = given(N)
    with pytest.warns(UserWarning, match="reverse_without_batching: jacobia has no sparsity rule"):
        actual = filled(scanned(lambda c: 0.9 * jnp.sin(reverse_p.bind(c)), 21), x)
    expected = jax.jacfwd(scanned(lambda c: 0.9 * jnp.sin(c[::-1]), 21))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
