"""Gram matrices: JᴴWJ and J W J'ᴴ, from all of J where that fits, or in chunks of lines.

Knows matrices. Knows nothing of how lines are computed.
Shapes: M by N a block, L the lines that are summed over, K of them at once; samples in front.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._errors import MaterializationError
from jacobia._operators.lines import has, summed, whole
from jacobia._read.block import LiveBlock
from jacobia._run import limits


def gram(J: LiveBlock, way: str, weights: Any = None, between: bool = False) -> jax.Array:
    """Jᴴ W J, summed over "rows", or J W Jᴴ, summed over "columns".

    Args:
      weights: of the lines, `(L,)` or `(*lead, L)`; with `between`, of pairs of lines, `(L, L)` or `(*lead, L, L)`.

    Returns:
      `(*lead, N, N)` of rows, `(*lead, M, M)` of columns.

    Raises:
      MaterializationError: the result does not fit, or J does not, and lines of it can't be computed one by one.
    """
    origin, block = J._origin, J._layout.block
    m, n = origin.blue.counts[J._index]
    size, name = (n, "gram") if way == "rows" else (m, "outer")
    nbytes = math.prod(origin.lead) * size * size * block.dtype.itemsize
    limits.check_result(
        f"J.{name}() of shape {(*origin.lead, size, size)}", nbytes, origin.limit(nbytes),
        "Where J is sparse, take A = J.to_scipy(), and A.T @ A; for a product, J.T @ (J @ v).",
    )  # fmt: skip
    full = whole(J)
    if full is not None:
        return _made(full, weights, way, between, (*origin.lead, m, n))
    if between or not has(J, way):
        raise MaterializationError(
            f"J.{name}(...): expected a J that fits under memory_limit as a whole, or {way} that can be computed one "
            "by one, with a weight for each, got neither. Raise memory_limit, or multiply: J.T @ (W @ (J @ v))."
        )
    of = (lambda k: None) if weights is None else (lambda k: weights[..., k])
    return summed(J, way, lambda lines, k: _made(lines, of(k), way, False, lines.shape))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _made(lines: Any, weights: Any, way: str, between: bool, shape: tuple[int, ...]) -> jax.Array:
    lines = lines.reshape(shape)
    weighted, other = lines, jnp.conj(lines).swapaxes(-1, -2)
    if weights is not None:
        weights = weights.astype(lines.dtype)
        if between:
            weighted = weights @ lines if way == "rows" else lines @ weights
        else:
            weighted = weights[..., None] * lines if way == "rows" else lines * weights[..., None, :]
    return other @ weighted if way == "rows" else weighted @ other


def cross(J: LiveBlock, other: LiveBlock) -> jax.Array:
    """J J'ᴴ of two blocks with the same inputs, `(M, M')`: a tile of a neural tangent kernel.

    Raises:
      MaterializationError: one of them does not fit.
    """
    full, others = whole(J), whole(other)
    if full is None or others is None:
        raise MaterializationError(
            "J.outer(other): expected two J that fit under memory_limit, got one that does not. Take fewer samples, or "
            "raise memory_limit."
        )
    lead, shapes = J._origin.lead, [v._origin.blue.counts[v._index] for v in (J, other)]
    return _crossed(full, others, lead + shapes[0], lead + shapes[1])


@partial(jax.jit, static_argnums=(2, 3))
def _crossed(full: Any, other: Any, shape: tuple[int, ...], others: tuple[int, ...]) -> jax.Array:
    return full.reshape(shape) @ jnp.conj(other.reshape(others)).swapaxes(-1, -2)
