"""The documentation site: `python docs/build.py` (extra `docs`) writes it to site/, and checks what was written.

The pages are put together in build/docs: those of docs/, the changelog, and a page for each notebook. `--execute` runs
the notebooks and shows what they print and draw (extra `examples`, some minutes); without it their pages have the code
alone. `--builder zensical` builds the same pages by zensical in place of mkdocs.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "docs", ROOT / "site"
BUILDERS = {
    "mkdocs": ["mkdocs", "build", "--strict"],
    "zensical": ["zensical", "build", "--strict", "--clean"],
}
FOUND = ("batch", "hessian", "sparse")  # words that a search must find in titles


# Pages


def page(text: str, depth: int) -> str:
    """A page of docs/, `depth` folders below it: links to notebooks lead to their pages."""
    up = "../" * depth
    return re.sub(rf"\]\(\.\./{re.escape(up)}notebooks/(\w+)\.ipynb", rf"]({up}notebooks/\1.md", text)


def with_mathml(text: str) -> str:
    """Formulas between dollars as MathML, which browsers show without a script."""
    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        block, inline = match.groups()
        # In a span, since a line that begins with <math> would begin a paragraph.
        return convert(block, display="block") if block else f"<span>{convert(inline)}</span>"

    return re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", formula, text, flags=re.S)


def notebook_page(path: Path, execute: bool) -> tuple[str, dict[str, bytes], str]:
    """A notebook as Markdown, its pictures by name, and why it was not executed, or "" if it was."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook, why = nbformat.read(path, as_version=4), ""
    if execute:
        executed = nbformat.read(path, as_version=4)
        try:
            NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
            notebook = executed
        except CellExecutionError as error:
            if error.ename != "ModuleNotFoundError":
                raise
            why = error.evalue
    else:
        why = "this site was built without executing notebooks"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    exporter = MarkdownExporter()
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    body, resources = exporter.from_notebook_node(notebook, resources)
    note = f'!!! note "Shown without outputs"\n\n    Not executed: {why}.\n' if why else ""
    heading, _, rest = body.lstrip().replace("![png](", "![what the cell above draws](").partition("\n")
    source = f"The notebook is `notebooks/{path.name}` in the repository.\n"
    return f"{heading}\n\n{source}\n{note}{rest}", resources["outputs"], why


def assemble(execute: bool) -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in PAGES.rglob("*.md"):
        depth = len(path.relative_to(PAGES).parts) - 1
        path.write_text(page(path.read_text(encoding="utf-8"), depth), encoding="utf-8")
    shutil.copy(ROOT / "CHANGELOG.md", PAGES / "changelog.md")
    (PAGES / "notebooks").mkdir(exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures, why = notebook_page(notebook, execute)
        (PAGES / "notebooks" / f"{notebook.stem}.md").write_text(text, encoding="utf-8")
        for name, content in pictures.items():
            target = PAGES / "notebooks" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if execute:
            print(f"notebooks/{notebook.name}: {f'NOT EXECUTED, {why}' if why else 'executed'}", flush=True)


# Checks


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.resources: set[str] = set()  # what a browser loads to show the page
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"] or "")
        loaded = given.get("src") or (given.get("href") if tag == "link" else None)
        if loaded and given.get("rel") not in ("canonical", "prev", "next"):
            self.resources.add(loaded)


def dead_links(site: Path) -> list[str]:
    """Links, anchors and resources of built pages that lead nowhere, and resources of other hosts."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    dead = []
    for path, own in pages.items():
        for link in sorted(own.links | own.resources):
            url, anchor = urldefrag(link)
            parts = urlsplit(url)
            if parts.scheme == "data" or (parts.scheme and link not in own.resources):
                continue
            if parts.scheme or parts.netloc:
                dead.append(f"{path.relative_to(site)}: {link} is loaded from elsewhere")
                continue
            target = unquote(parts.path)
            base = site if target.startswith("/") else path.parent
            file = (base / target.lstrip("/")).resolve() if target else path.resolve()
            file = file / "index.html" if file.is_dir() else file
            known = pages.get(site.resolve() / file.relative_to(site.resolve())) if file.is_file() else None
            if not file.is_file() or (anchor and known and unquote(anchor) not in known.anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    return dead


def not_found(site: Path) -> list[str]:
    """Words of FOUND that stand in no title of the search index."""
    index = next(path for path in (site / "search" / "search_index.json", site / "search.json") if path.exists())
    content = json.loads(index.read_text(encoding="utf-8"))
    titles = " ".join(entry["title"] for entry in content.get("docs", content.get("items"))).lower()
    return [word for word in FOUND if word not in titles]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execute", action="store_true", help="execute the notebooks")
    parser.add_argument("--builder", choices=BUILDERS, default="mkdocs")
    arguments = parser.parse_args()
    assemble(arguments.execute)
    shutil.rmtree(SITE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", *BUILDERS[arguments.builder]], cwd=ROOT, check=True)
    wrong = dead_links(SITE) + [f"search does not find {word!r}" for word in not_found(SITE)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
