"""How lines and nonzeros were computed the last time: the next view runs the same kernel, and chooses no plan again.

Knows kernels by their names. Knows nothing of what a kernel computes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jacobia._compat import jit_disabled
from jacobia._plans.request import Answer, Count, Request
from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep
from jacobia._sparse.pattern import Pattern


@dataclass
class Recipe:
    """How missing lines of a block were computed at one point, for the same kind of read at another point."""

    way: str  # "rows" or "columns", as the caller requests them
    width: int | None  # the width of the kernel; None: all lines
    count: int  # how many seeds the kernel runs
    block: int  # the block whose store gets the lines: the mirror image where the kernel computes rows of that
    lines: str  # "rows" or "columns" of `block`
    turned: bool  # whether columns are requested and rows of the mirror image are computed
    by: str  # "pullbacks" or "pushforwards"
    sweeps: tuple[Sweep, ...]
    place: int  # the index of the lines among the results of the kernel
    shape: tuple[int, ...]  # of the lines
    samples: int | None  # how many samples the kernel evaluates; None: the whole batch
    plain: tuple[Any, Callable]  # the kernel that returns the lines alone: its name and its body
    takes: dict = field(default_factory=dict)  # kind of key → the kernel that returns the result of the key as well


def recipe_name(origin: Linearized, index: int, way: str, width: int | None, samples: int | None = None) -> tuple:
    """The name under which a recipe is stored. `way` is "rows", "columns", or "all" for all of the block."""
    return index, way, width, samples, origin.stacks


class Together(NamedTuple):
    # How several whole blocks were computed by one kernel.
    kind: Any
    body: Any
    ids: tuple
    answers: tuple  # of each block: (block, sweep, index of its answer in the sweep, counts)
    images: tuple[int, ...]  # blocks returned after the answers: transposes of computed blocks


def worth_remembering(origin: Linearized, need: int) -> bool:
    """Whether to keep a recipe for a result of `need` bytes: only where memory need not be checked again."""
    return origin.compiles and origin.limit(need) is None


class Again(NamedTuple):
    """The kernel that computed all nonzeros of a block, to be run again at the next point without choosing a plan."""

    name: tuple
    body: Callable
    arrays: Sequence
    pattern: Pattern
    counts: tuple[Count, ...]
    consts: Sequence  # the arrays that f closes over: the pattern may hold for these values alone

    def run(self, origin: Linearized, index: int, need: int) -> Answer:
        """Compute the nonzeros, and keep this recipe if `need` bytes are so few that memory need not be checked."""
        answer = self.at(origin, index)
        if worth_remembering(origin, need):
            origin.blue.found.put("again", (index, origin.stacks), self)
        return answer

    def at(self, origin: Linearized, index: int) -> Answer:
        """Compute the nonzeros at a point."""
        data = origin.run_with(self.name, self.body, self.arrays)
        return Answer(index, "nonzeros", self.pattern, data, counts=self.counts)


def once_more(origin: Linearized, request: Request) -> Answer | None:
    """Compute nonzeros by the kernel that computed them at another point. Not for use inside a trace.

    Returns:
      None if no kernel is kept for these constants, or if the store of the block exists: it may hold the answer.
    """
    index = request.block
    if request.kind != "nonzeros" or index in origin.stores or jit_disabled():
        return None
    again = origin.blue.found.get("again", (index, origin.stacks))
    if again is None or any(a is not b for a, b in zip(origin.consts, again.consts, strict=True)):
        return None
    return again.at(origin, index)
