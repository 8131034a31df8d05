"""From stored rows and columns to the array that a key asks for, by NumPy or by JAX.

Knows arrays and numbers. Knows nothing of derivatives.
Shapes: B samples, M rows, N columns that are stored.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._store.keys import ROLES, Pick


def places(ids: Any, numbers: Any) -> Any:
    """Where the requested `ids` stand among the stored `numbers`; None: all, in order."""
    if ids is None or numbers is None:
        return ids
    if isinstance(ids, jax.Array):
        return jnp.arange(ids.size).reshape(ids.shape)
    return np.searchsorted(numbers, ids)


def along(xp: Any, block: Any, numbers: np.ndarray, axis: int) -> Any:
    """Lines of an array along an axis, taken by a slice if the numbers are evenly spaced."""
    lines = evenly(numbers) if isinstance(numbers, np.ndarray) else None
    if lines is None and xp is not np:
        return xp.take(block, numbers, axis=axis, mode="clip")  # all in range: there is nothing to fill in
    return xp.take(block, numbers, axis=axis) if lines is None else block[(slice(None),) * axis + (lines,)]


def evenly(numbers: np.ndarray) -> slice | None:
    """Evenly spaced numbers as a slice; None: they are not evenly spaced, or there are none."""
    if numbers.size == 0:
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    step = int(numbers[1]) - first if numbers.size > 1 else 1
    if step == 0 or last - first != step * (numbers.size - 1) or (numbers[1:] - numbers[:-1] != step).any():
        return None
    stop = last + (1 if step > 0 else -1)
    return slice(first, None if stop < 0 else stop, step)


def gather(xp: Any, block: Any, ids: dict[str, Any], order: Sequence[str], outer: bool, shape: tuple[int, ...]) -> Any:
    """Put the result of a key together.

    Args:
      xp: numpy or jax.numpy.
      block: axes (batch, rows, columns), holding at least what the key asks for.
      ids: for each role, places in that axis of `block` (shaped as in the key), or None for all.
      order: the roles in the order of the parts of the view.
      outer: whether the key asks for the outer product of `ids`; otherwise it is read point by point.
      shape: of the result.
    """
    if not outer:
        zero = np.zeros(shape, int)
        return block[tuple(zero if ids.get(r) is None else ids[r] for r in ROLES)].reshape(shape)
    axes = [ROLES.index(r) for r in order]
    if xp is np:  # first, since it copies nothing: what is taken then has the order of the result
        block, roles = np.transpose(block, axes), order
    else:
        roles = ROLES
    for axis, role in enumerate(roles):
        if ids.get(role) is not None:
            block = along(xp, block, ids[role].reshape(-1), axis)
    return (block if xp is np else xp.transpose(block, axes)).reshape(shape)


def gathered(sizes: dict[str, int], ids: dict[str, Any], order: Sequence[str], choice: Pick) -> int:
    """How many elements `gather` by NumPy holds at its peak, including the result as an array of its own.

    Args:
      sizes: for each role, the length of that axis of `block`.
      ids, order, choice: as for `gather`.
    """
    result = math.prod(choice.shape)
    if not choice.outer:
        return 2 * result
    held, sizes = [0], dict(sizes)
    for role in order:
        if ids.get(role) is not None:
            sizes[role] = ids[role].size
            if evenly(ids[role].reshape(-1)) is None:
                held.append(math.prod(sizes.values()))
    return max(a + b for a, b in zip(held, [*held[1:], result], strict=True))
