"""Gram matrices Jᴴ W J, J W Jᴴ and J J'ᴴ: from nonzeros, from all of J if it fits in memory, or in chunks of lines.

Knows matrices and patterns. Knows nothing of how lines are computed.
Shapes: M by N a block, L the lines that are summed over, K of them at once; samples in front.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._errors import MaterializationError
from jacobia._operators.lines import has, is_sparse, summed, whole
from jacobia._plans.colors import pattern_of
from jacobia._read.block import LiveBlock
from jacobia._run import limits
from jacobia._sparse.export import to_scipy
from jacobia._sparse.pattern import Pattern

# At most _MOST pairs of nonzeros are listed. Adding one pair to its place in the result takes as long as _SCATTERED
# operations of a matrix product.
_MOST, _SCATTERED = 1 << 25, 256


def gram(J: LiveBlock, way: str, weights: Any = None, between: bool = False) -> jax.Array:
    """Jᴴ W J, a sum over "rows", or J W Jᴴ, a sum over "columns".

    Args:
      weights: one for each line, `(L,)` or `(*lead, L)`; with `between`, the matrix W, `(L, L)` or `(*lead, L, L)`.
      between: whether `weights` is a full matrix W; otherwise W is diagonal.

    Returns:
      `(*lead, N, N)` for rows, `(*lead, M, M)` for columns.

    Raises:
      MaterializationError: the result does not fit in memory; or J does not fit, and its lines cannot be computed one
        by one or W is a full matrix.
    """
    origin, block = J._origin, J._layout.block
    m, n = origin.blue.counts[J._index]
    size, name = (n, "gram") if way == "rows" else (m, "outer")
    nbytes = math.prod(origin.lead) * size * size * block.dtype.itemsize
    limits.check_result(
        f"J.{name}() of shape {(*origin.lead, size, size)}", nbytes, origin.limit(nbytes),
        "Where J is sparse, take A = J.to_scipy(), and A.T @ A; for a product, J.T @ (J @ v).",
    )  # fmt: skip
    if not between and has_few_pairs(J, way):
        return _of_nonzeros(J, way, weights, size)
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


def has_few_pairs(J: LiveBlock, way: str) -> bool:
    """Whether summing products of pairs of nonzeros, line by line, is faster than a matrix product."""
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    if not is_sparse(J):
        return False
    pattern = pattern_of(origin, index)
    lines = pattern.rows if way == "rows" else pattern.cols
    met = int(np.sum(np.bincount(lines).astype(np.int64) ** 2))
    return met <= _MOST and _SCATTERED * met <= m * n * (n if way == "rows" else m)


def _of_nonzeros(J: LiveBlock, way: str, weights: Any, size: int) -> jax.Array:
    data, pattern = J._other("nonzeros")
    pairs = J._origin.blue.found.find("pairs", (J._index, way), lambda: _pairs(pattern, way))
    return _scattered(data, weights, *pairs, size, way)


def _pairs(pattern: Pattern, way: str) -> tuple[np.ndarray, ...]:
    # For each pair of nonzeros in one line: their places among the nonzeros, the line, and the row and column of the
    # result to which their product is added.
    lines, places = (pattern.rows, pattern.cols) if way == "rows" else (pattern.cols, pattern.rows)
    order = np.argsort(lines, kind="stable").astype(np.int32)
    counts = np.bincount(lines, minlength=pattern.shape[0 if way == "rows" else 1])
    each = counts[lines[order]]
    first = np.repeat(np.arange(len(order)), each)
    begins = np.concatenate([[0], np.cumsum(each)[:-1]])
    second = np.arange(len(first)) - begins[first] + (np.cumsum(counts) - counts)[lines[order]][first]
    first, second = order[first], order[second]
    return first, second, lines[first], places[first], places[second]


@partial(jax.jit, static_argnums=(7, 8))
def _scattered(
    data: Any, weights: Any, first: Any, second: Any, lines: Any, rows: Any, cols: Any, size: int, way: str
) -> jax.Array:
    one, other = (jnp.conj(data), data) if way == "rows" else (data, jnp.conj(data))
    products = one[..., first] * other[..., second]
    if weights is not None:
        products = products * weights.astype(data.dtype)[..., lines]
    return jnp.zeros((*data.shape[:-1], size, size), data.dtype).at[..., rows, cols].add(products)


def sparse_gram(J: LiveBlock, way: str, weights: Any, between: bool, format: str) -> Any:
    """The Gram matrix of a matrix without samples, as a sparse array of SciPy in the given format."""
    from scipy.sparse import csr_array

    data, pattern = J._other("nonzeros")
    A = to_scipy(data, pattern, "csr")
    A = A if way == "rows" else A.T.tocsr()
    weighted = A
    if weights is not None:
        W = np.asarray(weights)
        weighted = csr_array(W) @ A if between else A.multiply(W[:, None])
    return (A.conj().T @ weighted).asformat(format)


def cross(J: LiveBlock, other: LiveBlock) -> jax.Array:
    """J J'ᴴ of two blocks with the same inputs, `(M, M')`: a tile of a neural tangent kernel.

    Raises:
      MaterializationError: one of the blocks does not fit in memory.
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
