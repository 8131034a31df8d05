"""From tangents in slots to the nonzeros of a matrix in order: sorted by row, then by column.

Knows columns and names of values. Knows no operations.
Shapes: K slots, M rows, N columns, nnz entries.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.parts import entries
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.slots import Slots, select, values
from jacobia._program.columns.tape import APART, Planes, Tape, slots_first, slots_last

Term = tuple[Slots, np.ndarray]


def assembled(tape: Tape, terms: Sequence[Term], m: int, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows, columns and the name of the values of all entries.

    Args:
      terms: tangents, and for each of their elements its row; -1: none.
    """
    if not terms or not _are_in_order(terms):
        return _sorted(tape, terms, m, n)
    parts = []
    for slots, rows in terms:
        part = _by_row(tape, slots, rows, n)
        if part is None:
            return _sorted(tape, terms, m, n)
        parts.append(part)
    check_columns(1, (sum(len(p[0]) for p in parts),))
    rows, cols = (np.concatenate([p[k] for p in parts]) if len(parts) > 1 else parts[0][k] for k in (0, 1))
    names = [p[2] for p in parts]
    data = names[0] if len(names) == 1 else tape.step(lambda *v: jnp.concatenate(v), *names)
    return rows, cols, data


def _are_in_order(terms: Sequence[Term]) -> bool:
    # Every row has one element, and they come one behind the other.
    last = -1
    for _, rows in terms:
        if not rows.size:
            continue
        if rows[0] <= last or not (rows[1:] > rows[:-1]).all():
            return False
        last = int(rows[-1])
    return True


def _by_row(tape: Tape, slots: Slots, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int] | None:
    if not slots.size:
        return rows[:0], rows[:0], tape.step(lambda: jnp.zeros(0, slots.dtype))
    middle = slots.full_cols().reshape(slots.width, slots.size)[:, slots.size // 2]
    slots = select(tape, slots, np.argsort(middle, kind="stable"), n)
    cols = np.array(slots.full_cols().reshape(slots.width, slots.size).T, order="C")
    source = None
    alike = slots.constant_along(range(len(slots.shape)))  # one row says it of all
    bad = _unordered(cols[:1] if alike else cols)
    bad = np.arange(len(cols)) if alike and bad.size else bad
    if bad.size:
        order = np.argsort(cols[bad], axis=1, kind="stable")
        cols[bad] = own = np.take_along_axis(cols[bad], order, axis=1)
        if ((own[:, 1:] == own[:, :-1]) & (own[:, 1:] < n)).any():
            return None  # a column twice: to be added up
        source = np.arange(cols.size, dtype=np.int32).reshape(cols.shape)
        source[bad] = bad[:, None] * slots.width + order
    keep = cols < n
    every = keep.all()
    if not every:
        source = (np.arange(cols.size, dtype=np.int32).reshape(cols.shape) if source is None else source)[keep]
    row = np.repeat(rows.astype(np.int32), slots.width) if every else np.repeat(rows.astype(np.int32), keep.sum(axis=1))
    vals = values(tape, slots, n)

    if source is None:
        name = tape.step(lambda v: _flat(v).reshape(-1), vals, apart=True)
    else:
        name = _picked(tape, vals, source.reshape(-1), slots.width, slots.size)
    return row, (cols.reshape(-1) if every else cols[keep]), name


def _unordered(cols: np.ndarray) -> np.ndarray:
    return np.flatnonzero(~(cols[:, 1:] > cols[:, :-1]).all(axis=1))


def _flat(v: Any) -> Any:
    # (M, K): the values of a row side by side.
    if isinstance(v, Planes):
        return jnp.stack([p.reshape(-1) for p in v], axis=-1)
    v = slots_last(v)
    return v.reshape(-1, v.shape[-1])


# Runs of entries up to this number are copied one by one.
_RUNS = 16


def _picked(tape: Tape, vals: int, source: np.ndarray, width: int, m: int) -> int:
    """Entries by their places among the values of all rows, (M, K) in flat order."""
    breaks = np.flatnonzero(np.diff(source) != 1) + 1
    # Of 3 to `APART` slots a loop over the joined rows is slower than gathering, and may compute a slot once a run.
    if len(breaks) < _RUNS and not 2 < width <= APART:
        runs = [(int(r[0]), int(r[-1]) + 1) for r in np.split(source, breaks)]

        def copied(v: Any) -> Any:
            flat = _flat(v)
            return jnp.concatenate([part for a, b in runs for part in _pieces(flat, a, b)])

        return tape.step(copied, vals, apart=True)

    # Slot and row share the bits of one number, so that a fused loop reads off the slot to compute, and need not find
    # it from a place among all values. Unsigned: no number counts from the end. M << bits < 2 K M, which fits.
    bits = (width - 1).bit_length()
    rows, slots = np.divmod(source, np.int32(width))
    places = rows.astype(np.uint32) << bits | slots.astype(np.uint32)

    def gathered(v: Any, at: Any) -> Any:
        by_slot = slots_first(v).reshape(width, m)
        return by_slot.at[at & ((1 << bits) - 1), at >> bits].get(mode="promise_in_bounds")

    return tape.step(gathered, vals, tape.array(places), apart=True)


def _pieces(flat: Any, start: int, stop: int) -> list:
    # A run as whole rows, which are not copied twice, and what is left at its ends.
    width = flat.shape[1]
    first, last = -(-start // width), stop // width
    if first >= last:
        return [flat[start // width : -(-stop // width)].reshape(-1)[start % width : start % width + stop - start]]
    ends = flat[first - 1, start % width :] if start % width else None, flat[last, : stop % width]
    return [p for p in (ends[0], flat[first:last].reshape(-1), ends[1] if stop % width else None) if p is not None]


def _sorted(tape: Tape, terms: Sequence[Term], m: int, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    rows, cols = entries(terms)
    keep = (rows >= 0) & (cols < n)
    key, inverse = np.unique(rows[keep].astype(np.int64) * n + cols[keep], return_inverse=True)
    count = len(key)
    places = np.full(len(rows), count, np.int32)
    places[keep] = inverse.reshape(-1)
    row, col = (key // n).astype(np.int32), (key % n).astype(np.int32)
    if not terms:
        return row, col, tape.step(lambda: jnp.zeros(0))
    names = [values(tape, s, n) for s, _ in terms]
    if int(keep.sum()) == count:  # each is met once: read, and not added up
        source = np.zeros(count, np.int32)
        source[places[keep]] = np.flatnonzero(keep)
        pick = tape.array(source)
        return row, col, tape.step(lambda s, *v: jnp.concatenate([a.reshape(-1) for a in v])[s], pick, *names)

    def added(to: Any, *vals: Any) -> Any:
        flat = jnp.concatenate([v.reshape(-1) for v in vals])
        return jnp.zeros(count, flat.dtype).at[to].add(flat, mode="drop")

    return row, col, tape.step(added, tape.array(places), *names)
