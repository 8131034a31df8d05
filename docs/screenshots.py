"""Screenshots of all displays: the notebook `displays.ipynb`, run, as a light and as a dark page, in headless Chromium.

`python docs/screenshots.py` writes docs/pictures/displays_light.png and displays_dark.png (extra `docs`; Debian's package
chromium, or another one by the environment variable CHROMIUM).
"""

import os
import subprocess
import tempfile
from pathlib import Path

import nbclient
import nbformat
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
# No sandbox and no services: the page is our own, and needs no network.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars --virtual-time-budget=5000"
).split()
WIDTH, HEIGHT = 1000, 2650


def page(notebook: nbformat.NotebookNode, theme: str) -> str:
    body, _ = HTMLExporter(theme=theme, require_js_url="", mathjax_url="").from_notebook_node(notebook)
    return body


def main() -> None:
    path = ROOT / "notebooks" / "displays.ipynb"
    for theme, style in (("light", "default"), ("dark", "dark_background")):
        notebook = nbformat.read(path, as_version=4)
        # Plots are of the theme of their page.
        setup = nbformat.v4.new_code_cell(f"import matplotlib.pyplot as plt\nplt.style.use({style!r})")
        notebook.cells.insert(0, setup)
        nbclient.NotebookClient(notebook, kernel_name="python3").execute()
        del notebook.cells[0]
        with tempfile.TemporaryDirectory() as folder:
            html = Path(folder, "displays.html")
            html.write_text(page(notebook, theme), encoding="utf-8")
            out = PICTURES / f"displays_{theme}.png"
            chromium = os.environ.get("CHROMIUM", "chromium")
            size = f"--window-size={WIDTH},{HEIGHT}"
            subprocess.run(
                [chromium, *FLAGS, f"--user-data-dir={folder}/profile", f"--screenshot={out}", size, html.as_uri()],
                check=True,
                capture_output=True,
            )
        print(out)


if __name__ == "__main__":
    main()
