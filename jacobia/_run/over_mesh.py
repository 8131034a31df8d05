"""Sweeps at one point, with seeds or samples spread over a mesh: one kernel, whose answers lose their padding.

Knows how a point is linearized, and how meshes are used. Knows nothing of blocks or stores.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jacobia._run.apart import rows_or_columns
from jacobia._run.kernels import Kind, call
from jacobia._run.seeds import Sweep, num_seeds, sweep_in_blocks
from jacobia._run.spread import Spread, shapes_of
from jacobia._run.stacked import at_each


def over_mesh(origin: Any, spread: Spread, sweeps: tuple[Sweep, ...], ids: Sequence) -> list:
    """The answers of each sweep, divided among the devices of a mesh.

    Args:
      origin: f linearized at a point (`point.Linearized`).
    """
    blue, lead = origin.blue, len(origin.batch)
    ways = [_spread_by(origin, spread, sweep) for sweep in sweeps]
    body = at_each(_body(origin, spread, sweeps, ways), origin.stacks, None)
    given = tuple(spread.numbers(i) if way == "seeds" else i for way, i in zip(ways, ids, strict=True))
    if origin.compiles:
        kind = Kind("spread", blue.positions, blue.spaces, sweeps, origin.stacks, spread)
        out = call(blue.program, blue.positions, kind, body, origin.consts, origin.leaves, given)
    else:
        out = body(origin.consts, origin.leaves, given)
    made = []
    for arrays, sweep, way in zip(out, sweeps, ways, strict=True):
        if way is not None:
            padded = shapes_of(sweep, blue.spaces)
            if way == "samples":
                padded = [(0, blue.spaces.batch.size, shape) for *_, shape in padded]
            arrays = [
                spread.exact(a, lead + axis, count, origin.batch + shape)
                for a, (axis, count, shape) in zip(arrays, padded, strict=True)
            ]
        made.append(arrays)
    return made


def _spread_by(origin: Any, spread: Spread, sweep: Sweep) -> str | None:
    # "samples" or "seeds"; None: every device computes all of the sweep. A traced sweep may be differentiated, and JAX
    # does not differentiate `shard_map` over a part of the axes of a mesh.
    if not origin.compiles and len(spread.mesh.axis_names) > 1:
        return None
    if origin.cut_of(sweep) is not None:
        return "samples"
    return "seeds" if num_seeds(sweep, origin.blue.spaces) > 1 else None


def _body(origin: Any, spread: Spread, sweeps: tuple[Sweep, ...], ways: Sequence[str | None]) -> Callable:
    blue = origin.blue
    spaces, axes, batch = blue.spaces, blue.sample_axes, blue.spaces.batch

    def alone(sweep: Sweep, consts: Sequence, leaves: Sequence, ids: Any) -> list:
        return rows_or_columns(origin.apart_of(sweep), blue.point(consts, leaves), spaces, sweep, ids)

    def of_samples(sweep: Sweep) -> Callable:
        cut = origin.cut_of(sweep)

        def run(consts: Sequence, leaves: Sequence, ids: Any, first: Any, count: int) -> list:
            some = spaces._replace(batch=replace(batch, size=count))
            return sweep_in_blocks(cut, blue.point(consts, leaves), some, sweep, ids, first, batch.size)

        return spread.over_samples(axes, batch.size, 1 if sweep.flat else len(sweep.read), run)

    def kernel(sweep: Sweep, way: str | None) -> Callable:
        if way == "samples":
            return of_samples(sweep)
        return partial(alone, sweep) if way is None else spread.over_seeds(sweep, spaces, alone)

    kernels = [kernel(s, way) for s, way in zip(sweeps, ways, strict=True)]
    return lambda consts, leaves, ids: [k(consts, leaves, i) for k, i in zip(kernels, ids, strict=True)]
