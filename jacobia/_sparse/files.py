"""Arrays in one file, with a kind and a version, by which files of another kind and newer files are recognized.

Knows files and arrays. Knows nothing of what the arrays mean.
"""

import os
import zipfile
import zlib
from typing import Any

import numpy as np


def write(path: str | os.PathLike, kind: str, version: int, arrays: dict[str, Any]) -> None:
    """Write arrays to exactly this path, in NumPy's npz format."""
    with open(path, "wb") as file:  # a path would get ".npz" added
        np.savez(file, **{"format": np.array(f"jacobia.{kind}"), "version": np.array(version), **arrays})


def read(path: str | os.PathLike, kind: str, version: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays that `write` wrote.

    Raises:
      OSError: there is no such file, or it can't be read.
      ValueError: the file is of another kind, newer, or damaged.
    """
    call = f"{kind.capitalize()}.load(path={os.fspath(path)!r})"
    again = f"Write it again with {kind.capitalize()}.save."
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(f"{call}: expected a file that a {kind} was saved to, got a file of another kind. {again}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
        except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{call}: expected a complete file, got a damaged one ({error}). {again}") from error
    found = str(arrays.get("format", "no format"))
    if found != f"jacobia.{kind}":
        raise ValueError(f"{call}: expected the format jacobia.{kind}, got {found}. {again}")
    number = arrays.get("version", np.array(""))
    if number.ndim or number.dtype.kind not in "iu" or not all(name in arrays for name in names):
        missing = sorted({"version", *names} - set(arrays))
        what = f"lacks {', '.join(missing)}" if missing else "has no number as its version"
        raise ValueError(f"{call}: expected a complete file, got a damaged one that {what}. {again}")
    if number > version:
        raise ValueError(
            f"{call}: expected version {version} or older, got version {number}. Read it with a newer jacobia."
        )
    return arrays
