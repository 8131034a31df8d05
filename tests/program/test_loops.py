"""Loops whose steps index by their number: patterns compared with the nonzeros of JAX's dense derivatives, and values.

Shapes: N inputs and outputs of most programs, more than the number of steps that are walked one by one.
"""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from sparse_cases import nonzero

from jacobia import hessian, jacobian, sparsity_pattern
from jacobia._program.columns import steps
from jacobia._program.columns.room import NOTHING, TooWide
from jacobia._program.known import Differs, Lazy, Steps, results, sliced, stacked

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]

N = 20
RNG = np.random.default_rng(0)
FULL, BAND = RNG.normal(size=(N, N)), np.triu(np.tril(RNG.normal(size=(N, N)), 1), -1)
ONE, OTHER = RNG.permutation(N), RNG.permutation(N)


def rows(start, stop, row, width=()):
    """A loop that writes `row(i, out)` into row i."""
    return lax.fori_loop(start, stop, lambda i, out: out.at[i].set(row(i, out)), jnp.zeros((stop, *width)))


def substituted(b):
    """The solution of a triangular system, row by row."""
    lower = jnp.asarray(np.tril(FULL)) + 9 * jnp.eye(N)
    return rows(0, N, lambda i, y: (b[i] - lower[i] @ y) / lower[i, i])


def substituted_back(b):
    upper = jnp.asarray(np.triu(FULL)) + 9 * jnp.eye(N)

    def step(k, y):
        i = N - 1 - k
        return y.at[i].set((b[i] - upper[i] @ y) / upper[i, i])

    return lax.fori_loop(0, N, step, jnp.zeros(N))


def substituted_by_a_loop(b):
    """The same, with a loop inside that makes as many steps as the outer one has made."""
    lower = jnp.asarray(FULL)
    inner = lambda i, y: lax.fori_loop(0, i, lambda j, s: s + lower[i, j] * y[j], 0.0)  # noqa: E731
    return rows(0, N, lambda i, y: jnp.sin(b[i]) - 0.1 * inner(i, y))


def two_apart(x):
    """Two samples in a loop that runs longer for one of them."""
    step = lambda s: (s[0] + 1, s[1].at[s[0]].set(s[1][s[0] - 1] * x[s[0]]))  # noqa: E731
    run = lambda stop: lax.while_loop(lambda s: s[0] < stop, step, (1, x))[1]  # noqa: E731
    return jax.vmap(run)(jnp.array([N // 2, N]))


def time_steps(x):
    def step(i, out):
        return out.at[i + 1].set(out[i] + 0.1 * jnp.sin(jnp.roll(out[i], 1)))

    return lax.fori_loop(0, N - 1, step, jnp.zeros((N, 5)).at[0].set(x[:5]))


def forced(f):
    """Time steps of a state that reads another input at each, and of which some are kept."""
    step = lambda u, i: (0.5 * jnp.sin(u) + 0.1 * jnp.roll(u, 1).at[0].add(f[i]), u[:2])  # noqa: E731
    return lax.scan(step, jnp.ones(4), jnp.arange(N))[1]


def leapfrog(z):
    def step(i, state):
        z, path = state
        z = z + 0.1 * jnp.stack([z[1], -jnp.sin(z[0]), z[3], -z[2]])
        return z, path.at[i].set(z[:2])

    return lax.fori_loop(0, N, step, (z[:4], jnp.zeros((N, 2))))[1]


def swept(u):
    return lax.fori_loop(1, N - 1, lambda i, u: u.at[i].set(u[i - 1] * u[i + 1]), u)


def swept_back(x):
    step = lambda c, i: (c.at[i].set(x[i] * c[(i + 1) % N] + x[i]), c[i])  # noqa: E731
    return lax.scan(step, jnp.zeros(N), jnp.arange(N), reverse=True)


def counted_by_while(x):
    step = lambda s: (s[0] + 2, s[1].at[s[0]].set(x[s[0]] * s[1][s[0] - 1] + x[0]))  # noqa: E731
    return lax.while_loop(lambda s: s[0] < 2 * N - 3, step, (1, jnp.ones(2 * N)))[1]


def branches(x):
    one, other = (lambda i, o: o.at[i].set(x[i])), (lambda i, o: o.at[i].set(o[i - 1] * x[0]))
    return lax.fori_loop(0, N, lambda i, o: lax.cond(i % 2 == 0, one, other, i, o), jnp.zeros(N))


def triangle(x):
    """A long loop in a long loop."""
    inner = lambda i: lax.fori_loop(0, N, lambda j, s: s + jnp.where(j <= i, x[j] ** 2, 0.0), 0.0)  # noqa: E731
    return rows(0, N, lambda i, _: inner(i))


def stencil_of(x):
    step = lambda i, o: lax.dynamic_update_slice(o, jnp.prod(lax.dynamic_slice(x, (i - 1,), (3,)))[None], (i,))  # noqa: E731
    return lax.fori_loop(1, N - 1, step, jnp.zeros(N))


# Each program takes (N,). All are exact.
PROGRAMS = {
    "products of neighbours": lambda x: rows(1, N, lambda i, _: x[i] * x[i - 1]),
    "map over numbers": lambda x: lax.map(lambda i: x[i] * x[(i + 1) % N], jnp.arange(N)),
    "map over numbers, backwards": lambda x: lax.scan(lambda _, i: (_, x[i] * x[N - 1 - i]), 0, jnp.arange(N),
                                                      reverse=True)[1],
    "map over index arrays": lambda x: lax.map(lambda ij: x[ij[0]] * jnp.sin(x[ij[1]]), (ONE, OTHER)),
    "map over windows": lambda x: lax.map(lambda i: lax.dynamic_slice(x, (i,), (3,)), jnp.arange(N - 2)),
    "map of rows with their numbers": lambda x: lax.map(lambda ir: jax.nn.softmax(ir[1]) * x[ir[0]],
                                                        (jnp.arange(N), jnp.stack([x, x**2], 1))),
    "every other one": lambda x: rows(0, N - 2, lambda i, _: x[(2 * i + 1) % N] ** 2),
    "prefix sums": lambda x: rows(1, N, lambda i, o: o[i - 1] + x[i]),
    "prefix sums as a scan": lambda x: lax.scan(lambda c, v: (c + v**2, c * v), 1.0, x)[1],
    "prefix products of rows": lambda x: lax.scan(lambda c, r: (c * r[::-1], c), jnp.ones(2), x.reshape(-1, 2) ** 2)[1],
    "substitution": substituted,
    "substitution from behind": substituted_back,
    "substitution in two loops": substituted_by_a_loop,
    "rows of time steps": time_steps,
    "time steps with forces": forced,
    "path of two oscillators": leapfrog,
    "one sweep": swept,
    "one sweep from behind": swept_back,
    "while with a counter": counted_by_while,
    "two samples of a while": two_apart,
    "rows of a known matrix": lambda x: rows(0, N, lambda i, _: jnp.asarray(BAND)[i] @ x**2),
    "a mask": lambda x: lax.fori_loop(0, N, lambda i, o: jnp.where(jnp.arange(N) == i, x * x[i], o), jnp.zeros(N)),
    "one-hot": lambda x: lax.fori_loop(0, N, lambda i, o: o + jax.nn.one_hot(i, N) * x[i] ** 2, jnp.zeros(N)),
    "branches": branches,
    "a loop in a loop": triangle,
    "a stencil at a time": stencil_of,
    "samples": lambda x: jax.vmap(lambda x: rows(1, N, lambda i, _: x[i] * x[i - 1]))(jnp.stack([x, x**2])),
    "what is not read": lambda x: rows(0, N, lambda i, _: x[i] * (i % 3 > 0)),
    "nothing at all": lambda x: rows(0, N, lambda i, _: x[i] * (i < 0)),
}  # fmt: skip


def flat(f):
    return lambda x: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(f(x))])


@pytest.mark.parametrize("name", PROGRAMS)
def test_entries_are_the_true_ones_and_have_their_values(name):
    f = flat(PROGRAMS[name])
    points = RNG.uniform(0.3, 1, (4, N))
    expected = np.asarray(jax.jit(lambda points: lax.map(jax.jacfwd(f), points))(points))
    J = jacobian(f)(points[0])
    np.testing.assert_array_equal(np.asarray(J.pattern.todense()).astype(bool), nonzero(expected))
    np.testing.assert_allclose(J.to_scipy().toarray(), expected[0], rtol=1e-12, atol=1e-14)


HESSIANS = {
    "sum of terms": lambda x: lax.fori_loop(0, N - 1, lambda i, s: s + (x[i + 1] - x[i] ** 2) ** 2, 0.0),
    "map over terms": lambda x: jnp.sum(lax.map(lambda i: (x[i + 1] - x[i] ** 2) ** 2, jnp.arange(N - 1))),
    "squares of rows": lambda x: jnp.sum(rows(1, N, lambda i, _: x[i] * x[i - 1]) ** 2),
}  # fmt: skip


@pytest.mark.parametrize("name", HESSIANS)
def test_hessians_know_the_numbers_of_steps_on_the_way_back(name):
    f, x = HESSIANS[name], RNG.uniform(0.3, 1, N)
    H, full = hessian(f)(x), np.asarray(jax.jit(jax.hessian(f))(x))
    np.testing.assert_array_equal(np.asarray(H.pattern.todense()).astype(bool), full != 0)
    np.testing.assert_allclose(H.to_scipy().toarray(), full, rtol=1e-12)


# Long loops


def products(n):
    return lambda x: lax.fori_loop(1, n, lambda i, o: o.at[i].set(x[i] * x[i - 1]), jnp.zeros(n))


def test_a_thousand_steps():
    J = jacobian(products(1000))(jnp.arange(1000.0))
    assert J.pattern.nnz == 2 * 999
    assert np.array_equal(J.to_scipy() @ np.ones(1000), np.maximum(0, 2 * np.arange(1000) - 1))
    assert jacobian(lambda x: lax.scan(lambda c, v: (c + v, c + v), 0.0, x)[1])(jnp.ones(1000)).pattern.nnz == 500_500


def test_steps_without_a_carry_may_be_many():
    n = 30_000
    f = lambda x: lax.map(lambda i: x[i] * x[(i + 1) % n], jnp.arange(n))  # noqa: E731
    assert sparsity_pattern(f, jax.ShapeDtypeStruct((n,), np.float32)).nnz == 2 * n


def equations(jaxpr):
    inner = [p for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "jaxpr")]
    return len(jaxpr.eqns) + sum(equations(p.jaxpr) for p in inner)


def test_the_program_of_the_values_is_as_long_for_any_number_of_steps():
    def length(n):
        return equations(jax.make_jaxpr(lambda x: jacobian(products(n))(x).nonzeros()[0])(jnp.ones(n)).jaxpr)

    assert length(40) == length(80)


_numbers = itertools.count(1)


def fresh(f):
    """x times a number that no other test uses, so that walks of other tests are not reused."""
    factor = 1 + next(_numbers) / 1024
    made = lambda x: factor * f(x)  # noqa: E731
    made.factor = factor
    return made


@pytest.fixture
def walks(monkeypatch):
    """How many steps are walked at once, each time."""
    seen, own = [], steps._walked_at_once

    def walked(*args):
        for some, outs in own(*args) or ():
            seen.append(len(some))
            yield some, outs

    monkeypatch.setattr(steps, "_walked_at_once", walked)
    return seen


# Programs with a counter whose pattern does not depend on the step.
STEADY = {
    "a factor": lambda x: lax.fori_loop(0, N, lambda i, u: u + jnp.roll(u, 1) / (i + 1.0), x),
    "a wave": lambda x: lax.fori_loop(0, N, lambda i, u: u + jnp.sin(u) * jnp.sin(jnp.arange(N) - 0.3 * i), x),
    "rows of data": lambda x: lax.scan(lambda h, row: (jnp.tanh(h + row * x), h[0]), x, jnp.asarray(FULL))[1],
    "moments": lambda x: lax.fori_loop(0, N, lambda i, s: (s[0] - s[1] / (1 - 0.9 ** (i + 1.0)), 0.9 * s[1] + s[0] * x),
                                       (x, x))[0],
    "a number that stays": lambda x: lax.fori_loop(0, N, lambda i, u: u.at[2 * (i < 99)].mul(x[i * 0]), x),
}  # fmt: skip


@pytest.mark.parametrize("name", STEADY)
def test_steps_are_walked_apart_only_where_they_read_other_elements(name, walks, empty_cache):
    f, x = fresh(flat(STEADY[name])), RNG.uniform(0.3, 1, N)
    np.testing.assert_allclose(
        jacobian(f)(x).to_scipy().toarray(), np.asarray(jax.jit(jax.jacfwd(f))(x)), rtol=1e-10, atol=1e-12
    )
    assert not walks
    assert sparsity_pattern(fresh(products(N)), jax.ShapeDtypeStruct((N,), np.float64)).nnz and walks == [N - 1]


SOME = ["products of neighbours", "one sweep from behind", "map over index arrays", "substitution in two loops"]


POINT = RNG.uniform(0.3, 1, N)


@cache
def known(name):
    """JAX's dense derivative of one of these programs, without a factor."""
    return np.asarray(jax.jit(jax.jacfwd(flat(PROGRAMS[name])))(POINT))


@pytest.mark.parametrize("name", SOME)
def test_some_steps_at_a_time(name, walks, monkeypatch, empty_cache):
    monkeypatch.setattr(steps, "_AT_ONCE", 10)
    found = np.asarray(sparsity_pattern(fresh(flat(PROGRAMS[name])), POINT).todense()).astype(bool)
    np.testing.assert_array_equal(found, known(name) != 0)
    assert min(walks) <= N // 2


@pytest.mark.parametrize("refusals", [1, 2])
def test_where_there_is_no_room_for_all_steps_at_once(refusals, monkeypatch, walks, empty_cache):
    own, left = steps._walked_at_once, [TooWide(NOTHING)] * refusals

    def walked(*args):
        if left:
            raise left.pop()
        return own(*args)

    monkeypatch.setattr(steps, "_walked_at_once", walked)
    assert sparsity_pattern(fresh(products(N)), jnp.ones(N)).nnz == (2 * (N - 1) if refusals == 1 else N * N)
    assert walks == ([N - 1] if refusals == 1 else [])


@pytest.mark.parametrize("limit", ["_IN_ALL", "_STEPS", "_HELD", "_READ"])
@pytest.mark.parametrize("name", SOME)
def test_loops_that_are_too_large_have_more_entries(name, limit, monkeypatch, empty_cache):
    monkeypatch.setattr(steps, limit, 0)
    f = fresh(flat(PROGRAMS[name]))
    J, full = jacobian(f)(POINT), f.factor * known(name)
    assert not ((full != 0) & ~np.asarray(J.pattern.todense()).astype(bool)).any()
    np.testing.assert_allclose(J.to_scipy().toarray(), full, rtol=1e-12, atol=1e-14)


reverse_p = Primitive("another_reverse_without_batching")
reverse_p.def_impl(lambda x: np.array(x)[::-1])  # Python runs it: nobody sees what it does
reverse_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(reverse_p, mlir.lower_fun(lambda x: x[::-1], multiple_results=False))
ad.deflinear2(reverse_p, lambda t, _: [reverse_p.bind(t)])


@pytest.mark.filterwarnings("ignore:another_reverse")
def test_an_operation_without_a_batching_rule():
    f = lambda x: lax.fori_loop(0, N, lambda i, o: o.at[i].set(jnp.sum(reverse_p.bind(x[:3])) * x[i]), jnp.zeros(N))  # noqa: E731
    x = RNG.uniform(0.3, 1, N)
    J = jacobian(f)(x)
    eye = np.eye(N)
    expected = eye * float(x[:3].sum()) + np.outer(x, eye[:3].sum(0))
    np.testing.assert_allclose(J.to_scipy().toarray(), expected, rtol=1e-12)


def test_the_values_of_a_loop_that_prints():
    def f(x):
        def step(i, o):
            jax.debug.print("")
            return o.at[i].set(x[i] * o[i - 1])

        return lax.fori_loop(1, N, step, x)

    x = RNG.uniform(0.3, 1, N)
    np.testing.assert_allclose(jacobian(f)(x).to_scipy().toarray(), np.asarray(jax.jit(jax.jacfwd(f))(x)), rtol=1e-12)


@pytest.mark.parametrize("local", [False, True])
def test_a_number_that_is_an_argument_is_known_at_a_point_alone(local):
    f = lambda x, k: lax.fori_loop(k, k + N - 1, lambda i, o: o.at[i % N].set(x[i % N]), jnp.zeros(N))  # noqa: E731
    found = sparsity_pattern(f, jnp.ones(N), 3, local=local)
    assert found.nnz == (N - 1 if local else N * N)


def test_a_loop_without_an_end_that_is_looked_for_has_a_pattern():
    f = lambda x: lax.while_loop(lambda s: s[0] < 10**6, lambda s: (s[0] + 1, jnp.roll(s[1], 1)), (0, x))[1]  # noqa: E731
    assert sparsity_pattern(f, jnp.ones(3)).nnz == 9


# Known values of every step


def table(values):
    return Steps(len(values), lambda x: [x], [Lazy(np.asarray(values))])


def test_a_value_of_all_steps_is_told_where_they_agree():
    assert table([[3, 0], [3, 0]]).always().tolist() == [3, 0]
    with pytest.raises(Differs):
        table([[3, 0], [4, 0]]).always()
    assert table([[3, 0], [4, 0]]).always(lambda v: v != 0).tolist() == [True, False]


def test_what_is_made_of_values_of_all_steps():
    counter, four = table(np.arange(3, dtype=np.int32)), Lazy(np.int32(4))
    assert sliced(table(np.eye(3)), 1).value().tolist() == [0, 1, 0]
    assert stacked([counter, four]).value().tolist() == [[0, 4], [1, 4], [2, 4]]
    (add,), (sine,) = jax.make_jaxpr(lambda i: i + i)(np.int32(0)).eqns, jax.make_jaxpr(jnp.sin)(0.0).eqns
    (found,) = results(add, [counter, four])
    assert isinstance(found, Steps) and found.value().tolist() == [4, 5, 6]
    assert results(sine, [counter]) == [None]  # arithmetic makes few zeros
