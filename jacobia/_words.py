"""Text for people: how a view shows itself. Never computes.

Knows numbers and shapes. Knows nothing of views.
"""

from typing import Any


def describe(kind: str, shape: tuple[int, ...], dtype: Any, known: str) -> str:
    return f"{kind}(shape={shape}, dtype={dtype}, {known})"


def known_lines(rows: tuple[int, int], columns: tuple[int, int], whole: bool, samples: int = 0) -> str:
    """What is remembered: all, or so many of so many rows and columns, or lines of so many samples alone."""
    if whole:
        return "all known"
    parts = [f"{k} of {n} {what}" for (k, n), what in ((rows, "rows"), (columns, "columns")) if k]
    if samples:
        parts.append(f"lines of {counted(samples, 'samples')}")
    return (" and ".join(parts) or "nothing") + " known"


def counted(count: int, what: str) -> str:
    """So many of something, whose name is given in the plural."""
    one = what.removesuffix("es") if what.endswith("sses") else what.removesuffix("s")
    return f"{count} {one if count == 1 else what}"
