"""The arithmetic that a structured walk leaves to be done: steps on named values, run later on real values.

The walk decides everything that shapes can tell. The rest is recorded here once, and runs for every point.
Knows steps and names. Knows nothing of columns.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.room import NOTHING, Extent


class Fixed(NamedTuple):
    """In place of the name of a value: a literal of the program."""

    value: Any


# The values of K slots are an array (K, *S), or one of the next two.


class Planes(tuple):
    """A few slots, one array each.

    Operations run on each slot by itself, so no compiler has to see through a stack and its slices.
    """

    __slots__ = ()


class Last(NamedTuple):
    """Many slots, along the last axis, (*S, K): a dense Jacobian is written in its own order, and never transposed."""

    array: Any


# Up to this many slots are kept apart, as `Planes`.
APART = 32


def each(fn: Callable, values: Any) -> Any:
    """An elementwise function of one array, applied to values in any form."""
    if isinstance(values, Planes):
        return Planes(map(fn, values))
    return Last(fn(values.array)) if isinstance(values, Last) else fn(values)


def slots_first(values: Any) -> Any:
    """Values as one array (K, *S)."""
    if isinstance(values, Planes):
        return jnp.stack(values)
    return jnp.moveaxis(values.array, -1, 0) if isinstance(values, Last) else values


def slots_last(values: Any) -> Any:
    """Values as one array (*S, K)."""
    if isinstance(values, Planes):
        return jnp.stack(values, axis=-1)
    return values.array if isinstance(values, Last) else jnp.moveaxis(values, 0, -1)


class Tape:
    """Steps in order. Names are numbers; arrays made while walking are inputs like all others, and not constants."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable, tuple, tuple[int, ...], bool]] = []
        self.count = 0
        self.arrays: dict[int, np.ndarray] = {}  # by name
        self.extents: dict[int, Extent] = {}  # sizes of the values that steps were given, by name
        self._names: dict[int, int] = {}  # id of an array → its name

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def array(self, array: np.ndarray) -> int:
        """The name of an array that the walk has made."""
        name = self._names.get(id(array))
        if name is None:
            name = self._names[id(array)] = self.new()
            self.arrays[name] = array
        return name

    def step(self, fn: Callable, *names: Any, apart: bool = False) -> int:
        """Record a function of named values, and name its result; with `apart` it takes `Planes` and `Last` as such."""
        (out,) = self.steps_of(lambda *args: (fn(*args),), names, 1, apart)
        return out

    def steps_of(self, fn: Callable, names: Sequence, outs: int, apart: bool = False) -> tuple[int, ...]:
        """Record a function that returns a sequence, and name its results."""
        made = tuple(self.new() for _ in range(outs))
        self.steps.append((fn, tuple(names), made, apart))
        return made

    def run(self, given: dict[int, Any], wanted: Sequence[int]) -> list:
        """The values of the names `wanted`; `given` has inputs and arrays by name."""
        env, together = dict(given), {}

        def value(name: Any, apart: bool) -> Any:
            if isinstance(name, Fixed):
                return name.value
            found = env[name]
            if apart or not isinstance(found, (Planes, Last)):
                return found
            if name not in together:
                together[name] = slots_first(found)
            return together[name]

        for fn, names, outs, apart in self._needed(wanted, given):
            env.update(zip(outs, fn(*(value(n, apart) for n in names)), strict=True))
        return [value(n, False) for n in wanted]

    def _needed(self, wanted: Sequence[int], given: Container[int] = ()) -> list:
        # Steps that no wanted value needs do not run, such as residuals of parts that turned out to be zero.
        needed, kept = set(wanted), []
        for step in reversed(self.steps):
            if any(n in needed and n not in given for n in step[2]):
                needed.update(n for n in step[1] if not isinstance(n, Fixed))
                kept.append(step)
        return kept[::-1]

    def largest(self, wanted: Sequence[int]) -> Extent:
        """The size of the largest values that `run` makes, without those inside loops."""
        names = {n for step in self._needed(wanted) for n in step[2]} | set(wanted)
        return max((self.extents.get(n, NOTHING) for n in names), default=NOTHING)

    def used(self, wanted: Sequence[int]) -> list[int]:
        """The names of arrays that `run` needs."""
        names = {n for step in self._needed(wanted) for n in step[1] if not isinstance(n, Fixed)} | set(wanted)
        return [n for n in self.arrays if n in names]
