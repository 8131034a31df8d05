"""From a pattern to few colors: closed forms where they hold, else the best of several greedy orders.

Knows patterns and colors. Knows nothing of derivatives or of f.
Shapes: M outputs, N inputs, nnz entries, C colors.
"""

from typing import NamedTuple

import numpy as np

from jacobia._progress import waiting
from jacobia._sparse import greedy as _greedy
from jacobia._sparse import lattices as _lattices
from jacobia._sparse.coloring import PARTITIONS, Coloring, alone, check_arguments, lower_bound
from jacobia._sparse.pattern import Pattern

_CUTS = 32  # limits between dense lines and the others that are looked at
_TRIES = 4  # the most promising of them, which are colored
_SLOW = 10**9  # colors times columns: more than the compiled loop does in a second or so
_LARGE = 2000  # columns from which on a good closed form does for a star coloring


def coloring(pattern: Pattern, partition: str = "auto") -> Coloring:
    """Color a pattern with few colors.

    Args:
      pattern: shape (M, N).
      partition: what gets colors. "columns" (pushforwards): columns of one color share no row. "rows" (pullbacks): rows
        of one color share no column. "both": some rows and some columns; each entry is alone in one of its two colors.
        "symmetric": columns of a symmetric matrix, where entry (i, j) may be read as (j, i). "auto": whichever of
        columns, rows and both has the fewest colors, in this order; never symmetric, for a pattern can't tell whether
        the values are symmetric.

    Returns:
      A `Coloring` of "columns", "rows", "both" or "symmetric". Rows and columns without entries are in no color.

    Raises:
      TypeError: `pattern` is no Pattern.
      ValueError: the partition is none of these, or it is "symmetric" and the pattern is not symmetric.

    References:
      Gebremedhin, Manne, Pothen, "What color is your Jacobian?", SIAM Review 47 (2005),
      doi:10.1137/S0036144504444711, sections 3 (one direction), 4 (symmetric) and 5 (both directions).
      Both directions: Coleman, Verma, "The efficient computation of sparse Jacobian matrices using automatic
      differentiation", SIAM Journal on Scientific Computing 19 (1998), pp. 1210-1233; Hossain, Steihaug, "Computing a
      sparse Jacobian matrix by rows and columns", Optimization Methods and Software 10 (1998), pp. 33-48.
    """
    check_arguments("coloring", pattern, partition, ("auto", *PARTITIONS))
    if partition == "symmetric":
        with waiting("coloring"):
            return Coloring(pattern, partition, _symmetric(pattern))
    if partition in ("rows", "columns"):
        return Coloring(pattern, partition, _lines(pattern, int(partition == "columns"), None))
    with waiting("coloring"):
        row_colors, column_colors = _fewest(pattern)
    if partition == "auto" and row_colors.max(initial=-1) < 0:
        return Coloring(pattern, "columns", column_colors)
    if partition == "auto" and column_colors.max(initial=-1) < 0:
        return Coloring(pattern, "rows", row_colors)
    num_row_colors = row_colors.max(initial=-1) + 1
    return Coloring(
        pattern, "both", np.concatenate([row_colors, column_colors + num_row_colors * (column_colors >= 0)])
    )


def _lines(pattern: Pattern, axis: int, mask: np.ndarray | None, whole: bool = True) -> np.ndarray:
    # Colors of the rows (axis 0) or columns (1) that tell apart the entries of a mask; None: all.
    across, ids = (pattern.rows, pattern.cols) if axis else (pattern.cols, pattern.rows)
    if mask is not None:
        across, ids = across[mask], ids[mask]
    shape = (pattern.shape[1 - axis], pattern.shape[axis])
    per_row, per_column = np.bincount(across, minlength=1), np.bincount(ids, minlength=shape[1])
    fewest, used = int(per_row.max()), per_column > 0
    if np.count_nonzero(used) == fewest:
        return _numbered(np.arange(shape[1], dtype=np.int32), used)
    if fewest * shape[1] > _SLOW and 8 * fewest > shape[1]:  # columns of the fullest row differ anyway
        own = np.zeros(shape[1], bool)
        own[ids[across == per_row.argmax()]] = True
        return _apart(pattern, axis, mask, own, whole)
    colors, near = _closed_form(across, ids, shape, fewest)
    if colors is None or colors.max() + 1 > fewest:
        greedy = _greedy.columns(across, ids, shape, fewest, near)
        colors = greedy if colors is None or greedy.max() < colors.max() else colors
    colors = _numbered(colors, used)
    dense = 2 * per_column > np.count_nonzero(per_row)  # no two share a color, few others share theirs
    if whole and dense.any() and colors.max() + 1 > fewest:
        other = _apart(pattern, axis, mask, dense, False)
        colors = other if other.max() < colors.max() else colors
    return colors


def _apart(pattern: Pattern, axis: int, mask: np.ndarray | None, own: np.ndarray, whole: bool) -> np.ndarray:
    # Each of the lines `own` in a color of its own, numbered behind those of the rest.
    rest = ~own[(pattern.rows, pattern.cols)[axis]]
    colors = _lines(pattern, axis, rest if mask is None else rest & mask, whole)
    colors[own] = np.arange(np.count_nonzero(own)) + colors.max(initial=-1) + 1
    return colors


def _closed_form(
    rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], fewest: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    # The first proposal that is a coloring, and the first of all proposals, from which greedy colors may start.
    first = None
    for colors in _lattices.proposals(rows, cols, shape[1], fewest):
        if alone(rows, colors[cols], shape[0], int(colors.max()) + 1).all():
            return colors, first
        first = colors if first is None else first
    return None, first


def _numbered(colors: np.ndarray, used: np.ndarray) -> np.ndarray:
    # Lines without entries are in no seed; the colors that are left are numbered without a gap.
    present = np.bincount(colors[used], minlength=1) > 0
    return np.where(used, (np.cumsum(present) - 1)[np.where(used, colors, 0)], -1).astype(np.int32)


class _Way(NamedTuple):
    fewest: int  # colors that it needs at least
    preference: int
    axis: int  # 0: dense rows get row colors, the entries of the others column colors; 1: dense columns, likewise
    limit: int  # rows or columns with more entries are dense


def _fewest(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    # Colors of rows and of columns, -1 where there are none.
    best, rank, tries = None, (pattern.nnz + 1, 0), 0
    for way in _ways(pattern):
        if best is not None and ((way.fewest, way.preference) >= rank or (way.preference > 1 and tries == _TRIES)):
            continue
        tries += way.preference > 1
        dense = np.bincount((pattern.rows, pattern.cols)[way.axis], minlength=pattern.shape[way.axis]) > way.limit
        mask = dense[(pattern.rows, pattern.cols)[way.axis]]
        own, rest = _lines(pattern, way.axis, mask), _lines(pattern, 1 - way.axis, ~mask)
        total = int(own.max(initial=-1) + rest.max(initial=-1)) + 2
        if best is None or (total, way.preference) < rank:
            best, rank = ((own, rest) if way.axis == 0 else (rest, own)), (total, way.preference)
    assert best is not None
    return best


def _ways(pattern: Pattern) -> list[_Way]:
    # All columns, all rows, and splits into dense lines and the others; those that may need the fewest colors first.
    per = [np.bincount(ids, minlength=1) for ids in (pattern.rows, pattern.cols)]
    pure = [_Way(int(per[0].max()), 0, 1, 0), _Way(int(per[1].max()), 1, 0, 0)]
    most = 2 * min(way.fewest for way in pure)  # greedy colors of a whole direction may be twice as many
    ways = []
    for axis, (ids, across) in enumerate(((pattern.rows, pattern.cols), (pattern.cols, pattern.rows))):
        limits = np.unique(per[axis][per[axis] > 0])[:-1]
        limits = limits[limits + 1 < most]
        for limit in limits[np.unique(np.linspace(0, len(limits) - 1, _CUTS).astype(int))] if len(limits) else ():
            dense = per[axis] > limit
            ways.append(_Way(int(limit + np.bincount(across[dense[ids]]).max()), 2 + axis, axis, int(limit)))
    return sorted(pure + ways)


def _symmetric(pattern: Pattern) -> np.ndarray:
    n, widest = pattern.shape[1], lower_bound(pattern, "columns")
    used = np.diff(pattern.indptr) > 0
    fewest = lower_bound(pattern, "symmetric")
    # A coloring whose columns share no row is valid for a symmetric matrix too.
    colors, _ = _closed_form(pattern.rows, pattern.cols, pattern.shape, widest)
    if colors is not None:
        num_colors = int(colors.max()) + 1
        is_regular = n > _LARGE and num_colors <= widest and 2 * pattern.nnz >= num_colors * n
        if num_colors <= fewest or is_regular:
            return _numbered(colors, used)
    star = _greedy.star(pattern.indptr, pattern.cols, fewest)
    return _numbered(star if colors is None or star.max() < colors.max() else colors, used)
