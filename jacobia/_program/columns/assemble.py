"""From tangents in slots to the nonzeros of a matrix in order: sorted by row, then by column.

Knows columns and names of values. Knows no operations.
Shapes: K slots, M rows, N columns, nnz entries.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.interleave import arranged, by_rows, in_order, orders
from jacobia._program.columns.parts import entries
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.slots import Slots, values
from jacobia._program.columns.tape import Tape

Term = tuple[Slots, np.ndarray]


class Assembled(NamedTuple):
    """All entries in order, and the names of their values.

    `ahead` names values that are written to memory before entries are picked from them; `size`: their elements.
    """

    rows: np.ndarray
    cols: np.ndarray
    data: int
    ahead: list[int]
    size: int


def assembled(tape: Tape, terms: Sequence[Term], m: int, n: int) -> Assembled:
    """Rows, columns and the name of the values of all entries.

    Args:
      terms: tangents, and for each of their elements its row; -1: none.
    """
    if not terms or not _are_in_order(terms):
        return Assembled(*_sorted(tape, terms, m, n), [], 0)
    parts = []
    for slots, rows in terms:
        part = _by_row(tape, slots, rows, n)
        if part is None:
            return Assembled(*_sorted(tape, terms, m, n), [], 0)
        parts.append(part)
    check_columns(1, (sum(len(p.rows) for p in parts),))
    if len(parts) == 1:
        return parts[0]
    data = tape.step(lambda *v: jnp.concatenate(v), *(p.data for p in parts))
    rows, cols = np.concatenate([p.rows for p in parts]), np.concatenate([p.cols for p in parts])
    return Assembled(rows, cols, data, [k for p in parts for k in p.ahead], sum(p.size for p in parts))


def _are_in_order(terms: Sequence[Term]) -> bool:
    # Whether every row comes from one element only, and rows ascend through all terms.
    last = -1
    for _, rows in terms:
        if not rows.size:
            continue
        if rows[0] <= last or not (rows[1:] > rows[:-1]).all():
            return False
        last = int(rows[-1])
    return True


def _by_row(tape: Tape, slots: Slots, rows: np.ndarray, n: int) -> Assembled | None:
    if not slots.size:
        return Assembled(rows[:0], rows[:0], tape.step(lambda: jnp.zeros(0, slots.dtype)), [], 0)
    every = slots.full_cols().reshape(slots.width, slots.size)
    stretches = orders(every)
    cols = arranged(every, stretches)
    alike = slots.constant_along(range(len(slots.shape)))  # all rows have the same columns
    bad = np.flatnonzero(~in_order(cols[:1] if alike else cols))
    bad = np.arange(len(cols)) if alike and bad.size else bad
    order = None
    if bad.size:
        order = np.argsort(cols[bad], axis=1, kind="stable")
        cols[bad] = own = np.take_along_axis(cols[bad], order, axis=1)
        if ((own[:, 1:] == own[:, :-1]) & (own[:, 1:] < n)).any():
            return None  # a row has a column twice: add up
        order = (bad[:, None] * slots.width + order).astype(np.uint32)
    keep = cols < n
    whole = keep.all()
    row = np.repeat(rows.astype(np.int32), slots.width if whole else keep.sum(axis=1))
    vals = values(tape, slots, n)
    ahead = tape.step(lambda v: by_rows(v, stretches), vals, apart=True)
    tape.extents[ahead] = slots.extent
    if whole and (order is None or order.size < cols.size // _FEW):
        name = _reordered(tape, ahead, bad, order)
    else:
        source = np.arange(cols.size, dtype=np.int32).reshape(cols.shape)
        if order is not None:
            source[bad] = order
        name = _picked(tape, ahead, source[keep])
    return Assembled(row, cols.reshape(-1) if whole else cols[keep], name, [ahead], cols.size)


# Rows whose slots stand in another order are rewritten in place if they have less than 1 in `_FEW` of all entries.
_FEW = 4
# Fewer runs of consecutive entries than this are copied run by run.
_RUNS = 16


def _reordered(tape: Tape, ahead: int, rows: np.ndarray, order: np.ndarray | None) -> int:
    """All entries, with those of some rows put into another order."""
    if order is None:
        return tape.step(lambda v: v.reshape(-1), ahead)

    def written(v: Any, rows: Any, order: Any) -> Any:
        options = {"mode": "promise_in_bounds", "indices_are_sorted": True, "unique_indices": True}
        return v.at[rows].set(v.reshape(-1).at[order].get(mode="promise_in_bounds"), **options).reshape(-1)

    return tape.step(written, ahead, tape.array(rows.astype(np.uint32)), tape.array(order))


def _picked(tape: Tape, ahead: int, source: np.ndarray) -> int:
    """Entries by their places among the values of all rows, (M, K) in flat order."""
    breaks = np.flatnonzero(np.diff(source) != 1) + 1
    if len(breaks) < _RUNS:
        runs = [(int(r[0]), int(r[-1]) + 1) for r in np.split(source, breaks)]
        return tape.step(lambda v: jnp.concatenate([v.reshape(-1)[a:b] for a, b in runs]), ahead)
    options = {
        "mode": "promise_in_bounds",
        "unique_indices": True,
        "indices_are_sorted": not (np.diff(source) < 0).any(),
    }
    return tape.step(lambda v, at: v.reshape(-1).at[at].get(**options), ahead, tape.array(source.astype(np.uint32)))


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
    if int(keep.sum()) == count:  # no entry occurs twice: read, not added up
        source = np.zeros(count, np.int32)
        source[places[keep]] = np.flatnonzero(keep)
        pick = tape.array(source)
        return row, col, tape.step(lambda s, *v: jnp.concatenate([a.reshape(-1) for a in v])[s], pick, *names)

    def added(to: Any, *vals: Any) -> Any:
        flat = jnp.concatenate([v.reshape(-1) for v in vals])
        return jnp.zeros(count, flat.dtype).at[to].add(flat, mode="drop")

    return row, col, tape.step(added, tape.array(places), *names)
