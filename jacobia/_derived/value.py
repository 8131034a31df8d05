"""`value_and_jacobian`, `value_and_hessian`: what f returns, and its derivatives as lazy views, from one linearization.

Knows the two transforms.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._call.uncalled import Uncalled, told
from jacobia._transform import hessian, jacobian


@told(jacobian)
def value_and_jacobian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """What `f` returns, and its Jacobian as a lazy view, from one linearization.

    Args:
      f: any pure JAX function.
      argnums: as in `jacobian`.
      **options: those of `jacobian`.

    Returns:
      A function of the arguments of `f` that returns `(y, J)`, or `((y, aux), J)` with `has_aux`. Rows and columns are
      computed where J is read, from the residuals that were kept with y.

    Raises:
      What `jacobian` raises.

    Example:
      >>> import jax.numpy as jnp
      >>> y, J = value_and_jacobian(jnp.sin)(jnp.zeros(3))
      >>> y.shape, J.shape
      ((3,), (3, 3))
    """
    return _ValueAnd(jacobian(f, argnums, **options))


@told(hessian)
def value_and_hessian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """What `f` returns, and its Hessian as a lazy view, from one linearization.

    Args:
      f: as in `hessian`.
      argnums: as in `jacobian`.
      **options: those of `hessian`.

    Returns:
      A function of the arguments of `f` that returns `(y, H)`, or `((y, aux), H)` with `has_aux`.

    Raises:
      What `hessian` raises.
    """
    return _ValueAnd(hessian(f, argnums, **options))


class _ValueAnd(Uncalled):
    result, results = "a value and a view", "them"

    def __init__(self, transform: Any):
        self.__wrapped__ = transform.__wrapped__
        self._transform, self.carries_state = transform, transform.carries_state

    @property
    def __name__(self) -> str:
        return f"value_and_{self._transform.__name__}"

    @property
    def written(self) -> str:
        return f"value_and_{self._transform.written}"

    def result_has(self, name: str) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    def __reduce__(self) -> Any:
        return _ValueAnd, (self._transform,)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self._transform.with_value(args, kwargs)
