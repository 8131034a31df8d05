"""The kernel cache and the row store: nothing is traced or compiled twice, and functions never mix up numbers."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

import jacobia
from jacobia import jacobian
from jacobia._run import kernels as _kernels
from jacobia._run.kernels import ReadError

X = np.linspace(0.1, 1, 4, dtype=np.float32)
REFUSALS = (TypeError, ValueError, RuntimeError)

pytestmark = [pytest.mark.usefixtures("empty_cache"), pytest.mark.slow]


# The counters of these tests


def test_the_compile_counter_counts(compiles):
    @jax.jit
    def f(x):
        return x * 3 + 1

    f(jnp.ones(7)).block_until_ready()
    first = compiles.count
    assert first >= 1
    f(jnp.ones(7)).block_until_ready()
    assert compiles.count == first
    f(jnp.ones(8)).block_until_ready()
    assert compiles.count > first


# Tracing and compiling once


def counted(body):
    """`body` as a function that counts how often Python runs it."""

    def f(*args):
        f.calls += 1
        return body(*args)

    f.calls = 0
    return f


def read_all_ways(J):
    return J[1], J[0:3], J[[2, 0]], J[:, 1], J[2, 2], J[...]


def test_a_function_is_traced_once_per_abstract_input():
    f = counted(jnp.sin)
    read_all_ways(jacobian(f)(X))
    calls = f.calls
    for scale in (2, 3):
        J = jacobian(f)(scale * X)
        read_all_ways(J)
        assert_close(J[...], np.diag(np.cos(scale * X)))
    read_all_ways(jacobian(f)(jnp.asarray(X)))
    assert f.calls == calls
    jacobian(f)(np.ones(5, np.float32))[0]
    assert f.calls > calls


def test_all_kernels_of_a_function_come_from_one_trace():
    f = counted(jnp.sin)
    read_all_ways(jacobian(f)(X))
    assert 1 <= f.calls <= 2  # one for the shapes, one for the program


def test_a_traced_number_does_not_trace_again_and_a_static_one_does():
    f = counted(lambda x, n: x * n)
    assert_close(jacobian(f)(X, 2)[0], 2 * np.eye(4)[0])
    calls = f.calls
    assert_close(jacobian(f)(X, 3)[0], 3 * np.eye(4)[0])
    assert f.calls == calls
    assert_close(jacobian(f, static_argnums=1)(X, 4)[0], 4 * np.eye(4)[0])
    assert f.calls > calls


def test_a_new_view_of_a_known_function_compiles_nothing(compiles):
    def f(x):
        return jnp.tanh(x) * x[0]

    first = [np.asarray(part) for part in read_all_ways(jacobian(f)(X))]
    before = compiles.count
    again = [np.asarray(part) for part in read_all_ways(jacobian(f)(X))]
    assert compiles.count == before
    assert_close(again, first)


def test_a_second_lambda_with_the_same_body_compiles_nothing(compiles):
    def make():
        return lambda x: jnp.sin(x) * jnp.sum(x)

    first = [np.asarray(part) for part in read_all_ways(jacobian(make())(X))]
    before = compiles.count
    again = [np.asarray(part) for part in read_all_ways(jacobian(make())(X))]
    assert compiles.count == before
    assert_close(again, first)


def test_closed_over_arrays_are_arguments_of_the_kernel(compiles):
    def make(weights):
        return lambda x: jnp.tanh(weights @ x)

    rng = np.random.default_rng(0)
    matrices = [jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(3)]
    np.asarray(jacobian(make(matrices[0]))(X)[1:3])
    before = compiles.count
    for weights in matrices[1:]:
        rows = np.asarray(jacobian(make(weights))(X)[1:3])
        expected = (1 - np.tanh(np.asarray(weights) @ X) ** 2)[:, None] * np.asarray(weights)
        assert_close(rows, expected[1:3])
    assert compiles.count == before


def test_200_random_row_sets_compile_at_most_12_times(compiles):
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(2000, 4)), jnp.float32)

    def f(x):
        return jnp.tanh(matrix @ x)

    dense = (1 - np.tanh(np.asarray(matrix) @ X) ** 2)[:, None] * np.asarray(matrix)
    rng = np.random.default_rng(2)
    before = compiles.count
    for _ in range(200):
        rows = rng.choice(2000, size=rng.integers(1, 2000), replace=False)
        assert_close(jacobian(f)(X)[rows], dense[rows])
    assert compiles.count - before <= 12
    assert jacobia.cache_info().compiles <= 12


# Counters and limits


def test_cache_info_counts():
    info = jacobia.cache_info()
    assert (info.kernels, info.compiles, info.hits, info.misses) == (0, 0, 0, 0)

    def f(x):
        return x**2

    np.asarray(jacobian(f)(X)[1:3])
    first = jacobia.cache_info()
    assert first.kernels >= 1 and first.compiles >= 1 and first.misses >= 1
    np.asarray(jacobian(f)(X)[1:3])
    second = jacobia.cache_info()
    assert (second.kernels, second.compiles, second.misses) == (first.kernels, first.compiles, first.misses)
    assert second.hits > first.hits


def test_cache_clear_empties_and_old_views_go_on():
    def f(x):
        return x**2

    J = jacobian(f)(X)
    J[0]
    jacobia.cache_clear()
    info = jacobia.cache_info()
    assert (info.kernels, info.compiles, info.hits, info.misses) == (0, 0, 0, 0)
    assert_close(J[...], np.diag(2 * X))
    assert_close(jacobian(f)(X)[:, 2], np.diag(2 * X)[:, 2])


def test_the_cache_is_bounded(monkeypatch, empty_cache, new_programs):
    f = lambda x: jnp.sin(x)  # noqa: E731 - no view of it has been read more than once
    assert jacobia.cache_info().limit == 256
    monkeypatch.setattr(_kernels._cache, "limit", 6)
    held = []
    for size in range(1, 16):
        x = np.full(size, 0.5, np.float32)
        assert_close(jacobian(f)(x)[-1], np.cos(0.5) * np.eye(size)[-1])
        held.append(jacobia.cache_info().kernels)
    # 15 programs were read; the least recently used were dropped.
    assert held[5:] == [6] * 10 and jacobia.cache_info().misses == 15


def test_a_function_and_what_it_closes_over_are_freed_when_dropped():
    def make():
        weights = jnp.asarray(np.full((3, 4), 0.5, np.float32))

        def f(x):
            return jnp.tanh(weights @ x)

        return f, weights

    f, weights = make()
    J = jacobian(f)(X)
    J[0], J[:, 1], J[...]
    alive = weakref.ref(f), weakref.ref(weights)
    del f, weights, J
    gc.collect()
    assert [ref() is None for ref in alive] == [True, True]


def test_a_second_function_with_the_same_program_is_freed_too():
    def make(value):
        weights = jnp.asarray(np.full((3, 4), value, np.float32))
        return (lambda x: jnp.tanh(weights @ x)), weights

    first, first_weights = make(0.5)
    second, second_weights = make(0.25)
    jacobian(first)(X)[0]
    jacobian(second)(X)[0]
    alive = weakref.ref(first_weights), weakref.ref(second_weights)
    del first, first_weights
    gc.collect()
    assert alive[0]() is None
    dense = (1 - np.tanh(np.full((3, 4), 0.25) @ X) ** 2)[:, None] * 0.25
    assert_close(jacobian(second)(X)[...], np.broadcast_to(dense, (3, 4)))
    del second, second_weights
    gc.collect()
    assert alive[1]() is None


def test_nothing_holds_a_tracer():
    def f(x):
        return jnp.sin(x) * x[0]

    expected = np.diag(np.cos(X)) * X[0]
    expected[:, 0] += np.sin(X)
    with jax.checking_leaks():
        rows = jax.jit(lambda x: jacobian(f)(x)[1:3])(X)
        jax.jit(jax.grad(lambda x: jacobian(f)(x)[1, 1]))(X)
        jax.vmap(lambda x: jacobian(f)(x)[0])(np.stack([X, X]))
        jax.lax.scan(lambda x, _: (x - 0.1 * jacobian(f)(x)[0], None), jnp.asarray(X), None, length=2)
        jax.jit(lambda x: jacobian(f)(x)[...])(X)
        concrete = jacobian(f)(X)[...]
    assert_close(rows, expected[1:3])
    assert_close(concrete, expected)
    # Results traced under jit are not used for concrete views, nor the other way round.
    assert_close(jacobian(f)(X)[0], expected[0])
    assert_close(jax.jit(lambda x: jacobian(f)(x)[0])(X), expected[0])


# Two functions that differ in one thing never get each other's numbers


def with_jvp_rule(factor):
    @jax.custom_jvp
    def f(x):
        return x * 1.0

    @f.defjvp
    def _(primals, tangents):
        return f(*primals), factor * tangents[0]

    return f


def with_vjp_rule(factor):
    @jax.custom_vjp
    def f(x):
        return x * 1.0

    f.defvjp(lambda x: (x * 1.0, None), lambda _, u: (factor * u,))
    return f


def with_callback(factor):
    def body(x):
        return np.asarray(factor * np.asarray(x), np.float32)

    return lambda x: (
        x * jax.pure_callback(body, jax.ShapeDtypeStruct((), jnp.float32), jnp.float32(1), vmap_method="sequential")
    )


def with_indices(shift):
    indices = np.roll(np.arange(4), shift)
    return lambda x: x[indices] * 1.0


def with_jax_indices(shift):
    indices = jnp.roll(jnp.arange(4), shift)
    return lambda x: x[indices] * 1.0


def with_scalar(factor):
    return lambda x: x * factor


def with_array(factor):
    array = jnp.full((4,), factor)
    return lambda x: x * array


def with_predicate(factor):
    flag = jnp.asarray(factor > 2)
    return lambda x: jax.lax.cond(flag, lambda v: 3.0 * v, lambda v: 2.0 * v, x)


def with_where(factor):
    mask = np.full(4, factor > 2)
    return lambda x: jnp.where(mask, 3.0 * x, 2.0 * x)


def with_scan_length(factor):
    return lambda x: jax.lax.scan(lambda c, _: (c + x, None), 0 * x, None, length=int(factor))[0]


def with_nested_rule(factor):
    inner = with_jvp_rule(factor)
    return lambda x: jax.jit(lambda v: jax.lax.map(inner, v))(x)


FACTORED = [
    with_jvp_rule,
    with_vjp_rule,
    with_callback,
    with_scalar,
    with_array,
    with_predicate,
    with_where,
    with_scan_length,
    with_nested_rule,
]


KEYS = {"row": 1, "column": (slice(None), 1), "all": ...}


@pytest.mark.parametrize("make", FACTORED, ids=lambda make: make.__name__)
def test_two_functions_that_differ_in_one_thing(make):
    for key in KEYS.values():
        for factor in (2.0, 3.0, 2.0):
            assert_close(jacobian(make(factor))(X)[key], (factor * np.eye(4))[key])


@pytest.mark.parametrize("make", [with_indices, with_jax_indices], ids=lambda make: make.__name__)
def test_two_functions_that_differ_in_their_indices(make):
    for key in KEYS.values():
        for shift in (1, 2, 1):
            assert_close(jacobian(make(shift))(X)[key], np.roll(np.eye(4), shift, axis=0)[key])


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_zero_and_minus_zero_are_two_numbers(key):
    def make(zero):
        # 1 / zero is inf or -inf.
        return lambda x: x / jnp.sign(1 / jnp.float32(zero))

    for zero, sign in ((0.0, 1), (-0.0, -1), (0.0, 1)):
        assert_close(jacobian(make(zero))(X)[key], (sign * np.eye(4))[key])


def test_a_filled_array_of_minus_zeros_is_not_one_of_zeros():
    def make(zero):
        return lambda x: x * jnp.sign(1 / jnp.full_like(x, zero))

    for zero, sign in ((0.0, 1), (-0.0, -1), (0.0, 1)):
        assert_close(jacobian(make(zero))(X)[1], sign * np.eye(4)[1])


def test_one_and_true_are_two_static_values():
    def f(x, flag):
        return x * 2 if flag is True else x * 3

    jacobian_ = jacobian(f, static_argnums=1)
    for flag, factor in ((1, 3), (True, 2), (1, 3), (1.0, 3)):
        assert_close(jacobian_(X, flag)[1], factor * np.eye(4)[1])


def test_one_and_true_are_two_closed_over_values():
    def make(value):
        return lambda x: x * (2 if value is True else 3)

    for value, factor in ((1, 3), (True, 2), (1, 3)):
        assert_close(jacobian(make(value))(X)[1], factor * np.eye(4)[1])


def test_options_are_part_of_what_is_remembered():
    def f(x):
        return jnp.sum(x**2), jnp.sin(x)

    assert_close(jacobian(f)(X)[0][...], 2 * X)
    assert_close(jacobian(lambda x: f(x)[0])(X)[...], 2 * X)
    J, aux = jacobian(f, has_aux=True)(X)
    assert_close(J[...], 2 * X)
    assert_close(aux, np.sin(X))
    assert_close(jacobian(f, ravel=True)(X)[...], np.vstack([2 * X, np.diag(np.cos(X))]))


def test_dtypes_and_weak_types_do_not_meet():
    def f(x):
        return x * 2

    for x, dtype in ((1.0, jnp.float32), (np.float16(1), jnp.float16), (np.float32(1), jnp.float32)):
        J = jacobian(f)(x)
        assert J.dtype == dtype and J[()].dtype == dtype
        assert float(J) == 2


# Settings switched between two reads


def threefry_numbers(x):
    return x * jax.random.normal(jax.random.key(3), x.shape)


def read_or_raise(read):
    try:
        return np.asarray(read())
    except REFUSALS:
        return None


def test_threefry_partitionable_switched_between_two_reads():
    numbers = {}
    for flag in (True, False):
        with jax.threefry_partitionable(flag):
            numbers[flag] = np.asarray(jax.random.normal(jax.random.key(3), (5,)))
    assert not np.allclose(numbers[True], numbers[False])  # the setting matters
    x = np.ones(5, np.float32)
    for flag in (True, False):
        with jax.threefry_partitionable(flag):
            J = jacobian(threefry_numbers)(x)
            assert_close(J[0], np.diag(numbers[flag])[0])
        with jax.threefry_partitionable(not flag):
            other = read_or_raise(lambda J=J: J[1])
            assert other is None or np.allclose(other, np.diag(numbers[flag])[1], rtol=1e-5)
            assert_close(jacobian(threefry_numbers)(x)[...], np.diag(numbers[not flag]))
        with jax.threefry_partitionable(flag):
            assert_close(J[...], np.diag(numbers[flag]))


def test_x64_switched_between_two_reads():
    def f(x):
        return x * 2 + jnp.ones(4) * jnp.asarray(0.1)

    J = jacobian(f)(X)
    J[0]
    with jax.enable_x64(True):
        other = read_or_raise(lambda: J[1])
        assert other is None or (other.dtype == np.float32 and np.allclose(other, 2 * np.eye(4)[1]))
        K = jacobian(f)(X.astype(np.float64))
        assert K.dtype == jnp.float64 and K[...].dtype == jnp.float64
        assert_close(K[...], 2 * np.eye(4))
        # The same input, another program: the output is float64 now.
        assert jacobian(f)(X).dtype == jnp.result_type(jnp.float32, jax.eval_shape(f, X).dtype)
    other = read_or_raise(lambda: jacobian(f)(X)[2])
    assert other is not None and other.dtype == np.float32
    assert_close(J[...], 2 * np.eye(4))
    rest = read_or_raise(lambda: K[0])
    assert rest is None or (rest.dtype == np.float64 and np.allclose(rest, 2 * np.eye(4)[0]))


def test_matmul_precision_switched_between_two_reads():
    rng = np.random.default_rng(4)
    matrix = jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)
    x = rng.normal(size=64).astype(np.float32)
    expected = np.asarray(matrix, np.float64) @ np.asarray(matrix, np.float64)

    def f(x):  # a pullback selects rows of the outer matrix, then multiplies by the inner one
        return matrix @ (matrix @ x)

    def lowered(read):
        return jax.jit(read).lower(x).as_text()

    # Whether the numbers differ depends on the device, but the lowered program always shows the setting.
    with jax.default_matmul_precision("highest"):
        highest = lowered(lambda x: jacobian(f)(x)[0:2])
    default = lowered(lambda x: jacobian(f)(x)[0:2])
    assert "HIGHEST" in highest and "HIGHEST" not in default
    with jax.default_matmul_precision("highest"):
        J = jacobian(f)(x)
        assert_close(J[0], expected[0])
    other = read_or_raise(lambda: J[1])
    assert other is None or np.allclose(other, expected[1], rtol=1e-4, atol=1e-4)
    with jax.default_matmul_precision("highest"):
        assert_close(J[1], expected[1])


# What cannot be remembered


def test_a_closed_over_ref_raises():
    ref = jax.new_ref(jnp.float32(2))
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        jacobian(lambda x: x * ref[...])(X)[0]


def test_ordered_effects_raise():
    def f(x):
        jax.debug.print("x = {}", x[0], ordered=True)
        return x * 2

    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        jacobian(f)(X)[0]


# Rows: deleted, donated, written


def test_a_deleted_row_is_computed_again():
    J = jacobian(jnp.sin)(X)
    row = J[1]
    row.delete()
    assert_close(J[1], np.diag(np.cos(X))[1])
    rows = J[0:3]
    rows.delete()
    assert_close(J[0:3], np.diag(np.cos(X))[0:3])
    assert_close(J[1], np.diag(np.cos(X))[1])
    whole = J[...]
    whole.delete()
    assert_close(J[...], np.diag(np.cos(X)))
    assert_close(J[:, 1], np.diag(np.cos(X))[:, 1])


def test_a_donated_row_is_computed_again():
    consume = jax.jit(lambda row: row + 1, donate_argnums=0)
    J = jacobian(jnp.sin)(X)
    for key in (1, slice(0, 3), (slice(None), 2), ...):
        consume(J[key])
        assert_close(J[key], np.diag(np.cos(X))[key])


def test_a_deleted_point_raises_and_says_so():
    x = jnp.asarray(X)
    J = jacobian(lambda x: jnp.sin(x) * x[0])(x)
    x.delete()
    with pytest.raises(REFUSALS, match="(?i)delet|donat"):
        J[1]


# Every kind of read, of a view of which nothing, or something else, has been read.
READS = {
    "row": lambda J: J[2],
    "rows": lambda J: J[1:],
    "places": lambda J: J[[2, 1], [0, 1]],
    "column": lambda J: J[:, 1],
    "all": lambda J: J[...],
    "transpose": lambda J: J.T[1],
    "materialize": lambda J: jacobia.materialize([J]),
    "products": lambda J: J.mv(jnp.ones(J.shape[-1])),
    "other products": lambda J: jnp.ones(J.shape[0]) @ J.matrix,
    "diagonal": lambda J: J.diagonal(),
    "nonzeros": lambda J: J.nonzeros(),
    "scipy": lambda J: J.to_scipy(),
    "value": lambda J: J.value,
    "in jit": lambda J: jax.jit(lambda: J[2])(),
    "nonzeros in jit": lambda J: jax.jit(lambda: J.to_bcoo().data)(),
    "into jit": lambda J: jax.jit(lambda J: J[2])(J),
    "jnp": lambda J: jnp.sum(J),
}


def curved(x):
    return jnp.sin(x) * x[0] * jnp.sum(x)


TRANSFORMS = {
    "jacobian": jacobian(curved),
    "hessian": jacobia.hessian(lambda x: jnp.sum(curved(x))),
    "linear": jacobian(lambda x: 2 * x),
    "by Python": jacobian(curved, jit=False),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_deleted_point_raises_the_same_however_often_it_was_read(name):
    for what, read in READS.items():
        told = set()
        for reads in range(4 if name == "jacobian" else 1):
            x = jnp.array(X[:3])
            J = TRANSFORMS[name](x)
            known = [J[k] for k in (0, 1)[:reads]] + ([J.mv(x)] if reads == 3 else [])
            x.delete()
            with pytest.raises(ReadError) as caught:
                read(J)
                pytest.fail(f"{what}, after {reads} others")
            told.add(str(caught.value))
            for k in range(len(known[:2])):
                assert_close(J[k], known[k])
        assert len(told) == 1 and "got args[0], which has been deleted or donated" in told.pop(), what


@pytest.mark.parametrize("reads", range(4))
@pytest.mark.parametrize("batched", [False, True], ids=["batch_axis", "vmap"])
def test_a_deleted_batch_raises(reads, batched):
    x = jnp.array(np.stack([X[:3] + k for k in range(8)], dtype=np.float32))
    J = jax.vmap(jacobian(curved))(x) if batched else jacobian(jax.vmap(curved), batch_axis=0)(x)
    known = [J[k, 0] for k in range(reads)]
    x.delete()
    for key in ((7, 2), (slice(None), 2), (slice(None), slice(None), 1), ...):
        with pytest.raises(ReadError, match=r"got args\[0\], which has been deleted"):
            J[key]
    for k, row in enumerate(known):
        assert_close(J[k, 0], row)


def test_a_deleted_constant_raises_too():
    w = jnp.asarray(X) + 0
    f = lambda x: jnp.sin(w * x)  # noqa: E731
    J = jacobian(f)(jnp.asarray(X))
    rows = J[0], J[1]
    w.delete()
    for read in (lambda: J[2], lambda: J[...], lambda: J.nonzeros(), lambda: J.mv(X)):
        with pytest.raises(ReadError, match="an array that f closes over, which has been deleted"):
            read()
    assert_close(J[0:2], np.stack(rows))


def test_deleting_another_point_changes_nothing():
    x = jnp.asarray(X) + 0
    jacobian(jnp.sin)(x)[0]
    x.delete()
    assert_close(jacobian(jnp.sin)(X)[0], np.diag(np.cos(X))[0])


# Remembered rows are freed with the view, at once. If they waited for a garbage collection, the next view would take
# fresh memory.


def squares(p):
    return jnp.sum(jnp.sin(p["a"]) * p["b"]) ** 2


VIEWS = {
    "jacobian": lambda: jacobian(jnp.sin)(jnp.ones(3)),
    "hessian": lambda: jacobia.hessian(lambda x: jnp.sum(x**3))(jnp.ones(3)),
    "block": lambda: jacobia.hessian(squares)({"a": jnp.ones(3), "b": jnp.ones(3)})["a"]["b"],
    "batch": lambda: jacobia.hessian(jax.vmap(lambda x: jnp.sum(x**3)), batch_axis=0)(jnp.ones((20, 3))),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS.keys())
def test_a_dropped_view_is_gone_without_a_collection(make):
    gc.disable()
    try:
        for key in KEYS.values():
            J = make()
            J[key], J[key], J.T[...], J.diagonal()
            owner = weakref.ref(J._origin)
            del J
            assert owner() is None, key
    finally:
        gc.enable()


def test_a_setting_that_jit_does_not_notice_is_no_other_setting():
    f = lambda x: jnp.sin(x) * x[0]  # noqa: E731
    jacobian(f)(X)[1]
    with jax.default_prng_impl("rbg"):
        np.testing.assert_allclose(jacobian(f)(X)[:, 1], jax.jit(jax.jacrev(f))(X)[:, 1], rtol=1e-5)
