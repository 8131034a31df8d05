"""The memory of this process and of the machine, in bytes. Knows the operating system and nothing else."""

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
    """The resident memory now; where the system does not report it, the peak so far, which is flat if memory is."""
    return _field("VmRSS") or peak()


def peak() -> int:
    """The peak of the resident memory so far."""
    # ru_maxrss includes the memory of the parent at the moment it started this process; VmHWM does not.
    unit = 1 if sys.platform == "darwin" else 1024
    return _field("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total() -> int:
    """The memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
