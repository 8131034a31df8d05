"""What is known of a loop at every step before it runs: its counters, and how many steps there are.

Knows programs of steps, and known values. Knows nothing of columns, except how a step is walked for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import Literal, Tracer, bind, inner_consts, scan_split
from jacobia._program.columns.apply import is_tangent
from jacobia._program.columns.closure import one_step
from jacobia._program.columns.slots import nothing
from jacobia._program.flow import around, dependent, flow
from jacobia._program.known import Lazy, Steps, can_be_known, several, steady, steps_of
from jacobia._program.walk import needed, run, some

# Most steps for which counters are computed, and most steps of a `while` loop that are counted.
_MOST, _LONGEST = 1 << 20, 1 << 14


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop, and what goes into it.

    Attributes:
      start: the carry before the first step; a carry that is a tangent at any step is `Slots`.
      length: how many steps there are; None: not known.
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
        """The numbers of the steps in the order in which they run."""
        return np.arange(self.length or 0)[:: -1 if self.reverse else 1]

    @property
    def inputs(self) -> list:
        """All inputs, in the order in which the body takes them."""
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
        """`one_step`, with the inputs of a step that are known; their shapes have the axes `lead` in front."""
        n, m = len(self.consts), len(self.start)
        ins = list(self.consts)
        for k, v in enumerate(self.inputs[n:], n):
            shape = v.shape if k < n + m else v.shape[1:]
            if is_tangent(v):
                ins.append(nothing(shape, v.dtype))
            else:
                ins.append(w.value(None, shape if known[k] is None else lead + shape, known[k]))
        return one_step(w, program, ins[:n], ins[n : n + m], ins[n + m :])


def steadied(w: Any, ins: Sequence) -> list:
    """The operands of a loop inside another loop: only values that are the same at all outer steps are known."""
    return [v if is_tangent(v) else w.value(v.name, v.shape, steady(v.known)) for v in ins]


def of_scan(w: Any, eqn: Any, ins: Sequence) -> Loop:
    """A `scan` as a `Loop`."""
    (n, m), avals, ins = scan_split(eqn.params), [v.aval for v in eqn.outvars], steadied(w, ins)
    body, length, reverse = (eqn.params[k] for k in ("jaxpr", "length", "reverse"))
    return Loop(body, ins[:n], ins[n : n + m], ins[n + m :], avals, length, reverse)


class _Part:
    """The part of a loop that is known at every step: carried numbers and, with `ys`, results computed from them."""

    def __init__(self, loop: Loop, ys: bool = False):
        self._loop, n, m = loop, len(loop.consts), len(loop.start)
        jaxpr, self._own = loop.program
        unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in loop.inputs]
        for k, a in enumerate(loop.avals[:m], n):  # large known arrays are not iterated twice
            unknown[k] |= bool(a.ndim) and not jnp.issubdtype(a.dtype, jnp.integer)
        if any(isinstance(c, Tracer) for c in self._own):
            unknown = [True] * len(unknown)
        while True:
            self.unknown = around(loop.body, unknown, n, m)
            self.places = [k for k in range(m) if not self.unknown[n + k]]
            found = dependent(jaxpr, self.unknown)
            bad = [k for k in self.places if not _computable(jaxpr, k, found)]
            if not bad:
                break
            unknown = [u or k - n in bad for k, u in enumerate(self.unknown)]
        given = range(m, len(loop.avals)) if ys else ()
        self.told = self.places + [k for k in given if _computable(jaxpr, k, found)]
        self._part = needed(jaxpr, tuple(self.told))
        atoms = [*self._part.outvars, *(a for eqn in self._part.eqns for a in eqn.invars)]
        reads = {a for a in atoms if not isinstance(a, Literal)}
        self._used = [(v in reads and not u) or k - n in self.places
                      for k, (v, u) in enumerate(zip(jaxpr.invars, self.unknown, strict=True))]  # fmt: skip

    @property
    def args(self) -> list[Lazy]:
        """The inputs of the loop that this part reads."""
        return [v.known for v, u in zip(self._loop.inputs, self._used, strict=True) if u]

    def given(self, known: Sequence) -> tuple[list, list, list]:
        """Constants, the numbers before the first step, and xs, from the values of `args`."""
        rest, n, m = iter(known), len(self._loop.consts), len(self._loop.start)
        ins = [next(rest) if u else None for u in self._used]
        first = [jnp.asarray(ins[n + k], self._loop.avals[k].dtype) for k in self.places]
        return ins[:n], first, ins[n + m :]

    def carry(self, numbers: Sequence) -> list:
        """The whole carry, None where it is not known."""
        found = dict(zip(self.places, numbers, strict=True))
        return [found.get(k) for k in range(len(self._loop.start))]

    def advance(self, consts: list, numbers: Sequence, xs: Sequence) -> tuple[list, list]:
        """The numbers after a step, and the results of the step."""
        given = [*consts, *self.carry(numbers), *xs]
        outs = run(self._part, self._own, given, lambda eqn, values: bind(eqn, *values))
        return outs[: len(self.places)], outs[len(self.places) :]


def _computable(jaxpr: Any, out: int, unknown: set) -> bool:
    # Whether all operations that a result needs can run: one of them may read an unknown value for another result.
    own = jaxpr.outvars[out]
    eqns = needed(jaxpr, (out,)).eqns
    reads = [a for a in (own, *(a for eqn in eqns for a in eqn.invars)) if not isinstance(a, Literal)]
    return unknown.isdisjoint(reads) and not some(jaxpr.replace(eqns=eqns), lambda eqn: not can_be_known(eqn))


def counted(loop: Loop) -> list[Steps | None]:
    """For each input of a step its values at all steps, where these are known and some tangent may depend on them."""
    n, m, length = len(loop.consts), len(loop.start), loop.length
    found: list[Steps | None] = [None] * len(loop.inputs)
    if length is None or length > _MOST:
        return found
    part = _Part(loop)
    told = [k >= n and not u for k, u in enumerate(part.unknown)]
    if not any(a and b for a, b in zip(flow(loop.body, told), loop.tangents, strict=True)):
        return found

    def make(*known: Any) -> list:
        consts, first, xs = part.given(known)
        return lax.scan(lambda c, x: (part.advance(consts, c, x)[0], c), first, xs, length, loop.reverse)[1]

    for k, v in zip(part.places, steps_of(length, jax.jit(make), part.args, len(part.places)), strict=True):
        found[n + k] = v
    for k, v in enumerate(loop.xs, n + m):
        if told[k]:
            found[k] = Steps(length, lambda x: [x], [v.known])
    return found


def known_results(loop: Loop) -> list[Lazy | None]:
    """What is known of the results of a loop, computed on demand."""
    found: list[Lazy | None] = [None] * len(loop.avals)
    if loop.length is None:
        return found
    part = _Part(loop, ys=True)

    def make(*known: Any) -> list:
        consts, first, xs = part.given(known)
        end, ys = lax.scan(lambda c, x: part.advance(consts, c, x), first, xs, loop.length, loop.reverse)
        return [*end, *ys]

    for k, v in zip(part.told, several(jax.jit(make), part.args, len(part.told)), strict=True):
        found[k] = v
    return found


def trips(loop: Loop, test: Any, tested: Sequence) -> int | None:
    """How many steps a `while` loop makes; its condition is `test`, of `tested` and the carry. None: not known."""
    part, jaxpr, own = _Part(loop), getattr(test, "jaxpr", test), inner_consts(test)
    unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in tested]
    found = dependent(jaxpr, [*unknown, *part.unknown[len(loop.consts) :]])
    if any(isinstance(c, Tracer) for c in own) or not _computable(jaxpr, 0, found):
        return None
    others = [v.known for v, u in zip(tested, unknown, strict=True) if not u]

    def make(*known: Any) -> list:
        rest = iter(known[: len(others)])
        given = [None if u else next(rest) for u in unknown]
        consts, first, _ = part.given(known[len(others) :])

        def goes(state: tuple) -> Any:
            count, numbers = state
            outs = run(needed(jaxpr, (0,)), own, [*given, *part.carry(numbers)], lambda eqn, values: bind(eqn, *values))
            return (count < _LONGEST) & outs[0]

        return [lax.while_loop(goes, lambda s: (s[0] + 1, part.advance(consts, s[1], [])[0]), (0, first))[0]]

    count = int(Lazy(make=jax.jit(make), args=[*others, *part.args]).value())
    return count if count < _LONGEST else None
