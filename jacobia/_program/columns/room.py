"""How large what a walk makes may get.

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

# Bytes of one column, with what is made of it: copies that are sorted, masks, numbers of entries. Up to 86 were seen,
# of a dense x - mean(x) to its pattern, and a quarter of what is free is given out where nobody sets a limit.
_COLUMN = 24

_limit: ContextVar[int] = ContextVar("limit", default=sys.maxsize)


class Extent(NamedTuple):
    """The size of an array (K, *S); of two the larger is the one of more bytes."""

    nbytes: int
    width: int
    size: int


NOTHING = Extent(0, 0, 0)


class TooWide(Exception):
    """An array that a walk may not make; the other direction may need none such."""

    def __init__(self, extent: Extent):
        super().__init__(extent)
        self.extent = extent
        self.operation: str | None = None


@contextmanager
def within(limit: int) -> Iterator[None]:
    """Columns made inside take at most so many bytes an array."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def check_columns(width: int, shape: Sequence[int]) -> None:
    """Called before columns (K, *S) are really made; where all elements share them there is no need to.

    Raises:
      TooWide: there is no room for them, or there are more of them than numbers.
    """
    size = math.prod(shape)
    nbytes = width * size * _COLUMN
    if nbytes > _limit.get() or width * size > MOST:
        raise TooWide(Extent(nbytes, width, size))


def numbered(shape: Sequence[int], start: int = 0) -> np.ndarray:
    """The numbers of elements in flat order, int32, those before `start` being others'.

    Raises:
      TooWide: as of columns.
    """
    size = math.prod(shape)
    check_columns(1, (start + size,))
    return np.arange(start, start + size, dtype=np.int32).reshape(shape)
