"""Which samples single elements depend on, through one operation: NumPy arrays of labels.

Knows single operations and arrays. Knows nothing of programs or of derivatives.
Shapes: labels of a value are one int32 array (2, *shape): the lowest sample an element depends on, and minus the
highest. The union of two sets of samples is then their minimum, and an element that depends on none holds B twice.
An interval is exact for one sample, and more than the truth for some.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jacobia.program.along import Along
from jacobia.program.label_moves import MOVES
from jacobia.program.label_positions import POSITIONED
from jacobia.program.sample_rules import ELEMENTWISE, idle_window

# Beyond this many elements or products nothing is told apart any more.
_LIMIT = 30_000_000


class Operands:
    """What a rule may ask about the operands of an equation."""

    def __init__(self, labels: list, known: Callable[[int], Any], columns: Callable[[int], list]):
        self.labels = labels  # per operand: its labels, or None where it depends on no sample
        self.known = known  # the value of an operand as a NumPy array, or None
        self.columns = columns  # an index array by the last axis: each a NumPy array, or None


def labels_of(along: Along, shape: Sequence[int], size: int) -> np.ndarray:
    """The labels of a value whose samples lie along an axis."""
    n = shape[along.axis]
    ids = (np.arange(n, dtype=np.int32) // along.inner) % size
    ids = ids.reshape([n if a == along.axis else 1 for a in range(len(shape))])
    return np.broadcast_to(np.stack([ids, -ids]), (2, *shape))


def axis_of(labels: np.ndarray, size: int) -> Along | None:
    """The axis that tells apart the samples of all elements, if there is one."""
    shape = labels.shape[1:]
    for axis, n in enumerate(shape):
        if n % size:
            continue
        low, high = labels.min(tuple(a + 1 for a in range(len(shape)) if a != axis))
        held = low < size
        for inner in {1, n // size, int(np.argmax(low != low[0]))}:
            if not inner or n % (size * inner):
                continue
            ids = (np.arange(n) // inner) % size
            if np.all((low == ids)[held]) and np.all((high == -ids)[held]):
                return Along(axis, n // (size * inner), inner)
    return None


def is_mixed(labels: np.ndarray) -> bool:
    """Whether any element depends on more than one sample."""
    return bool(np.any(labels[0] < -labels[1]))


def everything(labels: Sequence, shape: Sequence[int]) -> np.ndarray:
    """Every element of a result depends on every element of the operands."""
    found = [x.reshape(2, -1).min(1) for x in labels if x is not None and x.size]
    union = np.minimum.reduce(found)
    return np.broadcast_to(union.reshape(2, *[1] * len(shape)), (2, *shape))


def label(eqn: Any, operands: Operands, size: int) -> list[np.ndarray]:
    """The labels of the results of one equation."""
    name = eqn.primitive.name
    shapes = [v.aval.shape for v in eqn.outvars]
    if all(x is None or not x.size for x in operands.labels):
        return [np.full((2, *s), size, np.int32) for s in shapes]
    rule = _RULES.get(name)
    if rule is None or sum(map(math.prod, [*shapes, *(a.aval.shape for a in eqn.invars)])) > _LIMIT:
        return [everything(operands.labels, s) for s in shapes]
    outs = rule(eqn, operands, size)
    return [np.broadcast_to(x, (2, *s)) for x, s in zip(outs, shapes, strict=True)]


def union(arrays: Sequence, shape: Sequence[int]) -> np.ndarray:
    """Element by element; scalars and axes of length 1 are stretched."""
    given = [x.reshape(2, *[1] * len(shape)) if x.ndim == 1 else x for x in arrays if x is not None]
    out = given[0]
    for x in given[1:]:
        out = np.minimum(out, x)
    return np.broadcast_to(out, (2, *shape))


def _elementwise(eqn: Any, operands: Operands, size: int) -> list:
    return [union(operands.labels, v.aval.shape) for v in eqn.outvars]


def _mul(eqn: Any, operands: Operands, size: int) -> list:
    outs = []
    for k, x in enumerate(operands.labels):
        if x is not None:
            x, factor = union([x], eqn.outvars[0].aval.shape), operands.known(1 - k)
            outs.append(x if factor is None else np.where(factor == 0, np.int32(size), x))
    return [union(outs, eqn.outvars[0].aval.shape)]


def _select(eqn: Any, operands: Operands, size: int) -> list:
    shape, which = eqn.outvars[0].aval.shape, operands.known(0)
    if which is None:
        return [union(operands.labels, shape)]
    out = np.full((2, *shape), size, np.int32)
    for k, x in enumerate(operands.labels[1:]):
        if x is not None:
            out = np.where(which.astype(int) == k, union([x], shape), out)
    return [out]


def _each(eqn: Any, operands: Operands, size: int) -> list:
    return [
        np.full((2, *v.aval.shape), size, np.int32) if x is None else x
        for x, v in zip(operands.labels, eqn.outvars, strict=True)
    ]


def _over(axes: Sequence[int], operands: Operands, keepdims: bool) -> list:
    # The union over some axes of each operand that has them; initial values are scalars and have none.
    where = tuple(a + 1 for a in axes)
    return [x if x is None or x.ndim == 1 else x.min(where, keepdims=keepdims) for x in operands.labels]


def _reduction(name: str) -> Callable:
    def rule(eqn: Any, operands: Operands, size: int) -> list:
        if any(x is not None and x.ndim > 1 and 0 in x.shape for x in operands.labels):
            return _everything(eqn, operands, size)
        found = _over(eqn.params[name], operands, False)
        return [union(found, v.aval.shape) for v in eqn.outvars]

    return rule


def _cumulative(eqn: Any, operands: Operands, size: int) -> list:
    (x,), axis = operands.labels, eqn.params["axis"] + 1
    x = np.flip(x, axis) if eqn.params["reverse"] else x
    x = np.minimum.accumulate(x, axis)
    return [np.flip(x, axis) if eqn.params["reverse"] else x]


def _along(name: str) -> Callable:
    def rule(eqn: Any, operands: Operands, size: int) -> list:
        axis = eqn.params.get(name, eqn.invars[0].aval.ndim - 1) % eqn.invars[0].aval.ndim
        found = _over([axis], operands, True)
        return [union(found, v.aval.shape) for v in eqn.outvars]

    return rule


def _windows(eqn: Any, operands: Operands, size: int) -> list:
    rank = eqn.outvars[0].aval.ndim
    found = _over([a for a in range(rank) if not idle_window(eqn.params, a)], operands, True)
    return [union(found, v.aval.shape) for v in eqn.outvars]


def _leading(*core: int) -> Callable:
    def rule(eqn: Any, operands: Operands, size: int) -> list:
        if len(core) != len(operands.labels):
            return _everything(eqn, operands, size)
        found = [
            None if x is None else x.min(tuple(range(x.ndim - rank, x.ndim)))
            for x, rank in zip(operands.labels, core, strict=True)
        ]
        lead = eqn.invars[0].aval.shape[: eqn.invars[0].aval.ndim - core[0]]
        batch = union(found, lead)
        return [batch.reshape(2, *lead, *[1] * (v.aval.ndim - len(lead))) for v in eqn.outvars]

    return rule


def _fft(eqn: Any, operands: Operands, size: int) -> list:
    return _leading(len(eqn.params["fft_lengths"]))(eqn, operands, size)


def _everything(eqn: Any, operands: Operands, size: int) -> list:
    return [everything(operands.labels, v.aval.shape) for v in eqn.outvars]


def _dot_general(eqn: Any, operands: Operands, size: int) -> list:
    contracting, batch = eqn.params["dimension_numbers"]
    parts = []
    for k, x in enumerate(operands.labels):
        if x is None:
            continue
        other = 1 - k
        x, lead, free = _three(x, batch[k], contracting[k], 1)
        shape = eqn.invars[other].aval.shape
        rest = [shape[a] for a in range(len(shape)) if a not in (*batch[other], *contracting[other])]
        found = None
        if (known := operands.known(other)) is not None:
            found = _through_zeros(x, _three(known, batch[other], contracting[other], 0)[0], size)
        if found is None:
            found = np.repeat(x.min(3, initial=size)[..., None], math.prod(rest), 3)
        if k:  # results have the axes of the first operand first
            found = np.swapaxes(found, 2, 3)
        parts.append(found.reshape(2, *lead, *(rest + free if k else free + rest)))
    return [union(parts, eqn.outvars[0].aval.shape)]


def _three(x: np.ndarray, batch: Sequence, contracting: Sequence, skip: int) -> tuple[np.ndarray, list, list]:
    # One axis each for the batch, what is free and what is contracted, with the lengths of the first two.
    shape = x.shape[skip:]
    free = [a for a in range(len(shape)) if a not in (*batch, *contracting)]
    order = [*range(skip), *(a + skip for a in (*batch, *free, *contracting))]
    lengths = [[shape[a] for a in axes] for axes in (batch, free, contracting)]
    return x.transpose(order).reshape(*x.shape[:skip], *map(math.prod, lengths)), lengths[0], lengths[1]


def _through_zeros(x: np.ndarray, factor: np.ndarray, size: int) -> np.ndarray | None:
    # Labels (2, batch, free, K) through a known (batch, rest, K): only where it is not zero. None: too much work.
    b, r, c = np.nonzero(factor)
    if b.size == factor.size or b.size * x.shape[2] > _LIMIT:
        return None
    out = np.full((factor.shape[0] * factor.shape[1], 2, x.shape[2]), size, np.int32)
    if b.size:
        rows, starts = np.unique(b * factor.shape[1] + r, return_index=True)
        out[rows] = np.minimum.reduceat(x[:, b, :, c], starts, axis=0)
    return np.moveaxis(out.reshape(*factor.shape[:2], 2, x.shape[2]), (2, 3), (0, 2))


def _convolution(eqn: Any, operands: Operands, size: int) -> list:
    p = eqn.params
    lhs_spec, rhs_spec, out_spec = (list(s) for s in p["dimension_numbers"])
    shape = [eqn.outvars[0].aval.shape[a] for a in out_spec]
    kernel = [eqn.invars[1].aval.shape[a] for a in rhs_spec]
    lhs, rhs = operands.labels
    parts = []
    if lhs is not None:
        x = lhs.transpose([0, *(a + 1 for a in lhs_spec)])
        windows = zip(kernel[2:], p["window_strides"], p["padding"], p["lhs_dilation"], strict=True)
        moved = [a for a, (k, step, pad, gap) in enumerate(windows) if (k, step, *pad, gap) != (1, 1, 0, 0, 1)]
        x = x.min(tuple(a + 3 for a in moved), keepdims=True, initial=size)
        n, c = x.shape[1:3]
        groups = p["batch_group_count"]
        if groups > 1:  # each group of images has channels of its own
            x = np.moveaxis(x.reshape(2, groups, n // groups, *x.shape[2:]).min(3, initial=size), 1, 2)
        else:
            groups = p["feature_group_count"]
            x = x.reshape(2, n, groups, c // groups, *x.shape[3:]).min(3, initial=size)
        parts.append(np.repeat(x, shape[1] // groups, 2))
    if rhs is not None:
        x = rhs.transpose([0, *(a + 1 for a in rhs_spec)])
        x = x.min(tuple(range(2, x.ndim)), initial=size)
        parts.append(x.reshape(2, 1, -1, *[1] * (len(shape) - 2)))
    return [union(parts, shape).transpose([0, *(out_spec.index(a) + 1 for a in range(len(shape)))])]


_RULES: dict[str, Callable] = {
    **MOVES,
    **POSITIONED,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "mul": _mul,
    "select_n": _select,
    **dict.fromkeys(("device_put", "optimization_barrier"), _each),
    **dict.fromkeys(
        ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor",
         "argmax", "argmin"), _reduction("axes"),
    ),
    "reduce": _reduction("dimensions"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _cumulative),
    "sort": _along("dimension"),
    "top_k": _along("axis"),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add",
         "select_and_scatter_add"), _windows,
    ),
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(
        ("cholesky", "lu", "qr", "geqrf", "eigh", "eig", "svd", "schur", "hessenberg", "tridiagonal"), _leading(2)
    ),
    "lu_pivots_to_permutation": _leading(1),
    "householder_product": _leading(2, 1),
    "triangular_solve": _leading(2, 2),
    "tridiagonal_solve": _leading(1, 1, 1, 2),
    "fft": _fft,
}  # fmt: skip
