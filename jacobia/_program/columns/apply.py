"""How one equation is run on all slots of its tangents, and what every rule needs for that.

A rule is given the operands of an equation: `Slots` or `Parts`, the tangents in which it is linear, and `Value`s.
Knows equations and slots. Knows no operation in particular.
Shapes: N inputs, K slots; columns and values of a tangent of shape S are (K, *S).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import bind
from jacobia._program.columns.merging import union, union_along, unused
from jacobia._program.columns.parts import as_slots
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.slots import Parts, Slots, aligned, nothing, select, values
from jacobia._program.columns.tape import Last, Planes, slots_first, slots_last


class NotLinear(Exception):
    """An operation is not linear in its tangents. A solver may use such operations and be linear as a whole.

    `operation` is its name; None until the walk fills it in, where a tangent stands in a place that takes none.
    """

    def __init__(self, operation: str | None = None):
        super().__init__(operation)
        self.operation = operation


def is_tangent(value: Any) -> bool:
    return isinstance(value, (Slots, Parts))


def out_of(eqn: Any, k: int = 0) -> tuple[tuple[int, ...], Any]:
    aval = eqn.outvars[k].aval
    return aval.shape, aval.dtype


def over_slots(eqn: Any, linear: Sequence[bool], apart: bool = False, elementwise: bool = False) -> Callable:
    """The equation as a function of the values of all slots.

    `apart`: `Planes` are run one by one. `elementwise`: `Last` is run without `vmap`.
    """

    def run(*args: Any) -> Sequence:
        given = [a for a, k in zip(args, linear, strict=True) if k]
        if apart and any(isinstance(a, Planes) for a in given):
            outs = [bind(eqn, *with_tangents(args, linear, own)) for own in zip(*given, strict=True)]
            return [Planes(own) for own in zip(*outs, strict=True)]
        if elementwise and any(isinstance(a, Last) for a in given):
            return [Last(o) for o in _stretched_last(eqn, args, linear)]
        if any(isinstance(a, Last) for a in given):
            return [Last(o) for o in _vmapped(eqn, with_tangents(args, linear, map(slots_last, given)), linear, -1)]
        given = [slots_first(a) for a in given]
        if given[0].shape[0] == 1:
            return [o[None] for o in bind(eqn, *with_tangents(args, linear, [a[0] for a in given]))]
        try:
            return _vmapped(eqn, with_tangents(args, linear, given), linear, 0)
        except NotImplementedError:  # an operation without a batching rule
            return lax.map(lambda own: bind(eqn, *with_tangents(args, linear, own)), given)

    return run


def with_tangents(args: Sequence, linear: Sequence[bool], given: Iterable) -> list:
    """The operands `args`, with those of `given` in place of the tangents."""
    rest = iter(given)
    return [next(rest) if k else a for a, k in zip(args, linear, strict=True)]


def _stretched_last(eqn: Any, args: Sequence, linear: Sequence[bool]) -> list:
    # As `vmap` over the last axis, which would move the slots to the front on the way.
    given = [slots_last(a) for a, k in zip(args, linear, strict=True) if k]
    shape = given[0].shape
    others = [
        a if k or jnp.ndim(a) == 0 else jnp.broadcast_to(jnp.expand_dims(a, -1), shape)
        for a, k in zip(args, linear, strict=True)
    ]
    return bind(eqn, *with_tangents(others, linear, given))


def _vmapped(eqn: Any, args: Sequence, linear: Sequence[bool], axis: int) -> list:
    axes = tuple(axis if k else None for k in linear)
    return jax.vmap(lambda *a: bind(eqn, *a), in_axes=axes, out_axes=axis)(*args)


def apply(
    w: Any, eqn: Any, ins: Sequence, linear: Sequence[bool], apart: bool = False, elementwise: bool = False
) -> tuple[int, ...]:
    """Put an equation on the tape; `apart` for cheap ones, which may be done slot by slot."""
    names = [values(w.tape, v, w.n) if k else w.name(v) for v, k in zip(ins, linear, strict=True)]
    return w.tape.steps_of(over_slots(eqn, linear, apart, elementwise), names, len(eqn.outvars), apart=True)


def tangents(ins: Sequence) -> list[bool]:
    return [is_tangent(v) for v in ins]


def common_columns(w: Any, ts: Sequence[Slots]) -> list[Slots]:
    # Tangents of one shape with the same columns.
    if len(ts) == 1:
        return list(ts)
    cols = union([t.cols for t in ts], w.n) if any(t.width for t in ts) else ts[0].cols
    return [aligned(w.tape, t, cols, w.n) for t in ts]


def stretched(w: Any, t: Slots, shape: tuple[int, ...]) -> Slots:
    if t.shape == shape:
        return t
    own = t.shape or (1,) * len(shape)  # scalars and axes of length 1 are broadcast
    cols = t.cols.reshape(t.width, *own) if not t.shape else t.cols
    name = w.tape.step(
        lambda v: jnp.broadcast_to(v.reshape(v.shape[0], *own), (v.shape[0], *shape)), values(w.tape, t, w.n)
    )
    return Slots(cols, name, shape, t.dtype)


def masked(w: Any, t: Slots, keep: np.ndarray) -> Slots:
    # Elements outside `keep` are zero and depend on nothing.
    check_columns(t.width, keep.shape)
    cols = np.where(keep.reshape(1, *keep.shape) if keep.ndim else keep, t.cols, np.int32(w.n))
    made = Slots(cols, t.vals, t.shape, t.dtype)
    return select(w.tape, made, np.flatnonzero(~unused(cols, w.n)), w.n)


def blocked(w: Any, eqn: Any, ins: Sequence, axes: Sequence[int] | None) -> list:
    """Dense along some axes of all operands (None: all), exact along the others, which operands and results share."""
    if axes is None:
        return by_lead(w, eqn, ins, 0)
    return _joined(w, eqn, ins, lambda t: union_along(t.cols, t.shape, axes, w.n), lambda common, shape: common)


def by_lead(w: Any, eqn: Any, ins: Sequence, rank: int) -> list:
    """Exact along the first `rank` axes, which all operands and results share, dense along the others."""

    def own(t: Slots) -> np.ndarray:
        cols = union_along(t.cols, t.shape, range(rank, len(t.shape)), w.n)
        return cols.reshape(cols.shape[: rank + 1])

    def on(common: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return common.reshape(*common.shape, *[1] * (len(shape) - rank))

    return _joined(w, eqn, ins, own, on)


def _joined(w: Any, eqn: Any, ins: Sequence, own: Callable, on: Callable) -> list:
    # All operands and results get the columns that any operand has. `own` gives the columns of one operand, `on` fits
    # the common columns to a shape.
    linear = tangents(ins)
    outs = [out_of(eqn, k) for k in range(len(eqn.outvars))]
    ts = [as_slots(w.tape, v, w.n) for v in ins if is_tangent(v)]
    if not any(t.width for t in ts):
        return [nothing(*o) for o in outs]
    common = union([own(t) for t in ts if t.width], w.n)
    given = with_tangents(ins, linear, (aligned(w.tape, t, on(common, t.shape), w.n) for t in ts))
    names = apply(w, eqn, given, linear)
    return [Slots(on(common, s), name, s, d) for name, (s, d) in zip(names, outs, strict=True)]
