"""The options of `jacobian` and `hessian`: all arguments but f, checked once for each combination.

Knows names and types. Knows nothing of f.
"""

import difflib
import operator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._sparse.coloring import Coloring
from jacobia._sparse.pattern import Pattern


class Options(NamedTuple):
    """The options of a transform, checked and hashable."""

    name: str
    argnums: Any
    has_aux: bool
    holomorphic: bool
    static_argnums: tuple[int, ...]
    static_argnames: tuple[str, ...]
    batch_axis: int | None
    verify_batch: bool
    ravel: bool
    strict: bool
    lazy: bool
    jit: bool
    mode: str
    chunk_size: Any
    memory_limit: int | None
    sparsity: Any = "auto"  # or "dense", or a Pattern or Coloring, which are hashed by content
    spread: Any = None  # or a Spread: an axis of a mesh


OPTIONS = frozenset(
    "argnums has_aux holomorphic static_argnums static_argnames where batch_axis verify_batch ravel strict lazy jit "
    "mode chunk_size sparsity memory_limit mesh".split()
)

MODES = ("auto", "fwd", "rev", "accumulate", "waist")


@lru_cache(maxsize=256, typed=True)
def options(
    name: str, argnums: Any, has_aux: Any, holomorphic: Any, static_argnums: Any, static_argnames: Any,
    batch_axis: Any, verify_batch: Any, ravel: Any, strict: Any, lazy: Any, jit: Any, mode: Any, chunk_size: Any,
    memory_limit: Any,
) -> Options:  # fmt: skip
    # Cached: transforms are often made anew at each call, with the same options.
    flags = {
        "has_aux": has_aux,
        "holomorphic": holomorphic,
        "verify_batch": verify_batch,
        "ravel": ravel,
        "strict": strict,
        "lazy": lazy,
        "jit": jit,
    }
    for flag, given in flags.items():
        if given is not True and given is not False:
            raise TypeError(
                f"{name}({flag}=...): expected True or False, got {shown(given)}. Write {flag}=True or {flag}=False."
            )
    if not isinstance(mode, str) or mode not in MODES:
        known = ", ".join(map(repr, MODES[:-1]))
        raise ValueError(f"{name}(mode=...): expected {known} or {MODES[-1]!r}, got {shown(mode)}. {_meant(mode)}")
    if chunk_size != "auto":
        _check_count(name, "chunk_size", chunk_size, "a positive int or 'auto'")
    if memory_limit is not None:
        _check_count(name, "memory_limit", memory_limit, "a positive int, of bytes, or None")
    if batch_axis is not None:
        axis = _index(batch_axis)
        if axis is None:
            raise TypeError(
                f"{name}(batch_axis=...): expected an int or None, got {batch_axis!r}. It is one axis, the same for "
                "every differentiated input and every output; transpose those that differ."
            )
        batch_axis = axis
    return Options(
        name, _numbers(name, "argnums", argnums, keep_int=True), has_aux, holomorphic,
        _numbers(name, "static_argnums", static_argnums), _names(name, static_argnames), batch_axis, verify_batch,
        ravel, strict, lazy, jit, mode, chunk_size, memory_limit,
    )  # fmt: skip


def checked_function(name: str, what: str, f: Any, instead: str = "") -> None:
    """Raise unless `f` is callable. `what`: the name of the argument. `instead`: what the error says to write."""
    if callable(f):
        return
    if hasattr(f, "shape") and hasattr(f, "dtype"):  # an array or a view
        hint = f"Pass the function, not its result: write {instead or f'{name}(f)(x)'}"
    elif isinstance(f, (list, tuple, dict)):
        hint = "Pass one function, which may return a tree"
    else:
        hint = "Pass the function, not its result"
    raise TypeError(f"{name}({what}=...): expected a callable, got {shown_type(f)}. {hint}.")


def checked_argnums(name: str, given: Any, made: str) -> Any:
    """`argnums`, checked. `made`: how the user writes the transform without it, for the error."""
    return _numbers(name, "argnums", given, keep_int=True, made=made)


def checked_sparsity(name: str, given: Any) -> Any:
    """`sparsity`, checked."""
    if isinstance(given, (Pattern, Coloring)) or (isinstance(given, str) and given in ("auto", "dense")):
        return given
    kind, got = (ValueError, repr(given)) if isinstance(given, str) else (TypeError, shown_type(given))
    hint = "Pattern.from_dense, from_scipy, from_bcoo and from_coo make patterns; leave it out for 'auto'"
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        maker = "from_bcoo" if hasattr(given, "todense") and not hasattr(given, "tocoo") else "from_scipy"
        hint = f"Write sparsity=Pattern.{maker if hasattr(given, 'todense') else 'from_dense'}(...)"
    raise kind(f"{name}(sparsity=...): expected 'auto', 'dense', a Pattern or a Coloring, got {got}. {hint}.")


def _index(given: Any) -> int | None:
    # An int; None if `given` is not a single integer, such as a boolean or an array of several numbers.
    try:
        return None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        return None


def _check_count(name: str, what: str, given: Any, expected: str) -> None:
    count = _index(given)
    if count is not None and count >= 1:
        return
    hint = "Leave it out for the default"
    if isinstance(given, float) and given >= 1 and given == int(given):
        hint = f"Write {int(given)}"
    elif isinstance(given, str) and what == "memory_limit":
        hint = "Write 4 * 10**9 for 4 GB, or leave it out for the default"
    kind = TypeError if count is None else ValueError
    raise kind(f"{name}({what}=...): expected {expected}, got {shown(given)}. {hint}.")


def _numbers(name: str, what: str, given: Any, keep_int: bool = False, made: str = "") -> Any:
    number = _index(given)
    if number is not None:
        return number if keep_int else (number,)
    if isinstance(given, (tuple, list, range)) and all(_index(k) is not None for k in given):
        if keep_int and not given:
            raise ValueError(
                f"{name}({what}=...): expected at least one argument number, got {given!r}. Write 0 or (0,)."
            )
        return tuple(map(operator.index, given))
    if given is None or isinstance(given, (bool, set, frozenset)):
        hint = "Arguments are numbered from 0"
    elif isinstance(given, str) or (isinstance(given, (tuple, list)) and any(isinstance(k, str) for k in given)):
        hint = "Arguments are numbered from 0" + (
            "; static_argnames takes names" if what != "argnums" else ", not named"
        )
    else:
        later = f"The input of f comes later: write {made or f'{name}(f)'}(x)"
        hint = later if what == "argnums" else "Arguments are numbered from 0"
    raise TypeError(f"{name}({what}=...): expected an int or a sequence of ints, got {shown(given)}. {hint}.")


def shown(value: Any) -> str:
    """A value as it appears in a message: arrays by type and shape, and at most about 60 characters."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return shown_type(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def shown_type(value: Any) -> str:
    """The type of a value as it appears in a message; for an array, with its shape."""
    if isinstance(value, np.generic):
        return repr(value)
    kind = "Array" if isinstance(value, jax.Array) else type(value).__name__
    return f"{kind} of shape {value.shape}" if hasattr(value, "shape") and hasattr(value, "dtype") else kind


# Mode → names for it in other libraries.
_ELSEWHERE = {
    "fwd": "forward jacfwd jvp pushforward tangent linear",
    "rev": "reverse backward backprop jacrev vjp pullback adjoint",
    "accumulate": "sparse nonzeros",
}


def _meant(mode: Any) -> str:
    word = mode.lower() if isinstance(mode, str) else ""
    same = [m for m, names in _ELSEWHERE.items() if any(n in word for n in names.split())]
    close = same or difflib.get_close_matches(word, MODES, 1)
    return f"Did you mean {close[0]!r}?" if close else "'auto' chooses what is cheaper."


def _names(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (tuple, list)) and all(isinstance(k, str) for k in given):
        return tuple(given)
    raise TypeError(
        f"{name}(static_argnames=...): expected a string or a sequence of strings, got {given!r}. "
        "Positional arguments are named by static_argnums."
    )
