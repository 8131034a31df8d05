"""Reads that take enough memory to be measured. As a script: prints the predicted and the measured peak as JSON."""

import ctypes
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia import hessian, jacobian

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Case(NamedTuple):
    transform: Callable  # from x to a view
    shape: tuple[int, ...]  # of x
    key: Any = ...
    first: Any = None  # what is read before


def normal(*shape):
    return np.random.default_rng(7).normal(size=shape).astype(np.float32) / np.sqrt(shape[-1]).astype(np.float32)


SQUARE, MIXER, DOWN, UP = normal(1000, 1000), normal(64, 64), normal(512, 3000), normal(16, 512)


def stencil(x):
    return (jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1)) * jnp.sin(x)


def image(x):
    return stencil(x).reshape(60, 50)


def net(x):
    return jnp.tanh(SQUARE @ jnp.tanh(SQUARE @ jnp.tile(x, 1000 // x.size))) * jnp.tile(x, 1000 // x.size)


def dense(x):
    return jnp.tile(jnp.tanh(SQUARE @ x[:1000]), 3) * x


def funnel(x):
    return DOWN.T @ jnp.tanh(UP.T @ jnp.tanh(UP @ jnp.tanh(DOWN @ x)))


def energy(x):
    return jnp.sum(jnp.tanh(stencil(x)) ** 2)


def layer(x):
    return jnp.tanh(x @ MIXER) * x[:, :1]


def two(x):
    return jnp.stack([jnp.sum(jnp.sin(x)), jnp.sum(x**3)])


def loop(x):
    return jax.lax.scan(lambda c, _: (jnp.sin(c) * jnp.roll(c, 1), None), x, None, length=4)[0]


def of_nonzeros(x):
    J = jacobian(stencil)(x)
    J.nonzeros()
    return J


def of_nonzeros_of_samples(x):
    J = jacobian(jax.vmap(stencil), batch_axis=0)(x)
    J.nonzeros()
    return J


N = (3000,)  # all of it: 36 MB
SOME, OTHERS = slice(0, 2048), slice(1000, 3000)
CASES = {
    "rows": Case(jacobian(stencil, mode="rev"), N, SOME),
    "rows, padded": Case(jacobian(stencil, mode="rev"), N, slice(0, 2000)),
    "rows, every other": Case(jacobian(stencil, mode="rev"), N, slice(0, 3000, 2)),
    "rows, shuffled": Case(jacobian(stencil, mode="rev"), N, np.random.default_rng(0).permutation(2000).tolist()),
    "rows of an image": Case(jacobian(image, mode="rev"), N, slice(0, 40)),
    "rows as columns of the transpose": Case(lambda x: jacobian(stencil, mode="rev")(x).T, N, (slice(None), SOME)),
    "one long row": Case(jacobian(two), (10_000_000,), 1),
    "columns": Case(jacobian(stencil, mode="fwd"), N, (slice(None), SOME)),
    "a block": Case(jacobian(stencil, mode="rev"), N, (slice(0, 2500), OTHERS)),
    "points": Case(jacobian(stencil, mode="rev"), N, (np.arange(3000), np.arange(3000))),
    "all by rows": Case(jacobian(dense, mode="rev"), N),
    "all by columns": Case(jacobian(dense, mode="fwd"), N),
    "all, some rows at once": Case(jacobian(dense, mode="rev", chunk_size=500), N),
    "all, transposed": Case(lambda x: jacobian(stencil, mode="rev")(x).T, N),
    "all as a matrix": Case(lambda x: jacobian(image, mode="rev")(x).matrix, N),
    "all from nonzeros": Case(jacobian(stencil, mode="accumulate"), N),
    "all through a waist": Case(jacobian(funnel, mode="waist"), N),
    "all by a loop": Case(jacobian(loop, mode="rev"), N),
    "rows by a loop": Case(jacobian(loop, mode="rev"), N, SOME),
    "hessian": Case(hessian(energy), N),
    "rows of a hessian": Case(hessian(energy), N, SOME),
    "columns of a hessian": Case(hessian(energy), N, (slice(None), SOME)),
    "samples": Case(jacobian(layer, batch_axis=0), (5000, 64)),
    "rows of samples": Case(jacobian(layer, batch_axis=0), (5000, 64), (slice(None), slice(0, 48))),
    "columns of samples": Case(jacobian(layer, batch_axis=0), (5000, 64), (..., slice(0, 48))),
    "few samples": Case(jacobian(layer, batch_axis=0), (20000, 64), SOME),
    "samples by vmap": Case(jax.vmap(jacobian(lambda x: jnp.tanh(MIXER @ x))), (5000, 64)),
    "rows, some known": Case(jacobian(stencil, mode="rev"), N, SOME, first=slice(1500, 3000)),
    "other rows": Case(jacobian(stencil, mode="rev"), N, SOME, first=slice(2500, 2510)),
    "all, some rows known": Case(jacobian(stencil, mode="rev"), N, ..., first=SOME),
    "rows, all known": Case(jacobian(stencil, mode="rev"), N, SOME, first=...),
    "all, nonzeros known": Case(of_nonzeros, N),
    "rows, nonzeros known": Case(of_nonzeros, N, SOME),
    "columns, nonzeros known": Case(of_nonzeros, N, (slice(None), SOME)),
    "a block, nonzeros known": Case(of_nonzeros, N, (OTHERS, SOME)),
    "samples, nonzeros known": Case(of_nonzeros_of_samples, (2000, 64)),
    "rows of samples, nonzeros known": Case(of_nonzeros_of_samples, (5000, 64), (slice(None), slice(0, 30))),
    "columns of samples, nonzeros known": Case(of_nonzeros_of_samples, (5000, 64), (..., slice(0, 30))),
    "few samples, nonzeros known": Case(of_nonzeros_of_samples, (20000, 64), SOME),
    "few samples, known": Case(jacobian(layer, batch_axis=0), (20000, 64), SOME, first=SOME),
}


def resident(name):
    """`VmRSS`, the resident memory now, or `VmHWM`, its peak since the last reset."""
    return int(_STATUS.read_text().split(name + ":")[1].split()[0]) * 1024


def measured(case):
    def view(scale):
        J = case.transform(jnp.asarray(scale * x).block_until_ready())
        if case.first is not None:
            J[case.first].block_until_ready()
        return J

    x = normal(*case.shape)
    for scale in (3.0, 2.0):  # everything is compiled and found at the first two points
        view(scale)[case.key].block_until_ready()
    J = view(1.0)
    told = J.explain(case.key)
    predicted = told.memory
    for _ in range(3):  # background copies are freed by a thread, then by gc
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        time.sleep(0.02)
    _REFS.write_text("5")
    before = resident("VmRSS")
    out = J[case.key].block_until_ready()
    return {"predicted": predicted, "measured": resident("VmHWM") - before, "result": out.nbytes, "way": told.way}


if __name__ == "__main__":
    import sys

    jax.config.update("jax_platforms", "cpu")
    for name in sys.argv[1:] or CASES:
        start = time.perf_counter()
        found = measured(CASES[name])
        print(json.dumps({"name": name, "seconds": round(time.perf_counter() - start, 2), **found}), flush=True)
