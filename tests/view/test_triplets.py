"""Triplets: positions once, values at each point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from jacobia import Pattern, hessian, jacobian, sparsity_pattern, triplets

N = 6
X = np.linspace(0.5, 1.5, N).astype(np.float32)


def f(x):
    return x[1:] * x[:-1] ** 2


def energy(x):
    return jnp.sum(jnp.sin(f(x)))


def dense(t, values):
    return scipy.sparse.coo_array((values, (t.rows, t.cols)), t.pattern.shape).toarray()


def test_values_at_each_point():
    t, jac = triplets(sparsity_pattern(f, X)), jacobian(f)
    assert t.rows.dtype == t.cols.dtype == np.int32 and repr(t) == "Triplets(shape=(5, 6), nnz=10)"
    for x in (X, 2 * X, 3 * X):
        values = t.values(jac(x))
        assert values.dtype == np.float64 and values.flags.writeable
        np.testing.assert_allclose(dense(t, values), jax.jacobian(f)(x), rtol=1e-5)
        values[:] = 0
    np.testing.assert_allclose(t.values(jacobian(f)(X)), t.values(jac(X)))


def test_lower_triangles():
    t = triplets(sparsity_pattern(energy, X, hessian=True), lower=True)
    assert (t.rows >= t.cols).all() and repr(t) == "Triplets(shape=(6, 6), nnz=11, lower)"
    np.testing.assert_allclose(dense(t, t.values(hessian(energy)(X))), np.tril(jax.hessian(energy)(X)), atol=1e-5)
    pattern = Pattern.from_dense(np.ones((3, 3)))
    assert (
        pattern.lower() == Pattern.from_dense(np.tril(np.ones((3, 3))))
        and Pattern.from_dense(np.eye(0)).lower().nnz == 0
    )


def test_other_patterns():
    wide = triplets(Pattern.from_dense(np.ones((5, 6))))
    np.testing.assert_allclose(dense(wide, wide.values(jacobian(f)(X))), jax.jacobian(f)(X), rtol=1e-5)
    flat = triplets(Pattern.from_dense(np.eye(4)))
    np.testing.assert_allclose(flat.values(jacobian(lambda x: x**2)(X[:4].reshape(2, 2))), 2 * X[:4])
    nothing = triplets(Pattern.from_dense(np.zeros((2, 2))))
    assert nothing.values(jacobian(lambda x: jnp.ones(2))(X[:2])).shape == (0,)
    with pytest.raises(ValueError, match=r"got entry \(0, 1\), which is not in the pattern. Make the triplets"):
        triplets(Pattern.from_dense(np.eye(5, 6))).values(jacobian(f)(X))


def test_mistakes():
    t = triplets(sparsity_pattern(f, X))
    with pytest.raises(TypeError, match="expected a Pattern, got ndarray"):
        triplets(np.eye(3))
    with pytest.raises(ValueError, match=r"Pattern.lower\(\): expected a square pattern, got shape \(5, 6\)"):
        triplets(t.pattern, lower=True)
    with pytest.raises(TypeError, match="expected a view, got ndarray"):
        t.values(X)
    with pytest.raises(ValueError, match=r"expected one matrix of shape \(5, 6\), got shape \(6, 6\)"):
        t.values(jacobian(jnp.sin)(X))
    with pytest.raises(ValueError, match="expected one matrix"):
        t.values(jax.vmap(jacobian(f))(np.stack([X, X])))


def test_inside_jit():
    t = triplets(sparsity_pattern(jnp.sin, np.zeros(3)))
    with pytest.raises(TypeError, match=r"Triplets.values\(J\): expected a view outside of jit.*J.nonzeros\(\)"):
        jax.jit(lambda x: t.values(jacobian(jnp.sin)(x)))(np.zeros(3))
