"""Values known while a program is read, computed only when somebody asks.

Knows equations. Knows nothing of samples or of derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def can_be_known(eqn: Any) -> bool:
    """Whether the results of an equation can be computed now where its operands are known.

    A callback is not called to find out, and what makes something of nothing may depend on where it runs.
    """
    name = eqn.primitive.name
    return not eqn.effects and (bool(eqn.invars) or name == "iota") and "callback" not in name


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


class Columns(NamedTuple):
    """An index array of which only some columns (places along the last axis) are known."""

    columns: list[Lazy | None]


def joined_columns(eqn: Any, values: Sequence) -> Columns | None:
    """What is known of a concatenation: indices are put together from columns (`x[arange(B), labels]`)."""
    if eqn.params["dimension"] != eqn.outvars[0].aval.ndim - 1:
        return None
    if not any(isinstance(v, (Lazy, Columns)) for v in values):
        return None
    columns: list = []
    for v, a in zip(values, eqn.invars, strict=True):
        own = range(a.aval.shape[-1])
        columns += v.columns if isinstance(v, Columns) else [_column(v, k) for k in own]
    return Columns(columns)


def _column(value: Any, place: int) -> Lazy | None:
    return Lazy(make=lambda x: [x[..., place]], args=(value,)) if isinstance(value, Lazy) else None


def known_columns(value: Any, count: int) -> list:
    """The columns of an index array: each a NumPy array, or None."""
    if isinstance(value, Columns):
        return [None if c is None else c.value() for c in value.columns]
    if isinstance(value, Lazy):
        return list(np.moveaxis(value.value(), -1, 0))
    return [None] * count
