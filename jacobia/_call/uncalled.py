"""Errors for `jacobian(f)` used as if it were a view, and for `jacobian(f, x)`: they say what to write instead.

Knows names and signatures. Knows nothing of derivatives. Runs only if an error will be raised anyway.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from jacobia._call.options import OPTIONS, checked_argnums, checked_function
from jacobia._call.state import Wrapping

_F = TypeVar("_F", bound=Callable)

# Option → names for it in other libraries.
_ELSEWHERE = {
    "argnums": "argnum argname argnames wrt arg args_to_differentiate",
    "batch_axis": "batch_axes batch_dim batch_dims",
    "mode": "strategy method direction outer_jacobian_strategy",
    "chunk_size": "chunks batch_size chunk",
    "memory_limit": "max_memory memory",
    "mesh": "devices device sharding",
    "where": "mask filter filter_spec",
    "sparsity": "pattern coloring sparse",
    "has_aux": "aux",
}

# Options of other libraries that have no counterpart → what to write.
_WITHOUT = {
    name: hint
    for names, hint in {
        "vectorize": "Leave it out: rows and columns are always vectorized.",
        "create_graph retain_graph": "Leave it out: results can be differentiated, as by jax.grad.",
        "allow_int": "Leave integers out with where=, or number other arguments in argnums.",
        "in_axes in_dims out_axes out_dims vmap_axis": "Write jax.vmap({made}, in_axes=...), or batch_axis=.",
        "randomness": "Pass a jax.random.key as an argument of f.",
    }.items()
    for name in names.split()
}


def told(like: Callable | None = None) -> Callable[[_F], _F]:
    """A decorator for transforms: the error of a call that does not fit, as `jacobian(f, x, y)`, says what to write.

    Args:
      like: the function that receives the `**options`. None: the decorated function itself.
    """

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except TypeError:
                _check_call(function, like or function, args, kwargs)
                raise

        return call  # pyright: ignore[reportReturnType]

    return decorate


def _check_call(function: Callable, like: Callable, args: tuple, kwargs: dict) -> None:
    name, signature = function.__name__, inspect.signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        given = None
    parameters = inspect.signature(like).parameters.values()
    known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    closed = all(p.kind is not p.VAR_KEYWORD for p in parameters)  # otherwise the receiver of **options checks them
    functions = [n for n in ("loss", "f") if n in signature.parameters]
    made = f"{name}({', '.join(functions)})"
    open_end = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    for option in kwargs:
        if closed and option not in known and option not in signature.parameters:
            raise unknown(name, option, [n for n in known if n not in functions], made) from None
    if given is not None:  # the call fits: a check in it has failed
        for what in functions:
            checked_function(name, what, given[what], f"{name}(f, x)" if open_end else f"{made}(x)")
        if "argnums" in given:
            checked_argnums(name, given["argnums"], made)
        return
    missing = [n for n in functions[len(args) :] if n not in kwargs]
    if missing:
        raise TypeError(f"{name}({missing[0]}=...): expected a function, got nothing. Write {made}(x).") from None
    later = len(args) - len(functions)
    if later == 1 and "argnums" in kwargs:
        made = f"{name}({', '.join(functions)}, argnums=...)"
    inputs = "x" if later < 2 else "x, y" if later == 2 else "x, y, ..."
    raise TypeError(
        f"{name}({', '.join(functions)}, ...): expected {' and '.join(functions)}, and options by name, got {later} "
        f"more argument{'s' * (later != 1)} by position. The arguments of f come in a second call: write "
        f"{made}({inputs})."
    ) from None


def unknown(name: str, option: str, known: list[str], made: str) -> TypeError:
    """The error for an option that does not exist.

    Args:
      known: the options that exist.
      made: how the user writes the transform, such as `jacobian(f)`.
    """
    elsewhere = [k for k, names in _ELSEWHERE.items() if option in names.split() and k in known]
    close = elsewhere or difflib.get_close_matches(option, known, 1, 0.75)
    if option in OPTIONS:
        hint = "Leave it out, which jacobian and hessian alone have."
    elif option in _WITHOUT:
        hint = _WITHOUT[option].format(made=made)
    elif close:
        hint = f"Did you mean {close[0]}?"
    else:
        hint = f"If it is an argument of f, it comes later: write {made}(x)."
    return TypeError(f"{name}({option}=...): expected an option among {', '.join(known)}, got {option}. {hint}")


class Uncalled(Wrapping):
    """A function of the arguments of `f`, such as `jacobian(f)`.

    If it is used as if it were its own result, it raises an error that says to call it first.
    """

    result = "a view"  # what a call returns, in the singular and the plural
    results = "views"

    @property
    def written(self) -> str:
        """How a user writes it, such as `jacobian(f)`."""
        raise NotImplementedError

    def result_has(self, name: str) -> bool:
        """Whether the result of a call has an attribute of this name."""
        raise NotImplementedError

    def called_first(self, what: str = "") -> str:
        """The message: call it first, then apply `what`, such as `.shape` or `[0]`."""
        return (
            f"{self.written}{what}: expected {self.result}, got the function {self.__name__} that makes "
            f"{self.results}. Call it with the arguments of f first: write {self.written}(x){what}."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        if self.result_has(name):
            raise AttributeError(self.called_first(f".{name}"), name=name)
        raise AttributeError(
            f"{self.written}.{name}: expected an attribute of the function {self.__name__}, got {name!r}. Call it with "
            f"the arguments of f first: {self.written}(x) is {self.result}.",
            name=name,
            obj=self,
        )

    def __getitem__(self, key: Any) -> Any:
        raise TypeError(self.called_first(f"[{key}]" if isinstance(key, int) else "[...]"))

    def __iter__(self) -> Any:
        raise TypeError(self.called_first(""))

    def __len__(self) -> int:
        raise TypeError(self.called_first(""))

    def __bool__(self) -> bool:
        return True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError(self.called_first("[...]"))


def _no_operand(name: str) -> Callable:
    def operator(self: Uncalled, *_: Any) -> Any:
        raise TypeError(self.called_first("[...]"))

    operator.__name__ = operator.__qualname__ = name
    return operator


for _name in (
    "matmul rmatmul add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow neg abs float int "
    "lt le gt ge"
).split():
    setattr(Uncalled, f"__{_name}__", _no_operand(f"__{_name}__"))
