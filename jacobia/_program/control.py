"""Branches and loops, once for all readings whose values can be joined: marks, kinds, sources, places of samples.

Knows which programs such an equation runs on which values. Knows nothing of what the values mean.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._compat import scan_split

Run = Callable[[Any, list], list]  # the results of a program, given what its inputs are
Join = Callable[[tuple], Any]  # what may be one of several


def through(eqn: Any, values: Sequence, run: Run, join: Join, tested: Callable[[Any, list], list]) -> list | None:
    """What the results of a branch or a loop are; None: the equation is neither.

    Args:
      values: what the operands are.
      tested: from what a condition is, and what the results are in either case, to what they are.
    """
    name, params, values = eqn.primitive.name, eqn.params, list(values)
    if name == "cond":
        outs = [run(branch, values[1:]) for branch in params["branches"]]
        return tested(values[0], [join(own) for own in zip(*outs, strict=True)])
    if name == "scan":
        n, m = scan_split(params)
        carry, outs = around(params["jaxpr"], values[:n], values[n : n + m], values[n + m :], run, join)
        return [*carry, *outs[m:]]
    if name == "while":
        skip, n = params["cond_nconsts"], params["body_nconsts"]
        carry, _ = around(params["body_jaxpr"], values[skip : skip + n], values[skip + n :], [], run, join)
        (goes_on,) = run(params["cond_jaxpr"], [*values[:skip], *carry])
        return tested(goes_on, carry)
    return None


def around(body: Any, consts: list, carry: list, each: list, run: Run, join: Join) -> tuple[list, list]:
    """What the carry of a loop is at any step, and what a step gives then; joins only ever grow, to an end.

    Example:
      marks of a body (a, b) -> (b, a) with the carry (True, False): it is (True, True).
    """
    while True:
        outs = run(body, [*consts, *carry, *each])
        grown = [join(pair) for pair in zip(carry, outs, strict=False)]
        if grown == carry:
            return carry, outs
        carry = grown
