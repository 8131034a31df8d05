"""Views misused by newcomers: each mistake raises before any work, and the message says what to write."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from jax.experimental.sparse import BCOO
from reference import NOTHING, assert_close, work

import jacobia
from jacobia import hessian, jacobian
from jacobia._run.kernels import ReadError

X = np.linspace(0.1, 1, 4, dtype=np.float32)


def f(x):  # 4 inputs, 3 outputs
    return jnp.tanh(x[:3]) * x[3]


def g(x):
    return jnp.sum(x**3)


def view():
    return jacobian(f)(X)


def assert_tells(caught, *words):
    message = str(caught.value)
    assert re.search(r"^.+: expected .+, got .+\. \S", message, re.DOTALL), message
    for word in words:
        assert word in message, (word, message)


def refused(J, use, *words, error=(TypeError, ValueError, IndexError, AttributeError)):
    with pytest.raises(error) as caught:
        use(J)
    assert_tells(caught, *words)
    assert work(J) == NOTHING


# Keys


KEYS = {
    "a float": (1.0, "Write int(1.0)."),
    "a float of NumPy": (np.float32(1), "Write int(1.0)."),
    "a name": ("a", "J['a']: expected integers", "write tree['a'][...]."),
    "floats": ([0.0, 1.0], "Write key.astype(int) for numbers, or a mask"),
    "the input": (X, "Write key.astype(int) for numbers, or a mask"),
    "a set": ({0, 1}, "Write list(...) of it."),
    "too many": ((slice(None), slice(1, None), 0), "J[:, 1:, 0]: expected a key for shape (3, 4)"),
    "two dots": ((..., ...), "J[..., ...]: expected a key"),
    "a mask": (np.ones((3, 3), bool), "J[ndarray of shape (3, 3)]", "size of axis is 4"),
    "a step": ((slice(0, 9, 2), 7), "J[0:9:2, 7]", "out of bounds for axis 1"),
}


@pytest.mark.parametrize("key, words", [(k, w) for k, *w in KEYS.values()], ids=KEYS)
def test_a_key_that_does_not_fit(key, words):
    refused(view(), lambda J: J[key], *words, error=IndexError)


@pytest.mark.parametrize("values", [[0, 1], [True, False, True]], ids=["numbers", "mask"])
def test_a_series_as_a_key(values):
    pandas = pytest.importorskip("pandas")
    refused(view(), lambda J: J[pandas.Series(values)], "Series of shape", "Write numpy.asarray(...) of it.")


def test_traced_keys():
    for use, key, hint in (
        (lambda J, k: J[k], 1.0, "Write key.astype(int)."),
        (lambda J, k: J[:k], 2, "Write J[a + jax.numpy.arange(n)]"),
        (lambda J, k: J[1:, k:], 2, "Write J[a + jax.numpy.arange(n)]"),
        (lambda J, k: J[k], X[:3] > 0, "write jax.numpy.where"),
    ):
        with pytest.raises(IndexError) as caught:
            jax.jit(lambda k, use=use: use(view(), k))(key)
        assert_tells(caught, hint)
    assert_close(jax.jit(lambda a: view()[a + jnp.arange(2)])(1), view()[1:3])


# Assignment


def test_views_are_not_assigned_to():
    def assign(J):
        J[0] = 1

    def add(J):
        J[0] += 1

    def delete(J):
        del J[0]

    refused(view(), assign, "Write J.at[...].set(...)", "numpy.array(J)", error=TypeError)
    refused(view(), delete, "numpy.delete(J, k, axis)", error=TypeError)
    with pytest.raises(TypeError, match="Write J.at"):
        add(view())
    J = view()
    J += 1
    assert isinstance(J, jax.Array)
    assert_close(J, view()[...] + 1)


@pytest.mark.parametrize("kind", [jacobia.Jacobian, jacobia.Hessian])
@pytest.mark.parametrize("args", [(), (f,), (f, X)], ids=len)
def test_the_class_called_like_a_transform(kind, args):
    with pytest.raises(TypeError) as caught:
        kind(*args)
    assert_tells(caught, f"Write {kind.__name__.lower()}(f)(x)")


# Attributes that others have


ATTRIBUTES = {
    "detach": "Write J[...].",
    "cpu": "Write numpy.asarray(J).",
    "iloc": "Write J[i]",
    "backward": "J is the derivative: write J[...]",
    "solve": "Write jnp.linalg.solve(J, b).",
    "inverse": "Write jnp.linalg.inv(J).",
    "eigvals": "Write jnp.linalg.eigvals(J).",
    "matmul": "Write J @ v.",
    "fill": "Write J.at[...].set(...)",
    "hessian": "Write hessian(f)(x).",
}


@pytest.mark.parametrize("name, hint", ATTRIBUTES.items(), ids=ATTRIBUTES)
def test_attributes_of_other_libraries(name, hint):
    refused(view(), lambda J: getattr(J, name), f"J.{name}", hint, error=AttributeError)


def test_attributes_of_arrays():
    J = view()
    assert J.block_until_ready() is J and work(J) == NOTHING
    assert J.devices() == jnp.asarray(X).devices() and J.device in J.devices() and J.sharding
    assert "J[...].block_until_ready()" in type(J).block_until_ready.__doc__
    assert J.tolist() == J[...].tolist()


# Products


class Applied:
    """What an operator of another library looks like from outside."""

    def mv(self, v):
        return v


FACTORS = {
    "a number": (3, "J @ v: expected arrays with axes, got v", "Write J * v."),
    "None": (None, "J @ v: expected an array of numbers, got None", "jax.numpy.asarray"),
    "a word": ("a", "expected an array of numbers, got 'a'"),
    "words": (np.array(["a"] * 4), "an array of dtype <U1"),
    "objects": (np.ones(4, object), "an array of dtype object"),
    "a tree": ({"a": X}, "write jacobia.operator(jacobian(f)(x)) @ v."),
    "an operator": (Applied(), "write J @ (A @ v)."),
    "a function": (f, "write J @ (A @ v)."),
    "a transform": (jacobian(g), "write jacobian(f)(x)[...]."),
    "a short vector": (np.ones(2), "expected v of length 4", "J @ v takes 4 numbers, and v @ J 3."),
    "a list": ([1.0, 2.0], "expected v of length 4", "J @ v takes 4 numbers, and v @ J 3."),
    "a cotangent": (np.ones(3), "expected v of length 4", "Write v @ J, or J.T @ v."),
    "rows": (np.ones((2, 4)), "expected v of length 4 along axis 0", "Write J @ v.T."),
}


@pytest.mark.parametrize("factor, words", [(k, w) for k, *w in FACTORS.values()], ids=FACTORS)
def test_a_factor_that_does_not_fit(factor, words):
    refused(view(), lambda J: J @ factor, *words, error=(TypeError, ValueError))


def test_a_factor_on_the_left_that_does_not_fit():
    refused(view(), lambda J: np.ones(4) @ J, "v @ J: expected v of length 3", "Write J @ v.")
    refused(view(), lambda J: np.ones((3, 2)) @ J, "v @ J: expected v of length 3", "Write v.T @ J.")
    refused(view(), lambda J: [1.0, 2.0] @ J, "v @ J: expected v of length 3", "J @ v takes 4 numbers, and v @ J 3.")
    refused(view(), lambda J: J.T @ np.ones(4), "J @ v: expected v of length 3", "Write v @ J, or J.T @ v.")


@pytest.mark.parametrize(
    "use, hint",
    [
        (lambda J: J @ np.ones(3), "expected v of length 2 along axis 0"),
        (lambda J: np.ones(3) @ J, "expected v of length 4 along axis 0"),
        (lambda J: J @ 2.0, "Write J * v."),
    ],
)
def test_products_of_whole_arrays_are_checked_before_they_are_computed(use, hint):
    refused(jacobian(lambda x: jnp.outer(f(X), x) @ jnp.ones((2, 4)))(X[:2]), use, hint)


def test_a_gradient_times_a_short_vector():
    refused(jacobian(g)(X), lambda J: J @ np.ones(3), "expected v of length 4", "J has shape (4,)")


GIVEN = {
    "text": ("text", "expected an array of numbers, got 'text'"),
    "a tree": ({"a": X}, "write jacobia.operator(jacobian(f)(x)) @ v."),
    "sparse": (scipy.sparse.eye_array(4), "Write J @ S, or S @ J"),
    "sparse in JAX": (BCOO.fromdense(jnp.eye(4)), "Write J @ S, or S @ J"),
    "short": (np.ones(2), "expected shape (4,), or (4, k)", "It is like the input of f, of shape (4,)."),
    "a cotangent": (np.ones(3), "Write J.vm, which takes this shape."),
    "rows": (np.ones((2, 4)), "Several vectors stand along the last axis: write v.T."),
}


@pytest.mark.parametrize("given, words", [(k, w) for k, *w in GIVEN.values()], ids=GIVEN)
def test_a_tangent_that_does_not_fit(given, words):
    refused(view(), lambda J: J.mv(given), "J.mv(", *words, error=(TypeError, ValueError))


def test_a_cotangent_that_does_not_fit():
    for given, hint in (
        (np.ones(4), "Write J.mv, which takes this shape."),
        (np.ones((3, 2)), "Several vectors stand along the first axis: write u.T."),
        (np.ones(2), "It is like the output of f, of shape (3,)."),
    ):
        refused(view(), lambda J, given=given: J.vm(given), "J.vm(u=...): expected shape (3,)", hint)


def test_weights_that_are_no_array():
    refused(view(), lambda J: J.gram("ones"), "J.gram(weights=...): expected an array of numbers, got 'ones'")


# Sparse matrices and solvers


S = scipy.sparse.csr_array(np.eye(4, dtype=np.float32))
SPARSE = {
    "J @ S": lambda J: J @ S,
    "S @ J.T": lambda J: (S @ J.T).T,
    "J @ BCOO": lambda J: J @ BCOO.from_scipy_sparse(S),
    "BCOO @ J.T": lambda J: (BCOO.from_scipy_sparse(S) @ J.T).T,
}


@pytest.mark.parametrize("use", SPARSE.values(), ids=SPARSE)
def test_products_with_sparse_matrices(use):
    assert_close(use(view()), view()[...])


@pytest.mark.parametrize("use", [lambda J: J + S, lambda J: J - S, lambda J: S + J], ids=["J + S", "J - S", "S + J"])
def test_sums_with_sparse_matrices(use):
    with pytest.raises(TypeError) as caught:
        use(hessian(g)(X))
    assert_tells(caught, "got csr_array", "Write J.to_scipy()", "S.toarray()")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solve", ["gmres", "cg", "lsqr", "spsolve", "splu", "svds"])
def test_solvers_of_scipy(solve):
    H, run = hessian(g)(X), getattr(scipy.sparse.linalg, solve)
    A = np.asarray(hessian(g)(X))
    if solve == "svds":
        values = run(H, k=2)[1]
        assert_close(np.sort(values), np.sort(np.linalg.svd(A)[1])[-2:])
        return
    x = run(H).solve(X) if solve == "splu" else run(H, X)
    assert_close(x[0] if isinstance(x, tuple) else x, np.linalg.solve(A, X), tolerance=1e-3)


# Points that were deleted


NEED_THE_POINT = {
    "a row": lambda J: J[2],
    "a column": lambda J: J[:, 3],
    "all": lambda J: J[...],
    "asarray": np.asarray,
    "J @ v": lambda J: J @ np.ones(4, np.float32),
    "mv": lambda J: J.mv(X),
    "vm": lambda J: J.vm(X[:3]),
    "value": lambda J: J.value,
    "nonzeros": lambda J: J.nonzeros(),
    "gram": lambda J: J.gram(),
    "norms": lambda J: J.row_norms(),
    "devices": lambda J: J.devices(),
    "device": lambda J: J.device,
    "blocks": lambda J: next(iter(J.blocks())),
    "jit": lambda J: jax.jit(lambda J: J[2])(J),
}


@pytest.mark.parametrize("reads", [0, 2, 3])
@pytest.mark.parametrize("use", NEED_THE_POINT.values(), ids=NEED_THE_POINT)
def test_a_deleted_point_is_named(use, reads):
    x = jnp.asarray(X) + 0
    J = jacobian(f)(x)
    for k in (0, 1, 0)[:reads]:
        J[k]
    x.delete()
    with pytest.raises(ReadError) as caught:
        use(J)
    assert_tells(caught, "got args[0], which has been deleted or donated", "make the view at a copy, args[0].copy().")


def test_a_donated_point_is_named_as_it_was_passed():
    def h(p, *, w):
        return p["a"] * w

    for name in ("args[0]['a']", "w"):
        a, w = jnp.asarray(X) + 0, jnp.asarray(X) + 1
        J = jacobian(h)({"a": a}, w=w)["a"]
        jax.jit(lambda x: x + 1, donate_argnums=0)(w if name == "w" else a)
        with pytest.raises(ReadError) as caught:
            J[0]
        assert_tells(caught, f"got {name}, which has been deleted or donated", f"{name}.copy().")
    w = jnp.asarray(X) + 1
    J = jacobian(lambda x: x * w)(X)
    w.delete()
    with pytest.raises(ReadError) as caught:
        J[0]
    assert_tells(caught, "got an array that f closes over, which has been deleted", "keep it.")


def test_a_save_of_a_deleted_point(tmp_path):
    pytest.importorskip("zarr")
    x = jnp.asarray(X) + 0
    J = jacobian(f)(x)
    x.delete()
    with pytest.raises(ReadError, match=r"got args\[0\], which has been deleted"):
        J.save(tmp_path / "J")
    assert not list(tmp_path.iterdir())


def test_an_operator_taken_for_an_array():
    op = jacobia.operator(view())
    for use in (lambda: op[0], lambda: np.asarray(op), lambda: jnp.asarray(op)):
        with pytest.raises(TypeError) as caught:
            use()
        assert_tells(caught, "operator(tree)", "J[...]", "jacobia.materialize(tree")
    assert_close(X[:3] @ op, X[:3] @ view()[...])


def test_a_coloring_of_a_view():
    refused(view(), jacobia.coloring, "Write coloring(J.pattern).")
