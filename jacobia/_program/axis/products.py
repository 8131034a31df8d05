"""Samples followed as an axis through products, and through operations that read or write at indices.

Knows single operations. Knows no derivatives.
Shapes: B samples; see `along`. An operand without samples is used whole by every sample, or cut along the axis that
the operation pairs with the axis of samples.
"""

from collections.abc import Sequence
from typing import Any

from jacobia._program.along import Along, Followed, Lost, common, lost, replaced, shape_of, shapes_of


def dot_general(eqn: Any, states: Sequence, size: int) -> Followed:
    contracting, batch = eqn.params["dimension_numbers"]
    operands: list = list(states)
    free = [
        [a for a in range(len(shape)) if a not in contracting[k] and a not in batch[k]]
        for k, shape in enumerate(shapes_of(eqn))
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
            raise Lost("dot_general that multiplies each sample with all others", along.axis)
        return Followed([out], operands, eqn.params)
    if other is not None:
        raise Lost("dot_general that multiplies each sample with all others", along.axis)
    return Followed([along.at(len(batch[0]) + k * len(free[0]) + free[k].index(along.axis))], operands, eqn.params)


def convolution(eqn: Any, states: Sequence, size: int) -> Followed:
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
    ):  # each sample has kernels of its own, and all share the images
        return Followed([rhs.at(out_spec[1])], [None, rhs], p)
    # Each group belongs to one sample, with images and kernels of its own: what vmap makes of a convolution.
    image, kernel = shape_of(eqn.invars[0])[axis] // groups, shape_of(eqn.invars[1])[rhs_spec[0]] // groups
    along, width = next((s, w) for s, w in ((lhs, image), (rhs, kernel)) if s is not None)
    run = along.inner // width  # groups of one sample, side by side
    images, kernels = Along(axis, along.outer, run * image), Along(rhs_spec[0], along.outer, run * kernel)
    if groups == 1 or lhs not in (None, images) or rhs not in (None, kernels) or along.inner % width:
        raise lost(eqn, along.axis)
    return Followed([kernels.at(out_spec[1])], [images, kernels], p | {name: along.outer * run})


def gather(eqn: Any, states: Sequence, size: int) -> Followed:
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (operand, indices), (shape, index_shape) = states, shapes_of(eqn)
    offset = [int(a) for a in d.offset_dims]
    numbered = [a for a in range(len(shape_of(eqn.outvars[0]))) if a not in offset]  # result axes along the indices
    pairs = dict(zip(map(int, d.operand_batching_dims), map(int, d.start_indices_batching_dims), strict=True))
    if operand is not None and operand.axis not in pairs:
        window = [a for a in range(len(shape)) if a not in (*d.collapsed_slice_dims, *pairs)]
        if indices is not None or operand.axis not in window or sizes[operand.axis] != shape[operand.axis]:
            raise lost(eqn, operand.axis)
        params = eqn.params | {"slice_sizes": replaced(sizes, operand.axis, operand.one)}
        return Followed([operand.at(offset[window.index(operand.axis)])], [operand, None], params)
    cut = operand.at(pairs[operand.axis]) if operand is not None else indices
    if indices not in (None, cut) or cut.axis == len(index_shape) - 1:
        raise lost(eqn, cut.axis)
    back = {j: a for a, j in pairs.items()}
    operands = [cut.at(back[cut.axis]) if cut.axis in back else None, cut]
    return Followed([cut.at(numbered[cut.axis])], operands, eqn.params)


def scatter(eqn: Any, states: Sequence, size: int) -> Followed:
    d = eqn.params["dimension_numbers"]
    (operand, indices, updates), (shape, _, update_shape) = states, shapes_of(eqn)
    windows = [int(a) for a in d.update_window_dims]
    numbered = [a for a in range(len(update_shape)) if a not in windows]  # update axes along the indices
    batching = [int(a) for a in d.operand_batching_dims]
    per_index = [int(a) for a in d.scatter_indices_batching_dims]
    inside = [a for a in range(len(shape)) if a not in (*d.inserted_window_dims, *batching)]
    # For each axis of updates and indices, the axis of the operand that it corresponds to, if there is one.
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


def dynamic_slice(eqn: Any, states: Sequence, size: int) -> Followed:
    along, sizes = common(eqn, states), eqn.params["slice_sizes"]
    if sizes[along.axis] != shape_of(eqn.invars[0])[along.axis]:
        raise lost(eqn, along.axis)
    params = eqn.params | {"slice_sizes": replaced(sizes, along.axis, along.one)}
    return Followed([along], [along, *[None] * (len(states) - 1)], params)


def dynamic_update_slice(eqn: Any, states: Sequence, size: int) -> Followed:
    along, (shape, update_shape, *_) = common(eqn, states), shapes_of(eqn)
    if shape[along.axis] != update_shape[along.axis]:
        raise lost(eqn, along.axis)
    return Followed([along], [along, along, *[None] * (len(states) - 2)], eqn.params)
