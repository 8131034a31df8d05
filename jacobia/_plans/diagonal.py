"""The diagonal of a Jacobian or Hessian, without the matrix: of each pass one entry is kept.

Lines already known are used. The diagonal of a Hessian is computed forward over forward: one second directional
derivative along each input, with nothing transposed and so no residuals.
Knows sweeps, and lines that are known. Knows nothing of keys.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._plans.choose import compute_all
from jacobia._plans.mirror import store_of
from jacobia._plans.sizes import padded, sized
from jacobia._plans.take import array_module, as_array, known_cube
from jacobia._plans.ways import choose, possible
from jacobia._run.blueprint import Block
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._run.seeds import UNROLLED, Sweep
from jacobia._store.lines import Store


def diagonal(origin: Linearized, index: int, flat: bool) -> jax.Array:
    """The diagonal of one block; `flat` as a matrix.

    Returns:
      `(*lead, *x.shape)`, with the shape of f in between for a Hessian; `(*lead, n)` if flat or not square.
    """
    shape = _shape(origin, index, flat)
    if 0 in shape:
        return origin.empty(shape, origin.blue.blocks[index].dtype)
    if not origin.remembers:
        return _compute(origin, index, None).reshape(shape)
    with origin.lock:
        store = store_of(origin, index)
        if store.diagonal is None or store.diagonal.is_deleted():
            store.diagonal = _assembled(origin, index, store).reshape(shape)
        return store.diagonal.reshape(shape)


def _shape(origin: Linearized, index: int, flat: bool) -> tuple[int, ...]:
    blue, block = origin.blue, origin.blue.blocks[index]
    rows, columns = block.row_shape, block.column_shape
    square = rows[len(rows) - len(columns) :] == columns  # behind the shape of f, for a Hessian
    if rows == columns or (blue.spaces.hessian and square):
        return origin.lead + ((math.prod(rows),) if flat else rows)
    if blue.program.heads is None and (flat or len(rows) == len(columns) == 1):
        return (*origin.lead, min(math.prod(rows), math.prod(columns)))
    if blue.spaces.hessian:
        raise ValueError(
            f"H.diagonal(): expected a square block, got {_what(origin, block)}. "
            "Take it of the blocks H[i][i], or set ravel=True."
        )
    raise ValueError(
        f"J.diagonal(): expected an output of the shape of the input, or a 2-D view, got {rows} and {columns}. "
        "Write J.matrix.diagonal() for that of the flat matrix."
    )


def _what(origin: Linearized, block: Block) -> str:
    spaces = origin.blue.spaces
    return f"{spaces.outputs.paths[block.outs[0]]} and then {spaces.inputs.paths[block.ins[0]]}"


def _count(origin: Linearized, index: int) -> int:
    block = origin.blue.blocks[index]
    return min(math.prod(block.row_shape), math.prod(block.column_shape))


def _assembled(origin: Linearized, index: int, store: Store) -> Any:
    # What is known of it, and the rest computed.
    n = _count(origin, index)
    if origin.blue.program.heads is not None:  # each entry of f has a diagonal of its own
        return _compute(origin, index, None) if store.whole() is None else _of_heads(origin, index, store.whole())
    missing = np.array([], int) if store.whole() is not None else store.rows.missing(np.arange(n))
    missing = np.intersect1d(missing, store.columns.missing(missing)) if missing.size else missing
    if missing.size == n:
        return _compute(origin, index, None)
    xp = array_module(store)
    known = np.setdiff1d(np.arange(n), missing)
    by_rows = known if store.whole() is not None else np.setdiff1d(known, store.rows.missing(known))
    parts = []
    for way, numbers in (("rows", by_rows), ("columns", np.setdiff1d(known, by_rows))):
        if numbers.size:
            lines = (numbers, None) if way == "rows" else (None, numbers)
            cube, held = known_cube(xp, origin, index, *lines)
            places = [np.arange(len(numbers)) if held.get(w) is not None else numbers for w in ("rows", "columns")]
            parts.append((numbers, cube[:, places[0], places[1]]))
    if missing.size:
        found = xp.asarray(_compute(origin, index, missing))
        parts.append((missing, found.reshape(math.prod(origin.lead), -1)))
    if len(parts) == 1:
        out = parts[0][1]
    else:
        order = np.argsort(np.concatenate([numbers for numbers, _ in parts]))
        out = xp.take(xp.concatenate([values for _, values in parts], axis=1), order, axis=1)
    return as_array(xp, out, store.arrays()[0])


def _of_heads(origin: Linearized, index: int, full: jax.Array) -> jax.Array:
    block = origin.blue.blocks[index]
    n = math.prod(block.column_shape)
    square = full.reshape(*origin.lead, -1, n, n)
    return jnp.diagonal(square, axis1=-2, axis2=-1)


def _compute(origin: Linearized, index: int, numbers: np.ndarray | None) -> jax.Array:
    # Entries of the diagonal, `(*lead, n)`, none of which is known; None: all of them.
    blue, block = origin.blue, origin.blue.blocks[index]
    if numbers is None and _count(origin, index) < max(math.prod(block.row_shape), math.prod(block.column_shape)):
        numbers = np.arange(_count(origin, index))  # not square
    if blue.primal is None or blue.mode == "rev" or blue.mirrors[index] != index or not origin.has_second(block):
        return _swept(origin, index, numbers)
    return _second(origin, index, numbers)


def _second(origin: Linearized, index: int, numbers: np.ndarray | None) -> jax.Array:
    # Forward over forward, one second directional derivative for each entry.
    blue, block = origin.blue, origin.blue.blocks[index]
    o = block.outs[0] // len(blue.spaces.inputs)
    like = sized(origin, "columns", block.outs, block.ins, numbers, diagonal=True)
    sweep = like._replace(way="second", read=(o,), dtypes=(block.dtype,), diagonal=False)
    if (
        not origin.compiles
        and sweep.chunk is None
        and sweep.width is None
        and math.prod(block.column_shape) <= UNROLLED
    ):
        sweep = sweep._replace(chunk=1)  # written out one after the other, their intermediates share memory
    return _run(origin, index, "pushforwards", sweep, numbers)


def _swept(origin: Linearized, index: int, numbers: np.ndarray | None) -> jax.Array:
    blue, block = origin.blue, origin.blue.blocks[index]
    if blue.program.heads is not None:
        return _of_heads(origin, index, compute_all(origin, index))
    n = _count(origin, index) if numbers is None else len(numbers)

    def work() -> jax.Array:
        choice = choose("all", n, n, possible(origin, block), lambda: blue.relative_cost(block, n, n))
        way = "rows" if blue.symmetric else choice.way
        sweep = sized(origin, way, block.outs, block.ins, numbers, diagonal=True)
        return _run(origin, index, origin.by(way, block), sweep, numbers)

    return by_what_exists(origin, [block], work)


def _run(origin: Linearized, index: int, by: str, sweep: Sweep, numbers: np.ndarray | None) -> jax.Array:
    ((out,),) = origin.run((sweep,), [None if numbers is None else padded(numbers, sweep)])
    seeds = _count(origin, index) if numbers is None else len(numbers)
    store_of(origin, index).count("rows", by, 0, seeds, seeds if sweep.width is None else sweep.width)
    return out if numbers is None else out[..., : len(numbers)]
