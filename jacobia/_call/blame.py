"""Why tracing f has failed, in the caller's words: which argument is the cause, and what to write instead.

A cause is found by trying. f is traced again with one argument as a constant, or with a list as an array; if that
succeeds, this argument is the cause. The text of JAX's errors is never read. This runs only if an error will be raised
anyway.
Knows arguments, and the types of JAX's errors. Knows nothing of derivatives.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import errors

from jacobia._call.arguments import Call
from jacobia._call.options import OPTIONS
from jacobia._compat import Tracer

# At most this many arguments are tried one by one.
_FEW = 8


def reason(
    name: str, f: Callable, call: Call, differentiated: tuple[int, ...], run: Callable, error: Exception
) -> Exception | None:
    """The error to raise instead of `error`. None: `error` is f's own, and is raised as it is.

    Args:
      differentiated: the places of the differentiated leaves in `call.leaves`.
      run: f as a function of (leaves, change), where `change` maps (args, kwargs) before f gets them.
    """
    return (
        _is_an_option(name, f, call)
        or _must_be_constant(name, f, call, differentiated, run)
        or _must_be_an_array(name, call, run)
        or (looks_at_values(name, f, error, jit=True))
    )


def looks_at_values(name: str, f: Callable, error: Exception, jit: bool) -> TypeError | None:
    """The error for an f that needs the value of a traced array. None: `error` is not one of JAX's errors for that."""
    if isinstance(error, errors.TracerArrayConversionError):
        got = "got a function of NumPy, SciPy or another library, which wants its numbers"
        hint = "Write jax.numpy for numpy (jnp.sin for np.sin) and jax.scipy for scipy"
    elif isinstance(error, errors.TracerBoolConversionError):
        got = "got Python control flow (if, while, and, or, assert) that depends on it"
        hint = "Write jax.lax.cond, jax.lax.while_loop or jax.numpy.where"
        hint += ", or set jit=False to run f by Python" if jit and name in ("jacobian", "hessian") else ""
    elif isinstance(error, errors.NonConcreteBooleanIndexError):
        got = "got a mask as an index, whose result has no shape that is known before"
        hint = "Write jax.numpy.where(mask, x, 0)"
    elif isinstance(error, (errors.ConcretizationTypeError, errors.TracerIntegerConversionError)):
        got = "got float(), int(), x.item(), range(), a function of math, a size or an index that needs its number"
        hint = "Write jax.numpy on the array itself (x.astype(float), jnp.sin for math.sin); sizes can't depend on it,"
        hint += " but for those that jnp.nonzero(x, size=n) and jnp.unique(x, size=n) are given"
    else:
        return None
    return TypeError(
        f"{name}(f={name_of(f)}): expected an f that computes with a traced array as it is, {got}. {hint}."
    )


def name_of(f: Any) -> str:
    return getattr(f, "__name__", type(f).__name__)


def _passes(run: Callable, leaves: list, constants: dict[int, Any], change: Callable | None = None) -> bool:
    moving = [k for k in range(len(leaves)) if k not in constants]

    def again(arrays: list) -> list:
        values = dict(zip(moving, arrays, strict=True)) | constants
        return run([values[k] for k in range(len(leaves))], change)

    try:
        jax.make_jaxpr(again)([leaves[k] for k in moving])
    except Exception:
        return False
    return True


def _is_an_option(name: str, f: Callable, call: Call) -> TypeError | None:
    args, kwargs = call.rebuild(call.leaves)
    given = [k for k in kwargs if k in OPTIONS]
    try:
        if given:
            inspect.signature(f).bind(*args, **kwargs)
    except TypeError:
        return TypeError(
            f"{name}(f)({given[0]}=...): expected the arguments of f, got {given[0]}, which is one of {name}. Write "
            f"{name}(f, {given[0]}=...)(x)."
        )
    except ValueError:  # builtins may have no signature
        pass
    return None


def _must_be_constant(name: str, f: Callable, call: Call, differentiated: tuple[int, ...], run: Callable) -> Any:
    known = [k for k, a in enumerate(call.leaves) if k not in differentiated and _is_known(a)]
    numbers = {k: call.leaves[k].item() for k in known if call.leaves[k].ndim == 0}
    arrays = {k: call.leaves[k] for k in known}
    wholes = {k: int(v) for k, v in numbers.items() if isinstance(v, float) and v.is_integer()}
    for constants in (numbers, arrays | numbers, numbers | wholes if wholes else {}):
        if constants and _passes(run, call.leaves, constants):
            break
    else:
        return None
    to_blame = list(constants)
    if 1 < len(to_blame) <= _FEW:
        to_blame = [
            k for k in constants if not _passes(run, call.leaves, {j: v for j, v in constants.items() if j != k})
        ]
        to_blame = to_blame or list(constants)  # none is needed if the others are constant
    paths = [call.path(k) for k in to_blame[:_FEW]]
    paths = _static_paths(call, constants, paths)
    shown, many = ", ".join(_parameter(f, p) for p in paths), len(paths) > 1
    hint = _static(name, paths, all(k in numbers for k in to_blame))
    for k in to_blame:
        if k in numbers and type(numbers[k]) is not type(constants[k]):
            hint = f"Write {constants[k]} for {numbers[k]}. {hint}"
        elif k in numbers and not call.leaves[k].weak_type:  # arrays are not hashable
            hint = f"Write {type(numbers[k]).__name__}({_parameter(f, call.path(k))}). {hint}"
    return TypeError(
        f"{name}({shown}=...): expected {'static values' if many else 'a static value'}, since {name_of(f)} uses "
        f"{shown} as a size, as an index or in Python control flow, got "
        f"{'traced arrays' if many else 'a traced array'}. {hint}"
    )


def _static_paths(call: Call, constants: dict[int, Any], paths: list[str]) -> list[str]:
    # Name whole arguments instead of leaves if they can be static, such as a tuple of numbers.
    args, kwargs = call.rebuild([constants.get(k, a) for k, a in enumerate(call.leaves)])
    out = []
    for path in paths:
        top = path.split("]")[0] + "]" if path.startswith("args[") else re.split(r"[.\[]", path)[0]
        value = args[int(top[len("args[") : -1])] if top.startswith("args[") else kwargs[top]
        try:
            hash(value)
        except TypeError:
            top = path
        out.append(top)
    return list(dict.fromkeys(out))


def _is_known(a: Any) -> bool:
    if isinstance(a, Tracer) or jnp.issubdtype(a.dtype, jax.dtypes.extended):
        return False
    return a.is_fully_addressable and not a.is_deleted()


def _static(name: str, paths: list[str], are_numbers: bool) -> str:
    numbers = [int(p[len("args[") : -1]) for p in paths if p.startswith("args[") and p.count("[") == 1]
    names = [p for p in paths if p.isidentifier()]
    if not are_numbers or len(numbers) + len(names) < len(paths):
        return f"Close over it, {name}(lambda x: f(x, ...))(x), or make the number an argument named in static_argnums."
    one = lambda values: repr(values[0]) if len(values) == 1 else repr(tuple(values))  # noqa: E731
    parts = [f"static_argnums={one(numbers)}"] * bool(numbers) + [f"static_argnames={one(names)}"] * bool(names)
    return f"Set {' and '.join(parts)}."


def _parameter(f: Callable, path: str) -> str:
    # The path with the parameter's name instead of its number: for a parameter n, args[1]['k'] becomes n['k'].
    if not path.startswith("args["):
        return path
    number, rest = path[len("args[") :].split("]", 1)
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return path
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return named[int(number)] + rest if int(number) < len(named) else path


def _must_be_an_array(name: str, call: Call, run: Callable) -> TypeError | None:
    def change(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return tuple(map(_stacked, args)), {k: _stacked(v) for k, v in kwargs.items()}

    args, kwargs = call.rebuild(call.leaves)
    lists = {f"args[{k}]": type(a) for k, a in enumerate(args) if type(a) in (list, tuple)}
    lists |= {k: type(a) for k, a in kwargs.items() if type(a) in (list, tuple) and k.isidentifier()}
    if not lists or not _passes(run, call.leaves, {}, change):
        return None
    kind = next(iter(lists.values())).__name__
    return TypeError(
        f"{name}({', '.join(lists)}=...): expected an array, since f computes with it as one, got a {kind}, which is a "
        "tree of numbers to JAX. Write jax.numpy.asarray(...) around it."
    )


def _stacked(value: Any) -> Any:
    return jnp.asarray(value) if type(value) in (list, tuple) else value
