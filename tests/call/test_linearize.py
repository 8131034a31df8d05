"""f as a program, and its linearization at a point, compared with `jax.jacrev` of f."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._call import trace as _trace
from jacobia._call.arguments import take_apart
from jacobia._call.linearize import (
    Point,
    linearize,
    pullback,
    pushforward,
    read_dependence,
    transposed_pullback,
    value,
)
from jacobia._call.trace import settings, trace

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=3).astype(np.float32), RNG.normal(size=(2, 2)).astype(np.float32)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)


@jax.custom_vjp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defvjp(lambda x: (softsign(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))


def two_to_two(x, y):
    return {"a": jnp.tanh(W @ x) * y[0, 0], "b": y.T * x[1]}, (jnp.sum(x), x * 2)


def rules(x, y):
    return {"a": softsign(x) * y[0, 1], "b": softsign(y)}, ()


def nested(x, y):
    table = jnp.arange(3.0) + np.float32([1, 5, 7])
    inner = jax.jit(lambda v: v * jax.jit(lambda u: u + table)(v) + np.float32([3, 1, 4]))
    return {"a": inner(x), "b": jax.jit(lambda v: v @ v)(y) * np.float32(2)}, ()


FUNCTIONS = [two_to_two, rules, nested]


def traced(f, *args, has_aux=True, jit=True):
    call = take_apart("jacobian", args, {}, (), ())
    return trace("jacobian", f, call, (0,), has_aux, jit), call


def point_of(f, *args, jit=True):
    known, call = traced(f, *args, jit=jit)
    return Point(known.program, tuple(range(len(args))), known.consts, call.leaves)


def jacobians(f):
    """One list of blocks per output, from JAX alone."""
    both = jax.jacrev(lambda x, y: f(x, y)[0], argnums=(0, 1))(X, Y)
    return [[np.asarray(b) for b in both[name]] for name in ("a", "b")]


def basis(shape):
    return jnp.eye(int(np.prod(shape)), dtype=jnp.float32).reshape(-1, *shape)


def rows(point, outs, ins, i):
    """The rows of output `outs[i]`, with zeros in the other cotangents."""
    shapes = jax.eval_shape(lambda: value(point)[0])
    y = [jnp.zeros(shapes[k].shape, shapes[k].dtype) for k in outs]
    pull = pullback(point, outs, ins)
    one = lambda seed: pull([seed if k == i else v for k, v in enumerate(y)])  # noqa: E731
    return jax.jit(jax.vmap(one))(basis(y[i].shape))


def columns(point, outs, ins, j, pushed=pushforward):
    x = [point.leaves[k] for k in ins]
    push = pushed(point, outs, ins)
    one = lambda seed: push([seed if k == j else jnp.zeros_like(v) for k, v in enumerate(x)])  # noqa: E731
    return jax.jit(jax.vmap(one, out_axes=-1))(basis(x[j].shape))


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "python"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_program_computes_the_value_and_aux(f, jit):
    y, aux = value(point_of(f, X, Y, jit=jit))
    expected_y, expected_aux = f(X, Y)
    for got, expected in ((y, expected_y), (aux, expected_aux)):
        leaves = jax.tree.leaves(expected)
        assert len(got) == len(leaves)
        for a, e in zip(got, leaves, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "python"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_pullbacks_are_rows_of_jacrev(f, jit):
    point, expected = point_of(f, X, Y, jit=jit), jacobians(f)
    for outs, ins in (((0, 1), (0, 1)), ((1,), (0,)), ((1, 0), (1,)), ((0,), (1, 0))):
        for i, out in enumerate(outs):
            for got, k in zip(rows(point, outs, ins, i), ins, strict=True):
                np.testing.assert_allclose(got, expected[out][k].reshape(got.shape), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("f", [two_to_two, nested], ids=lambda f: f.__name__)
def test_pushforwards_are_columns_of_jacrev(f):
    point, expected = point_of(f, X, Y), jacobians(f)
    for outs, ins in (((0, 1), (0, 1)), ((1,), (0,)), ((1, 0), (1,))):
        for j, into in enumerate(ins):
            for got, k in zip(columns(point, outs, ins, j), outs, strict=True):
                np.testing.assert_allclose(got, expected[k][into].reshape(got.shape), rtol=1e-4, atol=1e-6)


def test_a_transposed_pullback_pushes_through_a_custom_vjp():
    point, expected = point_of(rules, X, Y), jacobians(rules)
    with pytest.raises(TypeError, match="custom_vjp"):
        columns(point, (0, 1), (0, 1), 0)
    for j in range(2):
        for k, got in enumerate(columns(point, (0, 1), (0, 1), j, transposed_pullback)):
            np.testing.assert_allclose(got, expected[k][j].reshape(got.shape), rtol=1e-4, atol=1e-6)


def test_a_transposed_pullback_equals_a_pushforward():
    point = point_of(two_to_two, X, Y)
    tangents = [jnp.asarray(X) * 2, jnp.asarray(Y) + 1]
    direct = pushforward(point, (0, 1), (0, 1))(tangents)
    for got, expected in zip(transposed_pullback(point, (0, 1), (0, 1))(tangents), direct, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("f", [two_to_two, nested], ids=lambda f: f.__name__)
def test_the_kept_linear_program_is_the_pushforward(f):
    point = point_of(f, X, Y)
    y, aux, lin = linearize(point)
    tangents = [jnp.asarray(X) * 2, jnp.asarray(Y) + 1]
    for got, expected in zip(lin(tangents), pushforward(point, (0, 1), (0, 1))(tangents), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    for got, expected in zip(y + aux, sum(value(point), []), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    cotangents = [jnp.ones_like(v) * 3 for v in y]
    (pulled,) = jax.linear_transpose(lin, tangents)(cotangents)
    for got, expected in zip(pulled, pullback(point, (0, 1), (0, 1))(cotangents), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_only_the_outputs_asked_for_are_pulled_back():
    def f(x):
        return {"dear": jnp.sin(W @ x), "cheap": x * 2}, None

    known, call = traced(f, X)
    point = Point(known.program, (0,), known.consts, call.leaves)

    def compiled(out, cotangent):  # "cheap" comes first
        run = jax.jit(lambda x, c: pullback(point._replace(leaves=[x]), (out,), (0,))([c]))
        return run.lower(X, cotangent).compile().as_text()

    assert "cosine" not in compiled(0, X) and "cosine" in compiled(1, np.ones(4, np.float32))


# Programs


def test_functions_that_compute_the_same_share_a_program_and_not_their_constants():
    def make(factor):
        array = jnp.full(3, factor)
        return lambda x: (x * array, None)

    one, other = traced(make(2.0), X)[0], traced(make(3.0), X)[0]
    assert one.program is other.program and not one.program.opaque
    assert float(one.consts[0][0]) == 2 and float(other.consts[0][0]) == 3
    assert traced(make(2.0), Y[:, :1] * X)[0].program is not one.program


def test_functions_with_rules_do_not_share_a_program():
    make = lambda: lambda x: (softsign(x), None)  # noqa: E731
    one = traced(make(), X)[0].program
    assert one.opaque

    def other_rule(x):
        return softsign_of_its_own(x), None

    @jax.custom_vjp
    def softsign_of_its_own(x):
        return x / (1 + jnp.abs(x))

    softsign_of_its_own.defvjp(lambda x: (x, None), lambda _, u: (7 * u,))
    assert traced(other_rule, X)[0].program is not one


def test_settings_are_part_of_a_program():
    f = lambda x: (x * 2, None)  # noqa: E731
    one = traced(f, X)[0].program
    with jax.default_matmul_precision("highest"):
        other = traced(f, X)[0].program
    assert one is not other and one.settings != other.settings
    assert other.settings["jax_default_matmul_precision"] == "highest"


def test_arrays_under_inner_jits_are_constants_of_the_program():
    known, _ = traced(nested, X, Y)
    assert len(known.consts) >= 2
    assert any(np.array_equal(c, [3, 1, 4]) for c in known.consts)


def test_programs_are_freed_with_their_functions():
    import gc

    f = lambda x: (x * 2 + 12345.5, None)  # noqa: E731
    known, _ = traced(f, X)
    held = _trace._programs
    before = len(held)
    del known
    gc.collect()
    assert len(held) < before


def test_names_trees_and_shapes_of_outputs():
    known, _ = traced(lambda x: ({"b": x[0], "a": (x, [x[:2]])}, {"n": x, "s": None}), X)
    assert known.out_paths == ("output['a'][0]", "output['a'][1][0]", "output['b']")
    assert [a.shape for a in known.out_avals] == [(3,), (2,), ()]
    assert known.aux_tree == jax.tree.structure({"n": 0, "s": None})
    assert known.out_tree == jax.tree.structure({"a": (0, [0]), "b": 0})


# Settings and traces


def test_settings_leave_harmless_flags_out():
    names = set(settings())
    assert {"jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable"} <= names
    assert not names & {"jax_debug_nans", "jax_disable_jit", "jax_check_tracer_leaks", "jax_log_compiles"}


def test_tracing_is_seen():
    assert not _trace.tracing()
    seen = []
    jax.make_jaxpr(lambda x: seen.append(_trace.tracing()) or x)(1.0)
    jax.vmap(lambda x: seen.append(_trace.tracing()) or x)(jnp.ones(2))
    jax.grad(lambda x: seen.append(_trace.tracing()) or x)(1.0)
    # `tracing` tells whether a trace is active, not whether a certain value is traced. What it tells under jax.grad is
    # not checked.
    assert seen[:2] == [True, True] and not _trace.tracing()


def test_which_outputs_depend_on_which_inputs():
    def f(x, y):
        return (x * 2, jnp.sum(y) + x, jnp.ones(2), jnp.where(np.zeros(2, bool), y[0], 1.0)), None

    found = read_dependence(point_of(f, X, Y))
    assert found.outputs == [{0}, {0, 1}, set(), set()] and found.real_linear == []


def test_dependence_sees_a_closed_over_array_of_zeros():
    zeros = jnp.zeros(3)
    assert read_dependence(point_of(lambda x: ((x * zeros, x * (zeros + 1)), None), X)).outputs == [set(), {0}]
