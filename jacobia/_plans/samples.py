"""Few samples of a batch: their rows or columns are computed without evaluating the other samples.

Only where f evaluates its samples independently, which `_program/axis/cut.py` decides. Otherwise, or where many
samples are requested, the whole batch is computed.
Knows numbers of samples and of lines. Knows nothing of keys.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import numpy as np

from jacobia._plans.lines import most_of
from jacobia._plans.mirror import mirrored
from jacobia._plans.plan import Outline, PlanOfLines
from jacobia._plans.recall import RECALLED, nonzeros_known, written
from jacobia._plans.recipes import Recipe, recipe_name, worth_remembering
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.sizes import padded, padded_to, sized
from jacobia._plans.ways import choose_way, count_of
from jacobia._run.devices import placed
from jacobia._run.kernels import Taken
from jacobia._run.limits import padded_width, worth_apart
from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep
from jacobia._store.gather import gather
from jacobia._store.keys import Asked
from jacobia._store.lines import Patches


def are_few(origin: Linearized, samples: Any) -> bool:
    """Whether `samples` are so small a part of the batch that a kernel for them alone pays."""
    return worth_apart(width_of(origin, samples), math.prod(origin.lead))


def width_of(origin: Linearized, samples: Any) -> int:
    """The width of the kernel for `samples`: their number, padded."""
    return padded_width(len(samples), math.prod(origin.lead))


def few_samples(origin: Linearized, request: Request, remembers: bool = True) -> "Samples | None":
    """The plan that computes some samples alone; None where that does not pay, or they cannot be evaluated alone.

    Args:
      remembers: whether the store is used; False inside a trace.
    """
    if request.samples is None or not are_few(origin, request.samples):
        return None
    store = origin.stores.get(request.block) if remembers else None
    if store is not None:  # the store may know these lines for all samples
        unknown = store.rows.num_missing(request.rows) and store.columns.num_missing(request.columns)
        if store.whole() is not None or not unknown:
            return None
        if nonzeros_known(origin, request.block):
            way = "columns" if request.asks == "columns" else "rows"
            return replace(RecallOfSamples.by_way(origin, request, way, remembers), outline=RECALLED)
    plan = _plan(origin, request, remembers)
    return plan if origin.cuts(plan.sweep(plan.numbers, len(request.samples)), request.samples) else None


def _plan(origin: Linearized, request: Request, remembers: bool) -> "Samples":
    if remembers:
        for way in ("rows", "columns"):  # known lines come before cheap ones
            plan = Samples.by_way(origin, request, way, remembers)
            if plan.outline.way == "none":
                return plan
    block = origin.blue.blocks[request.block]
    rows, columns = count_of(request.rows, block.row_shape), count_of(request.columns, block.column_shape)
    way = choose_way(origin, request.block, request.asks, rows, columns).way
    return Samples.by_way(origin, request, way, remembers)


def _all_if_none(numbers: Any, count: int) -> np.ndarray:
    return np.arange(count) if numbers is None else numbers


@dataclass(frozen=True, eq=False)
class Samples(PlanOfLines):
    """Rows or columns of some samples, by the program of one sample, or of one of the views that `vmap` stacked."""

    target: int  # the block that is computed: the requested one, or its mirror image
    way: str  # "rows" or "columns" of the requested block
    lines: str  # "rows" or "columns" of the target
    numbers: Any  # of the requested lines; None: all
    samples: Any  # numbers of the samples for which a line is missing
    missing: Any  # numbers of the lines that are missing for some sample; None: all
    remembers: bool  # whether the store is used

    @classmethod
    def by_way(cls, origin: Linearized, request: Request, way: str, remembers: bool) -> Self:
        """The plan for the lines that are missing for some of the samples, as "rows" or as "columns"."""
        target, lines = mirrored(origin.blue, request, way)
        block = origin.blue.blocks[target.block]
        numbers, most = target.lines(lines), most_of(block, lines)
        samples = request.samples
        if remembers:
            store = origin.stores.get(target.block)
            patches = Patches(most) if store is None else store.patches.get(lines, Patches(most))
            samples, missing = patches.missing(samples, _all_if_none(numbers, most))
            part = None if missing.size == most else missing
        else:
            part = numbers
        passes = count_of(part, block.row_shape if lines == "rows" else block.column_shape)
        own = origin.blue.blocks[request.block]
        instead = most_of(own, "columns" if way == "rows" else "rows")
        outline = Outline(way, passes, instead, f"the {way} of these samples")
        if not passes:
            outline = Outline("none", 0, 0, "everything asked for is known for these samples")
        return cls(origin, request, outline, target.block, way, lines, numbers, samples, part, remembers)

    def sweep(self, numbers: Any, samples: int) -> Sweep:
        """The sweep that computes the lines `numbers` of so many samples."""
        block = self.origin.blue.blocks[self.target]
        return sized(self.origin, self.lines, block.outs, block.ins, numbers, samples=samples)

    def run(self) -> list[Answer]:
        if self.outline.way == "none":
            return []
        origin, wide, part = self.origin, self.samples, self.missing
        if self.remembers:
            wide = padded_to(wide, width_of(origin, wide), int(wide[0]))
        sweep = self.sweep(part, len(wide))
        array = origin.run_cut(sweep, padded(part, sweep), wide)[0]
        count = self._most if part is None else len(part)
        by = origin.by(self.lines, origin.blue.blocks[self.target])
        run = count if sweep.width is None else sweep.width
        if self.remembers and self.samples.size == self.request.samples.size and count == self._asked:
            self._remember(sweep, wide, array, by)
        made = Count(self.request.block, self.way, by, count, count, run)
        return [Answer(self.target, self.lines, part, array, self._turned, self.samples, (made,))]

    def _remember(self, sweep: Sweep, wide: np.ndarray, array: Any, by: str) -> None:
        origin = self.origin
        if origin.batch or not worth_remembering(origin, array.nbytes):
            return
        count, width = self._most if sweep.width is None else sweep.width, len(wide)
        recipe = Recipe(
            self.way, sweep.width, count, self.target, self.lines, self._turned, by, (sweep,), 0,
            tuple(array.shape), width, origin.cut_kernel(sweep, wide),
        )  # fmt: skip
        name = recipe_name(origin, self.request.block, self.way, sweep.width, width)
        origin.blue.found.put("recipe", name, recipe)

    @property
    def _turned(self) -> bool:
        return self.way != self.lines

    @property
    def _most(self) -> int:
        return most_of(self.origin.blue.blocks[self.target], self.lines)

    @property
    def _asked(self) -> int:
        return self._most if self.numbers is None else len(self.numbers)

    def take(self, what: Asked, order: Sequence[str]) -> jax.Array:
        cube, choice = self._known(), what.choice
        held = {"batch": self.request.samples, "rows": None, "columns": None} | {self.way: self.numbers}
        return placed(self.origin.leaves, gather(np, cube, what.among(held), order, choice.outer, choice.shape))

    def elements(self, what: Asked, order: Sequence[str], natural: bool, held: int) -> int:
        block = self.origin.blue.blocks[self.request.block]
        rows, columns = count_of(self.request.rows, block.row_shape), count_of(self.request.columns, block.column_shape)
        cube = len(self.request.samples) * rows * columns
        return cube + max(cube, math.prod(what.choice.shape))

    def _known(self) -> np.ndarray:
        # The requested lines from the store, with axes (samples, rows, columns).
        m, n = self.origin.blue.counts[self.target]
        samples, numbers = self.request.samples, _all_if_none(self.numbers, self._most)
        by_rows, dtype = self.lines == "rows", self.origin.blue.blocks[self.target].dtype
        cube = np.zeros((samples.size, numbers.size, n) if by_rows else (samples.size, m, numbers.size), dtype)
        by_line = cube if by_rows else cube.swapaxes(1, 2)
        for array, here, there in self.origin.stores[self.target].patches[self.lines].take(samples, numbers):
            piece = np.asarray(array).reshape(array.shape[0], *((-1, n) if by_rows else (m, -1)))
            by_line[there] = (piece if by_rows else piece.swapaxes(1, 2))[here]
        return cube.swapaxes(1, 2) if self._turned else cube

    def notes(self) -> list[str]:
        of = math.prod(self.origin.lead)
        return [f"samples: {len(self.request.samples)} of {of}, evaluated by themselves"]


class RecallOfSamples(Samples):
    """Rows or columns of some samples, with the stored nonzeros written to their places."""

    def run(self) -> list[Answer]:
        if not self.samples.size:
            return []
        array = written(self.origin, self.request.block, self.way, self.missing, self.samples, self._turned)
        return [Answer(self.target, self.lines, self.missing, array, self._turned, self.samples)]

    def taken(self) -> Taken:
        lines = self._most if self.missing is None else len(self.missing)
        block = self.origin.blue.blocks[self.request.block]
        other = block.column_shape if self.way == "rows" else block.row_shape
        return Taken(0, len(self.samples) * lines * math.prod(other) * block.dtype.itemsize)

    def notes(self) -> list[str]:
        return [f"samples: {len(self.request.samples)} of {math.prod(self.origin.lead)}"]
