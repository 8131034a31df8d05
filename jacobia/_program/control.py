"""Branches and loops, for every reading whose values can be joined: marks, kinds, sources, axes of samples.

Knows which programs a `cond`, `scan` or `while` runs, and on which values. Knows nothing of what the values mean.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._compat import scan_split

Run = Callable[[Any, list], list]  # (program, values of its inputs) -> values of its results
Join = Callable[[tuple], Any]  # several possible values -> one value that covers them all


def through(eqn: Any, values: Sequence, run: Run, join: Join, tested: Callable[[Any, list], list]) -> list | None:
    """The values of the results of a branch or a loop; None: the equation is neither.

    Args:
      values: the values of the operands.
      tested: (value of the condition, joined values of the results) -> values of the results.
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
    """A value of the carry that covers all steps of a loop, and the results of a step for it.

    The carry is joined with the results of a step until it no longer changes. Joins only grow, so this ends.

    Example:
      A body (a, b) -> (b, a) whose carry is marked (True, False) at first: the carry is (True, True).
    """
    while True:
        outs = run(body, [*consts, *carry, *each])
        grown = [join(pair) for pair in zip(carry, outs, strict=False)]
        if grown == carry:
            return carry, outs
        carry = grown
