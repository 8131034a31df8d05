"""`python -m jacobia explain`: what reading the Jacobian of a user's function would run, without running it.

Knows the arguments of the command line. Knows nothing of plans.
"""

import argparse
import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from jacobia._read.explain import Explanation
from jacobia._transform import hessian, jacobian
from jacobia._view.jacobian import Jacobian
from jacobia._words import readable

_DESCRIPTION = """\
Prints what reading the Jacobian of a function would run, and why: the plans
considered, with their passes, operations and bytes, the one chosen first.
The function is traced at the shapes given. Nothing is computed."""

_EPILOG = """\
example: predict(x, w) in model.py, in this folder; all of its Jacobian with
respect to x, of shape (1000,); then three rows of it, with the memory they take

  python -m jacobia explain model:predict --shape 1000 --shape 3,4
  python -m jacobia explain model:predict --shape 1000 --shape 3,4 --key 1:4 --memory
"""


class Refused(Exception):
    """A command that cannot be run. The message says why, in one line."""


def add_to(commands: Any) -> None:
    """Add the command `explain` to a parser."""
    parser = commands.add_parser(
        "explain",
        help="what would reading the Jacobian of a function run?",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("function", metavar="MODULE:FUNCTION", help="as package.module:function or module:object.method")
    add("--shape", action="append", default=[], help='of an argument, as 3,4 ("" for a scalar); once for each argument')
    add("--dtype", action="append", default=[], help="of all arguments, or once for each (default: JAX's own float)")
    add("--argnums", default="0", help="arguments to differentiate, as 0 or 0,1 (default: %(default)s)")
    add("--hessian", action="store_true", help="of the Hessian, not the Jacobian")
    add(
        "--key",
        default="...",
        help="what is read of it, as 1:4 or 0,: or, to begin with a minus, --key=-1,: (default: all)",
    )
    add("--memory", action="store_true", help="compile the kernel, and tell the memory that it takes at its peak")


def explain(options: argparse.Namespace) -> str:
    """The text that the command prints.

    Args:
      options: the parsed arguments, as `add_to` declares them.

    Raises:
      Refused: the command cannot be run. The message says why.
    """
    if not options.shape:
        raise Refused(
            "explain --shape: expected it once for each argument of the function, got none. "
            'Write 1000, or 3,4, or "" for a scalar.'
        )
    shapes = [_shape(text) for text in options.shape]
    dtypes, wide = _dtypes(options.dtype, len(shapes))
    argnums, key = _argnums(options.argnums), _key(options.key)
    transform = hessian if options.hessian else jacobian
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        f = _imported(options.function)
        own = [jnp.result_type(float)] * len(shapes)  # read after the import: the module may enable 64 bits
        args = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes or own, strict=True)]
        _check_call(options.function, f, args)
        try:
            made: Any = transform(f, argnums=argnums)
            found, _ = tree_flatten_with_path(made.views_at(args, {}), is_leaf=lambda v: isinstance(v, Jacobian))
            told = [_told(transform.__name__, path, J.explain(key), options.memory) for path, J in found]
        except Exception as error:
            message = " ".join(str(error).split())
            if message.startswith((f"{transform.__name__}(", "J.", "J[")):  # an error of this library is clear as it is
                raise Refused(message) from error
            raise Refused(
                f"{transform.__name__}({options.function}): expected a function that can be differentiated and planned "
                f"at {_listed(args)}, got {_short(error)}. Check --shape, --dtype and --argnums."
            ) from error
    return "\n\n".join(told)


def _told(transform: str, path: tuple, told: Explanation, memory: bool) -> str:
    # Each view of a tree is named as a user writes it, such as J['loss'][0].
    name = f"{transform[0].upper()}{keystr(path)}: " if path else ""
    tail = f"\nmemory: {readable(told.memory)} at its peak beyond the inputs (compiled)" if memory else ""
    return f"{name}{told}{tail}"


def _imported(target: str) -> Callable:
    module, _, name = target.partition(":")
    if not (module and name) or module.startswith("."):
        raise Refused(
            f"explain: expected MODULE:FUNCTION, got {target!r}. "
            "Write the name that Python imports, a colon and the function, as in package.module:function."
        )
    try:
        owner: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        hint = f"python -c 'import {module}' shows where."
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            hint = "Start in the folder that holds it, or name that folder in PYTHONPATH."
        raise Refused(
            f"explain {target}: expected a module that can be imported, got {_short(error)}. {hint}"
        ) from error
    try:
        f = functools.reduce(getattr, name.split("."), owner)
    except AttributeError as error:
        raise Refused(
            f"explain {target}: expected a name that {module} defines, got {name!r} ({error}). "
            "A submodule goes before the colon."
        ) from error
    if not callable(f):
        raise Refused(
            f"explain {target}: expected a callable, got {type(f).__name__}. Name the function, not its result."
        )
    return f


def _check_call(target: str, f: Callable, args: list) -> None:
    # Call f itself first, so that its own errors are not taken for errors of its derivative.
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # some builtins have no signature: the call below will fail instead
        signature = None
    try:
        if signature is not None:
            signature.bind(*args)
    except TypeError as error:
        raise Refused(
            f"explain {target}: expected one --shape for each argument, got {len(args)} ({error}). "
            f"Its arguments are {signature}."
        ) from error

    def run(*arrays: jax.Array) -> None:
        f(*arrays)  # the transform checks what f returns

    try:
        jax.eval_shape(run, *args)
    except Exception as error:
        raise Refused(
            f"explain {target}: expected a function that can be traced at {_listed(args)}, got {_short(error)}. "
            "Check --shape and --dtype."
        ) from error


def _shape(text: str) -> tuple[int, ...]:
    inner = text.strip().removeprefix("(").removesuffix(")")
    try:
        shape = _whole_numbers(inner) if inner.strip() else ()
        if any(n < 0 for n in shape):
            raise ValueError(text)
    except ValueError:
        raise Refused(
            f"explain --shape: expected whole numbers that are not negative, got {text!r}. "
            'Write 1000, or 3,4, or "" for a scalar.'
        ) from None
    return shape


def _argnums(text: str) -> int | tuple[int, ...]:
    try:
        numbers = _whole_numbers(text)
    except ValueError:
        raise Refused(
            f"explain --argnums: expected numbers of arguments, got {text!r}. Write 0, or 0,1 for the first two."
        ) from None
    return numbers if "," in text else numbers[0]


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _parts(text))


def _parts(text: str) -> list[str]:
    # As in a tuple: a comma may follow the last part.
    parts = text.split(",")
    return parts[:-1] if len(parts) > 1 and not parts[-1].strip() else parts


def _key(text: str) -> Any:
    try:
        parts = tuple(_key_part(part.strip()) for part in _parts(text))
    except ValueError:
        raise Refused(
            f"explain --key: expected whole numbers, slices, ... and None with commas between, got {text!r}. "
            "Write 5, or 1:4, or 0,::2."
        ) from None
    return parts if "," in text else parts[0]


def _key_part(text: str) -> Any:
    if text in ("...", "None"):
        return ... if text == "..." else None
    if ":" not in text:
        return int(text)
    ends = [int(end) if end.strip() else None for end in text.split(":")]
    if len(ends) > 3 or ends[2:] == [0]:
        raise ValueError(text)
    return slice(*ends)


def _dtypes(names: list[str], count: int) -> tuple[list, bool]:
    """The dtype of each shape (empty: the default of JAX), and whether any of them needs 64-bit types enabled."""
    if len(names) not in (0, 1, count):
        raise Refused(
            f"explain --dtype: expected it once, or once for each --shape ({count}), got it {len(names)} times. "
            "Write it once where all are the same."
        )
    dtypes = []
    for name in names:
        try:
            with jax.enable_x64(True):
                dtypes.append(jnp.result_type(name))
        except TypeError:
            raise Refused(
                f"explain --dtype: expected a dtype that JAX has, got {name!r}. Write float32, float64 or bfloat16."
            ) from None
    with jax.enable_x64(False):
        wide = any(jax.dtypes.canonicalize_dtype(d) != d for d in dtypes)
    return dtypes * count if len(dtypes) == 1 else dtypes, wide


def _listed(args: list) -> str:
    return ", ".join(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in args) or "no arguments"


def _short(error: BaseException) -> str:
    # JAX's messages have many lines; the first one says what is wrong.
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first.rstrip('. ')}" if first else type(error).__name__
