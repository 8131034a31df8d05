"""Whether the derivative of a function keeps the samples of a batch apart, read off its program.

The reference pushes tangents of single samples through the function at two points.
"""

import math
import operator
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_cases import (
    FORWARD_ONLY,
    INDEPENDENT,
    MIXING,
    MIXING_FORWARD,
    PERMUTATION,
    QUICK,
    B,
    Case,
    N,
    V,
    W,
    mlp,
    points,
)  # fmt: skip
from jax import lax

from jacobia._program.readings import independence
from jacobia._program.readings.independence import Known, mixing

pytestmark = pytest.mark.slow


def seeds(shape, axis):
    """For each sample a random array that is zero at all others."""
    size = shape[axis]
    values = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    own = np.moveaxis(np.zeros((size, *shape), np.float32), axis + 1 if axis >= 0 else axis, 1)
    own[np.arange(size), np.arange(size)] = 1
    return values * np.moveaxis(own, 1, axis + 1 if axis >= 0 else axis)


def crosses(answers, axis):
    """Whether the answer to a seed of one sample is nonzero at another sample: (points, seeds, ...)."""
    answers = np.moveaxis(answers, axis + 2 if axis >= 0 else axis, 2)
    size = answers.shape[2]
    return bool(np.any(np.abs(answers[:, ~np.eye(size, dtype=bool)]) > 1e-5))


def mixes_in_truth(case):
    f, shape, axis = case
    size = shape[axis]
    x, tangents = np.repeat(points(shape), size, 0), np.concatenate([seeds(shape, axis)] * 2)
    run = jax.jit(lambda x, t: jax.jvp(f, (x,), (t,))[1], compiler_options=QUICK)
    each = [jax.tree.leaves(run(*pair)) for pair in zip(x, tangents, strict=True)]
    answers = [np.stack([np.asarray(a) for a in output]) for output in zip(*each, strict=True)]
    return any(crosses(a.reshape(2, size, *a.shape[1:]), axis) for a in answers)


def judge(program, x, seed, axis, size, **options):
    """Read a linear program `program(x, seed)`, of which `seed` has samples."""
    closed = jax.make_jaxpr(program)(x, seed)
    known = [options.get("known")] * len(jax.tree.leaves(x))
    inputs = known + [axis] * len(jax.tree.leaves(seed))
    return mixing(closed.jaxpr, closed.consts, inputs, [axis] * len(closed.jaxpr.outvars), size)


def abstract(tree):
    return jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), tree)


def pushed(case):
    f, shape, axis = case
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return judge(lambda x, t: jax.linearize(f, x)[1](t), x, x, axis, shape[axis])


def pulled(case):
    f, shape, axis = case
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y = jax.eval_shape(f, x)
    return judge(lambda x, u: jax.vjp(f, x)[1](u), x, abstract(y), axis, shape[axis])


def gradient(case):
    """The Hessian's program: a sum over samples has a gradient that keeps them apart if f does."""
    return case._replace(f=jax.grad(lambda x: sum(jnp.sum(jnp.sin(y) * y) for y in jax.tree.leaves(case.f(x)))))


HESSIANS = [
    "right-hand sides", "matrix of a sample", "triangle, from the left", "handed over", "sparse from the left",
    "sparse of a sample",
    "mlp", "layer norm", "softmax", "attention", "convolution", "max pooling", "sort", "norm", "solve", "take along",
    "add at", "rnn", "rnn inside", "map", "remat", "halves", "siamese", "permuted and back", "samples in pairs",
    "labels", "index in a loop", "columns, transposed", "branch by all", "convolve per sample", "dynamic update",
]  # fmt: skip
MIXING_HESSIANS = [
    "rows of a solve", "matrices for all", "rows, from the left", "rows, handed over", "rows of a sparse product",
    "sparse of one sample",
    "mean", "softmax over samples", "norm of all", "gram", "scan over samples", "added at", "pairs", "long loop",
    "map over features", "square", "window over samples", "attention among samples",
]  # fmt: skip


def under(cases, names=None):
    return [pytest.param(cases[name], id=name.replace(" ", "-")) for name in names or cases]


@pytest.mark.parametrize("case", under(INDEPENDENT | FORWARD_ONLY))
def test_samples_kept_apart_are_seen(case):
    assert pushed(case) is None
    assert not mixes_in_truth(case)


@pytest.mark.parametrize("case", under(MIXING | MIXING_FORWARD))
def test_samples_that_mix_are_seen(case):
    assert pushed(case) is not None
    assert mixes_in_truth(case)


@pytest.mark.parametrize("case", under(INDEPENDENT))
def test_pullbacks_kept_apart_are_seen(case):
    assert pulled(case) is None


@pytest.mark.parametrize("case", under(MIXING))
def test_pullbacks_that_mix_are_seen(case):
    assert pulled(case) is not None


@pytest.mark.parametrize("case", under(INDEPENDENT, HESSIANS))
def test_hessians_kept_apart_are_seen(case):
    assert pushed(gradient(case)) is None


@pytest.mark.parametrize("case", under(MIXING, MIXING_HESSIANS))
def test_hessians_that_mix_are_seen(case):
    assert pushed(gradient(case)) is not None
    assert mixes_in_truth(gradient(case))


# Operations of programs that are not linear: what depends on what by value

DIRECT = {
    "top k": lambda x: lax.top_k(x, 2)[1],
    "argmax": lambda x: jnp.argmax(x, axis=1),
    "argsort": lambda x: jnp.argsort(x, axis=1),
    "reduce": lambda x: lax.reduce(x, np.float32(1), lambda a, b: a * b + 0 * a, (1,)),
    "any": lambda x: jnp.any(x > 1, axis=1),
    "bits": lambda x: lax.bitcast_convert_type(x, jnp.uint8),
    "wide bits": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint8), jnp.float32),
    "keys": lambda x: jax.vmap(lambda k: jax.random.normal(jax.random.key(k), (2,)))((9 * x[:, 0]).astype(int)),
    "clamp": lambda x: lax.clamp(0.3, x, 1.0),
    "index of a sample": lambda x: jax.vmap(lambda v: v[(v[0] * 3).astype(int)])(x),
    "start of a sample": lambda x: jax.vmap(lambda v: lax.dynamic_slice(v, ((v[0] * 3).astype(int),), (2,)))(x),
    "update of a sample": lambda x: jax.vmap(lambda v: v.at[(v[0] * 3).astype(int)].set(0))(x),
    "rows of a table": lambda x: jnp.asarray(W)[(x * 3).astype(int)],
    "determinant": lambda x: jnp.linalg.det(x[:, :3, None] * x[:, None, :3] + jnp.eye(3)),
    "singular values": lambda x: jnp.linalg.svd(x[:, :3, None] * x[:, None, 3:], compute_uv=False),
    "counted loop": lambda x: lax.fori_loop(0, 3, lambda i, s: s + x[:, i], jnp.zeros(B)),
}  # fmt: skip
DIRECT_MIXING = {
    "top k": lambda x: lax.top_k(x.T, B)[0].T,
    "top k places": lambda x: lax.top_k(x.T, B)[1].T,
    "argmax": lambda x: x + jnp.argmax(x, axis=0),
    "argsort": lambda x: jnp.argsort(x, axis=0),
    "reduce": lambda x: x * lax.reduce(x, np.float32(1), lambda a, b: a * b + 0 * a, (0,)),
    "any": lambda x: x * jnp.any(x > 1.45, axis=0),
    "sorted beside": lambda x: lax.sort((x, jnp.broadcast_to(np.arange(B)[:, None], (B, N))), dimension=0)[1],
    "index of the batch": lambda x: x[:, (x.sum() * 3).astype(int) % N, None],
    "place of the batch": lambda x: x.at[:, (x.sum() * 3).astype(int) % N].set(0),
    "start in the batch": lambda x: lax.dynamic_slice(x, (0, (x[0, 0] * 3).astype(int)), (B, 2)),
    "update in the batch": lambda x: lax.dynamic_update_slice(x, np.zeros((B, 2), np.float32),
                                                              (0, (x[0, 0] * 3).astype(int))),
    "branch of the batch": lambda x: lax.cond(x.sum() > 20, jnp.sin, jnp.cos, x),
    "branch of a sample": lambda x: lax.switch((x[1, 0] * 2).astype(int), [jnp.sin, jnp.cos, jnp.tan], x),
    "loop of the batch": lambda x: lax.while_loop(lambda s: s.sum() < 50, lambda s: s * 1.5, x),
    "loop of a sample": lambda x: lax.while_loop(lambda s: s[0, 0] < 9, lambda s: s * 1.5, x),
    "choice by the batch": lambda x: jnp.where(x.sum() > 20, x, -x),
    "rows of the batch": lambda x: x[(x * 2).astype(int)][:, 0],
    "put in rows of the batch": lambda x: jnp.zeros((B, N)).at[(x[:, 0] * 2).astype(int)].set(x),
    "bits": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint8).sum((0, 2)), jnp.int32) * x,
    "triangular matrix": lambda x: jnp.linalg.cholesky(x[:, :B] @ x[:, :B].T + np.eye(B)),
    "keys": lambda x: x * jax.random.normal(jax.random.key((99 * x[0, 0]).astype(int)), (B, N)),
}  # fmt: skip


def differs_elsewhere(f):
    """Whether another value of one sample changes what is computed for others, for one of many values."""
    run = jax.jit(jax.vmap(f), compiler_options=QUICK)
    base = np.broadcast_to(points((B, N))[0], (32 * B, B, N))
    new = np.random.default_rng(3).uniform(0, 1.6, (32 * B, N)).astype(np.float32)
    other = base.copy()
    other[np.arange(32 * B), np.arange(32 * B) % B] = new
    changed = np.asarray(run(other) != run(base)).reshape(32, B, B, -1)
    return bool(changed[:, ~np.eye(B, dtype=bool)].any())


def judged_directly(f):
    return judge(lambda _, t: f(t), 0.0, jax.ShapeDtypeStruct((B, N), jnp.float32), 0, B)


@pytest.mark.parametrize("f", under(DIRECT))
def test_values_kept_apart_are_seen(f):
    assert judged_directly(f) is None
    assert not differs_elsewhere(f)


@pytest.mark.parametrize("f", under(DIRECT_MIXING))
def test_values_that_mix_are_seen(f):
    assert judged_directly(f) is not None
    assert differs_elsewhere(f)


# Random programs


def random_step(rng, shape):
    """A function of two arrays to a third, all of one shape, that may do anything to any axis."""
    rank, a = len(shape), int(rng.integers(len(shape)))
    n, k, seed = shape[a], int(rng.integers(1, shape[a])), int(rng.integers(1000))
    across = [n if b == a else 1 for b in range(rank)]
    matrix = rng.normal(size=(n, n)).astype(np.float32)
    matrix = [matrix, np.diag(matrix[0]), np.eye(n, dtype=np.float32)[rng.permutation(n)], np.triu(matrix)][seed % 4]
    order, mask, lines = rng.permutation(n), rng.random(shape) < 0.5, rng.random(across) < 0.5
    factors = [d for d in range(1, math.prod(shape) + 1) if math.prod(shape) % d == 0]
    flat = factors[seed % len(factors)], -1

    def first(g):
        return lambda x, y: jnp.moveaxis(g(jnp.moveaxis(x, a, 0), jnp.moveaxis(y, a, 0)), 0, a)

    def index(y):
        return (jnp.abs(y.reshape(n, -1)[:, 0]) * 7).astype(int) % n

    steps = [
        lambda x, y: jnp.sin(x) * y,
        lambda x, y: x + y.sum(a, keepdims=True),
        lambda x, y: jnp.flip(x, a),
        lambda x, y: jnp.flip(jnp.sin(jnp.flip(x, a)), a),
        lambda x, y: jnp.roll(x, k, a) * y,
        lambda x, y: jax.nn.softmax(x, axis=a),
        lambda x, y: jnp.sort(x, axis=a),
        lambda x, y: jnp.cumsum(x.reshape(flat), seed % 2).reshape(shape),
        lambda x, y: jnp.sin(x.reshape(flat)).reshape(shape) + y,
        lambda x, y: x.reshape(flat)[::-1].reshape(shape),
        lambda x, y: x.reshape(flat).T.reshape(shape),
        lambda x, y: jnp.take(x, order, a),
        lambda x, y: jnp.take(jnp.sin(jnp.take(x, order, a)), np.argsort(order), a),
        lambda x, y: jnp.take_along_axis(x, jnp.argsort(y, a), a),
        lambda x, y: jnp.where(mask, x, jnp.flip(y, a)),
        lambda x, y: jnp.where(lines, x, jnp.flip(y, a)),
        lambda x, y: x + mask * jnp.flip(y, a),
        lambda x, y: lax.pad(x, 0.0, [(1, -1, 0) if b == a else (0, 0, 0) for b in range(rank)]),
        lambda x, y: jnp.swapaxes(x, a, seed % rank) if shape[seed % rank] == n else x * y,
        lambda x, y: jnp.split(jnp.tanh(jnp.concatenate([x, y], a)), 2, a)[seed % 2],
        lambda x, y: jnp.repeat(x, 2, a).reshape(*shape[:a], n, 2, *shape[a + 1 :]).sum(a + 1),
        lambda x, y: lax.cond(x.ravel()[0] > 0, operator.mul, lambda x, y: jnp.flip(x, seed % rank), x, y),
        lambda x, y: lax.fori_loop(0, 2, lambda i, c: jnp.roll(c, seed % 2, a) + x, y),
        lambda x, y: jnp.cumsum(jnp.stack([x, y], seed % (rank + 1)), seed % (rank + 1)).take(1, seed % (rank + 1)),
        lambda x, y: lax.reduce_window(x, 0.0, lax.add, [min(c + 1, 3) for c in across[:1]] + [1] * (rank - 1),
                                       (1,) * rank, "SAME"),
        first(lambda x, y: jnp.tensordot(matrix, x, 1)),
        first(lambda x, y: x.at[order[:k]].set(y[:k])),
        first(lambda x, y: x.at[index(y)].add(y)),
        first(lambda x, y: x[index(y)]),
        first(lambda x, y: lax.scan(lambda c, t: (c + t, c * t), jnp.ones(x.shape[1:]), x)[1]),
        first(lambda x, y: lax.map(lambda t: t[0] * t[1].sum(), (x, y))),
        first(jax.vmap(lambda u, v: jnp.flip(u, 0) * v.sum())),
    ]  # fmt: skip
    g = steps[rng.integers(len(steps))]
    return jax.jit(g) if seed % 5 == 0 else g


def random_program(seed):
    rng = np.random.default_rng(seed)
    shape = [(3, 3), (4, 6), (4, 4), (2, 2, 2), (2, 4, 3)][rng.integers(5)]
    steps = [random_step(rng, shape) for _ in range(rng.integers(1, 5))]
    inputs = [int(rng.integers(i + 1)) for i in range(len(steps))]

    def f(x):
        values = [x]
        for g, i in zip(steps, inputs, strict=True):
            values.append(g(values[-1], values[i]))
        return values[-1]

    return Case(f, shape, int(rng.integers(len(shape))))


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_that_mix_are_seen(seed):
    case = random_program(seed)
    read = pushed(case), pulled(case)
    if None in read:
        assert not mixes_in_truth(case)


def test_random_programs_are_of_both_kinds():
    seen = [pushed(random_program(seed)) is None for seed in range(40)]
    assert 10 <= sum(seen) <= 30


# What the errors say about samples that mix


def said(f, shape=(B, N), axis=0):
    return str(pushed(Case(f, shape, axis)))


def rows(title):
    text = (Path(__file__).parents[2] / "docs" / "independence.md").read_text(encoding="utf-8")
    table = text.split(title)[1].split("|---|---|\n")[1].split("\n\n")[0]
    return [re.fullmatch(r"\| `(.*?)` \| (.*) \|", line).groups() for line in table.splitlines()]


def from_page(code):
    return Case(eval(f"lambda x: {code}", {"jax": jax, "jnp": jnp, "V": V, "B": B}), (B, B))


@pytest.mark.parametrize("row", range(len(rows("names the operation:"))))
def test_operations_named_on_the_page(row):
    code, named = rows("names the operation:")[row]
    assert f" by {named.strip('`')} (" in str(pushed(from_page(code)))
    assert mixes_in_truth(from_page(code))


@pytest.mark.parametrize("row", range(len(rows("## Independent functions that are refused"))))
def test_what_the_page_says_is_refused(row):
    code, _ = rows("## Independent functions that are refused")[row]
    assert pushed(from_page(code)) is not None
    assert not mixes_in_truth(from_page(code))


@pytest.mark.parametrize(
    "f, operation",
    [
        (lambda x: jnp.sort(x, axis=0), "gather (indexing) along axis 0"),
        (lambda x: jax.nn.logsumexp(x, axis=0) + x, "reduce_sum over axis 0"),
        (lambda x: V @ x, "dot_general contracting axis 0"),
        (lambda x: jnp.roll(x, 1, axis=0), "concatenate along axis 0"),
        (lambda x: x[PERMUTATION] * 2, "gather (indexing) along axis 0"),
        (lambda x: lax.scan(lambda c, _: (c * c.sum(0), None), x, None, length=3)[0], "reduce_sum over axis 0"),
        (lambda x: x + jnp.cumsum(x[::-1], axis=0).sum(0), "cumsum along axis 0"),
        (lambda x: jnp.sin(x).at[0].add(x[1]), "scatter-add (indexed update) along axis 0"),
        (lambda x: x * x.mean(1, keepdims=True) + x.sum(), "reduce_sum over axis 0"),
    ],
    ids=range(9),
)  # fmt: skip
def test_the_first_operation_that_mixes_is_named(f, operation):
    assert f" by {operation} (" in said(f)


def test_what_is_moved_is_told_from_what_is_mixed():
    found = pushed(Case(lambda x: x[::-1] * 2))
    assert (found.kind, found.operation, found.axis, found.output) == ("moved", "rev along axis 0", 0, 0)
    assert found.sample + found.source == B - 1
    assert pushed(Case(lambda x: x.sum(0) * x)).kind == "mixed"
    assert "sample 0 of the output seems to depend on sample 1" in said(lambda x: (x, x.at[0].set(x[1])))
    assert pushed(Case(lambda x: (x, x.at[0].set(x[1])))).output == 1


def test_an_output_with_samples_along_another_axis():
    assert said(lambda x: x.T, (B, B)) == "an output whose samples lie along axis 1 in place of axis 0"
    for twice in (lambda x: jnp.concatenate([x, x]), lambda x: jnp.stack([x, x], axis=1).reshape(2 * B, N)):
        assert said(twice) == "an output with 2 entries of each sample along axis 0"


# What is known, and what it costs


def test_an_array_is_known_where_its_value_is_given():
    def program(order, t):
        return t[order][jnp.argsort(order)]

    order, t = jnp.array(PERMUTATION), jnp.ones((B, N))
    assert judge(program, order, t, 0, B, known=Known(order)) is None
    assert judge(program, order, t, 0, B) is not None


def test_a_traced_array_is_not_known():
    def read(order):
        return judge(lambda _, t: t[order][jnp.argsort(order)], 0.0, jnp.ones((B, N)), 0, B)

    assert read(jnp.array(PERMUTATION)) is None
    seen = []
    jax.jit(lambda order: seen.append(read(order)))(jnp.array(PERMUTATION))
    assert seen[0] is not None


@pytest.mark.parametrize("size, f", [(0, lambda x: x - x.sum(0)), (1, lambda x: x[::-1] - x.sum(0))], ids=["0", "1"])
def test_fewer_than_two_samples_do_not_mix(size, f):
    assert pushed(Case(f, (size, N))) is None


def test_an_axis_of_any_length_is_followed_without_arrays(monkeypatch):
    monkeypatch.setattr(independence, "_Walk", None)
    assert pushed(Case(lambda x: mlp(x) * np.float32(2), (10**12, N))) is None


def test_samples_that_all_meet_take_no_room():
    """Each of many elements depends on many samples: there is no room for such columns, and no need of them."""
    found = pushed(Case(lambda x: x * jnp.cumsum(x, 0) - x.mean(0), (10**5, 2)))
    assert found.operation in ("cumsum along axis 0", "reduce_sum over axis 0")


def test_loops_are_read_step_by_step():
    def f(steps):
        return lambda x: lax.fori_loop(0, steps, lambda i, c: c.at[i % B].set(2 * c[i % B]), x)

    assert judged_directly(f(60)) is None  # one by one
    assert judged_directly(f(70)) is None  # at once
    assert judged_directly(f(10**6)) is not None


def test_constants_are_computed_only_where_they_are_needed(monkeypatch):
    asked = []
    monkeypatch.setattr(independence.Lazy, "value", lambda self: asked.append(1) or np.asarray(self._value))
    assert pushed(Case(lambda x: jnp.tanh(x @ jnp.linalg.inv(W)) * jnp.arange(N))) is None
    assert not asked


def test_an_unknown_operation_mixes():
    primitive = jax.extend.core.Primitive("sine_of_a_kind")
    primitive.def_abstract_eval(lambda x: x)
    found = judge(lambda _, t: primitive.bind(t * 2), 0.0, jnp.ones((B, N)), 0, B)
    assert found.operation == "sine_of_a_kind"


def test_a_callback_mixes():
    shape = jax.ShapeDtypeStruct((B, N), jnp.float32)
    call = lambda _, t: jax.pure_callback(np.asarray, shape, t, vmap_method="sequential")  # noqa: E731
    assert judge(call, 0.0, jnp.ones((B, N)), 0, B).operation == "pure_callback"


def test_a_mutable_reference_mixes():
    def through(x):
        ref = jax.new_ref(jnp.zeros(N))
        ref[...] = x.sum(0)
        return x * ref[...]

    assert pushed(Case(through)).operation == "a mutable reference"
    assert mixes_in_truth(Case(through))
    assert pushed(Case(jax.jit(through))) is not None


def test_a_masked_value_that_is_doubled_often():
    """A question about both operands of an operation is asked only once."""

    def f(x):
        y = x * np.eye(B, dtype=np.float32)
        for _ in range(45):
            y = y + y
        return y.sum(0)

    assert pushed(Case(f, (B, B))) is None


def test_many_steps_of_known_values():
    """A chain of constants longer than Python's stack is deep."""

    def f(x):
        order = jnp.arange(B)
        for _ in range(1100):
            order = lax.rev(order, (0,))
        return x[order][order]

    assert pushed(Case(f)) is None


def test_a_pullback_with_a_rule_of_its_own():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.cos(x),))
    assert pulled(Case(f)) is None
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u - u.mean(0),))
    assert pulled(Case(f)) is not None


def test_several_inputs_with_axes_of_their_own():
    def f(a, b):
        return a * b.T

    a, b = jnp.ones((B, N)), jnp.ones((N, B))
    closed = jax.make_jaxpr(lambda x, t: jax.linearize(f, *x)[1](*t))((a, b), (a, b))
    assert mixing(closed.jaxpr, closed.consts, [None, None, 0, 1], [0], B) is None
    assert mixing(closed.jaxpr, closed.consts, [None, None, 0, 1], [1], B) is not None
    square = jnp.ones((B, B))
    closed = jax.make_jaxpr(lambda x, t: jax.linearize(f, *x)[1](*t))((square, square), (square, square))
    assert mixing(closed.jaxpr, closed.consts, [None, None, 0, 1], [0], B) is None
    assert mixing(closed.jaxpr, closed.consts, [None, None, 0, 0], [0], B) is not None
