"""How lines were computed the last time, so that nothing has to be weighed again. Knows kernels by their names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep


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
