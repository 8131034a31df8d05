"""How many seeds run at once: widths of kernels, chunks of seeds, and limits in bytes.

Knows counts, bytes, and how much memory a device has free. Knows nothing of f, arrays or stores.
"""

import os
from collections.abc import Callable
from typing import Any

from jacobia._errors import MaterializationError
from jacobia._words import readable

# Below this many bytes, free memory is not looked up: the look-up takes longer than a small kernel.
_SMALL = 1 << 26
# The share of a device's free memory that one materialization may take by default.
_SHARE = 0.5

# Few widths, so that few kernels serve all sets of rows; no padding up to 4 rows, since small requests are common.
_WIDTHS = (1, 2, 3, 4, 8, 16, 64, 256)

# Bytes for each core that one step of a loop may use to stay in the cache: chunks of seeds in the core's own cache,
# blocks of samples, which take more steps, in all caches.
_CACHE, _CACHE_OF_SAMPLES = 1 << 21, 1 << 23

# Up to one sample in _APART is worth a kernel for these samples alone.
_APART = 4


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
    """Whether `samples` of `most` samples are better evaluated alone than with all the others."""
    return samples * _APART <= most


def chunk(num_seeds: int, per_seed: int, result: int, chunk_size: Any, limit: int | None) -> int | None:
    """How many seeds run at once; None: all of them.

    Args:
      per_seed: bytes that one seed takes while it runs.
      result: bytes of the result.
      chunk_size: what the user has set: "auto" or a number of seeds.
      limit: in bytes; None: no limit.
    """
    if chunk_size != "auto":
        return None if chunk_size >= num_seeds else balanced(num_seeds, chunk_size)
    if limit is None or result + num_seeds * per_seed <= limit:
        return None
    return balanced(num_seeds, max(1, (limit - result) // max(1, per_seed)))


def fits_cache(num: int, each: int, cores: int, samples: bool = False) -> int | None:
    """How many of `num` seeds or samples, `each` of so many bytes, run at once to stay in a CPU's cache; None: all."""
    budget = (_CACHE_OF_SAMPLES if samples else _CACHE) * cores
    if num * each <= 4 * budget:
        return None
    most = max(1, budget // each)
    divisor = max(k for k in range(1, most + 1) if num % k == 0)
    return divisor if 2 * divisor >= most else balanced(num, most)


def balanced(num_seeds: int, most: int) -> int:
    """The size of equal chunks of at most `most` seeds: 10 seeds under a limit of 8 run as 5 + 5, not 8 + 2."""
    return -(-num_seeds // -(-num_seeds // most))


def byte_limit(memory_limit: int | None, need: int, device: Callable[[], Any]) -> int | None:
    """The bytes that a result and its working set may take; None where no limit is set and `need` is small.

    Args:
      memory_limit: what the user has set, in bytes; None: a share of the free memory.
      need: the bytes that will be used.
      device: gives the device. Called only where its free memory is looked up.
    """
    if memory_limit is not None:
        return memory_limit
    return None if need < _SMALL else int(_SHARE * free_bytes(device()))


# What to do where a read does not fit.
READ_LESS = "Read fewer rows or columns at a time, use J.mv and J.vm, or raise memory_limit."


def check_result(what: str, result: int, limit: int | None, way_out: str) -> None:
    if limit is not None and result > limit:
        raise MaterializationError(
            f"{what}: expected a result under memory_limit={readable(limit)}, got one of {readable(result)}. {way_out}"
        )


def free_bytes(device: Any) -> int:
    """The free memory of a device in bytes, or that of the host where the device does not report its own."""
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
