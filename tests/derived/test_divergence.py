"""Divergences against traces of Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import divergence

X = np.linspace(-1, 1, 5).astype(np.float32)
W = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)


def field(x):
    return jnp.tanh(W @ x) * x


def test_is_the_trace_of_the_jacobian():
    np.testing.assert_allclose(divergence(field)(X), jnp.trace(jax.jacobian(field)(X)), rtol=1e-5)
    assert divergence(lambda x: x * 2.0)(jnp.float32(3)) == 2
    x = X[:4].reshape(2, 2)
    np.testing.assert_allclose(divergence(lambda x: x**2)(x), 2 * x.sum(), rtol=1e-6)


def test_samples_trees_and_aux():
    batch = np.stack([X, 2 * X])
    right = [divergence(field)(x) for x in batch]
    np.testing.assert_allclose(divergence(jax.vmap(field), batch_axis=0)(batch), right, rtol=1e-5)
    f = lambda p: {"a": p["a"] ** 2 * p["b"], "b": p["b"] ** 3 + jnp.sum(p["a"])}  # noqa: E731
    p = {"a": jnp.asarray(X), "b": jnp.float32(2)}
    np.testing.assert_allclose(divergence(f)(p), 2 * 2 * X.sum() + 3 * 4, rtol=1e-5)
    found, aux = divergence(lambda x: (x**2, x[0]), has_aux=True)(X)
    np.testing.assert_allclose(found, 2 * X.sum(), atol=1e-6)
    assert aux == X[0]


def test_derivatives_and_large_fields():
    right = jax.grad(lambda x: jnp.trace(jax.jacobian(field)(x)))(X)
    np.testing.assert_allclose(jax.grad(divergence(field))(X), right, rtol=1e-4, atol=1e-5)
    x = jnp.linspace(0.0, 1.0, 1_000_000)
    np.testing.assert_allclose(divergence(lambda x: x**2 + jnp.roll(x, 1))(x), 1e6, rtol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match=r"divergence\(.*\): expected outputs of the shapes .*\(5,\), got \(2,\)"):
        divergence(lambda x: x[:2])(X)
    with pytest.raises(TypeError, match=r"divergence\(lazy=...\): expected an option among"):
        divergence(field, lazy=False)
