"""Keys taken apart and put together again, compared with NumPy. No derivative is computed.

Shapes: B samples, M rows, N columns; a cube (B, M, N) of distinct numbers stands for the Jacobian.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._store.gather import gather
from jacobia._store.keys import Axes, Part, asked, is_all, pick, token

pytestmark = pytest.mark.slow

ROLES = ("batch", "rows", "columns")


class Layout:
    """The axes of a view, and the array it stands for."""

    def __init__(self, batch, rows, columns, reverse=False):
        shapes = [batch, rows, columns]
        parts = [Part(role, shape, reverse) for role, shape in zip(ROLES, shapes, strict=True)]
        self.axes = Axes(parts[::-1] if reverse else parts)
        self.order = tuple(p.role for p in self.axes.parts)
        self.cube = np.arange(np.prod([p.size for p in parts], dtype=int)).reshape([p.size for p in parts])
        self.array = self.cube.reshape(batch + rows + columns)
        self.array = self.array.T if reverse else self.array

    def __str__(self):
        return "x".join(map(str, self.array.shape)) + ("T" if self.axes.parts[0].reverse else "") + f"-{self.order[0]}"


def read(layout, key, xp=np):
    """What a view does with a key: only the lines that are wanted are at hand, in sorted order."""
    what = asked(key, layout.axes)
    cube, held = layout.cube, {}
    for axis, role in ((1, "rows"), (2, "columns")):
        numbers = held[role] = what.numbers[role]
        if numbers is not None:
            cube = cube.take(np.asarray(numbers), axis=axis)
    choice = what.choice
    return choice, gather(xp, xp.asarray(cube), what.among(held), layout.order, choice.outer, choice.shape)


LAYOUTS = [
    Layout((), (5,), (4,)),
    Layout((), (4,), (), reverse=True),
    Layout((), (), ()),
    Layout((), (), (4,)),
    Layout((), (3, 2), (4,)),
    Layout((), (3, 2), (2, 3)),
    Layout((), (3, 2), (2, 3), reverse=True),
    Layout((), (6,), (6,), reverse=True),
    Layout((3,), (4,), (2,)),
    Layout((2, 2), (3,), (2,)),
    Layout((3,), (4,), (2,), reverse=True),
    Layout((2,), (2, 3), (2,), reverse=True),
    Layout((), (0,), (3,)),
    Layout((), (1,), (1,)),
]

i0, i1 = np.array([1, 0]), np.array([[1], [0]])
KEYS = [
    (),
    ...,
    0,
    -1,
    slice(None),
    slice(1, None),
    slice(None, None, -1),
    slice(3, 0, -2),
    slice(5, 2),
    None,
    (None, 0),
    (0, None),
    (..., None),
    (..., 0),
    (..., -1),
    (0, ..., 1),
    (slice(1, 2), ..., slice(None, None, -1)),
    [1, 0, 1],
    [],
    i1,
    (..., [1, 1, 0]),
    (i0, i0),
    (i0, ..., i1),
    (i0, slice(None), i0),
    (slice(None), i0),
    (slice(None), 1, i0),
    (slice(None), i0, 0),
    (0, slice(None), i0),
    (i1, 0),
    (i0, None, i0),
    (None, i0, None),
    (1, 0),
    (1, None, slice(None), None),
    (np.array([True, False]),),
    True,
    False,
    (True, 0),
    (slice(None), True),
    np.int64(1),
    np.array(1),
    (np.array(1), i0),
    (0, 0, 0),
    (i0, i0, i0),
    (slice(None), slice(None), i0),
    (slice(None), slice(None), None, 0),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_key_on_every_layout_as_numpy(layout):
    indexed = refused = 0
    for key in KEYS:
        try:
            expected = layout.array[key]
        except IndexError:
            with pytest.raises(IndexError):
                pick(key, layout.axes)
            refused += 1
            continue
        choice, got = read(layout, key)
        assert choice.shape == expected.shape, key
        assert np.array_equal(got, expected), key
        indexed += 1
    assert indexed >= 6 and indexed + refused == len(KEYS)


@pytest.mark.parametrize("layout", LAYOUTS[:-2], ids=str)
def test_masks_of_every_number_of_axes_as_numpy(layout):
    rng = np.random.default_rng(0)
    shape = layout.array.shape
    for first in range(len(shape)):
        for last in range(first + 1, len(shape) + 1):
            mask = rng.random(shape[first:last]) < 0.5
            key = (slice(None),) * first + (mask,)
            assert np.array_equal(read(layout, key)[1], layout.array[key])
    assert np.array_equal(read(layout, np.ones(shape, bool))[1], layout.array[np.ones(shape, bool)])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_random_keys_as_numpy(layout):
    rng = np.random.default_rng(len(layout.array.shape))

    def item(n):
        kind = rng.integers(6)
        if kind == 0 and n:
            return int(rng.integers(-n, n))
        if kind == 1:
            bounds = [None if rng.random() < 0.3 else int(rng.integers(-n - 2, n + 3)) for _ in range(2)]
            return slice(*bounds, int(rng.choice([-2, -1, 1, 2, 3])))
        if kind == 2 and n:
            return rng.integers(-n, n, size=[(2,), (1,), (3, 2), (2, 1)][rng.integers(4)])
        if kind == 3:
            return None
        if kind == 4:
            return rng.random(n) < 0.5
        return slice(None)

    tried = 0
    for _ in range(150):
        key, axis, dotted = [], 0, rng.random() < 0.3
        stop = rng.integers(0, layout.array.ndim + 1)
        while axis < stop:
            key.append(item(layout.array.shape[axis]))
            axis += key[-1] is not None
        if dotted:
            key.append(...)
        key = tuple(key)
        try:
            expected = layout.array[key]
        except IndexError:
            with pytest.raises(IndexError):
                pick(key, layout.axes)
            continue
        choice, got = read(layout, key)
        assert choice.shape == expected.shape and np.array_equal(got, expected), key
        tried += 1
    assert tried >= 75


def test_what_is_wanted_is_sorted_and_different():
    what = asked([3, 0, 3, -1], Layout((), (5,), (4,)).axes)
    assert what.choice.outer and what.choice.shape == (4, 4)
    assert what.numbers["rows"].tolist() == [0, 3, 4] and what.places["rows"].tolist() == [1, 0, 1, 2]
    assert what.numbers["columns"] is None and what.places["columns"] is None
    back = asked(slice(None, None, -1), Layout((), (5,), (4,)).axes)
    assert back.numbers["rows"] is None and back.places["rows"].tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.array.ndim], ids=str)
def test_integers_and_slices_are_taken_apart_as_any_other_key(layout):
    # As index arrays, keys take the general path.
    rng = np.random.default_rng(1)
    for _ in range(40):
        key, ramps = [], []
        for size in layout.array.shape[: rng.integers(1, layout.array.ndim + 1)]:
            start, stop = rng.integers(-size - 1, size + 2, 2).tolist()
            key.append(slice(start, stop, rng.choice([-2, -1, 1, 2]).item()))
            ramps.append(np.arange(size)[key[-1]])
        simple, general = asked(tuple(key), layout.axes), asked(np.ix_(*ramps), layout.axes)
        assert simple.choice.shape == general.choice.shape
        if 0 not in simple.choice.shape:
            for role in ROLES:
                a, b = simple.numbers[role], general.numbers[role]
                assert (a is None and b is None) or np.array_equal(a, b), (key, role)


def test_a_slice_wants_only_what_it_names():
    matrix = Layout((), (5,), (4,)).axes
    assert pick((slice(1, 3), slice(None)), matrix).whole == (True, False, True)
    assert pick((slice(None), 2), matrix).whole == (True, True, False)
    assert pick((slice(0, 5), slice(0, 4)), matrix).ids[1].tolist() == [0, 1, 2, 3, 4]
    # A transposed layout: the order of the axes differs, but all lines are requested.
    turned = Layout((), (3, 2), (4,), reverse=True).axes
    assert pick(slice(None), turned).whole == (True, True, True)


@pytest.mark.parametrize(
    ("key", "ndim", "expected"),
    [
        (..., 0, True),
        ((), 2, True),
        (slice(None), 2, True),
        (slice(None), 0, False),
        ((slice(None), ...), 1, True),
        ((slice(None),) * 3, 2, False),
        ((..., ...), 2, False),
        (slice(0, None), 2, False),
        (0, 2, False),
        (None, 2, False),
        ([], 2, False),
    ],
    ids=str,
)
def test_is_all(key, ndim, expected):
    assert is_all(key, ndim) is expected


@pytest.mark.parametrize(
    "key",
    [5, -6, (0, 4), (0, 0, 0), 1.0, "a", (..., ...), np.array([5]), [0.5], np.ones(4, bool), np.float32(1)],
    ids=str,
)
def test_a_key_that_numpy_refuses_names_itself(key):
    with pytest.raises(IndexError, match=r"^J\[.*expected"):
        pick(key, Layout((), (5,), (4,)).axes)


def test_a_long_key_is_cut_in_the_message():
    with pytest.raises(IndexError) as error:
        pick(np.full(1000, 7), Layout((), (5,), (4,)).axes)
    assert len(str(error.value)) < 300


def test_parts_of_a_transpose_count_from_the_natural_order():
    part = Part("rows", (3, 2), reverse=True)
    assert part.shape == (2, 3) and part.size == 6
    assert part.numbers.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert Axes([part, Part("columns", (4,))]).shape == (2, 3, 4)


TRACED = [
    lambda i: i,
    lambda i: (slice(None), i),
    lambda i: (i, ...),
    lambda i: (..., i),
    lambda i: jnp.stack([i, 0 * i]),
    lambda i: (slice(None), jnp.stack([i, i])[:, None]),
    lambda i: (i, slice(1, None)),
    lambda i: (None, i),
    lambda i: (i, slice(None, None, -1)),
]


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[5], LAYOUTS[6], LAYOUTS[8], LAYOUTS[10]], ids=str)
def test_traced_integers_wrap_and_clamp_as_jnp(layout):
    def read_all(i):
        for key in (make(i) for make in TRACED):
            choice = pick(key, layout.axes)
            found = {r: None if k is None else jnp.asarray(k) for r, k in zip(layout.order, choice.ids, strict=True)}
            yield gather(jnp, jnp.asarray(layout.cube), found, layout.order, choice.outer, choice.shape)

    got = jax.jit(lambda i: list(read_all(i)))
    expected = jax.jit(lambda i: [jnp.asarray(layout.array)[make(i)] for make in TRACED])
    for i in (0, 1, -1, 50, -50):
        for a, e in zip(got(i), expected(i), strict=True):
            assert a.shape == e.shape and np.array_equal(a, e), i


def test_traced_masks_raise():
    axes = Layout((), (5,), (4,)).axes
    with pytest.raises(IndexError, match="A mask can't be traced"):
        jax.eval_shape(lambda mask: pick(mask, axes).ids, np.ones(5, bool))


TRACED_APART = [
    lambda a, b: (a, 1),
    lambda a, b: (a, a),
    lambda a, b: (1, a),
    lambda a, b: (a, b),
    lambda a, b: (a, slice(None), 1),
    lambda a, b: (slice(None), a, 0),
    lambda a, b: (0, slice(1, None), b),
    lambda a, b: (a, None, 1),
    lambda a, b: (None, a, ..., b),
    lambda a, b: (a[0], 1, a),
    lambda a, b: (..., a, 1),
    lambda a, b: (a, np.array([1, 0]), 1),
    lambda a, b: (slice(None), 1, ..., a),
    lambda a, b: (np.array([True, False]), a[:1], 1),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_traced_integers_on_several_sides_are_those_of_numpy(layout):
    a, b = np.array([1, -1]), np.array([[0], [1]])
    for make in TRACED_APART:
        try:
            expected = layout.array[make(a, b)]
        except IndexError:
            continue

        def read(a, b, make=make):
            choice = pick(make(a, b), layout.axes)
            found = {r: None if k is None else jnp.asarray(k) for r, k in zip(layout.order, choice.ids, strict=True)}
            return gather(jnp, jnp.asarray(layout.cube), found, layout.order, choice.outer, choice.shape)

        got = jax.jit(read)(a, b)
        assert got.shape == expected.shape and np.array_equal(got, expected), make(a, b)


def test_traced_places_are_no_more_than_asked_for():
    # The index arrays are separated by a slice. Still only two rows are requested, not six.
    choice = jax.eval_shape(lambda i: pick((i, slice(None), i), Layout((), (5,), (3, 4)).axes).ids, np.arange(2))
    assert [k.size for k in choice] == [1, 2, 6]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_an_ellipsis_for_no_axes_keeps_arrays_apart(layout):
    ndim = layout.array.ndim
    for place in range(1, ndim):
        key = (slice(None),) * (place - 1) + (0, ..., np.array([1, 0])) + (0,) * (ndim - place - 1)
        try:
            expected = layout.array[key]
        except IndexError:
            continue
        _, got = read(layout, key)
        assert got.shape == expected.shape and np.array_equal(got, expected), key


def test_keys_that_mean_different_things_have_different_tokens():
    same = [[1, np.int64(1)], [slice(1, 4)], [[1, 4], np.array([1, 4])], [...], [None], [()]]
    same += [[(1, 4)], [((1, 4),), ([1, 4],)], [(None,)], [(1, None)], [(slice(1, 4), 2)], [np.array([True, False])]]
    same += [[np.array([1, 0], np.int8)], [jnp.array([7])], [np.array([[1, 4]])], [slice(None, 4, 1)]]
    same += [[((),)], [(..., 1)]]
    tokens = [{token(k) for k in keys} for keys in same]
    assert all(len(own) == 1 for own in tokens)
    named = [t for own in tokens for t in own if t is not None]
    assert len(set(named)) == len(named) == len(same) - 1
    Place = collections.namedtuple("Place", "i j")
    assert token(Place(1, 2)) == token((1, 2)) != token([1, 2])
    assert token(np.array([1], "<i2")) != token(np.array([256], ">i2"))
    wrong = (np.timedelta64(1, "s"), True, np.True_, 1.0, "a", slice(1.0, 4), (1, True), [1.0], np.zeros(2**15, int))
    for key in wrong:
        assert token(key) is None
