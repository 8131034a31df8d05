"""Compiled kernels: few, bounded, shared only by programs that compute the same, right for every set of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import cache_clear, cache_info, jacobian
from jacobia._call.arguments import take_apart
from jacobia._call.linearize import Point, linearize
from jacobia._call.trace import trace
from jacobia._run import kernels as _kernels
from jacobia._run.kernels import Kind, keep, residual_bytes
from jacobia._run.seeds import Spaces, Sweep, run_sweep, sweeps_at, sweeps_of
from jacobia._space import Space

pytestmark = [pytest.mark.usefixtures("empty_cache"), pytest.mark.slow]

M, N = 70, 3
RNG = np.random.default_rng(2)
A = RNG.normal(size=(M, N)).astype(np.float32)
X = RNG.normal(size=N).astype(np.float32)
BY = {"rows": "pullback", "columns": "jvp"}


def tanh(x):
    return jnp.tanh(jnp.asarray(A) @ x)


DENSE = (1 - np.tanh(A @ X) ** 2)[:, None] * A


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-5)


# Sweeps alone, of a linear map that is a matrix


def push(tangents):
    return [jnp.asarray(A) @ tangents[0]]


def pull(cotangents):
    return [cotangents[0] @ jnp.asarray(A)]


def answering(apply, basis):
    return (lambda index: apply(basis.basis(index))), basis


INPUTS, OUTPUTS = Space(((N,),), (jnp.float32,), ("x",)), Space(((M,),), (jnp.float32,), ("y",))


def sweep(way, width=None, chunk=None, dtype=jnp.float32, flat=False, padded=True):
    return Sweep(way, BY[way], (0,), (0,), width, chunk, (dtype,), flat, padded)


@pytest.mark.parametrize("chunk", [1, 2, 9, 64, 65])
@pytest.mark.parametrize("count", [1, 3, 64, 65, 70])
def test_numbers_without_padding_give_as_many_lines(count, chunk):
    ids = RNG.permutation(M)[:count].astype(np.int32)
    rows = jax.jit(lambda ids: run_sweep(sweep("rows", count, chunk, padded=False), *answering(pull, OUTPUTS), ids)[0])(
        ids
    )
    assert rows.shape == (count, N)
    close(rows, A[ids])


@pytest.mark.parametrize("flat", [False, True], ids=["tree", "ravel"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 69, 70])
@pytest.mark.parametrize("way", ["rows", "columns"])
def test_all_seeds_in_chunks_that_need_not_divide(way, chunk, flat):
    apply, basis = (pull, OUTPUTS) if way == "rows" else (push, INPUTS)
    (answer,) = jax.jit(lambda: run_sweep(sweep(way, None, chunk, flat=flat), *answering(apply, basis), None))()
    assert answer.shape == (M, N)
    close(answer, A)


@pytest.mark.parametrize("chunk", [None, 1, 5, 64])
def test_some_seeds_of_every_count_in_one_compiled_loop(chunk):
    run = jax.jit(lambda ids: run_sweep(sweep("rows", M, chunk), *answering(pull, OUTPUTS), ids)[0])
    for count in range(1, M + 1, 1 if chunk == 64 else 3):
        numbers = np.sort(RNG.permutation(M)[:count])
        ids = np.full(M, -1, np.int32)
        ids[:count] = numbers
        out = run(ids)
        assert out.shape[0] >= M and out.shape[1:] == (N,)  # whole passes: what is behind is padding
        close(out[:count], A[numbers])


def test_some_columns_stand_on_the_last_axis():
    ids = np.array([2, 0, -1], np.int32)
    for chunk in (None, 1, 2):
        (out,) = run_sweep(sweep("columns", 3, chunk), *answering(push, INPUTS), ids)
        assert out.shape[0] == M and out.shape[1] >= 3
        close(out[:, :2], A[:, [2, 0]])


def test_answers_have_the_dtype_of_the_block(x64):
    (out,) = run_sweep(sweep("rows", 1, dtype=jnp.float64), *answering(pull, OUTPUTS), np.array([4], np.int32))
    assert out.dtype == jnp.float64
    close(out, A[4:5])


# Sweeps of a program

SHAPES = (2,), (3,)


def two(p, q):
    return {"a": jnp.outer(p, q), "b": jnp.sum(jnp.sin(p)) * q[:2]}


def two_point():
    args = (np.float32([0.3, -1]), np.float32([1, 2, -0.5]))
    call = take_apart("jacobian", args, {}, (), ())
    known = trace("jacobian", two, call, (0,), False, True)
    spaces = Spaces(
        Space(((2, 3), (2,)), (jnp.float32,) * 2, ("a", "b")), Space(SHAPES, (jnp.float32,) * 2, ("p", "q"))
    )
    return Point(known.program, (0, 1), known.consts, call.leaves), spaces, args


SWEEPS = (
    Sweep("rows", BY["rows"], (0,), (0, 1), 2, None, (jnp.float32,) * 2, False, False),
    Sweep("rows", BY["rows"], (1,), (1,), None, None, (jnp.float32,), False, False),
    Sweep("columns", BY["columns"], (1,), (1, 0), 1, None, (jnp.float32,) * 2, False, False),
    Sweep("columns", BY["columns"], (0,), (0,), None, 1, (jnp.float32,), False, False),
    Sweep("rows", BY["rows"], (0, 1), (0, 1), 3, None, (jnp.float32,) * 2, True, False),
    Sweep("columns", BY["columns"], (0, 1), (0, 1), None, 2, (jnp.float32,) * 2, True, False),
)
IDS = (np.int32([5, 1]), None, np.int32([2]), None, np.int32([0, 6, 7]), None)


@pytest.mark.parametrize("kept", [False, True], ids=["fused", "kept"])
def test_several_sweeps_over_leaves_in_one_program(kept):
    point, spaces, args = two_point()
    if kept:
        lin = linearize(point)[2]
        out = jax.jit(lambda: sweeps_of(lin, spaces, SWEEPS, IDS))()
    else:
        out = jax.jit(lambda: sweeps_at(point, spaces, SWEEPS, IDS))()
    J = jax.jacfwd(two, argnums=(0, 1))(*args)
    ap, aq, bp, bq = (np.asarray(b) for b in (*J["a"], *J["b"]))
    close(out[0][0], ap.reshape(6, 2)[[5, 1]])
    close(out[0][1], aq.reshape(6, 3)[[5, 1]])
    close(out[1][0], bq)
    close(out[2][0], bq[:, [2]])
    close(out[2][1], aq[:, :, [2]])
    close(out[3][0], ap)
    whole = np.block([[ap.reshape(6, 2), aq.reshape(6, 3)], [bp, bq]])
    close(out[4][0], whole[[0, 6, 7]])
    close(out[5][0], whole)


# Rows through the whole library


@pytest.mark.parametrize("chunk_size", ["auto", 1, 9, 64])
def test_every_count_of_rows_is_right(chunk_size):
    jac = jacobian(tanh, chunk_size=chunk_size, mode="rev")
    for count in range(1, M + 1, 1 if chunk_size == "auto" else 7):
        numbers = RNG.permutation(M)[:count]
        J = jac(X)
        close(J[numbers], DENSE[numbers])
        assert J.stats.rows_computed == J.stats.pullbacks == count <= J.stats.seeds_run <= M
    assert cache_info().kernels <= 9


@pytest.mark.parametrize("chunk_size", [1, 11, 69, 71])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_all_of_it_in_chunks_that_do_not_divide(mode, chunk_size):
    close(jacobian(tanh, chunk_size=chunk_size, mode=mode)(X)[...], DENSE)


def test_padding_is_never_read_as_a_row():
    J = jacobian(tanh, mode="rev")(X)
    J[[60, 61, 62, 63, 64]]  # eight wide: three are padding
    close(J[[64, 0, 60]], DENSE[[64, 0, 60]])
    close(J[...], DENSE)


# The cache


def test_few_kernels_serve_all_row_sets():
    jac = jacobian(lambda x: tanh(x), mode="rev")  # a program that has not been read before
    for count in (1, 2, 3, 4, 5, 6, 7, 8):
        jac(X)[RNG.permutation(M)[:count]]
    info = cache_info()
    assert info.kernels == info.compiles == info.misses == 5  # 1, 2, 3, 4, 8
    assert info.hits == 3


@pytest.fixture
def limit_of_three(monkeypatch):
    monkeypatch.setattr(_kernels._cache, "limit", 3)


def test_the_least_recently_used_kernel_goes_first(limit_of_three, new_programs):
    f = lambda x: tanh(x)  # noqa: E731 - no view of it has been read more than once

    def read(count):
        before = cache_info().compiles
        close(jacobian(f, mode="rev")(X)[:count], DENSE[:count])
        return cache_info().compiles - before

    assert [read(2), read(3), read(4)] == [1, 1, 1]
    assert read(2) == 0  # used again: 3 is the oldest now
    assert read(8) == 1 and cache_info().kernels == 3
    assert [read(2), read(4), read(8)] == [0, 0, 0]
    assert read(3) == 1 and cache_info().kernels == 3 == cache_info().limit


def test_views_go_on_where_their_kernel_has_gone(limit_of_three):
    J = jacobian(tanh, mode="rev")(X)
    for count in (1, 2, 3, 4, 8, 16):
        jacobian(tanh, mode="rev")(X)[:count]
    close(J[5], DENSE[5])
    close(J[6:9], DENSE[6:9])
    cache_clear()
    close(J[20], DENSE[20])


def test_a_cache_finds_makes_and_forgets():
    cache, made = _kernels._Cache(2), []

    def get(key):
        return cache.run(key, lambda: made.append(key) or (lambda: key), ())

    assert [get(k) for k in "abab"] == list("abab") and made == ["a", "b"]
    assert (cache.hits, cache.misses) == (2, 2)
    get("c")
    assert list(cache.kernels) == ["b", "c"]
    get("b")
    get("d")
    assert list(cache.kernels) == ["b", "d"]
    cache.clear()
    assert not cache.kernels and (cache.hits, cache.misses, cache.compiles) == (0, 0, 0)


def test_kinds_are_compared_by_value():
    one, other = Kind("fused", (0,), (1.5, None)), Kind("fused", (0,), (1.5, None))
    assert one == other and hash(one) == hash(other) and len({one, other}) == 1
    assert one != Kind("fused", (0,), (2.5, None)) and one != ("fused", (0,), (1.5, None))


# Twins: kernels of programs that hold Python functions


def with_vjp(factor):
    @jax.custom_vjp
    def f(x):
        return x * 2.0

    f.defvjp(lambda x: (x * 2.0, None), lambda _, u: (factor * u,))
    return lambda x: f(x) * 1.5


def with_jvp(factor):
    @jax.custom_jvp
    def f(x):
        return x * 2.0

    f.defjvp(lambda primals, tangents: (f(*primals), factor * tangents[0]))
    return lambda x: f(x) * 1.5


@pytest.mark.parametrize("make", [with_jvp, with_vjp])
@pytest.mark.parametrize("key", [1, (slice(None), 1), ...], ids=["row", "column", "all"])
def test_twins_are_shared_where_rules_are_the_same_and_nowhere_else(make, key):
    found = []
    for factor in (2.0, 2.0, 3.0, 2.0, 3.0):
        before = cache_info().compiles
        close(jacobian(make(factor))(X)[key], (1.5 * factor * np.eye(N))[key])
        found.append(cache_info().compiles > before)
    assert found == [True, False, True, False, False]


def test_twins_are_shared_where_closed_over_arrays_differ():
    def make(factor):
        array = jnp.full(N, factor)
        inner = with_vjp(2.0)
        return lambda x: inner(x * array)

    for factor in (1.0, 4.0):
        close(jacobian(make(factor))(X)[0], 3 * factor * np.eye(N)[0])
    assert cache_info().compiles == 1


def test_twins_of_callbacks_are_not_shared():
    def make(factor):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        one = lambda _: np.float32(factor)  # noqa: E731
        return lambda x: x * jax.pure_callback(one, shape, jnp.float32(0), vmap_method="sequential")

    for factor in (2.0, 3.0, 2.0):
        close(jacobian(make(factor))(X)[...], factor * np.eye(N))


def test_other_products_of_an_opaque_program():
    f = with_jvp(3.0)
    J = jacobian(f)(X)
    for k in (1, 2, 3):
        v = RNG.normal(size=(N, k)).astype(np.float32)
        close(J.mv(v), 4.5 * v)
        close(J.vm(v.T), 4.5 * v.T)


# Residuals


def point_of(f, *args):
    call = take_apart("jacobian", args, {}, (), ())
    known = trace("jacobian", f, call, (0,), False, True)
    return Point(known.program, tuple(range(len(args))), known.consts, call.leaves)


def test_residuals_that_are_inputs_are_not_copied():
    big = jnp.asarray(RNG.normal(size=(64, N)), jnp.float32)
    point = point_of(lambda x: big @ x, X)
    assert residual_bytes(point) == 0
    kept = keep(point)
    assert any(r is big for r in kept.residuals)
    close(kept.y[0], big @ X)


def test_residuals_of_a_product_are_its_factors():
    y = RNG.normal(size=N).astype(np.float32)
    point = point_of(lambda x, y: x * y, X, y)
    assert residual_bytes(point) == 0
    kept = keep(point)
    assert {id(r) for r in kept.residuals} <= {id(leaf) for leaf in point.leaves}


@pytest.mark.parametrize("f", [tanh, with_jvp(3.0), lambda x: jnp.where(x > 0, x**2, jnp.sin(x))])
def test_kept_residuals_give_the_linear_program(f):
    point = point_of(f, X)
    kept = keep(point)
    lin = jax.tree.unflatten(kept.tree, kept.residuals)
    close(lin([jnp.asarray(X)])[0], jax.jvp(f, (X,), (X,))[1])
    close(kept.y[0], f(X))
    counted = sum(r.nbytes for r in kept.residuals if not any(r is a for a in (*point.leaves, *point.consts)))
    assert counted == residual_bytes(point)


def test_residuals_are_of_the_point_they_were_kept_at():
    f = lambda x: jnp.sin(x) * x[0]  # noqa: E731
    for x in (X, 2 * X, X + 1):
        J = jacobian(f)(x)
        expected = np.asarray(jax.jacfwd(f)(x))
        for k in range(N):  # the second read keeps residuals
            close(J[k], expected[k])


# Settings


def test_a_kernel_refuses_other_settings():
    J = jacobian(lambda x: jnp.sin(x) * 7.25)(X)
    with jax.default_matmul_precision("highest"), pytest.raises(ValueError, match="jax_default_matmul_precision"):
        J[0]
    close(J[0], np.diag(np.cos(X) * 7.25)[0])
