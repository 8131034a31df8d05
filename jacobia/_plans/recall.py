"""Dense lines written from the nonzeros in the store: no derivative is computed.

Knows patterns and stores. Knows nothing of derivatives.
"""

from collections.abc import Iterator

import numpy as np

from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Outline, PlanOfLines
from jacobia._plans.request import Answer, Request
from jacobia._run.devices import placed
from jacobia._run.kernels import Taken
from jacobia._run.limits import READ_LESS, check_result
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import aligned, alive


def nonzeros_known(origin: Linearized, index: int) -> bool:
    """Whether lines of a block can be written from stored nonzeros; never with a batch axis."""
    return not origin.lead and alive(store_of(origin, index).nonzeros)


def recall(origin: Linearized, request: Request) -> "Iterator[Recall]":
    """The plan for lines of a block whose nonzeros are in the store."""
    if nonzeros_known(origin, request.block):
        yield Recall(origin, request, Outline("none", 0, 0, "all of its nonzeros are known"))


class Recall(PlanOfLines):
    """Missing lines as dense arrays, with the stored nonzeros written to their places."""

    def run(self) -> list[Answer]:
        origin, (index, rows, columns, *_) = self.origin, self.request
        store, block = store_of(origin, index), origin.blue.blocks[index]
        pattern, data = store.pattern, np.asarray(store.nonzeros)
        m, n = pattern.shape
        if rows is None and columns is None:
            full = _dense_rows(pattern, data, np.arange(m)).reshape(block.row_shape + block.column_shape)
            return [Answer(index, "rows", None, placed(origin.leaves, full))]
        if rows is not None:
            rows = store.rows.missing(rows)
            lines = _dense_rows(pattern, data, rows).reshape(-1, *block.column_shape)
            return [Answer(index, "rows", rows, placed(origin.leaves, lines))] if rows.size else []
        columns = store.columns.missing(columns)
        as_rows = store.mirror is not None  # columns are kept as rows of the mirror image
        lines = _dense_rows(pattern.T, data[pattern.by_column], columns, last=not as_rows)
        shape = (-1, *block.row_shape) if as_rows else (*block.row_shape, -1)
        if not columns.size:
            return []
        return [Answer(index, "columns", columns, placed(origin.leaves, lines.reshape(shape)), as_rows)]

    def taken(self) -> Taken:
        return Taken(0, self._nbytes)

    @property
    def _lie(self) -> str:
        return "columns" if self.request.rows is None else "rows"

    @property
    def _nbytes(self) -> int:
        index, rows, columns, *_ = self.request
        store, (m, n) = store_of(self.origin, index), self.origin.blue.counts[index]
        if rows is None and columns is None:
            size = m * n
        else:
            size = store.rows.num_missing(rows) * n if rows is not None else store.columns.num_missing(columns) * m
        return size * self.origin.blue.blocks[index].dtype.itemsize

    def check(self) -> None:
        # Where the dense lines do not fit, the plans that compute them are tried next.
        check_result("J[...] out of nonzeros", self._nbytes, self.origin.limit(self._nbytes), READ_LESS)


def _dense_rows(pattern: Pattern, data: np.ndarray, rows: np.ndarray, last: bool = False) -> np.ndarray:
    # (R, N), or (N, R) with the axis of rows last.
    first, count = pattern.indptr[rows], pattern.indptr[rows + 1] - pattern.indptr[rows]
    place = np.repeat(np.arange(len(rows)), count)
    entry = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    shape, at = (len(rows), pattern.shape[1]), (place, pattern.cols[entry])
    out = aligned(shape[::-1] if last else shape, data.dtype)
    out[...] = 0
    out[at[::-1] if last else at] = data[entry]
    return out
