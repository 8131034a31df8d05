"""An array on disk that `J.save` wrote: read with NumPy keys, block by block, each checked against the journal.

Knows files, keys and checksums. Knows nothing of derivatives.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from jacobia._run.limits import check_result, free_bytes
from jacobia._store.gather import gather
from jacobia._store.keys import ROLES, Axes, Part, asked
from jacobia._stream.journal import Journal, checksum, sync_file, sync_folder


def zarr_of() -> Any:
    """The package zarr.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise ImportError("J.save, jacobia.open: expected the package zarr. pip install 'jacobia[stream]'.") from None
    return zarr


def checked_path(call: str, path: Any) -> Path:
    """The path of a folder as an absolute path, so that it stays valid when the working directory changes.

    Raises:
      TypeError: it is no path. ValueError: it is empty, or a URL.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{call}(path=...): expected a path of a folder, got {type(path).__name__}.")
    text = os.fspath(path)
    if not text or "://" in str(text):
        raise ValueError(f"{call}(path=...): expected a path of a folder of this machine, got {text!r}.")
    return Path(text).expanduser().absolute()


def open_saved(path: str | os.PathLike) -> "Saved | SavedCSR":
    """Open an array that `J.save(path)` wrote. Nothing is read yet.

    Returns:
      An array-like with `shape`, `dtype` and NumPy keys. A key reads the blocks that it needs, and checks each of them;
      `np.asarray` reads all of the array. A Jacobian that was saved as nonzeros has `to_scipy()` too.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: the folder was not written by `J.save`, or its journal is damaged.

    Reading raises ImportError where zarr is not installed (extra `stream`).
    """
    folder = checked_path("jacobia.open", path)
    if not folder.exists():
        raise FileNotFoundError(f"jacobia.open({str(path)!r}): expected a folder that J.save wrote, got nothing there.")
    return SavedCSR(folder) if (folder / "indptr").is_dir() else Saved.at(folder)


class Saved:
    """A Jacobian on disk, of shape `(L, ...)`, in blocks of K places along the first axis."""

    def __init__(self, folder: Path, journal: Journal):
        self.path, self._journal = folder, journal
        self.shape = tuple(journal.header["shape"])
        self.dtype = np.dtype(journal.header["dtype"])
        self._size = journal.header["block"]
        self._array: Any = None

    @staticmethod
    def at(folder: Path) -> "Saved":
        """The array in a folder.

        Raises:
          ValueError: there is none, or its journal is damaged.
        """
        journal = Journal.of(folder)
        if journal is None:
            raise ValueError(
                f"jacobia.open({str(folder)!r}): expected a folder that J.save wrote, got one without a journal. Save "
                "again, or open what is there with the package that wrote it."
            )
        return Saved(folder, journal)

    ndim = property(lambda self: len(self.shape), doc="How many axes there are.")
    size = property(lambda self: math.prod(self.shape), doc="How many entries.")
    nbytes = property(lambda self: self.size * self.dtype.itemsize, doc="Bytes of all of it.")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        done, every = len(self._journal.finished), self.num_blocks
        state = "complete" if done == every else f"{done} of {every} blocks"
        return f"Saved({str(self.path)!r}, shape={self.shape}, dtype={self.dtype}, {state})"

    @property
    def num_blocks(self) -> int:
        return -(-self.shape[0] // self._size)

    @property
    def missing(self) -> list[slice]:
        """The slices of the first axis whose blocks are not finished."""
        return [self.slice_of(k) for k in range(self.num_blocks) if k not in self._journal.finished]

    def slice_of(self, block: int) -> slice:
        """The slice of the first axis that a block holds."""
        return slice(block * self._size, min((block + 1) * self._size, self.shape[0]))

    def __getitem__(self, key: Any) -> np.ndarray:
        return _taken(self, key)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The places `numbers` of the first axis, as a matrix `(R, size / L)`. Only their blocks are read."""
        out = np.empty((len(numbers), math.prod(self.shape[1:])), self.dtype)
        for block in np.unique(numbers // self._size) if len(numbers) else ():
            part = self.slice_of(int(block))
            here = np.flatnonzero((numbers >= part.start) & (numbers < part.stop))
            out[here] = self.block(int(block)).reshape(part.stop - part.start, -1)[numbers[here] - part.start]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def block(self, block: int) -> np.ndarray:
        """One block, `(K, ...)`, with its bytes checked.

        Raises:
          ValueError: the block is not finished, or damaged.
        """
        part = self.slice_of(block)
        where = f"{self.path}: block {block}, [{part.start}:{part.stop}] of the first axis"
        if block not in self._journal.finished:
            raise ValueError(
                f"{where}: expected a finished block, got one that is missing. J.save(path) computes the rest."
            )
        found = self.read(block)
        if found is None or checksum(found) != self._journal.finished[block]:
            raise ValueError(
                f"{where}: expected the bytes that were written, got others: the file is damaged. J.save(path) "
                "computes the block again."
            )
        return found

    def read(self, block: int) -> np.ndarray | None:
        """The content of the file of a block, not checked; None: it cannot be read."""
        if self._array is None:
            zarr = zarr_of()
            try:
                # Only the format that J.save writes: codecs of the older one run what is in a file (pickle).
                self._array = zarr.open_array(str(self.path), mode="r", zarr_format=3)
            except Exception as error:  # a damaged zarr.json makes Zarr raise errors of many types
                raise ValueError(
                    f"{self.path}: expected zarr.json to describe an array, got a damaged or missing one "
                    f"({type(error).__name__}). J.save(path) writes it again."
                ) from error
        part = self.slice_of(block)
        try:
            return np.asarray(self._array[part])
        except Exception:  # damaged bytes make codecs raise errors of many types
            return None

    def write(self, part: slice, values: np.ndarray) -> None:
        """Write one block, and add it to the journal once it is on the disk."""
        block = part.start // self._size
        zarr = zarr_of()
        with zarr.config.set({"array.write_empty_chunks": True}):  # also blocks equal to the fill value
            zarr.open_array(str(self.path), mode="r+", zarr_format=3)[part] = values
        chunk = self.path.joinpath("c", str(block), *["0"] * (len(self.shape) - 1))
        if values.size:  # an empty block has no file
            sync_file(chunk)
            for folder in chunk.parents[: len(self.shape) + 1]:
                sync_folder(folder)
        self._journal.add(block, checksum(values))

    def damaged(self, among: range | None = None) -> list[int]:
        """The numbers of finished blocks whose files do not hold the bytes that were written. Reads these blocks."""
        blocks = range(self.num_blocks) if among is None else among
        finished = self._journal.finished
        return [k for k in blocks if k in finished and not self._is_whole(k, finished[k])]

    def _is_whole(self, block: int, crc: int) -> bool:
        found = self.read(block)
        return found is not None and checksum(found) == crc


class SavedCSR:
    """A sparse Jacobian on disk, `(M, N)`, as the three arrays of the CSR format."""

    def __init__(self, folder: Path):
        self.path = folder
        self._starts, self._columns, self._data = (Saved.at(folder / name) for name in ("indptr", "indices", "data"))
        self.shape = tuple(self._data._journal.header["matrix"])
        self.dtype, self.nnz = self._data.dtype, self._data.shape[0]

    ndim = property(lambda self: 2, doc="How many axes there are.")
    nbytes = property(lambda self: self.nnz * self.dtype.itemsize, doc="Bytes of the nonzeros.")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        state = "complete" if not self.missing else f"{len(self.missing)} blocks missing"
        return f"SavedCSR({str(self.path)!r}, shape={self.shape}, nnz={self.nnz}, dtype={self.dtype}, {state})"

    @property
    def missing(self) -> list[slice]:
        """The slices of the nonzeros whose blocks are not finished."""
        return self._data.missing

    def __getitem__(self, key: Any) -> np.ndarray:
        return _taken(self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows as a dense matrix, `(R, N)`; only the blocks that hold their nonzeros are read.

        Raises:
          MaterializationError: the dense rows do not fit in the free memory.
        """
        nbytes, limit = len(numbers) * self.shape[1] * self.dtype.itemsize, free_bytes(None)
        check_result(
            f"{self.path}: {len(numbers)} rows as a dense array", nbytes, limit, "Read fewer rows, or to_scipy()."
        )
        out = np.zeros((len(numbers), self.shape[1]), self.dtype)
        places = np.unique(np.concatenate([numbers, numbers + 1]))
        starts = self._starts.rows(places)[:, 0]
        first, last = (starts[np.searchsorted(places, numbers + k)] for k in (0, 1))
        lengths = last - first
        begins = np.cumsum(lengths) - lengths
        entries = np.arange(lengths.sum()) + np.repeat(first - begins, lengths)
        columns, data = (a.rows(entries)[:, 0] for a in (self._columns, self._data))
        out[np.repeat(np.arange(len(numbers)), lengths), columns] = data
        return out

    def to_scipy(self, format: str = "csr") -> Any:
        """The whole matrix as an array of `scipy.sparse`, in the given format."""
        from scipy.sparse import csr_array

        starts, columns, data = (a[...] for a in (self._starts, self._columns, self._data))
        return csr_array((data, columns, starts), shape=self.shape).asformat(format)


def _taken(saved: Any, key: Any) -> np.ndarray:
    # The result of a key, taken from the rows that it needs.
    axes = Axes([Part("batch", ()), Part("rows", saved.shape[:1]), Part("columns", saved.shape[1:])])
    what = asked(key, axes)
    rows = what.numbers["rows"]
    numbers = np.arange(saved.shape[0]) if rows is None else np.asarray(rows)
    held = {"rows": None if rows is None else numbers}
    return gather(np, saved.rows(numbers)[None], what.among(held), ROLES, what.choice.outer, what.choice.shape)
