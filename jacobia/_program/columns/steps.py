"""Loops whose steps differ: the columns of the carry after each step, and of the results of each step.

The counters known at each step (`counters`) tell which elements it reads. Many steps are walked at once, as if they
were samples, and their patterns are multiplied in the order of the loop.
Knows programs of steps, and columns. Knows no values and no single operation.
Shapes: N inputs, K slots.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jacobia._compat import eval_jaxpr
from jacobia._program.columns.apply import is_tangent
from jacobia._program.columns.closure import matrix_of
from jacobia._program.columns.counters import Loop
from jacobia._program.columns.merging import tight
from jacobia._program.columns.parts import columns_of, entries, parts_of
from jacobia._program.columns.room import TooWide, check_columns
from jacobia._program.known import Steps
from jacobia._program.walk import needed

# Most elements of the largest array: of the steps that are walked at once, and of all steps together.
_AT_ONCE, _IN_ALL = 1 << 20, 1 << 25
# For steps that carry tangents: most steps, and most words of 64 columns that are held, and that are read.
_STEPS, _HELD, _READ = 1 << 16, 1 << 24, 1 << 29


class Local:
    """What each step reads: entries by step, row and column, without carried elements that a step leaves unchanged.

    Rows are the elements of the tangents that a step returns, the carry first; columns are the elements that it reads.
    """

    def __init__(self, outs: Sequence, sizes: Sequence[int], carried: int, total: int, steps: int):
        (row, col), count = _entries(outs, sizes, total), sum(sizes)
        per_row = np.bincount(row, minlength=steps * count).reshape(steps, count)
        element = row % max(1, count)
        kept = (element == col) & (element < carried) & (per_row.reshape(-1)[row] == 1)
        key = np.unique(row[~kept] * max(1, total) + col[~kept])
        row, self._cols = np.divmod(key, max(1, total))
        first = np.flatnonzero(np.diff(row, prepend=-1))
        step, self._rows = np.divmod(row[first], max(1, count))
        self._starts, self._bounds = np.append(first, len(row)), np.searchsorted(step, np.arange(steps + 1))
        self._emptied = per_row[:, :carried] == 0
        self._steps = steps
        self.reads = len(self._cols) / steps  # per step

    def of(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For one step: rows, where the columns of each row begin, all columns, and carry elements that become zero."""
        k = step % self._steps  # one step may stand for all
        a, b = self._bounds[k : k + 2]
        begin, end = self._starts[a], self._starts[b]
        return self._rows[a:b], self._starts[a:b] - begin, self._cols[begin:end], np.flatnonzero(self._emptied[k])


def _entries(outs: Sequence, sizes: Sequence[int], total: int) -> tuple[np.ndarray, np.ndarray]:
    # Row and column of every entry of the results, with the rows of one step behind those of another; in any order.
    rows, cols, offset = [], [], 0
    for o, size in zip(outs, sizes, strict=True):
        if is_tangent(o):
            row, col = entries(parts_of(o))
            keep = (row >= 0) & (col < total)
            step, element = np.divmod(row[keep], size)
            rows.append(step.astype(np.int64) * sum(sizes) + element + offset)
            cols.append(col[keep].astype(np.int64))
        offset += size
    row, col = (np.concatenate([*a, np.zeros(0, np.int64)]) for a in (rows, cols))
    return row, col


def _walked_at_once(
    w: Any, loop: Loop, known: Sequence[Steps | None], at_once: int
) -> Iterator[tuple[np.ndarray, list]] | None:
    # Walks some steps at a time: yields their numbers, and the tangents that they return. None: steps can't be
    # vectorized, or are too large.
    jaxpr, own = loop.program
    part = needed(jaxpr, tuple(k for k, t in enumerate(loop.tangents) if t))
    axes = tuple(None if k is None else 0 for k in known)

    def traced(steps: int) -> Any:
        own_axis = jax.vmap(lambda *given: eval_jaxpr(part, own, *given), axes, axis_size=steps)
        leads = [() if k is None else (steps,) for k in known]
        avals = [v.aval for v in part.invars]
        return jax.make_jaxpr(own_axis)(
            *(jax.ShapeDtypeStruct(lead + a.shape, a.dtype) for lead, a in zip(leads, avals, strict=True))
        )

    assert loop.length is not None
    try:
        program = traced(loop.length)
    except NotImplementedError:  # an operation without a batching rule
        return None
    largest = max((v.aval.size for eqn in program.eqns for v in eqn.outvars), default=0)
    if largest > _IN_ALL:
        return None
    many = max(1, min(loop.length, loop.length * at_once // max(1, largest)))
    programs = {loop.length: program}

    def walked() -> Iterator[tuple[np.ndarray, list]]:
        for some_steps in np.split(loop.order, range(many, len(loop.order), many)):
            steps = len(some_steps)
            if steps not in programs:
                programs[steps] = traced(steps)
            now = [None if k is None else k.at(some_steps) for k in known]
            yield some_steps, loop.numbered(w, programs[steps], now, (steps,))[0]

    return walked()


def of_all_steps(
    w: Any, loop: Loop, known: Sequence[Steps | None], step: tuple[list, int] | None
) -> list[np.ndarray | None] | None:
    """The columns of each result of a loop, None for one that is no tangent; None in place of all: it is too large.

    Args:
      known: for each input its values at all steps, if these are known.
      step: the result of `one_step`, if all steps read the same elements.
    """
    if loop.program[0].effects:
        return None
    for at_once in (_AT_ONCE, _AT_ONCE // 32):  # fewer steps, if elements have many columns
        try:
            found = _found(w, loop, known, step, at_once)
        except TooWide:
            continue
        if found is None:
            return None
        rest, columns = iter(found), []
        for t, a in zip(loop.tangents, loop.avals, strict=True):
            columns.append(_columns(next(rest), w.n, a.shape) if t else None)
        return columns
    return None


def _columns(told: tuple[np.ndarray, np.ndarray], n: int, shape: tuple[int, ...]) -> np.ndarray:
    found = columns_of(*told, math.prod(shape), n)[1]
    return tight(found.reshape(len(found), *shape))


def _found(w: Any, loop: Loop, known: Sequence, step: tuple | None, at_once: int) -> list | None:
    # For each result that is a tangent, the element and column of all its entries, in order.
    if step is None:
        walked = _walked_at_once(w, loop, known, at_once)
    else:
        walked = iter([(loop.order, [o for o, t in zip(step[0], loop.tangents, strict=True) if t])])
    if walked is None:
        return None
    it = _Sizes(loop)
    return _one_behind_the_other(w.n, loop, it, walked, step) if it.carried else _side_by_side(w.n, loop, it, walked)


class _Sizes:
    # Numbers of elements: of each tangent a step returns (`sizes`), carried, the same for all steps (`held`: carry and
    # constants), read by a step (`total`), and returned by a step besides the carry (`given`).
    def __init__(self, loop: Loop):
        m, tangents = len(loop.start), loop.tangents
        self.sizes = [math.prod(a.shape[0 if k < m else 1 :]) for k, a in enumerate(loop.avals) if tangents[k]]
        self.fixed = [v for v in (*loop.start, *loop.consts) if is_tangent(v)]
        self.each = [v for v in loop.xs if is_tangent(v)]
        self.carried = sum(v.size for v in loop.start if is_tangent(v))
        self.held = sum(v.size for v in self.fixed)
        self.total = self.held + sum(v.size for v in self.each) // max(1, loop.length or 0)
        self.given = sum(self.sizes) - self.carried


def _one_behind_the_other(n: int, loop: Loop, it: _Sizes, walked: Iterator, step: Any) -> list[tuple] | None:
    # Steps in the order of the loop. The columns of an element are the bits of some words.
    words, length = n // 64 + 1, len(loop.order)
    if length > _STEPS or words * (it.total + length * it.given) > _HELD:
        return None
    reached, ys = np.zeros((it.total, words), np.uint64), np.zeros((length, it.given, words), np.uint64)
    _mark(reached, [v.full_cols() for v in it.fixed])
    for steps, outs in walked:
        local = Local(outs, it.sizes, it.carried, it.total, len(steps) if step is None else 1)
        if local.reads * length * words > _READ:
            return None
        for j, k in enumerate(steps):
            _mark(reached[it.held :], [v.full_cols()[:, k] for v in it.each])
            rows, starts, cols, emptied = local.of(j)
            made = np.bitwise_or.reduceat(reached[cols], starts, axis=0) if len(rows) else reached[:0]
            kept = np.searchsorted(rows, it.carried)
            reached[emptied] = 0
            reached[rows[:kept]] = made[:kept]
            ys[k, rows[kept:] - it.carried] = made[kept:]
    found, start = [], 0
    for size in it.sizes:
        own = slice(start, start + size)
        if start < it.carried:
            found.append(_unpacked(reached[own], n))
        else:
            found.append(_unpacked(ys[:, start - it.carried : start + size - it.carried].reshape(-1, words), n))
        start += size
    return found


def _side_by_side(n: int, loop: Loop, it: _Sizes, walked: Iterator) -> list[tuple]:
    # Steps that carry nothing to each other: one product of what they read with the columns of what they read.
    import scipy.sparse as sp

    rows, cols, length = [], [], len(loop.order)
    for steps, outs in walked:
        row, col = _entries(outs, it.sizes, it.total)
        step, element = np.divmod(row, max(1, it.given))
        step = steps[step]
        start = wide = it.held
        for v in it.each:
            size = v.size // length
            own = (start <= col) & (col < start + size)
            col[own] += (wide - start + step * size)[own]
            start, wide = start + size, wide + v.size
        rows.append(step * it.given + element)
        cols.append(col)
    row, col = np.concatenate(rows), np.concatenate(cols)
    shape = length * it.given, it.held + sum(v.size for v in it.each)
    read = sp.coo_array((np.ones(len(row), bool), (row, col)), shape=shape).tocsr()
    made = (read @ matrix_of([*it.fixed, *it.each], n)).tocoo()
    step, element = np.divmod(made.row.astype(np.int64), max(1, it.given))
    found, start = [], 0
    for size in it.sizes:
        own = (start <= element) & (element < start + size)
        row, col = (step * size + element - start)[own], made.col[own]
        order = np.lexsort((col, row))
        found.append((row[order], col[order]))
        start += size
    return found


def _mark(bits: np.ndarray, cols: Sequence[np.ndarray]) -> None:
    # Sets the columns (K, *S) of some tangents in `bits`, which has a row for each element.
    bits[:] = 0
    start = 0
    for own in cols:
        size = math.prod(own.shape[1:])
        for plane in own.reshape(len(own), size):
            bits[np.arange(start, start + size), plane >> 6] |= np.uint64(1) << (plane & 63).astype(np.uint64)
        start += size


def _unpacked(bits: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    # Some elements at a time: unpacked, a bit takes a byte. Row and column numbers of all set bits take more.
    check_columns(4, (int(np.bitwise_count(bits).sum()),))
    many = max(1, _AT_ONCE * 64 // (n + 1))
    rows, cols = [], []
    for start in range(0, len(bits), many):
        part = np.unpackbits(bits[start : start + many].view(np.uint8), axis=1, count=n, bitorder="little")
        row, col = np.nonzero(part)
        rows.append(row + start)
        cols.append(col)
    row, col = (np.concatenate([*a, np.zeros(0, np.int64)]) for a in (rows, cols))
    return row, col
