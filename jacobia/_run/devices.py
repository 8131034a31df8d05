"""The device of a result: that of the point.

Knows arrays. Knows nothing of what is computed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._compat import Tracer


def device_of(leaves: Sequence) -> Any:
    """The device of the first leaf that is an array or a `jax.ShapeDtypeStruct`; None: all leaves are traced."""
    for a in leaves:
        if isinstance(a, jax.Array) and not isinstance(a, Tracer):
            return next(iter(a.sharding.addressable_devices))  # an array that has been deleted has no `devices()`
        if isinstance(a, jax.ShapeDtypeStruct):  # a shape to compile for ahead of time
            return jax.devices()[0] if a.sharding is None else next(iter(a.sharding.device_set))
    return None


def empty(leaves: Sequence, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A result without entries, of a shape that holds a 0, on the device of the point."""
    return jnp.zeros(shape, dtype, device=_committed(leaves))


def placed(leaves: Sequence, array: Any) -> jax.Array:
    """A NumPy array, put on the device of the point. Compiles nothing."""
    return jax.device_put(array, _committed(leaves))


def _committed(leaves: Sequence) -> Any:
    # The device of the first leaf that the user has committed to one device.
    for a in leaves:
        if isinstance(a, jax.Array) and not isinstance(a, Tracer) and a.committed and len(a.sharding.device_set) == 1:
            return next(iter(a.sharding.device_set))
    return None
