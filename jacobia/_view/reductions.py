"""Diagonals, traces, Gram matrices and norms of a view, computed without its matrix.

Knows layouts and shapes. Knows nothing of how lines and products are computed.
Shapes: M outputs, N inputs; batch axes first.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._call.given import as_array
from jacobia._operators.gram import cross, gram, sparse_gram
from jacobia._operators.norms import norms
from jacobia._operators.told import told
from jacobia._read.explain import Explanation
from jacobia._sparse.pattern import FORMATS
from jacobia._view.products import Products


class Reductions(Products):
    """Results that are smaller than the matrix, and do not need all of it at once."""

    __slots__ = ()

    def diagonal(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The diagonal, without the matrix: from the nonzeros if J is sparse, otherwise one pass for each entry.

        Remembered rows, columns and nonzeros are used. For a Hessian the passes are forward over forward, if f allows
        it.

        Args:
          *args: arguments of `numpy.diagonal`. If any are given, the result is `J[...].diagonal(...)`, of the whole
            matrix as an array.
          **kwargs: keyword arguments of `numpy.diagonal`, with the same effect.

        Returns:
          Shape `x.shape` if `y.shape == x.shape`; `(min(M, N),)` for other 2-D views; `y.shape + x.shape` for a
          Hessian. Batch axes come first. For a transposed view the axes are reversed.

        Raises:
          ValueError: any other view, which has no diagonal.
        """
        if args or kwargs:
            return self[...].diagonal(*args, **kwargs)
        return self._diagonal()

    def trace(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The sum of the diagonal, without the matrix, computed as `J.diagonal()` is.

        Args:
          *args: arguments of `numpy.trace`. If any are given, the result is `J[...].trace(...)`, of the whole matrix as
            an array.
          **kwargs: keyword arguments of `numpy.trace`, with the same effect.

        Returns:
          One number. For the Hessian of several outputs one number for each, shape `y.shape`. Batch axes come first.

        Raises:
          ValueError: a view without a diagonal.
        """
        if args or kwargs:
            return self[...].trace(*args, **kwargs)
        layout = self._layout
        heads = 0 if layout.matrix else len(layout.block.row_shape) - len(layout.block.column_shape)
        found = self._arranged(layout.matrix, "")._diagonal()
        kept = len(layout.lead) + (heads if self._origin.blue.program.heads is not None else 0)
        return jnp.sum(found, axis=tuple(range(kept, found.ndim)))

    def gram(self, weights: Any = None, format: str | None = None) -> Any:
        """The Gram matrix `Jᵀ W J`, or `Jᴴ W J` if J is complex.

        It is computed from the nonzeros if J is sparse, from the whole matrix if that fits under the memory limit, and
        otherwise in chunks of rows.

        Args:
          weights: W. One weight for each row, of shape `y.shape` or `(M,)`; or a full matrix `(M, M)`; None: the
            identity. With batch axes first, each sample has its own weights.
          format: a format of `scipy.sparse`, such as "csc": the result is sparse, and computed from the nonzeros. None:
            the result is an array.

        Returns:
          Shape `x.shape + x.shape`, or `(N, N)` for a matrix view; batch axes come first. With a format, `(N, N)`.

        Raises:
          TypeError: a format inside `jit`, where SciPy cannot compute.
          ValueError: weights of another shape; an unknown format; a format for a view with samples.
          MaterializationError: the result does not fit under the memory limit; or J does not, and its rows cannot be
            computed one by one.
        """
        way, (rows, columns) = self._sides("gram")
        weights, between = self._weights(weights, rows)
        if format is not None:
            self._check_format(format)
            return sparse_gram(self, way, weights, between, format)
        # J stands for the block here. The Gram matrix of its transpose Jᵀ is conj(J conj(W) Jᴴ).
        turned = way == "columns"
        out = gram(self, way, jnp.conj(weights) if turned and weights is not None else weights, between)
        out = jnp.conj(out) if turned else out
        return self._divided(out.reshape(self._layout.lead + columns + columns))

    def outer(self, other: Any = None) -> jax.Array:
        """The product `J Jᵀ`, or `J J'ᵀ` of two views with the same inputs (with `ᴴ` for `ᵀ` if they are complex).

        It is computed without J, in chunks of columns, if J does not fit under the memory limit.

        Args:
          other: J', another view with inputs of the same shape, perhaps at another point; None: J itself.

        Returns:
          Shape `y.shape + y'.shape`, or `(M, M')` for matrix views; batch axes come first.

        Raises:
          TypeError: `other` is not a view.
          ValueError: the inputs differ in shape.
          MaterializationError: the result, or what it is computed from, does not fit under the memory limit.
        """
        way, (rows, columns) = self._sides("outer")
        lead = self._layout.lead
        if other is None:
            out = gram(self, "columns" if way == "rows" else "rows")
            return self._divided((jnp.conj(out) if way == "columns" else out).reshape(lead + rows + rows))
        if not isinstance(other, Reductions):
            raise TypeError(
                f"J.outer(other=...): expected a view, got {type(other).__name__}. Write J @ A.T for an array A, which "
                "needs no matrix J."
            )
        (_, (others, same)), turned = other._sides("outer"), self._layout.turn or other._layout.turn
        if same != columns or other._layout.lead != lead or turned:
            raise ValueError(
                "J.outer(other=...): expected two views, not transposed, with inputs of one shape, got "
                f"{self.shape} and {other.shape}. Take J.matrix where the axes alone differ."
            )
        return self._divided(cross(self, other).reshape(lead + rows + others))

    def row_norms(self) -> jax.Array:
        """The Euclidean norm of each row, without the matrix if J is sparse or does not fit under the memory limit.

        Returns:
          Shape `y.shape`, or `(M,)` for a matrix view; batch axes come first.
        """
        way, (rows, _) = self._sides("row_norms")
        return self._divided(norms(self, way).reshape(self._layout.lead + rows))

    def column_norms(self) -> jax.Array:
        """The Euclidean norm of each column, computed as `row_norms` is.

        Returns:
          Shape `x.shape`, or `(N,)` for a matrix view; batch axes come first.
        """
        way, (_, columns) = self._sides("column_norms")
        out = norms(self, "columns" if way == "rows" else "rows")
        return self._divided(out.reshape(self._layout.lead + columns))

    def _told(self, name: str) -> Explanation:
        way, (rows, columns) = self._sides(name) if name != "trace" else ("rows", ((), ()))
        other = "columns" if way == "rows" else "rows"
        made = {
            "gram": (way, columns + columns),
            "outer": (other, rows + rows),
            "row_norms": (way, rows),
            "column_norms": (other, columns),
            "trace": (way, ()),
        }
        summed, shape = made[name]
        return told(self, name, summed, self._layout.lead + shape)

    def _sides(self, name: str) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        # Whether the rows of this view are rows or columns of the block, and the shapes of the view's rows and columns.
        layout, block = self._layout, self._layout.block
        rows, columns = block.row_shape, block.column_shape
        if layout.turn and not layout.matrices:
            raise ValueError(
                f"J.T.{name}(): expected a matrix (M, N), or (B, M, N), got shape {self.shape}. Write J.matrix.T, or "
                "J.mT where there are samples."
            )
        if layout.matrix:
            rows, columns = (math.prod(rows),), (math.prod(columns),)
        return ("columns", (columns, rows)) if layout.turn else ("rows", (rows, columns))

    def _check_format(self, format: str) -> None:
        if format not in FORMATS:
            raise ValueError(f"J.gram(format=...): expected None or one of {', '.join(FORMATS)}, got {format!r}.")
        if self._layout.lead:
            raise ValueError(
                f"J.gram(format={format!r}): expected a view without samples, got shape {self.shape}. SciPy has no "
                "batches: leave format out, or take J.nonzeros()."
            )
        if not self._origin.remembers:
            raise TypeError(
                f"J.gram(format={format!r}): expected a view outside of jit and other transformations, got one inside. "
                "Leave format out, or multiply: J.T @ (J @ v)."
            )

    def _weights(self, weights: Any, rows: tuple[int, ...]) -> tuple[jax.Array | None, bool]:
        # The weights, and whether they are a full matrix: (..., M, M) if so, (..., M) if not.
        if weights is None:
            return None, False
        w, lead, m = as_array("J.gram(weights=...)", weights), self._layout.lead, math.prod(rows)
        for own in ((), lead):
            if w.shape in (own + rows, own + (m,)):
                return w.reshape(own + (m,)), False
        if w.shape == lead + (m, m):
            return w, True
        each = f", with {lead} in front for each sample" if lead else ""
        raise ValueError(
            f"J.gram(weights=...): expected shape {rows} for one weight a row{each}, or {lead + (m, m)} between rows, "
            f"got {w.shape}."
        )
