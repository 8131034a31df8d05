"""Where the samples of a batch are in the results of one operation, given where they are in its operands.

Knows single operations. Knows nothing of derivatives, nor of programs inside operations.
Shapes: B samples; see `along`. An operand without samples is used whole by every sample, or cut where they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jacobia._program.axis.along import Along, Followed, common, lost, replaced, shape_of, shapes_of
from jacobia._program.axis.products import (
    convolution,
    dot_general,
    dynamic_slice,
    dynamic_update_slice,
    gather,
    scatter,
)  # fmt: skip


def _same_axis(eqn: Any, along: Along) -> Followed:
    # Operands of the rank and length of the samples are cut; scalars and what is stretched are not.
    full = shape_of(eqn.outvars[0])[along.axis]
    operands = [along if along.axis < len(s) and s[along.axis] == full else None for s in shapes_of(eqn)]
    return Followed([along] * len(eqn.outvars), operands, eqn.params)


def _elementwise(eqn: Any, states: Sequence, size: int) -> Followed:
    rank = len(shape_of(eqn.outvars[0]))
    if any(len(s) not in (0, rank) for s in shapes_of(eqn)):
        raise lost(eqn, None)
    return _same_axis(eqn, common(eqn, states))


def _each(eqn: Any, states: Sequence, size: int) -> Followed:
    # Operands pass through, one result each.
    return Followed(list(states), list(states), eqn.params)


def _bitcast(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis >= len(shape_of(eqn.outvars[0])):
        raise lost(eqn, along.axis)
    return Followed([along], [along], eqn.params)


def _other_axes(*names: str) -> Callable:
    # Does what it does along the axes in these parameters, and nothing along the others.
    def rule(eqn: Any, states: Sequence, size: int) -> Followed:
        along = common(eqn, states)
        for name in names:
            used = eqn.params.get(name, ())
            if along.axis in (used if isinstance(used, (tuple, list)) else (used,)):
                raise lost(eqn, along.axis)
        return _same_axis(eqn, along)

    return rule


def _reduction(name: str) -> Callable:
    def rule(eqn: Any, states: Sequence, size: int) -> Followed:
        along, axes = common(eqn, states), eqn.params[name]
        if along.axis in axes:
            raise lost(eqn, along.axis)
        out = along.at(along.axis - sum(a < along.axis for a in axes))
        full = next(s for s, state in zip(shapes_of(eqn), states, strict=True) if state)
        operands = [along if len(s) == len(full) else None for s in shapes_of(eqn)]  # the others are initial values
        return Followed([out] * len(eqn.outvars), operands, eqn.params)

    return rule


def _top_k(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis == eqn.params.get("axis", len(shape_of(eqn.invars[0])) - 1) % len(shape_of(eqn.invars[0])):
        raise lost(eqn, along.axis)
    return _same_axis(eqn, along)


def _broadcast_in_dim(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    out = along.at(int(eqn.params["broadcast_dimensions"][along.axis]))
    params = eqn.params | {"shape": replaced(eqn.params["shape"], out.axis, along.one)}
    return Followed([out], [along, *[None] * (len(states) - 1)], params)


def reshaped(along: Along, old: Sequence[int], new: Sequence[int], size: int) -> Along | None:
    """Where the samples are after a reshape; None: not along one axis."""
    stride = along.inner * math.prod(old[along.axis + 1 :])  # of the sample number, in the flat array
    behind = 1
    for axis in range(len(new) - 1, -1, -1):
        if behind and stride % behind == 0 and new[axis] and new[axis] * behind % (stride * size) == 0:
            return Along(axis, new[axis] * behind // (stride * size), stride // behind)
        behind *= new[axis]
    return None


def _reshape(eqn: Any, states: Sequence, size: int) -> Followed:
    along, old, order = common(eqn, states), shape_of(eqn.invars[0]), eqn.params["dimensions"]
    start = along
    if order is not None:
        start, old = along.at(list(order).index(along.axis)), [old[d] for d in order]
    out = reshaped(start, old, eqn.params["new_sizes"], size) if 0 not in old else None
    if out is None:
        raise lost(eqn, along.axis)
    params = eqn.params | {"new_sizes": replaced(eqn.params["new_sizes"], out.axis, out.one)}
    return Followed([out], [along, *[None] * (len(states) - 1)], params)


def _transpose(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(list(eqn.params["permutation"]).index(along.axis))], [along], eqn.params)


def _squeeze(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(along.axis - sum(d < along.axis for d in eqn.params["dimensions"]))], [along], eqn.params)


def _piece(eqn: Any, along: Along, length: int, size: int) -> Along:
    # A stretch of the axis that holds every sample equally often, and starts with the first.
    if length % (size * along.inner):
        raise lost(eqn, along.axis)
    return along._replace(outer=length // (size * along.inner))


def _slice(eqn: Any, states: Sequence, size: int) -> Followed:
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


def _pad(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    a, config = along.axis, eqn.params["padding_config"]
    low, high, interior = config[a]
    if interior or low % (size * along.inner):
        raise lost(eqn, a)
    out = _piece(eqn, along, shape_of(eqn.outvars[0])[a], size)
    one = (low // size, high // size, 0)
    return Followed([out], [along, None], eqn.params | {"padding_config": (*config[:a], one, *config[a + 1 :])})


def _concatenate(eqn: Any, states: Sequence, size: int) -> Followed:
    a, shapes = eqn.params["dimension"], shapes_of(eqn)
    if all(s is None or s.axis != a for s in states):
        return _same_axis(eqn, common(eqn, states))
    along = common(eqn, [s and s._replace(outer=1) for s in states])
    pieces = [_piece(eqn, along, shape[a], size) for shape in shapes]
    return Followed([along._replace(outer=sum(p.outer for p in pieces))], pieces, eqn.params)


def _split(eqn: Any, states: Sequence, size: int) -> Followed:
    along, sizes = common(eqn, states), eqn.params["sizes"]
    if along.axis != eqn.params["axis"]:
        return Followed([along] * len(sizes), [along], eqn.params)
    pieces = [_piece(eqn, along, length, size) for length in sizes]
    return Followed(list(pieces), [along], eqn.params | {"sizes": tuple(p.one for p in pieces)})


def _stack(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along.at(along.axis + (eqn.params["axis"] <= along.axis))], [along] * len(states), eqn.params)


def _unstack(eqn: Any, states: Sequence, size: int) -> Followed:
    along, axis = common(eqn, states), eqn.params["axis"]
    if along.axis == axis:
        raise lost(eqn, axis)
    return Followed([along.at(along.axis - (axis < along.axis))] * len(eqn.outvars), [along], eqn.params)


def _tile(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    return Followed([along._replace(outer=along.outer * eqn.params["reps"][along.axis])], [along], eqn.params)


def idle_window(params: dict, axis: int) -> bool:
    """Whether windows leave an axis as it is: one entry each, one after the other."""
    idle = {"window_dimensions": 1, "window_strides": 1, "base_dilation": 1}
    padding = params.get("padding")
    return all(params.get(k) is None or params[k][axis] == v for k, v in idle.items()) and (
        padding is None or tuple(padding[axis]) == (0, 0)
    )


def _windows(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if not idle_window(eqn.params, along.axis):
        raise lost(eqn, along.axis)
    return _same_axis(eqn, along)


def _leading(*core: int) -> Callable:
    # Works on the last axes of each operand, for every entry of the axes before these.
    def rule(eqn: Any, states: Sequence, size: int) -> Followed:
        along, shapes = common(eqn, states), shapes_of(eqn)
        if len(shapes) != len(core) or any(along.axis >= len(s) - r for s, r in zip(shapes, core, strict=True)):
            raise lost(eqn, along.axis)
        return _same_axis(eqn, along)

    return rule


def solves_columns(eqn: Any) -> bool:
    """Whether a solve is one for each column of its last operand; else the matrix stands on the right: for each row."""
    return eqn.params.get("left_side", eqn.params.get("left", True))


def _solve(*core: int) -> Callable:
    together = _leading(*core)

    def rule(eqn: Any, states: Sequence, size: int) -> Followed:
        *of_matrix, along = states
        free = len(shape_of(eqn.invars[-1])) - (1 if solves_columns(eqn) else 2)
        if along is None or along.axis != free or any(of_matrix):
            return together(eqn, states, size)
        return Followed([along], list(states), eqn.params)

    return rule


def _fft(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(len(eqn.params["fft_lengths"]))(eqn, states, size)


def _random(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(*[0] * len(states))(eqn, states, size)


# Each entry of the result comes from the same entry of the operands. A name that is not here is not assumed to be one.
_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi
    name ne neg nextafter not one_minus_square or polygamma polynomial population_count pow pvary random_gamma_grad
    real reduce_precision regularized_incomplete_beta rem round rsqrt select_n sharding_constraint shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh threefry2x32 xor
    zeta
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())

RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("device_put", "optimization_barrier"), _each),
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "rev": _other_axes("dimensions"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _other_axes("axis")),
    "sort": _other_axes("dimension"),
    "top_k": _top_k,
    **dict.fromkeys(
        ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor",
         "argmax", "argmin"), _reduction("axes"),
    ),
    "reduce": _reduction("dimensions"),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add",
         "select_and_scatter_add"), _windows,
    ),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "gather": gather,
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max", "scatter_add",
         "scatter_sub", "scatter_mul", "scatter_min", "scatter_max"), scatter,
    ),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(
        ("cholesky", "lu", "qr", "geqrf", "eigh", "eig", "svd", "schur", "hessenberg", "tridiagonal"), _leading(2)
    ),
    "lu_pivots_to_permutation": _leading(1),
    "householder_product": _leading(2, 1),
    "triangular_solve": _solve(2, 2),
    "tridiagonal_solve": _solve(1, 1, 1, 2),
    "ormqr": _solve(2, 1, 2),
    "symmetric_product": _leading(2, 2),
    "fft": _fft,
    "random_wrap": _leading(1),
    **dict.fromkeys(("random_bits", "random_seed", "random_split", "random_fold_in", "random_unwrap"), _random),
}  # fmt: skip
