"""A view on disk: a Zarr array whose chunks are blocks of the view, and a journal of the finished blocks.

A block is finished once its file is on the disk and the journal names it. A save that was cut off and is called again
computes the other blocks only.
Knows views, files and journals. Knows nothing of how blocks are computed.
"""

import errno
import hashlib
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._operators.lines import has_few_nonzeros
from jacobia._progress import check_progress, shown
from jacobia._read.block import LiveBlock
from jacobia._run.blueprint import Blueprint
from jacobia._run.kernels import derivatives, expansion
from jacobia._stream.blocks import block_size, check, computed, rows_of
from jacobia._stream.journal import Journal, locked, sync_file
from jacobia._stream.processes import Share, at_home, share_of
from jacobia._stream.saved import Saved, SavedCSR, checked_path, open_saved, zarr_of

# The number of nonzeros in a block.
_MANY = 1 << 21

_CODECS = {"zstd": "ZstdCodec", "gzip": "GzipCodec", "blosc": "BloscCodec"}


# A function from the slices of missing blocks to pairs of a slice and its values.
_Blocks = Callable[[list[slice]], Iterator[tuple[slice, Any]]]


def save(
    J: LiveBlock, path: Any, dtype: Any, block: Any, compression: str | None, progress: bool | None
) -> Saved | SavedCSR:
    """Write the blocks of a view that are missing at `path`; of a large sparse view, the nonzeros alone.

    Raises:
      ValueError: another view, or something else, is at `path`; or an unknown compression.
      TypeError: a dtype that cannot hold J, or that Zarr does not have.
      TimeoutError: another process of the mesh has stopped writing.
      OSError: the disk is full.
      ImportError: zarr is not installed.
    """
    zarr_of()  # raises before anything is written
    check_progress("J.save", progress)
    J._origin.check_alive()
    sparse = _is_sparse(J)
    check(J, "save", sparse)
    if compression is not None and compression not in _CODECS:
        known = ", ".join(map(repr, _CODECS))
        raise ValueError(f"J.save(compression=...): expected None or one of {known}, got {compression!r}.")
    folder, own, share = checked_path("J.save", path), _dtype(J, dtype), share_of(J, "save")
    header = _header(J, own, compression)
    with locked(folder, share.rank):
        if (folder / ("zarr.json" if sparse else "indptr")).exists():
            kind, other = ("a sparse", "a dense") if sparse else ("a dense", "a sparse")
            raise ValueError(
                f"J.save(path={str(folder)!r}): expected the Jacobian that was saved at this path, to continue it, got "
                f"{kind} one in place of {other} one. Choose another path, or remove the folder."
            )
        if sparse:
            _save_nonzeros(J, folder, header, share, block, progress)
        else:
            home = at_home(J, share, "save")
            size = _size(folder, block) or block_size(J, "save", block)
            blocks = lambda parts: computed(J, home, parts, True)  # noqa: E731
            _save_array(folder, header | {"block": size}, share, blocks, progress)
    return open_saved(folder)


def _is_sparse(J: LiveBlock) -> bool:
    return J._layout.flat and J._origin.remembers and has_few_nonzeros(J)


def _size(folder: Path, given: Any) -> int | None:
    # The block size of the array on disk, if it was begun. The default depends on the memory that was free then.
    found = Journal.of(folder) if given is None and folder.is_dir() else None
    return None if found is None else found.header.get("block")


def _save_nonzeros(
    J: LiveBlock, folder: Path, header: dict[str, Any], share: Share, block: Any, progress: bool | None
) -> None:
    # Three arrays, those of SciPy's CSR format. All nonzeros come from one kernel.
    pattern = J._pattern()
    size = _size(folder / "data", block) or (_MANY if block is None else block_size(J, "save", block))
    starts = np.concatenate([[0], np.cumsum(np.bincount(pattern.rows, minlength=pattern.shape[0]))])
    parts = {
        "indptr": cache(lambda: starts.astype(np.int64)),
        "indices": cache(lambda: pattern.cols.astype(np.int32)),
        "data": cache(lambda: np.asarray(J._whole_nonzeros()[0])),  # computed only if a block is missing
    }
    for name, whole in parts.items():
        length = pattern.nnz if name != "indptr" else len(starts)
        dtype = header["dtype"] if name == "data" else whole().dtype.str
        own = header | {"shape": [length], "dtype": dtype, "block": size, "matrix": list(pattern.shape)}
        blocks = lambda parts, whole=whole: ((part, whole()[part]) for part in parts)  # noqa: E731
        _save_array(folder / name, own, share, blocks, progress if name == "data" else False)


def _save_array(folder: Path, header: dict[str, Any], share: Share, blocks: _Blocks, progress: bool | None) -> None:
    folder.mkdir(exist_ok=True)
    found = Journal.of(folder)
    if found is None and share.rank > 0:
        found = _awaited(folder)
    if found is not None:
        _check_same(found, header)
    if share.rank == 0:
        _describe(folder, header)
    found = found or Journal.begun(folder, header)
    saved = Saved(folder, found.of_process(share.rank))
    own_blocks = range(*share.of(saved.num_blocks))
    saved._journal.mend()
    _drop_damaged(saved, own_blocks)
    parts = [saved.slice_of(k) for k in own_blocks if k not in found.finished]
    with ThreadPoolExecutor(1) as writer:  # a block is written while the next one is computed
        written = None
        for part, array in _shown(blocks(parts), parts, own_blocks, saved, progress):
            if written is not None:
                written.result()
            written = writer.submit(_write, saved, part, array)
        if written is not None:
            written.result()
    _complete(saved.path, share)


def _shown(
    made: Iterator[tuple[slice, Any]], parts: list[slice], own: range, saved: Saved, progress: bool | None
) -> Iterator[tuple[slice, Any]]:
    total = sum(s.stop - s.start for s in map(saved.slice_of, own))
    left = sum(p.stop - p.start for p in parts)
    return shown(made, total, rows_of, "row", progress, total - left)


# Other processes

# After this many seconds in which the other processes have finished no block, they are taken to have died.
_PATIENCE = 300


def _awaited(folder: Path) -> Journal:
    # Wait for the first process, which begins the array.
    end = time.monotonic() + _PATIENCE
    while (found := Journal.of(folder) if folder.is_dir() else None) is None:
        if time.monotonic() > end:
            raise TimeoutError(
                f"J.save(path={str(folder)!r}): expected the first process of the mesh to begin the array, got nothing "
                f"for {_PATIENCE} s. Call J.save in every process, with a path that all of them see."
            )
        time.sleep(_POLL)
    return found


def _complete(folder: Path, share: Share) -> None:
    # Wait for the blocks of other processes, as long as some block is finished within _PATIENCE seconds.
    saved, end, left = Saved.at(folder), time.monotonic() + _PATIENCE, None
    while share.num > 1 and saved.missing:
        if left is not None and len(saved.missing) < left:
            end = time.monotonic() + _PATIENCE
        left = len(saved.missing)
        if time.monotonic() > end:
            raise TimeoutError(
                f"J.save(path={str(folder)!r}): expected other processes to finish {left} blocks, "
                f"{[f'{p.start}:{p.stop}' for p in saved.missing[:3]]} and so on, got none for {_PATIENCE} s. What is "
                "finished is valid: start all processes again, and the same call goes on."
            )
        time.sleep(_POLL)
        saved = Saved.at(folder)


_POLL = 0.05


def _dtype(J: LiveBlock, given: Any) -> np.dtype:
    own = np.dtype(J._layout.block.dtype)
    dtype = own if given is None else np.dtype(given)
    if dtype.kind not in "fc" or dtype.name == "bfloat16":
        raise TypeError(
            f"J.save(dtype=...): expected a dtype of floats or complex numbers that Zarr has, got {dtype}. Write "
            "dtype='float32'."
        )
    if own.kind == "c" and dtype.kind != "c":
        raise TypeError(f"J.save(dtype=...): expected a complex dtype for a complex J, got {dtype}.")
    return dtype


def _header(J: LiveBlock, dtype: np.dtype, compression: str | None) -> dict[str, Any]:
    origin, layout = J._origin, J._layout
    blue, batch = origin.blue, origin.blue.spaces.batch
    axes = None if batch is None else [list(batch.inputs), list(batch.outputs)]
    way = {
        "transform": blue.name, "mode": blue.mode, "chunk_size": blue.chunk_size, "block": J._index,
        "matrix": layout.matrix, "turn": layout.turn, "ravel": blue.ravel, "inputs": list(blue.positions),
        "samples": axes,
    }  # fmt: skip
    return {
        "shape": list(layout.shape),
        "dtype": dtype.str,
        "compression": compression,
        "program": _program_digest(blue),
        "point": _digest(_bytes_of([*origin.consts, *origin.leaves])),
        "view": way,
        "jax": jax.__version__,
    }


def _program_digest(blue: Blueprint) -> str:
    # A digest of the program, and of its derivatives if it holds derivative rules: in these the rules are applied. A
    # program that holds other Python functions, or an f that Python runs, equals no other one.
    program, parts = blue.program, []
    known = None if program.jaxpr is None else expansion(program, blue.positions) if program.opaque else ()
    if program.jaxpr is None or known is program:
        return f"unknown {uuid.uuid4().hex}"
    for jaxpr, own in [(program.jaxpr, []), *([] if not program.opaque else derivatives(program, blue.positions))]:
        parts += [re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).encode(), *_bytes_of(own)]
    return _digest(parts)


def _digest(parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:32]


def _bytes_of(arrays: list) -> Iterator[bytes]:
    for a in arrays:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a = jax.random.key_data(a)
        a = np.ascontiguousarray(a)
        yield f"{a.dtype}{a.shape}".encode()
        yield a.tobytes()


def _describe(folder: Path, header: dict[str, Any]) -> None:
    # Write zarr.json, which describes the array to Zarr.
    zarr = zarr_of()
    shape, block = header["shape"], header["block"]
    codec = None if header["compression"] is None else getattr(zarr.codecs, _CODECS[header["compression"]])()
    floats, apart = np.dtype(header["dtype"]).kind in "fc", Path(tempfile.mkdtemp(dir=folder, prefix="jacobia."))
    zarr.create_array(
        store=str(apart), shape=shape, chunks=[min(block, max(1, shape[0])), *[max(1, n) for n in shape[1:]]],
        dtype=header["dtype"], fill_value=np.nan if floats else 0, compressors=None if codec is None else [codec],
        zarr_format=3, overwrite=True,
    )  # fmt: skip
    sync_file(apart / "zarr.json")
    (apart / "zarr.json").replace(folder / "zarr.json")
    shutil.rmtree(apart)


def _check_same(found: Journal, header: dict[str, Any]) -> None:
    told = {"view": "option", "program": "program of f", "point": "point or closed-over array"}
    for name in ("shape", "dtype", "block", "compression", "view", "program", "point"):
        was, now, wrote = found.header.get(name), header[name], found.header.get("jax")
        if was != now:
            if name == "view":
                others = [k for k in header[name] if header[name][k] != found.header[name].get(k)]
                was, now = ({k: view.get(k) for k in others} for view in (found.header[name], header[name]))
            values = "" if name in ("program", "point") else f": {was} there, {now} here"
            version = "" if wrote == header["jax"] else f" (saved by JAX {wrote})"
            if str(now).startswith("unknown"):
                version = " (programs that call Python functions can't be compared, so their saves can't be continued)"
            raise ValueError(
                f"J.save(path={str(found.path.parent)!r}): expected the Jacobian that was saved at this path, to "
                f"continue it, got another {told.get(name, name)}{values}{version}. Choose another path, or remove the "
                "folder."
            )


def _drop_damaged(saved: Saved, own: range) -> None:
    for block in saved.damaged(own):
        part = saved.slice_of(block)
        warnings.warn(
            f"J.save(path={str(saved.path)!r}): block {block}, [{part.start}:{part.stop}] of the first axis, is "
            "damaged; it is computed again.",
            stacklevel=4,
        )
        del saved._journal.finished[block]


def _write(saved: Saved, part: slice, array: Any) -> None:
    values = np.asarray(array).astype(saved.dtype, copy=False)
    try:
        saved.write(part, values)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise
        raise OSError(
            error.errno,
            f"J.save(path={str(saved.path)!r}): expected room for {values.nbytes} bytes, [{part.start}:{part.stop}] of "
            "the first axis, got a full disk. Finished blocks are valid: make room, and the same call goes on",
        ) from error
