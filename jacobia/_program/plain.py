"""A program without what it says of a mesh: the same on the part of the mesh that one device is.

Types of values on Explicit axes name the axes, and what is traced with them runs there and nowhere else.
Knows programs. Knows no values, and no mesh.
"""

from typing import Any

import jax
from jax.core import ShapedArray

from jacobia._compat import Literal, Var, is_jaxpr


def names_a_mesh(jaxpr: Any) -> bool:
    """Whether values of a program lie on Explicit axes."""
    return any(
        _is_divided(v.aval) for v in [*jaxpr.invars, *jaxpr.constvars, *[o for e in jaxpr.eqns for o in e.outvars]]
    )


def plain(jaxpr: Any) -> Any:
    """The same program of values that lie on no mesh. Derivative rules that Python functions hold stay as they are."""
    made: dict[Any, Any] = {}

    def atom(v: Any) -> Any:
        if isinstance(v, Literal):
            return v
        if v not in made:
            made[v] = Var(_plain_type(v.aval))
        return made[v]

    eqns = [
        eqn.replace(
            invars=[atom(v) for v in eqn.invars],
            outvars=[atom(v) for v in eqn.outvars],
            params={name: _plain_parameter(p) for name, p in eqn.params.items()},
        )
        for eqn in jaxpr.eqns
    ]
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
    if is_jaxpr(getattr(value, "jaxpr", None)) and value.jaxpr is not value:  # a closed one
        return value.replace(jaxpr=plain(value.jaxpr))
    return plain(value) if is_jaxpr(value) else value
