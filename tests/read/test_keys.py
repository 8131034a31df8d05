"""Every key and every pair of keys against NumPy, and that no more rows or columns are computed than necessary.

Shapes: M = 5 outputs, N = 4 inputs for the 2-D view; (2, 3) + (3, 2), M = N = 6, for the N-D view.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import NOTHING, work
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from jacobia import jacobian

RNG = np.random.default_rng(7)
W = RNG.normal(size=(5, 4)).astype(np.float32)
A = RNG.normal(size=(6, 6)).astype(np.float32)
X = RNG.normal(size=4).astype(np.float32)
Z = RNG.normal(size=(3, 2)).astype(np.float32)


def layer(x):
    return jnp.tanh(W @ x)


def field(z):
    return jnp.tanh(A @ z.reshape(-1)).reshape(2, 3)


def tanh_jacobian(weights, x):
    # d tanh(W x) = diag(1 - tanh(W x)**2) W, in float64.
    weights, x = weights.astype(np.float64), x.astype(np.float64).reshape(-1)
    return (1 - np.tanh(weights @ x) ** 2)[:, None] * weights


class Subject:
    """One way to look at a Jacobian: a fresh view, the same in NumPy, and which entry stands where."""

    def __init__(self, f, x, dense, look):
        self.f, self.x, self.look = f, x, look
        self.num_rows, self.num_columns = dense.size // max(1, x.size), x.size
        self.dense = look(dense)
        self.ids = look(np.arange(dense.size).reshape(dense.shape))

    def fresh(self):
        J = jacobian(self.f)(self.x)
        return J, self.look_at(J)

    def look_at(self, J):
        # A view has NumPy's .T; .matrix stands for a reshape.
        return J.matrix if self.look is matrix else self.look(J)

    def rows_and_columns(self, ids):
        return np.unique(ids // self.num_columns), np.unique(ids % self.num_columns)

    def passes(self, ids):
        """Fewest and most rows plus columns that may be computed for these entries of the matrix."""
        rows, columns = self.rows_and_columns(ids)
        touched = np.zeros((self.num_rows, self.num_columns), bool)
        touched.flat[ids] = True
        # Koenig: no set of rows and columns smaller than a maximum matching covers all entries.
        fewest = int(np.sum(maximum_bipartite_matching(csr_array(touched)) >= 0)) if ids.size else 0
        if touched[rows].all() and len(rows) < self.num_rows:  # a row key
            return fewest, len(rows)
        if touched[:, columns].all() and len(columns) < self.num_columns:  # a column key
            return fewest, len(columns)
        return fewest, min(len(rows), len(columns))


def identity(array):
    return array


def transpose(array):
    return array.T


def matrix(array):
    return array.reshape(6, 6)


FLAT = tanh_jacobian(W, X)
DEEP = tanh_jacobian(A, Z).reshape(2, 3, 3, 2)
SUBJECTS = {
    "J": Subject(layer, X, FLAT, identity),
    "J.T": Subject(layer, X, FLAT, transpose),
    "deep": Subject(field, Z, DEEP, identity),
    "deep.T": Subject(field, Z, DEEP, transpose),
    "deep.matrix": Subject(field, Z, DEEP, matrix),
}
subjects = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS.keys())


def passes_done(J):
    return J.stats.pullbacks + J.stats.pushforwards


def as_numpy(key):
    """The key with jax arrays as NumPy arrays."""
    if isinstance(key, tuple):
        return tuple(as_numpy(part) for part in key)
    return np.asarray(key) if isinstance(key, jax.Array) else key


def assert_same(actual, expected):
    assert isinstance(actual, jax.Array)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-4, atol=1e-6)


def check_fresh(subject, key):
    """Read `key` of a fresh view: NumPy's answer or NumPy's error, and just the work that it takes."""
    J, view = subject.fresh()
    assert work(J) == NOTHING
    try:
        expected = subject.dense[as_numpy(key)]
    except (IndexError, TypeError, ValueError) as error:
        with pytest.raises((type(error), IndexError, TypeError)):
            view[key]
        assert work(J) == NOTHING
        return
    assert_same(view[key], np.asarray(expected))
    ids = np.unique(subject.ids[as_numpy(key)])
    fewest, most = subject.passes(ids)
    assert fewest <= passes_done(J) <= most
    assert J.stats.rows_computed == J.stats.pullbacks
    assert J.stats.columns_computed == J.stats.pushforwards
    assert J.stats.seeds_run >= passes_done(J)
    # A block takes one call; scattered entries may take rows of some and columns of others.
    rows, columns = subject.rows_and_columns(ids)
    is_block = len(ids) == len(rows) * len(columns)
    assert (J.stats.kernel_calls > 0) == (ids.size > 0)
    assert J.stats.kernel_calls <= (1 if is_block else 2)
    before = work(J)
    assert_same(view[key], np.asarray(expected))
    assert work(J) == before


SLICES = [
    slice(None),
    slice(1, 3),
    slice(-2, None),
    slice(None, -1),
    slice(0, 100),
    slice(None, None, 2),
    slice(3, 0, -1),
    slice(None, None, -1),
    slice(None, None, -3),
    slice(-1, -5, -2),
    slice(0, 0),
    slice(3, 1),
    slice(9, 12),
]
ARRAYS = [
    [],
    [1],
    [2, 0],
    [1, 1, -1],
    np.array([0, -1]),
    np.array([[0, 1], [1, 0]]),
    np.array(1),
    np.array([1], np.uint8),
    jnp.array([1, 0, 1]),
    jnp.array(-1),
    (),
    range(2),
]
CONSTANTS = [0, 1, -1, np.int64(1), ..., None, True, False, np.True_, np.False_]
OUT_OF_RANGE = [
    5,
    -6,
    (0, 4),
    (slice(None), -5),
    [0, 5],
    [0, -7],
    (0, 0, 0, 0, 0),
    (..., 6),
    np.array([[9]]),
    jnp.array([0, 7]),
    ([0, 1], [0, 1, 2]),
    (slice(0, 0), 9),
]
BAD_TYPES = [
    1.0,
    "rows",
    [1.0],
    np.array([0.5]),
    1j,
    (0, "a"),
    slice(0.5),
    int,
    (..., ...),
    {0},
    [None],
    b"0",
]


@subjects
@pytest.mark.parametrize("key", SLICES + CONSTANTS + ARRAYS, ids=repr)
def test_one_key(subject, key):
    check_fresh(subject, key)


@subjects
@pytest.mark.parametrize("key", OUT_OF_RANGE, ids=repr)
def test_out_of_range_raises_before_any_work(subject, key):
    check_fresh(subject, key)


@pytest.mark.parametrize("key", OUT_OF_RANGE, ids=repr)
def test_all_of_these_are_out_of_range(key):
    J = jacobian(layer)(X)
    with pytest.raises(IndexError):
        J[key]
    assert work(J) == NOTHING


@subjects
@pytest.mark.parametrize("key", BAD_TYPES, ids=repr)
def test_a_key_of_no_index_type_raises(subject, key):
    J, view = subject.fresh()
    with pytest.raises((IndexError, TypeError)):
        view[key]
    assert work(J) == NOTHING


@pytest.mark.parametrize(
    "key, error, words",
    [
        (np.s_[::0], ValueError, r"J\[::0\]: expected .* steps other than 0"),
        (np.s_[: 3 / 2], TypeError, r"J\[:1.5\]: expected integers .* Write n // 2"),
        (np.s_[:, np.float32(1) :], TypeError, r"J\[:, 1.0:\]: expected integers .* Write n // 2"),
        (np.s_["a":], TypeError, r"J\[a:\]: expected integers or None in slices"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_slices_that_numpy_rejects_raise(key, error, words, known):
    J = jacobian(layer)(X)
    if known:
        J[...]
    before = work(J)
    with pytest.raises(error, match=words):
        J[key]
    assert work(J) == before


PARTS_2D = [
    0,
    -1,
    slice(None),
    slice(1, 3),
    slice(None, None, -1),
    slice(3, 0, -2),
    slice(0, 0),
    ...,
    None,
    [2, 0],
    [1, 1, -1],
    [],
    np.array([[0], [1]]),
    np.array([[0, 1, 3]]),
    jnp.array([3, 1]),
    np.array([True, False, True, True, False]),
    np.array([True, False, True, True]),
    [False, True, False, False],
    np.zeros(4, bool),
    np.True_,
    7,
]
PARTS_ND = [
    0,
    -2,
    slice(None, None, -1),
    slice(1, 2),
    slice(0, 0),
    ...,
    None,
    [1, 0],
    np.array([[0], [1]]),
    np.array([True, False]),
    np.array([True, False, True]),
    np.array([[True, False, True], [False, True, False]]),
    np.array([[True, False], [False, True], [True, True]]),
    np.False_,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["J", "J.T"])
@pytest.mark.parametrize("first", PARTS_2D, ids=repr)
def test_pairs_in_a_tuple(name, first):
    for second in PARTS_2D:
        check_fresh(SUBJECTS[name], (first, second))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep", "deep.T", "deep.matrix"])
@pytest.mark.parametrize("first", PARTS_ND, ids=repr)
def test_pairs_in_a_tuple_of_an_nd_view(name, first):
    for second in PARTS_ND:
        check_fresh(SUBJECTS[name], (first, second))


def check_after(subject, J, view, done, key):
    """Read one more key: only what is not yet known may be computed."""
    expected, ids = subject.dense[as_numpy(key)], np.unique(subject.ids[as_numpy(key)])
    missing = np.setdiff1d(ids, done)
    before = passes_done(J)
    assert_same(view[key], np.asarray(expected))
    rows, columns = subject.rows_and_columns(missing)
    wanted_rows, wanted_columns = subject.rows_and_columns(ids)
    most = min(len(rows), len(columns))
    if len(ids) == len(wanted_rows) * subject.num_columns and len(wanted_rows) < subject.num_rows:
        most = len(rows)  # a row key: by pullback
    elif len(ids) == len(wanted_columns) * subject.num_rows and len(wanted_columns) < subject.num_columns:
        most = len(columns)  # a column key: by pushforward
    assert passes_done(J) - before <= most


KEYS_IN_TURN = [
    ...,
    0,
    -1,
    slice(1, 3),
    slice(None, None, -2),
    slice(0, 0),
    [1, 0],
    (slice(None), 1),
    (slice(None), slice(0, 2)),
    (..., 0),
    (1, 1),
    (slice(0, 2), slice(1, None)),
    ([1, 0], [1, 0]),
    None,
]


@subjects
@pytest.mark.parametrize("first", KEYS_IN_TURN, ids=repr)
def test_a_second_key_computes_only_what_is_missing(subject, first):
    for second in KEYS_IN_TURN:
        J, view = subject.fresh()
        check_after(subject, J, view, np.array([], int), first)
        check_after(subject, J, view, np.unique(subject.ids[first]), second)


@subjects
def test_many_keys_in_turn_compute_nothing_twice(subject):
    J, view = subject.fresh()
    for key in KEYS_IN_TURN:
        assert_same(view[key], subject.dense[key])
    # `...` was read first, and computed everything in the cheaper direction.
    assert passes_done(J) == min(subject.num_rows, subject.num_columns)


@pytest.mark.parametrize(
    "key",
    [1, -2, slice(1, 4), slice(None, None, -2), [3, 3, 0], [[0, 1], [1, 0]], [False] * 4 + [True]],
    ids=repr,
)
def test_rows_are_pulled_back_each_once(key):
    J = jacobian(layer)(X)
    rows = np.unique(np.arange(5)[key])
    assert_same(J[key], FLAT[key])
    assert (J.stats.rows_computed, J.stats.pullbacks, J.stats.kernel_calls) == (len(rows), len(rows), 1)
    assert (J.stats.columns_computed, J.stats.pushforwards) == (0, 0)


@pytest.mark.parametrize(
    "key", [1, -2, slice(1, 3), slice(None, None, -2), [3, 3, 0], [False, True, False, False]], ids=repr
)
def test_columns_are_pushed_forward_each_once(key):
    J = jacobian(layer)(X)
    columns = np.unique(np.arange(4)[key])
    assert_same(J[:, key], FLAT[:, key])
    assert (J.stats.columns_computed, J.stats.pushforwards) == (len(columns), len(columns))
    assert (J.stats.rows_computed, J.stats.pullbacks, J.stats.kernel_calls) == (0, 0, 1)


@pytest.mark.parametrize("key", [(0, 0), (-1, 2), (np.array(3), [1])], ids=repr)
def test_one_entry_takes_one_pass(key):
    J = jacobian(layer)(X)
    assert_same(J[key], np.asarray(FLAT[key]))
    assert (passes_done(J), J.stats.kernel_calls) == (1, 1)


def test_a_block_takes_its_shorter_side():
    J = jacobian(layer)(X)
    assert_same(J[0:3, 1:2], FLAT[0:3, 1:2])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (0, 1)
    K = jacobian(layer)(X)
    assert_same(K[3:4, 0:3], FLAT[3:4, 0:3])
    assert (K.stats.pullbacks, K.stats.pushforwards) == (1, 0)


def test_all_of_a_tall_matrix_takes_n_pushforwards_and_of_a_wide_one_m_pullbacks():
    tall = jacobian(layer)(X)
    assert_same(tall[...], FLAT)
    assert (tall.stats.pullbacks, tall.stats.pushforwards) == (0, 4)
    wide = jacobian(lambda x: layer(x)[:3])(X)
    assert_same(wide[...], FLAT[:3])
    assert (wide.stats.pullbacks, wide.stats.pushforwards) == (3, 0)


def test_the_rest_after_four_rows_is_one_pullback():
    J = jacobian(layer)(X)
    J[1:5]
    assert_same(J[...], FLAT)
    assert (J.stats.pullbacks, J.stats.pushforwards) == (5, 0)


def test_the_rest_after_three_columns_is_one_pushforward():
    J = jacobian(layer)(X)
    J[:, :3]
    assert_same(J[...], FLAT)
    assert (J.stats.pullbacks, J.stats.pushforwards) == (0, 4)


def test_rows_of_the_transpose_are_columns_in_one_store():
    J = jacobian(layer)(X)
    assert_same(J.T[2], FLAT[:, 2])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (0, 1)
    assert_same(J[:, 2], FLAT[:, 2])
    assert_same(J.T.T[:, 2], FLAT[:, 2])
    assert_same(J.T[:, 3], FLAT[3])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 1)
    assert work(J.T) == work(J)


def test_the_matrix_shares_the_store():
    J = jacobian(field)(Z)
    assert_same(J.matrix[4], DEEP.reshape(6, 6)[4])
    assert_same(J[1, 1], DEEP[1, 1])
    assert_same(J.matrix.T[:, 4], DEEP.reshape(6, 6)[4])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 0)


def test_masks_that_span_axes_select_rows_of_outputs_and_columns_of_inputs():
    outputs = np.array([[True, False, False], [False, False, True]])
    inputs = np.array([[False, True], [False, False], [True, False]])
    J = jacobian(field)(Z)
    assert_same(J[outputs], DEEP[outputs])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (2, 0)
    K = jacobian(field)(Z)
    assert_same(K[..., inputs], DEEP[..., inputs])
    assert (K.stats.pullbacks, K.stats.pushforwards) == (0, 2)
    whole = np.abs(DEEP) > np.median(np.abs(DEEP))
    L = jacobian(field)(Z)
    assert_same(L[whole], DEEP[whole])
    assert_same(L[jnp.asarray(whole)], DEEP[whole])


@pytest.mark.parametrize(
    "mask", [np.ones(4, bool), np.ones((5, 5), bool), np.ones((4, 5), bool), np.ones((5, 4, 1), bool)]
)
def test_a_mask_of_another_shape_raises(mask):
    J = jacobian(layer)(X)
    with pytest.raises(IndexError):
        J[mask]
    assert work(J) == NOTHING


SMALL = {
    "0-D": (lambda x: jnp.sin(x), np.float32(0.3), np.cos(0.3)),
    "0-D output": (lambda x: jnp.sum(x**2), np.array([1, 2, 3], np.float32), np.array([2.0, 4, 6])),
    "0-D input": (lambda x: jnp.stack([x, x**2]), np.float32(3), np.array([1.0, 6])),
    "size 1": (lambda x: x**3, np.array([2], np.float32), np.array([[12.0]])),
    "no outputs": (lambda x: x[:0], np.ones(3, np.float32), np.zeros((0, 3))),
    "no inputs": (lambda x: jnp.sum(x) * jnp.ones(2), np.ones(0, np.float32), np.zeros((2, 0))),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "key", [(), ..., None, (..., None), slice(None), 0, -1, [0], slice(None, None, -1), True], ids=repr
)
def test_degenerate_shapes(name, key):
    f, x, dense = SMALL[name]
    subject = Subject(f, x, dense, identity)
    J = jacobian(f)(x)
    try:
        expected = dense[key]
    except IndexError:
        with pytest.raises(IndexError):
            J[key]
        assert work(J) == NOTHING
        return
    assert_same(J[key], np.asarray(expected))
    assert passes_done(J) <= min(subject.num_rows, subject.num_columns)
