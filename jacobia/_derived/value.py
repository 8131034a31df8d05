"""`value_and_jacobian`, `value_and_hessian`: the value of f, and its derivatives as lazy views, from one linearization.

Knows the two transforms. Knows nothing of how views are read.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._call.state import Wrapping
from jacobia._transform import hessian, jacobian


def value_and_jacobian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The value of `f`, and its Jacobian as a lazy view, from one linearization (`jax.linearize`).

    Args:
      f: any pure JAX function.
      argnums: as in `jacobian`.
      **options: those of `jacobian`.

    Returns:
      A function of the arguments of `f`. It returns `(y, J)`, or `((y, aux), J)` with `has_aux`: y as `f` returns it,
      and J as `jacobian` does, of shape `y.shape + x.shape` or a tree of views. Rows and columns are computed when J is
      read, from the residuals that were kept when y was computed.

    Raises:
      TypeError, ValueError: what `jacobian` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> y, J = value_and_jacobian(jnp.sin)(jnp.zeros(3))
      >>> y.shape, J.shape
      ((3,), (3, 3))
    """
    return _ValueAnd(jacobian(f, argnums, **options))


def value_and_hessian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The value of `f`, and its Hessian as a lazy view, from one linearization of its gradient.

    Args:
      f: as in `hessian`.
      argnums: as in `jacobian`.
      **options: those of `hessian`.

    Returns:
      A function of the arguments of `f`. It returns `(y, H)`, or `((y, aux), H)` with `has_aux`: y as `f` returns it,
      and H as `hessian` does, of shape `y.shape + x.shape + x.shape` or a tree of views.

    Raises:
      TypeError, ValueError: what `hessian` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> y, H = value_and_hessian(lambda x: jnp.sum(x**3))(jnp.ones(2))
      >>> y.item(), H[0].tolist()
      (2.0, [6.0, 0.0])
    """
    return _ValueAnd(hessian(f, argnums, **options))


class _ValueAnd(Wrapping):
    def __init__(self, transform: Any):
        self.__wrapped__ = transform.__wrapped__
        self._transform, self.carries_state = transform, transform.carries_state

    def __repr__(self) -> str:
        return f"<value_and_{self._transform.__name__}>"

    def __reduce__(self) -> Any:
        return _ValueAnd, (self._transform,)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self._transform.with_value(args, kwargs)
