"""What is known of values while a program is read, computed only when somebody asks: the value, or what it may be.

Knows equations. Knows nothing of samples or of derivatives.
Shapes: C values that each element of an array of shape S may have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
        return np.asarray(self.made())

    def made(self) -> Any:
        """What was made, which need not be an array."""
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
        return self._value


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


@dataclass(frozen=True, eq=False)
class Few:
    """Each element has one of C values; elements at one place of two arrays of one source, values of one number."""

    values: np.ndarray  # (C, *S)
    source: Any = field(default_factory=object)


class Between(NamedTuple):
    """Each element has a value from `least` to `most`."""

    least: np.ndarray  # broadcasts to S
    most: np.ndarray


class Columns(NamedTuple):
    """An index array of which only some columns (places along the last axis) are known, or what they may be."""

    columns: list[Lazy | None]


def joined_columns(eqn: Any, values: Sequence) -> Columns | None:
    """What is known of a concatenation: indices are put together from columns (`x[arange(B), labels]`)."""
    if eqn.params["dimension"] != eqn.outvars[0].aval.ndim - 1 or all(v is None for v in values):
        return None
    columns: list = []
    for v, a in zip(values, eqn.invars, strict=True):
        own = range(a.aval.shape[-1])
        columns += v.columns if isinstance(v, Columns) else [_lazy_column(v, k) for k in own]
    return Columns(columns)


def _lazy_column(value: Lazy | None, place: int) -> Lazy | None:
    return None if value is None else Lazy(make=lambda x: [_column(x, place)], args=(value,))


def _column(value: Any, place: int) -> Any:
    if isinstance(value, Few):
        return Few(value.values[..., place])
    return None if value is None or isinstance(value, Between) else np.asarray(value)[..., place]


def known_columns(value: Lazy | Columns | None, count: int) -> list:
    """The columns of an index array: each a NumPy array, a `Few`, or None."""
    if isinstance(value, Columns):
        return [None if c is None else c.made() for c in value.columns]
    whole = None if value is None else value.made()
    return [_column(whole, k) for k in range(count)]
