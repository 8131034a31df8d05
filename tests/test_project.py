"""The project's files agree with what they claim of the project."""

import ast
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import jacobia

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"([\w-]+)(?:>=([\d.]+))?")
EXTRAS = PROJECT["optional-dependencies"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_version_and_date_are_those_of_the_newest_release():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    changelog, cited = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    (first, _), (version, date) = re.findall(r"^## \[([^]]+)\](?: - (.+))?$", changelog, flags=re.M)[:2]
    assert (first, version) == ("Unreleased", jacobia.__version__)
    assert f"\nversion: {version}\ndate-released: {date}\n" in cited


def imported_in_functions():
    """Packages that the library imports where they are used, beside its dependencies."""
    always = {"jacobia", "jax", "numpy"} | set(sys.stdlib_module_names)
    for path in sorted((ROOT / "jacobia").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            yield from (name.split(".")[0] for name in names if name.split(".")[0] not in always)


def test_an_extra_names_what_is_imported_and_nothing_else():
    imported = {{"sklearn": "scikit-learn"}.get(name, name) for name in imported_in_functions()}
    for_users = sum((EXTRAS[extra] for extra in ("demo", "estimators", "lineax", "plot", "progress", "stream")), [])
    assert {REQUIREMENT.match(r)[1] for r in for_users} == imported - {
        "scipy",
        "treescope",
    }  # with JAX; asked by treescope alone


def test_lowest_versions_are_those_that_are_tested():
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(re.match(r"([\w-]+)==([\d.]+)", line).groups() for line in lines if line and line[0] != "#")
    required = PROJECT["dependencies"] + [r for extra in EXTRAS if extra != "docs" for r in EXTRAS[extra]]
    bounds = {m[1]: m[2] for m in map(REQUIREMENT.match, required) if m[2]}
    assert len(bounds) > 15
    for name, bound in bounds.items():
        assert (lowest[name] + ".0").startswith(bound + "."), name


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_readme_example_holds(number):
    example = blocks("python")[number]
    assert example.count("assert ") >= 4
    exec(compile(example, "README.md", "exec"), {})


@pytest.mark.parametrize("number, right", [(0, "J.stats.pullbacks == 3"), (1, "H.stats.pushforwards == 1")])
def test_readme_example_can_fail(number, right):
    example = blocks("python")[number]
    wrong = example.replace(right, right[:-1] + "2000")
    assert wrong != example
    with pytest.raises(AssertionError):
        exec(compile(wrong, "README.md", "exec"), {})


def test_readme_has_two_commands_of_one_line_each():
    demo, tests = (block.splitlines() for block in blocks("sh"))
    assert len(demo) == len(tests) == 1
    assert demo[0].endswith("-m jacobia demo") and '".[demo]"' in demo[0]
    assert tests[0].endswith("-m pytest -n 2") and '".[test]"' in tests[0]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_and_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (ROOT / target).exists(), target
    for name in re.findall(r"`([\w/]+\.(?:py|txt|toml|md|cff|ipynb))`", text):
        found = [path for top in ("jacobia", "tests") for path in (ROOT / top).glob(f"**/{name}")]
        assert found or (ROOT / name).exists(), name


def test_hooks_run_the_commands_of_ci():
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert len(hooks) == 3 and set(hooks) <= set(lines)


def test_package_is_typed_and_public_names_exist():
    assert (ROOT / "jacobia" / "py.typed").is_file()
    for name in jacobia.__all__:
        assert hasattr(jacobia, name), name
    assert {"jacobian", "Jacobian", "hessian", "Hessian", "materialize", "cache_info"} <= set(jacobia.__all__)


@pytest.mark.parametrize("name", ["run", "release"])
def test_ci_is_executable(name):
    assert os.access(ROOT / ".ci" / name, os.X_OK)
