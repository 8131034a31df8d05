"""Which way: rows by pullbacks or columns by pushforwards, how many at once, and why.

Knows counts and bytes. Knows nothing of f, arrays or what is remembered.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from jacobia._errors import MaterializationError
from jacobia._words import counted

# Below this many bytes nobody asks how much memory is free: asking costs more than a small kernel.
_SMALL = 1 << 26
# The share of a device's free memory that one materialization may take by default.
_SHARE = 0.5

# Few widths, so that few kernels serve all row sets; up to the 4th exact, since small requests are common.
_WIDTHS = (1, 2, 3, 4, 8, 16, 64, 256)


# What of a working set stays in the cache next to a core.
_CACHE = 1 << 21

# A quarter of the samples or fewer are worth a kernel of their own.
_APART = 4

# So few seeds that it hardly matters how many.
_FEW = 64

# Where one number of passes is this many times the other, the numbers decide. Closer ones are weighed by what a pass
# costs: of most programs a pullback and a pushforward differ by less than a factor of two, but a pullback through a
# gather or a sort, which adds up numbers where they go one by one, takes ten times the other.
_CLOSE = 4

# What was not asked for must promise to take so much of the time: an estimate may be wrong, and lines that were asked
# for are those that are read again.
_WORTH_MORE = 0.5


class Ways(NamedTuple):
    """What a view allows: set by `mode`, by dtypes, and by the rules of f."""

    rows: bool
    columns: bool


class Plan(NamedTuple):
    """What a read would do now."""

    # "rows" (pullbacks), "columns" (pushforwards), "rows and columns", "nonzeros" or "waist" (no seeds), or "none": all
    # of it is known
    way: str
    passes: int
    instead: int  # passes of the other way
    why: str


class Choice(NamedTuple):
    way: str  # "rows", "columns" or "none"
    why: str


def choose(
    asked: str,
    missing_rows: int,
    missing_columns: int,
    ways: Ways,
    relative_cost: Callable[[], float | None] = lambda: None,
) -> Choice:
    """Choose between pullbacks for the missing rows and pushforwards for the missing columns.

    Args:
      asked: "rows" (some rows, all columns), "columns", "block" (some of both) or "all".
      missing_rows: rows that would have to be computed if it is done by rows.
      missing_columns: the same for columns.
      ways: which of the two are possible at all.
      relative_cost: what all these rows cost, in units of what all these columns cost; None: too little to be looked
        at. Asked only where the numbers of passes do not decide.
    """
    if missing_rows == 0 or missing_columns == 0:
        return Choice("none", "everything asked for is known")
    if not ways.columns:
        return Choice("rows", "only pullbacks are possible or allowed")
    if not ways.rows:
        return Choice("columns", "only pushforwards are possible or allowed")
    if asked in ("rows", "columns") and (missing_rows if asked == "rows" else missing_columns) <= _FEW:
        return Choice(asked, f"{asked} are asked for")
    weigh = _close(missing_rows, missing_columns) or (asked == "block" and missing_rows == missing_columns)
    weighed = relative_cost() if weigh else None
    if asked == "rows" and not _far_cheaper(missing_columns, missing_rows, weighed and 1 / weighed):
        return Choice("rows", "rows are asked for")
    if asked == "columns" and not _far_cheaper(missing_rows, missing_columns, weighed):
        return Choice("columns", "columns are asked for")
    by_rows, by_columns = counted(missing_rows, "pullbacks"), counted(missing_columns, "pushforwards")
    if weighed is not None:
        if weighed < 1:
            return Choice("rows", f"{by_rows} cost less than {by_columns}")
        return Choice("columns", f"{by_columns} cost less than {by_rows}")
    if missing_rows < missing_columns:
        return Choice("rows", f"{by_rows} {'is' if missing_rows == 1 else 'are'} fewer than {by_columns}")
    if missing_columns < missing_rows:
        return Choice("columns", f"{by_columns} {'is' if missing_columns == 1 else 'are'} fewer than {by_rows}")
    return Choice("columns", "as many of both, and they cost little")


def _close(rows: int, columns: int) -> bool:
    few, many = sorted((rows, columns))
    return many > _FEW and many < _CLOSE * few


def _far_cheaper(few: int, many: int, weighed: float | None) -> bool:
    # A few seeds in one kernel cost about as much as one; beyond, a fourth of the passes is worth computing
    # what was not asked for.
    if weighed is not None:
        return weighed < _WORTH_MORE
    return many > _FEW and _CLOSE * few <= many


def padded_width(count: int, most: int) -> int:
    """The width of the kernel that serves `count` of `most` seeds."""
    for width in _WIDTHS:
        if count <= width:
            return min(width, most)
    width = _WIDTHS[-1]
    while width < count:
        width *= 4
    return min(width, most)


def worth_apart(samples: int, most: int) -> bool:
    """Whether so many of the samples are better evaluated by themselves than with all others."""
    return samples * _APART <= most


def chunk(num_seeds: int, per_seed: int, result: int, chunk_size: Any, limit: int | None) -> int | None:
    """How many seeds run at once, or None for all of them."""
    if chunk_size != "auto":
        return None if chunk_size >= num_seeds else balanced(num_seeds, chunk_size)
    if limit is None or result + num_seeds * per_seed <= limit:
        return None
    return balanced(num_seeds, max(1, (limit - result) // max(1, per_seed)))


def fits_cache(num: int, each: int, cores: int) -> int | None:
    """How many of `num` parts of `each` bytes to run at once, so that they stay in the cache of a CPU; None: all."""
    budget = _CACHE * cores
    if num * each <= 4 * budget:
        return None
    most = max(1, budget // each)
    divisor = max(k for k in range(1, most + 1) if num % k == 0)
    return divisor if 2 * divisor >= most else balanced(num, most)


def balanced(num_seeds: int, most: int) -> int:
    """As many at once in equal chunks: 10 seeds under a limit of 8 run as 5 + 5, not 8 + 2."""
    return -(-num_seeds // -(-num_seeds // most))


def byte_limit(memory_limit: int | None, need: int, device: Callable[[], Any]) -> int | None:
    """The bytes that a result and its working set may take; None where `need` is surely small enough.

    Args:
      device: gives the device, if it matters.
    """
    if memory_limit is not None:
        return memory_limit
    return None if need < _SMALL else int(_SHARE * free_bytes(device()))


def check_result(what: str, result: int, limit: int | None, way_out: str) -> None:
    if limit is not None and result > limit:
        raise MaterializationError(
            f"{what}: expected a result under memory_limit={readable(limit)}, got one of {readable(result)}. {way_out}"
        )


def readable(nbytes: int) -> str:
    """A number of bytes for people."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


def free_bytes(device: Any) -> int:
    """Free memory of a device, or of this machine where the device does not tell."""
    stats = device.memory_stats() if device is not None else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as info:
            for line in info:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 33
