"""The errors for a point that cannot be computed with: an argument of f was deleted or donated, or is a shape alone.

Knows calls. Knows nothing of how lines are computed.
"""

from typing import Any

from jax.tree_util import keystr, tree_flatten_with_path

from jacobia._run.kernels import ReadError


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
