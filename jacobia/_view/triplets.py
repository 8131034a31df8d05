"""Entries of sparse derivatives for interior-point solvers: positions once, values at each point.

Knows patterns and views. Knows nothing of how nonzeros are computed.
Shapes: nnz entries of a pattern.
"""

import numpy as np

from jacobia._sparse.pattern import Pattern
from jacobia._view.jacobian import Jacobian


def triplets(pattern: Pattern, lower: bool = False) -> "Triplets":
    """The positions of the entries of a pattern, and a method for their values at each point.

    This is what IPOPT needs. For the Jacobian, `jacobianstructure` returns `(t.rows, t.cols)`, and `jacobian(x)`
    returns `t.values(jac(x))`. For the Hessian of the Lagrangian, `hessianstructure` and
    `hessian(x, multipliers, factor)` do the same with `lower=True`.

    Args:
      pattern: the pattern of the Jacobian or Hessian: `sparsity_pattern(f, x)` or `J.pattern`.
      lower: keep only the entries on and below the diagonal, for a symmetric matrix.

    Returns:
      A `Triplets`, with `rows`, `cols` and `values(J)`.

    Raises:
      TypeError: `pattern` is not a `Pattern`.
      ValueError: with `lower`, the pattern is not square.

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
    """The positions of entries: `rows` and `cols`, int32, shape `(nnz,)`, sorted by row and then by column.

    `values(J)` gives the values of these entries at a point.
    """

    def __init__(self, pattern: Pattern, lower: bool):
        self.pattern = pattern
        self.rows, self.cols = np.array(pattern.rows), np.array(pattern.cols)
        self._lower = lower
        self._known: tuple[Pattern, np.ndarray | None] | None = None  # the last pattern of a J, and our places in it

    def __repr__(self) -> str:
        return f"Triplets(shape={self.pattern.shape}, nnz={self.pattern.nnz}{', lower' if self._lower else ''})"

    def values(self, J: Jacobian) -> np.ndarray:
        """The values of the entries, float64, shape `(nnz,)`, in a new array.

        Args:
          J: a view of one matrix of the shape of the pattern. Entries that are not in the pattern of J are zero.

        Raises:
          TypeError: J is not a view, or is inside `jit`.
          ValueError: J has another shape or has samples, or its pattern has entries that are not in `rows` and `cols`.
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
        # The place of each entry among the nonzeros of J; nnz of J for an entry that J lacks. None: the patterns are
        # equal. Usually the pattern of J is the same object at all points, so the last answer is kept.
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
                f"{(int(lost[0] // n), int(lost[0] % n))}, which is not in the pattern. Make the triplets of J.pattern."
            )
        places = np.minimum(np.searchsorted(theirs, own), max(0, len(theirs) - 1))
        there = theirs[places] == own if len(theirs) else np.zeros(len(own), bool)
        return np.where(there, places, len(theirs))
