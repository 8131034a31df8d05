"""All of a block, or its lines in chunks, for sums over lines. Lines are not stored.

Knows sweeps and limits. Knows nothing of what is summed.
Shapes: M by N a block, K lines at once; samples in front.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._errors import MaterializationError
from jacobia._plans.choose import compute
from jacobia._plans.colors import pattern_of
from jacobia._plans.mirror import store_of
from jacobia._plans.request import Request
from jacobia._plans.sizes import padded, sized
from jacobia._plans.ways import possible
from jacobia._progress import shown
from jacobia._read.block import LiveBlock
from jacobia._run.limits import balanced
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized

# The bytes of one chunk of lines, for a block that does not fit; less if the limit is lower.
_CHUNK = 1 << 26
# All of a block is computed at once if it takes at most one part in _PART of the limit.
_PART = 4

# A pattern is looked for if the block has more than _LARGE entries. Nonzeros are used if at most _SHARE of the entries
# can be nonzero.
_LARGE, _SHARE = 1 << 16, 0.25


def fits(J: LiveBlock) -> bool:
    """Whether all of a block fits in memory, with room for what is computed from it."""
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    nbytes = _PART * math.prod(origin.lead) * m * n * origin.blue.blocks[index].dtype.itemsize
    limit = origin.limit(nbytes)
    return J._known() is not None or limit is None or nbytes <= limit or not origin.remembers


def whole(J: LiveBlock) -> jax.Array | None:
    """All of a block, with its entries in the order of `(*lead, M, N)`; None: it does not fit (see `fits`).

    The array may have another shape. The caller reshapes it inside a kernel: outside, a reshape copies.
    """
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    known = J._known()
    if known is not None:
        return known
    if 0 in (*origin.lead, m, n):
        return jnp.zeros((*origin.lead, m, n), origin.blue.blocks[index].dtype)
    if not fits(J):
        return None
    answer = compute(origin, Request(index))
    return answer.cube(origin)[0] if answer.turned else answer.array


def is_sparse(J: LiveBlock) -> bool:
    """Whether to read a block by its nonzeros: it is large and sparse, and not known as a whole."""
    return J._known() is None and has_few_nonzeros(J)


def has_few_nonzeros(J: LiveBlock) -> bool:
    """Whether a block is large, and its pattern sparse. The store is not looked at."""
    origin, index = J._origin, J._index
    if math.prod(origin.blue.counts[index]) <= _LARGE:
        return False
    if origin.blue.sparsity != "auto" or J._layout.block.only is not None:
        return False
    try:
        return pattern_of(origin, index).density <= _SHARE
    except (MaterializationError, ValueError):
        return False


def has(J: LiveBlock, way: str) -> bool:
    """Whether "rows" or "columns" of a block can be computed one by one."""
    origin, block = J._origin, J._origin.blue.blocks[J._index]
    return by_what_exists(origin, [block], lambda: getattr(possible(origin, block), way))


def at_once(J: LiveBlock, way: str) -> int:
    """The number of rows or columns in a chunk."""
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    count, length = (m, n) if way == "rows" else (n, m)
    line = max(1, math.prod(origin.lead) * length * origin.blue.blocks[index].dtype.itemsize)
    limit = origin.limit(count * line)
    return max(1, min(_CHUNK, _CHUNK if limit is None else limit // _PART) // line)


def chunks(J: LiveBlock, way: str) -> Iterator[tuple[slice, jax.Array]]:
    """Slices and lines in chunks: rows `(*lead, K, N)` or columns `(*lead, M, K)`. The last chunk may be smaller."""
    most, count = at_once(J, way), J._origin.blue.counts[J._index][0 if way == "rows" else 1]
    most = balanced(count, most)
    parts = [slice(start, min(start + most, count)) for start in range(0, count, most)]
    for part in shown(parts, count, lambda p: p.stop - p.start, way.removesuffix("s")):
        yield part, lines_at(J._origin, J._index, way, np.arange(part.start, part.stop))


def lines_at(origin: Linearized, index: int, way: str, numbers: np.ndarray) -> jax.Array:
    """Rows `(*lead, K, N)` or columns `(*lead, M, K)`. They are not stored, but the passes are counted."""
    block, (m, n) = origin.blue.blocks[index], origin.blue.counts[index]
    sweep = sized(origin, way, block.outs, block.ins, numbers, exact=True)
    ((out,),) = origin.run((sweep,), [padded(numbers, sweep)])
    store_of(origin, index).count(way, origin.by(way, block), 0, len(numbers), len(numbers))
    return out.reshape(*origin.lead, *((-1, n) if way == "rows" else (m, -1)))


def summed(J: LiveBlock, way: str, step: Callable[[Any, slice], jax.Array]) -> jax.Array:
    """The sum of `step(lines, slice of their numbers)` over all chunks."""
    total = None
    for numbers, lines in chunks(J, way):
        part = step(lines, numbers)
        total = part if total is None else _add(total, part)
    assert total is not None
    return total


_add = jax.jit(jnp.add, donate_argnums=0)
