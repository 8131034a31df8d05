"""Where the samples of a batch are in the results of one operation, given where they are in its operands.

Knows single operations. Knows nothing of derivatives, nor of programs inside operations.
Shapes: B samples; see `along`. An operand without samples is used whole by every sample, or cut along the axis that
the operation pairs with the axis of samples.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._program.along import Followed, common, lost, same_axis, shape_of, shapes_of
from jacobia._program.axis.products import (
    convolution,
    dot_general,
    dynamic_slice,
    dynamic_update_slice,
    gather,
    scatter,
)  # fmt: skip
from jacobia._program.moves import MOVES
from jacobia._program.wiring import wiring


def _elementwise(eqn: Any, states: Sequence, size: int) -> Followed:
    rank = len(shape_of(eqn.outvars[0]))
    if any(len(s) not in (0, rank) for s in shapes_of(eqn)):
        raise lost(eqn, None)
    return same_axis(eqn, common(eqn, states))


def _each(eqn: Any, states: Sequence, size: int) -> Followed:
    # Operands pass through, one result each.
    return Followed(list(states), list(states), eqn.params)


def _other_axes(eqn: Any, states: Sequence, size: int) -> Followed:
    # Works along one axis, for every entry of the others.
    along = common(eqn, states)
    if along.axis == eqn.params["axis" if "axis" in eqn.params else "dimension"]:
        raise lost(eqn, along.axis)
    return same_axis(eqn, along)


def _reduction(eqn: Any, states: Sequence, size: int) -> Followed:
    along, axes = common(eqn, states), eqn.params["axes" if "axes" in eqn.params else "dimensions"]
    if along.axis in axes:
        raise lost(eqn, along.axis)
    out = along.at(along.axis - sum(a < along.axis for a in axes))
    full = next(s for s, state in zip(shapes_of(eqn), states, strict=True) if state)
    operands = [along if len(s) == len(full) else None for s in shapes_of(eqn)]  # the others are initial values
    return Followed([out] * len(eqn.outvars), operands, eqn.params)


def _top_k(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis == eqn.params.get("axis", len(shape_of(eqn.invars[0])) - 1) % len(shape_of(eqn.invars[0])):
        raise lost(eqn, along.axis)
    return same_axis(eqn, along)


def idle_window(params: dict, axis: int) -> bool:
    """Whether windows leave an axis as it is: one entry each, one after the other."""
    idle = {"window_dimensions": 1, "window_strides": 1, "base_dilation": 1}
    padding = params.get("padding")
    return all(params.get(k) is None or params[k][axis] == v for k, v in idle.items()) and (
        padding is None or tuple(padding[axis]) == (0, 0)
    )


def _windows(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if not idle_window(eqn.params, along.axis):
        raise lost(eqn, along.axis)
    return same_axis(eqn, along)


def _matrix(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(eqn, states, wiring(eqn).core)


def _leading(eqn: Any, states: Sequence, core: Sequence[int]) -> Followed:
    # Works on the last axes of each operand, for every entry of the axes before these.
    along, shapes = common(eqn, states), shapes_of(eqn)
    if len(shapes) != len(core) or any(along.axis >= len(s) - r for s, r in zip(shapes, core, strict=True)):
        raise lost(eqn, along.axis)
    return same_axis(eqn, along)


def solves_columns(eqn: Any) -> bool:
    """Whether each column of a solve's last operand is solved alone; if the matrix is on the right, each row is."""
    return eqn.params.get("left_side", eqn.params.get("left", True))


def _solve(eqn: Any, states: Sequence, size: int) -> Followed:
    *of_matrix, along = states
    free = len(shape_of(eqn.invars[-1])) - (1 if solves_columns(eqn) else 2)
    if along is None or along.axis != free or any(of_matrix):
        return _matrix(eqn, states, size)
    return Followed([along], list(states), eqn.params)


def _fft(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(eqn, states, [len(eqn.params["fft_lengths"])])


def _random(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(eqn, states, [0] * len(states))


# By how an operation is wired (`wiring`).
_BY_HOW: dict[str, Callable] = {
    "pass": _each,
    **dict.fromkeys(("running sum", "running", "sort"), _other_axes),
    "top": _top_k,
    **dict.fromkeys(("sum over", "reduce"), _reduction),
    **dict.fromkeys(("window sum", "window choice", "window"), _windows),
    "contraction": dot_general,
    "convolution": convolution,
    "read": gather,
    "read block": dynamic_slice,
    **dict.fromkeys(("write", "write sum", "write difference", "write product", "write extreme"), scatter),
    "write block": dynamic_update_slice,
    "matrix": _matrix,
    "solve": _solve,
    "transform": _fft,
    "random": _random,
}


def rule_of(eqn: Any) -> Callable[[Any, Sequence, int], Followed] | None:
    """The rule that follows samples through an operation; None: there is none."""
    move = MOVES.get(eqn.primitive.name)
    if move is not None:
        return move.along
    return _elementwise if wiring(eqn).element else _BY_HOW.get(wiring(eqn).how)
