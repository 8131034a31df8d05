"""The narrow waist of a linear program: the fewest elements through which its outputs depend on its inputs.

Cut there, the program becomes two linear programs, and its Jacobian is the product of their Jacobians, J = A B. Knows
which values of a program are tangents. Knows nothing of seeds, rows or columns.
Shapes: M outputs, N inputs, k elements in the cut; A is (M, k), B is (k, N).

References:
  Griewank, Walther, "Evaluating Derivatives" (2nd ed., 2008), doi:10.1137/1.9780898717761, chapter 10: Jacobians
    accumulated over the linearized computational graph, part by part.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Literal, bind, inner_consts
from jacobia._program.axis.samples import body_of
from jacobia._program.narrow import Flat, Step, Value, moves, moving, narrowest
from jacobia._program.readings.dependence import dependence
from jacobia._program.walk import holds, run, some, subprograms
from jacobia._program.wiring import wiring

Linear = Callable[[Sequence], list]

# Programs with more tangents than this, such as long unrolled loops, are not cut: looking at so many takes about as
# long as compiling a small program.
MAX_TANGENTS = 10_000

# Operations that hold programs, and of which `dependence` tells which results are tangents.
_LOOKED_INTO = ("scan", "while", "cond", "custom_linear_solve")


class Waist(NamedTuple):
    """Where a linear program is narrow.

    `split(inputs)` evaluates the residuals once, and gives two functions of tangents alone: the head, tangents of the
    inputs → the cut, and the tail, the cut → tangents of the outputs. Both can be transposed, except a tail with a
    `while` loop.
    """

    size: int  # k
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    split: Callable[[Sequence], tuple[Linear, Linear]]


def waist(jaxpr: Any, num_tangents: int) -> Waist | None:
    """Find the narrowest cut between the tangents that go into a linear program and those that come out.

    Args:
      jaxpr: a program whose last inputs are the tangents. `split` takes the others: the constant variables, then the
        inputs in front of the tangents.
      num_tangents: how many tangents there are.

    Returns:
      None if no cut has fewer elements than both M and N, if no output depends on a tangent, or if the program can't
      be cut: it has no pushforward (`custom_vjp`), has effects, maps between real and complex numbers, or is too long.
    """
    start = len(jaxpr.invars) - num_tangents
    ends = [v.aval for v in (*jaxpr.invars[start:], *jaxpr.outvars)]
    n, m = (sum(a.size for a in part) for part in (ends[:num_tangents], ends[num_tangents:]))
    if min(n, m) < 2 or n >= np.iinfo(np.int32).max or not all(jnp.issubdtype(a.dtype, np.inexact) for a in ends):
        return None
    if jaxpr.effects or holds(jaxpr, "custom_lin"):
        return None
    kinds = {_is_complex(a) for a in ends}
    if len(kinds) > 1 or (kinds == {True} and some(jaxpr, lambda eqn: wiring(eqn).over_reals)):
        return None
    try:
        program = _flattened(jaxpr, start)
    except _Opaque:
        return None
    cut = _narrowest(program, n, kinds.pop())
    size = sum(v.aval.size for v in cut)
    if not 0 < size < min(n, m):
        return None
    return Waist(size, tuple(v.aval.shape for v in cut), tuple(v.aval.dtype for v in cut), _split(program, cut))


class _Opaque(Exception):
    pass


def _is_complex(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, np.complexfloating)


def _flattened(jaxpr: Any, start: int) -> Flat:
    # Nothing is traced: the interpreter runs on `Value`s, and enters calls that take tangents.
    steps: list[Step] = []
    count = 0

    def rule(eqn: Any, values: list) -> list:
        nonlocal count
        body = body_of(eqn) if moving(values) else None
        if body is not None:
            return run(getattr(body, "jaxpr", body), inner_consts(body), values, rule)
        outs = [Value(v.aval, s) for v, s in zip(eqn.outvars, _sources(jaxpr, eqn, values), strict=True)]
        count += len(moving(outs))
        if count > MAX_TANGENTS:
            raise _Opaque
        steps.append(Step(eqn, values, outs))
        return outs

    inputs = [Value(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars[:start])]
    tangents = [Value(v.aval, []) for v in jaxpr.invars[start:]]
    split = len(jaxpr.constvars)
    ends = zip(run(jaxpr, inputs[:split], inputs[split:] + tangents, rule), jaxpr.outvars, strict=True)
    # An output that is no tangent is zero.
    return Flat(inputs, tangents, steps, [o if moves(o) else Value(v.aval) for o, v in ends])


def _sources(jaxpr: Any, eqn: Any, values: list) -> list:
    # Per result, the tangents that it is made of.
    tangents = list(dict.fromkeys(moving(values)))
    if not tangents:
        return [None] * len(eqn.outvars)
    name = eqn.primitive.name
    if name.startswith("scatter") or not any(subprograms(eqn)):
        return [tangents] * len(eqn.outvars)
    if name not in _LOOKED_INTO:
        raise _Opaque
    # A loop returns residuals beside tangents: read off this one equation which result is made of which tangents.
    seen = {a: v for a, v in zip(eqn.invars, values, strict=True) if not isinstance(a, Literal)}
    others = [a for a, v in seen.items() if not moves(v)]
    changing = [a for a, v in seen.items() if moves(v)]
    alone = jaxpr.replace(constvars=[], invars=[*others, *changing], outvars=eqn.outvars, eqns=[eqn])
    read = dependence(alone, [], [None] * len(others), len(changing)).outputs
    return [list(dict.fromkeys(seen[changing[k]] for k in sorted(s))) or None for s in read]


def _forward_only(eqn: Any) -> bool:
    # A loop without a known number of steps can't be transposed. A linear solve brings its own transposition.
    if eqn.primitive.name not in ("scan", "cond"):
        return eqn.primitive.name == "while"
    return any(holds(getattr(p, "jaxpr", p), "while") for p in subprograms(eqn))


def _narrowest(program: Flat, n: int, is_complex: bool) -> list[Value]:
    # All N inputs are a cut, so a wider one is not looked for. Values are cut only if they are real or complex as the
    # ends are: a complex number in a real program is two real ones, and a real one is not linear over complex numbers.
    stops = [v for step in program.steps if _forward_only(step.eqn) for v in moving(step.ins)]
    made = [v for step in program.steps for v in moving(step.outs)]
    never = {v for v in (*program.moving, *made) if _is_complex(v.aval) != is_complex}
    return narrowest(program, n, never, stops)


_HEAD, _TAIL = 0, 1


def _needed(program: Flat, cut: list[Value]) -> list[tuple[Step, list[int]]]:
    # The steps that are needed, each with its sides: head, tail, or both (one part of the cut may be made of another
    # part). A step that computes only residuals belongs to neither side, and runs once, with the head.
    wanted = set(cut), set(moving(program.outs))
    known, needed = set(), []
    for step in reversed(program.steps):
        wanted[_TAIL].difference_update(cut)
        sides = [side for side in (_HEAD, _TAIL) if any(v in wanted[side] for v in step.outs)]
        for side in sides:
            wanted[side].update(moving(step.ins))
        if sides or any(v in known for v in step.outs):
            known.update(v for v in step.ins if isinstance(v, Value) and not moves(v))
            needed.append((step, sides or [_HEAD]))
    return needed[::-1]


def _split(program: Flat, cut: list[Value]) -> Callable[[Sequence], tuple[Linear, Linear]]:
    needed = _needed(program, cut)

    def zeros(values: Sequence[Value]) -> list:
        return [jnp.zeros(v.aval.shape, v.aval.dtype) for v in values]

    def split(inputs: Sequence) -> tuple[Linear, Linear]:
        def both(tangents: list, narrow: list) -> tuple[list, list]:
            known = dict(zip(program.inputs, inputs, strict=True))
            env = dict(zip(program.moving, tangents, strict=True)), dict(zip(cut, narrow, strict=True))

            def read(side: int, v: Any) -> Any:
                if not isinstance(v, Value):
                    return v
                where = env[side] if moves(v) else known
                return where[v] if v in where else zeros([v])[0]  # the step runs for results that do not need it

            for step, sides in needed:
                for side in sides:
                    for v, o in zip(step.outs, bind(step.eqn, *(read(side, v) for v in step.ins)), strict=True):
                        (env[side] if moves(v) else known).setdefault(v, o)
            return [env[_HEAD][v] for v in cut], [read(_TAIL, o) for o in program.outs]

        # `both` is linear already. This separates the residuals that loops compute from what they do to tangents.
        before, at = zeros(program.moving), zeros(cut)
        _, linear = jax.linearize(both, before, at)
        return (lambda tangents: linear(list(tangents), at)[0]), (lambda narrow: linear(before, list(narrow))[1])

    return split
