"""How lines and nonzeros were computed the last time, so that nothing has to be weighed again.

Knows kernels by their names.
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
    """How lines of a block were computed, for a block of which they are not known: there is nothing to weigh again."""

    way: str  # "rows" or "columns", as they are asked for
    width: int | None  # of the kernel; None: all lines
    count: int  # how many seeds it runs
    block: int  # whose store gets the lines: the mirror image, where a column was a row there
    lines: str  # "rows" or "columns" over there
    turned: bool
    by: str
    sweeps: tuple[Sweep, ...]
    place: int  # of the lines among what the kernel gives
    shape: tuple[int, ...]  # of the lines
    samples: int | None  # how many run by themselves; None: all
    plain: tuple[Any, Callable]  # the kernel that gives the lines alone: its name and its body
    takes: dict = field(default_factory=dict)  # kernels that give the result of a key as well, by the kind of the key


def recipe_name(origin: Linearized, index: int, way: str, width: int | None, samples: int | None = None) -> tuple:
    """What a recipe is found by: `way` is "all" where all of a block is asked for."""
    return index, way, width, samples, origin.stacks


class Together(NamedTuple):
    # The same for all of several blocks.
    kind: Any
    body: Any
    ids: tuple
    answers: tuple  # (block, sweep, place of its answer, what to count)
    images: tuple[int, ...]  # blocks behind the answers


def worth_remembering(origin: Linearized, need: int) -> bool:
    """Whether a way is remembered: only what is small."""
    return origin.compiles and origin.limit(need) is None


class Again(NamedTuple):
    """A kernel that gives all nonzeros of a block, so that nothing has to be weighed again at the next point."""

    name: tuple
    body: Callable
    arrays: Sequence
    pattern: Pattern
    counts: tuple[Count, ...]
    consts: Sequence  # that f closes over: the pattern may be that of these alone

    def run(self, origin: Linearized, index: int, need: int) -> Answer:
        """The nonzeros; remembered as the way to them, where `need` bytes are no reason to look at memory."""
        answer = self.at(origin, index)
        if worth_remembering(origin, need):
            origin.blue.found.put("again", (index, origin.stacks), self)
        return answer

    def at(self, origin: Linearized, index: int) -> Answer:
        """The nonzeros."""
        data = origin.run_with(self.name, self.body, self.arrays)
        return Answer(index, "nonzeros", self.pattern, data, counts=self.counts)


def once_more(origin: Linearized, request: Request) -> Answer | None:
    """Nonzeros as they were computed before at another point; None: they were not, or something is known here.

    Asked outside of traces.
    """
    index = request.block
    if request.kind != "nonzeros" or index in origin.stores or jit_disabled():
        return None
    again = origin.blue.found.get("again", (index, origin.stacks))
    if again is None or any(a is not b for a, b in zip(origin.consts, again.consts, strict=True)):
        return None
    return again.at(origin, index)
