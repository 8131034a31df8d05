"""Greedy colorings of any pattern: one column after the other gets the first color that is free.

Knows index arrays. Columns are grouped by compiled code; star colorings by a loop in Python over the columns.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_SEED = 0  # of the random order: the same colors every time
_LARGE = 200_000  # entries from which on Python tries only one order
_SMALL = 10_000  # entries up to which Python takes less time than the import of compiled code


def columns(
    rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], fewest: int, near: np.ndarray | None = None
) -> np.ndarray:
    """Colors such that no two columns of one color share a row, the best of several orders; int32, shape (N,).

    Args:
      rows, cols: the entries, shape (nnz,), in any order.
      fewest: the most entries that a row has, which no coloring can go below.
      near: colors that are wrong in a few places, shape (N,). Columns sorted by these are one more order.

    References:
      Curtis, Powell, Reid, "On the estimation of sparse Jacobian matrices", IMA Journal of Applied Mathematics 13
      (1974), pp. 117-119; Gebremedhin, Manne, Pothen, "What color is your Jacobian?", SIAM Review 47 (2005),
      doi:10.1137/S0036144504444711, sections 3.4 and 3.5.
    """
    from scipy.sparse import coo_array

    matrix = coo_array((np.ones(len(rows), np.int8), (rows, cols)), shape=shape).tocsc()
    group = _first_fit if len(rows) <= _SMALL else _compiled() or _first_fit
    neighbors = np.bincount(cols, weights=np.bincount(rows, minlength=shape[0])[rows], minlength=shape[1])
    return _best((group(matrix, order) for order in _orders(neighbors, near)), fewest)


def _orders(degrees: np.ndarray, near: np.ndarray | None = None) -> Iterator[np.ndarray]:
    if near is not None:
        yield np.argsort(near, kind="stable")
    # As numbered, those with many neighbors first, and at random: none of them is always the best.
    yield np.arange(len(degrees))
    yield np.argsort(-degrees, kind="stable")
    yield np.random.default_rng(_SEED).permutation(len(degrees))


def _best(colorings: Iterator[np.ndarray], fewest: int) -> np.ndarray:
    best = next(colorings)
    while best.max(initial=-1) + 1 > fewest:
        other = next(colorings, None)
        if other is None:
            break
        best = min(best, other, key=lambda colors: colors.max())
    return best.astype(np.int32)


def _compiled() -> Callable | None:
    # SciPy has the loop but no public name for it.
    try:
        from scipy.optimize._numdiff import group_columns
    except ImportError:
        return None
    return group_columns


def _first_fit(matrix: Any, order: np.ndarray) -> np.ndarray:
    # The same in Python: the colors taken in a row are the bits of a number.
    rows, bounds = matrix.indices.tolist(), matrix.indptr.tolist()
    taken, colors = [0] * matrix.shape[0], np.empty(matrix.shape[1], np.int32)
    for column in order.tolist():
        own = rows[bounds[column] : bounds[column + 1]]
        busy = 0
        for row in own:
            busy |= taken[row]
        free = ~busy & (busy + 1)  # the lowest bit that is not set
        for row in own:
            taken[row] |= free
        colors[column] = free.bit_length() - 1
    return colors


def star(indptr: np.ndarray, cols: np.ndarray, fewest: int) -> np.ndarray:
    """A star coloring of a symmetric pattern in rows: no path of four columns has two colors; int32, shape (N,).

    Args:
      indptr, cols: the rows, as `Pattern` has them.
      fewest: a number of colors that no coloring can go below.

    References:
      Gebremedhin, Manne, Pothen, "What color is your Jacobian?", SIAM Review 47 (2005),
      doi:10.1137/S0036144504444711, section 4; Gebremedhin, Tarafdar, Manne, Pothen, "New acyclic and star coloring
      algorithms with application to computing Hessians", SIAM Journal on Scientific Computing 29 (2007), pp. 1042-1072,
      doi:10.1137/050639879: each leaf of a two-colored star keeps the colors that its neighbors must not take.
    """
    flat = cols.tolist()
    bounds = indptr.tolist()
    neighbors = [[w for w in flat[bounds[v] : bounds[v + 1]] if w != v] for v in range(len(bounds) - 1)]
    orders = _orders(np.diff(indptr)) if len(flat) <= _LARGE else iter([np.argsort(-np.diff(indptr), kind="stable")])
    return _best((np.array(_star(neighbors, order.tolist()), np.int32) for order in orders), fewest)


def _star(neighbors: list[list[int]], order: list[int]) -> list[int]:
    colors = [-1] * len(order)
    # Of each column: its colored neighbors, by color; and the colors that would complete a two-colored path behind it.
    by_color: list[dict[int, list[int]]] = [{} for _ in order]
    behind: list[set[int]] = [set() for _ in order]
    for v in order:
        taken = set(by_color[v])
        for group in by_color[v].values():
            for w in group:
                taken |= behind[w]
                if len(group) > 1:  # v in the middle of w' - v - w: w must have no neighbor of v's color
                    taken.update(by_color[w])
        color = next(c for c in range(len(taken) + 1) if c not in taken)
        colors[v] = color
        for x in neighbors[v]:
            same = by_color[x].setdefault(color, [])
            same.append(v)
            if len(same) > 1 and colors[x] >= 0:  # v - x - v': no other neighbor of v may have the color of x
                for w in same if len(same) == 2 else (v,):
                    behind[w].add(colors[x])
        for group in by_color[v].values():
            if len(group) > 1:
                for w in group:
                    behind[w].add(color)
    return colors
