"""The waist (narrowest cut) of a linear program, and the two programs on its sides, compared with `jax.jacfwd`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from jacobia._call.arguments import take_apart
from jacobia._call.linearize import Point, pushed_program
from jacobia._call.trace import trace
from jacobia._compat import Literal
from jacobia._program.readings import waist as module
from jacobia._program.readings.waist import waist
from jacobia._program.walk import subprograms
from jacobia._space import Space

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(11)
X = RNG.normal(size=20)
Z = X + 1j * RNG.normal(size=20)
# weights[m, n] is an (m, n) matrix.
WEIGHTS = {s: RNG.normal(size=s) / np.sqrt(s[1]) for s in itertools.product((2, 3, 4, 8, 10, 20), repeat=2)}


def dense(*sizes):
    """A network through layers of these sizes."""

    def f(x):
        for n, m in itertools.pairwise(sizes):
            x = jnp.tanh(WEIGHTS[m, n] @ x)
        return x

    return f


@pytest.fixture(autouse=True)
def double(x64):
    yield


def pushed(f, *args):
    """The linear program of a function, and what it takes beside tangents."""
    leaves, tree = jax.tree.flatten(args)

    def push(xs, ts):
        flat = lambda xs: jax.tree.leaves(f(*jax.tree.unflatten(tree, xs)))  # noqa: E731
        return jax.jvp(flat, (xs,), (ts,))[1]

    closed = jax.make_jaxpr(push)(leaves, leaves)
    return closed.jaxpr, [*closed.consts, *leaves], len(leaves)


def space_of(avals):
    return Space(tuple(a.shape for a in avals), tuple(a.dtype for a in avals), ("",) * len(avals))


def flat_blocks(leaves, count):
    return jnp.concatenate([leaf.reshape(count, -1) for leaf in leaves], axis=1)


def factors(found, jaxpr, inputs, num_tangents):
    """A (M, k) by columns, B (k, N) by rows."""
    ins = [v.aval for v in jaxpr.invars[len(jaxpr.invars) - num_tangents :]]
    basis, k = Space(found.shapes, found.dtypes, ("",) * len(found.shapes)).basis, found.size

    @jax.jit
    def both(inputs):
        seeds = jax.vmap(basis)(np.arange(k))
        head, tail = found.split(inputs)
        back = jax.linear_transpose(head, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in ins])
        return flat_blocks(jax.vmap(tail)(seeds), k).T, flat_blocks(jax.vmap(lambda u: back(u)[0])(seeds), k)

    return map(np.asarray, both(inputs))


def reference(f, *args):
    @jax.jit
    def of(args):
        flat, unflat = ravel_pytree(args)
        return jax.jacfwd(lambda v: ravel_pytree(f(*unflat(v)))[0], holomorphic=jnp.iscomplexobj(flat))(flat)

    return np.asarray(of(args))


def check(f, *args, size):
    """The waist has this size, None for no waist, and the product of its two Jacobians is the Jacobian."""
    jaxpr, inputs, num = pushed(f, *args)
    found = waist(jaxpr, num)
    if size is None:
        assert found is None
        return None
    assert found is not None and found.size == size
    assert sum(int(np.prod(s)) for s in found.shapes) == size and all(0 not in s for s in found.shapes)
    A, B = factors(found, jaxpr, inputs, num)
    expected = reference(f, *args)
    assert A.shape == (expected.shape[0], size) and B.shape == (size, expected.shape[1])
    np.testing.assert_allclose(A @ B, expected, rtol=1e-10, atol=1e-12)
    return found


AUTOENCODER = dense(20, 8, 3, 8, 20)


@jax.jit
def nested(x):
    return jax.jit(dense(8, 20))(jax.jit(lambda v: jax.jit(dense(3, 8))(dense(8, 3)(v)))(dense(20, 8)(x)))


def branched(x):
    x = dense(20, 8)(x)
    return dense(3, 20)(lax.cond(x[0] > 0, dense(8, 3), lambda v: v[:3] * 2, x))


def looped(x):
    x, ys = lax.scan(lambda c, w: (jnp.tanh(WEIGHTS[20, 20] @ c) * w, c[0]), x, jnp.arange(1.0, 6.0))
    return dense(3, 20)(dense(20, 3)(jnp.sin(x)) + ys[:3]), ys


def looped_after(x):
    return lax.scan(lambda c, _: (jnp.sin(c) * c[0], None), dense(3, 20)(dense(20, 3)(x)), None, length=4)[0]


def carried_aside(x):
    # The head is linear at a value that a loop of the tail computes.
    y, _ = lax.scan(lambda c, _: (jnp.sin(c), None), dense(3, 20)(z := dense(20, 3)(x)), None, length=4)
    return {"y": y, "z": dense(3, 10)(z * lax.stop_gradient(y[:3]))}


def looped_apart(x):
    # One result of a loop is in the cut, another result of the same loop is behind it.
    def step(c, _):
        u, v, s = c
        return (jnp.sin(u), jnp.cos(v), jnp.sin(s) + v[:2]), None

    u, _, s = lax.scan(step, (dense(3, 2)(x[0]), x[1], jnp.zeros(2)), None, length=3)[0]
    return u[0] * jnp.arange(10.0) + u[1], dense(2, 10)(s)


def forward_in_loop(x):
    return dense(3, 20)(dense(20, 3)(lax.scan(lambda c, _: (forward(2)(c), None), x, None, length=2)[0]))


def forward(n):
    return lambda x: lax.while_loop(lambda c: c[1] < n, lambda c: (jnp.sin(c[0]), c[1] + 1), (x, 0))[0]


def solved(x):
    y = jnp.linalg.solve(WEIGHTS[20, 20] + 5 * jnp.eye(20) + jnp.outer(x, x), x)
    y, _ = jax.scipy.sparse.linalg.cg(lambda v: v * (2 + jnp.cos(x)), y, tol=1e-14)
    return dense(2, 20)(dense(20, 2)(y))


def parts(x):
    z = (WEIGHTS[2, 20] + 1j * WEIGHTS[2, 20][::-1]) @ x
    return jnp.tanh(WEIGHTS[20, 2] @ jnp.real(z)) * (WEIGHTS[20, 2] @ jnp.imag(z))


def tree(t):
    s = dense(4, 2)(t["x"]) * t["y"]
    return {"a": dense(2, 8)(s), "b": [dense(2, 4)(s), s[0]]}


# A function, its arguments, the size of its waist
NARROW = {
    "autoencoder": (AUTOENCODER, X, 3),
    "under jit": (nested, X, 3),
    "one jit twice": (lambda x: dense(3, 20)((again := jax.jit(dense(3, 3)))(again(dense(20, 3)(x)))), X, 3),
    "linear": (lambda x: WEIGHTS[20, 3] @ (WEIGHTS[3, 20] @ x), X, 3),
    "rows and columns": (lambda x: WEIGHTS[20, 3] @ (WEIGHTS[3, 4] @ x.reshape(4, 5)), X, 15),
    "relu": (lambda x: WEIGHTS[20, 4] @ jax.nn.relu(WEIGHTS[4, 20] @ x), X, 4),
    "checkpoint": (lambda x: dense(3, 20)(jax.checkpoint(dense(20, 8, 3))(x)), X, 3),
    "skip": (lambda x: x + AUTOENCODER(x), X, None),
    "narrow skip": (lambda x: AUTOENCODER(x) + WEIGHTS[20, 2] @ (WEIGHTS[2, 20] @ x), X, 5),
    "two chains": (lambda x: jnp.concatenate([dense(10, 3, 10)(x[:10]), dense(10, 2, 10)(x[10:])]), X, 5),
    "part of the input": (lambda x: (dense(8, 2, 8)(x[0]), x[1]), (X[:8], X[8:11]), 5),
    "one from the other": (lambda x: (x[0], dense(2, 20)(x[0] * 2 + dense(8, 2)(x[1]))), (X[:2], X[2:10]), 4),
    "tree": (tree, {"x": X[:4], "y": X[5]}, 2),
    "output that is an input": (lambda x: {"x": x, "y": AUTOENCODER(x)}, X, None),
    "one output twice": (lambda x: [y := dense(20, 3)(x), y, dense(3, 3)(y)], X, 3),
    "part of the output": (lambda x: (dense(20, 3)(x), dense(20, 4, 10)(x)), X, 7),
    "mean subtracted": (lambda x: x - x.mean(), X, None),
    "mean alone": (lambda x: x.mean() * jnp.ones((4, 5)), X, 1),
    "sum": (lambda x: jnp.sum(AUTOENCODER(x)), X, None),
    "sum and more": (lambda x: (s := jnp.sum(x), s * jnp.arange(3.0)), X, 1),
    "constants beside": (lambda x: (jnp.ones(3), dense(20, 3, 8)(x), lax.stop_gradient(x), np.float64(1)), X, 3),
    "constants alone": (lambda x: (jnp.ones(3), lax.stop_gradient(x)), X, None),
    "inputs without use": (lambda x: dense(3, 20)(x[0]), (X[:3], X), 3),
    "nothing": (lambda x: x * 2, X[:0], None),
    "nothing in the middle": (lambda x: jnp.sum(x[:0]) * jnp.ones(4), X, None),
    "nothing beside": (lambda x: AUTOENCODER(x[0]) + jnp.sum(x[0][:0]) + jnp.sum(x[1]), (X, X[:0]), 3),
    "one number": (lambda x: x * jnp.ones(4), X[0], None),
    "branches": (branched, X, 3),
    "loop": (looped, X, 8),
    "loop before": (lambda x: dense(3, 20)(dense(20, 3)(lax.fori_loop(0, 4, lambda _, v: jnp.sin(v) * v[1], x))), X, 3),
    "loop after": (looped_after, X, 3),
    "loop in the middle": (lambda x: dense(2, 20)(lax.fori_loop(0, 4, lambda _, v: jnp.sin(v), dense(20, 2)(x))), X, 2),
    "loop on both sides": (looped_apart, (X[:3], X), 4),
    "carried aside": (carried_aside, X, 3),
    "pushed only, after": (lambda x: forward(4)(dense(3, 20)(dense(20, 3)(x))), X, 3),
    "pushed only, before": (lambda x: dense(3, 20)(dense(20, 3)(forward(4)(x))), X, None),
    "pushed only, in a loop": (forward_in_loop, X, None),
    "pushed only, between": (lambda x: dense(2, 20)(dense(3, 2)(forward(4)(dense(20, 3)(x)))), X, 3),
    "solved": (solved, X, 2),
    "scattered": (lambda x: jnp.zeros(20).at[np.array([1, 1, 7])].add(dense(20, 3)(x)).at[2].mul(3.0), X, 3),
    "complex": (AUTOENCODER, Z, 3),
    "complex inside": (lambda x: dense(2, 20)(dense(10, 2)(jnp.abs(jnp.fft.rfft(x))[1:])), X, 2),
    "complex, twice as wide": (parts, X, 4),
    "complex waist": (lambda x: jnp.real(Z * (Z @ x)), X, None),
    "complex output": (lambda x: Z * (X @ x), X, None),
    "holomorphic by conjugation": (lambda z: Z * jnp.conj(Z @ jnp.conj(z)), Z, None),
    "integer output": (lambda x: (dense(3, 8)(dense(20, 3)(x)), jnp.arange(4)), X, None),
}  # fmt: skip


@pytest.mark.parametrize("case", NARROW)
def test_size_and_product(case):
    check(*NARROW[case][:2], size=NARROW[case][2])


def test_a_pullback_alone_has_no_waist():
    double = jax.custom_vjp(lambda x: 2 * x)
    double.defvjp(lambda x: (2 * x, None), lambda _, u: (2 * u,))
    check(lambda x: AUTOENCODER(double(x)), X, size=None)
    check(lambda x: lax.scan(lambda c, _: (double(c), None), AUTOENCODER(x), None, length=2)[0], X, size=None)


def test_effects_are_kept():
    check(lambda x: (jax.debug.print("{}", x[0]), AUTOENCODER(x))[1], X, size=None)


def test_programs_of_other_operations_are_not_looked_into():
    one = jax.sharding.PartitionSpec()
    spread = jax.shard_map(jnp.sin, mesh=jax.make_mesh((1,), ("i",)), in_specs=one, out_specs=one)
    check(lambda x: AUTOENCODER(spread(x)), X, size=None)


def test_references():
    def f(x):
        ref = jax.new_ref(AUTOENCODER(x))
        ref[:2] = ref[2:4] * x[0]
        return dense(20, 2, 20)(ref[...])

    check(f, X, size=None)
    check(jax.jit(f), X, size=None)
    check(lambda x: lax.scan(lambda c, _: (f(c), None), AUTOENCODER(x), None, length=2)[0], X, size=None)


def test_dtypes():
    def f(x):
        return WEIGHTS[20, 3] @ jnp.tanh((WEIGHTS[3, 20] @ x).astype(jnp.float32)).astype(jnp.float64)

    jaxpr, inputs, num = pushed(f, X)
    found = waist(jaxpr, num)
    assert found is not None and found.size == 3
    A, B = factors(found, jaxpr, inputs, num)
    np.testing.assert_allclose(A @ B, reference(f, X), rtol=1e-4, atol=1e-6)


def names(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in subprograms(eqn):
            yield from names(getattr(inner, "jaxpr", inner))


def test_what_it_is_linear_at_is_evaluated_once():
    jaxpr, inputs, num = pushed(AUTOENCODER, X)
    found = waist(jaxpr, num)
    assert found is not None

    def both(inputs, t, z):
        head, tail = found.split(inputs)
        return head([t]), tail([z])

    once = list(names(jax.make_jaxpr(lambda inputs: found.split(inputs)[0]([X]))(inputs).jaxpr))
    twice = list(names(jax.make_jaxpr(both)(inputs, X, X[:3]).jaxpr))
    assert once.count("tanh") == twice.count("tanh") == 4
    # Four products for the value and four for tangents. JAX writes the latter even if the tangents are zero.
    assert once.count("dot_general") == 12 and twice.count("dot_general") == 16


def test_functions_of_tangents_outside_jit():
    jaxpr, inputs, num = pushed(AUTOENCODER, X)
    found = waist(jaxpr, num)
    assert found is not None
    head, tail = found.split(inputs)
    t = jnp.asarray(X[::-1])
    np.testing.assert_allclose(tail(head([t]))[0], jax.jvp(AUTOENCODER, (X,), (t,))[1], rtol=1e-10)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "python"])
def test_program_of_a_point(jit):
    table = jnp.asarray(WEIGHTS[20, 20])
    call = take_apart("jacobian", (X,), {}, (), ())
    known = trace("jacobian", lambda x: AUTOENCODER(jnp.sin(table) @ x), call, (0,), False, jit)
    linear = pushed_program(Point(known.program, (0,), known.consts, call.leaves))
    found = waist(linear.jaxpr, linear.num_tangents)
    assert found is not None and found.size == 3
    inputs = [*linear.consts, *([*known.consts, *call.leaves] if linear.known else [])]
    A, B = factors(found, linear.jaxpr, inputs, 1)
    np.testing.assert_allclose(A @ B, reference(lambda x: AUTOENCODER(jnp.sin(table) @ x), X), rtol=1e-10)


def test_constants_are_the_first_inputs():
    jaxpr, inputs, num = pushed(AUTOENCODER, X)
    assert jaxpr.constvars
    opened = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
    found = waist(opened, num)
    assert found is not None and found.size == 3
    A, B = factors(found, opened, inputs, num)
    np.testing.assert_allclose(A @ B, reference(AUTOENCODER, X), rtol=1e-10)


@pytest.mark.parametrize("n, size", [(2**31 - 2, 2), (2**31, None)])
def test_sizes_near_the_limit_of_integers(n, size):
    def f(x):  # one value is both operands, and two outputs: infinite capacities must not be added
        y = jnp.broadcast_to(x[:4].sum(), (n,)) * x[4]
        return [z := y + y, z]

    x = jax.ShapeDtypeStruct((n,), np.float32)
    found = waist(jax.make_jaxpr(lambda x, t: jax.jvp(f, (x,), (t,))[1])(x, x).jaxpr, 1)
    assert (None if found is None else found.size) == size


def test_long_programs_are_left_alone(monkeypatch):
    jaxpr, _, num = pushed(AUTOENCODER, X)
    tangents = len(tangent_graph(jaxpr, num)) - num
    monkeypatch.setattr(module, "MAX_TANGENTS", tangents)
    assert waist(jaxpr, num) is not None
    monkeypatch.setattr(module, "MAX_TANGENTS", tangents - 1)
    assert waist(jaxpr, num) is None


# The narrowest of all cuts, by trying all of them


def tangent_graph(jaxpr, num_tangents):
    """Per tangent of a program without inner ones, those that it is made of."""
    graph = {v: [] for v in jaxpr.invars[len(jaxpr.invars) - num_tangents :]}
    for eqn in jaxpr.eqns:
        made_of = [a for a in eqn.invars if not isinstance(a, Literal) and a in graph]
        if made_of:
            graph.update((v, made_of) for v in eqn.outvars)
    return graph


def is_cut(graph, chosen, outs):
    reached = set()  # reached from an input without passing a chosen value
    for v, made_of in graph.items():
        if v not in chosen and (not made_of or any(u in reached for u in made_of)):
            reached.add(v)
    return not reached & set(outs)


def narrowest(graph, outs):
    sizes = {v: v.aval.size for v in graph}
    subsets = (s for n in range(len(graph) + 1) for s in itertools.combinations(graph, n))
    return min(sum(sizes[v] for v in s) for s in subsets if is_cut(graph, s, outs))


def some_program(seed):
    """A few layers, each of some of the values before it."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=rng.integers(2, 9)) for _ in range(rng.integers(1, 3))]
    layers = []
    sizes = [x.size for x in inputs]
    while 2 * len(sizes) - len(inputs) < rng.integers(5, 9):
        m, read = int(rng.integers(1, 9)), rng.choice(len(sizes), min(len(sizes), rng.integers(1, 4)), replace=False)
        layers.append((rng.normal(size=(m, sum(sizes[k] for k in read))), read))
        sizes.append(m)
    outs = {len(sizes) - 1, *rng.choice(len(sizes), rng.integers(1, 3)).tolist()}

    def f(*xs):
        values = list(xs)
        for w, read in layers:
            values.append(w @ jnp.concatenate([values[k] for k in read]))
        return [values[k] for k in sorted(outs)]

    return f, inputs


def test_no_cut_is_narrower():
    found_any = 0
    for seed in range(150):
        f, args = some_program(seed)
        jaxpr, inputs, num = pushed(f, *args)
        graph = tangent_graph(jaxpr, num)
        outs = [v for v in jaxpr.outvars if not isinstance(v, Literal)]
        size = narrowest(graph, outs)
        useful = size < min(sum(x.size for x in args), sum(v.aval.size for v in outs))
        found = waist(jaxpr, num)
        assert (None if found is None else found.size) == (size if useful else None), seed
        if found is not None:
            found_any += 1
            if found_any % 8 == 0:
                A, B = factors(found, jaxpr, inputs, num)
                np.testing.assert_allclose(A @ B, reference(f, *args), rtol=1e-10, atol=1e-12)
    assert found_any >= 20
