"""A reading of the linear program: which outputs depend on which inputs, and through what.

Each intermediate is the set of input leaves it depends on. Values that depend on no input are evaluated here, so a
product with a known zero depends on nothing. `strict` and `holomorphic` are decided by this reading.
Knows equations, and values that depend on no input. Knows no columns.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._compat import bind, inner_consts, is_jaxpr
from jacobia._program import control
from jacobia._program.walk import CALLS, run
from jacobia._program.wiring import EACH, wiring


class _Known(NamedTuple):
    value: Any  # an array that depends on no input


class _Tangent(NamedTuple):
    sources: frozenset[int]  # the input leaves it depends on; empty: it is zero, or only a residual


class Dependence(NamedTuple):
    outputs: list[frozenset[int]]  # per output leaf
    real_linear: list[str]  # operations on the way that are linear over the reals only


def dependence(jaxpr: Any, consts: Sequence, known: Sequence[Any | None], num_tangents: int) -> Dependence:
    """Read which of the last `num_tangents` inputs each output of a linear program depends on.

    Args:
      jaxpr: a program whose last inputs are the tangents.
      consts: the values of its constant variables, or None where they are not to be looked at.
      known: for the other inputs, a value known now, or None.
      num_tangents: how many tangents there are.
    """
    seen: list[str] = []
    inputs: list = [_Tangent(frozenset()) if k is None else _Known(k) for k in known]
    inputs += [_Tangent(frozenset([i])) for i in range(num_tangents)]
    outs = _run(jaxpr, [_Tangent(frozenset()) if c is None else _Known(c) for c in consts], inputs, seen)
    return Dependence([_sources(o) for o in outs], seen)


def _sources(v: Any) -> frozenset[int]:
    return v.sources if isinstance(v, _Tangent) else frozenset()


def _is_zero(v: Any) -> bool:
    return isinstance(v, _Known) and not np.any(np.asarray(v.value))


def _run(jaxpr: Any, consts: list, args: list, seen: list[str]) -> list:
    return run(jaxpr, consts, args, lambda eqn, values: _rule(eqn, values, seen))


def _rule(eqn: Any, values: list, seen: list[str]) -> list:
    values = [v if isinstance(v, (_Known, _Tangent)) else _Known(v) for v in values]  # literals
    name, params = eqn.primitive.name, eqn.params
    if all(isinstance(v, _Known) for v in values) and not eqn.effects:
        with jax.ensure_compile_time_eval():
            return [_Known(v) for v in bind(eqn, *(v.value for v in values))]
    sources = [_sources(v) for v in values]
    union = frozenset().union(*sources)
    # With complex numbers, an operation that is linear over the reals only makes rows and columns disagree.
    if wiring(eqn).over_reals and union and name not in seen:
        seen.append(name)
    if wiring(eqn).linear is EACH and any(_is_zero(v) for v in values):
        return [_Tangent(frozenset())]
    if name == "select_n" and isinstance(values[0], _Known):
        which = np.unique(np.asarray(values[0].value))
        return [_Tangent(frozenset().union(*(sources[1 + int(k)] for k in which)))]
    if name in CALLS or name in ("closed_call", "core_call", "remat2", "checkpoint"):
        return _body(params["jaxpr"], values, seen)
    if name in ("custom_jvp_call", "custom_vjp_call"):
        return _body(params["call_jaxpr"], values, seen)
    if name == "cond" and isinstance(values[0], _Known):  # the index is clamped, as cond does
        branches = params["branches"]
        k = int(np.clip(int(np.asarray(values[0].value)), 0, len(branches) - 1))
        return _body(branches[k], values[1:], seen)
    if name in ("scan", "while"):  # a value known at the first step may not be known at the next
        values = [_Tangent(own) for own in sources]
    outs = control.through(eqn, values, lambda body, ins: _body(body, ins, seen), _either, lambda tested, outs: outs)
    if outs is not None:
        return [_Tangent(_sources(o)) for o in outs]
    return [_Tangent(union) for _ in eqn.outvars]


def _body(inner: Any, values: list, seen: list[str]) -> list:
    assert is_jaxpr(inner)
    jaxpr = getattr(inner, "jaxpr", inner)
    return _run(jaxpr, [_Known(c) for c in inner_consts(inner)], values, seen)


def _either(values: Sequence) -> _Tangent:
    return _Tangent(frozenset().union(*map(_sources, values)))
