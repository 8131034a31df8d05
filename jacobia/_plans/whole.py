"""Which way to compute all of a block, where neither by rows nor by columns: chosen once for a program.

By the same estimate that compares rows with columns. A further way is one more file, and a line in `_WAYS`.
"""

import math
from typing import Any

import jax.numpy as jnp

from jacobia._plans.accumulated import accumulated
from jacobia._plans.program import Whole
from jacobia._plans.waist import through_waist
from jacobia._run.point import Linearized

# Where all passes together cost less than this many elements read or written, which is about 0.4 ms, no other way is
# looked for. Looking takes 5 to 100 ms for most programs, once, about what compiling a small kernel takes, and up to a
# second where large intermediates are dense.
_WORTH_LOOKING = 2e6

# Passes differ in cost by less than this.
_FAR = 4

# An estimate may be wrong: another way must promise this much.
_BETTER = 0.6

# Where a way costs only so many times what writing the result does, no other one is looked for.
_WRITTEN = 4

# By the value of `mode` that asks for it, with what it needs.
_WAYS = {"waist": through_waist, "accumulate": accumulated}
_NEEDS = {
    "accumulate": "an f whose linear program can be walked within memory",
    "waist": "an f whose linear program is narrower somewhere than at both its ends",
}

_UNKNOWN: Any = object()


def whole(origin: Linearized, index: int) -> Whole | None:
    """How to compute all of a block, where it is neither by rows nor by columns.

    Raises:
      ValueError: a mode that f does not allow.
    """
    blue = origin.blue
    known = blue.wholes.get(index, _UNKNOWN)
    if known is None or (known is not _UNKNOWN and known.fits(origin.consts)):
        return known
    made = _cheapest(origin, index) if _may_pay(origin, index) else None
    if made is None and blue.mode in _WAYS:
        raise ValueError(
            f"{blue.name}(mode={blue.mode!r}): expected {_NEEDS[blue.mode]}, of one sample, compiled, real, and with a "
            "result that fits into memory; got one that has not got it. Set mode='auto' to use whatever is there."
        )
    blue.wholes[index] = made
    return made


def _may_pay(origin: Linearized, index: int) -> bool:
    # From what is known without tracing anything.
    blue = origin.blue
    if blue.sparsity != "auto" or blue.mode in ("fwd", "rev") or blue.program.jaxpr is None:
        return False
    if blue.program.heads is not None or origin.lead or jnp.issubdtype(blue.blocks[index].dtype, jnp.complexfloating):
        return False
    if not origin.directions(blue.blocks[index]).linear:
        return False
    nbytes = 2 * math.prod(blue.counts[index]) * blue.blocks[index].dtype.itemsize
    limit = origin.limit(nbytes)
    if limit is not None and nbytes > limit:
        return False
    if blue.mode != "auto":
        return True
    return blue.chunk_size == "auto" and 2 * min(blue.counts[index]) * blue.primal_cost > _WORTH_LOOKING


def _cheapest(origin: Linearized, index: int) -> Whole | None:
    blue = origin.blue
    if blue.mode in _WAYS:
        return _WAYS[blue.mode](origin, index)
    block, (rows, columns) = blue.blocks[index], blue.counts[index]
    lines = {"rows": rows, "columns": columns}
    # Where one takes several times as many passes as the other it is not the cheaper one, and need not be traced.
    near = [way for way, count in lines.items() if count <= _FAR * min(lines.values())]
    passes = min(lines[way] * blue.pass_cost(way, block) for way in near) + blue.primal_cost
    if not _WORTH_LOOKING < passes < math.inf:
        return None
    best, limit = None, _BETTER * passes
    for find in _WAYS.values():
        # Writing the result is the least it takes; where a way has been found, a few times that leaves little to gain.
        if limit < (1 if best is None else _WRITTEN) * rows * columns:
            break
        way = find(origin, index)
        if way is not None and way.cost < limit:
            best, limit = way, way.cost
    return best
