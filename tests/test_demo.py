"""The demo at a reduced size, and its command line."""

import subprocess
import sys

import pytest

from jacobia import _demo
from jacobia.__main__ import main

pytestmark = pytest.mark.slow

IMAGES = 40


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new folder" / "picture.png"
    return _demo.run(out, epochs=6, images=IMAGES, rounds=2)


def test_picture(report):
    assert report.picture.read_bytes().startswith(b"\x89PNG")
    assert report.picture.stat().st_size > 10_000


def test_network_learns(report):
    assert report.accuracy > 0.9


def test_one_pullback_serves_all_images(report):
    assert report.pullbacks_first == 1
    assert report.pullbacks_both == 2  # the row read first is remembered


def test_same_answer_as_jacrev(report):
    assert report.difference < 1e-5


def test_text_has_the_numbers(report):
    text = _demo.describe(report)
    assert f"J[:, {_demo.FIRST}]       ran 1 pullback," in text
    assert "ran 1 pullback more" in text
    assert f"shape ({IMAGES}, 10, 64)" in text
    assert f"{1e3 * report.seconds_dense:.2f} ms" in text
    assert str(report.picture) in text


def test_text_is_honest_when_slower(report):
    from dataclasses import replace

    slower = _demo.describe(replace(report, seconds_view=3.0, seconds_dense=1.0))
    faster = _demo.describe(replace(report, seconds_view=1.0, seconds_dense=3.0))
    assert "3.0 times slower" in slower and "3.0 times faster" in faster


def test_missing_package_is_named(monkeypatch, capsys):
    find_spec = _demo.importlib.util.find_spec
    monkeypatch.setattr(_demo.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    assert main(["demo"]) == 1
    message = capsys.readouterr().err
    assert "scikit-learn" in message and 'pip install "jacobia[demo]"' in message
    assert "matplotlib" not in message


def test_help():
    shown = subprocess.run(
        [sys.executable, "-m", "jacobia", "demo", "--help"], capture_output=True, text=True, check=True
    )
    assert "--out" in shown.stdout and "--seed" in shown.stdout


def test_no_command_is_an_error():
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
