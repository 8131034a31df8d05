"""The view: metadata that never computes, its behavior as an array, and what it remembers and forgets."""

import copy
import operator
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from cases import CASES, MODEL, PARAMS, is_float, network
from jax.experimental.sparse import BCOO, BCSR
from reference import assert_close, central_differences, dense, is_block, is_view, passes, views

import jacobia
from jacobia import Jacobian, jacobian

W = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
X = np.linspace(-1, 1, 4, dtype=np.float32)
X2 = np.linspace(-1, 2, 2, dtype=np.float32)


def layer(x):
    return jnp.tanh(W @ x)


DENSE = (1 - np.tanh(W @ X.astype(np.float64)) ** 2)[:, None] * W


@pytest.fixture
def J():
    return jacobian(layer)(X)


# Metadata


METADATA = {
    "shape": lambda J: J.shape,
    "dtype": lambda J: J.dtype,
    "ndim": lambda J: J.ndim,
    "size": lambda J: J.size,
    "len": len,
    "nbytes": lambda J: J.nbytes,
    "repr": repr,
    "str": str,
    "hasattr": lambda J: hasattr(J, "no_such_attribute"),
    "T": lambda J: J.T.shape,
    "matrix": lambda J: J.matrix.shape,
    "T.matrix": lambda J: J.matrix.T.shape,
    "stats": lambda J: J.stats,
    "isinstance": lambda J: isinstance(J, Jacobian),
    "itemsize": lambda J: J.itemsize,
    "weak_type": lambda J: J.weak_type,
    "mT": lambda J: J.mT.shape,
    "real and imag": lambda J: (J.real.shape, J.imag.shape, J.imag.T.shape, J.imag.mT.nbytes),
    "places": lambda J: (J.sharding, J.device, J.devices(), J.committed, J.is_fully_addressable, J.is_fully_replicated),
    "format": lambda J: f"{J}",
    "block_until_ready": lambda J: J.block_until_ready(),
    "hasattr of all": lambda J: [hasattr(J, name) for name in {*dir(jax.Array), *dir(jax.device_put(X))}],
}


@pytest.mark.parametrize("ask", METADATA.values(), ids=METADATA.keys())
def test_metadata_never_computes(ask, compiles):
    J = jacobian(lambda x: jnp.cos(W @ x))(X)
    before = compiles.count
    ask(J)
    assert compiles.count == before
    stats = J.stats
    assert (stats.pullbacks, stats.pushforwards, stats.seeds_run, stats.kernel_calls, stats.nbytes) == (0,) * 5


def test_metadata_is_that_of_the_array(J):
    array = np.asarray(J)
    assert (J.shape, J.ndim, J.size, len(J), J.nbytes) == ((5, 4), 2, 20, 5, array.nbytes)
    assert J.dtype == array.dtype == jnp.float32
    assert J.T.shape == (4, 5)
    assert not hasattr(J, "no_such_attribute")
    assert "f32[5,4]" in repr(J)


def test_len_of_a_0d_view_raises_as_that_of_an_array():
    with pytest.raises(TypeError):
        len(jacobian(jnp.sin)(1.0))


def test_a_view_of_many_axes():
    J = jacobian(lambda x: jnp.stack([x.T] * 4) ** 2)(np.ones((2, 3), np.float32))
    assert (J.shape, J.T.shape, J.matrix.shape) == ((4, 3, 2, 2, 3), (3, 2, 2, 3, 4), (24, 6))
    assert_close(J.T[...], np.asarray(J).T)
    assert_close(J.matrix[...], np.asarray(J).reshape(24, 6))
    assert passes(J) == 6


# Value and auxiliary output


def test_value_is_the_function_and_no_derivative(J):
    assert_close(J.value, np.tanh(W @ X))
    assert passes(J) == 0
    J[0]
    assert_close(J.value, np.tanh(W @ X))


def test_aux_is_returned_and_remembered():
    J, aux = jacobian(lambda x: (x**2, {"mean": jnp.mean(x)}), has_aux=True)(X)
    assert_close(aux, {"mean": np.mean(X)})
    assert_close(J.aux, {"mean": np.mean(X)})
    assert passes(J) == 0
    assert_close(J[...], np.diag(2 * X))


def test_aux_of_a_tree_stands_beside_the_tree():
    J, aux = jacobian(lambda p: (p["w"] @ X2, p["b"] + 1), has_aux=True)(PARAMS)
    assert J["w"].shape == (3, 3, 2)
    assert_close(aux, np.asarray(PARAMS["b"] + 1, np.float32))


# As an array


BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]
OTHERS = {
    "scalar": 0.5,
    "numpy scalar": np.float32(0.5),
    "numpy": np.full((5, 4), 0.5, np.float32),
    "jax": jnp.full((4,), 0.5, jnp.float32),
}


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_arithmetic_and_comparison_on_both_sides(J, op, other):
    array = np.asarray(J)
    same = np.asarray(other) if isinstance(other, jax.Array) else other
    for result, expected in ((op(J, other), op(array, same)), (op(other, J), op(same, array))):
        assert isinstance(result, (jax.Array, np.ndarray))
        assert (result.shape, result.dtype) == ((5, 4), expected.dtype)
        assert_close(result, expected)


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
def test_two_views_meet_elementwise(J, op):
    K = jacobian(lambda x: 2 * layer(x))(X)
    assert_close(op(J, K), op(np.asarray(J), np.asarray(K)))
    assert np.asarray(J == J).all() and not np.asarray(J != J).any()


def test_powers_signs_and_products(J):
    assert_close(-J, -DENSE)
    assert_close(+J, DENSE)
    assert_close(abs(J), abs(DENSE))
    assert_close(J**2, DENSE**2)
    assert_close(2.0**J, 2.0**DENSE)
    assert_close(J @ X, DENSE @ X)
    assert_close(np.ones(5, np.float32) @ J, np.ones(5) @ DENSE)
    assert_close(jnp.ones(5) @ J, np.ones(5) @ DENSE)
    assert_close(J.T @ jnp.ones(5), DENSE.T @ np.ones(5))
    assert_close(J @ J.T, DENSE @ DENSE.T)


def test_jnp_functions_take_a_view(J):
    assert_close(jnp.asarray(J), DENSE)
    assert_close(jnp.sin(J), np.sin(DENSE))
    assert_close(jnp.sum(J, axis=0), DENSE.sum(0))
    assert_close(jnp.dot(J, X), DENSE @ X)
    assert_close(jnp.where(J > 0, J, 0), np.where(DENSE > 0, DENSE, 0))
    assert_close(np.sin(J), np.sin(DENSE))


def test_a_view_is_iterated_by_rows(J):
    assert_close([jnp.asarray(row) for row in J], list(DENSE.astype(np.float32)))


def test_a_scalar_view_is_a_number():
    J = jacobian(jnp.sin)(0.5)
    assert float(J) == pytest.approx(np.cos(0.5), rel=1e-5)


def test_numpy_takes_dtype_and_copy(J):
    assert np.asarray(J, dtype=np.float64).dtype == np.float64
    copied = np.array(J, copy=True)
    copied[...] = 7
    assert_close(J[...], DENSE)
    assert np.array(J, dtype=np.float16).dtype == np.float16


def test_a_returned_row_that_is_written_to_leaves_the_view_alone(J):
    for key in (1, slice(0, 3), (slice(None), 2), ...):
        row = np.array(J[key])
        row[...] = np.nan
        shared = np.asarray(J[key])
        if shared.flags.writeable:
            shared[...] = np.nan
        assert_close(J[key], DENSE[key])


def test_products_of_any_shape():
    f, x = lambda x: jnp.stack([x.T] * 2) ** 2, np.arange(6, dtype=np.float32).reshape(2, 3)
    J, array = jacobian(f)(x), central_differences(f, x)
    v, u = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), np.ones((2, 3, 2), np.float32)
    assert_close(J.mv(v), np.tensordot(array, v, 2))
    assert_close(J.vm(u), np.tensordot(u, array, 3))
    assert J.stats.rows_computed == J.stats.columns_computed == 0


@pytest.mark.parametrize("call", [lambda J: J.mv(np.ones(5)), lambda J: J.vm(np.ones(4)), lambda J: J @ np.ones(5)])
def test_a_vector_of_another_shape_raises(J, call):
    with pytest.raises((ValueError, TypeError)):
        call(J)


# All methods and attributes of arrays

NOT_OF_A_VIEW = {
    "__array_namespace__",  # by which SciPy would make J an array where it asks for products
    "__cuda_array_interface__", "__reversed__", "__index__", "__hex__", "__oct__", "__del__", "__dict__",
    "__array_priority__", "__buffer__", "__release_buffer__", "__annotations__",  # of Python, and of arrays in memory
}  # fmt: skip


def test_a_view_has_all_that_the_class_of_arrays_has(J):
    public = [name for name in dir(jax.Array) if not name.startswith("_")]
    assert len(public) > 60 and {"sum", "astype", "at", "mT", "sharding", "reshape"} <= set(public)
    dunder = [name for name in dir(jax.Array) if name.startswith("__")]
    assert [name for name in (*public, *dunder) if name not in (*dir(J), *NOT_OF_A_VIEW)] == []
    assert [name for name in public if not hasattr(J, name)] == []


def test_a_view_has_all_methods_that_arrays_in_memory_have(J):
    array = jnp.zeros((5, 4))
    names = [n for n in dir(array) if not n.startswith("_") and callable(getattr(type(array), n, None))]
    assert {"tolist", "devices", "block_until_ready", "is_deleted", "tobytes"} <= set(names)
    assert [n for n in names if not callable(getattr(J, n, None))] == []


CALLS = {
    "sum": lambda a: a.sum(),
    "sum of an axis": lambda a: a.sum(axis=0, keepdims=True),
    "mean": lambda a: a.mean(1),
    "max": lambda a: a.max(),
    "argmin": lambda a: a.argmin(axis=1),
    "std": lambda a: a.std(),
    "reshape": lambda a: a.reshape(4, 5),
    "reshape by -1": lambda a: a.reshape(-1),
    "ravel": lambda a: a.ravel(),
    "astype": lambda a: a.astype(jnp.float16),
    "transpose": lambda a: a.transpose(1, 0),
    "swapaxes": lambda a: a.swapaxes(0, 1),
    "clip": lambda a: a.clip(0, 1),
    "round": lambda a: a.round(2),
    "round()": lambda a: round(a, 1),
    "take": lambda a: a.take(jnp.array([1, 0]), axis=0),
    "sort": lambda a: a.sort(axis=0),
    "dot": lambda a: a.dot(X),
    "trace": lambda a: a.trace(),
    "copy": lambda a: a.copy(),
    "nonzero": lambda a: a.nonzero(),
    "cumsum": lambda a: a.cumsum(0),
    "conj": lambda a: a.conj(),
    "item": lambda a: a.item(3),
    "tolist": lambda a: a.tolist(),
    "tobytes": lambda a: np.frombuffer(a.tobytes(), np.float32),
    "at set": lambda a: a.at[0, 1].set(9.0),
    "at add": lambda a: a.at[1:3].add(1.0),
    "at get": lambda a: a.at[2].get(),
    "real": lambda a: a.real,
    "imag": lambda a: a.imag,
    "a row of imag": lambda a: a.imag[2],
    "mT": lambda a: a.mT,
    "a row of mT": lambda a: a.mT[1],
    "divmod": lambda a: divmod(a, 2.0),
    "shards": lambda a: len(a.addressable_shards),
    "on device": lambda a: a.on_device_size_in_bytes(),
    "dlpack": np.from_dlpack,
    "numpy sum": lambda a: np.sum(a, axis=1),
    "numpy mean": np.mean,
    "numpy clip": lambda a: np.clip(a, 0, 1),
    "numpy reshape": lambda a: np.reshape(a, (2, 10)),
    "numpy transpose": np.transpose,
    "numpy norm": np.linalg.norm,
    "numpy svd": lambda a: np.linalg.svd(a, compute_uv=False),
    "numpy stack": lambda a: np.stack([a, a]),
    "numpy matmul": lambda a: np.matmul(a, X),
    "numpy outer": lambda a: np.multiply.outer(a, X),
    "numpy add.reduce": lambda a: np.add.reduce(a, axis=0),
    "numpy where": lambda a: np.where(a > 0, a, 0),
    "numpy allclose": lambda a: np.allclose(a, a),
    "jnp norm": jnp.linalg.norm,
    "jnp einsum": lambda a: jnp.einsum("ij->j", a),
    "jnp concatenate": lambda a: jnp.concatenate([a, a]),
    "jnp reshape": lambda a: jnp.reshape(a, -1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_methods_give_what_they_give_on_the_array(J, call):
    result, expected = call(J), call(J[...])
    for a, b in zip(jax.tree.leaves(result, is_leaf=is_view), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)


KINDS = {
    "a Hessian": lambda: jacobia.hessian(lambda x: jnp.sum(jnp.tanh(W @ x)))(X),
    "a transpose": lambda: jacobian(layer)(X).T,
    "many axes": lambda: jacobian(lambda x: jnp.stack([x.T] * 3) ** 2)(np.ones((2, 3), np.float32)),
    "as a matrix": lambda: jacobian(lambda x: jnp.stack([x.T] * 3) ** 2)(np.ones((2, 3), np.float32)).matrix,
    "samples by vmap": lambda: jax.vmap(jacobian(layer))(np.stack([X, 2 * X, 3 * X])),
    "samples by batch_axis": lambda: jacobian(jax.vmap(layer), batch_axis=0)(np.stack([X, 2 * X])),
    "two axes of samples": lambda: jax.vmap(jax.vmap(jacobian(layer)))(np.stack([X, 2 * X])[None]),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_methods_of_every_kind_of_view(make):
    array = np.asarray(make())
    J = make()
    assert (J.mT.shape, J.T.mT.shape) == (array.mT.shape, array.T.mT.shape)
    assert passes(J) == 0
    assert_close(make().mT[..., 1], array.mT[..., 1])
    assert_close(make().mT[...], array.mT)
    assert_close(make().mT.T[..., 0], array.mT.T[..., 0])
    assert_close(make().mT.mT[...], array)
    assert_close(make().T.mT[0], array.T.mT[0])
    assert_close(J.sum(axis=-1), array.sum(axis=-1))
    assert_close(J.reshape(-1), array.reshape(-1))
    assert_close(J.at[0].set(1.0)[0], np.ones_like(array[0]))
    assert J.block_until_ready() is J and J.devices() == {jax.devices()[0]}
    assert_close(jax.jit(lambda J: J.mT[..., 0] + J.mT.sum())(make()), array.mT[..., 0] + array.sum())


def test_the_last_two_axes_of_a_batch_share_the_store():
    J = jax.vmap(jacobian(layer))(np.stack([X, 2 * X, 3 * X]))
    column = J.mT[:, 2]
    before = passes(J)
    assert before == 1  # one pushforward for all samples
    assert_close(column, np.asarray(J[:, :, 2]))
    assert passes(J) == before and J.mT.mT.shape == J.shape


def test_mt_needs_two_axes():
    with pytest.raises(ValueError, match="two axes"):
        _ = jacobian(jnp.sum)(X).mT


def test_parts_of_a_complex_view():
    z = np.array([1 + 2j, 3 - 1j], np.complex64)
    J = jacobian(lambda z: z**2, holomorphic=True)(z)
    assert (J.real.dtype, J.imag.shape) == (np.float32, (2, 2))
    assert_close(J.imag[0], np.array([4, 0], np.float32))
    assert J.stats.rows_computed == 1
    assert_close(J.real[...], np.diag([2.0, 6.0]).astype(np.float32))
    assert_close(J.real + J.imag, np.diag([6.0, 4.0]).astype(np.float32))


def test_where_a_view_lives_is_where_its_input_lives(J):
    x = jax.device_put(X, jax.devices()[0])
    K = jacobian(layer)(x)
    assert (K.sharding, K.device, K.committed) == (x.sharding, x.device, True)
    assert (J.committed, J.devices()) == (False, {jax.devices()[0]})
    assert J.is_fully_addressable and J.is_fully_replicated


def test_a_traced_view_has_no_place_yet():
    def f(x):
        J = jacobian(layer)(x)
        assert not hasattr(J, "sharding") and not hasattr(J, "committed") and not J.weak_type
        with pytest.raises(AttributeError, match="outside of transformations"):
            J.devices()
        return J.block_until_ready().T.sum() + J.astype(jnp.float16)[0, 0] + J.at[0].set(0).max()

    jax.jit(f)(X)


@pytest.mark.parametrize("make", [jax.vmap(jacobian(layer)), lambda x: jax.device_get(jax.vmap(jacobian(layer))(x))])
def test_numpy_samples_may_change_after_the_view_was_made(make):
    x = np.stack([X, 2 * X])
    J = make(x)
    x[...] = 100
    assert_close(J[0], DENSE)
    assert J.devices() == {jax.devices()[0]}


def test_waiting_computes_nothing_and_survives_what_was_deleted(J):
    assert J.block_until_ready() is J and passes(J) == 0
    J[1].delete()
    J[:3]
    J.nonzeros()
    J.block_until_ready()
    assert jax.block_until_ready(J) is J


@pytest.mark.parametrize(
    "read, options",
    [
        (lambda J: J[1], {}),
        (lambda J: J[...], {}),
        (lambda J: J.nonzeros()[0], {}),
        (lambda J: J.diagonal(), {}),
        (lambda J: J[2, 1], {"batch_axis": 0}),
    ],
    ids=["row", "all", "nonzeros", "diagonal", "sample"],
)
def test_waiting_is_for_all_that_is_remembered(monkeypatch, read, options):
    J = jacobian(jnp.sin, **options)(np.ones((16, 3) if options else 6, np.float32))
    found, waited = read(J), []
    monkeypatch.setattr(jax, "block_until_ready", waited.extend)
    J.block_until_ready()
    assert sum(a.nbytes for a in waited) == J.stats.nbytes >= found.nbytes > 0


def test_numbers_are_formatted_as_those_of_arrays():
    assert f"{jacobian(jnp.sin)(0.5):.3f}" == "0.878"
    assert "nothing known" in f"{jacobian(jnp.sin)(X)}"


# Products with sparse matrices, and SciPy's solvers

S = np.array([[0, 1, 0], [2, 0, 0], [0, 0, 0], [0, 0, 3]], np.float32)
SQUARE = W[:4] + 4 * np.eye(4, dtype=np.float32)


def square():
    return jacobian(lambda x: jnp.tanh(SQUARE @ x) + x)(X * 0.1)


def sparse_kinds():
    return {
        "csr_array": scipy.sparse.csr_array(S),
        "csc_matrix": scipy.sparse.csc_matrix(S),
        "coo_array": scipy.sparse.coo_array(S),
        "BCOO": BCOO.fromdense(S),
        "BCSR": BCSR.fromdense(S),
    }


@pytest.mark.parametrize("kind", sparse_kinds())
def test_products_with_sparse_matrices(kind):
    A, s = np.asarray(square()), sparse_kinds()[kind]
    J = square()
    product = J @ s
    assert isinstance(product, jax.Array) and J.stats.pushforwards == 3 and J.stats.columns_computed == 0
    assert_close(product, A @ S)
    assert_close(square().T @ s, A.T @ S)
    if kind != "BCSR":  # JAX has no transpose of it
        assert_close(np.asarray(s.T @ square()), S.T @ A)
    assert_close(jax.jit(lambda x: jacobian(lambda x: jnp.sin(x) * x[0])(x) @ s)(X),
                 np.asarray(jacobian(lambda x: jnp.sin(x) * x[0])(X)) @ S)  # fmt: skip
    with pytest.raises(ValueError, match="length 5"):
        jacobian(layer)(X).T @ s


def test_a_sparse_factor_that_is_too_large_as_an_array():
    J, eye = jacobian(jnp.sin, memory_limit=10**8)(np.zeros(10**5, np.float32)), scipy.sparse.eye_array(10**5)
    with pytest.raises(jacobia.MaterializationError, match=r"J.to_scipy\(\) @ S"):
        J @ eye
    assert (J.to_scipy() @ eye).nnz == 10**5
    assert (J @ eye.tocsc()[:, :3]).shape == (10**5, 3)


def test_scipy_takes_a_view_as_a_linear_operator(J):
    A = np.asarray(jacobian(layer)(X))
    op = scipy.sparse.linalg.aslinearoperator(J)
    u, v = np.linspace(0, 1, 5, dtype=np.float32), np.ones((4, 2), np.float32)
    assert (op.shape, op.dtype) == ((5, 4), np.float32)
    assert_close(op.matvec(X), A @ X)
    assert_close(op.rmatvec(u), A.T @ u)
    assert_close(op.matmat(v), A @ v)
    assert_close(op.rmatmat(u[:, None]), A.T @ u[:, None])
    assert_close(op.H @ u, A.T @ u)
    assert_close(op.T @ u, A.T @ u)
    assert J.stats.rows_computed == J.stats.columns_computed == 0
    assert J.matvec(X).flags.writeable


def test_the_adjoint_of_a_complex_view():
    z = np.array([1 + 2j, 3 - 1j], np.complex64)
    J = jacobian(lambda z: 1j * z**2 * z[0], holomorphic=True)(z)
    u = np.array([1j, 2], np.complex64)
    assert_close(scipy.sparse.linalg.aslinearoperator(J).rmatvec(u), np.asarray(J).conj().T @ u)


@pytest.mark.parametrize("name", ["gmres", "bicgstab", "lsqr", "lsmr"])
def test_scipy_solves_with_a_view(name):
    J, b = square(), np.arange(1.0, 5.0, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lsmr's constants in float32
        x = getattr(scipy.sparse.linalg, name)(J, b)[0]
    assert J.stats.rows_computed == J.stats.columns_computed == 0
    assert_close(np.asarray(J) @ x.astype(np.float32), b, tolerance=1e-3)


def test_scipy_takes_eigenvalues_and_singular_values_of_a_view():
    make = KINDS["a Hessian"]
    largest = scipy.sparse.linalg.eigsh(make(), k=1, which="LM")[0]
    expected = np.linalg.eigvalsh(np.asarray(make()))
    assert_close(largest, expected[[np.argmax(abs(expected))]], tolerance=1e-3)
    singular = scipy.sparse.linalg.svds(jacobian(layer)(X), k=1)[1]
    assert_close(singular, np.linalg.svd(DENSE.astype(np.float32))[1][:1], tolerance=1e-3)


def test_products_of_a_transpose_are_those_of_the_transpose(J):
    A, u, v = np.asarray(jacobian(layer)(X)), np.linspace(0, 1, 5, dtype=np.float32), np.stack([X, X + 1])
    assert_close(J.T.mv(u), A.T @ u)
    assert_close(J.T.mv(np.stack([u, 2 * u], 1)), A.T @ np.stack([u, 2 * u], 1))
    assert_close(J.T.vm(X), X @ A.T)
    assert_close(J.T.vm(v), v @ A.T)
    K, many = KINDS["many axes"](), np.asarray(KINDS["many axes"]())
    w = np.linspace(0, 1, 18, dtype=np.float32).reshape(2, 3, 3)
    assert_close(K.T.mv(w), np.tensordot(many.T, w, 3))
    assert_close(K.T.vm(np.ones((5, 3, 2), np.float32)), np.tensordot(np.ones((5, 3, 2)), many.T, 2))
    B, array = KINDS["samples by vmap"](), np.asarray(KINDS["samples by vmap"]()).mT
    us = np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5)
    assert_close(B.mT.mv(us), np.einsum("bnm,bm->bn", array, us))
    assert_close(B.mT.mv(us[..., None]), np.einsum("bnm,bmk->bnk", array, us[..., None]))
    assert_close(
        B.mT.vm(v[0] * np.ones((3, 2, 1), np.float32)), np.einsum("bkn,bnm->bkm", v[0] * np.ones((3, 2, 1)), array)
    )
    with pytest.raises(ValueError, match="J.mT.mv"):
        B.T.mv(us)


def test_products_of_views_with_two_axes_that_are_no_matrix():
    J = jacobian(lambda t: t * t * jnp.ones((2, 3)))(3.0)
    assert_close(J @ np.ones(3, np.float32), np.array([18.0, 18.0], np.float32))
    samples = jax.vmap(jacobian(lambda t: jnp.stack([t, t * t, t**3])))(np.arange(2, dtype=np.float32))
    assert_close(samples @ np.ones(3, np.float32), np.array([1.0, 6.0], np.float32))
    assert_close(np.ones(2, np.float32) @ samples, np.array([2.0, 2.0, 3.0], np.float32))


INSTEAD = {
    "numpy": "numpy.asarray", "toarray": "numpy.asarray", "row": "J[i]", "columns": "J[:, j]",
    "jvp": "J.mv", "vjp": "J.vm",
    "H": "J.T.conj()", "inv": "jnp.linalg.inv(J)", "tocsr": "J.to_scipy", "nnz": "J.pattern", "diag": "J.diagonal()",
    "compute": "J[...]", "shap": "J.explain",
}  # fmt: skip


@pytest.mark.parametrize("name, what", INSTEAD.items(), ids=INSTEAD)
def test_a_name_that_a_view_has_not_got(J, name, what):
    with pytest.raises(AttributeError, match=r"J\.\w+: expected .+, got .+\. \S") as caught:
        getattr(J, name)
    assert what in str(caught.value) and not hasattr(J, name)


# Immutable


def test_nothing_can_be_assigned(J):
    with pytest.raises((TypeError, AttributeError)):
        J[0] = 1.0
    with pytest.raises((TypeError, AttributeError)):
        J.shape = (4, 5)
    with pytest.raises((TypeError, AttributeError)):
        J.note = "mine"
    with pytest.raises((TypeError, AttributeError)):
        del J[0]
    J += 1  # makes an array, as for any immutable
    assert not is_view(J)


def test_numpy_input_may_change_after_the_view_was_made():
    x = X.copy()
    params = {"x": x}
    J, K = jacobian(layer)(x), jacobian(lambda p: layer(p["x"]))(params)["x"]
    J[0]
    x[...] = 100
    assert_close(J[...], DENSE)
    assert_close(K[...], DENSE)
    assert_close(J.value, np.tanh(W @ X))


# Memory


def test_clear_forgets(J):
    J[1:3]
    assert J.stats.nbytes >= 2 * 4 * 4
    J.clear()
    assert J.stats.nbytes == 0
    before = passes(J)
    assert_close(J[1:3], DENSE[1:3])
    assert passes(J) - before == 2


def test_stats_grow_with_the_work(J):
    J[0]
    one = J.stats.nbytes
    J[1]
    assert one == 4 * 4 and J.stats.nbytes == 2 * one
    assert J.stats.rows_computed == 2 and J.stats.kernel_calls == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda J: pickle.loads(pickle.dumps(J))])
def test_copies_read_the_same(J, duplicate):
    J[1]
    K = duplicate(J)
    assert (K.shape, K.dtype) == (J.shape, J.dtype)
    assert_close(K[...], DENSE)
    assert_close(K.T[2], DENSE[:, 2])
    assert_close(duplicate(J.T)[...], DENSE.T)
    assert_close(J[...], DENSE)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_a_tree_of_views_is_copied(duplicate):
    x = np.ones(2, np.float32)
    J = duplicate(jacobian(network)(PARAMS, x))
    assert_close(dense(J), central_differences(network, PARAMS, x), tolerance=1e-3)


def test_what_cannot_be_pickled_says_so():
    J = jacobian(lambda x: x * 2)(X)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(J)
    assert_close(J[...], 2 * np.eye(4))


# Trees


def test_materialize_reads_a_key_of_all_leaves_in_one_call():
    J = jacobian(lambda p: jnp.tanh(p["w"] @ X2 + p["b"]))(PARAMS)
    assert set(J) == {"w", "b"}
    rows = jacobia.materialize(J, slice(0, 2))
    expected = central_differences(lambda p: jnp.tanh(p["w"] @ X2 + p["b"]), PARAMS)
    assert_close(rows, jax.tree.map(lambda block: block[0:2], expected))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(rows))
    assert max(view.stats.kernel_calls for view in views(J)) == 1
    before = [passes(view) for view in views(J)]
    assert_close(J["b"][1], expected["b"][1])
    assert_close(J["w"][0:2], expected["w"][0:2])
    assert [passes(view) for view in views(J)] == before


def test_materialize_reads_all_of_every_leaf():
    x = np.ones(2, np.float32)
    J = jacobia.materialize(jacobian(network, (0, 1))(PARAMS, x), ...)
    assert_close(J, central_differences(network, PARAMS, x, argnums=(0, 1)), tolerance=1e-3)


def test_materialize_takes_a_single_view_and_passes_none_through():
    assert_close(jacobia.materialize(jacobian(layer)(X), 2), DENSE[2])
    J = jacobia.materialize(jacobian(lambda m: m["scale"] ** 2, where=is_float)(MODEL), ...)
    assert J["index"] is None
    assert_close(J["scale"], np.diag(2 * MODEL["scale"]).astype(np.float32))


def test_only_the_leaf_that_is_read_is_computed():
    J = jacobian(lambda p: jnp.tanh(p["w"] @ X2 + p["b"]))(PARAMS)
    J["b"][0:2]
    assert J["b"].stats.rows_computed == 2
    assert J["w"].stats.rows_computed == 0 and J["w"].stats.nbytes == 0


def test_every_leaf_has_its_own_value():
    J = jacobian(lambda x: {"sin": jnp.sin(x), "sum": jnp.sum(x)})(X)
    assert_close({name: view.value for name, view in J.items()}, {"sin": np.sin(X), "sum": np.sum(X)})


# Options


def test_where_leaves_the_others_out():
    J = jacobian(lambda m: m["scale"] * m["table"][m["index"]], where=is_float)(MODEL)
    assert J["index"] is None
    assert J["scale"].shape == (3, 2, 2) and J["table"].shape == (3, 2, 4, 2)
    reference = central_differences(lambda m: m["scale"] * m["table"][m["index"]], MODEL, where=is_float)
    assert_close(dense(J), reference, tolerance=1e-3)


def test_where_takes_a_tree_of_booleans():
    flags = {"scale": True, "table": False, "index": False}
    J = jacobian(lambda m: m["scale"] * m["table"][m["index"]], where=flags)(MODEL)
    assert J["index"] is None and J["table"] is None
    expected = np.einsum("ij,jk->ijk", MODEL["table"][MODEL["index"]], np.eye(2))
    assert_close(J["scale"][...], expected.astype(np.float32))


def test_where_passes_a_prng_key_through():
    model = {"w": X, "key": jax.random.key(0)}
    J = jacobian(lambda m: m["w"] * jax.random.normal(m["key"], (4,)), where=is_float)(model)
    assert J["key"] is None
    assert_close(J["w"][...], np.diag(jax.random.normal(jax.random.key(0), (4,))))


def power_tower(x, times, kind="sin"):
    for _ in range(times):
        x = getattr(jnp, kind)(x)
    return x


def test_static_arguments_are_part_of_the_program():
    expected = np.diag(np.cos(np.sin(X.astype(np.float64))) * np.cos(X))
    assert_close(jacobian(power_tower, static_argnums=1)(X, 2)[...], expected)
    assert_close(jacobian(power_tower, static_argnums=(1,))(X, 2)[...], expected)
    assert_close(jacobian(power_tower, static_argnames="times")(X, times=2)[...], expected)
    assert_close(jacobian(power_tower, static_argnums=1)(X, 1)[...], np.diag(np.cos(X)))
    assert_close(jacobian(power_tower, static_argnums=1)(X, 1, kind="cos")[...], np.diag(-np.sin(X)))


def test_strings_callables_none_and_booleans_are_static_by_themselves():
    def f(x, name, activation, nothing, flag, *, double):
        assert nothing is None
        y = activation(x) if name == "on" and flag else x
        return 2 * y if double else y

    assert_close(jacobian(f)(X, "on", jnp.sin, None, True, double=False)[...], np.diag(np.cos(X)))
    assert_close(jacobian(f)(X, "on", jnp.cos, None, True, double=True)[...], np.diag(-2 * np.sin(X)))
    assert_close(jacobian(f)(X, "off", jnp.sin, None, True, double=False)[...], np.eye(4))
    assert_close(jacobian(f)(X, "on", jnp.sin, None, False, double=False)[...], np.eye(4))


def test_numbers_that_are_not_differentiated_are_traced():
    seen = []

    def f(x, n):
        seen.append(n)
        return x * n

    assert_close(jacobian(f)(X, 3)[...], 3 * np.eye(4))
    assert all(isinstance(n, jax.core.Tracer) for n in seen)


def test_ravel_makes_one_matrix():
    x = np.linspace(0, 1, 2, dtype=np.float32)
    J = jacobian(network, (0, 1), ravel=True)(PARAMS, x)
    blocks = central_differences(network, PARAMS, x, argnums=(0, 1))
    sizes = {"hidden": 3, "norm": 1, "pair": 2}
    rows = []
    for name in sizes:
        outputs = blocks[name] if name == "pair" else [blocks[name]]
        for arguments in outputs:
            leaves = jax.tree.leaves(arguments)
            # b, w, x: trees are flattened in order of their keys
            num_rows = leaves[0].size // 3
            rows.append(np.concatenate([leaf.reshape(num_rows, -1) for leaf in leaves], axis=1))
    expected = np.concatenate(rows)
    assert is_view(J) and J.shape == expected.shape == (7, 11)
    assert_close(J[...], expected, tolerance=1e-3)
    K = jacobian(network, (0, 1), ravel=True)(PARAMS, x)
    assert_close(K[4:6], expected[4:6], tolerance=1e-3)
    assert (K.stats.pullbacks, K.stats.kernel_calls) == (2, 1)


def test_lazy_false_gives_plain_arrays_nested_as_jacrev_does():
    x = np.ones(2, np.float32)
    J = jacobian(network, (0, 1), lazy=False)(PARAMS, x)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(J))
    assert_close(J, central_differences(network, PARAMS, x, argnums=(0, 1)), tolerance=1e-3)
    assert_close(jax.tree.map(lambda a: a + 1, J)["norm"][1], np.asarray(J["norm"][1]) + 1)
    value, aux = jacobian(lambda x: (x**2, 1.0), has_aux=True, lazy=False)(X)
    assert_close(value, np.diag(2 * X))
    assert float(aux) == 1.0


def by_sign(x):
    return x**2 if x[0] > 0 else -x[::-1]


def test_jit_false_runs_python_control_flow():
    J, K = (
        jacobian(by_sign, jit=False)(jnp.array([1.0, 2])),
        jacobian(by_sign, jit=False)(jnp.array([-1.0, 2])),
    )
    assert_close(J[1], np.array([0.0, 4]))
    assert_close(J[...], np.diag([2.0, 4]))
    assert_close(K[:, 0], np.array([0.0, -1]))
    assert_close(K[...], -np.eye(2)[::-1])


@pytest.mark.parametrize("argnums", [0, 1, -1, -2, (0,), (-1,), (0, 1), (1, 0), [0, 1], (-2, 1)], ids=repr)
def test_argnums_as_in_jacrev(argnums):
    def f(x, y):
        return jnp.outer(x, y[0]) * y[1]

    args = X, (X2, np.float32(3))
    numbers = argnums if isinstance(argnums, int) else tuple(argnums)
    J, jax_J = jacobian(f, argnums)(*args), jax.jacrev(f, numbers)(*args)
    assert_close(dense(J), dense(jax_J))


def test_keyword_arguments_are_passed_on():
    J = jacobian(lambda x, *, scale, shift=0.0: scale["a"] * x**2 + shift)(X, scale={"a": 3.0}, shift=X)
    assert_close(J[...], np.diag(6 * X))


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_change_neither_the_numbers_nor_what_is_computed(chunk):
    J = jacobian(layer, chunk_size=chunk)(X)
    assert_close(J[1:4], DENSE[1:4])
    assert (J.stats.pullbacks, J.stats.kernel_calls) == (3, 1)  # a chunk is a pass of a loop inside the kernel
    assert_close(J[...], DENSE)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_mode_decides_the_direction_of_all_of_it(mode):
    J = jacobian(layer, mode=mode)(X)
    assert_close(J[...], DENSE)
    done = (J.stats.pullbacks, J.stats.pushforwards)
    assert done == ((5, 0) if mode == "rev" else (0, 4))


def stretched(x):
    return jnp.tanh(jnp.outer(x, jnp.ones(200)).reshape(-1))


def test_a_memory_limit_above_the_result_leaves_the_numbers_alone():
    x = np.linspace(0, 1, 10, dtype=np.float32)
    # Room for four dense results; all 2000 cotangents at once would take 200 of them.
    J = jacobian(stretched, mode="rev", memory_limit=4 * 2000 * 10 * 4)(x)
    assert_close(J[...], central_differences(stretched, x))
    assert J.stats.rows_computed == 2000


# Strict


def test_strict_names_both_leaves():
    def f(params):
        return {"height": params["near"] * params["far"], "width": params["near"] * 3}

    with pytest.raises(jacobia.IndependenceError) as caught:
        jacobian(f, strict=True)({"near": X, "far": X})
    assert "width" in str(caught.value) and "far" in str(caught.value)
    assert isinstance(caught.value, ValueError)


INDEPENDENT = {
    "constant": lambda x: jnp.ones(3),
    "zero times x": lambda x: 0 * x,
    "zero times x, in floats": lambda x: 0.0 * jnp.sin(x),
    "stop_gradient": jax.lax.stop_gradient,
    "floor": jnp.floor,
    "numpy": lambda x: np.ones(2, np.float32),
}


@pytest.mark.parametrize("f", INDEPENDENT.values(), ids=INDEPENDENT.keys())
def test_strict_sees_that_an_output_does_not_depend_on_x(f):
    with pytest.raises(jacobia.IndependenceError):
        jacobian(f, strict=True)(X)
    assert_close(jacobian(f)(X)[...], np.zeros(np.shape(f(X)) + (4,)))


SOME_LEAVES_DO_NOT = ("no outputs", "no inputs", "pytrees", "pytrees, two arguments")


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in SOME_LEAVES_DO_NOT], ids=str)
def test_strict_is_silent_where_every_leaf_matters(case):
    J = case.make(strict=True)(*case.args_as(np.float32), **case.kwargs)
    assert views(J)
    assert all(passes(view) == 0 for view in views(J))


def test_a_tree_without_its_views_is_that_of_jacrev():
    x = np.ones(2, np.float32)
    J, K = jacobian(network, (0, 1))(PARAMS, x), jax.jacrev(network, (0, 1))(PARAMS, x)
    assert jax.tree.structure(J, is_leaf=is_block) == jax.tree.structure(K)
    assert jax.tree.map(jnp.shape, K) == jax.tree.map(lambda view: view.shape, J, is_leaf=is_block)


@pytest.mark.parametrize("key", [9, (0, 0, -9), (slice(None), 9), ([0, 9],), 0.5], ids=str)
def test_what_is_derived_from_a_view_refuses_what_numpy_refuses(key):
    with pytest.raises(IndexError, match="expected"):
        jacobian(lambda x: jnp.outer(x, x))(jnp.arange(3.0)).mT[key]


def test_what_is_derived_from_a_view_takes_what_numpy_takes():
    J = jacobian(lambda x: jnp.outer(x, x))(jnp.arange(3.0))
    full = np.swapaxes(np.asarray(J), -1, -2)
    for key in ([0, 1], [], [True, False, True], (0, (1, 2)), -1, ...):
        np.testing.assert_array_equal(J.mT[key], full[key])


def test_diagonals_of_the_array():
    J = jacobian(lambda x: jnp.sin(x) * x[0])(jnp.arange(1.0, 5.0))
    np.testing.assert_array_equal(J.diagonal(1), np.asarray(J).diagonal(1))
    np.testing.assert_array_equal(J.diagonal(offset=-1), np.asarray(J).diagonal(-1))
