"""The store of a block. In a symmetric Hessian, a column of a block is a row of its mirror image.

The mirror image of block (i, j) of a Hessian is block (j, i), its transpose.
Knows stores and the numbers of blocks. Knows nothing of plans.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jacobia._plans.request import Request
from jacobia._run.blueprint import Blueprint
from jacobia._run.point import Linearized
from jacobia._store.lines import Store


def store_of(origin: Linearized, index: int) -> Store:
    """The store of a block, made at its first use; the call owns the stores of its blocks."""
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
        lead = origin.lead  # read here, not in the lambdas: the store must not hold the origin, which owns the store
        other = blue.mirrors[index]
        twin = store if other == index else Store(n, m)
        store.reflect(twin, lambda full: _flip(full, *flip_form(blue, lead, other)))
        twin.reflect(store, lambda full: _flip(full, *flip_form(blue, lead, index)))
        origin.stores[other] = twin
    origin.stores[index] = store
    return store


def own_image(blue: Blueprint, index: int) -> bool:
    """Whether a block is its own mirror image: row k and column k are the same line."""
    return blue.symmetric and blue.mirrors[index] == index


def mirrored(blue: Blueprint, request: Request, way: str) -> tuple[Request, str]:
    """The lines to compute for a request: columns of a symmetric Hessian become rows of the mirror image."""
    if way == "columns" and blue.symmetric:
        image = blue.mirrors[request.block]
        return request._replace(block=image, rows=request.columns, columns=request.rows), "rows"
    return request, way


def reflected(blue: Blueprint, request: Request, among: Sequence[Request]) -> Request | None:
    """The request in `among` whose answer is the transpose of the whole block that `request` asks for; else None."""
    if not blue.symmetric or request.asks != "all":
        return None
    image = blue.mirrors[request.block]
    return next((r for r in among if r.block == image and r.asks == "all"), None)


def flip_form(blue: Blueprint, lead: tuple[int, ...], index: int) -> tuple:
    """The order of axes that transposes a whole block to its mirror image, and the shape of the mirror image."""
    image, block = blue.blocks[blue.mirrors[index]], blue.blocks[index]
    rows = len(lead) + len(block.row_shape)
    axes = range(rows + len(block.column_shape))
    return (*axes[: len(lead)], *axes[rows:], *axes[len(lead) : rows]), lead + image.row_shape + image.column_shape


@partial(jax.jit, static_argnums=(1, 2))
def _flip(full: jax.Array, axes: tuple, shape: tuple) -> jax.Array:
    return jnp.transpose(full, axes).reshape(shape)
