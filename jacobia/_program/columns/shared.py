"""Few columns in place of many: columns that no element of a loop's results has together share one, as a color.

A tangent then holds the sums over the columns that share one, as a compressed Jacobian does, and the pattern of a
result tells which of these an element has.
Knows columns, and names of values. Knows no programs.
Shapes: N inputs, C columns that are left, K slots, S the shape of a tangent.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.merging import tight, unused
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.slots import Slots, aligned, select, values
from jacobia._program.columns.tape import Tape
from jacobia._sparse import greedy

# Columns share only if at most this fraction of them may be left.
_FEWER = 0.5


class Shared:
    """Which of N columns share one.

    Args:
      patterns: the columns (K, *S) of every result; None: the result is no tangent.
    """

    def __init__(self, patterns: Sequence[np.ndarray | None], n: int):
        told = [p for p in patterns if p is not None]
        found = np.zeros(n + 1, bool)
        for p in told:
            found[p.reshape(-1)] = True
        used = np.flatnonzero(found[:n])
        self._n, self._to = n, np.full(n + 1, -1, np.int32)
        self._to[used] = np.arange(len(used))
        widest = max((len(p) for p in told), default=0)
        if 0 < widest <= _FEWER * len(used):
            self._to[used] = _shared([self._to[p] for p in told], len(used))
        self.count = max(1, int(self._to.max()) + 1)  # a loop can't run on no column
        self._to[self._to < 0] = self.count

    def entering(self, tape: Tape, t: Slots) -> int:
        """The name of the values (C, *S) of a tangent that enters; columns that no result has are left out."""
        cols = self._to[t.cols]
        name = values(tape, t, self._n)
        if ((cols == self.count) & (t.cols < self._n)).any():
            name = _where(tape, name, cols < self.count)
        every = np.arange(self.count, dtype=np.int32).reshape(-1, *[1] * len(t.shape))
        return values(tape, aligned(tape, Slots(cols, name, t.shape, t.dtype), every, self.count), self.count)

    def leaving(self, tape: Tape, name: int, pattern: np.ndarray, aval: Any) -> Slots:
        """A result as a tangent, from the name of its values (C, *S) and its pattern."""
        size = self.count + 1, *pattern.shape[1:]
        check_columns(size[0], size[1:])
        cols = np.full(size, self._n, np.int32)
        np.put_along_axis(cols, self._to[pattern], pattern, axis=0)
        cols = tight(cols[: self.count])
        if (cols == self._n).any():
            name = _where(tape, name, cols < self._n)
        t = Slots(cols, name, aval.shape, aval.dtype)
        return select(tape, t, np.flatnonzero(~unused(cols, self._n)), self._n)


def _where(tape: Tape, name: int, keep: np.ndarray) -> int:
    return tape.step(lambda v, k: jnp.where(k, v, jnp.zeros((), v.dtype)), name, tape.array(keep))


def _shared(patterns: Sequence[np.ndarray], n: int) -> np.ndarray:
    # A number for each of n columns, so that no element has two columns of one number; -1 in a pattern is no column.
    rows, cols, start = [], [], 0
    for p in patterns:
        size = math.prod(p.shape[1:])
        flat = p.reshape(len(p), size)
        slot, row = np.nonzero(flat >= 0)
        rows.append(row + start)
        cols.append(flat[slot, row])
        start += size
    row, col = np.concatenate(rows), np.concatenate(cols)
    return greedy.columns(row, col, (start, n), int(np.bincount(row).max()))
