"""The base of functions that are made of a Jacobian or Hessian: a name, the options, whether f carries state.

Knows the transforms. Knows nothing of what is computed from them.
"""

from collections.abc import Callable
from typing import Any

from jacobia._call.state import Wrapping
from jacobia._transform import named


class OfFunction(Wrapping):
    """A function of the arguments of `f` that is computed from the Jacobian of `f`."""

    def __init__(self, name: str, f: Callable, argnums: Any, mode: str, options: dict):
        self.__wrapped__, self._name, self._argnums, self._options = f, name, argnums, options
        self._transform: Any = named(name, f, argnums, mode, options)
        self._has_aux: bool = options.get("has_aux", False)
        self.carries_state = self._transform.carries_state

    @property
    def __name__(self) -> str:
        return f"{self._name}({getattr(self.__wrapped__, '__name__', type(self.__wrapped__).__name__)})"

    def __repr__(self) -> str:
        return f"<{self.__name__}>"
