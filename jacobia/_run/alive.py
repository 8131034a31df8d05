"""The error for a deleted point: it names the argument of f that was deleted, or donated to a jitted function.

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
