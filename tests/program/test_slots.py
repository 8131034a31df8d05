"""Parts of the structured walk: tangents in slots against the dense matrices that they stand for.

Shapes: N inputs, K slots, S the shape of the tangent; a dense matrix is (*S, N).
"""

import doctest

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from jacobia._program import choices
from jacobia._program.columns import merging, room
from jacobia._program.columns import parts as _parts
from jacobia._program.columns.closure import powers
from jacobia._program.columns.merging import distinct, merge, repeats, stacked, tight, union, union_along, unused
from jacobia._program.columns.parts import as_slots, entries, parts_of, relabelled
from jacobia._program.columns.slots import Parts, Slots, aligned, nothing, select, sum_of, values
from jacobia._program.columns.tape import Planes, Tape

N = 6
DTYPE = np.dtype(np.float32)
# (K, columns without S, S): few and many slots, axes of length 1 that are stretched, scalars, and nothing at all.
SHAPES = {
    "one slot": (1, (4,), (4,)),
    "some slots": (3, (4,), (4,)),
    "two axes": (2, (3, 2), (3, 2)),
    "one axis stretched": (3, (3, 1), (3, 2)),
    "both axes stretched": (4, (1, 1), (3, 2)),
    "scalar": (5, (), ()),
    "many slots": (11, (4,), (4,)),
    "no slots": (0, (1,), (4,)),
    "no elements": (2, (0,), (0,)),
}


def each_shape(test):
    return pytest.mark.parametrize("name", list(SHAPES))(test)


def tangent(name, seed, tape, given, once=False):
    """A random one: some slots of some elements are not used, and unless `once` some columns are there twice."""
    width, own, shape = SHAPES[name]
    rng = np.random.default_rng(seed)
    cols = rng.integers(0, N + 2, (width, *own)).clip(max=N).astype(np.int32)
    if once and width:
        cols = np.sort(cols, axis=0)
        cols[1:][cols[1:] == cols[:-1]] = N
    vals = np.where(cols < N, rng.normal(size=(width, *shape)), 0).astype(DTYPE)
    key = tape.new()
    given[key] = jnp.asarray(vals)
    return Slots(cols, key, shape, DTYPE)


def array(tape, t, given):
    name = values(tape, t, N)
    arrays = {k: tape.arrays[k] for k in tape.used([name])}
    return np.asarray(tape.run(given | arrays, [name])[0])


def expanded(tape, t, given):
    """The dense matrix, element by element."""
    out = np.zeros((t.size, N))
    for slots, rows in parts_of(t):
        if not slots.width:
            continue
        cols = np.broadcast_to(slots.cols, (slots.width, *slots.shape)).reshape(slots.width, slots.size)
        vals = array(tape, slots, given).reshape(slots.width, slots.size)
        assert not vals[cols >= N].any()
        for k in range(slots.width):
            for e in range(slots.size):
                if cols[k, e] < N and rows[e] >= 0:
                    out[rows[e], cols[k, e]] += vals[k, e]
    return out.reshape(*t.shape, N)


def sets(cols, shape):
    """The columns of every element."""
    full = np.broadcast_to(cols, (len(cols), *shape)).reshape(len(cols), int(np.prod(shape)))
    return [set(c[c < N].tolist()) for c in full.T]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


# Columns


@each_shape
def test_distinct_columns_are_those_of_every_element_sorted_and_once(name):
    width, own, _ = SHAPES[name]
    cols = tangent(name, 1, Tape(), {}).cols
    before = cols.copy()
    found = distinct(cols, N)
    assert sets(found, own) == sets(cols, own)
    assert not repeats(found, N)
    assert (np.diff(found, axis=0) >= 0).all()
    assert len(found) == max(map(len, sets(cols, own)), default=0)
    np.testing.assert_array_equal(cols, before)


@each_shape
def test_unused_slots(name):
    cols = tangent(name, 2, Tape(), {}).cols
    if name == "no slots":
        pytest.skip("there is no slot that could be used")
    np.testing.assert_array_equal(unused(cols, N), [(c >= N).all() for c in cols])


@each_shape
def test_tight_columns_are_the_same(name):
    cols, shape = tangent(name, 3, Tape(), {}).cols, SHAPES[name][2]
    full = np.broadcast_to(cols, (len(cols), *shape))
    np.testing.assert_array_equal(np.broadcast_to(tight(full), full.shape), full)


def test_tight_columns_have_short_axes():
    cols = np.broadcast_to(np.arange(3).reshape(1, 3, 1), (2, 3, 4))
    assert tight(cols).shape == (2, 3, 1)
    inner = np.zeros((1, 5), int)
    inner[0, 2] = 1  # the ends agree
    assert tight(inner).shape == (1, 5)


@pytest.mark.parametrize("seed", range(5))
def test_merged_slots_hold_what_the_old_ones_held(seed):
    rng = np.random.default_rng(seed)
    cols = [rng.choice([0, 1, N, N, N], size=9).astype(np.int32) for _ in range(6)]
    made, places = merge(cols, N)
    for c, place in zip(cols, places, strict=True):
        assert (made[place][c < N] == c[c < N]).all()
    for k, own in enumerate(made):
        held = np.minimum.reduce([c for c, p in zip(cols, places, strict=True) if p == k])
        np.testing.assert_array_equal(own, held)


def test_slots_with_the_same_columns_share_a_place():
    a, b = np.array([0, 1, 2]), np.array([N, 4, N])
    assert merge([a, b, a.copy(), np.array([3, N, 3])], N)[1] == [0, 1, 0, 1]


@each_shape
def test_unions_have_the_columns_of_all(name):
    own = SHAPES[name][1]
    many = [tangent(name, seed, Tape(), {}).cols for seed in (4, 5)]
    if name == "no slots":
        pytest.skip("unions are of something")
    found = union(many, N)
    assert sets(found, own) == [a | b for a, b in zip(*(sets(c, own) for c in many), strict=True)]
    assert not repeats(found, N)


def test_unions_of_stretched_columns():
    wide, narrow = np.arange(3).reshape(1, 3, 1), np.array([[[0, 4]]])
    assert sets(union([wide, narrow], N), (3, 2)) == [{0}, {0, 4}, {1, 0}, {1, 4}, {2, 0}, {2, 4}]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), ()], ids=str)
@pytest.mark.parametrize("name", ["two axes", "one axis stretched", "both axes stretched"])
def test_unions_along_axes(name, axes):
    width, _, shape = SHAPES[name]
    cols = tangent(name, 6, Tape(), {}).cols
    found = union_along(cols, shape, axes, N)
    assert all(found.shape[a + 1] == 1 for a in axes)
    whole = np.array(sets(cols, shape), object).reshape(shape)
    for place, own in zip(np.ndindex(shape), sets(found, shape), strict=True):
        like = whole[tuple(slice(None) if a in axes else k for a, k in enumerate(place))]
        assert own == set().union(*np.atleast_1d(like).reshape(-1))


# Tangents


@each_shape
def test_values_of_ones(name):
    width, _, shape = SHAPES[name]
    cols, tape = tangent(name, 7, Tape(), {}).cols, Tape()
    found = array(tape, Slots(cols, None, shape, DTYPE), {})
    assert found.shape == (width, *shape) and found.dtype == DTYPE
    np.testing.assert_array_equal(found, np.broadcast_to(cols < N, found.shape))


@each_shape
def test_aligned_tangents_are_the_same(name):
    shape = SHAPES[name][2]
    for seed in range(4):
        tape, given = Tape(), {}
        t = tangent(name, seed, tape, given)
        others = tangent("both axes stretched" if len(shape) == 2 else name, 9, tape, {}).cols
        cols = [c for c in (t.cols, others) if len(c)]
        wide = union(cols, N) if cols else np.full((2, *[1] * len(shape)), N, np.int32)
        for target in (wide, np.ascontiguousarray(wide[::-1]), np.broadcast_to(wide, (len(wide), *shape))):
            made = aligned(tape, t, target, N)
            assert len(made.cols) == len(target)
            if len(target):
                np.testing.assert_array_equal(made.cols, target)
            close(expanded(tape, made, given), expanded(tape, t, given))


@each_shape
def test_sums_of_tangents(name):
    for seed in range(3):
        tape, given = Tape(), {}
        terms = [tangent(name, seed, tape, given), tangent(name, seed + 10, tape, given, once=True)]
        terms += [Slots(terms[0].cols, terms[0].vals, terms[0].shape, DTYPE), nothing(terms[0].shape, DTYPE)]
        for some in (terms, terms[:2], terms[:1], terms[::2], terms[3:]):
            made = sum_of(tape, some, N)
            close(expanded(tape, made, given), sum(expanded(tape, t, given) for t in some))


def test_sums_of_stretched_and_of_full_tangents():
    tape, given = Tape(), {}
    names = ("two axes", "one axis stretched", "both axes stretched")
    terms = [tangent(name, seed, tape, given) for seed, name in enumerate(names)]
    close(expanded(tape, sum_of(tape, terms, N), given), sum(expanded(tape, t, given) for t in terms))


def test_planes_are_added_slot_by_slot():
    tape, given = Tape(), {}
    t, u = (tangent("some slots", seed, tape, given) for seed in (1, 2))
    expected = expanded(tape, t, given) + expanded(tape, u, given)
    given[t.vals] = Planes(given[t.vals])
    close(expanded(tape, sum_of(tape, [t, u], N), given), expected)


@each_shape
def test_selected_slots(name):
    tape, given = Tape(), {}
    t = tangent(name, 3, tape, given)
    for which in (np.arange(t.width), np.arange(t.width)[::-2], np.arange(t.width)[1:], np.zeros(0, int)):
        made = select(tape, t, which, N)
        np.testing.assert_array_equal(made.cols, t.cols[which])
        np.testing.assert_array_equal(array(tape, made, given), array(tape, t, given)[which])


# Parts


def parts(tape, given):
    """Of 5 elements: some get nothing, some from two terms, some twice from one, and some of a term go nowhere."""
    rows = np.array([3, 0, 3, -1], np.int32), np.array([0, -1, 2, 3, 0, 0], np.int32)
    terms = [(tangent("some slots", 1, tape, given), rows[0]), (tangent("one axis stretched", 2, tape, given), rows[1])]
    return Parts(terms, (5,), DTYPE)


def test_entries_are_told_in_the_order_of_the_values():
    tape, given = Tape(), {}
    whole = parts(tape, given)
    rows, cols = entries(whole.terms)
    vals = np.concatenate([array(tape, s, given).reshape(-1) for s, _ in whole.terms if s.width])
    assert rows.shape == cols.shape == vals.shape
    keep = (rows >= 0) & (cols < N)
    out = np.zeros((5, N))
    np.add.at(out, (rows[keep], cols[keep]), vals[keep])
    close(out, expanded(tape, whole, given))


def test_entries_of_nothing():
    rows, cols = entries([])
    assert rows.shape == cols.shape == (0,)


def test_parts_as_slots():
    tape, given = Tape(), {}
    whole = parts(tape, given)
    made = as_slots(tape, whole, N)
    assert isinstance(made, Slots) and made.shape == (5,)
    assert not repeats(made.cols, N)
    assert made.width == max(map(len, sets(made.cols, (5,))))
    close(expanded(tape, made, given), expanded(tape, whole, given))


def test_parts_of_nothing_as_slots():
    tape, given = Tape(), {}
    t = tangent("some slots", 1, tape, given)
    assert as_slots(tape, Parts([], (5,), DTYPE), N).width == 0
    assert as_slots(tape, Parts([(t, np.full(4, -1, np.int32))], (5,), DTYPE), N).width == 0


def test_parts_of_which_one_is_zero():
    tape, given = Tape(), {}
    whole = parts(tape, given)
    more = Parts([*whole.terms, (nothing((4,), DTYPE), np.arange(4, dtype=np.int32))], (5,), DTYPE)
    close(expanded(tape, as_slots(tape, more, N), given), expanded(tape, whole, given))


@pytest.mark.parametrize("to", [[1, 1, 0, 2, -1], [-1] * 5, [4, 3, 2, 1, 0]], ids=["meeting", "nowhere", "turned"])
def test_relabelled_elements_go_where_they_are_told_and_are_added_up(to):
    tape, given = Tape(), {}
    whole = parts(tape, given)
    dense, expected = expanded(tape, whole, given), np.zeros((6, N))
    for element, place in enumerate(to):
        if place >= 0:
            expected[place] += dense[element]
    made = relabelled(whole, np.array(to, np.int32), (2, 3), DTYPE)
    close(expanded(tape, made, given), expected.reshape(2, 3, N))
    close(expanded(tape, as_slots(tape, made, N), given), expected.reshape(2, 3, N))


def test_stacked_columns_are_stretched():
    assert stacked([np.zeros((3, 1)), np.zeros((1, 2))]).shape == (2, 3, 2)
    assert stacked([]).shape == (0,)


# Loops


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 8, 13, None], ids=str)
@pytest.mark.parametrize("shape", ["shift", "ring", "random", "nothing", "empty"])
def test_powers_of_a_step(shape, length):
    """What up to that many steps make of what enters: counted one step at a time."""
    size = 0 if shape == "empty" else 9
    rng = np.random.default_rng(0)
    step = {
        "shift": np.eye(size, k=-1), "ring": np.roll(np.eye(size), 1, 0), "random": rng.random((size, size)) < 0.12,
        "nothing": np.zeros((size, size)), "empty": np.zeros((0, 0)),
    }[shape].astype(bool)  # fmt: skip
    entering = rng.random((size, 4)) < 0.2
    expected = entering
    for _ in range(size if length is None else length):  # nothing is new after as many steps as there are elements
        expected = expected | (step.astype(int) @ expected.astype(int) > 0)
    found = powers(sp.csr_array(step), sp.csr_array(entering), length)
    np.testing.assert_array_equal(found.toarray().astype(bool), expected)


@pytest.mark.parametrize("table", [1, 40, 1 << 22])
def test_many_slots_are_looked_up_in_tables(table, monkeypatch):
    monkeypatch.setattr(merging, "_TABLE", table)
    n, shape, rng = 30, (4, 3), np.random.default_rng(1)
    for own, wanted in (((4, 3), (4, 3)), ((1, 3), (4, 1)), ((1, 1), (4, 3))):
        ordered = [np.sort(rng.random((n + 1, *s)).argsort(axis=0)[:k], axis=0) for k, s in ((12, own), (20, wanted))]
        old, new = (o.astype(np.int32) for o in ordered)
        found = merging.sources(old, new, shape, n)
        old, new = (np.broadcast_to(c, (len(c), *shape)) for c in (old, new))
        same = (old[:, None] == new[None]) & (new < n)
        np.testing.assert_array_equal(found, np.where(same.any(0), same.argmax(0), -1))


def test_columns_take_the_room_there_is():
    t = Slots(np.arange(4, dtype=np.int32).reshape(4, 1), None, (50,), DTYPE)
    with room.within(4 * 50 * room._COLUMN - 1), pytest.raises(room.TooWide) as error:
        t.full_cols()
    assert error.value.extent == (4 * 50 * room._COLUMN, 4, 50)
    with room.within(4 * 50 * room._COLUMN):
        t.full_cols()
    t.full_cols()


@pytest.mark.parametrize("of", [merging, _parts, choices], ids=lambda of: of.__name__)
def test_examples_beside_the_functions(of):
    found = doctest.testmod(of)
    assert found.attempted and not found.failed
