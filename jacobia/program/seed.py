"""One element of a basis through a linear program, as its number and value for as long as that goes.

Where it meets a matrix, a row of the matrix is taken in place of a product with a vector that is zero but once. So the
first layer that a seed meets costs nothing: of a network's rows, its last layer; of its columns, its first.
Everything else is computed as usual.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jacobia._compat import Literal, bind, inner_consts
from jacobia.program.walk import is_plain_call, run


class Element(NamedTuple):
    """An array that is `value` at one place and zero elsewhere."""

    shape: tuple[int, ...]
    index: Any  # of the place, in flat order
    value: Any  # 0-D

    def dense(self) -> jax.Array:
        here = lax.iota(jnp.int32, math.prod(self.shape)) == self.index
        return jnp.where(here, self.value, jnp.zeros_like(self.value)).reshape(self.shape)


def products_met(jaxpr: Any, seed: Any) -> frozenset[int]:
    """The equations (by `id`) that are products in which the seed, an input of the program, is still one element."""
    found: set[int] = set()
    _follow(jaxpr, [_SEED if v is seed else None for v in jaxpr.invars], found)
    return frozenset(found)


_SEED = object()


def _follow(jaxpr: Any, places: Sequence[Any], found: set[int]) -> list[Any]:
    # Adds such products; gives, for the outputs that are one element, what stands for its place.
    place = {v: p for v, p in zip(jaxpr.invars, places, strict=True) if p is not None}

    def place_of(atom: Any) -> Any:
        return None if isinstance(atom, Literal) else place.get(atom)

    for eqn in jaxpr.eqns:
        own = [place_of(a) for a in eqn.invars]
        single = [k for k, p in enumerate(own) if p is not None]
        if eqn.primitive.name in _TOGETHER and own[0] is not None and own[0] is own[1]:
            place[eqn.outvars[0]] = own[0]
        elif len(single) != 1:
            continue
        elif is_plain_call(eqn):
            outs = _follow(eqn.params["jaxpr"].jaxpr, own, found)
            place.update((v, p) for v, p in zip(eqn.outvars, outs, strict=True) if p is not None)
        elif _is_product(eqn, single[0]):
            found.add(id(eqn))
        elif _keeps(eqn, single[0]):
            parts = eqn.primitive.name in _PARTS
            place.update((v, object() if parts else own[single[0]]) for v in eqn.outvars)
    return [place_of(a) for a in jaxpr.outvars]


def through(jaxpr: Any, consts: list, args: list) -> list:
    """Run a program of which some arguments are elements; its outputs are arrays."""
    return [_dense(a) for a in run(jaxpr, consts, args, _rule)]


def _rule(eqn: Any, values: list) -> list:
    places = [k for k, v in enumerate(values) if isinstance(v, Element)]
    if len(places) == len(values) == 2 and eqn.primitive.name in _TOGETHER:
        a, b = values
        if a.index is b.index:
            return [a._replace(value=_TOGETHER[eqn.primitive.name](a.value, b.value))]
    if len(places) == 1:
        (k,) = places
        if is_plain_call(eqn):
            inner = eqn.params["jaxpr"]
            return run(inner.jaxpr, inner_consts(inner), values, _rule)
        if _is_product(eqn, k):
            return [_taken(eqn, values, k)]
        if _keeps(eqn, k):
            return _kept(eqn, values, k)
    return bind(eqn, *map(_dense, values))


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, Element) else value


def _is_product(eqn: Any, k: int) -> bool:
    # A vector that is zero but once, and a matrix.
    if eqn.primitive.name != "dot_general":
        return False
    contracted, batch = eqn.params["dimension_numbers"]
    return batch == ((), ()) and len(eqn.invars[k].aval.shape) == 1 and len(contracted[k]) == 1


def _taken(eqn: Any, values: list, k: int) -> Any:
    seed, matrix = values[k], values[1 - k]
    axis = eqn.params["dimension_numbers"][0][1 - k][0]
    out = eqn.outvars[0].aval.dtype
    row = lax.dynamic_index_in_dim(matrix, seed.index, axis, keepdims=False)
    return seed.value.astype(out) * row.astype(out)


# Linear in the seed, element by element.
_ALONE = ("neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "real", "imag")
_BESIDE: dict[str, Callable] = {"mul": lax.mul, "div": lax.div}
# Parts of a vector, as in the transpose of a concatenation: the place is another one.
_PARTS = ("slice", "split")
_TOGETHER: dict[str, Callable] = {"add_any": lax.add, "add": lax.add, "sub": lax.sub}


def _keeps(eqn: Any, k: int) -> bool:
    # Whether one element stays one.
    name, shape, out = eqn.primitive.name, eqn.invars[k].aval.shape, eqn.outvars[0].aval.shape
    if name in _ALONE:
        return True
    if name in _BESIDE:
        return shape == out and (name == "mul" or k == 0)
    if name in _PARTS:
        return len(shape) == 1 and eqn.params.get("strides") in (None, (1,))
    if name in ("reshape", "squeeze", "expand_dims"):
        return eqn.params.get("dimensions") is None or name != "reshape"
    return name == "broadcast_in_dim" and math.prod(shape) == math.prod(out)


def _kept(eqn: Any, values: list, k: int) -> list[Element]:
    seed, name, shape = values[k], eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)
    if name in _ALONE:
        return [seed._replace(value=bind(eqn, seed.value)[0])]
    if name in _BESIDE:
        other = values[1 - k]
        if jnp.ndim(other):
            other = lax.dynamic_index_in_dim(jnp.reshape(other, -1), seed.index, keepdims=False)
        pair = (seed.value, other) if k == 0 else (other, seed.value)
        return [seed._replace(value=_BESIDE[name](*pair))]
    if name == "slice":
        return [_part(seed, eqn.params["start_indices"][0], eqn.params["limit_indices"][0])]
    if name == "split":
        stops = list(itertools.accumulate(eqn.params["sizes"]))
        return [_part(seed, a, b) for a, b in itertools.pairwise([0, *stops])]
    return [seed._replace(shape=shape)]


def _part(seed: Element, start: int, stop: int) -> Element:
    # Zero, at any place, where the element is in another part.
    inside = (seed.index >= start) & (seed.index < stop)
    value = jnp.where(inside, seed.value, jnp.zeros_like(seed.value))
    return Element((stop - start,), jnp.clip(seed.index - start, 0, max(0, stop - start - 1)), value)
