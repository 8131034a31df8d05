"""Where the samples of a batch are, followed through a whole program as an axis: no array is touched.

Knows operations that hold programs: calls, branches, loops, linear solves. Single operations are in `rules`.
"""

from collections.abc import Sequence
from typing import Any

from jacobia._compat import scan_split
from jacobia._program import control
from jacobia._program.along import Along, Followed, Lost, common, lost
from jacobia._program.axis.rules import rule_of
from jacobia._program.expansions import written_out
from jacobia._program.flow import flow
from jacobia._program.walk import CALLS, run, some

# Operations that run a program once, unchanged → the parameter that holds it.
BODIES = {
    **dict.fromkeys((*CALLS, "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "eval_jaxpr"), "call_jaxpr"),
}


def body_of(eqn: Any) -> Any:
    """The program that an equation calls once; None: it calls none."""
    name = eqn.primitive.name
    if name not in BODIES:
        return written_out(eqn)
    return eqn.params.get(BODIES[name], eqn.params.get("jaxpr"))


def follow(eqn: Any, states: Sequence, size: int) -> Followed:
    """Where the samples are in the results of one equation.

    Args:
      eqn: the equation.
      states: for each operand where its samples lie (`Along`); None: it has none; `Lost`: they cannot be followed,
        which matters only for results made of this operand.
      size: B, how many samples there are; at least 2.

    Raises:
      Lost: the samples cannot be followed as an axis.
    """
    if all(s is None for s in states):
        return Followed([None] * len(eqn.outvars), list(states), eqn.params)
    body = body_of(eqn)
    if body is not None:
        return Followed(through(body, states, size), list(states), eqn.params)
    found(states)
    rule = _NESTED.get(eqn.primitive.name) or rule_of(eqn)
    if rule is None:
        raise lost(eqn, None)
    return rule(eqn, states, size)


def found(states: Sequence) -> Sequence:
    """The states themselves, if none is `Lost`.

    Raises:
      Lost: the first state that is `Lost`.
    """
    for state in states:
        if isinstance(state, Lost):
            raise state
    return states


def through(program: Any, states: Sequence, size: int) -> list:
    """Where the samples are in the results of a program, closed or not; `Lost`: they cannot be followed."""
    jaxpr = getattr(program, "jaxpr", program)

    def rule(eqn: Any, values: list) -> list:
        try:
            return follow(eqn, [_state(v) for v in values], size).outs
        except Lost as error:
            return [None if is_empty(v) else error for v in eqn.outvars]

    return [_state(o) for o in run(jaxpr, [None] * len(jaxpr.constvars), list(states), rule)]


def has_references(jaxpr: Any) -> bool:
    """Whether values pass between equations by mutable references, where they can't be followed."""
    return some(jaxpr, lambda eqn: any("Ref" in type(v.aval).__name__ for v in (*eqn.invars, *eqn.outvars)))


def is_empty(var: Any) -> bool:
    """Whether a variable has no elements, so that it holds no sample, wherever it comes from."""
    return 0 in getattr(var.aval, "shape", ())


def _state(value: Any) -> Along | Lost | None:
    # Any other value is a literal of the program, without samples.
    return value if isinstance(value, (Along, Lost)) else None


def shifted(state: Any, by: int) -> Any:
    """The same samples after `by` axes were put in front, or taken away if `by` is negative."""
    return state.at(state.axis + by) if isinstance(state, Along) else state


def _joined(eqn: Any, states: Sequence) -> Any:
    # A value that has samples in one branch or step but not in another counts as having them.
    try:
        return common(eqn, found(states)) if any(states) else None
    except Lost as error:
        return error


def _cond(eqn: Any, states: Sequence, size: int) -> Followed:
    outs = [through(b, states[1:], size) for b in eqn.params["branches"]]
    return Followed([_joined(eqn, o) for o in zip(*outs, strict=True)], list(states), eqn.params)


def _grown(eqn: Any, carry: list, outs: list) -> list:
    return list(found([_joined(eqn, pair) for pair in zip(carry, outs, strict=True)]))


def _around(eqn: Any, body: Any, consts: list, carry: list, each: list, size: int) -> tuple[list, list]:
    def run(program: Any, given: list) -> list:
        return through(program, given, size)

    return control.around(body, consts, carry, each, run, lambda pair: found([_joined(eqn, pair)])[0])


def _scan(eqn: Any, states: Sequence, size: int) -> Followed:
    n, m = scan_split(eqn.params)
    consts, carry, xs = list(states[:n]), list(states[n : n + m]), list(states[n + m :])
    if any(x is not None and x.axis == 0 for x in xs):
        return _steps(eqn, consts, carry, xs)
    carry, outs = _around(eqn, eqn.params["jaxpr"], consts, carry, [shifted(x, -1) for x in xs], size)
    return Followed(carry + [shifted(o, 1) for o in outs[m:]], consts + carry + xs, eqn.params)


def _steps(eqn: Any, consts: list, carry: list, xs: list) -> Followed:
    # Each step reads one sample: nothing is mixed as long as no step passes anything of it on in the carry.
    along = common(eqn, xs)
    body = eqn.params["jaxpr"]
    seen = [False] * (len(consts) + len(carry)) + [x is not None for x in xs]
    if any(consts) or any(carry) or any(flow(body, seen)[: len(carry)]):
        raise lost(eqn, 0)
    return Followed(
        [None] * len(carry) + [along] * (len(eqn.outvars) - len(carry)),
        [None] * (len(consts) + len(carry)) + [along] * len(xs),
        eqn.params,
    )


def _while(eqn: Any, states: Sequence, size: int) -> Followed:
    c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    tested, consts = list(states[:c]), list(states[c : c + b])
    carry, _ = _around(eqn, eqn.params["body_jaxpr"], consts, list(states[c + b :]), [], size)
    found(through(eqn.params["cond_jaxpr"], tested + carry, size))  # a scalar test that depends on samples is `Lost`
    return Followed(carry, tested + consts + carry, eqn.params)


def solver_parts(eqn: Any) -> dict[str, tuple[Any, slice]]:
    """The programs of a `custom_linear_solve` with the places of their constants; missing ones are None."""
    lengths, parts, start = eqn.params["const_lengths"], {}, 0
    for name in ("matvec", "vecmat", "solve", "transpose_solve"):
        stop = start + getattr(lengths, name)
        parts[name] = getattr(eqn.params["jaxprs"], name), slice(start, stop)
        start = stop
    return parts


def _solve(eqn: Any, states: Sequence, size: int) -> Followed:
    parts = solver_parts(eqn)
    rhs = list(states[parts["transpose_solve"][1].stop :])
    n, outs = len(rhs), [None] * len(eqn.outvars)  # the solution, then auxiliary results of the solver
    while True:  # the solution has the samples of the right-hand side, and those of the matrix
        solved = outs[:n]
        for name, (program, where) in parts.items():
            if program is not None:
                given = rhs if "solve" in name else outs[:n]
                solved = _grown(eqn, solved, through(program, [*states[where], *given], size)[:n])
        grown = _grown(eqn, rhs, solved)
        told = found(through(parts["solve"][0], [*states[parts["solve"][1]], *grown], size)[n:])
        if [*grown, *told] == outs:
            return Followed(outs, [*states[: len(states) - n], *rhs], eqn.params)
        rhs, outs = grown, [*grown, *told]


_NESTED = {"cond": _cond, "scan": _scan, "while": _while, "custom_linear_solve": _solve}
