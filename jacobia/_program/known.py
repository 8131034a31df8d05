"""What is known of a value while a program is read: the value, or the values it may have. Computed on demand.

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
    """A known value, computed on demand: an array, or result `place` of a function of known values."""

    __slots__ = ("_args", "_make", "_place", "_value")

    def __init__(self, value: Any = None, make: Callable | None = None, args: Sequence["Lazy"] = (), place: int = 0):
        self._value, self._make, self._args, self._place = value, make, args, place

    def value(self) -> np.ndarray:
        return np.asarray(self.made())

    def made(self) -> Any:
        """The value as it was computed, which need not be an array."""
        # An explicit stack: programs are longer than Python's recursion limit.
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
        """`of(value)`, if it is the same at all steps of a loop; `of` must keep the axes.

        Raises:
          Differs: it is not the same at all steps.
        """
        return of(self.value())


class Differs(Exception):
    """The requested value is not the same at all steps of a loop."""


# Most elements, of all steps of a loop together, of a value that is kept for every step.
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
        """The values at the steps with these numbers."""
        return Lazy(make=lambda x: [_numpy(x)[steps]], args=(self,))

    def mapped(self, make: Callable, args: Sequence[Lazy], count: int) -> list[Lazy]:
        """The `count` results, at every step, of a function of known values, some of which differ between steps."""
        over = self.over(make, [isinstance(a, Steps) for a in args])
        return list(steps_of(self.length, over, args, count))

    def over(self, make: Callable, stepped: Sequence[bool]) -> Callable:
        """A function of values at one step, as a function of the values at all steps."""
        mapped = jax.vmap(make, tuple(0 if s else None for s in stepped), axis_size=self.length)

        def own(*values: Any) -> list:
            try:
                return mapped(*values)
            except NotImplementedError:  # an operation without a batching rule
                raise Differs from None

        return own


def steps_of(length: int, make: Callable, args: Sequence[Lazy], count: int) -> list[Steps]:
    """The `count` results of one function, each known at every step."""
    once = _once(make)
    return [Steps(length, once, args, k) for k in range(count)]


def steady(value: Any) -> Any:
    """What a loop inside another loop may know of a value: only what is the same at all steps of the outer loop."""
    return Lazy(make=lambda: [value.always()]) if isinstance(value, Steps) else value


def can_be_known(eqn: Any) -> bool:
    """Whether the results of an equation can be computed now, given known operands.

    Callbacks are not called for this. An operation without operands may depend on where it runs, except `iota`.
    """
    name = eqn.primitive.name
    return not eqn.effects and (bool(eqn.invars) or name == "iota") and "callback" not in name


def results(eqn: Any, args: Sequence[Lazy]) -> Sequence[Lazy | None]:
    """The results of one equation on known values; None: not worth computing for each step of a loop."""
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
    # Integers are positions. Of other numbers only zeros matter, and arithmetic makes few zeros.
    whole = jnp.issubdtype(aval.dtype, jnp.integer) or aval.dtype == bool
    return length * aval.size <= _MANY and (whole or not wiring(eqn).computes)


def _once(make: Callable) -> Callable:
    # Calls `make` once, though its results are requested one by one.
    found: list = []

    def own(*values: Any) -> list:
        if not found:
            found.extend(make(*values))
        return found

    return own


def several(make: Callable, args: Sequence[Lazy], count: int) -> list[Lazy]:
    """The `count` results of one function of known values."""
    once = _once(make)
    return [Lazy(make=once, args=args, place=k) for k in range(count)]


def stacked(values: Sequence[Lazy]) -> Lazy:
    """Values of one shape along a new first axis."""
    steps = next((v for v in values if isinstance(v, Steps)), None)
    make = lambda *own: [jnp.stack(list(map(jnp.asarray, own)))]  # noqa: E731
    return Lazy(make=make, args=values) if steps is None else steps.mapped(make, values, 1)[0]


def _numpy(value: Any) -> Any:
    # NumPy indexes without compiling. Random keys and tracers can't be NumPy arrays.
    return value if isinstance(value, Tracer) or not isinstance(value.dtype, np.dtype) else np.asarray(value)


def sliced(value: Lazy, place: Any) -> Lazy:
    """The value indexed by `place`; for `Steps`, at every step."""
    return _of(value, lambda x: [_numpy(x)[place]])


def _of(value: Lazy, make: Callable) -> Lazy:
    return value.mapped(make, [value], 1)[0] if isinstance(value, Steps) else Lazy(make=make, args=(value,))


@dataclass(frozen=True, eq=False)
class Few:
    """Each element has one of C values.

    Arrays with the same `source` are chosen together: at any place, all of them have their value of the same number.
    """

    values: np.ndarray  # (C, *S)
    source: Any = field(default_factory=object)


class Between(NamedTuple):
    """Each element has a value from `least` to `most`."""

    least: np.ndarray  # broadcasts to S
    most: np.ndarray


class Columns(NamedTuple):
    """An index array of which only some columns (places along the last axis), or their possible values, are known."""

    columns: list[Lazy | None]


def joined_columns(eqn: Any, values: Sequence) -> Columns | None:
    """What is known of a concatenation that builds indices from columns, as in `x[arange(B), labels]`."""
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
