"""What is known of values while a program is read, computed only when somebody asks: the value, or what it may be.

Knows equations. Knows nothing of samples or of derivatives.
Shapes: C values that each element of an array of shape S may have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, bind
from jacobia._program.numbers import evaluated
from jacobia._program.wiring import wiring


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

    def always(self, of: Callable = np.asarray) -> np.ndarray:
        """A function of the value that leaves its axes as they are, where all steps of a loop agree on it.

        Raises:
          Differs: they do not.
        """
        return of(self.value())


class Differs(Exception):
    """A value that was asked for is another one at each step of a loop."""


# Values of all steps are kept up to this many elements.
_MANY = 1 << 22


class Steps(Lazy):
    """A value that is known at every step of a loop, stacked along the first axis."""

    __slots__ = ("length",)

    def __init__(self, length: int, make: Callable, args: Sequence[Lazy], place: int = 0):
        super().__init__(make=make, args=args, place=place)
        self.length = length

    def always(self, of: Callable = np.asarray) -> np.ndarray:
        table = of(self.value())
        if not (table == table[:1]).all():
            raise Differs
        return table[0]

    def at(self, steps: np.ndarray) -> Lazy:
        """The values of some steps."""
        return Lazy(make=lambda x: [_numpy(x)[steps]], args=(self,))

    def mapped(self, make: Callable, args: Sequence[Lazy], count: int) -> list[Lazy]:
        """So many results of a function of known values, some of them known at every step."""
        over = self.over(make, [isinstance(a, Steps) for a in args])
        return list(steps_of(self.length, over, args, count))

    def over(self, make: Callable, stepped: Sequence[bool]) -> Callable:
        """A function of values at one step as one of values at every step."""
        mapped = jax.vmap(make, tuple(0 if s else None for s in stepped), axis_size=self.length)

        def own(*values: Any) -> list:
            try:
                return mapped(*values)
            except NotImplementedError:  # an operation without a batching rule
                raise Differs from None

        return own


def steps_of(length: int, make: Callable, args: Sequence[Lazy], count: int) -> list[Steps]:
    """So many values of every step, all from one function."""
    once = _once(make)
    return [Steps(length, once, args, k) for k in range(count)]


def steady(value: Any) -> Any:
    """What is known of a value, for a loop inside the steps of another one: only what all those agree on."""
    return Lazy(make=lambda: [value.always()]) if isinstance(value, Steps) else value


def can_be_known(eqn: Any) -> bool:
    """Whether the results of an equation can be computed now where its operands are known.

    A callback is not called to find out, and what makes something of nothing may depend on where it runs.
    """
    name = eqn.primitive.name
    return not eqn.effects and (bool(eqn.invars) or name == "iota") and "callback" not in name


def results(eqn: Any, args: Sequence[Lazy]) -> Sequence[Lazy | None]:
    """The results of one equation on known values; None: nobody asks what they are at each step of a loop."""
    count = len(eqn.outvars)
    steps = next((a for a in args if isinstance(a, Steps)), None)
    if steps is None:
        return several(lambda *values: evaluated(eqn, values) or bind(eqn, *values), args, count)
    if not all(_tells_steps_apart(eqn, v.aval, steps.length) for v in eqn.outvars):
        return [None] * count
    stepped = [isinstance(a, Steps) for a in args]
    over = steps.over(lambda *values: bind(eqn, *values), stepped)
    return steps_of(steps.length, lambda *values: evaluated(eqn, values, stepped) or over(*values), args, count)


def _tells_steps_apart(eqn: Any, aval: Any, length: int) -> bool:
    # Whole numbers are positions. Of other numbers only zeros matter, and arithmetic makes few of these.
    whole = jnp.issubdtype(aval.dtype, jnp.integer) or aval.dtype == bool
    return length * aval.size <= _MANY and (whole or not wiring(eqn).computes)


def _once(make: Callable) -> Callable:
    # A function of several results that are asked for one by one.
    found: list = []

    def own(*values: Any) -> list:
        if not found:
            found.extend(make(*values))
        return found

    return own


def several(make: Callable, args: Sequence[Lazy], count: int) -> list[Lazy]:
    """So many values, all from one function of known ones."""
    once = _once(make)
    return [Lazy(make=once, args=args, place=k) for k in range(count)]


def stacked(values: Sequence[Lazy]) -> Lazy:
    """Values of one shape along a new first axis."""
    steps = next((v for v in values if isinstance(v, Steps)), None)
    make = lambda *own: [jnp.stack(list(map(jnp.asarray, own)))]  # noqa: E731
    return Lazy(make=make, args=values) if steps is None else steps.mapped(make, values, 1)[0]


def _numpy(value: Any) -> Any:
    # Indexed without being compiled. Keys of random numbers are no arrays of NumPy, and tracers none yet.
    return value if isinstance(value, Tracer) or not isinstance(value.dtype, np.dtype) else np.asarray(value)


def sliced(value: Lazy, place: Any) -> Lazy:
    """What an index, of a single entry or of several, finds in a value."""
    return _of(value, lambda x: [_numpy(x)[place]])


def _of(value: Lazy, make: Callable) -> Lazy:
    return value.mapped(make, [value], 1)[0] if isinstance(value, Steps) else Lazy(make=make, args=(value,))


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
    if value is None or isinstance(value, Steps):
        return value and sliced(value, (..., place))
    return Lazy(make=lambda x: [_column(x, place)], args=(value,))


def _column(value: Any, place: int) -> Any:
    if isinstance(value, Few):
        return Few(value.values[..., place])
    return None if value is None or isinstance(value, Between) else np.asarray(value)[..., place]


def known_columns(value: Lazy | Columns | None, count: int) -> list:
    """The columns of an index array: each a NumPy array, a `Few`, or None."""
    if isinstance(value, Columns):
        return [None if c is None else _told(c) for c in value.columns]
    whole = None if value is None else _told(value)
    return [_column(whole, k) for k in range(count)]


def _told(value: Lazy) -> Any:
    return value.always() if isinstance(value, Steps) else value.made()
