"""The same function at point after point, as solvers call it: NumPy arrays, functions made anew, nonzeros."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobia
from jacobia import hessian, jacobian

pytestmark = pytest.mark.slow


def reaction(y):
    return jnp.array([-0.5 * y[0] + y[1] * y[2], 0.5 * y[0] - y[1] * y[2] - 3 * y[1] ** 2, 3 * y[1] ** 2])


def slope(y):
    a, b, c = y
    return np.array([[-0.5, c, b], [0.5, -c - 6 * b, -b], [0, 6 * b, 0]], np.float32)


def points(count=4):
    return [np.linspace(0.2, 0.9, 3).astype(np.float32) + np.float32(0.1 * k) for k in range(count)]


def warm(jac):
    for x in points():
        jac(x)[...]
    return jac


def test_arrays_of_numpy_point_after_point():
    jac = jacobian(reaction)
    for x in points(6):
        np.testing.assert_allclose(jac(x)[...], slope(x), rtol=1e-6)


def test_what_is_changed_in_place_later_does_not_matter():
    jac = warm(jacobian(reaction))
    x = points()[1]
    expected = slope(x)
    J = jac(x)
    x[:] = 7
    np.testing.assert_allclose(J[...], expected, rtol=1e-6)
    np.testing.assert_allclose(J.value, jacobian(reaction)(points()[1]).value, rtol=1e-6)


def test_everything_else_of_such_a_view():
    jac, x = warm(jacobian(reaction)), points()[2]
    assert jac(x).device == jax.devices()[0] and jac(x).dtype == jnp.float32
    assert jac(x).stats.kernel_calls == 0
    J = jac(x)
    np.testing.assert_allclose(J[1], slope(x)[1], rtol=1e-6)
    assert J.stats.kernel_calls == 1
    np.testing.assert_allclose(J[0:2], slope(x)[0:2], rtol=1e-6)
    assert J.stats.kernel_calls == 2
    np.testing.assert_allclose(jac(x) @ x, slope(x) @ x, rtol=1e-5)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(jac(x)))[...], slope(x), rtol=1e-6)
    np.testing.assert_allclose(jax.tree.leaves(jac(x))[0], x)
    np.testing.assert_allclose(jac(x).T[...], slope(x).T, rtol=1e-6)


def test_a_view_that_is_first_read_inside_a_trace():
    jac, x = warm(jacobian(reaction)), points()[3]
    J = jac(x)
    np.testing.assert_allclose(jax.jit(lambda s: s * J[...])(2.0), 2 * slope(x), rtol=1e-6)
    np.testing.assert_allclose(J[...], slope(x), rtol=1e-6)  # no tracer was kept
    np.testing.assert_allclose(jax.jit(lambda s: s * jac(x)[...])(2.0), 2 * slope(x), rtol=1e-6)


def test_dtypes_that_differ_are_told_apart(x64):
    jac, x = jacobian(reaction), np.linspace(0.2, 0.9, 3)
    for _ in range(3):
        assert jac(x)[...].dtype == jnp.float64
        assert jac(x.astype(np.float32))[...].dtype == jnp.float32


def test_with_64_bits_off_and_on():
    jac, x = jacobian(reaction), np.linspace(0.2, 0.9, 3)
    for _ in range(3):
        assert jac(x)[...].dtype == jnp.float32
    with jax.enable_x64(True):
        assert jac(x)[...].dtype == jnp.float64


def test_shapes_that_come_again_and_again_are_copied_by_a_kernel():
    jac = jacobian(lambda t, y: t * reaction(y), argnums=1)
    for k in range(70):
        x = points(1)[0]
        J = jac(np.float32(k), x)
        x[:] = 0
        np.testing.assert_allclose(J[...], k * slope(points(1)[0]), rtol=1e-5)


# Functions made anew


def test_functions_with_one_program_share_what_is_known(compiles):
    for x in points(3):
        np.testing.assert_allclose(jacobian(lambda y: 2 * reaction(y))(x)[...], 2 * slope(x), rtol=1e-6)
    before = compiles.count
    for x in points(3):
        np.testing.assert_allclose(jacobian(lambda y: 2 * reaction(y))(x)[...], 2 * slope(x), rtol=1e-6)
    assert compiles.count == before


@pytest.mark.parametrize("make", [jacobian, hessian])
def test_functions_that_differ_in_arrays_do_not(make):
    x = jnp.asarray(points()[0])
    for k in range(4):
        w = jnp.asarray([k == 0, k == 1, k == 2], jnp.float32) * (k + 1)
        f = (lambda y, w=w: jnp.sum(w * y**3)) if make is hessian else (lambda y, w=w: w * y**3)
        expected = np.diag(w * (6 * x if make is hessian else 3 * x**2))
        np.testing.assert_allclose(make(f)(x)[...], expected, rtol=1e-6)
        np.testing.assert_allclose(make(f)(x).to_scipy().toarray(), expected, rtol=1e-6)


def test_one_warning_after_a_hundred():
    x = jnp.ones(3)
    make = lambda: jacobian(lambda y: reaction(y) - 0.03125)(x)  # noqa: E731
    kept = make()  # nothing else holds the program, as no kernel is run
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            make()
    with pytest.warns(UserWarning, match="make f once") as caught:
        for _ in range(60):
            make()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert kept.shape == (3, 3)


# Nonzeros


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_nonzeros_point_after_point(scale, compiles):
    jac = jacobian(lambda y: scale * reaction(y))
    for k, x in enumerate(points(5)):
        before = compiles.count
        J = jac(x)
        data, rows, cols = J.nonzeros()
        assert k == 0 or compiles.count == before
        np.testing.assert_allclose(data, scale * slope(x)[rows, cols], rtol=1e-6)
        assert J.stats.kernel_calls == 1
        np.testing.assert_allclose(J[...], scale * slope(x), rtol=1e-6)


def test_nonzeros_of_a_large_stencil_point_after_point():
    jac = jacobian(lambda x: x * jnp.roll(x, 1))
    for k in range(3):
        x = np.linspace(1, 2, 500, dtype=np.float32) + k
        data, rows, cols = jac(x).nonzeros()
        expected = np.where(rows == cols, np.roll(x, 1)[rows], x[rows])
        np.testing.assert_allclose(data, expected, rtol=1e-6)


def test_nonzeros_of_what_is_known_run_nothing():
    jac = warm(jacobian(reaction))
    jac(points()[0]).nonzeros()
    J = jac(points()[1])
    J[...]
    calls = J.stats.kernel_calls
    np.testing.assert_allclose(J.to_scipy().toarray(), slope(points()[1]), rtol=1e-6)
    assert J.stats.kernel_calls == calls


def test_nonzeros_of_a_hessian_and_of_stacked_views_point_after_point():
    f = lambda y: jnp.sum(y[:-1] ** 2 * y[1:])  # noqa: E731
    hess = hessian(f)
    for x in points(3):
        np.testing.assert_allclose(hess(x).to_scipy().toarray(), jax.hessian(f)(x), rtol=1e-6)
    for _ in range(3):
        X = jnp.stack(list(map(jnp.asarray, points(3))))
        data, rows, cols = jax.vmap(hess)(X).nonzeros()
        np.testing.assert_allclose(data, jax.vmap(jax.hessian(f))(X)[:, rows, cols], rtol=1e-6)


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "dia", "lil", "dok", "bsr"])
def test_matrices_for_scipy_have_nothing_in_common(format):
    jac = jacobian(reaction)
    for x in points(3):
        made = jac(x).to_scipy(format=format)
        assert made.format == format and made.shape == (3, 3)
        assert format not in ("csr", "csc") or made.has_canonical_format
        np.testing.assert_allclose(made.toarray(), slope(x), rtol=1e-6)
        if format in ("csr", "csc"):
            made.data[:] = 0
            made.eliminate_zeros()
        for name in {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "bsr": ("data", "indices", "indptr"),
                     "dia": ("data", "offsets")}.get(format, ()):  # fmt: skip
            getattr(made, name)[:] = 0


def test_float16_for_scipy():
    x = np.ones(3, np.float16)
    for _ in range(2):
        assert jacobian(reaction)(x).to_scipy("csc").dtype == np.float32


def test_the_cache_is_cleared_between_points():
    jac = jacobian(reaction)
    for x in points(3):
        np.testing.assert_allclose(jac(x).to_scipy().toarray(), slope(x), rtol=1e-6)
        jacobia.cache_clear()


# Rows one by one


def test_a_view_is_read_as_the_one_before(new_programs, compiles):
    jac = jacobian(lambda y: jnp.sin(reaction(y)), mode="rev")
    expected = jax.jit(jax.jacfwd(lambda y: jnp.sin(reaction(y))))
    for k, x in enumerate(points(4)):
        J, before = jac(x), compiles.count
        rows = [J[i] for i in range(3)]
        assert k < 2 or compiles.count == before
        np.testing.assert_allclose(jnp.stack(rows), expected(x), rtol=1e-6)
        assert J.stats.pullbacks == 3
    for x in points(4):  # once each: the first keeps residuals, the others do not
        np.testing.assert_allclose(jac(x)[1], expected(x)[1], rtol=1e-6)


def test_reads_that_overlap_compute_what_is_missing():
    jac = jacobian(lambda x: jnp.cumsum(jnp.sin(x)), mode="rev")
    for k in range(3):
        x = jnp.linspace(0, 1, 9) + k
        J, expected = jac(x), np.tril(np.ones((9, 9))) * np.cos(np.asarray(x))
        for key, pulled in ((2, 1), (slice(1, 4), 3), (3, 3), ((slice(0, 5), 0), 5), (slice(None), 9), (7, 9)):
            np.testing.assert_allclose(J[key], expected[key], rtol=1e-5, atol=1e-6)
            assert J.stats.pullbacks == pulled, key
