"""Equations evaluated by NumPy give the results of JAX, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia._compat import bind
from jacobia._program.numbers import evaluated

A = np.array([[3, -7, 0], [5, 2, -1]], np.int32)
J = np.array([[2, 3, -5], [-1, 7, 4]], np.int32)
U = np.array([[3, 7, 250], [5, 2, 1]], np.uint8)
F = np.array([[0.1, -2.5, 0], [np.inf, 1e-20, 3]], np.float32)
G = np.array([[1.5, 2.5, -0.0], [1, 1e-12, np.nan]], np.float32)
B, C = A > 0, J > 0

# A function of arrays that is one equation, and the arrays.
CASES = {
    "add": (lambda a, b: a + b, A, J),
    "add, wrapped around": (lambda a, b: a + b, U, U),
    "add, real": (lambda a, b: a + b, F, G),
    "sub": (lambda a, b: a - b, A, J),
    "mul": (lambda a, b: a * b, F, G),
    "mul by a scalar": (lambda a: lax.mul_p.bind(a, jnp.int32(3)), A),
    "div": (lax.div, A, J),
    "div, unsigned": (lax.div, U, np.maximum(U, 2)),
    "rem": (lax.rem, A, J),
    "max": (lax.max, A, J),
    "min of truths": (lax.min, B, C),
    "neg": (lax.neg, F),
    "abs": (lax.abs, F),
    "sign": (lax.sign, A),
    "not": (lax.bitwise_not, B),
    "not, bits": (lax.bitwise_not, A),
    "and": (lax.bitwise_and, B, C),
    "or": (lax.bitwise_or, A, J),
    "xor": (lax.bitwise_xor, B, C),
    "clamp": (lambda a: lax.clamp(np.int32(-1), a, np.int32(3)), A),
    "lt": (lax.lt, F, G),
    "le": (lax.le, A, J),
    "gt": (lax.gt, F, G),
    "ge": (lax.ge, U, U),
    "eq": (lax.eq, F, G),
    "ne": (lax.ne, F, F),
    "to real": (lambda a: lax.convert_element_type(a, np.float32), A),
    "to truth": (lambda a: lax.convert_element_type(a, bool), F),
    "to narrower": (lambda a: lax.convert_element_type(a, np.int8), np.array([300, -7], np.int32)),
    "to complex": (lambda a: lax.convert_element_type(a, np.complex64), F),
    "select": (lax.select_n, B, F, G),
    "select by number": (lambda w, a, b, c: lax.select_n(w, a, b, c), np.abs(A) % 3, A, J, A + J),
    "select by scalar": (lax.select_n, np.bool_(True), F, G),
    "broadcast": (lambda a: lax.broadcast_in_dim(a, (4, 2, 3), (1, 2)), A),
    "reshape": (lambda a: lax.reshape(a, (3, 2)), A),
    "squeeze": (lambda a: lax.squeeze(a, (1,)), A[:, :1]),
    "transpose": (lambda a: lax.transpose(a, (1, 0)), F),
    "rev": (lambda a: lax.rev(a, (1,)), A),
    "slice": (lambda a: lax.slice(a, (0, 1), (2, 3), (1, 2)), F),
    "concatenate": (lambda a, b: lax.concatenate([a, b], 1), A, J),
    "sum": (lambda a: lax.reduce_sum_p.bind(a, axes=(0,), out_sharding=None), A),
    "largest": (lambda a: jnp.max(a, 1), A),
    "least": (lambda a: jnp.min(a, 0), A),
}


def equation(f, args):
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    eqn = next(e for e in jaxpr.eqns if e.primitive.name not in ("pjit", "jit"))
    assert len(jaxpr.eqns) == 1
    return eqn


def values_of(eqn, args):
    own = iter(args)
    return [v.val if hasattr(v, "val") else next(own) for v in eqn.invars]


@pytest.mark.parametrize("name", CASES)
def test_an_equation_by_numpy(name):
    f, *args = CASES[name]
    try:
        eqn = equation(f, args)
    except TypeError as error:  # the parameters of a sum have other names in other versions
        pytest.skip(str(error))
    made, expected = evaluated(eqn, values_of(eqn, args)), bind(eqn, *values_of(eqn, args))
    assert made is not None
    for a, b in zip(made, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


STEPPED = [(name, "all") for name in CASES] + [
    (name, which) for name, (_, *args) in CASES.items() if len(args) > 1 for which in ("first", "last")
]


@pytest.mark.parametrize(("name", "which"), STEPPED)
def test_an_equation_at_every_step(name, which):
    f, *args = CASES[name]
    try:
        eqn = equation(f, args)
    except TypeError as error:
        pytest.skip(str(error))
    values = values_of(eqn, args)
    steps = [which == "all" or k == (0 if which == "first" else len(values) - 1) for k in range(len(values))]
    if name == "clamp":
        steps = [False, True, False]
    values = [np.stack([v, v[::-1] if np.ndim(v) else v, v]) if s else v for v, s in zip(values, steps, strict=True)]
    made = evaluated(eqn, values, steps)
    for k in range(3):
        expected = bind(eqn, *(v[k] if s else v for v, s in zip(values, steps, strict=True)))
        for a, b in zip(made, expected, strict=True):
            assert (len(a), a.dtype) == (3, b.dtype)
            np.testing.assert_array_equal(a[k], b)


def test_numbers_that_may_be_taken_for_zero_are_left_to_jax():
    eqn = equation(lambda a: a == 0, [F])
    assert evaluated(eqn, [np.float32(1e-40) * np.ones((2, 3), np.float32), 0.0]) is None
    eqn = equation(lambda a: a * a, [F])
    assert evaluated(eqn, [np.full((2, 3), 1e-20, np.float32)] * 2) is None


@pytest.mark.parametrize(
    ("f", "x"),
    [(jnp.sin, F), (lambda a: lax.div(a, np.zeros_like(A)), A), (lambda a: a * a, F.astype(np.complex64)),
     (lambda a: lax.convert_element_type(a, np.int32), F), (lambda a: a + a, F.astype(jnp.bfloat16)),
     (lambda a: lax.pad(a, np.int32(7), [(1, 0, 0), (0, 0, 0)]), A)],
    ids=["sin", "division by zero", "complex", "to whole", "bfloat16", "pad"],
)  # fmt: skip
def test_other_equations_are_left_to_jax(f, x):
    eqn = equation(f, [x])
    values = [v.val if hasattr(v, "val") else x for v in eqn.invars]
    if eqn.primitive.name == "div":
        values[1] = np.zeros_like(A)
    assert evaluated(eqn, values) is None
