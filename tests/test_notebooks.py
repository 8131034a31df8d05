"""Every notebook runs from top to bottom, and is committed without outputs.

The quickstart runs with the other tests. Notebooks that take longer, or need packages of the extra `examples`, run with
`pytest -m notebook`.
"""

import ast
import os
from importlib.util import find_spec
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
OF_TESTS = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")  # conftest.py sets them: no optimizations, and a shared cache


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.source


def packages(notebook):
    """The packages that the cells of a notebook import, except imports inside `try`."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                yield from (name.split(".")[0] for name in names)
                if isinstance(node, ast.ImportFrom):
                    yield node.module.split(".")[0]


def executed(path):
    marks = [pytest.mark.slow] + [pytest.mark.notebook] * (path.stem != "quickstart")
    return pytest.param(path, marks=marks, id=path.stem)


@pytest.mark.parametrize("path", [executed(path) for path in NOTEBOOKS])
def test_runs(path):
    notebook = nbformat.read(path, as_version=4)
    missing = sorted({name for name in packages(notebook) if find_spec(name) is None})
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed, or has no wheel for this Python")
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    users = {name: value for name, value in os.environ.items() if name not in OF_TESTS}  # long loops need optimizations
    client.execute(env=users)  # raises at the first cell that does, showing it
