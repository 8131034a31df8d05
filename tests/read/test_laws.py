"""Laws that hold for every view: of both transforms, batched and not, in every mode, dtype and chunk size.

A case is a function and how it is differentiated. Tests run case by case, so that all laws of a case share the compiled
kernels. What is special to Hessians and to batches is in test_hessian.py and test_batch.py.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES as JACOBIANS
from hessian_cases import CASES as HESSIANS
from reference import assert_close, dense, is_block, is_view, passes, views
from sample_cases import CASES as SAMPLES
from sample_cases import HESSIAN_CASES as SAMPLE_HESSIANS

import jacobia
from jacobia import Hessian, hessian, jacobian

pytestmark = pytest.mark.slow

# Cases of Hessians and of batches that are tested here: a selection, since much is common to all transforms.
OF_HESSIANS = (
    "1-D", "0-D", "2-D", "no inputs", "no outputs", "size 1", "vector", "tree of one argument",
    "both arguments, swapped", "custom_vjp", "rules that call it again", "scan", "holomorphic", "keywords",
)  # fmt: skip
OF_SAMPLES = (
    "tall", "axis -1", "middle axis", "a number of each", "numbers to rows", "no samples", "one sample", "no inputs",
    "no outputs", "images", "trees", "second argument", "holomorphic", "custom_vjp",
)  # fmt: skip
CASES = [*JACOBIANS, *(c for c in HESSIANS if c.name in OF_HESSIANS), *(c for c in SAMPLES if c.name in OF_SAMPLES)]
CASES += SAMPLE_HESSIANS
# Modes, dtypes and chunk sizes: every pair of two of them occurs, not every triple. A case is read in every mode once,
# with the dtypes and chunk sizes of the even ones or of the odd ones.
COMBINATIONS = [
    ("auto", "float32", "auto"),
    ("auto", "float64", 1),
    ("fwd", "float64", "auto"),
    ("fwd", "float32", 1),
    ("rev", "float32", "auto"),
    ("rev", "float64", 1),
]
# Fewer combinations, for cases that run much the same kernels as Jacobians.
FEW = [("auto", "float32", 2), ("rev", "float64", "auto")]


def kind_of(case):
    return f"{case.transform.__name__}{'' if case.batch_axis is None else ' of samples'}"


@pytest.fixture(params=CASES, ids=lambda case: f"{kind_of(case)}: {case}", scope="module")
def case(request):
    return request.param


def is_plain(case):
    return case.transform is jacobian and case.batch_axis is None


def with_array_like(tree, reference):
    """Pairs of a view and its reference block."""
    blocks = [block for block in jax.tree.leaves(reference, is_leaf=is_block) if block is not None]
    return list(zip(views(tree), blocks, strict=True))


def read_at(case, dtype=np.float64, **options):
    return case.make(**options)(*case.args_as(dtype), **case.kwargs)


def lead_of(case):
    return 0 if case.batch_axis is None else 1


def cube_of(case, view, block):
    """The reference as a matrix, with the axis of samples in front where there is one."""
    own, lead = view._layout.block, block.shape[: lead_of(case)]
    return block.reshape(*lead, int(np.prod(own.row_shape)), int(np.prod(own.column_shape)))


def random_like(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values, dtype)


def test_everything_equals_the_reference(case):
    for mode, dtype, chunk_size in COMBINATIONS[CASES.index(case) % 2 :: 2] if is_plain(case) else FEW:
        if mode not in case.modes:
            continue
        with jax.enable_x64(dtype == "float64"):
            J = read_at(case, dtype, mode=mode, chunk_size=chunk_size)
            assert all(passes(view) == 0 for view in views(J))
            reference = case.reference()
            for view, block in with_array_like(J, reference):
                assert view.shape == block.shape and isinstance(view, Hessian) == (case.transform is hessian)
                assert np.asarray(view).dtype == view.dtype
                assert passes(view) <= min(view.matrix.shape[-2:]) or mode != "auto"
            assert_close(dense(J), reference)


def test_all_of_it_is_one_kernel_call(case, x64):
    J = read_at(case)
    full = jacobia.materialize(J)
    assert [leaf.dtype for leaf in jax.tree.leaves(full)] == [view.dtype for view in views(J)]
    assert_close(full, case.reference())
    assert max(view.stats.kernel_calls for view in views(J)) <= 1


def test_metadata_is_that_of_the_array(case):
    dtype = ("float32", "float64")[CASES.index(case) % 2]
    with jax.enable_x64(dtype == "float64"):
        J = read_at(case, dtype)
        args = jax.tree.leaves(case.args_as(dtype))
        outs = jax.tree.leaves(jax.eval_shape(lambda *a: case.f(*a, **case.kwargs), *case.args_as(dtype)))
        inexact = [a.dtype for a in (*args, *outs) if jnp.issubdtype(a.dtype, jnp.inexact)]
        for view, block in with_array_like(J, case.reference()):
            assert (view.shape, view.ndim, view.size) == (block.shape, block.ndim, block.size)
            assert view.dtype in inexact and view.nbytes == block.size * view.dtype.itemsize
            assert view.T.shape == block.T.shape and view.matrix.shape == cube_of(case, view, block).shape
            assert "explain" not in repr(view) and str(list(view.shape)).replace(" ", "") in repr(view)
            assert not hasattr(view, "no_such_attribute") and view.explain().shape == view.shape
            assert view.stats.kernel_calls == view.stats.nbytes == 0


def test_nesting_is_that_of_jax(case):
    if case.options.get("where") is not None or case.modes != ("auto", "fwd", "rev"):
        pytest.skip("JAX cannot")
    of_jax = jax.jacrev if case.transform is jacobian else jax.hessian
    of_jax = of_jax(case.f, case.argnums, holomorphic="holomorphic" in case.options)
    expected = jax.eval_shape(lambda *args: of_jax(*args, **case.kwargs), *case.args_as(np.float32))
    J = read_at(case, np.float32)
    assert jax.tree.structure(J, is_leaf=is_block) == jax.tree.structure(expected)
    if case.batch_axis is None:
        shapes = jax.tree.map(lambda view: view.shape, J, is_leaf=is_block)
        assert shapes == jax.tree.map(jnp.shape, expected)


def test_rows_and_columns_agree(case, x64):
    by_rows, by_columns = read_at(case), read_at(case)
    for (rows, block), columns in zip(with_array_like(by_rows, case.reference()), views(by_columns), strict=True):
        cube = cube_of(case, rows, block)
        m, n = cube.shape[-2:]
        assert_close(rows.matrix[..., : m - 1, :], cube[..., : m - 1, :])
        assert_close(columns.matrix[..., : n - 1], cube[..., : n - 1])
        assert rows.stats.kernel_calls <= 1 and columns.stats.kernel_calls <= 1


KEYS = (..., None, (..., slice(None, None, -1)), (..., 0), 0, -1, slice(1, None), (0, ..., 0))


def test_any_key_is_that_of_the_array(case, x64):
    for key in KEYS:
        for view, block in with_array_like(read_at(case), case.reference()):
            try:
                expected = block[key]
            except IndexError:
                with pytest.raises(IndexError):
                    view[key]
                assert passes(view) == 0
                continue
            assert_close(view[key], np.asarray(expected))


def test_transpose_and_matrix(case, x64):
    for view, block in with_array_like(read_at(case), case.reference()):
        matrix = cube_of(case, view, block)
        assert_close(view.T[...], block.T)
        assert_close(view.matrix[...], matrix)
        assert_close(view.matrix.mT[..., :1, :], matrix.swapaxes(-1, -2)[..., :1, :])
        # Three views on one store.
        assert passes(view) <= min(matrix.shape[-2:])


def test_products_are_adjoint(case, x64):
    for mode in case.modes if is_plain(case) else case.modes[:1]:
        for seed, (view, block) in enumerate(with_array_like(read_at(case, mode=mode), case.reference())):
            own, lead, cube = view._layout.block, block.shape[: lead_of(case)], cube_of(case, view, block)
            u = random_like(lead + own.row_shape, block.dtype, seed)
            v = random_like(lead + own.column_shape, block.dtype, seed + 100)
            pushed, pulled = view.mv(v), view.vm(u)
            b = lead or (1,)
            assert_close(
                pushed, (cube.reshape(*b, *cube.shape[-2:]) @ v.reshape(*b, cube.shape[-1], 1)).reshape(u.shape)
            )
            assert_close(
                pulled, (u.reshape(*b, 1, cube.shape[-2]) @ cube.reshape(*b, *cube.shape[-2:])).reshape(v.shape)
            )
            # <u, J v> = <Jᵀ u, v>, without conjugation.
            np.testing.assert_allclose(np.sum(u * np.asarray(pushed)), np.sum(np.asarray(pulled) * v), rtol=1e-10)
            if {"fwd", "rev"} <= set(case.modes):
                assert view.stats.rows_computed == view.stats.columns_computed == 0


def test_plain_arrays_are_the_same(case, x64):
    J = read_at(case, lazy=False)
    assert not views(J)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(J))
    assert_close(J, case.reference())


def test_the_value_is_the_functions(case, x64):
    J, args = read_at(case), case.args_as(np.float64)
    ys = jax.tree.leaves((case.same or case.f)(*args, **case.kwargs))
    per_output = len(views(J)) // len(ys)
    for k, view in enumerate(views(J)):
        assert_close(view.value, np.asarray(ys[k // per_output]))
        assert passes(view) == 0


def test_raveled_is_the_same(case, x64):
    if case.options.get("where") is not None or case.transform is hessian:
        pytest.skip("where, and Hessians, are covered by tests of their own")
    blocks = [cube_of(case, view, block) for view, block in with_array_like(read_at(case), case.reference())]
    num_outputs = len(jax.tree.leaves(jax.eval_shape(lambda *a: case.f(*a, **case.kwargs), *case.args)))
    per_output = len(blocks) // num_outputs
    rows = [np.concatenate(blocks[k : k + per_output], -1) for k in range(0, len(blocks), per_output)]
    J = read_at(case, ravel=True)
    assert is_view(J)
    assert_close(J[...], np.concatenate(rows, -2))


def test_inside_jit_is_the_same(case):
    def everything(*args):
        return jax.tree.map(lambda view: view[...], case.make()(*args, **case.kwargs), is_leaf=is_view)

    assert_close(jax.jit(everything)(*case.args_as(np.float32)), case.reference())


# What Python runs for Hessians and samples is what it runs for Jacobians, so that some of them show it.
OF_PYTHON = ("1-D", "vector", "custom_vjp", "rules that call it again", "tall", "axis -1", "a number of each")
BY_PYTHON = [c for c in CASES if is_plain(c) or c.name in OF_PYTHON or c is SAMPLE_HESSIANS[0]]


@pytest.mark.parametrize("one", BY_PYTHON, ids=lambda case: f"{kind_of(case)}: {case}")
def test_without_compiling_is_the_same(one):
    assert_close(dense(read_at(one, np.float32, jit=False)), one.reference())


# Every key, of one view of each kind

ONE = {}
for one_case in CASES:
    if kind_of(one_case) not in ONE and max(block.ndim for block in jax.tree.leaves(one_case.reference())) <= 3:
        ONE[kind_of(one_case)] = one_case
kinds = pytest.mark.parametrize("kind", ONE)
EVERY = [
    *(0, -1, slice(1, 3), slice(None, None, -1), slice(0, 0), slice(None, None, 2), ..., None, [2, 0, 2], []),
    *((slice(None), 1), (..., -2), (1, 2), (slice(0, 2), slice(1, 3)), ([0, 2], [1, 2]), (None, 1, slice(3, 0, -2))),
    *(([2, 1], None, slice(2)), (np.array([[0], [2]]), np.array([1, 2])), (slice(None), [False, True, True, False])),
    *((-1, ..., [0, 2]), (slice(None), None, 0), np.int64(2), "first", "second", "all"),
]  # fmt: skip


def key_for(key, shape):
    # A mask over the first axis, over the first two, and over all.
    axes = {"first": 1, "second": 2, "all": len(shape)}.get(key) if isinstance(key, str) else None
    return key if axes is None else np.arange(int(np.prod(shape[:axes]))).reshape(shape[:axes]) % 3 == 0


@kinds
@pytest.mark.parametrize("key", EVERY, ids=lambda key: repr(key).replace("\n", ""))
def test_keys_are_those_of_numpy(kind, key):
    case = ONE[kind]
    (J, block), (fresh, _) = (with_array_like(read_at(case, np.float32), case.reference())[0] for _ in range(2))
    key = key_for(key, block.shape)
    try:
        expected = np.asarray(block[key])
    except IndexError:
        with pytest.raises(IndexError):
            J[key]
        assert J.stats.kernel_calls == 0
        return
    assert_close(J[key], expected)
    most = min(cube_of(case, J, block).shape[-2:])
    assert passes(J) <= most and J.stats.kernel_calls <= 2
    before = J.stats
    assert_close(J[key], expected)
    assert J.stats == before
    assert_close(J[...], block)
    assert_close(fresh.T.T[key], expected)


@kinds
@pytest.mark.parametrize("key", [9, -9, (0, 9), (slice(None), -9), ([0, 9],), (0, 0, 0, 0), "x", 1.5], ids=repr)
def test_a_key_that_numpy_refuses_raises_before_any_work(kind, key):
    J = read_at(ONE[kind], np.float32)
    with pytest.raises((IndexError, TypeError)):
        J[key]
    assert J.stats.kernel_calls == J.stats.nbytes == 0


@kinds
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_change_no_numbers(kind, chunk_size):
    case = ONE[kind]
    J = read_at(case, np.float32, chunk_size=chunk_size)
    assert_close(J[..., 1:3, :], case.reference()[..., 1:3, :])
    assert (passes(J), J.stats.kernel_calls) == (2, 1)
    assert_close(J[...], case.reference())


@kinds
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
def test_copies_read_the_same(kind, duplicate):
    case = ONE[kind]
    J = read_at(case, np.float32)
    J[..., 1, :]
    K = duplicate(J)
    assert type(K) is type(J) and K is not J
    assert K.stats.kernel_calls == (1 if duplicate is copy.copy else 0)
    assert_close(K[...], case.reference())
    assert J.stats.nbytes == (K.stats.nbytes if duplicate is copy.copy else J[..., 1, :].nbytes)


def test_there_is_one_of_each_kind():
    assert len(ONE) == 4 and {kind_of(case) for case in CASES} == set(ONE)


def test_the_combinations_meet_in_pairs():
    modes, dtypes, chunks = (set(column) for column in zip(*COMBINATIONS, strict=True))
    assert {(m, d) for m, d, _ in COMBINATIONS} == {(m, d) for m in modes for d in dtypes}
    assert {(m, c) for m, _, c in COMBINATIONS} == {(m, c) for m in modes for c in chunks}
    assert {(d, c) for _, d, c in COMBINATIONS} == {(d, c) for d in dtypes for c in chunks}
