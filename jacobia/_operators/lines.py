"""All of a block, or its lines in chunks, for whoever sums over them: nothing is remembered.

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

# Lines of a block that does not fit are computed so many bytes at a time, if the limit allows for them.
_CHUNK = 1 << 26
# All of a block is computed at once where it takes this part of the limit at most.
_PART = 4

# Nonzeros are looked for where there are so many entries, and taken where at most this share of them can be nonzero.
_LARGE, _SHARE = 1 << 16, 0.25


def fits(J: LiveBlock) -> bool:
    """Whether all of a block fits beside what is made of it."""
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    nbytes = _PART * math.prod(origin.lead) * m * n * origin.blue.blocks[index].dtype.itemsize
    limit = origin.limit(nbytes)
    return J._known() is not None or limit is None or nbytes <= limit or not origin.remembers


def whole(J: LiveBlock) -> jax.Array | None:
    """All of a block, in the order of `(*lead, M, N)`; None: it does not fit beside what is made of it.

    The shape is for the caller to give it inside of a kernel: outside, that is a copy.
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
    """Whether nonzeros are what to read all of a block by: looked for where it is large, and not known as a whole."""
    return J._known() is None and has_few_nonzeros(J)


def has_few_nonzeros(J: LiveBlock) -> bool:
    """Whether a block is large, and its pattern sparse; whatever is known of it."""
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
    """Whether lines can be computed one by one."""
    origin, block = J._origin, J._origin.blue.blocks[J._index]
    return by_what_exists(origin, [block], lambda: getattr(possible(origin, block), way))


def at_once(J: LiveBlock, way: str) -> int:
    """How many rows or columns there are in a chunk."""
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    count, length = (m, n) if way == "rows" else (n, m)
    line = max(1, math.prod(origin.lead) * length * origin.blue.blocks[index].dtype.itemsize)
    limit = origin.limit(count * line)
    return max(1, min(_CHUNK, _CHUNK if limit is None else limit // _PART) // line)


def chunks(J: LiveBlock, way: str) -> Iterator[tuple[slice, jax.Array]]:
    """Rows `(*lead, K, N)`, or columns `(*lead, M, K)`, one chunk after the other, all of one width but the last."""
    most, count = at_once(J, way), J._origin.blue.counts[J._index][0 if way == "rows" else 1]
    most = balanced(count, most)
    parts = [slice(start, min(start + most, count)) for start in range(0, count, most)]
    for part in shown(parts, count, lambda p: p.stop - p.start, way.removesuffix("s")):
        yield part, lines_at(J._origin, J._index, way, np.arange(part.start, part.stop))


def lines_at(origin: Linearized, index: int, way: str, numbers: np.ndarray) -> jax.Array:
    """Rows `(*lead, K, N)`, or columns `(*lead, M, K)`: nothing is remembered, but what it took is counted."""
    block, (m, n) = origin.blue.blocks[index], origin.blue.counts[index]
    sweep = sized(origin, way, block.outs, block.ins, numbers, exact=True)
    ((out,),) = origin.run((sweep,), [padded(numbers, sweep)])
    store_of(origin, index).count(way, origin.by(way, block), 0, len(numbers), len(numbers))
    return out.reshape(*origin.lead, *((-1, n) if way == "rows" else (m, -1)))


def summed(J: LiveBlock, way: str, step: Callable[[Any, slice], jax.Array]) -> jax.Array:
    """The sum of `step(lines, their numbers)` over all chunks."""
    total = None
    for numbers, lines in chunks(J, way):
        part = step(lines, numbers)
        total = part if total is None else _add(total, part)
    assert total is not None
    return total


_add = jax.jit(jnp.add, donate_argnums=0)
