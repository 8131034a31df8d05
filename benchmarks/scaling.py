"""Bars of meshes and streams: the memory of each device, and the memory and the time that streaming takes.

Each number is measured in a process of its own, with as many devices as it needs. Knows jacobia and JAX.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.results import MIB, Result

_PEAK = """
import json, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from jacobia import jacobian
from jacobia._run.kernels import compiled

M, N, H = 8192, 4096, 16
A, B = jax.random.normal(jax.random.key(0), (M, H)), jax.random.normal(jax.random.key(1), (H, N))
mesh = Mesh(np.array(jax.devices()), ("rows",)) if jax.device_count() > 1 else None
J = jacobian(lambda x: jnp.tanh(A @ (B @ x)), mesh=mesh, mode="rev")(jnp.ones(N))
kernel = compiled(lambda: J[...])
taken, text = kernel.memory_analysis(), kernel.as_text()
words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
print(json.dumps([taken.temp_size_in_bytes + taken.output_size_in_bytes, sum(w in text for w in words)]))
"""

_STREAM = """
import json, os, sys, tempfile, threading, time, jax, jax.numpy as jnp, numpy as np
from jacobia import jacobian

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

A, C = jax.random.normal(jax.random.key(0), (40_000, 64)), jax.random.normal(jax.random.key(1), (64, 2_000))
points = [jnp.full(2_000, 0.01 * k) for k in range(1, 6)]
jac = jacobian(lambda x: jnp.tanh(A @ (C @ x)), memory_limit=64 << 20)
whole = jacobian(lambda x: jnp.tanh(A @ (C @ x)))
jacobian(lambda x: jnp.tanh(A[:8] @ (C @ x)))(points[0])[...].block_until_ready()
base, peak, done = rss(), [0], threading.Event()

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], rss())

watcher = threading.Thread(target=watch)
watcher.start()

def stream(x):
    for _, rows in jac(x).blocks(offload="host"):
        pass

def save(x):
    with tempfile.TemporaryDirectory() as folder:
        jac(x).save(folder + "/J")

stream(points[0])
save(points[0])
done.set()
watcher.join()
taken = peak[0] - base
whole(points[0])[...].block_until_ready()
times = {"blocks": [], "save": [], "memory": []}
for x in points[1:]:
    for name, run in (("blocks", stream), ("save", save), ("memory", lambda x: whole(x)[...].block_until_ready())):
        start = time.perf_counter()
        run(x)
        times[name].append(time.perf_counter() - start)
print(json.dumps([taken, *[float(np.median(times[k])) for k in times]]))
"""


def _run(code: str, devices: int = 1) -> list:
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def mesh_memory(quick: bool) -> list[Result]:
    """Dense rows, spread over two to eight devices, beside one device."""
    results, (one, _) = [], _run(_PEAK)
    for devices in (2, 4, 8):
        peak, collectives = _run(_PEAK, devices)
        what = f"rows of 8192 × 4096 over {devices} devices"
        bar = 1.1 / devices if devices == 8 else None
        note = f"{peak / MIB:.3g} / {one / MIB:.3g} MiB"
        results.append(Result(f"{what}, peak of each beside that of one", peak / one, "×", bar, note=note))
        results.append(Result(f"{what}, collectives in the kernel", collectives, "", 0))
    return results


def streaming(quick: bool) -> list[Result]:
    """A Jacobian of 40,000 × 2,000 float32 numbers, in blocks, under a limit of 64 MiB."""
    taken, blocks, save, memory = _run(_STREAM)
    what = "blocks of 40,000 × 2,000 (320 MB), memory_limit of 64 MiB"
    times, saved = f"{blocks:.3g} / {memory:.3g} s", f"{save:.3g} / {memory:.3g} s"
    return [
        Result(f"{what}, memory beside the baseline, read and saved", taken / 1e6, "MB", 160),
        Result(f"{what}, time beside all of it in memory", blocks / memory, "×", 1.3, note=times),
        Result(f"{what}, saved and synced, beside the same", save / memory, "×", note=saved),
    ]


BARS: dict[str, Callable[[bool], list[Result]]] = {"mesh-memory": mesh_memory, "streaming": streaming}
