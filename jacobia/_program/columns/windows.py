"""Slots through windows: a sum over the places in a window, whose terms are data movements.

Knows single operations. Knows nothing of programs inside operations.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._program.columns.apply import apply, blocked, is_tangent, out_of, tangents
from jacobia._program.columns.merging import FEW, union_along
from jacobia._program.columns.parts import as_slots
from jacobia._program.columns.room import check_columns, numbered
from jacobia._program.columns.slots import Slots, aligned, nothing, sum_of, values


def _geometry(
    shape: Sequence[int], place: Sequence[int], count: Sequence[int], strides: Sequence, padding: Sequence,
    dilation: Sequence, window_dilation: Sequence,
) -> tuple[list, list]:  # fmt: skip
    # How to read one place of all windows: the padding, and the limits of the strided slice after it.
    low = [p[0] - k * d for p, k, d in zip(padding, place, window_dilation, strict=True)]
    limits = [(c - 1) * step + 1 for c, step in zip(count, strides, strict=True)]
    config = [
        (first, limit - first - ((n - 1) * gap + 1), gap - 1)
        for n, first, limit, gap in zip(shape, low, limits, dilation, strict=True)
    ]
    return config, limits


def _tap(w: Any, t: Slots, place: Sequence[int], count: Sequence[int], strides: Sequence, *geometry: Any) -> Slots:
    config, limits = _geometry(t.shape, place, count, strides, *geometry)
    rank = len(t.shape)

    def read(v: Any) -> Any:
        v = lax.pad(v, jnp.zeros((), v.dtype), [(0, 0, 0), *config])
        return lax.slice(v, (0,) * (rank + 1), (v.shape[0], *limits), (1, *strides))

    index = numbered(t.shape)
    axes = []
    for n, (first, _, gap), c, step in zip(t.shape, config, count, strides, strict=True):
        at = np.arange(c) * step - first
        source = np.where((at >= 0) & (at % (gap + 1) == 0) & (at // (gap + 1) < n), at // (gap + 1), -1)
        axes.append(source)
    inside = np.ones((), bool)
    for a, source in enumerate(axes):
        inside = inside & (source >= 0).reshape([-1 if k == a else 1 for k in range(rank)])
    check_columns(t.width, count)
    flat = index[np.ix_(*(np.maximum(s, 0) for s in axes))]
    cols = np.where(inside, t.full_cols().reshape(t.width, t.size)[:, flat], np.int32(w.n)).astype(np.int32)
    return Slots(cols, w.tape.step(read, values(w.tape, t, w.n)), tuple(count), t.dtype)


def reduce_window_sum(w: Any, eqn: Any, ins: Sequence) -> list:
    shape, dtype = out_of(eqn)
    p, t = eqn.params, as_slots(w.tape, ins[0], w.n)
    window = p["window_dimensions"]
    if math.prod(window) * t.width > FEW:
        return _window_dense(w, eqn, ins, window)
    geometry = shape, p["window_strides"], p["padding"], p["base_dilation"], p["window_dilation"]
    return [sum_of(w.tape, [_tap(w, t, k, *geometry) for k in np.ndindex(*window)], w.n)]


def _stays(stride: int, padding: Sequence[int], dilation: int) -> bool:
    # Whether windows of one element leave an axis as it is.
    return stride == dilation == 1 and tuple(padding) == (0, 0)


def _window_dense(w: Any, eqn: Any, ins: Sequence, window: Sequence[int]) -> list:
    # Along every axis where a window is more than one element at its place, each result depends on all elements.
    p = eqn.params
    windows = zip(window, p["window_strides"], p["padding"], p["base_dilation"], strict=True)
    wide = [a for a, (k, *how) in enumerate(windows) if k > 1 or not _stays(*how)]
    (t,) = (as_slots(w.tape, v, w.n) for v in ins if is_tangent(v))
    common = union_along(t.cols, t.shape, wide, w.n)
    given = [aligned(w.tape, t, common, w.n) if is_tangent(v) else v for v in ins]
    names = apply(w, eqn, given, tangents(ins))
    return [Slots(common, names[0], *out_of(eqn))]


def select_and_gather(w: Any, eqn: Any, ins: Sequence) -> list:
    # For every window the tangent at the place where the other operand is largest (or smallest).
    shape, dtype = out_of(eqn)
    p, t = eqn.params, as_slots(w.tape, ins[0], w.n) if is_tangent(ins[0]) else None
    window = p["window_dimensions"]
    if t is None or is_tangent(ins[1]) or math.prod(window) * t.width > FEW:
        return blocked(w, eqn, ins, None)
    geometry = shape, p["window_strides"], p["padding"], p["base_dilation"], p["window_dilation"]
    largest = p["select_prim"].name == "ge"
    terms = [_tap(w, t, k, *geometry) for k in np.ndindex(*window)]

    def patches(x: Any) -> Any:
        worst = jnp.array(-jnp.inf if largest else jnp.inf, x.dtype)
        out = []
        for place in np.ndindex(*window):
            config, limits = _geometry(x.shape, place, *geometry)
            out.append(lax.slice(lax.pad(x, worst, config), (0,) * len(limits), limits, p["window_strides"]))
        stack = jnp.stack(out)
        return jnp.argmax(stack, 0) if largest else jnp.argmin(stack, 0)

    best = w.tape.step(patches, w.name(ins[1]))
    chosen = []
    for k, term in enumerate(terms):
        if term.width:
            name = w.tape.step(
                lambda v, at, k=k: jnp.where(at == k, v, jnp.zeros((), v.dtype)), values(w.tape, term, w.n), best
            )
            chosen.append(Slots(term.cols, name, shape, dtype))
    return [sum_of(w.tape, chosen, w.n) if chosen else nothing(shape, dtype)]


def convolution(w: Any, eqn: Any, ins: Sequence) -> list:
    """One term for each place in the kernel and channel in a group: a data movement, times this entry of the kernel."""
    shape, dtype = out_of(eqn)
    p = eqn.params
    if not is_tangent(ins[0]) or is_tangent(ins[1]) or p["batch_group_count"] > 1:
        return blocked(w, eqn, ins, None)
    t = as_slots(w.tape, ins[0], w.n)
    lhs_spec, rhs_spec, out_spec = (tuple(s) for s in p["dimension_numbers"])
    kernel_shape = [eqn.invars[1].aval.shape[a] for a in rhs_spec]
    features, inner, window = kernel_shape[0], kernel_shape[1], kernel_shape[2:]
    mask = w.nonzero(ins[1])
    nonzero = np.ones(kernel_shape, bool) if mask is None else mask.transpose(rhs_spec)
    taps = [(j, k) for j in range(inner) for k in np.ndindex(*window) if nonzero[(slice(None), j, *k)].any()]
    if len(taps) * t.width > FEW:
        windows = enumerate(zip(window, p["window_strides"], p["padding"], p["lhs_dilation"], strict=True))
        wide = [lhs_spec[1], *(lhs_spec[2 + a] for a, (k, *how) in windows if k > 1 or not _stays(*how))]
        common = union_along(t.cols, t.shape, wide, w.n)
        made = aligned(w.tape, t, common, w.n)
        names = apply(w, eqn, [made, ins[1]], [True, False])
        cols = common.transpose([0, *(1 + lhs_spec[out_spec.index(a)] for a in range(len(shape)))])
        return [Slots(cols, names[0], shape, dtype)]
    groups = p["feature_group_count"]
    moved = _transposed(w, t, lhs_spec)  # (batch, channels, *places)
    count = [shape[a] for a in out_spec]
    geometry = (
        (1, 1, *p["window_strides"]),
        ((0, 0), (0, 0), *p["padding"]),
        (1, 1, *p["lhs_dilation"]),
        (1, 1, *p["rhs_dilation"]),
    )
    back = [out_spec.index(a) for a in range(len(shape))]
    channel = np.arange(features) // (features // groups)
    terms = []
    for j, k in taps:
        one = _tap(w, moved, (0, 0, *k), (count[0], moved.shape[1], *count[2:]), *geometry)
        pick = channel * inner + j
        cols = one.full_cols()[:, :, pick]
        if mask is not None:
            cols = np.where(nonzero[(slice(None), j, *k)].reshape(1, 1, -1, *[1] * len(k)), cols, np.int32(w.n))

        def times(v: Any, a: Any, j: int = j, k: tuple = k, pick: np.ndarray = pick) -> Any:
            a = a.transpose(rhs_spec)[(slice(None), j, *k)].reshape(1, 1, -1, *[1] * len(k))
            return (v[:, :, pick].astype(dtype) * a.astype(dtype)).transpose([0, *(1 + b for b in back)])

        name = w.tape.step(times, values(w.tape, one, w.n), w.name(ins[1]))
        terms.append(Slots(np.ascontiguousarray(cols.transpose([0, *(1 + b for b in back)])), name, shape, dtype))
    return [sum_of(w.tape, terms, w.n) if terms else nothing(shape, dtype)]


def _transposed(w: Any, t: Slots, order: Sequence[int]) -> Slots:
    axes = [0, *(1 + a for a in order)]
    name = w.tape.step(lambda v: v.transpose(axes), values(w.tape, t, w.n))
    return Slots(t.cols.transpose(axes), name, tuple(t.shape[a] for a in order), t.dtype)
