"""Which callables compute the same at every call, so that it is enough to trace them once.

Knows types. Knows nothing of programs, and calls nothing.
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

# Types whose values cannot change. NumPy arrays, lists and dicts can change, and are not among them.
_VALUES = (
    int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.ModuleType, slice, range, enum.Enum,
    np.generic, np.dtype, np.ufunc, jnp.ufunc, jax.Array,
)  # fmt: skip

# A jitted function is traced once, whatever it wraps. So its derivative may be traced once, too.
_JITTED = type(jax.jit(lambda x: x))

# Functions may wrap a callable that carries state: `jax.vmap` and other transforms name it in `__wrapped__`.
_FUNCTIONS = (types.FunctionType, jax.custom_jvp, jax.custom_vjp)

_PARTIALS = (functools.partial, jax.tree_util.Partial)


class Wrapping:
    """A callable of this library. It says itself whether it carries state."""

    carries_state: bool


class Stand(Wrapping):
    """A callable that stands for a function in a transform of another name, such as the loss of `ggn(loss, f)`."""

    written: str  # how a user writes the transform, such as "ggn(loss, f)"

    def completed(self, args: tuple, kwargs: dict) -> dict:
        """The keyword arguments that this callable takes at a call with `args` and `kwargs` for the function."""
        raise NotImplementedError


def carries_state(f: Any) -> bool:
    """Whether a callable may compute something else at the next call.

    Functions do not carry state, as for `jax.jit`: globals and closed-over values are read once, at tracing. Bound
    methods and other callable objects do, unless nothing that they hold can change. Frozen dataclasses (and Equinox
    modules, which are frozen), partial functions and bound methods carry no state if they hold only arrays, numbers,
    strings, functions, and tuples of them.
    """
    return not _is_fixed(f)


def _is_fixed(value: Any) -> bool:
    if isinstance(value, _FUNCTIONS):
        return _is_fixed(vars(value).get("__wrapped__"))
    if isinstance(value, (_JITTED, *_VALUES)):
        return True
    if isinstance(value, Wrapping):
        return not value.carries_state
    if isinstance(value, types.BuiltinFunctionType):  # its __self__ is a module, or the object it is bound to
        return _is_fixed(value.__self__)
    if isinstance(value, types.MethodType):
        return _is_fixed(value.__func__) and _is_fixed(value.__self__)
    if type(value) in _PARTIALS:
        return all(map(_is_fixed, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, (tuple, frozenset)):
        return not getattr(value, "__dict__", None) and all(map(_is_fixed, value))
    if isinstance(value, type):  # dtypes; other classes may have attributes that change
        return issubclass(value, np.generic) or value in (bool, int, float, complex) or _is_dtype(value)
    return _is_frozen(value)


def _is_of_equinox(value: Any) -> bool:
    # Equinox modules forbid assignment themselves, without frozen=True. If Equinox was not imported, the value is not
    # one.
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(value, equinox.Module)


def _is_dtype(kind: type) -> bool:
    return isinstance(getattr(kind, "dtype", None), np.dtype)  # jnp.float32


def _is_frozen(value: Any) -> bool:
    # The class itself must declare that it is frozen: a subclass of a frozen class may add attributes that change.
    declared = vars(type(value)).get("__dataclass_params__")
    if declared is None or not (declared.frozen or _is_of_equinox(value)):
        return False
    names = {field.name for field in dataclasses.fields(value)}
    if not names.issuperset(getattr(value, "__dict__", ())):
        return False
    return all(_is_fixed(getattr(value, name, None)) for name in names)
