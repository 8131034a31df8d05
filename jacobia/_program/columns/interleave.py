"""The values of each row written side by side, by column: finds the order of the slots in each row, and writes them.

Knows columns and values of slots. Knows nothing of rows that lack entries, nor of several terms.
Shapes: K slots, M rows; columns are (K, M).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._program.columns.tape import Planes, slots_last

# How many rows of a stretch are looked at.
_LOOKED_AT = 64
# Most stretches. A system of two species has two stretches of rows, whose slots stand in different orders.
_STRETCHES = 8


def orders(cols: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Stretches of rows: the first row of each, and the order of slots by column that most of its rows have.

    >>> [(start, order.tolist()) for start, order in orders(np.array([[0, 1, 5, 6], [2, 3, 0, 1]]))]  # two species
    [(0, [0, 1]), (2, [1, 0])]
    """
    found: list[tuple[int, np.ndarray]] = []
    todo = [(0, cols.shape[1])]
    while todo:
        start, stop = todo.pop()
        rows = np.linspace(start, stop - 1, min(stop - start, _LOOKED_AT)).astype(int)
        looked_at = cols[:, rows].T
        candidates = np.unique(np.argsort(looked_at, axis=1, kind="stable"), axis=0)
        fits = np.stack([in_order(looked_at[:, order]) for order in candidates])
        best = int(fits.sum(axis=1).argmax())
        split = _split(fits) if len(found) + len(todo) + 2 <= _STRETCHES else None
        if split is None:
            found.append((start, candidates[best]))
            continue
        at, before = split
        low, high = int(rows[at - 1]), int(rows[at])
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if in_order(cols[candidates[before], middle][None])[0] else (low, middle)
        todo += [(high, stop), (start, high)]
    return found


def _split(fits: np.ndarray) -> tuple[int, int] | None:
    # The place where two orders suit many more rows than one, and the order before it. None: there is no such place;
    # boundary rows differ too, but are few.
    count = fits.shape[1]
    before = np.concatenate([np.zeros((len(fits), 1), int), fits.cumsum(axis=1)], axis=1)
    behind = before[:, -1:] - before
    both = before.max(axis=0) + behind.max(axis=0)
    at = int(both.argmax())
    if both[at] - before[:, -1].max() <= count // 8:
        return None
    return at, int(before[:, at].argmax())


def in_order(cols: np.ndarray) -> np.ndarray:
    """Which rows (M, K) have their columns in strictly ascending order.

    >>> in_order(np.array([[0, 2], [2, 1], [3, 3]])).tolist()
    [True, False, False]
    """
    return np.all(cols[:, 1:] > cols[:, :-1], axis=1)


def arranged(cols: np.ndarray, stretches: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Columns (K, M) by rows, each stretch in its order: (M, K)."""
    ends = [*(start for start, _ in stretches[1:]), cols.shape[1]]
    out = np.empty(cols.shape[::-1], cols.dtype)
    for (start, order), stop in zip(stretches, ends, strict=True):
        for k, slot in enumerate(order):
            out[start:stop, k] = cols[slot, start:stop]
    return out


def by_rows(v: Any, stretches: list[tuple[int, np.ndarray]]) -> Any:
    """Values (M, K), each stretch of rows in its order.

    `Planes` are written by a select over the slots, in one pass; a stack would copy the slots one by one.
    """
    if isinstance(v, Planes):
        return _chosen([p.reshape(-1) for p in v], stretches)
    v = slots_last(v)
    v = v.reshape(-1, v.shape[-1])
    ends = [*(start for start, _ in stretches[1:]), None]
    parts = [_taken(v[a:b], order) for (a, order), b in zip(stretches, ends, strict=True)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _chosen(planes: list, stretches: list[tuple[int, np.ndarray]]) -> Any:
    shape = (len(planes[0]), len(planes))
    row, at = lax.iota(jnp.int32, shape[0]), lax.broadcasted_iota(jnp.int32, shape, 1)
    places = [np.argsort(order) for _, order in stretches]
    # Each slot is read once, so that a compiler can fuse what computes it into this loop.
    out = jnp.broadcast_to(planes[-1][:, None], shape)
    for k, plane in enumerate(planes[:-1]):
        place: Any = int(places[0][k])
        for (start, _), own, before in zip(stretches[1:], places[1:], places, strict=False):
            if own[k] != before[k]:
                place = jnp.where(row < start, place, int(own[k]))
        out = jnp.where(at == (place if isinstance(place, int) else place[:, None]), plane[:, None], out)
    return out


def _taken(v: Any, order: np.ndarray) -> Any:
    return v if (np.diff(order) == 1).all() else v[:, order]
