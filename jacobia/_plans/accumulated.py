"""All of a block from its nonzeros: no seeds, about the price of evaluating f.

Knows the walk of a program, and shapes. Knows nothing of keys, nor of what is remembered.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jacobia._compat import eval_context
from jacobia._errors import MaterializationError
from jacobia._plans.nonzeros import nonzeros_in, walk_of
from jacobia._plans.whole_kernel import WholeKernel
from jacobia._program.fingerprint import Identity
from jacobia._run.point import Linearized

# Writing one entry to its place, in elements read or written in order: 1.5 ns and 0.1 ns on a CPU.
_PLACED = 15

# Where a matrix has more entries, of which a good part can be nonzero, they are not listed: that takes 0.25 us each,
# once, and lines of a dense matrix are hardly slower.
_MANY, _DENSE = 1 << 22, 4


def accumulated(origin: Linearized, index: int) -> WholeKernel | None:
    """None where the program can't be walked within memory."""
    try:
        return _accumulated(origin, index)
    except MaterializationError:
        return None


def _accumulated(origin: Linearized, index: int) -> WholeKernel | None:
    block, (m, n) = origin.blue.blocks[index], origin.blue.counts[index]
    walk = walk_of(origin, quiet=True, narrow=origin.blue.mode != "accumulate")
    if origin.blue.mode != "accumulate" and _MANY < m * n <= _DENSE * walk.walked.most_entries:
        return None
    it = nonzeros_in(walk, origin, index)
    it.check()
    shape, pattern = block.row_shape + block.column_shape, it.pattern
    full, more = pattern.nnz == math.prod(shape), []
    if not full:
        with eval_context():
            more = [jax.device_put(pattern.rows), jax.device_put(pattern.cols)]

    def data(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        return it.data(consts, leaves, arrays).astype(block.dtype)

    def shaped(data: jax.Array, more: Sequence) -> jax.Array:
        return (data if full else written(data, more[0], more[1], pattern.shape)).reshape(shape)

    why = "all entries are accumulated at once"
    extra = 0 if full else _PLACED * pattern.nnz + math.prod(shape)
    return WholeKernel(
        origin, index, "nonzeros", why, data, it.arrays, (Identity(it), shape), shaped, more, extra, pattern.density,
        pattern.rows, walk.fits,
    )  # fmt: skip


def written(data: jax.Array, rows: jax.Array, cols: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """A matrix from its entries, in order; int32 numbers of rows and columns are enough for one of any size."""
    options = {"mode": "promise_in_bounds", "unique_indices": True, "indices_are_sorted": True}
    return jnp.zeros(shape, data.dtype).at[rows, cols].set(data, **options)
