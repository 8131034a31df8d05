"""Slots through elementwise operations: the columns stay, or those of several operands are joined.

Knows single operations. Knows nothing of programs inside operations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import bind
from jacobia._program.columns.apply import (
    NotLinear,
    apply,
    common_columns,
    is_tangent,
    masked,
    out_of,
    stretched,
    tangents,
    with_tangents,
)
from jacobia._program.columns.parts import as_slots, parts_of
from jacobia._program.columns.slots import Parts, Slots, nothing, sum_of, values
from jacobia._program.columns.tape import Last, Planes, each
from jacobia._program.wiring import ALL, BEHIND, wiring


def elementwise(w: Any, eqn: Any, ins: Sequence) -> list:
    shape, dtype = out_of(eqn)
    linear = tangents(ins)
    wired = wiring(eqn).linear
    if not wired or (sum(linear) > 1 and wired not in (ALL, BEHIND)):
        raise NotLinear(eqn.primitive.name)
    if sum(linear) == 1 and isinstance(v := ins[linear.index(True)], Parts) and v.shape == shape:
        return [_each_part(w, eqn, ins, linear.index(True))]
    ts = [stretched(w, as_slots(w.tape, v, w.n), shape) for v in ins if is_tangent(v)]
    ts = common_columns(w, ts)
    if not ts[0].width:
        return [nothing(shape, dtype)]
    names = apply(w, eqn, with_tangents(ins, linear, ts), linear, apart=True, elementwise=True)
    return [Slots(ts[0].cols, names[0], shape, dtype)]


def _each_part(w: Any, eqn: Any, ins: Sequence, at: int) -> Any:
    shape, dtype = out_of(eqn)
    terms = []
    for slots, rows in ins[at].terms:
        if not slots.width or not (rows >= 0).any():
            continue
        places = w.tape.array(np.maximum(rows, 0).reshape(slots.shape).astype(np.int32))

        def own(v: Any, places: Any, *others: Any) -> Any:
            picked = [o if jnp.ndim(o) == 0 else jnp.broadcast_to(o, shape).reshape(-1)[places] for o in others]
            picked.insert(at, None)
            return jax.vmap(lambda x: bind(eqn, *(x if k == at else a for k, a in enumerate(picked)))[0])(v)

        others = [w.name(v) for k, v in enumerate(ins) if k != at]
        name = w.tape.step(own, values(w.tape, slots, w.n), places, *others)
        terms.append((Slots(slots.cols, name, slots.shape, dtype), rows))
    return Parts(terms, shape, dtype) if terms else nothing(shape, dtype)


def div(w: Any, eqn: Any, ins: Sequence) -> list:
    if is_tangent(ins[1]):
        raise NotLinear("div")
    return elementwise(w, eqn, ins)


def mul(w: Any, eqn: Any, ins: Sequence) -> list:
    outs = elementwise(w, eqn, ins)
    factor = next((v for v in ins if not is_tangent(v)), None)
    if factor is None or not isinstance(outs[0], Slots):
        return outs
    mask = w.nonzero(factor)
    return outs if mask is None or mask.all() else [masked(w, outs[0], mask)]


def add(sign: int) -> Callable:
    def rule(w: Any, eqn: Any, ins: Sequence) -> list:
        shape, dtype = out_of(eqn)
        terms = []
        for k, v in enumerate(ins):
            if not is_tangent(v):
                continue  # a zero that was written out
            if k and sign < 0:
                v = negative(w, v)
            terms.append(v)
        terms = [t if t.shape == shape else stretched(w, as_slots(w.tape, t, w.n), shape) for t in terms]
        if any(isinstance(t, Parts) for t in terms):
            return [Parts([p for t in terms for p in parts_of(t) if p[0].width], shape, dtype)]
        return [sum_of(w.tape, terms, w.n)]

    return rule


def negative(w: Any, t: Any) -> Any:
    """A tangent times -1."""
    if isinstance(t, Parts):
        return Parts([(negative(w, s), rows) for s, rows in t.terms], t.shape, t.dtype)
    if not t.width:
        return t
    name = w.tape.step(lambda v: each(jnp.negative, v), values(w.tape, t, w.n), apart=True)
    return Slots(t.cols, name, t.shape, t.dtype)


def select_n(w: Any, eqn: Any, ins: Sequence) -> list:
    # The sum over all cases, each zero where it is not chosen.
    if is_tangent(ins[0]):
        raise NotLinear("select_n")
    shape, dtype = out_of(eqn)
    which, known = w.name(ins[0]), w.known(ins[0])
    terms = []
    for k, v in enumerate(ins[1:]):
        if not is_tangent(v):
            continue
        t = as_slots(w.tape, v, w.n)
        if not t.width or (known is not None and not (known.astype(int) == k).any()):
            continue

        def chosen(v: Any, which: Any, k: int = k) -> Any:
            here = jnp.asarray(which).astype(jnp.int32) == k
            if isinstance(v, Last):
                return Last(jnp.where(jnp.expand_dims(here, -1), v.array, jnp.zeros((), v.array.dtype)))
            if isinstance(v, Planes):
                return Planes([jnp.where(here, a, jnp.zeros((), a.dtype)) for a in v])
            return jnp.where(here, v, jnp.zeros((), v.dtype))

        made = Slots(t.cols, w.tape.step(chosen, values(w.tape, t, w.n), which, apart=True), shape, dtype)
        terms.append(made if known is None else masked(w, made, known.astype(int) == k))
    return [sum_of(w.tape, terms, w.n) if terms else nothing(shape, dtype)]
