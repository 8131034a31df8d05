"""When are two programs the same? A hashable key that is equal only if they compute the same.

Structure and parameters are compared by value, arrays by content, variables by their order, and never by
printed text. A value that cannot be compared (a Python function inside a parameter) is compared by identity, and
`opaque` then says that the key holds a function.
Knows equations and their parameters. Knows nothing of what operations do.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Literal, Tracer, inner_consts, is_jaxpr

# Content is compared up to this size; above, two arrays are the same only if they are one object.
_CONTENT_BYTES = 1 << 20

# Calls with derivative rules, which do not matter when a call is only run.
_RULED = {"custom_jvp_call", "custom_vjp_call"}

# Parameters that hold a user's derivative rules. A compiled kernel is never differentiated again,
# so kernels may ignore them (the rules have been applied by then); a program of f may not.
_RULES = {"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"}


class Identity:
    """An object compared by identity, and kept alive so that no other one takes its place."""

    __slots__ = ("held",)

    def __init__(self, held: Any):
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)


class Fingerprint(NamedTuple):
    key: Any
    opaque: bool  # the key holds a Python function: only a trace of the very same one is equal


def fingerprint(jaxpr: Any, consts: Sequence = (), *, rules: bool = True) -> Fingerprint:
    """The key of a program. `rules=False` leaves derivative rules out: for programs that are only run."""
    reader = _Reader(rules)
    key = reader.program(jaxpr, [reader.value(c) for c in consts])
    return Fingerprint(key, reader.opaque)


class _Reader:
    def __init__(self, rules: bool):
        self.rules = rules
        self.opaque = False
        self.contexts: dict[int, Any] = {}

    def program(self, jaxpr: Any, consts: list) -> tuple:
        order: dict[Any, int] = {}

        def name(var: Any) -> int:
            return order.setdefault(var, len(order))

        heads = tuple((name(v), v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))
        body = tuple(
            (
                eqn.primitive,
                tuple(self.atom(a, name) for a in eqn.invars),
                tuple((name(v), v.aval) for v in eqn.outvars),
                tuple(
                    (k, self.identity(v) if k in _RULES else self.value(v))
                    for k, v in sorted(eqn.params.items())
                    if self.rules or not (k in _RULES and eqn.primitive.name in _RULED)
                ),
                self.context(eqn.ctx),
            )
            for eqn in jaxpr.eqns
        )
        return heads, body, tuple(self.atom(a, name) for a in jaxpr.outvars), tuple(consts)

    def atom(self, atom: Any, name: Any) -> Any:
        return (self.value(atom.val), atom.aval) if isinstance(atom, Literal) else name(atom)

    def context(self, ctx: Any) -> Any:
        # Contexts are few and shared by most equations; each is read once.
        if id(ctx) not in self.contexts:
            fields = [a for a in dir(ctx) if not a.startswith("_") and a != "manager"]
            self.contexts[id(ctx)] = tuple((a, self.value(getattr(ctx, a, None))) for a in fields)
        return self.contexts[id(ctx)]

    def value(self, v: Any) -> Any:
        if v is None or isinstance(v, (bool, int, str, bytes, enum.Enum, np.dtype, type)):
            return type(v), v
        if isinstance(v, (float, complex, np.generic)):  # by bits: -0.0 is not 0.0, and NaN equals NaN
            return type(v), np.asarray(v).tobytes()
        if is_jaxpr(v):
            inner = v if hasattr(v, "constvars") else v.jaxpr
            return self.program(inner, [self.value(c) for c in inner_consts(v)])
        if isinstance(v, (np.ndarray, jax.Array)) or (hasattr(v, "__array__") and hasattr(v, "dtype")):
            return self.array(v)
        if isinstance(v, (tuple, list)):
            return type(v), tuple(self.value(i) for i in v)
        if isinstance(v, dict):
            return dict, tuple(sorted(((repr(k), self.value(i)) for k, i in v.items()), key=lambda p: p[0]))
        if dataclasses.is_dataclass(v):
            return type(v), tuple((f.name, self.value(getattr(v, f.name))) for f in dataclasses.fields(v))
        if (callable(v) and not isinstance(v, jax.sharding.Mesh)) or type(v).__name__ == "WrappedFun":
            return self.identity(v)
        try:
            hash(v)
        except TypeError:
            return Identity(v)
        return type(v), v  # compared by its own __eq__, which is identity by default

    def identity(self, v: Any) -> Identity:
        self.opaque = True
        return Identity(v)

    def array(self, v: Any) -> Any:
        if getattr(v, "nbytes", 0) > _CONTENT_BYTES or isinstance(v, Tracer):
            return Identity(v)
        if isinstance(v, jax.Array) and jnp.issubdtype(v.dtype, jax.dtypes.extended):
            return Identity(v)  # a typed PRNG key has no content that NumPy could read
        a = np.asarray(v)
        return "array", a.shape, str(a.dtype), bool(getattr(v, "weak_type", False)), a.tobytes()
