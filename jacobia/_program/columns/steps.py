"""Loops whose steps differ: the columns of the carry behind every single step, and of what every step gives.

What is known of each step (a counter, and what is computed from it) tells which elements the step reads. Many steps
are walked at once, as the samples of one program, and their patterns are multiplied in the order of the loop.
Knows programs of steps, and columns. Knows no values and no single operation.
Shapes: N inputs, K slots; B steps that are walked at once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import Tracer, bind, eval_jaxpr, inner_consts
from jacobia._program.columns.apply import is_tangent
from jacobia._program.columns.closure import one_step
from jacobia._program.columns.merging import tight
from jacobia._program.columns.parts import columns_of, entries, parts_of
from jacobia._program.columns.slots import nothing
from jacobia._program.flow import around, flow
from jacobia._program.known import Lazy, Steps, can_be_known, steps_of
from jacobia._program.walk import needed, run, some

# Elements of the largest array while steps are walked: at once, and of all steps together.
_AT_ONCE, _IN_ALL = 1 << 20, 1 << 25
# Columns of an element are the bits of some words. So many words are held, and read, before a loop is too large.
_HELD, _READ = 1 << 25, 1 << 30
# A loop that goes on for so many steps has no end that is looked for.
_LONGEST = 1 << 14


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop, and what goes into it.

    Attributes:
      start: the carry before the first step; what is a tangent at any step is `Slots`.
      length: how many steps there are; None: nobody knows.
      reverse: whether the last of the xs is read first.
    """

    body: Any
    consts: list
    start: list
    xs: list
    avals: list  # of the results
    length: int | None
    reverse: bool = False

    @property
    def order(self) -> np.ndarray:
        """The numbers of the steps as they are made."""
        return np.arange(self.length or 0)[:: -1 if self.reverse else 1]

    @property
    def inputs(self) -> list:
        """What goes in, as the body takes it."""
        return [*self.consts, *self.start, *self.xs]

    @property
    def program(self) -> tuple[Any, list]:
        """The body, and the arrays that it carries with it."""
        return getattr(self.body, "jaxpr", self.body), inner_consts(self.body)

    @property
    def tangents(self) -> list[bool]:
        """Which results are tangents."""
        carried = list(map(is_tangent, self.start))
        return carried + flow(self.body, list(map(is_tangent, self.inputs)))[len(carried) :]

    def numbered(self, w: Any, program: Any, known: Sequence[Lazy | None], lead: tuple[int, ...] = ()) -> tuple:
        """`one_step`, with what is known of the inputs of a step; `lead` is in front of the shapes of these."""
        n, m = len(self.consts), len(self.start)
        ins = list(self.consts)
        for k, v in enumerate(self.inputs[n:], n):
            shape = v.shape if k < n + m else v.shape[1:]
            if is_tangent(v):
                ins.append(nothing(shape, v.dtype))
            else:
                ins.append(w.value(None, shape if known[k] is None else lead + shape, known[k]))
        return one_step(w, program, ins[:n], ins[n : n + m], ins[n + m :])


class _Counters:
    """The part of a loop that is known at every step: numbers that it carries, and what they are computed from."""

    def __init__(self, loop: Loop):
        self._loop, n, m = loop, len(loop.consts), len(loop.start)
        jaxpr, self._own = loop.program
        unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in loop.inputs]
        for k, a in enumerate(loop.avals[:m], n):  # a program may iterate large arrays that are known: not twice
            unknown[k] |= bool(a.ndim) and not jnp.issubdtype(a.dtype, jnp.integer)
        self.unknown = around(loop.body, unknown, n, m)
        self.places = [k for k in range(m) if not self.unknown[n + k]]
        self._part = needed(jaxpr, tuple(self.places))
        if any(isinstance(c, Tracer) for c in self._own) or some(self._part, lambda eqn: not can_be_known(eqn)):
            self.unknown, self.places = [True] * len(loop.inputs), []

    @property
    def args(self) -> list[Lazy]:
        """All known inputs of the loop."""
        return [v.known for v, u in zip(self._loop.inputs, self.unknown, strict=True) if not u]

    def given(self, known: Sequence) -> tuple[list, list, list]:
        """Constants, first numbers and xs, from the values of `args`."""
        rest, n, m = iter(known), len(self._loop.consts), len(self._loop.start)
        all_of_them = [None if u else next(rest) for u in self.unknown]
        first = [jnp.asarray(all_of_them[n + k], self._loop.avals[k].dtype) for k in self.places]
        return all_of_them[:n], first, all_of_them[n + m :]

    def carry(self, numbers: Sequence) -> list:
        """All that is carried, None for what is not known."""
        found = dict(zip(self.places, numbers, strict=True))
        return [found.get(k) for k in range(len(self._loop.start))]

    def advance(self, consts: list, numbers: Sequence, xs: Sequence) -> list:
        """The numbers behind a step."""
        given = [*consts, *self.carry(numbers), *xs]
        return run(self._part, self._own, given, lambda eqn, values: bind(eqn, *values))


def counted(loop: Loop) -> list[Steps | None]:
    """For each input of a step its values at all steps, where these are known and some tangent may depend on them."""
    n, m, length = len(loop.consts), len(loop.start), loop.length
    found: list[Steps | None] = [None] * len(loop.inputs)
    if length is None:
        return found
    it = _Counters(loop)
    told = [k >= n and not u for k, u in enumerate(it.unknown)]
    if not any(a and b for a, b in zip(flow(loop.body, told), loop.tangents, strict=True)):
        return found

    def make(*known: Any) -> list:
        consts, first, xs = it.given(known)
        return lax.scan(lambda c, x: (it.advance(consts, c, x), c), first, xs, length, loop.reverse)[1]

    for k, v in zip(it.places, steps_of(length, make, it.args, len(it.places)), strict=True):
        found[n + k] = v
    for k, v in enumerate(loop.xs, n + m):
        if told[k]:
            found[k] = Steps(length, lambda x: [x], [v.known])
    return found


def trips(loop: Loop, test: Any, tested: Sequence) -> int | None:
    """How many steps a loop makes that goes on while `test` says so, of `tested` and the carry; None: nobody knows."""
    it, jaxpr, own = _Counters(loop), getattr(test, "jaxpr", test), inner_consts(test)
    unknown = [is_tangent(v) or not isinstance(v.known, Lazy) for v in tested]
    carried = it.unknown[len(loop.consts) :]
    if any(flow(test, [*unknown, *carried])) or some(jaxpr, lambda eqn: not can_be_known(eqn)):
        return None
    others = [v.known for v, u in zip(tested, unknown, strict=True) if not u]

    def make(*known: Any) -> list:
        rest = iter(known[: len(others)])
        given = [None if u else next(rest) for u in unknown]
        consts, first, _ = it.given(known[len(others) :])

        def goes(state: tuple) -> Any:
            count, numbers = state
            ins = [*given, *it.carry(numbers)]
            return (count < _LONGEST) & run(jaxpr, own, ins, lambda eqn, values: bind(eqn, *values))[0]

        return [lax.while_loop(goes, lambda s: (s[0] + 1, it.advance(consts, s[1], [])), (0, first))[0]]

    count = int(Lazy(make=make, args=[*others, *it.args]).value())
    return count if count < _LONGEST else None


class Local:
    """What steps read: entries by step, row and column, without elements of the carry that a step leaves alone.

    Rows are the results of a step that are tangents, the carry first; columns are the elements that it reads.
    """

    def __init__(self, outs: Sequence, sizes: Sequence[int], carried: int, total: int, steps: int):
        rows, found, offset, count = [], [], 0, sum(sizes)
        for o, size in zip(outs, sizes, strict=True):
            if is_tangent(o):
                row, col = entries(parts_of(o))
                keep = (row >= 0) & (col < total)
                step, element = np.divmod(row[keep], size)
                rows.append(step.astype(np.int64) * count + element + offset)
                found.append(col[keep])
            offset += size
        row, col = (np.concatenate([*a, np.zeros(0, np.int64)]) for a in (rows, found))
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

    def of(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows, where the columns of each begin, the columns of all, and elements of the carry that become zero."""
        k = step % self._steps  # one step may stand for all
        a, b = self._bounds[k : k + 2]
        begin, end = self._starts[a], self._starts[b]
        return self._rows[a:b], self._starts[a:b] - begin, self._cols[begin:end], np.flatnonzero(self._emptied[k])


def _walked_at_once(w: Any, loop: Loop, known: Sequence[Steps | None]) -> Iterator[tuple[np.ndarray, list]] | None:
    # Some steps after the others: their numbers, and all that they make of tangents; None: they are too many.
    jaxpr, own = loop.program
    part = needed(jaxpr, tuple(k for k, t in enumerate(loop.tangents) if t))
    if any(eqn.effects for eqn in part.eqns):
        return None
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
    many = max(1, min(loop.length, loop.length * _AT_ONCE // max(1, largest)))
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
    """The columns of each result of a loop, None for what is no tangent; None in place of all: the loop is too large.

    Args:
      known: what is known of every step.
      step: `one_step`, where all steps read the same elements.
    """
    assert loop.length is not None
    moving, m = loop.tangents, len(loop.start)
    sizes = [math.prod(a.shape[0 if k < m else 1 :]) for k, a in enumerate(loop.avals) if moving[k]]
    fixed = [v for v in (*loop.start, *loop.consts) if is_tangent(v)]
    each = [v for v in loop.xs if is_tangent(v)]
    carried, held = sum(v.size for v in loop.start if is_tangent(v)), sum(v.size for v in fixed)
    total, given = held + sum(v.size // loop.length for v in each), sum(sizes) - carried
    words = w.n // 64 + 1
    if words * (total + loop.length * given) > _HELD:
        return None
    if step is None:
        walked = _walked_at_once(w, loop, known)
    else:
        walked = iter([(loop.order, [o for o, t in zip(step[0], moving, strict=True) if t])])
    if walked is None:
        return None

    reached, ys, read = np.zeros((total, words), np.uint64), np.zeros((loop.length, given, words), np.uint64), 0
    _mark(reached, [v.full_cols() for v in fixed])
    for steps, outs in walked:
        local = Local(outs, sizes, carried, total, len(steps) if step is None else 1)
        for j, k in enumerate(steps):
            _mark(reached[held:], [v.full_cols()[:, k] for v in each])
            rows, starts, cols, emptied = local.of(j)
            read += len(cols) * words
            if read > _READ:
                return None
            made = np.bitwise_or.reduceat(reached[cols], starts, axis=0) if len(rows) else reached[:0]
            kept = np.searchsorted(rows, carried)
            reached[emptied] = 0
            reached[rows[:kept]] = made[:kept]
            ys[k, rows[kept:] - carried] = made[kept:]
    found: list[np.ndarray | None] = []
    start, ends = 0, iter(np.cumsum(sizes))
    for k, (t, a) in enumerate(zip(moving, loop.avals, strict=True)):
        if not t:
            found.append(None)
            continue
        end = int(next(ends))
        own = reached[start:end] if k < m else ys[:, start - carried : end - carried].reshape(-1, words)
        found.append(_columns(own, w.n, a.shape))
        start = end
    return found


def _mark(bits: np.ndarray, cols: Sequence[np.ndarray]) -> None:
    # The columns (K, *S) of some tangents, in the rows of their elements.
    bits[:] = 0
    start = 0
    for own in cols:
        size = math.prod(own.shape[1:])
        for plane in own.reshape(len(own), size):
            bits[np.arange(start, start + size), plane >> 6] |= np.uint64(1) << (plane & 63).astype(np.uint64)
        start += size


def _columns(bits: np.ndarray, n: int, shape: tuple[int, ...]) -> np.ndarray:
    # Some elements at a time: a byte for each bit.
    many = max(1, _AT_ONCE * 64 // (n + 1))
    rows, cols = [], []
    for start in range(0, len(bits), many):
        part = np.unpackbits(bits[start : start + many].view(np.uint8), axis=1, count=n, bitorder="little")
        row, col = np.nonzero(part)
        rows.append(row + start)
        cols.append(col)
    row, col = (np.concatenate([*a, np.zeros(0, np.int64)]) for a in (rows, cols))
    found = columns_of(row, col, len(bits), n)[1]
    return tight(found.reshape(len(found), *shape))
