"""Fair timing: contenders run in turn, each call has a new input, and ratios are taken within a round.

Knows neither JAX nor any other library: the caller says how to wait for a result.
All times are in seconds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle

Contenders = dict[str, Callable]
Times = dict[str, list[float]]  # one number a round


def turn(call: Callable, inputs: Sequence, wait: Callable, budget: float) -> float:
    """Median time of a call, over as many calls as fit into `budget`: at least one, at most 200.

    Every call takes the next input and waits for the result. The first calls are not counted, since another contender
    ran before.
    """
    points = cycle(inputs)

    def one() -> float:
        x = next(points)
        start = time.perf_counter()
        wait(call(x))
        return time.perf_counter() - start

    estimate = one()
    if estimate < budget / 10:
        estimate = one()
    return statistics.median(one() for _ in range(max(1, min(200, int(budget / estimate)))))


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds_in_turn(
    contenders: Contenders, inputs: Sequence, wait: Callable, rounds: int, budget: float
) -> Times:
    """Warm up all contenders, then time them in the order A B C, A B C, ...: `rounds` times for each."""
    for call in contenders.values():
        for x in inputs[:3]:
            wait(call(x))
    times: Times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(turn(call, inputs, wait, budget))
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of `times` divided by `others` in the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def better(times: Times, names: Sequence[str]) -> str:
    """The name, among `names`, with the lowest median time."""
    return min(names, key=lambda name: statistics.median(times[name]))


def human(seconds: float) -> str:
    """0.00042 → '420 µs'."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
