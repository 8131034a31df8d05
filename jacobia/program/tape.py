"""What a structured walk has found to be computed: steps on named values, run later on real ones.

The walk decides everything that shapes can tell. What is left, the arithmetic, is written here once, and run as often
as there are points. Knows nothing of columns.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Fixed(NamedTuple):
    """In place of the name of a value: a literal of the program."""

    value: Any


class Tape:
    """Steps in order. Names are numbers; arrays made while walking are inputs like all others, and not constants."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable, tuple, tuple[int, ...]]] = []
        self.count = 0
        self.arrays: dict[int, np.ndarray] = {}  # by name
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

    def step(self, fn: Callable, *names: Any) -> int:
        """One result of a function of named values."""
        (out,) = self.steps_of(lambda *args: (fn(*args),), names, 1)
        return out

    def steps_of(self, fn: Callable, names: Sequence, outs: int) -> tuple[int, ...]:
        """Several results of a function that returns a sequence."""
        made = tuple(self.new() for _ in range(outs))
        self.steps.append((fn, tuple(names), made))
        return made

    def run(self, given: dict[int, Any], wanted: Sequence[int]) -> list:
        """The values of some names, where the inputs and the arrays are given by name."""
        env = dict(given)
        for fn, names, outs in self._needed(wanted):
            env.update(zip(outs, fn(*(n.value if isinstance(n, Fixed) else env[n] for n in names)), strict=True))
        return [env[n] for n in wanted]

    def _needed(self, wanted: Sequence[int]) -> list:
        # What nothing is made of is not run: residuals of parts that turned out to be zero.
        needed, kept = set(wanted), []
        for step in reversed(self.steps):
            if not needed.isdisjoint(step[2]):
                needed.update(n for n in step[1] if not isinstance(n, Fixed))
                kept.append(step)
        return kept[::-1]

    def used(self, wanted: Sequence[int]) -> list[int]:
        """The names of arrays that `run` needs."""
        names = {n for _, names, _ in self._needed(wanted) for n in names if not isinstance(n, Fixed)} | set(wanted)
        return [n for n in self.arrays if n in names]
