"""What a plan is: one way to compute a request for a block. The same object is run, explained and measured.

Knows requests and answers. Knows nothing of any particular way, and stores no results.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import jax

from jacobia._plans.mirror import store_of
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import as_array, elements_at_once, known_cube
from jacobia._program.readings.cost import Work
from jacobia._run.kernels import Taken, analysed
from jacobia._run.point import Linearized
from jacobia._store.gather import gather
from jacobia._store.keys import Asked


class Outline(NamedTuple):
    """What a read would do now."""

    # "rows" (pullbacks), "columns" (pushforwards), "rows and columns", "nonzeros" or "waist" (no seeds), or "none"
    # (everything requested is known).
    way: str
    passes: int
    instead: int  # the passes that the other direction would take
    why: str


class Considered(NamedTuple):
    """One plan that was considered: its number of passes, and their estimated cost."""

    way: str  # "rows", "columns", "nonzeros", "waist"
    passes: int  # 0: the way needs no seeds
    by: str  # what a pass is: "pullbacks", "pushforwards", …
    flops: float  # floating-point operations
    nbytes: float  # bytes read and written


@dataclass(frozen=True, eq=False)
class Plan(ABC):
    """One way to compute a request for a block."""

    origin: Linearized
    request: Request
    outline: Outline

    @abstractmethod
    def run(self) -> list[Answer]:
        """Compute what is missing by one kernel call. The store is left as it is."""

    def check(self) -> None:
        """Check the memory that `run` would take. Called before `run`.

        Raises:
          MaterializationError: the result does not fit. Another plan may need less memory.
        """
        for part in self.kernels():
            if part is not self:
                part.check()

    def kernels(self) -> "Sequence[Plan]":
        """The plans, of one kernel each, that this plan runs one after the other."""
        return [self]

    def again(self) -> Self:
        """The same plan at a copy of the point with an empty store, to compile what the plan would run."""
        return replace(self, origin=self.origin.again())

    def taken(self) -> Taken:
        """The bytes that the plan's kernel takes, as the compiler reports them; nothing is run."""
        return analysed(self.again().run)

    def work(self) -> Work | None:
        """The estimated operations and bytes; None where there is no estimate."""
        return None

    def by(self) -> str:
        """What a pass is: "pullbacks", "pushforwards", …; empty where the plan has no passes."""
        return ""

    def notes(self) -> list[str]:
        """Further lines for the explanation of the plan."""
        return []

    def considered(self) -> Considered | None:
        """The plan's line in a list of plans; None where its cost has no estimate."""
        work = self.work()
        return None if work is None else Considered(self.outline.way, self.outline.passes, self.by(), *work)


@dataclass(frozen=True, eq=False)
class PlanOfPart(Plan):
    """A plan that computes its answer from the result of another plan, `part`."""

    part: Plan

    def kernels(self) -> Sequence[Plan]:
        return self.part.kernels()

    def work(self) -> Work | None:
        return self.part.work()

    def by(self) -> str:
        return self.part.by()


class PlanOfLines(Plan):
    """One way to compute lines, from which the result of a key is taken."""

    def take(self, what: Asked, order: Sequence[str]) -> jax.Array:
        """The result of a key, taken from the store. The plan's answers must have been put there before."""
        origin, (index, rows, columns, *_), choice = self.origin, self.request, what.choice
        cube = known_cube(origin, index, rows, columns)
        ids = what.among(cube.numbers)
        return as_array(gather(cube.module, cube.array, ids, order, choice.outer, choice.shape), cube.like)

    def elements(self, what: Asked, order: Sequence[str], natural: bool, held: int) -> int:
        """How many elements `take` holds at its peak, the result included.

        Args:
          natural: whether the axes of the view are in the order of its block.
          held: the number of elements that the kernels have returned.
        """
        return elements_at_once(self.origin, self.request, self._lie, what, order, natural, held)

    @property
    def _lie(self) -> str:
        # Whether the result is taken from "rows" or from "columns".
        if self.outline.way != "none":
            return self.outline.way
        missing = store_of(self.origin, self.request.block).rows.num_missing(self.request.rows)
        return "columns" if missing else "rows"


class Known(PlanOfLines):
    """The plan for a request whose lines are all known: nothing is computed."""

    def run(self) -> list[Answer]:
        return []


def known(origin: Linearized, request: Request, why: str) -> Known:
    return Known(origin, request, Outline("none", 0, 0, why))
