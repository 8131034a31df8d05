"""Answers read off all of a block, where nothing less gives them: the block is computed by lines, or already known.

Knows plans of lines, and stores. Knows nothing of kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jacobia._plans.lines import lines
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Outline, Plan, PlanOfPart, known
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import on_host
from jacobia._run.devices import placed
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern


@dataclass(frozen=True, eq=False)
class OfAll(PlanOfPart):
    """The answer that `read` takes from all of a block, `(*lead, M, N)`. The block itself is not stored.

    Outside a trace, `read` gets a NumPy array if the block is in host memory: NumPy compiles nothing.
    """

    read: Callable[[Any], Answer]

    def run(self) -> list[Answer]:
        answers, (m, n) = self.part.run(), self.origin.blue.counts[self.request.block]
        full = answers[0].array if answers else store_of(self.origin, self.request.block).whole()
        at_hand = self.origin.remembers and on_host(full)
        full = np.asarray(full) if at_hand else full
        whole = answers[0]._replace(array=full).cube(self.origin)[0] if answers else full
        found = self.read(whole.reshape(*self.origin.lead, m, n))
        array = placed(self.origin.leaves, np.ascontiguousarray(found.array)) if at_hand else found.array
        return [found._replace(array=array, counts=answers[0].counts if answers else ())]


def nonzeros_of_all(origin: Linearized, request: Request, pattern: Pattern, why: str) -> OfAll:
    """The entries of a pattern, read off all of a block."""

    return of_all(origin, request, why, lambda full: entries(request.block, pattern, full))


def entries(index: int, pattern: Pattern, full: Any) -> Answer:
    """The answer that holds the entries of a pattern in `full`, `(*lead, M, N)`."""
    return Answer(index, "nonzeros", pattern, full[..., pattern.rows, pattern.cols])


def of_all(origin: Linearized, request: Request, why: str, read: Callable[[Any], Answer]) -> OfAll:
    """The plan that computes all of a block by lines, or takes it from the store, and reads an answer off it."""
    every = Request(request.block)
    if origin.remembers and store_of(origin, request.block).whole() is not None:
        part: Plan = known(origin, every, "all of it is known")
    else:
        part = next(lines(origin, every, every))
    way, passes, instead, _ = part.outline
    return OfAll(origin, request, Outline(way, passes, instead, why), part, read)
