"""What single operations do to a tangent held in slots: columns are computed now, values go on the tape.

The table of rules, and linear algebra. An operation without a rule is dense between its inputs and its outputs.
Knows single operations. Knows nothing of programs inside operations.
Shapes: N inputs, K slots; columns and values of a tangent of shape S are (K, *S).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jacobia._compat import bind
from jacobia._program.axis.rules import solves_columns
from jacobia._program.columns.apply import blocked, by_lead, is_tangent, tangents
from jacobia._program.columns.elements import add, div, elementwise, mul, select_n
from jacobia._program.columns.move_rules import move
from jacobia._program.columns.position_rules import dynamic_slice, dynamic_update_slice, gather, scatter, scatter_mul
from jacobia._program.columns.slots import nothing
from jacobia._program.columns.sums import cumsum, dot_general, psum, reduce_sum
from jacobia._program.columns.windows import convolution, reduce_window_sum, select_and_gather
from jacobia._program.flow import through
from jacobia._program.wiring import wiring


def _matrix(w: Any, eqn: Any, ins: Sequence) -> list:
    return _leading(w, eqn, ins, wiring(eqn).core)


def _leading(w: Any, eqn: Any, ins: Sequence, core: Sequence[int]) -> list:
    # Linear algebra on the last axes, for every entry of the axes before these.
    shapes = [a.aval.shape for a in eqn.invars]
    own = core if len(core) == len(shapes) else [*core[:1]] * len(shapes)
    rank = len(shapes[0]) - own[0]
    leads = {s[: len(s) - r] for s, r in zip(shapes, own, strict=True) if len(s) >= r}
    if len(leads) != 1 or not rank:
        return blocked(w, eqn, ins, None)
    return by_lead(w, eqn, ins, rank)


def _solve(w: Any, eqn: Any, ins: Sequence) -> list:
    # If the matrix is no tangent, each column of the right-hand side is solved alone (each row, if it is on the right).
    if any(map(is_tangent, ins[:-1])):
        return _matrix(w, eqn, ins)
    rank = len(eqn.outvars[0].aval.shape)
    return blocked(w, eqn, ins, [rank - (2 if solves_columns(eqn) else 1)])


def _fft(w: Any, eqn: Any, ins: Sequence) -> list:
    return _leading(w, eqn, ins, [len(eqn.params["fft_lengths"])])


def unknown(w: Any, eqn: Any, ins: Sequence) -> list:
    """An operation without a rule: every result may depend on everything."""
    w.warn(eqn.primitive.name)
    linear = tangents(ins)
    moves = through(eqn, linear)
    outs = blocked(w, eqn, ins, None)
    if all(moves):
        return outs
    # Results that do not depend on the tangents: run with zeros in place of these.
    zeros = [w.tape.step(_zeros(a.aval)) if k else w.name(v) for v, k, a in zip(ins, linear, eqn.invars, strict=True)]
    names = w.tape.steps_of(lambda *given: bind(eqn, *given), zeros, len(outs))
    return [
        out if m else w.value(name, v.aval.shape)
        for out, m, name, v in zip(outs, moves, names, eqn.outvars, strict=True)
    ]


def _zeros(aval: Any) -> Callable:
    return lambda: jnp.zeros(aval.shape, aval.dtype)


def dense(w: Any, eqn: Any, ins: Sequence) -> list:
    """An operation whose every result depends on all elements of its operands."""
    return blocked(w, eqn, ins, None)


def _running(w: Any, eqn: Any, ins: Sequence) -> list:
    return blocked(w, eqn, ins, [eqn.params["axis"] % len(eqn.invars[0].aval.shape)])


def _each(w: Any, eqn: Any, ins: Sequence) -> list:
    return list(ins)


def _of_some(rule: Callable) -> Callable:
    # Empty tangents give nothing, and a rule need not handle shapes without elements.
    def own(w: Any, eqn: Any, ins: Sequence) -> list:
        if any(v.size for v in ins if is_tangent(v)) and any(v.aval.size for v in eqn.outvars):
            return rule(w, eqn, ins)
        return [nothing(v.aval.shape, v.aval.dtype) for v in eqn.outvars]

    return own


# By how an operation is wired (`wiring`).
_BY_HOW: dict[str, Callable] = {
    "element": elementwise,
    "sum": add(1),
    "difference": add(-1),
    "product": mul,
    "quotient": div,
    "choice": select_n,
    "pass": _each,
    "move": move,
    "bits": dense,
    "read": gather,
    "read block": dynamic_slice,
    "write": scatter(True),
    "write sum": scatter(False),
    "write difference": scatter(False, -1),
    "write product": scatter_mul,
    "write block": dynamic_update_slice,
    "sum over": reduce_sum,
    "sum over devices": psum,
    "running sum": cumsum,
    "running": _running,
    **dict.fromkeys(("reduce", "sort", "window"), dense),
    "window sum": reduce_window_sum,
    "window choice": select_and_gather,
    "contraction": dot_general,
    "convolution": convolution,
    "matrix": _matrix,
    "solve": _solve,
    "transform": _fft,
}  # fmt: skip
_BY_HOW = {how: _of_some(rule) for how, rule in _BY_HOW.items()}


def rule_of(eqn: Any) -> Callable[[Any, Any, Sequence], list] | None:
    """The rule for what an operation does to tangents in slots; None: there is none."""
    return _BY_HOW.get(wiring(eqn).how)
