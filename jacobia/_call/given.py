"""A factor of a product, as an array.

Knows the types of other libraries by their attributes. Knows nothing of views.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.options import shown
from jacobia._call.uncalled import Uncalled


def as_array(call: str, value: Any) -> jax.Array:
    """A vector or matrix as a JAX array. Anything else raises a TypeError that says what to write instead."""
    if hasattr(value, "__jax_array__") or isinstance(value, Uncalled):  # these raise errors of their own
        return jnp.asarray(value)
    if isinstance(value, (str, bytes)):  # NumPy takes some strings for dtypes
        raise no_array(call, value)
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise no_array(call, value) from None


def no_array(call: str, value: Any) -> TypeError:
    """The error for a value that is not an array of numbers."""
    if hasattr(value, "toarray") or hasattr(value, "todense"):
        hint = "Write J @ S, or S @ J, for a sparse matrix S"
    elif hasattr(value, "matvec") or hasattr(value, "mv") or callable(value):
        hint = "An operator is applied to vectors: write J @ (A @ v)"
    elif isinstance(value, dict) or (isinstance(value, (list, tuple)) and any(hasattr(v, "shape") for v in value)):
        hint = "Of a tree, write jacobia.operator(jacobian(f)(x)) @ v"
    else:
        hint = "Write jax.numpy.asarray(...) of numbers"
    kind = f"an array of dtype {value.dtype}" if isinstance(value, np.ndarray) else shown(value)
    return TypeError(f"{call}: expected an array of numbers, got {kind}. {hint}.")
