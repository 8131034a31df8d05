"""Which results depend on marked inputs: exactly the expected ones, and none that changes with an input is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia._program.flow import around, dependent, flow

A, B = jnp.array([0.5, -1.5]), jnp.array([2.0, 3.0])


def counted(a, b):
    return lax.fori_loop(0, 3, lambda _, c: (c[0] + 1, c[0] * c[1]), (a, b))


def handed_on(a, b):
    # a step hands the first carry to the second, and the second to the third
    return lax.scan(lambda c, _: ((c[0], c[0], c[1]), c[2]), (a, b, b), None, length=3)


@jax.custom_jvp
def halved(a, b):
    return a / 2, b


halved.defjvp(lambda primals, tangents: (halved(*primals), tangents))

# program → (what depends on a, what depends on b)
PROGRAMS = {
    "each": (lambda a, b: (jnp.sin(a), a * b, jnp.ones(2)), "110", "010"),
    "call": (lambda a, b: jax.jit(lambda a, b: (a, b, a + b))(a, b), "101", "011"),
    "call of a rule": (halved, "10", "01"),
    "checkpoint": (jax.checkpoint(lambda a, b: (jnp.sin(a), jnp.cos(b))), "10", "01"),
    "branch": (lambda a, b: lax.cond(b[0] > 0, lambda a: (a, B), lambda a: (A, a), a), "11", "11"),
    "known test": (
        lambda a, b: lax.cond(jnp.sum(B) > 0, lambda a, b: (a, b), lambda a, b: (a, b + 1), a, b),
        "10",
        "01",
    ),
    "loop": (counted, "11", "01"),
    "handed on": (handed_on, "1111", "0111"),
    "map": (lambda a, b: lax.map(lambda v: (v + 1, b), a), "10", "01"),
    "while": (lambda a, b: lax.while_loop(lambda c: c[0][0] < 3, lambda c: (c[0] + 1, c[1] * 2), (a, b)), "11", "01"),
    "sorted": (lambda a, b: (jnp.sort(a), jnp.linalg.solve(jnp.eye(2), b)), "10", "01"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_depends_on_an_input(name):
    f, *expected = PROGRAMS[name]
    closed = jax.make_jaxpr(f)(A, B)
    before = jax.tree.leaves(f(A, B))
    for k, own in enumerate(expected):
        marked = [k == 0, k == 1]
        assert "".join(str(int(m)) for m in flow(closed, marked)) == own
        moved = jax.tree.leaves(f(*(v + 2.5 * m for v, m in zip((A, B), marked, strict=True))))
        changed = [not np.array_equal(x, y) for x, y in zip(before, moved, strict=True)]
        assert all(m == "1" for m, c in zip(own, changed, strict=True) if c)
    assert flow(closed, [False, False]) == [False] * len(before)
    either = [a == "1" or b == "1" for a, b in zip(*expected, strict=True)]
    assert flow(closed.jaxpr, [True, True]) == either


def test_variables_and_the_carry_of_a_loop():
    jaxpr = jax.make_jaxpr(lambda a, b: jnp.sin(a) + jnp.cos(b))(A, B).jaxpr
    sine, cosine, total = (eqn.outvars[0] for eqn in jaxpr.eqns)
    assert dependent(jaxpr, [True, False]) == {jaxpr.invars[0], sine, total} and cosine not in dependent(jaxpr, [1, 0])
    body = jax.make_jaxpr(lambda p, q, r: (p, p, q))(A, A, A)
    assert around(body, [True, False, False], 0, 3) == [True, True, True]
    assert around(body, [False, False, True], 0, 3) == [False, False, True]  # at the first step
