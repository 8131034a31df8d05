"""A seed that is followed as an index: rows of matrices are selected instead of multiplied, with the results of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian
from jacobia._program.readings.seed import Element, products_met, through

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
A, B = RNG.normal(size=(12, 9)), RNG.normal(size=(7, 12))
X = jnp.asarray(RNG.normal(size=9), jnp.float32)
# Factors with axes of length 1 beside longer ones: JAX stretches them without saying so.
ROW, COLUMN, MIDDLE, PAIRS = (
    jnp.asarray(RNG.uniform(1, 2, size=s), jnp.float32) for s in (2, (3, 1), (1, 4, 3), (5, 81))
)


@jax.jit
def inner(x):
    return jnp.tanh(jnp.asarray(A, x.dtype) @ x)


def net(x):
    return jnp.sin(jnp.asarray(B, x.dtype) @ inner(x))


def taken(x):
    return jnp.asarray(A, x.dtype) @ x


# f, and the number of matrix products left in a pullback and in a pushforward
PROGRAMS = {
    "layer": (lambda x: jnp.tanh(jnp.asarray(A, x.dtype) @ x), 0, 0),
    "linear": (lambda x: jnp.asarray(A, x.dtype) @ x, 0, 0),
    "from the left": (lambda x: jnp.exp(x @ jnp.asarray(A.T, x.dtype)) / 3, 0, 0),
    "two layers": (net, 1, 1),
    "nested jit": (jax.jit(lambda x: 2 * net(x)), 1, 1),
    "outputs in another shape": (lambda x: jnp.tanh(jnp.asarray(A, x.dtype) @ x).reshape(3, 1, 4)[:, 0], 0, 0),
    "inputs in another shape": (lambda x: jnp.asarray(A, x.dtype) @ (x.reshape(3, 3).ravel() / (1 + x**2)), 0, 0),
    "other precision": (lambda x: (jnp.asarray(A, jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype(x.dtype), 0, 0),
    "used twice": (lambda x: jnp.asarray(A, x.dtype) @ x + jnp.asarray(A, x.dtype) @ x**2, 0, 0),
    "a product of matrices": (lambda x: jnp.tanh(jnp.asarray(B, x.dtype) @ jnp.outer(jnp.arange(12.0), x)), 1, 1),
    "shuffled before": (lambda x: (jnp.asarray(A, x.dtype) @ x)[::-1], 1, 0),
    "one under the other": (
        lambda x: jnp.concatenate([jnp.asarray(A, x.dtype) @ x, x, jnp.tanh(jnp.asarray(B, x.dtype)[:, :9] @ x)]),
        0,
        0,
    ),
    "parts of one": (lambda x: (jnp.asarray(A, x.dtype) @ x)[2:6], 1, 0),
    "beside a row": (lambda x: jnp.concatenate([taken(x), (x[:, None] * ROW).ravel()]), 0, 0),
    "stretched two ways": (lambda x: PAIRS @ (x[:, None] + x).ravel(), 0, 1),
    "no product": (lambda x: jnp.sin(x) * x[::-1], 0, 0),
}


def products(call, x):
    return str(jax.make_jaxpr(call)(x)).count("dot_general[")


@pytest.mark.parametrize("name", PROGRAMS)
def test_rows_and_columns_are_those_of_jax(name):
    f, _, _ = PROGRAMS[name]
    some = [("rev", (slice(1, 4),)), ("fwd", (..., slice(2, 7)))]
    reads = [*some, ("rev", (2,)), ("rev", ...), ("fwd", ...)]
    read = lambda x, mode, key: jacobian(f, mode=mode)(x)[key]  # noqa: E731
    jitted, expected = jax.jit(lambda x: ([read(x, *keyed) for keyed in reads], jax.jacrev(f)(x)))(X)
    expected = np.asarray(expected)
    exact = {"rtol": 2e-2, "atol": 2e-2} if name == "other precision" else {"rtol": 1e-4, "atol": 1e-5}

    def close(got, right):
        np.testing.assert_allclose(np.asarray(got), right, **exact)

    for got, (_, key) in zip(jitted, reads, strict=True):
        close(got, expected[key])
    for mode, key in some:
        close(read(X, mode, key), expected[key])
    J = jacobian(f, mode="rev")(X)
    for k in (1, 0, 2):  # from the second row on, residuals are kept
        close(J[k], expected[k])


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_seed_meets_first_is_not_multiplied(name):
    f, rows, columns = PROGRAMS[name]
    once = products(f, X)
    assert products(lambda x: jacobian(f, mode="rev")(x)[1:4], X) - once == rows
    assert products(lambda x: jacobian(f, mode="fwd")(x)[..., 1:4], X) - once == columns


# Factors with axes of length 1 beside longer ones, and nothing to take
STRETCHED = {
    "beside a column": (lambda x: jnp.concatenate([taken(x), (x.reshape(3, 3) * COLUMN).ravel()]), 0, 0),
    "beside a middle": (lambda x: jnp.concatenate([taken(x), (x.reshape(3, 1, 3) * MIDDLE).ravel()]), 0, 0),
    "over a row": (lambda x: jnp.concatenate([taken(x), jax.jit(lambda x: x[:, None] / ROW)(x).ravel()]), 0, 0),
    "over itself": (lambda x: jnp.concatenate([taken(x), (x[:, None] / (2 + x * x)).ravel()]), 0, 0),
    "a row and a layer": (lambda x: taken((x.reshape(3, 3) * jnp.sin(COLUMN.T) / COLUMN).ravel()), 0, 0),
    "less itself": (lambda x: PAIRS @ (x[:, None] - x[None] / 2).ravel(), 0, 1),
    "a factor of nothing": (lambda x: jnp.concatenate([taken(x), (x[:, None] * ROW[:0]).ravel()]), 0, 0),
    "a matrix of nothing": (lambda x: jnp.concatenate([taken(x), jnp.zeros((0, 9)) @ x]), 1, 0),
}


@pytest.mark.parametrize("name", STRETCHED)
def test_a_factor_that_is_stretched(name):
    f, rows, columns = STRETCHED[name]
    once = products(f, X)
    assert products(lambda x: jacobian(f, mode="rev")(x)[1:4], X) - once == rows
    assert products(lambda x: jacobian(f, mode="fwd")(x)[..., 1:4], X) - once == columns
    both = jax.jit(lambda x: [jacobian(f, mode=mode)(x)[...] for mode in ("rev", "fwd")] + [jax.jacfwd(f)(x)])
    by_rows, by_columns, expected = both(X)
    np.testing.assert_allclose(by_rows, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_columns, expected, rtol=1e-4, atol=1e-5)


def test_derivatives_of_rows():
    def energy(x, rows):
        return jnp.sum(rows(x) ** 2)

    ours, theirs = (lambda x: jacobian(net, mode="rev")(x)[1:4]), (lambda x: jax.jacrev(net)(x)[1:4])
    gradients = jax.jit(lambda x: [jax.grad(lambda x, rows=rows: energy(x, rows))(x) for rows in (ours, theirs)])
    np.testing.assert_allclose(*gradients(X), rtol=1e-3, atol=1e-4)
    samples = jax.jit(lambda xs: [jax.vmap(rows)(xs) for rows in (ours, theirs)])
    np.testing.assert_allclose(*samples(np.stack([X, 2 * X])), rtol=1e-4, atol=1e-5)
    total = lambda x: net(x).sum()  # noqa: E731
    np.testing.assert_allclose(hessian(total)(X)[...], jax.jit(jax.hessian(total))(X), rtol=1e-3, atol=1e-4)


def test_infinite_weights_that_a_seed_does_not_meet_do_not_matter():
    weight = A.astype(np.float32)
    weight[5, 3] = np.inf
    J = jacobian(lambda x: jnp.asarray(weight) @ x, mode="rev")(X)
    np.testing.assert_allclose(J[0:3], weight[0:3])


def test_an_element_that_nothing_takes_becomes_an_array():
    traced = jax.make_jaxpr(lambda s: (-2 * s, jnp.cumsum(s), s.reshape(3, 3)))(X)
    assert not products_met(traced.jaxpr, traced.jaxpr.invars[0])
    seed = Element((9,), jnp.int32(4), jnp.float32(3))
    dense = np.zeros(9, np.float32)
    dense[4] = 3
    found = jax.jit(lambda: through(traced.jaxpr, traced.consts, [seed]))()
    for got, right in zip(found, (-2 * dense, np.cumsum(dense), dense.reshape(3, 3)), strict=True):
        np.testing.assert_array_equal(got, right)
