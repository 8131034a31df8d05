"""Fixtures: 64-bit types by request, an empty kernel cache, a counter of JAX's own compilations."""

import atexit
import os
import shutil
import tempfile
import weakref
from importlib import metadata

# Two devices; only the tests of several devices use the second one. XLA optimizes nothing, since most kernels run once.
_DEVICES = os.environ.get("JACOBIA_DEVICES", "2")
_FLAGS = f"--xla_force_host_platform_device_count={_DEVICES} --xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):  # newer versions have no such flags
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"  # saves a quarter of the time of the tests
    _FLAGS += (
        " --xla_cpu_parallel_codegen_split_count=1"  # kernels are small: saves a quarter of the rest of XLA's time
    )
if "JACOBIA_TESTS" not in os.environ:  # otherwise a worker, which inherits the environment
    os.environ["JACOBIA_TESTS"] = folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
    # Workers share one compilation cache.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402

import jacobia  # noqa: E402
from jacobia._call import trace as _trace  # noqa: E402

jax.config.update("jax_platforms", os.environ.get("JACOBIA_PLATFORM", "cpu"))  # "cuda", "tpu": test_accelerator.py


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


@pytest.fixture
def new_programs(monkeypatch):
    """Forget all programs, so that nothing found for another f with the same program is used."""
    monkeypatch.setattr(_trace, "_programs", weakref.WeakValueDictionary())


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
