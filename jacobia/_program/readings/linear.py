"""A reading of a program: is it linear in its seeds, operation by operation?

The pullback of a `custom_vjp` is whatever its rule computes: it may clip, normalize or shift. Only a pullback whose
every operation on the seeds is seen to be linear gives products, columns and nonzeros besides rows.
Knows equations. Knows no derivatives.
"""

import enum
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, inner_consts
from jacobia._program import control
from jacobia._program.expansions import written_out
from jacobia._program.walk import run, subprograms
from jacobia._program.wiring import EACH, UNKNOWN, linear_in, wiring


class Kind(enum.Enum):
    """What is known of one intermediate."""

    FREE = "does not depend on the seeds"
    ZERO = "zero, whatever the seeds are"
    LINEAR = "linear in the seeds"
    OTHER = "depends on the seeds, not seen to be linear in them"


FREE, ZERO, LINEAR, OTHER = Kind


def outputs_of(jaxpr: Any, consts: Sequence, num_seeds: int) -> list[Kind]:
    """How each output of a program depends on its last `num_seeds` inputs, the seeds.

    Args:
      consts: the values of its constant variables.
    """
    inputs = [FREE] * (len(jaxpr.invars) - num_seeds) + [LINEAR] * num_seeds
    outs = run(jaxpr, [_of_value(c) for c in consts], inputs, _rule)
    return [v if isinstance(v, Kind) else _of_value(v) for v in outs]


def _of_value(value: Any) -> Kind:
    dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
    if isinstance(value, Tracer) or not jnp.issubdtype(dtype, jnp.number):
        return FREE
    return FREE if np.any(np.asarray(value)) else ZERO


def _rule(eqn: Any, values: list) -> list[Kind]:
    kinds = [v if isinstance(v, Kind) else _of_value(v) for v in values]  # literals
    name = eqn.primitive.name
    outs = control.through(
        eqn, kinds, _body, _sum, lambda tested, outs: [OTHER if _moves([tested]) else o for o in outs]
    )
    if outs is not None:
        return outs
    inside = list(subprograms(eqn))
    if len(inside) == 1 and _ends(inside[0]) == (len(kinds), len(eqn.outvars)):
        return _body(inside[0], kinds)
    wired = wiring(eqn)
    if wired.how == "pass":
        return kinds
    body = written_out(eqn) if wired is UNKNOWN else None
    if body is not None:
        return _body(body, kinds)
    if wired.linear is EACH:
        return [_product(kinds[:2], kinds[2:])]
    if name == "bcoo_dot_general":
        return [_product([kinds[0], kinds[2]], [kinds[1]])]
    linear = _linear_in(eqn)
    if not linear:
        return [OTHER if _moves(kinds) else FREE] * len(eqn.outvars)
    others = [k for i, k in enumerate(kinds) if i not in linear]
    return [OTHER if _moves(others) else _sum([kinds[i] for i in linear])] * len(eqn.outvars)


def _moves(kinds: Sequence[Kind]) -> bool:
    return LINEAR in kinds or OTHER in kinds


def _sum(kinds: Sequence[Kind]) -> Kind:
    # For an operation linear in all of these together. A nonzero value beside a LINEAR one would make it affine.
    found = set(kinds)
    if OTHER in found or {LINEAR, FREE} <= found:
        return OTHER
    return next((k for k in (LINEAR, FREE) if k in found), ZERO)


def _product(factors: Sequence[Kind], others: Sequence[Kind]) -> Kind:
    if ZERO in factors:
        return ZERO
    if OTHER in factors or list(factors).count(LINEAR) > 1 or _moves(others):
        return OTHER
    return LINEAR if LINEAR in factors else FREE


def _linear_in(eqn: Any) -> Sequence[int]:
    name = eqn.primitive.name
    if name == "convert_element_type" and not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
        return ()
    if name == "custom_linear_solve":
        return range(sum(eqn.params["const_lengths"]), len(eqn.invars))
    return linear_in(eqn)


def _ends(program: Any) -> tuple[int, int]:
    jaxpr = getattr(program, "jaxpr", program)
    return len(jaxpr.invars), len(jaxpr.outvars)


def _body(program: Any, kinds: Sequence[Kind]) -> list[Kind]:
    outs = run(getattr(program, "jaxpr", program), [_of_value(c) for c in inner_consts(program)], list(kinds), _rule)
    return [v if isinstance(v, Kind) else _of_value(v) for v in outs]
