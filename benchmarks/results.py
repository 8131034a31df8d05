"""The result of a bar, and what bars share: ratios, rounds, checks against a closed form, a counter of compilations."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.peers import BASE
from benchmarks.workloads import Workload, check, check_closed_form, inputs
from jacobia import jacobian

MIB = 2**20


@dataclass(frozen=True)
class Result:
    """One line of the table. Without a limit it only informs, and cannot fail."""

    bar: str
    measured: float | None  # None: the measurement failed, and the note says how
    unit: str
    limit: float | None = None
    at_least: bool = False
    note: str = ""
    skipped: bool = False  # whether a library is not installed; the note names it

    @property
    def failed(self) -> bool:
        return self.measured is None and not self.skipped

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "skipped" if self.skipped else "**failed**"
        if self.limit is None:
            return ""
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "**missed**"

    @property
    def loses(self) -> bool:
        """Whether jacobia takes longer than what it is compared with."""
        if self.measured is None:
            return False
        return (self.unit == "×" and self.measured > 1) or (self.unit == "× faster" and self.measured < 1)


def slower(bar: str, times: timing.Times, ours: str, other: str, limit: float | None = None, unit: str = "×") -> Result:
    """A result: the time of `ours` divided by that of `other`."""
    note = f"{median(times[ours])} / {median(times[other])}"
    return Result(bar, timing.ratio(times[ours], times[other]), unit, limit, note=note)


def faster(bar: str, times: timing.Times, ours: str, other: str, limit: float | None = None) -> Result:
    """A result: the time of `other` divided by that of `ours`."""
    note = f"{median(times[other])} / {median(times[ours])}"
    return Result(bar, timing.ratio(times[other], times[ours]), "× faster", limit, at_least=True, note=note)


def median(times: list[float]) -> str:
    return timing.human(statistics.median(times))


def wait(result: jax.Array) -> jax.Array:
    return result.block_until_ready()


def rounds(contenders: timing.Contenders, points: list, quick: bool, wait: Callable = wait) -> timing.Times:
    count, budget = (5, 0.02) if quick else (15, 0.1)
    return timing.rounds_in_turn(contenders, points, wait, count, budget)


def checked(workload: Workload, count: int = 32) -> tuple[Callable, list[jax.Array], Callable]:
    """f (for a Hessian, its gradient), points, and a check of contenders, to be called before they are timed."""
    check_closed_form(workload)
    f = workload.build(jnp, jnp.asarray)
    points = inputs(workload, count)

    def right(contenders: timing.Contenders) -> None:
        for name, call in contenders.items():
            for x in points[:2]:  # two calls, since the first may be the one that compiles
                try:
                    check(workload, x, np.asarray(call(jnp.asarray(x))))
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error

    return jax.grad(f) if workload.hessian else f, [jnp.asarray(x) for x in points], right


def all_of_it(workload: Workload, quick: bool, count: int = 32) -> tuple[timing.Times, str]:
    """`J[...]` at a new x: times of "kept", "anew", "in jit" and `BASE`, and the name of the faster one in `BASE`."""
    f, points, right = checked(workload, count)
    jac = jacobian(f)
    contenders = {
        "kept": lambda x: jac(x)[...],
        "anew": lambda x: jacobian(f)(x)[...],
        "in jit": jax.jit(lambda x: jacobian(f)(x)[...]),
        BASE[0]: jax.jit(jax.jacrev(f)),
        BASE[1]: jax.jit(jax.jacfwd(f)),
    }
    right(contenders)
    times = rounds(contenders, points, quick)
    return times, timing.better(times, BASE)


def by_any_rows(f: Callable, x: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows with these numbers, (R, N), by hand, for an f from vectors to vectors."""
    y, pullback = jax.vjp(f, x)
    return jax.vmap(lambda seed: pullback(seed)[0])(jax.nn.one_hot(rows, y.size, dtype=y.dtype))


class Compilations:
    """Counts what XLA compiles in this process."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        jax.jit(lambda x: x * 3 + 1)(jnp.zeros(5))
        if not self.count:
            raise RuntimeError("Compilations(): expected an event for a program, got none. Was it renamed?")

    def _listen(self, event: str, duration: float, **_) -> None:
        self.count += "backend_compile" in event
