"""What the project's files claim about it."""

import os
import re
import tomllib
from pathlib import Path

import pytest

import jacobia

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == jacobia.__version__


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


def test_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_package_is_typed_and_public_names_exist():
    assert (ROOT / "jacobia" / "py.typed").is_file()
    for name in jacobia.__all__:
        assert hasattr(jacobia, name), name
    assert {"jacobian", "Jacobian", "hessian", "Hessian", "materialize", "cache_info"} <= set(jacobia.__all__)


def test_ci_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
