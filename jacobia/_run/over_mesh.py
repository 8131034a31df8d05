"""Sweeps at one point, with seeds or samples spread over a mesh: one kernel, and its answers in their own shapes.

Knows how a point is linearized, and how meshes are used. Knows nothing of blocks, nor of what is remembered.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jacobia._program.axis.cut import Cut
from jacobia._run.apart import rows_or_columns
from jacobia._run.kernels import Kind, call
from jacobia._run.seeds import Sweep, num_seeds, sweep_in_blocks
from jacobia._run.spread import Spread, shapes_of
from jacobia._run.stacked import at_each
from jacobia._space import Batch


def over_mesh(origin: Any, spread: Spread, sweeps: tuple[Sweep, ...], ids: Sequence) -> list:
    """For each sweep its answers, divided among the devices of a mesh.

    Args:
      origin: f linearized at a point (`point.Linearized`).
    """
    blue, lead = origin.blue, len(origin.batch)
    body = at_each(_body(origin, spread, sweeps), origin.stacks, None)
    apart = _is_apart(origin, spread)
    given = tuple(spread.numbers(i) if apart and _spreads(origin, s) else i for s, i in zip(sweeps, ids, strict=True))
    if origin.compiles:
        kind = Kind("spread", blue.positions, blue.spaces, sweeps, origin.stacks, spread)
        out = call(blue.program, blue.positions, kind, body, origin.consts, origin.leaves, given)
    else:
        out = body(origin.consts, origin.leaves, given)
    made = []
    for arrays, padded in zip(out, [_padded_axes(origin, s) for s in sweeps], strict=True):
        if padded and apart:
            arrays = [
                spread.exact(a, lead + axis, count, origin.batch + shape)
                for a, (axis, count, shape) in zip(arrays, padded, strict=True)
            ]
        made.append(arrays)
    return made


def _is_apart(origin: Any, spread: Spread) -> bool:
    # A trace may be differentiated, and JAX has no derivatives of what is manual along some axes of a mesh alone.
    return origin.compiles or len(spread.mesh.axis_names) == 1


def _body(origin: Any, spread: Spread, sweeps: tuple[Sweep, ...]) -> Callable:
    blue = origin.blue
    spaces, axes, batch = blue.spaces, blue.sample_axes, blue.spaces.batch
    apart = _is_apart(origin, spread)

    def alone(sweep: Sweep, consts: Sequence, leaves: Sequence, ids: Any) -> list:
        return rows_or_columns(origin.apart_of(sweep), blue.point(consts, leaves), spaces, sweep, ids)

    def of_samples(cut: Cut, sweep: Sweep, batch: Batch) -> Callable:
        def run(consts: Sequence, leaves: Sequence, ids: Any, first: Any, count: int) -> list:
            some = spaces._replace(batch=replace(batch, size=count))
            return sweep_in_blocks(cut, blue.point(consts, leaves), some, sweep, ids, first, batch.size)

        return spread.over_samples(axes, batch.size, 1 if sweep.flat else len(sweep.read), run)

    def kernel(sweep: Sweep) -> Callable:
        cut = origin.cut_of(sweep)
        if apart and cut is not None and batch is not None:
            return of_samples(cut, sweep, batch)
        return spread.over_seeds(sweep, spaces, alone) if apart and _spreads(origin, sweep) else partial(alone, sweep)

    kernels = [kernel(s) for s in sweeps]
    return lambda consts, leaves, ids: [k(consts, leaves, i) for k, i in zip(kernels, ids, strict=True)]


def _spreads(origin: Any, sweep: Sweep) -> bool:
    # Whether the seeds are spread, and not the samples.
    return origin.cut_of(sweep) is None and num_seeds(sweep, origin.blue.spaces) > 1


def _padded_axes(origin: Any, sweep: Sweep) -> list[tuple[int, int, tuple[int, ...]]]:
    # Of each answer, the axis with padding, how many places count there, and its shape without; none: no padding.
    spaces = origin.blue.spaces
    found = shapes_of(sweep, spaces)
    if origin.cut_of(sweep) is not None and spaces.batch is not None:
        return [(0, spaces.batch.size, shape) for *_, shape in found]
    return found if _spreads(origin, sweep) else []
