"""What is asked for of a block, and what a kernel gave of it: lines by their numbers, nonzeros, a diagonal, a product.

Knows the numbers of lines. Knows no way to compute them.
Shapes: B samples, M by N a block, R lines, nnz entries.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jacobia._run.point import Linearized


class Request(NamedTuple):
    """Lines of one block: numbers (sorted and different, or traced), or None for all. Or what `kind` says of it."""

    block: int  # its number
    rows: Any = None
    columns: Any = None
    samples: Any = None
    pairs: tuple[np.ndarray, np.ndarray] | None = None  # where entries at pairs of rows and columns are asked for alone
    kind: str = "lines"  # or "nonzeros", "diagonal", "product"

    @property
    def asks(self) -> str:
        """What lines, in one word: "all", "rows", "columns" or a "block" of both."""
        if self.rows is None:
            return "all" if self.columns is None else "columns"
        return "rows" if self.columns is None else "block"

    def lines(self, way: str) -> Any:
        """The numbers of its "rows" or of its "columns"."""
        return self.rows if way == "rows" else self.columns


class Count(NamedTuple):
    """What a kernel call adds to the counters of a view."""

    block: int
    way: str  # "rows" or "columns", as they were asked for
    by: str  # "pullbacks" or "pushforwards"
    lines: int
    seeds: int
    run: int  # with padding
    constant_rows: int = 0
    calls: int = 1  # kernel calls


class Answer(NamedTuple):
    """What a kernel gave of a block, which is the mirror image of the one asked for where a column is a row there."""

    block: int
    way: str  # "rows" or "columns"; or the kind of the request
    numbers: Any  # of lines, None: all; the pattern of nonzeros
    array: Any  # (R, *x.shape), x.shape for one row, or (*y.shape, R), padded behind; y.shape + x.shape for all; (nnz,)
    turned: bool = False  # columns were asked for, and are rows of the mirror image
    samples: Any = None  # numbers of those in front; None: all
    counts: tuple[Count, ...] = ()  # empty: nothing was run

    def cube(self, origin: Linearized) -> tuple[Any, dict[str, Any]]:
        """The array with axes (samples, rows, columns) of the block asked for, and the numbers that each axis holds."""
        m, n = origin.blue.counts[self.block]
        b = math.prod(origin.lead) if self.samples is None else len(self.samples)
        shape = (b, m, n) if self.numbers is None else (b, -1, n) if self.way == "rows" else (b, m, -1)
        cube, way = self.array.reshape(shape), self.way
        if self.turned:
            cube, way = cube.swapaxes(1, 2), "columns"
        return cube, {"batch": self.samples, "rows": None, "columns": None} | {way: self.numbers}
