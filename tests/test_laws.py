"""Laws that hold for every case, in every mode, dtype and chunk size.

Modes, dtypes and chunk sizes meet in nine combinations: every pair of two of them occurs, not every triple.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from reference import assert_close, dense, is_block, is_view, views

COMBINATIONS = [
    ("auto", "float32", "auto"),
    ("auto", "float64", 1),
    ("auto", "float32", 3),
    ("fwd", "float64", "auto"),
    ("fwd", "float32", 1),
    ("fwd", "float64", 3),
    ("rev", "float32", "auto"),
    ("rev", "float64", 1),
    ("rev", "float64", 3),
]
IDS = ["-".join(map(str, combination)) for combination in COMBINATIONS]

cases = pytest.mark.parametrize("case", CASES, ids=str)
combinations = pytest.mark.parametrize("mode, dtype, chunk_size", COMBINATIONS, ids=IDS)


def with_array_like(tree, reference):
    """Pairs of a view and its reference block."""
    blocks = [block for block in jax.tree.leaves(reference, is_leaf=is_block) if block is not None]
    return list(zip(views(tree), blocks, strict=True))


def passes(view):
    return view.stats.pullbacks + view.stats.pushforwards


def random_like(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values, dtype)


@cases
@combinations
def test_everything_equals_the_reference(case, mode, dtype, chunk_size):
    if mode not in case.modes:
        pytest.skip(f"no derivative of {case} in mode {mode}")
    with jax.enable_x64(dtype == "float64"):
        J = case.make(mode=mode, chunk_size=chunk_size)(*case.args_as(dtype), **case.kwargs)
        assert all(passes(view) == 0 for view in views(J))
        reference = case.reference()
        for view, block in with_array_like(J, reference):
            assert view.shape == block.shape
            assert np.asarray(view).dtype == view.dtype
            assert passes(view) <= min(view.matrix.shape) or mode != "auto"
        assert_close(dense(J), reference)


@cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shape_and_dtype_are_those_of_output_and_input(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        args = case.args_as(dtype)
        J = case.make()(*args, **case.kwargs)
        numbers = case.argnums if isinstance(case.argnums, tuple) else (case.argnums,)
        xs = jax.tree.leaves([args[n] for n in numbers])
        xs = [x for x in xs if np.issubdtype(x.dtype, np.inexact)]
        ys = jax.tree.leaves(jax.eval_shape(lambda *a: case.f(*a, **case.kwargs), *args))
        expected = [(y.shape + x.shape, jnp.result_type(x, y)) for y in ys for x in xs]
        assert [(view.shape, view.dtype) for view in views(J)] == expected


@cases
def test_rows_and_columns_agree(case, x64):
    args = case.args_as(np.float64)
    by_rows, by_columns = (case.make()(*args, **case.kwargs) for _ in range(2))
    for rows, columns in zip(views(by_rows), views(by_columns), strict=True):
        num_rows, num_columns = rows.matrix.shape
        a = np.asarray(rows.matrix[list(range(num_rows))[:-1]])
        b = np.asarray(columns.matrix[:, list(range(num_columns))[:-1]])
        assert a.shape == (max(num_rows - 1, 0), num_columns)
        assert b.shape == (num_rows, max(num_columns - 1, 0))
        assert_close(a[:, : b.shape[1]], b[: a.shape[0]])


@cases
def test_any_key_is_that_of_the_array(case, x64):
    args = case.args_as(np.float64)
    reference = case.reference()
    for key in (..., None, (..., slice(None, None, -1)), (..., 0), 0, -1, slice(1, None), (0, ..., 0)):
        J = case.make()(*args, **case.kwargs)
        for view, block in with_array_like(J, reference):
            try:
                expected = block[key]
            except IndexError:
                with pytest.raises(IndexError):
                    view[key]
                assert passes(view) == 0
                continue
            assert_close(view[key], np.asarray(expected))


@cases
def test_transpose_and_matrix(case, x64):
    J = case.make()(*case.args_as(np.float64), **case.kwargs)
    for view, block in with_array_like(J, case.reference()):
        num_columns = int(np.prod(block.shape[len(view.value.shape) :]))
        matrix = block.reshape(int(np.prod(view.value.shape)), num_columns)
        assert (view.T.shape, view.matrix.shape) == (block.T.shape, matrix.shape)
        assert_close(view.T[...], block.T)
        assert_close(view.matrix[...], matrix)
        assert_close(view.matrix.T[:1], matrix.T[:1])
        # Three looks at one store.
        assert passes(view) <= min(matrix.shape)


@cases
@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_products_are_adjoint(case, mode, x64):
    if mode not in case.modes:
        pytest.skip(f"no derivative of {case} in mode {mode}")
    J = case.make(mode=mode)(*case.args_as(np.float64), **case.kwargs)
    for seed, (view, block) in enumerate(with_array_like(J, case.reference())):
        y_ndim = view.value.ndim
        u = random_like(block.shape[:y_ndim], block.dtype, seed)
        v = random_like(block.shape[y_ndim:], block.dtype, seed + 100)
        pushed, pulled = view.mv(v), view.vm(u)
        assert_close(pushed, np.tensordot(block, v, v.ndim))
        assert_close(pulled, np.tensordot(u, block, u.ndim))
        # <u, J v> = <Jᵀ u, v>, without conjugation.
        np.testing.assert_allclose(np.sum(u * np.asarray(pushed)), np.sum(np.asarray(pulled) * v), rtol=1e-10)
        if {"fwd", "rev"} <= set(case.modes):
            assert view.stats.rows_computed == view.stats.columns_computed == 0


@cases
def test_plain_arrays_are_the_same(case, x64):
    J = case.make(lazy=False)(*case.args_as(np.float64), **case.kwargs)
    assert not views(J)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(J))
    assert_close(J, case.reference())


@cases
def test_inside_jit_is_the_same(case):
    def everything(*args):
        J = case.make()(*args, **case.kwargs)
        return jax.tree.map(lambda view: view[...], J, is_leaf=is_view)

    assert_close(jax.jit(everything)(*case.args_as(np.float32)), case.reference())


@cases
def test_without_compiling_is_the_same(case):
    J = case.make(jit=False)(*case.args_as(np.float32), **case.kwargs)
    assert_close(dense(J), case.reference())


@cases
def test_raveled_is_the_same(case, x64):
    if case.name == "integers left out":
        pytest.skip("ravel with where is covered by its own test")
    reference = case.reference()
    J = case.make(ravel=True)(*case.args_as(np.float64), **case.kwargs)
    view = case.make()(*case.args_as(np.float64), **case.kwargs)
    num_outputs = len(jax.tree.leaves(jax.eval_shape(lambda *a: case.f(*a, **case.kwargs), *case.args)))
    leaves = [leaf.matrix.shape for leaf in views(view)]
    per_output = len(leaves) // num_outputs
    blocks = [b.reshape(s) for b, s in zip(jax.tree.leaves(reference), leaves, strict=True)]
    rows = [np.concatenate(blocks[k : k + per_output], 1) for k in range(0, len(blocks), per_output)]
    assert is_view(J)
    assert_close(J[...], np.concatenate(rows))


@cases
def test_the_value_is_the_functions(case, x64):
    args = case.args_as(np.float64)
    J = case.make()(*args, **case.kwargs)
    ys = jax.tree.leaves(case.f(*args, **case.kwargs))
    per_output = len(views(J)) // len(ys)
    for k, view in enumerate(views(J)):
        assert_close(view.value, np.asarray(ys[k // per_output]))
        assert passes(view) == 0


def test_the_combinations_meet_in_pairs():
    modes, dtypes, chunks = (set(column) for column in zip(*COMBINATIONS, strict=True))
    assert {(m, d) for m, d, _ in COMBINATIONS} == {(m, d) for m in modes for d in dtypes}
    assert {(m, c) for m, _, c in COMBINATIONS} == {(m, c) for m in modes for c in chunks}
    assert {(d, c) for _, d, c in COMBINATIONS} == {(d, c) for d in dtypes for c in chunks}
