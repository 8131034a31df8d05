"""A program without any mention of a mesh, so that one device can run it on its own part of the data.

The types of values on Explicit mesh axes name these axes, and a program traced with such types runs on that mesh only.
Knows programs. Knows no values, and no mesh.
"""

from typing import Any

import jax
from jax.core import ShapedArray

from jacobia._compat import Literal, Var, is_jaxpr
from jacobia._program.walk import holds

# Operations that only say how a value is divided among devices.
_LAID_OUT = "sharding_constraint", "reshard"


def names_a_mesh(jaxpr: Any) -> bool:
    """Whether a program has values on Explicit axes, or operations that say how a value is divided among devices."""
    values = [*jaxpr.invars, *jaxpr.constvars, *[v for eqn in jaxpr.eqns for v in eqn.outvars]]
    return any(_is_divided(v.aval) for v in values) or any(holds(jaxpr, name) for name in _LAID_OUT)


def plain(jaxpr: Any) -> Any:
    """The same program for values on no mesh. Derivative rules held as Python functions stay as they are."""
    made: dict[Any, Any] = {}

    def atom(v: Any) -> Any:
        if isinstance(v, Literal):
            return v
        if v not in made:
            made[v] = Var(_plain_type(v.aval))
        return made[v]

    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _LAID_OUT:
            made[eqn.outvars[0]] = atom(eqn.invars[0])
            continue
        ins, outs = [atom(v) for v in eqn.invars], [atom(v) for v in eqn.outvars]
        params = {name: _plain_parameter(p) for name, p in eqn.params.items()}
        eqns.append(eqn.replace(invars=ins, outvars=outs, params=params))
    ends = {name: [atom(v) for v in getattr(jaxpr, name)] for name in ("constvars", "invars", "outvars")}
    return jaxpr.replace(eqns=eqns, **ends)


def _is_divided(aval: Any) -> bool:
    sharding = getattr(aval, "sharding", None)
    return sharding is not None and not sharding.mesh.empty


def _plain_type(aval: Any) -> Any:
    return ShapedArray(aval.shape, aval.dtype, weak_type=aval.weak_type) if type(aval) is ShapedArray else aval


def _plain_parameter(value: Any) -> Any:
    if isinstance(value, jax.sharding.NamedSharding):
        return None
    if type(value) in (tuple, list):
        return type(value)(map(_plain_parameter, value))
    if is_jaxpr(getattr(value, "jaxpr", None)) and value.jaxpr is not value:  # a closed jaxpr
        return value.replace(jaxpr=plain(value.jaxpr))
    return plain(value) if is_jaxpr(value) else value
