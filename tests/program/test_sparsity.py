"""Patterns and nonzeros read off the program, against the nonzeros of JAX's dense derivatives at many points.

Shapes: M outputs, N inputs (all leaves flattened and concatenated), P points, nnz stored entries.
"""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir
from sparse_cases import CASES, INDEX, Case, dense, nonzero, point, points

import jacobia
from jacobia import hessian, jacobian, sparsity_pattern
from jacobia._sparse.pattern import FORMATS

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]


def test_scipy_has_no_tracers():
    with pytest.raises(TypeError, match=r"outside of jit.*J\.to_bcsr"):
        jax.jit(lambda x: jacobian(jnp.sin)(x).to_scipy())(jnp.ones(3))
    assert jax.jit(jacobian(jnp.sin))(jnp.ones(3)).to_scipy().shape == (3, 3)


def under(*names, where=lambda case: True):
    chosen = [CASES[name] for name in names or CASES]
    return pytest.mark.parametrize("case", [case for case in chosen if where(case)], ids=str)


@cache
def known(case):
    return dense(case, points(case))


@cache
def found(case):
    return sparsity_pattern(case.f, point(case), hessian=case.kind == "hessian")


def transform(case, **options):
    make = hessian if case.kind == "hessian" else jacobian
    return make(case.f, ravel=True, **options)


def filled(pattern):
    return np.asarray(pattern.todense()).astype(bool)


def scattered(nonzeros, shape):
    data, rows, cols = nonzeros
    matrix = np.zeros(shape)
    np.add.at(matrix, (np.asarray(rows), np.asarray(cols)), np.asarray(data, np.float64))
    return matrix


def entries(where):
    return [tuple(int(k) for k in pair) for pair in np.argwhere(where)[:8]]


def assert_values(actual, expected, tolerance):
    scale = np.max(np.abs(expected), initial=1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


# The pattern


@under()
def test_patterns_and_nonzeros_are_those_of_the_dense_matrix(case):
    """All that is shown of each program, since it is the truth about it that takes time."""
    true, pattern, kind = nonzero(known(case)), found(case), case.kind == "hessian"
    full = filled(pattern)
    assert pattern.shape == full.shape == true.shape
    assert not (true & ~full).any(), entries(true & ~full)
    if case.exact is True:
        assert (full == true).all(), entries(full & ~true)
    if kind:
        np.testing.assert_array_equal(full, full.T)

    # Entries are sorted and told once.
    assert isinstance(pattern.rows, np.ndarray) and isinstance(pattern.cols, np.ndarray)
    assert pattern.rows.shape == pattern.cols.shape == (pattern.nnz,)
    rows, cols = np.nonzero(full)
    np.testing.assert_array_equal(pattern.rows, rows)
    np.testing.assert_array_equal(pattern.cols, cols)

    # Shapes are enough.
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), point(case))
    of_shapes = sparsity_pattern(case.f, x, hessian=kind)
    assert of_shapes.shape == pattern.shape
    np.testing.assert_array_equal(filled(of_shapes), full)

    # The pattern at a point lies between its nonzeros and the pattern: at more points, where the input chooses.
    if case.count > 8 or case.exact is not True:
        for k in (0, case.count - 1) if case.count > 8 else (0,):
            local = filled(sparsity_pattern(case.f, point(case, k), hessian=kind, local=True))
            there = nonzero(known(case)[k : k + 1])
            assert not (there & ~local).any(), entries(there & ~local)
            assert not (local & ~full).any(), entries(local & ~full)

    jac = transform(case)
    for k in (0, 1):  # the second point is read by the kernel made for the first
        J = jac(point(case, k))
        data, rows, cols = J.nonzeros()
        assert data.shape == (J.pattern.nnz,) and data.dtype == J.dtype
        np.testing.assert_array_equal(rows, J.pattern.rows)
        np.testing.assert_array_equal(cols, J.pattern.cols)
        np.testing.assert_array_equal(filled(J.pattern), full)
        assert_values(scattered((data, rows, cols), J.shape), known(case)[k], case.tolerance)

    # The truth is found by half of the points: enough of them, the other half adds nothing.
    assert (true == nonzero(known(case)[::2])).all()


def test_most_patterns_are_to_be_the_true_ones():
    assert sum(case.exact is True for case in CASES.values()) >= 70


@under("relu", "where of the input", "upwind", "gather by the input", "branch by the input", "piecewise quadratic")
def test_the_pattern_at_a_point_knows_what_was_chosen(case):
    for k in (0, 1, 2):
        local = filled(sparsity_pattern(case.f, point(case, k), hessian=case.kind == "hessian", local=True))
        np.testing.assert_array_equal(local, nonzero(known(case)[k : k + 1]))


@under("tridiagonal", "brusselator", "ten steps of heat", "computed indices", "where of the input",
       "known sparse matrices", "softmax of rows", "loop with an index", "solve in batches", "Rosenbrock")  # fmt: skip
def test_patterns_are_the_same_in_32_bits(case):
    with jax.enable_x64(False):
        x = jax.tree.map(lambda leaf: leaf.astype(np.float32), point(case))
        pattern = sparsity_pattern(case.f, x, hessian=case.kind == "hessian")
    np.testing.assert_array_equal(filled(pattern), filled(found(case)))


def test_a_program_without_zeros_has_every_entry():
    pattern = sparsity_pattern(lambda x: x / jnp.sum(x**2), jax.ShapeDtypeStruct((3,), np.float64))
    assert pattern.nnz == 9


# Arguments


def two_arguments(x, y):
    return {"a": x * y[0], "b": jnp.sin(y[1:])}


@pytest.mark.parametrize("argnums, columns", [
    (0, [0, 1, 2]), (1, [3, 4, 5, 6]), (-1, [3, 4, 5, 6]), ((0,), [0, 1, 2]), ((0, 1), range(7)),
    ((1, 0), [3, 4, 5, 6, 0, 1, 2]),
])  # fmt: skip
def test_the_columns_are_those_of_argnums(argnums, columns):
    expected = np.zeros((6, 7), bool)
    expected[:3, :3], expected[:3, 3], expected[3:, 4:] = np.eye(3), True, np.eye(3)
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    pattern = sparsity_pattern(two_arguments, x, y, argnums=argnums)
    np.testing.assert_array_equal(filled(pattern), expected[:, columns])
    J = jacobian(two_arguments, argnums, ravel=True)(x, y)
    np.testing.assert_array_equal(filled(J.pattern), expected[:, columns])
    assert_values(scattered(J.nonzeros(), J.shape), np.asarray(J), 1e-12)


def test_an_index_that_is_an_argument_is_not_known():
    x = np.linspace(0.1, 1, 6)
    gather = lambda x, i: x[i]  # noqa: E731
    assert sparsity_pattern(gather, x, INDEX).nnz == 30
    local = sparsity_pattern(gather, x, INDEX, local=True)
    np.testing.assert_array_equal(local.cols, INDEX)


def test_an_index_that_is_closed_over_is_known():
    x = np.linspace(0.1, 1, 6)
    for index in (INDEX, INDEX[::-1]):  # two programs of the same shape
        np.testing.assert_array_equal(sparsity_pattern(lambda x, i=index: x[i], x).cols, index)
        J = jacobian(lambda x, i=index: x[i] ** 2)(x)
        data, rows, cols = J.nonzeros()
        np.testing.assert_array_equal(cols, index)
        np.testing.assert_allclose(data, 2 * x[index])


def test_hessian_of_two_arguments():
    def f(x, y):
        return jnp.sum(x**3) + jnp.dot(x, y)

    eye, nothing = np.eye(3, dtype=bool), np.zeros((3, 3), bool)
    x = np.ones(3)
    pattern = sparsity_pattern(f, x, x, argnums=(0, 1), hessian=True)
    np.testing.assert_array_equal(filled(pattern), np.block([[eye, eye], [eye, nothing]]))
    assert sparsity_pattern(f, x, x, argnums=1, hessian=True).nnz == 0


@pytest.mark.parametrize("call", [
    pytest.param(lambda x: sparsity_pattern(3, x), id="no function"),
    pytest.param(lambda x: sparsity_pattern(jnp.sin, x, argnums=1), id="argnums"),
    pytest.param(lambda x: sparsity_pattern(jnp.sin, np.arange(3)), id="integers"),
    pytest.param(lambda x: sparsity_pattern(jnp.sin, x + 1j), id="complex"),
    pytest.param(lambda x: sparsity_pattern(lambda x: x > 0, x), id="boolean output"),
    pytest.param(lambda x: sparsity_pattern(jnp.sin, x, hessian=True), id="hessian of a vector"),
    pytest.param(lambda x: sparsity_pattern(jnp.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), local=True), id="local"),
])  # fmt: skip
def test_errors_come_first(call):
    with pytest.raises((TypeError, ValueError), match="expected"):
        call(np.ones(3))


# An operation that nobody knows


def reversal(impl=lambda x: np.flip(np.array(x), -1)):
    """A linear operation of its own: the last axis from behind. Python runs it: nobody sees what it does."""
    primitive = jax.extend.core.Primitive("reversal_of_a_kind")
    primitive.def_impl(impl)
    primitive.def_abstract_eval(lambda x: x)
    ad.deflinear2(primitive, lambda ct, _: [primitive.bind(ct)])
    batching.primitive_batchers[primitive] = lambda xs, axes: (primitive.bind(jnp.moveaxis(xs[0], axes[0], 0)), 0)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: jnp.flip(x, -1), multiple_results=False))
    return primitive.bind


def with_unknown(reverse):
    return lambda x: jnp.concatenate([reverse(jnp.sin(x[:3])), x[3:] ** 2, reverse(x[3:5])])


UNKNOWN = np.zeros((7, 5), bool)
UNKNOWN[:3, :3] = UNKNOWN[5:, 3:] = True
UNKNOWN[3, 3] = UNKNOWN[4, 4] = True


def test_an_unknown_operation_is_full_and_named_once():
    f = with_unknown(reversal())
    with pytest.warns(Warning, match="reversal_of_a_kind") as caught:
        pattern = sparsity_pattern(f, np.ones(5))
    assert len(caught) == 1
    np.testing.assert_array_equal(filled(pattern), UNKNOWN)


def test_an_unknown_operation_in_a_loop_and_in_a_jit():
    reverse = reversal()

    def f(x):
        y = jax.lax.scan(lambda c, _: (reverse(c), c), x[:3], None, length=2)[0]
        return jnp.concatenate([y, jax.jit(reverse)(x[3:])])

    with pytest.warns(Warning, match="reversal_of_a_kind"):
        pattern = filled(sparsity_pattern(f, np.ones(5)))
    true = nonzero(np.asarray(jax.jit(jax.jacfwd(f))(np.ones(5)))[None])
    assert not (true & ~pattern).any()
    assert not pattern[:3, 3:].any() and not pattern[3:, :3].any()


@pytest.mark.filterwarnings("ignore:.*reversal_of_a_kind")
def test_values_through_an_unknown_operation():
    f, x = with_unknown(reversal()), np.linspace(0.3, 1, 5)
    J = jacobian(f)(x)
    assert_values(scattered(J.nonzeros(), J.shape), np.asarray(jax.jit(jax.jacfwd(f))(x)), 1e-12)


def test_an_operation_that_plain_ones_implement_is_read_through():
    f, x = with_unknown(reversal(lambda x: jnp.flip(x, -1))), np.linspace(0.3, 1, 5)
    true = np.asarray(jax.jit(jax.jacfwd(f))(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(filled(sparsity_pattern(f, x)), true != 0)
        J = jacobian(f)(x)
        assert_values(scattered(J.nonzeros(), J.shape), true, 1e-12)


@pytest.mark.parametrize("impl", [
    pytest.param(lambda x: jnp.flip(x, -1)[..., None], id="another shape"),
    pytest.param(lambda x: jnp.flip(x, -1).astype(jnp.float16), id="another type"),
    pytest.param(lambda x: jax.pure_callback(lambda x: np.flip(x, -1), x, x), id="a callback"),
])  # fmt: skip
def test_an_implementation_that_does_not_tell_what_it_does(impl):
    with pytest.warns(Warning, match="no sparsity rule"):
        pattern = filled(sparsity_pattern(with_unknown(reversal(impl)), np.ones(5)))
    np.testing.assert_array_equal(pattern, UNKNOWN)


def test_a_pullback_by_an_operation_of_another_library_is_linear_where_it_shows():
    reverse = reversal(lambda x: jnp.flip(x, -1))

    @jax.custom_vjp
    def f(x):
        return jnp.flip(x) ** 2

    f.defvjp(lambda x: (f(x), x), lambda x, ct: (2 * x * reverse(ct),))
    x = np.linspace(0.3, 1, 4)
    J = jacobian(f)(x)
    assert_values(scattered(J.nonzeros(), J.shape), np.diag(2 * x)[::-1], 1e-12)
    assert J.pattern.nnz == 4


def test_known_operations_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsity_pattern(jax.jit(lambda x: jnp.sort(jnp.fft.irfft(x))), np.ones(5))


# Values


LAWFUL = ("tridiagonal", "brusselator", "ten steps of heat", "max pooling", "elements", "where of the input",
          "softmax of rows", "known sparse matrices", "some rows constant", "nothing depends", "no outputs",
          "no inputs", "scalar", "optimal control", "arrow", "Rosenbrock", "element energy", "linear")  # fmt: skip


@under(*LAWFUL)
def test_products_with_sparse_matrices_are_products_with_the_view(case):
    J = transform(case)(point(case))
    v = np.random.default_rng(2).normal(size=J.shape[1])
    expected = np.asarray(J.mv(v))
    for form in ("csr", "csc", "coo"):
        matrix = J.to_scipy(format=form)
        assert matrix.format == form and matrix.shape == J.shape and matrix.nnz == J.pattern.nnz
        np.testing.assert_allclose(matrix @ v, expected, rtol=1e-9, atol=1e-9)
    matrices = J.to_bcoo(), J.to_bcsr()
    read = jax.jit(lambda matrices, v: [(matrix @ v, matrix.todense()) for matrix in matrices])
    for matrix, (product, full) in zip(matrices, read(matrices, v), strict=True):
        assert matrix.shape == J.shape and matrix.nse == J.pattern.nnz
        np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(full, np.asarray(J), rtol=1e-9, atol=1e-9)


@under(*LAWFUL)
def test_sparse_matrices_store_what_nonzeros_gives(case):
    J = transform(case)(point(case))
    data, rows, cols = J.nonzeros()
    bcoo, csr = J.to_bcoo(), J.to_scipy()
    assert csr.format == "csr"
    np.testing.assert_array_equal(bcoo.data, data)
    np.testing.assert_array_equal(bcoo.indices, np.stack([rows, cols], axis=1))
    np.testing.assert_array_equal(csr.data, data)
    np.testing.assert_array_equal(csr.indices, cols)
    np.testing.assert_array_equal(J.to_bcsr().data, data)
    np.testing.assert_array_equal(J.to_bcsr().indptr, csr.indptr)


def test_a_view_of_vectors_needs_no_ravel():
    case = CASES["tridiagonal"]
    J = jacobian(case.f)(point(case))
    np.testing.assert_array_equal(filled(J.pattern), filled(found(case)))
    assert_values(scattered(J.nonzeros(), J.shape), known(case)[0], 1e-12)


def test_rows_that_were_read_change_nothing():
    case = CASES["brusselator"]
    J, K = transform(case)(point(case)), transform(case)(point(case))
    J[3:9], J[:, 2]
    np.testing.assert_allclose(J.nonzeros()[0], K.nonzeros()[0], rtol=1e-12)


def test_a_matrix_too_large_to_be_dense():
    n = 50_000
    x = np.linspace(-1, 1, n)
    f = CASES["tridiagonal"].f
    J = jacobian(f)(x)
    assert J.pattern.nnz == 3 * (n - 2) + 2
    v = np.cos(np.arange(n))
    pushed = jax.jit(lambda x, v: jax.jvp(f, (x,), (v,))[1])
    np.testing.assert_allclose(J.to_scipy() @ v, pushed(x, v), rtol=1e-9, atol=1e-9)


# Under transformations

TRANSFORMED = ("tridiagonal", "brusselator", "ten steps of heat", "elements", "where of the input",
               "layer norm of rows", "solve in batches", "branch in a loop", "optimal control", "arrow", "Rosenbrock",
               "element energy")  # fmt: skip


def data(case):
    return lambda x: transform(case)(x).nonzeros()[0]


def values(case, k):
    pattern = found(case)
    return known(case)[k][pattern.rows, pattern.cols]


@under(*TRANSFORMED)
def test_nonzeros_under_jit(case):
    run = jax.jit(data(case))
    for k in (0, 1):
        assert_values(run(point(case, k)), values(case, k), case.tolerance)


@under(*TRANSFORMED)
def test_nonzeros_under_vmap(case):
    some = jax.tree.map(lambda leaf: leaf[:3], points(case))
    expected = np.stack([values(case, k) for k in range(3)])
    run = jax.vmap(data(case))
    assert_values((run if case.name == "tridiagonal" else jax.jit(run))(some), expected, case.tolerance)


@under("tridiagonal", "ten steps of heat", "elements", "where of the input", "Rosenbrock")
def test_nonzeros_in_a_loop_over_points(case):
    some = jax.tree.map(lambda leaf: leaf[:3], points(case))
    expected = np.stack([values(case, k) for k in range(3)])
    assert_values(jax.jit(lambda xs: jax.lax.map(data(case), xs))(some), expected, case.tolerance)


@under("tridiagonal", "five points by slices", "elements", "where of the input", "layer norm of rows", "arrow",
       "Rosenbrock", "element energy")  # fmt: skip
def test_gradients_of_nonzeros(case):
    second = jax.jacfwd(jax.jacrev(case.f)) if case.kind == "hessian" else jax.jacfwd(case.f)
    x = point(case)
    weights = np.random.default_rng(4).normal(size=found(case).nnz)

    def of_dense(x):
        matrix = second(x).reshape(found(case).shape)
        return jnp.sum(jnp.sin(matrix[found(case).rows, found(case).cols]) * weights)

    of_nonzeros = jax.grad(lambda x: jnp.sum(jnp.sin(data(case)(x)) * weights))
    expected = np.asarray(jax.jit(jax.grad(of_dense))(x))
    assert_values(jax.jit(of_nonzeros)(x), expected, 1e-9)
    if case.name == "tridiagonal":
        assert_values(of_nonzeros(x), expected, 1e-9)


def test_pushforwards_of_nonzeros():
    case = CASES["tridiagonal"]
    x, t = point(case), point(case, 1)
    pushed = jax.jit(lambda x, t: [jax.jvp(f, (x,), (t,))[1] for f in (jax.jacfwd(case.f), data(case))])
    dense_tangent, actual = pushed(x, t)
    assert_values(actual, np.asarray(dense_tangent)[found(case).rows, found(case).cols], 1e-9)


@under("tridiagonal", "Rosenbrock")
def test_sparse_matrices_are_made_under_jit(case):
    v = np.random.default_rng(2).normal(size=found(case).shape[1])
    run = jax.jit(lambda x: transform(case)(x).to_bcoo() @ v)
    assert_values(run(point(case)), known(case)[0] @ v, 1e-9)


def test_the_program_is_read_once(empty_cache):
    case = CASES["brusselator"]
    jac = transform(case)
    jac(point(case)).nonzeros()
    before = jacobia.cache_info().compiles
    jac(point(case, 1)).nonzeros()
    assert jacobia.cache_info().compiles == before


# The truth itself


def test_the_truth_of_a_program_that_is_known_by_hand():
    case = Case(lambda x: {"b": x[1:] * x[0], "a": jnp.sum(x[:1])}, (3,), name="by hand")
    np.testing.assert_array_equal(nonzero(dense(case, points(case))), [[1, 0, 0], [1, 1, 0], [1, 0, 1]])


@jax.custom_vjp
def ruled(x):
    return jnp.sin(x) * x


ruled.defvjp(lambda x: (ruled(x), x), lambda x, c: (c * (jnp.cos(x) * x + jnp.sin(x)),))
SAMPLES = {
    "alike": lambda x: ruled(x) + jnp.roll(ruled(x), 1, axis=1),
    "not alike": lambda x: jnp.where(np.arange(4)[:, None] < 2, ruled(x), ruled(x)[:, ::-1]),
}


@pytest.mark.parametrize("f", SAMPLES.values(), ids=SAMPLES.keys())
def test_samples_of_a_function_that_can_only_be_pulled_through(f):
    x = np.linspace(1, 2, 12).reshape(4, 3)
    J = jacobian(f, batch_axis=0)(x)
    full = np.asarray(jax.jit(jax.jacrev(f))(x))
    expected = np.stack([full[b, :, b] for b in range(4)])
    data, rows, cols = J.nonzeros()
    found = np.zeros((4, 3, 3))
    found[:, rows, cols] = data
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert J.pattern.nnz == (expected != 0).any(axis=0).sum()


def test_a_while_loop_that_is_known_to_end_is_its_steps():
    def f(x):
        step = lambda s: (s[0] + 1, s[1] ** 2 + jnp.roll(s[1], 1))  # noqa: E731
        return jax.lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]

    band = sum(np.roll(np.eye(9), k, axis=0) for k in range(4)) > 0
    np.testing.assert_array_equal(filled(sparsity_pattern(f, np.linspace(0.1, 1, 9))), band)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_narrow_floats_come_out_as_float32_where_scipy_has_none(dtype):
    x = jnp.asarray([1, 2, 3], dtype)
    f = lambda x: (x.astype(jnp.float32) ** 2).astype(x.dtype) * jnp.asarray([1, 0, 1], x.dtype)  # noqa: E731
    J, v = jacobian(f)(x), np.float64([1, 2, 3])
    assert J.nonzeros()[0].dtype == dtype
    for view in (J, J.T, J.matrix):
        for format in FORMATS:
            made = view.to_scipy(format)
            assert made.format == format and made.dtype == np.float32
            assert np.array_equal(made @ v, np.asarray(view[...], np.float64) @ v)
