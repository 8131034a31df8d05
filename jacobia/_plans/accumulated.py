"""All of a block from its nonzeros, which are accumulated without seeds at about the cost of evaluating f.

Knows the walk of a program, and shapes. Knows nothing of keys or stores.
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

# The cost of writing one entry to its place, in elements read or written in order: 1.5 ns against 0.1 ns on a CPU.
_PLACED = 15

# The entries of a matrix are not listed if it has more than _MANY of them and at least one in _DENSE can be nonzero.
# Listing takes 0.25 us for each entry, once, and the lines of so dense a matrix are hardly slower.
_MANY, _DENSE = 1 << 22, 4


def accumulated(origin: Linearized, index: int) -> WholeKernel | None:
    """The kernel for all of a block by its nonzeros.

    Returns:
      None if the program cannot be walked within memory, or if the matrix is large and not sparse.
    """
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
    """A matrix from its entries, sorted by row and column. `rows` and `cols` are int32, whatever the size."""
    options = {"mode": "promise_in_bounds", "unique_indices": True, "indices_are_sorted": True}
    return jnp.zeros(shape, data.dtype).at[rows, cols].set(data, **options)
