"""Results as Markdown, and the pages docs/benchmarks.md and docs/speed.md, which show those of the last run."""

import os
import platform
import re
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from benchmarks import memory
from benchmarks.peers import OURS, Table
from benchmarks.results import Result
from benchmarks.workloads import WORKLOADS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, HEADLINES = DOCS / "benchmarks.md", DOCS / "speed.md"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def machine() -> str:
    """CPU model, cores, memory and system, without the name of the machine."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists() and (found := re.search(r"^model name\s*: (.+)$", cpus.read_text(), re.MULTILINE)):
        model = found[1]
    return f"{model}, {os.cpu_count()} cores, {memory.total() / 2**30:.0f} GiB, {platform.system()}"


def _footer(versions: dict[str, str], quick: bool) -> str:
    text = f"{date.today()}; {machine()}; " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
    return text + (". **A quick run: fewer rounds, for a look only.**" if quick else ".")


def _losses(rows: list[str]) -> str:
    return "### Where jacobia loses\n\n" + ("\n".join(f"* {row}" for row in rows) or "Nowhere in this run.")


# The bars that matter most to a user: the beginning of the bar's title, and its meaning in words.
_HEADLINES = (
    ("rows 1:4 of 2000, `jac` kept, than the same", "three rows of 2000, beside all of them by jitted `jacrev`"),
    ("`J[...]`, MLP 64→256→256→64, `jac` kept", "all of the Jacobian of an MLP, beside jitted `jacfwd`"),
    ("`J[...]`, batch of 256, 32→32, `jac` kept", "a batch of 256 Jacobians, beside jitted `jacrev` of all"),
    ("remembered `J[...]`, MLP", "a Jacobian that is remembered, beside looking an array up"),
    ("Hessian of a tree, all: loss of an MLP 16→32→16 on 128", "the Hessian of a loss, beside jitted `jax.hessian`"),
    ("diagonal of the Hessian of an MLP 2→64→64→1, 100,000", "second derivatives of a PINN, beside `jvp` of `jvp`"),
    ("all nonzeros, Jacobian, Brusselator in the plane, n = 1,002,528, against jitted f",
     "all nonzeros of a Jacobian 10⁶ wide, beside evaluating f once"),
    ("all nonzeros, Hessian, chained Rosenbrock, n = 1,000,000, against jitted asdex, 3 colors",
     "all nonzeros of a Hessian 10⁶ wide, beside asdex"),
    ("`J[...]`, tanh 1000→10→1000→10→1000, than", "where all goes through 10 numbers, beside jitted `jacrev`"),
    ("HIRES, n = 8, float64, a NumPy array, CSC", "a CSC matrix for a stiff solver, beside jitted `jacfwd`"),
)  # fmt: skip


def headlines(results: list[Result]) -> str:
    """Ten rows, each with the name of its bar."""
    rows = []
    for start, words in _HEADLINES:
        found = next((r for r in results if r.bar.startswith(start) and r.measured is not None), None)
        if found is not None:
            measured = f"**{_number(found.measured or 0)} {found.unit}**"
            rows.append([words, measured, _limit(found), found.verdict, found.note, found.bar])
    return _table(["", "measured", "limit", "", "times", "bar"], rows)


def _limit(result: Result) -> str:
    return "" if result.limit is None else f"{'≥' if result.at_least else '≤'} {_number(result.limit)}"


def bars(results: list[Result], quick: bool) -> str:
    """The table of all bars."""
    rows = []
    for r in results:
        measured = f"{_number(r.measured)} {r.unit}" if r.measured is not None else ""
        rows.append([r.bar, _limit(r), measured, r.verdict, r.note.replace("|", "\\|")])
    versions = {"Python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    versions |= {name: metadata.version(name) for name in ("scipy", "asdex") if find_spec(name)}
    losses = [f"{r.bar}: {_number(r.measured)} {r.unit}" for r in results if r.loses]
    missed = sum("*" in r.verdict for r in results)
    counted = sum((r.limit is not None and not r.skipped) or r.failed for r in results)
    return "\n\n".join(
        [
            f"{counted - missed} of {counted} bars met.",
            _table(["bar", "limit", "measured", "", "times, or a note"], rows),
            _footer(versions, quick),
            _losses(losses),
        ]
    )


def peers(table: Table, quick: bool) -> str:
    """The table of libraries: a row for each contender, a column for each workload."""
    rows = [["the better of jitted jacrev and jacfwd", *(table.base.get(name, "") for name in WORKLOADS)]]
    notes: dict[str, int] = {}

    def cell(value: float | str | None) -> str:
        if isinstance(value, str):
            return f"[{notes.setdefault(value, len(notes) + 1)}]"
        return "–" if value is None else _number(value)

    for contender, ratios in table.ratios.items():
        if contender not in table.skipped:
            rows.append([f"`{contender}`", *(cell(ratios.get(name)) for name in WORKLOADS)])
    losses = []
    for name, workload in WORKLOADS.items():
        ours = table.ratios.get(OURS, {}).get(name)
        for contender, ratios in table.ratios.items():
            theirs = ratios.get(name)
            known = isinstance(ours, float) and isinstance(theirs, float)
            if known and not contender.startswith("jacobia") and ours > theirs:
                losses.append(f"{workload.title}, against `{contender}`: {_number(ours / theirs)} ×")
    parts = [_table(["", *(w.title for w in WORKLOADS.values())], rows)]
    if notes:
        parts.append("\n".join(f"[{number}] {why}  " for why, number in notes.items()))
    parts += [f"{library} was skipped: {why}" for library, why in table.skipped.items()]
    clock = ", ".join(f"{library} {ratio:.2f}" for library, ratio in table.yardsticks.items())
    parts.append(
        f"The same NumPy loop in each process, relative to that of jax: {clock}; "
        f"its slowest turn took {table.spread:.1f} times its fastest: how busy the machine was."
    )
    parts.append("Threads: each library's default.")
    parts.append(_footer(table.versions, quick))
    parts.append(_losses(losses) if OURS in table.ratios else "jacobia itself did not run.")
    return "\n\n".join(parts)


def write(section: str, text: str, path: Path = PAGE) -> None:
    """Replace the text between the marks of a section of a page (by default docs/benchmarks.md)."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise ValueError(f"write(section={section!r}): expected {begin!r} in {path.name}. Was it deleted?")
    head, rest = page.split(begin)
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")
