"""Resident memory of this process, in bytes. Knows the operating system and nothing else."""

import os
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def _field(name: str) -> int | None:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None


def resident() -> int:
    """Now; where the system does not say, the peak so far, which is flat when memory is."""
    return _field("VmRSS") or peak()


def peak() -> int:
    """The most so far."""
    # ru_maxrss also counts the parent at the moment it started this process; VmHWM does not.
    unit = 1 if sys.platform == "darwin" else 1024
    return _field("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total() -> int:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
