"""Operations that stand for a program of plain operations, written out as that program so that readings can follow it.

These are operations on BCOO and BCSR arrays (`jax.experimental.sparse`), which read and write at indices; operations
with rules of their own (from JAX 0.12 on); and those of other libraries that are implemented by plain operations.
Knows single operations. Knows no derivatives and no samples.
Shapes: a BCOO array has data (*batch, nse, *dense) and indices (*batch, nse, sparse axes).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._compat import expansion
from jacobia._program.walk import holds
from jacobia._program.wiring import UNKNOWN, wiring


def written_out(eqn: Any) -> Any:
    """The program of plain operations that an equation stands for; None: the equation is a plain operation."""
    name, avals = eqn.primitive.name, tuple(jax.ShapeDtypeStruct(a.aval.shape, a.aval.dtype) for a in eqn.invars)
    run = expansion(eqn)
    if run is not None:
        return jax.make_jaxpr(run)(*avals)
    if not name.startswith(("bcoo_", "bcsr_")):
        return _of_other_library(eqn, avals)
    out = None if eqn.primitive.multiple_results else eqn.outvars[0].aval.dtype
    return _traced(eqn.primitive, tuple(eqn.params.items()), avals, out)


def _of_other_library(eqn: Any, avals: tuple) -> Any:
    # An operation of another library is implemented by a function of arrays, which may use plain operations only.
    made = getattr(eqn.primitive, "impl", None)
    module = getattr(getattr(made, "func", made), "__module__", None) or "jax"
    if wiring(eqn) is not UNKNOWN or eqn.effects or module.partition(".")[0] in ("jax", "jaxlib"):
        return None
    try:
        body = jax.make_jaxpr(lambda *args: made(*args, **eqn.params))(*avals)  # pyright: ignore
    except Exception:  # Python runs it and JAX can't trace it: what it does is not known
        return None
    told = [(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
    plain = not body.effects and not holds(body.jaxpr, eqn.primitive.name)
    return body if plain and [(v.aval.shape, v.aval.dtype) for v in body.jaxpr.outvars] == told else None


@lru_cache(maxsize=256)
def _traced(primitive: Any, params: tuple, avals: tuple, dtype: Any) -> Any:
    made = _PRODUCTS.get(primitive.name) or primitive.impl  # the others are implemented by plain operations
    own = dict(params)

    def run(*args: Any) -> Any:
        out = made(*args, **own)
        return out if dtype is None else out.astype(dtype)

    return jax.make_jaxpr(run)(*avals)


def _bcoo_dot_general(data: Any, indices: Any, rhs: Any, **params: Any) -> Any:
    (contracted, of_rhs), (batch, rhs_batch) = params["dimension_numbers"]
    shape, lead = params["lhs_spinfo"].shape, indices.ndim - 2
    free = [a for a in range(lead) if a not in batch and a not in contracted]
    pairs = list(zip(contracted, of_rhs, strict=True))
    summed = [(a, b) for a, b in pairs if a < lead]
    inside = [(a - lead, b) for a, b in pairs if a >= lead]
    kept = sorted(set(range(indices.shape[-1])) - {a for a, _ in inside})

    def one(data: Any, indices: Any, rhs: Any) -> Any:
        # Data (nse, *dense), indices (nse, sparse), rhs with the axes that are read at indices first.
        if inside:
            read = rhs.at[tuple(indices[:, a] for a, _ in inside)].get(mode="fill", fill_value=0)
            product = jax.vmap(_outer)(data, read)
        else:
            product = _outer(data, rhs)
        if not kept:
            return product.sum(0)
        lengths = [shape[lead + a] for a in kept]
        zeros = jnp.zeros((*lengths, *product.shape[1:]), product.dtype)
        return zeros.at[tuple(indices[:, a] for a in kept)].add(product)

    order = [*batch, *free, *(a for a, _ in summed)]
    data = data.transpose([*order, *range(lead, data.ndim)])
    indices = indices.transpose([*order, lead, lead + 1])
    first = [*rhs_batch, *(b for _, b in summed), *(b for _, b in inside)]
    rhs = rhs.transpose([*first, *(b for b in range(rhs.ndim) if b not in first)])
    rhs = jnp.expand_dims(rhs, range(len(batch), len(batch) + len(free)))
    run: Callable = one
    for a in reversed(order):
        run = _over(run, shape[a], total=a in contracted)
    return run(data, indices, rhs)


def _bcsr_dot_general(data: Any, indices: Any, starts: Any, rhs: Any, **params: Any) -> Any:
    from jax.experimental import sparse  # takes longer to import than all of this library

    made = sparse.BCSR((data, indices, starts), shape=params["lhs_spinfo"].shape).to_bcoo()
    return _bcoo_dot_general(made.data, made.indices, rhs, **params)


_PRODUCTS: dict[str, Callable] = {"bcoo_dot_general": _bcoo_dot_general, "bcsr_dot_general": _bcsr_dot_general}


def _outer(a: Any, b: Any) -> Any:
    return jnp.tensordot(a, b, 0)


def _over(run: Callable, length: int, total: bool) -> Callable:
    # Mapped over the first axis of the operands, where length 1 is broadcast; `total`: the sum of the results.
    def mapped(*operands: Any) -> Any:
        own = [a.shape[0] == length for a in operands]
        given = [a if k else a[0] for a, k in zip(operands, own, strict=True)]
        out = jax.vmap(run, [0 if k else None for k in own], axis_size=length)(*given)
        return out.sum(0) if total else out

    return mapped
