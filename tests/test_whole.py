"""All of a block without seeds: chosen where it is far cheaper, and right wherever it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from reference import assert_close, is_block, views

from jacobia import _whole, hessian, jacobian

RNG = np.random.default_rng(11)
WIDE = RNG.normal(size=(2048, 256)).astype(np.float32) / 16
X = RNG.normal(size=256).astype(np.float32)


@pytest.fixture
def always(monkeypatch):
    """It is taken wherever it can be."""
    monkeypatch.setattr(_whole, "_WORTH_LOOKING", -1.0)
    monkeypatch.setattr(_whole, "_BETTER", float("inf"))


def layer(x):
    return jnp.tanh(WIDE @ x)


def layer_by_hand(x):
    return (1 - np.tanh(WIDE @ x) ** 2)[:, None] * WIDE


@pytest.mark.parametrize("case", [c for c in CASES if c.modes == ("auto", "fwd", "rev")], ids=str)
def test_every_case_that_way(case, always):
    J = jacobian(case.f, case.argnums, **case.options)(*case.args_as("float32"), **case.kwargs)
    blocks = [b for b in jax.tree.leaves(case.reference(), is_leaf=is_block) if b is not None]
    for view, block in zip(views(J), blocks, strict=True):
        way = view.plan.way
        assert_close(view[...], block)
        if np.any(block) and not jnp.issubdtype(view.dtype, jnp.complexfloating):
            assert way == "nonzeros" and view.stats[:6] == (view.matrix.shape[0], 0, 0, 0, 0, 1)


def test_a_large_layer_takes_no_seeds_and_remembers_all_of_it():
    jac = jacobian(layer)
    for x in (X, 2 * X):
        J = jac(x)
        assert J.plan.way == "nonzeros"
        np.testing.assert_allclose(J[...], layer_by_hand(x), rtol=1e-4, atol=1e-5)
        assert J.stats[:6] == (2048, 0, 0, 0, 0, 1)
        np.testing.assert_allclose(J[7], layer_by_hand(x)[7], rtol=1e-4, atol=1e-5)
        assert J.stats.kernel_calls == 1


def test_inside_jit_and_through_grad(always):
    def of(w):
        return lambda x: jnp.tanh(w @ x) * x[0]

    w, x = WIDE[:5, :4], X[:4]
    expected = jax.jacfwd(of(w))(x)
    assert_close(jax.jit(lambda x: jacobian(of(w))(x)[...])(x), expected)
    assert_close(jax.jit(lambda w, x: jacobian(of(w))(x)[...])(w, x), expected)
    norm = lambda jac: lambda x: jnp.sum(jac(x)[...] ** 2)  # noqa: E731
    whole = lambda x: jnp.sum(jax.jacfwd(of(w))(x) ** 2)  # noqa: E731
    assert_close(jax.grad(norm(jacobian(of(w))))(x), jax.grad(whole)(x))
    batch = np.stack([x, 2 * x])
    assert_close(jax.vmap(lambda x: jacobian(of(w))(x)[...])(batch), jax.vmap(jax.jacfwd(of(w)))(batch))


def test_what_was_read_before_is_not_computed_again(always):
    J = jacobian(lambda x: jnp.sin(x) * x[1])(X[:4])
    J[2]
    assert J.plan.way == "rows" and J.plan.passes == 3
    J[...]
    assert J.stats.pullbacks == 4


def test_other_constants_are_another_walk(always):
    def masked(mask):
        return lambda x: mask * x**2

    first, second = np.array([1.0, 0, 2, 0], np.float32), np.array([0, 3.0, 0, 1.0], np.float32)
    x = X[:4]
    for mask in (first, second, first):
        J = jacobian(masked(mask))(x)
        assert J.plan.way == "nonzeros"
        assert_close(J[...], np.diag(2 * x * mask))


def test_a_hessian_that_way(always):
    f = lambda x: jnp.sum((x[1:] - x[:-1] ** 2) ** 2)  # noqa: E731
    H = hessian(f)(X[:6])
    assert H.plan.way == "nonzeros"
    assert_close(H[...], jax.hessian(f)(X[:6]))
    assert H.stats.kernel_calls == 1


@pytest.mark.parametrize(
    "option", [{"mode": "fwd"}, {"mode": "rev"}, {"chunk_size": 2}, {"sparsity": "dense"}], ids=str
)
def test_who_says_how_gets_it(always, option):
    J = jacobian(jnp.sin, **option)(X[:4])
    assert J.plan.way in ("rows", "columns")
    J[...]
    assert J.stats.pullbacks + J.stats.pushforwards == 4


def test_small_functions_are_not_looked_into(monkeypatch):
    monkeypatch.setattr(_whole, "walk_of", None)
    J = jacobian(lambda x: jnp.tanh(WIDE[:64, :64] @ x))(X[:64])
    assert J.plan.way == "columns"
    J[...]


def test_a_dense_network_goes_on_by_seeds():
    hidden = [RNG.normal(size=s).astype(np.float32) / 16 for s in ((256, 256), (256, 256), (256, 256))]

    def network(x):
        for w in hidden:
            x = jnp.tanh(w @ x)
        return x

    assert jacobian(network)(X).plan.way in ("rows", "columns")
