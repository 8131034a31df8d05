"""Columns of slots as arrays: merged, joined, compared, looked up in other slots.

Knows NumPy arrays. Knows nothing of values, tangents or operations.
Shapes: N inputs, K slots, S the shape of a tangent; columns are (K, *S), N in an element that has none.
"""

import math
from collections.abc import Sequence

import numpy as np

from jacobia._program.columns.room import check_columns

# A mask of up to this many elements may be a constant of a program.
_SMALL = 256

# Up to this many slots are compared one by one; more are brought to common columns.
FEW = 64

# Most entries of a table in which slots are looked up.
_TABLE = 1 << 22


def unused(cols: np.ndarray, n: int) -> np.ndarray:
    """Which slots no element uses.

    >>> unused(np.array([[0, 5], [5, 5]]), 5).tolist()  # two elements with two slots each; 5 is no column
    [False, True]
    """
    return np.all(cols >= n, axis=tuple(range(1, cols.ndim)))


def tight(cols: np.ndarray) -> np.ndarray:
    """The same columns, with length 1 along axes where they do not change; compares the ends of an axis first.

    >>> tight(np.array([[[1, 1, 1], [2, 2, 2]]])).tolist()  # one slot of a tangent of shape (2, 3)
    [[[1], [2]]]
    """
    for axis in range(1, cols.ndim):
        if cols.shape[axis] > 1:
            first = np.take(cols, [0], axis)
            ends = np.take(cols, [-1], axis)
            if np.array_equal(first, ends) and (cols == first).all():
                cols = first
    return cols


def _agree(a: np.ndarray, b: np.ndarray, n: int) -> bool:
    """Whether one slot can hold both: wherever both are used they are the same column.

    >>> _agree(np.array([0, 5]), np.array([5, 1]), 5), _agree(np.array([0, 1]), np.array([0, 2]), 5)
    (True, False)
    """
    return bool(((a == b) | (a >= n) | (b >= n)).all())


def sample(cols: np.ndarray) -> np.ndarray:
    """A few elements, among them the ends of every axis: most slots that differ do so in one of these.

    >>> sample(np.arange(9)[None]).tolist()  # one slot of nine elements
    [[0, 1, 3, 4, 7, 8]]
    """
    for axis in range(1, cols.ndim):
        length = cols.shape[axis]
        if length > 6:
            cols = np.take(cols, [0, 1, length // 3, length // 2, length - 2, length - 1], axis)
    return cols


def merge(cols: Sequence[np.ndarray], n: int) -> tuple[list[np.ndarray], list[int]]:
    """Merge slots that never have different columns in one element.

    Args:
      cols: one array per slot, which broadcast against each other.

    Returns:
      The columns of the new slots, and for each old slot its place among them.

    >>> made, places = merge([np.array([0, 5]), np.array([2, 3]), np.array([5, 1])], 5)
    >>> [m.tolist() for m in made], places
    ([[0, 1], [2, 3]], [0, 1, 0])
    """
    made: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    places = []
    for c in cols:
        few = sample(c[None])[0]
        place = None
        for exact in (True, False):  # a slot with the very same columns is better than one that has room
            for k, (other, known) in enumerate(zip(made, samples, strict=True)):
                same = np.array_equal(known, few) if exact else _agree(known, few, n)
                if same and (np.array_equal(other, c) if exact else _agree(other, c, n)):
                    place = k
                    break
            if place is not None:
                break
        if place is None:
            place = len(made)
            made.append(c)
            samples.append(few)
        elif made[place] is not c:
            if not np.array_equal(made[place], c):
                made[place] = np.minimum(made[place], c)
                samples[place] = sample(made[place][None])[0]
        places.append(place)
    return made, places


def stacked(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of single slots as one array.

    >>> stacked([np.array([4]), np.array([0, 1])]).tolist()
    [[4, 4], [0, 1]]
    """
    if not planes:
        return np.zeros((0,), np.int32)
    check_columns(len(planes), np.broadcast_shapes(*(p.shape for p in planes)))
    return np.stack(np.broadcast_arrays(*planes))


def union(many: Sequence[np.ndarray], n: int) -> np.ndarray:
    """For every element all columns of several arrays `(K, *S)`, each once.

    >>> union([np.array([[0, 1]]), np.array([[1, 1], [2, 5]])], 5).tolist()
    [[0, 1], [1, 5], [2, 5]]
    """
    many = [c for c in many if len(c)]
    slots = [plane for c in many for plane in c]
    found = _slot_by_slot(slots, n)
    if found is not None:
        return found
    shape = np.broadcast_shapes(*(c.shape[1:] for c in many))
    check_columns(len(slots), shape)
    return distinct(np.concatenate([np.broadcast_to(c, (len(c), *shape)) for c in many]), n)


def _slot_by_slot(slots: Sequence[np.ndarray], n: int) -> np.ndarray | None:
    """The union in the order of the slots, if that takes no more slots: each old slot then stays in one new slot.

    >>> _slot_by_slot([np.array([3, 4]), np.array([0, 1]), np.array([3, 5])], 5).tolist()
    [[3, 4], [0, 1]]
    """
    if len(slots) > FEW:
        return None
    samples = [sample(np.broadcast_to(s, np.broadcast_shapes(*(t.shape for t in slots)))[None])[0] for s in slots]
    least = len(distinct(np.stack(samples), n))
    if len(merge(samples, n)[0]) > least:
        return None
    made, _ = merge(slots, n)
    if len(made) > least or any(_meet(a, b, n) for k, a in enumerate(made) for b in made[:k]):
        return None
    return stacked(made)


def _meet(a: np.ndarray, b: np.ndarray, n: int) -> bool:
    """Whether an element has the same column in both.

    >>> _meet(np.array([0, 1]), np.array([2, 1]), 5), _meet(np.array([0, 5]), np.array([2, 5]), 5)
    (True, False)
    """
    return bool(((a == b) & (a < n)).any())


def distinct(cols: np.ndarray, n: int) -> np.ndarray:
    """For every element its columns sorted, each once; as few slots as that takes.

    >>> distinct(np.array([[3, 2], [0, 2], [3, 5]]), 5).tolist()
    [[0, 2], [3, 5]]
    """
    if len(cols) > 1:
        cols = np.sort(cols, axis=0)
        again = cols[1:] == cols[:-1]
        if again.any():
            cols[1:][again] = n
            cols = np.sort(cols, axis=0)
    keep = int((~unused(cols, n)).sum()) if cols.size else 0
    return cols[:keep]


def union_along(cols: np.ndarray, shape: tuple[int, ...], axes: Sequence[int], n: int) -> np.ndarray:
    """The columns of all elements along some axes, which have length 1 in the result.

    >>> union_along(np.array([[[0, 1], [2, 1]]]), (2, 2), [0], 5).tolist()  # one slot of a tangent of shape (2, 2)
    [[[0, 1]], [[2, 5]]]
    """
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
    """Whether any element has a column twice.

    >>> repeats(np.array([[0, 1], [2, 1]]), 5), repeats(np.array([[0, 5], [2, 5]]), 5)
    (True, False)
    """
    ordered = np.sort(cols, axis=0)
    return bool(((ordered[1:] == ordered[:-1]) & (ordered[1:] < n)).any())


def sources(old: np.ndarray, new: np.ndarray, shape: tuple[int, ...], n: int) -> np.ndarray:
    """For each new slot of each element the old slot with the same column; -1: none.

    >>> sources(np.array([[0, 1]]), np.array([[1, 1], [0, 5]]), (2,), 5).tolist()
    [[-1, 0], [0, -1]]
    """
    check_columns(len(new), shape)
    source = np.full((len(new), *shape), -1, np.int32)
    if len(old) * len(new) <= n:
        for k, own in enumerate(old):
            source[np.broadcast_to((own == new) & (new < n), source.shape)] = k
        return source
    flat, size = source.reshape(len(new), -1), math.prod(shape)
    old, new = (np.broadcast_to(c, (len(c), *shape)).reshape(len(c), -1) for c in (old, new))
    # Looked up in a table of all columns, for some elements at a time.
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


def masks(old: np.ndarray, new: np.ndarray, n: int) -> list[list[tuple[int, np.ndarray | None]]] | None:
    """For each new slot the old slots that go into it, and where (None: everywhere); None if masks would be large.

    >>> ((k, where),), none = masks(np.array([[0, 1]]), np.array([[0, 2], [3, 3]]), 5)
    >>> k, where.tolist(), none
    (0, [True, False], [])
    """
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
