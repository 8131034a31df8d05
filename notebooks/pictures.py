"""The pictures of docs/gallery.md: `python notebooks/pictures.py [NAME ...]`, with the extra `examples` installed.

Each notebook is executed, and one of its pictures is written to docs/pictures/.
"""

import base64
import sys
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).parent
TARGET = FOLDER.parent / "docs" / "pictures"

# Which picture of a notebook, by its place among them.
CHOSEN = {
    "bundle_adjustment": 1,
    "curvature": -1,
    "optimal_control": 1,
    "power_grid": 1,
    "quantum": 0,
    "robot_arm": 2,
    "stiff_chemistry": -1,
}


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    found = [o.data["image/png"] for o in outputs if o.output_type == "display_data" and "image/png" in o.data]
    return [base64.b64decode(png) for png in found]


def main(names: list[str]) -> None:
    for name in names or CHOSEN:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
        (TARGET / f"{name}.png").write_bytes(pictures(notebook)[CHOSEN[name]])


if __name__ == "__main__":
    main(sys.argv[1:])
