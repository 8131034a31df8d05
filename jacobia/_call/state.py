"""Which callables compute the same at every call, so that tracing them once is enough.

Knows types. Calls nothing.
"""

import dataclasses
import enum
import functools
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Values that cannot change. NumPy arrays, lists and dicts can.
_VALUES = (
    int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.ModuleType, slice, range, enum.Enum,
    np.generic, np.dtype, np.ufunc, jnp.ufunc, jax.Array,
)  # fmt: skip

# `jit` traces what it wraps once, whatever that is, and so does its derivative.
_JITTED = type(jax.jit(lambda x: x))

# These are functions, or what they wrap: `jax.vmap` and its like leave a name of it by `functools.wraps`.
_FUNCTIONS = (types.FunctionType, jax.custom_jvp, jax.custom_vjp)

_PARTIALS = (functools.partial, jax.tree_util.Partial)


class Wrapping:
    """A callable of this library, which says of itself whether it carries state."""

    carries_state: bool


class Stand(Wrapping):
    """One that stands for a function in a transform of another name, such as the loss of `ggn(loss, f)`."""

    written: str  # how the transform of it is written


def carries_state(f: Any) -> bool:
    """Whether a callable may compute something else at the next call.

    Functions do not, as for `jax.jit`: what they close over and globals are looked at once. Bound methods and other
    callable objects do, unless nothing that they hold can change: frozen dataclasses (modules of Equinox are such),
    partial functions and methods of arrays, numbers, strings, functions, and tuples of them.
    """
    return not _is_fixed(f)


def _is_fixed(value: Any) -> bool:
    if isinstance(value, _FUNCTIONS):
        return _is_fixed(vars(value).get("__wrapped__"))
    if isinstance(value, (_JITTED, *_VALUES)):
        return True
    if isinstance(value, Wrapping):
        return not value.carries_state
    if isinstance(value, types.BuiltinFunctionType):  # of a module, or bound to an object
        return _is_fixed(value.__self__)
    if isinstance(value, types.MethodType):
        return _is_fixed(value.__func__) and _is_fixed(value.__self__)
    if type(value) in _PARTIALS:
        return all(map(_is_fixed, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, (tuple, frozenset)):
        return not getattr(value, "__dict__", None) and all(map(_is_fixed, value))
    if isinstance(value, type):  # of numbers, as an argument dtype=; a class may have attributes that change
        return issubclass(value, np.generic) or value in (bool, int, float, complex) or _is_dtype(value)
    return _is_frozen(value)


def _is_of_equinox(value: Any) -> bool:
    # Its modules refuse assignment by a method of their own. Nobody can hold one without having imported it.
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(value, equinox.Module)


def _is_dtype(kind: type) -> bool:
    return isinstance(getattr(kind, "dtype", None), np.dtype)  # jnp.float32


def _is_frozen(value: Any) -> bool:
    # Only what declares itself so: a class that inherits from a frozen one may add attributes that change.
    declared = vars(type(value)).get("__dataclass_params__")
    if declared is None or not (declared.frozen or _is_of_equinox(value)):
        return False
    names = {field.name for field in dataclasses.fields(value)}
    if not names.issuperset(getattr(value, "__dict__", ())):
        return False
    return all(_is_fixed(getattr(value, name, None)) for name in names)
