"""Keys in error messages: how a key is written, and what to write instead of an invalid key.

Knows types of keys. Knows nothing of what is indexed.
"""

from typing import Any

import jax
import numpy as np


def instead(k: Any) -> str:
    """What to write instead of a value that is not a key."""
    if isinstance(k, str):
        return f"A view is one block; of a tree of views, write tree[{k!r}][...]"
    if isinstance(k, (float, np.floating)) or (hasattr(k, "dtype") and np.ndim(k) == 0):
        return f"Write int({k})"
    if hasattr(k, "__array__"):
        return "Write numpy.asarray(...) of it"
    if hasattr(k, "__iter__") and not isinstance(k, dict):
        return "Write list(...) of it"
    return "Convert it to an integer or an array"


def show(key: Any) -> str:
    """A key as Python code, shortened to 80 characters."""
    text = ", ".join(map(_shown, key)) if isinstance(key, tuple) else _shown(key)
    return text if len(text) < 80 else text[:77] + "..."


def _shown(k: Any) -> str:
    # One part of a key, as Python code.
    if isinstance(k, slice):
        return ":".join(["" if e is None else str(e) for e in (k.start, k.stop, k.step)][: 2 + (k.step is not None)])
    if isinstance(k, str):
        return repr(k)
    if np.ndim(k) and hasattr(k, "dtype") and (k.size > 8 or not isinstance(k, (np.ndarray, jax.Array))):
        return f"{type(k).__name__} of shape {k.shape}"
    return "..." if k is Ellipsis else str(k)
