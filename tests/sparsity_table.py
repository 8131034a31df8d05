"""The table of docs/sparsity_programs.md: how many entries each program of sparse_cases.py has, and how many are found.

`python tests/sparsity_table.py` prints it, with `--write` it is put into the page.
"""

import argparse
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import sparse_cases as cases
from sparse_cases import CASES, nonzero, point, points

from jacobia import sparsity_pattern

PAGE = Path(__file__).parents[1] / "docs" / "sparsity_programs.md"
BEGIN, END = "<!-- programs: begin -->", "<!-- programs: end -->"
HEAD = "| program | matrix | true | found | why more |\n| --- | --- | --- | --- | --- |"
FAMILIES = {
    "Stencils": cases.STENCILS,
    "Moves": cases.MOVES,
    "Elements": cases.ELEMENTS,
    "Indices": cases.INDICES,
    "Sums, orders, products": cases.REDUCTIONS,
    "Linear algebra and transforms": cases.ALGEBRA,
    "Control flow and transformations": cases.CONTROL,
    "Shapes and trees": cases.SHAPES,
    "Hessians": cases.HESSIANS,
}


class Row(NamedTuple):
    program: str
    matrix: str
    true: str
    found: str
    note: str  # "": equal

    def __str__(self):
        return f"| {' | '.join(self)} |".replace("|  |", "| |")


def row(case):
    """One line of the table: the entries that are nonzero at one of the points of the case, and the pattern found."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*jacobia has no sparsity rule")
        true = nonzero(cases.dense(case, points(case)))
        found = sparsity_pattern(case.f, point(case), hessian=case.kind == "hessian")
    assert not (true & ~found.todense()).any(), f"{case.name}: an entry is missed"
    count = int(true.sum())
    note = "" if found.nnz == count else case.exact if isinstance(case.exact, str) else "not known why"
    return Row(case.name, " × ".join(map(str, found.shape)), str(count), str(found.nnz), note)


def rows(page):
    """The lines in the page, by program."""
    table = page.split(BEGIN)[1].split(END)[0]
    lines = re.findall(r"^\| (.*) \|$", table, flags=re.M)
    found = [Row(*(cell.strip() for cell in line.split("|"))) for line in lines]
    return {r.program: r for r in found if r.program not in ("program", "---")}


def table():
    """The whole table, and above it the number of exact patterns."""
    made = {family: [row(case) for case in own.values()] for family, own in FAMILIES.items()}
    flat = [r for own in made.values() for r in own]
    equal = sum(not r.note for r in flat)
    out = [f"{len(flat)} programs; {equal} patterns are equal to the truth, {len(flat) - equal} have more entries."]
    for family, own in made.items():
        out += ["", f"## {family}", "", HEAD, *map(str, own)]
    return "\n".join(out)


def write(text):
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the page")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    assert sum(map(len, FAMILIES.values())) == len(CASES)
    if arguments.write:
        write(table())
    else:
        print(table())
