"""Text for people: how a view shows itself. Never computes."""

from typing import Any


def describe(kind: str, shape: tuple[int, ...], dtype: Any, known: str) -> str:
    return f"{kind}(shape={shape}, dtype={dtype}, {known})"


def known_lines(rows: tuple[int, int], columns: tuple[int, int], whole: bool, samples: int = 0) -> str:
    """What is remembered: all, or so many of so many rows and columns, or lines of so many samples alone."""
    if whole:
        return "all known"
    parts = [f"{k} of {n} {what}" for (k, n), what in ((rows, "rows"), (columns, "columns")) if k]
    if samples:
        parts.append(f"lines of {_counted(samples, 'samples')}")
    return (" and ".join(parts) or "nothing") + " known"


def explanation(
    view: str,
    shape: tuple[int, ...],
    plan: Any,
    jit: bool,
    pushes: str | None,
    passes: tuple[str, str] = ("pullbacks", "pushforwards"),
    samples: tuple[int, int] | None = None,
) -> str:
    """A plan in words.

    Args:
      passes: what gives a row, and what gives a column.
      samples: how many of how many are evaluated, where it is not all of them.
    """
    lines = [view, f"asked for: shape {shape}"]
    if plan.way == "none":
        lines.append(f"to do: nothing; {plan.why}")
    else:
        these, others = passes if plan.way == "rows" else passes[::-1]
        instead = f"; instead of {_counted(plan.instead, others)}" if others != these else ""
        lines.append(f"to do: {_counted(plan.passes, these)} in one kernel call ({plan.why}){instead}")
    if samples is not None:
        lines.append(f"samples: {samples[0]} of {samples[1]}, evaluated by themselves")
    if pushes == "transposed pullback":
        lines.append("pushforwards: f has none (custom_vjp), its pullback is transposed")
    lines.append("f: compiled" if jit else "f: run by Python at each read (jit=False), which is slow")
    return "\n".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count} {what.removesuffix('s') if count == 1 else what}"
