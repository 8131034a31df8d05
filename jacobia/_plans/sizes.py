"""How wide a kernel is, and how many of its seeds run at once, within the memory limit.

Knows counts and bytes. Knows nothing of keys or stores.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._run import limits as _limits
from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep
from jacobia._words import counted


def padded(numbers: Any, sweep: Sweep) -> Any:
    """Numbers of seeds in the form that the kernel of a sweep takes: int32, padded to its width; None: all seeds."""
    if numbers is None or sweep.width is None:
        return None
    return padded_to(numbers, sweep.width) if sweep.padded else jnp.asarray(numbers, jnp.int32)


def padded_to(numbers: np.ndarray, width: int, padding: int = -1) -> np.ndarray:
    """Numbers of seeds or samples, shape (R,), followed by `padding` up to shape (width,)."""
    out = np.full(width, padding, np.int32)
    out[: numbers.size] = numbers
    return out


def sized(
    origin: Linearized,
    way: str,
    outs: tuple,
    ins: tuple,
    numbers: Any,
    diagonal: bool = False,
    samples: int | None = None,
    exact: bool = False,
) -> Sweep:
    """A sweep over the seeds `numbers` (None: all), for `samples` samples (None: all), within the memory limit.

    `exact`: the width is the number of seeds, without padding, for a caller that always passes the same number.

    The width, and how many seeds run at once, are decided last, since they depend on everything else. Where memory
    need not be checked they depend on the arguments alone, and the sweep is kept.

    Raises:
      MaterializationError: the result is larger than the memory limit.
    """
    blue, padded = origin.blue, numbers is not None and origin.compiles and not exact
    seeded, read = blue.spaces.outputs.pick(outs), blue.spaces.inputs.pick(ins)
    if way != "rows":
        seeded, read = read, seeded
    seeds = seeded.size if numbers is None else len(numbers)
    width = _limits.padded_width(seeds, seeded.size) if padded else seeds
    by = blue.by(way, outs, ins)
    name = (way, by, outs, ins, None if numbers is None else width, padded, diagonal, origin.batch, samples)
    known = blue.found.get("sweep", name)
    if known is not None:
        return known
    answer = 1 if diagonal else read.size
    share = 1.0 if samples is None else samples / math.prod(origin.lead)
    line = int(answer * max(d.itemsize for d in seeded.dtypes + read.dtypes) * math.prod(origin.lead) * share)
    per_seed = int(blue.nbytes_of_seed(way, outs, ins) * math.prod(origin.batch) * share)
    each = -(-width // blue.devices)  # seeds of one device
    limit = origin.limit(each * (line + per_seed))
    _limits.check_result(
        f"{blue.name}: {counted(seeds, way)} of a Jacobian",
        -(-seeds // blue.devices) * line,
        limit,
        _limits.READ_LESS,
    )
    if limit is not None and each * line > limit:
        width = seeds  # with padding the result would not fit: a kernel for exactly these seeds
        each = -(-width // blue.devices)
    chunk = _limits.chunk(each, per_seed, each * line, blue.chunk_size, limit)
    block = None
    if chunk is None and samples is None and blue.chunk_size == "auto" and origin.cores:
        if blue.spaces.batch is not None:
            size = blue.spaces.batch.size
            block = _limits.fits_cache(size, blue.heavy * width // size, origin.cores, samples=True)
        elif way == "rows" and numbers is None:  # chunks of columns would have to be transposed into place
            chunk = _limits.fits_cache(each, blue.heavy_of_seed(way, outs, ins), origin.cores)
    sweep = blue.sweep(way, outs, ins, None if numbers is None else width, chunk, padded, diagonal, block)
    return blue.found.put("sweep", name, sweep) if limit is None else sweep
