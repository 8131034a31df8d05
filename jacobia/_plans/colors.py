"""Compressed Jacobians of a view: a seed for each color, one kernel, and the nonzeros read back out of it.

For patterns and colorings that are given (`sparsity=`): f is run and never walked.
Knows patterns, colorings and kernels. Knows nothing of keys.
Shapes: B samples, M outputs, N inputs, nnz entries, C colors.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves

from jacobia._call.linearize import Point
from jacobia._compat import Tracer, eval_context
from jacobia._plans.choose import compute_all
from jacobia._plans.confirm import confirm, lacks_entry
from jacobia._plans.mirror import own_image, store_of
from jacobia._plans.nonzeros import nonzeros_of
from jacobia._plans.ways import possible
from jacobia._run import limits as _limits
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.directions import Ways
from jacobia._run.kernels import Kind
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._run.seeds import Spaces, Sweep, applied, run_sweep
from jacobia._space import Space
from jacobia._sparse.coloring import Coloring, lower_bound
from jacobia._sparse.partition import coloring
from jacobia._sparse.pattern import Pattern
from jacobia._sparse.recovery import read_back, recovery

_BY = {"rows": "pullbacks", "columns": "pushforwards"}


def is_traced(sparsity: Any) -> bool:
    """Whether its arrays are not known yet: a pattern or a coloring that was passed into `jit`."""
    return any(isinstance(leaf, Tracer) for leaf in tree_leaves(sparsity))


class Colored:
    """A coloring, as a kernel takes it."""

    def __init__(self, coloring: Coloring):
        self.coloring = coloring

    @cached_property
    def arrays(self) -> list:
        """Colors of rows and of columns, and where entries are read: arguments of the kernel, on the device, once.

        A kernel that held them as constants would take seconds to compile.
        """
        if is_traced(self.coloring):
            return self._made()
        with eval_context():
            return jax.device_put(self._made())

    def _made(self) -> list:
        given, where = self.coloring, recovery(self.coloring)
        if given.partition != "both":  # there is only one place to read from
            where = where._replace(source=None)
        return [given.row_colors, given.column_colors, where]


def pattern_of(origin: Linearized, index: int) -> Pattern:
    """The pattern of one block: the given one, all of it, or what a walk finds."""
    given = origin.blue.sparsity
    if isinstance(given, (Pattern, Coloring)):
        return given.pattern if isinstance(given, Coloring) else given
    if given == "dense":
        return Pattern.from_dense(np.ones(origin.blue.counts[index], bool))
    return nonzeros_of(origin, index).pattern


def coloring_of(origin: Linearized, index: int) -> Colored:
    """The coloring of one block: the given one, or the best that f has the directions for.

    Raises:
      TypeError: of a pattern that is traced.
      ValueError: f has neither direction.
    """
    blue, given = origin.blue, origin.blue.sparsity
    if isinstance(given, Coloring):
        return Colored(given) if is_traced(given) else blue.found.find("coloring", None, lambda: Colored(given))
    pattern, ways = pattern_of(origin, index), _ways(origin, index)
    if is_traced(pattern):
        raise TypeError(
            f"{blue.name}(sparsity=...): expected a Coloring where it is traced, got a Pattern. Colors can't be found "
            "for entries that are not known yet: pass jacobia.coloring(pattern) into jit instead."
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
    # A row of the Hessian of several outputs is one of one of them: several can't be had by one pass.
    ways = possible(origin, origin.blue.blocks[index])
    return ways if origin.blue.program.heads is None else ways._replace(rows=False)


def _way(blue: Blueprint, side: str) -> str:
    # A column of a symmetric matrix is a row: by whichever direction f has.
    return "rows" if blue.symmetric else side


def transposed(given: Coloring) -> Coloring:
    """The same colors for the transpose: those of rows are of columns there."""
    if given.partition in ("columns", "rows"):
        return Coloring(given.pattern.T, "rows" if given.partition == "columns" else "columns", given.colors)
    if given.partition == "symmetric":
        return given
    rows, columns, first = given.row_colors, given.column_colors, given.num_colors - given.num_row_colors
    return Coloring(given.pattern.T, "both", np.concatenate([columns, rows + first * (rows >= 0)]))


def turned(data: jax.Array, pattern: Pattern) -> tuple[jax.Array, Pattern]:
    """Entries and pattern of the transpose."""
    if not is_traced(pattern):
        return data[..., pattern.by_column], pattern.T
    (m, n), order = pattern.shape, jnp.lexsort((pattern.rows, pattern.cols))
    return data[..., order], Pattern.tree_unflatten((n, m), (pattern.cols[order], pattern.rows[order]))


def compressed(origin: Linearized, index: int) -> tuple[jax.Array, Pattern]:
    """The entries of one block, `(*lead, nnz)`, by one kernel call of C seeds.

    Raises:
      ValueError: f has not got a direction that the coloring takes, or the pattern lacks a nonzero.
    """
    given, data = by_what_exists(origin, [origin.blue.blocks[index]], lambda: _computed(origin, index))
    if origin.remembers and origin.directions(origin.blue.blocks[index]).linear:
        ways = list(dict.fromkeys(_way(origin.blue, side) for side in _seeds(given)))
        if not ways:  # nothing was run
            origin.learn(origin.blue.blocks[index])
            ways = [way for way in ("columns", "rows") if getattr(_ways(origin, index), way)][:1]
        confirm(origin, index, given, data, ways)
    return data, given.pattern


def _seeds(given: Coloring) -> dict[str, int]:
    # How many colors there are of rows and of columns, where there are any.
    counts = {"rows": given.num_row_colors, "columns": given.num_colors - given.num_row_colors}
    return {side: count for side, count in counts.items() if count}


def _computed(origin: Linearized, index: int) -> tuple[Coloring, jax.Array]:
    own, ways = coloring_of(origin, index), _ways(origin, index)
    for side in _seeds(own.coloring):
        if not getattr(ways, _way(origin.blue, side)):
            raise _refused(origin, index, side)
    if not origin.directions(origin.blue.blocks[index]).linear:
        return own.coloring, _by_rows(origin, index, own.coloring.pattern)
    return own.coloring, _run(origin, index, own)


def _by_rows(origin: Linearized, index: int, pattern: Pattern) -> jax.Array:
    # A pullback that is not linear gives no sum of rows for a sum of seeds: rows are read one by one.
    matrix = compute_all(origin, index)
    if origin.remembers:
        rest = np.array(matrix)
        rest[..., pattern.rows, pattern.cols] = 0
        for *_, i, j in np.argwhere(rest != 0)[:1]:
            raise ValueError(lacks_entry(origin, i, j, f"row {i} has it"))
    return matrix[..., pattern.rows, pattern.cols]


def _run(origin: Linearized, index: int, own: Colored) -> jax.Array:
    blue, block, given = origin.blue, origin.blue.blocks[index], own.coloring
    counts = _seeds(given)
    size = origin.lead + (given.pattern.nnz,)
    nbytes = math.prod(size) * block.dtype.itemsize
    _limits.check_result(
        f"J.nonzeros() of shape {size}", nbytes, origin.limit(nbytes), "Use J.mv and J.vm, or raise memory_limit."
    )
    if not counts or 0 in size:
        return origin.empty(size, block.dtype)
    chunks = {side: _chunk(origin, block, side, count) for side, count in counts.items()}
    spaces = blue.spaces
    directions = {side: blue.by(_way(blue, side), block.outs, block.ins) for side in counts}

    def body(consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        row_colors, column_colors, where = arrays
        point, parts = blue.point(consts, leaves), []
        for side, count in counts.items():
            colors = row_colors if side == "rows" else column_colors
            way, by = _way(blue, side), directions[side]
            parts.append(_side(point, spaces, block, way, by, colors, count, chunks[side]))
        return read_back(parts, where)

    counted, by = tuple(counts.items()), tuple(directions.values())
    name = Kind("compressed", blue.positions, spaces, block, counted, by, tuple(chunks.values()))
    data = origin.run_with((name,), body, own.arrays)
    store = store_of(origin, index)
    for k, (side, count) in enumerate(counts.items()):
        store.count("rows", origin.by(_way(blue, side), block), 0, count, count, calls=int(k == 0))
    return data


def _side(
    point: Point, spaces: Spaces, block: Block, way: str, by: str, colors: Any, count: int, chunk: int | None
) -> jax.Array:
    # (*lead, C, N) by pullbacks, (*lead, C, M) by pushforwards: colors in front either way, as they are read.
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
        return None  # Python runs no loop
    line = math.prod(origin.lead + (block.column_shape if side == "rows" else block.row_shape)) * block.dtype.itemsize
    per_seed = blue.per_seed * math.prod(origin.batch)
    limit = origin.limit(count * (line + per_seed))
    return _limits.chunk(count, per_seed, count * line, blue.chunk_size, limit)


def _refused(origin: Linearized, index: int, side: str) -> ValueError:
    blue, block, given = origin.blue, origin.blue.blocks[index], origin.blue.sparsity
    missing = origin.learn(block).missing
    other = "columns" if side == "rows" else "rows"
    why = "one without" if blue.program.heads is None else "several outputs, whose Hessian takes one for each"
    if missing:
        why = f"one for which JAX says: {missing[0].says}"
    elif not getattr(block.ways, _way(blue, side)):
        why = f"mode={blue.mode!r}" if blue.mode in ("fwd", "rev") else "dtypes for which they would round"
    way_out = "Give f a derivative rule: one by jax.custom_jvp has both directions."
    if getattr(_ways(origin, index), _way(blue, other)):
        way_out = f"jacobia.coloring(pattern, {other!r}) takes {_BY[other]} alone."
    what = f"Coloring of {given.partition!r}" if isinstance(given, Coloring) else "Pattern"
    return ValueError(f"{blue.name}(sparsity={what}): expected an f with {_BY[side]}, got {why}. {way_out}")
