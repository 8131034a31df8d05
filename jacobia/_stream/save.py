"""A view on disk: a Zarr array whose chunks are blocks of the view, and a journal of those that are finished.

A block counts when its file is on the disk and the journal says so; a save that was cut off goes on behind it.
Knows views, files and journals. Knows nothing of how blocks are computed.
"""

import errno
import hashlib
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._read.block import LiveBlock
from jacobia._stream.blocks import block_size, check, computed, shown
from jacobia._stream.journal import Journal, sync_file
from jacobia._stream.saved import Saved, open_saved, zarr_of

_CODECS = {"zstd": "ZstdCodec", "gzip": "GzipCodec", "blosc": "BloscCodec"}


def save(J: LiveBlock, path: Any, dtype: Any, block: Any, compression: str | None, progress: bool) -> Saved:
    """Write a view in blocks, those that are missing at `path`."""
    check(J, "save")
    if compression is not None and compression not in _CODECS:
        known = ", ".join(map(repr, _CODECS))
        raise ValueError(f"J.save(compression=...): expected None or one of {known}, got {compression!r}.")
    folder, own = Path(path), _dtype(J, dtype)
    found = Journal.of(folder) if folder.is_dir() else None
    if block is None and found is not None:
        block = found.header.get("block")  # it may be another one where more memory was free
    header = _header(J, block_size(J, "save", block), own, compression)
    if found is None:
        saved = _begun(folder, header)
    else:
        _check_same(found, header)
        found.mend()
        saved = Saved(folder, found)
        _drop_damaged(saved, found)
    with ThreadPoolExecutor(1) as writer:  # one block is written while the next one is computed
        written = None
        for part, array in _missing(J, saved, progress):
            if written is not None:
                written.result()
            written = writer.submit(_write, saved, part, array)
        if written is not None:
            written.result()
    return open_saved(folder)


def _missing(J: LiveBlock, saved: Saved, progress: bool) -> Iterator[tuple[slice, Any]]:
    parts = saved.missing
    left = sum(p.stop - p.start for p in parts)
    return shown(computed(J, parts, True), saved.shape[0], saved.shape[0] - left, progress)


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


def _header(J: LiveBlock, block: int, dtype: np.dtype, compression: str | None) -> dict[str, Any]:
    origin, layout = J._origin, J._layout
    program, blue = origin.blue.program, origin.blue
    text = str(program.jaxpr) if program.jaxpr is not None else "jit=False"
    way = [blue.name, blue.mode, str(blue.chunk_size), J._index, layout.matrix, layout.turn, list(blue.positions)]
    return {
        "shape": list(layout.shape),
        "dtype": dtype.str,
        "block": block,
        "compression": compression,
        "program": _digest([re.sub(r"0x[0-9a-f]+", "", text).encode()]),
        "point": _digest(_bytes_of([*origin.consts, *origin.leaves])),
        "view": way,
        "jax": jax.__version__,
    }


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


def _begun(folder: Path, header: dict[str, Any]) -> Saved:
    if folder.exists() and not (folder.is_dir() and _was_begun(folder)):
        raise ValueError(
            f"J.save(path={str(folder)!r}): expected nothing, an empty folder or one that J.save wrote, got something "
            "else. Choose another path."
        )
    zarr = zarr_of()
    shape, block = header["shape"], header["block"]
    codec = None if header["compression"] is None else getattr(zarr.codecs, _CODECS[header["compression"]])()
    zarr.create_array(
        store=str(folder), shape=shape, chunks=[min(block, max(1, shape[0])), *[max(1, n) for n in shape[1:]]],
        dtype=header["dtype"], fill_value=np.nan, compressors=None if codec is None else [codec], zarr_format=3,
        overwrite=True,
    )  # fmt: skip
    sync_file(folder / "zarr.json")
    return Saved(folder, Journal.begun(folder, header))


def _was_begun(folder: Path) -> bool:
    # Whether it is empty, or a save was cut off before its journal was there.
    return all(p.name.startswith(("zarr.json", "jacobia.journal")) for p in folder.iterdir())


def _check_same(found: Journal, header: dict[str, Any]) -> None:
    told = {"view": "kind of view", "program": "program of f", "point": "point or closed-over array"}
    for name in ("shape", "dtype", "block", "compression", "view", "program", "point"):
        was, now, wrote = found.header.get(name), header[name], found.header.get("jax")
        if was != now:
            values = "" if name in ("program", "point") else f": {was} there, {now} here"
            version = "" if wrote == header["jax"] else f" (JAX {wrote} wrote what is there)"
            raise ValueError(
                f"J.save(path={str(found.path.parent)!r}): expected the Jacobian that is there already, to go on, got "
                f"another {told.get(name, name)}{values}{version}. Choose another path, or remove the folder."
            )


def _drop_damaged(saved: Saved, journal: Journal) -> None:
    for block in saved.damaged():
        part = saved.slice_of(block)
        warnings.warn(
            f"J.save(path={str(saved.path)!r}): block {block}, [{part.start}:{part.stop}] of the first axis, is "
            "damaged; it is computed again.",
            stacklevel=4,
        )
        del journal.finished[block]


def _write(saved: Saved, part: slice, array: Any) -> None:
    values = np.asarray(array).astype(saved.dtype, copy=False)
    try:
        saved.write(part, values)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"J.save(path={str(saved.path)!r}): expected room for {values.nbytes} bytes, [{part.start}:{part.stop}] of "
            "the first axis, got a full disk. Finished blocks are valid: make room, and the same call goes on",
        ) from error
