"""Whether a linear program keeps the samples of a batch apart, and what mixes them if it does not.

Samples are followed as an axis (`samples`) for as long as that goes, as labels of single elements (`labels`) from
there on. Both err on one side only: a program that mixes samples is never taken for independent.
Shapes: B samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from jacobia._compat import Tracer, inner_consts, scan_split
from jacobia.program.along import Along, Lost, describe
from jacobia.program.known import Columns, Lazy, can_be_known, joined_columns, known_columns, results, sliced
from jacobia.program.labels import Operands, axis_of, everything, is_mixed, label, labels_of
from jacobia.program.sample_rules import ELEMENTWISE
from jacobia.program.samples import body_of, follow, found, has_references, shifted, solver_parts
from jacobia.program.walk import run

# Loops up to this length are read step by step, longer ones as what all of their steps do together.
_STEPS = 64
# After so many rounds without an end, what goes around a loop may be any sample.
_ROUNDS = 8
# How far behind a product with something known its zeros are remembered.
_DEPTH = 50


class Known(NamedTuple):
    """An input whose value is known while the program is read."""

    value: Any


class Mixing(NamedTuple):
    """Why a program is not taken for independent; `str` of it goes into a message."""

    operation: str  # such as "reduce_sum over axis 0"
    axis: int | None  # of that operation, where it is known
    output: int  # the first output that is not independent
    kind: str  # "mixed": samples met; "moved": each is alone, but elsewhere; "placed": along another axis
    sample: int  # this sample of the output ...
    source: int  # ... depends on this one of the input

    def __str__(self) -> str:
        if self.kind == "placed":
            return self.operation
        depends = f"sample {self.sample} of the output seems to depend on sample {self.source} of the input"
        return f"samples {self.kind} by {self.operation} ({depends})"


class _Event(NamedTuple):
    order: int
    operation: str
    axis: int | None


@dataclass(frozen=True, eq=False)
class _Labels:
    # A value whose elements are labelled: where samples first met, and what moved them last.
    array: np.ndarray
    met: _Event | None
    moved: _Event


class _Masked(Along):
    # An axis with the exact labels in reserve, where something known may be zero in between.
    depth: int
    labels: Callable[[], np.ndarray]


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
    if has_references(jaxpr):  # what is written to them is read elsewhere
        return Mixing("a mutable reference", None, 0, "mixed", 1, 0)
    reading = _Reading(size)
    values = [_given(i, v) for i, v in zip(inputs, jaxpr.invars, strict=True)]
    outs = reading.run(jaxpr, [_constant(c) for c in consts], values)
    for k, (out, var, axis) in enumerate(zip(outs, jaxpr.outvars, out_axes, strict=True)):
        verdict = reading.verdict(out, var.aval.shape, axis % var.aval.ndim)
        if verdict is not None:
            return verdict._replace(output=k)
    return None


def _constant(value: Any) -> Lazy | None:
    return None if isinstance(value, Tracer) else Lazy(value)


def _given(given: Any, var: Any) -> Any:
    if isinstance(given, Known):
        return _constant(given.value)
    return None if given is None else Along(given % var.aval.ndim)


class _Reading:
    def __init__(self, size: int):
        self.size = size
        self.order = 0

    def verdict(self, out: Any, shape: Sequence[int], axis: int) -> Mixing | None:
        if not isinstance(out, (Along, _Labels)) or out == Along(axis):
            return None
        array = self.array(out, shape)
        assert array is not None
        right = shape[axis] == self.size  # else no element is where it should be
        wrong = array < (labels_of(Along(axis), shape, self.size) if right else self.size)
        if not wrong.any():
            return None
        plane, *place = (int(i) for i in np.argwhere(wrong)[0])
        sample, source = place[axis], abs(int(array[(plane, *place)]))
        if isinstance(out, Along):
            others = f"samples along axis {out.axis}, not" if out.axis != axis else "more than samples"
            return Mixing(f"an output with {others} along axis {axis}", out.axis, 0, "placed", sample, source)
        event, kind = (out.met, "mixed") if out.met is not None else (out.moved, "moved")
        return Mixing(event.operation, event.axis, 0, kind, sample, source)

    # Programs

    def run(self, jaxpr: Any, consts: Sequence, values: Sequence) -> list:
        return [_wrapped(v) for v in run(jaxpr, list(consts), list(values), self.rule)]

    def body(self, program: Any, values: Sequence) -> list:
        consts = [_constant(c) for c in inner_consts(program)]
        return self.run(getattr(program, "jaxpr", program), consts, values)

    def rule(self, eqn: Any, values: list) -> list:
        values = [_wrapped(v) for v in values]
        if all(isinstance(v, Lazy) for v in values) and can_be_known(eqn):
            return results(eqn, values)
        body = body_of(eqn)
        if body is not None:
            return self.body(body, values)
        if not any(map(_has_samples, values)):
            return [joined_columns(eqn, values)] if eqn.primitive.name == "concatenate" else [None] * len(eqn.outvars)
        name, event = eqn.primitive.name, None
        if not any(isinstance(v, _Labels) for v in values):
            try:
                given = [Along(*v) if isinstance(v, Along) else None for v in values]
                return self.masked(eqn, values, list(found(follow(eqn, given, self.size).outs)))
            except Lost as lost:
                event = self.event(lost.operation, lost.axis)
        nested = {"cond": self.cond, "scan": self.scan, "while": self.loop, "custom_linear_solve": self.solve}
        if name in nested:
            outs = nested[name](eqn, values)
            # Steps over the samples meet in the loop, whatever operation inside it joins them.
            blame = event if event is not None and event.operation.startswith("scan") else None
            return [replace(o, met=blame) if blame and isinstance(o, _Labels) and o.met else o for o in outs]
        return self.labelled(eqn, values, event)

    def event(self, operation: str, axis: int | None) -> _Event:
        self.order += 1
        return _Event(self.order, operation, axis)

    # Single operations on labels

    def labelled(self, eqn: Any, values: list, event: _Event | None) -> list:
        given = [v for v in values if isinstance(v, _Labels)]
        name = eqn.primitive.name
        if event is None:
            event = self.event(describe(name, _axis(eqn)), _axis(eqn))
        moves = not given or name not in _STILL
        met = min((v.met for v in given if v.met is not None), default=event)
        moved = event if moves else max((v.moved for v in given), key=lambda e: e.order)
        return [self.value(a, met, moved) for a in label(eqn, self.operands(eqn, values), self.size)]

    def operands(self, eqn: Any, values: list) -> Operands:
        return Operands(
            [self.array(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=True)],
            lambda k: values[k].value() if isinstance(values[k], Lazy) else None,
            lambda k: known_columns(values[k], eqn.invars[k].aval.shape[-1]),
        )

    def masked(self, eqn: Any, values: list, outs: list) -> list:
        # Known zeros make no difference to an axis. If the axis is lost soon after, they may to the labels.
        depth = 1 + max((v.depth for v in values if isinstance(v, _Masked)), default=0)
        name, zeros = eqn.primitive.name, any(isinstance(v, Lazy) for v in values)
        matters = name in ("mul", "select_n") and zeros or name in _STILL and depth > 1
        if not matters or depth > _DEPTH or len(outs) > 1:
            return outs
        out = _Masked(*outs[0])
        out.depth, out.labels = depth, cache(lambda: label(eqn, self.operands(eqn, values), self.size)[0])
        return [out]

    def array(self, value: Any, shape: Sequence[int]) -> np.ndarray | None:
        if isinstance(value, _Masked):
            return value.labels()
        if isinstance(value, Along):
            return labels_of(value, shape, self.size)
        return value.array if isinstance(value, _Labels) else None

    def value(self, array: np.ndarray, met: _Event | None, moved: _Event) -> Any:
        # Back to an axis, or to no samples at all, where the labels say no more than that.
        if not array.size or not (array < self.size).any():
            return None
        if is_mixed(array):
            return _Labels(array, met, moved)
        return axis_of(array, self.size) or _Labels(array, None, moved)

    def joined(self, values: Sequence, shape: Sequence[int]) -> Any:
        """One of several values, it is not known which."""
        given = [v for v in values if _has_samples(v)]
        if all(isinstance(v, Along) and v == given[0] for v in given):
            return _plain(given[0]) if given else None
        event = self.event("a choice between values whose samples lie in different ways", None)
        arrays = [a for a in (self.array(v, shape) for v in given) if a is not None]
        return self.value(np.minimum.reduce(arrays), *self.events(given, event))

    def events(self, values: Sequence, event: _Event) -> tuple[_Event, _Event]:
        given = [v for v in values if isinstance(v, _Labels)]
        met = min((v.met for v in given if v.met is not None), default=event)
        return met, max((v.moved for v in given), key=lambda e: e.order, default=event)

    def spread(self, value: Any, condition: Any, shape: Sequence[int]) -> Any:
        """A value that depends, besides, on what it was chosen by."""
        if not isinstance(condition, _Labels):  # a scalar has no axis
            return value
        array, own = everything([condition.array], shape), self.array(value, shape)
        event = self.event("a condition made of samples", None)
        array = array if own is None else np.minimum(array, own)
        return self.value(array, *self.events([value, condition], event))

    # Operations that hold programs

    def cond(self, eqn: Any, values: list) -> list:
        branches, index = eqn.params["branches"], values[0]
        if isinstance(index, Lazy):  # the index is clamped, as cond does
            branches = [branches[int(np.clip(int(index.value()), 0, len(branches) - 1))]]
        outs = [self.body(b, values[1:]) for b in branches]
        shapes = [v.aval.shape for v in eqn.outvars]
        chosen = [self.joined(o, s) for o, s in zip(zip(*outs, strict=True), shapes, strict=True)]
        return [self.spread(c, index, s) for c, s in zip(chosen, shapes, strict=True)]

    def solve(self, eqn: Any, values: list) -> list:
        parts = solver_parts(eqn)
        program, where = parts["solve"]
        return self.body(program, [*values[where], *values[parts["transpose_solve"][1].stop :]])

    def scan(self, eqn: Any, values: list) -> list:
        n, m = scan_split(eqn.params)
        length, body = eqn.params["length"], eqn.params["jaxpr"]
        consts, carry, xs = values[:n], values[n : n + m], values[n + m :]
        ys_shapes = [v.aval.shape for v in eqn.outvars[m:]]
        shapes = [a.aval.shape for a in eqn.invars[n + m :]]
        if length <= _STEPS:
            order = range(length)[::-1] if eqn.params["reverse"] else range(length)
            steps: list = [None] * length
            for k in order:
                outs = self.body(body, consts + carry + [self.entry(x, s, k) for x, s in zip(xs, shapes, strict=True)])
                carry, steps[k] = outs[:m], outs[m:]
            return carry + [self.stacked([s[i] for s in steps], shape) for i, shape in enumerate(ys_shapes)]
        each = [self.entry(x, s, None) for x, s in zip(xs, shapes, strict=True)]
        carry, outs = self.around(eqn.outvars[:m], carry, lambda c: self.body(body, consts + c + each), values)
        return carry + [self.repeated(y, shape) for y, shape in zip(outs[m:], ys_shapes, strict=True)]

    def loop(self, eqn: Any, values: list) -> list:
        c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        tested, consts, carry = values[:c], values[c : c + b], values[c + b :]
        test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        for _ in range(_STEPS):
            (again,) = self.body(test, tested + carry)
            if not isinstance(again, Lazy):
                break
            if not again.value():
                return carry
            carry = self.body(body, consts + carry)
        carry, _ = self.around(eqn.outvars, carry, lambda now: self.body(body, consts + now), values)
        (again,) = self.body(test, tested + carry)
        return [self.spread(v, again, o.aval.shape) for v, o in zip(carry, eqn.outvars, strict=True)]

    def around(self, outvars: Sequence, carry: list, step: Callable, values: list) -> tuple[list, list]:
        """What goes around a loop, until nothing grows."""
        shapes = [v.aval.shape for v in outvars]
        carry = [_plain(v) for v in carry]  # what is known at the first step is not known at the next
        rounds = 0
        while True:
            outs = step(carry)
            grown = [self.joined(pair, s) for pair, s in zip(zip(carry, outs, strict=False), shapes, strict=True)]
            if all(map(_same, grown, carry)):
                return carry, outs
            rounds += 1
            if rounds > _ROUNDS:
                events = self.events([*values, *carry], self.event("a loop", None))
                union = np.array([0, 1 - self.size], np.int32)
                grown = [_Labels(everything([union], s), *events) for s in shapes]
            carry = grown

    def entry(self, x: Any, shape: Sequence[int], step: int | None) -> Any:
        """What one step of a scan is given of its inputs; None: of any step."""
        if isinstance(x, Lazy):
            return None if step is None else sliced(x, step)
        if isinstance(x, Along) and x.axis > 0:
            return shifted(_plain(x), -1)
        array = self.array(x, shape)
        if array is None:
            return None
        array = array[:, step] if step is not None else array.min(1)
        event = self.event(describe("scan", 0), 0)
        return self.value(array, *self.events([x], event))

    def stacked(self, entries: list, shape: Sequence[int]) -> Any:
        if not any(map(_has_samples, entries)):
            return None
        if all(isinstance(e, Along) and e == entries[0] for e in entries):
            return shifted(_plain(entries[0]), 1)
        arrays = [self.array(e, shape[1:]) for e in entries]
        none = np.full((2, *shape[1:]), self.size, np.int32)
        array = np.stack([none if a is None else np.broadcast_to(a, none.shape) for a in arrays], 1)
        return self.value(array, *self.events(entries, self.event(describe("scan", 0), 0)))

    def repeated(self, entry: Any, shape: Sequence[int]) -> Any:
        if isinstance(entry, _Labels):
            return replace(entry, array=np.broadcast_to(entry.array[:, None], (2, *shape)))
        return shifted(_plain(entry), 1)


# Operations that leave the order of the elements alone.
_STILL = ELEMENTWISE | {"reshape", "squeeze", "broadcast_in_dim", "transpose", "dot_general", "reduce_sum"}


def _wrapped(value: Any) -> Any:
    # What is none of ours is a literal of the program.
    return value if value is None or isinstance(value, (Lazy, Along, _Labels, Columns)) else Lazy(value)


def _plain(value: Any) -> Along | _Labels | None:
    # Where the samples are, without anything that is known of this one value only.
    if isinstance(value, Along):
        return Along(*value)
    return value if isinstance(value, _Labels) else None


def _has_samples(value: Any) -> bool:
    return isinstance(value, (Along, _Labels))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, _Labels) and isinstance(b, _Labels):
        return bool(np.array_equal(a.array, b.array))
    return not isinstance(a, _Labels) and not isinstance(b, _Labels) and a == b


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
