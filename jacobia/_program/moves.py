"""Operations that move elements and compute nothing: what each does to an array of numbers, and to the sample axis.

The table has two functions for each move. `numbers` moves an array with a number for every element (a column, a mark),
so a reading can follow each element. `along` follows the samples of a batch as an axis, without an array.
Knows single moves. Knows nothing of derivatives.
Shapes: K slots; numbers are (K, *shape), n in an element that has none; B samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jacobia._program.along import Along, Followed, common, lost, replaced, same_axis, shape_of, shapes_of

# Cost of an element of an operation that is fused with its neighbors, in units of one element read or written.
FUSED = 0.25


class Move(NamedTuple):
    """One operation that only moves elements."""

    numbers: Callable[[Any, Sequence, int], list]  # (equation, numbers of each operand, None: all n; n) -> numbers
    along: Callable[[Any, Sequence, int], Followed]  # (equation, `Along` or None of each operand, B)
    fused: float = FUSED
    linear: bool = True
    still: bool = False  # whether elements in order along an axis stay in order along an axis


def _broadcast_in_dim(eqn: Any, operands: Sequence, n: int) -> list:
    x, shape = operands[0], eqn.params["shape"]
    places = [1] * len(shape)
    for length, axis in zip(x.shape[1:], eqn.params["broadcast_dimensions"], strict=True):
        places[axis] = length
    return [np.broadcast_to(x.reshape(len(x), *places), (len(x), *shape))]


def _broadcast_in_dim_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    out = along.at(int(eqn.params["broadcast_dimensions"][along.axis]))
    params = eqn.params | {"shape": replaced(eqn.params["shape"], out.axis, along.one)}
    return Followed([out], [along, *[None] * (len(states) - 1)], params)


def _reshape(eqn: Any, operands: Sequence, n: int) -> list:
    x, order = operands[0], eqn.params["dimensions"]
    x = x if order is None else x.transpose([0, *(d + 1 for d in order)])
    return [x.reshape(len(x), *eqn.params["new_sizes"])]


def _reshaped_axis(along: Along, old: Sequence[int], new: Sequence[int], size: int) -> Along | None:
    """Where the samples are after a reshape; None: not along one axis."""
    stride = along.inner * math.prod(old[along.axis + 1 :])  # of the sample number, in the flat array
    behind = 1
    for axis in range(len(new) - 1, -1, -1):
        if behind and stride % behind == 0 and new[axis] and new[axis] * behind % (stride * size) == 0:
            return Along(axis, new[axis] * behind // (stride * size), stride // behind)
        behind *= new[axis]
    return None


def _reshape_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along, old, order = common(eqn, states), shape_of(eqn.invars[0]), eqn.params["dimensions"]
    start = along
    if order is not None:
        start, old = along.at(list(order).index(along.axis)), [old[d] for d in order]
    out = _reshaped_axis(start, old, eqn.params["new_sizes"], size) if 0 not in old else None
    if out is None:
        raise lost(eqn, along.axis)
    params = eqn.params | {"new_sizes": replaced(eqn.params["new_sizes"], out.axis, out.one)}
    return Followed([out], [along, *[None] * (len(states) - 1)], params)


def _transpose(eqn: Any, operands: Sequence, n: int) -> list:
    return [operands[0].transpose([0, *(a + 1 for a in eqn.params["permutation"])])]


def _transpose_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(list(eqn.params["permutation"]).index(along.axis))], [along], eqn.params)


def _squeeze(eqn: Any, operands: Sequence, n: int) -> list:
    return [operands[0].reshape(len(operands[0]), *eqn.outvars[0].aval.shape)]


def _squeeze_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(along.axis - sum(d < along.axis for d in eqn.params["dimensions"]))], [along], eqn.params)


def _rev(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.flip(operands[0], tuple(a + 1 for a in eqn.params["dimensions"]))]


def _rev_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis in eqn.params["dimensions"]:
        raise lost(eqn, along.axis)
    return same_axis(eqn, along)


def _slice(eqn: Any, operands: Sequence, n: int) -> list:
    p = eqn.params
    steps = p["strides"] or [1] * len(p["start_indices"])
    cuts = [slice(*c) for c in zip(p["start_indices"], p["limit_indices"], steps, strict=True)]
    return [operands[0][(slice(None), *cuts)]]


def _piece(eqn: Any, along: Along, length: int, size: int) -> Along:
    # A stretch of the axis. It starts with the first sample, and must hold every sample equally often.
    if length % (size * along.inner):
        raise lost(eqn, along.axis)
    return along._replace(outer=length // (size * along.inner))


def _slice_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along, p = common(eqn, states), eqn.params
    a = along.axis
    start, stop, step = p["start_indices"][a], p["limit_indices"][a], (p["strides"] or {a: 1})[a]
    if step != 1 or start % (size * along.inner):
        raise lost(eqn, a)
    out = _piece(eqn, along, stop - start, size)
    params = p | {
        "start_indices": replaced(p["start_indices"], a, start // size),
        "limit_indices": replaced(p["limit_indices"], a, stop // size),
    }
    return Followed([out], [along], params)


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


def _pad_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    a, config = along.axis, eqn.params["padding_config"]
    low, high, interior = config[a]
    if interior or low % (size * along.inner):
        raise lost(eqn, a)
    out = _piece(eqn, along, shape_of(eqn.outvars[0])[a], size)
    one = (low // size, high // size, 0)
    return Followed([out], [along, None], eqn.params | {"padding_config": (*config[:a], one, *config[a + 1 :])})


def _filled(eqn: Any, operands: Sequence, n: int) -> list:
    # None, an operand without numbers, becomes an array of n.
    planes = next(len(x) for x in operands if x is not None)
    return [
        np.full((planes, *a.aval.shape), n, np.int32) if x is None else x
        for x, a in zip(operands, eqn.invars, strict=True)
    ]


def _concatenate(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.concatenate(_filled(eqn, operands, n), eqn.params["dimension"] + 1)]


def _concatenate_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    a, shapes = eqn.params["dimension"], shapes_of(eqn)
    if all(s is None or s.axis != a for s in states):
        return same_axis(eqn, common(eqn, states))
    along = common(eqn, [s and s._replace(outer=1) for s in states])
    pieces = [_piece(eqn, along, shape[a], size) for shape in shapes]
    return Followed([along._replace(outer=sum(p.outer for p in pieces))], pieces, eqn.params)


def _stack(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.stack(_filled(eqn, operands, n), eqn.params["axis"] + 1)]


def _stack_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(along.axis + (eqn.params["axis"] <= along.axis))], [along] * len(states), eqn.params)


def _split(eqn: Any, operands: Sequence, n: int) -> list:
    return np.split(operands[0], np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"] + 1)


def _split_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along, sizes = common(eqn, states), eqn.params["sizes"]
    if along.axis != eqn.params["axis"]:
        return Followed([along] * len(sizes), [along], eqn.params)
    pieces = [_piece(eqn, along, length, size) for length in sizes]
    return Followed(list(pieces), [along], eqn.params | {"sizes": tuple(p.one for p in pieces)})


def _unstack(eqn: Any, operands: Sequence, n: int) -> list:
    return list(np.moveaxis(operands[0], eqn.params["axis"] + 1, 0))


def _unstack_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along, axis = common(eqn, states), eqn.params["axis"]
    if along.axis == axis:
        raise lost(eqn, axis)
    return Followed([along.at(along.axis - (axis < along.axis))] * len(eqn.outvars), [along], eqn.params)


def _tile(eqn: Any, operands: Sequence, n: int) -> list:
    return [np.tile(operands[0], (1, *eqn.params["reps"]))]


def _tile_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along._replace(outer=along.outer * eqn.params["reps"][along.axis])], [along], eqn.params)


def _bitcast(eqn: Any, operands: Sequence, n: int) -> list:
    # A wide entry is made of several narrow ones, which lie along the last axis.
    x, rank = operands[0], eqn.outvars[0].aval.ndim + 1
    if x.ndim > rank:
        return [x.min(-1)]
    return [x[..., None] if x.ndim < rank else x]


def _bitcast_axis(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis >= len(shape_of(eqn.outvars[0])):
        raise lost(eqn, along.axis)
    return Followed([along], [along], eqn.params)


MOVES: dict[str, Move] = {
    "broadcast_in_dim": Move(_broadcast_in_dim, _broadcast_in_dim_axis, still=True),
    "reshape": Move(_reshape, _reshape_axis, still=True),
    "transpose": Move(_transpose, _transpose_axis, still=True),
    "squeeze": Move(_squeeze, _squeeze_axis, still=True),
    "rev": Move(_rev, _rev_axis),
    "slice": Move(_slice, _slice_axis),
    "pad": Move(_pad, _pad_axis, fused=0.5),  # a branch for each element
    "concatenate": Move(_concatenate, _concatenate_axis, fused=1),
    "stack": Move(_stack, _stack_axis),
    "split": Move(_split, _split_axis),
    "unstack": Move(_unstack, _unstack_axis),
    "tile": Move(_tile, _tile_axis),
    "bitcast_convert_type": Move(_bitcast, _bitcast_axis, linear=False),
}
