"""Slots through operations that add elements up: sums, products with a factor, running sums.

Knows single operations. Knows nothing of programs inside operations.
Shapes: K slots. In a product, each kind of axes flattened into one: B batch, C contracted, F free axes of the tangent,
G free axes of the factor.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.apply import NotLinear, apply, blocked, is_tangent, out_of, tangents
from jacobia._program.columns.merging import FEW, distinct, merge, repeats, tight, union_along, unused
from jacobia._program.columns.parts import as_slots, relabelled
from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import Parts, Slots, added, aligned, nothing, select, values
from jacobia._program.columns.tape import APART, Last

# A factor with at most this share of nonzeros is multiplied nonzero by nonzero.
_SPARSE = 0.5
# Most steps taken to find out which results depend on which columns.
_STEPS = 10**8


def reduce_sum(w: Any, eqn: Any, ins: Sequence) -> list:
    shape, dtype = out_of(eqn)
    (t,), axes = ins, tuple(eqn.params["axes"])
    if isinstance(t, Parts):
        return [relabelled(t, _rows_of_sum(t.shape, axes), shape, dtype)]
    return [summed(w, t, axes, dtype)]


def psum(w: Any, eqn: Any, ins: Sequence) -> list:
    """A sum over axes that had names before `vmap`, exactly; over axes of a mesh, results depend on everything."""
    axes, outs = eqn.params["axes"], [out_of(eqn, k) for k in range(len(eqn.outvars))]
    if not all(isinstance(a, int) for a in axes) or eqn.params["axis_index_groups"] is not None:
        return blocked(w, eqn, ins, None)
    return [
        summed(w, as_slots(w.tape, v, w.n), axes, dtype) if is_tangent(v) else nothing(shape, dtype)
        for v, (shape, dtype) in zip(ins, outs, strict=True)
    ]


def _rows_of_sum(shape: tuple[int, ...], axes: Sequence[int]) -> np.ndarray:
    kept = [1 if a in axes else k for a, k in enumerate(shape)]
    check_columns(1, shape)
    return np.broadcast_to(numbered(kept), shape).reshape(-1)


def summed(w: Any, t: Slots, axes: Sequence[int], dtype: Any) -> Slots | Parts:
    """The sum over some axes."""
    shape = tuple(k for a, k in enumerate(t.shape) if a not in axes)
    count = math.prod(t.shape[a] for a in axes)
    if not t.width or not count:
        return nothing(shape, dtype)
    at, rest = tuple(a + 1 for a in axes), [a + 1 for a in range(len(t.shape)) if a not in axes]
    if t.constant_along(axes):
        cols = t.cols.reshape(t.width, *(t.cols.shape[a] for a in rest))
        return Slots(cols, w.tape.step(lambda v: v.sum(at), values(w.tape, t, w.n)), shape, dtype)
    # The elements that are summed side by side, each in slots of its own.
    lengths = [t.shape[a] if a in axes else k for a, k in enumerate(t.cols.shape[1:])]
    check_columns(t.width, lengths)
    cols = np.broadcast_to(t.cols, (t.width, *lengths)).transpose([0, *at, *rest])
    cols = cols.reshape(t.width * count, *(t.cols.shape[a] for a in rest))

    def beside() -> Slots:
        name = w.tape.step(lambda v: v.transpose([0, *at, *rest]).reshape(-1, *shape), values(w.tape, t, w.n))
        return Slots(cols, name, shape, dtype)

    if len(cols) <= FEW:
        made, places = merge(list(cols), w.n)
        if len(made) <= 2 * len(distinct(cols, w.n)):
            return added(w.tape, [beside()], [(0, i) for i in range(len(cols))], made, places, w.n)
    if not repeats(cols, w.n):
        return select(w.tape, beside(), np.flatnonzero(~unused(cols, w.n)), w.n)
    common = union_along(t.cols, t.shape, axes, w.n)
    if len(common) <= 2 * t.width + 8:
        both = aligned(w.tape, t, common, w.n)
        return summed(w, both, axes, dtype)
    return relabelled(t, _rows_of_sum(t.shape, axes), shape, dtype)


def dot_general(w: Any, eqn: Any, ins: Sequence) -> list:
    shape, dtype = out_of(eqn)
    if all(tangents(ins)):
        raise NotLinear("dot_general")
    side = 0 if is_tangent(ins[0]) else 1
    t, factor = as_slots(w.tape, ins[side], w.n), ins[1 - side]
    if not t.width:
        return [nothing(shape, dtype)]
    contracting, batch = eqn.params["dimension_numbers"]
    mine = _Axes(t.shape, contracting[side], batch[side])
    other = _Axes(eqn.invars[1 - side].aval.shape, contracting[1 - side], batch[1 - side])
    mask = w.nonzero(factor)
    mask = np.ones((1, 1, 1), bool) if mask is None else other.three(mask, 0)  # (B, G, C)
    met = np.asarray(mask.any(2))[None, :, :, None]
    if not t.constant_along(mine.contracted):
        made = _spread(w, eqn, t, factor, mask, mine, other, side)
        if made is not None:
            return [made]
        common = union_along(t.cols, t.shape, mine.contracted, w.n)
        met = _met(t, common, mask, mine, w.n)
        t = aligned(w.tape, t, common, w.n)
    given: list = [None, None]
    given[side], given[1 - side] = t, factor
    names = apply(w, eqn, given, tangents(given))
    kept = [1 + a for a in (*mine.batch, *mine.free)]
    cols = t.cols.transpose([0, *kept, *(1 + a for a in mine.contracted)])
    b, f = [cols.shape[1 + k] for k in range(len(mine.batch))], list(cols.shape[1 + len(mine.batch) : 1 + len(kept)])
    free = [1] * len(other.free)
    cols = cols.reshape(t.width, *b, *(f + free if side == 0 else free + f))
    if not met.all():
        check_columns(t.width, shape)
        cols = np.where(_arranged(met, mine, other, side), cols, np.int32(w.n))
    return [Slots(cols, names[0], shape, dtype)]


class _Axes:
    def __init__(self, shape: tuple[int, ...], contracted: Sequence[int], batch: Sequence[int]):
        self.shape, self.contracted, self.batch = shape, [int(a) for a in contracted], [int(a) for a in batch]
        self.free = [a for a in range(len(shape)) if a not in (*contracted, *batch)]

    def count(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[a] for a in axes)

    def three(self, x: Any, lead: int) -> Any:
        """As (…, batch, free, contracted), each kind of axes flattened into one."""
        order = [*range(lead), *(a + lead for a in (*self.batch, *self.free, *self.contracted))]
        sizes = [self.count(axes) for axes in (self.batch, self.free, self.contracted)]
        return x.transpose(order).reshape(*x.shape[:lead], *sizes)


def _arranged(x: Any, mine: _Axes, other: _Axes, side: int) -> Any:
    """From (K, B, G, F) to the axes of the result; length 1 stays 1."""
    own = (mine, mine.batch), (other, other.free), (mine, mine.free)
    b, g, f = ([of.shape[a] if k > 1 else 1 for a in axes] for k, (of, axes) in zip(x.shape[1:], own, strict=True))
    x = x if side == 1 else x.swapaxes(2, 3)
    return x.reshape(x.shape[0], *b, *(g + f if side == 1 else f + g))


def _met(t: Slots, common: np.ndarray, mask: np.ndarray, mine: _Axes, n: int) -> np.ndarray:
    # Which results depend on which of the columns `common`, given the zeros of the factor, (K, B, G, F); all of them,
    # if that would take long to find out.
    b, f, c = (mine.count(axes) for axes in (mine.batch, mine.free, mine.contracted))
    if mask.all() or len(common) * b * f * c * (t.width + mask.shape[1]) > _STEPS:
        return np.ones((1, 1, 1, 1), bool)
    cols, met = mine.three(t.full_cols(), 1), []  # (K, B, F, C)
    for own in common:
        own = mine.three(np.broadcast_to(own, t.shape), 0)
        has = ((cols == own) & (own < n)).any(0).swapaxes(1, 2)  # (B, C, F)
        met.append(mask.astype(np.float32) @ has.astype(np.float32) > 0)
    return np.stack(met)


def _spread(
    w: Any, eqn: Any, t: Slots, factor: Any, mask: np.ndarray, mine: _Axes, other: _Axes, side: int
) -> Slots | Parts | None:
    # If contracted elements have columns of their own, nothing is added up: their products stand side by side, in slots
    # of their own. None: some share a column.
    shape, dtype = out_of(eqn)
    count = mine.count(mine.contracted)
    if np.count_nonzero(mask) <= _SPARSE * mask.size:
        return _through_nonzeros(w, t, factor, mask, mine, other, side, shape, dtype)
    cols = mine.three(t.full_cols(), 1)  # (K, B, F, C)
    own = distinct(np.moveaxis(cols, 3, 1).reshape(t.width * count, *cols.shape[1:3]), w.n)
    if len(own) < t.width * count:
        return None
    cols = np.moveaxis(cols, 3, 1).reshape(t.width * count, cols.shape[1], 1, cols.shape[2])  # (KC, B, 1, F)
    if not mask.all():
        check_columns(len(cols), shape)
        zero = ~np.moveaxis(mask, 2, 0)[None, :, :, :, None]  # (1, C, B, G, 1)
        cols = np.where(zero, np.int32(w.n), cols.reshape(t.width, count, *cols.shape[1:]))
        cols = cols.reshape(t.width * count, *cols.shape[2:])

    wide = len(cols) > APART

    def times(v: Any, a: Any) -> Any:
        if wide:
            v = mine.three(v, 1).transpose(1, 2, 0, 3)[:, None].astype(dtype)  # (B, 1, F, K, C)
            out = v * other.three(a, 0)[:, :, None, None].astype(dtype)  # (B, G, F, K, C)
            out = out if side == 1 else out.swapaxes(1, 2)
            return Last(out.reshape(*shape, -1))
        v = jnp.moveaxis(mine.three(v, 1), 3, 1)[:, :, :, None, :]  # (K, C, B, 1, F)
        a = jnp.moveaxis(other.three(a, 0), 2, 0)[None, ..., None]  # (1, C, B, G, 1)
        out = v.astype(dtype) * a.astype(dtype)
        return _arranged(out.reshape(-1, *out.shape[2:]), mine, other, side)

    cols = tight(_arranged(tight(cols), mine, other, side))
    name = w.tape.step(times, values(w.tape, t, w.n), w.name(factor))
    return Slots(np.ascontiguousarray(cols), name, shape, dtype)


def _through_nonzeros(
    w: Any, t: Slots, factor: Any, mask: np.ndarray, mine: _Axes, other: _Axes, side: int, shape: tuple, dtype: Any
) -> Slots | Parts:
    b, g, c = (x.astype(np.int32) for x in np.nonzero(mask))
    free = mine.count(mine.free)
    check_columns(t.width, (len(b), free))
    cols = mine.three(t.full_cols(), 1)[:, b, :, c]  # (E, K, F)
    cols = np.ascontiguousarray(np.moveaxis(cols, 0, 1))  # (K, E, F)

    def picked(v: Any, a: Any, b: Any, g: Any, c: Any) -> Any:
        v = jnp.moveaxis(mine.three(v, 1)[:, b, :, c], 0, 1)
        return v.astype(dtype) * other.three(a, 0)[b, g, c][None, :, None].astype(dtype)

    name = w.tape.step(
        picked, values(w.tape, t, w.n), w.name(factor), w.tape.array(b), w.tape.array(g), w.tape.array(c)
    )
    places = numbered((math.prod(shape),))
    sizes = (mask.shape[0], free, mask.shape[1]) if side == 0 else (mask.shape[0], mask.shape[1], free)
    places = places.reshape(sizes) if side == 1 else places.reshape(sizes).swapaxes(1, 2)
    rows = places[b, g, :].reshape(-1)  # (E, F)
    made = Slots(cols, name, (len(b), free), dtype)
    whole = Parts([(made, rows)], shape, dtype)
    return as_slots(w.tape, whole, w.n) if len(b) <= 8 * mask.shape[0] * mask.shape[1] else whole


def cumsum(w: Any, eqn: Any, ins: Sequence) -> list:
    shape, dtype = out_of(eqn)
    t, axis = as_slots(w.tape, ins[0], w.n), eqn.params["axis"]
    if not t.width or t.constant_along([axis]):
        return blocked(w, eqn, [t], [axis])
    common = union_along(t.cols, t.shape, [axis], w.n)
    check_columns(len(common), shape)
    names = apply(w, eqn, [aligned(w.tape, t, common, w.n)], [True])
    # A result has a column from the place on where that column is first met.
    length = shape[axis]
    full = np.broadcast_to(t.cols, (t.width, *(length if a == axis else k for a, k in enumerate(t.cols.shape[1:]))))
    steps = range(length - 1, -1, -1) if eqn.params["reverse"] else range(length)
    met = np.zeros(common.shape, bool)
    planes = [None] * length
    for k in steps:
        here = np.take(full, [k], axis + 1)
        met = met | (here[:, None] == common[None]).any(axis=0)
        planes[k] = np.where(met, common, np.int32(w.n))
    cols = np.concatenate(planes, axis + 1)
    return [Slots(cols, names[0], shape, dtype)]
