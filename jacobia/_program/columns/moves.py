"""Columns through operations that put elements elsewhere and compute nothing: exact.

Knows arrays. Knows nothing of programs or of derivatives.
Shapes: N inputs, K slots; columns are (K, *shape), N in an element that has no column in a slot.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def _broadcast_in_dim(eqn: Any, operands: Sequence, n: int) -> list:
    x, shape = operands[0], eqn.params["shape"]
    places = [1] * len(shape)
    for length, axis in zip(x.shape[1:], eqn.params["broadcast_dimensions"], strict=True):
        places[axis] = length
    return [np.broadcast_to(x.reshape(len(x), *places), (len(x), *shape))]


def _reshape(eqn: Any, operands: Sequence, n: int) -> list:
    x, order = operands[0], eqn.params["dimensions"]
    x = x if order is None else x.transpose([0, *(d + 1 for d in order)])
    return [x.reshape(len(x), *eqn.params["new_sizes"])]


def _transpose(eqn: Any, operands: Sequence, n: int) -> list:
    return [operands[0].transpose([0, *(a + 1 for a in eqn.params["permutation"])])]


def _squeeze(eqn: Any, operands: Sequence, n: int) -> list:
    return [operands[0].reshape(len(operands[0]), *eqn.outvars[0].aval.shape)]


def _rev(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.flip(operands[0], tuple(a + 1 for a in eqn.params["dimensions"]))]


def _slice(eqn: Any, operands: Sequence, n: int) -> list:
    p = eqn.params
    steps = p["strides"] or [1] * len(p["start_indices"])
    cuts = [slice(*c) for c in zip(p["start_indices"], p["limit_indices"], steps, strict=True)]
    return [operands[0][(slice(None), *cuts)]]


def _pad(eqn: Any, operands: Sequence, n: int) -> list:
    x, value = operands
    shape = eqn.outvars[0].aval.shape
    planes = len(x if x is not None else value)
    value = np.full(planes, n, np.int32) if value is None else value
    out = np.array(np.broadcast_to(value.reshape(planes, *[1] * len(shape)), (planes, *shape)))
    if x is not None:
        sources, targets = [np.arange(planes)], [np.arange(planes)]
        for (low, _, interior), length, m in zip(eqn.params["padding_config"], x.shape[1:], shape, strict=True):
            places = low + np.arange(length) * (interior + 1)  # a negative pad cuts entries off
            inside = (places >= 0) & (places < m)
            sources.append(np.flatnonzero(inside))
            targets.append(places[inside])
        out[np.ix_(*targets)] = x[np.ix_(*sources)]
    return [out]


def _filled(eqn: Any, operands: Sequence, n: int) -> list:
    # Operands without columns, as such.
    planes = next(len(x) for x in operands if x is not None)
    return [
        np.full((planes, *a.aval.shape), n, np.int32) if x is None else x
        for x, a in zip(operands, eqn.invars, strict=True)
    ]


def _concatenate(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.concatenate(_filled(eqn, operands, n), eqn.params["dimension"] + 1)]


def _stack(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.stack(_filled(eqn, operands, n), eqn.params["axis"] + 1)]


def _split(eqn: Any, operands: Sequence, n: int) -> list:
    return np.split(operands[0], np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"] + 1)


def _unstack(eqn: Any, operands: Sequence, n: int) -> list:
    return list(np.moveaxis(operands[0], eqn.params["axis"] + 1, 0))


def _tile(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.tile(operands[0], (1, *eqn.params["reps"]))]


def _bitcast(eqn: Any, operands: Sequence, n: int) -> list:
    # Wider entries are made of several narrow ones, which number the last axis.
    x, rank = operands[0], eqn.outvars[0].aval.ndim + 1
    if x.ndim > rank:
        return [x.min(-1)]
    return [x[..., None] if x.ndim < rank else x]


MOVES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "rev": _rev,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "unstack": _unstack,
    "tile": _tile,
    "bitcast_convert_type": _bitcast,
}
