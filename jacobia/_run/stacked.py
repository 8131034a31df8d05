"""Points that `vmap` or `scan` has stacked: which arrays of a view have which of the new axes.

What `vmap` does not map gets no new axis: all the points share it, and it is held once. Knows nothing of f.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, is_mapped, register_vmappable
from jacobia._run.guard import new_guard
from jacobia._run.limits import padded_width


class Axes(NamedTuple):
    """Of one new axis: for each array 0, or None where the array does not have it."""

    consts: tuple[int | None, ...]
    leaves: tuple[int | None, ...]


class Stack(NamedTuple):
    """One new axis in front of a view."""

    size: int
    axes: Axes


Stacks = tuple[Stack, ...]  # the outermost axis first


class Carried:
    """An array of a view on its way through a transformation, with the new axes that it has and has not.

    A tree to `jit`, `scan` and all others, which see the array alone. `vmap` asks it for the array of one point, and
    puts those of all points together by it, as it does with JAX's own sparse arrays: what it does not map stays as it
    is, where a plain leaf would be copied for each point.
    """

    __slots__ = ("array", "axes")

    def __init__(self, array: Any, axes: tuple[int | None, ...]):
        self.array = array
        self.axes = axes  # 0 or None for each of the new axes


def _of_one_point(cont: Callable, _: Callable, part: Carried, axis: Any) -> Carried:
    if axis is None:
        return part
    if axis != 0 or not part.axes:
        raise ValueError(
            f"jax.vmap(in_axes={axis!r}) over J: expected in_axes=0 and a view that jax.vmap made, with samples in "
            f"front, got {'one without' if not part.axes else f'in_axes={axis!r}'}. Map over J[...]."
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
    """The guard on its way through a transformation: `(1,)` behind the new axes, it tells how many points are stacked.

    To `vmap` the shape is all there is.
    """

    __slots__ = ("array", "sizes")

    def __init__(self, array: Any, sizes: tuple[int, ...] = ()):
        self.array = array  # None: made when a tree needs it
        self.sizes = sizes

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.sizes, 1) if self.array is None else self.array.shape


def _flatten(guard: Guard) -> tuple[tuple, None]:
    if guard.array is not None:
        return (guard.array,), None
    return (jnp.broadcast_to(new_guard(), guard.shape) if guard.sizes else new_guard(),), None


jax.tree_util.register_pytree_node(Guard, _flatten, lambda _, kids: Guard(kids[0]))
register_vmappable(
    Guard,
    lambda cont, _, guard, axis: guard if axis is None else Guard(None, guard.shape[1:-1]),
    lambda cont, size, guard, axis: guard if axis is None else Guard(None, (size, *guard.shape[:-1])),
)


class Chosen(NamedTuple):
    """Some of the points: numbers along each axis of `merged`, of all combinations."""

    numbers: list[Any]
    places: Any  # which of the combinations are asked for, in order; None: they are those


def at_each(body: Callable, stacks: Stacks, *others: int | None) -> Callable:
    """`body(consts, leaves, *others)` at each of the points."""
    for size, axes in reversed(stacks):
        body = jax.vmap(body, in_axes=(list(axes.consts), list(axes.leaves), *others), axis_size=size)
    return body


def with_axes(axes: Sequence[int | None], sizes: Sequence[int], own: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array that has these of the new axes, and `own` at one point."""
    return (*(n for n, k in zip(sizes, axes, strict=True) if k == 0), *own)


def merged(stacks: Stacks) -> Stacks:
    """The same with one axis in place of neighbours that the same arrays have."""
    out: list[Stack] = []
    for stack in stacks:
        if out and out[-1].axes == stack.axes:
            out[-1] = Stack(out[-1].size * stack.size, stack.axes)
        else:
            out.append(stack)
    return tuple(out)


def choose(stacks: Stacks, points: Any) -> Chosen | None:
    """Points, by their numbers `(S,)`, as those of a few along each axis.

    An array that has some of the axes only is taken once for all points that share it, so more points than asked for
    may be among the combinations.

    Returns:
      None where they can't be told apart: several axes, and numbers that are traced.
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
    """`body(consts, leaves)` at some of the points, as a function of (consts, leaves, chosen); answers `(S, ...)`."""
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
    """How many points are evaluated."""
    return math.prod(len(n) for n in chosen.numbers)
