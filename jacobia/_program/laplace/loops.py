"""Branches and loops: the same operation, around programs that carry legs and Laplacians too.

Knows branches and loops. Knows nothing of single operations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from jacobia._compat import inner_consts, scan_split
from jacobia._program.flow import around, flow
from jacobia._program.laplace.carried import Carried, written_out

Inside = Callable[[Any, Sequence[Carried]], list[Carried]]  # the results of a program


def through(eqn: Any, ins: list[Carried], count: int, run: Inside) -> list[Carried] | None:
    """The results of a branch or a loop; None: the equation is neither."""
    name = eqn.primitive.name
    if name not in _RULES or not any(z.moves for z in ins):
        return None
    ins = [written_out(z, count) for z in ins]
    legs = max(len(z.legs) for z in ins)
    rows = next(len(z.legs[0]) for z in ins if z.moves)
    return _RULES[name](eqn, ins, _Frame(rows, legs, run))


class _Frame:
    # Packs a value into a tuple of arrays that a loop can carry, with legs and Laplacian if the value moves.
    def __init__(self, rows: int, legs: int, run: Inside):
        self.rows, self.legs, self._run = rows, legs, run

    def run(self, program: Any, ins: Sequence[Carried]) -> list[Carried]:
        consts = [Carried(c) for c in inner_consts(program)]
        return self._run(getattr(program, "jaxpr", program), [*consts, *ins])

    def packed(self, z: Carried, moves: bool) -> tuple:
        if not moves:
            return (z.value,)
        shape, dtype = jnp.shape(z.value), z.value.dtype
        legs = z.legs or (jnp.zeros((self.rows, *shape), dtype),) * self.legs
        return z.value, *legs, jnp.zeros(shape, dtype) if z.laplacian is None else z.laplacian

    def unpacked(self, arrays: Sequence, moves: bool) -> Carried:
        return Carried(arrays[0], tuple(arrays[1:-1]), None, arrays[-1]) if moves else Carried(arrays[0])


def _inexact(marks: Sequence[bool], avals: Sequence) -> list[bool]:
    # Only inexact values have derivatives.
    return [m and jnp.issubdtype(v.aval.dtype, jnp.inexact) for m, v in zip(marks, avals, strict=True)]


def _cond(eqn: Any, ins: list[Carried], frame: _Frame) -> list[Carried]:
    branches, given = eqn.params["branches"], ins[1:]
    moves = [z.moves for z in given]
    outs = [any(own) for own in zip(*(flow(b, moves) for b in branches), strict=True)]
    outs = _inexact(outs, eqn.outvars)

    def one(program: Any) -> Callable:
        def run(arrays: list) -> list:
            zs = frame.run(program, [frame.unpacked(a, m) for a, m in zip(arrays, moves, strict=True)])
            return [frame.packed(z, m) for z, m in zip(zs, outs, strict=True)]

        return run

    index = lax.convert_element_type(ins[0].value, jnp.int32)
    packed = [frame.packed(z, m) for z, m in zip(given, moves, strict=True)]
    made = lax.switch(index, [one(b) for b in branches], packed)
    return [frame.unpacked(a, m) for a, m in zip(made, outs, strict=True)]


def _grown(eqn: Any, body: Any, moves: list[bool], consts: int, carry: int) -> list[bool]:
    grown = around(getattr(body, "jaxpr", body), moves, consts, carry)[consts : consts + carry]
    return _inexact(grown, eqn.outvars[:carry])


def _scan(eqn: Any, ins: list[Carried], frame: _Frame) -> list[Carried]:
    n, m = scan_split(eqn.params)
    body, params = eqn.params["jaxpr"], eqn.params
    consts, first, xs = ins[:n], ins[n : n + m], ins[n + m :]
    carried = _grown(eqn, body, [z.moves for z in ins], n, m)
    read = [z.moves for z in xs]
    told = flow(body, [*(z.moves for z in consts), *carried, *read])[m:]
    told = _inexact(told, eqn.outvars[m:])

    def step(carry: list, each: list) -> tuple[list, list]:
        now = [frame.unpacked(a, mv) for a, mv in zip(carry, carried, strict=True)]
        seen = [frame.unpacked(a, mv) for a, mv in zip(each, read, strict=True)]
        outs = frame.run(body, [*consts, *now, *seen])
        packed = [frame.packed(z, mv) for z, mv in zip(outs, [*carried, *told], strict=True)]
        return packed[:m], packed[m:]

    # In a scan the axis of steps is in front; in a leg, the axis of directions.
    steps = [_swapped(frame.packed(z, mv), mv) for z, mv in zip(xs, read, strict=True)]
    start = [frame.packed(z, mv) for z, mv in zip(first, carried, strict=True)]
    last, ys = lax.scan(step, start, steps, params["length"], params["reverse"], params["unroll"])
    out = [frame.unpacked(a, mv) for a, mv in zip(last, carried, strict=True)]
    return out + [frame.unpacked(_swapped(a, mv), mv) for a, mv in zip(ys, told, strict=True)]


def _swapped(arrays: tuple, moves: bool) -> tuple:
    if not moves:
        return arrays
    return arrays[0], *(jnp.moveaxis(leg, 1, 0) for leg in arrays[1:-1]), arrays[-1]


def _where(going: Any, new: Any, old: Any, ndim: int) -> Any:
    # The condition has the first axes of the value; the axis of directions is in front of these.
    ahead = new.ndim - ndim
    return jnp.where(going.reshape((1,) * ahead + going.shape + (1,) * (ndim - going.ndim)), new, old)


def _while(eqn: Any, ins: list[Carried], frame: _Frame) -> list[Carried]:
    c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    tested, consts, first = ins[:c], ins[c : c + b], ins[c + b :]
    body, test = eqn.params["body_jaxpr"], eqn.params["cond_jaxpr"]
    carried = _grown(eqn, body, [z.moves for z in ins[c:]], b, len(first))

    def asked(carry: list) -> Any:
        return frame.run(test, [*(Carried(z.value) for z in tested), *(Carried(a[0]) for a in carry)])[0].value

    def step(carry: list) -> list:
        outs = frame.run(body, [*consts, *(frame.unpacked(a, m) for a, m in zip(carry, carried, strict=True))])
        made = [frame.packed(z, m) for z, m in zip(outs, carried, strict=True)]
        going = asked(carry)
        if not jnp.ndim(going):
            return made
        # A condition for each sample: the loop runs while one is true, and samples that are done keep their values.
        pairs = zip(made, carry, strict=True)
        return [tuple(_where(going, a, b, own[0].ndim) for a, b in zip(own, was, strict=True)) for own, was in pairs]

    start = [frame.packed(z, m) for z, m in zip(first, carried, strict=True)]
    return [
        frame.unpacked(a, m)
        for a, m in zip(lax.while_loop(lambda c: jnp.any(asked(c)), step, start), carried, strict=True)
    ]


_RULES = {"cond": _cond, "scan": _scan, "while": _while}
