"""Bars of what a user meets first: importing the package, and looking at a view.

Knows jacobia and JAX.
"""

import atexit
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.results import Result
from jacobia import hessian, jacobian

ROOT = Path(__file__).resolve().parents[1]


def _views() -> dict[str, Callable]:
    w = jax.random.normal(jax.random.key(0), (1000, 784))
    dense = jacobian(lambda x: jnp.tanh(w @ x), mode="rev")
    second = jacobian(lambda x: x[:-2] - 2 * x[1:-1] ** 2 + x[2:])

    def of_rows():
        J = dense(jnp.ones(784))
        for k in range(0, 400, 2):
            J[k]
        return J

    def of_a_million():
        J = second(jnp.ones(1_000_000))
        J[5], J[700_000:700_002]
        return J

    def of_nonzeros():
        J = second(jnp.ones(1_000_000))
        J.nonzeros()
        return J

    def of_a_batch():
        H = hessian(jax.vmap(lambda x: jnp.sum(x**3) * x[0]), batch_axis=0)(jnp.ones((1000, 20)))
        H[3, 7], H[:, 2]
        return H

    return {
        "nothing known": lambda: dense(jnp.ones(784)),
        "200 rows read one by one": of_rows,
        "three rows of a million": of_a_million,
        "all nonzeros of a million rows": of_nonzeros,
        "a batch of Hessians": of_a_batch,
    }


def looks(quick: bool) -> list[Result]:
    """`repr` and the HTML of views of which different things are known."""
    results = []
    for what, make in _views().items():
        J = make()
        calls = J.stats.kernel_calls
        taken = [t / 20 * 1e6 for t in timeit.repeat(lambda J=J: repr(J), number=20, repeat=5 if quick else 50)]
        page = J._repr_html_()
        note = f"{J.stats.kernel_calls - calls} kernel calls"
        results += [
            Result(f"`repr(J)`, {what}", statistics.median(taken), "µs", 100, note=note),
            Result(f"HTML of J, {what}", len(page.encode()) / 1000, "kB", 20, note=note),
        ]
    return results


def importing(quick: bool) -> list[Result]:
    """`import jacobia` beyond `import jax` and `jax.numpy`, in new processes, with byte code, in turn."""
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}

    def seconds(code: str) -> float:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        done = subprocess.run([sys.executable, "-c", timed], env=env, check=True, capture_output=True, text=True)
        return float(done.stdout)

    alone, both = "import jax, jax.numpy", "import jax, jax.numpy, jacobia"
    seconds(both)
    pairs = [(seconds(alone), seconds(both)) for _ in range(5 if quick else 15)]
    extra = statistics.median(b - a for a, b in pairs)
    note = f"{1e3 * statistics.median(a for a, _ in pairs):.0f} ms of JAX"
    return [Result("`import jacobia` beyond `import jax`", 1e3 * extra, "ms", 60, note=note)]


BARS = {"looks": looks, "importing": importing}
