"""What a plan is: one way to compute what is asked for of a block. The same object is run, explained and measured.

Knows of no way in particular, and remembers nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import jax

from jacobia._plans.mirror import store_of
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import array_module, as_array, elements_at_once, known_cube
from jacobia._program.readings.cost import Work
from jacobia._run.kernels import Taken, analysed
from jacobia._run.point import Linearized
from jacobia._store.gather import gather
from jacobia._store.keys import Asked


class Outline(NamedTuple):
    """What a read would do now."""

    # "rows" (pullbacks), "columns" (pushforwards), "rows and columns", "nonzeros" or "waist" (no seeds), or "none": all
    # of it is known
    way: str
    passes: int
    instead: int  # passes of the other way
    why: str


class Considered(NamedTuple):
    """One plan: how many passes it takes, and what they cost by estimate."""

    way: str  # "rows", "columns", "nonzeros", "waist"
    passes: int  # 0: no seeds
    by: str  # what a pass is: "pullbacks", "pushforwards", …
    flops: float  # floating-point operations
    nbytes: float  # bytes read and written


@dataclass(frozen=True, eq=False)
class Plan(ABC):
    """One way to compute what is asked for of a block."""

    origin: Linearized
    request: Request
    outline: Outline

    @abstractmethod
    def run(self) -> list[Answer]:
        """What is not known of it, by one kernel call; nothing is remembered."""

    def check(self) -> None:
        """Asked before `run`.

        Raises:
          MaterializationError: there is no room. Another plan may do with less.
        """
        for part in self.kernels():
            if part is not self:
                part.check()

    def kernels(self) -> "Sequence[Plan]":
        """The plans of one kernel each that this one runs one after the other."""
        return [self]

    def again(self) -> Self:
        """The same at a point of its own, where nothing is remembered: to compile what the plan would run."""
        return replace(self, origin=self.origin.again())

    def taken(self) -> Taken:
        """Bytes that its kernel takes; nothing is run."""
        return analysed(self.again().run)

    def work(self) -> Work | None:
        """Operations and bytes by estimate; None where they cannot be told."""
        return None

    def by(self) -> str:
        """What a pass is."""
        return ""

    def notes(self) -> list[str]:
        """What else there is to say of it."""
        return []

    def considered(self) -> Considered | None:
        """The plan beside others."""
        work = self.work()
        return None if work is None else Considered(self.outline.way, self.outline.passes, self.by(), *work)


@dataclass(frozen=True, eq=False)
class PlanOfPart(Plan):
    """One way to make something of what another plan computes."""

    part: Plan

    def kernels(self) -> Sequence[Plan]:
        return self.part.kernels()

    def work(self) -> Work | None:
        return self.part.work()

    def by(self) -> str:
        return self.part.by()


class PlanOfLines(Plan):
    """One way to compute lines, of which a key takes its result."""

    def take(self, what: Asked, order: Sequence[str]) -> jax.Array:
        """The result of a key out of what is remembered, once the answers are."""
        origin, (index, rows, columns, *_), choice = self.origin, self.request, what.choice
        store = origin.stores[index]
        xp = array_module(store)
        cube, held = known_cube(xp, origin, index, rows, columns)
        return as_array(xp, gather(xp, cube, what.among(held), order, choice.outer, choice.shape), store.arrays()[0])

    def elements(self, what: Asked, order: Sequence[str], natural: bool, held: int) -> int:
        """How many elements `take` holds at its peak, with the result.

        Args:
          natural: whether the view lies as its block.
          held: elements that the kernels have given.
        """
        return elements_at_once(self.origin, self.request, self._lie, what, order, natural, held)

    @property
    def _lie(self) -> str:
        # Which lines the result is taken from.
        if self.outline.way != "none":
            return self.outline.way
        missing = store_of(self.origin, self.request.block).rows.num_missing(self.request.rows)
        return "columns" if missing else "rows"


class Known(PlanOfLines):
    """Nothing has to be computed."""

    def run(self) -> list[Answer]:
        return []


def known(origin: Linearized, request: Request, why: str) -> Known:
    return Known(origin, request, Outline("none", 0, 0, why))
