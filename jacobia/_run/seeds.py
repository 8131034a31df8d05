"""Sweeps: seeds through the pullback (rows) or the pushforward (columns) under `vmap`.

A linear program is applied to seeds. Their numbers may be traced, so one kernel serves all sets of as many seeds.
Knows linear programs and numbers of seeds. Knows nothing of blocks or stores.
Shapes: B samples, M outputs, N inputs, R requested rows or columns, S some of the samples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jacobia._call.linearize import Point, inputs_of, pullback, pushforward, second, transposed_pullback
from jacobia._call.trace import Program
from jacobia._compat import sharded_like
from jacobia._program.readings.seed import Element, products_met, through
from jacobia._space import Batch, Space

# Up to this many passes, one seed at a time, are unrolled, not run in a loop.
UNROLLED = 8

# Padded sets of more seeds than this run in a loop, which leaves out steps that hold padding alone.
LOOP = 64


class Sweep(NamedTuple):
    """Seeds on the leaves `seeded`, numbered as one flat basis; the answer to a seed has the leaves `read`."""

    way: str  # "rows" (seeds on outputs) or "columns" (seeds on inputs)
    by: str  # "pullback", "jvp" or "transposed pullback"; rows of a Hessian can be pushforwards ("jvp")
    seeded: tuple[int, ...]
    read: tuple[int, ...]
    width: int | None  # how many seed numbers are passed; None: all seeds, none passed
    chunk: int | None  # how many run at once; None: all
    dtypes: tuple[Any, ...]  # of the result, for each leaf read
    flat: bool  # whether the result is one matrix over all leaves (ravel)
    padded: bool = False  # whether -1 pads the numbers of the seeds at the end
    diagonal: bool = False  # whether only the entry with the seed's number is kept of each answer
    block: int | None = None  # how many samples of a batch run at once, where they are independent; None: all
    single: bool = False  # one seed, and a result without an axis for seeds: removing it outside the kernel would copy

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Outputs and inputs."""
        return (self.seeded, self.read) if self.way == "rows" else (self.read, self.seeded)


class Image(NamedTuple):
    """The transpose of an answer that is a whole block, made by the kernel that computes the answer."""

    sweep: int
    place: int  # index among the leaves that the sweep reads
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, answer: jax.Array) -> jax.Array:
        return jnp.transpose(answer, self.axes).reshape(self.shape)


def run_sweep(sweep: Sweep, answer: Callable, basis: Space, ids: Any, lead: tuple[int, ...] = ()) -> list[jax.Array]:
    """Run the seeds of a sweep.

    Args:
      answer: maps the number of a seed to the answer, a list of leaves.
      basis: the space in which seeds are numbered.
      ids: the numbers of the seeds, `(R,)`; None: all seeds.
      lead: `(B,)` with a batch, in front of every answer; else `()`.

    Returns:
      For each leaf read, rows `(R, *x.shape)` or columns `(*y.shape, R)`; for all seeds, `y.shape + x.shape`.
    """
    out = _seeded(sweep, answer, basis, ids, len(lead))
    rows = sweep.way == "rows"
    if sweep.flat and not sweep.diagonal:
        out = [_as_matrix(out, rows, lead)]
    if sweep.single:
        return [a[(slice(None),) * len(lead) + (0,)] if rows else a[..., 0] for a in out]
    if sweep.width is None and not sweep.flat:
        (seed_shape,), k = basis.shapes, len(lead)
        return [a.reshape(lead + seed_shape + a.shape[k + 1 :] if rows else a.shape[:-1] + seed_shape) for a in out]
    return out


def _as_matrix(out: list[jax.Array], rows: bool, lead: tuple[int, ...]) -> jax.Array:
    if rows:
        return jnp.concatenate([a.reshape(a.shape[: len(lead) + 1] + (-1,)) for a in out], axis=-1)
    return jnp.concatenate([a.reshape(lead + (-1, a.shape[-1])) for a in out], axis=-2)


def _seeded(sweep: Sweep, answer: Callable, basis: Space, ids: Any, lead: int) -> list[jax.Array]:
    axis = lead if sweep.way == "rows" else -1

    def one(index: Any) -> list[jax.Array]:
        out = [a.astype(d) for a, d in zip(answer(index), sweep.dtypes, strict=True)]
        if not sweep.diagonal:
            return out
        flat = jnp.concatenate([a.reshape(a.shape[:lead] + (-1,)) for a in out], axis=-1)
        return [jax.lax.dynamic_index_in_dim(flat, index, -1, keepdims=False)]

    many = mapped(one, 0, axis)
    if sweep.width is None:
        return all_of(many, basis.size, sweep.chunk, axis)
    ids = jnp.asarray(ids)
    if not sweep.padded:
        return all_of(lambda places: many(ids[places]), sweep.width, sweep.chunk, axis)
    loop = min(sweep.chunk or LOOP, sweep.width)
    return many(jnp.where(ids < 0, ids[0], ids)) if sweep.width <= loop else _some(many, ids, loop, axis)


def mapped(fn: Callable, in_axis: int, out_axis: int) -> Callable:
    """A function of one seed, mapped over seeds along an axis. Seed and result are pytrees of arrays.

    A single seed runs without the axis. With an axis of length 1, the compiler would not see that an intermediate
    equals one of f itself: it would compute both, and copy where their layouts differ.
    """

    def run(seeds: Any) -> Any:
        if jax.tree.leaves(seeds)[0].shape[in_axis] != 1:
            return jax.vmap(fn, in_axes=in_axis, out_axes=out_axis)(seeds)
        out = fn(jax.tree.map(lambda a: jnp.squeeze(a, in_axis), seeds))
        return jax.tree.map(lambda a: jnp.expand_dims(a, out_axis), out)

    return run


def all_of(many: Callable, n: int, chunk: int | None, axis: int) -> list[jax.Array]:
    if chunk is None or chunk >= n:
        return many(jax.lax.iota(jnp.int32, n))
    if chunk == 1 and n <= UNROLLED:
        # The barrier hides the numbers from the compiler, which would fold products with constant seeds at any cost.
        numbers = jax.lax.optimization_barrier(jax.lax.iota(jnp.int32, n))
        parts = [many(numbers[k : k + 1]) for k in range(n)]
        return [jnp.concatenate(own, axis=axis) for own in zip(*parts, strict=True)]
    steps = -(-n // chunk)
    starts = jax.lax.iota(jnp.int32, steps) * chunk

    def step(start: Any) -> list[jax.Array]:
        places = jnp.minimum(start + jax.lax.iota(jnp.int32, chunk), n - 1)
        return [jnp.moveaxis(a, axis, 0) for a in many(places)]

    stacked = jax.lax.map(step, starts)
    return [jnp.moveaxis(a.reshape((steps * chunk, *a.shape[2:]))[:n], 0, axis) for a in stacked]


def _some(many: Callable, ids: Any, chunk: int, axis: int) -> list[jax.Array]:
    # Runs only the steps of the loop that hold a number other than padding.
    width = ids.shape[0]
    steps = -(-width // chunk)
    count = jnp.sum(ids >= 0)
    ids = jnp.pad(jnp.where(ids < 0, ids[0], ids), (0, steps * chunk - width), mode="edge")

    def part(k: Any) -> list[jax.Array]:
        return [jnp.moveaxis(a, axis, 0) for a in many(jax.lax.dynamic_slice(ids, (k * chunk,), (chunk,)))]

    def step(k: Any, out: list) -> list:
        return [jax.lax.dynamic_update_slice_in_dim(o, p, k * chunk, 0) for o, p in zip(out, part(k), strict=True)]

    empty = [jnp.zeros((steps * chunk, *s.shape[1:]), s.dtype) for s in jax.eval_shape(part, 0)]
    out = jax.lax.fori_loop(0, (count + chunk - 1) // chunk, step, empty)
    return [jnp.moveaxis(o[:width], 0, axis) for o in out]


class Spaces(NamedTuple):
    """The outputs and the inputs of a Jacobian: those of one sample where there is a batch."""

    outputs: Space
    inputs: Space
    batch: Batch | None = None
    # Whether the outputs are the gradient of f with respect to the inputs, so that a row can be a pushforward.
    hessian: bool = False
    by_pullback: bool = False  # whether rows of a Hessian are pullbacks nevertheless: reverse over reverse

    @property
    def lead(self) -> tuple[int, ...]:
        return () if self.batch is None else (self.batch.size,)

    @property
    def pushes_rows(self) -> bool:
        """Whether a row may be a pushforward through the gradient of a scalar f, or of one entry of f."""
        return self.hessian and not self.by_pullback

    def seeds(self, basis: Space, index: Any) -> list[jax.Array]:
        """Element `index` of a basis, the same for all samples."""
        return [jnp.broadcast_to(s, self.lead + s.shape) for s in basis.basis(index)]


def num_seeds(sweep: Sweep, spaces: Spaces) -> int:
    """How many seeds a sweep runs, padding included."""
    side = spaces.outputs if sweep.way == "rows" else spaces.inputs
    return side.pick(sweep.seeded).size if sweep.width is None else sweep.width


def _mirrored(spaces: Spaces, outs: tuple, ins: tuple) -> tuple[tuple, tuple]:
    # Row (o, i) of block (i, j) of a Hessian is a pushforward from input i to the gradient of output o with respect to
    # input j. Returns which gradients to read, and which inputs to seed.
    width, o = len(spaces.inputs), outs[0] // len(spaces.inputs)
    return tuple(o * width + j for j in ins), tuple(k % width for k in outs)


def _as_pullback(spaces: Spaces, push: Callable, outs: tuple, ins: tuple) -> Callable:
    # A pushforward through the mirror image of block (outs, ins) of a Hessian, with the arguments and results of a
    # pullback through the block itself.
    def apply(cotangents: list) -> list:
        seeds = [c.reshape(spaces.lead + spaces.inputs.shapes[i]) for c, i in zip(cotangents, image[1], strict=True)]
        return [a.reshape(spaces.lead + spaces.inputs.shapes[j]) for a, j in zip(push(seeds), ins, strict=True)]

    image = _mirrored(spaces, outs, ins)
    return apply


def applied(point: Point, spaces: Spaces, way: str, by: str, outs: tuple, ins: tuple) -> Callable[[list], list]:
    """The map from cotangents of `outs` to those of `ins` ("rows"), or from tangents of `ins` to those of `outs`.

    The rows of a Hessian, which is symmetric, are Hessian-vector products (forward over reverse) where f allows it.
    For "second" the map is not linear: from a tangent of `ins` to the second derivative of `outs` along it.
    """
    if way == "second":
        return second(point, outs, ins)
    if way == "columns":
        return (pushforward if by == "jvp" else transposed_pullback)(point, outs, ins)
    if by == "jvp":
        return _as_pullback(spaces, pushforward(point, *_mirrored(spaces, outs, ins)), outs, ins)
    return pullback(point, outs, ins)


def _seeding(spaces: Spaces, apply: Callable, basis: Space) -> tuple[Callable, Space]:
    by_number = _by_number(apply, basis) if is_by_number(spaces, basis) else None
    if by_number is not None:
        return by_number, basis
    return (lambda index: apply(spaces.seeds(basis, index))), basis


def is_by_number(spaces: Spaces, basis: Space) -> bool:
    """Whether a seed may be followed through the program as its number, not as an array."""
    return len(basis) == 1 < basis.size and not spaces.lead and not spaces.hessian and basis.is_numbered


def _by_number(apply: Callable, basis: Space) -> Callable | None:
    # Follows seeds as numbers: where a seed meets a matrix, a row of the matrix is taken instead of a product.
    # None: no seed meets a matrix.
    (shape,), (dtype,) = basis.shapes, basis.dtypes
    traced = jax.make_jaxpr(apply)([jax.ShapeDtypeStruct(shape, dtype)])
    jaxpr, (seed,) = traced.jaxpr, traced.jaxpr.invars
    if not products_met(jaxpr, seed):
        return None
    return lambda index: through(jaxpr, list(traced.consts), [Element(shape, index, jnp.ones((), dtype))])


def _row_of_head(point: Point, spaces: Spaces, sweep: Sweep) -> tuple[Callable, Space]:
    # The seeds of rows of the Hessian of a vector-valued f: a row belongs to one entry of f and one of its gradient.
    heads, basis = point.program.heads, spaces.outputs.pick(sweep.seeded)
    assert heads is not None
    read, (i,) = _mirrored(spaces, sweep.seeded, sweep.read)
    o, own = sweep.seeded[0] // len(spaces.inputs), spaces.inputs.pick([i])

    def answer(index: Any) -> list:
        head = heads.zeros()
        head[o] = heads.pick([o]).basis(index // max(1, own.size))[0]
        seed = own.basis(index % max(1, own.size))
        if sweep.by == "jvp":
            return pushforward(point, read, (i,), head)(seed)
        return pullback(point, sweep.seeded, sweep.read, head)(seed)

    return answer, basis


def sweeps_at(point: Point, spaces: Spaces, sweeps: tuple[Sweep, ...], ids: Sequence) -> list[list[jax.Array]]:
    """Linearize at a point and run sweeps in one kernel: the fastest for a first read."""
    out = []
    for sweep, numbers in zip(sweeps, ids, strict=True):
        side, (outs, ins) = spaces.inputs, (sweep.read, sweep.seeded)
        if sweep.way == "rows" and point.program.heads is not None:
            answer, basis = _row_of_head(point, spaces, sweep)
        else:
            if sweep.way == "rows":
                side, outs, ins = spaces.outputs, sweep.seeded, sweep.read
            answer, basis = _seeding(
                spaces, applied(point, spaces, sweep.way, sweep.by, outs, ins), side.pick(sweep.seeded)
            )
        out.append(run_sweep(sweep, answer, basis, numbers, spaces.lead))
    return out


def sweeps_of(lin: Callable, spaces: Spaces, sweeps: tuple[Sweep, ...], ids: Sequence) -> list[list[jax.Array]]:
    """Run sweeps through a linear program whose residuals are kept."""
    out = []
    for sweep, numbers in zip(sweeps, ids, strict=True):
        apply = applied_linear(lin, spaces, sweep.way, sweep.by, *sweep.ends)
        side = spaces.outputs if sweep.way == "rows" else spaces.inputs
        answer, basis = _seeding(spaces, apply, side.pick(sweep.seeded))
        out.append(run_sweep(sweep, answer, basis, numbers, spaces.lead))
    return out


def applied_linear(lin: Callable, spaces: Spaces, way: str, by: str, outs: tuple, ins: tuple) -> Callable:
    """The map that `applied` returns, made of a linear program whose residuals are kept."""
    pushed = way == "rows" and by == "jvp"
    made, of = _mirrored(spaces, outs, ins) if pushed else (outs, ins)

    def push(tangents: list) -> list:
        full = spaces.inputs.zeros(spaces.lead)
        for k, t in zip(of, tangents, strict=True):
            full[k] = t
        y = lin(full)
        return [y[i] for i in made]

    if pushed:
        return _as_pullback(spaces, push, outs, ins)
    if way == "columns":
        return push
    transposed = jax.linear_transpose(push, spaces.inputs.pick(ins).zeros(spaces.lead))
    return lambda cotangents: transposed(cotangents)[0]


def applied_program(
    program: Program,
    positions: tuple[int, ...],
    spaces: Spaces,
    way: str,
    by: str,
    outs: tuple,
    ins: tuple,
    point: Point | None = None,
) -> Any:
    """The program (a closed jaxpr) of `applied`, as a function of constants, leaves and seeds with samples in front.

    Args:
      point: for an f that Python runs: the shapes of its constants and leaves.
    """
    if point is None:
        inputs, skip = inputs_of(program), len(program.jaxpr.invars) - program.num_leaves
    else:
        inputs, skip = [*point.consts, *point.leaves], len(point.consts)
    own = program.num_leaves - (0 if program.heads is None else len(program.heads))  # without cotangents
    side = spaces.outputs.pick(outs) if way == "rows" else spaces.inputs.pick(ins)
    seeds = [jax.ShapeDtypeStruct(spaces.lead + s, d) for s, d in zip(side.shapes, side.dtypes, strict=True)]

    def derivative(args: list, seeds: list) -> list:
        point = Point(program, positions, args[:skip], args[skip : skip + own], spaces.batch)
        return applied(point, spaces, way, by, outs, ins)(seeds)

    return jax.make_jaxpr(derivative)(inputs, seeds)


def sweep_of_samples(
    cut: Callable, point: Point, spaces: Spaces, sweep: Sweep, ids: Any, samples: Any
) -> list[jax.Array]:
    """A sweep for some samples of a batch, by the program of one sample.

    Args:
      cut: maps the number of a sample, and constants, leaves and seeds of one sample, to the answers for this sample.
      samples: numbers of samples, `(S,)`.

    Returns:
      Rows `(S, R, *x.shape)` for each leaf read, or columns `(S, *y.shape, R)`.
    """
    axes = _sample_axes(point)

    def one(sample: Any) -> list[jax.Array]:
        own = {k: jax.lax.dynamic_slice_in_dim(point.leaves[k], sample, 1, axis) for k, axis in axes.items()}
        return _one_sample(cut, point, spaces, sweep, ids, sample, own)

    return jax.vmap(one)(samples)


def sweep_in_blocks(
    cut: Callable, point: Point, spaces: Spaces, sweep: Sweep, ids: Any, first: Any = 0, of: int | None = None
) -> list[jax.Array]:
    """A sweep for all samples, `sweep.block` of them at a time (None: all), so that intermediates stay in the cache.

    Args:
      first: the number of the first sample of this part of the batch.
      of: the number of samples of the whole batch; samples beyond it are padding. None: the point has them all.
    """
    axes, (size,) = _sample_axes(point), spaces.lead
    block = min(sweep.block or size, size)

    def some(start: Any) -> list[jax.Array]:
        def one(sample: Any, own: dict[int, Any]) -> list[jax.Array]:
            own = {k: jnp.expand_dims(a, axes[k]) for k, a in own.items()}
            return _one_sample(cut, point, spaces, sweep, ids, sample, own)

        own = {k: point.leaves[k] for k in axes}
        if block < size:
            own = {k: jax.lax.dynamic_slice_in_dim(a, start, block, axes[k]) for k, a in own.items()}
        numbers = start + jax.lax.iota(jnp.int32, block)
        if of is not None:
            numbers = jnp.minimum(first + numbers, of - 1)
        for k, axis in axes.items():
            numbers = sharded_like(numbers, own[k], axis)
        return jax.vmap(one, in_axes=(0, axes))(numbers, own)

    if block >= size:
        return some(0)
    whole = size // block
    out = jax.lax.map(some, jax.lax.iota(jnp.int32, whole) * block)
    out = [a.reshape(whole * block, *a.shape[2:]) for a in out]
    if whole * block == size:
        return out
    rest = [a[block * (whole + 1) - size :] for a in some(size - block)]  # the last block overlaps the one before
    return [jnp.concatenate(pair) for pair in zip(out, rest, strict=True)]


def _sample_axes(point: Point) -> dict[int, int]:
    assert point.batch is not None
    return dict(zip(point.positions, point.batch.inputs, strict=True))


def _one_sample(
    cut: Callable, point: Point, spaces: Spaces, sweep: Sweep, ids: Any, sample: Any, own: dict[int, Any]
) -> list[jax.Array]:
    leaves = [own.get(k, a) for k, a in enumerate(point.leaves)]
    basis = (spaces.outputs if sweep.way == "rows" else spaces.inputs).pick(sweep.seeded)

    def answer(index: Any) -> list[jax.Array]:
        seeds = [s[None] for s in basis.basis(index)]
        return [a[0] for a in cut(sample, [*point.consts, *leaves, *seeds])]

    return run_sweep(sweep, answer, basis, ids)
