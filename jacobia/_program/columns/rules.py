"""What single operations do to a tangent held in slots: the columns now, the values on the tape.

The table of rules, and linear algebra. An operation without a rule is dense between its inputs and its outputs.
Knows single operations. Knows nothing of programs inside operations.
Shapes: N inputs, K slots; columns and values of a tangent of shape S are (K, *S).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jacobia._compat import bind
from jacobia._program.axis.rules import ELEMENTWISE, solves_columns
from jacobia._program.columns.apply import blocked, by_lead, is_tangent, tangents
from jacobia._program.columns.elements import add, div, elementwise, mul, select_n
from jacobia._program.columns.move_rules import move
from jacobia._program.columns.moves import MOVES
from jacobia._program.columns.position_rules import dynamic_slice, dynamic_update_slice, gather, scatter, scatter_mul
from jacobia._program.columns.slots import nothing
from jacobia._program.columns.sums import cumsum, dot_general, psum, reduce_sum
from jacobia._program.columns.windows import convolution, reduce_window_sum, select_and_gather
from jacobia._program.flow import through


def _leading(*core: int) -> Callable:
    # Linear algebra on the last axes, for every entry of the axes before these.
    def rule(w: Any, eqn: Any, ins: Sequence) -> list:
        shapes = [a.aval.shape for a in eqn.invars]
        own = core if len(core) == len(shapes) else core * len(shapes)
        rank = len(shapes[0]) - own[0]
        leads = {s[: len(s) - r] for s, r in zip(shapes, own, strict=False) if len(s) >= r}
        if len(leads) != 1 or not rank:
            return blocked(w, eqn, ins, None)
        return by_lead(w, eqn, ins, rank)

    return rule


def _solve(*core: int) -> Callable:
    # Where the matrix is no tangent, each column of the right-hand sides (row, from the right) is solved for by itself.
    together = _leading(*core)

    def rule(w: Any, eqn: Any, ins: Sequence) -> list:
        if any(map(is_tangent, ins[:-1])):
            return together(w, eqn, ins)
        rank = len(eqn.outvars[0].aval.shape)
        return blocked(w, eqn, ins, [rank - (2 if solves_columns(eqn) else 1)])

    return rule


def _fft(w: Any, eqn: Any, ins: Sequence) -> list:
    return _leading(len(eqn.params["fft_lengths"]))(w, eqn, ins)


def unknown(w: Any, eqn: Any, ins: Sequence) -> list:
    """An operation without a rule: every result may depend on everything."""
    w.warn(eqn.primitive.name)
    linear = tangents(ins)
    moves = through(eqn, linear)
    outs = blocked(w, eqn, ins, None)
    if all(moves):
        return outs
    # What comes out beside tangents, whatever these are.
    zeros = [w.tape.step(_zeros(a.aval)) if k else w.name(v) for v, k, a in zip(ins, linear, eqn.invars, strict=True)]
    names = w.tape.steps_of(lambda *given: bind(eqn, *given), zeros, len(outs))
    return [
        out if m else w.value(name, v.aval.shape)
        for out, m, name, v in zip(outs, moves, names, eqn.outvars, strict=True)
    ]


def _zeros(aval: Any) -> Callable:
    return lambda: jnp.zeros(aval.shape, aval.dtype)


def dense(w: Any, eqn: Any, ins: Sequence) -> list:
    """An operation that makes every result of all of its operands."""
    return blocked(w, eqn, ins, None)


def _along(name: str) -> Callable:
    def rule(w: Any, eqn: Any, ins: Sequence) -> list:
        axis = eqn.params.get(name, -1)
        shapes = {a.aval.shape for a in eqn.invars} | {v.aval.shape for v in eqn.outvars}
        return blocked(w, eqn, ins, [axis % len(eqn.invars[0].aval.shape)] if len(shapes) == 1 else None)

    return rule


def _each(w: Any, eqn: Any, ins: Sequence) -> list:
    return list(ins)


def _of_some(rule: Callable) -> Callable:
    # Where there are no elements there is nothing to find out, and shapes of nothing are a trap.
    def own(w: Any, eqn: Any, ins: Sequence) -> list:
        if any(v.size for v in ins if is_tangent(v)) and any(v.aval.size for v in eqn.outvars):
            return rule(w, eqn, ins)
        return [nothing(v.aval.shape, v.aval.dtype) for v in eqn.outvars]

    return own


_RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(MOVES, move),
    **dict.fromkeys(("device_put", "optimization_barrier"), _each),
    "mul": mul,
    "div": div,
    **dict.fromkeys(("add", "add_any"), add(1)),
    "sub": add(-1),
    "select_n": select_n,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    **dict.fromkeys(("scatter-add", "scatter_add"), scatter(False)),
    **dict.fromkeys(("scatter-sub", "scatter_sub"), scatter(False, -1)),
    "scatter": scatter(True),
    **dict.fromkeys(("scatter-mul", "scatter_mul"), scatter_mul),
    "dynamic_update_slice": dynamic_update_slice,
    "reduce_sum": reduce_sum,
    "psum": psum,
    "dot_general": dot_general,
    "cumsum": cumsum,
    **dict.fromkeys(("cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    "triangular_solve": _solve(2, 2),
    "tridiagonal_solve": _solve(1, 1, 1, 2),
    "ormqr": _solve(2, 1, 2),
    **dict.fromkeys(("cholesky", "lu", "qr", "eigh", "eig", "svd", "householder_product"), _leading(2)),
    "fft": _fft,
    "bitcast_convert_type": dense,
    **dict.fromkeys(
        ("reduce_window", "select_and_scatter_add", "reduce_max", "reduce_min", "reduce_prod", "sort"), dense
    ),
    "conv_general_dilated": convolution,
    "reduce_window_sum": reduce_window_sum,
    "select_and_gather_add": select_and_gather,
}  # fmt: skip

RULES = {name: _of_some(rule) for name, rule in _RULES.items()}
