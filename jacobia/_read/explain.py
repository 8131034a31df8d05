"""An `Explanation` of a read: the plans considered, the chosen plan, and why. Shown as text or HTML.

Knows plans and numbers. Knows nothing of f, and computes nothing.
"""

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from jacobia._plans.plan import Considered, Outline
from jacobia._words import counted, readable


@dataclass(frozen=True)
class Explanation:
    """What `J[key]` would do now. `print` shows it as a table; a notebook shows it as HTML.

    Attributes:
      view: the line of the view.
      shape: the shape of the result.
      nbytes: the bytes of the result.
      density: the share of entries that can be nonzero; None: the pattern has not been looked for.
      plan: the chosen plan in words.
      plans: all plans with their estimated cost, the chosen one first.
      by: what computes a row, and what computes a column: "pullbacks" or "pushforwards".
      notes: further lines of the explanation.
      refused: what the read raises, if no plan fits in memory; otherwise empty.
    """

    view: str
    shape: tuple[int, ...]
    nbytes: int
    density: float | None
    plan: Outline
    plans: tuple[Considered, ...]
    by: tuple[str, str]
    notes: tuple[str, ...]
    _memory: Callable[[], int] = field(repr=False, compare=False)
    refused: str = ""

    @property
    def way(self) -> str:
        """The kind of plan: "rows", "columns", "rows and columns", "nonzeros", "waist", or "none" if all is known."""
        return self.plan.way

    @property
    def passes(self) -> int:
        """The number of pullbacks and pushforwards. 0 for a plan without seeds."""
        return self.plan.passes

    @property
    def why(self) -> str:
        """The reason for the chosen plan."""
        return self.plan.why

    @property
    def memory(self) -> int:
        """Bytes that the read takes at its peak, beyond what is in memory already. The result is included.

        The first access compiles the kernel, which is kept, and takes the number from the compiler's own analysis.
        Copies are added if the result is not the kernel's own array, but is assembled from it and from remembered
        lines.
        """
        return self._memory()

    def _asked(self) -> str:
        density = "" if self.density is None else f", {100 * self.density:.3g} % nonzero"
        return f"shape {self.shape}, {readable(self.nbytes)}{density}"

    def to_do(self) -> str:
        """What the read would do, in words."""
        plan = self.plan
        if plan.way == "none":
            return f"nothing; {plan.why}"
        if plan.way == "rows and columns":
            cheaper = min(self.plans[1:], key=lambda p: p.passes, default=None)
            fewer = counted(plan.instead, "passes" if cheaper is None else cheaper.by)
            passes = counted(plan.passes, "passes")
            if not plan.instead:
                return f"{passes} in one kernel call ({plan.why})"
            return f"{passes} in two kernel calls ({plan.why}); instead of {fewer}"
        if plan.way not in ("rows", "columns"):
            fewer = counted(plan.instead, "passes")
            return f"all of it in one kernel call, without seeds ({plan.why}); instead of {fewer}"
        these, others = self.by if plan.way == "rows" else self.by[::-1]
        other = counted(plan.instead, others)
        instead = f"; instead of {other}" if plan.instead and others != these and other not in plan.why else ""
        return f"{counted(plan.passes, these)} in one kernel call ({plan.why}){instead}"

    def _table(self) -> list[tuple[str, ...]]:
        return [
            (p.way, counted(p.passes, p.by) if p.passes else "no seeds", _short(p.flops), readable(int(p.nbytes)))
            for p in self.plans
        ]

    def __str__(self) -> str:
        lines = [self.view, f"asked for: {self._asked()}", f"to do: {self.to_do()}"]
        if self.plans:
            cells = [_HEAD, *self._table()]
            widths = [max(len(row[k]) for row in cells) for k in range(len(_HEAD))]
            marks = ["  ", "> ", *["  "] * (len(cells) - 2)]
            for mark, row in zip(marks, cells, strict=True):
                lines.append("  " + mark + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        return _lines([self.view, f"asked for: {self._asked()}", f"to do: {self.to_do()}"]) + self.details()

    def details(self) -> str:
        """The considered plans and the notes, as HTML."""
        rows = [_row(cells, "td", k == 0) for k, cells in enumerate(self._table())]
        table = f"<table>{_row(_HEAD, 'th')}{''.join(rows)}</table>" if rows else ""
        return table + _lines(self.notes)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines)


def _row(cells: tuple[str, ...], tag: str, bold: bool = False) -> str:
    made = [f"<b>{html.escape(c)}</b>" if bold else html.escape(c) for c in cells]
    return "<tr>" + "".join(f'<{tag} style="text-align:left">{c}</{tag}>' for c in made) + "</tr>"


_HEAD = ("plan", "passes", "operations", "bytes moved")


def _short(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"
