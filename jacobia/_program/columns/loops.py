"""Branches and loops of a linear program, on tangents held in slots.

The columns that the carry can have are found first (`closure`), so the values are accumulated inside a real loop.
Knows programs inside loops. Knows no single operation.
Shapes: N inputs, K slots, S the shape of a tangent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import eval_jaxpr, inner_consts, scan_split
from jacobia._program.columns.apply import NotLinear, is_tangent, with_tangents
from jacobia._program.columns.branches import cond, solve, typed
from jacobia._program.columns.closure import as_tangent, closure
from jacobia._program.columns.counters import Loop, counted, known_results, of_scan, steadied, trips
from jacobia._program.columns.merging import FEW, tight, union_along, unused
from jacobia._program.columns.parts import as_slots
from jacobia._program.columns.room import check_columns
from jacobia._program.columns.shared import Shared
from jacobia._program.columns.slots import Parts, Slots, aligned, nothing, select, values
from jacobia._program.columns.steps import of_all_steps
from jacobia._program.columns.tape import Fixed, Tape
from jacobia._program.columns.writes import around_writes
from jacobia._program.flow import around, flow
from jacobia._program.known import Differs, Lazy, sliced, stacked

# The carry of a loop is held with all columns in all elements if that makes it at most this many times larger.
_ROOM = 2


# Loops


def scan(w: Any, eqn: Any, ins: Sequence) -> list:
    n, m = scan_split(eqn.params)
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    if w.unrolls(length, ins):
        return _step_by_step(w, eqn, ins, n, m)

    def drive(step: Callable, start: list, xs: list) -> list:
        end, ys = lax.scan(lambda c, x: step(c, x), start, xs, length=length, reverse=reverse)
        return [*end, *ys]

    return around_writes(w, of_scan(w, eqn, ins), lambda it: _around(w, it, drive))


def _step_by_step(w: Any, eqn: Any, ins: Sequence, n: int, m: int) -> list:
    length, body = eqn.params["length"], eqn.params["jaxpr"]
    consts, carry, xs = list(ins[:n]), list(ins[n : n + m]), list(ins[n + m :])
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    steps: list = [None] * length
    for k in order:
        outs = w.body(body, [*consts, *carry, *(_entry(w, x, k) for x in xs)])
        carry, steps[k] = outs[:m], outs[m:]
    return [*carry, *(_stacked(w, [s[i] for s in steps], v.aval) for i, v in enumerate(eqn.outvars[m:]))]


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
        known = [e.known for e in steps]
        return w.value(stack, aval.shape, stacked(known) if all(isinstance(k, Lazy) for k in known) else None)
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
    # The input of one step, with the columns that it has at any step.
    if not isinstance(x, Slots):
        return w.value(None, x.shape[1:])
    cols = union_along(x.cols, x.shape, [0], w.n)
    return Slots(cols.reshape(len(cols), *cols.shape[2:]), None, x.shape[1:], x.dtype)


def _whole(w: Any, x: Any) -> Any:
    if not isinstance(x, (Slots, Parts)):
        return x
    t = as_slots(w.tape, x, w.n)
    return t if t.size else nothing(t.shape, t.dtype)


class _Apart:
    """The columns of steps that carry no tangent to each other: columns that differ between steps get a number.

    The numbers 0 to n - 1 are inputs of the program, n is not used, and a number from n + 1 on stands for one column
    at each step.
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
        """Columns of the program as numbers here."""
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
    # What a step reads, with its names on the outer and on the inner tape.
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


def _filled(cols: Sequence[np.ndarray], loop: Loop, n: int) -> list[np.ndarray | None] | None:
    # The patterns of the results if there are many columns and most elements have most of them, else None.
    carried = [(c, v.shape) for c, v in zip(cols, loop.start, strict=True) if isinstance(v, Slots)]
    found = np.zeros(n + 1, bool)
    for c, _ in carried:
        found[c.reshape(-1)] = True
    common = int(found[:n].sum())
    entries = sum(int((np.broadcast_to(c, (len(c), *shape)) < n).sum()) for c, shape in carried)
    large = common * sum(math.prod(shape) for _, shape in carried) > _ROOM * entries
    if common <= FEW or large or len(loop.avals) > len(cols):
        return None
    return [c if isinstance(v, Slots) else None for c, v in zip(cols, loop.start, strict=True)]


def _around(w: Any, ins: Loop, drive: Callable, test: Any = None, tested: Sequence = ()) -> list:
    """All steps of a loop.

    Args:
      ins: the loop with its inputs; a carry that is no tangent at first may become one.
      drive: runs the loop, given a step `(carry, xs) -> (carry, ys)`, the first carry, and the xs (or `tested`).
      test: the program that says whether a `while` goes on.
      tested: what only this test reads.
    """
    m, n = len(ins.start), len(ins.consts)
    moving = around(ins.body, list(map(is_tangent, ins.inputs)), n, m)[n:][:m]
    if test is not None and any(flow(test, [*map(is_tangent, tested), *moving])):
        raise NotLinear("while")  # an iterative solver: its condition depends on tangents
    loop = replace(
        ins,
        consts=[_whole(w, v) for v in ins.consts],
        start=[
            as_tangent(w.tape, v, a, w.n) if t else v for v, t, a in zip(ins.start, moving, ins.avals, strict=False)
        ],
        xs=[_whole(w, v) for v in ins.xs],
    )
    step, patterns, known = None, None, counted(loop)
    try:
        if any(moving) or any(known):
            step = loop.numbered(w, loop.body, known)
        if step is not None and any(moving) and _gives_what_differs(loop):
            patterns = of_all_steps(w, loop, known, step)
    except Differs:
        patterns = of_all_steps(w, loop, known, None)
    cols, each = [], []
    if patterns is None:
        if any(moving):
            each = [_any_step(w, x) for x in loop.xs]
            others = [v for v in (*loop.consts, *each) if isinstance(v, Slots)]
            outs, total = step or loop.numbered(w, loop.body, [None] * len(known))
            cols = closure(w, outs, total, loop.start, others, loop.length)
            patterns = None if others else _filled(cols, loop, w.n)
    if patterns is None:
        outs = _looped(w, loop, drive, tested, cols, each)
    else:
        outs = _on_all_columns(w, loop, drive, tested, patterns)
    known = known_results(loop)
    return [o if is_tangent(o) else w.value(o.name, o.shape, k) for o, k in zip(outs, known, strict=True)]


def _on_all_columns(w: Any, loop: Loop, drive: Callable, tested: Sequence, patterns: Sequence) -> list:
    # The loop as it is, vectorized over all columns, or over fewer if some share one.
    shared, (n, m), tangent = Shared(patterns, w.n), (len(loop.consts), len(loop.start)), loop.tangents
    linear, names = [isinstance(v, Slots) for v in loop.inputs], []
    for k, v in enumerate(loop.inputs):
        name = shared.entering(w.tape, v) if linear[k] else w.name(v)
        names.append(w.tape.step(lambda a: jnp.moveaxis(a, 1, 0), name) if linear[k] and k >= n + m else name)
    jaxpr, own = loop.program

    def all_columns(given: Sequence) -> list:
        def one(tangents: Sequence) -> Sequence:
            return eval_jaxpr(jaxpr, own, *with_tangents(given, linear, tangents))

        tangents = [v for v, t in zip(given, linear, strict=True) if t]
        try:
            outs = jax.vmap(one)(tangents)
        except NotImplementedError:  # an operation without a batching rule
            outs = lax.map(one, tangents)
        return [o if t else o[0] for o, t in zip(outs, tangent, strict=True)]

    def run(*args: Any) -> Sequence:
        given, others = list(args[: len(names)]), list(args[len(names) :])

        def step(carry: Sequence, xs: Sequence) -> tuple[list, list]:
            outs = all_columns([*given[:n], *carry, *xs])
            return outs[:m], outs[m:]

        return drive(step, list(map(jnp.asarray, given[n : n + m])), others if tested else given[n + m :])

    results = w.tape.steps_of(run, [*names, *map(w.name, tested)], len(tangent))
    made: list = []
    for k, (name, a) in enumerate(zip(results, loop.avals, strict=True)):
        if not tangent[k]:
            made.append(w.value(name, a.shape))
            continue
        name = name if k < m else w.tape.step(lambda v: jnp.moveaxis(v, 0, 1), name)
        made.append(shared.leaving(w.tape, name, patterns[k], a))
    return made


def _gives_what_differs(loop: Loop) -> bool:
    # Whether each step reads tangents of its own and returns some: the carry then has more columns after every step.
    return any(isinstance(v, Slots) and v.cols.shape[1] > 1 for v in loop.xs) and any(loop.tangents[len(loop.start) :])


def _looped(w: Any, loop: Loop, drive: Callable, tested: Sequence, cols: Sequence, each: list) -> list:
    """The values computed in a real loop, whose step is walked once more.

    Args:
      cols: the columns that the carry can have at any step.
      each: the xs of one step, with the columns of any step. Both are empty if no tangent is carried.
    """
    body, consts, start, given, shapes = loop.body, loop.consts, loop.start, loop.xs, loop.avals
    m, moving = len(start), [isinstance(v, Slots) for v in start]
    apart, n = None, w.n
    if any(moving):
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
    tape = Tape()
    it = _Loop()
    for v in consts:
        name = tape.new()
        if isinstance(v, Slots):
            own = v.cols if apart is None else apart.of_all(v.cols)
            it.add("const", Slots(own, name, v.shape, v.dtype), name, values(w.tape, v, w.n))
        else:
            it.add("const", w.value(name, v.shape, v.known), name, w.name(v))
    for k, v in enumerate(start):
        name = tape.new()
        if moving[k]:
            own = Slots(cols[k], name, v.shape, v.dtype)
            it.add("carry", own, name, values(w.tape, aligned(w.tape, v, cols[k], w.n), w.n))
        else:
            it.add("carry", w.value(name, v.shape), name, w.name(v))
    for v, some in zip(given, each, strict=True):
        name = tape.new()
        if isinstance(v, Slots):
            moved = w.tape.step(lambda a: jnp.moveaxis(a, 1, 0), values(w.tape, v, w.n))
            it.add("x", Slots(some.cols, name, some.shape, some.dtype), name, moved)
        else:
            it.add("x", w.value(name, v.shape[1:]), name, w.name(v))
    outs = w.inside(tape, n).body(body, it.read)
    for v in tested:
        it.add("tested", None, tape.new(), w.name(v))
    outs = [
        aligned(tape, as_tangent(tape, o, a, n), cols[k], n) if k < m and moving[k]
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
            made.append(Slots(cols[k], name, a.shape, a.dtype))
        else:
            moved = w.tape.step(lambda v: jnp.moveaxis(v, 0, 1), name)
            own = o.cols[:, None] if apart is None else apart.of_steps(o.cols)
            t = Slots(own, moved, a.shape, a.dtype)
            made.append(select(w.tape, t, np.flatnonzero(~unused(own, w.n)), w.n) if o.width and t.size else t)
    return made


def loop(w: Any, eqn: Any, ins: Sequence) -> list:
    """A `while`: a real loop, unless it is known to take few steps."""
    c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    ins = steadied(w, ins)
    tested, consts, carry = ins[:c], ins[c : c + b], ins[c + b :]
    test, body, avals = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"], [v.aval for v in eqn.outvars]
    if getattr(test, "jaxpr", test).outvars[0].aval.ndim:
        (test, body), consts = _together(test, body, eqn.invars, c), [*tested, *consts]
    it = Loop(body, consts, carry, [], avals, trips(Loop(body, consts, carry, [], avals, None), test, tested))
    if it.length is not None and w.unrolls(it.length, carry):
        for _ in range(it.length):
            carry = w.body(body, [*consts, *carry])
        return carry
    jaxpr, own = getattr(test, "jaxpr", test), inner_consts(test)

    def drive(step: Callable, start: list, tested: list) -> list:
        def on(carried: list) -> Any:
            # The condition of a linear program depends on no tangent: any array of the right shape can stand for one.
            pairs = zip(carried, avals, strict=True)
            like = [v if v.shape == a.shape else jnp.zeros(a.shape, a.dtype) for v, a in pairs]
            return eval_jaxpr(jaxpr, own, *tested, *like)[0]

        return lax.while_loop(on, lambda carried: step(carried, [])[0], start)

    return _around(w, it, drive, test, tested)


def _together(test: Any, body: Any, inputs: Sequence, c: int) -> tuple[Any, Any]:
    # A condition for each sample: the loop goes on while any is true, and changes only the samples that go on. The body
    # takes the constants of the condition in front of its own.
    (run_test, run_body), avals = map(_function, (test, body)), [v.aval for v in inputs]
    m = len(getattr(body, "outvars", ()) or body.jaxpr.outvars)

    def step(*given: Any) -> list:
        carry = given[len(given) - m :]
        (goes,) = run_test(*given[:c], *carry)
        pairs = zip(run_body(*given[c:]), carry, strict=True)
        return [jnp.where(goes.reshape(goes.shape + (1,) * (old.ndim - goes.ndim)), new, old) for new, old in pairs]

    goes_on = jax.make_jaxpr(lambda *given: [jnp.any(run_test(*given)[0])])(*avals[:c], *avals[len(avals) - m :])
    return goes_on, jax.make_jaxpr(step)(*avals)


def _function(program: Any) -> Callable:
    jaxpr, own = getattr(program, "jaxpr", program), inner_consts(program)
    return lambda *given: eval_jaxpr(jaxpr, own, *given)


LOOPS = {"cond": cond, "custom_linear_solve": solve, "scan": scan, "while": loop}
