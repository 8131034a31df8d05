"""The nonzeros of a block: its pattern, found once for a program, and a kernel that computes all of them.

The linear program, or its transpose, is walked (`program.accumulate`), and its entries are put in order.
Shapes: B samples, M outputs, N inputs, nnz entries.
"""

from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._blueprint import Blueprint
from jacobia._compat import Tracer, eval_context
from jacobia._linearize import Point
from jacobia._pattern import Pattern, made_of
from jacobia._reading import Linearized
from jacobia._walking import Programs, Room, narrowest
from jacobia.program.accumulate import Entries, Walked
from jacobia.program.fingerprint import Identity

# Walks of one program that differ in the arrays f closes over; beyond, weights may have any value.
_WALKS = 4


class Found:
    """What a walk has found of some outputs and inputs: the pattern, and how to compute its entries."""

    def __init__(self, pattern: Pattern, entries: Entries, order: np.ndarray | None, samples: int | None, room: Room):
        self.pattern = pattern
        self._entries, self._order, self._samples, self._room = entries, order, samples, room

    @cached_property
    def arrays(self) -> list:
        """What the kernel takes besides the point; on the device, once."""
        made = self._entries.arrays if self._order is None else [*self._entries.arrays, self._order]
        with eval_context():
            return [jax.device_put(a) for a in made]

    def data(self, consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        """The entries in the order of the pattern, `(nnz,)`, or `(B, nnz)`."""
        self._room.check(self._entries.largest)
        inputs = [*consts, *leaves]
        if self._order is None:
            out = self._entries.values(inputs, arrays)
        else:
            *own, order = arrays
            out = self._entries.values(inputs, own)
            if self._samples is None or order.shape[0] == self._samples * self.pattern.nnz:
                out = out[order]
            else:  # samples that lack entries which others have
                out = jnp.zeros(self._samples * self.pattern.nnz, out.dtype).at[order].set(out)
        return out if self._samples is None else out.reshape(self._samples, -1)


class Walk:
    """A walked linear program of a blueprint, and what has been found of its blocks."""

    def __init__(self, blue: Blueprint, point: Point, known: Sequence[bool], leaves_known: bool, room: Room):
        programs = Programs(blue, point)

        def walked(transposed: bool) -> Walked | None:
            linear = programs.transposed if transposed else programs.pushed
            if linear is None:
                return None
            arrays = linear.known
            if arrays and leaves_known:
                arrays = [*arrays[: len(point.consts)], *point.leaves]
            keep = [*known, *[True] * (len(arrays) - len(known))]
            arrays = [a if k else None for a, k in zip(arrays, keep, strict=True)]
            return Walked(linear.jaxpr, linear.consts, arrays, linear.num_tangents)

        self.walked, self.transposed = narrowest(walked, room)
        self._spaces, self._room, self._found = blue.spaces, room, {}

    def fits(self, consts: Sequence) -> bool:
        """Whether what was relied on is so at these constants too."""
        return all(
            consts[i] is a or (not isinstance(consts[i], Tracer) and np.array_equal(consts[i], a))
            for i, a in self.walked.relied.items()
        )

    def found(self, outs: tuple[int, ...], ins: tuple[int, ...], symmetric: bool) -> Found:
        if (outs, ins) not in self._found:
            self._found[outs, ins] = self._find(outs, ins, symmetric)
        return self._found[outs, ins]

    def _find(self, outs: tuple[int, ...], ins: tuple[int, ...], symmetric: bool) -> Found:
        spaces = self._spaces
        y, x = spaces.outputs.pick(outs), spaces.inputs.pick(ins)
        entries = self._room.entries(self.walked, *((ins, outs) if self.transposed else (outs, ins)))
        rows, cols, order = entries.rows, entries.cols, None
        if self.transposed:
            order = np.argsort(cols, kind="stable")  # they are sorted by row
            rows, cols = cols[order], rows[order]
        samples = None if spaces.batch is None else spaces.batch.size
        shape = y.size, x.size
        if samples is not None:
            sample, rows = _of_samples(rows, y.sizes, samples)
            _, cols = _of_samples(cols, x.sizes, samples)
            key = rows.astype(np.int64) * x.size + cols
            unique, place = np.unique(key, return_inverse=True)
            place = sample.astype(np.int64) * len(unique) + place.reshape(-1)
            if len(place) == samples * len(unique):  # every sample has them all: they are read in order
                read = np.argsort(place, kind="stable")
                order = read if order is None else order[read]
                order = None if np.array_equal(order, np.arange(len(order))) else order
            elif order is None:
                order = place
            else:  # where each goes, in the order in which they are computed
                written = np.empty_like(place)
                written[order] = place
                order = written
            rows, cols = unique // max(1, x.size), unique % max(1, x.size)
        elif symmetric:  # an entry that its mirror image has not is zero
            key, image = rows.astype(np.int64) * x.size + cols, cols.astype(np.int64) * x.size + rows
            keep = np.isin(key, image, assume_unique=True)
            if not keep.all():
                order = np.flatnonzero(keep) if order is None else order[keep]
                rows, cols = rows[keep], cols[keep]
        order = None if order is None else order.astype(np.int32)
        return Found(made_of(rows, cols, shape), entries, order, samples, self._room)


def _of_samples(numbers: np.ndarray, sizes: Sequence[int], samples: int) -> tuple[np.ndarray, np.ndarray]:
    # Leaves behind one another, each with its samples in front: which sample, and the number without it.
    starts = np.concatenate([[0], np.cumsum([samples * s for s in sizes])])
    leaf = np.searchsorted(starts, numbers, side="right") - 1
    own = np.concatenate([[0], np.cumsum(sizes)])
    size = np.asarray([*sizes, 1])[leaf]
    within = numbers - starts[leaf]
    return within // size, own[leaf] + within % size


def walk_of(origin: Linearized, local: bool = False, quiet: bool = False) -> Walk:
    """The linear program of a call, walked: once for a program, where what it relies on is the same.

    Args:
      local: at this point alone.
      quiet: nobody has asked for a pattern, so nobody wants to hear where it has more entries than needed.
    """
    walk = _walk_of(origin, local)
    if not quiet:
        walk.walked.tell()
    return walk


def _walk_of(origin: Linearized, local: bool) -> Walk:
    blue, point = origin.blue, origin.point
    if origin.batch:  # of one of the views that vmap has stacked
        point = _first(origin)
    concrete = [not isinstance(c, (Tracer, jax.ShapeDtypeStruct)) for c in point.consts]
    if local or blue.program.jaxpr is None:
        return Walk(blue, point, concrete, local, _room(origin))
    walks = blue.program.forms.setdefault(
        ("walks", blue.positions, blue.spaces, blue.memory_limit, tuple(concrete)), []
    )
    for walk in walks:
        if walk.fits(point.consts):
            return walk
    if len(walks) >= _WALKS:
        concrete = [k and not jnp.issubdtype(c.dtype, jnp.inexact) for k, c in zip(concrete, point.consts, strict=True)]
        del walks[0]
    walks.append(Walk(blue, point, concrete, False, _room(origin)))
    return walks[-1]


def _room(origin: Linearized) -> Room:
    return Room(origin.blue, None if origin.traced else origin.device)


def _first(origin: Linearized) -> Point:
    # Shapes of one point, where vmap has stacked many; constants that it has stacked too are not known.
    blue = origin.blue
    leaves = [jax.ShapeDtypeStruct(s, a.dtype) for a, s in zip(origin.leaves, blue.leaf_shapes, strict=True)]
    consts = [
        c if jnp.shape(c) == s else jax.ShapeDtypeStruct(s, c.dtype)
        for c, s in zip(origin.consts, blue.const_shapes, strict=True)
    ]
    return blue.point(consts, leaves)


def found(origin: Linearized, index: int, local: bool = False) -> Found:
    """The nonzeros of one block."""
    return found_in(walk_of(origin, local), origin, index)


def found_in(walk: Walk, origin: Linearized, index: int) -> Found:
    """The same, of a walk that is at hand."""
    blue = origin.blue
    block = blue.blocks[index]
    return walk.found(block.outs, block.ins, blue.symmetric and blue.mirrors[index] == index)


def nonzeros(origin: Linearized, index: int) -> tuple[jax.Array, Pattern]:
    """The entries of one block that can be nonzero, `(*lead, nnz)`, by one kernel call."""
    it, dtype = found(origin, index), origin.blue.blocks[index].dtype
    bare = origin.blue.program.jaxpr is None  # a program that Python runs has been walked at its point

    def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        return it.data(*(((), ()) if bare else (consts, leaves)), arrays).astype(dtype)

    return origin.run_with(("nonzeros", Identity(it)), body, it.arrays), it.pattern
