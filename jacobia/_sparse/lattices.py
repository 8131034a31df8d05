"""Colors in closed form, for bands and for stencils on a grid.

Knows index arrays. Proposes colors and proves nothing: boundaries may be periodic, and a few rows may have other
entries, so the caller must verify a proposal.
"""

import itertools
from collections.abc import Iterator

import numpy as np

_OFFSETS = 512  # most offsets of a band or a stencil
_SAMPLE = 4096
_REACH = 4  # of a stencil, in grid points
_GRIDS = 4


def proposals(rows: np.ndarray, cols: np.ndarray, num_cols: int, fewest: int) -> Iterator[np.ndarray]:
    """Proposed colors of columns, those with fewer colors first. Columns of one color should share no row.

    Args:
      rows, cols: the entries, shape (nnz,), in any order.
      num_cols: N.
      fewest: the most entries that a row has, which no coloring can go below.

    Yields:
      int32 arrays of shape (N,).

    References:
      Colors linear in the coordinates of a grid: Goldfarb, Toint, "Optimal estimation of Jacobian and Hessian matrices
      that arise in finite difference calculations", Mathematics of Computation 43 (1984), pp. 69-88.
    """
    offsets, counts = _offsets(rows, cols)
    if not 0 < len(offsets) <= _OFFSETS:
        return
    # Rare offsets come from periodic boundaries, and do not tell the grid.
    main = offsets[counts > 0.4 * counts.max()]
    # Inside a grid, a row has entries at all offsets. Other patterns are not worth the search.
    forms = [((), offsets[:, None])] if len(offsets) <= 4 * fewest else []
    forms += _grids(main) if len(main) <= 2 * fewest else []
    found = []
    for strides, vectors in forms:
        factors = _linear(vectors, fewest)
        if factors is not None:
            found.append((*factors, strides))
    for num_colors, factors, strides in sorted(found, key=lambda form: form[0]):
        yield _colors(num_cols, num_colors, factors, strides)


def _offsets(rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A sample rules out most other patterns, at less cost than sorting all offsets.
    step = max(1, len(rows) // _SAMPLE)
    if len(np.unique(cols[::step] - rows[::step])) > _OFFSETS:
        return np.array([], int), np.array([], int)
    offsets = cols - rows
    low, high = (int(offsets.min()), int(offsets.max())) if len(offsets) else (0, 0)
    if high - low > 4 * len(offsets):
        offsets, counts = np.unique(offsets, return_counts=True)
    else:
        counts = np.bincount(offsets - low, minlength=1)
        offsets = np.flatnonzero(counts)
        counts, offsets = counts[offsets], offsets + low
    return offsets.astype(np.int64), counts


def _grids(offsets: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    # Grids on which these offsets are short vectors, the one with the shortest first: strides and vectors.
    steps = np.unique(np.abs(offsets))
    steps = [int(k) for k in steps if k > 1]
    if len(steps) > 64:
        return []
    strides = [(k,) for k in steps]
    strides += [(k, s) for k, s in itertools.combinations(steps, 2) if s % k == 0]
    found = []
    for form in strides:
        vectors, rest = [], offsets
        for stride in form[::-1]:
            vectors.append(np.rint(rest / stride).astype(np.int64))
            rest = rest - vectors[-1] * stride
        vectors = np.stack([rest, *vectors[::-1]], axis=1)
        reach = np.abs(vectors).max(axis=0)
        if reach.max() <= _REACH:
            found.append((int(reach.sum()), form, vectors))
    return [(form, vectors) for _, form, vectors in sorted(found, key=lambda f: f[:2])[:_GRIDS]]


def _linear(vectors: np.ndarray, fewest: int) -> tuple[int, np.ndarray] | None:
    # Colors x + b y + c z, modulo the smallest number for which no two columns of a row have the same color.
    gaps = (vectors[:, None] - vectors).reshape(-1, vectors.shape[1])
    gaps = np.unique(gaps, axis=0) if vectors.shape[1] > 1 else np.unique(gaps)[:, None]
    gaps = gaps[np.any(gaps != 0, axis=1)]
    for num_colors in range(max(1, fewest), 2 * fewest + 8):
        free = itertools.product(range(num_colors), repeat=vectors.shape[1] - 1)
        factors = np.array([(1, *f) for f in free])
        if factors.size * len(gaps) > 3 * 10**6:  # a wide stencil: not worth the search
            return None
        fits = np.all(gaps @ factors.T % num_colors, axis=0)
        if fits.any():
            return num_colors, factors[fits.argmax()]
    return None


def _colors(num_cols: int, num_colors: int, factors: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    rest, out = np.arange(num_cols, dtype=np.int32), np.zeros(num_cols, np.int32)
    for stride, factor in zip(strides[::-1], factors[:0:-1], strict=True):
        out += rest // np.int32(stride) % num_colors * np.int32(factor)
        rest = rest % np.int32(stride)
    return (out + rest) % np.int32(num_colors)
