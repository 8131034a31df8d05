"""Equations on known values by NumPy: most values needed while a program is read are small, and JAX would compile each.

Covers only operations for which NumPy and JAX agree to the bit; `None` says that an equation is not covered.
Knows equations and arrays. Knows nothing of which values are known.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jacobia._program.moves import MOVES, Move


def evaluated(eqn: Any, values: Sequence[Any], steps: Sequence[bool] = ()) -> list | None:
    """The results of an equation; None: NumPy may give other bits than JAX.

    Args:
      steps: which values have an axis for the steps of a loop in front; if any has, so do the results. Empty: none.
    """
    name = eqn.primitive.name
    avals = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    if not all(isinstance(a.dtype, np.dtype) and a.dtype.kind in "biufc" for a in avals):
        return None
    operands = [np.asarray(x).astype(v.aval.dtype, copy=False) for x, v in zip(values, eqn.invars, strict=True)]
    stepped = any(steps)
    if stepped:
        operands = [x if own else x[None] for x, own in zip(operands, steps, strict=True)]
    move = MOVES.get(name)
    if move is not None and move.linear and name != "pad":  # pad also inserts values
        return _moved(move, eqn, operands, stepped)
    rule, out = _RULES.get(name), eqn.outvars[0].aval
    if rule is None or any(map(_has_tiny, operands)):
        return None
    with np.errstate(all="ignore"):
        made = rule(eqn.params, operands, out, int(stepped))
    return None if made is None or _has_tiny(made) else [np.asarray(made).astype(out.dtype, copy=False)]


def _moved(move: Move, eqn: Any, operands: list, stepped: bool) -> list:
    if not stepped:
        return [x[0] for x in move.numbers(eqn, [x[None] for x in operands], 0)]
    steps = max(len(x) for x in operands)
    return move.numbers(eqn, [np.broadcast_to(x, (steps, *x.shape[1:])) for x in operands], 0)


def _has_tiny(x: np.ndarray) -> bool:
    # Whether there are subnormal numbers, which a compiled program may flush to zero.
    return x.dtype.kind == "f" and bool(((x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny)).any())


def _elementwise(fn: Callable) -> Callable:
    def rule(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray | None:
        return None if any(o.dtype.kind == "c" for o in operands) else fn(*_aligned(operands, out, lead))

    return rule


def _aligned(operands: Sequence, out: Any, lead: int) -> list:
    # A scalar with an axis for steps gets axes of length 1 behind it, to broadcast against arrays.
    rank = len(out.shape) + lead
    return [o.reshape(*o.shape, *[1] * (rank - o.ndim)) if o.ndim else o for o in operands]


def _exact(fn: Callable) -> Callable:
    # Only for integers and booleans.
    def rule(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray | None:
        return fn(*_aligned(operands, out, lead)) if all(o.dtype.kind in "biu" for o in operands) else None

    return rule


def _not(x: np.ndarray) -> np.ndarray:
    return np.logical_not(x) if x.dtype == bool else np.invert(x)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    # Rounds toward zero. A division by zero is left to JAX.
    if not np.all(b):
        return None
    return (a - np.fmod(a, b)) // b


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    return np.fmod(a, b) if np.all(b) else None


def _converted(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray | None:
    (x,) = operands
    if x.dtype.kind in "biu" or (x.dtype.kind == "f" and out.dtype.kind in "bfc"):
        return x != 0 if out.dtype == bool else x.astype(out.dtype)
    return None


def _iota(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray | None:
    if operands:
        return None
    at = params["dimension"]
    shape = [1] * len(out.shape)
    shape[at] = out.shape[at]
    return np.broadcast_to(np.arange(out.shape[at]).reshape(shape), out.shape)


def _select(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray:
    which, *cases = _aligned(operands, out, lead)
    made = cases[0]
    for k, case in enumerate(cases[1:], 1):
        made = np.where(which == k, case, made)
    return np.broadcast_to(made, np.broadcast_shapes(made.shape, (1,) * lead + tuple(out.shape)))


def _reduced(fn: Callable) -> Callable:
    def rule(params: dict, operands: Sequence, out: Any, lead: int) -> np.ndarray | None:
        (x,) = operands
        return fn(x, tuple(a + lead for a in params["axes"])) if x.dtype.kind in "biu" and x.size else None

    return rule


_RULES: dict[str, Callable] = {
    **{name: _elementwise(getattr(np, to)) for name, to in (
        ("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("neg", "negative"), ("abs", "abs"),
        ("lt", "less"), ("le", "less_equal"), ("gt", "greater"), ("ge", "greater_equal"), ("eq", "equal"),
        ("ne", "not_equal"),
    )},
    **{name: _exact(fn) for name, fn in (
        ("max", np.maximum), ("min", np.minimum), ("sign", np.sign), ("not", _not), ("and", np.bitwise_and),
        ("or", np.bitwise_or), ("xor", np.bitwise_xor), ("div", _quotient), ("rem", _remainder),
        ("clamp", lambda low, x, high: np.minimum(np.maximum(x, low), high)),
    )},
    **{f"reduce_{name}": _reduced(fn) for name, fn in (
        ("sum", lambda x, axes: x.sum(axes, dtype=x.dtype)), ("max", np.max), ("min", np.min),
    )},
    "copy": _elementwise(lambda x: x), "convert_element_type": _converted, "iota": _iota, "select_n": _select,
}  # fmt: skip
