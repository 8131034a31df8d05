"""Values known while a program is read, computed only when somebody asks.

Knows equations. Knows nothing of samples or of derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jacobia._compat import bind


class Lazy:
    """A known value: an array, or what one equation makes of known values."""

    __slots__ = ("_args", "_make", "_place", "_value")

    def __init__(self, value: Any = None, make: Callable | None = None, args: Sequence["Lazy"] = (), place: int = 0):
        self._value, self._make, self._args, self._place = value, make, args, place

    def value(self) -> np.ndarray:
        # A stack of its own: programs are longer than Python's is deep.
        waiting = [self]
        while waiting:
            top = waiting[-1]
            missing = [a for a in top._args if a._make is not None] if top._make is not None else []
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if top._make is not None:
                with jax.ensure_compile_time_eval():
                    top._value = top._make(*(a._value for a in top._args))[top._place]
                top._make, top._args = None, ()
        return np.asarray(self._value)


def results(eqn: Any, args: Sequence[Lazy]) -> list[Lazy]:
    """The results of one equation on known values."""
    once: list = []

    def make(*values: Any) -> list:
        if not once:
            once.extend(bind(eqn, *values))
        return once

    return [Lazy(make=make, args=args, place=k) for k in range(len(eqn.outvars))]


def sliced(value: Lazy, place: int) -> Lazy:
    """One entry along the first axis."""
    return Lazy(make=lambda x: [x[place]], args=(value,))
