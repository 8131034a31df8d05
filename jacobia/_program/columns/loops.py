"""Branches and loops of a linear program, on tangents held in slots.

What its carry can depend on is known before (`closure`), so the values are accumulated inside a real loop.
Knows programs inside loops. Knows no single operation.
Shapes: N inputs, K slots, S the shape of a tangent.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import eval_jaxpr, inner_consts, scan_split
from jacobia._program.columns.apply import NotLinear, is_tangent, with_tangents
from jacobia._program.columns.branches import cond, solve, typed
from jacobia._program.columns.closure import as_tangent, closure
from jacobia._program.columns.merging import FEW, tight, union_along, unused
from jacobia._program.columns.parts import as_slots
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.slots import Parts, Slots, aligned, nothing, select, values
from jacobia._program.columns.tape import Fixed, Tape
from jacobia._program.flow import around, flow
from jacobia._program.known import Lazy, sliced

# The carry of a loop is held with all columns in all elements where that makes it at most so many times larger.
_ROOM = 2


# Loops


def scan(w: Any, eqn: Any, ins: Sequence) -> list:
    n, m = scan_split(eqn.params)
    length = eqn.params["length"]
    if length <= w.steps:
        return _step_by_step(w, eqn, ins, n, m)
    consts, carry, xs = list(ins[:n]), list(ins[n : n + m]), list(ins[n + m :])

    def drive(step: Callable, start: list, xs: list) -> list:
        end, ys = lax.scan(lambda c, x: step(c, x), start, xs, length=length, reverse=eqn.params["reverse"])
        return [*end, *ys]

    return _around(w, eqn, eqn.params["jaxpr"], consts, carry, xs, length, drive)


def _step_by_step(w: Any, eqn: Any, ins: Sequence, n: int, m: int) -> list:
    length, body = eqn.params["length"], eqn.params["jaxpr"]
    consts, carry, xs = list(ins[:n]), list(ins[n : n + m]), list(ins[n + m :])
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    steps: list = [None] * length
    for k in order:
        outs = w.body(body, [*consts, *carry, *(_entry(w, x, k) for x in xs)])
        carry, steps[k] = outs[:m], outs[m:]
    stacked = [_stacked(w, [s[i] for s in steps], v.aval) for i, v in enumerate(eqn.outvars[m:])]
    return [*carry, *stacked]


def _entry(w: Any, x: Any, k: int) -> Any:
    if not isinstance(x, (Slots, Parts)):
        known = sliced(x.known, k) if isinstance(x.known, Lazy) else None
        return w.value(w.tape.step(lambda v: v[k], w.name(x)), x.shape[1:], known)
    t = as_slots(w.tape, x, w.n)
    cols = t.cols[:, 0 if t.cols.shape[1] == 1 else k]
    name = w.tape.step(lambda v: v[:, k], values(w.tape, t, w.n)) if t.width else None
    return Slots(cols, name, t.shape[1:], t.dtype)


def _stacked(w: Any, steps: Sequence, aval: Any) -> Any:
    if not steps:
        return w.value(w.tape.step(lambda: jnp.zeros(aval.shape, aval.dtype)), aval.shape)
    if not any(isinstance(e, (Slots, Parts)) for e in steps):
        stack = w.tape.step(lambda *v: jnp.stack([jnp.asarray(a) for a in v]), *map(w.name, steps))
        return w.value(stack, aval.shape)
    one = jax.ShapeDtypeStruct(aval.shape[1:], aval.dtype)
    ts = [as_tangent(w.tape, e, one, w.n) for e in steps]
    width = max(t.width for t in ts)
    if not width:
        return nothing(aval.shape, aval.dtype)
    check_columns(width, aval.shape)
    cols = np.full((width, *aval.shape), w.n, np.int32)
    for k, t in enumerate(ts):
        cols[: t.width, k] = t.cols

    def stack(*vals: Any) -> Any:
        rest = iter(vals)
        wide = [jnp.zeros((width, *t.shape), t.dtype) if not t.width else _padded(next(rest), width) for t in ts]
        return jnp.stack(wide, 1)

    name = w.tape.step(stack, *(values(w.tape, t, w.n) for t in ts if t.width))
    return Slots(tight(cols), name, aval.shape, aval.dtype)


def _padded(v: Any, width: int) -> Any:
    return v if v.shape[0] == width else jnp.concatenate([v, jnp.zeros((width - v.shape[0], *v.shape[1:]), v.dtype)])


def _any_step(w: Any, x: Any) -> Any:
    # What a step reads of an input, whichever step it is.
    if not isinstance(x, Slots):
        return w.value(None, x.shape[1:])
    cols = union_along(x.cols, x.shape, [0], w.n)
    return Slots(cols.reshape(len(cols), *cols.shape[2:]), None, x.shape[1:], x.dtype)


def _whole(w: Any, x: Slots | Parts) -> Slots:
    t = as_slots(w.tape, x, w.n)
    return t if t.size else nothing(t.shape, t.dtype)


class _Apart:
    """The columns of steps that carry no tangent to each other: those that differ between steps get a number.

    The numbers 0 to n - 1 are inputs of the program as ever, n is not used, and what differs comes behind it.
    """

    def __init__(self, w: Any, xs: Sequence[Slots]):
        self.n, self.total, tables = w.n, w.n + 1, []
        own = []
        for t in xs:
            k, length, *rest = t.cols.shape
            if length == 1:
                own.append(t.cols[:, 0])
                continue
            table, place = np.unique(np.moveaxis(t.cols, 1, 0).reshape(length, -1), axis=1, return_inverse=True)
            own.append(self.total + place.reshape(k, *rest))
            tables.append(table)
            self.total += table.shape[1]
            check_columns(1, (self.total + 1,))
        self.tables = np.concatenate(tables, 1) if tables else None
        self.cols = [self.of_all(c) for c in own]

    def of_all(self, cols: np.ndarray) -> np.ndarray:
        """Columns of the program by their numbers here."""
        return np.where(cols == self.n, self.total, cols).astype(np.int32)

    def of_steps(self, cols: np.ndarray) -> np.ndarray:
        """Numbers (K, *S) as columns of the program (K, length, *S)."""
        out = np.minimum(cols, self.n)[:, None]
        if self.tables is None:
            return out
        differ = (cols > self.n) & (cols < self.total)
        found = self.tables[:, np.where(differ, cols - self.n - 1, 0)]
        return np.where(differ[:, None], np.moveaxis(found, 0, 1), out).astype(np.int32)


class _Loop:
    # What is read at every step, under which name of the outer and of the inner tape.
    def __init__(self) -> None:
        self.read: list = []
        self.names: list = []
        self.inputs: list[tuple[str, int]] = []

    def add(self, kind: str, value: Any, inner: int, outer: Any) -> None:
        self.inputs.append((kind, inner))
        self.read.append(value)
        self.names.append(outer)

    def of(self, kind: str, given: Sequence) -> list[tuple[int, Any]]:
        return [(n, v) for (k, n), v in zip(self.inputs, given, strict=True) if k == kind]


def _filled(cols: Sequence[np.ndarray], start: Sequence, moving: Sequence[bool], n: int) -> list[np.ndarray] | None:
    # All columns of any element for each of them, where these are many and most elements have most of them.
    carried = [(c, v.shape) for c, v, t in zip(cols, start, moving, strict=True) if t]
    found = np.zeros(n + 1, bool)
    for c, _ in carried:
        found[c.reshape(-1)] = True
    common = np.flatnonzero(found[:n]).astype(np.int32)
    entries = sum(int((np.broadcast_to(c, (len(c), *shape)) < n).sum()) for c, shape in carried)
    if len(common) <= FEW or len(common) * sum(math.prod(shape) for _, shape in carried) > _ROOM * entries:
        return None
    return [common.reshape(-1, *[1] * len(v.shape)) if t else c for c, v, t in zip(cols, start, moving, strict=True)]


def _narrowed(w: Any, t: Slots, cols: np.ndarray) -> Slots:
    # A tangent with the same columns in all its elements, of which each keeps its own.
    if cols is t.cols or np.array_equal(cols, t.cols):
        return t
    wide = t.width
    place = np.broadcast_to(np.searchsorted(t.cols.reshape(-1), cols).astype(np.int32), (len(cols), *t.shape))

    def taken(v: Any, place: Any) -> Any:
        return jnp.where(place < wide, jnp.take_along_axis(v, jnp.minimum(place, wide - 1), axis=0), 0)

    return Slots(cols, w.tape.step(taken, values(w.tape, t, w.n), w.tape.array(place)), t.shape, t.dtype)


def _pushed(
    w: Any, tape: Tape, body: Any, read: list, cols: Sequence, moving: Sequence[bool], shapes: Sequence
) -> list:
    # A step on all slots at once: little is gained by following columns that nearly all elements have.
    jaxpr, own = getattr(body, "jaxpr", body), inner_consts(body)
    tangent = [isinstance(v, Slots) for v in read]

    def step(slots: Sequence, given: Sequence) -> Sequence:
        return eval_jaxpr(jaxpr, own, *with_tangents(given, tangent, slots))

    def run(*given: Any) -> Sequence:
        slots = [v for v, t in zip(given, tangent, strict=True) if t]
        try:
            outs = jax.vmap(lambda s: step(s, given))(slots)
        except NotImplementedError:  # an operation without a batching rule
            outs = lax.map(lambda s: step(s, given), slots)
        return [o if t else o[0] for o, t in zip(outs, moving, strict=True)]

    names = tape.steps_of(run, [v.vals if t else v.name for v, t in zip(read, tangent, strict=True)], len(shapes))
    return [
        Slots(c, name, a.shape, a.dtype) if t else w.value(name, a.shape)
        for name, c, a, t in zip(names, cols, shapes, moving, strict=True)
    ]


def _around(
    w: Any,
    eqn: Any,
    body: Any,
    consts: list,
    carry: list,
    xs: list,
    length: int | None,
    drive: Callable,
    test: Any = None,
    tested: Sequence = (),
) -> list:
    """All steps of a loop, `length` of them (None: nobody knows how many).

    Args:
      drive: runs the loop, from a step `(carry, xs) -> (carry, ys)`, the first carry, and the xs or what is tested.
      test: the program that says whether a `while` goes on.
      tested: what only this test reads.
    """
    m, shapes = len(carry), [v.aval for v in eqn.outvars]
    moving = around(body, list(map(is_tangent, (*consts, *carry, *xs))), len(consts), m)[len(consts) :][:m]
    if test is not None and any(flow(test, [*map(is_tangent, tested), *moving])):
        raise NotLinear("while")  # it goes on until something is solved
    start = [as_tangent(w.tape, c, a, w.n) if t else c for c, t, a in zip(carry, moving, shapes, strict=False)]
    given = [_whole(w, x) if isinstance(x, (Slots, Parts)) else x for x in xs]
    each, apart, n, cols, filled = [], None, w.n, [], None
    if any(moving):
        each = [_any_step(w, x) for x in given]
        cols = closure(w, body, consts, start, each, moving, length)
        if len(shapes) == m and not any(isinstance(v, (Slots, Parts)) for v in (*consts, *each)):
            filled = _filled(cols, start, moving, w.n)
        given = [
            aligned(w.tape, x, e.cols[:, None], w.n) if isinstance(x, Slots) else x
            for x, e in zip(given, each, strict=True)
        ]
    else:
        apart = _Apart(w, [x for x in given if isinstance(x, Slots)])
        own, n = iter(apart.cols), apart.total
        for x in given:
            t = isinstance(x, Slots)
            each.append(Slots(next(own), None, x.shape[1:], x.dtype) if t else w.value(None, x.shape[1:]))
    held = cols if filled is None else filled
    tape = Tape()
    it = _Loop()
    for v in consts:
        name = tape.new()
        if isinstance(v, (Slots, Parts)):
            t = as_slots(w.tape, v, w.n)
            own = t.cols if apart is None else apart.of_all(t.cols)
            it.add("const", Slots(own, name, t.shape, t.dtype), name, values(w.tape, t, w.n))
        else:
            it.add("const", w.value(name, v.shape, v.known), name, w.name(v))
    for k, v in enumerate(start):
        name = tape.new()
        if moving[k]:
            own = Slots(held[k], name, v.shape, v.dtype)
            it.add("carry", own, name, values(w.tape, aligned(w.tape, v, held[k], w.n), w.n))
        else:
            it.add("carry", w.value(name, v.shape), name, w.name(v))
    for v, some in zip(given, each, strict=True):
        name = tape.new()
        if isinstance(v, Slots):
            moved = w.tape.step(lambda a: jnp.moveaxis(a, 1, 0), values(w.tape, v, w.n))
            it.add("x", Slots(some.cols, name, some.shape, some.dtype), name, moved)
        else:
            it.add("x", w.value(name, v.shape[1:]), name, w.name(v))
    if filled is not None:
        outs = _pushed(w, tape, body, it.read, held, moving, shapes)
    else:
        outs = w.inside(tape, n).body(body, it.read)
    for v in tested:
        it.add("tested", None, tape.new(), w.name(v))
    outs = [
        aligned(tape, as_tangent(tape, o, a, n), held[k], n) if k < m and moving[k]
        else as_slots(tape, o, n) if isinstance(o, (Slots, Parts)) else o
        for k, (o, a) in enumerate(zip(outs, shapes, strict=True))
    ]  # fmt: skip
    wanted = [values(tape, o, n) if isinstance(o, Slots) else o.name for o in outs]
    arrays = tape.used([n for n in wanted if not isinstance(n, Fixed)])

    def run(*args: Any) -> Sequence:
        given, made = args[: len(it.names)], args[len(it.names) :]
        fixed = dict(zip(arrays, made, strict=True)) | dict(it.of("const", given))
        carried, stepped = it.of("carry", given), it.of("x", given)
        others = [v for _, v in (it.of("tested", given) if tested else stepped)]

        def step(carry: Sequence, xs: Sequence) -> tuple[list, list]:
            env = fixed | dict(zip((n for n, _ in carried), carry, strict=True))
            env |= dict(zip((n for n, _ in stepped), xs, strict=True))
            out = typed(tape, env, wanted, [a.dtype for a in shapes])
            return [o.reshape(c.shape) for o, c in zip(out, carry, strict=False)], out[m:]

        return drive(step, [jnp.asarray(v) for _, v in carried], others)

    names = [*it.names, *(w.tape.array(tape.arrays[k]) for k in arrays)]
    results = w.tape.steps_of(run, names, len(outs))
    made: list = []
    for k, (name, o, a) in enumerate(zip(results, outs, shapes, strict=True)):
        if not isinstance(o, Slots):
            made.append(w.value(name, a.shape))
        elif k < m:
            made.append(_narrowed(w, Slots(held[k], name, a.shape, a.dtype), cols[k]))
        else:
            moved = w.tape.step(lambda v: jnp.moveaxis(v, 0, 1), name)
            own = o.cols[:, None] if apart is None else apart.of_steps(o.cols)
            t = Slots(own, moved, a.shape, a.dtype)
            made.append(select(w.tape, t, np.flatnonzero(~unused(own, w.n)), w.n) if o.width and t.size else t)
    return made


def _known_steps(w: Any, eqn: Any, tested: list, consts: list, carry: list) -> list | None:
    # Where it is known that the loop ends, and soon, it is its steps.
    for _ in range(w.steps + 1):
        (again,) = w.body(eqn.params["cond_jaxpr"], [*tested, *carry])
        known = None if isinstance(again, (Slots, Parts)) else w.known(again)
        if known is None or known.ndim:
            return None
        if not known:
            return carry
        carry = w.body(eqn.params["body_jaxpr"], [*consts, *carry])
    return None


def loop(w: Any, eqn: Any, ins: Sequence) -> list:
    """A `while`: as many steps as the point says."""
    c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    tested, consts, carry = list(ins[:c]), list(ins[c : c + b]), list(ins[c + b :])
    test = eqn.params["cond_jaxpr"]
    found = _known_steps(w, eqn, tested, consts, carry)
    if found is not None:
        return found
    jaxpr, own = getattr(test, "jaxpr", test), inner_consts(test)

    def drive(step: Callable, start: list, tested: list) -> list:
        def on(carried: list) -> Any:
            # A test of a linear program looks at no tangent: any array of the right shape will do in its place.
            like = [v if v.shape == a.aval.shape else jnp.zeros(a.aval.shape, a.aval.dtype)
                    for v, a in zip(carried, jaxpr.invars[c:], strict=True)]  # fmt: skip
            return eval_jaxpr(jaxpr, own, *tested, *like)[0]

        def advance(carried: list) -> list:
            goes, moved = on(carried), step(carried, [])[0]
            return moved if not goes.ndim else [kept(goes, *p) for p in zip(moved, carried, avals, strict=True)]

        def kept(goes: Any, new: Any, old: Any, aval: Any) -> Any:
            # Samples in front of all that is carried, each with a test of its own; slots are in front of them.
            goes = goes.reshape(goes.shape + (1,) * (len(aval.shape) - goes.ndim))
            return jnp.where(goes, new, old)

        return lax.while_loop(lambda carried: jnp.any(on(carried)), advance, start)

    avals = [v.aval for v in eqn.outvars]
    return _around(w, eqn, eqn.params["body_jaxpr"], consts, carry, [], None, drive, test, tested)


LOOPS = {"cond": cond, "custom_linear_solve": solve, "scan": scan, "while": loop}
