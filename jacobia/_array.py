"""What makes a view act as an array: operators and conversions, each on the whole matrix.

Knows only that there is `self[...]`.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _unary(op: Callable) -> Callable:
    return lambda self: op(self[...])


def _binary(op: Callable) -> Callable:
    return lambda self, other: op(self[...], other[...] if isinstance(other, ArrayLike) else other)


def _reflected(op: Callable) -> Callable:
    return lambda self, other: op(other, self[...])


class ArrayLike:
    """Arithmetic, comparison and conversion through `self[...]`. Comparison is elementwise, so views have no hash."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, key: Any) -> jax.Array:
        raise NotImplementedError

    def __jax_array__(self) -> jax.Array:
        return self[...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...]).__array__(dtype) if copy is not True else np.array(self[...], dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # A NumPy array on the left of an operator comes here; a product stays one without the matrix.
        if ufunc is np.matmul and method == "__call__" and len(inputs) == 2 and not kwargs and inputs[1] is self:
            return self.__rmatmul__(inputs[0])
        arrays = [i[...] if isinstance(i, ArrayLike) else i for i in inputs]
        twin = getattr(jnp, ufunc.__name__, None)
        if method == "__call__" and twin is not None and not kwargs:
            return twin(*(jnp.asarray(a) for a in arrays))
        return getattr(ufunc, method)(*(np.asarray(a) for a in arrays), **kwargs)

    def __rmatmul__(self, other: Any) -> jax.Array:
        return jnp.asarray(other) @ self[...]

    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(abs)
    __bool__ = _unary(bool)
    __int__ = _unary(int)
    __float__ = _unary(float)
    __complex__ = _unary(complex)

    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _binary(divmod), _reflected(divmod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)

    __eq__ = _binary(operator.eq)  # type: ignore[assignment]
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]
    __lt__, __le__ = _binary(operator.lt), _binary(operator.le)
    __gt__, __ge__ = _binary(operator.gt), _binary(operator.ge)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"J.{name} = ...: expected no assignment, views are immutable. Work on the array J[...].")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(
            f"del J.{name}: expected no deletion, views are immutable. J.clear() forgets what is known."
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("J[...] = ...: expected no assignment, views are immutable. Write J[...].at[...].set(...).")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(jax.Array, name):
            raise AttributeError(
                f"J.{name}: expected an attribute of a lazy view, got one of arrays. Write J[...].{name}."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
