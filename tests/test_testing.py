"""`check_jacobian` accepts right derivatives at every scale, and names each kind of wrong derivative."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from reference import assert_helpful

from jacobia import Jacobian
from jacobia.testing import check_jacobian

pytestmark = pytest.mark.slow

X = np.linspace(0.1, 1, 5, dtype=np.float32)
RNG = np.random.default_rng(5)
W = RNG.normal(size=(30, 20)).astype(np.float32) / 5
Z = RNG.normal(size=20).astype(np.float32)


def with_rule(f, rule):
    """f with a custom pushforward: `rule(x, t)`."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: (f(*primals), rule(*primals, *tangents)))
    return wrapped


def with_pullback(f, rule):
    """f with a custom pullback: `rule(primals, u)`."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *primals: (f(*primals), primals), rule)
    return wrapped


def fails(f, *args, **options):
    with pytest.raises(AssertionError) as caught:
        check_jacobian(f, *args, **options)
    assert_helpful(caught, "check_jacobian")
    return str(caught.value)


# Right derivatives


def check_case(case, dtype):
    if case.options.get("holomorphic"):
        pytest.skip("complex functions are refused")
    args, where = case.args_as(dtype), case.options.get("where")
    check_jacobian(case.f, *args, argnums=case.argnums, where=where, **case.kwargs)


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_the_standard_cases(case):
    check_case(case, np.float32)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_the_standard_cases_in_half_precision(case):
    check_case(case, jnp.bfloat16)


@pytest.mark.parametrize("case", CASES[1::2], ids=str)
def test_the_standard_cases_in_float64(case, x64):
    check_case(case, np.float64)


def sine_of_quotient(x, scale):
    return jnp.sin(x / scale)


@pytest.mark.parametrize("scale", np.float32([1e-30, 1e-8, 1, 1e8, 1e30]))
def test_every_scale(scale):
    check_jacobian(sine_of_quotient, X * scale, scale)


def test_outputs_of_two_scales():
    check_jacobian(lambda x: jnp.stack([1e10 * jnp.sin(x[0]), 1e-10 * jnp.cos(x[1])]), X)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (jnp.log, [1e8, 1e-8, 1, 1e-20]),
        (jnp.sin, [100, -37, 1000]),
        (jnp.cos, [0, 0]),  # no slope
        (lambda x: x**4, [0, 0]),  # no slope and no curvature
        (lambda x: (1e4 + x) - 1e4, [1, 2]),  # cancels
        (lambda x: jnp.sum(jax.nn.softmax(x)), [1, 2, 3]),  # constant
        (lambda x: jnp.sum(jax.nn.relu(W @ x)) ** 2, Z),  # with kinks all around
        (lambda x: jax.lax.mul(jnp.tanh(x), jnp.ones(2, jnp.float32)), [1, 2]),  # does not run in float64
    ],
)
def test_functions_with_difficulties(f, x):
    x = np.float32(x)
    if jax.eval_shape(f, x).ndim:
        check_jacobian(f, x)
        f = None if f in (jnp.log, jnp.sin, jnp.cos) else lambda x, f=f: jnp.sum(f(x))
    if f is not None:
        check_jacobian(f, x, hessian=True)  # the first derivatives too


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_function_in_float64(dtype):
    # The random bits depend on the dtype, so the value in float64 is another one.
    def f(x, key):
        return jnp.sin(x) * jax.random.uniform(key, x.shape, x.dtype)

    check_jacobian(f, X.astype(dtype), jax.random.key(0, impl="rbg"))


def test_hessians_of_trees():
    def f(p, shift, name):
        return jnp.sum(jnp.tanh(p["w"] @ p["x"]) ** 3) * p["s"] + len(name) * shift

    check_jacobian(f, {"w": W[:3], "x": Z, "s": 2.0}, 1, "abc", hessian=True)


def test_beyond_the_matrix():
    f = with_rule(jnp.sin, lambda x, t: jnp.cos(x) * t)
    check_jacobian(f, np.linspace(1, 2, 1000, dtype=np.float32))
    assert "central" in fails(with_rule(jnp.sin, lambda x, t: t), np.linspace(1, 2, 1000, dtype=np.float32))


# Wrong derivatives


def sine(x, factor):
    return jnp.sin(x)


OFF = {
    "pushforward": with_rule(sine, lambda x, factor, t, _: factor * jnp.cos(x) * t),
    "pullback": with_pullback(sine, lambda xs, u: (xs[1] * jnp.cos(xs[0]) * u, jnp.zeros_like(xs[1]))),
}
SCALED = {kind: lambda x, factor, scale, f=f: scale * f(x, factor) for kind, f in OFF.items()}


@pytest.mark.parametrize("factor", np.float32([-1, 0, 0.98, 1.01, 2]))
@pytest.mark.parametrize("kind", OFF)
def test_a_rule_off_by_a_factor(kind, factor):
    for scale in np.float32([1e-6, 1, 1e6]):
        message = fails(SCALED[kind], X, factor, scale)
        assert "central differences" in message and "args[0]" in message and "in float64" in message


def test_a_small_error_in_float64(x64):
    f = with_rule(jnp.sin, lambda x, t: (1 + 1e-5) * jnp.cos(x) * t)
    assert "central differences" in fails(f, X.astype(np.float64))
    check_jacobian(f, X.astype(np.float64), rtol=1e-4)
    check_jacobian(f, X.astype(np.float64), atol=1e-4)


def test_a_rule_that_forgets_an_input():
    by_tangents = with_rule(lambda x, y: x * y, lambda x, y, t, s: t * y)
    by_cotangents = with_pullback(lambda x, y: x * y, lambda xs, u: (u * xs[1], jnp.zeros_like(u)))
    for product in (by_tangents, by_cotangents):

        def f(p, product=product):
            return {"sum": p["a"] + p["b"], "product": [product(p["a"], p["b"])]}

        message = fails(f, {"a": X, "b": X + 1})
        assert "output['product'][0] at index" in message and "args[0]['b']" in message
        check_jacobian(f, {"a": X, "b": X + 1}, where={"a": True, "b": False})


def test_the_largest_difference_is_named():
    def rule(x, t):
        return (jnp.cos(x) * t).at[1, 2].mul(1.5).at[0, 1].mul(1.1)

    x = np.full((2, 3), 0.5, np.float32)
    message = fails(lambda x: (x, with_rule(jnp.sin, rule)(x)), x)
    got, expected = re.search(r"got (\S+)\. ", message)[1], re.search(r"to be (\S+), got", message)[1]
    assert "output[1] at index (1, 2)" in message and "of 2 in 12 entries" in message
    np.testing.assert_allclose(float(got), 1.5 * float(expected), rtol=1e-4)


def test_a_rule_that_only_differences_in_float32_see():
    f = with_rule(jnp.sin, lambda x, t: 1.1 * jnp.cos(x) * t)
    assert "in the dtypes of f" in fails(lambda x: jax.lax.mul(f(x), jnp.ones(5, jnp.float32)), X)


def test_a_transpose_that_is_none():
    a = np.diag(np.arange(1, 6, dtype=np.float32))

    def f(b):
        solve, wrong = lambda _, b: b / np.diag(a), lambda _, b: 2 * b / np.diag(a)
        return jax.lax.custom_linear_solve(lambda x: a.astype(x.dtype) @ x, b, solve, wrong)

    message = fails(f, X)
    assert "adjoint identity" in message and "output" in message and "args[0]" in message


@pytest.mark.parametrize(
    ("f", "x"),
    [(jnp.abs, X * 0), (jax.nn.relu, X * 0), (lambda x: jnp.maximum(x, x[::-1]), X * 0 + 1), (jnp.floor, X * 0)],
)
def test_a_kink(f, x):
    message = fails(f, x)
    assert "one-sided differences" in message and "kink" in message


@pytest.mark.parametrize(("f", "x"), [(jnp.sqrt, X * 0), (jnp.log, X * 0), (lambda x: jnp.sin(x) / x, X * 0)])
def test_what_is_not_finite(f, x):
    assert "central differences" in fails(f, x)


# Wrong second derivatives: the first ones are right


def test_a_wrong_second_derivative():
    slope = with_rule(lambda x: 3 * x**2, lambda x, t: 5 * x * t)
    f = with_rule(lambda x: x**3, lambda x, t: slope(x) * t)
    check_jacobian(f, X)
    message = fails(lambda p: jnp.sum(f(p["x"])), {"x": X}, hessian=True)
    assert "central differences" in message
    assert "the gradient of output with respect to args[0]['x'] at index" in message


def test_a_second_derivative_that_is_not_symmetric():
    a = W[:5, :5]
    slope = with_rule(lambda x: (a + a.T).astype(x.dtype) @ x, lambda x, t: 2 * a.astype(x.dtype) @ t)
    f = with_rule(lambda x: x @ a.astype(x.dtype) @ x, lambda x, t: jnp.dot(slope(x), t))
    check_jacobian(f, X)
    for count in (1, 3):
        assert "symmetry" in fails(f, X, hessian=True, num_directions=count)


# Checks of the view itself: no function f makes it wrong, so it is patched to be wrong


def test_another_matrix(monkeypatch):
    monkeypatch.setattr(Jacobian, "__array__", lambda J, *_, **__: 2 * np.asarray(J[...]), raising=False)
    message = fails(jnp.sin, X)
    assert "product with the matrix" in message and "J.mv" in message


def test_another_product(monkeypatch):
    vm = Jacobian.vm
    monkeypatch.setattr(Jacobian, "vm", lambda J, u: 2 * vm(J, u))
    assert "adjoint identity" in fails(jnp.sin, X)
    # The adjoint identity alone misses errors orthogonal to the random vectors: without it, another check must find
    # them.
    monkeypatch.setattr("jacobia.testing._Checks._duality", lambda *_: None)
    message = fails(jnp.sin, X)
    assert "product with the matrix" in message and "J.vm" in message


@pytest.mark.parametrize(("kind", "name"), [(tuple, "J[:, "), (np.integer, "J[")])
def test_another_line(monkeypatch, kind, name):
    read = Jacobian.__getitem__
    monkeypatch.setattr(Jacobian, "__getitem__", lambda J, key: read(J, key) * (1.5 if isinstance(key, kind) else 1))
    message = fails(jnp.sin, X)
    assert "single line" in message and f"expected {name}" in message


# The call


def test_the_same_call_gives_the_same_answer():
    f = with_rule(jnp.sin, lambda x, t: t)
    first, again, other = fails(f, X), fails(f, X), fails(f, X, seed=1)
    assert first == again != other


def test_nothing_is_returned_and_nothing_changed():
    x = X.copy()
    assert check_jacobian(jnp.sin, x) is None
    np.testing.assert_array_equal(x, X)
    assert jnp.asarray(np.float64(1)).dtype == np.float32


@pytest.mark.parametrize("count", [0, -1, 1.5, None])
def test_the_number_of_directions(count):
    with pytest.raises(ValueError) as caught:
        check_jacobian(jnp.sin, X, num_directions=count)
    assert_helpful(caught, "num_directions", repr(count))


def test_what_cannot_be_differentiated():
    for f, args, options, error in (
        (jnp.sin, (X + 1j,), {}, TypeError),
        (jnp.sin, (np.arange(3),), {}, TypeError),
        (jnp.sin, (X,), {"argnums": 1}, ValueError),
        (jnp.sin, (X,), {"hessian": True}, ValueError),
        (3, (X,), {}, TypeError),
    ):
        with pytest.raises(error) as caught:
            check_jacobian(f, *args, **options)
        assert_helpful(caught)
