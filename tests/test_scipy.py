"""Callbacks for SciPy: what they return to solvers, and that the solvers find the solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from scipy.integrate import solve_ivp

import jacobia
import jacobia.scipy

ROBER = [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]


def rober(t, y):
    a, b, c = y
    return jnp.array([-0.04 * a + 1e4 * b * c, 0.04 * a - 1e4 * b * c - 3e7 * b**2, 3e7 * b**2])


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rod(y, k):
    padded = jnp.pad(y, 1)
    return k * (padded[:-2] - 2 * y + padded[2:]) - y**3 + 1


def in_float64(f):
    """f for SciPy, by JAX with 64-bit types."""
    jitted = jax.jit(f)

    def call(*args):
        with jax.enable_x64(True):
            return np.asarray(jitted(*args))

    return call


@pytest.mark.slow
@pytest.mark.parametrize("method", ["BDF", "Radau"])
def test_a_stiff_system(method):
    jac = jacobia.scipy.jac(rober, 1)
    found = solve_ivp(in_float64(rober), (0, 1e11), np.array([1.0, 0, 0]), method, jac=jac, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(found.y[:, -1], ROBER, rtol=1e-5)
    J = jac(0.0, np.array([1.0, 1e-5, 0.1]))
    assert type(J) is np.ndarray and J.dtype == np.float64 and J.flags.writeable and not jax.config.jax_enable_x64
    with jax.enable_x64(True):
        np.testing.assert_allclose(J, jax.jacobian(rober, 1)(0.0, jnp.array([1.0, 1e-5, 0.1])), rtol=1e-12)


@pytest.mark.parametrize("format", [None, "csr", "csc", "dense"])
def test_sparse_and_dense(format):
    jac, n = jacobia.scipy.jac(rod, format=format), 60
    y = np.linspace(0, 1, n)
    J, right = jac(y, 2.0), 2 * (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)) - np.diag(3 * y**2)
    if format == "dense":
        assert type(J) is np.ndarray
    else:
        assert scipy.sparse.issparse(J) and J.format == (format or "csr") and J.nnz == 3 * n - 2
        J = J.toarray()
    assert J.dtype == np.float64
    np.testing.assert_allclose(J, right, rtol=1e-12)
    found = scipy.optimize.least_squares(in_float64(rod), np.ones(n), jac, args=(2.0,))
    assert found.success and found.cost < 1e-20
    if format in (None, "csc"):
        found = solve_ivp(
            in_float64(lambda t, y: rod(y, 2.0)), (0, 5), np.zeros(n), "BDF", rtol=1e-8,
            jac=jacobia.scipy.jac(lambda t, y: rod(y, 2.0), 1, format=format),
        )  # fmt: skip
        other = solve_ivp(in_float64(lambda t, y: rod(y, 2.0)), (0, 5), np.zeros(n), "BDF", rtol=1e-8)
        np.testing.assert_allclose(found.y[:, -1], other.y[:, -1], rtol=1e-5)


@pytest.mark.parametrize("method", ["Newton-CG", "trust-constr", "trust-exact"])
def test_minima(method):
    value, hess = in_float64(rosenbrock), jacobia.scipy.hess(rosenbrock)
    limit = scipy.optimize.NonlinearConstraint(
        in_float64(lambda x: jnp.array([x @ x])), -np.inf, 100.0, jacobia.scipy.jac(lambda x: jnp.array([x @ x])),
        jacobia.scipy.hess(lambda x, v: v @ jnp.array([x @ x])),
    )  # fmt: skip
    more = {"constraints": limit} if method == "trust-constr" else {}
    more |= {"options": {"xtol": 1e-10}} if method == "Newton-CG" else {}
    found = scipy.optimize.minimize(
        value, np.zeros(5), method=method, jac=jacobia.scipy.jac(rosenbrock), hess=hess, **more
    )
    np.testing.assert_allclose(found.x, np.ones(5), rtol=1e-4)
    with jax.enable_x64(True):
        right = jax.hessian(rosenbrock)(jnp.asarray(found.x))
    np.testing.assert_allclose(hess(found.x), right, rtol=1e-10)


def test_roots_with_further_arguments():
    f = lambda x, a, b=0.0: x**3 - a + b * x  # noqa: E731
    found = scipy.optimize.root(in_float64(f), np.ones(3), args=(8.0,), jac=jacobia.scipy.jac(f))
    np.testing.assert_allclose(found.x, 2 * np.ones(3), rtol=1e-8)
    np.testing.assert_allclose(jacobia.scipy.jac(f)(np.ones(3), 8.0, b=2.0), 5 * np.eye(3))


def test_nothing_is_traced_or_compiled_from_call_to_call():
    times = []

    def f(t, y):
        times.append(1)
        return jnp.sin(y) * y[0] * t

    for format in ("dense", "csc"):
        jac = jacobia.scipy.jac(f, 1, format=format)
        jac(0.5, np.ones(4))
        times.clear()
        compiles = jacobia.cache_info().compiles
        for k in range(5):
            jac(0.1 * k, k * np.ones(4))
        assert not times and jacobia.cache_info().compiles == compiles


def test_trees_by_one_matrix():
    f = lambda x: {"a": x**2, "b": x.sum()}  # noqa: E731
    jac = jacobia.scipy.jac(f, ravel=True)
    np.testing.assert_allclose(jac(np.array([1.0, 2.0])), [[2, 0], [0, 4], [1, 1]])


MISTAKES = [
    (lambda jac: jac(rod, format="crs"), ValueError, r"jac\(format=...\): expected None or one of dense, .* got 'crs'"),
    (lambda jac: jac(rod, (0, 1)), TypeError, r"jac\(argnums=\(0, 1\)\): expected an int, got tuple"),
    (lambda jac: jac(3), TypeError, r"jacobian\(f=...\): expected a callable, got int"),
    (lambda jac: jac(lambda x: (x, x))(np.ones(2)), ValueError, "from one array to one array, got a tree"),
    (lambda jac: jac(lambda x: x, batch_axis=0)(np.ones((2, 2))), ValueError, "to one array, got samples"),
    (lambda jac: jac(rod)(np.ones(2, complex), 1.0), TypeError, "real numbers in place 0, got complex128"),
    (lambda jac: jac(rod)(["a"], 1.0), TypeError, "expected an array of real numbers in place 0, got <U1"),
]


@pytest.mark.parametrize("make, error, says", MISTAKES)
def test_what_does_not_fit(make, error, says):
    with pytest.raises(error, match=says):
        make(jacobia.scipy.jac)


def test_of_scalars_and_of_vectors():
    f = lambda x: x**3 - 2 * x  # noqa: E731
    root = scipy.optimize.newton(f, 2.0, fprime=jacobia.scipy.jac(f), fprime2=jacobia.scipy.hess(f))
    np.testing.assert_allclose(root, 2**0.5)
    with pytest.raises(ValueError, match=r"jacobia.scipy.hess\(f\): expected an f of one number, got .*\(3, 3, 3\)"):
        jacobia.scipy.hess(lambda x: x**2)(np.ones(3))
