"""`sparsity_pattern(f, *args)`: which entries of a Jacobian or Hessian can be nonzero, from shapes alone.

Knows calls and walks. Knows nothing of values, and computes no derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.tree_util import tree_flatten, tree_unflatten

from jacobia._plans.nonzeros import walk_of
from jacobia._sparse.pattern import Pattern
from jacobia._transform import hessian as hessian_of
from jacobia._transform import jacobian


def sparsity_pattern(
    f: Callable, *args: Any, argnums: int | Sequence[int] = 0, hessian: bool = False, local: bool = False
) -> Pattern:
    """Which entries of the Jacobian or Hessian of `f` can be nonzero.

    The pattern is read off the linear program. No derivative is computed, and `f` is traced, not run.

    Args:
      f: any pure JAX function of floating-point inputs.
      *args: its arguments. Any array may be a `jax.ShapeDtypeStruct` instead.
      argnums: which of the arguments to differentiate.
      hessian: return the pattern of the Hessian of `f`, which must return one number. This pattern is symmetric.
      local: return a pattern that holds at these arguments alone; by default, it holds for every input of these shapes.

    Returns:
      A pattern of shape (M, N), or (N, N) for a Hessian: M is the size of all outputs and N that of all differentiated
      inputs, each flattened and concatenated. The pattern has every entry that can be nonzero, and may have more: where
      an index or a condition depends on the input, all of its possible values count.

    Raises:
      TypeError: what `jacobian(f)(*args)` raises; or `local=True` with shapes in place of arrays.
      ValueError: `hessian=True`, and `f` returns several numbers; or a `custom_vjp` whose pullback is not linear.
      MaterializationError: the pattern, or an intermediate on the way to it, does not fit in memory.

    References:
      Griewank, Walther, "Evaluating Derivatives" (2nd ed., 2008), doi:10.1137/1.9780898717761, chapter 7: "Sparse
        Forward and Reverse".

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import sparsity_pattern
      >>> sparsity_pattern(lambda x: x[1:] - x[:-1], jnp.zeros(5)).nnz
      8
    """
    transform = (hessian_of if hessian else jacobian)(f, argnums)
    leaves, treedef = tree_flatten(args)
    places = [k for k, a in enumerate(leaves) if isinstance(a, jax.ShapeDtypeStruct)]
    if not places:
        return _pattern(transform, args, hessian, local)
    if local:
        raise TypeError(
            "sparsity_pattern(local=True): expected arrays, got jax.ShapeDtypeStruct. "
            "A pattern at a point needs the point; leave local out for that of every point."
        )
    found: list[Pattern] = []

    def traced(arrays: list) -> None:
        for k, a in zip(places, arrays, strict=True):
            leaves[k] = a
        found.append(_pattern(transform, tree_unflatten(treedef, leaves), hessian, False))

    jax.eval_shape(traced, [leaves[k] for k in places])
    return found[0]


def _pattern(transform: Any, args: tuple, hessian: bool, local: bool) -> Pattern:
    origin = transform.linearized(args, {})
    if hessian and not (origin.blue.program.heads is None and len(origin.blue.primal.outputs) == 1):
        raise ValueError(
            f"sparsity_pattern(hessian=True): expected f to return one number, got shapes "
            f"{', '.join(map(str, origin.blue.primal.outputs.shapes))}. Take the pattern of each output by itself."
        )
    outs, ins = range(len(origin.blue.spaces.outputs)), range(len(origin.blue.spaces.inputs))
    return walk_of(origin, local).of(tuple(outs), tuple(ins), origin.blue.symmetric).pattern
