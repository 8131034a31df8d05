"""Readings of programs: fingerprints, dependence, cost, and the interpreter below them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._program.fingerprint import Identity, _Reader, fingerprint
from jacobia._program.readings.cost import peak_bytes, seed_cost
from jacobia._program.readings.dependence import dependence
from jacobia._program.walk import nested_consts, nested_consts_of_call, run, run_hoisted, subprograms

X = np.linspace(0.5, 2, 4, dtype=np.float32)
M = np.ones((4, 4), np.float32)


def print_of(f, *args, rules=True):
    closed = jax.make_jaxpr(f)(*(args or (X,)))
    return fingerprint(closed.jaxpr, closed.consts, rules=rules)


# Fingerprints: one body, made anew


def body(factor=2.0, dtype=jnp.float32, length=3, axis=0):
    array = np.asarray([1, 2, 3, 4], np.float32)

    def f(x):
        y = jax.jit(lambda v: jnp.sin(v) * factor + array)(x)
        y, _ = jax.lax.scan(lambda c, _: (c * x + 1, c[0]), y, None, length=length)
        y = jax.lax.cond(y[0] > 0, lambda v: v, lambda v: -v, y)
        return jnp.sum(y.astype(dtype)) + jnp.cumsum(x, axis=axis)

    return f


def test_the_same_body_made_anew_has_the_same_print():
    one, other = print_of(body()), print_of(body())
    assert one.key == other.key and hash(one.key) == hash(other.key)


@pytest.mark.parametrize("options", [{"factor": 3.0}, {"factor": -2.0}, {"dtype": jnp.float16}, {"length": 4}], ids=str)
def test_another_body_has_another_print(options):
    assert print_of(body(**options)).key != print_of(body()).key


def custom_jvp(factor):
    @jax.custom_jvp
    def f(x):
        return x * 2

    f.defjvp(lambda primals, tangents: (f(*primals), factor * tangents[0]))
    return f


def custom_vjp(factor):
    @jax.custom_vjp
    def f(x):
        return x * 2

    f.defvjp(lambda x: (x * 2, None), lambda _, u: (factor * u,))
    return f


def callback(factor):
    shape = jax.ShapeDtypeStruct((4,), jnp.float32)
    return lambda x: jax.pure_callback(lambda v: factor * np.asarray(v), shape, x, vmap_method="sequential")


def inner_const(array):
    array = np.asarray(array, np.float32)
    return lambda x: jax.jit(lambda v: v * array)(x)


def branch_const(array):
    array = np.asarray(array, np.float32)
    return lambda x: jax.lax.cond(x[0] > 0, lambda v: v * array, lambda v: v, x)


def under(context):
    def f(x):
        with context():
            return jnp.dot(M, x) + jax.random.uniform(jax.random.key(0), (4,))

    return f


def matmul(precision):
    return lambda x: jax.lax.dot(jnp.asarray(M), x, precision=precision)


PAIRS = {
    "literal": (lambda x: x * 2, lambda x: x * 3),
    "zero and minus zero": (lambda x: x / 0.0, lambda x: x / -0.0),
    "NaN and infinity": (lambda x: x + np.nan, lambda x: x + np.inf),
    "one and true": (lambda x: jnp.where(x > 1, x, 1), lambda x: jnp.where(x > 1, x, True)),
    "operation": (jnp.sin, jnp.cos),
    "order of operands": (lambda x: x - x[0], lambda x: x[0] - x),
    "which variable": (lambda x: jnp.sin(x) + jnp.cos(x) * x, lambda x: jnp.sin(x) * x + jnp.cos(x)),
    "which output": (lambda x: (x * 2, x * 3), lambda x: (x * 3, x * 2)),
    "number of outputs": (lambda x: (x, x), lambda x: (x,)),
    "dtype": (lambda x: x.astype(jnp.float16), lambda x: x.astype(jnp.bfloat16)),
    "weak type of a literal": (lambda x: (x, jnp.float32(1)), lambda x: (x, jnp.asarray(1.0))),
    "parameter": (lambda x: jnp.sum(x.reshape(2, 2), 0), lambda x: jnp.sum(x.reshape(2, 2), 1)),
    "precision": (matmul(None), matmul(jax.lax.Precision.HIGHEST)),
    "array in an inner jit": (inner_const([1, 2, 3, 4]), inner_const([1, 2, 3, 5])),
    "minus zero in an inner jit": (inner_const([1, 2, 3, 0.0]), inner_const([1, 2, 3, -0.0])),
    "array in a branch": (branch_const([1, 2, 3, 4]), branch_const([1, 2, 3, 5])),
    "rule of a custom_jvp": (custom_jvp(2), custom_jvp(3)),
    "rule of a custom_vjp": (custom_vjp(2), custom_vjp(3)),
    "rule in an inner jit": (jax.jit(custom_jvp(2)), jax.jit(custom_jvp(3))),
    "rule in a loop": (
        functools.partial(jax.lax.map, custom_jvp(2)),
        functools.partial(jax.lax.map, custom_jvp(3)),
    ),
    "callback": (callback(2), callback(3)),
    "matmul precision inside": (
        under(lambda: jax.default_matmul_precision("highest")),
        under(lambda: jax.default_matmul_precision("default")),
    ),
    "threefry inside": (
        under(lambda: jax.threefry_partitionable(True)),
        under(lambda: jax.threefry_partitionable(False)),
    ),
    "x64 inside": (under(lambda: jax.enable_x64(False)), under(lambda: jax.enable_x64(True))),
    "inputs that are swapped": (lambda x: x[::-1] * x, lambda x: x * x[::-1]),
    "direction of a scan": (
        lambda x: jax.lax.scan(lambda c, v: (c * v, c), 1.0, x)[1],
        lambda x: jax.lax.scan(lambda c, v: (c * v, c), 1.0, x, reverse=True)[1],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_programs_that_differ_in_one_thing(name):
    one, other = PAIRS[name]
    assert print_of(one).key != print_of(other).key
    assert print_of(one).key == print_of(one).key


def test_abstract_inputs_are_part_of_the_print():
    f = lambda x: x * 2  # noqa: E731
    keys = [print_of(f, x).key for x in (X, X[:3], X.astype(np.float16), X[None], np.float32(1), 1.0, np.int32(1))]
    assert len(set(keys)) == len(keys)


def test_arrays_that_are_closed_over_outside_any_jit_are_compared_by_content_too():
    def make(*numbers):
        array = np.asarray(numbers, np.float32)
        return lambda x: x * jnp.asarray(array)

    assert print_of(make(1, 2, 3, 4)).key == print_of(make(1, 2, 3, 4)).key != print_of(make(1, 2, 3, 5)).key


def test_large_arrays_are_compared_by_identity():
    def key_of(array):
        return print_of(lambda x: jax.jit(lambda v: v + array[0])(x)).key

    large, small = jnp.zeros((1 << 18) + 1), jnp.zeros(1 << 18)
    assert key_of(large) == key_of(large) != key_of(large + 0)
    assert key_of(small) == key_of(small + 0)


def test_what_only_identity_can_compare_is_opaque():
    assert print_of(custom_jvp(2)).opaque and print_of(custom_vjp(2)).opaque and print_of(callback(2)).opaque
    assert not print_of(jnp.sin).opaque
    f = custom_jvp(2)
    assert print_of(f).key == print_of(f).key


@pytest.mark.parametrize(
    "f",
    [jax.jit(lambda v: v * 2), lambda v: jnp.where(v > 0, v, 1), inner_const([1, 2, 3, 4])],
    ids=["jit", "where", "array"],
)
def test_an_inner_jit_is_not_opaque(f):
    assert not print_of(f).opaque


def test_rules_that_are_only_run_are_left_out():
    one, other = print_of(custom_vjp(2), rules=False), print_of(custom_vjp(3), rules=False)
    assert one.key == other.key and not one.opaque
    assert print_of(callback(2), rules=False).key != print_of(callback(3), rules=False).key


def test_parameters_that_python_calls_equal():
    def key(value):
        reader = _Reader(True)
        return reader.value(value), reader.opaque

    values = [1, 1.0, True, 0, 0.0, -0.0, False, (0.0,), (-0.0,), [0.0], np.float32(0), np.float64(0), None, "0", 0j]
    keys = [key(v) for v in values]
    assert len(set(keys)) == len(values) and not any(opaque for _, opaque in keys)
    assert key(float("nan")) == key(float("nan")) and key({"a": 1}) == key({"a": 1}) != key({"a": True})


def test_an_identity_keeps_its_object():
    thing = object()
    assert Identity(thing) == Identity(thing) and Identity(thing) != Identity(object()) and Identity(thing) != thing
    assert hash(Identity(thing)) == hash(Identity(thing))


# Dependence: each program maps (a, b) of length 4 to one array; the linear program is read


def mask(*flags):
    return np.asarray(flags, bool)


def loop_of(n):
    # Input b reaches the carry only after n passes.
    def f(a, b):
        def step(c, _):
            return (c[0] + c[1], *c[2:], c[-1]), None

        first, *rest = jax.lax.scan(step, (a, *[0 * a] * n, b), None, length=n + 2)[0]
        return first

    return f


DEPENDENCE = {
    "sum": (lambda a, b: a + b, {0, 1}),
    "product": (lambda a, b: a * b, {0, 1}),
    "one of them": (lambda a, b: jnp.sin(a), {0}),
    "constant": (lambda a, b: jnp.ones(3), set()),
    "zero times": (lambda a, b: a * 0.0 + b, {1}),
    "zero array times": (lambda a, b: a * np.zeros(4, np.float32) + b, {1}),
    "zero matrix times": (lambda a, b: np.zeros((2, 4), np.float32) @ a, set()),
    "partly zero array": (lambda a, b: a * np.float32([0, 0, 1, 0]), {0}),
    "stop_gradient": (lambda a, b: jax.lax.stop_gradient(a) * b, {1}),
    "integer round trip": (lambda a, b: a.astype(jnp.int32).astype(jnp.float32) + b, {1}),
    "floor": (lambda a, b: jnp.floor(a) + b, {1}),
    "comparison": (lambda a, b: jnp.where(a > 0, b, 2 * b), {1}),
    "select, mask of falses": (lambda a, b: jnp.where(mask(0, 0, 0, 0), a, b), {1}),
    "select, mask of trues": (lambda a, b: jnp.where(mask(1, 1, 1, 1), a, b), {0}),
    "select, both": (lambda a, b: jnp.where(mask(1, 0, 0, 0), a, b), {0, 1}),
    "select, mask computed": (lambda a, b: jnp.where(jnp.arange(4) > 7, a, b), {1}),
    "cond, known index": (lambda a, b: jax.lax.switch(jnp.int32(1), [lambda: a, lambda: b]), {1}),
    "cond, index clamped": (lambda a, b: jax.lax.switch(jnp.int32(9), [lambda: a, lambda: b]), {1}),
    "cond, unknown index": (lambda a, b: jax.lax.cond(a[0] > 0, lambda: a, lambda: b), {0, 1}),
    "cond, one operand": (lambda a, b: jax.lax.cond(a[0] > 0, lambda: b * 2, lambda: b), {1}),
    "scan carry": (lambda a, b: jax.lax.scan(lambda c, _: (c * 2, None), a, None, length=3)[0], {0}),
    "scan constants": (lambda a, b: jax.lax.scan(lambda c, _: (c * b, None), a, None, length=3)[0], {0, 1}),
    "scan over rows": (lambda a, b: jax.lax.scan(lambda c, v: (c, v * 2), a, b)[1], {1}),
    "scan, late": (loop_of(3), {0, 1}),
    "while": (lambda a, b: jax.lax.fori_loop(0, a[0].astype(int), lambda k, c: c + b, a), {0, 1}),
    "while, unused": (lambda a, b: jax.lax.fori_loop(0, a[0].astype(int), lambda k, c: c * 2, a), {0}),
    "jit": (jax.jit(lambda a, b: jnp.sin(b)), {1}),
    "jit in jit, zero inside": (jax.jit(lambda a, b: jax.jit(lambda v: v * 0.0)(a) + b), {1}),
    "checkpoint": (jax.checkpoint(lambda a, b: jnp.sin(a) * 2), {0}),
    "custom_jvp": (lambda a, b: custom_jvp(2)(a), {0}),
    "custom_jvp with a rule of zeros": (lambda a, b: custom_jvp(0.0)(a), set()),
    "custom_vjp": (lambda a, b: custom_vjp(2)(a), {0}),
    "gather": (lambda a, b: a[np.array([0, 0])], {0}),
    "concatenate": (lambda a, b: jnp.concatenate([a[:0], b]), {0, 1}),  # by whole arrays: errs on the safe side
    "relu": (lambda a, b: jax.nn.relu(b), {1}),
    "matrix product": (lambda a, b: jnp.outer(a, b) @ np.zeros(4, np.float32), set()),
    "a known product": (lambda a, b: a * (jnp.arange(4.0) - jnp.arange(4.0)) + b, {1}),
    "power": (lambda a, b: a**0, set()),
    "map": (lambda a, b: jax.lax.map(lambda v: v * 2, a), {0}),
    "max of constants": (lambda a, b: jnp.max(jnp.stack([a, a])), {0}),
}


def depends(f, *points):
    def linear(points, *tangents):
        return jax.linearize(f, *points)[1](*tangents)

    closed = jax.make_jaxpr(linear)(points, *points)
    return dependence(closed.jaxpr, closed.consts, [None] * len(points), len(points))


@pytest.mark.parametrize("name", DEPENDENCE)
def test_which_input_an_output_depends_on(name):
    f, expected = DEPENDENCE[name]
    assert depends(f, X, X + 1).outputs == [expected]


@pytest.mark.parametrize("name", DEPENDENCE)
def test_no_dependence_is_missed(name):
    # The reading may err towards "depends"; a column of a block it calls independent must be zero.
    f, expected = DEPENDENCE[name]
    jac = jax.jacfwd if name.startswith("while") else jax.jacrev
    for j, block in enumerate(jax.jit(jac(f, argnums=(0, 1)))(X, X + 1)):
        if np.any(np.asarray(block)):
            assert j in expected


def test_each_output_has_its_own_sources():
    found = depends(lambda a, b: (a * 2, b, a + b, jnp.ones(2)), X, X)
    assert found.outputs == [{0}, {1}, {0, 1}, set()]


def test_operations_that_are_linear_over_the_reals_only_are_named():
    z = X + 1j * X
    assert depends(lambda a: a * 2, z).real_linear == []
    assert depends(lambda a: jnp.conj(a) * a, z).real_linear == ["conj"]
    assert set(depends(lambda a: jnp.real(a) + jnp.imag(a), z).real_linear) == {"real", "imag"}
    assert depends(lambda a: a * jnp.conj(jnp.asarray(z)), z).real_linear == []


def test_known_inputs_are_used():
    closed = jax.make_jaxpr(lambda c, t: (c * t, jnp.where(c > 0, t, 0.0)))(X, X)
    for known, expected in ((None, {0}), (np.zeros(4, np.float32), set()), (X, {0})):
        assert dependence(closed.jaxpr, closed.consts, [known], 1).outputs == [expected, expected]


# Cost


def closed(f, *args):
    return jax.make_jaxpr(f)(*args).jaxpr


def test_bytes_alive_at_the_fullest_moment():
    line, square = 4 * 4, 16 * 4
    assert peak_bytes(closed(lambda x: x, X)) == 0
    assert peak_bytes(closed(jnp.sin, X)) == line
    assert peak_bytes(closed(lambda x: jnp.sin(jnp.cos(jnp.tan(x))), X)) == 2 * line  # one in, one out
    assert peak_bytes(closed(lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x)), X)) == 3 * line
    assert peak_bytes(closed(lambda x: jnp.sum(jnp.outer(x, x)), X)) >= square
    assert peak_bytes(closed(lambda x: jnp.sum(jnp.sin(x)) + x, X)) < peak_bytes(
        closed(lambda x: jnp.sum(jnp.sin(jnp.outer(x, x))) + x, X)
    )


def test_bytes_inside_a_body_count():
    inside = lambda x: jnp.sum(jnp.sin(jnp.outer(x, x)), 0)  # noqa: E731
    direct = peak_bytes(closed(inside, X))
    assert peak_bytes(closed(jax.jit(inside), X)) >= direct
    loop = lambda x: jax.lax.fori_loop(0, 3, lambda _, c: inside(c), x)  # noqa: E731
    assert peak_bytes(closed(loop, X)) >= direct
    branch = lambda x: jax.lax.cond(x[0] > 0, inside, lambda v: v, x)  # noqa: E731
    assert peak_bytes(closed(branch, X)) >= direct


def cost(f, *args, seeds=1, transposed=False):
    return seed_cost(closed(f, *args), seeds, transposed)


def test_what_does_not_depend_on_the_seed_is_free():
    once = lambda a, t: t * 2  # noqa: E731
    dear = lambda a, t: (jnp.sum(jnp.outer(a, a)) + jnp.sum(jnp.sin(a @ np.ones((4, 300), np.float32)))) * t  # noqa: E731
    assert cost(dear, X, X) == cost(once, X, X)
    assert cost(lambda t: (t * 2, jnp.sin(t) @ M)[0], X) == cost(lambda t: t * 2, X)  # nor what no output needs


def test_orders_of_cost():
    one = lambda t: M @ t  # noqa: E731
    two = lambda t: M @ (M @ t)  # noqa: E731
    assert 0 < cost(one, X) < cost(two, X)
    wide = np.ones(400, np.float32)
    assert cost(lambda t: t * 2, X) < cost(lambda t: t * 2, wide)
    assert cost(lambda t: t * 2, wide) < cost(lambda t: jnp.cumsum(t * 2) * 3, wide)
    assert cost(one, X) <= cost(one, X, transposed=True)


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def loop(n):
        return lambda a, t: jax.lax.scan(lambda c, v: (M @ c, None), t, None, length=n)[0]

    few, many = cost(loop(2), X, X), cost(loop(20), X, X)
    assert 5 * few < many < 20 * few


def test_what_a_loop_carries_from_the_seed_counts_and_residuals_beside_it_do_not():
    def loop(residuals, t, of=lambda a: a):  # the last input of the body is no seed
        return jax.lax.scan(lambda c, a: (c * of(a), None), t, residuals)[0]

    residuals = np.ones((5, 4), np.float32)
    dear = lambda a: jnp.sum(jnp.outer(a, a) @ np.ones((4, 300), np.float32))  # noqa: E731
    assert cost(lambda a, t: loop(a, t, dear), residuals, X) == cost(loop, residuals, X) > 0

    def both(a, t):  # a value and its tangent are carried: what is made of the value is free
        a, t = jax.lax.scan(lambda c, _: ((jnp.sin(c[0]), c[1] * 2), None), (a, t), None, length=3)[0]
        return jnp.sum(jnp.outer(a, a)) * t

    assert cost(both, X, X) == cost(lambda a, t: both(a[:1], t), X, X)


def test_scatters_convolutions_and_short_sums_cost_more_than_they_write():
    places = np.array([2, 0, 1, 3])
    copy = cost(lambda t: t * 2, X)
    assert cost(lambda t: jnp.zeros(4).at[places].add(t), X) > 4 * copy
    assert cost(lambda t: jnp.convolve(t, np.ones(3, np.float32)), X) > 2 * copy
    wide, narrow = np.ones((4, 256), np.float32), np.ones((256, 4), np.float32)
    assert cost(lambda t: t.sum(1), narrow) > 3 * cost(lambda t: t.sum(1), wide)


def test_the_direction_with_fewer_operations_costs_less():
    matrix = np.ones((64, 64), np.float32)

    def f(x):
        return jnp.tanh(matrix @ x)

    x = np.ones(64, np.float32)
    push = seed_cost(closed(lambda x, t: jax.jvp(f, (x,), (t,))[1], x, x), 1, True)
    pull = seed_cost(closed(lambda x, u: jax.vjp(f, x)[1](u)[0], x, x), 1, False)
    assert push > 0 and pull > 0 and max(push, pull) < 3 * min(push, pull)


# The interpreter


def plain(eqn, values):
    from jacobia._compat import bind

    return bind(eqn, *values)


WALKED = {
    "literals and outputs that are inputs": lambda x: (x, 2.0 * x, x, 3.0),
    "scan": lambda x: jax.lax.scan(lambda c, v: (c + v, c), 0.0, x),
    "cond": lambda x: jax.lax.cond(x[0] > 1, jnp.sin, jnp.cos, x),
    "several results": lambda x: jnp.linalg.qr(x.reshape(2, 2)),
    "custom_jvp": jax.nn.relu,
    "keys": lambda x: x + jax.random.normal(jax.random.key(3), (4,)),
}


@pytest.mark.parametrize("name", WALKED)
def test_a_walk_by_binding_computes_the_same(name):
    f = WALKED[name]
    program = jax.make_jaxpr(f)(X)
    got = run(program.jaxpr, program.consts, [jnp.asarray(X)], plain)
    for a, e in zip(got, jax.tree.leaves(f(X)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5)


def hoisting():
    one, two, three, four = (np.float32([k, 2, 3, 4]) for k in range(4))

    @jax.jit
    def innermost(v):
        return v * four + one

    @jax.jit
    def inner(v):
        return innermost(v) * two + innermost(v + 1)

    return lambda x: (inner(x) + three * jax.jit(jnp.sin)(x), jax.jit(lambda v: v + two)(x))


def test_arrays_of_inner_jits_are_hoisted_nested_twice():
    f = hoisting()
    closed_ = jax.make_jaxpr(f)(X)
    nested = nested_consts(closed_.jaxpr)
    assert len(nested) >= 4
    outer = jax.make_jaxpr(lambda cs, ns, xs: run_hoisted(closed_.jaxpr, cs, iter(ns), xs))(closed_.consts, nested, [X])
    assert nested_consts(outer.jaxpr) == []
    got = jax.core.eval_jaxpr(outer.jaxpr, outer.consts, *closed_.consts, *nested, X)
    for a, e in zip(got, f(X), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6)
    # Other arrays in their places are used: they are arguments.
    moved = jax.core.eval_jaxpr(outer.jaxpr, outer.consts, *closed_.consts, *[n + 1 for n in nested], X)
    assert not np.allclose(moved[0], got[0]) and not np.allclose(moved[1], got[1])


def test_calls_that_hold_nothing_stay_calls():
    closed_ = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + 1)(X)
    assert nested_consts(closed_.jaxpr) == []
    outer = jax.make_jaxpr(lambda xs: run_hoisted(closed_.jaxpr, closed_.consts, iter(()), xs))([X])
    assert [e.primitive.name for e in outer.jaxpr.eqns] == [e.primitive.name for e in closed_.jaxpr.eqns]
    assert not nested_consts_of_call(closed_.jaxpr.eqns[0].params["jaxpr"])


def test_a_jit_with_shardings_of_its_own_is_left_alone():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    array = np.float32([5, 6, 7, 8])
    f = jax.jit(lambda v: v * array, in_shardings=sharding, out_shardings=sharding)
    closed_ = jax.make_jaxpr(f)(X)
    assert nested_consts(closed_.jaxpr) == []
    got = run_hoisted(closed_.jaxpr, closed_.consts, iter(()), [jnp.asarray(X)])
    np.testing.assert_allclose(got[0], X * array)


def test_subprograms_are_bodies_and_branches():
    def f(x):
        y = jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, jax.jit(jnp.tan)(x))
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c + 1, y)

    counts = {e.primitive.name: len(list(subprograms(e))) for e in jax.make_jaxpr(f)(X).jaxpr.eqns}
    assert counts["cond"] == 2 and counts["while"] == 2
    assert counts.get("jit", counts.get("pjit")) == 1 and counts["gt"] == 0


def test_partial_and_bound_methods_have_the_print_of_their_body():
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x):
            return x * self.factor

        def method(self, x):
            return x * self.factor

    def scale(factor, x):
        return x * factor

    keys = {print_of(f).key for f in (Scale(2.0), Scale(2.0).method, functools.partial(scale, 2.0))}
    assert len(keys) == 1 and print_of(Scale(3.0)).key not in keys
