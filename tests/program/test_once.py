"""Which parts of a program are computed once, and which of its results can change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._compat import opened
from jacobia._program.readings.once import Split, split, varying

RNG = np.random.default_rng(2)
A, B = RNG.normal(size=(2, 4, 4)).astype(np.float32)
X = RNG.normal(size=4).astype(np.float32)


def of(f, *args):
    jaxpr, consts = opened(jax.make_jaxpr(f)(*args))
    return jaxpr, [np.asarray(c) for c in consts]


def test_the_parts_give_the_whole():
    def f(a, b, x):
        return jnp.tanh(a @ b) @ x + (a.T * 2)[0], jnp.sin(b), x * 3

    parts = split(of(f, A, B, X)[0], [False, False, True])
    assert isinstance(parts, Split)
    remembered = parts.once([A, B, None])
    for x in (X, 2 * X):
        for own, expected in zip(parts.each([A, B, x], remembered), f(A, B, x), strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-5)
    assert parts.flops >= 2 * 4**3 + 16
    shapes = {r.shape for r in remembered}
    assert shapes == {(4, 4)} and len(remembered) == 3  # tanh(a b), 2 aᵀ before it is cut, sin(b)


def test_what_is_remembered_is_used():
    parts = split(of(lambda a, x: jnp.sin(a) * x, A, X)[0], [False, True])
    assert isinstance(parts, Split)
    (remembered,) = parts.once([A, None])
    (out,) = parts.each([A, X], [0 * remembered])
    assert not np.any(out)


@pytest.mark.parametrize(
    "f",
    [lambda a, x: a * x, lambda a, x: a.T.reshape(-1)[:4] * x, lambda a, x: jnp.arange(4.0) * x],
    ids=["as it is", "pieces", "of nothing"],
)
def test_moving_data_is_not_worth_remembering(f):
    jaxpr, consts = of(f, A, X)
    assert split(jaxpr, [False] * len(consts) + [False, True]) is None


CASES = {
    "a concatenation": (lambda a, x: jnp.concatenate([a @ a[0], x * 2]), [0] * 4 + [1] * 4),
    "element by element": (lambda a, x: jnp.where(x > 0, x, 1) + a[0], None),
    "pieces": (lambda a, x: jnp.concatenate([a[0, :2], x[1:3], a[1, :1]])[::-1], [0, 1, 1, 0, 0]),
    "padding": (lambda a, x: jnp.pad(x[:2], (1, 1)), [0, 1, 1, 0]),
    "a transposition": (lambda a, x: jnp.stack([a[0], x]).T.reshape(-1), [0, 1] * 4),
    "a product": (lambda a, x: a @ x, [1] * 4),
    "an inner jit": (lambda a, x: jax.jit(lambda y: jnp.concatenate([y, a[0]]))(x), [1] * 4 + [0] * 4),
    "a sum": (lambda a, x: jnp.stack([jnp.sum(a), jnp.sum(x)]), [0, 1]),
    "nothing": (lambda a, x: a[0] + 1, [0] * 4),
    "a literal": (lambda a, x: 1.0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_which_elements_can_change(name):
    f, expected = CASES[name]
    jaxpr, consts = of(f, A, X)
    (found,) = varying(jaxpr, [False] * len(consts) + [False, True])
    assert found.shape == np.shape(f(A, X))
    if expected is not None:
        np.testing.assert_array_equal(found, np.asarray(expected, bool))
    changed = np.asarray(f(A, X)) != np.asarray(f(A, X + 1.7))
    assert not np.any(changed & ~found)
