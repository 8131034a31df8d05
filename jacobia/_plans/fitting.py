"""Fewer seeds at once, where the compiled kernel would take more memory than the limit.

How many seeds fit is first estimated (`_plans/sizes.py`) from the largest intermediates of f. The compiled kernel may
take more memory than that, which the compiler reports.
Knows sweeps and bytes. Knows nothing of keys or stores.
"""

from collections.abc import Sequence

from jacobia._run.kernels import Taken, analysed
from jacobia._run.limits import balanced
from jacobia._run.point import Linearized
from jacobia._run.seeds import Image, Sweep, num_seeds

# An estimate below this share of the limit is trusted: no kernel was seen to take eight times its estimate.
_NEAR = 1 / 8


def fitting(
    origin: Linearized, sweeps: tuple[Sweep, ...], ids: Sequence, images: tuple[Image, ...]
) -> tuple[Sweep, ...]:
    """The sweeps, in chunks that fit under the limit by the compiler's memory analysis of their kernel.

    The analysis compiles the kernel, which is kept and then run.
    """
    blue = origin.blue
    if blue.spread is not None:
        return sweeps
    most = max(_at_once(origin, s) for s in sweeps)
    if blue.chunk_size != "auto" or not origin.compiles or origin.batch or most == 1:
        return sweeps
    each = [blue.nbytes_of_seed(s.way, *s.ends) for s in sweeps]
    limit = origin.limit(sum(num_seeds(s, blue.spaces) * n for s, n in zip(sweeps, each, strict=True)))
    if limit is None or most * max(each) < _NEAR * limit or origin.keeps_for(sweeps):
        return sweeps
    while most > 1:
        taken = _taken(origin, sweeps, ids, images)
        if taken.peak <= limit:
            break
        fewer = int(most * max(0, limit - taken.result) / max(1, taken.temporaries))
        most = max(1, min(fewer, most // 2))
        sweeps = tuple(_in_chunks(origin, s, most) for s in sweeps)
    return sweeps


def _taken(origin: Linearized, sweeps: tuple[Sweep, ...], ids: Sequence, images: tuple[Image, ...]) -> Taken:
    made = lambda: analysed(lambda: origin.again().run(sweeps, ids, images))  # noqa: E731
    return origin.blue.found.find("taken", (sweeps, images), made)


def _at_once(origin: Linearized, sweep: Sweep) -> int:
    # A sweep in blocks of samples is not split into chunks of seeds.
    if sweep.block is not None:
        return 1
    return num_seeds(sweep, origin.blue.spaces) if sweep.chunk is None else sweep.chunk


def _in_chunks(origin: Linearized, sweep: Sweep, most: int) -> Sweep:
    if _at_once(origin, sweep) <= most:
        return sweep
    return sweep._replace(chunk=balanced(num_seeds(sweep, origin.blue.spaces), most))
