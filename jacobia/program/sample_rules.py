"""Where the samples of a batch are in the results of one operation, given where they are in its operands.

Knows single operations. Knows nothing of derivatives, nor of programs inside operations.
Shapes: B samples; an axis with samples has outer * B * inner entries, and entry e belongs to sample
(e // inner) % B. An operand without samples is used whole by every sample, or cut where the samples are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Along(NamedTuple):
    """The axis that numbers the samples, and what has been merged into it from before and from behind."""

    axis: int
    outer: int = 1
    inner: int = 1

    def at(self, axis: int) -> "Along":
        return self._replace(axis=axis)

    @property
    def one(self) -> int:
        """The length of the axis when there is one sample."""
        return self.outer * self.inner


class Followed(NamedTuple):
    outs: list  # per result: along what its samples lie, or None
    operands: list  # per operand: along what it is cut for one sample; None: used whole
    params: dict  # of the same equation on one sample


class Lost(Exception):
    """The samples cannot be followed through an operation: it mixes them, or seems to."""

    def __init__(self, operation: str, axis: int | None):
        super().__init__(operation)
        self.operation, self.axis = operation, axis


# How an axis takes part in an operation, where "along" does not say it.
_HOW = {
    "dot_general": "contracting", "gather": "(indexing) along", "scatter": "(indexed update) along",
    "scan": "stepping over", "argmax": "over", "argmin": "over", "reduce": "over",
}  # fmt: skip


_SPOKEN = {"add_any": "add"}


def describe(name: str, axis: int | None) -> str:
    """An operation in words: `reduce_sum over axis 0`."""
    name = _SPOKEN.get(name, name)
    how = _HOW.get(name) or _HOW.get(name.split("_")[0].split("-")[0]) or "along"
    return name if axis is None else f"{name} {how} axis {axis}"


def lost(eqn: Any, axis: int | None) -> Lost:
    return Lost(describe(eqn.primitive.name, axis), axis)


def common(eqn: Any, states: Sequence) -> Along:
    """The one way in which the samples of all operands lie.

    Raises:
      Lost: they lie in different ways.
    """
    found = list(dict.fromkeys(s for s in states if s is not None))
    if len(found) > 1:
        axes = sorted({s.axis for s in found})
        where = f"samples along axes {axes[0]} and {axes[1]}" if len(axes) > 1 else "samples in different orders"
        raise Lost(f"{describe(eqn.primitive.name, None)} of {where}", axes[0])
    return found[0]


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [_shape(a) for a in eqn.invars]


def _replaced(values: Sequence[int], axis: int, value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])


def _same_axis(eqn: Any, along: Along) -> Followed:
    # Operands of the rank and length of the samples are cut; scalars and what is stretched are not.
    full = _shape(eqn.outvars[0])[along.axis]
    operands = [along if along.axis < len(s) and s[along.axis] == full else None for s in _shapes(eqn)]
    return Followed([along] * len(eqn.outvars), operands, eqn.params)


def _elementwise(eqn: Any, states: Sequence, size: int) -> Followed:
    rank = len(_shape(eqn.outvars[0]))
    if any(len(s) not in (0, rank) for s in _shapes(eqn)):
        raise lost(eqn, None)
    return _same_axis(eqn, common(eqn, states))


def _each(eqn: Any, states: Sequence, size: int) -> Followed:
    # Operands pass through, one result each.
    return Followed(list(states), list(states), eqn.params)


def _bitcast(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis >= len(_shape(eqn.outvars[0])):
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
        full = next(s for s, state in zip(_shapes(eqn), states, strict=True) if state)
        operands = [along if len(s) == len(full) else None for s in _shapes(eqn)]  # the others are initial values
        return Followed([out] * len(eqn.outvars), operands, eqn.params)

    return rule


def _top_k(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    if along.axis == eqn.params.get("axis", len(_shape(eqn.invars[0])) - 1) % len(_shape(eqn.invars[0])):
        raise lost(eqn, along.axis)
    return _same_axis(eqn, along)


def _broadcast_in_dim(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    out = along.at(int(eqn.params["broadcast_dimensions"][along.axis]))
    params = eqn.params | {"shape": _replaced(eqn.params["shape"], out.axis, along.one)}
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
    along, old, order = common(eqn, states), _shape(eqn.invars[0]), eqn.params["dimensions"]
    start = along
    if order is not None:
        start, old = along.at(list(order).index(along.axis)), [old[d] for d in order]
    out = reshaped(start, old, eqn.params["new_sizes"], size) if 0 not in old else None
    if out is None:
        raise lost(eqn, along.axis)
    params = eqn.params | {"new_sizes": _replaced(eqn.params["new_sizes"], out.axis, out.one)}
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
        "start_indices": _replaced(p["start_indices"], a, start // size),
        "limit_indices": _replaced(p["limit_indices"], a, stop // size),
    }
    return Followed([out], [along], params)


def _pad(eqn: Any, states: Sequence, size: int) -> Followed:
    along = common(eqn, states)
    a, config = along.axis, eqn.params["padding_config"]
    low, high, interior = config[a]
    if interior or low % (size * along.inner):
        raise lost(eqn, a)
    out = _piece(eqn, along, _shape(eqn.outvars[0])[a], size)
    one = (low // size, high // size, 0)
    return Followed([out], [along, None], eqn.params | {"padding_config": (*config[:a], one, *config[a + 1 :])})


def _concatenate(eqn: Any, states: Sequence, size: int) -> Followed:
    a, shapes = eqn.params["dimension"], _shapes(eqn)
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


def _dot_general(eqn: Any, states: Sequence, size: int) -> Followed:
    contracting, batch = eqn.params["dimension_numbers"]
    operands: list = list(states)
    free = [
        [a for a in range(len(shape)) if a not in contracting[k] and a not in batch[k]]
        for k, shape in enumerate(_shapes(eqn))
    ]
    for k, along in enumerate(states):
        if along is not None and along.axis in contracting[k]:
            raise lost(eqn, along.axis)
    k = 0 if states[0] is not None else 1
    along, other = states[k], states[1 - k]
    if along.axis in batch[k]:
        out = along.at(list(batch[k]).index(along.axis))
        operands[1 - k] = along.at(int(batch[1 - k][out.axis]))
        if other not in (None, operands[1 - k]):
            raise Lost("dot_general of every sample with every other", along.axis)
        return Followed([out], operands, eqn.params)
    if other is not None:
        raise Lost("dot_general of every sample with every other", along.axis)
    return Followed([along.at(len(batch[0]) + k * len(free[0]) + free[k].index(along.axis))], operands, eqn.params)


def _leading(*core: int) -> Callable:
    # Works on the last axes of each operand, for every entry of the axes before these.
    def rule(eqn: Any, states: Sequence, size: int) -> Followed:
        along, shapes = common(eqn, states), _shapes(eqn)
        if len(shapes) != len(core) or any(along.axis >= len(s) - r for s, r in zip(shapes, core, strict=True)):
            raise lost(eqn, along.axis)
        return _same_axis(eqn, along)

    return rule


def _fft(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(len(eqn.params["fft_lengths"]))(eqn, states, size)


def _random(eqn: Any, states: Sequence, size: int) -> Followed:
    return _leading(*[0] * len(states))(eqn, states, size)


def _convolution(eqn: Any, states: Sequence, size: int) -> Followed:
    p, (lhs, rhs) = eqn.params, states
    lhs_spec, rhs_spec, out_spec = (tuple(s) for s in p["dimension_numbers"])
    if lhs is not None and lhs.axis not in lhs_spec[:2]:
        raise lost(eqn, lhs.axis)
    if rhs is not None and rhs.axis != rhs_spec[0]:
        raise lost(eqn, rhs.axis)
    batches = p["batch_group_count"]
    if rhs is None and lhs is not None and lhs.axis == lhs_spec[0] and lhs.outer % batches == 0:
        return Followed([Along(out_spec[0], lhs.outer // batches, lhs.inner)], [lhs, None], p)
    name, axis = ("batch_group_count", lhs_spec[0]) if batches > 1 else ("feature_group_count", lhs_spec[1])
    groups = p[name]
    if (
        lhs is None and rhs is not None and rhs.outer % groups == 0
    ):  # kernels of the samples, which all see the same images
        return Followed([rhs.at(out_spec[1])], [None, rhs], p)
    # Each group belongs to one sample, with images and kernels of its own: what vmap makes of a convolution.
    image, kernel = _shape(eqn.invars[0])[axis] // groups, _shape(eqn.invars[1])[rhs_spec[0]] // groups
    along, width = next((s, w) for s, w in ((lhs, image), (rhs, kernel)) if s is not None)
    run = along.inner // width  # groups of one sample, side by side
    images, kernels = Along(axis, along.outer, run * image), Along(rhs_spec[0], along.outer, run * kernel)
    if groups == 1 or lhs not in (None, images) or rhs not in (None, kernels) or along.inner % width:
        raise lost(eqn, along.axis)
    return Followed([kernels.at(out_spec[1])], [images, kernels], p | {name: along.outer * run})


def _gather(eqn: Any, states: Sequence, size: int) -> Followed:
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (operand, indices), (shape, index_shape) = states, _shapes(eqn)
    offset = [int(a) for a in d.offset_dims]
    numbered = [a for a in range(len(_shape(eqn.outvars[0]))) if a not in offset]  # results per index
    pairs = dict(zip(map(int, d.operand_batching_dims), map(int, d.start_indices_batching_dims), strict=True))
    if operand is not None and operand.axis not in pairs:
        window = [a for a in range(len(shape)) if a not in (*d.collapsed_slice_dims, *pairs)]
        if indices is not None or operand.axis not in window or sizes[operand.axis] != shape[operand.axis]:
            raise lost(eqn, operand.axis)
        params = eqn.params | {"slice_sizes": _replaced(sizes, operand.axis, operand.one)}
        return Followed([operand.at(offset[window.index(operand.axis)])], [operand, None], params)
    cut = operand.at(pairs[operand.axis]) if operand is not None else indices
    if indices not in (None, cut) or cut.axis == len(index_shape) - 1:
        raise lost(eqn, cut.axis)
    back = {j: a for a, j in pairs.items()}
    operands = [cut.at(back[cut.axis]) if cut.axis in back else None, cut]
    return Followed([cut.at(numbered[cut.axis])], operands, eqn.params)


def _scatter(eqn: Any, states: Sequence, size: int) -> Followed:
    d = eqn.params["dimension_numbers"]
    (operand, indices, updates), (shape, _, update_shape) = states, _shapes(eqn)
    windows = [int(a) for a in d.update_window_dims]
    numbered = [a for a in range(len(update_shape)) if a not in windows]  # updates per index
    batching = [int(a) for a in d.operand_batching_dims]
    per_index = [int(a) for a in d.scatter_indices_batching_dims]
    inside = [a for a in range(len(shape)) if a not in (*d.inserted_window_dims, *batching)]
    # The axis of the operand that each axis of the others stands for, where it is one.
    of_update = dict(zip(windows, inside, strict=True)) | {
        numbered[j]: a for j, a in zip(per_index, batching, strict=True)
    }
    of_index = dict(zip(per_index, batching, strict=True))
    found = [operand, indices and (of_index, indices), updates and (of_update, updates)]
    for k, pair in enumerate(found):
        if k and pair is not None:
            axes, along = pair
            if along.axis not in axes:
                raise lost(eqn, along.axis)
            found[k] = along.at(axes[along.axis])
    along = common(eqn, found)
    if along.axis in batching:
        j = per_index[batching.index(along.axis)]
        return Followed([along], [along, along.at(j), along.at(numbered[j])], eqn.params)
    at = windows[inside.index(along.axis)] if along.axis in inside else None
    if indices is not None or at is None or update_shape[at] != shape[along.axis]:
        raise lost(eqn, along.axis)
    return Followed([along], [along, None, along.at(at)], eqn.params)


def _dynamic_slice(eqn: Any, states: Sequence, size: int) -> Followed:
    along, sizes = common(eqn, states), eqn.params["slice_sizes"]
    if sizes[along.axis] != _shape(eqn.invars[0])[along.axis]:
        raise lost(eqn, along.axis)
    params = eqn.params | {"slice_sizes": _replaced(sizes, along.axis, along.one)}
    return Followed([along], [along, *[None] * (len(states) - 1)], params)


def _dynamic_update_slice(eqn: Any, states: Sequence, size: int) -> Followed:
    along, (shape, update_shape, *_) = common(eqn, states), _shapes(eqn)
    if shape[along.axis] != update_shape[along.axis]:
        raise lost(eqn, along.axis)
    return Followed([along], [along, along, *[None] * (len(states) - 2)], eqn.params)


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
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max", "scatter_add",
         "scatter_sub", "scatter_mul", "scatter_min", "scatter_max"), _scatter,
    ),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    **dict.fromkeys(
        ("cholesky", "lu", "qr", "geqrf", "eigh", "eig", "svd", "schur", "hessenberg", "tridiagonal"), _leading(2)
    ),
    "lu_pivots_to_permutation": _leading(1),
    "householder_product": _leading(2, 1),
    "triangular_solve": _leading(2, 2),
    "tridiagonal_solve": _leading(1, 1, 1, 2),
    "fft": _fft,
    "random_wrap": _leading(1),
    **dict.fromkeys(("random_bits", "random_seed", "random_split", "random_fold_in", "random_unwrap"), _random),
}  # fmt: skip
