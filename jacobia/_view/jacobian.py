"""The view `Jacobian`: a Jacobian whose entries are computed when they are read. `LiveBlock` does the reading.

Knows layouts, and the public interface of a view. Knows nothing of how lines are computed.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer
from jacobia._operators.told import NAMES
from jacobia._plans.colors import coloring_of, transposed
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Outline
from jacobia._read.block import LiveBlock, weakly
from jacobia._read.considered import explain, outline_of
from jacobia._read.explain import Explanation
from jacobia._read.layout import Layout, layout_of
from jacobia._run.point import Linearized
from jacobia._sparse.coloring import Coloring
from jacobia._sparse.export import to_bcoo, to_bcsr, to_scipy
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import Stats
from jacobia._stream.blocks import blocks
from jacobia._stream.saved import Saved, SavedCSR
from jacobia._view.array import not_traced
from jacobia._view.as_lineax import Source, as_lineax
from jacobia._view.display import in_treescope, line, page
from jacobia._view.plot import plot
from jacobia._view.reductions import Reductions


class Jacobian(Reductions):
    """A lazy Jacobian of shape `y.shape + x.shape`, made by `jacobian(f)(x)`.

    `J[key]` takes every key that NumPy takes, computes the rows or columns it needs, remembers them, and returns a
    `jax.Array`. An operation on J that needs an array (`J + 1`, `numpy.asarray(J)`) uses the whole matrix. Views are
    immutable. A view is a registered pytree: it can enter and leave `jit`, `vmap` and `scan`, but its remembered rows
    and columns stay behind.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, *_: Any, **__: Any) -> None:
        name = type(self).__name__
        raise TypeError(
            f"{name}(...): expected no direct call, got one. Write {name.lower()}(f)(x), which makes views."
        )

    # Metadata: never computes

    @property
    def shape(self) -> tuple[int, ...]:
        """`y.shape + x.shape`, with batch axes first; of `J.matrix` and `J.T` accordingly. Never computes."""
        return self._layout.shape

    @property
    def dtype(self) -> Any:
        """`jnp.result_type(x, y)`. Never computes."""
        return self._layout.block.dtype

    @property
    def T(self) -> "Jacobian":
        """The transpose: all axes reversed, as in NumPy. A lazy view with the same remembered rows and columns."""
        turn = self._layout.turn
        if turn == "mT" and self._layout.lead:
            return super().T  # pyright: ignore[reportReturnType]
        return self._arranged(self._layout.matrix, "" if turn else "T")

    @property
    def mT(self) -> "Jacobian":
        """The last two axes swapped, as in NumPy. For views `(*batch, m, n)`, a lazy view on the same store."""
        layout = self._layout
        if layout.flat:
            return self.T
        if layout.turn == "T" or [len(p.shape) for p in layout.axes.parts[1:]] != [1, 1]:
            return super().mT  # pyright: ignore[reportReturnType]
        return self._arranged(layout.matrix, "" if layout.turn else "mT")

    @property
    def matrix(self) -> "Jacobian":
        """The same Jacobian as a matrix, `(M, N)` or `(*batch, M, N)`: a lazy view on the same store."""
        return self._arranged(True, self._layout.turn)

    def _arranged(self, matrix: bool, turn: str) -> "Jacobian":
        layout = layout_of(self._origin.blue, self._index, self._layout.lead, matrix, turn)
        return view(type(self), self._origin, self._index, layout)

    # Dtype and placement of results: metadata of the input

    @property
    def weak_type(self) -> bool:
        """Whether entries are weakly typed, as those of `jax.jacrev` are if x is (such as a Python number)."""
        return self._layout.weak

    @property
    def sharding(self) -> Any:
        """The sharding of the input leaf that the columns belong to."""
        return self._input("sharding").sharding

    @property
    def device(self) -> Any:
        """The device of the input leaf that the columns belong to, or its sharding over several devices."""
        return self._alive("device").device

    @property
    def committed(self) -> bool:
        """Whether the input leaf that the columns belong to is committed to its devices."""
        return self._input("committed").committed

    @property
    def is_fully_addressable(self) -> bool:
        """Whether this process can address all devices of the input leaf that the columns belong to."""
        return self._input("is_fully_addressable").is_fully_addressable

    @property
    def is_fully_replicated(self) -> bool:
        """Whether each device of the input leaf that the columns belong to holds all of that leaf."""
        return self._input("is_fully_replicated").is_fully_replicated

    def devices(self) -> set:
        """The devices of the input leaf that the columns belong to."""
        return self._alive("devices").devices()

    def _input(self, name: str) -> Any:
        leaf = self._origin.leaves[self._origin.blue.positions[self._layout.block.ins[0]]]
        if isinstance(leaf, Tracer) or not hasattr(leaf, name):
            raise not_traced(name)
        return leaf

    def _alive(self, name: str) -> Any:
        self._origin.check_alive()
        return self._input(name)

    def block_until_ready(self) -> "Jacobian":
        """Wait until everything that J remembers is computed, and return J. Starts no computation.

        To time a derivative, wait for the array that was read: `J[...].block_until_ready()`. Right after
        `J = jacobian(f)(x)`, nothing has been started, so there is nothing to wait for.
        """
        store = self._origin.stores.get(self._index)
        jax.block_until_ready([] if store is None else store.everything())
        return self

    # Displays: never compute

    def __repr__(self) -> str:
        return line(self)

    def _repr_html_(self) -> str:
        return page(self)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        return in_treescope(self, path)

    def plot(self, ax: Any = None, *, sample: int | None = None, compute: bool = False, **kwargs: Any) -> Any:
        """Plot the known entries of `J.matrix` as a heat map. Unknown entries are hatched.

        If there are more than 256 rows or columns, several entries share a cell, which shows the entry that is
        largest in magnitude.

        Args:
          ax: the matplotlib axes to draw on; None: the axes of a new figure.
          sample: the number of the sample to plot. Needed for a view with samples.
          compute: compute the missing entries first.
          **kwargs: passed to `ax.imshow`.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          TypeError: `ax` is not axes of matplotlib; or inside a transformation, where there are no numbers yet.
          ValueError: a view with samples, and no valid number of a sample; or a number for a view without samples.
        """
        return plot(self, ax, sample, compute, kwargs)

    @property
    def stats(self) -> Stats:
        """What has been computed for this view so far, counted together with its transposes and `J.matrix`."""
        return store_of(self._origin, self._index).stats()

    def clear(self) -> None:
        """Forget the remembered rows and columns. The counters of `J.stats` keep their values."""
        with self._origin.lock:
            store_of(self._origin, self._index).clear()

    # f(x)

    @property
    def value(self) -> Any:
        """f(x), from the same linearization: the output leaf that the rows belong to.

        With `ravel`, all outputs, flattened and concatenated.
        """
        y = [self._origin.value()[0][i] for i in self._layout.block.outs]
        if not self._origin.blue.ravel:
            return y[0]
        lead = len(self._layout.lead)
        return jnp.concatenate([a.reshape(a.shape[:lead] + (-1,)) for a in y], axis=-1)

    @property
    def aux(self) -> Any:
        """The auxiliary output of f, or None if there is none."""
        return self._origin.aux()

    # Nonzeros

    @property
    def pattern(self) -> Pattern:
        """Which entries of `J.matrix` can be nonzero, for every input of this shape.

        With samples, it is the pattern of one sample. It is read off the linear program, or given by `sparsity=`. No
        derivative is computed.
        """
        return self._pattern()

    @property
    def coloring(self) -> Coloring:
        """The coloring given by `sparsity=`; otherwise a coloring of `J.pattern`, found at the first access.

        It uses only directions that `f` is known to have. For the Hessian of a scalar `f`, "symmetric" is tried too.
        """
        given = coloring_of(self._origin, self._index).coloring
        return transposed(given) if self._layout.transposed else given

    def nonzeros(self) -> tuple[jax.Array, np.ndarray, np.ndarray]:
        """The entries of `J.matrix` that can be nonzero, all in one kernel call, in about the time of f.

        If `sparsity=` gives a pattern or a coloring, they are computed by one pass for each color instead. A given
        pattern is checked once for each program and coloring, at the first point: a product with random vectors shows
        entries that the pattern lacks. The check cannot see an entry that is zero at this point, or that is smaller
        than the cube root of the machine epsilon relative to the rest of its row. Under a trace there is no check,
        since nothing can be raised there.

        Returns:
          data, rows, cols: each of shape `(nnz,)`, in the order of `J.pattern`; with samples, the batch axes of data
            come first.

        Raises:
          ValueError: the given pattern lacks an entry, or f lacks a direction that the coloring needs.
          MaterializationError: an intermediate and its derivatives exceed the memory limit, in either direction.

        Example:
          >>> import jax.numpy as jnp
          >>> from jacobia import jacobian
          >>> data, rows, cols = jacobian(lambda x: x[1:] * x[:-1])(jnp.arange(3.0)).nonzeros()
          >>> data.tolist(), rows.tolist(), cols.tolist()
          ([1.0, 0.0, 2.0, 1.0], [0, 0, 1, 1], [0, 1, 1, 2])

        References:
          Griewank and Walther, "Evaluating Derivatives" (2008), chapter 10 on accumulation; here every intermediate
          holds its own nonzero derivatives, vectorized over its elements.
        """
        data, pattern = self._nonzeros()
        return data, pattern.rows, pattern.cols

    def to_bcoo(self) -> Any:
        """`J.matrix` as a `jax.experimental.sparse.BCOO`, without the dense matrix. Axes of samples are batch axes."""
        return to_bcoo(*self._undivided())

    def to_bcsr(self) -> Any:
        """`J.matrix` as a `jax.experimental.sparse.BCSR`, without the dense matrix. Axes of samples are batch axes."""
        return to_bcsr(*self._undivided())

    def _undivided(self) -> tuple[jax.Array, Pattern]:
        (data, pattern), spread = self._nonzeros(), self._origin.blue.spread
        return data if spread is None else spread.whole(data), pattern

    def to_scipy(self, format: str = "csr") -> Any:
        """`J.matrix` as a `scipy.sparse` array, without the dense matrix.

        Args:
          format: the format of `scipy.sparse`, such as "csr". 16-bit floats, which SciPy lacks, become float32.

        Raises:
          ValueError: an unknown format, or a view with samples.
          TypeError: inside a transformation, where there are no numbers yet.
        """
        if not self._origin.remembers:
            raise TypeError(
                "J.to_scipy(): expected a Jacobian outside of jit, grad and vmap, got one that is traced. Take "
                "J.to_bcsr() or J.nonzeros() inside, or return J and write J.to_scipy() outside."
            )
        return to_scipy(*self._nonzeros(), format)

    @property
    def plan(self) -> Outline:
        """What `J[...]` would do now: the kind of plan, the number of passes, and the reason."""
        return outline_of(self)

    def explain(self, key: Any = ...) -> Explanation:
        """Explain what `J[key]` would do now, and which other plans were considered. Nothing is computed.

        Args:
          key: a key that `J[key]` takes. "nonzeros", "diagonal", "trace", "gram", "outer", "row_norms" and
            "column_norms" stand for the methods of these names.

        Returns:
          An `Explanation`, which prints as a short table. Its attribute `memory` compiles the kernel, and gives the
          bytes that the read takes at its peak.
        """
        return self._told(key) if isinstance(key, str) and key in NAMES else explain(self, key)

    # Reading

    def __getitem__(self, key: Any) -> jax.Array:
        return weakly(self._item(key)) if self._layout.weak else self._item(key)

    def blocks(
        self, rows: Any = None, *, block: int | None = None, progress: bool | None = None, offload: str | None = None
    ) -> Iterator[tuple[slice, Any]]:
        """Iterate over blocks of J along its first axis, in order. Nothing is remembered.

        The next block is computed while the current block is used.

        Args:
          rows: a slice or a range of the first axis, with step 1; None: all of the axis.
          block: the length of a block along the first axis; None: about 16 MiB, or a sixteenth of `memory_limit` if
            that is less.
          progress: show a bar (tqdm); None: as `jacobia.config.progress` says.
          offload: "host": blocks are NumPy arrays, copied to the host while the device computes the next block.

        Yields:
          `(slice, array)`, where the array equals `J[slice]`.

        Raises:
          TypeError: inside `jit` or another transformation; or rows with gaps.
          ValueError: f lacks the direction that blocks of the first axis need.
          MaterializationError: one row does not fit under the memory limit.
        """
        return blocks(self, rows, block, progress, offload)

    def save(
        self, path: Any, *, dtype: Any = None, block: int | None = None, compression: str | None = None,
        progress: bool | None = None,
    ) -> Saved | SavedCSR:  # fmt: skip
        """Write J to a Zarr array (version 3), in blocks along its first axis. `jacobia.open(path)` opens it.

        Of a large sparse matrix only the nonzeros are written: the three arrays of the CSR format, in blocks of a fixed
        number of nonzeros.

        A save that was interrupted at any moment can be called again: it continues with the blocks that are not
        finished, and the final array is the same to the bit. Damaged blocks are named in a warning and computed again.

        Args:
          path: a folder that does not exist yet, or one that an earlier save of the same Jacobian has begun.
          dtype: the dtype of the array; None: that of J.
          block: the length of a block along the first axis, which is one chunk of the array; None: about 16 MiB.
          compression: None, "zstd", "gzip" or "blosc".
          progress: show a bar (tqdm); None: as `jacobia.config.progress` says.

        Returns:
          What `jacobia.open(path)` returns.

        Raises:
          ValueError: `path` holds something else: another program, point, dtype, shape or block.
          OSError: the disk is full; finished blocks stay valid.
          ImportError: zarr is not installed (extra `stream`).
        """
        from jacobia._stream.save import save  # with threads and checksums: only where something is saved

        return save(self, path, dtype, block, compression, progress)

    def as_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` of shape `(M, N)`, for solvers such as `gmres`, `lsqr` and `svds`.

        It computes `J @ v` and `J.conj().T @ u` without the matrix, and returns NumPy arrays.

        Raises:
          ValueError: the view is not a matrix `(M, N)`.
        """
        from scipy.sparse.linalg import LinearOperator

        if not self._layout.flat:
            raise ValueError(
                f"J.as_scipy(): expected a view of shape (M, N), got {self.shape}. Write J.matrix.as_scipy(); "
                "SciPy has no batches."
            )
        products = self.matvec, self.rmatvec, self.matmat, np.dtype(self.dtype), self.rmatmat
        return LinearOperator(self.shape, *products)  # pyright: ignore[reportCallIssue]

    def as_lineax(self, tags: Any = ()) -> Any:
        """A linear operator of lineax, for `lineax.linear_solve` and everything built on it.

        Products are those of `J.mv`. The operator answers the questions that lineax asks: the pattern tells whether J
        is diagonal, tridiagonal or triangular; a Hessian is symmetric; `lineax.diagonal` is `J.diagonal()`;
        `lineax.linearise` evaluates f once.

        Args:
          tags: tags of lineax to be trusted, such as `lineax.positive_semidefinite_tag`.

        Raises:
          ImportError: lineax is not installed (extra `lineax`).
          ValueError: a view with samples, or tags that the shape, the pattern or a check of symmetry contradicts.
        """
        return as_lineax(
            self._origin, Source(self._origin.blue, self._index, bool(self._layout.turn), self._block), tags
        )

    @classmethod
    def _block(cls, origin: Linearized, number: int) -> "Jacobian":
        """The block of this number, as a matrix."""
        return view(cls, origin, number, layout_of(origin.blue, number, origin.lead, True, ""))

    # Copies

    def __copy__(self) -> "Jacobian":
        return view(type(self), self._origin, self._index, self._layout)

    def __deepcopy__(self, memo: dict) -> "Jacobian":
        return view(type(self), self._origin.again(), self._index, self._layout)

    def __reduce__(self) -> Any:
        if self._origin.source is None:
            raise TypeError(
                "pickle(J): expected a view made by jacobian(f)(x), got one that came out of a transformation. "
                "Pickle numpy.asarray(J), or make the view outside."
            )
        if self._origin.blue.spread is not None:
            raise TypeError(
                "pickle(J): expected a view without mesh=, got a view over a mesh, whose devices exist in this process "
                "alone. Write J.save(path), or pickle numpy.asarray(J)."
            )
        layout = self._layout
        return _unpickle, (type(self), *self._origin.source, self._index, layout.matrix, layout.turn)


def _unpickle(kind: type, transform: Any, args: tuple, kwargs: dict, index: int, matrix: bool, turn: str) -> Jacobian:
    origin = transform.linearized(args, kwargs)
    return view(kind, origin, index, layout_of(origin.blue, index, origin.lead, matrix, turn))


_set_origin = LiveBlock.__dict__["_origin"].__set__
_set_index = LiveBlock.__dict__["_index"].__set__
_set_layout = LiveBlock.__dict__["_layout"].__set__


def view(kind: type, origin: Linearized, index: int, layout: Layout) -> Any:
    """A view of one block. Views are immutable: only this function sets their fields."""
    self = object.__new__(kind)
    _set_origin(self, origin)
    _set_index(self, index)
    _set_layout(self, layout)
    return self
