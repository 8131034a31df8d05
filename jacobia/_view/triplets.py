"""Entries of sparse derivatives as interior-point solvers take them: where they are once, and their values each time.

Knows patterns and views. Knows nothing of how nonzeros are computed.
Shapes: nnz entries of a pattern.
"""

import numpy as np

from jacobia._sparse.pattern import Pattern
from jacobia._view.jacobian import Jacobian


def triplets(pattern: Pattern, lower: bool = False) -> "Triplets":
    """Where the entries of a pattern are, and what gives their values at each point.

    IPOPT asks for both: `jacobianstructure` is `(t.rows, t.cols)`, and `jacobian(x)` is `t.values(jac(x))`; with
    `lower=True`, `hessianstructure` and `hessian(x, multipliers, factor)` likewise, of the Lagrangian.

    Args:
      pattern: of the Jacobian, or of the Hessian: `sparsity_pattern(f, x)`, or `J.pattern`.
      lower: take the entries on and below the diagonal alone, of a symmetric matrix.

    Raises:
      TypeError: no pattern.
      ValueError: with `lower`, one that is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import jacobian, sparsity_pattern
      >>> t = triplets(sparsity_pattern(jnp.sin, jnp.zeros(3)))
      >>> t.rows.tolist(), t.cols.tolist(), t.values(jacobian(jnp.sin)(jnp.zeros(3))).tolist()
      ([0, 1, 2], [0, 1, 2], [1.0, 1.0, 1.0])
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(
            f"triplets(pattern=...): expected a Pattern, got {type(pattern).__name__}. Take sparsity_pattern(f, x) or "
            "J.pattern."
        )
    return Triplets(pattern.lower() if lower else pattern, lower)


class Triplets:
    """`rows` and `cols` of entries, int32 (nnz,), sorted by row and then by column; `values(J)` at each point."""

    def __init__(self, pattern: Pattern, lower: bool):
        self.pattern = pattern
        self.rows, self.cols = np.array(pattern.rows), np.array(pattern.cols)
        self._lower = lower
        self._known: tuple[Pattern, np.ndarray | None] | None = None  # the pattern of J, and where these entries are

    def __repr__(self) -> str:
        return f"Triplets(shape={self.pattern.shape}, nnz={self.pattern.nnz}{', lower' if self._lower else ''})"

    def values(self, J: Jacobian) -> np.ndarray:
        """The values of the entries, float64 (nnz,), an array of its own.

        Args:
          J: a view of one matrix of this shape. Entries that its pattern lacks are zero.

        Raises:
          TypeError: no view, or one inside of `jit`.
          ValueError: another shape, samples, or entries of J that are not among these.
        """
        if not isinstance(J, Jacobian):
            raise TypeError(f"Triplets.values(J=...): expected a view, got {type(J).__name__}. Pass jacobian(f)(x).")
        if J._layout.lead or J.matrix.shape != self.pattern.shape:
            raise ValueError(
                f"Triplets.values(J=...): expected one matrix of shape {self.pattern.shape}, got shape {J.shape}. "
                "The pattern is that of J.matrix."
            )
        if not J._origin.remembers:
            raise TypeError(
                "Triplets.values(J): expected a view outside of jit and other transformations, got one inside. Take "
                "J.nonzeros() there."
            )
        data, pattern = J.matrix._nonzeros()
        found, data = self._places(pattern), np.asarray(data, np.float64)
        return data.copy() if found is None else np.append(data, 0.0)[found]

    def _places(self, pattern: Pattern) -> np.ndarray | None:
        # Where the entries are among those of J, which has the same ones at all points as a rule; behind them: nowhere.
        if self._known is None or self._known[0] is not pattern:
            self._known = pattern, None if pattern == self.pattern else self._found(pattern)
        return self._known[1]

    def _found(self, pattern: Pattern) -> np.ndarray:
        n = self.pattern.shape[1]
        own = np.asarray(self.rows, np.int64) * n + self.cols
        theirs = np.asarray(pattern.rows, np.int64) * n + np.asarray(pattern.cols)
        needed = theirs[np.asarray(pattern.rows) >= np.asarray(pattern.cols)] if self._lower else theirs
        lost = np.setdiff1d(needed, own, assume_unique=True)
        if len(lost):
            raise ValueError(
                "Triplets.values(J=...): expected a J whose entries are among those of the pattern, got entry "
                f"{(int(lost[0] // n), int(lost[0] % n))} besides. Make the triplets of J.pattern."
            )
        places = np.minimum(np.searchsorted(theirs, own), max(0, len(theirs) - 1))
        there = theirs[places] == own if len(theirs) else np.zeros(len(own), bool)
        return np.where(there, places, len(theirs))
