"""A tree of blocks as one operator, compared with products with the dense matrix of all leaves.

Shapes: B samples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from jacobia import hessian, jacobian, materialize, operator

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(7)
X = {"a": RNG.normal(size=(2, 2)).astype(np.float32), "b": (RNG.normal(size=3).astype(np.float32),)}


def f(t):
    return {"y": jnp.sin(t["a"]) @ t["b"][0][:2], "z": [t["a"].sum() * t["b"][0]]}


def energy(t):
    return jnp.sum(t["a"] ** 2) * jnp.sum(jnp.sin(t["b"][0]))


def like(tree, *lead):
    return jax.tree.map(lambda a: RNG.normal(size=(*lead, *jnp.shape(a))).astype(np.float32), tree)


def dense(g, x):
    flat, back = ravel_pytree(x)
    return np.asarray(jax.jacobian(lambda v: ravel_pytree(g(back(v)))[0])(flat))


def close(tree, right):
    np.testing.assert_allclose(ravel_pytree(tree)[0], right, rtol=1e-5, atol=1e-5)


def test_all_leaves_at_once():
    J = jacobian(f)(X)
    op, matrix, v, u = operator(J), dense(f, X), like(X), like(f(X))
    assert op.shape == (5, 7) and op.T.shape == (7, 5) and repr(op) == "Operator(shape=(5, 7))"
    for _ in range(2):
        close(op @ v, matrix @ ravel_pytree(v)[0])
        close(u @ op, ravel_pytree(u)[0] @ matrix)
        close(op.T @ u, matrix.T @ ravel_pytree(u)[0])
        close(op.T.vm(v), matrix @ ravel_pytree(v)[0])
    assert jax.tree.structure(op @ v) == jax.tree.structure(u) == jax.tree.structure(op.out_structure)
    assert jax.tree.structure(u @ op) == jax.tree.structure(v) == jax.tree.structure(op.in_structure)
    assert J["y"]["a"].stats.rows_computed == 0


def test_hessians_and_single_views():
    op, v = operator(hessian(energy)(X)), like(X)
    matrix = dense(jax.grad(energy), X)
    close(op @ v, matrix @ ravel_pytree(v)[0])
    close(v @ op, matrix @ ravel_pytree(v)[0])
    x, W = X["b"][0], RNG.normal(size=(2, 3)).astype(np.float32)
    op = operator(jacobian(lambda x: jnp.tanh(W @ x))(x))
    close(op @ x, dense(lambda x: jnp.tanh(W @ x), x) @ x)
    close(np.ones(2, np.float32) @ op, np.ones(2) @ dense(lambda x: jnp.tanh(W @ x), x))


def test_samples_and_transformations():
    XB = like(X, 4)
    matrices = np.stack([dense(f, jax.tree.map(lambda a: a[k], XB)) for k in range(4)])  # noqa: B023
    v, u = like(X, 4), like(f(X), 4)
    flat = lambda t: np.stack([ravel_pytree(jax.tree.map(lambda a: a[k], t))[0] for k in range(4)])  # noqa: B023, E731
    op = operator(jacobian(jax.vmap(f), batch_axis=0)(XB))
    each = jax.vmap(lambda x, v, u: (operator(jacobian(f)(x)) @ v, u @ operator(jacobian(f)(x))))
    for right, left in ((op @ v, u @ op), each(XB, v, u)):
        np.testing.assert_allclose(flat(right), np.einsum("bmn,bn->bm", matrices, flat(v)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(flat(left), np.einsum("bmn,bm->bn", matrices, flat(u)), rtol=1e-4, atol=1e-5)
    view = jax.vmap(jacobian(lambda x: jnp.sin(x) * x[0]))(XB["b"][0])
    np.testing.assert_allclose(operator(view) @ XB["b"][0], view.mv(XB["b"][0]), rtol=1e-5)
    one = like(X)
    close(jax.jit(lambda x, v: operator(jacobian(f)(x)) @ v)(X, one), dense(f, X) @ ravel_pytree(one)[0])
    grad = jax.grad(lambda x: ravel_pytree(operator(jacobian(f)(x)) @ one)[0].sum())(X)
    plain = jax.grad(lambda x: ravel_pytree(jax.jvp(f, (x,), (one,))[1])[0].sum())(X)
    close(grad, ravel_pytree(plain)[0])


def test_what_is_no_tree_of_one_call():
    J = jacobian(f)(X)
    with pytest.raises(TypeError, match="expected the views that .* got Array|got ndarray"):
        operator(materialize(J))
    with pytest.raises(TypeError, match="got a tree without any"):
        operator({})
    apart = jax.jit(jacobian(f))(X)
    for tree in (J["y"], [J["y"]["a"], jacobian(f)(X)["y"]["a"]], jacobian(jnp.sin)(X["b"][0]).T, apart):
        with pytest.raises(ValueError, match="expected all views of one call"):
            operator(tree)
    with pytest.raises(ValueError, match="expected the Hessian of one number"):
        operator(hessian(jnp.sin)(X["b"][0]))
    op = operator(J)
    with pytest.raises(ValueError, match=r"mv\(v=...\): expected a tree of structure .*'a'.* It is that of the inputs"):
        op @ {"a": X["a"]}
    with pytest.raises(
        ValueError, match=r"mv\(v=...\): expected float32 of shape \(2, 2\) at \['a'\], .* got shape \(3,\)"
    ):
        op @ {"a": np.ones(3), "b": X["b"]}
    with pytest.raises(ValueError, match=r"at \['a'\], as the inputs of f have it, got complex128. Multiply real"):
        op @ {"a": np.ones((2, 2), complex), "b": X["b"]}


def test_scipy_solves_with_it():
    A = RNG.normal(size=(6, 6)).astype(np.float32) + 6 * np.eye(6, dtype=np.float32)
    J = jacobian(lambda x: jnp.tanh(A @ x * 0.01))(np.zeros(6, np.float32))
    b, op = np.ones(6), J.as_scipy()
    x, info = scipy.sparse.linalg.gmres(op, b, rtol=1e-6)
    assert info == 0 and op.dtype == np.float32
    np.testing.assert_allclose(0.01 * A @ x, b, rtol=1e-3)
    np.testing.assert_allclose(op.T @ b, 0.01 * A.T @ b, rtol=1e-5)
    np.testing.assert_allclose(op @ np.eye(6), 0.01 * A, rtol=1e-4, atol=1e-6)
    assert J.stats.rows_computed == 0
    with pytest.raises(ValueError, match=r"J.as_scipy\(\): expected a view of shape \(M, N\)"):
        jacobian(jnp.sin)(X["a"]).as_scipy()


def test_traces():
    A = RNG.normal(size=(4, 4)).astype(np.float32)
    g = lambda x: jnp.tanh(A @ x)  # noqa: E731
    x, XB = A[0], A
    matrix = np.asarray(jax.jacobian(g)(x))
    J = jacobian(g)(x)
    for view in (J, J.T, J.matrix):
        np.testing.assert_allclose(view.trace(), np.trace(matrix), rtol=1e-5)
    np.testing.assert_allclose(jacobian(g)(x).trace(1), np.trace(matrix, 1), rtol=1e-5)
    square = jacobian(lambda x: x**2)(A)  # as a map of matrices
    np.testing.assert_allclose(square.trace(), 2 * A.sum(), rtol=1e-5)
    JB = jacobian(jax.vmap(g), batch_axis=0)(XB)
    right = [np.trace(jax.jacobian(g)(x)) for x in XB]
    for view in (JB, JB.mT, jax.vmap(jacobian(g))(XB)):
        np.testing.assert_allclose(view.trace(), right, rtol=1e-4)
    H = hessian(lambda x: jnp.sin(x) * x[0])(x)
    np.testing.assert_allclose(
        H.trace(), np.trace(jax.hessian(lambda x: jnp.sin(x) * x[0])(x), axis1=1, axis2=2), rtol=1e-4
    )
    assert J.stats.columns_computed == 0
