"""The value and the views of `value_and_jacobian` and `value_and_hessian`, from one linearization."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import Hessian, Jacobian, value_and_hessian, value_and_jacobian

X = np.random.default_rng(1).normal(size=4).astype(np.float32)


def tree(x):
    return {"a": jnp.sin(x), "b": (x[0] * x,)}


def with_aux(x, scale):
    return jnp.cumsum(x) * scale, {"scale": scale}


def cube(x):
    return jnp.sum(x**3)


def close(found, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, right)


def test_value_and_view():
    y, J = value_and_jacobian(tree)(X)
    close(y, tree(X))
    assert isinstance(J["a"], Jacobian) and J["a"].stats.kernel_calls == 0
    close(jax.tree.map(lambda v: v[...], J, is_leaf=lambda v: isinstance(v, Jacobian)), jax.jacobian(tree)(X))


def test_value_and_hessian():
    y, H = value_and_hessian(cube)(X)
    close((y, H[...]), (cube(X), jax.hessian(cube)(X)))
    assert isinstance(H, Hessian) and y.shape == ()
    y, H = value_and_hessian(lambda x: jnp.sin(x[:2]) * x[2:])(X)
    assert y.shape == (2,) and H.shape == (2, 4, 4)


def test_aux_and_other_arguments():
    (y, aux), J = value_and_jacobian(with_aux, has_aux=True)(X, 2.0)
    close((y, aux["scale"]), (2 * np.cumsum(X), np.float32(2)))
    close(J[1], 2 * np.float32([1, 1, 0, 0]))
    (y, aux), H = value_and_hessian(lambda x, k: (cube(x), k), has_aux=True)(X, 3)
    close((y, aux, H[0]), (cube(X), 3, 6 * X[0] * np.eye(4, dtype=np.float32)[0]))
    y, (dx, dy) = value_and_jacobian(jnp.multiply, (0, 1))(X, 2 * X)
    close((y, dx[...], dy[...]), (2 * X**2, np.diag(2 * X), np.diag(X)))


def test_options_are_those_of_the_transforms():
    y, J = value_and_jacobian(lambda x: jnp.sin(x), batch_axis=1, ravel=True)(X.reshape(2, 2))
    assert y.shape == (2, 2) and J.shape == (2, 2, 2)
    y, J = value_and_jacobian(tree, ravel=True)(X)
    assert y["b"][0].shape == (4,) and J.shape == (8, 4)
    y, J = value_and_jacobian(jnp.sin, lazy=False)(X)
    close((y, J), (np.sin(X), np.diag(np.cos(X))))
    with pytest.raises(TypeError, match="Did you mean chunk_size"):
        value_and_jacobian(jnp.sin, chunks=3)
    with pytest.raises(TypeError, match=r"jacobian\(f=...\): expected a callable"):
        value_and_jacobian(3)


def test_inside_transformations():
    def norm(x):
        y, J = value_and_jacobian(jnp.sin)(x)
        return jnp.sum((J @ y) ** 2)

    plain = lambda x: jnp.sum((jax.jacobian(jnp.sin)(x) @ jnp.sin(x)) ** 2)  # noqa: E731
    for way in (jax.jit, jax.grad, lambda f: lambda x: jax.vmap(f)(jnp.stack([x, x + 1]))):
        close(way(norm)(X), way(plain)(X))
    y, J = jax.jit(value_and_jacobian(jnp.sin))(X)
    close((y, J[1]), (np.sin(X), np.diag(np.cos(X))[1]))


def test_one_evaluation_serves_the_value_and_all_rows_that_follow():
    count = []

    def f(x):
        return jax.pure_callback(lambda a: (count.append(1), a)[1], x, x)

    def program(x):
        @jax.custom_jvp
        def g(x):
            return f(x)

        g.defjvp(lambda p, t: (g(*p), 2 * t[0]))
        return jnp.sin(g(x))

    y, J = value_and_jacobian(program)(jnp.asarray(X))
    J[0], J[1:3], J @ jnp.asarray(X), jax.block_until_ready(y)
    assert len(count) == 1


def test_copies():
    made = value_and_hessian(cube)
    y, H = pickle.loads(pickle.dumps(made))(X)
    close((y, H[...]), (cube(X), np.diag(6 * X)))
    assert repr(made) == "<value_and_hessian(cube)>"
    assert pickle.loads(pickle.dumps(H)).shape == (4, 4)
    nested = value_and_jacobian(lambda x: value_and_hessian(cube)(x)[0])(X)
    close((nested[0], nested[1][...]), (cube(X), 3 * X**2))
