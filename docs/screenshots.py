"""Screenshots of all displays: the outputs of the notebook `displays.ipynb`, light and dark, in headless Chromium.

`python docs/screenshots.py` writes docs/pictures/displays/*.png (extra `docs`; the package chromium, or another one
by the environment variable CHROMIUM). Look at them before they are committed.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures" / "displays"
THEMES = {"light": "default", "dark": "dark_background"}  # of notebooks, of matplotlib
# No sandbox and no services: the page is our own, and needs no network.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars --virtual-time-budget=5000 --window-size=900,1000"
).split()
MARGIN = 16  # around what is seen, in pixels


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for theme, style in THEMES.items():
        notebook = nbformat.read(ROOT / "notebooks" / "displays.ipynb", as_version=4)
        setup = nbformat.v4.new_code_cell(f"import matplotlib.pyplot as plt\nplt.style.use({style!r})")
        notebook.cells.insert(0, setup)  # plots are of the theme of their page
        nbclient.NotebookClient(notebook, kernel_name="python3").execute()
        title = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                title = re.sub("[^a-z]+", "_", cell.source.splitlines()[0].lower()).strip("_")
            elif cell.outputs:
                shoot(cell, theme, PICTURES / f"{title}_{theme}.png")


def shoot(cell: nbformat.NotebookNode, theme: str, out: Path) -> None:
    """What a cell shows, as a page of a notebook of this theme."""
    alone = nbformat.v4.new_notebook(cells=[cell])
    exporter = HTMLExporter(theme=theme, require_js_url="", mathjax_url="")
    exporter.exclude_input = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(alone)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(body, encoding="utf-8")
        browser = [os.environ.get("CHROMIUM", "chromium"), *FLAGS, f"--user-data-dir={folder}/profile"]
        subprocess.run([*browser, f"--screenshot={out}", page.as_uri()], check=True, capture_output=True)
    picture = plt.imread(out)[..., :3]
    rows, columns = (np.flatnonzero((picture != picture[0, 0]).any(axis=(axis, 2))) for axis in (1, 0))
    (top, bottom), (left, right) = ((max(0, k[0] - MARGIN), k[-1] + MARGIN) for k in (rows, columns))
    plt.imsave(out, picture[top:bottom, left:right])
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
