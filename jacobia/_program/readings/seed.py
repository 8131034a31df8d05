"""A seed, one element of a basis, through a linear program: held as an index and a value for as long as possible.

Where it meets a matrix, a row of the matrix is read in place of a product with a one-hot vector. So the first layer
that a seed meets costs nothing: for rows of a network's Jacobian the last layer, for columns the first. Everything
else is computed as usual.
Knows equations of a linear program. Knows nothing of blocks or keys.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jacobia._compat import Literal, bind, inner_consts
from jacobia._program.walk import is_plain_call, run
from jacobia._program.wiring import ALL, wiring


class Element(NamedTuple):
    """An array that is `value` at one place and zero elsewhere."""

    shape: tuple[int, ...]
    index: Any  # of the place, in flat order
    value: Any  # 0-D

    def dense(self) -> jax.Array:
        here = lax.iota(jnp.int32, math.prod(self.shape)) == self.index
        return jnp.where(here, self.value, jnp.zeros_like(self.value)).reshape(self.shape)


def products_met(jaxpr: Any, seed: Any) -> frozenset[int]:
    """The `id`s of the products that the seed, an input of the program, meets while it is still one element."""
    found: set[int] = set()
    _follow(jaxpr, [_SEED if v is seed else None for v in jaxpr.invars], found)
    return frozenset(found)


_SEED = object()


def _follow(jaxpr: Any, places: Sequence[Any], found: set[int]) -> list[Any]:
    # Adds those products to `found`. Returns, for each output that is still one element, a token of its place.
    place = {v: p for v, p in zip(jaxpr.invars, places, strict=True) if p is not None}

    def place_of(atom: Any) -> Any:
        return None if isinstance(atom, Literal) else place.get(atom)

    for eqn in jaxpr.eqns:
        own = [place_of(a) for a in eqn.invars]
        step = _step(eqn, own)
        if step is _called:
            outs = _follow(eqn.params["jaxpr"].jaxpr, own, found)
            place.update((v, p) for v, p in zip(eqn.outvars, outs, strict=True) if p is not None)
        elif step is _taken:
            found.add(id(eqn))
        elif step is not None:
            same = next(p for p in own if p is not None)
            place.update((v, object() if step is _cut else same) for v in eqn.outvars)
    return [place_of(a) for a in jaxpr.outvars]


def through(jaxpr: Any, consts: list, args: list) -> list:
    """Run a program some of whose arguments are `Element`s; its outputs are arrays."""
    return [_dense(a) for a in run(jaxpr, consts, args, _rule)]


def _rule(eqn: Any, values: list) -> list:
    step = _step(eqn, [v.index if isinstance(v, Element) else None for v in values])
    return bind(eqn, *map(_dense, values)) if step is None else step(eqn, values)


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, Element) else value


def _step(eqn: Any, places: Sequence[Any]) -> Callable[[Any, list], list] | None:
    """The rule for an equation some of whose operands are one element; None: it takes them as arrays.

    `products_met` and `through` both go by these rules.

    Args:
      places: for each operand that is one element a token of its place in flat order, the same object for the same
        place; None for an array.
    """
    single = [k for k, p in enumerate(places) if p is not None]
    if len(single) not in (1, 2) or not eqn.outvars or any(0 in eqn.invars[k].aval.shape for k in single):
        return None  # an empty array has no element
    name, wired, k = eqn.primitive.name, wiring(eqn), single[0]
    shape, out = eqn.invars[k].aval.shape, eqn.outvars[0].aval.shape
    if len(single) == 2:
        # If one operand is broadcast, the same place in flat order is another place in the result.
        alike = places[0] is places[1] and eqn.invars[1].aval.shape == shape
        return _together if wired.element and wired.linear is ALL and alike else None
    if is_plain_call(eqn):
        return _called
    if wired.element and wired.linear is ALL and len(eqn.invars) == 1 and "sharding" not in name:
        return _alone
    if wired.how in ("product", "quotient"):
        return _beside if shape == out and (wired.how == "product" or k == 0) else None
    if wired.how == "contraction":  # a one-hot vector and a matrix
        contracted, batch = eqn.params["dimension_numbers"]
        return _taken if batch == ((), ()) and len(shape) == len(contracted[k]) == 1 else None
    if name in ("slice", "split"):
        return _cut if len(shape) == 1 and eqn.params.get("strides") in (None, (1,)) else None
    if name == "reshape":
        return _reshaped if eqn.params["dimensions"] is None else None
    # If the number of elements stays, these only add or drop axes of length 1.
    still = name in ("squeeze", "broadcast_in_dim") or wired.how == "sum over"
    return _reshaped if still and math.prod(shape) == math.prod(out) else None


def _called(eqn: Any, values: list) -> list:
    inner = eqn.params["jaxpr"]
    return run(inner.jaxpr, inner_consts(inner), values, _rule)


def _taken(eqn: Any, values: list) -> list:
    k, seed = _only(values)
    axis = eqn.params["dimension_numbers"][0][1 - k][0]
    row = lax.dynamic_index_in_dim(values[1 - k], seed.index, axis, keepdims=False)
    dtype = eqn.outvars[0].aval.dtype
    return [seed.value.astype(dtype) * row.astype(dtype)]


def _together(eqn: Any, values: list) -> list:
    return [values[0]._replace(value=bind(eqn, *(v.value for v in values))[0])]


def _alone(eqn: Any, values: list) -> list:
    return [values[0]._replace(value=bind(eqn, values[0].value)[0])]


def _beside(eqn: Any, values: list) -> list:
    k, seed = _only(values)
    pair = [_met(values[1 - k], seed)] * 2
    pair[k] = seed.value
    return [seed._replace(value=bind(eqn, *pair)[0])]


def _met(factor: Any, seed: Element) -> Any:
    # The entry of a factor that multiplies the element; a scalar, or an axis of length 1, is broadcast.
    shape, index = jnp.shape(factor), seed.index
    if not shape:
        return factor
    if shape != seed.shape:
        index = jnp.ravel_multi_index(jnp.unravel_index(index, seed.shape), shape, mode="clip")
    return lax.dynamic_index_in_dim(jnp.reshape(factor, -1), index, keepdims=False)


def _reshaped(eqn: Any, values: list) -> list:
    return [_only(values)[1]._replace(shape=tuple(eqn.outvars[0].aval.shape))]


def _cut(eqn: Any, values: list) -> list:
    # Parts of a vector, as in the transpose of a concatenation.
    if eqn.primitive.name == "slice":
        return [_part(values[0], eqn.params["start_indices"][0], eqn.params["limit_indices"][0])]
    stops = list(itertools.accumulate(eqn.params["sizes"]))
    return [_part(values[0], a, b) for a, b in itertools.pairwise([0, *stops])]


def _part(seed: Element, start: int, stop: int) -> Element:
    # If the element is in another part: zero, at any place.
    inside = (seed.index >= start) & (seed.index < stop)
    value = jnp.where(inside, seed.value, jnp.zeros_like(seed.value))
    return Element((stop - start,), jnp.clip(seed.index - start, 0, max(0, stop - start - 1)), value)


def _only(values: list) -> tuple[int, Element]:
    return next((k, v) for k, v in enumerate(values) if isinstance(v, Element))
