"""`divergence(f)`: the trace of the Jacobian of a vector field, computed without the Jacobian.

Knows calls and views. Knows nothing of how a trace is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.tree_util import tree_leaves

from jacobia._derived.of_function import OfFunction
from jacobia._view.jacobian import Jacobian


def divergence(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The divergence of `f`: the sum over k of the derivative of output k with respect to input k.

    It is the sum of the diagonal of the Jacobian (`Jacobian.trace`). Where the Jacobian is sparse, the entries on its
    diagonal are computed by one kernel; otherwise by one pass for each of them.

    Args:
      f: any pure JAX function whose outputs have the shapes of its differentiated inputs, leaf by leaf.
      argnums: which positional arguments to differentiate.
      **options: `batch_axis`, `verify_batch`, `has_aux`, `where`, `static_argnums`, `static_argnames`, `memory_limit`,
        as in `jacobian`.

    Returns:
      A function of the arguments of `f`. It returns one number, an array of shape `()`, or `(B,)` with `batch_axis`, of
      dtype `jnp.result_type(x, y)`; `(divergence, aux)` with `has_aux`. The result can be differentiated.

    Raises:
      TypeError: what `jacobian` raises; an unknown option.
      ValueError: what `jacobian` raises; outputs and inputs of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import divergence
      >>> divergence(lambda x: x**2)(jnp.array([1.0, 2.0])).item()
      6.0
    """
    return _Divergence(f, argnums, options)


class _Divergence(OfFunction):
    def __init__(self, f: Callable, argnums: Any, options: dict):
        super().__init__("divergence", f, argnums, "auto", options)

    def __reduce__(self) -> Any:
        return _Divergence, (self.__wrapped__, self._argnums, self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._transform(*args, **kwargs)
        views, aux = made if self._has_aux else (made, None)
        leaves = tree_leaves(views, is_leaf=lambda v: isinstance(v, Jacobian))
        spaces = leaves[0]._origin.blue.spaces
        if spaces.outputs.shapes != spaces.inputs.shapes:
            raise ValueError(
                f"{self.__name__}: expected outputs of the shapes of the differentiated inputs, "
                f"{', '.join(map(str, spaces.inputs.shapes))}, got {', '.join(map(str, spaces.outputs.shapes))}. "
                "The divergence is that of a vector field."
            )
        own = leaves[:: len(spaces.inputs) + 1]
        total: jax.Array = sum(v.trace() for v in own[1:]) + own[0].trace()
        return (total, aux) if self._has_aux else total
