"""Every library on every workload, each library in a process of its own, and in a Python of its own on request.

The parent starts one worker for each library, prepares a workload in all of them, and then gives them turns: jax,
jacobia, torch, paddle, jax, ... A worker checks each answer against the closed form, then times it. Parent and workers
exchange JSON lines. Libraries keep their own default number of threads.
"""

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks import timing
from benchmarks.workloads import WORKLOADS, Workload, check, check_closed_form, inputs

ROOT = Path(__file__).resolve().parents[1]
BASE = ("jax.jit(jacrev)", "jax.jit(jacfwd)")  # times are divided by that of the faster of the two
OURS = "jacobia"


@dataclass
class Table:
    """`ratios[contender][workload]`: the time over that of the faster of `BASE`, or a string: why there is none."""

    ratios: dict[str, dict[str, float | str]] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)  # workload → "jacfwd, 300 µs"
    yardsticks: dict[str, float] = field(default_factory=dict)  # library → NumPy loop in its process / in jax's
    spread: float = 1.0  # the slowest NumPy loop of all turns over the fastest
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


# ---- the worker ----


@dataclass
class Setup:
    array: Callable  # NumPy array → the library's array
    contenders: timing.Contenders
    wait: Callable = lambda result: result  # the default: results are ready when they are returned


def _prepare_jax(workload: Workload) -> Setup:
    import jax
    import jax.numpy as jnp

    f = workload.build(jnp, jnp.asarray)
    f = jax.grad(f) if workload.hessian else f
    rows = workload.rows or slice(None)
    plain = jax.jacrev if workload.num_outputs < workload.num_inputs else jax.jacfwd
    contenders = {
        "jax.jit(jacrev)": jax.jit(lambda x: jax.jacrev(f)(x)[rows]),
        "jax.jit(jacfwd)": jax.jit(lambda x: jax.jacfwd(f)(x)[rows]),
        "jax, not jitted": lambda x: plain(f)(x)[rows],
    }
    if workload.rows:
        contenders["jax.jit(vmap of a vjp), by hand"] = jax.jit(by_hand(f, workload))
    return Setup(jnp.asarray, contenders, jax.block_until_ready)


def by_hand(f: Callable, workload: Workload) -> Callable:
    """The rows of the workload by a hand-written `vmap` of a `vjp`."""
    import jax
    import jax.numpy as jnp

    def rows(x):
        y, pullback = jax.vjp(f, x)
        seeds = jax.nn.one_hot(np.arange(y.size)[workload.rows], y.size, dtype=y.dtype)
        return jax.vmap(lambda seed: pullback(seed.reshape(jnp.shape(y)))[0])(seeds)

    return rows


def _prepare_jacobia(workload: Workload) -> Setup:
    import jax
    import jax.numpy as jnp

    from jacobia import jacobian

    f = workload.build(jnp, jnp.asarray)
    f = jax.grad(f) if workload.hessian else f
    key = workload.rows or ...
    jac = jacobian(f)
    contenders = {
        OURS: lambda x: jac(x)[key],
        "jacobia, jacobian(f) made anew": lambda x: jacobian(f)(x)[key],
        "jacobia, inside jax.jit": jax.jit(lambda x: jacobian(f)(x)[key]),
    }
    return Setup(jnp.asarray, contenders, jax.block_until_ready)


def _prepare_torch(workload: Workload) -> Setup:
    import torch
    from torch.autograd import functional

    f = workload.build(torch, torch.from_numpy)
    if workload.hessian:
        gradient = torch.func.grad(f)
        contenders = {
            "torch.func.jacrev": torch.func.jacrev(gradient),
            "torch.func.jacfwd": torch.func.jacfwd(gradient),
            "torch.autograd.functional, loop": lambda x: functional.hessian(f, x),
            "torch.autograd.functional, vectorize": lambda x: functional.hessian(f, x, vectorize=True),
        }
    else:
        rows = workload.rows or slice(None)
        chosen = (lambda x: f(x)[rows]) if workload.rows else f  # torch.func is fastest on the function x -> f(x)[rows]
        contenders = {
            "torch.func.jacrev": torch.func.jacrev(chosen),
            "torch.func.jacfwd": torch.func.jacfwd(chosen),
            "torch.autograd.functional, loop": lambda x: functional.jacobian(f, x)[rows],
            "torch.autograd.functional, vectorize": lambda x: functional.jacobian(f, x, vectorize=True)[rows],
        }
    return Setup(torch.from_numpy, contenders)


def _prepare_paddle(workload: Workload) -> Setup:
    import paddle

    f = workload.build(paddle, paddle.to_tensor)
    transform = paddle.autograd.hessian if workload.hessian else paddle.autograd.jacobian

    flat = len(workload.shape) > 1  # paddle's transforms take vectors only

    def call(x):
        y = f(x.reshape(workload.shape)).reshape([-1]) if flat else f(x)
        return transform(y, x)[workload.rows or slice(None)]

    def array(a):
        return paddle.to_tensor(a.ravel(), stop_gradient=False)

    return Setup(array, {"paddle.autograd": call})


PREPARE = {
    "jax": _prepare_jax,
    "jacobia": _prepare_jacobia,
    "torch": _prepare_torch,
    "paddle": _prepare_paddle,
}


def _as_numpy(result) -> np.ndarray:
    return np.asarray(result.detach() if hasattr(result, "detach") else result)


def _numpy_yardstick() -> float:
    a = np.full((64, 64), 1 / 64)
    start = time.perf_counter()
    for _ in range(500):
        a = a @ a
    return time.perf_counter() - start


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:150]


def _versions(library: str) -> dict[str, str]:
    modules = {"jax": ["jax", "jaxlib"], "jacobia": ["jacobia"]}.get(library, [library])
    found = {m: getattr(importlib.import_module(m), "__version__", "unknown") for m in modules}
    return found | {"Python": platform.python_version(), "NumPy": np.__version__}


def worker(library: str) -> None:
    """Serve `prepare` and `turn` requests on standard input until it closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # prints of a library go to standard error, so that they do not mix with the replies

    def reply(**message) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        reply(versions=_versions(library))
    except Exception as error:
        reply(missing=_reason(error))
        return
    ready: dict[str, Callable] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            ready, failed = {}, {}
            workload = WORKLOADS[request["prepare"]]
            points = inputs(workload)
            try:
                setup = PREPARE[library](workload)
                arrays = [setup.array(x) for x in points]
            except Exception as error:
                reply(ready=[], failed={library: _reason(error)})
                continue
            for name, call in setup.contenders.items():
                try:
                    for _ in range(2):  # the second call is checked, since the first may be the one that compiles
                        answer = _as_numpy(call(arrays[0]))
                    check(workload, points[0], answer)
                    ready[name] = call
                except Exception as error:
                    failed[name] = _reason(error)
            answer = None
            reply(ready=list(ready), failed=failed)
        else:
            time.sleep(0.25)  # threads of the previous library may still be spinning
            yardstick = _numpy_yardstick()
            times, failed = {}, {}
            for name in list(ready):
                try:
                    times[name] = timing.turn(ready[name], arrays, setup.wait, request["turn"])
                except Exception as error:
                    failed[name] = _reason(error)
                    del ready[name]
            reply(times=times, failed=failed, yardstick=yardstick)


# ---- the parent ----


class Worker:
    """A library in its own process."""

    def __init__(self, library: str, python: str):
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.peers", library],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.hello = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "the process ended", "failed": {}, "times": {}}

    def ask(self, **request) -> dict:
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # answer() notices that the worker has ended
        return self.answer()

    def close(self) -> None:
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def run(pythons: dict[str, str], quick: bool) -> Table:
    """Time all libraries on all workloads. `pythons`: library → the Python interpreter that has it."""
    rounds, budget = (3, 0.03) if quick else (9, 0.2)
    table = Table()
    workers = {}
    for library in PREPARE:
        started = Worker(library, pythons.get(library, sys.executable))
        if "versions" in started.hello:
            workers[library] = started
            for name, version in started.hello["versions"].items():
                same = table.versions.get(name, version) == version
                table.versions[name if same else f"{name} of {library}"] = version
        else:
            table.skipped[library] = started.hello["missing"]
            print(f"{library}: skipped, {started.hello['missing']}", file=sys.stderr)
            started.close()
    if "jax" not in workers:
        raise RuntimeError(f"peers: expected jax as the yardstick, got {table.skipped['jax']}")
    yardsticks: dict[str, list[float]] = {library: [] for library in workers}
    for name, workload in WORKLOADS.items():
        print(f"{workload.title} ...", file=sys.stderr, flush=True)
        check_closed_form(workload)
        failed: dict[str, str] = {}
        times: timing.Times = {}
        for library, w in list(workers.items()):
            told = w.ask(prepare=name)
            failed |= told["failed"]
            if "missing" in told:
                table.skipped[library] = f"{told['missing']} at {workload.title}"
                workers.pop(library).close()
        for _ in range(rounds):
            for library, w in workers.items():
                told = w.ask(turn=budget)
                failed |= told["failed"]
                yardsticks[library].append(told.get("yardstick", float("nan")))
                for contender, seconds in told["times"].items():
                    times.setdefault(contender, []).append(seconds)
        base = timing.better(times, [b for b in BASE if b in times])
        table.base[name] = f"{base}, {timing.human(statistics.median(times[base]))}"
        for contender, measured in times.items():
            complete = len(measured) == rounds
            table.ratios.setdefault(contender, {})[name] = (
                timing.ratio(measured, times[base]) if complete else "failed"
            )
        for contender, why in failed.items():
            print(f"  {contender}: {why}", file=sys.stderr)
            table.ratios.setdefault(contender, {})[name] = why
    for library, w in workers.items():
        w.close()
        table.yardsticks[library] = timing.ratio(yardsticks[library], yardsticks["jax"])
    loops = list(chain(*yardsticks.values()))
    table.spread = max(loops) / min(loops)
    return table


if __name__ == "__main__":
    worker(sys.argv[1])
