"""Products with a Jacobian without the matrix: `J v` is one pushforward, `u J` one pullback.

Knows vectors and shapes. Knows nothing of keys, nor of what is remembered.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._plans.plan import Outline, Plan
from jacobia._plans.request import Answer, Count, Request
from jacobia._run.blueprint import Block
from jacobia._run.point import Linearized


def mv(origin: Linearized, block: Block, v: jax.Array, known: Any) -> jax.Array:
    """`J v` for `v` of shape `x.shape`, or several at once, `(*x.shape, k)`; by the matrix where that is known."""
    b, x, y = origin.lead, block.column_shape, block.row_shape
    several = v.ndim > len(b) + len(x)
    if known is not None:
        flat = v.reshape(*b, math.prod(x), -1)
        out = known.reshape(*b, math.prod(y), math.prod(x)) @ flat.astype(block.dtype)
        return out.reshape(*b, *y, *v.shape[len(b) + len(x) :])
    seeds = jnp.moveaxis(v, -1, len(b)) if several else jnp.expand_dims(v, len(b))
    out = _product(origin, block, "columns", seeds)
    return jnp.moveaxis(out, len(b), -1) if several else jnp.squeeze(out, len(b))


def vm(origin: Linearized, block: Block, u: jax.Array, known: Any) -> jax.Array:
    """`u J` for `u` of shape `y.shape`, or several at once, `(k, *y.shape)`; by the matrix where that is known."""
    b, x, y = origin.lead, block.column_shape, block.row_shape
    several = u.ndim > len(b) + len(y)
    if known is not None:
        flat = u.reshape(*b, -1, math.prod(y))
        out = flat.astype(block.dtype) @ known.reshape(*b, math.prod(y), math.prod(x))
        return out.reshape(*b, *(u.shape[len(b) : len(b) + 1] if several else ()), *x)
    out = _product(origin, block, "rows", u if several else jnp.expand_dims(u, len(b)))
    return out if several else jnp.squeeze(out, len(b))


def products(
    origin: Linearized, request: Request, way: str, vector: jax.Array, known: Any, full: Callable[[], jax.Array]
) -> "Iterator[Product]":
    """How to multiply: by the matrix where that is known, by a direction that f has, or by all of the block.

    Args:
      way: "rows" for `u J`, "columns" for `J v`.
      full: computes all of the block.
    """
    if known is not None:
        yield Product(origin, request, Outline("none", 0, 0, "the matrix is known"), way, vector, lambda: known)
    elif has_products(origin, origin.blue.blocks[request.block], way):
        count = vector.size // _size(origin, origin.blue.blocks[request.block], way)
        yield Product(origin, request, Outline(way, count, 0, "one for each vector"), way, vector, None)
    else:
        why = "f has no linear direction for it, so that the matrix is needed"
        yield Product(origin, request, Outline("none", 0, 0, why), way, vector, full)


@dataclass(frozen=True, eq=False)
class Product(Plan):
    """`J v` or `u J`."""

    way: str
    vector: jax.Array
    matrix: Callable[[], jax.Array] | None  # None: without it

    def run(self) -> list[Answer]:
        origin, index, known = self.origin, self.request.block, self.matrix and self.matrix()
        out = (mv if self.way == "columns" else vm)(origin, origin.blue.blocks[index], self.vector, known)
        count = self.outline.passes
        counts = (Count(index, self.way, self.by(), 0, count, count),) if known is None else ()
        return [Answer(index, "product", None, out, counts=counts)]

    def by(self) -> str:
        pulls = self.origin.by_for_products(self.way, self.origin.blue.blocks[self.request.block]) == "pullback"
        return "pullbacks" if pulls else "pushforwards"


def _size(origin: Linearized, block: Block, way: str) -> int:
    return max(1, math.prod(origin.lead + (block.row_shape if way == "rows" else block.column_shape)))


def checked(vector: Any, way: str, batch: tuple[int, ...], block: Block) -> jax.Array:
    """The argument of a product as an array, if it has one of the shapes that fit."""
    columns = way == "columns"
    call, shape = ("J.mv(v=...)", block.column_shape) if columns else ("J.vm(u=...)", block.row_shape)
    v = jnp.asarray(vector)
    one, axis = batch + shape, len(batch) + (len(shape) if columns else 0)
    if v.shape == one or (v.ndim == len(one) + 1 and v.shape[:axis] + v.shape[axis + 1 :] == one):
        return v
    several = ", ".join(map(str, one[:axis] + ("k",) + one[axis:]))
    raise ValueError(
        f"{call}: expected shape {one}, or ({several}) for k of them, got {v.shape}. J.matrix @ v takes flat vectors."
    )


def has_products(origin: Linearized, block: Block, way: str) -> bool:
    """Whether "rows" (a pullback of any cotangent) or "columns" (a pushforward) can be had without the matrix."""
    known = origin.directions(block)
    direction = known.pullback if origin.by_for_products(way, block) == "pullback" else known.pushforward
    return known.linear and bool(direction)


def _product(origin: Linearized, block: Block, way: str, seeds: jax.Array) -> jax.Array:
    # Seeds (*batch, k, *shape) of the seeded leaves, flattened into one vector by ravel.
    blue, lead = origin.blue, len(origin.lead) + 1
    outs, ins = blue.spaces.outputs.pick(block.outs), blue.spaces.inputs.pick(block.ins)
    seeded, read = (outs, ins) if way == "rows" else (ins, outs)
    if blue.ravel:
        ends = [sum(seeded.sizes[: k + 1]) for k in range(len(seeded))]
        vectors = [
            a.reshape(a.shape[:-1] + s)
            for a, s in zip(jnp.split(seeds, ends[:-1], axis=-1), seeded.shapes, strict=True)
        ]
    else:
        vectors = [seeds]
    vectors = [a.astype(d) for a, d in zip(vectors, seeded.dtypes, strict=True)]
    out = [a.astype(block.dtype) for a in origin.product(way, block, vectors)]
    if blue.ravel:
        return jnp.concatenate([a.reshape(a.shape[:lead] + (-1,)) for a in out], axis=-1)
    (answer,) = out
    assert answer.shape[lead:] == read.shapes[0]
    return answer
