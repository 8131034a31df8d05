"""Operators of lineax: answers to its questions, and its solvers, compared with dense matrices in float64."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian, operator
from jacobia._view import as_lineax

lx = pytest.importorskip("lineax")
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]

N = 6
X = np.linspace(0.1, 1.0, N)
WIDE = np.random.default_rng(0).normal(size=(4, N))


def tridiagonal(x):
    return jnp.pad(jnp.tanh(x[1:]), (0, 1)) * x + jnp.pad(x[:-1], (1, 0)) ** 2 + 4 * x


def energy(x):
    return jnp.sum((x[1:] - x[:-1]) ** 2) + jnp.sum(x**4) + jnp.sum(x**2)


def tree(t):
    return {"a": jnp.sin(t["a"]) * t["b"] + 5 * t["a"], "b": t["b"] * 3 + t["a"].sum(0)}


TREE = {"a": np.ones((2, 3)), "b": np.linspace(0.5, 1.0, 3)}
CASES = {
    "tridiagonal": (lambda: jacobian(tridiagonal)(X), jax.jacobian(tridiagonal), X),
    "tridiagonal.T": (lambda: jacobian(tridiagonal)(X).T, lambda x: jax.jacobian(tridiagonal)(x).T, X),
    "wide": (lambda: jacobian(lambda x: jnp.tanh(WIDE @ x))(X), jax.jacobian(lambda x: jnp.tanh(WIDE @ x)), X),
    "hessian": (lambda: hessian(energy)(X), jax.hessian(energy), X),
    "shapes": (
        lambda: jacobian(lambda x: (x * x.sum())[None])(X.reshape(2, 3)),
        lambda x: jax.jacobian(lambda x: (x.reshape(2, 3) * x.sum()).ravel())(x),
        X,
    ),
    "ravel": (
        lambda: jacobian(tree, ravel=True)(TREE),
        lambda x: jax.jacobian(lambda x: flat(tree({"a": x[:6].reshape(2, 3), "b": x[6:]})))(x),
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(TREE)]),
    ),
}


def flat(t):
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(t)])


def solution(dense):
    """What solves the system of a matrix at X, with ones on the right, by NumPy."""
    return np.linalg.solve(np.asarray(jax.jit(dense)(X)), np.ones(N))


def close(found, right, tolerance=1e-9):
    np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_beside_the_matrix(name):
    make, reference, x = CASES[name]
    op, dense = make().as_lineax(), np.asarray(jax.jit(reference)(x))
    v, u = np.random.default_rng(1).normal(size=op.in_size()), np.random.default_rng(2).normal(size=op.out_size())
    close(op.as_matrix(), dense)
    close(jnp.ravel(op.mv(v.reshape(op.in_structure().shape))), dense @ v)
    close(jnp.ravel(op.T.mv(u.reshape(op.out_structure().shape))), dense.T @ u)
    close(op.T.as_matrix(), dense.T)
    for made in (lx.linearise(op), lx.materialise(op)):
        close(jnp.ravel(made.mv(v.reshape(op.in_structure().shape))), dense @ v)
        close(made.as_matrix(), dense)
    if op.in_size() == op.out_size():
        close(lx.diagonal(op), np.diagonal(dense))
        close(lx.diagonal(op.T), np.diagonal(dense))
    assert lx.conj(op) is op
    assert lx.is_symmetric(op) == (name == "hessian")
    assert not (lx.has_unit_diagonal(op) or lx.is_positive_semidefinite(op) or lx.is_negative_semidefinite(op))


def test_a_tree_is_one_operator():
    op = operator(jacobian(tree)(TREE)).as_lineax()
    dense = np.asarray(jacobian(tree, ravel=True)(TREE)[...])
    close(op.as_matrix(), dense)
    close(op.T.as_matrix(), dense.T)
    close(lx.diagonal(op), np.diagonal(dense))
    right = jax.jit(tree)(TREE)
    solved = lx.linear_solve(op, right, lx.GMRES(1e-10, 1e-10)).value
    close(flat(op.mv(solved)), flat(right), 1e-8)
    close(flat(lx.linear_solve(op, right).value), flat(solved), 1e-7)


def test_structure_is_seen_by_the_pattern(new_programs):
    def asked(J):
        op = J.as_lineax()
        questions = lx.is_diagonal, lx.is_tridiagonal, lx.is_lower_triangular, lx.is_upper_triangular
        return [question(op) for question in questions]

    assert asked(jacobian(lambda x: jnp.sin(x) * 2)(X)) == [True, True, True, True]
    assert asked(jacobian(lambda x: tridiagonal(x) + 0)(X)) == [False, True, False, False]
    assert asked(jacobian(lambda x: jnp.cumsum(x**2))(X)) == [False, False, True, False]
    assert asked(jacobian(lambda x: jnp.cumsum(x**2))(X).T) == [False, False, False, True]
    assert asked(jacobian(lambda x: x * x.sum())(X)) == [False, False, False, False]
    assert asked(jacobian(lambda x: x[:3])(X)) == [False, False, False, False]


@pytest.mark.parametrize("turned", [False, True], ids=["J", "J.T"])
def test_tridiagonal_without_the_matrix(turned):
    J = jacobian(tridiagonal)(X)
    dense = np.asarray(J[...].T if turned else J[...])
    found = lx.tridiagonal((J.T if turned else J).as_lineax())
    for diagonal, k in zip(found, (0, -1, 1), strict=True):
        close(diagonal, np.diagonal(dense, k))


@pytest.mark.parametrize("solver", ["GMRES", "LSMR", "LU", "QR", "SVD", "Tridiagonal", "auto"])
def test_solvers(solver):
    made = {
        "GMRES": lambda: lx.GMRES(1e-10, 1e-10),
        "LSMR": lambda: lx.LSMR(1e-12, 1e-12),
        "auto": lambda: lx.AutoLinearSolver(well_posed=True),
    }.get(solver, lambda: getattr(lx, solver)())()
    op = jacobian(tridiagonal)(X).as_lineax()
    found = lx.linear_solve(op, jnp.ones(N), made).value
    close(found, solution(jax.jacobian(tridiagonal)), 1e-7)


def test_conjugate_gradients_with_a_preconditioner():
    op = hessian(energy)(X).as_lineax(lx.positive_semidefinite_tag)
    jacobi = lx.TaggedLinearOperator(lx.DiagonalLinearOperator(1 / lx.diagonal(op)), lx.positive_semidefinite_tag)
    found = lx.linear_solve(op, jnp.ones(N), lx.CG(1e-10, 1e-10), options={"preconditioner": jacobi}).value
    close(found, solution(jax.hessian(energy)), 1e-7)


def test_inside_jit_vmap_and_grad():
    solve = lambda x: lx.linear_solve(jacobian(tridiagonal)(x).as_lineax(), jnp.ones(N)).value  # noqa: E731
    dense = lambda x: jnp.linalg.solve(jax.jacobian(tridiagonal)(x), jnp.ones(N))  # noqa: E731
    many = np.stack([X, 2 * X])
    one, each, slopes = jax.jit(lambda x, many: (dense(x), jax.vmap(dense)(many), jax.jacobian(dense)(x)))(X, many)
    close(jax.jit(solve)(X), one)
    close(jax.jit(jax.vmap(solve))(many), each)
    close(jax.jit(jax.jacobian(solve))(X), slopes)


def test_tags_that_do_not_hold():
    J = jacobian(tridiagonal)(X)
    with pytest.raises(ValueError, match=r"as_lineax\(tags=...\): expected a symmetric matrix, as the tag says"):
        J.as_lineax(lx.symmetric_tag)
    with pytest.raises(ValueError, match=r"as_lineax\(tags=...\): expected tags that hold, got diagonal_tag"):
        J.as_lineax(lx.diagonal_tag)
    with pytest.raises(ValueError, match=r"as_lineax\(tags=...\): expected no lower_triangular_tag of a matrix"):
        jacobian(lambda x: x[:3])(X).as_lineax(lx.lower_triangular_tag)
    hessian(energy)(X).as_lineax((lx.symmetric_tag, lx.positive_semidefinite_tag))
    with pytest.raises(TypeError, match=r"expected tags of lineax, got 'symmetric'"):
        J.as_lineax("symmetric")


FULL = np.eye(12) * 9 + np.random.default_rng(4).normal(size=(12, 12))


@pytest.mark.parametrize("tag", ["diagonal", "tridiagonal", "lower_triangular", "upper_triangular", "unit_diagonal"])
@pytest.mark.parametrize("kind", ["view", "tree", "dense"])
def test_tags_that_a_full_pattern_does_not_refute(tag, kind, x64):
    held = {"diagonal": np.diag(np.diag(FULL)), "tridiagonal": np.triu(np.tril(FULL, 1), -1),
            "lower_triangular": np.tril(FULL), "upper_triangular": np.triu(FULL),
            "unit_diagonal": FULL - np.diag(np.diag(FULL)) + np.eye(12)}[tag]  # fmt: skip

    def made(matrix):
        mixed = jnp.linalg.inv(jnp.asarray(np.linalg.inv(matrix)))  # a full pattern, whatever the numbers
        if kind == "tree":
            return operator(jacobian(lambda p: {"x": mixed @ p["x"]})({"x": jnp.ones(12)}))
        return jacobian(lambda x: mixed @ x, sparsity="dense" if kind == "dense" else "auto")(jnp.ones(12))

    made(held).as_lineax(getattr(lx, f"{tag}_tag"))
    with pytest.raises(ValueError, match=r"as_lineax\(tags=...\): expected (tags that hold|a diagonal of ones)"):
        made(FULL).as_lineax(getattr(lx, f"{tag}_tag"))


def test_definite_tags():
    H = hessian(lambda x: jnp.sum(x**2) + x.sum() ** 2)(X)
    H.as_lineax(lx.positive_semidefinite_tag)
    with pytest.raises(ValueError, match="expected a negative semidefinite matrix"):
        H.as_lineax(lx.negative_semidefinite_tag)


def test_samples_and_a_missing_package(monkeypatch):
    with pytest.raises(ValueError, match=r"as_lineax\(\): expected one matrix, got samples.*jax.vmap"):
        jacobian(jax.vmap(tridiagonal), batch_axis=0)(np.stack([X, X])).as_lineax()

    def imported(name, *args, own=builtins.__import__, **kwargs):
        if name == "lineax":
            raise ImportError(name)
        return own(name, *args, **kwargs)

    as_lineax._operator_class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", imported)
    with pytest.raises(ImportError, match=r'J.as_lineax\(\): expected the package lineax.*"jacobia\[lineax\]"'):
        jacobian(tridiagonal)(X).as_lineax()


def test_scipy_operator_of_a_tree():
    op, dense = operator(jacobian(tree)(TREE)), np.asarray(jacobian(tree, ravel=True)(TREE)[...])
    close(op.as_scipy() @ np.eye(9), dense)
    close(op.as_scipy().T @ np.arange(9.0), dense.T @ np.arange(9.0))
    close(op.T.as_scipy() @ np.arange(9.0), dense.T @ np.arange(9.0))
    with pytest.raises(ValueError, match=r"operator\(...\).as_scipy\(\): expected one matrix, got samples"):
        operator(jacobian(jax.vmap(tridiagonal), batch_axis=0)(np.stack([X, X]))).as_scipy()
