"""The Python examples on the pages of docs/ run, and their assertions hold.

Each section (`##`) runs alone with its own names: first the examples before the first section, then its own.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import sparsity_table
from sparse_cases import CASES

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
# Code fences are found first: a line of code that begins with "## " is not a heading.
FENCE_OR_HEADING = re.compile(r"^```(\w*)\n(.*?)^```$|^## ([^\n]+)$", flags=re.M | re.S)


class Section(NamedTuple):
    page: str
    title: str  # "" above the first section
    examples: tuple[str, ...]

    def __str__(self):
        return f"{self.page}-{re.sub('[^a-z0-9]+', '_', self.title.lower()).strip('_')}"

    def run(self):
        names = {"__name__": self.page}
        for example in self.examples:
            exec(compile(example, str(DOCS / f"{self.page}.md"), "exec"), names)


def sections(page, text):
    """The sections of a page that have examples; line numbers of errors are those of the page."""
    examples, title = {"": []}, ""
    for match in FENCE_OR_HEADING.finditer(text):
        language, code, heading = match.groups()
        if heading:
            title = heading
        elif language == "python":
            examples.setdefault(title, []).append("\n" * text.count("\n", 0, match.start(2)) + code)
    setup = examples.pop("")
    own = [Section(page, title, (*setup, *found)) for title, found in examples.items()]
    return own or [Section(page, "", tuple(setup))] * bool(setup)


SECTIONS = [section for page, text in PAGES.items() for section in sections(page, text)]


def section(page, title):
    (found,) = (s for s in SECTIONS if (s.page, s.title) == (page, title))
    return found


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_examples_hold(section):
    assert any("assert" in example.lower() for example in section.examples)
    section.run()


def test_examples_can_fail():
    right = section("migration/jax", "")
    wrong = right._replace(examples=tuple(e.replace("H.stats.rows_computed == 1", "False") for e in right.examples))
    assert wrong != right
    with pytest.raises(AssertionError) as error:
        wrong.run()
    line = error.traceback[-1].lineno + 1
    assert "H.stats.rows_computed == 1" in PAGES["migration/jax"].splitlines()[line - 1]


def test_sections_and_examples_are_told_apart():
    text = "~python\na = 1\n~\n## One\n~text\nb\n~\n~python\n## c\nc = a\n~\n## Two\n## Three\n~python\nd\n~\n"
    text = text.replace("~", "```")
    one, three = sections("page", text)
    assert [(s.title, [e.strip() for e in s.examples]) for s in (one, three)] == [
        ("One", ["a = 1", "## c\nc = a"]),
        ("Three", ["a = 1", "d"]),
    ]
    assert str(one) == "page-one"
    with pytest.raises(NameError):
        three.run()


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert "://" in target or (DOCS / page).parent.joinpath(target).exists(), target


# The table of docs/sparsity_programs.md

ROWS = sparsity_table.rows(PAGES["sparsity_programs"])
SAMPLE = ("tridiagonal", "broadcast", "where of the input", "cancelled", "segment sum", "causal attention",
          "triangular solve", "loop with an index", "optimal control", "Rosenbrock")  # fmt: skip


def test_the_table_has_every_program():
    assert list(ROWS) == list(CASES)
    for row in ROWS.values():
        assert int(row.found) >= int(row.true)
        assert (row.found == row.true) == (not row.note), row
    equal = sum(not row.note for row in ROWS.values())
    assert f"{len(ROWS)} programs; {equal} patterns are equal" in PAGES["sparsity_programs"]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_of_the_table_is_up_to_date(name):
    assert ROWS[name] == sparsity_table.row(CASES[name])


def test_the_table_is_read_as_it_is_written():
    row = ROWS["cancelled"]
    page = f"{sparsity_table.BEGIN}\n{sparsity_table.HEAD}\n{row}\n{sparsity_table.END}"
    assert row.note and sparsity_table.rows(page) == {"cancelled": row}
    assert sparsity_table.rows(page.replace("| 12 |", "| 11 |")) != {"cancelled": row}
