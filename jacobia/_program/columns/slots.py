"""An intermediate of the structured walk: a tangent held as its own Jacobian.

`Slots`: the few inputs that each element depends on. `Parts`: a sum of such, each written to some elements of the
whole, for elements that depend on very different numbers of inputs. Dense is no third form: it is N slots with the
same columns everywhere.
Knows columns (NumPy arrays, known while walking) and names of values. Knows no operations.
Shapes: N inputs, K slots, S the shape of the tangent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._program.columns.room import Extent, check_columns
from jacobia._program.columns.tape import APART, Last, Planes, Tape, slots_first, slots_last

# An array of this size may be a constant of a program.
_SMALL = 256

# So many slots are told apart one by one; more are brought to common columns.
FEW = 64

# Entries of a table by which slots are looked up.
_TABLE = 1 << 22

# Elements of very different width are held as parts where one array would be this many times larger.
UNEVEN = 2


@dataclass(frozen=True, eq=False)
class Slots:
    """Each element depends on at most K inputs."""

    cols: np.ndarray  # int32 (K, *S), an axis of length 1 where all elements have the same; N: none
    vals: int | None  # the name of the values (K, *S), zero where there is no column; None: ones
    shape: tuple[int, ...]
    dtype: Any

    @property
    def width(self) -> int:
        return len(self.cols)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def extent(self) -> Extent:
        """Of the values."""
        count = self.width * self.size
        return Extent(count * np.dtype(self.dtype).itemsize, self.width, self.size)

    def full_cols(self) -> np.ndarray:
        check_columns(self.width, self.shape)
        return np.broadcast_to(self.cols, (self.width, *self.shape))

    def constant_along(self, axes: Sequence[int]) -> bool:
        """Whether elements that differ in these axes only have the same columns."""
        return all(self.cols.shape[a + 1] == 1 for a in axes)


@dataclass(frozen=True, eq=False)
class Parts:
    """A sum: element `rows[e]` of the whole gets element `e` of a term, all in flat order; -1: no element gets it."""

    terms: list[tuple[Slots, np.ndarray]]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def nothing(shape: tuple[int, ...], dtype: Any) -> Slots:
    """A tangent that is zero."""
    return Slots(np.zeros((0, *[1] * len(shape)), np.int32), None, shape, dtype)


def values(tape: Tape, t: Slots, n: int) -> int:
    """The name of the values (K, *S)."""
    name = t.vals if t.vals is not None else _ones(tape, t, n)
    tape.extents[name] = t.extent
    return name


def _ones(tape: Tape, t: Slots, n: int) -> int:
    shape, dtype = (t.width, *t.shape), t.dtype
    if (t.cols < n).all():
        if 0 < t.width <= APART:
            return tape.step(lambda: Planes([jnp.ones(shape[1:], dtype)] * shape[0]))
        return tape.step(lambda: jnp.ones(shape, dtype))
    return tape.step(lambda cols: jnp.broadcast_to(cols < n, shape).astype(dtype), tape.array(t.cols))


def unused(cols: np.ndarray, n: int) -> np.ndarray:
    """Which slots no element uses."""
    return np.all(cols >= n, axis=tuple(range(1, cols.ndim)))


def tight(cols: np.ndarray) -> np.ndarray:
    """The same columns with axes of length 1 where nothing changes along them; looks at a few elements first."""
    for axis in range(1, cols.ndim):
        if cols.shape[axis] > 1:
            first = np.take(cols, [0], axis)
            ends = np.take(cols, [-1], axis)
            if np.array_equal(first, ends) and (cols == first).all():
                cols = first
    return cols


def select(tape: Tape, t: Slots, which: np.ndarray, n: int) -> Slots:
    """Some of the slots, in this order."""
    if len(which) == t.width and np.array_equal(which, np.arange(t.width)):
        return t
    pick = tuple(int(k) for k in which)
    contiguous = bool(pick) and pick == tuple(range(pick[0], pick[-1] + 1))

    def taken(v: Any) -> Any:
        if isinstance(v, Planes):
            return Planes([v[k] for k in pick])
        if isinstance(v, Last):
            return Last(v.array[..., np.array(pick, np.int32)])
        return v[pick[0] : pick[-1] + 1] if contiguous else v[np.array(pick, np.int32)]

    return Slots(t.cols[list(pick)], tape.step(taken, values(tape, t, n), apart=bool(pick)), t.shape, t.dtype)


def _agree(a: np.ndarray, b: np.ndarray, n: int) -> bool:
    # One slot can hold both: wherever both are used they are the same column.
    return bool(((a == b) | (a >= n) | (b >= n)).all())


def _sample(cols: np.ndarray) -> np.ndarray:
    # A few elements, among them the ends of every axis: most slots that differ are told apart by these.
    for axis in range(1, cols.ndim):
        length = cols.shape[axis]
        if length > 6:
            cols = np.take(cols, [0, 1, length // 3, length // 2, length - 2, length - 1], axis)
    return cols


def merge(cols: Sequence[np.ndarray], n: int) -> tuple[list[np.ndarray], list[int]]:
    """Put slots that can share a place together.

    Args:
      cols: one array per slot, which broadcast against each other.

    Returns:
      The columns of the new slots, and for each old slot its place among them.
    """
    made: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    places = []
    for c in cols:
        sample = _sample(c[None])[0]
        place = None
        for exact in (True, False):  # a slot with the very same columns is better than one that has room
            for k, (other, known) in enumerate(zip(made, samples, strict=True)):
                same = np.array_equal(known, sample) if exact else _agree(known, sample, n)
                if same and (np.array_equal(other, c) if exact else _agree(other, c, n)):
                    place = k
                    break
            if place is not None:
                break
        if place is None:
            place = len(made)
            made.append(c)
            samples.append(sample)
        elif made[place] is not c:
            if not np.array_equal(made[place], c):
                made[place] = np.minimum(made[place], c)
                samples[place] = _sample(made[place][None])[0]
        places.append(place)
    return made, places


def stacked(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of single slots as one array."""
    if not planes:
        return np.zeros((0,), np.int32)
    check_columns(len(planes), np.broadcast_shapes(*(p.shape for p in planes)))
    return np.stack(np.broadcast_arrays(*planes))


def sum_of(tape: Tape, terms: Sequence[Slots], n: int) -> Slots:
    """The sum of tangents of one shape."""
    shape, dtype = terms[0].shape, terms[0].dtype
    terms = [t for t in terms if t.width]
    if not terms:
        return nothing(shape, dtype)
    if len(terms) == 1:
        return terms[0]
    if all(t.cols is terms[0].cols or np.array_equal(t.cols, terms[0].cols) for t in terms[1:]):
        planes, made = [(k, i) for k in range(len(terms)) for i in range(terms[0].width)], list(terms[0].cols)
        places = [i for _, i in planes]
        return added(tape, terms, planes, made, places, n)
    if _share_columns(terms, n) or sum(t.width for t in terms) > FEW:
        common = union([t.cols for t in terms], n)
        return sum_of(tape, [aligned(tape, t, common, n) for t in terms], n)
    planes = [(k, i) for k, t in enumerate(terms) for i in range(t.width)]
    made, places = merge([terms[k].cols[i] for k, i in planes], n)
    return added(tape, terms, planes, made, places, n)


def added(tape: Tape, terms: Sequence[Slots], planes: list, made: list, places: Sequence[int], n: int) -> Slots:
    """The sum of tangents slot by slot: `places` says to which of the new slots `made` each (term, slot) goes."""
    sources: list[list[tuple[int, int]]] = [[] for _ in made]
    for plane, place in zip(planes, places, strict=True):
        sources[place].append(plane)

    same = len(made) > APART and all(set(s) == {(k, i) for k in range(len(terms))} for i, s in enumerate(sources))

    def add(*vals: Any) -> Any:
        if same and any(isinstance(v, Last) for v in vals):
            return Last(sum(map(slots_last, vals[1:]), slots_last(vals[0])))
        if same:
            return sum(map(slots_first, vals[1:]), slots_first(vals[0]))
        vals = tuple(slots_first(v) if isinstance(v, Last) else v for v in vals)
        out = [sum((vals[k][i] for k, i in rest), vals[k0][i0]) for (k0, i0), *rest in sources]
        return Planes(out) if len(out) <= APART else jnp.stack(out)

    name = tape.step(add, *(values(tape, t, n) for t in terms), apart=True)
    return Slots(stacked(made), name, terms[0].shape, terms[0].dtype)


def _share_columns(terms: Sequence[Slots], n: int) -> bool:
    # Whether one element has a column in two of them that are at different places; seen in a few elements.
    wide = max(t.width for t in terms)
    if wide <= 1:
        return False
    shape = np.broadcast_shapes(*(t.cols.shape[1:] for t in terms))
    if sum(t.width for t in terms) <= FEW:
        planes = [np.broadcast_to(c, shape) for t in terms for c in t.cols]
        made, _ = merge([_sample(p[None])[0] for p in planes], n)
        several = np.stack(np.broadcast_arrays(*made))
        return len(distinct(several, n)) < len(made)
    return True


def union(many: Sequence[np.ndarray], n: int) -> np.ndarray:
    """For every element all columns of several arrays `(K, *S)`, each once."""
    many = [c for c in many if len(c)]
    slots = [plane for c in many for plane in c]
    found = _slot_by_slot(slots, n)
    if found is not None:
        return found
    shape = np.broadcast_shapes(*(c.shape[1:] for c in many))
    check_columns(len(slots), shape)
    return distinct(np.concatenate([np.broadcast_to(c, (len(c), *shape)) for c in many]), n)


def _slot_by_slot(slots: Sequence[np.ndarray], n: int) -> np.ndarray | None:
    # In the order of the slots, where that takes no more of them: the same slot everywhere needs no search later.
    if len(slots) > FEW:
        return None
    samples = [_sample(np.broadcast_to(s, np.broadcast_shapes(*(t.shape for t in slots)))[None])[0] for s in slots]
    least = len(distinct(np.stack(samples), n))
    if len(merge(samples, n)[0]) > least:
        return None
    made, _ = merge(slots, n)
    if len(made) > least or any(_meet(a, b, n) for k, a in enumerate(made) for b in made[:k]):
        return None
    return stacked(made)


def _meet(a: np.ndarray, b: np.ndarray, n: int) -> bool:
    # Whether an element has the same column in both.
    return bool(((a == b) & (a < n)).any())


def distinct(cols: np.ndarray, n: int) -> np.ndarray:
    """For every element its columns sorted, each once; as few slots as that takes."""
    if len(cols) > 1:
        cols = np.sort(cols, axis=0)
        again = cols[1:] == cols[:-1]
        if again.any():
            cols[1:][again] = n
            cols = np.sort(cols, axis=0)
    keep = int((~unused(cols, n)).sum()) if cols.size else 0
    return cols[:keep]


def union_along(cols: np.ndarray, shape: tuple[int, ...], axes: Sequence[int], n: int) -> np.ndarray:
    """The columns of all elements along some axes, which have length 1 in the result."""
    move = [a + 1 for a in axes if cols.shape[a + 1] > 1]
    if not move:
        return cols
    rest = [a for a in range(1, cols.ndim) if a not in move]
    moved = cols.transpose([0, *move, *rest])
    moved = moved.reshape(-1, *(cols.shape[a] for a in rest))
    flat = _slot_by_slot(list(moved), n)
    flat = distinct(moved, n) if flat is None else flat
    return flat.reshape(len(flat), *(1 if a in move else cols.shape[a] for a in range(1, cols.ndim)))


def repeats(cols: np.ndarray, n: int) -> bool:
    """Whether any element has a column twice."""
    ordered = np.sort(cols, axis=0)
    return bool(((ordered[1:] == ordered[:-1]) & (ordered[1:] < n)).any())


def aligned(tape: Tape, t: Slots, cols: np.ndarray, n: int) -> Slots:
    """The same tangent with other columns, among which are all of its own."""
    if t.cols is cols or np.array_equal(t.cols, cols):
        return t
    if not t.width:
        shape, dtype = (len(cols), *t.shape), t.dtype
        return Slots(cols, tape.step(lambda: jnp.zeros(shape, dtype)), t.shape, t.dtype)
    vals = values(tape, t, n)
    wide = len(cols)
    if not wide:
        return nothing(t.shape, t.dtype)
    if t.constant_along(range(len(t.shape))) and all(k == 1 for k in cols.shape[1:]):
        old, new = t.cols.reshape(-1), cols.reshape(-1)
        used = np.flatnonzero(old < n)
        order = np.argsort(new, kind="stable")
        found = np.minimum(np.searchsorted(new[order], old[used]), wide - 1)
        there = new[order[found]] == old[used]  # of a loop's results more may be asked than it has
        used, places = used[there], order[found[there]].astype(np.int32)
        name = tape.step(
            lambda v, to, source: jnp.zeros((wide, *v.shape[1:]), v.dtype).at[to].add(v[source]),
            vals, tape.array(places), tape.array(used.astype(np.int32)),
        )  # fmt: skip
    elif (masks := _masks(t.cols, cols, n)) is not None:

        def chosen(v: Any) -> Any:
            v = slots_first(v) if isinstance(v, Last) else v
            like = v[0]
            out = []
            for own in masks:
                parts = [v[k] if m is None else jnp.where(m, v[k], jnp.zeros((), like.dtype)) for k, m in own]
                out.append(sum(parts[1:], parts[0]) if parts else jnp.zeros_like(like))
            return Planes(out) if wide <= APART else jnp.stack(out)

        name = tape.step(chosen, vals, apart=True)
    elif t.width <= 8 or wide <= 8 or repeats(t.cols, n):
        # As a comparison it stays inside the loops around it, where a gather would not.
        def compared(v: Any, old: Any, new: Any) -> Any:
            parts = [jnp.where(new == old[k], v[k], 0) for k in range(v.shape[0])]
            return sum(parts[1:], parts[0])

        name = tape.step(compared, vals, tape.array(t.cols), tape.array(cols))
    else:
        source = _sources(t.cols, cols, t.shape, n)
        name = tape.step(
            lambda v, s: jnp.where(s < 0, 0, jnp.take_along_axis(v, jnp.maximum(s, 0), axis=0)),
            vals, tape.array(source),
        )  # fmt: skip
    return Slots(cols, name, t.shape, t.dtype)


def _sources(old: np.ndarray, new: np.ndarray, shape: tuple[int, ...], n: int) -> np.ndarray:
    # For each new slot of each element the old one with its column; -1: none.
    check_columns(len(new), shape)
    source = np.full((len(new), *shape), -1, np.int32)
    if len(old) * len(new) <= n:
        for k, own in enumerate(old):
            source[np.broadcast_to((own == new) & (new < n), source.shape)] = k
        return source
    flat, size = source.reshape(len(new), -1), math.prod(shape)
    old, new = (np.broadcast_to(c, (len(c), *shape)).reshape(len(c), -1) for c in (old, new))
    # By a table of all columns, of some elements at a time.
    many = max(1, _TABLE // (n + 1))
    slots = np.arange(len(old), dtype=np.int32)[:, None]
    for start in range(0, size, many):
        some = slice(start, min(start + many, size))
        element = np.arange(some.stop - start)
        table = np.full((len(element), n + 1), -1, np.int32)
        table[element, old[:, some]] = slots
        table[:, n] = -1
        flat[:, some] = table[element, new[:, some]]
    return source


def _masks(old: np.ndarray, new: np.ndarray, n: int) -> list[list[tuple[int, np.ndarray | None]]] | None:
    # For each new slot the old ones that are in it somewhere, and where (None: everywhere), if that is easily said.
    if len(old) * len(new) > FEW:
        return None
    found: list[list[tuple[int, np.ndarray | None]]] = []
    for a in new:
        own: list[tuple[int, np.ndarray | None]] = []
        for k, b in enumerate(old):
            if not _meet(a, b, n):
                continue
            if ((a == b) | (b >= n)).all():
                own.append((k, None))
                continue
            mask = tight(((a == b) & (b < n))[None])[0]
            if mask.size > _SMALL:
                return None
            own.append((k, mask))
        found.append(own)
    return found
