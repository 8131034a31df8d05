"""What many steps of a loop do to its carry: a product of patterns, of which one step is walked.

Shapes: N inputs, K slots; c elements of the carry, with everything else a step reads behind them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jacobia.program.slot_apply import NotLinear
from jacobia.program.slots import Parts, Slots, as_slots, columns_of, entries, nothing, parts_of, tight
from jacobia.program.tape import Tape


def as_tangent(tape: Tape, v: Any, aval: Any, n: int) -> Slots:
    """A value as a tangent: what is none is zero."""
    return as_slots(tape, v, n) if isinstance(v, (Slots, Parts)) else nothing(aval.shape, aval.dtype)


def moving_of(w: Any, body: Any, given: Sequence, n: int, m: int) -> list[bool]:
    """Which of the carry are tangents: what is none at the first step may be one later.

    Args:
      given: what a step reads, of which the carry is the `m` behind the first `n`.
    """
    tangent = [isinstance(v, (Slots, Parts)) for v in given]
    avals = [v.aval for v in getattr(body, "jaxpr", body).invars]
    while True:
        args = [_some(a) if t else w.value(None, a.shape) for t, a in zip(tangent, avals, strict=True)]
        outs = w.inside(Tape()).body(body, args)[:m]
        grown = [t or isinstance(o, (Slots, Parts)) for t, o in zip(tangent[n : n + m], outs, strict=True)]
        if grown == tangent[n : n + m]:
            return grown
        tangent[n : n + m] = grown


def _some(aval: Any) -> Slots:
    # A tangent of which only that it is one matters.
    return Slots(np.zeros((1,) * (1 + len(aval.shape)), np.int32), None, aval.shape, aval.dtype)


def check_test(w: Any, test: Any, tested: Sequence, moving: Sequence[bool], avals: Sequence) -> None:
    """A loop whose test looks at tangents is not linear in them: an iteration that goes on until something is solved.

    Raises:
      NotLinear: it does.
    """
    carry = [_some(a) if t else w.value(None, a.shape) for t, a in zip(moving, avals, strict=True)]
    looks = any(isinstance(v, (Slots, Parts)) for v in tested)
    if looks or isinstance(w.inside(Tape()).body(test, [*tested, *carry])[0], (Slots, Parts)):
        raise NotLinear("while")


def closure(
    w: Any, body: Any, consts: list, start: list, each: list, moving: list[bool], length: int | None
) -> list[np.ndarray]:
    """The columns that each carried tangent can have at any of the steps; nothing to look at for the others."""
    import scipy.sparse as sp

    carried = [k for k, t in enumerate(moving) if t]
    others = [v for v in (*consts, *each) if isinstance(v, (Slots, Parts))]
    sizes = [start[k].size for k in carried] + [v.size for v in others]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    total = int(offsets[-1])
    # One step, with all that it reads as its inputs.
    fresh = iter(np.arange(a, b, dtype=np.int32) for a, b in zip(offsets[:-1], offsets[1:], strict=True))
    tape = Tape()
    inner = w.inside(tape, total)

    def identity(v: Any) -> Slots:
        return Slots(next(fresh).reshape(1, *v.shape), None, v.shape, v.dtype)

    for_carry = [identity(v) if t else w.value(None, v.shape) for v, t in zip(start, moving, strict=True)]
    for_consts = [identity(v) if isinstance(v, (Slots, Parts)) else v for v in consts]
    for_each = [identity(v) if isinstance(v, (Slots, Parts)) else v for v in each]
    outs = inner.body(body, [*for_consts, *for_carry, *for_each])
    rows = []
    for k in carried:
        o = outs[k]
        rows.append(_matrix([o] if isinstance(o, (Slots, Parts)) else [nothing(start[k].shape, start[k].dtype)], total))
    c = int(offsets[len(carried)])
    step = sp.vstack(rows, format="csr") if rows else sp.csr_array((0, total), dtype=bool)
    kept = np.ones(total - c, bool), np.arange(c, total), np.arange(total - c + 1)
    hold = sp.csr_array(kept, shape=(total - c, total))
    step = sp.vstack([step, hold], format="csr").astype(bool)
    entering = _matrix([start[k] for k in carried] + others, w.n)
    reached = powers(step, entering, length)
    cols = []
    at = 0
    for k, t in enumerate(moving):
        if not t:
            cols.append(np.zeros((0,), np.int32))
            continue
        part = reached[at : at + start[k].size]
        cols.append(tight(_columns(part, start[k].shape, w.n)))
        at += start[k].size
    return cols


def powers(step: Any, entering: Any, length: int | None) -> Any:
    """All that 0, 1, 2, … steps make of what enters: (1 + step)^length, by squaring; it stops growing by itself."""
    import scipy.sparse as sp

    grow = (step + sp.eye_array(step.shape[0], dtype=bool, format="csr")).astype(bool)
    reached, left = entering, length
    while left is None or left > 0:
        if left is None or left % 2:
            reached, before = (grow @ reached).astype(bool), reached.nnz
            if left is None and reached.nnz == before:
                return reached
        left = None if left is None else left // 2
        bigger = (grow @ grow).astype(bool)
        if bigger.nnz == grow.nnz:  # another step would add nothing
            return (grow @ reached).astype(bool)
        grow = bigger
    return reached


def _matrix(ts: Sequence, n: int) -> Any:
    import scipy.sparse as sp

    # The pattern of some tangents, as a sparse matrix.
    found = []
    for v in ts:
        terms = parts_of(v)
        rows, cols = entries(terms)
        keep = (cols < n) & (rows >= 0)
        ones = np.ones(int(keep.sum()), bool)
        found.append(sp.coo_array((ones, (rows[keep], cols[keep])), shape=(v.size, n)).tocsr().astype(bool))
    return sp.vstack(found, format="csr").astype(bool)


def _columns(matrix: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    entry = matrix.tocoo()
    order = np.lexsort((entry.col, entry.row))
    cols = columns_of(entry.row[order], entry.col[order], matrix.shape[0], n)[1]
    return cols.reshape(len(cols), *shape)
