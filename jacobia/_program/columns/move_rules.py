"""Slots through data movements: each is run on the columns, and on every slot of the values. None needs its own rule.

Knows slots. Knows nothing of where an operation moves what: `moves` does.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.apply import apply, is_tangent, out_of, tangents
from jacobia._program.columns.merging import tight
from jacobia._program.columns.parts import parts_of, relabelled
from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import UNEVEN, Parts, Slots, nothing, values
from jacobia._program.moves import MOVES


def move(w: Any, eqn: Any, ins: Sequence) -> list:
    linear = tangents(ins)
    outs = [out_of(eqn, k) for k in range(len(eqn.outvars))]
    if any(isinstance(v, Parts) for v in ins):
        return _move_parts(w, eqn, ins)
    if not any(v.width for v in ins if is_tangent(v)):
        return [nothing(*o) for o in outs]
    if len(ins) > 1 and len(outs) == 1 and _uneven(ins, outs[0][0]):
        return _move_parts(w, eqn, ins)
    width = max(v.width for v in ins if is_tangent(v))
    given = [_widened(w, v, width) if k else v for v, k in zip(ins, linear, strict=True)]
    names = apply(w, eqn, given, linear, apart=True)
    rank = [len(a.aval.shape) for a in eqn.invars]
    none = np.int32(w.n)
    cols = [v.cols if k else np.full((width, *[1] * r), none) for v, k, r in zip(given, linear, rank, strict=True)]
    if eqn.primitive.name == "broadcast_in_dim":
        moved = [_broadcast(eqn, cols[0])]
    elif _is_constant(given, linear) and eqn.primitive.name not in _FILLING and sum(linear) == len(ins):
        first = next(v for v in given if is_tangent(v))
        moved = [first.cols.reshape(width, *[1] * len(s)) for s, _ in outs]
    else:
        for a in (*eqn.invars, *eqn.outvars):
            check_columns(width, a.aval.shape)
        full = [np.broadcast_to(c, (width, *a.aval.shape)) for c, a in zip(cols, eqn.invars, strict=True)]
        if eqn.primitive.name == "pad":
            full[1] = full[1].reshape(width)
        moved = [tight(c) for c in MOVES[eqn.primitive.name].numbers(eqn, full, w.n)]
    return [Slots(c.astype(np.int32), name, s, d) for c, name, (s, d) in zip(moved, names, outs, strict=True)]


# Movements that also insert zeros.
_FILLING = {"pad"}


def _is_constant(given: Sequence, linear: Sequence[bool]) -> bool:
    own = [v for v, k in zip(given, linear, strict=True) if k]
    if not all(t.constant_along(range(len(t.shape))) for t in own):
        return False
    flat = [t.cols.reshape(-1) for t in own]
    return all(np.array_equal(flat[0], f) for f in flat[1:])


def _broadcast(eqn: Any, cols: np.ndarray) -> np.ndarray:
    places = [1] * len(eqn.params["shape"])
    for length, axis in zip(cols.shape[1:], eqn.params["broadcast_dimensions"], strict=True):
        places[axis] = length
    return cols.reshape(len(cols), *places)


def _widened(w: Any, t: Slots, width: int) -> Slots:
    more = width - t.width
    if not more:
        return t
    check_columns(width, t.cols.shape[1:])
    cols = np.concatenate([t.cols, np.full((more, *t.cols.shape[1:]), w.n, np.int32)])
    if not t.width:
        shape, dtype = (width, *t.shape), t.dtype
        return Slots(cols, w.tape.step(lambda: jnp.zeros(shape, dtype)), t.shape, t.dtype)
    name = w.tape.step(lambda v: jnp.concatenate([v, jnp.zeros((more, *v.shape[1:]), v.dtype)]), values(w.tape, t, w.n))
    return Slots(cols, name, t.shape, t.dtype)


def _uneven(ins: Sequence, shape: tuple[int, ...]) -> bool:
    own = [v for v in ins if is_tangent(v)]
    wide = max(v.width for v in own)
    return wide > 8 and wide * math.prod(shape) > UNEVEN * sum(v.width * v.size for v in own)


def _move_parts(w: Any, eqn: Any, ins: Sequence) -> list:
    # Moves element numbers instead of columns, to find where every element comes from.
    offset, planes, terms = 0, [], []
    for v, atom in zip(ins, eqn.invars, strict=True):
        shape = atom.aval.shape
        size = math.prod(shape)
        if is_tangent(v):
            planes.append(numbered((1, *shape), offset))
            terms += [(s, np.where(r < 0, -1, r + offset)) for s, r in parts_of(v)]
            offset += size
        else:
            planes.append(np.full((1, *shape), -1, np.int32))
    if eqn.primitive.name == "pad":
        planes[1] = planes[1].reshape(1)
    sources = MOVES[eqn.primitive.name].numbers(eqn, planes, -1)
    whole = Parts(terms, (offset,), None)
    return [
        rows_of(w, whole, np.broadcast_to(s, (1, *shape)).reshape(-1), shape, dtype)
        for s, (shape, dtype) in zip(sources, (out_of(eqn, k) for k in range(len(eqn.outvars))), strict=True)
    ]


def rows_of(w: Any, t: Parts, source: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Parts | Slots:
    """Elements of a tangent by their flat numbers (-1: zero), in a new shape."""
    used = source[source >= 0]
    if len(np.unique(used)) == len(used):  # each goes to one place at most
        to = np.full(t.size, -1, np.int32)
        to[used] = np.flatnonzero(source >= 0)
        return relabelled(t, to, shape, dtype)
    terms = []
    for slots, rows in t.terms:
        order = np.argsort(rows, kind="stable")
        first, last = np.searchsorted(rows[order], source, "left"), np.searchsorted(rows[order], source, "right")
        count = np.where(source >= 0, last - first, 0)
        check_columns(slots.width, (int(count.sum()),))
        out = np.repeat(np.arange(len(source)), count)
        within = np.arange(len(out)) - np.repeat(np.cumsum(count) - count, count)
        element = order[np.repeat(first, count) + within].astype(np.int32)
        cols = slots.full_cols().reshape(slots.width, slots.size)[:, element]
        name = w.tape.step(
            lambda v, e: v.reshape(v.shape[0], -1)[:, e], values(w.tape, slots, w.n), w.tape.array(element)
        )
        terms.append((Slots(cols, name, (len(element),), slots.dtype), out.astype(np.int32)))
    return Parts(terms, shape, dtype)
