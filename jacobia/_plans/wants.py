"""What is asked for of a block, and what came: lines by their numbers. Of a symmetric matrix, of which mirror image.

Knows stores and blocks. Chooses nothing.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.point import Linearized
from jacobia._store.lines import Store


class Want(NamedTuple):
    """Lines of one block: numbers (sorted and different, or traced), or None for all."""

    block: int  # its number
    rows: Any
    columns: Any


class Done(NamedTuple):
    block: int  # the one that was computed: the mirror image of the one asked for, where a column was a row there
    way: str  # "rows" or "columns"
    numbers: Any  # None: all
    array: Any  # (R, *x.shape), x.shape for one row, or (*y.shape, R), padded behind; or y.shape + x.shape for all
    turned: bool = False  # columns were asked for, and are rows of the mirror image


def store_of(origin: Linearized, index: int) -> Store:
    store = origin.stores.get(index)
    if store is None:
        with origin.lock:
            store = origin.stores.get(index) or _new_store(origin, index)
    return store


def _new_store(origin: Linearized, index: int) -> Store:
    blue = origin.blue
    m, n = blue.counts[index]
    store = Store(m, n)
    if blue.symmetric:
        lead = origin.lead  # taken out here: the origin owns the store, and nothing owns the origin
        other = blue.mirrors[index]
        twin = store if other == index else Store(n, m)
        store.reflect(twin, lambda full: _flip(full, *flip_form(blue, lead, other)))
        twin.reflect(store, lambda full: _flip(full, *flip_form(blue, lead, index)))
        origin.stores[other] = twin
    origin.stores[index] = store
    return store


def flipped(origin: Linearized, index: int, full: Any) -> jax.Array:
    """The whole mirror image of a block."""
    return _flip(full, *flip_form(origin.blue, origin.lead, index))


def flip_form(blue: Blueprint, lead: tuple[int, ...], index: int) -> tuple:
    image, block = blue.blocks[blue.mirrors[index]], blue.blocks[index]
    rows = len(lead) + len(block.row_shape)
    axes = range(rows + len(block.column_shape))
    return (*axes[: len(lead)], *axes[rows:], *axes[len(lead) : rows]), lead + image.row_shape + image.column_shape


@partial(jax.jit, static_argnums=(1, 2))
def _flip(full: jax.Array, axes: tuple, shape: tuple) -> jax.Array:
    return jnp.transpose(full, axes).reshape(shape)


class Todo(NamedTuple):
    want: Want
    way: str


def mirrored(origin: Linearized, want: Want, way: str) -> Todo:
    """What is computed for a want: a column of a symmetric matrix is a row of its mirror image."""
    if way == "columns" and origin.blue.symmetric:
        return Todo(Want(origin.blue.mirrors[want.block], want.columns, want.rows), "rows")
    return Todo(want, way)


def request(want: Want) -> str:
    """What a want asks for, in one word: "all", "rows", "columns" or a "block" of both."""
    if want.rows is None:
        return "all" if want.columns is None else "columns"
    return "rows" if want.columns is None else "block"


def most_of(block: Block, way: str) -> int:
    return math.prod(block.row_shape if way == "rows" else block.column_shape)
