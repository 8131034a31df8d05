"""The nonzeros of a small block, picked out of its lines by the kernel that computes the lines.

Knows plans of lines and patterns. Knows nothing of walks.
Shapes: M by N a block, nnz entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jacobia._plans.fitting import fitting
from jacobia._plans.lines import Lines, lines, nbytes_of
from jacobia._plans.plan import PlanOfPart
from jacobia._plans.recipes import Again
from jacobia._plans.request import Answer, Request
from jacobia._program.fingerprint import Identity
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern


@dataclass(frozen=True, eq=False)
class Picked(PlanOfPart):
    """The entries of a pattern, picked out of all lines. The lines are not stored."""

    part: Lines
    pattern: Pattern

    def run(self) -> list[Answer]:
        origin, pattern, setting = self.origin, self.pattern, self.part.setting
        sweeps = fitting(origin, setting.sweeps, setting.ids, ())
        (target, _), (sweep, place) = setting.todo[0], setting.places[0]
        turned, shape = target.block != self.request.block, origin.blue.counts[target.block]
        run, ids = origin.fused(sweeps)[1], tuple(setting.ids)

        def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> Any:
            whole = run(consts, leaves, ids, ())[sweep][place].reshape(shape)
            return (whole.T if turned else whole)[pattern.rows, pattern.cols]

        name = "picked", sweeps, sweep, place, turned, Identity(pattern)
        again = Again(name, body, (), pattern, self.part.count(setting, sweeps), origin.consts)
        return [again.run(origin, self.request.block, 2 * nbytes_of(origin, self.request.block))]


def picked(origin: Linearized, request: Request, pattern: Pattern, why: str) -> Picked:
    """The plan for the nonzeros of a small block, by rows or columns, whichever is cheaper."""
    every = Request(request.block)
    part = next(lines(origin, every, every))
    return Picked(origin, request, part.outline._replace(why=why), part, pattern)
