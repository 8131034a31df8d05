"""How many at once: widths of kernels, chunks of seeds, and limits in bytes.

Knows counts, bytes, and how much memory a device has free. Knows nothing of f, arrays or what is remembered.
"""

import os
from collections.abc import Callable
from typing import Any

from jacobia._errors import MaterializationError
from jacobia._words import readable

# Below this many bytes nobody asks how much memory is free: asking costs more than a small kernel.
_SMALL = 1 << 26
# The share of a device's free memory that one materialization may take by default.
_SHARE = 0.5

# Few widths, so that few kernels serve all row sets; up to the 4th exact, since small requests are common.
_WIDTHS = (1, 2, 3, 4, 8, 16, 64, 256)

# What of a working set stays in the cache next to a core; of samples, which need more steps of a loop, in all of it.
_CACHE, _CACHE_OF_SAMPLES = 1 << 21, 1 << 23

# A quarter of the samples or fewer are worth a kernel of their own.
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
    """Whether so many of the samples are better evaluated by themselves than with all others."""
    return samples * _APART <= most


def chunk(num_seeds: int, per_seed: int, result: int, chunk_size: Any, limit: int | None) -> int | None:
    """How many seeds run at once, or None for all of them."""
    if chunk_size != "auto":
        return None if chunk_size >= num_seeds else balanced(num_seeds, chunk_size)
    if limit is None or result + num_seeds * per_seed <= limit:
        return None
    return balanced(num_seeds, max(1, (limit - result) // max(1, per_seed)))


def fits_cache(num: int, each: int, cores: int, samples: bool = False) -> int | None:
    """How many of `num` seeds or samples of `each` bytes to run at once, to stay in the cache of a CPU; None: all."""
    budget = (_CACHE_OF_SAMPLES if samples else _CACHE) * cores
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
