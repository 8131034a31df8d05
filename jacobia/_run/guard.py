"""The guard: a leaf of every view as a pytree, which makes arithmetic on the leaves raise.

The leaves of a view are the point and not the matrix. JAX refuses arithmetic, sums, derivatives and ravelling of typed
keys, and its errors print the type of the key; this one's says what to write.
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
    """A key of shape (1,) and without bytes. It draws no numbers."""
    with eval_context():  # whatever is being traced now, the guard is no part of it
        return jax.random.wrap_key_data(jax.device_put(np.zeros((1, 0), np.uint32)), impl=_KIND)
