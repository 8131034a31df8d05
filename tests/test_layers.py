"""The layers of the package: a file imports only files before it in the list ROOMS."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jacobia"
# The order of the layers: folders, and files beside them. Files of one folder may import each other, but not in a
# circle. The folders inside a folder have their own order, INSIDE.
ROOMS = """
_errors _compat _words _progress _found _space _sparse _program _call _run _store _plans _read _operators _stream _view
_transform _derived scipy testing _demo _command __init__ __main__
""".split()
INSIDE = {"_program": ["", "axis", "columns", "readings", "laplace"]}
MOST_AT_THE_TOP, MOST_LINES = 25, 450
ALLOWED_ANYWHERE = {"jax", "jaxlib", "numpy", "jacobia"} | set(sys.stdlib_module_names)
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)  # jacobia.__init__, jacobia._program.walk


MODULES = {module_of(path) for path in FILES}


def imports(tree, module):
    """Absolute names of what a module imports, with the nodes: (node, name)."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def file_of(name):
    """The module of this package that an imported name belongs to, or None."""
    parts = name.split(".")
    if parts[0] != "jacobia":
        return None
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for module in (prefix, f"{prefix}.__init__"):
            if module in MODULES:
                return module
    raise AssertionError(f"{name}: no such file")


def room(module):
    return ROOMS.index(module.split(".")[1])


def inside(module):
    _, folder, *rest = module.split(".")
    own = rest[0] if len(rest) > 1 else ""
    return INSIDE.get(folder, [""]).index(own)


def graph(files=FILES):
    return {
        module_of(path): {file_of(name) for _, name in imports(parse(path), module_of(path))} - {None} for path in files
    }


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def in_functions(tree):
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }


def optional_imports(tree, module):
    inside = in_functions(tree)
    return [
        name
        for node, name in imports(tree, module)
        if id(node) not in inside and name.split(".")[0] not in ALLOWED_ANYWHERE
    ]


def private_jax(tree, module):
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "_src"]
    names = [name for _, name in imports(tree, module) if f"{name}.".startswith("jax._src.")]
    return names + [ast.unparse(node) for node in attributes]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_upwards(path):
    module = module_of(path)
    assert module.split(".")[1] in ROOMS, f"{module} has no place in the list of rooms"
    for target in graph([path])[module]:
        same = room(target) == room(module) and inside(target) <= inside(module)
        assert room(target) < room(module) or same, f"{module} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_says_what_it_knows(path):
    if path.name in ("__init__.py", "__main__.py", "_compat.py", "_errors.py", "_demo.py", "testing.py"):
        return
    assert "nows" in (ast.get_docstring(parse(path)) or ""), f"{path.name}: Knows ..., knows nothing of ..."


def test_no_circle():
    edges = {module: targets - {module} for module, targets in graph().items()}
    list(graphlib.TopologicalSorter(edges).static_order())  # raises CycleError


def test_the_package_is_seen_at_a_glance():
    names = {p.name for p in PACKAGE.iterdir() if not p.name.startswith("__pycache__")}
    assert len(names) <= MOST_AT_THE_TOP
    private = {n for n in names if n.startswith("_")} | {"py.typed", "scipy.py", "testing.py"}
    assert names == private, "what is not underscored is public"


def test_a_file_is_read_in_one_go():
    long = {module_of(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > MOST_LINES}
    assert not long


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_optional_packages_are_imported_inside_functions(path):
    assert optional_imports(parse(path), module_of(path)) == []


@pytest.mark.parametrize("folder", ["jacobia", "tests", "benchmarks"])
def test_nothing_imports_private_jax(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert private_jax(parse(path), module_of(path)) == [], path


def test_the_checks_can_fail():
    def names(source, module):
        return [name for _, name in imports(ast.parse(source), module)]

    assert names("from . import recall", "jacobia._store.lines") == ["jacobia._store.recall"]
    order = [inside(f"jacobia._program.{name}") for name in ("walk", "axis.cut", "columns.slots", "readings.seed")]
    assert order == sorted(set(order))
    assert inside("jacobia._run.limits") == inside("jacobia.__init__") == 0
    assert names("from .._space import Space", "jacobia._program.walk") == ["jacobia._space.Space"]
    assert names("from jacobia._view.jacobian import x", "jacobia._run.limits") == ["jacobia._view.jacobian.x"]
    assert file_of("jacobia._demo.run") == "jacobia._demo"
    assert file_of("jacobia.jacobian") == "jacobia.__init__" and file_of("jax.numpy") is None
    assert room("jacobia._run.limits") < room("jacobia._view.jacobian")
    source = "import tqdm\ndef f():\n    import matplotlib.figure"
    assert optional_imports(ast.parse(source), "jacobia._demo") == ["tqdm"]
    for source in ("import jax._src", "from jax._src.core import x", "from jax import _src", "jax._src.core"):
        assert private_jax(ast.parse(source), "jacobia._x"), source


def test_importing_the_package_imports_nothing_large():
    code = "import sys, jax, jax.numpy; before = set(sys.modules); import jacobia; print(*set(sys.modules) - before)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    large = ("scipy", "jax.experimental.sparse", "matplotlib", "tqdm", "pandas", "sklearn", "torch", "hashlib")
    own = {f"jacobia.{name}" for name in ("_program.columns.accumulate", "_program.laplace.sweep", "_stream.save")}
    loaded = done.stdout.split()
    assert "jacobia._transform" in loaded and not own.intersection(loaded)
    assert not [name for name in loaded if name.startswith(large)]
