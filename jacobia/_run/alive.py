"""Whether a point can be computed with: an argument of f was deleted or donated, is a shape alone, or is no point.

Knows calls. Knows nothing of how lines are computed.
"""

from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from jacobia._compat import Tracer
from jacobia._run.guard import is_gone, is_unchanged
from jacobia._run.kernels import ReadError, only_compiles


def check(origin: Any, computes: bool = True) -> None:
    """Raise if an array of the point has been deleted or donated, or is a shape alone that cannot be computed with.

    Otherwise only a kernel that reads the deleted array would fail, and kept residuals would hide it. The leaves of a
    view that was put together from a pytree must be those of a view: its guard is looked at once.
    """
    for k, a in enumerate((*origin.at_hand, *origin.consts)):
        if origin.traced and isinstance(a, Tracer):
            continue
        is_deleted = getattr(a, "is_deleted", None)  # None: a NumPy array, or a shape alone
        if is_deleted is not None and is_deleted():
            raise deleted(origin, k)
        if is_deleted is None and computes and isinstance(a, jax.ShapeDtypeStruct) and not only_compiles():
            raise shape_alone(origin, k)
    if computes and origin.guard is not None and not origin.guard_seen:
        _check_guard(origin)


def _check_guard(origin: Any) -> None:
    guard = origin.guard
    if isinstance(guard, Tracer | jax.ShapeDtypeStruct):
        return
    if not isinstance(guard, jax.Array):
        raise changed(f"{type(guard).__name__} in the place of arrays")
    if not is_gone(guard) and not is_unchanged(guard):
        raise changed("other numbers in the place of its leaves")
    origin.guard_seen = True


def changed(got: str) -> ReadError:
    """The error for a view whose leaves were changed as if they were the matrix, as by `jax.jvp` or `jax.tree.map`."""
    return ReadError(
        f"J (as a pytree): expected the leaves of a view, which are the point and not the matrix, got {got}, as "
        "jax.jvp, jax.linearize and jax.tree.map make of them. Write J[...] there: return it, or map over it."
    )


def deleted(origin: Any, number: int) -> ReadError:
    """The error for a deleted array of the point.

    `number` counts the leaves of the call, and after them the arrays that f closes over.
    """
    if number < len(origin.at_hand):
        what = _name(origin, number)
        copy = f"make the view at a copy, {what}.copy()" if "[" in what or what.isidentifier() else "keep it"
    else:
        what, copy = "an array that f closes over", "keep it"
    return ReadError(
        f"J[...]: expected the arrays at which the view was made, got {what}, which has been deleted or donated. Read "
        f"J before that, or {copy}."
    )


def shape_alone(origin: Any, number: int) -> ReadError:
    """The error for a view of shapes, which `jax.eval_shape` returns. `number` counts as for `deleted`."""
    what = _name(origin, number) if number < len(origin.at_hand) else "an array that f closes over"
    return ReadError(
        f"J[...]: expected a view at arrays, got one of jax.eval_shape, in which {what} is a shape alone. Make the "
        "view at an array, as jacobian(f)(x)."
    )


def _name(origin: Any, number: int) -> str:
    blue = origin.blue
    if number in blue.positions:
        return blue.spaces.inputs.paths[blue.positions.index(number)]
    if origin.source is not None:
        _, args, kwargs = origin.source
        for (kind, top, *rest), leaf in tree_flatten_with_path((list(args), kwargs))[0]:
            if leaf is origin.at_hand[number]:
                return (f"args[{top.idx}]" if kind.idx == 0 else str(top.key)) + keystr(tuple(rest))
    return "an argument of f"
