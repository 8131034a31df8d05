"""Nonzeros and a pattern as sparse matrices of JAX and SciPy. Optional packages are imported here.

Knows arrays and patterns. Knows nothing of views.
Shapes: nnz entries; axes of samples in front.
"""

from copy import copy
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, eval_context
from jacobia._sparse.pattern import FORMATS, Pattern


@lru_cache(maxsize=32)
def _known(pattern: Pattern) -> tuple[Any, Any, Any]:
    # Made once for a pattern.
    with eval_context():
        pairs = jax.device_put(np.stack([pattern.rows, pattern.cols], axis=1))
        return pairs, jax.device_put(np.asarray(pattern.cols)), jax.device_put(pattern.indptr.astype(np.int32))


def _indices(pattern: Pattern) -> tuple[Any, Any, Any]:
    # (row, column) pairs, columns, row pointers.
    if not isinstance(pattern.rows, Tracer):
        known = _known(pattern)
        if any(a.is_deleted() for a in known):  # by a caller who was given it
            _known.cache_clear()
            known = _known(pattern)
        return known
    starts = jnp.searchsorted(pattern.rows, jnp.arange(pattern.shape[0] + 1, dtype=pattern.rows.dtype))
    return jnp.stack([pattern.rows, pattern.cols], axis=1), pattern.cols, starts.astype(jnp.int32)


def to_bcoo(data: jax.Array, pattern: Pattern) -> Any:
    """A `jax.experimental.sparse.BCOO`; samples are its batch axes."""
    from jax.experimental.sparse import BCOO

    lead = data.shape[:-1]
    pairs = _indices(pattern)[0]
    pairs = jnp.broadcast_to(pairs, (*[1] * len(lead), *pairs.shape)) if lead else pairs
    return BCOO((data, pairs), shape=(*lead, *pattern.shape), indices_sorted=True, unique_indices=True)


def to_bcsr(data: jax.Array, pattern: Pattern) -> Any:
    """A `jax.experimental.sparse.BCSR`; samples are its batch axes."""
    from jax.experimental.sparse import BCSR

    lead = data.shape[:-1]
    _, cols, starts = _indices(pattern)
    if lead:
        cols, starts = (jnp.broadcast_to(a, (*lead, *a.shape)) for a in (cols, starts))
    return BCSR((data, cols, starts), shape=(*lead, *pattern.shape), indices_sorted=True, unique_indices=True)


def to_scipy(data: jax.Array, pattern: Pattern, format: str) -> Any:
    """A `scipy.sparse` array. SciPy has no floats narrower than 32 bits: those come out as float32."""
    if format not in FORMATS:
        raise ValueError(
            f"J.to_scipy(format={format!r}): expected one of {', '.join(FORMATS)}, got {format!r}. "
            "The default is 'csr'."
        )
    if data.ndim != 1:
        raise ValueError(
            f"J.to_scipy(): expected one matrix, got a batch of shape {data.shape[:-1]}. "
            "SciPy has no batches: take J.nonzeros() and build one for each sample."
        )
    narrow = data.dtype.itemsize < 4 and jnp.issubdtype(data.dtype, jnp.floating)
    values = np.asarray(data).astype(np.float32) if narrow else np.asarray(data)
    if format in _HELD:
        return _filled(format, values, pattern)
    return _filled("csr", values, pattern).asformat(format)


# The index arrays of each SciPy format.
_HELD = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "bsr": ("indices", "indptr"), "dia": ("offsets",)}


@lru_cache(maxsize=32)
def _empty(format: str, pattern: Pattern) -> tuple[Any, np.ndarray | None, bool]:
    # Once for a pattern: a matrix that SciPy has checked; the number of the nonzero that each of its values is (None:
    # they are in pattern order); and whether some values are no nonzeros. These have number 0, and nonzeros then count
    # from 1.
    from scipy.sparse import csr_array

    numbers = np.arange(1, pattern.nnz + 1)
    made = csr_array((numbers, pattern.cols, pattern.indptr.astype(np.int32)), shape=pattern.shape).asformat(format)
    places, made.data = made.data, np.zeros(made.data.shape, bool)
    if format == "csr":
        return made, None, False
    gaps = not places.all()
    return made, places if gaps else places - 1, gaps


def _filled(format: str, values: np.ndarray, pattern: Pattern) -> Any:
    empty, places, gaps = _empty(format, pattern)
    made = copy(empty)
    # Copies: SciPy sorts and merges in place, and users write into what they get.
    for name in _HELD[format]:
        setattr(made, name, getattr(empty, name).copy())
    if gaps:
        values = np.concatenate([np.zeros(1, values.dtype), values])
    made.data = np.array(values) if places is None else values[places]
    return made
