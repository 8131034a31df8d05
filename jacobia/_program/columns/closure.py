"""The columns of a loop's carry after many steps: one step is walked, and its pattern is multiplied with itself.

Knows patterns of one step. Knows no values.
Shapes: N inputs, K slots; c elements of the carry, with everything else a step reads behind them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jacobia._program.columns.merging import tight
from jacobia._program.columns.parts import as_slots, columns_of, entries, parts_of
from jacobia._program.columns.room import numbered
from jacobia._program.columns.slots import Parts, Slots, nothing
from jacobia._program.columns.tape import Tape

# From this density on a product of dense matrices is faster than one of sparse ones.
_FULL = 0.15
# Patterns of up to this many elements are squared without looking for cycles.
_SMALL = 32


def as_tangent(tape: Tape, v: Any, aval: Any, n: int) -> Slots:
    """A value as a tangent in slots; a value that is no tangent gives zero."""
    return as_slots(tape, v, n) if isinstance(v, (Slots, Parts)) else nothing(aval.shape, aval.dtype)


def one_step(w: Any, program: Any, consts: Sequence, carry: Sequence, each: Sequence) -> tuple[list, int]:
    """The results of a step with respect to the elements it reads, and how many of these there are.

    The elements of all tangents that a step reads are numbered: the carry first, then constants, then xs.
    """
    sizes = [v.size for v in (*carry, *consts, *each) if isinstance(v, (Slots, Parts))]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    fresh = iter(numbered((size,), int(start)) for size, start in zip(sizes, offsets, strict=False))

    def identity(v: Any) -> Any:
        return Slots(next(fresh).reshape(1, *v.shape), None, v.shape, v.dtype) if isinstance(v, (Slots, Parts)) else v

    carry, consts, each = (list(map(identity, group)) for group in (carry, consts, each))
    total = int(offsets[-1])
    return w.inside(Tape(), total).body(program, [*consts, *carry, *each]), total


def closure(
    w: Any, outs: Sequence, total: int, start: Sequence, others: Sequence, length: int | None
) -> list[np.ndarray]:
    """The columns that each carried tangent can have at any of the steps; an empty array for a carry without tangent.

    Args:
      outs: the results of `one_step`, which reads `total` elements.
      start: the carry before the first step.
      others: the other tangents that a step reads.
    """
    import scipy.sparse as sp

    carried = [k for k, v in enumerate(start) if isinstance(v, Slots)]
    rows = []
    for k in carried:
        o = outs[k]
        rows.append(
            matrix_of([o] if isinstance(o, (Slots, Parts)) else [nothing(start[k].shape, start[k].dtype)], total)
        )
    c = sum(start[k].size for k in carried)
    step = sp.vstack(rows, format="csr") if rows else sp.csr_array((0, total), dtype=bool)
    kept = np.ones(total - c, bool), np.arange(c, total), np.arange(total - c + 1)
    hold = sp.csr_array(kept, shape=(total - c, total))
    step = sp.vstack([step, hold], format="csr").astype(bool)
    entering = matrix_of([*(start[k] for k in carried), *others], w.n)
    reached = powers(step, entering, length)
    cols = []
    at = 0
    for v in start:
        if not isinstance(v, Slots):
            cols.append(np.zeros((0,), np.int32))
            continue
        cols.append(tight(_columns(reached[at : at + v.size], v.shape, w.n)))
        at += v.size
    return cols


def powers(step: Any, entering: Any, length: int | None) -> Any:
    """All columns that an element has after any of 0, 1, … `length` steps (None: any number of steps), as booleans.

    Args:
      step: square, `scipy.sparse`; entry (i, j): a step reads element j for element i.
      entering: `scipy.sparse`, the columns of each element before the first step.
    """
    import scipy.sparse as sp

    step, entering = sp.csr_array(step, dtype=bool), sp.csr_array(entering, dtype=bool)
    total = step.shape[0]
    if length is not None and length < total - 1:
        return _squared(step, entering, length)
    # No path from one element to another is longer, so any number of steps gives the same.
    if total <= _SMALL:
        return _squared(step, entering, _all_bits(total))
    from scipy.sparse.csgraph import connected_components

    # Elements on a common cycle end up with the same columns.
    count, member = connected_components(step, connection="strong")
    ones = np.ones(total, bool), (member, np.arange(total))
    groups = sp.csr_array(ones, shape=(count, total))
    between = _product(_product(groups, step), groups.T.tocsr())
    return _squared(between, _product(groups, entering), _all_bits(count))[member]


def _all_bits(count: int) -> int:
    # With all bits set, `_squared` multiplies by every power, and stops at the first one that adds nothing.
    return 2 ** (count - 1).bit_length() - 1


def _squared(step: Any, reached: Any, length: int) -> Any:
    import scipy.sparse as sp

    # (1 + step)^length times `reached`, by squaring. Stops when nothing grows any more, or everything is reached.
    grow = step + sp.eye_array(step.shape[0], dtype=bool, format="csr")
    everything = reached.shape[0] * reached.shape[1]
    while length:
        if length % 2:
            reached, before = _product(grow, reached), reached.nnz
            if reached.nnz in (before, everything):
                break
        length //= 2
        if length:
            grow, before = _product(grow, grow), grow.nnz
            if grow.nnz == before:
                return _product(grow, reached)
    return reached


def _product(a: Any, b: Any) -> Any:
    import scipy.sparse as sp

    if min(_density(a), _density(b)) < _FULL:
        return a @ b
    # Sums of ones: positive in any precision.
    return sp.csr_array(a.astype(np.float32).toarray() @ b.astype(np.float32).toarray() > 0)


def _density(a: Any) -> float:
    return a.nnz / max(1, a.shape[0] * a.shape[1])


def matrix_of(ts: Sequence, n: int) -> Any:
    """The pattern of some tangents, one behind the other, as a sparse matrix."""
    import scipy.sparse as sp

    found = []
    for v in ts:
        terms = parts_of(v)
        rows, cols = entries(terms)
        keep = (cols < n) & (rows >= 0)
        ones = np.ones(int(keep.sum()), bool)
        found.append(sp.coo_array((ones, (rows[keep], cols[keep])), shape=(v.size, n)).tocsr().astype(bool))
    return sp.vstack(found, format="csr").astype(bool)


def _columns(matrix: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    if matrix.nnz and matrix.nnz == matrix.shape[0] * n:  # all columns everywhere
        return np.arange(n, dtype=np.int32).reshape(n, *[1] * len(shape))
    matrix.sort_indices()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    cols = columns_of(row, matrix.indices, matrix.shape[0], n)[1]
    return cols.reshape(len(cols), *shape)
