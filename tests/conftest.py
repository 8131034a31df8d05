"""Fixtures: 64-bit types by request, an empty kernel cache, a counter of JAX's own compilations."""

import os

# Two devices, of which all but the tests of several devices use the first.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import jax  # noqa: E402
import pytest  # noqa: E402

import jacobia  # noqa: E402

jax.config.update("jax_platforms", "cpu")


def pytest_addoption(parser):
    parser.addoption("--programs", type=int, default=4, help="how many random programs for each shortcut")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def empty_cache():
    jacobia.cache_clear()
    yield
    jacobia.cache_clear()


class CompileCounter:
    """Counts what XLA compiles while the test runs."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **_):
        self.count += "backend_compile" in event


@pytest.fixture
def compiles():
    counter = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)
