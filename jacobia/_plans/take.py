"""Answers of kernels are put into the store of a block, and the array for a key is taken from there.

Knows stores and numbers of lines. Knows nothing of derivatives or kernels.
Shapes: B samples, M by N a block.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._plans.mirror import store_of
from jacobia._plans.request import Answer, Request
from jacobia._run.point import Linearized
from jacobia._store.gather import along, evenly, gathered, places
from jacobia._store.keys import ROLES, Asked
from jacobia._store.lines import Patches, Store, aligned


def put(origin: Linearized, answers: Sequence[Answer]) -> None:
    """Put the answers of kernels into the stores, and add to the counters."""
    for answer in answers:
        keep(origin, answer.block, answer.way, answer.numbers, answer.samples, answer.array)
    note(origin, answers)


def keep(origin: Linearized, index: int, way: str, numbers: Any, samples: Any, array: Any) -> None:
    """Put one array into the store of a block.

    Args:
      way: "rows" or "columns", with the `numbers` and the `samples` of these lines (None: all); or "nonzeros", with
        the pattern as `numbers`; or "diagonal".
    """
    store = store_of(origin, index)
    if way == "nonzeros":
        store.nonzeros, store.pattern = array, numbers
    elif way == "diagonal":
        store.diagonal = array
    elif samples is not None:
        most = origin.blue.counts[index][0 if way == "rows" else 1]
        patches = store.patches.setdefault(way, Patches(most))
        patches.put(samples, np.arange(most) if numbers is None else numbers, array)
    elif numbers is None:
        store.set_whole(array)
    else:
        (store.rows if way == "rows" else store.columns).put(numbers, array)


def note(origin: Linearized, answers: Sequence[Answer]) -> None:
    """Add the counts of answers to the counters of the stores."""
    for answer in answers:
        for c in answer.counts:
            store_of(origin, c.block).count(c.way, c.by, c.lines, c.seeds, c.run, c.constant_rows, c.calls)


def complete(origin: Linearized, index: int) -> Any:
    """The whole block, `lead + y.shape + x.shape`, assembled from its known lines where it is not stored whole."""
    store, block = store_of(origin, index), origin.blue.blocks[index]
    if store.whole() is None:
        cube = known_cube(origin, index, None, None)
        store.set_whole(as_array(cube.array.reshape(origin.lead + block.row_shape + block.column_shape), cube.like))
    return store.full


class Cube(NamedTuple):
    """Known lines of a block that cover some rows and columns."""

    array: Any  # with axes (samples, rows, columns); of NumPy if all stored arrays of these lines are in host memory
    numbers: dict[str, Any]  # of the rows and of the columns that the array holds; None: all
    like: jax.Array  # one of the stored arrays

    @property
    def module(self) -> Any:
        """numpy, which indexes without compiling, or jax.numpy."""
        return np if isinstance(self.array, np.ndarray) else jnp


def known_cube(origin: Linearized, index: int, rows: Any, columns: Any) -> Cube:
    """Known lines that cover some rows and columns (None: all)."""
    store, block = store_of(origin, index), origin.blue.blocks[index]
    b, m, n = math.prod(origin.lead), math.prod(block.row_shape), math.prod(block.column_shape)
    full = store.whole()
    if full is not None:
        return Cube(_at_hand([full])[0].reshape(b, m, n), {"rows": None, "columns": None}, full)
    if rows is None and columns is not None:  # the shorter list is looked up
        way = "rows" if store.columns.num_missing(columns) else "columns"
    else:
        way = "columns" if store.rows.num_missing(rows) else "rows"
    lines, numbers, count = (store.rows, rows, m) if way == "rows" else (store.columns, columns, n)
    turned = way == "columns" and store.mirror is not None  # columns are kept as rows of the mirror image
    axis, shape = (1, (b, -1, m if turned else n)) if way == "rows" or turned else (2, (b, m, -1))
    numbers = np.arange(count) if numbers is None else numbers
    stored, inside, here = zip(*lines.take(numbers), strict=True)
    pieces = [array.reshape(shape) for array in _at_hand(stored)]
    if len(pieces) == 1:
        cube = along(np if isinstance(pieces[0], np.ndarray) else jnp, pieces[0], inside[0], axis)
    elif isinstance(pieces[0], np.ndarray):
        cube = aligned((b, len(numbers), shape[2]) if axis == 1 else (b, m, len(numbers)), pieces[0].dtype)
        for array, own, places in zip(pieces, inside, here, strict=True):
            cube[(slice(None),) * axis + (places,)] = along(np, array, own, axis)
    else:
        back = np.argsort(np.concatenate(here), kind="stable")
        parts = [jnp.take(array, own, axis=axis) for array, own in zip(pieces, inside, strict=True)]
        cube = jnp.take(jnp.concatenate(parts, axis=axis), back, axis=axis)
    return Cube(cube.swapaxes(1, 2) if turned else cube, {"rows": None, "columns": None} | {way: numbers}, stored[0])


def _at_hand(arrays: Sequence[jax.Array]) -> list[Any]:
    # As NumPy arrays if all are in host memory.
    return [np.asarray(a) for a in arrays] if all(map(on_host, arrays)) else list(arrays)


def entries_of(origin: Linearized, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Known entries at pairs (row, column), shape (R,) like `rows` and `columns`, each taken from a row or a column."""
    store = store_of(origin, index)
    out = np.zeros(rows.shape, origin.blue.blocks[index].dtype)
    by_row = ~np.isin(rows, store.rows.missing(np.unique(rows)))
    for way, here in (("rows", by_row), ("columns", ~by_row)):
        if here.any():
            numbers = np.unique((rows if way == "rows" else columns)[here])
            lines = (numbers, None) if way == "rows" else (None, numbers)
            array, held, _ = known_cube(origin, index, *lines)
            at = places(rows[here], held["rows"]), places(columns[here], held["columns"])
            out[here] = np.asarray(array)[(0, *at)]
    return out


def elements_at_once(
    origin: Linearized, request: Request, way: str, what: Asked, order: Sequence[str], natural: bool, held: int
) -> int:
    """How many elements `known_cube` and `gather` hold at their peak; 0 where the kernel's own array is the result.

    Args:
      way: "rows" or "columns": the lines that the result of a key is taken from; else all of the block.
      natural: whether the axes of the view are in the order of its block.
      held: the number of elements that the kernel has returned.
    """
    (index, *asked), choice, ids = request[:3], what.choice, what.ids
    store, block, (m, n) = store_of(origin, index), origin.blue.blocks[index], origin.blue.counts[index]
    sizes = {"batch": math.prod(origin.lead), "rows": m, "columns": n}
    known, numbers, cube = some_known(origin, request), {}, 0
    lines: Any = request.lines(way) if way in ("rows", "columns") else None
    if store.whole() is None and lines is not None and (known or len(lines) < sizes[way]):
        numbers, sizes[way] = {way: lines}, len(lines)
        cube = math.prod(sizes.values()) if known and not _in_one_piece(store, way, lines) else 0
    shape, other = (block.row_shape, asked[1]) if way == "rows" else (block.column_shape, asked[0])
    turned = way == "columns" and origin.blue.symmetric
    own = natural and not turned and len(shape) == 1 and numbers and not known and other is None
    own = own and held == math.prod(choice.shape)
    if own and choice.outer and _are_all(places(ids[way], numbers[way]), len(numbers[way])):
        return 0
    found = {role: places(i, numbers.get(role)) for role, i in ids.items()}
    every = choice.outer and tuple(order) == ROLES
    every = every and all(i is None or _are_all(i, sizes[r]) for r, i in found.items())
    return cube if cube and every else cube + gathered(sizes, found, order, choice)


def some_known(origin: Linearized, request: Request) -> bool:
    """Whether the store knows some of the requested rows or columns."""
    store, counts = store_of(origin, request.block), origin.blue.counts[request.block]
    asked = (store.rows, request.rows), (store.columns, request.columns)
    return any(
        lines.num_missing(numbers) != (count if numbers is None else len(numbers))
        for (lines, numbers), count in zip(asked, counts, strict=True)
    )


def _are_all(numbers: Any, count: int) -> bool:
    return numbers.size == count and evenly(numbers.reshape(-1)) == slice(0, count, 1)


def _in_one_piece(store: Store, way: str, lines: Any) -> bool:
    # Whether all these lines are evenly spaced in one stored array, so that NumPy takes them as a view.
    held = getattr(store, way)
    if held.num_missing(lines):
        return False
    pieces = list(held.take(lines))
    return len(pieces) == 1 and evenly(pieces[0][1]) is not None


def on_host(array: Any) -> bool:
    """Whether an array is in host memory, where NumPy has a view of it."""
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def as_array(out: Any, like: jax.Array) -> Any:
    """`out` as a `jax.Array`; an array of NumPy is put on the device of the stored array `like`."""
    if isinstance(out, jax.Array):
        return out
    # device_put compiles nothing, where jnp.asarray does for every new shape.
    root = out
    while isinstance(root.base, np.ndarray):
        root = root.base
    if root.base is not None:  # a view of a stored array: device_put would copy it later, in another thread
        out, source = aligned(out.shape, out.dtype), out
        out[...] = source
    return jax.device_put(out, next(iter(like.devices())) if like.committed else None)
