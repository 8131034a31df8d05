"""Estimates of traces and diagonals are close to the truth, as close as their standard errors say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import estimate_diagonal, estimate_trace, hessian, jacobian, operator

pytest.importorskip("matfree")
pytestmark = pytest.mark.usefixtures("x64")

N = 60
RANDOM = np.random.default_rng(0)
BASIS = np.linalg.qr(RANDOM.normal(size=(N, N)))[0]
MATRIX = (BASIS * (1 + np.arange(N)) ** -1.0) @ BASIS.T + 0.02 * RANDOM.normal(size=(N, N))


def linear(x):
    return MATRIX @ x


@pytest.mark.parametrize("method", ["xtrace", "hutch++", "hutchinson"])
def test_standard_errors_of_traces(method):
    J = jacobian(linear)(jnp.zeros(N))
    made = [estimate_trace(J, jax.random.key(k), method, samples=24) for k in range(200)]
    found, errors = np.array(made).T
    apart = np.abs(found - np.trace(MATRIX))
    # For a normal distribution 95 % lie within two standard errors. With an estimated standard error, from 24 or 12
    # numbers, it is somewhat less.
    assert np.mean(apart < 2 * errors) > 0.86
    assert 0.6 < np.sqrt(np.mean(errors**2) / np.mean(apart**2)) < 1.6
    assert abs(np.mean(found) - np.trace(MATRIX)) < 4 * np.std(found) / 200**0.5  # no bias


@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
def test_standard_errors_of_diagonals(method):
    J = jacobian(linear)(jnp.zeros(N))
    made = [estimate_diagonal(J, jax.random.key(k), method, samples=24) for k in range(100)]
    found, errors = np.array(made).swapaxes(0, 1)
    apart = np.abs(found - np.diagonal(MATRIX))
    assert np.mean(apart < 2 * errors) > 0.88


def test_compiled_once_and_the_same_for_a_key():
    J, key = jacobian(linear)(jnp.zeros(N)), jax.random.key(3)
    one, same, other = (estimate_trace(J, k, samples=8)[0] for k in (key, key, jax.random.key(4)))
    assert one == same != other
    assert J.stats.rows_computed == J.stats.columns_computed == 0


def test_exact_where_there_are_vectors_enough():
    x = np.linspace(0, 1, 6).reshape(2, 3)
    f = lambda x: jnp.sin(x) * x.sum()  # noqa: E731
    J = jacobian(f)(x)
    dense = np.asarray(jax.jacobian(f)(x)).reshape(6, 6)
    for view in (J, J.matrix, J.matrix.T):
        trace, error = estimate_trace(view, jax.random.key(0))
        np.testing.assert_allclose(trace, np.trace(dense), rtol=1e-10)
        assert error < 1e-10
    diagonal, error = estimate_diagonal(J, jax.random.key(0))
    assert diagonal.shape == error.shape == (2, 3)
    np.testing.assert_allclose(diagonal.ravel(), np.diagonal(dense), rtol=1e-10)
    energy = lambda t: jnp.sum(t["a"] ** 3) * t["b"]  # noqa: E731
    t = {"a": np.arange(3.0), "b": np.float64(2)}
    diagonal, error = estimate_diagonal(operator(hessian(energy)(t)), jax.random.key(0))
    np.testing.assert_allclose(diagonal["a"], 12 * t["a"])
    assert diagonal["b"].shape == () and error["b"] == 0
    pair = operator(hessian(lambda t: jnp.sum(t[0] ** 3) * t[1])((t["a"], t["b"])))
    assert isinstance(estimate_diagonal(pair, jax.random.key(0))[0], tuple)  # another tree, the same program


def test_errors():
    J, key = jacobian(linear)(jnp.zeros(N)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"estimate_trace\(method=...\): expected one of xtrace, hutch\+\+"):
        estimate_trace(J, key, "xdiag")
    with pytest.raises(ValueError, match=r"estimate_trace\(samples=...\): expected an int, 2 or more, got 1"):
        estimate_trace(J, key, samples=1)
    with pytest.raises(TypeError, match=r"estimate_diagonal\(key=...\): expected a key, got int"):
        estimate_diagonal(J, 0)
    with pytest.raises(TypeError, match=r"estimate_trace\(op=...\): expected a view, or operator\(tree\), got ndarray"):
        estimate_trace(MATRIX, key)
    with pytest.raises(ValueError, match=r"estimate_trace\(op=...\): expected a square matrix, got shape \(3, 60\)"):
        estimate_trace(jacobian(lambda x: x[:3])(jnp.zeros(N)), key)
    batched = jacobian(jax.vmap(linear), batch_axis=0)(jnp.zeros((2, N)))
    with pytest.raises(ValueError, match=r"estimate_trace\(op=...\): expected one matrix, got samples"):
        estimate_trace(batched, key)
