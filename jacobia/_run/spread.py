"""Seeds or samples spread over one axis of a mesh of devices: each device computes its own, and none waits for another.

A kernel over a mesh is another kernel inside `jax.shard_map`, for the seeds of one device, at a point that every device
holds as a whole. Its results are padded to a multiple of D; outside the kernel, `exact` removes the padding.
Knows meshes, sweeps and shapes. Knows nothing of blocks or stores.
Shapes: D devices along the axis, R seeds, B samples.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jacobia._call.trace import tracing
from jacobia._compat import Tracer, eval_context
from jacobia._run.seeds import Spaces, Sweep, num_seeds

Run = Callable[[Sweep, Sequence, Sequence, Any], list]  # (sweep, constants, leaves, numbers of seeds) -> answers


class Spread(NamedTuple):
    """The axis of a mesh over which seeds or samples are spread."""

    mesh: Mesh  # the given mesh with Auto axes: an array on an Explicit axis can't be indexed
    axis: str
    given: Mesh  # the mesh as the user gave it

    @property
    def size(self) -> int:
        """D, the number of devices along the axis."""
        return self.mesh.shape[self.axis]

    def told(self) -> str:
        """The line about the mesh in an explanation."""
        return f"mesh: seeds, or samples, are spread over {self.size} devices along axis {self.axis!r}"

    def place(self, array: Any, samples: int | None = None) -> Any:
        """Put an array on the mesh: whole on every device along the axis, or divided by samples if D divides B.

        Along other axes of the mesh the array stays divided as it is.

        Args:
          samples: the batch axis of the array; None: it has none.
        """
        if isinstance(array, Tracer):
            return self._checked(array)
        spec = list(self._spec(array))
        if samples is not None and array.shape[samples] % self.size == 0:
            spec += [None] * (samples + 1 - len(spec))
            if spec[samples] is None:
                spec[samples] = self.axis
        with eval_context():  # a concrete array, even inside a trace
            return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec(*spec)))

    def _checked(self, traced: Any) -> Any:
        sharding = getattr(jax.typeof(traced), "sharding", None)
        if sharding is not None and any(kind == AxisType.Explicit for kind in sharding.mesh.axis_types):
            raise TypeError(
                "mesh=...: expected arrays without Explicit axes inside of jit and other transformations, got "
                f"{jax.typeof(traced)}. Read the view outside of them, or use a mesh with Auto axes."
            )
        return traced

    def _spec(self, array: Any) -> PartitionSpec:
        sharding = getattr(array, "sharding", None)
        if not isinstance(sharding, NamedSharding) or not _same(sharding.mesh, self.mesh):
            return PartitionSpec()
        return PartitionSpec(*[self._without(part) for part in sharding.spec])

    def _without(self, part: Any) -> Any:
        if not isinstance(part, tuple):
            return None if part == self.axis else part
        return tuple(name for name in part if name != self.axis) or None

    def over_seeds(self, sweep: Sweep, spaces: Spaces, run: Run) -> Callable[[Sequence, Sequence, Any], list]:
        """A kernel for a sweep, `(consts, leaves, ids) -> answers`, with the seeds spread over the devices."""
        count = num_seeds(sweep, spaces)
        each = -(-count // self.size)
        own = sweep._replace(width=each, padded=False)
        specs = [self._at(axis) for axis in _seed_axes(sweep, spaces)]
        whole = PartitionSpec()

        def part(consts: Sequence, leaves: Sequence, ids: Any) -> list:
            if ids is None:
                first = jax.lax.axis_index(self.axis) * each
                ids = jnp.minimum(first + jax.lax.iota(jnp.int32, each), count - 1)
            return run(own, consts, leaves, ids)

        return jax.shard_map(
            part, mesh=self.mesh, in_specs=(whole, whole, PartitionSpec(self.axis)), out_specs=specs,
            axis_names={self.axis}, check_vma=False,
        )  # fmt: skip

    def numbers(self, ids: Any) -> Any:
        """The numbers of seeds, padded to the same number for each device."""
        if ids is None:
            return None
        xp = jnp if isinstance(ids, Tracer) else np
        ids = xp.asarray(ids)
        return xp.pad(xp.where(ids < 0, ids[0], ids), (0, -len(ids) % self.size), mode="edge")

    def over_samples(self, axes: dict[int, int], size: int, num: int, run: Callable) -> Callable:
        """A kernel for all samples, `(consts, leaves, ids) -> answers`, with the samples spread over the devices.

        Args:
          axes: number of a leaf → its batch axis, for the leaves that have one.
          size: B.
          num: the number of answers, each with samples in front.
          run: `(consts, leaves, ids, first sample, number of samples) -> answers`, for the samples of one device.
        """
        each, divided = -(-size // self.size), size % self.size == 0

        def part(consts: Sequence, leaves: Sequence, ids: Any) -> list:
            first = jax.lax.axis_index(self.axis) * each
            if not divided:
                own = jnp.minimum(first + jax.lax.iota(jnp.int32, each), size - 1)
                leaves = [jnp.take(a, own, axis=axes[k]) if k in axes else a for k, a in enumerate(leaves)]
            return run(consts, leaves, ids, first, each)

        def kernel(consts: Sequence, leaves: Sequence, ids: Any) -> list:
            specs = [self._at(axes[k]) if divided and k in axes else PartitionSpec() for k in range(len(leaves))]
            spread = jax.shard_map(
                part, mesh=self.mesh, in_specs=(PartitionSpec(), specs, PartitionSpec()),
                out_specs=[self._at(0)] * num, axis_names={self.axis}, check_vma=False,
            )  # fmt: skip
            return spread(consts, leaves, ids)

        return kernel

    def _at(self, axis: int) -> PartitionSpec:
        return PartitionSpec(*[None] * axis, self.axis)

    def exact(self, array: Any, axis: int, count: int, shape: tuple[int, ...]) -> Any:
        """A result of a kernel without its padding, divided along an axis that D divides.

        Args:
          axis: the padded axis of `array`, of which the first `count` places are kept.
          shape: the shape of the result.
        """
        if not shape:
            return array
        spec = self.layout(shape, axis)
        if not any(spec) and shape[axis] > self.size:
            less = shape[axis] // self.size * self.size
            warnings.warn(
                f"mesh=...: expected a result with an axis that {self.size} devices divide, got shape {shape}: every "
                f"device holds all of the result. Read {less} or {less + self.size} in place of {shape[axis]}.",
                stacklevel=2,
            )
        out = NamedSharding(self.mesh, spec)
        if isinstance(array, Tracer):
            return jax.lax.with_sharding_constraint(_cut_to(array, axis, count, shape), out)
        return _cutting(axis, count, shape, out)(array)

    def layout(self, shape: tuple[int, ...], first: int = 0) -> PartitionSpec:
        """How an array of this shape is divided: along axis `first` if D divides its length, else along another axis.

        If D divides none of them, the array is whole on every device.
        """
        order = [first, *[k for k in range(len(shape)) if k != first]]
        for k in order:
            if k < len(shape) and shape[k] and shape[k] % self.size == 0:
                return self._at(k)
        return PartitionSpec()

    def divided(self, array: Any) -> Any:
        """A result on the given mesh, divided along an axis that D divides."""
        if isinstance(array, Tracer) or not isinstance(array, jax.Array):
            return array
        sharding = array.sharding
        if not isinstance(sharding, NamedSharding) or sharding.mesh != self.mesh:
            array = jax.device_put(array, NamedSharding(self.mesh, PartitionSpec()))
        if array.is_fully_replicated and array.ndim:
            array = jax.device_put(array, NamedSharding(self.mesh, self.layout(array.shape)))
        return self.labelled(array)

    def whole(self, array: Any) -> Any:
        """A result, whole on every device if the given mesh has an Explicit axis.

        For operations of JAX that do not take an array divided along an Explicit axis.
        """
        if AxisType.Explicit not in self.given.axis_types or isinstance(array, Tracer):
            return array
        return jax.device_put(array, NamedSharding(self.given, PartitionSpec()))

    def labelled(self, array: Any) -> Any:
        """The same array with the given mesh as its mesh. No data is moved."""
        if self.given == self.mesh or isinstance(array, Tracer):
            return array
        parts = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(
            array.shape, NamedSharding(self.given, array.sharding.spec), parts, dtype=array.dtype
        )


def off_mesh(spread: Spread | None) -> AbstractContextManager:
    """A context in which no mesh of `jax.set_mesh` is set, since each device computes by itself."""
    if spread is None or jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    if tracing():
        return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    return jax.set_mesh(Mesh(np.empty((), object), ()))


def checked_mesh(name: str, given: Any) -> Spread:
    """Check the argument `mesh`: a mesh with one axis, or a mesh and the name of an axis.

    Raises:
      TypeError: it is no mesh. ValueError: it has several axes and none is named, or lacks the named one.
    """
    mesh, axis = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(mesh, Mesh) or mesh.empty or AxisType.Manual in mesh.axis_types:
        raise TypeError(
            f"{name}(mesh=...): expected a jax.sharding.Mesh, or a mesh and the name of an axis, got "
            f"{type(mesh).__name__}. jax.make_mesh((jax.device_count(),), ('rows',)) makes one of all devices."
        )
    names = mesh.axis_names
    if axis is None and len(names) != 1:
        raise ValueError(
            f"{name}(mesh=...): expected a mesh with one axis, or a mesh and the name of an axis, got axes "
            f"{', '.join(map(repr, names))}. Write mesh=(mesh, {names[0]!r})."
        )
    axis = names[0] if axis is None else axis
    if axis not in names:
        raise ValueError(
            f"{name}(mesh=...): expected an axis of the mesh, {' or '.join(map(repr, names))}, got {axis!r}."
        )
    auto = Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return Spread(auto, axis, mesh)


def shapes_of(sweep: Sweep, spaces: Spaces) -> list[tuple[int, int, tuple[int, ...]]]:
    """For each answer of a sweep: its padded axis, the length of this axis without padding, and its shape without."""
    rows, count, lead = sweep.way == "rows", num_seeds(sweep, spaces), spaces.lead
    seeded, read = (spaces.outputs, spaces.inputs) if rows else (spaces.inputs, spaces.outputs)
    seeded, read = seeded.pick(sweep.seeded), read.pick(sweep.read)
    if sweep.diagonal:
        others: list[tuple[int, ...]] = [()] * (1 if sweep.flat else len(sweep.read))
    else:
        others = [(read.size,)] if sweep.flat else list(read.shapes)
    own = seeded.shapes[0] if sweep.width is None and not sweep.flat else (count,)
    shapes = [lead + (own + other if rows or sweep.diagonal else other + own) for other in others]
    if sweep.single:  # without an axis for seeds
        shapes = [lead + other for other in others]
    return [(axis, count, shape) for axis, shape in zip(_seed_axes(sweep, spaces), shapes, strict=True)]


def _same(one: Any, other: Mesh) -> bool:
    devices = getattr(one, "devices", None)
    return one.axis_names == other.axis_names and devices is not None and (devices == other.devices).all()


def _seed_axes(sweep: Sweep, spaces: Spaces) -> list[int]:
    # For each answer of a sweep, the axis of its seeds.
    lead, read = len(spaces.lead), spaces.outputs if sweep.way == "columns" else spaces.inputs
    if sweep.way == "rows" or sweep.diagonal:
        return [lead] * (1 if sweep.flat and not sweep.diagonal else len(sweep.read))
    if sweep.flat:
        return [lead + 1]
    return [lead + len(read.shapes[k]) for k in sweep.read]


def _cut_to(array: Any, axis: int, count: int, shape: tuple[int, ...]) -> Any:
    return jax.lax.slice_in_dim(array, 0, count, axis=axis).reshape(shape)


@lru_cache(maxsize=256)
def _cutting(axis: int, count: int, shape: tuple[int, ...], out: NamedSharding) -> Callable:
    return jax.jit(lambda array: _cut_to(array, axis, count, shape), out_shardings=out)
