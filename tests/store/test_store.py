"""What one view remembers, tested on given arrays. No derivative is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._store.lines import Lines, Patches, Stats, Store

COUNT, WIDTH = 8, 3
BYTES = WIDTH * 4  # of one line


def lines_of(*numbers, padding=0):
    """Line k is filled with k; padding with -1."""
    rows = [np.full(WIDTH, k, np.float32) for k in numbers] + [np.full(WIDTH, -1, np.float32)] * padding
    return np.array(numbers), jnp.asarray(np.stack(rows))


def filled(*pieces):
    lines = Lines(COUNT)
    for numbers in pieces:
        lines.put(*lines_of(*numbers))
    return lines


def taken(lines, numbers):
    out = np.full((len(numbers), WIDTH), np.nan)
    for array, inside, here in lines.take(np.asarray(numbers, int)):
        out[here] = np.asarray(array)[inside]
    return out[:, 0].tolist()


def missing(lines, numbers=None):
    return lines.missing(None if numbers is None else np.asarray(numbers)).tolist()


def test_nothing_is_known_at_first():
    lines = Lines(COUNT)
    assert missing(lines) == list(range(COUNT)) and missing(lines, [2, 5]) == [2, 5]
    assert lines.known() == 0 and lines.nbytes == 0
    assert missing(Lines(0)) == []


def test_what_is_put_is_no_longer_missing():
    lines = filled([1, 4], [6])
    assert missing(lines) == [0, 2, 3, 5, 7] and missing(lines, [1, 2, 6]) == [2] and missing(lines, [4]) == []
    assert lines.known() == 3 and lines.nbytes == 3 * BYTES


def test_padding_behind_the_numbers_is_no_line_and_counts_its_bytes():
    lines = Lines(COUNT)
    lines.put(*lines_of(5, 7, padding=2))
    assert missing(lines) == [0, 1, 2, 3, 4, 6] and lines.nbytes == 4 * BYTES
    assert taken(lines, [7, 5]) == [7, 5]


def test_lines_are_taken_from_their_pieces_in_the_order_asked_for():
    lines = filled([1, 4], [6, 0], [2])
    assert taken(lines, [6, 1, 2, 0, 4]) == [6, 1, 2, 0, 4]
    assert taken(lines, [4]) == [4] and taken(lines, []) == []


def test_a_line_put_twice_is_taken_from_the_last_piece():
    lines = filled([1, 2])
    lines.put(np.array([2]), jnp.full((1, WIDTH), 20.0))
    assert taken(lines, [1, 2]) == [1, 20] and lines.known() == 2
    lines.shrink(BYTES)  # the first piece goes, and with it line 1 but not line 2
    assert missing(lines, [1, 2]) == [1] and taken(lines, [2]) == [20]


def test_the_least_recently_used_piece_goes_first():
    lines = filled([0], [1], [2])
    taken(lines, [0])
    lines.shrink(2 * BYTES)
    assert missing(lines, [0, 1, 2]) == [1]
    lines.shrink(BYTES)
    assert missing(lines, [0, 1, 2]) == [1, 2]
    lines.shrink(0)
    assert missing(lines) == list(range(COUNT)) and lines.nbytes == 0


def test_a_limit_that_is_met_drops_nothing():
    lines = filled([0], [1])
    lines.shrink(2 * BYTES)
    assert lines.known() == 2


def test_a_deleted_array_is_missing_again():
    lines = filled([0, 1], [2])
    next(iter(lines.take(np.array([0]))))[0].delete()
    assert missing(lines, [0, 1, 2]) == [0, 1] and lines.nbytes == BYTES
    lines.put(*lines_of(0, 1))
    assert missing(lines, [0, 1, 2]) == [] and taken(lines, [1, 2, 0]) == [1, 2, 0]


def test_a_deleted_piece_that_was_never_looked_into():
    lines = filled([0], [1])
    for piece in lines.pieces.values():
        piece.array.delete()
    assert missing(lines) == list(range(COUNT)) and not lines.pieces and lines.nbytes == 0
    lines.put(*lines_of(1))
    assert missing(lines, [0, 1]) == [0] and taken(lines, [1]) == [1]


def test_a_deleted_piece_among_more_pieces_than_lines_that_are_asked_for():
    lines = filled([0], [1], [2], [3])
    next(iter(lines.take(np.array([2]))))[0].delete()
    assert missing(lines, [0, 2]) == [2] and lines.known() == 3


class Spied:
    """An array that counts how often it is asked whether it was deleted."""

    nbytes, asked = 0, 0

    def is_deleted(self):
        Spied.asked += 1
        return False


@pytest.mark.parametrize("ask", [lambda lines: missing(lines, [7]), Lines.known, lambda lines: lines.shares(10)])
def test_few_of_many_pieces_are_asked_whether_they_were_deleted(ask):
    lines = Lines(2000)
    for k in range(2000):
        lines.put(np.array([k]), Spied())
    Spied.asked = 0
    ask(lines)
    assert 0 < Spied.asked <= 200


def test_patches_ask_few_of_many_pieces():
    patches = Patches(2000)
    for k in range(2000):
        patches.put(np.array([3]), np.array([k]), Spied())
    Spied.asked = 0
    samples, lines = patches.missing(np.array([3]), np.array([7, 9]))
    assert samples.size == lines.size == 0 and Spied.asked == 2


def test_patches_against_a_table():
    rng, patches, table = np.random.default_rng(2), Patches(COUNT), {}
    for turn in range(120):
        samples, lines = (np.unique(rng.integers(0, k, size=rng.integers(1, 4))) for k in (5, COUNT))
        patches.put(samples, lines, jnp.full((samples.size, lines.size), turn))
        table |= {(s, k): turn for s in samples.tolist() for k in lines.tolist()}
        if turn % 5 == 0:
            patches.shrink(patches.nbytes - 1)  # the oldest piece goes
            table = {at: t for at, t in table.items() if t in patches.pieces}
        if turn % 7 == 0 and patches.pieces:
            key = int(rng.choice(list(patches.pieces)))
            patches.pieces[key].array.delete()
            table = {at: t for at, t in table.items() if t != key}
        samples, lines = (np.unique(rng.integers(0, k, size=3)) for k in (5, COUNT))
        unknown = np.array([[(s, k) not in table for k in lines.tolist()] for s in samples.tolist()])
        lacking = patches.missing(samples, lines)
        assert lacking[0].tolist() == samples[unknown.any(axis=1)].tolist()
        assert lacking[1].tolist() == lines[unknown.any(axis=0)].tolist()
        found = np.full(unknown.shape, -1)
        for array, here, there in patches.take(samples, lines):
            found[there] = np.asarray(array)[here]
        wanted = [[table.get((s, k), -1) for k in lines.tolist()] for s in samples.tolist()]
        assert np.where(unknown, -1, found).tolist() == wanted
    assert patches.nbytes == sum(p.array.nbytes for p in patches.pieces.values())


def test_many_random_puts_takes_and_drops():
    rng = np.random.default_rng(1)
    lines, known = Lines(COUNT), set()
    for _ in range(200):
        numbers = np.unique(rng.integers(0, COUNT, size=rng.integers(1, 4)))
        unknown = lines.missing(numbers)
        assert set(unknown.tolist()) == set(numbers.tolist()) - known
        if unknown.size:
            lines.put(*lines_of(*unknown))
        assert taken(lines, numbers) == numbers.tolist()
        if rng.random() < 0.3:
            lines.shrink(int(rng.integers(0, COUNT)) * BYTES)
        known = set(range(COUNT)) - set(lines.missing(None).tolist())
        assert lines.nbytes == BYTES * len(known) == sum(p.array.nbytes for p in lines.pieces.values())


# The store


def test_counters_go_on_where_what_is_known_is_forgotten():
    store = Store(COUNT, WIDTH)
    assert store.stats() == Stats(0, 0, 0, 0, 0, 0, 0)
    store.count("rows", "pullbacks", 3, 3, 4)
    store.count("columns", "pushforwards", 2, 2, 2)
    store.rows.put(*lines_of(0, 1))
    assert store.stats() == Stats(3, 2, 3, 2, 6, 2, 2 * BYTES)
    store.clear()
    assert store.stats() == Stats(3, 2, 3, 2, 6, 2, 0)
    assert store.rows.known() == store.columns.known() == 0


def test_the_whole_takes_the_place_of_its_lines():
    store = Store(COUNT, WIDTH)
    store.rows.put(*lines_of(0, 1))
    assert store.whole() is None
    full = jnp.ones((COUNT, WIDTH))
    store.set_whole(full)
    assert store.whole() is full and store.nbytes == COUNT * BYTES and store.everything() == [full]
    assert store.rows.known() == 0


def test_a_deleted_whole_is_unknown():
    store = Store(COUNT, WIDTH)
    full = jnp.ones((COUNT, WIDTH))
    store.set_whole(full)
    full.delete()
    assert store.whole() is None and store.nbytes == 0 and store.everything() == []


@pytest.mark.parametrize(
    ("limit", "rows", "columns"), [(56, 2, 1), (55, 1, 1), (44, 1, 1), (43, 0, 1), (31, 2, 0), (12, 1, 0), (11, 0, 0)]
)
def test_a_limit_holds_for_rows_and_columns_together(limit, rows, columns):
    store = Store(COUNT, WIDTH)
    store.rows.put(*lines_of(0))
    store.rows.put(*lines_of(1))
    store.columns.put(np.array([2]), jnp.ones((COUNT, 1)))  # 32 bytes; a row takes 12
    store.shrink(limit)
    assert store.nbytes <= limit
    assert (store.rows.known(), store.columns.known()) == (rows, columns)
    assert store.rows.missing(np.array([0, 1])).tolist() == [0, 1][: 2 - rows]  # the later one stays


def test_everything_lists_rows_and_columns():
    store = Store(COUNT, WIDTH)
    numbers, rows = lines_of(3)
    columns = jnp.ones((COUNT, 1))
    store.rows.put(numbers, rows)
    store.columns.put(np.array([0]), columns)
    assert [a is b for a, b in zip(store.everything(), [rows, columns], strict=True)] == [True, True]
    assert all(isinstance(a, jax.Array) for a in store.everything())
