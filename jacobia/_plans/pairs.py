"""Entries at pairs (row, column), as of a boolean mask: by the fewest rows and columns that cover all of them.

Knows numbers of rows and columns, and which of them are known. Knows nothing of kernels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jacobia._plans.lines import Lines, passes_work
from jacobia._plans.mirror import own_image, store_of
from jacobia._plans.plan import Outline, Plan, PlanOfLines
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import entries_of
from jacobia._plans.ways import possible
from jacobia._program.readings.cost import Work
from jacobia._run.devices import placed
from jacobia._run.point import Linearized
from jacobia._sparse.cover import Cross, cross
from jacobia._store.keys import Asked
from jacobia._words import counted


def pairs(origin: Linearized, request: Request, missing: Request) -> "Iterator[Pairs]":
    """The plan for entries at pairs, where rows and columns together take fewer passes than either alone."""
    index, block = request.block, origin.blue.blocks[request.block]
    if request.pairs is None or origin.lead or not all(possible(origin, block)):
        return
    store, (rows, columns) = store_of(origin, index), request.pairs
    own, other = (lines.missing(n) for lines, n in ((store.rows, missing.rows), (store.columns, missing.columns)))
    alone, unknown = min(own.size, other.size), np.isin(rows, own) & np.isin(columns, other)
    if alone == 1 and unknown.any():
        return
    found = cross(rows[unknown], columns[unknown])
    if own_image(origin.blue, index):  # row k is column k: all lines are read as rows
        found = Cross(np.union1d(found.rows, found.columns), found.columns[:0])
    passes = len(found.rows) + len(found.columns)
    if passes >= alone:
        return
    parts = []
    for way, numbers in (("rows", found.rows), ("columns", found.columns)):
        if len(numbers):
            part = Request(index, numbers, None) if way == "rows" else Request(index, None, numbers)
            parts.append(Lines(origin, part, Outline(way, len(numbers), alone, ""), (part,), (way,)))
    why = " and ".join(counted(p.outline.passes, p.outline.way) for p in parts)
    outline = Outline("none", 0, 0, "everything asked for is known")
    if parts:
        why = f"{why} {'covers' if passes == 1 else 'cover'} all requested entries"
        outline = Outline(" and ".join(p.outline.way for p in parts), passes, alone, why)
    yield Pairs(origin, request, outline, tuple(parts))


@dataclass(frozen=True, eq=False)
class Pairs(PlanOfLines):
    """Some rows by one kernel call, then some columns by another one."""

    parts: tuple[Lines, ...]

    def run(self) -> list[Answer]:
        return [answer for part in self.parts for answer in part.run()]

    def kernels(self) -> Sequence[Plan]:
        return self.parts

    def take(self, what: Asked, order: Sequence[str]) -> jax.Array:
        ids = what.ids["rows"], what.ids["columns"]
        return placed(self.origin.leaves, entries_of(self.origin, self.request.block, *ids))

    def elements(self, what: Asked, order: Sequence[str], natural: bool, held: int) -> int:
        return 2 * math.prod(what.choice.shape)

    def by(self) -> str:
        return "passes"

    def work(self) -> Work | None:
        total = Work(0, 0)
        for part in self.parts:
            work = passes_work(self.origin, part.outline.way, self.origin.blue.blocks[self.request.block])
            if work is None:
                return None
            total = total.plus(work[0].times(part.outline.passes))
        return total.plus(self.origin.blue.primal_work)
