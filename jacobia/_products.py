"""Products with a Jacobian without the matrix: `J v` is one pushforward, `u J` one pullback."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._reading import Block, Linearized


def mv(origin: Linearized, block: Block, v: Any, known: Any) -> jax.Array:
    """`J v` for `v` of shape `x.shape`, or several at once, `(*x.shape, k)`."""
    b, x, y = origin.batch, block.column_shape, block.row_shape
    v, several = _checked("J.mv", "v", v, b, x, len(b) + len(x))
    if known is not None:
        flat = v.reshape(*b, math.prod(x), -1)
        out = known.reshape(*b, math.prod(y), math.prod(x)) @ flat.astype(block.dtype)
        return out.reshape(*b, *y, *v.shape[len(b) + len(x) :])
    seeds = jnp.moveaxis(v, -1, len(b)) if several else jnp.expand_dims(v, len(b))
    out = _product(origin, block, "columns", seeds)
    return jnp.moveaxis(out, len(b), -1) if several else jnp.squeeze(out, len(b))


def vm(origin: Linearized, block: Block, u: Any, known: Any) -> jax.Array:
    """`u J` for `u` of shape `y.shape`, or several at once, `(k, *y.shape)`."""
    b, x, y = origin.batch, block.column_shape, block.row_shape
    u, several = _checked("J.vm", "u", u, b, y, len(b))
    if known is not None:
        flat = u.reshape(*b, -1, math.prod(y))
        out = flat.astype(block.dtype) @ known.reshape(*b, math.prod(y), math.prod(x))
        return out.reshape(*b, *(u.shape[len(b) : len(b) + 1] if several else ()), *x)
    out = _product(origin, block, "rows", u if several else jnp.expand_dims(u, len(b)))
    return out if several else jnp.squeeze(out, len(b))


def _checked(what: str, name: str, v: Any, batch: tuple, shape: tuple, extra_axis: int) -> tuple[jax.Array, bool]:
    v = jnp.asarray(v)
    one = batch + shape
    if v.shape == one:
        return v, False
    if v.ndim == len(one) + 1 and v.shape[:extra_axis] + v.shape[extra_axis + 1 :] == one:
        return v, True
    several = one[:extra_axis] + ("k",) + one[extra_axis:]
    raise ValueError(
        f"{what}({name}=...): expected shape {one}, or ({', '.join(map(str, several))}) for k of them, got {v.shape}. "
        "J.matrix @ v takes flat vectors."
    )


def _product(origin: Linearized, block: Block, way: str, seeds: jax.Array) -> jax.Array:
    # Seeds (*batch, k, *shape) of the seeded leaves, flattened into one vector by ravel.
    blue, lead = origin.blue, len(origin.batch) + 1
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
