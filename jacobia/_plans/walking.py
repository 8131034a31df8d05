"""The direction in which a linear program is walked: forward or transposed, whichever fits in memory.

Forward, an intermediate holds up to N columns; in the transposed program, up to M rows.
Knows bytes, and the two directions. Knows nothing of blocks.
Shapes: M outputs, N inputs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax

from jacobia._call.linearize import LinearProgram, Point, pushed_program, transposed_program
from jacobia._errors import MaterializationError
from jacobia._program.columns.room import Extent, TooWide, within
from jacobia._run.blueprint import Blueprint
from jacobia._run.directions import Directions
from jacobia._run.limits import byte_limit
from jacobia._space import MOST
from jacobia._words import readable

if TYPE_CHECKING:
    from jacobia._program.columns.accumulate import Entries, Walked

# An array of this many bytes is a reason to try the other direction. Forward comes first, however few the outputs:
# its pattern is exact more often (a loop knows its counter), and it takes a second at most to see that it is too wide.
_WIDE = 1 << 27
# Long but narrow programs stay forward: allow this many bytes per input and output, 64 columns of 24 bytes each.
_LONG = 1536


class Memory:
    """The memory that the arrays of a walk may take, for one Jacobian.

    Args:
      narrow: whether a walk is only worth its time with few columns for each input and output.
    """

    def __init__(self, blue: Blueprint, device: Any, narrow: bool = False):
        self._memory_limit, self._device, self._narrow = blue.memory_limit, device, narrow
        lead = 1 if blue.spaces.batch is None else blue.spaces.batch.size
        self.rows, self.columns = (lead * sum(s.sizes) for s in (blue.spaces.outputs, blue.spaces.inputs))

    def limits(self) -> Iterator[int]:
        """The byte limits to try, one after the other, in both directions each."""
        wide = max(_WIDE, _LONG * (self.rows + self.columns))
        if self._memory_limit is None or self._memory_limit > wide:
            yield wide
            if self._narrow:
                return
        yield self._most()

    def _most(self, need: int = sys.maxsize) -> int:
        limit = byte_limit(self._memory_limit, need, lambda: self._device)
        if limit is None:
            return need
        return limit if self._memory_limit is not None else limit // 2  # finding a large pattern takes further memory

    def check(self, extent: Extent) -> None:
        """Check the memory for values before they are computed.

        Raises:
          MaterializationError: they do not fit.
        """
        limit = self._most(extent.nbytes)
        if extent.nbytes > limit:
            raise self._refused(extent, None, limit)

    def entries(
        self, walked: "Walked", outs: Sequence[int], ins: Sequence[int], on_diagonal: bool = False
    ) -> "Entries":
        """The nonzeros of a walked program, or only those on the diagonal.

        Raises:
          MaterializationError: there are more nonzeros than fit in memory.
        """
        limit = self._most()
        try:
            with within(limit):
                return walked.entries(outs, ins, on_diagonal)
        except TooWide as error:
            raise self._refused(error.extent, None, limit) from None

    def refused(self, error: MemoryError | TooWide) -> MaterializationError:
        """The error to raise where a walk ran out of memory."""
        if isinstance(error, TooWide):
            return self._refused(error.extent, error.operation, self._most())
        return self._refused(None, None, self._most())

    def _refused(self, extent: Extent | None, operation: str | None, limit: int) -> MaterializationError:
        what, bound = "more than fits in memory", f"under memory_limit={readable(limit)}"
        if extent is not None:
            if extent.width * extent.size > MOST:
                bound = f"with at most {MOST} entries, the limit of 32-bit numbers"
            what = f"{extent.size} elements x {extent.width} entries each, {readable(extent.nbytes)}"
        return MaterializationError(
            f"nonzeros of a Jacobian of shape {(self.rows, self.columns)}: expected every intermediate with its "
            f"derivatives {bound}, got {what}"
            f"{'' if operation is None else f' ({operation})'}. Use J.mv and J.vm, read what is needed with J[rows] or "
            'J[:, columns], take sparsity="dense" if J itself fits, or raise memory_limit.'
        )


class Programs:
    """A linear program and its transpose, each made at its first use; None where f lacks the direction."""

    def __init__(self, blue: Blueprint, point: Point, known: Directions):
        self._blue, self._point, self._known = blue, point, known

    @cached_property
    def pushed(self) -> LinearProgram | None:
        return pushed_program(self._point) if self._known.pushforward == "jvp" else None

    @cached_property
    def transposed(self) -> LinearProgram | None:
        if not self._known.pullback:
            return None
        y, lead = self._blue.spaces.outputs, self._blue.spaces.lead
        seeds = [jax.ShapeDtypeStruct(lead + s, d) for s, d in zip(y.shapes, y.dtypes, strict=True)]
        return transposed_program(self._point, seeds)


def narrowest(walked: "Callable[[bool], Walked | None]", memory: Memory) -> "tuple[Walked, bool]":
    """Walk a linear program forward, or its transpose if the forward walk takes too much memory.

    Args:
      walked: walks one direction (True: the transposed program); returns None where f lacks it.

    Returns:
      The walked program, and whether it is the transposed one.

    Raises:
      MaterializationError: neither direction fits in memory.
    """
    found: dict[bool, Walked | None] = {}
    refused: MemoryError | TooWide | None = None
    for limit in memory.limits():
        for way in (False, True):
            try:
                with within(limit):
                    if way not in found:
                        found[way] = walked(way)
            except (MemoryError, TooWide) as error:
                refused = error
                continue
            made = found[way]
            if made is not None and made.largest.nbytes <= limit:
                return made, way
    for way, made in found.items():  # values do not fit, but this walk has found the pattern
        if made is not None:
            return made, way
    assert refused is not None
    raise memory.refused(refused) from None
