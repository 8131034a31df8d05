"""A request for a part of a block, and a kernel's answer: lines by their numbers, nonzeros, a diagonal or a product.

Knows the numbers of lines. Knows nothing of the ways to compute them.
Shapes: B samples, M by N a block, R lines (rows or columns), nnz stored entries.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jacobia._run.point import Linearized


class Request(NamedTuple):
    """Lines of one block, by number (sorted and unique, or traced; None: all), or the part that `kind` names."""

    block: int  # the number of the block in the call
    rows: Any = None
    columns: Any = None
    samples: Any = None
    pairs: tuple[np.ndarray, np.ndarray] | None = None  # (rows, columns) where only the entries at these pairs are read
    kind: str = "lines"  # or "nonzeros", "diagonal", "product"

    @property
    def asks(self) -> str:
        """Which lines are requested: "all", some "rows", some "columns", or a "block" of some rows and some columns."""
        if self.rows is None:
            return "all" if self.columns is None else "columns"
        return "rows" if self.columns is None else "block"

    def lines(self, way: str) -> Any:
        """The numbers of the requested "rows" or "columns"; None: all of them."""
        return self.rows if way == "rows" else self.columns


class Count(NamedTuple):
    """What a kernel call adds to the counters of a view."""

    block: int
    way: str  # "rows" or "columns", as the caller sees them
    by: str  # "pullbacks" or "pushforwards"
    lines: int
    seeds: int
    run: int  # seeds run, padding included
    constant_rows: int = 0
    calls: int = 1  # kernel calls


class Answer(NamedTuple):
    """What a kernel computed of one block.

    The block may be the mirror image of the requested one: a column of a symmetric matrix is a row of its mirror image.
    """

    block: int
    way: str  # "rows" or "columns"; or the kind of the request
    numbers: Any  # the numbers of the lines, None: all; of nonzeros, their pattern
    # Rows: (R, *x.shape), or x.shape for one row; columns: (*y.shape, R); R may end with padding. All of a block:
    # y.shape + x.shape. Nonzeros: (nnz,). The axes of samples come first.
    array: Any
    turned: bool = False  # whether columns were requested and rows of the mirror image were computed
    samples: Any = None  # the numbers of the samples on the leading axis; None: all
    counts: tuple[Count, ...] = ()  # what the kernel calls add to the counters; empty: nothing was run

    def cube(self, origin: Linearized) -> tuple[Any, dict[str, Any]]:
        """The array with axes (samples, rows, columns) of the requested block, and the numbers along each axis."""
        m, n = origin.blue.counts[self.block]
        b = math.prod(origin.lead) if self.samples is None else len(self.samples)
        shape = (b, m, n) if self.numbers is None else (b, -1, n) if self.way == "rows" else (b, m, -1)
        cube, way = self.array.reshape(shape), self.way
        if self.turned:
            cube, way = cube.swapaxes(1, 2), "columns"
        return cube, {"batch": self.samples, "rows": None, "columns": None} | {way: self.numbers}
