"""What is read off a view without its matrix: diagonals, traces, Gram matrices, norms.

Knows layouts and shapes. Knows nothing of how any of it is computed.
Shapes: M outputs, N inputs; samples in front.
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
    """What is smaller than the matrix, and needs not all of it at once."""

    __slots__ = ()

    def diagonal(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The diagonal, without the matrix: out of nonzeros where there is structure, or each pass keeps one entry.

        With arguments, those of `numpy.diagonal`, it is that of the whole matrix as an array.

        What is remembered is used. For a Hessian passes are forward over forward, where f allows it.

        Returns:
          `x.shape` where that is `y.shape`, `(min(M, N),)` for other 2-D views; `y.shape + x.shape` for a Hessian.
          A batched view has its batch axes in front. Of a transposed view, the same with all axes reversed.

        Raises:
          ValueError: a view that is neither.
        """
        if args or kwargs:
            return self[...].diagonal(*args, **kwargs)
        return self._diagonal()

    def trace(self, *args: Any, **kwargs: Any) -> jax.Array:
        """The sum of the diagonal, without the matrix: `J.diagonal()` tells what runs.

        With arguments, those of `numpy.trace`, it is that of the whole matrix as an array.

        Returns:
          One number; for a Hessian of several numbers one for each, of shape `y.shape`; with batch axes in front.

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
        """`Jᵀ W J`: out of nonzeros where J is sparse, in chunks of rows where J does not fit; `Jᴴ W J` if complex.

        Args:
          weights: one for each row, of shape `y.shape` or `(M,)`; between rows, `(M, M)`; None: ones. With batch axes
            in front for weights of their own of each sample.
          format: of `scipy.sparse`, such as "csc", for a sparse result out of the nonzeros of J; None: an array.

        Returns:
          `x.shape + x.shape`, `(N, N)` for a matrix view, with batch axes in front; with a format, `(N, N)`.

        Raises:
          TypeError: a format inside of `jit`, where SciPy can't compute.
          ValueError: weights of another shape; an unknown format, or one of a view with samples.
          MaterializationError: the result does not fit; nor does J, and rows can't be computed one by one.
        """
        way, (rows, columns) = self._sides("gram")
        weights, between = self._weights(weights, rows)
        if format is not None:
            self._check_format(format)
            return sparse_gram(self, way, weights, between, format)
        # Of Jᵀ it is the conjugate of what J gives.
        turned = way == "columns"
        out = gram(self, way, jnp.conj(weights) if turned and weights is not None else weights, between)
        out = jnp.conj(out) if turned else out
        return self._divided(out.reshape(self._layout.lead + columns + columns))

    def outer(self, other: Any = None) -> jax.Array:
        """`J Jᵀ`, in chunks of columns where J does not fit; `J J'ᵀ` of two views with the same inputs.

        Args:
          other: another view with inputs of the same shape, perhaps at another point; None: this one.

        Returns:
          `y.shape + y.shape`, `(M, M)` for matrix views, with batch axes in front; `y.shape + y'.shape` of two.

        Raises:
          TypeError: `other` is no view.
          ValueError: the inputs differ in shape.
          MaterializationError: what does not fit.
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
        """The Euclidean norm of each row, without the matrix where that does not fit, or where it is sparse.

        Returns:
          `y.shape`, `(M,)` for a matrix view, with batch axes in front.
        """
        way, (rows, _) = self._sides("row_norms")
        return self._divided(norms(self, way).reshape(self._layout.lead + rows))

    def column_norms(self) -> jax.Array:
        """The Euclidean norm of each column, as `row_norms` of rows.

        Returns:
          `x.shape`, `(N,)` for a matrix view, with batch axes in front.
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
        # What rows of this view are in the block, and the shapes of its two sides.
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
        # Those of rows as (..., M), and whether they are between rows, (..., M, M).
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
