"""Slots through operations that read or write at given positions, known or not.

Knows single operations. Knows nothing of programs inside operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.apply import apply, blocked, is_tangent, out_of, tangents
from jacobia._program.columns.elements import negative
from jacobia._program.columns.merging import tight, union, union_along
from jacobia._program.columns.parts import as_slots, columns_of, parts_of, relabelled
from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import UNEVEN, Parts, Slots, aligned, nothing, values
from jacobia._program.positions import Places, dynamic_places, gather_places, scatter_places


def _read(w: Any, eqn: Any, ins: Sequence, places: Places) -> list:
    shape, dtype = out_of(eqn)
    t = as_slots(w.tape, ins[0], w.n)
    if not t.width:
        return [nothing(shape, dtype)]
    if places.unknown:  # from any place along these axes
        t = aligned(w.tape, t, union_along(t.cols, t.shape, places.unknown, w.n), w.n)
    linear = tangents(ins)
    names = apply(w, eqn, [t, *ins[1:]], linear)
    if t.constant_along(range(len(t.shape))) and places.inside.all():
        cols = t.cols.reshape(t.width, *[1] * len(shape))
    else:
        check_columns(t.width, shape)
        flat = np.broadcast_to(places.flat, places.narrow)
        cols = t.full_cols().reshape(t.width, t.size)[:, flat]
        cols = tight(cols if places.inside.all() else np.where(places.inside, cols, np.int32(w.n)))
    return [Slots(cols, names[0], shape, dtype)]


def gather(w: Any, eqn: Any, ins: Sequence) -> list:
    return _read(w, eqn, ins, gather_places(eqn, w.columns(ins[1])))


def _starts(w: Any, given: Sequence) -> list:
    return [w.known(v) for v in given]


def dynamic_slice(w: Any, eqn: Any, ins: Sequence) -> list:
    sizes = eqn.params["slice_sizes"]
    starts = _starts(w, ins[1 : 1 + len(sizes)])
    return _read(w, eqn, ins, dynamic_places(eqn.invars[0].aval.shape, sizes, starts))


def _written(w: Any, eqn: Any, ins: Sequence, at: int, places: Places, replace: bool, sign: int = 1) -> list:
    # What is written, `ins[at]`, and what it is written to, `ins[0]`.
    shape, dtype = out_of(eqn)
    base, update = ins[0], ins[at]
    terms = []
    if places.unknown or not places.sure:
        return _unknown_write(w, eqn, ins, at, places)
    flat = np.where(np.broadcast_to(places.inside, places.narrow), np.broadcast_to(places.flat, places.narrow), -1)
    flat = flat.reshape(-1)
    written = flat[flat >= 0]
    if replace and not _once(written):  # which of two writes stays is not for us to say
        return _unknown_write(w, eqn, ins, at, places)
    if is_tangent(base):
        if replace:
            left = numbered((math.prod(shape),))
            left[written] = -1
            terms += relabelled(base, left, shape, dtype).terms
        else:
            terms += parts_of(base)
    if is_tangent(update):
        terms += relabelled(update if sign > 0 else negative(w, update), flat, shape, dtype).terms
    terms = [(s, r) for s, r in terms if s.width and (r >= 0).any()]
    if not terms:
        return [nothing(shape, dtype)]
    whole = Parts(terms, shape, dtype)
    return [_even(w, whole)]


def _once(rows: np.ndarray) -> bool:
    # Whether no number is there twice; -1 is one of them.
    return bool(np.bincount(rows + 1, minlength=1).max() <= 1)


def _even(w: Any, t: Parts) -> Slots | Parts:
    # Parts that fill the whole evenly, each element once, are better held as slots.
    (slots, rows), *others = t.terms
    if not others and slots.size == t.size and np.array_equal(rows, np.arange(t.size)):
        cols = slots.full_cols().reshape(slots.width, *t.shape)
        name = w.tape.step(lambda v: v.reshape(v.shape[0], *t.shape), values(w.tape, slots, w.n))
        return Slots(cols, name, t.shape, t.dtype)
    count = sum(s.width * s.size for s, _ in t.terms)
    widest = sum(s.width for s, _ in t.terms)
    once = all(_once(r) for _, r in t.terms)
    return as_slots(w.tape, t, w.n) if once and widest <= 8 and widest * t.size <= UNEVEN * count else t


def _unknown_write(w: Any, eqn: Any, ins: Sequence, at: int, places: Places) -> list:
    # It may be written to any place along the axes that are not known.
    shape = eqn.outvars[0].aval.shape
    found = []
    if is_tangent(ins[0]):
        found.append(as_slots(w.tape, ins[0], w.n).full_cols())
    if is_tangent(ins[at]):
        t = as_slots(w.tape, ins[at], w.n)
        inside = np.broadcast_to(places.inside, places.narrow).reshape(-1)
        rows = np.broadcast_to(places.flat, places.narrow).reshape(-1)[inside]
        own = t.full_cols().reshape(t.width, t.size)[:, inside]
        written = _collected(np.broadcast_to(rows, own.shape).reshape(-1), own.reshape(-1), shape, places.unknown, w.n)
        found.append(np.broadcast_to(written, (len(written), *shape)))
    (dense,) = blocked(w, eqn, ins, None)
    cols = union(found, w.n) if any(map(len, found)) else dense.cols
    return [_narrowed(w, dense, cols) if len(cols) < dense.width else dense]


def _narrowed(w: Any, dense: Slots, cols: np.ndarray) -> Slots:
    # Of the same columns everywhere only these; the others are zero.
    order = np.argsort(dense.cols.reshape(-1), kind="stable")
    check_columns(len(cols), dense.shape)
    places = order[np.minimum(np.searchsorted(dense.cols.reshape(-1)[order], cols), dense.width - 1)]
    places = np.broadcast_to(places, (len(cols), *dense.shape)).astype(np.int32)
    cols = np.ascontiguousarray(np.broadcast_to(cols, places.shape)).astype(np.int32)
    name = w.tape.step(
        lambda v, k, c: jnp.where(c < w.n, jnp.take_along_axis(v, k, axis=0), jnp.zeros((), v.dtype)),
        values(w.tape, dense, w.n), w.tape.array(places), w.tape.array(cols),
    )  # fmt: skip
    return Slots(cols, name, dense.shape, dense.dtype)


def _collected(rows: np.ndarray, cols: np.ndarray, shape: tuple, axes: Sequence[int], n: int) -> np.ndarray:
    # Columns by the row they are written to, and those of all rows along some axes together.
    keep = cols < n
    places = list(np.unravel_index(rows[keep], shape))
    for axis in axes:
        places[axis] = np.zeros_like(places[axis])
    small = tuple(1 if a in axes else k for a, k in enumerate(shape))
    key = np.unique(np.ravel_multi_index(places, small).astype(np.int64) * n + cols[keep])
    out = columns_of(key // n, key % n, math.prod(small), n)[1]
    return out.reshape(len(out), *small)


def scatter(replace: bool, sign: int = 1) -> Callable:
    def rule(w: Any, eqn: Any, ins: Sequence) -> list:
        return _written(w, eqn, ins, 2, scatter_places(eqn, w.columns(ins[1])), replace, sign)

    return rule


def scatter_mul(w: Any, eqn: Any, ins: Sequence) -> list:
    if is_tangent(ins[2]):
        return blocked(w, eqn, ins, None)
    t = as_slots(w.tape, ins[0], w.n)  # every element stays where it is, some of them times a factor
    shape, dtype = out_of(eqn)
    return [Slots(t.cols, apply(w, eqn, [t, *ins[1:]], [True, False, False])[0], shape, dtype)]


def dynamic_update_slice(w: Any, eqn: Any, ins: Sequence) -> list:
    wide, narrow = (a.aval.shape for a in eqn.invars[:2])
    places = dynamic_places(wide, narrow, _starts(w, ins[2 : 2 + len(wide)]))
    return _written(w, eqn, ins, 1, places, True)
