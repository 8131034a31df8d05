"""Text for people: how a view shows itself. Never computes."""

from typing import Any


def describe(shape: tuple[int, ...], dtype: Any, known: str) -> str:
    return f"Jacobian(shape={shape}, dtype={dtype}, {known})"


def known_lines(rows: tuple[int, int], columns: tuple[int, int], whole: bool) -> str:
    """What is remembered: all, or so many of so many rows and columns."""
    if whole:
        return "all known"
    parts = [f"{k} of {n} {what}" for (k, n), what in ((rows, "rows"), (columns, "columns")) if k]
    return (" and ".join(parts) or "nothing") + " known"
