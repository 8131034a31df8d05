"""The diagonal of a block from its nonzeros: known ones, or only those on the diagonal, computed at once.

Knows walks and patterns. Knows nothing of passes.
Shapes: B samples, M by N a block, n the lesser of M and N, nnz entries.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.linearize import inputs_of
from jacobia._errors import MaterializationError
from jacobia._plans.colors import by_colors
from jacobia._plans.mirror import store_of
from jacobia._plans.nonzeros import walk_of
from jacobia._plans.plan import Outline, Plan, PlanOfPart
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.whole import BETTER, WORTH_LOOKING
from jacobia._program.fingerprint import Identity
from jacobia._program.readings.cost import Work, seed_cost, work
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import alive

if TYPE_CHECKING:
    from jacobia._program.columns.accumulate import Entries

# Up to this many passes never cost more than a walk.
_FEW = 16


def out_of_nonzeros(origin: Linearized, request: Request) -> "Iterator[OfKnown | OfNonzeros | OnDiagonal]":
    """The plans for the diagonal of a block from nonzeros, where that costs less than a pass for each entry."""
    store = store_of(origin, request.block) if origin.remembers else None
    if store is not None and store.whole() is None and alive(store.nonzeros):
        outline = Outline("none", 0, 0, "the nonzeros are known")
        yield OfKnown(origin, request, outline, store.nonzeros, store.pattern)
    elif store is not None and store.whole() is not None:
        return
    elif not isinstance(origin.blue.sparsity, str):
        for part in by_colors(origin, request._replace(kind="nonzeros")):
            yield OfNonzeros(origin, request, part.outline, part)
    else:
        found = origin.blue.found.find("diagonal", request.block, lambda: _worth(origin, request.block))
        if found and (made := _made(origin, request)) is not None:
            yield made


def _worth(origin: Linearized, index: int) -> bool:
    # Whether a walk may be cheaper than passes, as far as can be said before the program is walked.
    blue, block = origin.blue, origin.blue.blocks[index]
    spaces, lead = blue.spaces, blue.spaces.batch is not None
    y, x = spaces.outputs.pick(block.outs), spaces.inputs.pick(block.ins)
    if blue.sparsity != "auto" or blue.mode not in ("auto", "accumulate") or blue.chunk_size != "auto":
        return False
    if blue.program.jaxpr is None or blue.program.heads is not None or (lead and y.sizes != x.sizes):
        return False
    if block.only is not None or not origin.directions(block).linear:
        return False
    count = min(blue.counts[index])
    return count > _FEW and 2 * count * blue.primal_cost > WORTH_LOOKING


def _made(origin: Linearized, request: Request) -> "OnDiagonal | None":
    try:
        walk, block = walk_of(origin, quiet=True, narrow=True), origin.blue.blocks[request.block]
        made = OnDiagonal(
            origin, request, Outline("nonzeros", 0, 0, "entries on the diagonal alone are accumulated at once"),
            walk.on_diagonal(block.outs, block.ins),
        )  # fmt: skip
    except MaterializationError:
        origin.blue.found.put("diagonal", request.block, False)
        return None
    return made if made.pays else None


def _size(origin: Linearized, index: int) -> int:
    return min(origin.blue.counts[index])


def _picked(origin: Linearized, index: int, data: jax.Array, pattern: Pattern) -> Answer:
    places = np.flatnonzero(pattern.rows == pattern.cols)
    out = jnp.zeros((*origin.lead, _size(origin, index)), data.dtype)
    return Answer(index, "diagonal", None, out.at[..., pattern.rows[places]].set(data[..., places]))


@dataclass(frozen=True, eq=False)
class OfKnown(Plan):
    """The diagonal from nonzeros in the store."""

    data: jax.Array  # (*lead, nnz)
    pattern: Pattern

    def run(self) -> list[Answer]:
        return [_picked(self.origin, self.request.block, self.data, self.pattern)]


@dataclass(frozen=True, eq=False)
class OfNonzeros(PlanOfPart):
    """The diagonal from nonzeros that another plan computes."""

    def run(self) -> list[Answer]:
        (answer,) = self.part.run()
        found = _picked(self.origin, self.request.block, answer.array, answer.numbers)
        return [found._replace(counts=answer.counts)]


@dataclass(frozen=True, eq=False)
class OnDiagonal(Plan):
    """The diagonal by one kernel without seeds: only the entries on the diagonal are accumulated."""

    entries: "Entries"

    @property
    def pays(self) -> bool:
        """Whether the kernel costs less than a pass for each entry, by an estimate made once for a program."""
        index = self.request.block
        return self.origin.blue.found.find("diagonal pays", (index, Identity(self.entries)), self._pays)

    def _pays(self) -> bool:
        blue, index = self.origin.blue, self.request.block
        block, (m, n) = blue.blocks[index], blue.counts[index]
        passes = min(blue.pass_cost(way, block) for way in ("rows", "columns")) * min(m, n)
        return seed_cost(self._program, len(self._program.invars), False) < BETTER * passes

    @cached_property
    def _program(self) -> Any:
        args, skip = inputs_of(self.origin.blue.program), len(self.origin.consts)
        return jax.make_jaxpr(self._body)(args[:skip], args[skip:], self.entries.arrays).jaxpr

    @property
    def _body(self) -> Callable:
        blue, index, found = self.origin.blue, self.request.block, self.entries
        shape, dtype = (*blue.spaces.lead, _size(self.origin, index)), blue.blocks[index].dtype
        size = math.prod(shape)
        every = len(found.rows) == size

        def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
            data = found.values([*consts, *leaves], arrays).astype(dtype)
            if not every:
                options = {"mode": "promise_in_bounds", "unique_indices": True, "indices_are_sorted": True}
                data = jnp.zeros(size, dtype).at[found.rows].set(data, **options)
            return data.reshape(shape)

        return body

    def run(self) -> list[Answer]:
        index = self.request.block
        out = self.origin.run_with(("diagonal", index, Identity(self.entries)), self._body, self.entries.arrays)
        counts = (Count(index, "rows", "pullbacks", 0, 0, 0),)
        return [Answer(index, "diagonal", None, out, counts=counts)]

    def work(self) -> Work | None:
        return work(self._program, len(self._program.invars)).times(math.prod(self.origin.batch))
