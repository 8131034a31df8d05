"""How a view arranges the axes of its block, and the reads that are prepared for its keys.

Knows shapes. Knows nothing of arrays.
"""

import math
from functools import cached_property
from typing import Any

from jacobia._read.memo import Reads
from jacobia._run.blueprint import Block, Blueprint
from jacobia._store.keys import ROLES, Asked, Axes, Part, asked


class Layout:
    """How a view arranges the axes of its block: natural or as a matrix, and perhaps transposed.

    `turn` is "", "T" (all axes reversed) or "mT" (of axes (*batch, m, n), the last two swapped).
    """

    def __init__(self, block: Block, lead: tuple[int, ...], matrix: bool, turn: str):
        self.block, self.lead, self.matrix, self.turn = block, lead, matrix, turn
        shapes = [lead, block.row_shape, block.column_shape]
        if matrix:
            shapes[1:] = [(math.prod(s),) for s in shapes[1:]]
        batch, rows, columns = (Part(r, s, turn == "T") for r, s in zip(ROLES, shapes, strict=True))
        turns = {"": [batch, rows, columns], "T": [columns, rows, batch], "mT": [batch, columns, rows]}
        self.axes = Axes(turns[turn])
        self.order = tuple(p.role for p in self.axes.parts)
        self.shape = self.axes.shape
        self._straight = sum(shapes, ())  # the shape, not transposed
        self.unfolded = self._straight == lead + block.row_shape + block.column_shape  # no axes are merged
        self.natural = not turn and self.unfolded
        self.flat = [len(p.shape) for p in (batch, rows, columns)] == [0, 1, 1]  # a matrix of rows and columns
        # Whether the view has shape (*batch, M, N), or (*batch, N, M) if transposed.
        self.matrices = len(rows.shape) == len(columns.shape) == 1 and not (lead and turn == "T")
        self.weak = block.weak
        self.reads = Reads(self.order, not turn)

    @property
    def transposed(self) -> bool:
        """Whether the axes of columns come before those of rows."""
        return bool(self.turn)

    @cached_property
    def everything(self) -> Asked:
        """The request of `J[...]`."""
        return asked(..., self.axes)

    def arrange(self, full: Any) -> Any:
        """A whole block (a NumPy or JAX array) in its natural order, rearranged to the axes of the view."""
        if self.natural:
            return full
        full = full.reshape(self._straight)
        return full.swapaxes(-1, -2) if self.turn == "mT" else full.transpose() if self.turn else full


def layout_of(
    blue: Blueprint, index: int, lead: tuple[int, ...] | None = None, matrix: bool = False, turn: str = ""
) -> Layout:
    """The layout shared by all views of a block with these options.

    Args:
      lead: the shape of the leading axes of samples; None: that of a view before any `vmap`.
    """
    name = index, blue.spaces.lead if lead is None else lead, matrix, turn
    return blue.found.find("layout", name, lambda: Layout(blue.blocks[index], *name[1:]))
