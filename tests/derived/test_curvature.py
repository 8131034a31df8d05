"""Gauss-Newton and empirical Fisher matrices, compared with products of JAX's dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import Hessian, empirical_fisher, ggn, hessian, operator

pytestmark = pytest.mark.usefixtures("x64")

RANDOM = np.random.default_rng(0)
INPUTS, TARGETS = RANDOM.normal(size=(7, 3)), RANDOM.integers(0, 2, size=7)
W = RANDOM.normal(size=(3, 2))


def model(w, inputs=INPUTS):
    return jnp.tanh(inputs @ w) @ w.T[:, :2]


def model_of_each(inputs):
    return jnp.tanh(inputs @ W)


def cross_entropy(y):
    return -jnp.sum(jax.nn.log_softmax(y)[jnp.arange(len(y)), TARGETS])


def by_jax(loss, f):
    """The function from a vector to its dense Gauss-Newton matrix, differentiable by JAX."""

    def matrix(x):
        J = jax.jacrev(f)(x)
        return J.T @ jax.hessian(loss)(f(x)) @ J

    return matrix


def dense(loss, f, w):
    shape = f(w).shape
    return np.asarray(by_jax(lambda y: loss(y.reshape(shape)), lambda v: f(v.reshape(w.shape)).ravel())(w.ravel()))


def close(found, right):
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-9)


def test_ggn():
    right = dense(cross_entropy, model, W)
    G = ggn(cross_entropy, model)(W)
    assert isinstance(G, Hessian) and G.shape == (3, 2, 3, 2)
    v = np.arange(6.0)
    close(G.matrix @ v, right @ v)
    assert G.stats.rows_computed == 0  # no row was needed
    close(G[1, 0], right.reshape(3, 2, 6)[1, 0].reshape(3, 2))
    assert G.stats.rows_computed == 1
    close(G.diagonal(), np.diagonal(right).reshape(3, 2))
    close(G.matrix[...], right)
    assert np.linalg.eigvalsh(right).min() > -1e-10
    assert np.abs(np.asarray(hessian(lambda w: cross_entropy(model(w)))(W).matrix) - right).max() > 0.01  # differs


def test_targets_as_arguments_and_trees():
    def f(p, inputs, targets):
        return inputs @ p["w"] + p["b"], targets

    def loss(y, targets):
        return jnp.sum((y - targets) ** 2) / 2

    p = {"w": W, "b": np.ones(2)}
    G = ggn(loss, f, has_aux=True)(p, INPUTS, np.zeros((7, 2)))
    flat = lambda v: (INPUTS @ v[2:].reshape(3, 2) + v[:2]).ravel()  # noqa: E731
    J = np.asarray(jax.jacobian(flat)(np.concatenate([np.ones(2), W.ravel()])))
    close(G["b"]["w"].matrix[...], (J.T @ J)[:2, 2:])
    product = operator(G) @ p
    close(np.concatenate([product["b"], product["w"].ravel()]), J.T @ J @ np.concatenate([p["b"], W.ravel()]))


def test_sparse_ggn_inside_jit():
    f = lambda x: x[1:] * x[:-1]  # noqa: E731
    x = np.linspace(1, 2, 30)
    J = np.asarray(jax.jacobian(f)(x))
    right = J.T @ np.diag(3 * f(x) ** 2) @ J
    loss = lambda y: jnp.sum(y**4) / 4  # noqa: E731
    G = ggn(loss, f)(x)
    assert G.pattern.nnz == 30 + 2 * 29
    close(G.to_scipy().toarray(), right)
    close(jax.jit(lambda x: ggn(loss, f)(x)[2])(x), right[2])
    close(jax.jit(ggn(loss, f))(x)[...], right)


def test_empirical_fisher():
    losses = lambda y: -jax.nn.log_softmax(y)[jnp.arange(len(y)), TARGETS]  # noqa: E731
    J = np.asarray(jax.jacobian(lambda v: losses(model(v.reshape(3, 2))))(W.ravel()))
    F = empirical_fisher(losses, model)(W)
    close(F.matrix[...], J.T @ J / 7)
    close(F.matrix @ np.arange(6.0), J.T @ (J @ np.arange(6.0)) / 7)
    F = empirical_fisher(lambda y, t: jnp.sum((y - t) ** 2, 1), lambda w, t: (model(w), t), has_aux=True)
    J = np.asarray(jax.jacobian(lambda v: jnp.sum((model(v.reshape(3, 2)) - 1) ** 2, 1))(W.ravel()))
    close(F(W, np.ones((7, 2))).matrix[...], J.T @ J / 7)


def test_errors():
    with pytest.raises(TypeError, match=r"ggn\(f=...\): expected a callable, got ndarray"):
        ggn(cross_entropy, W)
    with pytest.raises(TypeError, match=r"empirical_fisher\(loss=...\): expected a callable, got float"):
        empirical_fisher(1.0, model)
    with pytest.raises(ValueError, match=r"empirical_fisher\(loss=...\): expected one number for each sample.*\(\)"):
        empirical_fisher(cross_entropy, model)(W)
    with pytest.raises(ValueError, match=r"ggn\(loss=...\): expected one number, got shape \(7,\). Sum the losses"):
        ggn(lambda y: jnp.sum(y**2, 1), model)(W)
    with pytest.raises(ValueError, match=r"ggn\(loss=...\): expected one number, got shape \(\), \(2,\)"):
        jax.jit(lambda w: ggn(lambda y, t: (jnp.sum(y), y[0]), lambda w: (model(w), 0), has_aux=True)(w)[0])(W)
    with pytest.raises(ValueError, match="expected one number for each of 7 samples"):
        ggn(lambda y: y, model_of_each, batch_axis=0)(INPUTS)


def test_one_loss_for_each_sample():
    G = ggn(lambda y: jnp.sum(y**2, 1) / 2, model_of_each, batch_axis=0)(INPUTS)
    J = jax.vmap(jax.jacobian(lambda x: model_of_each(x[None])[0]))(INPUTS)
    assert G.shape == (7, 3, 3)
    close(G[...], jnp.einsum("bki,bkj->bij", J, J))


def bent(x):
    return jnp.tanh(x[1:] * x[:-1]) + x[0] * x[1:] ** 2


READS = {
    "all": lambda G: G[...],
    "a row": lambda G: G[1],
    "an entry": lambda G: G[2, 0],
    "the trace": lambda G: G.trace(),
    "the diagonal": lambda G: G.diagonal(),
    "a product": lambda G: G @ jnp.arange(4.0),
    "nonzeros": lambda G: G.nonzeros()[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("read", READS)
def test_derivatives_of_the_matrix(read):
    # The point of the linearization moves with x.
    x, loss = np.array([0.3, -0.7, 1.2, 0.4]), lambda y: jnp.sum(y**4)
    right = lambda x: READS[read](ggn(loss, bent)(x))  # noqa: E731
    eye = 1e-6 * np.eye(4)
    differences = np.stack([(right(x + e) - right(x - e)) / 2e-6 for e in eye], axis=-1)
    np.testing.assert_allclose(jax.jacfwd(right)(x), differences, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacrev(right))(x), differences, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_second_derivatives_and_those_of_samples_and_of_a_fisher_matrix():
    X, loss = RANDOM.normal(size=(40, 4)), lambda y: jnp.sum(y**4, -1)
    each = by_jax(loss, bent)
    trace = lambda x: ggn(loss, bent)(x).trace()  # noqa: E731
    close(hessian(trace)(X[0])[...], jax.hessian(lambda x: jnp.trace(each(x)))(X[0]))
    right = jax.vmap(jax.grad(lambda x: each(x).sum()))(X)
    batch = ggn(loss, jax.vmap(bent), batch_axis=0)
    close(jax.grad(lambda X: batch(X)[...].sum())(X), right)
    close(jax.grad(lambda X: batch(X)[3].sum())(X), np.where(np.arange(40)[:, None] == 3, right, 0))
    close(jax.vmap(jax.grad(lambda x: ggn(loss, bent)(x)[...].sum()))(X), right)

    def fisher(x):
        J = jax.jacrev(lambda x: bent(x) ** 2)(x)
        return jnp.sum(J.T @ J) / 3

    found = jax.grad(lambda x: empirical_fisher(jnp.square, bent)(x)[...].sum())(X[0])
    close(found, jax.grad(fisher)(X[0]))


@pytest.mark.slow
@pytest.mark.parametrize("key", [..., 3, np.s_[:, 2], np.s_[3, 2], np.s_[:, :, 1], np.s_[1:4]], ids=str)
def test_the_same_read_at_other_points(key):
    # With a quadratic loss, the matrix depends on the point of the linearization alone.
    f, loss = bent, lambda y: jnp.sum(y**2, -1) / 2
    G, right = ggn(loss, jax.vmap(f), batch_axis=0), jax.jit(jax.vmap(by_jax(loss, f)))
    for scale in (1, 2, 3):
        X = scale * np.linspace(-1, 1, 160).reshape(40, 4)
        close(G(X)[key], np.asarray(right(X))[key])


def test_arguments_by_number_name_and_mask():
    def f(p, q, s=1.0):
        return (p["a"] * q[0] + p["b"] * s) ** 2

    v, loss = np.array([0.3, -0.7, 1.2, 0.4, 0.9]), lambda y: jnp.sum(y**4)
    right = by_jax(loss, lambda v: f({"a": v[:2], "b": v[2:4]}, v[4:]))(v)
    p, q = {"a": v[:2], "b": v[2:4]}, v[4:]
    close(ggn(loss, f, argnums=(0, 1), ravel=True)(p, q)[...], right)
    close(ggn(loss, f, argnums=(-1, 0))(p, q)[1]["a"][0][...], right[:2, 4:])
    close(ggn(loss, f, argnums=-1)(p, q, s=1.0)[...], right[4:, 4:])
    close(ggn(loss, f, where={"a": True, "b": False}, static_argnames="s")(p, q, s=1)["a"]["a"][...], right[:2, :2])
    with pytest.raises(ValueError, match=r"argnums=...\): expected numbers from -2 to 1, got 2. .* by name is not"):
        ggn(loss, f, argnums=2)(p, q)
    close(ggn(loss, f, argnums=np.int64(1))(p, q)[...], right[4:, 4:])
    with pytest.raises(TypeError, match=r"args\[0\]=...\): expected an array, .* got a list"):
        ggn(loss, jnp.sin)([1.0, 2.0])
