"""Slots through operations that read or write at given positions, known or not.

Knows single operations. Knows nothing of programs inside operations.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jacobia._program.choices import ways
from jacobia._program.columns.apply import apply, blocked, is_tangent, out_of, tangents
from jacobia._program.columns.elements import negative
from jacobia._program.columns.merging import tight, union, union_along
from jacobia._program.columns.parts import as_slots, columns_of, parts_of, relabelled
from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import UNEVEN, Parts, Slots, aligned, nothing, sum_of, values
from jacobia._program.known import Few
from jacobia._program.positions import Places, dynamic_places, gather_places, scatter_places


class _Way(NamedTuple):
    """One of the ways to read or write; the point decides which one each element goes."""

    places: Places
    here: int | None  # name of a mask, broadcast to the narrow array, of elements that go this way; None: all


def _ways(
    w: Any, columns: Sequence, names: Sequence, lengths: Sequence[int], places_of: Callable[[Sequence], Places]
) -> list[_Way]:
    # The ways for indices along axes of these lengths: `columns` are known or not, `names` are their names on the tape,
    # and `places_of` gives the places of known ones.
    made = []
    for own, valid in ways(columns, lengths):
        places, here = places_of(own), None
        if valid is not None:
            pairs = [
                (name, w.tape.array(value))
                for name, value, given in zip(names, own, columns, strict=True)
                if value is not None and isinstance(given, Few)
            ]
            here = w.tape.step(_equal(places), w.tape.array(valid), *chain(*pairs))
        made.append(_Way(places, here))
    return made


def _equal(places: Places) -> Callable:
    # A mask of where the two values of every pair are equal.
    def run(valid: Any, *pairs: Any) -> Any:
        return places.along(reduce(jnp.logical_and, map(jnp.equal, pairs[::2], pairs[1::2]), valid))

    return run


def _indexed(w: Any, eqn: Any, ins: Sequence, axes: Sequence[int], places_of: Callable) -> list[_Way]:
    columns, name = w.columns(ins[1]), w.name(ins[1])
    names = [w.tape.step(lambda i, k=k: i[..., k], name) if isinstance(c, Few) else None for k, c in enumerate(columns)]
    lengths = [eqn.invars[0].aval.shape[a] for a in axes]
    return _ways(w, columns, names, lengths, lambda own: places_of(eqn, own))


def _started(w: Any, starts: Sequence, wide: Sequence[int], narrow: Sequence[int]) -> list[_Way]:
    # A window that would stick out is moved inside, so even an unknown start may have few values.
    columns, names = [], []
    for v, length, width in zip(starts, wide, narrow, strict=True):
        last, start = length - width, w.chosen(v)
        if isinstance(start, Few):
            start = Few(np.clip(start.values.astype(np.int64), 0, last), start.source)
        elif start is None and (width > 1 or not last):
            start = Few(np.arange(last + 1))
        columns.append(start)
        names.append(w.tape.step(_clamped(last), w.name(v)) if isinstance(start, Few) else None)
    return _ways(w, columns, names, wide, lambda own: dynamic_places(wide, narrow, own))


def _clamped(last: int) -> Callable:
    return lambda i: jnp.clip(i, 0, min(last, jnp.iinfo(i.dtype).max))


def _of_way(w: Any, name: int, way: _Way) -> int:
    # Values (K, *narrow) of the elements that go this way.
    if way.here is None:
        return name
    return w.tape.step(lambda v, here: jnp.where(here, v, jnp.zeros((), v.dtype)), name, way.here)


def _read(w: Any, eqn: Any, ins: Sequence, found: Sequence[_Way]) -> list:
    shape, dtype = out_of(eqn)
    t = as_slots(w.tape, ins[0], w.n)
    if not t.width:
        return [nothing(shape, dtype)]
    if found[0].places.unknown:  # from any place along these axes
        t = aligned(w.tape, t, union_along(t.cols, t.shape, found[0].places.unknown, w.n), w.n)
    names = apply(w, eqn, [t, *ins[1:]], tangents(ins))
    if t.constant_along(range(len(t.shape))) and all(way.places.inside.all() for way in found):
        return [Slots(t.cols.reshape(t.width, *[1] * len(shape)), names[0], shape, dtype)]
    check_columns(t.width * len(found), shape)
    full, terms = t.full_cols().reshape(t.width, t.size), []
    for way in found:
        cols = full[:, np.broadcast_to(way.places.flat, way.places.narrow)]
        cols = tight(cols if way.places.inside.all() else np.where(way.places.inside, cols, np.int32(w.n)))
        terms.append(Slots(cols, _of_way(w, names[0], way), shape, dtype))
    if all(np.array_equal(own.cols, terms[0].cols) for own in terms):
        return [Slots(terms[0].cols, names[0], shape, dtype)]
    return [sum_of(w.tape, terms, w.n)]


def gather(w: Any, eqn: Any, ins: Sequence) -> list:
    axes = eqn.params["dimension_numbers"].start_index_map
    return _read(w, eqn, ins, _indexed(w, eqn, ins, axes, gather_places))


def dynamic_slice(w: Any, eqn: Any, ins: Sequence) -> list:
    wide, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    return _read(w, eqn, ins, _started(w, ins[1 : 1 + len(sizes)], wide, sizes))


def _written(w: Any, eqn: Any, ins: Sequence, at: int, found: Sequence[_Way], replace: bool, sign: int = 1) -> list:
    # The update `ins[at]` is written to the base `ins[0]`.
    shape, dtype = out_of(eqn)
    base, update = ins[0], ins[at]
    if found[0].places.unknown or not found[0].places.sure:
        return _unknown_write(w, eqn, ins, at, found)
    rows = []
    for p, _ in found:
        flat = np.where(np.broadcast_to(p.inside, p.narrow), np.broadcast_to(p.flat, p.narrow), -1)
        rows.append(flat.reshape(-1))
    one = math.prod(p.narrow[a] for p, _ in found[:1] for a in p.at) == 1  # position: all elements go the same way
    if replace and (any(_meet([r]) for r in rows) if one else _meet(rows)):  # which one stays is undefined
        return _unknown_write(w, eqn, ins, at, found)
    terms = []
    if is_tangent(base):
        if not replace:
            terms += parts_of(base)
        else:
            left = numbered((math.prod(shape),))
            if one or len(found) == 1:
                left[reduce(np.intersect1d, [r[r >= 0] for r in rows])] = -1
            terms += relabelled(base if len(found) == 1 else _left(w, eqn, ins, at), left, shape, dtype).terms
    if is_tangent(update):
        update = update if sign > 0 else negative(w, update)
        for r, way in zip(rows, found, strict=True):
            terms += relabelled(_part(w, update, way), r, shape, dtype).terms
    terms = [(s, r) for s, r in terms if s.width and (r >= 0).any()]
    if not terms:
        return [nothing(shape, dtype)]
    whole = Parts(terms, shape, dtype)
    return [_even(w, whole)]


def _meet(rows: Sequence[np.ndarray]) -> bool:
    # Whether two elements may be written to one place; `rows` has their places for each of the ways.
    places = np.sort(np.stack(rows), axis=0)
    again = np.concatenate([np.zeros_like(places[:1], bool), places[1:] == places[:-1]])
    return not _once(places[~again & (places >= 0)])


def _left(w: Any, eqn: Any, ins: Sequence, at: int) -> Slots:
    # What is left of the base behind the write: zeros are written.
    t, like = as_slots(w.tape, ins[0], w.n), eqn.invars[at].aval
    zeros = w.value(w.tape.step(lambda: jnp.zeros(like.shape, like.dtype)), like.shape)
    given = [t, *(zeros if k == at else v for k, v in enumerate(ins) if k)]
    return Slots(t.cols, apply(w, eqn, given, [True, *[False] * (len(ins) - 1)])[0], t.shape, t.dtype)


def _part(w: Any, update: Any, way: _Way) -> Any:
    if way.here is None:
        return update
    t = as_slots(w.tape, update, w.n)
    return Slots(t.cols, _of_way(w, values(w.tape, t, w.n), way), t.shape, t.dtype) if t.width else t


def _once(rows: np.ndarray) -> bool:
    # Whether no number occurs twice; -1 counts as a number.
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


def _unknown_write(w: Any, eqn: Any, ins: Sequence, at: int, found: Sequence[_Way]) -> list:
    # The update may be written to any place along axes where the position is not known.
    shape = eqn.outvars[0].aval.shape
    own = []
    if is_tangent(ins[0]):
        own.append(as_slots(w.tape, ins[0], w.n).full_cols())
    if is_tangent(ins[at]):
        t = as_slots(w.tape, ins[at], w.n)
        for p, _ in found:
            inside = np.broadcast_to(p.inside, p.narrow).reshape(-1)
            rows = np.broadcast_to(p.flat, p.narrow).reshape(-1)[inside]
            cols = t.full_cols().reshape(t.width, t.size)[:, inside]
            cols = _collected(np.broadcast_to(rows, cols.shape).reshape(-1), cols.reshape(-1), shape, p.unknown, w.n)
            own.append(np.broadcast_to(cols, (len(cols), *shape)))
    (dense,) = blocked(w, eqn, ins, None)
    cols = union(own, w.n) if any(map(len, own)) else dense.cols
    return [_narrowed(w, dense, cols) if len(cols) < dense.width else dense]


def _narrowed(w: Any, dense: Slots, cols: np.ndarray) -> Slots:
    # A tangent with the same columns everywhere, reduced to `cols`; the other columns are zero.
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
    # The columns that are written to each row, joined over all rows along `axes`.
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
        axes = eqn.params["dimension_numbers"].scatter_dims_to_operand_dims
        return _written(w, eqn, ins, 2, _indexed(w, eqn, ins, axes, scatter_places), replace, sign)

    return rule


def scatter_mul(w: Any, eqn: Any, ins: Sequence) -> list:
    if is_tangent(ins[2]):
        return blocked(w, eqn, ins, None)
    t = as_slots(w.tape, ins[0], w.n)  # every element stays where it is, some of them times a factor
    shape, dtype = out_of(eqn)
    return [Slots(t.cols, apply(w, eqn, [t, *ins[1:]], [True, False, False])[0], shape, dtype)]


def dynamic_update_slice(w: Any, eqn: Any, ins: Sequence) -> list:
    wide, narrow = (a.aval.shape for a in eqn.invars[:2])
    return _written(w, eqn, ins, 1, _started(w, ins[2 : 2 + len(wide)], wide, narrow), True)
