"""The batch axis: one Jacobian or Hessian for each sample, of functions of a whole batch and by vmap.

Shapes: (B,) + y.shape without the batch axis + x.shape without it; B = 3 samples, M = 5 outputs, N = 4 inputs.
"""

import copy
import pickle
import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from reference import (
    NOTHING,
    assert_close,
    assert_helpful,
    blocks_of_samples,
    central_differences,
    in_threads,
    is_block,
    passes,
    views,
    work,
)
from sample_cases import (
    CASES,
    IMAGES,
    PARAMS,
    RNG,
    SAMPLES,
    Case,
    T,
    W,
    X,
    by_scan,
    cubes_of_images,
    energy,
    energy_of_one,
    holomorphic,
    layer,
    layer_of_columns,
    narrow,
    no_outputs,
    numbers_to_numbers,
    one,
    per_sample_number,
    second,
    softsign,
    tree_of_samples,
    weights,
    with_custom_vjp,
    with_parameters,
)

import jacobia
from jacobia import BatchMixingError, Hessian, Jacobian, hessian, jacobian

pytestmark = pytest.mark.slow

cases = pytest.mark.parametrize("case", CASES, ids=str)
DENSE = np.stack([(1 - np.tanh(W @ x.astype(np.float64)) ** 2)[:, None] * W for x in X])


@pytest.fixture
def J():
    return jacobian(layer, batch_axis=0)(X)


# The reference itself


def test_the_reference_notices_samples_that_mix():
    with pytest.raises(AssertionError):
        blocks_of_samples(central_differences(lambda x: x - x.mean(0), X), 0, 2, 0)
    np.testing.assert_allclose(Case("", layer, (X,)).reference(), DENSE, atol=1e-9)


# Values, shapes, nesting


CASES_BY_NAME = {case.name: case for case in CASES}


def test_numpy_integers_number_an_axis():
    assert jacobian(layer, batch_axis=np.int64(0))(X).shape == (3, 5, 4)


def test_value_and_aux():
    J, aux = jacobian(lambda x: (layer(x), {"mean": jnp.mean(x)}), batch_axis=0, has_aux=True)(X)
    assert_close(aux, {"mean": np.mean(X)})  # auxiliary outputs need no batch axis
    assert_close(J.aux, {"mean": np.mean(X)})
    assert_close(J.value, np.tanh(X @ W.T))
    assert work(J) == NOTHING
    assert_close(J[:, 1], DENSE[:, 1])
    assert_close(jacobian(layer_of_columns, batch_axis=1)(X.T).value, np.tanh(W @ X.T))  # as f returns it


def with_flags(m):
    return m["x"] * m["scale"] + m["shift"][m["index"]]


def test_where_leaves_out_what_has_no_batch_axis():
    m = {"x": X, "scale": np.float32(2), "shift": np.ones((2, 4), np.float32), "index": np.array([0, 1, 1], np.int32)}
    only_x = {"x": True, "scale": False, "shift": False, "index": False}
    J = jacobian(with_flags, batch_axis=0, where=only_x)(m)
    assert J["scale"] is None and J["shift"] is None and J["index"] is None
    assert_close(J["x"][...], np.broadcast_to(2 * np.eye(4), (3, 4, 4)))


def test_keyword_and_static_arguments():
    f = lambda x, power, *, shift: (x + shift) ** power  # noqa: E731
    J = jacobian(f, batch_axis=0, static_argnums=1)(X, 2, shift=np.float32(1))
    assert_close(J[:, 1], 2 * (X[:, 1:2] + 1) * np.eye(4)[1])


def by_sign(x):
    return x**2 if x[0, 0] > 0 else -x


def test_jit_false_runs_python_control_flow():
    for sign in (1, -1):
        x = sign * np.float32([[1, 2], [3, 4]])
        slopes = 2 * x if sign > 0 else -np.ones((2, 2))
        J = jacobian(by_sign, batch_axis=0, jit=False)(x)
        assert_close(J[:, 1], slopes[:, 1:2] * np.eye(2)[1])
        assert_close(J[...], slopes[:, :, None] * np.eye(2))


def test_strict():
    with pytest.raises(jacobia.IndependenceError) as caught:
        jacobian(lambda p: {"a": p["x"], "b": p["t"]}, batch_axis=0, strict=True)(SAMPLES)
    assert "'t'" in str(caught.value) and "'a'" in str(caught.value)
    assert jacobian(layer, batch_axis=0, strict=True)(X).shape == (3, 5, 4)


# What runs


def test_a_row_of_every_sample_is_one_pullback(J):
    assert_close(J[:, 2], DENSE[:, 2])
    assert (J.stats.pullbacks, J.stats.pushforwards, J.stats.kernel_calls) == (1, 0, 1)
    assert_close(J[:, 1:4], DENSE[:, 1:4])
    assert (J.stats.pullbacks, J.stats.pushforwards, J.stats.kernel_calls) == (3, 0, 2)
    before = work(J)
    assert_close(J[1, 2], DENSE[1, 2])
    assert_close(J[:, 3, 1], DENSE[:, 3, 1])
    assert_close(J[::-1, [1, 3], 0:2], DENSE[::-1, [1, 3], 0:2])
    assert work(J) == before


@pytest.mark.parametrize("key", [(slice(None), slice(None), 1), (..., 1)], ids=repr)
def test_a_column_of_every_sample_is_one_pushforward(J, key):
    assert_close(J[key], DENSE[key])
    assert (J.stats.pullbacks, J.stats.pushforwards, J.stats.kernel_calls) == (0, 1, 1)
    before = work(J)
    assert_close(J[2, :, 1], DENSE[2, :, 1])
    assert_close(J[0, 3, 1], DENSE[0, 3, 1])
    assert work(J) == before


def test_all_of_it_is_as_many_passes_as_one_sample_takes(J):
    assert_close(J[...], DENSE)
    assert (J.stats.pullbacks, J.stats.pushforwards, J.stats.kernel_calls) == (0, 4, 1)
    before = work(J)
    assert_close(np.asarray(J), DENSE)
    assert_close(J + 1, DENSE + 1)
    assert_close(J[1], DENSE[1])
    assert work(J) == before
    K = jacobian(narrow, batch_axis=0)(X)
    K[...]
    assert (K.stats.pullbacks, K.stats.pushforwards, K.stats.kernel_calls) == (2, 0, 1)


def test_a_batch_of_100_costs_the_passes_of_one(empty_cache):
    x = RNG.normal(size=(100, 4)).astype(np.float32)
    J = jacobian(layer, batch_axis=0)(x)
    assert_close(J[:, 0], np.stack([(1 - np.tanh(W[0] @ row) ** 2) * W[0] for row in x]))
    assert (J.stats.pullbacks, J.stats.seeds_run) == (1, 1)


def test_rows_of_the_other_axis():
    J = jacobian(layer_of_columns, batch_axis=1)(X.T)
    assert J.shape == (3, 5, 4)
    assert_close(J[:, 2], DENSE[:, 2])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 0)
    assert_close(J[..., 2], DENSE[..., 2])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 1)


def test_only_the_leaf_that_is_read_is_computed():
    J = jacobian(tree_of_samples, batch_axis=0)(SAMPLES)
    reference = CASES_BY_NAME["trees"].reference()
    assert_close(J["hidden"]["x"][:, 1], reference["hidden"]["x"][:, 1])
    assert J["hidden"]["x"].stats.pullbacks == 1
    others = [J["hidden"]["t"], J["norm"]["x"], J["pair"][0]["t"], J["pair"][1]["x"]]
    assert [work(view) for view in others] == [NOTHING] * 4
    assert_close(jacobia.materialize(J["norm"]), reference["norm"])


def test_a_column_of_numbers_is_one_pass():
    J = jacobian(numbers_to_numbers, batch_axis=0)(T)
    assert J.shape == (3,)
    assert_close(J[1], np.float32(np.cos(T[1]) * T[1] + np.sin(T[1])))
    assert passes(J) == 1
    assert_close(J[...], np.cos(T) * T + np.sin(T))
    assert passes(J) <= 2


def test_clear_forgets(J):
    J[:, 2]
    assert J.stats.nbytes == 3 * 4 * 4
    J.clear()
    assert J.stats.nbytes == 0
    before = passes(J)
    assert_close(J[:, 2], DENSE[:, 2])
    assert passes(J) - before == 1


def test_explain_and_repr_speak_of_rows(J):
    J[:, 2]
    assert "1/5" in repr(J)
    assert "4 pullbacks" in str(J.explain()) or "4 pushforwards" in str(J.explain())


# Keys: few samples, few rows, few columns


PARTS = [
    slice(None),
    1,
    -1,
    slice(1, 3),
    slice(None, None, -1),
    slice(0, 0),
    slice(None, None, 2),
    [2, 0, 2],
    np.array([[0], [-1]]),
    "mask",
    None,
]


def part_of(part, size):
    return np.arange(size) % 2 == 0 if isinstance(part, str) else part


def name_of(part):
    return re.sub(r"\s+|array", "", repr(part))


def assert_read(view, array, key):
    try:
        expected = array[key]
    except (IndexError, ValueError) as error:
        with pytest.raises((type(error), IndexError)):
            view[key]
        return
    read = view[key]
    assert isinstance(read, jax.Array)
    np.testing.assert_allclose(np.asarray(read), expected, rtol=1e-4, atol=1e-5, err_msg=repr(key))
    assert read.shape == expected.shape, key


@pytest.mark.parametrize("batch", PARTS, ids=name_of)
def test_all_keys_of_samples_rows_and_columns(batch):
    # Every triple, on a view that begins empty and remembers, and on one that has been emptied.
    f = (jacobian(layer, batch_axis=0), jacobian(layer, batch_axis=0))
    remembers, forgets = (g(X) for g in f)
    for row, column in product(PARTS, PARTS):
        key = (part_of(batch, 3), part_of(row, 5), part_of(column, 4))
        assert_read(remembers, DENSE, key)
    for row, column in product([1, slice(1, 4), [3, 0, 3], "mask"], repeat=2):
        forgets.clear()
        assert_read(forgets, DENSE, (part_of(batch, 3), part_of(row, 5), part_of(column, 4)))


FRESH_KEYS = [
    0,
    -1,
    slice(0, 2),
    slice(2, 5),
    slice(None, None, -1),
    slice(0, 0),
    ...,
    None,
    [2, 0],
    [1, 1, 1],
    np.array([True, False, True]),
    np.zeros(3, bool),
    np.zeros(0, int),
    (1, 2, 3),
    (slice(2, 5), slice(None), 3),
    (slice(1, 3), 2),
    (-1, slice(None, None, -2), [0, 3]),
    ([2, 0], [1, 1]),
    ([2, 0], slice(None), [1, 3]),
    ([2, 0], [4, 1], [0, 0]),
    (slice(None), [0, 2], [1, 3]),
    (..., 2),
    (1, ...),
    (1, ..., 2),
    (..., 1, 2),
    (None, 1, None, 2),
    (slice(None), np.array([True, False, True, False, True])),
    (np.arange(15).reshape(3, 5) % 4 == 0,),
    (np.arange(60).reshape(3, 5, 4) % 7 == 0,),
    (0, np.arange(20).reshape(5, 4) % 3 == 0),
    (np.array([[0], [2]]), np.array([[1, 3]])),
    np.int64(2),
    jnp.array([0, 2]),
]


@pytest.mark.parametrize("key", FRESH_KEYS, ids=name_of)
@pytest.mark.parametrize("way", ["batch_axis", "vmap"])
def test_a_key_of_a_fresh_view(key, way):
    J = jacobian(layer, batch_axis=0)(X) if way == "batch_axis" else jax.vmap(jacobian(one))(X)
    as_numpy = np.asarray(key) if isinstance(key, jax.Array) else key
    assert_close(J[key], np.asarray(DENSE[as_numpy]))
    assert passes(J) <= 5 and J.stats.kernel_calls <= 2
    before = work(J)
    assert_close(J[key], np.asarray(DENSE[as_numpy]))
    assert work(J) == before
    assert_close(J[...], DENSE)


@pytest.mark.parametrize("key", FRESH_KEYS, ids=name_of)
def test_a_key_of_the_batched_hessian(key):
    try:
        expected = np.asarray(HESSIANS[np.asarray(key) if isinstance(key, jax.Array) else key])
    except IndexError:
        with pytest.raises(IndexError):
            hessian(energy, batch_axis=0)(X)[key]
        return
    H = hessian(energy, batch_axis=0)(X)
    assert_close(H[key], expected)
    assert passes(H) <= 4
    assert_close(H[...], HESSIANS)
    assert passes(H) <= 8


def test_samples_of_a_view_of_many_axes():
    case = CASES_BY_NAME["middle axis"]
    reference = case.reference()
    for key in (1, (0, 1), (slice(None), 1, 2), (1, ..., 1), ([1, 0], 0), (..., 1, 0), (0, slice(None), 2, 1, 0)):
        J = case.make()(*case.args_as(np.float32))
        assert_close(J[key], np.asarray(reference[key]))
    assert_close(J.matrix[1, 3], reference.reshape(2, -1, 6)[1, 3])


def test_many_samples_read_a_few_at_a_time():
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    dense = np.stack([(1 - np.tanh(W @ row) ** 2)[:, None] * W for row in x])
    J = jacobian(layer, batch_axis=0)(x)
    for key in (7, (7, 2), slice(5, 9), (slice(30, 20, -3), 1), ([39, 0, 0], [1, 2, 2], 3), (8, slice(1, 3)), 39, ...):
        assert_close(J[key], dense[key])


# Transposes, matrices, products, diagonals


V = RNG.normal(size=(3, 4)).astype(np.float32)
U = RNG.normal(size=(3, 5)).astype(np.float32)


def test_products_of_every_sample(J):
    assert_close(J.mv(V), np.einsum("bmn,bn->bm", DENSE, V))
    assert_close(J.vm(U), np.einsum("bm,bmn->bn", U, DENSE))
    assert J.stats.rows_computed == J.stats.columns_computed == 0
    many = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    assert_close(J.mv(many), np.einsum("bmn,bnk->bmk", DENSE, many))
    several = RNG.normal(size=(3, 2, 5)).astype(np.float32)
    assert_close(J.vm(several), np.einsum("bkm,bmn->bkn", several, DENSE))
    assert J.stats.rows_computed == J.stats.columns_computed == 0
    J[...]
    assert_close(J.mv(V), np.einsum("bmn,bn->bm", DENSE, V))


@pytest.mark.parametrize(
    "call",
    [lambda J: J.mv(V[0]), lambda J: J.vm(V), lambda J: J.mv(V[:2]), lambda J: J.mv(U)],
    ids=["one sample", "of y", "two samples", "of x"],
)
def test_a_vector_of_another_shape_raises(J, call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(J)
    assert_helpful(caught, "(3, ")
    assert work(J) == NOTHING


def square(x):
    return jnp.tanh(x @ weights(x)[:4].T)


def test_the_diagonal_of_every_sample():
    J = jacobian(square, batch_axis=0)(X)
    expected = np.diagonal(DENSE[:, :4], axis1=1, axis2=2)
    assert_close(J.diagonal(), expected)
    J[...]
    before = work(J)
    assert_close(J.diagonal(), expected)
    assert work(J) == before
    assert_close(jax.vmap(jacobian(lambda x: one(x)[:4]))(X).diagonal(), expected)


@pytest.mark.parametrize("name", ["images", "numbers to numbers", "size 1", "no inputs", "second argument"])
def test_the_diagonal_has_the_shape_of_the_input(name):
    case = CASES_BY_NAME[name]
    J, reference = case.make()(*case.args_as(np.float32)), case.reference()
    x = J.value.shape
    if reference.shape[1:] != x[1:] + x[1:]:
        with pytest.raises(ValueError):
            J.diagonal()
        return
    n = int(np.prod(x[1:]))
    assert_close(J.diagonal(), np.diagonal(reference.reshape(x[0], n, n), axis1=1, axis2=2).reshape(x))


# Hessians of every sample


HESSIANS = np.stack([second(x) for x in X])


def test_an_axis_that_the_values_have_not():
    with pytest.raises(ValueError) as caught:
        hessian(energy, batch_axis=-2)(X)  # -2 is an axis of X and not of (B,)
    assert_helpful(caught, "hessian", "output", "(3,)")


@pytest.fixture
def H():
    return hessian(energy, batch_axis=0)(X)


def test_a_row_of_the_hessian_of_every_sample_is_one_product(H):
    assert_close(H[:, 2], HESSIANS[:, 2])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (1, 0, 1)
    before = work(H)
    assert_close(H[:, :, 2], HESSIANS[:, :, 2])
    assert_close(H[..., 2], HESSIANS[..., 2])
    assert_close(H[1, 3, 2], HESSIANS[1, 3, 2])
    assert_close(H[0:2, 2], HESSIANS[0:2, 2])
    assert work(H) == before
    assert_close(H[...], HESSIANS)
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (4, 0, 2)


def test_a_column_of_the_hessian_of_every_sample_serves_its_row(H):
    assert_close(H[..., 1], HESSIANS[..., 1])
    before = work(H)
    assert (before[2] + before[3], before[-1]) == (1, 1)
    assert_close(H[:, 1], HESSIANS[:, 1])
    assert_close(H[2, 1, 1:], HESSIANS[2, 1, 1:])
    assert work(H) == before


def test_the_hessian_of_images():
    H = hessian(cubes_of_images, batch_axis=0)(IMAGES)
    gradient = lambda x: 3 * x**2 * x[:, ::-1] + x[:, ::-1] ** 3  # noqa: E731
    expected = blocks_of_samples(central_differences(gradient, IMAGES), 0, 3, 0)
    assert H.shape == (2, 3, 2, 3, 2)
    assert_close(H[:, 1, 0], expected[:, 1, 0])
    assert (H.stats.pushforwards, H.stats.kernel_calls) == (1, 1)
    assert_close(H[..., 1, 0], expected[..., 1, 0])
    assert H.stats.kernel_calls == 1
    assert_close(H[1], expected[1])
    assert_close(H.matrix[...], expected.reshape(2, 6, 6))
    assert_close(H.diagonal(), np.einsum("bijij->bij", expected))


def test_the_hessian_of_numbers():
    H = hessian(numbers_to_numbers, batch_axis=0)(T)
    expected = 2 * np.cos(T) - T * np.sin(T)
    assert H.shape == (3,)
    assert_close(H[1:], expected[1:])
    assert_close(H[...], expected)
    assert_close(H.diagonal(), expected)
    assert_close(H.mv(T), expected * T)


def pairs(p):
    return jnp.sum(jnp.sin(p["x"]), axis=1) * p["t"] ** 3


def test_the_hessian_of_a_tree_of_samples():
    H = hessian(pairs, batch_axis=0)(SAMPLES)
    s, c, t = np.sin(X), np.cos(X), T[:, None]
    expected = {
        "t": {"t": 6 * T * s.sum(1), "x": 3 * t**2 * c},
        "x": {"t": 3 * t**2 * c, "x": -((t**3 * s)[:, :, None]) * np.eye(4)},
    }
    assert jax.tree.map(lambda view: view.shape, H, is_leaf=is_block) == jax.tree.map(np.shape, expected)
    assert_close(H["x"]["t"][...], expected["x"]["t"])
    assert_close(H["t"]["x"][...], expected["t"]["x"])
    assert work(H["t"]["x"]) == NOTHING
    full = jacobia.materialize(H)
    assert_close(full, expected)
    fresh = hessian(pairs, batch_axis=0)(SAMPLES)
    assert_close(jacobia.materialize(fresh), expected)
    assert max(view.stats.kernel_calls for view in views(fresh)) == 1
    raveled = hessian(pairs, batch_axis=0, ravel=True)(SAMPLES)
    assert raveled.shape == (3, 5, 5)
    assert_close(raveled[:, 0, 1:], expected["t"]["x"])
    assert_close(raveled[:, 1:, 0], expected["t"]["x"])
    assert raveled.stats.kernel_calls == 1
    assert_close(raveled[:, 1:, 1:], expected["x"]["x"])


def test_products_and_diagonals_of_batched_hessians(H):
    assert_close(H.mv(V), np.einsum("bij,bj->bi", HESSIANS, V))
    assert_close(H.vm(V), np.einsum("bij,bi->bj", HESSIANS, V))
    many = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    assert_close(H.mv(many), np.einsum("bij,bjk->bik", HESSIANS, many))
    assert H.stats.rows_computed == 0
    assert_close(H.diagonal(), np.diagonal(HESSIANS, axis1=1, axis2=2))
    H[...]
    before = work(H)
    assert_close(H.diagonal(), np.diagonal(HESSIANS, axis1=1, axis2=2))
    assert work(H) == before


@pytest.mark.parametrize("samples", [0, 1])
def test_batched_hessians_of_few_samples(samples):
    H = hessian(energy, batch_axis=0)(X[:samples])
    assert H.shape == (samples, 4, 4)
    assert_close(H[:, 1], HESSIANS[:samples, 1])
    assert_close(H[...], HESSIANS[:samples])
    assert_close(H.diagonal(), np.diagonal(HESSIANS[:samples], axis1=1, axis2=2))
    assert_close(H.mv(V[:samples]), np.einsum("bij,bj->bi", HESSIANS[:samples], V[:samples]))


def test_rules_that_call_the_function_again():
    H = hessian(lambda x: jnp.sum(softsign(x) ** 2, axis=1), batch_axis=0)(X)
    a = np.abs(X)
    assert_close(H[:, 1], ((2 - 4 * a) / (1 + a) ** 4)[:, 1:2] * np.eye(4)[1])
    assert (H.stats.pullbacks, H.stats.pushforwards) == (1, 0)
    assert_close(H[...], ((2 - 4 * a) / (1 + a) ** 4)[:, :, None] * np.eye(4))


TOO_MANY = {
    "rows": (layer, "output", "(3, 5)"),
    "a leaf": (lambda x: {"one": energy(x), "many": layer(x)}, "many", "(3, 5)"),
    "several axes": (lambda x: layer(x).reshape(3, 1, 5), "output", "(3, 1, 5)"),
    "none": (no_outputs, "output", "(3, 0)"),
}


@pytest.mark.parametrize("f, leaf, shape", TOO_MANY.values(), ids=TOO_MANY.keys())
def test_more_than_one_number_for_each_sample(f, leaf, shape):
    with pytest.raises(ValueError) as caught:
        hessian(f, batch_axis=0)(X)
    assert_helpful(caught, "hessian", "batch_axis", leaf, shape)


# vmap


def test_vmap_agrees_with_batch_axis(J):
    K = jax.vmap(jacobian(one))(X)
    assert isinstance(K, Jacobian) and (K.shape, K.dtype) == (J.shape, J.dtype)
    assert work(K) == NOTHING
    assert_close(K[:, 2], DENSE[:, 2])
    assert (K.stats.pullbacks, K.stats.pushforwards, K.stats.kernel_calls) == (1, 0, 1)
    assert_close(K[..., 1], DENSE[..., 1])
    assert (K.stats.pullbacks, K.stats.pushforwards, K.stats.kernel_calls) == (1, 1, 2)
    assert_close(K[...], DENSE)
    assert_close(K.mv(V), J.mv(V))
    assert_close(K.vm(U), J.vm(U))
    assert_close(K.matrix[:, 1:3], DENSE[:, 1:3])


def test_vmap_of_a_hessian_agrees_with_batch_axis(H):
    K = jax.vmap(hessian(energy_of_one))(X)
    assert isinstance(K, Hessian) and (K.shape, K.dtype) == (H.shape, H.dtype)
    assert work(K) == NOTHING
    assert_close(K[:, 2], HESSIANS[:, 2])
    assert (K.stats.pushforwards, K.stats.pullbacks, K.stats.kernel_calls) == (1, 0, 1)
    assert_close(K[..., 2], HESSIANS[..., 2])
    assert K.stats.kernel_calls == 1
    assert_close(K[1], HESSIANS[1])
    assert_close(K[...], HESSIANS)
    assert_close(K.mv(V), H.mv(V))
    assert_close(K.diagonal(), np.diagonal(HESSIANS, axis1=1, axis2=2))


def test_vmap_of_a_tree_of_hessians():
    f = lambda p: jnp.sum(jnp.sin(p["x"])) * p["t"] ** 3  # noqa: E731
    K, L = jax.vmap(hessian(f))(SAMPLES), hessian(pairs, batch_axis=0)(SAMPLES)
    assert_close(K["x"]["t"][...], L["x"]["t"][...])
    assert_close(K["t"]["x"][...], L["t"]["x"][...])
    assert_close(jacobia.materialize(K), jacobia.materialize(L))


def test_vmap_of_reads_inside():
    def read(x, v):
        H = hessian(energy_of_one)(x)
        return H[1:3], H[:, 0], H.diagonal(), H @ v

    expected = HESSIANS[:, 1:3], HESSIANS[:, :, 0], np.diagonal(HESSIANS, axis1=1, axis2=2)
    assert_close(jax.jit(jax.vmap(read))(X, V), (*expected, np.einsum("bij,bj->bi", HESSIANS, V)))
    assert_close(jax.vmap(lambda x: hessian(energy_of_one)(x)[1])(X), HESSIANS[:, 1])


def test_vmap_over_a_view_with_a_batch_axis(J, H):
    assert_close(jax.vmap(lambda view: view[1])(jax.vmap(jacobian(one))(X)), DENSE[:, 1])
    assert_close(jax.vmap(lambda view: view[1])(jax.vmap(hessian(energy_of_one))(X)), HESSIANS[:, 1])


def test_vmap_of_a_function_of_a_batch():
    stacks = np.stack([X, 2 * X])
    J = jax.vmap(jacobian(layer, batch_axis=0))(stacks)
    twice = np.stack([(1 - np.tanh(W @ x) ** 2)[:, None] * W for x in 2 * X.astype(np.float64)])
    assert J.shape == (2, 3, 5, 4)
    assert_close(J[:, :, 1], np.stack([DENSE, twice])[:, :, 1])
    assert_close(J[1], twice)
    H = jax.vmap(hessian(energy, batch_axis=0))(stacks)
    assert H.shape == (2, 3, 4, 4)
    assert_close(H[...], np.stack([HESSIANS, [second(2 * x) for x in X]]))


STACKS = np.stack([X, 2 * X])


@pytest.fixture(scope="module")
def of_stacks():
    of_one = jax.jacrev(lambda v: jnp.sin(v) * jnp.roll(v, 1))
    return np.asarray(jax.jit(jax.vmap(jax.vmap(of_one)))(STACKS))


@pytest.mark.parametrize("axis, mode", [(0, "auto"), (1, "auto"), (-1, "auto"), (0, "fwd"), (-1, "fwd"), (1, "rev")])
def test_nonzeros_of_a_vmapped_view_of_a_batch(axis, mode, of_stacks):
    stacks, expected = STACKS, of_stacks

    def pairs(x):
        x = jnp.moveaxis(x, axis, 0)
        return jnp.moveaxis(jnp.sin(x) * jnp.roll(x, 1, axis=1), 0, axis)

    J = jax.vmap(jacobian(pairs, batch_axis=axis, mode=mode))(np.moveaxis(stacks, 1, 1 + axis % 2))
    assert J.shape == expected.shape and J.pattern.nnz == 8
    assert_close(J.to_bcoo().todense(), expected)
    assert_close(J.to_bcsr().todense(), expected)
    assert_close(jax.jit(lambda J: J.to_bcoo().todense())(J), expected)
    assert_close(J[1, 2], expected[1, 2])


def test_nonzeros_of_a_vmapped_view_of_hessians():
    H = jax.vmap(hessian(energy, batch_axis=0))(np.stack([X, 2 * X]))
    assert_close(H.to_bcoo().todense(), np.stack([HESSIANS, [second(2 * x) for x in X]]))


# Inside and through other transformations


def test_reads_inside_jit():
    assert_close(jax.jit(lambda x: jacobian(layer, batch_axis=0)(x)[:, 1:3])(X), DENSE[:, 1:3])
    assert_close(jax.jit(lambda x: jacobian(layer, batch_axis=0)(x)[1])(X), DENSE[1])
    assert_close(jax.jit(lambda x: jacobian(layer, batch_axis=0)(x)[..., 2])(X), DENSE[..., 2])
    assert_close(jax.jit(lambda x, b, i: jacobian(layer, batch_axis=0)(x)[b, i])(X, 2, -1), DENSE[2, -1])
    assert_close(jax.jit(lambda x: hessian(energy, batch_axis=0)(x)[:, 1])(X), HESSIANS[:, 1])
    assert_close(jax.jit(lambda x: hessian(energy, batch_axis=0)(x)[1, 2])(X), HESSIANS[1, 2])
    assert_close(jax.jit(lambda x: jacobian(layer, batch_axis=0)(x).mv(V))(X), np.einsum("bmn,bn->bm", DENSE, V))


def test_a_row_of_every_sample_inside_jit_costs_one_row():
    matrix = jnp.asarray(RNG.normal(size=(100, 100)), jnp.float32)
    f = lambda x: jnp.tanh(x @ matrix)  # noqa: E731

    def flops(g):
        return jax.jit(g).lower(np.ones((8, 100), np.float32)).compile().cost_analysis()["flops"]

    everything = flops(lambda x: jax.vmap(jax.jacrev(lambda row: jnp.tanh(row @ matrix)))(x))
    assert flops(lambda x: jacobian(f, batch_axis=0)(x)[:, 3]) < everything / 20
    assert flops(lambda x: jacobian(f, batch_axis=0)(x)[..., 3]) < everything / 20


def test_traced_rows_of_few_samples_where_some_rows_are_known():
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    dense = np.stack([(1 - np.tanh(W @ row) ** 2)[:, None] * W for row in x])
    J = jacobian(layer, batch_axis=0)(x)
    J[:, 1]
    row, entry = jax.jit(lambda i: J[2, i]), jax.jit(lambda b, i: J[b, i])
    for i in (1, 3):
        assert_close(row(i), dense[2, i])
        assert_close(entry(7, i), dense[7, i])


def test_views_leave_and_enter_jit(J, H):
    for make, view, dense in ((jacobian(layer, batch_axis=0), J, DENSE), (hessian(energy, batch_axis=0), H, HESSIANS)):
        K = jax.jit(make)(X)
        assert type(K) is type(view) and K.shape == dense.shape and work(K) == NOTHING
        assert_close(K[:, 1], dense[:, 1])
        assert passes(K) == 1
        assert_close(K[...], dense)
        view[:, 0]
        assert_close(jax.jit(lambda view, s: s * view[:, 1:3])(view, 2.0), 2 * dense[:, 1:3])
        L = jax.jit(lambda view: view)(view)
        assert type(L) is type(view) and work(L) == NOTHING and L.stats.nbytes == 0
        assert_close(L[2], dense[2])
        assert_close(jax.jit(lambda s, view=view: s * view[1])(3.0), 3 * dense[1])


def test_grad_through_reads():
    w = W.astype(np.float64)

    def loss(x):
        return jnp.sum(jacobian(layer, batch_axis=0)(x)[:, 1] ** 2)

    def closed(x):
        return jnp.sum(((1 - jnp.tanh(x @ w[1]) ** 2)[:, None] * w[1]) ** 2)

    assert_close(jax.jit(jax.grad(loss))(X), central_differences(closed, X))

    def rows(x):
        return jnp.sum(jnp.sin(hessian(energy, batch_axis=0)(x)[:, 1:3]))

    def closed_rows(x):
        return jnp.sum(jnp.sin(jnp.einsum("ki,bk,kj->bij", w, 2 * jnp.cos(2 * (x @ w.T)), w)[:, 1:3]))

    assert_close(jax.jit(jax.grad(rows))(X), central_differences(closed_rows, X))


# u(x; p) = sum_j sin(p_j x_j): its Laplacian is -sum_j p_j**2 sin(p_j x_j).
P = np.float32([0.5, -1, 2, 0.7])


def field_of_points(p, x):
    return jnp.sum(jnp.sin(p * x), axis=1)


def field_of_point(p, x):
    return jnp.sum(jnp.sin(p * x))


def residual(p):
    laplacian = -jnp.sum(p**2 * jnp.sin(p * X), axis=1)
    return jnp.mean((laplacian + jnp.sum(p * jnp.cos(p * X), axis=1)) ** 2)


def loss_by_batch(p):
    H = hessian(field_of_points, 1, batch_axis=0)(p, X)
    J = jacobian(field_of_points, 1, batch_axis=0)(p, X)
    return jnp.mean((jnp.sum(H.diagonal(), axis=1) + jnp.sum(J[...], axis=1)) ** 2)


def loss_by_vmap(p):
    H = jax.vmap(hessian(field_of_point, 1), in_axes=(None, 0))(p, X)
    J = jax.vmap(jacobian(field_of_point, 1), in_axes=(None, 0))(p, X)
    return jnp.mean((jnp.sum(H.diagonal(), axis=1) + jnp.sum(J[...], axis=1)) ** 2)


def loss_by_sample(p):
    def at(x):
        return jnp.sum(hessian(field_of_point, 1)(p, x).diagonal()) + jnp.sum(jacobian(field_of_point, 1)(p, x)[...])

    return jnp.mean(jax.vmap(at)(X) ** 2)


@pytest.mark.parametrize("loss", [loss_by_batch, loss_by_vmap, loss_by_sample], ids=lambda loss: loss.__name__)
def test_the_loss_of_a_differential_equation_is_trained(loss):
    value, slope = jax.jit(jax.value_and_grad(loss))(P)
    assert_close((value, slope), (np.asarray(residual(P)), central_differences(residual, P)))


def test_reads_inside_scan():
    def step(x, _):
        J = jacobian(square, batch_axis=0)(x)
        return x - 0.1 * J[:, 0], hessian(energy, batch_axis=0)(x)[:, 1]

    x, rows = X.astype(np.float64), []
    for _ in range(2):
        rows.append(np.stack([second(row)[1] for row in x]))
        x = x - 0.1 * np.stack([(1 - np.tanh(W[0] @ row) ** 2) * W[0] for row in x])
    last, read = jax.lax.scan(step, jnp.asarray(X), None, length=2)
    assert_close((last, read), (x, np.stack(rows)))


def test_a_batched_view_comes_out_of_scan():
    _, J = jax.lax.scan(lambda c, x: (c, jacobian(layer, batch_axis=0)(x)), 0.0, np.stack([X, X]))
    assert J.shape == (2, 3, 5, 4)
    assert_close(J[1, :, 2], DENSE[:, 2])
    assert_close(J[...], np.stack([DENSE, DENSE]))


def test_the_jacobian_of_a_batched_read():
    D = jacobian(lambda x: jacobian(layer, batch_axis=0)(x)[:, 1], batch_axis=0)(X)
    y = np.tanh(X.astype(np.float64) @ W[1])
    assert D.shape == (3, 4, 4)
    assert_close(D[...], (-2 * y * (1 - y**2))[:, None, None] * np.outer(W[1], W[1]))


# Errors of the axis


@pytest.mark.parametrize("transform", [jacobian, hessian])
@pytest.mark.parametrize("axis", ["0", 1.0, (0,), [0], {"x": 0}, True, np.zeros(2, int)], ids=repr)
def test_an_axis_of_another_type(transform, axis):
    with pytest.raises(TypeError) as caught:
        transform(energy, batch_axis=axis)(X)
    assert_helpful(caught, transform.__name__, "batch_axis")


@pytest.mark.parametrize("axis", [2, -3, 10])
@pytest.mark.parametrize("transform", [jacobian, hessian])
def test_an_axis_that_the_input_has_not(transform, axis):
    with pytest.raises(ValueError) as caught:
        transform(energy, batch_axis=axis)(X)
    assert_helpful(caught, transform.__name__, "batch_axis", "args[0]", "(3, 4)", str(axis))


def test_an_axis_that_one_of_the_inputs_has_not():
    with pytest.raises(ValueError) as caught:
        jacobian(lambda p: p["x"] * p["scale"], batch_axis=0)({"x": X, "scale": np.float32(2)})
    assert_helpful(caught, "'scale'", "()", "(3, 4)")
    with pytest.raises(ValueError) as caught:
        jacobian(with_parameters, (0, 1), batch_axis=1)(PARAMS, X)
    assert_helpful(caught, "'b'", "(5,)")


def test_an_axis_that_the_output_has_not():
    with pytest.raises(ValueError) as caught:
        jacobian(lambda x: {"rows": layer(x), "total": jnp.sum(x)}, batch_axis=0)(X)
    assert_helpful(caught, "total", "()", "(3, 4)", "args[0]")
    with pytest.raises(ValueError) as caught:
        jacobian(per_sample_number, batch_axis=1)(X)
    assert_helpful(caught, "output", "(3,)", "(3, 4)")


SIZES = {
    "input": (lambda p: p["a"] * p["b"][0], ({"a": X, "b": X[:2]},), ("'a'", "'b'", "(3, 4)", "(2, 4)")),
    "output": (lambda x: layer(x)[:2], (X,), ("output", "args[0]", "(2, 5)", "(3, 4)")),
    "leaf of the output": (
        lambda x: {"fine": x, "short": x[1:]},
        (X,),
        ("'short'", "args[0]", "(2, 4)", "(3, 4)"),
    ),
    "transposed output": (lambda x: layer(x).T, (X,), ("output", "(5, 3)", "(3, 4)")),
}


@pytest.mark.parametrize("f, args, words", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("verify_batch", [True, False])
def test_batches_of_two_sizes(f, args, words, verify_batch):
    with pytest.raises(ValueError) as caught:
        jacobian(f, batch_axis=0, verify_batch=verify_batch)(*args)
    assert_helpful(caught, "jacobian", "batch_axis", *words)


def test_a_batch_of_another_size_in_a_second_argument():
    with pytest.raises(ValueError) as caught:
        jacobian(lambda x, t: x * t[:1, None], (0, 1), batch_axis=0)(X, T[:2])
    assert_helpful(caught, "args[1]", "(2,)", "(3, 4)")
    assert jacobian(lambda x, t: x * t[:1, None], 0, batch_axis=0)(X, T[:2]).shape == (3, 4, 4)


@pytest.mark.parametrize("value", [1, None, "no"], ids=repr)
def test_verify_batch_is_a_flag(value):
    with pytest.raises(TypeError) as caught:
        jacobian(layer, batch_axis=0, verify_batch=value)(X)
    assert_helpful(caught, "verify_batch")


def test_integers_and_complex_numbers_raise_as_without_a_batch_axis():
    with pytest.raises(TypeError):
        jacobian(layer, batch_axis=0)(np.ones((3, 4), np.int32))
    with pytest.raises(TypeError) as caught:
        jacobian(holomorphic, batch_axis=0)(np.ones((3, 2), np.complex64))
    assert "holomorphic" in str(caught.value)


# Samples that mix


def power(x):
    return x @ x.T


MIXING = {
    "batch norm": (lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3), 0, ("reduce_sum",)),
    "sum over the batch": (lambda x: x * jnp.sum(x, axis=0), 0, ("reduce_sum",)),
    "sum over everything": (lambda x: x * jnp.sum(x), 0, ("reduce_sum",)),
    "centred": (lambda x: x - x.mean(0), 0, ("reduce_sum",)),
    "sorted along it": (lambda x: jnp.sort(x, axis=0), 0, ("sort", "gather")),
    "normalized by all": (lambda x: x / jnp.linalg.norm(x), 0, ("reduce_sum", "dot_general")),
    "softmax": (lambda x: jax.nn.softmax(x, axis=0), 0, ("reduce_sum",)),
    "cumsum": (lambda x: jnp.cumsum(x, axis=0), 0, ("cumsum",)),
    "gram": (power, 0, ("dot_general", "add")),
    "maximum": (lambda x: x * jnp.max(x, axis=0), 0, ("reduce_max", "reduce_sum", "argmax", "gather", "dot_general")),
    "shifted": (lambda x: jnp.roll(x, 1, axis=0), 0, ("concatenate", "slice", "roll", "gather")),
    "reversed": (lambda x: x[::-1], 0, ("rev", "gather")),
    "first sample": (lambda x: x + x[0], 0, ("slice", "broadcast", "gather", "squeeze", "add", "reduce_sum")),
    "gathered": (lambda x: x[jnp.array([1, 2, 0])], 0, ("gather", "scatter")),
    "matrix over samples": (lambda x: jnp.asarray(W[:3, :3]) @ x, 0, ("dot_general",)),
    "mean of the other axis": (lambda x: x - x.mean(1, keepdims=True), 1, ("reduce_sum",)),
    "last axis": (lambda x: x - x.mean(-1, keepdims=True), -1, ("reduce_sum",)),
    "reshaped wrongly": (lambda x: x.T.reshape(x.shape), 0, ("reshape", "transpose")),
    "differences": (
        lambda x: jnp.diff(x, axis=0, append=x[:1]),
        0,
        ("sub", "slice", "concatenate", "add_any", "pad", "neg"),
    ),
    "scan over samples": (
        lambda x: jax.lax.scan(lambda c, row: (c + row, c * row), jnp.ones(4), x)[1],
        0,
        ("scan", "while"),
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_mix_are_refused(name):
    f, axis, operations = MIXING[name]
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(BatchMixingError) as caught:
        jacobian(f, batch_axis=axis)(x)
    message = str(caught.value)
    assert_helpful(caught, "jacobian", "batch_axis", "verify_batch")
    assert any(operation in message for operation in operations), message
    # Where the mixing sum has no axis of its own, as in x + x[0], two samples are named.
    assert re.search(r"ax[ie]s \d" if name not in ("first sample", "differences") else r"sample \d", message), message
    assert isinstance(caught.value, ValueError)


def test_the_operation_and_its_axis_are_named():
    with pytest.raises(BatchMixingError, match=r"reduce_sum.* axis 0"):
        jacobian(lambda x: x * jnp.sum(x, axis=0), batch_axis=0)(X)
    with pytest.raises(BatchMixingError, match=r"reduce_sum.* axis 1"):
        jacobian(lambda x: x * jnp.sum(x, axis=1, keepdims=True), batch_axis=1)(X)
    with pytest.raises(BatchMixingError, match=r"cumsum.* axis 0"):
        jacobian(lambda x: jnp.cumsum(x, axis=0), batch_axis=0)(X)


def test_a_leaf_of_a_tree_that_mixes():
    f = lambda p: {"fine": p["x"], "mixed": p["t"] - jnp.mean(p["t"])}  # noqa: E731
    with pytest.raises(BatchMixingError) as caught:
        jacobian(f, batch_axis=0)(SAMPLES)
    assert "reduce_sum" in str(caught.value)


def test_samples_that_mix_in_a_hessian():
    with pytest.raises(BatchMixingError) as caught:
        hessian(lambda x: jnp.sum((x - x.mean(0)) ** 2, axis=1), batch_axis=0)(X)
    assert_helpful(caught, "hessian", "batch_axis")
    # The gradient of one sample depends on another sample.
    with pytest.raises(BatchMixingError):
        hessian(lambda x: jnp.sum(x**2, axis=1) * jnp.sum(x), batch_axis=0)(X)


def test_samples_that_mix_in_every_mode_and_inside_transformations():
    f = lambda x: x - x.mean(0)  # noqa: E731
    for options in ({"mode": "fwd"}, {"mode": "rev"}, {"lazy": False}, {"ravel": True}, {"jit": False}):
        with pytest.raises(BatchMixingError):
            jacobian(f, batch_axis=0, **options)(X)
    with pytest.raises(BatchMixingError):
        jax.jit(lambda x: jacobian(f, batch_axis=0)(x)[:, 0])(X)
    with pytest.raises(BatchMixingError):
        jax.grad(lambda x: jnp.sum(jacobian(f, batch_axis=0)(x)[:, 0]))(X)
    with pytest.raises(BatchMixingError):
        jax.vmap(jacobian(f, batch_axis=0))(np.stack([X, X]))


def test_the_error_comes_again_for_a_known_function():
    def f(x):
        return x - x.mean(0)

    for _ in range(2):
        with pytest.raises(BatchMixingError):
            jacobian(f, batch_axis=0)(X)
    assert jacobian(f, batch_axis=1)(X).shape == (4, 3, 3)
    assert jacobian(f)(X).shape == (3, 4, 3, 4)
    assert jacobian(f, batch_axis=0, verify_batch=False)(X).shape == (3, 4, 4)
    with pytest.raises(BatchMixingError):
        jacobian(f, batch_axis=0)(X)


def test_the_check_can_be_left_out():
    J = jacobian(lambda x: x - x.mean(0), batch_axis=0, verify_batch=False)(X)
    assert J.shape == (3, 4, 4)
    assert np.all(np.isfinite(J[...]))
    assert_close(jacobian(layer, batch_axis=0, verify_batch=False)(X)[:, 1], DENSE[:, 1])
    assert_close(hessian(energy, batch_axis=0, verify_batch=False)(X)[:, 1], HESSIANS[:, 1])


# Samples that do not mix, though the program looks as if they did


def attention(x):
    q = x.reshape(x.shape[0], 2, 2)
    return jax.nn.softmax(q @ jnp.swapaxes(q, 1, 2), axis=-1) @ q


def convolution(x):
    kernel = weights(x)[:3, 0].reshape(3, 1, 1)
    return jax.lax.conv_general_dilated(x[:, :, None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def by_samples(x):
    return jax.lax.map(lambda row: jnp.sin(row) * row[0], x)


def loop(x):
    return jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + x, x)


TRIANGLE = BCOO.fromdense(np.tri(4, dtype=np.float32))
INDEPENDENT = {
    "layer": layer,
    "layer norm": lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-3),
    "softmax of a sample": lambda x: jax.nn.softmax(x, axis=1),
    "cumsum of a sample": lambda x: jnp.cumsum(x, axis=1),
    "sort of a sample": lambda x: jnp.sort(x, axis=1),
    "outer of a sample": lambda x: x[:, :, None] * x[:, None, :],
    "attention": attention,
    "convolution": convolution,
    "vmap": jax.vmap(one),
    "map": by_samples,
    "loop": loop,
    "scan": by_scan,
    "columns": lambda x: x[:, jnp.array([3, 0, 0])],
    "taken along": lambda x: jnp.take_along_axis(x, jnp.array([[0], [1], [3]]), axis=1) ** 2,
    "reshaped": lambda x: jnp.sin(x.reshape(-1)).reshape(x.shape),
    "flattened": lambda x: x.reshape(3, 2, 2).transpose(0, 2, 1).reshape(3, 4) ** 2,
    "reversed twice": lambda x: jnp.sin(x[::-1])[::-1],
    "rolled there and back": lambda x: jnp.roll(jnp.sin(jnp.roll(x, 1, axis=0)), -1, axis=0),
    "transposed twice": lambda x: (jnp.asarray(W) @ x.T).T,
    "put together": lambda x: jnp.concatenate([x[:1] ** 2, jnp.sin(x[1:])]),
    "row by row": lambda x: jnp.stack([x[0], x[1] ** 2, jnp.sin(x[2])]),
    "statistics that are constants": lambda x: x / jax.lax.stop_gradient(jnp.linalg.norm(x)),
    "running mean": lambda x: jnp.sin(x) - jnp.asarray(X).mean(0),
    "masked": lambda x: jnp.where(jnp.arange(3)[:, None] == 1, x**2, jnp.sin(x)),
    "largest of a sample": lambda x: jnp.max(x, axis=1),
    "inverse of a sample": lambda x: jnp.linalg.inv(x.reshape(3, 2, 2) + 3 * jnp.eye(2)),
    "right-hand sides": lambda x: jnp.linalg.solve(jnp.eye(4) * 3 + jnp.tri(4), jnp.sin(x).T).T,
    "sparse array": lambda x: jnp.sin(x) @ TRIANGLE,
    "cond": lambda x: jax.lax.cond(jnp.sum(x) > 0, jnp.sin, lambda x: x**2, x),
    "dynamic slice": lambda x: jax.lax.dynamic_slice(x, (0, jnp.argmax(x[0])), (3, 1)),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2))) ** 2,
    "repeated": lambda x: jnp.tile(x, (1, 2)) ** 3,
    "custom_vjp": with_custom_vjp,
    "constant": lambda x: jnp.ones((3, 2)) * 3,
}


@pytest.mark.parametrize("f", INDEPENDENT.values(), ids=INDEPENDENT.keys())
def test_samples_that_do_not_mix_are_not_refused(f):
    y = jax.eval_shape(f, X).shape
    J = jacobian(f, batch_axis=0)(X)
    assert J.shape == (*y, 4) and work(J) == NOTHING


READ_TOO = ("attention", "convolution", "map", "taken along", "rolled there and back", "row by row", "custom_vjp",
            "right-hand sides", "sparse array")  # fmt: skip


@pytest.mark.parametrize("name", READ_TOO + ("statistics that are constants",))
def test_samples_that_do_not_mix_are_right(name):
    J = jacobian(INDEPENDENT[name], batch_axis=0)(X)
    full = central_differences(INDEPENDENT[name] if name in READ_TOO else scaled, X)
    assert_close(J[...], blocks_of_samples(full, 0, full.ndim - 2, 0), tolerance=1e-3)


def scaled(x):
    return x / np.linalg.norm(X)


def test_one_sample_and_none_cannot_mix():
    assert_close(jacobian(lambda x: jnp.sin(x) - x.mean(0), batch_axis=0)(X[:1])[0], np.diag(np.cos(X[0]) - 1))
    assert jacobian(lambda x: jnp.cumsum(x, axis=0), batch_axis=0)(X[:0]).shape == (0, 4, 4)


# Copies, threads, caches


def through_pickle(J):
    return pickle.loads(pickle.dumps(J))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["jacobian", "hessian", "vmap"])
def test_copies_read_the_same(duplicate, name):
    J, dense = {
        "jacobian": lambda: (jacobian(layer, batch_axis=0)(X), DENSE),
        "hessian": lambda: (hessian(energy, batch_axis=0)(X), HESSIANS),
        "vmap": lambda: (jax.vmap(jacobian(one))(X), DENSE),
    }[name]()
    J[:, 1]
    if name == "vmap" and duplicate is through_pickle:
        # Its function is a closure of the transformation.
        with pytest.raises((TypeError, pickle.PicklingError)) as caught:
            duplicate(J)
        assert_helpful(caught, "pickle", "numpy.asarray")
        return
    K = duplicate(J)
    assert type(K) is type(J) and K.shape == J.shape
    assert_close(K[:, 2], dense[:, 2])
    assert_close(K[1], dense[1])
    assert_close(K[...], dense)
    assert_close(J[...], dense)


def test_numpy_input_may_change_after_the_view_was_made():
    x = X.copy()
    J, H = jacobian(layer, batch_axis=0)(x), hessian(energy, batch_axis=0)(x)
    J[:, 0]
    x[...] = 100
    assert_close(J[...], DENSE)
    assert_close(H[...], HESSIANS)


THREAD_KEYS = [..., 0, (slice(None), 1), (..., 2), (1, 2), ([2, 0], 3), (slice(0, 2), slice(1, 3)), -1]


def test_threads_read_one_batched_view(empty_cache):
    J, H = jacobian(layer, batch_axis=0)(X), hessian(energy, batch_axis=0)(X)
    for k, read in enumerate(in_threads(lambda k: (J[THREAD_KEYS[k]], H[THREAD_KEYS[k]]))):
        assert_close(read, (np.asarray(DENSE[THREAD_KEYS[k]]), np.asarray(HESSIANS[THREAD_KEYS[k]])))
    assert_close(J[...], DENSE)
    assert_close(H[...], HESSIANS)


def test_another_lambda_with_the_same_body_compiles_nothing(compiles, empty_cache):
    for scale in (1, 2, 3, 4):
        J = jacobian(lambda x: jnp.cos(x @ W.T), batch_axis=0)(scale * X)
        H = hessian(lambda x: jnp.sum(jnp.cos(x), axis=1), batch_axis=0)(scale * X)
        reads = J[:, 1], J[..., 2], J[1, 2], J.mv(V), H[:, 1], H[...]
        assert_close(reads[0], -np.sin(scale * X @ W[1])[:, None] * W[1])
        assert_close(reads[-1], -np.cos(scale * X)[:, :, None] * np.eye(4))
        if scale == 2:  # by now, indexing of the rows is compiled too
            first, compiled = compiles.count, jacobia.cache_info().compiles
            assert compiled >= 2
    assert compiles.count == first
    assert jacobia.cache_info().compiles == compiled


def test_another_set_of_rows_or_samples_compiles_nothing(empty_cache):
    jac = jacobian(layer, batch_axis=0)
    for _ in range(3):  # from the third time on, keys of this kind have a kernel of their own
        jac(X)[:, [0, 1]], jac(X)[1, 2], jac(X)[:, [1, 0]]
    compiled = jacobia.cache_info().compiles
    for rows in ([2, 4], [3, 1], [4, 0]):
        jac(X)[:, rows]
    for sample, row in ((0, 4), (2, 0), (-1, 3)):
        jac(X)[sample, row]
    assert jacobia.cache_info().compiles == compiled


def test_two_axes_of_one_function_do_not_meet(empty_cache):
    x = RNG.normal(size=(3, 3)).astype(np.float32)
    scales = np.float32([1, 2, 3])
    f = lambda x: jnp.sin(x) * scales  # noqa: E731
    slopes = np.cos(x) * scales
    assert_close(jacobian(f, batch_axis=0)(x)[...], slopes[:, :, None] * np.eye(3))
    assert_close(jacobian(f, batch_axis=1)(x)[...], slopes.T[:, :, None] * np.eye(3))
    full = np.zeros((3, 3, 3, 3))
    for i, j in product(range(3), repeat=2):
        full[i, j, i, j] = slopes[i, j]
    assert_close(jacobian(f)(x)[...], full)


def test_a_function_is_traced_once(empty_cache):
    calls = []

    def f(x):
        calls.append(x)
        return layer(x)

    J = jacobian(f, batch_axis=0)(X)
    J[:, 1], J[..., 2], J[1], J[...]
    traced = len(calls)
    K = jacobian(f, batch_axis=0)(2 * X)
    K[:, 2], K[0], K[...]
    assert len(calls) == traced
