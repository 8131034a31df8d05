"""Loops that write into their carry: all steps are walked at once if no step reads what another step has written.

Shapes: N inputs and outputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia import hessian, jacobian, sparsity_pattern
from jacobia._program import flow
from jacobia._program.columns import loops, writes
from jacobia._program.columns.apply import is_tangent

pytestmark = [pytest.mark.usefixtures("x64", "empty_cache"), pytest.mark.slow]

N = 21


@pytest.fixture(autouse=True)
def short_loops_too(monkeypatch):
    """Short loops are small programs to test with."""
    monkeypatch.setattr(writes, "_LONG", 0)


X = np.random.default_rng(3).uniform(0.5, 1.5, N)


def loop(step, start=None, first=1, last=N - 1):
    return lambda x: lax.fori_loop(first, last, lambda i, o: step(i, o, x), jnp.zeros(N) if start is None else start(x))


# Loops in which no step reads what another step has written.
APART = {
    "set": loop(lambda i, o, x: o.at[i].set(x[i] * x[i - 1])),
    "every other": loop(lambda i, o, x: o.at[2 * i + 1].set(x[2 * i] ** 2), last=N // 2),
    "from behind": loop(lambda i, o, x: o.at[i].set(x[N - 1 - i] * x[0])),
    "into x": loop(lambda i, o, x: o.at[i].set(x[i - 1] ** 2), start=lambda x: x),
    "add twice": loop(lambda i, o, x: o.at[i].add(x[i] ** 2).at[i + 1].add(-x[i] * x[i - 1])),
    "subtract": loop(lambda i, o, x: o.at[i - 1].subtract(x[i] ** 2), start=lambda x: x),
    "add to few": loop(lambda i, o, x: o.at[i // 4].add(x[i] ** 2)),
    "outside": loop(lambda i, o, x: o.at[2 * i].set(x[i] ** 2, mode="drop")),
    "window": loop(
        lambda i, o, x: lax.dynamic_update_slice(o, lax.dynamic_slice(x, (i,), (2,)) ** 2, (2 * i,)), last=N // 2 - 1
    ),
    "read before": loop(lambda i, o, x: o.at[i].set(o[i + 1] * x[i]), start=jnp.sin),
    "times": loop(lambda i, o, x: o.at[i].set(o[i] * x[i - 1]), start=jnp.sin),
    "zero": loop(lambda i, o, x: o.at[i].set(0.0), start=jnp.sin),
    "reversed": lambda x: lax.scan(
        lambda o, i: (o.at[i].set(x[i] * x[i - 1]), None), x, jnp.arange(1, N), reverse=True
    )[0],
    "beside a state": lambda x: lax.scan(
        lambda c, i: ((c[0].at[i].set(x[i] * x[i - 1]), jnp.sin(x[0] * i)), c[1] * x[i]), (x, x[0]), jnp.arange(1, N)
    ),
    "rows": lambda x: lax.fori_loop(0, N, lambda i, o: o.at[i, :2].set(x[i] * x[:2]), jnp.zeros((N, 3))),
}  # fmt: skip

# Loops in which some step reads or overwrites what another step has written.
MEET = {
    "read behind": loop(lambda i, o, x: o.at[i].set(o[i - 1] * x[i]), start=jnp.sin),
    "read behind, reversed": lambda x: lax.scan(
        lambda o, i: (o.at[i].set(o[i + 1] * x[i]), None), jnp.sin(x), jnp.arange(N - 1), reverse=True
    )[0],
    "replaced": loop(lambda i, o, x: o.at[i // 2].set(x[i] * x[i - 1])),
    "replaced in a step": loop(lambda i, o, x: o.at[i].set(x[i]).at[i].set(x[i] * x[0])),
    "added, then replaced": loop(lambda i, o, x: o.at[i].add(x[i]).at[i].set(x[0] * x[i])),
    "replaced, then added": loop(lambda i, o, x: o.at[i].set(x[i] * x[0]).at[i - 1].add(x[i])),
    "read in its step": loop(lambda i, o, x: (u := o.at[i].set(x[i] ** 2)).at[i + 1].add(u[i])),
    "somewhere": loop(lambda i, o, x: o.at[jnp.argmax(x) + 0 * i].set(x[i])),
    "given as well": lambda x: lax.scan(lambda o, i: ((u := o.at[i].set(x[i] ** 2)), u), x, jnp.arange(1, N)),
    "multiplied": loop(lambda i, o, x: (o * 0.5).at[i].add(x[i])),
}  # fmt: skip


def flat(f):
    return lambda x: jnp.concatenate([a.reshape(-1) for a in jax.tree.leaves(f(x))])


@pytest.fixture
def carried(monkeypatch):
    """How many carries that hold tangents a loop goes around with, each time."""
    seen, own = [], loops._around

    def around(w, it, *rest):
        n, m = len(it.consts), len(it.start)
        seen.append(sum(flow.around(it.body, list(map(is_tangent, it.inputs)), n, m)[n:][:m]))
        return own(w, it, *rest)

    monkeypatch.setattr(loops, "_around", around)
    return seen


@pytest.mark.parametrize("name", [*APART, *MEET])
def test_nonzeros_are_those_of_jax_and_which_carries_are_left_out(name, carried, new_programs):
    f = flat((APART | MEET)[name])
    J = jacobian(f)(X)
    found, true = J.to_scipy().toarray(), np.asarray(jax.jit(jax.jacfwd(f))(X))
    np.testing.assert_allclose(found, true, rtol=1e-12, atol=1e-14)
    if name in APART:
        assert J.pattern.nnz == np.count_nonzero(true)
    assert carried == [0 if name in APART and name != "beside a state" else 1]


@pytest.mark.parametrize("name", ["set", "add twice", "window", "read before", "read behind", "replaced"])
def test_hessians(name):
    energy = lambda x: jnp.sum(jnp.sin((APART | MEET)[name](x)))  # noqa: E731
    found, true = hessian(energy)(X).to_scipy().toarray(), np.asarray(jax.jit(jax.hessian(energy))(X))
    np.testing.assert_allclose(found, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [5_000, 50_000])
def test_of_any_length(n):
    f = lambda x: lax.fori_loop(1, n, lambda i, o: o.at[i].set(x[i] * x[i - 1]), jnp.zeros(n))  # noqa: E731
    pattern = sparsity_pattern(f, jax.ShapeDtypeStruct((n,), np.float64))
    rows = np.repeat(np.arange(1, n), 2)
    np.testing.assert_array_equal(pattern.rows, rows)
    np.testing.assert_array_equal(pattern.cols, rows - np.tile([1, 0], n - 1))
