"""Tangents held as sums of parts, each with some of the elements; and how to turn such a sum into slots.

Knows columns and names of values. Knows no operation.
Shapes: N inputs, K slots; columns are (K, *shape).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import Parts, Slots, nothing, values
from jacobia._program.columns.tape import Tape


def as_slots(tape: Tape, t: Slots | Parts, n: int) -> Slots:
    """A tangent as `Slots`: as many slots as the widest element needs."""
    if isinstance(t, Slots):
        return t
    rows, cols = entries(t.terms)
    keep = (cols < n) & (rows >= 0)
    key = rows[keep].astype(np.int64) * n + cols[keep]
    unique, inverse = np.unique(key, return_inverse=True)
    row = unique // n
    slot, wide = columns_of(row, unique % n, t.size, n)
    width = len(wide)
    if not width:
        return nothing(t.shape, t.dtype)
    places = np.full(len(rows), width * t.size, np.int64)
    places[keep] = (slot * t.size + row)[inverse.reshape(-1)]
    shape, count = (width, *t.shape), width * t.size

    def gathered(to: Any, *vals: Any) -> Any:
        flat = jnp.concatenate([v.reshape(-1) for v in vals])
        return jnp.zeros(count, flat.dtype).at[to].add(flat, mode="drop").reshape(shape)

    names = [values(tape, s, n) for s, _ in t.terms]
    name = tape.step(gathered, tape.array(places.astype(np.int32)), *names)
    return Slots(wide.reshape(shape), name, t.shape, t.dtype)


def columns_of(row: np.ndarray, col: np.ndarray, count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries sorted by row as columns: the slot of each entry, and the columns (K, count).

    >>> slot, cols = columns_of(np.array([0, 0, 2]), np.array([1, 4, 3]), 3, 5)
    >>> slot.tolist(), cols.tolist()
    ([0, 1, 0], [[1, 5, 3], [4, 5, 5]])
    """
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    width = int(slot.max(initial=-1)) + 1
    check_columns(width, (count,))
    cols = np.full((width, count), n, np.int32)
    cols[slot, row] = col
    return slot, cols


def entries(terms: Sequence[tuple[Slots, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every value of the terms, in the order of their values, one term behind the other."""
    check_columns(1, (sum(s.width * s.size for s, _ in terms),))
    rows = [np.broadcast_to(r, (s.width, s.size)).reshape(-1) for s, r in terms]
    cols = [s.full_cols().reshape(-1) for s, _ in terms]
    empty = np.zeros(0, np.int32)
    return np.concatenate([*rows, empty]), np.concatenate([*cols, empty])


def parts_of(t: Slots | Parts) -> list[tuple[Slots, np.ndarray]]:
    """A tangent as terms."""
    return t.terms if isinstance(t, Parts) else [(t, numbered((t.size,)))]


def relabelled(t: Slots | Parts, to: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Parts:
    """Element e becomes element `to[e]` of another shape (-1: it is left out); elements that meet are added up."""
    terms = []
    for slots, rows in parts_of(t):
        new = np.where(rows >= 0, to[np.maximum(rows, 0)], -1) if (rows < 0).any() else to[rows]
        terms.append((slots, new.astype(np.int32)))
    return Parts(terms, shape, dtype)
