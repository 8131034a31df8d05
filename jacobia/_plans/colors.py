"""Nonzeros by a compressed Jacobian: one kernel runs a seed for each color, and reads the nonzeros back out.

For a pattern or coloring that the user gives (`sparsity=`): the program of f is not walked.
Knows patterns, colorings and kernels. Knows nothing of keys.
Shapes: B samples, M outputs, N inputs, nnz entries, C colors.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves

from jacobia._call.linearize import Point
from jacobia._compat import Tracer, eval_context
from jacobia._plans.confirm import confirm, lacks_entry
from jacobia._plans.lines import passes_work
from jacobia._plans.mirror import own_image
from jacobia._plans.nonzeros import nonzeros_of
from jacobia._plans.of_all import entries, of_all
from jacobia._plans.plan import Outline, Plan
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.ways import possible
from jacobia._program.readings.cost import Work
from jacobia._run import limits as _limits
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.devices import empty
from jacobia._run.directions import Ways
from jacobia._run.kernels import Kind
from jacobia._run.point import Linearized
from jacobia._run.seeds import Spaces, Sweep, applied, run_sweep
from jacobia._space import Space
from jacobia._sparse.coloring import Coloring, lower_bound
from jacobia._sparse.partition import coloring
from jacobia._sparse.pattern import Pattern
from jacobia._sparse.recovery import read_back, recovery
from jacobia._words import counted

_BY = {"rows": "pullbacks", "columns": "pushforwards"}


def is_traced(sparsity: Any) -> bool:
    """Whether a pattern or coloring holds tracers: it was passed into `jit` as an argument."""
    return any(isinstance(leaf, Tracer) for leaf in tree_leaves(sparsity))


class Colored:
    """A coloring, with the arrays by which a kernel uses it."""

    def __init__(self, coloring: Coloring):
        self.coloring = coloring

    @cached_property
    def arrays(self) -> list:
        """The colors of rows and of columns, and where entries are read: put on the device once.

        They are arguments of the kernel: with them as constants, it would take seconds to compile.
        """
        if is_traced(self.coloring):
            return self._made()
        with eval_context():
            return jax.device_put(self._made())

    def _made(self) -> list:
        given, where = self.coloring, recovery(self.coloring)
        if given.partition != "both":  # every entry is read from the same compressed matrix
            where = where._replace(source=None)
        return [given.row_colors, given.column_colors, where]


def pattern_of(origin: Linearized, index: int) -> Pattern:
    """The pattern of one block: the given one, every entry (`sparsity="dense"`), or the pattern that a walk finds."""
    given = origin.blue.sparsity
    if isinstance(given, (Pattern, Coloring)):
        return given.pattern if isinstance(given, Coloring) else given
    if given == "dense":
        return Pattern.from_dense(np.ones(origin.blue.counts[index], bool))
    return nonzeros_of(origin, index).pattern


def coloring_of(origin: Linearized, index: int) -> Colored:
    """The coloring of one block: the given one, or the one with the fewest colors by directions that f has.

    Raises:
      TypeError: the pattern is traced, so that it cannot be colored.
      ValueError: f has neither direction.
    """
    blue, given = origin.blue, origin.blue.sparsity
    if isinstance(given, Coloring):
        return Colored(given) if is_traced(given) else blue.found.find("coloring", None, lambda: Colored(given))
    pattern, ways = pattern_of(origin, index), _ways(origin, index)
    if is_traced(pattern):
        raise TypeError(
            f"{blue.name}(sparsity=...): expected a Coloring inside of jit, got a Pattern. A traced pattern can't be "
            "colored: compute jacobia.coloring(pattern) outside, and pass the Coloring in."
        )
    if not any(ways):
        raise _refused(origin, index, "columns")
    symmetric = own_image(blue, index)
    return blue.found.find("coloring", (pattern, ways), lambda: Colored(_fewest(pattern, ways, symmetric)))


def _fewest(pattern: Pattern, ways: Ways, symmetric: bool) -> Coloring:
    best = coloring(pattern, "auto" if all(ways) else "rows" if ways.rows else "columns")
    if symmetric and lower_bound(pattern, "symmetric") < best.num_colors and pattern.T == pattern:
        star = coloring(pattern, "symmetric")
        return star if star.num_colors < best.num_colors else best
    return best


def _ways(origin: Linearized, index: int) -> Ways:
    # A Hessian of several outputs has one row for each output and input: one pass gives no sum of rows of different
    # outputs.
    ways = possible(origin, origin.blue.blocks[index])
    return ways if origin.blue.program.heads is None else ways._replace(rows=False)


def _way(blue: Blueprint, side: str) -> str:
    # A column of a symmetric matrix is a row, computed by whichever direction f has.
    return "rows" if blue.symmetric else side


def transposed(given: Coloring) -> Coloring:
    """The coloring of the transpose: colors of rows become colors of columns, and the reverse."""
    if given.partition in ("columns", "rows"):
        return Coloring(given.pattern.T, "rows" if given.partition == "columns" else "columns", given.colors)
    if given.partition == "symmetric":
        return given
    rows, columns, first = given.row_colors, given.column_colors, given.num_colors - given.num_row_colors
    return Coloring(given.pattern.T, "both", np.concatenate([columns, rows + first * (rows >= 0)]))


def turned(data: jax.Array, pattern: Pattern) -> tuple[jax.Array, Pattern]:
    """The entries and the pattern of the transpose."""
    if not is_traced(pattern):
        return data[..., pattern.by_column], pattern.T
    (m, n), order = pattern.shape, jnp.lexsort((pattern.rows, pattern.cols))
    return data[..., order], Pattern.tree_unflatten((n, m), (pattern.cols[order], pattern.rows[order]))


def by_colors(origin: Linearized, request: Request) -> Iterator[Plan]:
    """The plan for the nonzeros of a block whose pattern or coloring is given.

    Raises:
      ValueError: the coloring needs a direction that f lacks.
    """
    index, blue, ways = request.block, origin.blue, _ways(origin, request.block)
    own = coloring_of(origin, index)
    given = own.coloring
    counts = _seeds(given)
    for side in counts:
        if not getattr(ways, _way(blue, side)):
            raise _refused(origin, index, side)
    if not origin.directions(blue.blocks[index]).linear:
        why = "a sum of rows has no pullback"
        yield of_all(origin, request, why, lambda full: _read_off(origin, index, given, full))
        return
    told = " and ".join(f"{counted(count, 'colors')} of {side}" for side, count in counts.items())
    holds = "holds" if given.num_colors == 1 else "hold"
    why = f"{told} {holds} all {counted(given.pattern.nnz, 'entries')}" if counts else "the result is empty"
    outline = Outline(" and ".join(counts) or "none", given.num_colors, 0, why)
    yield Colors(origin, request, outline, own, counts)


def _seeds(given: Coloring) -> dict[str, int]:
    # The numbers of colors of rows and of columns; a side without colors is left out.
    counts = {"rows": given.num_row_colors, "columns": given.num_colors - given.num_row_colors}
    return {side: count for side, count in counts.items() if count}


def _read_off(origin: Linearized, index: int, given: Coloring, full: Any) -> Answer:
    # A pullback that is not linear does not map a sum of seeds to the sum of their rows. So all rows are computed one
    # by one, and the entries of the pattern are read off them.
    pattern = given.pattern
    if origin.remembers:
        rest = np.array(full)
        rest[..., pattern.rows, pattern.cols] = 0
        for *_, i, j in np.argwhere(rest != 0)[:1]:
            raise ValueError(lacks_entry(origin, i, j, f"row {i} of J has this entry"))
    return entries(index, pattern, full)


@dataclass(frozen=True, eq=False)
class Colors(Plan):
    """All nonzeros of a block by one kernel call with C seeds: the answer to a seed is the sum of one color's lines."""

    own: Colored
    seeds: dict[str, int]  # "rows" and "columns" → number of seeds

    @property
    def _block(self) -> Block:
        return self.origin.blue.blocks[self.request.block]

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.origin.lead + (self.own.coloring.pattern.nnz,)

    def check(self) -> None:
        nbytes = math.prod(self._shape) * self._block.dtype.itemsize
        limit = self.origin.limit(nbytes)
        what = f"J.nonzeros() of shape {self._shape}"
        _limits.check_result(what, nbytes, limit, "Use J.mv and J.vm, or raise memory_limit.")

    def run(self) -> list[Answer]:
        """Compute the nonzeros, and compare them with products, once for a program and a coloring.

        Raises:
          ValueError: the pattern lacks a nonzero.
        """
        origin, index, given = self.origin, self.request.block, self.own.coloring
        if self.seeds and 0 not in self._shape:
            data = self._run()
        else:
            data = empty(origin.leaves, self._shape, self._block.dtype)
        if origin.remembers:
            ways = list(dict.fromkeys(_way(origin.blue, side) for side in self.seeds))
            if not ways:  # nothing was run
                origin.learn(self._block)
                ways = [way for way in ("columns", "rows") if getattr(_ways(origin, index), way)][:1]
            confirm(origin, index, given, data, ways)
        return [Answer(index, "nonzeros", given.pattern, data, counts=self._counts())]

    def _counts(self) -> tuple[Count, ...]:
        if 0 in self._shape:
            return ()
        sides = enumerate(self.seeds.items())
        by = [self.origin.by(_way(self.origin.blue, side), self._block) for side in self.seeds]
        return tuple(Count(self.request.block, "rows", by[k], 0, n, n, calls=int(k == 0)) for k, (_, n) in sides)

    def _run(self) -> jax.Array:
        blue, block, spaces = self.origin.blue, self._block, self.origin.blue.spaces
        chunks = {side: _chunk(self.origin, block, side, count) for side, count in self.seeds.items()}
        directions = {side: blue.by(_way(blue, side), block.outs, block.ins) for side in self.seeds}

        def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
            row_colors, column_colors, where = arrays
            point, parts = blue.point(consts, leaves), []
            for side, count in self.seeds.items():
                colors = row_colors if side == "rows" else column_colors
                way, by = _way(blue, side), directions[side]
                parts.append(_side(point, spaces, block, way, by, colors, count, chunks[side]))
            return read_back(parts, where)

        what = tuple(self.seeds.items()), tuple(directions.values()), tuple(chunks.values())
        return self.origin.run_with((Kind("compressed", blue.positions, spaces, block, *what),), body, self.own.arrays)

    def by(self) -> str:
        if self.origin.blue.symmetric:
            return "Hessian-vector products"
        found = {self.origin.by(_way(self.origin.blue, side), self._block) for side in self.seeds}
        return found.pop() if len(found) == 1 else "passes"

    def work(self) -> Work | None:
        total = Work(0, 0)
        for side, count in self.seeds.items():
            each = passes_work(self.origin, _way(self.origin.blue, side), self._block)
            if each is None:
                return None
            total = total.plus(each[0].times(count)).plus(each[1])
        return total


def _side(
    point: Point, spaces: Spaces, block: Block, way: str, by: str, colors: Any, count: int, chunk: int | None
) -> jax.Array:
    # The compressed matrix: (*lead, C, N) by pullbacks, (*lead, C, M) by pushforwards. `read_back` takes the axis of
    # colors in front for both.
    seeded, read = (block.outs, block.ins) if way == "rows" else (block.ins, block.outs)
    basis = (spaces.outputs if way == "rows" else spaces.inputs).pick(seeded)
    ends = [sum(basis.sizes[:k]) for k in range(len(basis) + 1)]
    apply: Callable[[list], list] = applied(point, spaces, way, by, block.outs, block.ins)

    def answer(color: Any) -> list:
        own = [colors[a:b] == color for a, b in zip(ends, ends[1:], strict=False)]
        seeds = [o.astype(d).reshape(s) for o, d, s in zip(own, basis.dtypes, basis.shapes, strict=True)]
        return apply([jnp.broadcast_to(s, spaces.lead + s.shape) for s in seeds])

    sweep = Sweep("rows", by, seeded, read, None, chunk, (block.dtype,) * len(read), flat=True)
    (matrix,) = run_sweep(sweep, answer, Space(((count,),), basis.dtypes[:1], ("color",)), None, spaces.lead)
    return matrix


def _chunk(origin: Linearized, block: Block, side: str, count: int) -> int | None:
    blue = origin.blue
    if not blue.jit:
        return None  # Python runs all seeds at once, without a loop
    line = math.prod(origin.lead + (block.column_shape if side == "rows" else block.row_shape)) * block.dtype.itemsize
    per_seed = blue.per_seed * math.prod(origin.batch)
    limit = origin.limit(count * (line + per_seed))
    return _limits.chunk(count, per_seed, count * line, blue.chunk_size, limit)


def _refused(origin: Linearized, index: int, side: str) -> ValueError:
    blue, block, given = origin.blue, origin.blue.blocks[index], origin.blue.sparsity
    missing = origin.learn(block).missing
    other = "columns" if side == "rows" else "rows"
    why = "one without" if blue.program.heads is None else "several outputs, whose Hessian needs one pass for each"
    if missing:
        why = f"one for which JAX says: {missing[0].says}"
    elif not getattr(block.ways, _way(blue, side)):
        why = f"mode={blue.mode!r}" if blue.mode in ("fwd", "rev") else f"dtypes of f for which {_BY[side]} would round"
    way_out = "Give f a derivative rule: one by jax.custom_jvp has both directions."
    if getattr(_ways(origin, index), _way(blue, other)):
        way_out = f"jacobia.coloring(pattern, {other!r}) takes {_BY[other]} alone."
    what = f"Coloring of {given.partition!r}" if isinstance(given, Coloring) else "Pattern"
    return ValueError(f"{blue.name}(sparsity={what}): expected an f with {_BY[side]}, got {why}. {way_out}")
