"""Every JAX name that moved between the supported versions, or that may not stay; nothing else.

Public JAX only: `jax.core` and `jax.extend.core` are where JAX exports what readers of programs need.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax import api_util
from jax.core import Tracer, eval_context, eval_jaxpr
from jax.extend import linear_util
from jax.extend.core import Literal, Var, get_opaque_trace_state
from jax.extend.core.primitives import convert_element_type_p
from jax.interpreters import batching

__all__ = [
    "Literal",
    "Tracer",
    "Var",
    "asked_by_matmul",
    "bind",
    "config_values",
    "eval_context",
    "eval_jaxpr",
    "inner_consts",
    "is_jaxpr",
    "is_mapped",
    "jit_disabled",
    "opened",
    "register_vmappable",
    "rule_of_jax",
    "scan_split",
    "settings_token",
    "sharded_like",
    "trace_state",
    "vary_like",
    "varying",
    "weakly_typed",
]


def trace_state() -> Any:
    """An object that compares equal for as long as the same trace (or none) is the current one."""
    return get_opaque_trace_state()


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is a program (closed or not; one type since JAX 0.12)."""
    return hasattr(value, "eqns") and hasattr(value, "invars")


def inner_consts(value: Any) -> list:
    """The arrays that a program carries with it; an open program (before JAX 0.12) carries none."""
    return list(getattr(value, "consts", ()))


def _nothing() -> None: ...


_NOTHING = linear_util.wrap_init(_nothing, debug_info=api_util.debug_info("settings", _nothing, (), {}))


@linear_util.cache
def _token(_: Any) -> object:
    return object()


def settings_token() -> object:
    """An object that stays the same until a setting changes for which JAX would trace again.

    JAX's own cache of traces decides; it is asked about a function that does nothing.
    """
    return _token(_NOTHING)


def opened(closed: Any) -> tuple[Any, list]:
    """A traced program that holds no arrays, and the arrays it closed over, which are its first inputs now."""
    jaxpr = closed.jaxpr
    return jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars]), list(closed.consts)


def scan_split(params: dict) -> tuple[int, int]:
    """How many inputs of a `scan` are constants of its body, and how many are carried."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # JAX 0.12 keeps three flattened trees instead of two counts
    return len(consts), len(carry)


def bind(eqn: Any, *args: Any) -> list:
    """Run one equation of a program on other values, in the context it was written in."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def expansion(eqn: Any) -> Callable | None:
    """What an operation with rules of its own (a `jax.experimental.hijax.HiPrim`) does, by plain operations.

    A function of the operands that gives the list of results; None: the equation is another operation.
    """
    if eqn.primitive.name != "call_hi_primitive":
        return None
    prim = eqn.params["_prim"]
    return lambda *args: jax.tree.leaves(prim.expand(*jax.tree.unflatten(prim.in_tree, args)))


_HOME = os.path.dirname(jax.__file__) + os.sep


def rule_of_jax(eqn: Any) -> bool:
    """Whether an operation with a derivative rule of its own comes with JAX, such as `jax.nn.relu`."""
    if "_prim" in eqn.params:
        return type(eqn.params["_prim"]).__module__.startswith("jax.")
    rule, body = eqn.params.get("jvp_jaxpr_fun"), eqn.params.get("call_jaxpr")
    told = [getattr(part, "debug_info", None) for part in (rule, getattr(body, "jaxpr", body))]
    return all((getattr(t, "func_filename", None) or "").startswith(_HOME) for t in told)


def varying(like: Any) -> tuple[str, ...]:
    """The mesh axes over which a value varies, inside `shard_map`."""
    return tuple(getattr(getattr(jax.typeof(like), "manual_axis_type", None), "varying", ()))


def vary_like(value: Any, like: Any) -> Any:
    """A value that varies over the mesh axes over which `like` does: a seed for it, inside `shard_map`."""
    axes = tuple(a for a in varying(like) if a not in varying(value))
    return jax.lax.pcast(value, axes, to="varying") if axes else value


def weakly_typed(array: Any) -> Any:
    """The same numbers as a weakly typed array; no public function of JAX makes one from a strongly typed array."""
    return convert_element_type_p.bind(array, new_dtype=array.dtype, weak_type=True, sharding=None)


def sharded_like(value: Any, like: Any, axis: int) -> Any:
    """`value`, a vector with one entry for each place on an axis of `like`, divided among devices as that axis is."""
    sharding = jax.typeof(like).sharding
    name = sharding.spec[axis]  # of an Explicit mesh axis; the others are the compiler's to decide
    return value if name is None else jax.reshard(value, jax.NamedSharding(sharding.mesh, jax.P(name)))


def asked_by_matmul() -> bool:
    """Whether the caller is asked for its array by `u @ J`, with u an array of JAX.

    JAX tries to turn J into an array before Python asks J for `__rmatmul__`, and gives up if it gets no array. If a
    version of JAX does this in another way, the answer is no, and J is turned into an array.
    """
    return sys._getframe(2).f_code.co_name == "_operator_matmul"


def jit_disabled() -> bool:
    """Whether `jax.disable_jit()` is on: kernels are then run by Python, one operation at a time."""
    return jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]


def config_values() -> dict[str, Any]:
    """Every configuration flag as this thread sees it now, context managers included."""
    return {name: getattr(jax.config, name, None) for name in jax.config.values}


def register_vmappable(kind: type, into: Callable, out_of: Callable) -> None:
    """Say how `vmap` takes a value of a type apart and puts it together, as JAX's sparse arrays do.

    In a version of JAX that does not ask, `vmap` flattens the value as a tree, and copies leaves it does not map.
    """
    register = getattr(batching, "register_vmappable", None)
    if register is not None:
        register(kind, int, int, into, out_of, None)


def is_mapped(cont: Callable, size: int, array: Any) -> bool:
    """Whether the `vmap` that called `out_of` maps this array, and not only another `vmap` around it."""
    if not isinstance(array, Tracer):
        return False
    try:
        return cont(size, array, None) is not array
    except Exception:  # "mapped, and out_axes is None": the types of these errors are not public
        return True
