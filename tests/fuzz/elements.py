"""Operations that move, change, sum or sort elements: (generator of constants, array, array) → array."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .arrays import along, axis_of, beside, constant, matrix, ranked, some, vector

# Moves


def sliced(rng, a, b):
    a = ranked(a)
    keys = [slice(int(rng.integers(0, 2)) if n > 1 else 0, None, int(rng.integers(1, 3))) for n in a.shape]
    return a[tuple(keys)]


def padded(rng, a, b):
    a = ranked(a)
    config = []
    for n in a.shape:
        low, high, inside = (int(k) for k in rng.integers((-1, -1, 0), (3, 2, 2)))
        length = n + (n - 1) * inside
        if length + low + high < 1:
            low = high = 0
        config.append((low, high, inside))
    return lax.pad(a, np.asarray(rng.choice([0.0, 0.5]), a.dtype), config)


def padded_by_value(rng, a, b):
    # The padding value depends on the same inputs as the operand: JAX cannot transpose a pad whose padding value alone
    # is linear.
    value = vector(b)[0] + 0 * vector(a)[0]
    return lax.pad(ranked(a) + 0 * value, value, [(1, 0, 0)] * ranked(a).ndim)


def padded_by_mode(rng, a, b):
    a = ranked(a)
    return jnp.pad(a, 1, mode=str(rng.choice(["edge", "wrap", "constant", "symmetric", "linear_ramp"])))


def transposed(rng, a, b):
    return jnp.transpose(a, rng.permutation(a.ndim))


def reshaped(rng, a, b):
    shapes = [(-1,), (1, -1), (-1, 1)] + [(k, -1) for k in (2, 3) if a.size % k == 0 and a.size]
    shapes += [(2, -1, 2), (1, 2, -1)] if a.size % 4 == 0 and a.size else []
    return vector(a).reshape(shapes[rng.integers(len(shapes))]) if a.size else a.reshape(-1)


def expanded(rng, a, b):
    return jnp.expand_dims(a, int(rng.integers(a.ndim + 1)))


def spread(rng, a, b):
    """Stretch axes of length 1."""
    a = a.reshape((1, *a.shape) if rng.random() < 0.5 else (*a.shape, 1))
    return jnp.broadcast_to(a, [2 if n == 1 else n for n in a.shape])


def concatenated(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    other = list(a.shape)
    other[axis] = int(rng.integers(0, 3))
    parts = [some(b, *other), a, constant(rng, a, *other, zeros=0.5)]
    return jnp.concatenate([parts[k] for k in rng.permutation(3)], axis)


def stacked(rng, a, b):
    return jnp.stack([a, some(b, *a.shape)], int(rng.integers(a.ndim + 1)))


def emptied(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    return lax.slice_in_dim(a, 1, 1, axis=axis)


def beside_empty(rng, a, b):
    """Empty arrays concatenated with others."""
    v = vector(a)
    return jnp.concatenate([v[:0], v, constant(rng, a, 0, v.size) @ v, v[2:2] * 3])


# Elements


def without_some(rng, a, b):
    return a * constant(rng, a, *beside(rng, b, a).shape, zeros=0.5)


def by_length_1(rng, a, b):
    """Products of axes of length 1 with longer ones, both ways."""
    v = vector(a)
    pairs = [
        lambda: v[:, None] * constant(rng, a, int(rng.integers(1, 4)), zeros=0.3),
        lambda: v[:, None] * constant(rng, a, 1, int(rng.integers(1, 4)), zeros=0.3),
        lambda: v[None] * constant(rng, a, int(rng.integers(1, 4)), 1, zeros=0.3),
        lambda: v[None] * constant(rng, a, v.size, zeros=0.3),
        lambda: v[None, :, None] * constant(rng, a, 2, 1, int(rng.integers(1, 3))),
        lambda: v[:1] * constant(rng, a, 4),
        lambda: v.sum(keepdims=True) * constant(rng, a, 4, zeros=0.3),
        lambda: constant(rng, a, 3, 1) - v[:2],
    ]
    return pairs[rng.integers(len(pairs))]()


def chosen(rng, a, b):
    mask = rng.random(a.shape) < 0.5
    return jnp.where(mask, a, beside(rng, b, a))


def chosen_by_value(rng, a, b):
    return jnp.where(a > 0.1, a, beside(rng, b, a))


def chosen_of_three(rng, a, b):
    which = jnp.asarray(rng.integers(0, 3, a.shape), np.int32)
    return lax.select_n(which, a, some(b, *a.shape), jnp.sin(a))


def complex_numbers(rng, a, b):
    z = jnp.exp(1j * a) * beside(rng, b, a)
    return jnp.real(z) if rng.random() < 0.5 else jnp.imag(z * (0.5 + 1j))


# Sums and orders


def reduced(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    axis = (axis, 0)[: 1 + (axis != 0 and rng.random() < 0.3)]
    name = str(rng.choice(["sum", "mean", "max", "min", "prod", "var"]))
    return getattr(jnp, name)(a, axis=axis, keepdims=bool(rng.random() < 0.5))


def cumulative(rng, a, b):
    a = ranked(a)
    name = str(rng.choice(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"]))
    return getattr(lax, name)(jnp.sin(a), axis=axis_of(rng, a), reverse=bool(rng.random() < 0.5))


def pooled(rng, a, b):
    start, function = [(-np.inf, lax.max), (np.inf, lax.min), (0.0, lax.add)][rng.integers(3)]
    return lax.reduce_window(
        jnp.cos(vector(a)), np.asarray(start, a.dtype), function, (2,), (int(rng.integers(1, 3)),),
        ((int(rng.integers(0, 2)), 1),),
    )  # fmt: skip


def windows_of_sums(rng, a, b):
    return lax.reduce_window(
        matrix(a), np.zeros((), a.dtype), lax.add, (2, 1), (1, 1), ((1, 1), (0, 0)), base_dilation=(2, 1)
    )


def segments(rng, a, b):
    v = vector(a)
    return jax.ops.segment_sum(v, rng.integers(0, 4, v.size), 4)


def segment_maxima(rng, a, b):
    v = vector(a)
    return jax.ops.segment_max(v, np.arange(v.size) % 2, 2)


def largest(rng, a, b):
    v = vector(a)
    return lax.top_k(v, int(rng.integers(1, v.size + 1)))[0]


def by_argmax(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    return jnp.take_along_axis(a, jnp.argmax(some(b, *a.shape), axis=axis, keepdims=True), axis)


def one_hot(rng, a, b):
    m = matrix(a)
    return m * jax.nn.one_hot(jnp.argmax(m, 1), m.shape[1], dtype=a.dtype)


def associated(rng, a, b):
    a = ranked(a)
    return lax.associative_scan(jnp.multiply, jnp.sin(a), axis=axis_of(rng, a), reverse=bool(rng.random() < 0.5))


def ordered(rng, a, b):
    a = ranked(a)
    axis = axis_of(rng, a)
    return jnp.take_along_axis(a, jnp.argsort(some(b, *a.shape), axis=axis), axis)


def sorted_with(rng, a, b):
    v = vector(a)
    return jnp.stack(lax.sort((v, some(b, v.size)), num_keys=1))


def interpolated(rng, a, b):
    return jnp.interp(vector(a), np.linspace(-1, 1, 4), some(b, 4))


ELEMENTS = {
    # moves
    "flip": lambda rng, a, b: along(rng, a, lambda a, axis: jnp.flip(a, axis)),
    "roll": lambda rng, a, b: along(rng, a, lambda a, axis: jnp.roll(a, int(rng.integers(4)), axis)),
    "slice": sliced,
    "pad": padded,
    "pad by value": padded_by_value,
    "pad by mode": padded_by_mode,
    "transpose": transposed,
    "reshape": reshaped,
    "expand": expanded,
    "spread": spread,
    "tile": lambda rng, a, b: along(rng, a, lambda a, axis: jnp.tile(a, [1 + (k == axis) for k in range(a.ndim)])),
    "repeat": lambda rng, a, b: along(rng, a, lambda a, axis: jnp.repeat(a, 2, axis)),
    "concatenate": concatenated,
    "stack": stacked,
    "empty": emptied,
    "beside empty": beside_empty,
    "rotate": lambda rng, a, b: jnp.rot90(matrix(a), int(rng.integers(4))),
    # elements
    "sin": lambda rng, a, b: jnp.sin(a),
    "bump": lambda rng, a, b: jnp.exp(-(a**2)),
    "power": lambda rng, a, b: jnp.tanh(a) ** int(rng.integers(0, 4)),
    "root": lambda rng, a, b: jnp.sqrt(1 + a * a),
    "scale": lambda rng, a, b: a * constant(rng, a, *beside(rng, b, a).shape),
    "zeros": without_some,
    "length 1": by_length_1,
    "add": lambda rng, a, b: a + beside(rng, b, a),
    "subtract": lambda rng, a, b: beside(rng, b, a) - a,
    "multiply": lambda rng, a, b: a * beside(rng, b, a),
    "divide": lambda rng, a, b: a / (2 + beside(rng, b, a) ** 2),
    "relu": lambda rng, a, b: jax.nn.relu(a),
    "maximum": lambda rng, a, b: jnp.maximum(a, beside(rng, b, a)),
    "clip": lambda rng, a, b: jnp.clip(a, -0.6, 0.7),
    "special": lambda rng, a, b: jax.scipy.special.erf(a) + jax.nn.sigmoid(a) + jnp.arctan2(a, 1.5),
    "where": chosen,
    "where by value": chosen_by_value,
    "choose": chosen_of_three,
    "floor": lambda rng, a, b: jnp.floor(2 * a) * beside(rng, b, a) + jnp.sign(a),
    "remainder": lambda rng, a, b: jnp.mod(a, 1.7),
    "stop": lambda rng, a, b: a * lax.stop_gradient(beside(rng, b, a)),
    "constants": lambda rng, a, b: jnp.asarray(constant(rng, a, *a.shape, zeros=0.5)),
    "through integers": lambda rng, a, b: a * jnp.round(3 * beside(rng, b, a)).astype(int),
    "complex": complex_numbers,
    "barrier": lambda rng, a, b: lax.optimization_barrier((a, b))[0],
    # sums and orders
    "reduce": reduced,
    "mean": lambda rng, a, b: a - a.mean() if a.size else a,
    "logsumexp": lambda rng, a, b: along(rng, a, lambda a, axis: jax.nn.logsumexp(a, axis=axis, keepdims=True)),
    "softmax": lambda rng, a, b: along(rng, a, lambda a, axis: jax.nn.softmax(a, axis)),
    "norm": lambda rng, a, b: a / (1 + jnp.sum(a * a)),
    "cumulative": cumulative,
    "sort": lambda rng, a, b: along(rng, a, lambda a, axis: jnp.sort(a, axis=axis, descending=bool(rng.integers(2)))),
    "order": ordered,
    "sort with": sorted_with,
    "largest": largest,
    "argmax": by_argmax,
    "one hot": one_hot,
    "segments": segments,
    "segment maxima": segment_maxima,
    "windows": pooled,
    "windows of sums": windows_of_sums,
    "associate": associated,
    "interpolate": interpolated,
}
