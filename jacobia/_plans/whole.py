"""All of a block at once, neither by rows nor by columns. The way is chosen once for a program.

The choice uses the same estimates that compare rows with columns. A new way is one more file, and a line in `_WAYS`.
Knows what plans cost. Knows nothing of keys or stores.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jacobia._plans.accumulated import accumulated
from jacobia._plans.plan import Outline, PlanOfLines
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.waist import through_waist
from jacobia._plans.ways import CLOSE
from jacobia._plans.whole_kernel import WholeKernel
from jacobia._program.readings.cost import Work
from jacobia._run.point import Linearized
from jacobia._words import readable

# If all passes together cost less than this many elements read or written (about 0.4 ms), no other way is looked for.
# Looking takes 5 to 100 ms for most programs, once, about as long as compiling a small kernel; it takes up to a second
# where large intermediates are dense.
WORTH_LOOKING = 2e6

# Estimates err: another way is taken only if its estimate is below this fraction of the cost of all passes.
BETTER = 0.6

# A way within this factor of the cost of writing the result is taken without looking for a better one.
_WRITTEN = 4

# `mode` → the function that looks for the way; and what the error says f needs, and what f is without it.
_WAYS = {"waist": through_waist, "accumulate": accumulated}
_NEEDS = {
    "accumulate": ("an f whose nonzeros can be found within the memory limit", "one whose nonzeros can't"),
    "waist": ("an f of one dtype with a waist (a value smaller than its inputs and outputs)", "one without"),
}

_UNKNOWN: Any = object()


def at_once(origin: Linearized, request: Request) -> "Iterator[AtOnce]":
    """The plan for all of a block at once, where its estimate is lower than that of lines, or `mode` asks for it."""
    found = whole(origin, request.block)
    if found is not None:
        instead = min(origin.blue.counts[request.block])
        yield AtOnce(origin, request, Outline(found.way, 0, instead, found.why), found)


@dataclass(frozen=True, eq=False)
class AtOnce(PlanOfLines):
    """All of a block by one kernel without seeds."""

    kernel: WholeKernel

    def run(self) -> list[Answer]:
        origin, index, kernel = self.origin, self.request.block, self.kernel
        full, by = kernel.compute(origin), origin.by("rows", origin.blue.blocks[index])
        constant = kernel.constant_rows if kernel.met else 0
        kernel.met = kernel.met or origin.compiles
        count = Count(index, "rows", by, origin.blue.counts[index][0], 0, 0, constant)
        return [Answer(index, "rows", None, full, counts=(count,))]

    def work(self) -> Work | None:
        return self.kernel.work


def whole(origin: Linearized, index: int) -> WholeKernel | None:
    """The kernel that computes all of a block at once; None: by rows or columns.

    Raises:
      ValueError: `mode` asks for a way that f does not allow.
    """
    blue = origin.blue
    known = blue.found.get("whole", index, _UNKNOWN)
    if known is None:
        return None
    origin.check_alive(computes=False)  # the values of arrays that f closes over are read from here on
    if known is not _UNKNOWN and known.fits(origin.consts):
        return known
    made = None
    if blue.mode in _WAYS or _may_pay(origin, index):
        against = _against(origin, index)
        made = _cheapest(origin, index) if against is None else None
        if made is None and blue.mode in _WAYS:
            expected, got = against or _NEEDS[blue.mode]
            raise ValueError(
                f"{blue.name}(mode={blue.mode!r}): expected {expected}, got {got}. Set mode='auto' to choose a way "
                "that f allows."
            )
    return blue.found.put("whole", index, made)


def _against(origin: Linearized, index: int) -> tuple[str, str] | None:
    # What every way in _WAYS needs and this call lacks: (expected, got), found without tracing. None: nothing.
    blue = origin.blue
    dtype, nbytes = blue.blocks[index].dtype, 2 * math.prod(blue.counts[index]) * blue.blocks[index].dtype.itemsize
    limit, given = origin.limit(nbytes), blue.sparsity
    if not isinstance(given, str) or given != "auto":
        return "sparsity='auto'", repr(given) if isinstance(given, str) else f"a {type(given).__name__}"
    if blue.program.jaxpr is None:
        return "an f that is compiled", "jit=False"
    if origin.lead:
        return "one matrix", f"samples of shape {origin.lead}"
    if blue.program.heads is not None:
        return "a Hessian of a scalar", "one of several outputs"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "a real f", str(dtype)
    if not origin.directions(blue.blocks[index]).linear:
        return "an f with a linear pullback", "a custom_vjp whose pullback is not linear in its cotangent"
    if limit is not None and nbytes > limit:
        return f"a result of at most half of memory_limit={readable(limit)}", f"one of {readable(nbytes // 2)}"
    return None


def _may_pay(origin: Linearized, index: int) -> bool:
    blue = origin.blue
    if blue.mode != "auto" or blue.chunk_size != "auto" or blue.spread is not None:
        return False
    return 2 * min(blue.counts[index]) * blue.primal_cost > WORTH_LOOKING


def _cheapest(origin: Linearized, index: int) -> WholeKernel | None:
    blue = origin.blue
    if blue.mode in _WAYS:
        return _WAYS[blue.mode](origin, index)
    block, (rows, columns) = blue.blocks[index], blue.counts[index]
    lines = {"rows": rows, "columns": columns}
    # A direction with CLOSE times the passes of the other one is taken to be dearer, and is not traced; except for
    # rows that are pulled back through one sample each.
    apart = blue.apart("rows", block.outs, block.ins) is not None
    near = [way for way, count in lines.items() if count <= CLOSE * min(lines.values()) or (apart and way == "rows")]
    passes = min(lines[way] * blue.pass_cost(way, block) for way in near) + blue.primal_cost
    if not WORTH_LOOKING < passes < math.inf:
        return None
    best, limit = None, BETTER * passes
    for find in _WAYS.values():
        # Stop if all passes cost less than writing the result, or if the way found is within _WRITTEN times that.
        if limit < (1 if best is None else _WRITTEN) * rows * columns:
            break
        way = find(origin, index)
        if way is not None and way.cost < limit:
            best, limit = way, way.cost
    return best
