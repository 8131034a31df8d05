"""A heat map of the known entries of a view. Unknown entries are hatched, not computed.

Knows what is remembered, and how to read it. Knows nothing of how lines are computed.
Shapes: M rows, N columns of the view as a matrix; H cells down, W cells across.
"""

import math
from typing import Any

import numpy as np

from jacobia._operators.lines import is_sparse
from jacobia._plans.mirror import store_of
from jacobia._sparse.picture import axes_for, bounds, cells, is_dark, show
from jacobia._store.lines import Store, alive
from jacobia._words import array_word

# Bytes of remembered lines that are read at a time.
_AT_ONCE = 1 << 26


def plot(J: Any, ax: Any, sample: int | None, compute: bool, kwargs: dict[str, Any]) -> Any:
    """Draw the known entries, and return the axes."""
    sample = _checked_sample(J, sample)
    if not J._origin.remembers:
        raise TypeError(
            "J.plot(): expected a view outside of jit and other transformations, got one that is traced. Return J, and "
            "plot it outside."
        )
    ax = axes_for(ax, "J.plot(ax=...)")
    with J._origin.lock:  # no other thread may drop known lines meanwhile
        if compute:
            _compute(J, sample)
        image = _image(J._arranged(True, ""), sample)
    values = np.ma.masked_array(image.values, ~image.known)
    told = [array_word(J.dtype, J.shape), *([] if sample is None else [f"sample {sample}"])]
    if np.issubdtype(J.dtype, np.complexfloating):
        told.append("magnitudes")
    if J._layout.turn:
        return _draw(ax, values.T, (image.shape[1], image.shape[0]), told, kwargs)
    return _draw(ax, values, image.shape, told, kwargs)


def _compute(J: Any, sample: int | None) -> None:
    # A large sparse matrix by its nonzeros, which fit where the matrix may not.
    store = J._origin.stores.get(J._index)
    if store is not None and _has_only_nonzeros(store):
        return
    if sample is not None:
        J[np.unravel_index(sample, J._layout.lead)]
    elif is_sparse(J):
        J.nonzeros()
    else:
        J[...]


def _has_only_nonzeros(store: Store) -> bool:
    return store.whole() is None and alive(store.nonzeros)


def _checked_sample(J: Any, sample: Any) -> int | None:
    count = math.prod(J._layout.lead)
    if not J._layout.lead:
        if sample is None:
            return None
        raise ValueError(f"J.plot(sample={sample!r}): expected None for a view without samples. Leave sample out.")
    if isinstance(sample, (int, np.integer)) and not isinstance(sample, bool) and -count <= sample < count:
        return int(sample) % count
    raise ValueError(
        f"J.plot(sample={sample!r}): expected the number of one of the {count} samples, since one matrix is plotted. "
        "Write J.plot(sample=0)."
    )


class _Image:
    """H x W cells. Each cell holds the known entry that is largest in magnitude."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.bounds = bounds(shape)
        size = [b.size - 1 for b in self.bounds]
        self.values, self.known = np.zeros(size), np.zeros(size, bool)

    def cell(self, axis: int, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.bounds[axis], numbers, side="right") - 1

    def put(self, axis: int, numbers: np.ndarray, values: np.ndarray) -> None:
        """Add whole rows (axis 0) or columns (axis 1), given with their numbers in increasing order."""
        across, mine = self.cell(axis, numbers), [np.arange(0), np.arange(0)]
        first = np.flatnonzero(np.diff(across, prepend=-1))
        mine[axis], mine[1 - axis] = across[first], np.arange(self.bounds[1 - axis].size - 1)
        for along, starts in ((axis, first), (1 - axis, self.bounds[1 - axis][:-1])):
            values = _largest(values, starts, along)
        at = np.ix_(*mine)
        before, known = self.values[at], self.known[at]
        self.values[at] = np.where(known & (abs(before) >= abs(values)), before, values)
        self.known[at] = True

    def put_entries(self, rows: np.ndarray, cols: np.ndarray, data: np.ndarray) -> None:
        """Add all nonzeros. The other entries are known to be zero."""
        place, _ = cells(rows, cols, self.shape)
        order = np.argsort(abs(data), kind="stable")  # the last entry in a cell wins: the largest, or a NaN
        self.values.flat[place[order]] = data[order]
        self.known[...] = True


def _largest(values: np.ndarray, starts: np.ndarray, axis: int) -> np.ndarray:
    if starts.size == values.shape[axis]:
        return values
    high, low = (f.reduceat(values, starts, axis) for f in (np.maximum, np.minimum))  # NaNs propagate
    return np.where(abs(low) > abs(high), low, high)


def _image(J: Any, sample: int | None) -> _Image:
    # J is a matrix that is not transposed, or a batch of such matrices.
    store, shape = store_of(J._origin, J._index), J.shape[-2:]
    image, one = _Image(shape), () if sample is None else np.unravel_index(sample, J._layout.lead)
    if 0 in shape:
        return image
    if _has_only_nonzeros(store):
        data, rows, cols = J.nonzeros()
        image.put_entries(rows, cols, _real(data[one]))
        return image
    for axis, lines in enumerate(_known(store, shape, sample)):
        each = max(1, _AT_ONCE // (8 * shape[1 - axis]))
        for some in (lines[k : k + each] for k in range(0, lines.size, each)):
            key = (some, slice(None)) if axis == 0 else (slice(None), some)
            values = _real(J[(*one, *key)])
            image.put(axis, some, values.T if one and axis == 1 else values)  # NumPy puts columns first
    return image


def _known(store: Store, shape: tuple[int, int], sample: int | None) -> list[np.ndarray]:
    # The numbers of the known rows and of the known columns of a sample.
    every = [np.arange(k) for k in shape]
    if store.whole() is not None:
        return [every[0], every[1][:0]]
    known = []
    for lines, way, numbers in zip((store.rows, store.columns), ("rows", "columns"), every, strict=True):
        missing = lines.missing(None)
        if sample is not None and way in store.patches and missing.size:
            own = store.patches[way].missing(np.array([sample]), numbers)[1]
            missing = np.intersect1d(missing, own)
        known.append(np.delete(numbers, missing))
    return known


def _real(array: Any) -> np.ndarray:
    out = np.asarray(array)
    return (np.abs(out) if np.iscomplexobj(out) else out).astype(float)  # complex entries are shown by magnitude


def _draw(ax: Any, values: Any, shape: tuple[int, int], told: list[str], kwargs: dict[str, Any]) -> Any:
    finite, dark = abs(values[np.isfinite(values)]), is_dark(ax)
    limit = float(finite.max()) if finite.count() else 0.0
    limit = limit or 1.0
    settings = {"cmap": _diverging(dark), "vmin": -limit, "vmax": limit} | kwargs
    drawn = show(ax, values.clip(-limit, limit), shape, **settings)  # infinities get the strongest colors
    ax.figure.colorbar(drawn, ax=ax)
    ax.patch.set(hatch="////", edgecolor="0.5", linewidth=0)  # visible only where no known entry covers it
    if np.ma.getmaskarray(values).any():
        told.append("hatched: not known")
    if shape != values.shape:
        told.append("the largest of each cell")
    if strong := int(np.isinf(values).sum() or 0):
        told.append(f"{strong} infinite")
    if lost := int(np.isnan(values).sum() or 0):
        show(ax, np.where(np.isnan(values.filled(0)), 1.0, np.nan), shape, cmap="spring", vmin=1, vmax=2)
        told.append(f"pink: {lost} NaN")
    ax.set_xlabel(", ".join(told))
    return ax


def _diverging(dark: bool) -> str:
    from matplotlib import colormaps

    return "berlin" if dark and "berlin" in colormaps else "RdBu_r"  # "berlin" is dark in the middle
