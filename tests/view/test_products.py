"""Products as users write them, compared with the dense matrix; and the passes that they run.

Shapes: B samples, M outputs, N inputs, K vectors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)
B, M, N, K = 4, 5, 3, 2
W = RNG.normal(size=(M, N)).astype(np.float32)
X, XB = RNG.normal(size=N).astype(np.float32), RNG.normal(size=(B, N)).astype(np.float32)


def tall(x):
    return jnp.tanh(W @ x)


def batched(x):
    return jnp.tanh(x @ W.T)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(found, right):
    assert found.shape == right.shape and isinstance(found, jax.Array)
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_factors_on_either_side_of_a_matrix(kind):
    dense = np.asarray(jax.jacobian(tall)(X))
    J, v, V, u, U = jacobian(tall)(X), draw(N), draw(N, K), draw(M), draw(K, M)
    for _ in range(2):  # the second time by a kernel that is known, and residuals that are kept
        close(J @ kind(v), dense @ v)
        close(J @ kind(V), dense @ V)
        close(kind(u) @ J, u @ dense)
        close(kind(U) @ J, U @ dense)
        close(J.T @ kind(u), dense.T @ u)
        close(J.T @ kind(U.T), dense.T @ U.T)
        close(kind(v) @ J.T, v @ dense.T)
        close(kind(V.T) @ J.T, V.T @ dense.T)
    assert J.stats.rows_computed == J.stats.columns_computed == 0
    assert (J.stats.pushforwards, J.stats.pullbacks, J.stats.kernel_calls) == (12, 12, 16)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_factors_on_either_side_of_samples(kind):
    dense = np.asarray(jax.vmap(jax.jacobian(tall))(XB))
    views = jacobian(batched, batch_axis=0)(XB), jax.vmap(jacobian(tall))(XB)
    for J in views:
        for v in (draw(N), draw(N, K), draw(B, N, K)):
            close(J @ kind(v), dense @ v)
        for u in (draw(M), draw(K, M), draw(B, K, M)):
            close(kind(u) @ J, u @ dense)
        turned = dense.swapaxes(1, 2)
        for u in (draw(M), draw(M, K), draw(B, M, K)):
            close(J.mT @ kind(u), turned @ u)
        close(kind(draw(K, N) * 0 + 1) @ J.mT, np.ones((K, N), np.float32) @ turned)
        close(J.mv(kind(np.ones((B, N), np.float32))), dense.sum(2))
        close(J.vm(kind(np.ones((B, K, M), np.float32))), np.repeat(dense.sum(1)[:, None], K, 1))
        close(J.mT.mv(kind(np.ones((B, M), np.float32))), dense.sum(1))
        assert J.stats.rows_computed == J.stats.columns_computed == 0


def test_other_axes_are_those_of_the_whole_matrix():
    J, dense = jacobian(batched, batch_axis=0)(XB), np.asarray(jax.vmap(jax.jacobian(tall))(XB))
    V = draw(2, 1, N, K)
    close(J @ jnp.asarray(V), dense @ V)
    close(J.T @ np.ones((B, K), np.float32), dense.T @ np.ones((B, K), np.float32))


def test_a_factor_on_the_left_needs_no_matrix_of_a_million():
    n = 1_000_000
    J = jacobian(lambda x: x**2)(jnp.full(n, 3.0))
    close(jnp.ones(n) @ J, np.full(n, 6.0, np.float32))
    close(jax.jit(lambda u: u @ jacobian(lambda x: x**2)(jnp.full(n, 3.0)))(jnp.ones(n)), np.full(n, 6.0, np.float32))
    assert J.stats.pullbacks == 1


def test_products_inside_transformations():
    f = lambda x: jnp.sin(x) * x[0]  # noqa: E731
    power = lambda x: jacobian(f)(x) @ (jacobian(f)(x) @ x)  # noqa: E731
    dense = lambda x: jax.jacobian(f)(x) @ (jax.jacobian(f)(x) @ x)  # noqa: E731
    for way in (jax.jit, jax.jacfwd, jax.jacrev, lambda g: lambda x: jax.vmap(g)(jnp.stack([x, 2 * x]))):
        close(way(power)(X), np.asarray(way(dense)(X)))
    H = jax.jit(lambda x: (x @ hessian(lambda y: jnp.sum(y**3))(x)) @ x)
    np.testing.assert_allclose(H(X), np.sum(6 * X**3), rtol=1e-5)


def test_nonzeros_that_are_known_are_multiplied_by_where_a_pass_costs_more():
    def steps(x):
        x = jax.lax.fori_loop(0, 40, lambda _, y: jnp.sin(y), x)
        return x[1:] * x[:-1]

    x = jnp.linspace(0.1, 1, 50)
    J, dense = jacobian(steps)(x), np.asarray(jax.jacobian(steps)(x))
    J.nonzeros()
    calls, v, u = J.stats.kernel_calls, draw(50), draw(2, 49)
    close(J @ v, dense @ v)
    close(u @ J, u @ dense)
    close(J.T @ u.T, dense.T @ u.T)
    assert J.stats.kernel_calls == calls
    cheap = jacobian(lambda x: 2 * x)(x)
    cheap.nonzeros()
    close(cheap @ v, 2 * v)
    assert cheap.stats.pushforwards == 1


def test_real_products_of_complex_vectors():
    dense = np.asarray(jax.jacobian(tall)(X))
    v = draw(N) + 1j * draw(N)
    for _ in range(2):
        close(jacobian(tall)(X) @ v, (dense @ v).astype(np.complex64))


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda J: J @ np.ones(M, np.float32), r"J @ v: expected v of length 3 along axis 0, got shape \(5,\)"),
        (lambda J: J @ np.ones((M, K), np.float32), r"J @ v: expected v of length 3 along axis 0, got shape \(5, 2\)"),
        (lambda J: jnp.ones(N) @ J, r"v @ J: expected v of length 5 along axis 0, got shape \(3,\)"),
        (lambda J: J.T @ np.ones(N, np.float32), r"J @ v: expected v of length 5 along axis 0, got shape \(3,\)"),
        (lambda J: J.mv(np.ones((N, K, 1), np.float32)), r"J.mv\(v=...\): expected shape \(3,\), or \(3, k\)"),
        (lambda J: J.T.mv(np.ones(N, np.float32)), r"J.mv\(v=...\): expected shape \(5,\), or \(5, k\) for k vectors"),
        (lambda J: J.vm(np.ones(N, np.float32)), r"J.vm\(u=...\): expected shape \(5,\), or \(k, 5\) for k vectors"),
    ],
)
def test_factors_that_do_not_fit(call, says):
    J = jacobian(tall)(X)
    for _ in range(2):
        with pytest.raises(ValueError, match=says):
            call(J)
        J @ np.ones(N, np.float32)  # a kernel for it is known now
    assert J.stats.pullbacks == 0
