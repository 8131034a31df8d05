"""Whether a linear program keeps the samples of a batch apart, and what mixes them if it does not.

Samples are followed as an axis (`samples`) as far as possible, without touching an array. Where that fails, the
program is walked as for its nonzeros (`accumulate`), with every sample as one column. Both err on one side only: a
program that mixes samples is never taken for independent.
Knows programs and samples. Knows nothing of points or of keys.
Shapes: B samples, K slots.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._compat import Tracer
from jacobia._program.along import Along, Lost, describe
from jacobia._program.axis.samples import body_of, follow, has_references, through
from jacobia._program.columns.accumulate import Value, Walk
from jacobia._program.columns.apply import NotLinear, is_tangent
from jacobia._program.columns.parts import parts_of
from jacobia._program.columns.room import TooWide, within
from jacobia._program.columns.slots import Slots
from jacobia._program.columns.tape import Tape
from jacobia._program.known import Lazy
from jacobia._program.moves import MOVES
from jacobia._program.wiring import wiring

# Bytes that columns may take: `_EACH` for each element of the program's largest value, at least `_LEAST`, at most
# `_MOST`. A program that keeps samples apart hardly ever has values whose elements depend on many samples.
_EACH, _LEAST, _MOST = 100, 1 << 26, 1 << 30


class Known(NamedTuple):
    """An input whose value is known while the program is read."""

    value: Any


class Mixing(NamedTuple):
    """Why a program is not taken for independent; `str` of it goes into a message."""

    operation: str  # such as "reduce_sum over axis 0"
    axis: int | None  # of that operation, where it is known
    output: int  # the first output that is not independent
    kind: str  # "mixed": samples met; "moved": apart, but in other places; "placed": along another axis
    sample: int  # this sample of the output ...
    source: int  # ... depends on this sample of the input

    def __str__(self) -> str:
        if self.kind == "placed":
            return self.operation
        depends = f"sample {self.sample} of the output seems to depend on sample {self.source} of the input"
        return f"samples {self.kind} by {self.operation} ({depends})"


def mixing(jaxpr: Any, consts: Sequence, inputs: Sequence, out_axes: Sequence[int], size: int) -> Mixing | None:
    """Read whether every sample of each output depends on the same sample of the inputs only.

    Args:
      jaxpr: an open program, linear in the inputs that carry samples.
      consts: the values of its constant variables.
      inputs: per input the axis along which its samples lie, `Known(value)`, or None for anything else.
      out_axes: per output the axis along which its samples must lie.
      size: B, how many samples there are.

    Returns:
      None if samples are independent, else what mixes or moves them.
    """
    if size < 2:
        return None
    if has_references(jaxpr):  # what is written to one may be read anywhere
        return Mixing("a mutable reference", None, 0, "mixed", 1, 0)
    states = [Along(i % v.aval.ndim) if isinstance(i, int) else None for i, v in zip(inputs, jaxpr.invars, strict=True)]
    wanted = [Along(a % v.aval.ndim) for a, v in zip(out_axes, jaxpr.outvars, strict=True)]
    followed = through(jaxpr, states, size)
    if all(state in (None, want) for state, want in zip(followed, wanted, strict=True)):
        return None
    walk = _Walk(Tape(), size)
    given = [_given(walk, i, s, v) for i, s, v in zip(inputs, states, jaxpr.invars, strict=True)]
    try:
        with within(min(_MOST, max(_LEAST, _EACH * _largest(jaxpr)))):
            outs = walk.run(jaxpr, [walk.wrapped(c) for c in consts], given)
    except (NotLinear, TooWide) as error:
        return _unseen(followed, wanted, error)
    for k, (out, want, state) in enumerate(zip(outs, wanted, followed, strict=True)):
        wrong = _wrong(out, want.axis, size)
        if wrong is None:
            continue
        if isinstance(state, Along):
            return _placed(state, want, k)._replace(sample=wrong[0], source=wrong[1])
        event, kind = (walk.seen.met, "mixed") if walk.seen.met else (walk.seen.moved, "moved")
        return Mixing(*(event or ("the program", None)), k, kind, *wrong)
    return None


def _given(walk: Walk, given: Any, state: Along | None, var: Any) -> Any:
    if state is None:
        value = given.value if isinstance(given, Known) else None
        known = None if value is None or isinstance(value, Tracer) else Lazy(value)
        return Value(walk.tape.new(), getattr(var.aval, "shape", ()), known)
    shape = var.aval.shape
    return Slots(_numbered(walk.n, state.axis, len(shape))[None], None, shape, var.aval.dtype)


def _numbered(size: int, axis: int, rank: int) -> np.ndarray:
    # The number of each sample, along an axis.
    return np.arange(size, dtype=np.int32).reshape([-1 if a == axis else 1 for a in range(rank)])


def _largest(jaxpr: Any) -> int:
    shapes = [getattr(v.aval, "shape", ()) for v in jaxpr.invars]
    shapes += [getattr(v.aval, "shape", ()) for eqn in jaxpr.eqns for v in eqn.outvars]
    return max(map(math.prod, shapes), default=0)


def _placed(state: Along, want: Along, output: int) -> Mixing:
    if state.axis != want.axis:
        what = f"an output whose samples lie along axis {state.axis} in place of axis {want.axis}"
    else:
        what = f"an output with {state.one} entries of each sample along axis {want.axis}"
    return Mixing(what, state.axis, output, "placed", 1, 0)


def _unseen(followed: Sequence, wanted: Sequence, error: Exception) -> Mixing:
    # The walk failed: report where the samples were lost as an axis.
    for k, (state, want) in enumerate(zip(followed, wanted, strict=True)):
        if isinstance(state, Lost):
            return Mixing(state.operation, state.axis, k, "mixed", 1, 0)
        if state not in (None, want):
            return _placed(state, want, k)
    raise error


def _wrong(out: Any, axis: int, size: int) -> tuple[int, int] | None:
    # A sample of the output that depends on another sample of the input, and that other sample; None: there is none.
    if not is_tangent(out) or not out.size:
        return None
    shape = out.shape
    own = np.broadcast_to(_numbered(shape[axis], axis, len(shape)), shape).reshape(-1)
    own = own if shape[axis] == size else np.full(own.shape, -1)  # of another length: no element is in its place
    for slots, rows in parts_of(out):
        rows = np.broadcast_to(rows, (slots.size,))
        for plane in slots.cols:  # one by one: if all depend on all, the first shows it
            cols = np.broadcast_to(plane, slots.shape).reshape(-1)
            bad = (rows >= 0) & (cols < size) & (own[rows] != cols)
            if bad.any():
                e = int(bad.argmax())
                return max(0, int(own[rows[e]])), int(cols[e])
    return None


class _Seen:
    # The first operation that made samples meet in one element, and the last one that moved samples elsewhere.
    met: tuple[str, int | None] | None = None
    moved: tuple[str, int | None] | None = None


class _Walk(Walk):
    # The walk that finds nonzeros, with every sample as one column. It notes which operation makes samples meet.
    steps = 64

    def __init__(self, tape: Tape, n: int):
        super().__init__(tape, n)
        self.seen, self.size = _Seen(), n

    def inside(self, tape: Tape, n: int | None = None) -> Walk:
        walk = super().inside(tape, n)
        assert isinstance(walk, _Walk)
        walk.seen, walk.size = self.seen, self.size
        return walk

    def rule(self, eqn: Any, ins: list) -> list:
        if not any(map(is_tangent, ins)):
            return super().rule(eqn, ins)
        if any(jax.numpy.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in (*eqn.invars, *eqn.outvars)):
            raise NotLinear(eqn.primitive.name)  # keys of random numbers
        unmet = self.seen.met is None
        outs = super().rule(eqn, ins)
        if body_of(eqn) is None and self.n == self.size:
            self.note(eqn, ins, [o for o in outs if is_tangent(o)], unmet)
        return outs

    def note(self, eqn: Any, ins: list, outs: list, unmet: bool) -> None:
        """Note an operation that makes samples meet or moves them, in the words of the rules that follow an axis."""
        seen, how, move = self.seen, wiring(eqn), MOVES.get(eqn.primitive.name)
        still = how.element or how.how in _STILL or (move is not None and move.still)
        states = [_state(v, self.n) for v in ins]
        lost = any(isinstance(s, Lost) for s in states)
        if still and lost and not (unmet and any(_meet(o, self.n) for o in outs)):
            return
        event = _event(eqn, states, self.n)
        if event is None:
            return
        # In a scan over the samples, the scan makes them meet, whatever operation inside it joins them.
        if unmet and any(_meet(o, self.n) for o in outs) and (seen.met is None or event[0].startswith("scan")):
            seen.met = event
        seen.moved = event


# Operations that keep the order of samples, besides elementwise ones.
_STILL = {"contraction", "sum over"}


def _state(v: Any, size: int) -> Along | Lost | None:
    # The axis along which samples lie in order, if there is one.
    if not is_tangent(v) or isinstance(v, Slots) and not v.width:
        return None
    if isinstance(v, Slots):
        for axis, length in enumerate(v.shape):
            if length == size and bool(((v.cols == _numbered(size, axis, len(v.shape))) | (v.cols >= size)).all()):
                return Along(axis)
    return Lost("samples in different orders", None)


def _event(eqn: Any, states: Sequence, size: int) -> tuple[str, int | None] | None:
    # None: the samples are followed through the operation.
    if not any(isinstance(s, Lost) for s in states):
        try:
            for out in follow(eqn, states, size).outs:
                if isinstance(out, Lost):
                    return out.operation, out.axis
            return None
        except Lost as error:
            return error.operation, error.axis
    return describe(eqn.primitive.name, _axis(eqn)), _axis(eqn)


def _meet(t: Any, size: int) -> bool:
    # Whether an element depends on several samples.
    for slots, _ in parts_of(t):
        used = np.sort(slots.cols, axis=0) if slots.width > 1 else slots.cols[:0]
        if ((used[1:] != used[:-1]) & (used[1:] < size)).any():
            return True
    return False


def _axis(eqn: Any) -> int | None:
    numbers = eqn.params.get("dimension_numbers")
    places = {name: eqn.params.get(name) for name in ("axes", "axis", "dimension", "dimensions")}
    places |= {name: getattr(numbers, name, None) for name in ("start_index_map", "scatter_dims_to_operand_dims")}
    for given in places.values():
        if isinstance(given, (tuple, list)) and len(given) == 1:
            given = given[0]
        if isinstance(given, (int, np.integer)):
            return int(given)
    return None
