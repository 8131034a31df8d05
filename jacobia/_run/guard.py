"""The guard: a leaf of every view as a pytree, which makes arithmetic on the leaves raise.

The leaves of a view are the point, not the entries of the matrix. The guard is a typed key: JAX refuses to add, sum,
differentiate or ravel typed keys, and its errors print the type of the key, whose name tells the user what to write.
What JAX does with keys too (fill, flip, roll, transpose) changes the numbers in the guard, and is seen by them.
Knows leaves of a tree. Knows nothing of views.
"""

from functools import cache
from typing import Any

import jax
import numpy as np
from jax.extend.random import define_prng_impl

from jacobia._compat import Tracer, eval_context


def _no_numbers(*_: Any) -> Any:
    raise TypeError(
        "J (as a pytree): expected a key to draw random numbers with, got the guard of a lazy view. Write J[...]."
    )


_KIND = define_prng_impl(
    key_shape=(1,), seed=_no_numbers, split=_no_numbers, random_bits=_no_numbers, fold_in=_no_numbers,
    name="guard", tag="the guard of a lazy view: write J[...]",
)  # fmt: skip

# Four numbers that differ from each other and from what arrays are filled with, so that no flip, roll or transpose of
# the guard is the guard.
_NUMBERS = np.array([[[2968811710], [3677149159]], [[745650761], [2884920346]]], np.uint32)
SHAPE = _NUMBERS.shape[:2]


def new_guard() -> Any:
    """A typed key of shape (2, 2), from which no random numbers can be drawn. One array, until a caller deletes it."""
    guard = _made()
    if guard.is_deleted():
        _made.cache_clear()
        guard = _made()
    return guard


@cache
def _made() -> Any:
    with eval_context():  # the guard must not become part of the current trace
        return jax.random.wrap_key_data(jax.device_put(_NUMBERS), impl=_KIND)


def is_guard(array: Any) -> bool:
    """Whether an array, a tracer or a shape has the type of a guard."""
    return array.dtype == new_guard().dtype


def is_gone(guard: Any) -> bool:
    """Whether a caller has deleted or donated a guard."""
    return isinstance(guard, jax.Array) and not isinstance(guard, Tracer) and guard.is_deleted()


def is_unchanged(guard: jax.Array) -> bool:
    """Whether a concrete guard, perhaps stacked, has its numbers, as far as this process holds all of the guard.

    Waits until the guard is computed.
    """
    if not (guard.is_fully_addressable or guard.is_fully_replicated):
        return True
    with eval_context():
        return bool((jax.device_get(jax.random.key_data(guard)) == _NUMBERS).all())
