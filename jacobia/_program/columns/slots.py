"""An intermediate of the structured walk: a tangent held as its own Jacobian.

`Slots`: for each element the few inputs it depends on (columns), and the derivatives by them (values). `Parts`: a sum
of `Slots`, each written to some elements of the whole, for a tangent whose elements depend on very different numbers of
inputs. A dense tangent needs no third form: it is N slots with the same columns everywhere.
Knows columns (NumPy arrays, known while walking) and names of values. Knows no operations.
Shapes: N inputs, K slots, S the shape of the tangent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._program.columns.merging import FEW, distinct, masks, merge, repeats, sample, sources, stacked, union
from jacobia._program.columns.room import Extent, check_columns
from jacobia._program.columns.tape import APART, Last, Planes, Tape, slots_first, slots_last

# A tangent is held as parts if one array of slots would be more than this many times larger.
UNEVEN = 2


@dataclass(frozen=True, eq=False)
class Slots:
    """Each element depends on at most K inputs."""

    cols: np.ndarray  # int32 (K, *S), of length 1 along axes where columns do not change; N: no column
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
        """The size of the values."""
        count = self.width * self.size
        return Extent(count * np.dtype(self.dtype).itemsize, self.width, self.size)

    def full_cols(self) -> np.ndarray:
        check_columns(self.width, self.shape)
        return np.broadcast_to(self.cols, (self.width, *self.shape))

    def constant_along(self, axes: Sequence[int]) -> bool:
        """Whether the columns do not change along these axes."""
        return all(self.cols.shape[a + 1] == 1 for a in axes)


@dataclass(frozen=True, eq=False)
class Parts:
    """A sum of terms (slots, rows): element `e` of a term is added to element `rows[e]`, in flat order; -1: to none."""

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
    """The sum of tangents slot by slot: `planes[p]`, a (term, slot), is added to the new slot `made[places[p]]`."""
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
    # Whether an element has the same column in different slots of two terms; only a few elements are looked at.
    wide = max(t.width for t in terms)
    if wide <= 1:
        return False
    shape = np.broadcast_shapes(*(t.cols.shape[1:] for t in terms))
    if sum(t.width for t in terms) <= FEW:
        planes = [np.broadcast_to(c, shape) for t in terms for c in t.cols]
        made, _ = merge([sample(p[None])[0] for p in planes], n)
        several = np.stack(np.broadcast_arrays(*made))
        return len(distinct(several, n)) < len(made)
    return True


def aligned(tape: Tape, t: Slots, cols: np.ndarray, n: int) -> Slots:
    """The same tangent in slots of these columns, which must include its own."""
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
        there = new[order[found]] == old[used]  # a step of a loop may have columns that its carry never gets: skip them
        used, places = used[there], order[found[there]].astype(np.int32)
        name = _placed(tape, vals, places, used.astype(np.int32), wide)
    elif (where := masks(t.cols, cols, n)) is not None:

        def chosen(v: Any) -> Any:
            v = slots_first(v) if isinstance(v, Last) else v
            like = v[0]
            out = []
            for own in where:
                parts = [v[k] if m is None else jnp.where(m, v[k], jnp.zeros((), like.dtype)) for k, m in own]
                out.append(sum(parts[1:], parts[0]) if parts else jnp.zeros_like(like))
            return Planes(out) if wide <= APART else jnp.stack(out)

        name = tape.step(chosen, vals, apart=True)
    elif t.width <= 8 or wide <= 8 or repeats(t.cols, n):
        # A comparison is fused with its neighbors; a gather would not be.
        def compared(v: Any, old: Any, new: Any) -> Any:
            parts = [jnp.where(new == old[k], v[k], 0) for k in range(v.shape[0])]
            return sum(parts[1:], parts[0])

        name = tape.step(compared, vals, tape.array(t.cols), tape.array(cols))
    else:
        source = sources(t.cols, cols, t.shape, n)
        name = tape.step(
            lambda v, s: jnp.where(s < 0, 0, jnp.take_along_axis(v, jnp.maximum(s, 0), axis=0)),
            vals, tape.array(source),
        )  # fmt: skip
    return Slots(cols, name, t.shape, t.dtype)


def _placed(tape: Tape, vals: int, places: np.ndarray, used: np.ndarray, wide: int) -> int:
    # Slot `used[i]` becomes slot `places[i]` of `wide` slots; slots that meet are added up.
    if len(used) and (np.diff(places) == 1).all() and (np.diff(used) == 1).all():
        start, first, count = int(places[0]), int(used[0]), len(used)

        def padded(v: Any) -> Any:
            sides = [(start, wide - start - count, 0)] + [(0, 0, 0)] * (v.ndim - 1)
            return lax.pad(v[first : first + count], jnp.zeros((), v.dtype), sides)

        return tape.step(padded, vals)
    return tape.step(
        lambda v, to, source: jnp.zeros((wide, *v.shape[1:]), v.dtype).at[to].add(v[source]),
        vals, tape.array(places), tape.array(used),
    )  # fmt: skip
