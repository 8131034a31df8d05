"""Compressed Jacobians: where each nonzero is read.

Knows patterns and colors. Knows nothing of derivatives or of f.
Shapes: M outputs, N inputs, nnz entries, C colors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._sparse.coloring import Coloring


class Recovery(NamedTuple):
    """Where the nonzeros are read, in pattern order: int32, shape (nnz,) each.

    Entry `e` is `compressed[source[e]][colors[e], positions[e]]`.

    Attributes:
      source: 0: the row-compressed Jacobian `B = S @ J`, shape (C, N), one pullback per row. 1: the column-compressed
        one, shape (C, M), one pushforward per row. Each has the colors of its own rows or columns, numbered from 0.
      colors: the row of the compressed Jacobian.
      positions: the column of the compressed Jacobian.
    """

    source: Any
    colors: Any
    positions: Any


def recovery(coloring: Coloring) -> Recovery:
    """Where each nonzero is read; NumPy arrays, or traced ones for a coloring that is traced.

    References:
      Gebremedhin, Manne, Pothen, "What color is your Jacobian?", SIAM Review 47 (2005),
      doi:10.1137/S0036144504444711, sections 3 to 5: direct recovery.
    """
    rows, cols = coloring.pattern.rows, coloring.pattern.cols
    row_colors, column_colors = coloring.row_colors, coloring.column_colors
    if coloring.partition == "rows":
        return Recovery(0 * rows, row_colors[rows], cols)
    if coloring.partition == "columns":
        return Recovery(0 * cols + 1, column_colors[cols], rows)
    swap: Any = coloring.by_rows
    if coloring.partition == "symmetric":
        row_colors = column_colors  # (j, i) is in the same place of the other column
    # Both sides are looked up for all entries; a color -1, of no seed, is never chosen.
    xp = jnp if isinstance(swap, jax.Array) else np
    colors = xp.where(swap, row_colors[rows], column_colors[cols])
    source = xp.ones_like(rows) if coloring.partition == "symmetric" else 1 - swap.astype(xp.int32)
    return Recovery(source, colors, xp.where(swap, cols, rows))


def recover(compressed: Any, coloring: Coloring) -> jax.Array:
    """Read the nonzeros of J out of its compressed form.

    Args:
      compressed: for the partition "rows" `S @ J`, shape (C, N); for "columns" and "symmetric" one pushforward for each
        color, shape (C, M); for "both" the pair of these, with as many rows as there are colors of rows and of columns.
        Axes in front are kept.
      coloring: the coloring whose seeds built `compressed`.

    Returns:
      Values in pattern order, shape (..., nnz), dtype of `compressed`.

    Raises:
      ValueError: `compressed` has another shape than the seeds give.

    References:
      Gebremedhin, Manne, Pothen, "What color is your Jacobian?", SIAM Review 47 (2005),
      doi:10.1137/S0036144504444711, sections 3 to 5: direct recovery.
    """
    m, n = coloring.pattern.shape
    num_rows, num_columns = coloring.num_row_colors, coloring.num_colors - coloring.num_row_colors
    if coloring.partition != "both":
        expected = (num_rows, n) if coloring.partition == "rows" else (num_columns, m)
        return read_back([_checked("compressed", compressed, expected)], recovery(coloring))
    if not isinstance(compressed, (tuple, list)) or len(compressed) != 2:
        raise ValueError(
            "recover(compressed=...): expected a pair of arrays, the first compressed by rows and the second by "
            f"columns, got {type(compressed).__name__}. The partition 'both' has seeds in both directions."
        )
    by_rows = _checked("compressed[0]", compressed[0], (num_rows, n))
    by_columns = _checked("compressed[1]", compressed[1], (num_columns, m))
    return read_back([by_rows, by_columns], recovery(coloring))


def read_back(compressed: Sequence[jax.Array], where: Recovery) -> jax.Array:
    """As `recover`, given the result of `recovery`; `compressed` has one array, or two for "both"."""
    some = [a for a in compressed if a.shape[-2]]
    if len(some) < 2:  # nothing can be looked up in an empty array
        return (some or compressed)[0][..., where.colors, where.positions]
    by_rows, by_columns = some
    # Each entry is looked up on both sides, which takes no sorting; on the side that is not meant, any place will do.
    color, position, is_column = where.colors, where.positions, where.source == 1
    row_side = by_rows[..., _unless(is_column, color), _unless(is_column, position)]
    column_side = by_columns[..., _unless(~is_column, color), _unless(~is_column, position)]
    return jnp.where(is_column, column_side, row_side)


def _unless(mask: Any, ids: Any) -> Any:
    return ids * ~mask


def _checked(name: str, array: Any, expected: tuple[int, int]) -> jax.Array:
    array = jnp.asarray(array)
    if array.ndim < 2 or array.shape[-2:] != expected:
        raise ValueError(
            f"recover({name}=...): expected shape (..., {expected[0]}, {expected[1]}), got {array.shape}. "
            "Was it built with another coloring?"
        )
    return array
