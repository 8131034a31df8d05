"""Which results of a program depend on inputs that are marked, by structure.

The one place that answers this for calls, branches and loops. Knows equations. Knows no values, so that a product with
a known zero depends on its other factor like any product.
"""

from collections.abc import Sequence
from typing import Any

from jacobia._compat import Literal, scan_split
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
    """The variables of a program that depend on an input that is marked, these included."""
    found = {v for v, m in zip(jaxpr.invars, marked, strict=True) if m}
    for eqn in jaxpr.eqns:
        ins = marks(eqn, found)
        if any(ins):
            found.update(v for v, m in zip(eqn.outvars, through(eqn, ins), strict=True) if m)
    return found


def marks(eqn: Any, found: set) -> list[bool]:
    """Which operands of an equation are among some variables."""
    return [_is_in(found, a) for a in eqn.invars]


def through(eqn: Any, marked: Sequence[bool]) -> list[bool]:
    """For each result of one equation, whether it depends on an operand that is marked."""
    name, params, count = eqn.primitive.name, eqn.params, len(eqn.outvars)
    if name == "cond":
        if marked[0]:
            return [True] * count
        return [any(own) for own in zip(*(flow(b, marked[1:]) for b in params["branches"]), strict=True)]
    if name == "scan":
        n, m = scan_split(params)
        own = around(params["jaxpr"], marked, n, m)
        return [*own[n : n + m], *flow(params["jaxpr"], own)[m:]]
    if name == "while":
        skip, n = params["cond_nconsts"], params["body_nconsts"]
        carry = around(params["body_jaxpr"], marked[skip:], n, count)[n:]
        return [True] * count if any(flow(params["cond_jaxpr"], [*marked[:skip], *carry])) else carry
    inside = [getattr(p, "jaxpr", p) for p in subprograms(eqn)]
    if len(inside) == 1 and (len(inside[0].invars), len(inside[0].outvars)) == (len(marked), count):
        return flow(inside[0], marked)
    return [any(marked)] * count


def around(body: Any, marked: Sequence[bool], consts: int, carry: int) -> list[bool]:
    """Which inputs of the body of a loop depend on what is marked at some step: its carry may grow.

    Args:
      marked: of the inputs at the first step: constants, the carry, what each step reads.
    """
    marked = list(marked)
    while True:
        before = marked[consts : consts + carry]
        grown = [a or b for a, b in zip(before, flow(body, marked), strict=False)]
        if grown == before:
            return marked
        marked[consts : consts + carry] = grown


def _is_in(found: set, atom: Any) -> bool:
    return not isinstance(atom, Literal) and atom in found
