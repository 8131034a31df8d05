"""All of a block as the product A B of two thin matrices that meet at the waist, the narrowest part of the program.

Knows programs, and shapes. Knows nothing of keys or stores.
Shapes: M outputs, N inputs, k elements in the waist: A is (M, k), B is (k, N).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jacobia._compat import opened
from jacobia._plans.whole_kernel import WholeKernel
from jacobia._program.readings.waist import waist
from jacobia._run.point import Linearized
from jacobia._space import Space
from jacobia._words import counted


def through_waist(origin: Linearized, index: int) -> WholeKernel | None:
    """A by k pushforwards from the waist to the outputs, B by k pullbacks from the waist to the inputs.

    Returns:
      None if the program has no waist, or if the dtypes of outputs and inputs differ.
    """
    blue = origin.blue
    block = blue.blocks[index]
    outs, ins = blue.spaces.outputs.pick(block.outs), blue.spaces.inputs.pick(block.ins)
    closed = blue.pass_program("columns", block.outs, block.ins)
    if closed is None or len(set(outs.dtypes + ins.dtypes)) > 1:
        return None
    jaxpr, own = opened(closed)
    narrow = waist(jaxpr, len(ins))
    if narrow is None:
        return None
    between = Space(narrow.shapes, narrow.dtypes, ("",) * len(narrow.shapes))

    def product(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        head, tail = narrow.split([*arrays, *consts, *leaves])
        back = jax.linear_transpose(head, ins.zeros())
        seeds = jax.lax.iota(jnp.int32, narrow.size)
        rows = jax.vmap(lambda k: _flat(back(between.basis(k))[0]))(seeds)
        columns = jax.vmap(lambda k: _flat(tail(between.basis(k))), out_axes=1)(seeds)
        return (columns @ rows).astype(block.dtype)

    def shaped(product: jax.Array, more: Sequence) -> jax.Array:
        return product.reshape(block.row_shape + block.column_shape)

    why = f"all of f goes through {counted(narrow.size, 'numbers')}: a product of two thin matrices"
    return WholeKernel(origin, index, "waist", why, product, own, ("waist", block.outs, block.ins), shaped)


def _flat(leaves: Sequence) -> jax.Array:
    return jnp.concatenate([a.reshape(-1) for a in leaves])
