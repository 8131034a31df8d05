"""Rows of a function that evaluates samples one by one: each is pulled back through the program of its own sample.

Each output of a network for a batch depends on the shared weights and on one sample. A pullback through the whole batch
would compute with all other samples, only to add zeros. So the linear program of one sample is cut out of that of the
batch (`_program/axis`), and transposed.
Knows linear programs and numbers of rows. Knows nothing of blocks or stores.
Shapes: B samples, K rows of each, M = B K rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jacobia._call.linearize import Point, inputs_of
from jacobia._call.trace import Program
from jacobia._compat import opened
from jacobia._program.axis.cut import cut
from jacobia._program.readings.cost import peak_bytes, seed_cost, written_bytes
from jacobia._run.seeds import Spaces, Sweep, all_of, applied_program, mapped, run_sweep, sweeps_at
from jacobia._space import Space

# Rows are pulled back through one sample only if that costs at most this fraction of a pullback through the batch.
_PART = 0.5
# If up to this many arrays have an axis of length B, each of them alone is tried as the one with samples.
_TRIED = 4


class Apart(NamedTuple):
    """The linear program of one sample."""

    push: Callable[[Any, Sequence, Sequence], list]  # (sample, constants and leaves, tangents) → tangents of y
    size: int  # B
    own: Space  # the outputs of one sample, `(1, *y.shape[1:])`
    row: Any  # the program of one row
    has_rules: bool  # whether it holds the bodies of functions with derivative rules, in place of the rules

    @property
    def cost(self) -> float:
        """The cost of a row, in elements read or written."""
        return seed_cost(self.row, 1, False)

    @property
    def nbytes(self) -> int:
        """The bytes that a row keeps alive."""
        return peak_bytes(self.row)

    @property
    def heavy(self) -> int:
        """The bytes that a row writes to memory."""
        return written_bytes(self.row)


def apart(
    program: Program, positions: tuple[int, ...], spaces: Spaces, out: int, ins: tuple[int, ...], whole: float
) -> Apart | None:
    """The linear program of one sample, for rows of the output leaf `out`.

    Args:
      whole: the cost of a row through the program of all samples.

    Returns:
      None where f does not keep samples apart, has no pushforward, or rows would not cost less.
    """
    shape = spaces.outputs.shapes[out]
    if not shape or shape[0] < 2 or 0 in shape:
        return None
    skip, size = len(program.jaxpr.invars) - program.num_leaves, shape[0]
    differentiated = {skip + positions[k] for k in ins}
    having = {
        k: v.aval.shape.index(size)
        for k, v in enumerate(program.jaxpr.invars)
        if k not in differentiated and size in getattr(v.aval, "shape", ())
    }
    if not having:
        return None
    try:
        jaxpr, consts = opened(applied_program(program, positions, spaces, "columns", "jvp", (out,), ins))
    except (TypeError, ValueError, NotImplementedError):
        return None  # f has no pushforward
    own = Space(((1, *shape[1:]),), spaces.outputs.pick((out,)).dtypes, ("",))
    tangents = spaces.inputs.pick(ins)
    for chosen in _choices(having):
        axes = [chosen.get(k) for k in range(len(program.jaxpr.invars))]
        made = cut(jaxpr, [None] * len(consts) + axes + [None] * len(ins), [0], size)
        if made is None:
            continue

        def push(sample: Any, args: Sequence, ts: Sequence, made: Any = made, axes: list = axes) -> list:
            given = [
                a if axis is None else jax.lax.dynamic_slice_in_dim(a, sample, 1, axis)
                for a, axis in zip(args, axes, strict=True)
            ]
            return made(sample, [*consts, *given, *ts])

        row = lambda args, index, push=push: _row(push, own, tangents, args, index)  # noqa: E731
        try:
            traced = jax.make_jaxpr(row)(inputs_of(program), jax.ShapeDtypeStruct((), jnp.int32)).jaxpr
        except (TypeError, ValueError, NotImplementedError):
            continue  # a loop that has no transpose
        found = Apart(push, size, own, traced, made.has_rules)
        if found.cost < _PART * whole:
            return found
    return None


def _choices(having: dict[int, int]) -> Iterator[dict[int, int]]:
    # Which arrays have a batch axis: first all that could, then each one alone, since weights may have an axis of the
    # same length. An array with samples that is not chosen is divided where it meets a chosen one.
    yield having
    if 1 < len(having) <= _TRIED:
        yield from ({k: axis} for k, axis in having.items())


def _pull(push: Callable, tangents: Space, args: Sequence, sample: Any) -> Callable[[list], list]:
    transposed = jax.linear_transpose(lambda ts: push(sample, args, ts), tangents.zeros())
    return lambda cotangents: transposed(cotangents)[0]


def _row(push: Callable, own: Space, tangents: Space, args: Sequence, index: Any) -> list:
    return _pull(push, tangents, args, index // own.size)(own.basis(index % own.size))


def sweep_apart(found: Apart, point: Point, spaces: Spaces, sweep: Sweep, ids: Any) -> list[jax.Array]:
    """Rows, each pulled back through its own sample; equal to those of `sweeps_at`, which uses all samples."""

    def through_own(consts: Sequence, leaves: Sequence, ids: Any) -> list[jax.Array]:
        return _rows(found, spaces, sweep, [*consts, *leaves], ids)

    bare = point._replace(consts=[], leaves=[])  # a derivative rule outlives the trace in which it is made

    def through_all(consts: Sequence, leaves: Sequence, ids: Any) -> list[jax.Array]:
        return sweeps_at(bare._replace(consts=consts, leaves=leaves), spaces, (sweep,), (ids,))[0]

    if not found.has_rules:
        return through_own(point.consts, point.leaves, ids)
    run = jax.custom_jvp(through_own)  # derivatives of rows use the derivative rules of f
    run.defjvp(lambda primals, tangents: jax.jvp(through_all, primals, tangents))
    return run(point.consts, point.leaves, ids)


def _rows(found: Apart, spaces: Spaces, sweep: Sweep, args: Sequence, ids: Any) -> list[jax.Array]:
    basis, tangents = spaces.outputs.pick(sweep.seeded), spaces.inputs.pick(sweep.read)
    per = found.own.size
    if sweep.width is not None or per == 1 or sweep.diagonal:
        return run_sweep(sweep, lambda index: _row(found.push, found.own, tangents, args, index), basis, ids)

    def of_sample(sample: Any) -> list[jax.Array]:  # the rows of a sample share one linear program
        pull, own = _pull(found.push, tangents, args, sample), found.own
        return run_sweep(sweep._replace(chunk=None), lambda local: pull(own.basis(local)), own, None)

    chunk = None if sweep.chunk is None else max(1, sweep.chunk // per)
    out = all_of(mapped(of_sample, 0, 0), found.size, chunk, 0)
    (shape,) = basis.shapes
    if sweep.flat:
        return [a.reshape(math.prod(shape), -1) for a in out]
    return [a.reshape(*shape, *x) for a, x in zip(out, tangents.shapes, strict=True)]


def rows_or_columns(found: Apart | None, point: Point, spaces: Spaces, sweep: Sweep, ids: Any) -> list[jax.Array]:
    """A sweep at a point; with `found`, each row is pulled back through its own sample."""
    if found is None:
        return sweeps_at(point, spaces, (sweep,), (ids,))[0]
    return sweep_apart(found, point, spaces, sweep, ids)
