"""Rows of functions that evaluate samples independently: each row through the program of its own sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import jacobian
from jacobia._run import blueprint

pytestmark = pytest.mark.slow

B, N = 24, 20
RANDOM = np.random.default_rng(0)
X, Y, S = RANDOM.normal(size=(B, N)), RANDOM.normal(size=(B, 5)), RANDOM.normal(size=(B, 3, N))
SQUARE = RANDOM.normal(size=(B, N)) / 5  # as many rows as samples, but its rows are not samples
W, V = RANDOM.normal(size=(N, N)) / 5, RANDOM.normal(size=(N, 5)) / 5

APART = {
    "relu": lambda w, v: jax.nn.relu(X @ w) @ v,
    "a loss for each sample": lambda w, v: jnp.sum((jnp.tanh(X @ w) @ v - Y) ** 2, axis=-1),
    "cross entropy": lambda w, v: -jnp.sum(jax.nn.log_softmax(jnp.tanh(X @ w) @ v) * Y, axis=-1),
    "vmap": lambda w, v: jax.vmap(lambda x, y: jnp.sum((jnp.sin(x @ w) @ v - y) ** 2))(X, Y),
    "samples on the last axis": lambda w, v: jnp.tanh(w.T @ X.T).T @ v,
    "scan": lambda w, v: jax.lax.scan(lambda h, x: (jnp.tanh(x @ w + h), None), 0 * X, S.transpose(1, 0, 2))[0] @ v,
    "map": lambda w, v: jax.lax.map(lambda x: jnp.tanh(x @ w) @ v, X),
    "attention": lambda w, v: (lambda q: jax.nn.softmax(q @ q.transpose(0, 2, 1)) @ q)(S @ w) @ v,
    "weights as many as samples": lambda w, v: jnp.tanh(X @ w) @ (SQUARE.T @ SQUARE) @ v,
    "sort": lambda w, v: jnp.sort(X @ w, axis=-1) @ v,
    "where": lambda w, v: jnp.where(X > 0, X @ w, 0) @ v,
}
MIXED = {
    "means over the batch": lambda w, v: (lambda h: (h - h.mean(0)) / h.std(0))(X @ w) @ v,
    "sums along the batch": lambda w, v: jnp.cumsum(jnp.tanh(X @ w), axis=0) @ v,
    "samples in another order": lambda w, v: jnp.tanh(X @ w)[::-1] @ v,
}
PROGRAMS = APART | MIXED


@pytest.fixture(autouse=True)
def always_worth(monkeypatch, new_programs):
    monkeypatch.setattr(blueprint, "_WORTH_APART", 0)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_rows_are_those_of_jacrev(x64, name):
    f = PROGRAMS[name]
    want = np.asarray(jax.jit(jax.jacrev(f))(W, V))
    J = jacobian(f)(W, V)
    assert ("partial pullback" in str(J.explain())) is (name in APART)
    for got, rows in [(J[1], 1), (J[2:5], slice(2, 5)), (J[[7, 3]], [7, 3]), (jacobian(f)(W, V)[...], ...)]:
        np.testing.assert_allclose(got, want[rows], rtol=1e-9, atol=1e-11)


def test_rows_by_central_differences(x64):
    f, h = APART["relu"], 1e-6
    values = jax.jit(f)
    for i, j in [(0, 0), (3, 7)]:
        step = np.zeros_like(W)
        step[i, j] = h
        slope = (np.asarray(values(W + step, V)) - np.asarray(values(W - step, V))) / (2 * h)
        np.testing.assert_allclose(jacobian(f)(W, V)[5:7][..., i, j], slope[5:7], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{"ravel": True}, {"chunk_size": 7}, {"memory_limit": 200_000}, {"mode": "rev"}])
def test_options(x64, options):
    f = APART["cross entropy"]
    want = np.concatenate([np.reshape(a, (B, -1)) for a in jax.jit(jax.jacrev(f, argnums=(0, 1)))(W, V)], axis=1)
    J = jacobian(f, argnums=(0, 1), **options)(W, V)
    flat = J if options.get("ravel") else [v.reshape(B, -1) for v in jax.tree.map(lambda v: v[...], J)]
    got = flat[...] if options.get("ravel") else np.concatenate(flat, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def test_all_rows_of_samples_with_several_outputs(x64):
    f = APART["relu"]
    want = np.asarray(jax.jit(jax.jacrev(f))(W, V))
    np.testing.assert_allclose(jacobian(f, chunk_size=8)(W, V)[...], want, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(jacobian(f)(W, V).outer(), np.tensordot(want, want, [[2, 3], [2, 3]]), rtol=1e-8)


@pytest.mark.parametrize("name", ["relu", "a loss for each sample", "scan"])
def test_derivatives_of_rows(x64, name):
    f = APART[name]
    ours, theirs = (
        lambda w, of=of: jnp.sum(jnp.sin(of(w)[1:3]))
        for of in (lambda w: jacobian(f)(w, V), lambda w: jax.jacrev(f)(w, V))
    )
    slope = lambda of: lambda w, v: (jax.grad(of)(w), jax.jvp(of, (w,), (v,))[1])  # noqa: E731
    gradient, pushed = jax.jit(slope(theirs))(W, V @ V.T)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(W), gradient, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(jax.jvp(ours, (W,), (V @ V.T,))[1], pushed, rtol=1e-8, atol=1e-10)


def test_no_tracer_is_kept_with_the_rules_of_f(x64):
    with jax.checking_leaks():
        assert jacobian(APART["relu"])(W, V)[1:3].shape == (2, 5, N, N)


def test_derivatives_of_rows_follow_the_rules_of_f(x64):
    at_zero = np.zeros_like(W)  # where the rule of relu says 0, and its body says 1/2

    def total(of):
        return lambda w: jnp.sum(of(lambda v: jax.nn.relu(X @ w) @ v)(V)[3] ** 2)

    np.testing.assert_array_equal(jax.grad(total(jacobian))(at_zero), 0)


def test_vmap_over_weights(x64):
    f, many = APART["attention"], np.stack([W, 2 * W])
    got = jax.vmap(lambda w: jacobian(f)(w, V)[1:3])(many)
    want = jax.jit(jax.vmap(lambda w: jax.jacrev(f)(w, V)[1:3]))(many)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def test_more_samples_than_weights_are_read_by_rows():
    x = RANDOM.normal(size=(4096, 6)).astype(np.float32)
    w = np.ones((6, 8), np.float32)
    J = jacobian(lambda w: jnp.tanh(x @ w).sum(axis=-1))(w)
    assert "4096 pullbacks" in str(J.explain())
    slopes = (1 - np.tanh(x @ w) ** 2)[:, None, :] * x[:, :, None]
    np.testing.assert_allclose(J[...], slopes, rtol=1e-4, atol=1e-4)
