"""What one view remembers: rows and columns known so far, a byte limit, counters.

Knows arrays and their numbers. Knows nothing of derivatives. Lines are kept as the kernels gave them, in
pieces of several lines; where a piece is gone (donated or deleted by the caller), its lines are unknown.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


class Stats(NamedTuple):
    """What has really been done for one view."""

    rows_computed: int
    columns_computed: int
    pullbacks: int  # seeds asked for
    pushforwards: int
    seeds_run: int  # with padding
    kernel_calls: int
    nbytes: int  # remembered now


class _Piece(NamedTuple):
    numbers: np.ndarray  # of its lines, in order; padding behind them has none
    array: Any


class Lines:
    """Rows (or columns) known so far."""

    def __init__(self, count: int):
        self.count = count
        self.pieces: dict[int, _Piece] = {}  # in order of use: the first is the least recently used
        self.nbytes = 0
        self._next = 0
        self._unindexed: list[int] = []
        self._owner: Any = None  # line → piece, or -1
        self._place: Any = None  # line → place in its piece

    def missing(self, numbers: np.ndarray | None) -> np.ndarray:
        """Which of the (sorted) numbers are not known; None stands for all lines."""
        for key in [k for k, piece in self.pieces.items() if piece.array.is_deleted()]:
            self._drop(key)
        if not self.pieces:
            return np.arange(self.count) if numbers is None else numbers
        owner = self._index()[0]
        owners = owner if numbers is None else owner[numbers]
        unknown = np.flatnonzero(owners < 0)
        return unknown if numbers is None else numbers[unknown]

    def put(self, numbers: np.ndarray, array: Any) -> None:
        self.pieces[self._next] = _Piece(numbers, array)
        self._unindexed.append(self._next)
        self.nbytes += array.nbytes
        self._next += 1

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        # Made when it is first looked into: most views are read once.
        if self._owner is None:
            self._owner = np.full(self.count, -1, np.int32)
            self._place = np.zeros(self.count, np.int32)
        for key in self._unindexed:
            numbers = self.pieces[key].numbers
            self._owner[numbers] = key
            self._place[numbers] = np.arange(len(numbers))
        self._unindexed.clear()
        return self._owner, self._place

    def take(self, numbers: np.ndarray) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """For known numbers: (array of a piece, places in it, places among `numbers`)."""
        owner, place = self._index()
        owners = owner[numbers]
        for key in np.unique(owners):
            here = np.flatnonzero(owners == key)
            piece = self.pieces[int(key)] = self.pieces.pop(int(key))  # used last
            yield piece.array, place[numbers[here]], here

    def known(self) -> tuple[int, int]:
        """How many lines are known, of how many."""
        return int(np.count_nonzero(self._index()[0] >= 0)) if self.pieces else 0, self.count

    def shrink(self, limit: int) -> None:
        """Forget the least recently used pieces until the rest fits."""
        while self.nbytes > limit and self.pieces:
            self._drop(next(iter(self.pieces)))

    def _drop(self, key: int) -> None:
        owner, _ = self._index()
        piece = self.pieces.pop(key)
        owner[piece.numbers[owner[piece.numbers] == key]] = -1
        self.nbytes -= piece.array.nbytes


class Store:
    """All that one view remembers."""

    def __init__(self, num_rows: int, num_columns: int):
        self.full: Any = None
        self._shape = num_rows, num_columns
        # rows_computed, columns_computed, pullbacks, pushforwards, seeds_run, kernel_calls
        self.counts = [0, 0, 0, 0, 0, 0]

    @cached_property
    def rows(self) -> Lines:
        return Lines(self._shape[0])

    @cached_property
    def columns(self) -> Lines:
        return Lines(self._shape[1])

    def whole(self) -> Any:
        """The whole matrix, if it is known."""
        full = self.full
        if full is not None and full.is_deleted():
            full = self.full = None
        return full

    def set_whole(self, full: Any) -> None:
        self.full = full
        for lines in ("rows", "columns"):  # the lines are part of it now
            self.__dict__.pop(lines, None)

    def clear(self) -> None:
        self.set_whole(None)

    def count(self, way: str, lines: int, seeds: int, run: int) -> None:
        self.counts[0 if way == "rows" else 1] += lines
        self.counts[2 if way == "rows" else 3] += seeds
        self.counts[4] += run
        self.counts[5] += 1

    def arrays(self) -> list:
        """All arrays it holds; at least one wherever something is known."""
        if self.full is not None:
            return [self.full]
        return [p.array for lines in (self.rows, self.columns) for p in lines.pieces.values()]

    def shrink(self, limit: int) -> None:
        """Keep to a limit in bytes: what was used last stays."""
        self.columns.shrink(limit)
        self.rows.shrink(limit - self.columns.nbytes)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.columns.nbytes + (0 if self.full is None else self.full.nbytes)

    def stats(self) -> Stats:
        rows, columns, pullbacks, pushforwards, seeds, calls = self.counts
        return Stats(rows, columns, pullbacks, pushforwards, seeds, calls, self.nbytes)
