"""A part of a program that XLA for CPUs compiles separately, so that its results are written before they are used.

Interleaving slots runs at the speed of writing if its loop has an axis for the slots. If a reshape or a choice of
entries is fused into this loop, it becomes one long loop that finds row and slot of every entry by a division: two to
three times as slow. A branch of a `cond` is compiled by itself.
Knows arrays. Knows no tapes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# For fewer numbers the fence costs more than it saves.
_LARGE = 1 << 15


def apart(fn: Callable[[list], list], given: Sequence[Any], count: int) -> list:
    """The results of a function of arrays, compiled separately on CPUs.

    Args:
      count: how many numbers the results have.
    """
    given = list(given)
    anchor = next((v for v in given if math.prod(jnp.shape(v)) and _is_number(v)), None)
    if count < _LARGE or anchor is None or any(map(_on_mesh, given)):
        return fn(given)
    once = jax.jit(fn)  # traced once for both branches
    return lax.cond(
        lax.platform_dependent(anchor, cpu=_always, default=lambda _: jnp.bool_(True)),
        once,
        lambda given: [jnp.zeros_like(v) for v in once(given)],
        given,
    )


def _always(anchor: Any) -> Any:
    # Always True, computed from a value so that the compiler can't know.
    bit = lax.convert_element_type(jnp.real(anchor).reshape(-1)[0], jnp.int32) & 1
    return bit < 2


def _is_number(value: Any) -> bool:
    return jnp.issubdtype(jax.typeof(value).dtype, jnp.number)  # a random key is no number


def _on_mesh(value: Any) -> bool:
    # Divided over an Explicit axis: a single element of such a value can't be read.
    sharding = jax.typeof(value).sharding
    return sharding is not None and any(axis is not None for axis in sharding.spec)
