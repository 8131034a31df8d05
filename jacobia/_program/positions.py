"""Where gathers, scatters and dynamic slices read or write.

Along an axis where the position is not known, an element may come from (or go to) any place.
Knows arrays. Knows nothing of columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode


def _on(values: Any, axes: Sequence[int], rank: int) -> Any:
    # The array with its axes put at the places `axes` of an array of this rank, to broadcast against it.
    shape = [1] * rank
    for axis, length in zip(axes, values.shape, strict=True):
        shape[axis] = length
    return values.reshape(shape)


class Places:
    """For every element of the narrow array (what is read, or written) its flat place in the wide array."""

    def __init__(self, wide: Sequence[int], narrow: Sequence[int], at: Sequence[int] = ()):
        self.wide, self.narrow, self.at = wide, narrow, at  # `at`: axes of the narrow array that run over positions
        self.flat = np.zeros([1] * len(narrow), np.int64)
        self.inside = np.ones([1] * len(narrow), bool)
        self.unknown: list[int] = []  # axes of the wide array, along which the position is not known
        self.sure = True  # False: a write may be dropped, or land elsewhere

    def add(self, axis: int, places: np.ndarray) -> None:
        self.flat = self.flat + places * int(np.prod(self.wide[axis + 1 :], dtype=np.int64))

    def count(self, axis: int, at: int) -> None:
        # Axis `at` of the narrow array runs through the wide array's axis `axis` from its start.
        self.add(axis, _on(np.arange(self.narrow[at]), [at], len(self.narrow)))

    def along(self, x: Any) -> Any:
        """An array with one entry per position, shaped to broadcast against the narrow array."""
        return _on(x, self.at, len(self.narrow))

    def start(self, axis: int, start: np.ndarray | None, width: int, clipped: bool) -> None:
        # `start` has one entry per position. A window that sticks out is moved inside if `clipped`, else left out.
        if start is None:
            self.sure = False
            if width != self.wide[axis]:
                self.unknown.append(axis)
            return
        last = self.wide[axis] - width
        at = self.along(np.asarray(start, np.int64))
        if not clipped:
            self.inside = self.inside & (at >= 0) & (at <= last)
        self.add(axis, np.clip(at, 0, last))


def gather_places(eqn: Any, columns: Sequence) -> Places:
    """Where a gather reads; `columns` are its indices split along their last axis, each a NumPy array or None."""
    p, d, wide = eqn.params, eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
    narrow = eqn.outvars[0].aval.shape
    numbered = [a for a in range(len(narrow)) if a not in d.offset_dims]
    places = Places(wide, narrow, numbered)
    clipped = p["mode"] != GatherScatterMode.FILL_OR_DROP
    for axis, column in zip(d.start_index_map, columns, strict=True):
        places.start(axis, column, p["slice_sizes"][axis], clipped)
    for axis, j in zip(d.operand_batching_dims, d.start_indices_batching_dims, strict=True):
        places.count(axis, numbered[j])
    window = [a for a in range(len(wide)) if a not in (*d.collapsed_slice_dims, *d.operand_batching_dims)]
    for axis, at in zip(window, d.offset_dims, strict=True):
        places.count(axis, at)
    return places


def scatter_places(eqn: Any, columns: Sequence) -> Places:
    """Where a scatter writes."""
    p, d = eqn.params, eqn.params["dimension_numbers"]
    shapes = [a.aval.shape for a in eqn.invars]
    numbered = [a for a in range(len(shapes[2])) if a not in d.update_window_dims]
    places = Places(shapes[0], shapes[2], numbered)
    window = [a for a in range(len(shapes[0])) if a not in (*d.inserted_window_dims, *d.operand_batching_dims)]
    widths = dict(zip(window, (shapes[2][a] for a in d.update_window_dims), strict=True))
    for axis, column in zip(d.scatter_dims_to_operand_dims, columns, strict=True):
        places.start(axis, column, widths.get(axis, 1), p["mode"] == GatherScatterMode.CLIP)
    for axis, j in zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True):
        places.count(axis, numbered[j])
    for axis, at in zip(window, d.update_window_dims, strict=True):
        places.count(axis, at)
    return places


def dynamic_places(wide: Sequence[int], narrow: Sequence[int], starts: Sequence) -> Places:
    """Where a dynamic slice reads, or a dynamic update writes; `starts` has one per axis, None: not known."""
    places = Places(wide, narrow)
    for axis, (start, width) in enumerate(zip(starts, narrow, strict=True)):
        places.start(axis, start, width, True)
        places.count(axis, axis)
    return places
