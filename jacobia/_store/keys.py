"""A NumPy key, taken apart: which rows and columns it needs, and how to put the result together.

Knows keys and index arithmetic. Knows nothing of derivatives. The axes of a view fall into parts (batch,
rows, columns; in another order for a transpose), and a key asks for flat numbers in each part.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer
from jacobia._store.shown import instead, show


class Part:
    """The axes of one part, and the flat number of each of its places."""

    def __init__(self, role: str, shape: tuple[int, ...], reverse: bool = False):
        self.role = role  # "batch", "rows" or "columns"
        self.natural = shape
        self.shape = shape[::-1] if reverse else shape
        self.reverse = reverse
        self.size = math.prod(shape)

    @cached_property
    def numbers(self) -> np.ndarray:
        ids = np.arange(self.size).reshape(self.natural)
        return ids.T if self.reverse else ids


ROLES = ("batch", "rows", "columns")


class Pick(NamedTuple):
    """What a key asks for. `ids[k]` are flat numbers in part k; None: all of it, in order."""

    ids: tuple[Any, ...]
    whole: tuple[bool, ...]  # per part: whether the key asks for all of it
    outer: bool  # the outer product of the parts; otherwise point by point, each of `shape`
    shape: tuple[int, ...]  # of the result


class Axes:
    """The parts of a view side by side: all its axes."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        self.shape: tuple[int, ...] = sum((p.shape for p in parts), ())

    @cached_property
    def probe(self) -> np.ndarray:
        """An array of this shape whose elements take no bytes: to index it gives the shape, or the error, of a key."""
        return np.broadcast_to(np.zeros((), np.dtype([])), self.shape)


def is_all(key: Any, ndim: int) -> bool:
    """Whether a key is `...` or `:`, or a tuple of them that fits `ndim` axes."""
    keys = key if type(key) is tuple else (key,)
    dots = [k is Ellipsis for k in keys]
    full = all(d or (type(k) is slice and k == slice(None)) for k, d in zip(keys, dots, strict=True))
    return full and sum(dots) <= 1 and len(keys) - sum(dots) <= ndim


def pick(key: Any, axes: Axes) -> Pick:
    """Read a key as NumPy would.

    Raises:
      IndexError: what NumPy would raise for this key on an array of this shape.
    """
    items = [_item(k) for k in key] if isinstance(key, tuple) else [_item(key)]
    if any(isinstance(k, Tracer) for k in items):
        return _traced(items, axes)
    out_shape = shape_of(tuple(items), axes)
    entries = _per_axis(items, len(axes.shape))
    split = _by_part(entries, axes.parts)
    if _separable(entries, split):
        return Pick(tuple(_sub(p, own) for p, own in split), tuple(_is_whole(own) for _, own in split), True, out_shape)
    ids = _points(entries, axes)
    return Pick(tuple(np.broadcast_to(i, out_shape) for i in ids), (False,) * len(axes.parts), False, out_shape)


def shape_of(items: tuple, axes: Axes) -> tuple[int, ...]:
    """The shape that a concrete key gives.

    Raises:
      IndexError, TypeError, ValueError: what NumPy would raise for this key on an array of this shape.
    """
    try:
        return axes.probe[items].shape
    except IndexError as error:
        hint = "A view is indexed like a NumPy array of its shape"
        if any(isinstance(k, np.ndarray) and k.dtype.kind == "f" for k in items):
            hint = "Write key.astype(int) for numbers, or a mask, such as key > 0"
        raise IndexError(
            f"J[{show(items)}]: expected a key for shape {axes.shape}, got one that NumPy rejects: {error}. {hint}."
        ) from None
    except (TypeError, ValueError) as error:
        ends = [e for k in items if isinstance(k, slice) for e in (k.start, k.stop, k.step)]
        if any(isinstance(e, Tracer) for e in ends):
            raise IndexError(
                "J[a:b]: expected numbers in a slice, got traced ones, so that the result has no shape. Write "
                "J[a + jax.numpy.arange(n)] for n rows from a on."
            ) from None
        hint = " Write n // 2 in place of n / 2." if any(isinstance(e, (float, np.floating)) for e in ends) else ""
        raise type(error)(
            f"J[{show(items)}]: expected integers or None in slices, and steps other than 0, got what NumPy rejects: "
            f"{str(error).rstrip('.')}.{hint}"
        ) from None


def _points(entries: list, axes: Axes) -> list:
    # Any key, point by point: for each part the flat number at each place of the result, in a shape that broadcasts to
    # that of the result. NumPy's rule: integers and arrays are one group, whose axes stand where the group stands, or
    # in front if something stands between its members.
    advanced = [_is_array(k) or isinstance(k, int) for k in entries]
    first, last = advanced.index(True), len(advanced) - advanced[::-1].index(True)
    shapes = [(int(k),) if _is_flag(k) else np.shape(k) for k, a in zip(entries, advanced, strict=True) if a]
    group, apart = len(np.broadcast_shapes(*shapes)), not all(advanced[first:last])
    ndim = group + sum(not (a or k is Ellipsis) for k, a in zip(entries, advanced, strict=True))
    axis = group if apart else 0
    end = group  # where the axes of the group end in the result
    sizes, coordinates = iter(axes.shape), []
    for n, (k, a) in enumerate(zip(entries, advanced, strict=True)):
        if n == first and not apart:
            axis = end = axis + group
        if _has_axis(k):
            ramp = np.arange(next(sizes))
            along = jnp.asarray(ramp)[k] if isinstance(k, Tracer) else ramp[k]
            coordinates.append(along.reshape(along.shape + (1,) * (ndim - (end if a else axis + 1))))
        axis += not (a or k is Ellipsis)
    places = iter(coordinates)
    return [_flat_numbers(part, [next(places) for _ in part.shape]) for part in axes.parts]


def _flat_numbers(part: Part, coordinates: list) -> Any:
    xp = jnp if any(isinstance(c, jax.Array) for c in coordinates) else np
    return xp.asarray(part.numbers)[tuple(coordinates)]


# An index array of more bytes is not worth comparing.
_MOST = 1 << 14


def token(key: Any) -> Any:
    """A hashable value that only keys with the same meaning share; None: this key has none, or is invalid."""
    if not isinstance(key, tuple):
        return _token(key)
    own = tuple(map(_token, key))
    return None if None in own else own


def _token(k: Any) -> Any:
    kind = type(k)
    if kind is int or k is Ellipsis:
        return k
    if kind is slice:
        ends = (k.start, k.stop, k.step)
        return ("slice", *ends) if all([e is None or type(e) is int for e in ends]) else None
    if k is None:
        return "new axis"
    if isinstance(k, np.integer) and not isinstance(k, np.timedelta64):
        return int(k)
    if isinstance(k, (list, tuple, np.ndarray, jax.Array)):
        a = np.asarray(k)
        small = a.dtype.kind in "iub" and a.nbytes <= _MOST
        return ("array", a.dtype.str, a.shape, a.tobytes()) if small else None
    return None


def concrete(key: Any) -> tuple | None:
    """A key as NumPy takes it; None: a part of it is traced."""
    items = tuple(map(_item, key)) if isinstance(key, tuple) else (_item(key),)
    return None if any(isinstance(k, Tracer) for k in items) else items


def _item(k: Any) -> Any:
    if type(k) is int or type(k) is slice:
        return k
    if k is None or k is Ellipsis or isinstance(k, (slice, Tracer)):
        return k
    if isinstance(k, (bool, np.bool_)):
        return np.asarray(k)
    if isinstance(k, (list, tuple, range, np.ndarray, jax.Array)):
        a = np.asarray(k)
        if a.ndim == 0 and a.dtype.kind != "b":
            return _index(a)
        return a.astype(int) if a.size == 0 and isinstance(k, (list, tuple, range)) else a  # NumPy reads [] as integers
    return _index(k)


def _index(k: Any) -> int:
    try:
        return k.__index__()
    except (AttributeError, TypeError):
        raise IndexError(
            f"J[{show(k)}]: expected integers, slices, `...`, None, integer or boolean arrays, got "
            f"{type(k).__name__}. {instead(k)}."
        ) from None


def _is_array(k: Any) -> bool:
    return isinstance(k, (np.ndarray, Tracer))


def _per_axis(items: list, ndim: int) -> list:
    # Masks become one index array per axis; `...` becomes slices; missing axes get full slices. A `...` for no axes
    # stays: for NumPy it separates the arrays on its two sides.
    flat: list = []
    for k in items:
        if isinstance(k, np.ndarray) and k.dtype == bool and k.ndim:
            flat += np.unravel_index(np.flatnonzero(k), k.shape)  # for several axes faster than np.nonzero
        else:
            flat.append(k)
    taken = sum(k is not None and k is not Ellipsis and not _is_flag(k) for k in flat)
    fill = [slice(None)] * (ndim - taken)
    if Ellipsis in [k for k in flat if not _is_array(k)]:
        at = next(n for n, k in enumerate(flat) if k is Ellipsis)
        return flat[:at] + (fill or [...]) + flat[at + 1 :]
    return flat + fill


def _is_flag(k: Any) -> bool:
    return isinstance(k, np.ndarray) and k.ndim == 0 and k.dtype == bool


def _has_axis(k: Any) -> bool:
    # Whether an entry of a key belongs to an axis of the view.
    return not (k is None or k is Ellipsis or _is_flag(k))


def _by_part(entries: list, parts: Sequence[Part]) -> list[tuple[Part, list]]:
    out, at = [], 0
    for n, part in enumerate(parts):
        own, axes = [], 0
        while at < len(entries) and (axes < len(part.shape) or n == len(parts) - 1 or not _has_axis(entries[at])):
            if _has_axis(entries[at]):
                if axes == len(part.shape):
                    break
                axes += 1
            own.append(entries[at])
            at += 1
        out.append((part, own))
    return out


def _separable(entries: list, split: list[tuple[Part, list]]) -> bool:
    # Whether indexing each part alone and taking the outer product gives what NumPy gives.
    if not any(map(_is_array, entries)):
        return True
    if any(map(_is_flag, entries)):
        return False
    owners = [n for n, (_, own) in enumerate(split) if any(_is_array(k) or isinstance(k, int) for k in own)]
    if len(owners) > 1:
        return False
    if owners[0] == 0:
        return True
    marks = [_is_array(k) or isinstance(k, int) for k in entries]
    first, last = marks.index(True), len(marks) - marks[::-1].index(True)
    return all(marks[first:last])  # if separated, NumPy puts their axes in front of everything


def _is_whole(own: list) -> bool:
    return all(k is None or k is Ellipsis or (isinstance(k, slice) and k == slice(None)) for k in own)


def _sub(part: Part, own: list) -> np.ndarray | None:
    if _is_whole(own) and (not part.reverse or len(part.shape) < 2):
        return None
    return part.numbers[tuple(own)]


def _traced(items: list, axes: Axes) -> Pick:
    # Traced integers: numbers are looked up with jnp, which wraps negatives and clamps.
    for k in items:
        if isinstance(k, Tracer) and not np.issubdtype(k.dtype, np.integer):
            hint = "Write key.astype(int)"
            if k.dtype == bool:
                hint = "A mask can't be traced: build it outside of jit, or write jax.numpy.where"
            raise IndexError(f"J[...]: expected integers in a traced index, got {k.dtype}. {hint}.")
    # With zeros in place of traced indices the key has the same form; scalars stay scalars.
    forms = [(np.zeros(k.shape, int) if k.ndim else 0) if isinstance(k, Tracer) else k for k in items]
    form = pick(tuple(forms), axes)
    entries = _per_axis(items, len(axes.shape))
    if not form.outer:
        return Pick(tuple(_points(entries, axes)), form.whole, False, form.shape)
    ids = []
    for n, (part, own) in enumerate(_by_part(entries, axes.parts)):
        traced = any(isinstance(k, Tracer) for k in own)
        ids.append(jnp.asarray(part.numbers)[tuple(own)] if traced else form.ids[n])
    return Pick(tuple(ids), form.whole, True, form.shape)


class Asked(NamedTuple):
    """What a key asks for, by role ("batch", "rows", "columns"): distinct numbers, and where the result has them."""

    choice: Pick
    ids: dict[str, Any]  # as in the choice
    numbers: dict[str, Any]  # distinct ones, sorted (traced ones as they are); None: all
    places: dict[str, Any]  # among `numbers`, shaped as in the key; None: each once, in order

    def among(self, held: dict[str, Any]) -> dict[str, Any]:
        """Places in an array that holds, for each role, the requested numbers or (None in `held`) all numbers."""
        whole = {r for r, n in self.numbers.items() if n is None}
        return {r: self.places[r] if r in whole or held.get(r) is not None else self.ids[r] for r in ROLES}


def asked(key: Any, axes: Axes) -> Asked:
    """The distinct numbers that a key asks for.

    Raises:
      IndexError: what NumPy would raise for this key on an array of this shape.
    """
    found = _by_axis(key if type(key) is tuple else (key,), axes)
    if found is not None:
        return found
    choice = pick(key, axes)
    ids, numbers, places = {}, {}, {}
    for part, own, whole in zip(axes.parts, choice.ids, choice.whole, strict=True):
        role = part.role
        ids[role] = own
        numbers[role], places[role] = (None, own) if own is None or whole else _distinct(own, choice.outer)
        if numbers[role] is not None and not isinstance(own, jax.Array) and numbers[role].size == part.size:
            numbers[role], places[role] = None, None if places[role] is None else own
    return Asked(choice, ids, numbers, places)


def _by_axis(items: tuple, axes: Axes) -> Asked | None:
    # A fast path for parts of one axis each, and keys of integers and slices, or of slices and one index array: what
    # `pick` and `_distinct` find, in a third of the time. None: the key is another one.
    at, shape = 0, ()
    kinds = [type(k) for k in items]
    if type(...) in kinds:
        dots = kinds.index(type(...))
        items = items[:dots] + (_EVERYTHING,) * (len(axes.shape) - len(items) + 1) + items[dots + 1 :]
    alone = int not in kinds  # beside an index array, an integer is an index array too
    ids, numbers, places = {}, {}, {}
    for part in axes.parts:
        role, size = part.role, part.size
        own = many = order = None
        if part.shape:
            if len(part.shape) > 1:
                return None
            item = items[at] if at < len(items) else _EVERYTHING
            at += 1
            if type(item) is int:
                if not -size <= item < size:
                    return None
                if size > 1:
                    item %= size
                    many = part.numbers[item : item + 1]
                    own = many.reshape(())
            elif type(item) is slice:
                if item != _EVERYTHING:
                    try:
                        own = part.numbers[item]
                    except (TypeError, ValueError):
                        return None
                    forward = own.size < 2 or own[1] > own[0]
                    many = own if forward else own[::-1]
                    if many.size == size:
                        many, own = None, None if forward else own
                    if not forward:
                        order = own if many is None else part.numbers[: many.size][::-1]
                shape += (len(range(size)[item]),)
            elif alone and isinstance(item, (list, np.ndarray, jax.Array)) and not isinstance(item, Tracer):
                own = _lines(item, size)
                if own is None:
                    return None
                alone = False
                many, order = _distinct(own, True)
                if many.size == size:
                    many, order = None, None if order is None else own
                shape += own.shape
            else:
                return None
        ids[role], numbers[role], places[role] = own, many, order
    if at < len(items):
        return None
    every = tuple(own is None for own in ids.values())
    return Asked(Pick(tuple(ids.values()), every, True, shape), ids, numbers, places)


_EVERYTHING = slice(None)


def _lines(item: Any, size: int) -> np.ndarray | None:
    # A vector of integers, or a mask, as numbers from 0; None: it is another array, or empty, or out of range.
    a = np.asarray(item)
    if a.ndim != 1 or a.size == 0:
        return None
    if a.dtype == bool:
        found = np.flatnonzero(a) if a.size == size else a
        return found if found.dtype != bool and found.size else None
    if a.dtype.kind not in "iu":
        return None
    first, last = int(a.min()), int(a.max())
    if first < -size or last >= size:
        return None
    a = a.astype(int)  # a small integer type may not hold a + size
    return np.where(a < 0, a + size, a) if first < 0 else a


def _distinct(ids: Any, outer: bool) -> tuple[Any, Any]:
    flat = ids.reshape(-1)
    if isinstance(ids, jax.Array):
        return flat, jnp.arange(ids.size).reshape(ids.shape)
    if flat.size == 1 or (flat[1:] > flat[:-1]).all():
        return flat, None if outer else np.arange(flat.size).reshape(ids.shape)
    if flat.size > _FEW_NUMBERS:
        numbers, inverse = np.unique(flat, return_inverse=True)
        return numbers, inverse.reshape(ids.shape)
    given = flat.tolist()
    found = sorted(set(given))
    place = dict(zip(found, range(len(found)), strict=True))
    return np.array(found), np.array([place[k] for k in given]).reshape(ids.shape)


# Up to this many numbers are sorted faster by Python than by NumPy.
_FEW_NUMBERS = 64
