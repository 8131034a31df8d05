"""Text for people: how a view shows itself. Never computes."""

from typing import Any


def describe(kind: str, shape: tuple[int, ...], dtype: Any, known: str) -> str:
    return f"{kind}(shape={shape}, dtype={dtype}, {known})"


def known_lines(rows: tuple[int, int], columns: tuple[int, int], whole: bool) -> str:
    """What is remembered: all, or so many of so many rows and columns."""
    if whole:
        return "all known"
    parts = [f"{k} of {n} {what}" for (k, n), what in ((rows, "rows"), (columns, "columns")) if k]
    return (" and ".join(parts) or "nothing") + " known"


def explanation(view: str, shape: tuple[int, ...], plan: Any, jit: bool, pushes: str | None) -> str:
    """A plan in words."""
    names = {"rows": ("pullbacks", "pushforwards"), "columns": ("pushforwards", "pullbacks")}
    lines = [view, f"asked for: shape {shape}"]
    if plan.way == "none":
        lines.append(f"to do: nothing; {plan.why}")
    else:
        these, others = names[plan.way]
        lines.append(
            f"to do: {plan.passes} {these} in one kernel call ({plan.why}); instead of {plan.instead} {others}"
        )
    if pushes == "transposed pullback":
        lines.append("pushforwards: f has none (custom_vjp), its pullback is transposed")
    lines.append("f: compiled" if jit else "f: run by Python at each read (jit=False), which is slow")
    return "\n".join(lines)
