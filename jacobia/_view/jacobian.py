"""The view `Jacobian`: a Jacobian that is computed where it is read. Reading is `LiveBlock`'s.

Knows layouts, and what may be asked for. Knows nothing of how lines are computed.
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
from jacobia._stream.save import save
from jacobia._stream.saved import Saved, SavedCSR
from jacobia._view.array import not_traced
from jacobia._view.as_lineax import Source, as_lineax
from jacobia._view.display import in_treescope, line, page
from jacobia._view.plot import plot
from jacobia._view.reductions import Reductions


class Jacobian(Reductions):
    """A lazy Jacobian of shape `y.shape + x.shape`, made by `jacobian(f)(x)`.

    Indexing with any key that NumPy takes computes the rows or columns asked for, remembers them, and gives a
    `jax.Array`. Used as an array, it is the whole matrix. Immutable. A registered pytree: it goes into and
    out of `jit`, `vmap` and `scan`; what it remembers stays behind.
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
        return self._layout.shape

    @property
    def dtype(self) -> Any:
        return self._layout.block.dtype

    @property
    def T(self) -> "Jacobian":
        """The transpose (all axes reversed, as in NumPy): lazy, on the same store."""
        turn = self._layout.turn
        if turn == "mT" and self._layout.lead:
            return super().T  # pyright: ignore[reportReturnType]
        return self._arranged(self._layout.matrix, "" if turn else "T")

    @property
    def mT(self) -> "Jacobian":
        """The last two axes swapped, as in NumPy: lazy, on the same store for views `(*batch, m, n)`."""
        layout = self._layout
        if layout.flat:
            return self.T
        if layout.turn == "T" or [len(p.shape) for p in layout.axes.parts[1:]] != [1, 1]:
            return super().mT  # pyright: ignore[reportReturnType]
        return self._arranged(layout.matrix, "" if layout.turn else "mT")

    @property
    def matrix(self) -> "Jacobian":
        """The 2-D view `(M, N)` on the same store; `(*batch, M, N)` where the view is batched."""
        return self._arranged(True, self._layout.turn)

    def _arranged(self, matrix: bool, turn: str) -> "Jacobian":
        layout = layout_of(self._origin.blue, self._index, self._layout.lead, matrix, turn)
        return view(type(self), self._origin, self._index, layout)

    # Where results live: metadata of the input

    @property
    def weak_type(self) -> bool:
        """Whether entries are weakly typed, as those of `jax.jacrev` are: where x is, as a Python number."""
        return self._layout.weak

    @property
    def sharding(self) -> Any:
        """The sharding of the input that the columns belong to."""
        return self._input("sharding").sharding

    @property
    def device(self) -> Any:
        """The device of that input, or its sharding over several."""
        return self._alive("device").device

    @property
    def committed(self) -> bool:
        """Whether that input is bound to its devices."""
        return self._input("committed").committed

    @property
    def is_fully_addressable(self) -> bool:
        """Whether this process can address all devices of that input."""
        return self._input("is_fully_addressable").is_fully_addressable

    @property
    def is_fully_replicated(self) -> bool:
        """Whether each of its devices holds all of that input."""
        return self._input("is_fully_replicated").is_fully_replicated

    def devices(self) -> set:
        """The devices of the input that the columns belong to."""
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
        """Wait for what is remembered; what is not, is not computed.

        To time a derivative, read it and wait for what comes: `J[...].block_until_ready()`. Right after
        `J = jacobian(f)(x)` there is nothing to wait for.
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
        """Plot the entries of `J.matrix` that are known as a heat map; what is not known is hatched.

        Above 2,000 rows or columns, cells of several entries, each with the one that is largest in magnitude.

        Args:
          ax: the matplotlib axes to draw on; by default those of a new figure.
          sample: of a view with samples, the number of the one to plot.
          compute: compute what is missing first.
          **kwargs: for `ax.imshow`.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          ValueError: a view with samples, and no number of one.
          TypeError: inside a transformation, where there are no numbers yet.
        """
        return plot(self, ax, sample, compute, kwargs)

    @property
    def stats(self) -> Stats:
        """What has really been done for this view (and its transpose and matrix)."""
        return store_of(self._origin, self._index).stats()

    def clear(self) -> None:
        """Forget the remembered rows and columns. Counters go on."""
        with self._origin.lock:
            store_of(self._origin, self._index).clear()

    # f(x)

    @property
    def value(self) -> Any:
        """f(x), from the same linearization: the output leaf that the rows belong to (flattened with `ravel`)."""
        y = [self._origin.value()[0][i] for i in self._layout.block.outs]
        if not self._origin.blue.ravel:
            return y[0]
        lead = len(self._layout.lead)
        return jnp.concatenate([a.reshape(a.shape[:lead] + (-1,)) for a in y], axis=-1)

    @property
    def aux(self) -> Any:
        """The auxiliary output of f, or None."""
        return self._origin.aux()

    # Nonzeros

    @property
    def pattern(self) -> Pattern:
        """Which entries of `J.matrix` can be nonzero, for every input of this shape; of one sample, with samples.

        Read off the linear program, or given by `sparsity=`: no derivative is computed.
        """
        return self._pattern()

    @property
    def coloring(self) -> Coloring:
        """The coloring given by `sparsity=`, or one of `J.pattern`, found when it is first asked for.

        It takes directions that `f` is known to have. For the Hessian of a scalar "symmetric" is tried too.
        """
        given = coloring_of(self._origin, self._index).coloring
        return transposed(given) if self._layout.transposed else given

    def nonzeros(self) -> tuple[jax.Array, np.ndarray, np.ndarray]:
        """The entries of `J.matrix` that can be nonzero, all at once, in about the time that f takes.

        With a pattern or a coloring given by `sparsity=`, by one pass for each color. What is missing in the pattern
        is looked for once for a program and a coloring, at the first point, by a product with random vectors; not
        under a trace, where nothing can be raised. An entry that is zero there is not missed, nor one that is less
        than the cube root of the machine epsilon beside the rest of its row.

        Returns:
          data, rows, cols: shape (nnz,), in the order of `J.pattern`; data has the axes of samples in front.

        Raises:
          ValueError: a pattern that was given lacks an entry, or f lacks the direction that a coloring takes.
          MaterializationError: an intermediate with its derivatives does not fit, walked from either side.

        References:
          Griewank and Walther, "Evaluating Derivatives" (2008), chapter 10 on accumulation; here every intermediate
          holds its own nonzero derivatives, vectorized over its elements.
        """
        data, pattern = self._nonzeros()
        return data, pattern.rows, pattern.cols

    def to_bcoo(self) -> Any:
        """`J.matrix` as a `jax.experimental.sparse.BCOO`; axes of samples are batch axes."""
        return to_bcoo(*self._undivided())

    def to_bcsr(self) -> Any:
        """`J.matrix` as a `jax.experimental.sparse.BCSR`; axes of samples are batch axes."""
        return to_bcsr(*self._undivided())

    def _undivided(self) -> tuple[jax.Array, Pattern]:
        (data, pattern), spread = self._nonzeros(), self._origin.blue.spread
        return data if spread is None else spread.whole(data), pattern

    def to_scipy(self, format: str = "csr") -> Any:
        """`J.matrix` as a `scipy.sparse` array of this format; floats of 16 bits, which SciPy lacks, as float32.

        Raises:
          ValueError: a format that SciPy has not, or more than one sample.
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
        """What `J[...]` would do now: the way, how many passes, and why."""
        return outline_of(self)

    def explain(self, key: Any = ...) -> Explanation:
        """What `J[key]` would do now, and what else it could do: an object that prints as a short table.

        `J.explain("nonzeros")`, "diagonal", "trace", "gram", "outer", "row_norms" and "column_norms" tell the same of
        what these give. Nothing is computed. `J.explain(key).memory` compiles the kernel, and tells what it takes.
        """
        return self._told(key) if isinstance(key, str) and key in NAMES else explain(self, key)

    # Reading

    def __getitem__(self, key: Any) -> jax.Array:
        return weakly(self._item(key)) if self._layout.weak else self._item(key)

    def blocks(
        self, rows: Any = None, *, block: int | None = None, progress: bool | None = None, offload: str | None = None
    ) -> Iterator[tuple[slice, Any]]:
        """Blocks along the first axis, in order; the next one is computed while one is used. Nothing is remembered.

        Args:
          rows: a slice or a range of the first axis without gaps; None: all of it.
          block: how many places of the first axis a block has; None: some 16 MiB, or a sixteenth of `memory_limit`.
          progress: show a bar (tqdm); None: as `jacobia.config.progress` says.
          offload: "host": blocks are arrays of NumPy, copied while the device computes the next one.

        Yields:
          `(slice, array)`, with an array as `J[slice]` is.

        Raises:
          TypeError: inside of `jit`; rows with gaps.
          ValueError: an f without the pullback that a block of rows takes.
          MaterializationError: one row does not fit.
        """
        return blocks(self, rows, block, progress, offload)

    def save(
        self, path: Any, *, dtype: Any = None, block: int | None = None, compression: str | None = None,
        progress: bool | None = None,
    ) -> Saved | SavedCSR:  # fmt: skip
        """Write all of J to a Zarr array (version 3) in blocks along its first axis; `jacobia.open(path)` reads it.

        Of a large sparse matrix, its nonzeros: three arrays, as in the format CSR, in blocks of so many nonzeros.

        A save that was cut off, at whatever moment, goes on where it was: finished blocks are not computed again, and
        the array is the same to the bit. Damaged blocks are named in a warning, and computed again.

        Args:
          path: of a folder that is not there, or that a save of the same Jacobian has begun.
          dtype: of the array; None: that of J.
          block: how many places of the first axis a block has, one chunk of the array; None: some 16 MiB.
          compression: None, "zstd", "gzip" or "blosc".
          progress: show a bar (tqdm); None: as `jacobia.config.progress` says.

        Returns:
          What `jacobia.open(path)` gives.

        Raises:
          ValueError: something else is at `path`: another program, point, dtype, shape or block.
          OSError: a full disk; finished blocks stay valid.
          ImportError: zarr is not installed (extra `stream`).
        """
        return save(self, path, dtype, block, compression, progress)

    def as_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` of the same shape, for `gmres`, `lsqr`, `svds` and their like.

        Products are those of `J @ v` and `J.conj().T @ u`, without the matrix; NumPy arrays come out.

        Raises:
          ValueError: a view that is no single matrix.
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
        """A linear operator of lineax, for `lineax.linear_solve` and what is built on it.

        Products are those of `J.mv`. Its questions are answered: whether J is diagonal, tridiagonal or triangular is
        seen by its pattern, a Hessian is symmetric, `diagonal` is that of J, `linearise` evaluates f once.

        Args:
          tags: those of lineax that are to be believed, such as `lineax.positive_semidefinite_tag`.

        Raises:
          ImportError: lineax is not installed (extra `lineax`).
          ValueError: a view with samples, or tags that its shape or its pattern contradicts.
        """
        return as_lineax(
            self._origin, Source(self._origin.blue, self._index, bool(self._layout.turn), self._block), tags
        )

    @classmethod
    def _block(cls, origin: Linearized, number: int) -> "Jacobian":
        """A block as a matrix."""
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
                "pickle(J): expected a view without mesh=, got one over devices, which are of this process. Write "
                "J.save(path), or pickle numpy.asarray(J)."
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
    """A view of one block. Views are immutable: their fields are set here and nowhere else."""
    self = object.__new__(kind)
    _set_origin(self, origin)
    _set_index(self, index)
    _set_layout(self, layout)
    return self
