"""Points that `vmap` or `scan` has stacked: which arrays of a view have which of the new axes.

An array that `vmap` does not map gets no new axis: it is held once, and all points share it.
Knows arrays and their axes. Knows nothing of f.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, eval_context, is_mapped, register_vmappable
from jacobia._run.guard import SHAPE, new_guard
from jacobia._run.limits import padded_width


class Axes(NamedTuple):
    """Which arrays have one new axis: 0 (it is in front) for each array that has it, None for each that does not."""

    consts: tuple[int | None, ...]
    leaves: tuple[int | None, ...]


class Stack(NamedTuple):
    """One new axis in front of a view: its size, and the arrays that have it."""

    size: int
    axes: Axes


Stacks = tuple[Stack, ...]  # the outermost axis first


class Carried:
    """An array of a view that passes through a transformation, and which of the new axes it has.

    To `jit`, `scan` and all others but `vmap` it is a pytree with one leaf, the array. `vmap` calls the functions below
    to take the array of one point, and to stack those of all points, as for JAX's own sparse arrays. So an array that
    is not mapped stays one array, where a plain leaf would be copied for each point.
    """

    __slots__ = ("array", "axes")

    def __init__(self, array: Any, axes: tuple[int | None, ...]):
        self.array = array
        self.axes = axes  # for each new axis 0, or None if the array does not have it


def _of_one_point(cont: Callable, _: Callable, part: Carried, axis: Any) -> Carried:
    if axis is None:
        return part
    if axis != 0 or not part.axes:
        raise ValueError(
            f"jax.vmap(in_axes={axis!r}) over J: expected in_axes=0 and a view made inside of jax.vmap, got "
            f"{f'in_axes={axis!r}' if part.axes else 'a view made outside'}. Map over J[...]."
        )
    return Carried(part.array if part.axes[0] is None else cont(part.array, 0), part.axes[1:])


def _of_all_points(cont: Callable, size: int, part: Carried, axis: Any) -> Carried:
    mapped = is_mapped(cont, size, part.array)
    if axis is None and not mapped:
        return part
    if axis != 0:
        raise ValueError(
            f"jax.vmap(out_axes={axis!r}) of J: expected out_axes=0, got {axis!r}. A view leaves vmap with samples in "
            "front: return J[...], or move the axis of J[...] outside."
        )
    return Carried(cont(size, part.array, 0), (0, *part.axes)) if mapped else Carried(part.array, (None, *part.axes))


jax.tree_util.register_pytree_node(Carried, lambda p: ((p.array,), p.axes), lambda axes, kids: Carried(kids[0], axes))
register_vmappable(Carried, _of_one_point, _of_all_points)


class Guard:
    """The guard of a view that passes through a transformation.

    Its shape, the sizes of the new axes and then (2, 2), tells how many points are stacked. `vmap` changes only the
    shape.
    """

    __slots__ = ("array", "sizes")

    def __init__(self, array: Any, sizes: tuple[int, ...] = ()):
        self.array = array  # None: made when the guard is flattened
        self.sizes = sizes

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.sizes, *SHAPE) if self.array is None else self.array.shape


def _flatten(guard: Guard) -> tuple[tuple, None]:
    if guard.array is not None:
        return (guard.array,), None
    if not guard.sizes:
        return (new_guard(),), None
    with eval_context():  # the guard must not become part of the current trace
        return (jnp.broadcast_to(new_guard(), guard.shape),), None


jax.tree_util.register_pytree_node(Guard, _flatten, lambda _, kids: Guard(kids[0]))
register_vmappable(
    Guard,
    lambda cont, _, guard, axis: guard if axis is None else Guard(None, guard.shape[1:-2]),
    lambda cont, size, guard, axis: guard if axis is None else Guard(None, (size, *guard.shape[:-2])),
)


class Chosen(NamedTuple):
    """Some of the points: all combinations of `numbers` along the axes of `merged`, and which of them are requested."""

    numbers: list[Any]  # along each axis
    places: Any  # the numbers of the requested combinations, in order; None: all of them


def at_each(body: Callable, stacks: Stacks, *others: int | None) -> Callable:
    """A function that maps `body(consts, leaves, *others)` over the stacked points; `others` are the axes to map."""
    for size, axes in reversed(stacks):
        body = jax.vmap(body, in_axes=(list(axes.consts), list(axes.leaves), *others), axis_size=size)
    return body


def with_axes(axes: Sequence[int | None], sizes: Sequence[int], own: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array with shape `own` at one point, behind those of the new axes that it has."""
    return (*(n for n, k in zip(sizes, axes, strict=True) if k == 0), *own)


def merged(stacks: Stacks) -> Stacks:
    """The stacks with neighbouring axes merged into one where the same arrays have them."""
    out: list[Stack] = []
    for stack in stacks:
        if out and out[-1].axes == stack.axes:
            out[-1] = Stack(out[-1].size * stack.size, stack.axes)
        else:
            out.append(stack)
    return tuple(out)


def choose(stacks: Stacks, points: Any) -> Chosen | None:
    """The points with these numbers, `(S,)`, as combinations of a few numbers along each axis.

    An array that has only some of the axes is taken once for all points that share it. So the combinations may hold
    more points than were requested.

    Returns:
      None where there are several axes and the numbers are traced.
    """
    sizes = [s.size for s in merged(stacks)]
    if len(sizes) == 1:
        return Chosen([points], None)
    if isinstance(points, Tracer):
        return None
    along = np.unravel_index(points, sizes)
    found = [np.unique(i) for i in along]
    widths = [padded_width(len(i), n) for i, n in zip(found, sizes, strict=True)]
    numbers = [np.pad(i, (0, w - len(i)), mode="edge").astype(np.int32) for i, w in zip(found, widths, strict=True)]
    places = np.ravel_multi_index([np.searchsorted(f, i) for f, i in zip(found, along, strict=True)], widths)
    return Chosen(numbers, places.astype(np.int32))


def at_chosen(body: Callable, stacks: Stacks, const_shapes: Sequence, leaf_shapes: Sequence) -> Callable:
    """A function of (consts, leaves, chosen) that maps `body(consts, leaves)` over the chosen points: `(S, ...)`."""
    levels = merged(stacks)
    sizes = [s.size for s in levels]

    def some(arrays: Sequence, own: Sequence, axes: Sequence, numbers: Sequence) -> list:
        out = []
        for a, shape, mine in zip(arrays, own, zip(*axes, strict=True), strict=True):
            a = a.reshape(with_axes(mine, sizes, shape))
            for axis, n in enumerate([n for n, k in zip(numbers, mine, strict=True) if k == 0]):
                a = a[(slice(None),) * axis + (n,)]
            out.append(a)
        return out

    def run(consts: Sequence, leaves: Sequence, chosen: Chosen) -> list:
        numbers, places = chosen
        there = tuple(Stack(len(n), s.axes) for n, s in zip(numbers, levels, strict=True))
        consts = some(consts, const_shapes, [s.axes.consts for s in levels], numbers)
        leaves = some(leaves, leaf_shapes, [s.axes.leaves for s in levels], numbers)
        out = [a.reshape(-1, *a.shape[len(levels) :]) for a in at_each(body, there)(consts, leaves)]
        return out if places is None else [a[places] for a in out]

    return run


def count(chosen: Chosen) -> int:
    """The number of points that are evaluated."""
    return math.prod(len(n) for n in chosen.numbers)
