"""What one view remembers: rows and columns known so far, a byte limit, counters.

Knows arrays and their numbers. Knows nothing of derivatives. Lines (rows or columns) are kept as the kernels gave them,
in pieces: several lines, or one line without an axis for lines. If the caller donates or deletes the array of a piece,
its lines are unknown again.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, KeysView
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

# A display asks at most this many pieces whether they were deleted.
_ASKED = 200


class Stats(NamedTuple):
    """What has been computed for one view so far.

    Attributes:
      rows_computed: how many rows.
      columns_computed: how many columns.
      pullbacks: how many pullbacks they needed, without padding.
      pushforwards: how many pushforwards they needed, without padding.
      seeds_run: how many pullbacks and pushforwards ran, with padding.
      kernel_calls: how many kernel calls ran them.
      nbytes: the bytes that are remembered now.
      constant_rows: how many of the rows do not depend on x, and were taken from an earlier point.
    """

    rows_computed: int
    columns_computed: int
    pullbacks: int
    pushforwards: int
    seeds_run: int
    kernel_calls: int
    nbytes: int
    constant_rows: int = 0


@dataclass(slots=True)
class _Counters:
    rows: int = 0
    columns: int = 0
    pullbacks: int = 0
    pushforwards: int = 0
    seeds_run: int = 0
    kernel_calls: int = 0
    constant_rows: int = 0


class _Piece(NamedTuple):
    numbers: np.ndarray  # of its lines, in order; padding lines behind them have no numbers
    array: Any


class Lines:
    """Rows (or columns) known so far."""

    def __init__(self, count: int):
        self.count = count
        self.pieces: dict[int, _Piece] = {}  # in order of use: the first is the least recently used
        self.nbytes = 0
        self._next = 0
        self._unindexed: list[int] = []
        self._owner: Any = None  # line → 1 + its piece, or 0: zeros take no time, however many lines there are
        self._place: Any = None  # line → place in its piece
        self._known = 0  # how many lines of the index are known

    def missing(self, numbers: np.ndarray | None) -> np.ndarray:
        """Which of the (sorted) numbers are not known; None stands for all lines."""
        if not self.pieces:
            return np.arange(self.count) if numbers is None else numbers
        owner = self._index()[0]
        owners = owner if numbers is None else owner[numbers]
        # As few pieces as possible are asked: a view that was read line by line has thousands.
        few = numbers is not None and owners.size < len(self.pieces)
        if self._forget_deleted(_keys(owners) if few else self.pieces):
            owners = owner if numbers is None else owner[numbers]
        unknown = np.flatnonzero(owners == 0)
        return unknown if numbers is None else numbers[unknown]

    def _forget_deleted(self, keys: Iterable[int]) -> bool:
        # Whether some of these pieces were deleted, and so are forgotten now.
        deleted = [k for k in keys if self.pieces[k].array.is_deleted()]
        for key in deleted:
            self._drop(key)
        return bool(deleted)

    def lacks(self, numbers: np.ndarray | None) -> bool:
        """Whether none of these lines is known; None stands for all lines."""
        return not self.pieces or (numbers is not None and self.missing(numbers).size == numbers.size)

    def num_missing(self, numbers: np.ndarray | None) -> int:
        """How many of these lines are not known; None stands for all lines."""
        if numbers is None and not self.pieces:
            return self.count  # an array of all numbers may take more memory than a line
        return self.missing(numbers).size

    def put(self, numbers: np.ndarray, array: Any) -> None:
        self.pieces[self._next] = _Piece(numbers, array)
        self._unindexed.append(self._next)
        self.nbytes += array.nbytes
        self._next += 1

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        # Built when first needed: most views are read once.
        if self._owner is None:
            self._owner, self._place = np.zeros((2, self.count), np.int32)
        for key in self._unindexed:
            numbers = self.pieces[key].numbers
            self._known += int(np.count_nonzero(self._owner[numbers] == 0))
            self._owner[numbers] = key + 1
            self._place[numbers] = np.arange(len(numbers))
        self._unindexed.clear()
        return self._owner, self._place

    def take(self, numbers: np.ndarray) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """For known numbers: (array of a piece, places in it, places among `numbers`)."""
        owner, place = self._index()
        owners = owner[numbers]
        for key in (int(k) - 1 for k in np.unique(owners)):
            here = np.flatnonzero(owners == key + 1)
            piece = self.pieces[key] = self.pieces.pop(key)  # now the most recently used
            yield piece.array, place[numbers[here]], here

    def known(self) -> int:
        """How many lines are known. Of many pieces, only those used last are asked whether they were deleted."""
        self._forget_deleted([*islice(reversed(self.pieces), _ASKED)])
        if self._owner is None and len(self.pieces) == 1:
            return next(iter(self.pieces.values())).numbers.size
        if self.pieces:
            self._index()
        return self._known

    def shares(self, cells: int) -> np.ndarray:
        """How much of each of so many parts of the lines, about equally long, is known: from 0 to 1. As `known`."""
        if not self.known():
            return np.zeros(min(cells, self.count))
        bounds = np.linspace(0, self.count, min(cells, self.count) + 1).astype(int)
        return np.add.reduceat(self._index()[0] > 0, bounds[:-1], dtype=int) / np.diff(bounds)

    def shrink(self, limit: int) -> None:
        """Forget the least recently used pieces until the rest fits."""
        while self.nbytes > limit and self.pieces:
            self._drop(next(iter(self.pieces)))

    def _drop(self, key: int) -> None:
        owner, _ = self._index()
        piece = self.pieces.pop(key)
        gone = piece.numbers[owner[piece.numbers] == key + 1]
        owner[gone] = 0
        self._known -= gone.size
        self.nbytes -= piece.array.nbytes


class _Patch(NamedTuple):
    samples: np.ndarray  # numbers, sorted; padding behind them has none
    lines: np.ndarray  # likewise
    array: Any  # (S, L, ...), or (S, ..., L)


class Patches:
    """Lines of some samples of a batch, in pieces of several samples by several lines.

    Args:
      count: how many lines each sample has.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pieces: dict[int, _Patch] = {}  # the first is the oldest
        self.nbytes = 0
        self._next = 0
        self._pieces_of: Counter[int] = Counter()  # sample that has known lines → how many pieces
        self._unindexed: list[int] = []
        self._owners: dict[int, np.ndarray] = {}  # sample → for each line, 1 + the latest piece that has it, or 0

    def __len__(self) -> int:
        """How many samples have known lines."""
        return len(self._pieces_of)

    @property
    def samples(self) -> KeysView[int]:
        """The samples that have known lines."""
        return self._pieces_of.keys()

    def put(self, samples: np.ndarray, lines: np.ndarray, array: Any) -> None:
        self.pieces[self._next] = _Patch(samples, lines, array)
        self._pieces_of.update(samples.tolist())
        self._unindexed.append(self._next)
        self.nbytes += array.nbytes
        self._next += 1

    def missing(self, samples: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples that lack some of these lines, and the lines that some of these samples lack."""
        unknown = self._index(samples, lines) == 0
        return samples[unknown.any(axis=1)], lines[unknown.any(axis=0)]

    def take(self, samples: np.ndarray, lines: np.ndarray) -> Iterator[tuple[Any, tuple, tuple]]:
        """What is known: (array of a piece, places in it, places among `samples` and `lines`), later pieces last."""
        for key in _keys(self._index(samples, lines)):
            piece = self.pieces[key]
            _, here_s, there_s = np.intersect1d(piece.samples, samples, assume_unique=True, return_indices=True)
            _, here_l, there_l = np.intersect1d(piece.lines, lines, assume_unique=True, return_indices=True)
            yield piece.array, np.ix_(here_s, here_l), np.ix_(there_s, there_l)

    def shrink(self, limit: int) -> None:
        """Forget the oldest pieces until the rest fits."""
        while self.nbytes > limit and self.pieces:
            self._drop(next(iter(self.pieces)))

    def _index(self, samples: np.ndarray, lines: np.ndarray) -> np.ndarray:
        # (S, L): 1 + the piece that has a line of a sample, or 0. Deleted pieces are forgotten.
        for key in self._unindexed:
            piece = self.pieces[key]
            for sample in piece.samples.tolist():
                self._owner(sample)[piece.lines] = key + 1
        self._unindexed.clear()
        while True:
            found = np.zeros((samples.size, lines.size), np.int32)
            for k, sample in enumerate(samples.tolist()):
                if sample in self._owners:
                    found[k] = self._owners[sample][lines]
            deleted = [key for key in _keys(found) if self.pieces[key].array.is_deleted()]
            if not deleted:
                return found
            for key in deleted:
                self._drop(key)

    def _owner(self, sample: int) -> np.ndarray:
        if sample not in self._owners:
            self._owners[sample] = np.zeros(self.count, np.int32)  # zeros take no time, however many lines there are
        return self._owners[sample]

    def _drop(self, key: int) -> None:
        piece = self.pieces.pop(key)
        if key in self._unindexed:
            self._unindexed.remove(key)
        for sample in piece.samples.tolist():
            self._pieces_of[sample] -= 1
            if not self._pieces_of[sample]:
                del self._pieces_of[sample]
                self._owners.pop(sample, None)
            elif sample in self._owners:
                owner = self._owners[sample]
                owner[piece.lines[owner[piece.lines] == key + 1]] = 0
        self.nbytes -= piece.array.nbytes


def _keys(owners: np.ndarray) -> list[int]:
    # The pieces that own something, in order.
    return (np.unique(owners[owners > 0]) - 1).tolist()


class Store:
    """All that one view remembers.

    With `mirror`, the store of the transpose (this one, if symmetric), a row that is known there is a column here.
    """

    _mirror: "weakref.ref[Store] | None" = None  # weak: memory is freed with the view, without garbage collection
    _flip: Callable  # from the whole matrix of the mirror to this one

    def __init__(self, num_rows: int, num_columns: int):
        self.full: Any = None
        self.diagonal: Any = None
        self.nonzeros: Any = None
        self.pattern: Any = None  # of the nonzeros
        self.patches: dict[str, Patches] = {}  # by "rows" or "columns"
        self._shape = num_rows, num_columns
        self._counters = _Counters()

    @cached_property
    def rows(self) -> Lines:
        return Lines(self._shape[0])

    @property
    def columns(self) -> Lines:
        mirror = self.mirror
        return self._columns if mirror is None else mirror.rows

    @cached_property
    def _columns(self) -> Lines:
        return Lines(self._shape[1])

    @property
    def mirror(self) -> "Store | None":
        """The store of the transpose; whoever owns this one owns that one too."""
        return None if self._mirror is None else self._mirror()

    def reflect(self, mirror: "Store", flip: Callable) -> None:
        """From now on, columns here are rows of the mirror."""
        self._mirror, self._flip = weakref.ref(mirror), flip

    def whole(self) -> Any:
        """The whole matrix, if it is known."""
        full = self.full
        if full is not None and full.is_deleted():
            full = self.full = None
        mirror = self.mirror if full is None else None
        if mirror is not None and mirror is not self and alive(mirror.full):
            full = self.full = self._flip(mirror.full)
        return full

    @property
    def complete(self) -> bool:
        """Whether the whole matrix is known, here or in the mirror. Unlike `whole`, this computes no transpose."""
        mirror = self.mirror
        return alive(self.full) or (mirror is not None and alive(mirror.full))

    @property
    def holds(self) -> bool:
        """Whether all of the matrix may be known, as a whole or by its nonzeros."""
        return (
            self.full is not None or self.nonzeros is not None or self.mirror is not None and self.whole() is not None
        )

    def lacks(self, rows: np.ndarray | None, columns: np.ndarray | None) -> bool:
        """Whether nothing is known of these rows and these columns; None stands for all."""
        if self.whole() is not None or self.nonzeros is not None:
            return False
        return self.rows.lacks(rows) and self.columns.lacks(columns)

    def set_whole(self, full: Any) -> None:
        self.full = full
        for lines in ("rows", "_columns"):  # the lines are part of it now
            self.__dict__.pop(lines, None)
        self.patches.clear()
        mirror = self.mirror
        if mirror is not None:
            mirror.__dict__.pop("rows", None)
            mirror.patches.clear()

    def clear(self) -> None:
        self.diagonal = self.nonzeros = None
        self.set_whole(None)
        mirror = self.mirror
        if mirror is not None:
            mirror.full = None

    def count(
        self, way: str, by: str, lines: int, seeds: int, run: int, constant_rows: int = 0, calls: int = 1
    ) -> None:
        """Count kernel calls: `lines` rows or columns (`way`) by `seeds` pullbacks or pushforwards (`by`).

        `run` is the number of seeds with padding.
        """
        counters = self._counters
        if way == "rows":
            counters.rows += lines
        else:
            counters.columns += lines
        if by == "pullbacks":
            counters.pullbacks += seeds
        else:
            counters.pushforwards += seeds
        counters.seeds_run += run
        counters.kernel_calls += calls
        counters.constant_rows += constant_rows

    def everything(self) -> list:
        """All arrays of which reads are taken, without deleted ones."""
        held = [self.full, self.diagonal, self.nonzeros, None if self.mirror is None else self.mirror.full]
        held += [p.array for lines in (self.rows, self.columns) for p in lines.pieces.values()]
        held += [p.array for patches in self.patches.values() for p in patches.pieces.values()]
        return [a for a in held if alive(a)]

    def shrink(self, limit: int) -> None:
        """Forget rows, columns and patches until they fit a limit in bytes; what was used last stays."""
        for patches in self.patches.values():
            patches.shrink(limit)
            limit -= patches.nbytes
        if self.mirror is None:
            self._columns.shrink(limit)
            limit -= self._columns.nbytes
        self.rows.shrink(limit)

    @property
    def nbytes(self) -> int:
        """Bytes of what it owns; what a mirror knows is counted there."""
        own = self._columns.nbytes if self.mirror is None else 0
        whole = sum(a.nbytes for a in (self.full, self.diagonal, self.nonzeros) if alive(a))
        return self.rows.nbytes + own + whole + sum(p.nbytes for p in self.patches.values())

    def stats(self) -> Stats:
        c = self._counters
        made = c.rows, c.columns, c.pullbacks, c.pushforwards, c.seeds_run, c.kernel_calls
        return Stats(*made, self.nbytes, c.constant_rows)


def alive(array: Any) -> bool:
    """Whether there is an array, and neither donated nor deleted by the caller."""
    return array is not None and not array.is_deleted()


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized array, aligned so that `jax.device_put` on a CPU takes it over; it would copy others."""
    nbytes, align = math.prod(shape) * dtype.itemsize, 64
    out = np.empty(nbytes + align, np.uint8)
    start = -out.ctypes.data % align
    return out[start : start + nbytes].view(dtype).reshape(shape)
