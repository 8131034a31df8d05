"""The nonzeros of a block: its pattern, found once for a program, and the plan that computes all of them.

The linear program, or its transpose, is walked (`_program/columns/accumulate.py`), and the entries found are sorted.
Knows walks, and the numbers of outputs and inputs. Knows nothing of keys or stores.
Shapes: B samples, M outputs, N inputs, nnz entries.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.linearize import Point
from jacobia._compat import Tracer, eval_context
from jacobia._plans.mirror import own_image
from jacobia._plans.plan import Outline, Plan
from jacobia._plans.recipes import Again
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.walking import Memory, Programs, narrowest
from jacobia._program.fingerprint import Identity
from jacobia._program.readings.cost import Work, work
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.directions import Directions
from jacobia._run.missing import by_what_exists, check_linear, refused
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern, made_of

if TYPE_CHECKING:
    from jacobia._program.columns.accumulate import Entries

# Up to this many walks of one program are kept, for different values of the arrays that f closes over. Then a walk is
# made that relies on no value of an inexact array (weights).
_WALKS = 4


class Nonzeros:
    """What a walk has found for some outputs and inputs: the pattern, and how to compute its entries.

    Args:
      source: `(nnz,)` or `(B, nnz)`: for each entry of the pattern, its index among the computed entries. Where a
        sample lacks the entry, the number of computed entries, which is out of bounds and reads zero.
    """

    def __init__(self, pattern: Pattern, entries: "Entries", source: np.ndarray, memory: Memory):
        self.pattern = pattern
        self._entries, self._memory, count = entries, memory, len(entries.rows)
        self._shape = source.shape
        self._source = None if np.array_equal(source.reshape(-1), np.arange(count)) else source
        self._lacks_some = bool((source == count).any())

    @cached_property
    def arrays(self) -> list:
        """The arrays that the kernel takes besides the point, put on the device once."""
        made = self._entries.arrays if self._source is None else [*self._entries.arrays, self._source]
        with eval_context():
            return [jax.device_put(a) for a in made]

    @property
    def largest(self) -> int:
        """Bytes of the largest intermediate."""
        return self._entries.largest.nbytes

    def check(self) -> None:
        """Check the memory for the entries before they are computed.

        Raises:
          MaterializationError: an intermediate with its derivatives does not fit.
        """
        self._memory.check(self._entries.largest)

    def data(self, consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        """The entries in the order of the pattern, `(nnz,)`, or `(B, nnz)`."""
        inputs = [*consts, *leaves]
        if self._source is None:
            return self._entries.values(inputs, arrays).reshape(self._shape)
        *own, source = arrays
        computed = self._entries.values(inputs, own)
        if self._lacks_some:
            return computed.at[source].get(mode="fill", fill_value=0)
        return computed.at[source].get(mode="promise_in_bounds")


class WalkedProgram:
    """A walked linear program of a blueprint, and the nonzeros of its blocks, each found once."""

    def __init__(
        self, blue: Blueprint, point: Point, has: Directions, known: Sequence[bool], leaves_known: bool, memory: Memory
    ):
        # The walk has twenty files, and most programs that import jacobia read no nonzeros.
        from jacobia._program.columns.accumulate import Walked

        programs = Programs(blue, point, has)

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

        self.walked, self.transposed = narrowest(walked, memory)
        self._spaces, self._memory, self._found = blue.spaces, memory, {}

    def fits(self, consts: Sequence) -> bool:
        """Whether the constants that the walk relied on have the same values here."""
        return all(
            consts[i] is a or (not isinstance(consts[i], Tracer) and np.array_equal(consts[i], a))
            for i, a in self.walked.relied.items()
        )

    def of(self, outs: tuple[int, ...], ins: tuple[int, ...], symmetric: bool) -> Nonzeros:
        if (outs, ins) not in self._found:
            self._found[outs, ins] = self._find(outs, ins, symmetric)
        return self._found[outs, ins]

    def on_diagonal(self, outs: tuple[int, ...], ins: tuple[int, ...]) -> "Entries":
        """The entries on the diagonal of a block, sample by sample."""
        name = outs, ins, "on the diagonal"
        if name not in self._found:
            sides = (ins, outs) if self.transposed else (outs, ins)
            found = self._memory.entries(self.walked, *sides, on_diagonal=True)
            with eval_context():  # on the device, once
                self._found[name] = found._replace(arrays=[jax.device_put(a) for a in found.arrays])
        return self._found[name]

    def _find(self, outs: tuple[int, ...], ins: tuple[int, ...], symmetric: bool) -> Nonzeros:
        spaces = self._spaces
        y, x = spaces.outputs.pick(outs), spaces.inputs.pick(ins)
        entries = self._memory.entries(self.walked, *((ins, outs) if self.transposed else (outs, ins)))
        rows, cols = (entries.cols, entries.rows) if self.transposed else (entries.rows, entries.cols)
        batch, chosen = spaces.batch, np.arange(len(rows), dtype=np.int32)
        sample = np.zeros(len(rows), np.int64)
        if batch is not None:
            # That samples are independent is known from another reading of the program, or promised by the user. So an
            # entry between two samples, which this walk may list because it is coarser, is zero and left out.
            sample, rows = _of_samples(rows, y.sizes, batch.size)
            other, cols = _of_samples(cols, x.sizes, batch.size)
            chosen = np.flatnonzero(sample == other)
            sample, rows, cols = (a[chosen] for a in (sample, rows, cols))
        rows, cols = rows.astype(np.int64), cols.astype(np.int64)
        if symmetric:
            # A Hessian is symmetric. So an entry whose mirror image the walk rules out is zero, and left out.
            key, image = (sample * y.size + rows) * x.size + cols, (sample * y.size + cols) * x.size + rows
            keep = np.flatnonzero(np.isin(key, image, assume_unique=True))
            chosen, sample, rows, cols = (a[keep] for a in (chosen, sample, rows, cols))
        key, place = _in_order(rows * x.size + cols)
        source = np.full((1 if batch is None else batch.size, len(key)), len(entries.rows), np.int32)
        source[sample, place] = chosen  # an entry that this sample lacks stays out of bounds
        pattern = made_of(key // max(1, x.size), key % max(1, x.size), (y.size, x.size))
        return Nonzeros(pattern, entries, source[0] if batch is None else source, self._memory)


def _in_order(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The unique keys, sorted, and for every key its index among them.
    if (key[1:] > key[:-1]).all():
        return key, np.arange(len(key))
    unique, place = np.unique(key, return_inverse=True)
    return unique, place.reshape(-1)


def _of_samples(numbers: np.ndarray, sizes: Sequence[int], samples: int) -> tuple[np.ndarray, np.ndarray]:
    # `numbers` count the entries of all leaves, one leaf after the other, each with its samples in front. Returns the
    # sample of each number, and its number within that sample.
    starts = np.concatenate([[0], np.cumsum([samples * s for s in sizes])])
    leaf = np.searchsorted(starts, numbers, side="right") - 1
    own = np.concatenate([[0], np.cumsum(sizes)])
    size = np.asarray([*sizes, 1])[leaf]
    within = numbers - starts[leaf]
    return within // size, own[leaf] + within % size


def walk_of(origin: Linearized, local: bool = False, quiet: bool = False, narrow: bool = False) -> WalkedProgram:
    """The walk of the linear program of a call, made once for all points where the values it relies on are the same.

    Args:
      local: let the walk rely on the values of the leaves too; it is valid at this point alone, and not kept.
      quiet: do not warn where the pattern has more entries than needed: the user has not asked for a pattern.
      narrow: raise where an intermediate has many columns, since rows or columns are as cheap then.
    """
    walk = _walk_of(origin, local, narrow)
    if not quiet:
        walk.walked.tell()
    return walk


def _walk_of(origin: Linearized, local: bool, narrow: bool) -> WalkedProgram:
    check_linear(origin, every(origin.blue))
    blue, point = origin.blue, _point(origin)
    concrete = [not isinstance(c, (Tracer, jax.ShapeDtypeStruct)) for c in point.consts]
    if local or blue.program.jaxpr is None:
        return _walked(origin, point, concrete, local, narrow)
    name = blue.positions, blue.spaces, blue.memory_limit, tuple(concrete)
    walks = blue.program.found.find("walks", name, list)
    for walk in walks:
        if walk.fits(point.consts):
            return walk
    if len(walks) >= _WALKS:
        concrete = [k and not jnp.issubdtype(c.dtype, jnp.inexact) for k, c in zip(concrete, point.consts, strict=True)]
        del walks[0]
    walks.append(_walked(origin, point, concrete, False, narrow))
    return walks[-1]


def _walked(origin: Linearized, point: Point, known: Sequence[bool], leaves_known: bool, narrow: bool) -> WalkedProgram:
    block = every(origin.blue)
    origin.check_alive(computes=False)

    def work() -> WalkedProgram:
        has = origin.directions(block)
        if not (has.pullback or has.pushforward):
            raise refused(origin, block)
        return WalkedProgram(origin.blue, point, has, known, leaves_known, _memory(origin, narrow))

    return by_what_exists(origin, [block], work)


def every(blue: Blueprint) -> Block:
    """The block of all outputs and all inputs: it is walked as one, and multiplied with as one operator."""
    outs, ins = range(len(blue.spaces.outputs)), range(len(blue.spaces.inputs))
    return blue.blocks[0]._replace(outs=tuple(outs), ins=tuple(ins))


def _memory(origin: Linearized, narrow: bool) -> Memory:
    return Memory(origin.blue, None if origin.traced else origin.device, narrow)


def _point(origin: Linearized) -> Point:
    # One of the points that vmap has stacked, or the point.
    return origin.blue.one_point(origin.consts, origin.leaves) if origin.batch else origin.point


def nonzeros_of(origin: Linearized, index: int, local: bool = False) -> Nonzeros:
    """The nonzeros of one block."""
    return nonzeros_in(walk_of(origin, local), origin, index)


def nonzeros_in(walk: WalkedProgram, origin: Linearized, index: int) -> Nonzeros:
    """The nonzeros of one block, from a given walk."""
    blue = origin.blue
    block = blue.blocks[index]
    return walk.of(block.outs, block.ins, own_image(blue, index))


def accumulated(origin: Linearized, request: Request) -> "Iterator[Accumulated]":
    """The plan for the nonzeros of a block by the walk of its program."""
    found = nonzeros_of(origin, request.block)
    outline = Outline("nonzeros", 0, min(found.pattern.shape), "all entries are accumulated at once")
    yield Accumulated(origin, request, outline, found)


@dataclass(frozen=True, eq=False)
class Accumulated(Plan):
    """All nonzeros of a block by one kernel without seeds."""

    nonzeros: Nonzeros

    def check(self) -> None:
        self.nonzeros.check()

    def run(self) -> list[Answer]:
        index, found = self.request.block, self.nonzeros
        counts = (Count(index, "rows", "pullbacks", 0, 0, 0),)
        again = Again(
            ("nonzeros", Identity(found)), self._body, found.arrays, found.pattern, counts, self.origin.consts
        )
        return [again.run(self.origin, index, found.largest)]

    @property
    def _body(self) -> Callable:
        found, dtype = self.nonzeros, self.origin.blue.blocks[self.request.block].dtype
        bare = self._bare

        def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
            return found.data(*(((), ()) if bare else (consts, leaves)), arrays).astype(dtype)

        return body

    @property
    def _bare(self) -> bool:
        # Whether the walk holds the values of its point: Python runs f, at this one point.
        return self.origin.blue.program.jaxpr is None and not self.origin.batch

    def work(self) -> Work | None:
        if self._bare:
            return None
        point = _point(self.origin)
        program = jax.make_jaxpr(self._body)(point.consts, point.leaves, self.nonzeros.arrays).jaxpr
        return work(program, len(program.invars)).times(math.prod(self.origin.batch))
