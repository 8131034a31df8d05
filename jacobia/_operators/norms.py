"""Euclidean norms of rows and of columns: from nonzeros, from all of J if it fits in memory, or in chunks of lines.

Knows matrices and patterns. Knows nothing of how lines are computed.
Shapes: M by N a block, K lines at once, nnz entries; samples in front.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._errors import MaterializationError
from jacobia._operators.lines import chunks, has, is_sparse, summed, whole
from jacobia._read.block import LiveBlock


def norms(J: LiveBlock, way: str) -> jax.Array:
    """The norms of "rows", `(*lead, M)`, or of "columns", `(*lead, N)`; real.

    Raises:
      MaterializationError: J does not fit in memory, and its lines cannot be computed one by one.
    """
    origin, index = J._origin, J._index
    m, n = origin.blue.counts[index]
    if is_sparse(J):
        data, pattern = J._other("nonzeros")
        return _of_entries(data, pattern.rows if way == "rows" else pattern.cols, m if way == "rows" else n)
    full = whole(J)
    if full is not None:
        return _of_all(full, way, (*origin.lead, m, n))
    if has(J, way):
        return jnp.concatenate([_of_all(lines, way, lines.shape) for _, lines in chunks(J, way)], axis=-1)
    other = "columns" if way == "rows" else "rows"
    if not has(J, other):
        raise MaterializationError(
            f"J.{way[:-1]}_norms(): expected a J that fits under memory_limit, got one that does not, and of which no "
            "lines can be computed one by one. Raise memory_limit."
        )
    return jnp.sqrt(summed(J, other, lambda lines, _: _squares(lines, way)))


@partial(jax.jit, static_argnums=1)
def _squares(lines: Any, way: str) -> jax.Array:
    return jnp.sum(jnp.real(lines) ** 2 + jnp.imag(lines) ** 2, axis=-1 if way == "rows" else -2)


@partial(jax.jit, static_argnums=(1, 2))
def _of_all(full: Any, way: str, shape: tuple[int, ...]) -> jax.Array:
    return jnp.linalg.norm(full.reshape(shape), axis=-1 if way == "rows" else -2)


@partial(jax.jit, static_argnums=2)
def _of_entries(data: Any, numbers: Any, count: int) -> jax.Array:
    squares = jnp.real(data * jnp.conj(data))
    zeros = jnp.zeros((*data.shape[:-1], count), squares.dtype)
    return jnp.sqrt(zeros.at[..., numbers].add(squares))
