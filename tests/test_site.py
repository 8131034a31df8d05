"""The site: its pages agree with the code, and the checks in docs/build.py detect errors."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import test_layers

import jacobia

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def build():
    spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = build()


def text(page):
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


# The pages and the code


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    names = re.findall(r"^::: jacobia\.(\w+)$", pages, flags=re.M)
    assert sorted(names) == sorted([*jacobia.__all__, "open", "testing"])


def test_every_page_and_notebook_has_a_place():
    nav = set(re.findall(r"([\w/]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert nav == pages | notebooks | {"changelog"}


def test_the_files_of_the_layout_exist():
    named = re.findall(r"`((?:jacobia|tests|benchmarks|docs)/[\w/.]*)`", text("layout"))
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_names_of_the_layout_are_in_its_files():
    checked = 0
    for item in re.split(r"\n(?=\d\. |\| |\n)", text("layout")):
        files = re.findall(r"`([\w/]+\.py)`", item)
        code = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"`([A-Za-z_]\w+)`", item) if files else ():
            assert re.search(rf"\b{name}\b", code), f"{name} in {files}"
            checked += 1
    assert checked > 20


def test_the_rooms_of_the_layout_are_in_order():
    table = text("layout").split("| room | what is in it |")[1].split("\n\n")[0]
    rooms = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "`" in row))
    assert rooms == [room for room in test_layers.ROOMS if not room.startswith("__")]
    inside = re.search(r"Inside of `_program` the order is: (.*?)\.\n", text("layout"), flags=re.S)[1]
    assert re.findall(r"`(\w+)`", inside) == test_layers.INSIDE["_program"][1:]


def test_the_ten_numbers_are_those_of_the_whole_table():
    table = text("speed").split("<!-- headlines: begin -->")[1].split("<!-- headlines: end -->")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in table.splitlines() if "**" in line]
    assert len(rows) == 10
    for _, measured, limit, verdict, times, bar in rows:
        whole = f"| {bar} | {limit} | {measured.strip('*')} | {verdict} | {times} |"
        assert whole in text("benchmarks").splitlines()


# The checks of what was built


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/b.html#here">b</a> <a href="https://elsewhere">c</a><img src="i.png">'
    )
    (tmp_path / "a" / "b.html").write_text('<h2 id="here"></h2><a href="../index.html">a</a> <a href="#here">d</a>')
    (tmp_path / "i.png").touch()
    (tmp_path / "search.json").write_text(json.dumps({"items": [{"title": "Batches, sparse Hessians"}]}))
    return tmp_path


def test_a_site_that_is_right(site):
    assert build.dead_links(site) == [] and build.not_found(site) == []


@pytest.mark.parametrize(
    "link", ["a/c.html", "a/b.html#there", "#there", "../index.html", "/a/c.html", "a"], ids=lambda link: link
)
def test_dead_links_are_seen(site, link):
    (site / "wrong.html").write_text(f'<p id="here"><a href="{link}">')
    assert build.dead_links(site) == [f"wrong.html: {link}"]


@pytest.mark.parametrize("tag", ['<script src="{}">', '<img src="{}">', '<link rel="stylesheet" href="{}">'])
def test_what_is_loaded_from_elsewhere_is_seen(site, tag):
    (site / "wrong.html").write_text(tag.format("https://elsewhere/x"))
    assert build.dead_links(site) == ["wrong.html: https://elsewhere/x is loaded from elsewhere"]


def test_words_that_are_not_found_are_seen(site):
    (site / "search.json").write_text(json.dumps({"items": [{"title": "Sparse Hessians"}]}))
    assert build.not_found(site) == ["batch"]


def test_links_to_notebooks_lead_to_their_pages():
    assert build.page("[a](../notebooks/b.ipynb) [c](d.md)", 0) == "[a](notebooks/b.md) [c](d.md)"
    assert build.page("[a](../../notebooks/b.ipynb)", 1) == "[a](../notebooks/b.md)"
