"""How large the arrays that a walk makes may get.

Knows bytes. Knows no columns and no operations.
Shapes: K slots, S the shape of a tangent.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from jacobia._space import MOST

# Bytes counted for one column of one element: the column, sorted copies, masks, entry numbers. The most seen is 86
# (a dense x - mean(x), up to its pattern); the default limit, a quarter of the free memory, leaves room for that.
_COLUMN = 24

_limit: ContextVar[int] = ContextVar("limit", default=sys.maxsize)


class Extent(NamedTuple):
    """The size of an array (K, *S). The larger of two is the one with more bytes."""

    nbytes: int
    width: int
    size: int


NOTHING = Extent(0, 0, 0)


class TooWide(Exception):
    """A walk needs an array that is too large; the other direction may not need one."""

    def __init__(self, extent: Extent):
        super().__init__(extent)
        self.extent = extent
        self.operation: str | None = None


@contextmanager
def within(limit: int) -> Iterator[None]:
    """Inside, each array of columns may take at most `limit` bytes."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def check_columns(width: int, shape: Sequence[int]) -> None:
    """Called before an array of columns (K, *S) is made; columns that all elements share need no check.

    Raises:
      TooWide: it takes more bytes than the limit, or has more elements than 32-bit numbers can count.
    """
    size = math.prod(shape)
    nbytes = width * size * _COLUMN
    if nbytes > _limit.get() or width * size > MOST:
        raise TooWide(Extent(nbytes, width, size))


def numbered(shape: Sequence[int], start: int = 0) -> np.ndarray:
    """Numbers for elements in flat order, from `start` on; int32.

    Raises:
      TooWide: as `check_columns` does.
    """
    size = math.prod(shape)
    check_columns(1, (start + size,))
    return np.arange(start, start + size, dtype=np.int32).reshape(shape)
