"""Dense lines written from the nonzeros in the store: no derivative is computed.

Knows patterns and stores. Knows nothing of derivatives.
Shapes: B samples, M by N a block, R lines, nnz stored entries.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jacobia._plans.mirror import mirrored, store_of
from jacobia._plans.plan import Outline, PlanOfLines
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import on_host
from jacobia._run.devices import placed
from jacobia._run.kernels import Taken
from jacobia._run.limits import READ_LESS, check_result
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import aligned, alive

RECALLED = Outline("none", 0, 0, "all of its nonzeros are known")


def nonzeros_known(origin: Linearized, index: int) -> bool:
    """Whether lines of a block can be written from stored nonzeros; those of a batch only in host memory.

    A batch may be divided over devices, and an accelerator computes a batch faster than a host copies it there.
    """
    nonzeros = store_of(origin, index).nonzeros
    return alive(nonzeros) and (not origin.lead or on_host(nonzeros))


def recall(origin: Linearized, request: Request) -> "Iterator[Recall]":
    """The plan for lines of a block whose nonzeros are in the store."""
    if nonzeros_known(origin, request.block):
        yield Recall(origin, request, RECALLED)


class Recall(PlanOfLines):
    """Missing lines as dense arrays, with the stored nonzeros written to their places."""

    def run(self) -> list[Answer]:
        origin, request = self.origin, self.request
        if request.asks == "all":
            return [Answer(request.block, "rows", None, written(origin, request.block, "rows", None))]
        way = self._lie
        target, lines = mirrored(origin.blue, request, way)
        turned = lines != way
        missing = getattr(store_of(origin, target.block), lines).missing(target.lines(lines))
        if not missing.size:
            return []
        array = written(origin, request.block, way, missing, turned=turned)
        return [Answer(target.block, lines, missing, array, turned)]

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
        return size * math.prod(self.origin.lead) * self.origin.blue.blocks[index].dtype.itemsize

    def check(self) -> None:
        # Where the dense lines do not fit, the plans that compute them are tried next.
        check_result("J[...] out of nonzeros", self._nbytes, self.origin.limit(self._nbytes), READ_LESS)


def written(
    origin: Linearized, index: int, way: str, numbers: Any, samples: Any = None, turned: bool = False
) -> jax.Array:
    """Lines of a block, laid out as in an `Answer`, with the stored nonzeros written to their places.

    Args:
      numbers: of the "rows" or "columns" (`way`); None: all.
      samples: their numbers; None: all.
      turned: whether columns are laid out as rows of the mirror image.
    """
    store, block = store_of(origin, index), origin.blue.blocks[index]
    pattern, data = store.pattern, np.asarray(store.nonzeros).reshape(math.prod(origin.lead), -1)
    lead = origin.lead if samples is None else (len(samples),)
    data = data if samples is None else data[samples]
    own, other = block.row_shape, block.column_shape
    if way == "columns":
        pattern, data, own, other = pattern.T, data[:, pattern.by_column], other, own
    if numbers is None:
        numbers = np.arange(pattern.shape[0])
    else:
        own = (len(numbers),)
    last = way == "columns" and not turned
    lines = _dense_rows(pattern, data, numbers, last)
    return placed(origin.leaves, lines.reshape(*lead, *other, *own) if last else lines.reshape(*lead, *own, *other))


def _dense_rows(pattern: Pattern, data: np.ndarray, rows: np.ndarray, last: bool) -> np.ndarray:
    # (B, R, N), or (B, N, R) with the axis of rows last; data: (B, nnz).
    first, count = pattern.indptr[rows], pattern.indptr[rows + 1] - pattern.indptr[rows]
    place = np.repeat(np.arange(len(rows)), count)
    entry = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    shape, at = (len(rows), pattern.shape[1]), (place, pattern.cols[entry])
    out = aligned((len(data), *(shape[::-1] if last else shape)), data.dtype)
    out[...] = 0
    out[:, *(at[::-1] if last else at)] = data[:, entry]
    return out
