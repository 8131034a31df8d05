"""What is known of a loop at every step before it runs: its counters, and how many steps there are.

Knows programs of steps, and known values. Knows nothing of columns but what a step is walked with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import Tracer, bind, inner_consts
from jacobia._program.columns.apply import is_tangent
from jacobia._program.columns.closure import one_step
from jacobia._program.columns.slots import nothing
from jacobia._program.flow import around, flow
from jacobia._program.known import Lazy, Steps, can_be_known, steps_of
from jacobia._program.walk import needed, run, some

# Steps that a counter is counted to, and steps of a loop whose end is looked for.
_MOST, _LONGEST = 1 << 20, 1 << 14


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop, and what goes into it.

    Attributes:
      start: the carry before the first step; what is a tangent at any step is `Slots`.
      length: how many steps there are; None: nobody knows.
      reverse: whether the last of the xs is read first.
    """

    body: Any
    consts: list
    start: list
    xs: list
    avals: list  # of the results
    length: int | None
    reverse: bool = False

    @property
    def order(self) -> np.ndarray:
        """The numbers of the steps as they are made."""
        return np.arange(self.length or 0)[:: -1 if self.reverse else 1]

    @property
    def inputs(self) -> list:
        """What goes in, as the body takes it."""
        return [*self.consts, *self.start, *self.xs]

    @property
    def program(self) -> tuple[Any, list]:
        """The body, and the arrays that it carries with it."""
        return getattr(self.body, "jaxpr", self.body), inner_consts(self.body)

    @property
    def tangents(self) -> list[bool]:
        """Which results are tangents."""
        carried = list(map(is_tangent, self.start))
        return carried + flow(self.body, list(map(is_tangent, self.inputs)))[len(carried) :]

    def numbered(self, w: Any, program: Any, known: Sequence[Lazy | None], lead: tuple[int, ...] = ()) -> tuple:
        """`one_step`, with what is known of the inputs of a step; `lead` is in front of the shapes of these."""
        n, m = len(self.consts), len(self.start)
        ins = list(self.consts)
        for k, v in enumerate(self.inputs[n:], n):
            shape = v.shape if k < n + m else v.shape[1:]
            if is_tangent(v):
                ins.append(nothing(shape, v.dtype))
            else:
                ins.append(w.value(None, shape if known[k] is None else lead + shape, known[k]))
        return one_step(w, program, ins[:n], ins[n : n + m], ins[n + m :])


class _Counters:
    """The part of a loop that is known at every step: numbers that it carries, and what they are computed from."""

    def __init__(self, loop: Loop):
        self._loop, n, m = loop, len(loop.consts), len(loop.start)
        jaxpr, self._own = loop.program
        unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in loop.inputs]
        for k, a in enumerate(loop.avals[:m], n):  # a program may iterate large arrays that are known: not twice
            unknown[k] |= bool(a.ndim) and not jnp.issubdtype(a.dtype, jnp.integer)
        self.unknown = around(loop.body, unknown, n, m)
        self.places = [k for k in range(m) if not self.unknown[n + k]]
        self._part = needed(jaxpr, tuple(self.places))
        if any(isinstance(c, Tracer) for c in self._own) or some(self._part, lambda eqn: not can_be_known(eqn)):
            self.unknown, self.places = [True] * len(loop.inputs), []

    @property
    def args(self) -> list[Lazy]:
        """All known inputs of the loop."""
        return [v.known for v, u in zip(self._loop.inputs, self.unknown, strict=True) if not u]

    def given(self, known: Sequence) -> tuple[list, list, list]:
        """Constants, first numbers and xs, from the values of `args`."""
        rest, n, m = iter(known), len(self._loop.consts), len(self._loop.start)
        all_of_them = [None if u else next(rest) for u in self.unknown]
        first = [jnp.asarray(all_of_them[n + k], self._loop.avals[k].dtype) for k in self.places]
        return all_of_them[:n], first, all_of_them[n + m :]

    def carry(self, numbers: Sequence) -> list:
        """All that is carried, None for what is not known."""
        found = dict(zip(self.places, numbers, strict=True))
        return [found.get(k) for k in range(len(self._loop.start))]

    def advance(self, consts: list, numbers: Sequence, xs: Sequence) -> list:
        """The numbers behind a step."""
        given = [*consts, *self.carry(numbers), *xs]
        return run(self._part, self._own, given, lambda eqn, values: bind(eqn, *values))


def counted(loop: Loop) -> list[Steps | None]:
    """For each input of a step its values at all steps, where these are known and some tangent may depend on them."""
    n, m, length = len(loop.consts), len(loop.start), loop.length
    found: list[Steps | None] = [None] * len(loop.inputs)
    if length is None or length > _MOST:
        return found
    it = _Counters(loop)
    told = [k >= n and not u for k, u in enumerate(it.unknown)]
    if not any(a and b for a, b in zip(flow(loop.body, told), loop.tangents, strict=True)):
        return found

    def make(*known: Any) -> list:
        consts, first, xs = it.given(known)
        return lax.scan(lambda c, x: (it.advance(consts, c, x), c), first, xs, length, loop.reverse)[1]

    for k, v in zip(it.places, steps_of(length, make, it.args, len(it.places)), strict=True):
        found[n + k] = v
    for k, v in enumerate(loop.xs, n + m):
        if told[k]:
            found[k] = Steps(length, lambda x: [x], [v.known])
    return found


def trips(loop: Loop, test: Any, tested: Sequence) -> int | None:
    """How many steps a loop makes that goes on while `test` says so, of `tested` and the carry; None: nobody knows."""
    it, jaxpr, own = _Counters(loop), getattr(test, "jaxpr", test), inner_consts(test)
    unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in tested]
    carried = it.unknown[len(loop.consts) :]
    if any(flow(test, [*unknown, *carried])) or some(jaxpr, lambda eqn: not can_be_known(eqn)):
        return None
    others = [v.known for v, u in zip(tested, unknown, strict=True) if not u]

    def make(*known: Any) -> list:
        rest = iter(known[: len(others)])
        given = [None if u else next(rest) for u in unknown]
        consts, first, _ = it.given(known[len(others) :])

        def goes(state: tuple) -> Any:
            count, numbers = state
            ins = [*given, *it.carry(numbers)]
            return (count < _LONGEST) & run(jaxpr, own, ins, lambda eqn, values: bind(eqn, *values))[0]

        return [lax.while_loop(goes, lambda s: (s[0] + 1, it.advance(consts, s[1], [])), (0, first))[0]]

    count = int(Lazy(make=make, args=[*others, *it.args]).value())
    return count if count < _LONGEST else None
