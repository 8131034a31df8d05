"""The diagonal of a Jacobian or Hessian, without the matrix: one entry of each pass is kept.

Entries in known lines are taken from there. The diagonal of a Hessian is computed forward over forward: one second
directional derivative along each input. Nothing is transposed, so no residuals are stored.
Knows sweeps, and lines that are known. Knows nothing of keys.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jacobia._plans.lines import passes_work
from jacobia._plans.mirror import store_of
from jacobia._plans.of_all import of_all
from jacobia._plans.plan import Outline, Plan, known
from jacobia._plans.request import Answer, Count, Request
from jacobia._plans.sizes import padded, sized
from jacobia._plans.take import as_array, known_cube
from jacobia._plans.ways import choose, possible
from jacobia._program.readings.cost import Work
from jacobia._run.blueprint import Block
from jacobia._run.kernels import Taken
from jacobia._run.point import Linearized
from jacobia._run.seeds import UNROLLED, Sweep
from jacobia._store.lines import Store, alive


def diagonal_shape(origin: Linearized, index: int, flat: bool) -> tuple[int, ...]:
    """The shape of the diagonal of one block.

    Args:
      flat: take the diagonal of the block as a matrix (M, N).

    Returns:
      `(*lead, *x.shape)`; for a Hessian `(*lead, *y.shape, *x.shape)`. `flat` merges all axes behind `lead` into one. A
      Jacobian that is not square has a diagonal if it is flat or 2-D: `(*lead, min(M, N))`.

    Raises:
      ValueError: the block has no diagonal.
    """
    blue, block = origin.blue, origin.blue.blocks[index]
    rows, columns = block.row_shape, block.column_shape
    square = rows[len(rows) - len(columns) :] == columns  # a row of a Hessian has the shape of f in front
    if rows == columns or (blue.spaces.hessian and square):
        return origin.lead + ((math.prod(rows),) if flat else rows)
    if blue.program.heads is None and (flat or len(rows) == len(columns) == 1):
        return (*origin.lead, min(math.prod(rows), math.prod(columns)))
    if blue.spaces.hessian:
        raise ValueError(
            f"H.diagonal(): expected a square block, got {_what(origin, block)}. "
            "Write H[i][i].diagonal(), or set ravel=True."
        )
    raise ValueError(
        f"J.diagonal(): expected an output of the shape of the input, or a 2-D view, got {rows} and {columns}. "
        "Write J.matrix.diagonal() for the diagonal of the flat matrix."
    )


def _what(origin: Linearized, block: Block) -> str:
    spaces = origin.blue.spaces
    return f"that of {spaces.outputs.paths[block.outs[0]]} and {spaces.inputs.paths[block.ins[0]]}"


def _count(origin: Linearized, index: int) -> int:
    block = origin.blue.blocks[index]
    return min(math.prod(block.row_shape), math.prod(block.column_shape))


def diagonals(origin: Linearized, request: Request) -> Iterator[Plan]:
    """The plan for the diagonal of a block."""
    index, blue, block = request.block, origin.blue, origin.blue.blocks[request.block]
    store = store_of(origin, index) if origin.remembers else None
    if store is not None and alive(store.diagonal):
        yield known(origin, request, "the diagonal is known")
        return
    if blue.program.heads is not None:  # each entry of f has a diagonal of its own
        why = "f has several outputs: all of the Hessian is computed, and its diagonals are read off"
        yield of_all(origin, request, why, lambda full: _of_heads(origin, index, full))
        return
    n = _count(origin, index)
    missing = np.arange(n) if store is None else _missing(store, n)
    second = False
    if not missing.size:
        outline = Outline("none", 0, 0, "all of it is known")
    elif blue.primal is None or blue.mode == "rev" or blue.mirrors[index] != index or not origin.has_second(block):
        cost = lambda: blue.relative_cost(block, missing.size, missing.size)  # noqa: E731
        choice = choose("all", missing.size, missing.size, possible(origin, block), cost)
        way = "rows" if blue.symmetric else choice.way
        outline = Outline(way, missing.size, 0, "one entry of each pass is kept")
    else:
        outline, second = Outline("columns", missing.size, 0, "forward over forward: nothing is transposed"), True
    yield Diagonal(origin, request, outline, missing, second)


def _missing(store: Store, n: int) -> np.ndarray:
    # The numbers of the entries that are in no known line.
    if store.whole() is not None:
        return np.array([], int)
    missing = store.rows.missing(np.arange(n))
    return np.intersect1d(missing, store.columns.missing(missing)) if missing.size else missing


def _of_heads(origin: Linearized, index: int, full: Any) -> Answer:
    n = math.prod(origin.blue.blocks[index].column_shape)
    square = full.reshape(*origin.lead, -1, n, n)
    return Answer(index, "diagonal", None, square.diagonal(axis1=-2, axis2=-1).reshape(*origin.lead, -1))


def _second(origin: Linearized, index: int, numbers: np.ndarray | None) -> Sweep:
    # The sweep forward over forward: one second directional derivative for each entry.
    blue, block = origin.blue, origin.blue.blocks[index]
    o = block.outs[0] // len(blue.spaces.inputs)
    like = sized(origin, "columns", block.outs, block.ins, numbers, diagonal=True)
    sweep = like._replace(way="second", read=(o,), dtypes=(block.dtype,), diagonal=False)
    few = not origin.compiles and sweep.chunk is None and sweep.width is None
    if few and math.prod(block.column_shape) <= UNROLLED:
        sweep = sweep._replace(chunk=1)  # seeds that run one after the other share the memory of their intermediates
    return sweep


@dataclass(frozen=True, eq=False)
class Diagonal(Plan):
    """The entries in known lines, and one entry of each pass through f."""

    missing: np.ndarray  # numbers of the entries that are computed
    second: bool  # by second directional derivatives

    @property
    def _numbers(self) -> np.ndarray | None:
        # The numbers of the computed entries; None: all entries of a square block.
        m, n = self.origin.blue.counts[self.request.block]
        return None if self.missing.size == m == n else self.missing

    @cached_property
    def _sweep(self) -> Sweep:
        origin, block = self.origin, self.origin.blue.blocks[self.request.block]
        if self.second:
            return _second(origin, self.request.block, self._numbers)
        return sized(origin, self.outline.way, block.outs, block.ins, self._numbers, diagonal=True)

    def check(self) -> None:
        assert not self.missing.size or self._sweep

    def taken(self) -> Taken:
        return super().taken() if self.missing.size else Taken(0, 0)

    def run(self) -> list[Answer]:
        index, count = self.request.block, self.missing.size
        if not count:
            return [Answer(index, "diagonal", None, self._put_together(None))]
        numbers = self._numbers
        ids = None if numbers is None else padded(numbers, self._sweep)
        ((out,),) = self.origin.run((self._sweep,), [ids])
        out = out if ids is None else out[..., :count]
        run = count if self._sweep.width is None else self._sweep.width
        full = out if count == _count(self.origin, index) else self._put_together(out)
        return [Answer(index, "diagonal", None, full, counts=(Count(index, "rows", self._pass, 0, count, run),))]

    def _put_together(self, computed: jax.Array | None) -> jax.Array:
        # The diagonal from computed entries and entries in known lines.
        origin, index = self.origin, self.request.block
        store, lead = store_of(origin, index), math.prod(origin.lead)
        known = np.setdiff1d(np.arange(_count(origin, index)), self.missing)
        by_rows = known if store.whole() is not None else np.setdiff1d(known, store.rows.missing(known))
        numbers, parts, cubes = [], [], []
        if computed is not None:
            numbers.append(self.missing)
            parts.append(computed.reshape(lead, -1))
        for way, own in (("rows", by_rows), ("columns", np.setdiff1d(known, by_rows))):
            if own.size:
                cube = known_cube(origin, index, *((own, None) if way == "rows" else (None, own)))
                at = [np.arange(len(own)) if cube.numbers[w] is not None else own for w in ("rows", "columns")]
                numbers.append(own)
                parts.append(cube.array[:, at[0], at[1]])
                cubes.append(cube)
        xp, like = cubes[0].module, cubes[0].like
        order = np.argsort(np.concatenate(numbers))
        out = xp.take(xp.concatenate([xp.asarray(p) for p in parts], axis=1), order, axis=1)
        return as_array(out, like).reshape(*origin.lead, -1)

    @property
    def _pass(self) -> str:
        blue = self.origin.blue
        if self.second:
            return "pushforwards"
        return self.origin.by(self.outline.way, blue.blocks[self.request.block])

    def by(self) -> str:
        if self.second:
            return "second directional derivatives"
        return "Hessian-vector products" if self.origin.blue.symmetric else self._pass

    def work(self) -> Work | None:
        if self.second or not self.missing.size:
            return None
        each = passes_work(self.origin, self.outline.way, self.origin.blue.blocks[self.request.block])
        return each and each[0].times(self.outline.passes).plus(each[1])
