"""Weak types, mixed real and complex dtypes, and empty trees, compared with `jax.jacrev` and `jax.jacfwd`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, is_view

from jacobia import hessian, jacobian, materialize

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
A = (RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))).astype(np.complex64)
Z = np.array([1 + 2j, 3 - 1j, 0.5j], np.complex64)
X = np.array([0.5, -1, 2], np.float32)

# Weak types


def same(got, expected):
    return got.dtype == expected.dtype and got.weak_type == expected.weak_type and np.allclose(got, expected)


@pytest.mark.parametrize(
    "f",
    [lambda x: x, jnp.sin, lambda x: 2 * x, lambda x: jnp.float32(2) * x, lambda x: jnp.stack([x, x * x])],
    ids=["identity", "sin", "weak", "strong", "two"],
)
@pytest.mark.parametrize("x", [1.5, jnp.float32(1.5), jnp.full(3, 1.5)], ids=["number", "array", "weak array"])
def test_weak_types_are_those_of_jacrev(f, x):
    expected = jax.jit(jax.jacrev(f))(x)
    J = jacobian(f)(x)
    assert J.weak_type == expected.weak_type and J.dtype == expected.dtype
    assert same(J[...], expected) and same(J[...], expected)
    assert same(jacobian(f)(x) + 0, expected)
    assert same(jacobian(f, lazy=False)(x), expected)
    assert same(jax.jit(lambda x: jacobian(f)(x)[...])(x), expected)
    assert same(jax.jit(jacobian(f))(x)[...], expected)
    assert same(jacobian(f, jit=False)(x)[...], expected)
    if expected.ndim:
        J = jacobian(f)(x)
        assert same(J[1], expected[1]) and same(J[1], expected[1])  # computed, and remembered
        assert same(J[[1, 0]], expected[np.array([1, 0])]) and same(J.T[...], expected.T)
        assert same(jax.jit(lambda x, i: jacobian(f)(x)[i])(x, 1), expected[1])
    if expected.ndim == 2:
        assert J.diagonal().weak_type == J.nonzeros()[0].weak_type == expected.weak_type
        assert_close(J.diagonal(), jnp.diagonal(expected))


@pytest.mark.parametrize("x, y", [(1.5, 2.0), (1.5, jnp.float32(2)), (jnp.float32(1.5), 2.0)], ids=str)
def test_weak_types_of_several_inputs_and_of_hessians(x, y):
    f = lambda x, y: x**3 * jnp.sin(y)  # noqa: E731
    for transform, reference in ((jacobian, jax.jacrev), (hessian, jax.hessian)):
        expected = jax.tree.leaves(jax.jit(reference(f, (0, 1)))(x, y))
        views = jax.tree.leaves(transform(f, (0, 1))(x, y), is_leaf=is_view)
        for tree in (views, jax.tree.leaves(materialize(views))):
            assert all(same(got[...], e) for got, e in zip(tree, expected, strict=True))


def test_a_weak_input_does_not_narrow_a_wider_output(x64):
    J = jacobian(lambda x: jnp.asarray(x, jnp.float32).astype(jnp.float64) * 2)(jnp.float32(1))
    assert J.dtype == jnp.float64 and not J.weak_type and not J[...].weak_type
    # Weak float64, and a strong output that is narrower: the dtype of the input, as in `jax.jacrev`.
    f = lambda x: x.astype(jnp.float32)  # noqa: E731
    assert same(jacobian(f)(1.0)[...], jax.jacrev(f)(1.0))


# A complex input with a real output: rows

MIXED = {
    "absolute square": lambda z: jnp.abs(A @ z) ** 2,
    "real": lambda z: jnp.real(A @ z),
    "imaginary": lambda z: jnp.imag(1j * z * z),
    "matrix": lambda z: jnp.real(jnp.conj(A @ z) * (A @ jnp.exp(1j * z))).reshape(2, 2),
    "through reals": lambda z: jnp.tanh(jnp.real(z) * jnp.imag(z)),
}


@pytest.mark.parametrize("f", MIXED.values(), ids=MIXED)
def test_rows_of_a_real_output_with_respect_to_a_complex_input(f):
    expected = np.asarray(jax.jit(jax.jacrev(f))(Z))
    J = jacobian(f)(Z)
    assert J.shape == expected.shape and J.dtype == expected.dtype == np.complex64
    assert_close(J[1], expected[1])
    assert_close(J[-1], expected[-1])  # with residuals kept
    assert_close(J[0:2], expected[0:2])
    assert_close(J[1, ..., 1], expected[1, ..., 1])
    assert_close(jacobian(f)(Z)[...], expected)
    assert_close(jax.jit(lambda z: jacobian(f)(z)[1])(Z), expected[1])
    u = RNG.normal(size=expected.shape[:-1]) + 1j
    assert_close(J.vm(u.astype(np.complex64)), np.tensordot(u, expected, u.ndim).astype(np.complex64))
    assert_close(J.vm(u.real.astype(np.float32)), np.tensordot(u.real, expected, u.ndim).astype(np.complex64))


READS = {
    "column": lambda J: J[..., 1],
    "columns": lambda J: J[..., 1:],
    "row of the transpose": lambda J: J.T[1],
    "mv": lambda J: J.mv(Z),
    "matmul": lambda J: J.matrix @ Z,
    "nonzeros": lambda J: J.nonzeros(),
    "bcoo": lambda J: J.to_bcoo(),
    "materialize": lambda J: materialize([J], (..., 1)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_columns_of_a_real_output_with_respect_to_a_complex_input_raise(read):
    f = MIXED["absolute square"]
    for J in (jacobian(f)(Z), jacobian(f, mode="rev")(Z), jacobian(f, jit=False)(Z)):
        J[0]
        with pytest.raises(TypeError, match=r"complex and holomorphic"):
            read(J)
        J[...]
        with pytest.raises(TypeError, match=r"complex and holomorphic"):
            read(J)
    with pytest.raises(TypeError, match="complex and holomorphic"):
        jax.jit(lambda z: jacobian(f)(z)[:, 1])(Z)


def test_one_row_and_one_number_of_a_complex_input():
    f = lambda z: jnp.sum(jnp.abs(z) ** 3)  # noqa: E731
    expected = np.asarray(jax.jit(jax.jacrev(f))(Z))
    J = jacobian(f)(Z)
    assert_close(J[1], expected[1])
    assert_close(J[...], expected)
    assert_close(jacobian(f, lazy=False)(Z), expected)
    assert_close(jacobian(lambda z: jnp.abs(z) ** 2)(1 + 2j)[...], 2 - 4j)
    diagonal = jacobian(lambda z: jnp.abs(z) ** 2)(Z).diagonal()
    assert_close(diagonal, 2 * np.conj(Z))
    assert_close(jacobian(lambda z: jnp.abs(z) ** 2, ravel=True)(Z)[1], np.diag(2 * np.conj(Z))[1])
    assert_close(jacobian(lambda z: jnp.abs(z) ** 2, sparsity="dense")(Z).nonzeros()[0], np.diag(2 * Z.conj()).ravel())


def test_samples_of_a_complex_input():
    f, batch = MIXED["through reals"], np.stack([Z, 2 * Z, Z[::-1]])
    expected = np.asarray(jax.jit(jax.vmap(jax.jacrev(f)))(batch))
    for J in (jacobian(jax.vmap(f), batch_axis=0)(batch), jax.vmap(jacobian(f))(batch)):
        assert_close(J[:, 1], expected[:, 1])
        assert_close(J[...], expected)
        with pytest.raises(TypeError, match="complex and holomorphic"):
            J[:, :, 1]


def test_complex_and_real_inputs_side_by_side():
    f = lambda p: {"a": jnp.real(p["z"] * p["x"]), "b": jnp.sum(p["x"] ** 2)}  # noqa: E731
    point = {"x": X, "z": Z}
    expected, J = jax.jit(jax.jacrev(f))(point), jacobian(f)(point)
    assert jax.tree.all(jax.tree.map(same, materialize(J), expected))
    assert_close(J["a"]["x"][:, 1], expected["a"]["x"][:, 1])  # real by real: both directions
    assert_close(J["a"]["x"].mv(X), expected["a"]["x"] @ X)
    with pytest.raises(TypeError):
        J["a"]["z"][:, 1]


def test_a_complex_input_in_other_modes_and_with_complex_outputs_raises():
    f = MIXED["real"]
    for call in (
        lambda: jacobian(f, mode="fwd")(Z),
        lambda: jacobian(f, mode="accumulate")(Z),
        lambda: jacobian(lambda z: {"r": jnp.real(z), "c": z})(Z),
        lambda: hessian(lambda z: jnp.sum(jnp.abs(z)))(Z),
    ):
        with pytest.raises(TypeError, match=r"\(args\[0\]\): expected a real input, got complex64.*holomorphic=True"):
            call()
    with pytest.raises(TypeError, match="output.*holomorphic"):
        jacobian(lambda x: x * 2j)(X)


def test_a_real_output_that_is_wider_than_the_complex_input_raises(x64):
    with pytest.raises(TypeError, match="expected complex128, as wide as the result"):
        jacobian(lambda z: jnp.abs(z).astype(jnp.float64))(Z)


# A real input with a complex output, forward: columns


REAL_TO_COMPLEX = {"each": lambda x: jnp.exp(1j * x), "product": lambda x: A @ x, "sum": lambda x: jnp.sum(A @ x)}


@pytest.mark.parametrize("f", REAL_TO_COMPLEX.values(), ids=REAL_TO_COMPLEX)
def test_columns_of_a_complex_output_with_respect_to_a_real_input(f):
    expected = np.asarray(jax.jit(jax.jacfwd(f))(X))
    J = jacobian(f, mode="fwd")(X)
    assert J.dtype == expected.dtype == np.complex64
    assert_close(J[..., 1], expected[..., 1])
    assert_close(jacobian(f, mode="fwd")(X)[...], expected)
    assert_close(J.mv(X), expected @ X)
    assert_close(J.mv(X + 1j), expected @ (X + 1j).astype(np.complex64))
    with pytest.raises(TypeError, match="J.vm"):
        J.vm(np.ones(expected.shape[:-1], np.complex64))
    if expected.ndim == 2:
        assert_close(J[1, 2], expected[1, 2])
        for key in (1, slice(0, 2), [2, 0]):
            with pytest.raises(TypeError, match="complex and holomorphic, for rows"):
                jacobian(f, mode="fwd")(X)[key]


# Integers and empty trees


def test_integers_raise_and_pass_by_where():
    f = lambda p: p["x"] * p["n"]  # noqa: E731
    with pytest.raises(TypeError, match=r"\['n'\].*int32"):
        jacobian(f)({"x": X, "n": np.int32([1, 2, 3])})
    J = jacobian(f, where={"x": True, "n": False})({"x": X, "n": np.int32([1, 2, 3])})
    assert J["n"] is None
    assert_close(J["x"][...], np.diag([1.0, 2, 3]).astype(np.float32))


@pytest.mark.parametrize("point", [{"a": None, "b": X}, [X, []], (X,), {"a": {}, "b": (X, None)}], ids=str)
def test_empty_parts_of_a_tree_stay(point):
    f = lambda p: jax.tree.map(lambda a: a**2, p)  # noqa: E731
    J, expected = jacobian(f)(point), jax.eval_shape(jax.jacrev(f), point)
    assert jax.tree.structure(J, is_leaf=is_view) == jax.tree.structure(expected)
    assert_close(jax.tree.leaves(materialize(J))[0], np.diag(2 * X))
    assert jax.tree.structure(hessian(f)(point), is_leaf=is_view) == jax.tree.structure(
        jax.eval_shape(jax.hessian(f), point)
    )


def test_nothing_to_return_raises():
    for f in (lambda x: (), lambda x: None, lambda x: {}):
        with pytest.raises(TypeError, match="array or a tree of arrays"):
            jacobian(f)(X)


def test_aux_and_static_arguments_beside_weak_numbers():
    f = lambda x, n, scale: (scale * x**n, {"n": n, "x": x})  # noqa: E731
    for number in (1.5, X):
        J, aux = jacobian(f, has_aux=True, static_argnums=1)(number, 3, scale=2.0)
        of_jax = jax.jit(jax.jacrev(f, has_aux=True), static_argnums=1)
        expected, expected_aux = of_jax(number, 3, scale=2.0)
        assert same(J[...], expected) and same(aux["x"], jnp.asarray(expected_aux["x"]))
