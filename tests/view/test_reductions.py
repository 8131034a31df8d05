"""Gram matrices and norms, compared with the dense matrix; and that they fit in memory if the matrix does not.

Shapes: B samples, M outputs, N inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import MaterializationError, hessian, jacobian
from jacobia._operators import lines

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(9)
B, M, N = 4, 5, 3
W = RNG.normal(size=(M, N)).astype(np.float32)
X, XB = RNG.normal(size=N).astype(np.float32), RNG.normal(size=(B, N)).astype(np.float32)


def tall(x):
    return jnp.tanh(W @ x)


def wide(y):
    return jnp.sin(y @ W)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def jacobian_of(f, *args, **options):
    """The dense matrix, by JAX, as a NumPy array."""
    return np.asarray(jax.jit(jax.jacobian(f, **options))(*args))


DENSE, SAMPLES = jacobian_of(tall, X), np.asarray(jax.jit(jax.vmap(jax.jacobian(tall)))(XB))


def close(found, right):
    assert found.shape == right.shape and isinstance(found, jax.Array)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["whole", "in chunks", "nonzeros"])
def by(request, monkeypatch, new_programs):
    """How J is computed: as a whole, a few lines at a time, or as nonzeros."""
    if request.param == "in chunks":
        monkeypatch.setattr(lines, "_CHUNK", 2 * 4 * M)
        monkeypatch.setattr(lines, "whole", lambda J: None)
        for module in ("gram", "norms"):
            monkeypatch.setattr(f"jacobia._operators.{module}.whole", lambda J: None)
    if request.param == "nonzeros":
        monkeypatch.setattr(lines, "_SHARE", 1.0)
        monkeypatch.setattr(lines, "_LARGE", 0)
    return request.param


@pytest.mark.parametrize("f, x", [(tall, X), (wide, draw(M)), (lambda x: x**2, X), (lambda x: x[:0], X)])
def test_of_one_matrix(f, x, by):
    dense = jacobian_of(f, x)
    if by == "in chunks" and not dense.size:
        pytest.skip("there is no chunk of nothing")
    w = draw(len(dense)) ** 2
    J = jacobian(f)(x)
    for view, matrix in ((J, dense), (J.T, dense.T), (J.matrix, dense)):
        close(view.gram(), matrix.T @ matrix)
        close(view.outer(), matrix @ matrix.T)
        close(view.row_norms(), np.linalg.norm(matrix, axis=1))
        close(view.column_norms(), np.linalg.norm(matrix, axis=0))
    close(J.gram(w), dense.T @ np.diag(w) @ dense)
    close(J.T.outer(), dense.T @ dense)
    if by == "in chunks":
        assert J.stats.rows_computed == J.stats.columns_computed == 0  # nothing is remembered


def test_of_samples(by):
    dense = SAMPLES
    turned = dense.swapaxes(1, 2)
    for J in (jacobian(jax.vmap(tall), batch_axis=0)(XB), jax.vmap(jacobian(tall))(XB)):
        for view, matrix, other in ((J, dense, turned), (J.mT, turned, dense)):
            close(view.gram(), other @ matrix)
            close(view.outer(), matrix @ other)
            close(view.row_norms(), np.linalg.norm(matrix, axis=2))
            close(view.column_norms(), np.linalg.norm(matrix, axis=1))
        shared, own = draw(M), draw(B, M)
        close(J.gram(shared), turned @ (shared[:, None] * dense))
        close(J.gram(own), turned @ (own[:, :, None] * dense))


def test_several_axes_and_weights_between_rows():
    f = lambda x: jnp.outer(jnp.sin(x), x)  # noqa: E731
    x, dense = X, jacobian_of(f, X)
    J, flat = jacobian(f)(x), dense.reshape(9, 3)
    between, each = draw(9, 9), draw(3, 3)
    close(J.gram(), flat.T @ flat)
    close(J.gram(each), flat.T @ (each.reshape(9, 1) * flat))
    close(J.gram(each.reshape(-1)), flat.T @ (each.reshape(9, 1) * flat))
    close(J.gram(between), flat.T @ between @ flat)
    close(J.outer(), (flat @ flat.T).reshape(3, 3, 3, 3))
    close(J.matrix.outer(), flat @ flat.T)
    close(J.row_norms(), np.linalg.norm(dense, axis=2))
    stacks = draw(B, M, M)
    JB, dense = jacobian(jax.vmap(tall), batch_axis=0)(XB), SAMPLES
    close(JB.gram(stacks), dense.swapaxes(1, 2) @ stacks @ dense)


def test_tiles_of_two_views():
    first, second = jacobian(tall)(X), jacobian(lambda x: jnp.sin(x) * x)(2 * X)
    dense = [np.asarray(v) for v in (first, second)]
    close(first.outer(second), dense[0] @ dense[1].T)
    params = {"w": draw(4, 3), "b": draw(4)}
    net = lambda p, X: jnp.tanh(X @ p["w"].T + p["b"]).sum(-1)  # noqa: E731
    tile = jacobian(net, ravel=True)(params, XB).outer(jacobian(net, ravel=True)(params, 2 * XB[:2]))
    flat = [
        np.concatenate(
            [np.asarray(a).reshape(len(x), -1) for a in jax.tree.leaves(jax.jit(jax.jacobian(net))(params, x))], 1
        )
        for x in (XB, 2 * XB[:2])
    ]
    close(tile, flat[0] @ flat[1].T)


def test_complex_numbers_and_hessians():
    z = (draw(N) + 1j * draw(N)).astype(np.complex64)
    f = lambda z: (W + 1j * W[::-1]) @ z * z[0]  # noqa: E731
    dense = jacobian_of(f, z, holomorphic=True)
    J = jacobian(f, holomorphic=True)(z)
    close(J.gram(), dense.conj().T @ dense)
    close(J.outer(), dense @ dense.conj().T)
    close(J.row_norms(), np.linalg.norm(dense, axis=1))
    energy = lambda x: jnp.sum(jnp.sin(x) * x[0])  # noqa: E731
    H = np.asarray(jax.jit(jax.hessian(energy))(X))
    close(hessian(energy)(X).gram(), H @ H)
    close(hessian(energy)(X).column_norms(), np.linalg.norm(H, axis=0))


def test_inside_transformations():
    def value(x):
        J = jacobian(tall)(x)
        return J.gram().sum() + J.row_norms().sum()

    def dense(x):
        J = jax.jacobian(tall)(x)
        return (J.T @ J).sum() + jnp.linalg.norm(J, axis=1).sum()

    right, slope = jax.jit(jax.value_and_grad(dense))(X)
    close(jax.jit(value)(X), np.asarray(right))
    close(jax.jit(jax.grad(value))(X), np.asarray(slope))


def test_of_a_million():
    n = 1_000_000
    J = jacobian(lambda x: x[1:] * x[:-1])(x := jnp.linspace(1.0, 2.0, n))
    np.testing.assert_allclose(J.row_norms(), np.sqrt(x[1:] ** 2 + x[:-1] ** 2), rtol=1e-5)
    with pytest.raises(MaterializationError, match=r"J.gram\(\) of shape .*Where J is sparse, take A = J.to_scipy"):
        J.gram()


def test_what_does_not_fit_is_computed_in_chunks():
    A = draw(3000, 40)
    J = jacobian(lambda x: jnp.tanh(A @ x), memory_limit=3 * 10**5)(X40 := draw(40) * 0.1)  # J takes 480,000 bytes
    dense = (1 - np.tanh(A @ X40) ** 2)[:, None] * A
    close(J.gram() / 100, dense.T @ dense / 100)
    close(J.row_norms(), np.linalg.norm(dense, axis=1))
    close(J.column_norms(), np.linalg.norm(dense, axis=0))
    assert J.stats.rows_computed == 0
    with pytest.raises(MaterializationError, match="J.outer\\(\\) of shape \\(3000, 3000\\)"):
        J.outer()


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda J: J.gram(np.ones(N)), ValueError, r"expected shape \(5,\) .*, or \(5, 5\) .*, got \(3,\)"),
        (lambda J: J.outer(W), TypeError, "expected a view, got ndarray. Write J @ A.T for an array A"),
        (lambda J: J.outer(jacobian(wide)(np.ones(M, np.float32))), ValueError, "with inputs of one shape, got"),
        (lambda J: J.outer(J.T), ValueError, "expected two views, not transposed"),
        (lambda J: jacobian(jnp.outer)(X, X).T.gram(), ValueError, r"J.T.gram\(\): expected a matrix \(M, N\)"),
        (lambda J: jacobian(jax.vmap(tall), batch_axis=0)(XB).T.row_norms(), ValueError, "or J.mT where there are"),
    ],
)
def test_mistakes(call, error, says):
    with pytest.raises(error, match=says):
        call(jacobian(tall)(X))


# Out of nonzeros


def banded(x):
    return jnp.concatenate([x[1:] * x[:-1], jnp.sin(x), x[:1] * x[-1:]])


@pytest.mark.parametrize("weights", [None, "each", "between"])
@pytest.mark.parametrize("turned", [False, True], ids=["J", "J.T"])
def test_gram_of_a_sparse_jacobian(monkeypatch, new_programs, turned, weights):
    monkeypatch.setattr("jacobia._operators.lines._LARGE", 10)
    x = np.linspace(0.5, 1, 40, dtype=np.float32)
    full = jacobian_of(banded, x).astype(np.float64)
    full = full.T if turned else full
    random = np.random.default_rng(0).uniform(1, 2, len(full)).astype(np.float32)
    w = {None: None, "each": random, "between": np.diag(random) + 0.1}[weights]
    matrix = np.eye(len(full)) if w is None else np.diag(w) if w.ndim == 1 else w
    right = full.T @ matrix @ full
    view = jacobian(lambda x: banded(x))(x)
    J = view.T if turned else view
    np.testing.assert_allclose(J.gram(w), right, rtol=1e-5, atol=1e-5)
    if weights != "between":
        assert view.stats.rows_computed == view.stats.columns_computed == 0  # no line of it was needed
    sparse = J.gram(w, format="csc")
    assert sparse.format == "csc"
    np.testing.assert_allclose(sparse.toarray(), right, rtol=1e-5, atol=1e-5)
    if w is None:
        np.testing.assert_allclose(J.outer(), full @ full.T, rtol=1e-5, atol=1e-5)


def test_sparse_gram_of_complex_numbers_inside_jit(monkeypatch, new_programs):
    monkeypatch.setattr("jacobia._operators.lines._LARGE", 10)
    x = np.linspace(0.5, 1, 40) * np.exp(0.3j * np.arange(40)).astype(np.complex64)
    full = jacobian_of(banded, x, holomorphic=True)
    J = jacobian(banded, holomorphic=True)(x)
    np.testing.assert_allclose(J.gram(), full.conj().T @ full, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(J.gram(format="csr").toarray(), full.conj().T @ full, rtol=1e-4, atol=1e-5)
    found = jax.jit(lambda x: jacobian(banded, holomorphic=True)(x).outer())(x)
    np.testing.assert_allclose(found, full @ full.conj().T, rtol=1e-4, atol=1e-5)


def test_formats_of_gram_that_are_not():
    J = jacobian(banded)(np.ones(4, np.float32))
    with pytest.raises(ValueError, match=r"J.gram\(format=...\): expected None or one of bsr.*got 'dense'"):
        J.gram(format="dense")
    with pytest.raises(TypeError, match=r"J.gram\(format='csr'\): expected a view outside of jit"):
        jax.jit(lambda x: jacobian(banded)(x).gram(format="csr"))(np.ones(4, np.float32))
    batched = jacobian(jax.vmap(banded), batch_axis=0)(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"J.gram\(format='csr'\): expected a view without samples"):
        batched.gram(format="csr")


def test_transposes_of_complex_views():
    matrix = jnp.asarray(draw(4, 3) + 1j * draw(4, 3))
    weights = jnp.asarray(draw(3, 3) + 1j * draw(3, 3))
    J = jacobian(lambda z: matrix @ z, holomorphic=True)(jnp.ones(3, jnp.complex64))
    A = np.asarray(matrix).T
    close(J.T.gram(), A.conj().T @ A)
    close(J.T.gram(weights), A.conj().T @ np.asarray(weights) @ A)
    close(J.T.outer(), A @ A.conj().T)
    np.testing.assert_allclose(J.T.gram(format="csr").toarray(), A.conj().T @ A, rtol=1e-4, atol=1e-5)


def test_explained(monkeypatch, new_programs):
    x = np.linspace(0.5, 1, 400, dtype=np.float32)
    J = jacobian(lambda x: banded(x))(x)
    told = J.explain("gram")
    assert told.way == "nonzeros" and told.shape == (400, 400)
    assert "gram: sums of products of two nonzeros in one row" in str(told)
    assert "row_norms: sums of squares of nonzeros" in str(J.explain("row_norms"))
    assert J.explain("column_norms").shape == (400,) and J.explain("outer").shape == (800, 800)
    assert "trace: the sum of the diagonal" in str(jacobian(jnp.sin)(x).explain("trace"))
    dense = jacobian(tall)(X)
    assert "gram: computed from all of J at once" in str(dense.explain("gram"))
    assert dense.explain("gram").shape == (N, N)
    monkeypatch.setattr("jacobia._operators.told.fits", lambda J: False)
    assert "rows at a time are computed, used and dropped" in str(dense.explain("gram"))
    assert dense.stats.kernel_calls == J.stats.kernel_calls == 0
    batched = jacobian(wide, batch_axis=0)(draw(B, M))
    assert batched.explain("gram").shape == (B, M, M)
