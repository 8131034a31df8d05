"""Which results of a program depend on marked inputs, by structure alone.

The one place that answers this. Knows equations. Knows no values: a product with a known zero still depends on its
other factor.
"""

from collections.abc import Sequence
from typing import Any

from jacobia._compat import Literal
from jacobia._program import control
from jacobia._program.walk import subprograms


def flow(program: Any, marked: Sequence[bool]) -> list[bool]:
    """For each result of a program, whether it depends on an input that is marked.

    Example:
      (a, b) -> (sin a, a * b, 3) with b marked: [False, True, False]
    """
    jaxpr = getattr(program, "jaxpr", program)
    found = dependent(jaxpr, marked)
    return [_is_in(found, a) for a in jaxpr.outvars]


def dependent(jaxpr: Any, marked: Sequence[bool]) -> set:
    """The variables of a program that depend on a marked input, the marked inputs included."""
    found = {v for v, m in zip(jaxpr.invars, marked, strict=True) if m}
    for eqn in jaxpr.eqns:
        ins = marks(eqn, found)
        if any(ins):
            found.update(v for v, m in zip(eqn.outvars, through(eqn, ins), strict=True) if m)
    return found


def marks(eqn: Any, found: set) -> list[bool]:
    """Which operands of an equation are among the variables `found`."""
    return [_is_in(found, a) for a in eqn.invars]


def through(eqn: Any, marked: Sequence[bool]) -> list[bool]:
    """For each result of one equation, whether it depends on an operand that is marked."""
    found = control.through(eqn, marked, flow, any, lambda tested, outs: [tested or m for m in outs])
    if found is not None:
        return found
    inside, ends = [getattr(p, "jaxpr", p) for p in subprograms(eqn)], (len(marked), len(eqn.outvars))
    if len(inside) == 1 and (len(inside[0].invars), len(inside[0].outvars)) == ends:
        return flow(inside[0], marked)
    return [any(marked)] * len(eqn.outvars)


def around(body: Any, marked: Sequence[bool], consts: int, carry: int) -> list[bool]:
    """Which inputs of a loop body depend on a marked one at some step: steps may mark more of the carry.

    Args:
      marked: the inputs marked at the first step, in the order constants, carry, xs.
    """
    first, each = list(marked[:consts]), list(marked[consts + carry :])
    grown, _ = control.around(body, first, list(marked[consts : consts + carry]), each, flow, any)
    return [*first, *grown, *each]


def _is_in(found: set, atom: Any) -> bool:
    return not isinstance(atom, Literal) and atom in found
