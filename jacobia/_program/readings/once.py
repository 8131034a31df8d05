"""The part of a program that does not depend on some of its inputs: computed once, and kept for all their values.

`split` finds these operations; `varying` finds the elements of the results that do depend on those inputs.
Knows equations and nothing of derivatives.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from jacobia._compat import Literal, bind, inner_consts
from jacobia._program.axis.samples import body_of
from jacobia._program.moves import MOVES
from jacobia._program.readings.cost import flops
from jacobia._program.walk import run
from jacobia._program.wiring import wiring


class Split(NamedTuple):
    """A program in two: `once(inputs)` gives what is remembered, `each(inputs, remembered)` the results."""

    once: Callable[[Sequence], list]
    each: Callable[[Sequence, Sequence], list]
    flops: float  # of what is computed once


def split(jaxpr: Any, changes: Sequence[bool]) -> Split | None:
    """Split off what does not depend on the inputs that change; None: nothing is computed from the others alone.

    Operations that only move data, or have no operands, run each time: keeping their results costs more than it saves.
    """
    moving = {v for v, c in zip(jaxpr.invars, changes, strict=True) if c}
    made: dict[Any, Any] = {}  # a result that is computed once → its equation
    total = 0.0
    for eqn in jaxpr.eqns:
        ins = [a for a in eqn.invars if not isinstance(a, Literal)]
        if eqn.effects or any(a in moving for a in ins):
            moving.update(eqn.outvars)
        elif ins:
            total += flops(eqn)
            made.update((v, eqn) for v in eqn.outvars)
    kept = _kept(jaxpr, made, moving)
    if not kept:
        return None
    before = [e for e in jaxpr.eqns if not any(v in moving for v in e.outvars)]

    def once(inputs: Sequence) -> list:
        return _evaluated(jaxpr, before, inputs, {}, kept)

    def each(inputs: Sequence, remembered: Sequence) -> list:
        return _evaluated(jaxpr, jaxpr.eqns, inputs, dict(zip(kept, remembered, strict=True)), jaxpr.outvars)

    return Split(once, each, total)


def _kept(jaxpr: Any, made: dict, moving: set) -> list:
    # The values computed once that the rest reads. One that was only moved is traced back to its source.
    needed = [a for e in jaxpr.eqns if any(v in moving for v in e.outvars) for a in e.invars]
    kept, seen = {}, set()
    waiting = [a for a in (*needed, *jaxpr.outvars) if not isinstance(a, Literal)]
    while waiting:
        a = waiting.pop()
        if a in seen or a not in made:
            continue
        seen.add(a)
        if made[a].primitive.name in MOVES:
            waiting += [b for b in made[a].invars if not isinstance(b, Literal)]
        else:
            kept[a] = None
    return list(kept)


def _evaluated(jaxpr: Any, eqns: Sequence, inputs: Sequence, env: dict, wanted: Sequence) -> list:
    # The values `wanted`. Equations that are not needed, or whose results are in `env` already, do not run.
    needed, todo = {a for a in wanted if not isinstance(a, Literal)} - set(env), []
    for eqn in reversed(eqns):
        if any(v in needed for v in eqn.outvars):
            needed.update(a for a in eqn.invars if not isinstance(a, Literal) and a not in env)
            todo.append(eqn)
    env = env | dict(zip(jaxpr.invars, inputs, strict=True))

    def read(a: Any) -> Any:
        return a.val if isinstance(a, Literal) else env[a]

    for eqn in reversed(todo):
        env.update(zip(eqn.outvars, bind(eqn, *map(read, eqn.invars)), strict=True))
    return [read(a) for a in wanted]


def varying(jaxpr: Any, changes: Sequence[bool]) -> list[np.ndarray]:
    """Which elements of the results can change if the marked inputs do: a boolean array for each result.

    An operation that is neither elementwise nor a move counts as changing every element of its results.
    """
    given = [np.ones((1, *v.aval.shape), np.int32) if c else None for v, c in zip(jaxpr.invars, changes, strict=True)]
    outs = run(jaxpr, [], given, _varied)
    return [
        o[0] > 0 if isinstance(o, np.ndarray) and o.shape == (1, *v.aval.shape) else np.zeros(v.aval.shape, bool)
        for o, v in zip(outs, jaxpr.outvars, strict=True)
    ]


def _varied(eqn: Any, ins: list) -> list:
    # Marks in the form that `moves` takes: 1 where an element can change; None: no element can.
    marks = [None if isinstance(a, Literal) else v for a, v in zip(eqn.invars, ins, strict=True)]
    if all(m is None for m in marks):
        return [None] * len(eqn.outvars)
    name, body = eqn.primitive.name, body_of(eqn)
    if body is not None:
        return run(getattr(body, "jaxpr", body), [None] * len(inner_consts(body)), marks, _varied)
    if name in MOVES:
        return MOVES[name].numbers(eqn, marks, 0)
    shapes = [(1, *v.aval.shape) for v in eqn.outvars]
    if wiring(eqn).element and len(shapes) == 1:
        either = reduce(np.maximum, [m for m in marks if m is not None])
        return [np.broadcast_to(either, shapes[0])]
    return [np.ones(s, np.int32) for s in shapes]
