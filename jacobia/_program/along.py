"""Samples along an axis: where a value has them, what an operation does to them, and an error if it mixes them.

Knows shapes. Knows no operation, nor derivatives.
Shapes: B samples; an axis with samples has outer * B * inner entries, and entry e belongs to sample
(e // inner) % B.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Along(NamedTuple):
    """The axis that numbers the samples, and the lengths merged into it in front of (`outer`) and behind them."""

    axis: int
    outer: int = 1
    inner: int = 1

    def at(self, axis: int) -> "Along":
        return self._replace(axis=axis)

    @property
    def one(self) -> int:
        """The length of the axis when there is one sample."""
        return self.outer * self.inner


class Followed(NamedTuple):
    outs: list  # per result: where its samples lie; None: it has none; `Lost`: they cannot be followed
    operands: list  # per operand: where to cut out the part of one sample; None: every sample uses all of it
    params: dict  # of the equation that does the same on one sample


class Lost(Exception):
    """The samples cannot be followed through an operation: it mixes them, or seems to."""

    def __init__(self, operation: str, axis: int | None):
        super().__init__(operation)
        self.operation, self.axis = operation, axis


# The words between an operation and its axis in a message, where these are not "along".
_HOW = {
    "dot_general": "contracting", "gather": "(indexing) along", "scatter": "(indexed update) along",
    "scan": "stepping over", "argmax": "over", "argmin": "over", "reduce": "over",
}  # fmt: skip


_SPOKEN = {"add_any": "add"}


def describe(name: str, axis: int | None) -> str:
    """An operation in words: `reduce_sum over axis 0`."""
    name = _SPOKEN.get(name, name)
    how = _HOW.get(name) or _HOW.get(name.split("_")[0].split("-")[0]) or "along"
    return name if axis is None else f"{name} {how} axis {axis}"


def lost(eqn: Any, axis: int | None) -> Lost:
    return Lost(describe(eqn.primitive.name, axis), axis)


def common(eqn: Any, states: Sequence) -> Along:
    """Where the samples lie in all operands that have any.

    Raises:
      Lost: they lie along different axes, or in different orders.
    """
    found = list(dict.fromkeys(s for s in states if s is not None))
    if len(found) > 1:
        axes = sorted({s.axis for s in found})
        where = f"samples along axes {axes[0]} and {axes[1]}" if len(axes) > 1 else "samples in different orders"
        raise Lost(f"{describe(eqn.primitive.name, None)} of {where}", axes[0])
    return found[0]


def shape_of(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def shapes_of(eqn: Any) -> list[tuple[int, ...]]:
    return [shape_of(a) for a in eqn.invars]


def replaced(values: Sequence[int], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])


def same_axis(eqn: Any, along: Along) -> Followed:
    """The samples lie in the results where they lie in the operands.

    Operands that have this axis at full length are cut for one sample; scalars and broadcast operands are used whole.
    """
    full = shape_of(eqn.outvars[0])[along.axis]
    operands = [along if along.axis < len(s) and s[along.axis] == full else None for s in shapes_of(eqn)]
    return Followed([along] * len(eqn.outvars), operands, eqn.params)
