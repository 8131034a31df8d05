"""The guard: a leaf of every view as a pytree, which makes arithmetic on the leaves raise.

The leaves of a view are the point, not the entries of the matrix. The guard is a typed key: JAX refuses to add, sum,
differentiate or ravel typed keys, and its errors print the type of the key, whose name tells the user what to write.
Knows leaves of a tree. Knows nothing of views.
"""

from functools import cache
from typing import Any

import jax
import numpy as np
from jax.extend.random import define_prng_impl

from jacobia._compat import eval_context


def _no_numbers(*_: Any) -> Any:
    raise TypeError(
        "J (as a pytree): expected a key to draw random numbers with, got the guard of a lazy view. Write J[...]."
    )


_KIND = define_prng_impl(
    key_shape=(0,), seed=_no_numbers, split=_no_numbers, random_bits=_no_numbers, fold_in=_no_numbers,
    name="guard", tag="the guard of a lazy view: write J[...]",
)  # fmt: skip


@cache
def new_guard() -> Any:
    """A typed key of shape (1,) with no bytes, from which no random numbers can be drawn."""
    with eval_context():  # the guard must not become part of the current trace
        return jax.random.wrap_key_data(jax.device_put(np.zeros((1, 0), np.uint32)), impl=_KIND)
