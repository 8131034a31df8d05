"""`fulfil` computes what is missing: directions that fail, joint reads, memory limits, several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import MaterializationError, cache_info, hessian, jacobian, materialize
from jacobia._plans import fitting as _fitting
from jacobia._plans import lines as _lines
from jacobia._plans import take as _take
from jacobia._plans.choose import compute_together, fulfil, fulfil_together, plans
from jacobia._plans.mirror import store_of
from jacobia._plans.request import Request
from jacobia._read import block as _block
from jacobia._read import memo as _memo
from jacobia._run.blueprint import Blueprint
from jacobia._run.kernels import Taken, analysed

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(4)
A = RNG.normal(size=(6, 4)).astype(np.float32)
X = RNG.normal(size=4).astype(np.float32)


def tanh(x):
    return jnp.tanh(jnp.asarray(A) @ x)


def cubes(x):
    return jnp.einsum("ij,jk->ikj", x**3, x) * x[0, 1]  # (3, 3, 3)


def tree(params, x):
    hidden = jnp.tanh(params["w"] @ x + params["b"])
    return {"hidden": hidden, "loss": jnp.sum(hidden**2)}


DENSE = (1 - np.tanh(A @ X) ** 2)[:, None] * A
SQUARE = RNG.normal(size=(3, 3)).astype(np.float32)
PARAMS = {"w": RNG.normal(size=(3, 3)).astype(np.float32), "b": RNG.normal(size=3).astype(np.float32)}
CUBES = np.asarray(jax.jacrev(cubes)(SQUARE))
TREE = jax.tree.map(np.asarray, jax.jacrev(tree)(PARAMS, SQUARE[0]))


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-5)


# Arrays outside the host's memory are indexed by jax.numpy


KEYS = [
    0,
    -1,
    slice(1, 4),
    slice(None, None, -1),
    [2, 0, 2],
    np.array([[1], [0]]),
    (slice(None), 1),
    (slice(None), [1, 0, 1]),
    (1, 1),
    ([0, 1], [1, 0]),
    (slice(1, 3), slice(1, 3)),
    (None, 1),
    (..., None),
    [],
    ...,
]


@pytest.fixture
def accelerator(monkeypatch):
    asked = []

    def on_host(array):
        asked.append(array)
        return False

    for module in (_take, _memo, _block):
        monkeypatch.setattr(module, "on_host", on_host)
    return asked


@pytest.mark.parametrize("f", [tanh, cubes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("turned", [False, True], ids=["natural", "transposed"])
def test_keys_on_an_accelerator(accelerator, f, turned):
    x, dense = (X, DENSE) if f is tanh else (SQUARE, CUBES)
    fresh = lambda: jacobian(f)(x).T if turned else jacobian(f)(x)  # noqa: E731
    dense = dense.T if turned else dense
    for first in (0, (..., 0)):
        J = fresh()
        J[first]
        for key in KEYS:
            got = J[key]
            assert isinstance(got, jax.Array) and got.shape == dense[key].shape
            close(got, dense[key])
    for key in KEYS[1:10:2]:
        close(fresh()[key], dense[key])
    assert accelerator


def test_all_of_it_from_rows_on_an_accelerator(accelerator):
    J = jacobian(tanh, mode="rev")(X)
    J[[5, 0, 3]], J[1]
    close(J[...], DENSE)
    assert J.stats.rows_computed == 6 and accelerator


def test_a_batched_view_on_an_accelerator(accelerator):
    batch = np.stack([X, 2 * X, -X])
    dense = (1 - np.tanh(batch @ A.T) ** 2)[:, :, None] * A
    J = jax.vmap(jacobian(tanh))(batch)
    for key in ((slice(None), 1), (2, [1, 0]), (..., 1), ([0, 1], [2, 3]), (1, slice(2, 4), 2), ...):
        close(J[key], dense[key])
    close(J.T[1], dense.T[1])


def test_numpy_takes_what_is_on_a_cpu():
    J = jacobian(tanh)(X)
    J[0]
    cube = _take.known_cube(J._origin, 0, np.array([0]), None)
    assert cube.module is np and isinstance(cube.array, np.ndarray)
    out = _take.as_array(np.ones(3, np.float32), cube.like)
    assert isinstance(out, jax.Array) and out.devices() == J[0].devices()


# Joint reads


def views_of(*args, **options):
    return jacobian(tree, **options)(*args)


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
@pytest.mark.parametrize("key", [..., 0, -1, (..., 0), (Ellipsis, None)], ids=str)
def test_a_tree_is_materialized_in_one_kernel_call(mode, key):
    views = jacobian(tree, argnums=(0, 1), mode=mode)(PARAMS, SQUARE[0])["hidden"]
    before = jacobian(tree, argnums=(0, 1))(PARAMS, SQUARE[0])
    dense = jax.tree.map(np.asarray, jax.jacrev(tree, argnums=(0, 1))(PARAMS, SQUARE[0]))["hidden"]
    got = materialize(views, key)
    assert jax.tree.structure(got) == jax.tree.structure(dense)
    for a, e in zip(jax.tree.leaves(got), jax.tree.leaves(dense), strict=True):
        close(a, e[key])
    calls = [J.stats.kernel_calls for J in (views[0]["b"], views[0]["w"], views[1])]
    assert calls == [1, 1, 1]
    assert [J.stats.kernel_calls for J in jax.tree.leaves(before, is_leaf=lambda v: hasattr(v, "stats"))] == [0] * 6


def test_one_run_serves_all_blocks_of_a_read(monkeypatch):
    runs = []
    run = _lines.Linearized.run

    def counted(self, sweeps, ids, images):
        runs.append(sweeps)
        return run(self, sweeps, ids, images)

    monkeypatch.setattr(_lines.Linearized, "run", counted)
    views = views_of(PARAMS, SQUARE[0])
    got = materialize(views, ...)
    assert len(runs) == 1
    for a, e in zip(jax.tree.leaves(got), jax.tree.leaves(TREE), strict=True):
        close(a, e)
    materialize(views, ...)
    assert len(runs) == 1


def test_blocks_that_need_the_same_rows_share_their_seeds():
    views = views_of(PARAMS, SQUARE[0], mode="rev")["hidden"]
    got = materialize(views, [2, 0])
    close(got["w"], TREE["hidden"]["w"][[2, 0]])
    close(got["b"], TREE["hidden"]["b"][[2, 0]])
    runs = []
    origin = views_of(PARAMS, SQUARE[0], mode="rev")["hidden"]["w"]._origin
    origin.run = lambda sweeps, *rest: runs.append(sweeps) or type(origin).run(origin, sweeps, *rest)
    fulfil_together(origin, [Request(0, np.array([0, 2]), None), Request(1, np.array([0, 2]), None)])
    ((sweep,),) = runs
    assert sweep.seeded == (0,) and sweep.read == (0, 1) and sweep.width == 2


def test_blocks_that_know_different_rows():
    views = views_of(PARAMS, SQUARE[0], mode="rev")["hidden"]
    views["w"][0], views["b"][1:]
    got = materialize(views, slice(0, 2))
    close(got["w"], TREE["hidden"]["w"][:2])
    close(got["b"], TREE["hidden"]["b"][:2])
    assert (views["w"].stats.rows_computed, views["b"].stats.rows_computed) == (2, 3)


def test_the_same_view_twice_and_views_of_two_calls():
    J, K = jacobian(tanh)(X), jacobian(tanh)(2 * X)
    got = materialize([J, K, J.T, J, None, 3.0], 1)
    close(got[0], DENSE[1])
    close(got[2], DENSE.T[1])
    close(got[1], ((1 - np.tanh(A @ (2 * X)) ** 2)[:, None] * A)[1])
    close(got[3], DENSE[1])
    assert got[4] is None and got[5] == 3.0


# Directions


def has(J):
    known = J._origin.directions(J._layout.block)
    return known.pullback, known.pushforward


def learned(J):
    return len(J._origin.blue.program.directions)


@jax.custom_vjp
def pull_only(x):
    return jnp.sin(x)


pull_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.cos(x) * u,))


@jax.custom_vjp
def broken(x):
    return jnp.sin(x)


def no_rule(x, u):
    raise ValueError("this rule is broken")


broken.defvjp(lambda x: (jnp.sin(x), x), no_rule)


def loop(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


def test_a_missing_pushforward_is_found_out_once():
    J = jacobian(lambda x: pull_only(x)[:2])(X)
    assert learned(J) == 0
    close(J[:, 1], np.diag(np.cos(X))[:2, 1])
    assert has(J) == (True, "transposed pullback") and learned(J) == 1
    close(J[:, 2], np.diag(np.cos(X))[:2, 2])
    close(J[...], np.diag(np.cos(X))[:2])
    assert J.stats.pullbacks == 0


def test_a_column_without_a_pushforward_is_one_transposed_pullback():
    J = jacobian(lambda x: jnp.tile(pull_only(x), 50), mode="fwd")(X)
    close(J[:, 1], np.tile(np.diag(np.cos(X)), (50, 1))[:, 1])
    assert J.stats.pushforwards == 1


def test_a_missing_pullback_is_found_out_once():
    J = jacobian(loop)(X)
    close(J[1], np.asarray(jax.jacfwd(loop)(X))[1])
    assert has(J) == (False, "jvp") and learned(J) == 1
    close(J[...], jax.jacfwd(loop)(X))


@pytest.mark.parametrize("key", [0, (slice(None), 0), ..., (0, 0)], ids=str)
def test_an_error_in_a_rule_of_f_is_raised_as_it_is_and_says_nothing_about_directions(key):
    J = jacobian(lambda x: broken(x) * 2)(X)
    for _ in range(2):
        with pytest.raises(ValueError, match="this rule is broken"):
            J[key]
        assert learned(J) == 0
    assert J.stats.kernel_calls == 0 and J.stats.rows_computed == 0


def test_an_error_of_another_kind_is_let_through_at_once():
    calls = []

    def body(v):
        calls.append(1)
        raise RuntimeError("out of order")

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    f = lambda x: x * jax.pure_callback(body, shape, jnp.float32(0), vmap_method="sequential")  # noqa: E731
    J = jacobian(f)(X)
    with pytest.raises(Exception, match="out of order"):
        np.asarray(J[0])
    assert learned(J) == 0


@pytest.mark.parametrize(("f", "mode", "word"), [(pull_only, "fwd", "pushforwards"), (loop, "rev", "pullbacks")])
def test_a_mode_without_its_direction_says_so(f, mode, word):
    J = jacobian(lambda x: f(x) * 3, mode=mode)(X)
    if f is pull_only:
        close(J[...], 3 * np.diag(np.cos(X)))  # the transposed pullback is a pushforward
        return
    with pytest.raises((TypeError, ValueError), match=f"mode='{mode}'.*expected an f with {word}"):
        J[...]
    assert has(J) == (False, "jvp")


# Plans agree with what is done


@pytest.mark.parametrize("key", [0, slice(1, 3), (slice(None), 2), (1, 2), ([0, 1], [1, 2]), ...], ids=str)
@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_a_plan_is_what_is_done(key, mode):
    J = jacobian(tanh, mode=mode)(X)
    told = next(J._plans(key)).outline
    assert J.stats.kernel_calls == 0
    J[key]
    stats = J.stats
    assert (stats.pullbacks, stats.pushforwards) == ((told.passes, 0) if told.way == "rows" else (0, told.passes))
    after = next(J._plans(key)).outline
    assert after.way == "none" and after.passes == 0


def test_nothing_is_computed_where_nothing_is_missing():
    J = jacobian(tanh)(X)
    J[:, :]
    plan, answers = fulfil(J._origin, Request(0, np.array([1]), None))
    assert plan.outline.why == "all of it is known" and answers == []
    assert [p.outline.way for p in plans(J._origin, Request(0, None, None))] == ["none"]


def test_compute_answers_in_the_order_of_the_blocks():
    views = views_of(PARAMS, SQUARE[0], mode="rev")
    origin = views["loss"]["b"]._origin
    done = compute_together(origin, [Request(3, None, None), Request(0, np.array([1]), None), Request(1, None, None)])
    assert [d.way for d in done] == ["rows"] * 3
    close(done[0].array, TREE["loss"]["w"])
    close(done[1].array, TREE["hidden"]["b"][1])
    close(done[2].array, TREE["hidden"]["w"])


# Memory


BIG = RNG.normal(size=(40, 20)).astype(np.float32)
Y = RNG.normal(size=20).astype(np.float32)


def big(x):
    return jnp.sin(jnp.asarray(BIG) @ x)


DENSE_BIG = np.cos(BIG @ Y)[:, None] * BIG
ROW = 80  # bytes


@pytest.mark.parametrize("limit", [4 * ROW, 7 * ROW, 20 * ROW])
def test_rows_forgotten_under_a_memory_limit_are_computed_again_and_right(limit):
    J = jacobian(big, mode="rev", memory_limit=limit)(Y)
    rng = np.random.default_rng(0)
    for _ in range(60):
        numbers = rng.integers(0, 40, size=rng.integers(1, 4))
        close(J[numbers], DENSE_BIG[numbers])
        assert J.stats.nbytes <= limit
    assert J.stats.rows_computed > 40  # some were computed again


def test_columns_under_a_memory_limit():
    J = jacobian(big, memory_limit=500)(Y)  # a column takes 160 bytes
    for k in (*range(20), *range(20)):
        close(J[:, k], DENSE_BIG[:, k])
        close(J[k : k + 2, k], DENSE_BIG[k : k + 2, k])
        assert J.stats.nbytes <= 500
    assert J.stats.columns_computed + J.stats.rows_computed > 20


def test_mixed_reads_under_a_memory_limit():
    J = jacobian(big, memory_limit=900)(Y)
    rng = np.random.default_rng(6)
    for _ in range(60):
        i, j = rng.integers(0, 40), rng.integers(0, 20)
        for key in (i, (slice(None), j), (i, j), ([i, 39 - i], [j, 0]), (slice(i, i + 3), slice(j, j + 3))):
            close(J[key], DENSE_BIG[key])
            assert J.stats.nbytes <= 900


def test_a_result_or_a_sweep_beyond_the_limit_raises_and_nothing_is_remembered():
    J = jacobian(big, memory_limit=4 * ROW)(Y)
    for key in (..., slice(0, 5), slice(None, None, 2)):
        with pytest.raises(MaterializationError, match="memory_limit=320 bytes"):
            J[key]
    assert J.stats.nbytes == 0 and J.stats.kernel_calls == 0
    close(J[3], DENSE_BIG[3])


def test_a_limit_that_holds_all_of_it_runs_in_chunks():
    J = jacobian(big, mode="rev", memory_limit=40 * ROW + 1000)(Y)
    close(J[...], DENSE_BIG)
    assert J.stats.nbytes == 40 * ROW


WIDE = RNG.normal(size=(64, 400)).astype(np.float32) / 20


def spread(x):  # of 64 numbers, through 400
    return jnp.sin(jnp.asarray(WIDE) @ jnp.tanh(jnp.asarray(WIDE.T) @ x))


@pytest.mark.parametrize("key", [..., slice(0, 48)])
def test_what_the_compiler_would_take_beyond_the_limit_runs_in_chunks(key, monkeypatch, empty_cache):
    monkeypatch.setattr(Blueprint, "per_seed", 256)  # far too little
    x, limit = np.linspace(-1, 1, 64).astype(np.float32), 64 * 256 + 24 * 1024
    inner = np.tanh(WIDE.T @ x)
    dense = np.cos(WIDE @ inner)[:, None] * (WIDE * (1 - inner**2)) @ WIDE.T

    def read(limit):
        J = jacobian(spread, mode="rev", memory_limit=limit)(x)
        return J, analysed(lambda: J[key]).peak

    J, peak = read(limit)
    close(J[key], dense[key])
    assert peak <= limit < read(1 << 20)[1]
    assert J.explain(key).memory <= limit
    assert cache_info().compiles <= 5


def test_a_kernel_without_temporaries_may_be_too_large_too(monkeypatch, empty_cache):
    monkeypatch.setattr(Blueprint, "per_seed", 256)
    monkeypatch.setattr(_fitting, "analysed", lambda read: Taken(0, 1 << 20))
    x = np.linspace(-1, 1, 64).astype(np.float32)
    close(jacobian(jnp.sin, mode="rev", memory_limit=1 << 15)(x)[...], np.diag(np.cos(x)))


def test_views_share_no_store():
    one, other = jacobian(tanh)(X), jacobian(tanh)(X)
    one[...]
    assert other.stats.nbytes == 0
    assert store_of(one._origin, 0) is store_of(one.T._origin, 0) is store_of(one.matrix._origin, 0)


def test_what_was_read_once_is_read_the_same_way_at_once():
    jac = jacobian(lambda x: tanh(x) * 2)
    for x in (X, 2 * X, 3 * X):
        dense = np.asarray(jax.jacfwd(tanh)(x)) * 2
        J = jac(x)
        close(J[1:3], dense[1:3])
        assert J.stats.rows_computed == 2
        J = jac(x)
        close(J[...], dense)
        J = jac(x)
        close(J[2], dense[2])
        close(J[...], dense)


def test_rows_that_are_deleted_are_still_known_or_computed_again(compiles):
    many = np.tile(A, (3, 1))  # 18 rows: 6 of them are computed as 8
    jac = jacobian(lambda x: jnp.tanh(jnp.asarray(many) @ x))
    for k, scale in enumerate((1, 2, 3, 4)):
        J, before = jac(scale * X), compiles.count
        dense = (1 - np.tanh(many @ (scale * X)) ** 2)[:, None] * many
        rows = J[3:9]
        close(rows, dense[3:9])
        rows.delete()
        close(J[3:9], dense[3:9])
        # From the third time on, the kernel runs no padding, and its array is both the result and remembered.
        assert J.stats.rows_computed == (6 if k < 2 else 12)
        if k == 3:
            assert compiles.count == before


# Single rows are kept without an axis for rows


@pytest.mark.parametrize("read", ["first", "as before"])
def test_a_row_is_read_and_remembered_like_any_others(read):
    jac = jacobian(lambda x: jnp.tanh(jnp.asarray(A) @ x) * 3)
    if read == "as before":
        jac(X)[2]
    J = jac(X)
    close(J[2], 3 * DENSE[2])
    ((array, _, _),) = store_of(J._origin, 0).rows.take(np.array([2]))
    assert array.shape == (4,)
    for key in (2, -4, slice(2, 3), slice(1, 4), (2, 1), ([2, 0, 2],), ([4], [1]), ...):
        close(J[key], 3 * DENSE[key])
    assert J.stats.pullbacks + J.stats.pushforwards <= 6 + 4
    close(jac(X)[2:3], 3 * DENSE[2:3])


def test_single_rows_of_a_symmetric_matrix_of_a_tree_and_of_ravel():
    H = hessian(lambda x: jnp.sum(jnp.sin(jnp.asarray(A) @ x)))
    expected = np.asarray(jax.hessian(lambda x: jnp.sum(jnp.sin(A @ x)))(X))
    for _ in range(2):
        view = H(X)
        close(view[:, 1], expected[:, 1])
        close(view[1], expected[1])
        close(view[3], expected[3])
    J = jacobian(tree)(PARAMS, SQUARE[0])["hidden"]
    close(J["w"][1], TREE["hidden"]["w"][1])
    close(J["w"][1:2], TREE["hidden"]["w"][1:2])
    flat = jacobian(tree, ravel=True)(PARAMS, SQUARE[0])
    close(flat[0], np.concatenate([TREE["hidden"]["b"][0].ravel(), TREE["hidden"]["w"][0].ravel()]))
