"""Run a program on values of any kind: the interpreter that every reading uses.

Knows the equations of a jaxpr and nothing of derivatives.
"""

from collections.abc import Callable, Iterator
from typing import Any

from jacobia._compat import Literal, bind, inner_consts, is_jaxpr, rule_of_jax

# The names of jit in the supported versions of JAX. A reading may read its body in place of the call.
CALLS = ("jit", "pjit")


def run(jaxpr: Any, consts: list, args: list, rule: Callable[[Any, list], list]) -> list:
    """Interpret `jaxpr`: `rule(eqn, inputs)` gives the outputs of one equation."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, rule(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def needed(jaxpr: Any, outs: tuple[int, ...]) -> Any:
    """A program reduced to the outputs numbered `outs` and the equations they need; all inputs stay."""
    kept, wanted = [], {v for i in outs if not isinstance(v := jaxpr.outvars[i], Literal)}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not wanted.isdisjoint(eqn.outvars):
            kept.append(eqn)
            wanted.update(a for a in eqn.invars if not isinstance(a, Literal))
    return jaxpr.replace(eqns=kept[::-1], outvars=[jaxpr.outvars[i] for i in outs])


def run_needed(jaxpr: Any, consts: list, args: list, name: str) -> list:
    """Run a program without equations that no result needs; calls that hold operation `name` are reduced too."""
    jaxpr = needed(jaxpr, tuple(range(len(jaxpr.outvars))))
    read = {a for eqn in jaxpr.eqns for a in eqn.invars if not isinstance(a, Literal)}
    read |= {a for a in jaxpr.outvars if not isinstance(a, Literal)}

    def rule(eqn: Any, values: list) -> list:
        if eqn.primitive.name not in CALLS or not holds(eqn.params["jaxpr"].jaxpr, name):
            return bind(eqn, *values)
        inner, wanted = eqn.params["jaxpr"], [k for k, v in enumerate(eqn.outvars) if v in read]
        outs = run_needed(needed(inner.jaxpr, tuple(wanted)), inner_consts(inner), values, name)
        found = dict(zip(wanted, outs, strict=True))
        return [found.get(k) for k in range(len(eqn.outvars))]

    return run(jaxpr, consts, args, rule)


def subprograms(eqn: Any) -> Iterator[Any]:
    """The programs among the parameters of one equation (branches and bodies)."""
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if is_jaxpr(item):
                yield item


def some(jaxpr: Any, test: Callable[[Any], bool]) -> bool:
    """Whether an equation of a program, at any depth, passes a test."""
    return any(test(e) or any(some(getattr(p, "jaxpr", p), test) for p in subprograms(e)) for e in jaxpr.eqns)


def holds(jaxpr: Any, name: str) -> bool:
    """Whether a program has an operation of this name, at any depth."""
    return some(jaxpr, lambda eqn: eqn.primitive.name == name)


def has_rules(jaxpr: Any) -> bool:
    """Whether a function in a program, at any depth, has a derivative rule that does not come with JAX."""
    rules = "custom_jvp", "custom_vjp", "call_hi"
    return some(jaxpr, lambda eqn: eqn.primitive.name.startswith(rules) and not rule_of_jax(eqn))


def is_plain_call(eqn: Any) -> bool:
    # A jit with its own shardings must stay a call; any other jit only groups equations.
    return eqn.primitive.name in CALLS and all(
        type(s).__name__ == "UnspecifiedValue" for key in ("in_shardings", "out_shardings") for s in eqn.params[key]
    )


def nested_consts(jaxpr: Any) -> list:
    """Arrays closed over by functions under an inner `jit`, in the order `run_hoisted` takes them."""
    found = []
    for eqn in jaxpr.eqns:
        if is_plain_call(eqn):
            inner = eqn.params["jaxpr"]
            found += inner_consts(inner) + nested_consts(inner.jaxpr)
    return found


def run_hoisted(jaxpr: Any, consts: list, nested: Iterator, args: list) -> list:
    """Run `jaxpr` with the arrays of its inner `jit`s handed in, so that they are arguments and not constants."""

    def rule(eqn: Any, values: list) -> list:
        if not is_plain_call(eqn):
            return bind(eqn, *values)
        inner = eqn.params["jaxpr"]
        if not nested_consts_of_call(inner):
            return bind(eqn, *values)
        own = [next(nested) for _ in inner_consts(inner)]
        return run_hoisted(inner.jaxpr, own, nested, values)

    return run(jaxpr, consts, args, rule)


def nested_consts_of_call(inner: Any) -> bool:
    return bool(inner_consts(inner)) or bool(nested_consts(inner.jaxpr))
