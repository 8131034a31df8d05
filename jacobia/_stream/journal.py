"""The journal of an array on disk: one line for each finished block, with its checksum, appended and synced.

A missing chunk of a Zarr array reads as zeros or NaN, without an error. So only the blocks in the journal count.
Knows files and numbers. Knows nothing of views.
"""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

VERSION = 1
_LOCK = "jacobia.lock"
_NAME = "jacobia.journal"  # of the first process; process k adds to "jacobia.journal.k"


class Journal(NamedTuple):
    """The journal of an array: its header, and the finished blocks, number → checksum."""

    path: Path
    header: dict[str, Any]
    finished: dict[int, int]

    @staticmethod
    def of(folder: Path) -> "Journal | None":
        """The journal of a folder; None: there is none.

        A last line without an end was cut off while it was written, so its block does not count.

        Raises:
          ValueError: the journal is damaged, or was written by a newer version.
        """
        path = folder / _NAME
        if not path.exists() or not (lines := _whole_lines(path)):
            return None
        try:
            header, *entries = [json.loads(line) for line in lines]
            for other in sorted(folder.glob(f"{_NAME}.*")):
                entries += [json.loads(line) for line in _whole_lines(other)]
            finished = {int(e["block"]): int(e["crc"]) for e in entries}
            version = header["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: expected a line of JSON for each block, got a damaged file ({error}). Remove the folder and "
                "save again."
            ) from None
        if version > VERSION:
            raise ValueError(f"{path}: expected version {VERSION} or older, got {version}. Use a newer jacobia.")
        return Journal(path, header, finished)

    @staticmethod
    def begun(folder: Path, header: dict[str, Any]) -> "Journal":
        """A new journal in a folder, with no finished block."""
        path = folder / _NAME
        header = {"version": VERSION, **header}
        _append(path, header, new=True)
        sync_folder(folder)
        return Journal(path, header, {})

    def of_process(self, rank: int) -> "Journal":
        """The journal to which process `rank` adds its blocks: each process has a file of its own."""
        return self if rank == 0 else self._replace(path=self.path.with_name(f"{_NAME}.{rank}"))

    def mend(self) -> None:
        """Cut off an unfinished last line, before further lines are appended."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
            os.fsync(file.fileno())

    def add(self, block: int, crc: int) -> None:
        """Add a finished block, whose bytes must be on the disk already."""
        _append(self.path, {"block": block, "crc": crc})
        self.finished[block] = crc


@contextmanager
def locked(folder: Path, rank: int) -> Iterator[None]:
    """Lock a folder, made if it does not exist, against other calls of `J.save`. The lock ends with the process.

    Raises:
      ValueError: the folder holds something else, or another call writes to it.
    """
    there = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    name = f"{_LOCK}.{rank}"
    if (folder.exists() and not folder.is_dir()) or (there and not any(n.startswith("jacobia.") for n in there)):
        raise ValueError(
            f"J.save(path={str(folder)!r}): expected nothing, an empty folder or one that J.save wrote, got something "
            "else. Choose another path."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"J.save(path={str(folder)!r}): expected a path at which nothing else is saved now, got one that "
                    "another call of J.save writes to. Wait for its end, or choose another path."
                ) from None
        yield


def _whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]  # what follows the last "\n" is empty, or an unfinished line


def checksum(block: np.ndarray) -> int:
    """The CRC-32 of the bytes of a block."""
    return zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data) if block.size else 0


def _append(path: Path, line: dict[str, Any], new: bool = False) -> None:
    with open(path, "wb" if new else "ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to the disk."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: Path) -> None:
    """Sync a file to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
