"""Attempts to get wrong numbers without an error, or a crash, from the public interface."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import jacobian, materialize

pytestmark = [pytest.mark.usefixtures("empty_cache"), pytest.mark.slow]

RNG = np.random.default_rng(9)
X = RNG.normal(size=4).astype(np.float32)
WIDE = RNG.normal(size=(70, 4)).astype(np.float32)


def close(a, b, tolerance=1e-4):
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(np.asarray(a), b, rtol=tolerance, atol=tolerance)


@jax.custom_jvp
def squared(x):
    return x**2


squared.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))


def with_rule(x):
    return squared(x)[1:]


def with_jit(x):
    return jnp.where(x > 0, x**2, jnp.sin(x)) * x[0]


def without(x):
    return jnp.sin(x) * x[0]


def wide(x):
    return jnp.tanh(jnp.asarray(WIDE) @ x)


def dense(f, x=None):
    """The Jacobian of f, by forward mode; at X, that of a function of this file is computed once."""
    return _dense_at_x(f) if x is None else np.asarray(jax.jit(jax.jacfwd(f))(x))


@functools.cache
def _dense_at_x(f):
    return np.asarray(jax.jit(jax.jacfwd(f))(X))


# The same program at other shapes: several right-hand sides, several samples


PROGRAMS = [with_rule, with_jit, without]


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_products_of_three_vectors_then_of_five(f):
    J, expected = jacobian(f)(X), dense(f)
    for k in (3, 5, 2):
        v, u = RNG.normal(size=(4, k)).astype(np.float32), RNG.normal(size=(k, len(expected))).astype(np.float32)
        close(J.mv(v), expected @ v)
        close(J.vm(u), u @ expected)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_products_of_other_widths_say_nothing_about_directions(f):
    J = jacobian(f)(X)
    for k in (3, 5, 2):
        J.mv(np.ones((4, k), np.float32))
    assert J.plan == jacobian(f)(X).plan and J.stats.kernel_calls == 3
    known = J._origin.directions(J._layout.block)
    assert (known.pullback, known.pushforward) == (True, "jvp")


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_three_samples_then_five(f):
    rows = jax.jit(jax.vmap(jax.jacfwd(f)))
    for samples in (3, 5, 2):
        batch = RNG.normal(size=(samples, 4)).astype(np.float32)
        expected = np.asarray(rows(batch))
        close(jax.vmap(jacobian(f))(batch)[...], expected)
        J = jax.vmap(jacobian(f))(batch)
        close(J[:, 1], expected[:, 1])
        close(J[..., 1], expected[..., 1])


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_the_values_of_three_samples_then_of_five(f):
    for samples in (3, 5, 2):
        batch = RNG.normal(size=(samples, 4)).astype(np.float32)
        close(jax.vmap(jacobian(f))(batch).value, jax.jit(jax.vmap(f))(batch))


# Programs whose rules differ only in parts that no derivative shows


def rule_of(kind, factor=1.0):
    if kind == "custom_jvp":
        f = jax.custom_jvp(jnp.sin)
        f.defjvp(lambda p, t: (jnp.sin(p[0]), factor * jnp.cos(p[0]) * t[0]))
        return f
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (factor * u * jnp.cos(x),))
    return f


AUX = {
    "pair": lambda a, b: (a, b),
    "pair, swapped": lambda a, b: (b, a),
    "one": lambda a, b: a,
    "the other": lambda a, b: b,
    "none": lambda a, b: None,
}


@pytest.mark.parametrize("kind", ["custom_jvp", "custom_vjp"])
@pytest.mark.parametrize("jitted", [False, True], ids=["plain", "inner jit"])
def test_programs_that_differ_in_aux_alone(kind, jitted):
    rule = rule_of(kind)
    rule = jax.jit(rule) if jitted else rule
    for make in AUX.values():

        def f(x, make=make):
            y, a, b = rule(x), x * 3, x * 5
            return y, make(a, b)

        J, aux = jacobian(f, has_aux=True)(X)
        for got, expected in zip(jax.tree.leaves(aux), jax.tree.leaves(make(X * 3, X * 5)), strict=True):
            close(got, expected)
        close(J[1], np.diag(np.cos(X))[1])
        close(J[2], np.diag(np.cos(X))[2])
        close(J.value, np.sin(X))


@pytest.mark.parametrize("kind", ["custom_jvp", "custom_vjp"])
def test_programs_that_differ_in_one_of_two_rules(kind):
    for factor in (1.0, 3.0, 1.0):
        rule = rule_of(kind, factor)
        J = jacobian(lambda x, rule=rule: (rule(x), x * 2))(X)
        for key in (0, 1, (slice(None), 1), ...):
            close(J[0][key], (factor * np.diag(np.cos(X)))[key])
            close(J[1][key], (2 * np.eye(4))[key])


@pytest.mark.parametrize("kind", ["custom_jvp", "custom_vjp"])
def test_programs_that_differ_in_the_order_of_outputs(kind):
    rule = rule_of(kind)
    for swapped in (False, True):

        def f(x, swapped=swapped):
            y, z = rule(x), x * 2
            return (z, y) if swapped else (y, z)

        y, z = jacobian(f)(X)[::-1] if swapped else jacobian(f)(X)
        close(y[0], np.diag(np.cos(X))[0])
        close(z[0], 2 * np.eye(4)[0])
        close(y.value, np.sin(X))
        close(z.value, 2 * X)


# Rows in passes: more than a loop is wide, or than chunk_size says


ROW_SETS = {
    "66 rows": (slice(0, 66), {}),
    "3 rows by twos": (slice(1, 4), {"chunk_size": 2}),
    "70 by nines": (slice(None, None, -1), {"chunk_size": 9}),
    "a block": ((slice(0, 69), slice(0, 2)), {}),
}


@pytest.mark.parametrize("name", ROW_SETS)
def test_rows_in_passes(name):
    key, options = ROW_SETS[name]
    close(jacobian(wide, mode="rev", **options)(X)[key], dense(wide)[key])


READERS = {
    "in jit": lambda key, **options: jax.jit(lambda x: jacobian(wide, **options)(x)[key])(X),
    "a view into jit": lambda key, **options: jax.jit(lambda J: J[key])(jacobian(wide, **options)(X)),
    "jit=False": lambda key, **options: jacobian(wide, jit=False, **options)(X)[key],
    "disable_jit": lambda key, **options: without_jit(lambda: jacobian(wide, **options)(X)[key]),
    "in vmap": lambda key, **options: jax.vmap(lambda x: jacobian(wide, **options)(x)[key])(X[None])[0],
}


def without_jit(read):
    with jax.disable_jit():
        return read()


@pytest.mark.parametrize("reader, name", [
    ("in jit", "66 rows"),
    ("in jit", "3 rows by twos"),
    ("a view into jit", "70 by nines"),
    ("a view into jit", "a block"),
    ("jit=False", "3 rows by twos"),
    ("jit=False", "70 by nines"),
    ("in vmap", "66 rows"),
    ("in vmap", "a block"),
])  # fmt: skip
def test_rows_in_passes_inside_a_trace(reader, name):
    key, options = ROW_SETS[name]
    close(READERS[reader](key, mode="rev", **options), dense(wide)[key])


def test_rows_in_passes_under_disable_jit():
    close(READERS["disable_jit"](slice(1, 4), mode="rev", chunk_size=2), dense(wide)[1:4])


def test_70_traced_rows():
    rows = jax.jit(lambda i: jacobian(wide, mode="rev")(X)[i])(jnp.arange(70) % 9)
    close(rows, dense(wide)[np.arange(70) % 9])


# Memory limits


def tall(x):
    return jnp.tile(x, 1000) * 2


@pytest.mark.parametrize("key", [(2999, 3), slice(100, 400), slice(None, None, 40)], ids=str)
def test_few_rows_of_a_tall_matrix_fit_where_columns_do_not(key):
    close(jacobian(tall, memory_limit=6000)(X)[key], np.tile(2 * np.eye(4), (1000, 1))[key])


@pytest.mark.parametrize("key", [3999, -1, slice(5, 8), [3, 0, 3]], ids=str)
def test_one_row_of_a_tall_matrix(key):
    close(jacobian(tall, memory_limit=6000)(X)[key], np.tile(2 * np.eye(4), (1000, 1))[key])


def test_a_result_that_fits_without_its_padding():
    J = jacobian(wide, mode="rev", memory_limit=900)(X)  # 20 rows take 320 bytes, 64 take 1024
    close(J[:20], dense(wide)[:20])


# Axis names


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_an_axis_name_inside_f(mode):
    batch = np.stack([X, 2 * X])

    def f(x):
        return jnp.sin(x) * jax.lax.axis_index("samples")

    def rows(jac):
        return jax.vmap(lambda x: jac(x)[1], axis_name="samples")(batch)

    close(rows(jacobian(f, mode=mode)), jax.jit(lambda: rows(jax.jacrev(f)))())


def mapped(f):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


@pytest.mark.parametrize(
    "read", [lambda x: jacobian(without)(x)[1], lambda x: jacobian(without)(x)[...]], ids=["row", "all"]
)
def test_reads_inside_shard_map(read):
    close(mapped(lambda batch: jax.vmap(read)(batch))(np.stack([X, X])), np.stack([np.asarray(read(X))] * 2))


def test_a_view_comes_out_of_shard_map():
    J = mapped(lambda batch: jax.vmap(jacobian(without))(batch))(np.stack([X, 2 * X]))
    close(J[:, 1], np.stack([dense(without)[1], dense(without, 2 * X)[1]]))


# Products with other dtypes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "product", [lambda J, v: J.mv(v), lambda J, v: J @ v, lambda J, v: v @ J, lambda J, v: J.vm(v)]
)
@pytest.mark.parametrize("known", [False, True], ids=["fresh", "known"])
def test_a_real_jacobian_times_a_complex_vector_keeps_it_or_raises(product, known):
    J, v = jacobian(without)(X), X + 2j * X[::-1]
    if known:
        J[...]
    try:
        out = product(J, v)
    except (TypeError, ValueError):
        return
    close(np.imag(out), np.imag(product(dense_view(), v)))


class dense_view:  # noqa: N801
    """The four products, by NumPy."""

    def __init__(self):
        self.array = dense(without)

    def mv(self, v):
        return self.array @ v

    def vm(self, u):
        return u @ self.array

    __matmul__, __rmatmul__ = mv, vm
    __array_ufunc__ = None


def test_vectors_of_integers_and_lists():
    for v in (np.arange(4), [0, 1, 2, 3], jnp.arange(4, dtype=jnp.int8), np.arange(4.0)):
        close(jacobian(without)(X).mv(v), dense(without) @ np.arange(4))
        close(np.asarray(v) @ jacobian(without)(X), np.arange(4) @ dense(without))


# Values and auxiliary outputs that the caller has given away


@pytest.mark.parametrize("reads", [0, 2], ids=["fresh", "residuals kept"])
def test_a_deleted_value_is_computed_again(reads):
    J = jacobian(jnp.exp)(X)
    [J[k] for k in range(reads)]
    J.value.delete()
    close(J.value, np.exp(X))


def test_a_deleted_aux_is_computed_again():
    J, aux = jacobian(lambda x: (jnp.sin(x), jnp.cos(x)), has_aux=True)(X)
    aux.delete()
    close(J.aux, np.cos(X))


def test_rows_after_the_value_and_aux_were_deleted():
    J, aux = jacobian(lambda x: (jnp.exp(x), jnp.exp(x)), has_aux=True)(X)
    J[0], J[1]
    aux.delete()
    J.value.delete()
    for key in (2, slice(0, 2), (slice(None), 3), ...):
        close(J[key], np.diag(np.exp(X))[key])


def test_an_input_that_is_the_output():
    x = jnp.asarray(X)
    J = jacobian(lambda x: (x, x * 2))(x)
    close(J[1][0], 2 * np.eye(4)[0])
    close(J[0].value, X)
    close(J[1][1:3], 2 * np.eye(4)[1:3])


# Odd auxiliary outputs


@pytest.mark.parametrize(
    "aux", [None, 3, 2.5, True, (), {"a": np.arange(3), "b": [None]}, np.float64(1.5)], ids=lambda aux: repr(aux)[:20]
)
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "python"])
def test_odd_aux(aux, jit):
    J, got = jacobian(lambda x: (x * 2, aux), has_aux=True, jit=jit)(X)
    assert jax.tree.structure(got) == jax.tree.structure(aux)
    for a, e in zip(jax.tree.leaves(got), jax.tree.leaves(aux), strict=True):
        assert np.array_equal(a, e)
    close(J[1], 2 * np.eye(4)[1])


@pytest.mark.parametrize("aux", ["text", {"a": "b"}, jnp.sin], ids=["text", "tree", "function"])
def test_aux_that_is_no_array_raises_as_in_jit(aux):
    with pytest.raises(TypeError):
        jax.jit(lambda x: (x * 2, aux))(X)
    with pytest.raises(TypeError):
        jacobian(lambda x: (x * 2, aux), has_aux=True)(X)


# Static arguments that Python calls equal


@pytest.mark.parametrize(("one", "other"), [((1,), (True,)), ((0.0,), (-0.0,))], ids=str)
def test_static_tuples_that_python_calls_equal(one, other):
    def f(x, t):
        return x * np.float32(np.copysign(2 if t[0] is True else 3, t[0]))

    jac = jacobian(f, static_argnums=1)
    for t in (one, other):
        close(jac(X, t)[1], np.asarray(jax.jit(jax.jacrev(f), static_argnums=1)(X, t))[1])


# Devices


@pytest.mark.parametrize("f", [with_rule, with_jit, without], ids=lambda f: f.__name__)
def test_results_live_on_the_device_of_the_inputs(f):
    x = jax.device_put(X, jax.devices()[1])
    for key in (0, slice(0, 2), [1, 0], (slice(None), 1), (1, 2), ...):
        got = jacobian(f)(x)[key]
        assert got.devices() == x.devices()
        close(got, dense(f)[key])
    assert jacobian(f)(x).value.devices() == jacobian(f)(x).mv(X).devices() == x.devices()


def test_an_empty_result_lives_on_the_device_of_the_inputs():
    x = jax.device_put(X, jax.devices()[1])
    assert jacobian(without)(x)[0:0].devices() == x.devices()


@pytest.mark.parametrize("f", [with_jit, without], ids=lambda f: f.__name__)
def test_sharded_inputs(f):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d")))
    J = jacobian(f)(x)
    for key in (0, slice(0, 2), [1, 0], (slice(None), 1), (1, 2), ...):
        close(jacobian(f)(x)[key], dense(f)[key])
        close(J[key], dense(f)[key])
    close(J.mv(X), dense(f) @ X)


# Attempts that found no error


KEYS = [0, slice(1, 3), [2, 0, 2], (slice(None), 1), (2, 3), ([0, 1], [2, 3]), ..., slice(0, 0)]


def nested(x):
    """Reads of one view in traces inside of one another."""
    J = jacobian(without)(x)
    first, second = J[0], J[1]
    _, scanned = jax.lax.scan(lambda c, i: (c, J[i] + J[i]), 0, jnp.arange(4))
    return first, second, scanned, J[2], jax.vmap(lambda i: J[i] + J[2])(jnp.arange(4)), J[3], J.value


@pytest.mark.parametrize(
    "how", [lambda f: f, jax.jit, lambda f: lambda x: jax.tree.map(lambda a: a[0], jax.vmap(f)(x[None]))]
)
def test_one_view_in_traces_inside_of_one_another(how):
    D = dense(without)
    for a, e in zip(how(nested)(X), (D[0], D[1], 2 * D, D[2], D + D[2], D[3], np.sin(X) * X[0]), strict=True):
        close(a, e)


def test_a_concrete_view_read_in_one_trace_after_the_other():
    J, D = jacobian(without)(X), dense(without)
    for k in range(3):
        for a, e in zip(
            jax.jit(lambda k=k: (J[0] * k, J[1], J[2], J[:, 1]))(), (D[0] * k, D[1], D[2], D[:, 1]), strict=True
        ):
            close(a, e)
    close(J[...], D)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "python"])
def test_jacobians_inside_of_f(jit):
    def f(x):
        return jacobian(without)(x)[1] * x + jnp.sum(jacobian(with_jit)(x)[:, 0])

    expected = dense(lambda x: jax.jacfwd(without)(x)[1] * x + jnp.sum(jax.jacfwd(with_jit)(x)[:, 0]))
    for key in KEYS if jit else KEYS[:2]:
        close(jacobian(f, jit=jit)(X)[key], expected[key])


def test_a_function_that_calls_its_own_jacobian():
    def power(n, x):
        return x * x if n == 0 else jacobian(lambda v: jnp.sum(power(n - 1, v)))(x)[...] * x

    def reference(n, x):
        return x * x if n == 0 else jax.grad(lambda v: jnp.sum(reference(n - 1, v)))(x) * x

    close(jacobian(functools.partial(power, 3))(X)[1], dense(functools.partial(reference, 3))[1])


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return jnp.sin(x) * self.factor

    def method(self, x):
        return jnp.cos(x) * self.factor


class Equal(Slotted):
    """Weakly referenced, and equal to every other one."""

    __slots__ = ("__weakref__",)

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


@pytest.mark.parametrize("kind", [Slotted, Equal])
def test_callable_objects_and_bound_methods(kind):
    for factor in (2.0, 3.0, 2.0):
        thing = kind(factor)
        close(jacobian(thing)(X)[1], np.diag(np.cos(X) * factor)[1])
        close(jacobian(thing.method)(X)[1], np.diag(-np.sin(X) * factor)[1])
        close(jacobian(functools.partial(kind.method, thing))(X)[1], np.diag(-np.sin(X) * factor)[1])


def test_none_and_empty_leaves():
    def f(p, x):
        return {"y": p["w"] @ x, "none": None, "nothing": (), "empty": x[:0]}

    p = {"w": WIDE[:3], "none": None, "nothing": (), "empty": np.zeros((0, 2), np.float32)}
    got, expected = materialize(jacobian(f, (0, 1))(p, X)), jax.jit(jax.jacrev(f, (0, 1)))(p, X)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        close(a, e)
    assert jacobian(f, (0, 1), ravel=True)(p, X)[...].shape == (3, 16)


def test_ravel_of_inputs_of_several_dtypes():
    def f(a, b):
        return a**2, jnp.sum(b.astype(jnp.float32) * a[0])

    a, b = X[:3], X[:2].astype(np.float16)
    expected = np.zeros((4, 5), np.float32)
    expected[:3, :3], expected[3, 0], expected[3, 3:] = np.diag(2 * a), np.sum(b.astype(np.float32)), a[0]
    for key in KEYS:
        J = jacobian(f, (0, 1), ravel=True)(a, b)
        assert J[key].dtype == J.dtype == jnp.float32
        close(J[key], expected[key], 1e-2)
    close(J.T[3], expected.T[3], 1e-2)
    close(J @ np.arange(5.0), expected @ np.arange(5.0), 1e-2)


def test_debug_print_in_f(capfd):
    def f(x):
        jax.debug.print("f {}", x[0])
        return jnp.sin(x)

    J = jacobian(f)(X)
    for key in KEYS:
        close(J[key], np.diag(np.cos(X))[key])
    close(jax.vmap(jacobian(f))(X[None])[0, 1], np.diag(np.cos(X))[1])


def test_threads_read_write_and_clear_one_opaque_view():
    J, D, wrong = jacobian(with_jit)(X), dense(with_jit), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(25):
            key = KEYS[rng.integers(len(KEYS))]
            try:
                if not np.allclose(J[key], D[key], atol=1e-4):
                    wrong.append(key)
            except Exception as error:
                wrong.append(error)
            if rng.random() < 0.3:
                J.clear()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert wrong == []
