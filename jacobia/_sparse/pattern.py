"""Patterns: which entries of a Jacobian can be nonzero.

Knows index arrays. Knows nothing of derivatives or of f.
Shapes: M outputs, N inputs, nnz entries.
"""

import html
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer
from jacobia._errors import MaterializationError
from jacobia._space import MOST
from jacobia._sparse import files
from jacobia._sparse.picture import axes_for, braille, fullness, is_dark, show
from jacobia._words import counted

_VERSION = 1
FORMATS = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Pattern:
    """Which entries of an (M, N) matrix can be nonzero. Immutable, and a pytree with the leaves `rows` and `cols`.

    `Pattern(rows, cols, shape)` is `Pattern.from_coo(rows, cols, shape)`.

    Attributes:
      shape: `(M, N)`.
      rows: int32, shape (nnz,), sorted by row and then by column, without duplicates. Read-only.
      cols: the same for columns.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    cols: np.ndarray

    def __init__(self, rows: Any, cols: Any, shape: tuple[int, int]):
        call = "Pattern.from_coo"
        shape = _checked_shape(call, shape)
        rows, cols = _sorted(_checked(call, "rows", rows, shape[0]), _checked(call, "cols", cols, shape[1]), shape)
        _check_count(len(rows))
        _fill(self, rows, cols, shape)

    @classmethod
    def from_coo(cls, rows: Any, cols: Any, shape: tuple[int, int]) -> "Pattern":
        """From row and column numbers, shape (nnz,), integers, in any order; duplicates are one entry.

        Raises:
          TypeError: numbers that are no integers.
          ValueError: `rows` and `cols` of different lengths, numbers out of range, or an invalid shape.
          MaterializationError: more than 2**31 - 1 entries.
        """
        return cls(rows, cols, shape)

    @classmethod
    def from_dense(cls, array: Any) -> "Pattern":
        """From a matrix, shape (M, N), booleans or numbers: where it is not zero; NaN counts as nonzero."""
        array = np.asarray(array)
        if array.ndim != 2:
            raise ValueError(
                f"Pattern.from_dense(array=...): expected a matrix, got shape {array.shape}. "
                "Reshape it to (outputs, inputs)."
            )
        rows, cols = np.nonzero(array)
        return made_of(rows, cols, _checked_shape("Pattern.from_dense", array.shape))

    @classmethod
    def from_scipy(cls, matrix: Any) -> "Pattern":
        """From a `scipy.sparse` matrix or array: the entries that are stored, zeros too."""
        from scipy.sparse import issparse

        if not issparse(matrix):
            raise TypeError(
                f"Pattern.from_scipy(matrix=...): expected a scipy.sparse matrix, got {type(matrix).__name__}. "
                "Pattern.from_dense takes dense ones, Pattern.from_bcoo those of JAX."
            )
        if matrix.ndim != 2:
            raise ValueError(
                f"Pattern.from_scipy(matrix=...): expected 2 axes, got shape {matrix.shape}. Reshape it to 2 axes."
            )
        coo = matrix.tocoo()
        return cls(coo.row, coo.col, coo.shape)

    @classmethod
    def from_bcoo(cls, bcoo: Any) -> "Pattern":
        """From a `jax.experimental.sparse.BCOO` matrix: the entries that are stored, zeros too, padding left out."""
        from jax.experimental.sparse import BCOO

        if not isinstance(bcoo, BCOO):
            raise TypeError(
                f"Pattern.from_bcoo(bcoo=...): expected a jax.experimental.sparse.BCOO, got {type(bcoo).__name__}. "
                "Pattern.from_dense and Pattern.from_scipy take other matrices."
            )
        if bcoo.n_sparse != 2 or bcoo.n_batch or bcoo.n_dense:
            raise ValueError(
                f"Pattern.from_bcoo(bcoo=...): expected 2 sparse axes, got shape {bcoo.shape} with {bcoo.n_batch} "
                f"batch and {bcoo.n_dense} dense axes. BCOO.fromdense(bcoo.todense()) makes all axes sparse."
            )
        indices = np.asarray(bcoo.indices)
        indices = indices[np.all(indices < np.array(bcoo.shape), axis=1)]  # out of range: padding
        return cls(indices[:, 0], indices[:, 1], (bcoo.shape[0], bcoo.shape[1]))

    @property
    def nnz(self) -> int:
        """How many entries can be nonzero."""
        return self.rows.shape[0]

    @property
    def density(self) -> float:
        """The fraction of entries that can be nonzero, between 0 and 1."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    @cached_property
    def indptr(self) -> np.ndarray:
        """Row `i` is entries `indptr[i]` to `indptr[i + 1]`: int64, shape (M + 1,)."""
        return _fixed(np.concatenate([[0], np.cumsum(np.bincount(self.rows, minlength=self.shape[0]))]), np.int64)

    @property
    def T(self) -> "Pattern":
        """The pattern of the transpose."""
        order = self.by_column
        return made_of(np.asarray(self.cols)[order], np.asarray(self.rows)[order], (self.shape[1], self.shape[0]))

    @cached_property
    def by_column(self) -> np.ndarray:
        """The entry numbers in the order of the transpose, by column and then by row: int32, shape (nnz,)."""
        from scipy.sparse import csr_array

        # Conversion counts instead of comparing: linear in nnz.
        numbers = np.arange(self.nnz, dtype=np.int32)
        return _fixed(csr_array((numbers, np.array(self.cols), self.indptr.copy()), shape=self.shape).tocsc().data)

    def lower(self) -> "Pattern":
        """The entries on and below the diagonal: what solvers take of a symmetric matrix.

        Raises:
          ValueError: it is not square.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(
                f"Pattern.lower(): expected a square pattern, got shape {self.shape}. It is for symmetric matrices, as "
                "Hessians are."
            )
        rows, cols = np.asarray(self.rows), np.asarray(self.cols)
        keep = rows >= cols
        return made_of(rows[keep], cols[keep], self.shape)

    def todense(self) -> np.ndarray:
        """Booleans, shape (M, N)."""
        out = np.zeros(self.shape, bool)
        out[np.asarray(self.rows), np.asarray(self.cols)] = True
        return out

    def to_scipy(self, format: str = "csr") -> Any:
        """A `scipy.sparse` array of this format, all True."""
        from scipy.sparse import csr_array

        if format not in FORMATS:
            raise ValueError(
                f"Pattern.to_scipy(format={format!r}): expected one of {', '.join(FORMATS)}, got {format!r}. "
                "The default is 'csr'."
            )
        ones = np.ones(self.nnz, bool)
        # Copies: SciPy sorts and merges in place.
        return csr_array((ones, np.array(self.cols), self.indptr.copy()), shape=self.shape).asformat(format)

    def to_bcoo(self) -> Any:
        """A `jax.experimental.sparse.BCOO` matrix of ones, in JAX's default float type."""
        from jax.experimental.sparse import BCOO

        indices = jnp.stack([jnp.asarray(self.rows), jnp.asarray(self.cols)], axis=1)
        return BCOO((jnp.ones(self.nnz), indices), shape=self.shape, indices_sorted=True, unique_indices=True)

    def save(self, path: str | os.PathLike) -> None:
        """Write it to a file, for `Pattern.load`."""
        arrays = {"rows": np.asarray(self.rows), "cols": np.asarray(self.cols), "shape": np.array(self.shape)}
        files.write(path, "pattern", _VERSION, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Pattern":
        """Read what `save` wrote.

        Raises:
          OSError: there is no such file.
          ValueError: the file is of another kind, newer than this version of the package, or damaged.
        """
        arrays = files.read(path, "pattern", _VERSION, ("rows", "cols", "shape"))
        try:
            pattern = cls(arrays["rows"], arrays["cols"], tuple(arrays["shape"]))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Pattern.load(path={os.fspath(path)!r}): expected a pattern, got a damaged one ({error}). "
                "Write it again with Pattern.save."
            ) from error
        return pattern

    def spy(self, ax: Any = None, **kwargs: Any) -> Any:
        """Plot it; large patterns in cells, the darker the fuller.

        Args:
          ax: the matplotlib axes to draw on; by default those of a new figure.
          **kwargs: for `ax.imshow`.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          TypeError: `ax` is not axes of matplotlib.
        """
        ax = axes_for(ax, "Pattern.spy(ax=...)")
        filled = fullness(self.rows, self.cols, self.shape)
        # A cell with one entry is seen beside a full one.
        shades = np.where(filled > 0, 0.3 + 0.7 * filled, 0.0)
        settings = {"cmap": "Greys_r" if is_dark(ax) else "Greys", "vmin": 0, "vmax": 1} | kwargs
        show(ax, shades, self.shape, **settings)
        ax.set_xlabel("{} of {:,} × {:,}".format(counted(self.nnz, "entries", ","), *self.shape))
        return ax

    def __repr__(self) -> str:
        if self._is_traced():
            return f"Pattern(shape={self.shape}, traced)"
        return f"Pattern(shape={self.shape}, nnz={self.nnz}, density={self.density:.3g})"

    def __str__(self) -> str:
        if self._is_traced():
            return repr(self)
        width, height = shutil.get_terminal_size()
        return "\n".join([repr(self), *braille(self.rows, self.cols, self.shape, height - 3, width - 1)])

    def _repr_html_(self) -> str:
        head, *picture = str(self).split("\n")
        dots = f'<pre style="line-height:1.15;background:none">{"<br>".join(picture)}</pre>' if picture else ""
        return f"<div><code>{html.escape(head)}</code>{dots}</div>"

    def _is_traced(self) -> bool:
        # While JAX looks at a tree, anything may be in the place of an array.
        return isinstance(self.rows, Tracer) or not isinstance(self.rows, (np.ndarray, jax.Array))

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Pattern):
            return self is other
        same = self.shape == other.shape and self.rows.shape == other.rows.shape
        return same and np.array_equal(self.rows, other.rows) and np.array_equal(self.cols, other.cols)

    @cached_property
    def _digest(self) -> int:
        return digest(repr(self.shape), self.rows, self.cols)

    def __hash__(self) -> int:
        return self._digest

    def __reduce__(self) -> tuple:
        return made_of, (self.rows, self.cols, self.shape)

    def tree_flatten(self) -> tuple[tuple, tuple[int, int]]:
        return (self.rows, self.cols), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple[int, int], leaves: Any) -> "Pattern":
        rows, cols = leaves  # JAX may put any objects in place of arrays
        return _fill(object.__new__(cls), rows, cols, shape)


def made_of(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Pattern:
    """A pattern of arrays that are valid, sorted, and not shared with a caller.

    Raises:
      MaterializationError: there are more than 2**31 - 1 entries.
    """
    _check_count(len(rows))
    return _fill(object.__new__(Pattern), _fixed(rows), _fixed(cols), shape)


def _fill(pattern: Pattern, rows: Any, cols: Any, shape: tuple[int, int]) -> Pattern:
    for name, value in (("shape", shape), ("rows", rows), ("cols", cols)):
        object.__setattr__(pattern, name, value)
    return pattern


def _check_count(nnz: int) -> None:
    if nnz > MOST:
        raise MaterializationError(
            f"Pattern: expected at most {MOST} entries, the limit of 32-bit numbers, got {nnz}. "
            "Take the patterns of some rows at a time."
        )


def _fixed(ids: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
    ids = np.asarray(ids, dtype)  # not a caller's array: checked numbers have 64 bits, so this copies
    ids.setflags(write=False)
    return ids


def _sorted(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    if rows.shape != cols.shape:
        raise ValueError(
            f"Pattern.from_coo(rows=..., cols=...): expected arrays of one length, got {rows.size} and {cols.size}. "
            "Each pair is one entry."
        )
    key = rows.astype(np.int64) * shape[1] + cols
    if not np.all(key[1:] > key[:-1]):
        key.sort()
        key = key[np.concatenate([[True], key[1:] != key[:-1]])]
        rows = key // shape[1]
        cols = key - rows * shape[1]
    return _fixed(rows), _fixed(cols)


def _checked(call: str, name: str, ids: Any, size: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{call}({name}=...): expected a 1-D array, got shape {ids.shape}. Flatten it with .ravel().")
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(
            f"{call}({name}=...): expected integers, got {ids.dtype}. Pattern.from_dense takes a matrix of booleans."
        )
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"{call}({name}=...): expected numbers from 0 to {size - 1}, got {wrong}. Is the shape (outputs, inputs)?"
        )
    return ids.astype(np.int64, copy=False)


def _checked_shape(call: str, shape: Any) -> tuple[int, int]:
    try:
        m, n = (int(k.__index__()) for k in shape)
    except (AttributeError, TypeError, ValueError):
        m = n = -1
    if not (0 <= m <= MOST and 0 <= n <= MOST):
        raise ValueError(
            f"{call}(shape=...): expected two lengths from 0 to {MOST}, got {shape!r}. It is (outputs, inputs)."
        )
    return m, n


def digest(head: str, *arrays: np.ndarray) -> int:
    """A number of the content, which is the same in every process, so that it may be pickled."""
    from hashlib import blake2b  # loads OpenSSL, which takes longer than the rest of this file

    made = blake2b(head.encode(), digest_size=7)
    for array in arrays:
        made.update(np.ascontiguousarray(array).data)
    return int.from_bytes(made.digest())
