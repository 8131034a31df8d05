"""Progress bars: off by default, shown only for more than a second, and without effect on results."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobia
from jacobia import _progress, jacobian


@pytest.fixture
def bars(monkeypatch):
    """Turn progress on without a delay, and list the bars that are opened, each as a dict of its settings."""
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            self.made = kwargs
            made.append(kwargs)
            super().__init__(*args, **kwargs | {"delay": 0, "disable": True})

        def update(self, n=1):
            self.made["done"] = self.made.get("done", 0) + n

    monkeypatch.setattr(_progress, "_tqdm", lambda asked: Bar)
    monkeypatch.setattr(_progress, "_DELAY", 0.0)
    monkeypatch.setattr(_progress, "_TICK", 0.001)
    monkeypatch.setattr(jacobia.config, "progress", True)
    yield made
    jacobia.config.progress = False


def wide(x):
    return jnp.sin(jnp.arange(40.0)[:, None] * x).sum(1)


def test_off_by_default():
    assert jacobia.config.progress is False and repr(jacobia.config) == "Config(progress=False)"


def test_only_a_bool():
    with pytest.raises(TypeError, match=r"config.progress = ...: expected True or False, got 'yes'"):
        jacobia.config.progress = "yes"
    with pytest.raises(AttributeError, match="progres"):
        jacobia.config.progres = True


def test_only_a_bool_or_none_as_an_argument(tmp_path):
    J = jacobia.jacobian(jnp.tanh)(jnp.ones(3))
    for call, name in (
        (lambda: J.blocks(progress="yes"), "blocks"),
        (lambda: J.save(tmp_path / "J", progress=1), "save"),
    ):
        with pytest.raises(TypeError, match=rf"J.{name}\(progress=...\): expected True, False or None"):
            call()


def test_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"config.progress = True: expected the package tqdm.*jacobia\[progress\]"):
        jacobia.config.progress = True
    assert jacobia.config.progress is False


def test_chunks_are_counted(bars):
    J = jacobian(wide, memory_limit=4_000)(jnp.ones(500))
    np.testing.assert_allclose(J.row_norms(), jnp.linalg.norm(jax.jacrev(wide)(jnp.ones(500)), axis=1), rtol=1e-5)
    (counted,) = [bar for bar in bars if "total" in bar]
    assert counted["total"] == counted["done"] == 40 and counted["unit"] == " row"
    assert counted["delay"] == 0.0 and counted["disable"] is None  # passed on to tqdm: no delay, only in terminals


def test_blocks_are_counted(bars):
    J = jacobian(wide)(jnp.ones(5))
    list(J.blocks(block=7))
    (counted,) = [bar for bar in bars if "total" in bar]
    assert counted["total"] == counted["done"] == 40
    bars.clear()
    list(J.blocks(block=7, progress=False))
    assert not [bar for bar in bars if "total" in bar]


def test_compiling_and_reading_are_told(bars, empty_cache, new_programs):
    def slow(x):  # a program that no other test has compiled
        return jnp.cumsum(jnp.sin(x) * 1.25)[::3]

    x = jnp.ones(301)
    J = jacobian(slow, mode="rev")(x)
    np.testing.assert_allclose(J[2], jax.jacrev(slow)(x)[2], rtol=1e-5)
    assert {"compiling"} <= {bar.get("desc") for bar in bars}
    bars.clear()
    J.pattern
    assert {bar.get("desc") for bar in bars} == {"reading the program"}


def test_what_is_quick_shows_nothing(bars, monkeypatch):
    monkeypatch.setattr(_progress, "_DELAY", 60.0)
    with _progress.waiting("compiling"):
        pass
    assert not bars


def test_an_error_ends_the_bar(bars):
    with pytest.raises(ZeroDivisionError), _progress.waiting("compiling"):
        while not bars:
            time.sleep(0.001)
        1 / 0


def test_inside_jit(bars):
    x = jnp.ones(5)
    np.testing.assert_allclose(jax.jit(lambda x: jacobian(wide)(x)[2])(x), jax.jacrev(wide)(x)[2], rtol=1e-5)
