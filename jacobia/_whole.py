"""All of a block without a seed for every row or column, where that is far cheaper: from its nonzeros.

Chosen once for a program, by the same estimate that compares rows with columns. Knows nothing of what is remembered.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import eval_context
from jacobia._errors import MaterializationError
from jacobia._linearize import inputs_of
from jacobia._reading import Linearized
from jacobia._sparse import Found, walk_of
from jacobia.program.cost import Work, seed_cost, work
from jacobia.program.fingerprint import Identity

# Where all passes together cost less than this many elements read or written, which is about a millisecond, no other
# way is looked for: looking takes longer.
_WORTH_LOOKING = 1e7

# An estimate may be wrong: another way must promise this much.
_BETTER = 0.6

# Writing one entry to its place, in elements read or written in order.
_SCATTERED = 30


class Whole(NamedTuple):
    """A way to compute all of a block by one kernel."""

    way: str
    cost: float  # in elements read or written
    work: Work
    density: float | None  # of the pattern, where it is known
    name: Hashable  # of the kernel
    body: Callable[[Sequence, Sequence, Sequence], jax.Array]  # constants, leaves and arrays → y.shape + x.shape
    arrays: Sequence
    fits: Callable[[Sequence], bool]  # whether it is right at these constants


def whole(origin: Linearized, index: int) -> Whole | None:
    """How to compute all of a block, where it is neither by rows nor by columns."""
    blue = origin.blue
    known = blue.wholes.get(index, _UNKNOWN)
    if known is None or (known is not _UNKNOWN and known.fits(origin.consts)):
        return known
    blue.wholes[index] = made = _cheapest(origin, index) if _may_pay(origin, index) else None
    return made


_UNKNOWN: Any = object()


def compute_whole(origin: Linearized, way: Whole) -> jax.Array:
    return origin.run_with(("whole", way.name), way.body, way.arrays)


def _may_pay(origin: Linearized, index: int) -> bool:
    # From what is known without tracing anything.
    blue = origin.blue
    if blue.sparsity != "auto" or blue.mode in ("fwd", "rev") or blue.program.jaxpr is None:
        return False
    if blue.program.heads is not None or origin.lead or jnp.issubdtype(blue.blocks[index].dtype, jnp.complexfloating):
        return False
    if blue.mode != "auto":
        return True
    return blue.chunk_size == "auto" and 2 * min(blue.counts[index]) * blue.primal_cost > _WORTH_LOOKING


def passes_cost(origin: Linearized, index: int) -> float:
    """What all of a block costs by rows or columns, whichever is cheaper."""
    blue = origin.blue
    block, (rows, columns) = blue.blocks[index], blue.counts[index]
    return min(rows * blue.pass_cost("rows", block), columns * blue.pass_cost("columns", block))


def _cheapest(origin: Linearized, index: int) -> Whole | None:
    if origin.blue.mode == "accumulate":
        return _accumulated(origin, index)
    passes = passes_cost(origin, index)
    if not _WORTH_LOOKING < passes < math.inf:
        return None
    ways = [w for w in (_accumulated(origin, index),) if w is not None and w.cost < _BETTER * passes]
    return min(ways, key=lambda w: w.cost, default=None)


def _accumulated(origin: Linearized, index: int) -> Whole | None:
    blue, consts = origin.blue, origin.consts
    try:
        walk = walk_of(origin, quiet=True)
        block = blue.blocks[index]
        it = walk.found(block.outs, block.ins, blue.symmetric and blue.mirrors[index] == index)
    except MaterializationError:
        return None
    m, n = blue.counts[index]
    arrays, full = list(it.arrays), it.pattern.nnz == m * n
    if not full:
        with eval_context():
            arrays.append(jax.device_put(_places(it, n)))

    def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        if full:
            out = it.data(consts, leaves, arrays).astype(block.dtype)
        else:
            *own, at = arrays
            data = it.data(consts, leaves, own).astype(block.dtype)
            out = (
                jnp.zeros(m * n, block.dtype)
                .at[at]
                .set(data, mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True)
            )
        return out.reshape(block.row_shape + block.column_shape)

    args, skip = inputs_of(blue.program), len(consts)
    turned = lambda arrays, consts, leaves: body(consts, leaves, arrays)  # noqa: E731
    closed = jax.make_jaxpr(turned)(arrays, args[:skip], args[skip:])
    num, scattered = len(args) - skip, 0 if full else _SCATTERED * it.pattern.nnz
    cost, done = seed_cost(closed.jaxpr, num, False) + scattered, work(closed.jaxpr, num)
    return Whole("nonzeros", cost, done, it.pattern.density, Identity(it), body, arrays, walk.fits)


def _places(it: Found, n: int) -> np.ndarray:
    wide = it.pattern.shape[0] * n > np.iinfo(np.int32).max
    kind = np.int64 if wide else np.int32
    return it.pattern.rows.astype(kind) * kind(n) + it.pattern.cols.astype(kind)
