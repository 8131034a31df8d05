"""Programs whose matrices have zeros, and reference patterns: float64 derivatives at many random points.

Shapes: M outputs, N inputs (all leaves flattened and concatenated), P points.
"""

import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from batch_cases import QUICK
from jax import lax
from jax.experimental.sparse import BCOO

RNG = np.random.default_rng(11)
W = RNG.normal(size=(6, 6))
TALL = RNG.normal(size=(8, 4))
SPARSE = RNG.normal(size=(7, 6)) * (RNG.random((7, 6)) < 0.3)
SPARSE_TOO = RNG.normal(size=(6, 6)) * (RNG.random((6, 6)) < 0.3)
MASK = np.array([True, False, True, True, False, True])
INDEX = np.array([4, 0, 2, 2, 5])
SEGMENTS = np.array([0, 0, 2, 2, 2, 2])  # others are empty
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [1, 3]])
TRIANGLES = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [3, 4, 7], [3, 7, 6], [4, 5, 8], [4, 8, 7]])
NEIGHBOURS = np.array([[1, 2], [0, 2], [0, 3], [2, 4], [3, 5], [4, 3]])
KERNEL = RNG.normal(size=(2, 2, 3))  # width, in, out


@dataclass(eq=False)
class Case:
    """A program, the points it is tried at, and whether its pattern is to be found exactly.

    Attributes:
      shape: of the input: a tuple, or a list or dict of tuples for an input of several leaves.
      kind: "jacobian" or "hessian".
      exact: True, or the reason why more entries than the true ones are to be expected.
      low, high: points are uniform between them.
      count: P, so many that every branch and every index is met.
      mode: the direction in which JAX gives the truth.
      dtypes: one for all leaves, or one for each.
      tolerance: of values, relative to the largest.
    """

    f: Callable
    shape: Any = (6,)
    exact: bool | str = True
    kind: str = "jacobian"
    low: float = -1.5
    high: float = 1.5
    count: int = 8
    mode: str = "fwd"
    dtypes: str | tuple[str, ...] = "float64"
    tolerance: float = 1e-9
    name: str = ""

    def __str__(self):
        return self.name.replace(" ", "-")


def points(case):
    """P points as one tree with leading axis P. The same points at every call."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    shapes, tree = jax.tree.flatten(case.shape, is_leaf=lambda s: isinstance(s, tuple))
    dtypes = [case.dtypes] * len(shapes) if isinstance(case.dtypes, str) else case.dtypes
    leaves = [
        rng.uniform(case.low, case.high, (case.count, *shape)).astype(jnp.dtype(dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


def point(case, k=0):
    return jax.tree.map(lambda leaf: leaf[k], points(case))


def derivative(case):
    """JAX's derivative, dense and nested."""
    if case.kind == "hessian":
        return jax.jacfwd(jax.jacrev(case.f))
    return jax.jacrev(case.f) if case.mode == "rev" else jax.jacfwd(case.f)


def sizes(tree):
    return [leaf.size for leaf in jax.tree.leaves(tree)]


def dense(case, points):
    """JAX's dense matrix at every point, shape (P, M, N), float64."""
    with jax.enable_x64(True):
        x = jax.tree.map(lambda leaf: leaf[0], points)
        widths = sizes(x)
        heights = widths if case.kind == "hessian" else sizes(jax.eval_shape(case.f, x))
        if case.count <= 40:  # a program without a loop around it is compiled faster
            run = jax.jit(derivative(case), compiler_options=QUICK)
            each = [jax.tree.leaves(run(jax.tree.map(lambda a, k=k: a[k], points))) for k in range(case.count)]
            found = [np.stack([np.asarray(a) for a in block]) for block in zip(*each, strict=True)]
        else:
            run = jax.jit(lambda points: lax.map(derivative(case), points), compiler_options=QUICK)
            found = jax.tree.leaves(run(points))
        blocks = iter(found)  # in the order of outputs, then inputs
        return np.concatenate(
            [
                np.concatenate([np.asarray(next(blocks), np.float64).reshape(case.count, m, n) for n in widths], axis=2)
                for m in heights
            ],
            axis=1,
        )


def nonzero(matrices):
    """Which entries are nonzero beyond the rounding of sums that cancel: (P, M, N) -> (M, N)."""
    scale = np.max(np.abs(matrices), axis=(1, 2), keepdims=True, initial=1.0)
    return np.any(np.abs(matrices) > 1e-12 * scale, axis=0)


def truth(case, points):
    """Which entries of the matrix are nonzero at one point at least, shape (M, N), bool."""
    return nonzero(dense(case, points))


# Stencils


def tridiagonal(x):
    return jnp.concatenate([x[:1], x[:-2] - 2 * x[1:-1] ** 2 + x[2:] * x[1:-1], x[-1:]])


def five_points_by_roll(x):
    return sum(jnp.roll(x, shift, axis) for axis in (0, 1) for shift in (1, -1)) - 4 * jnp.sin(x)


def five_points_by_slices(x):
    inner = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * jnp.exp(x[1:-1, 1:-1])
    return x.at[1:-1, 1:-1].set(inner)


def five_points_by_pad(x):
    p = jnp.pad(x, 1)
    return p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * x**2


def five_points_by_conv(x):
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], x.dtype)
    return lax.conv(x[None, None], kernel[None, None], (1, 1), "SAME")[0, 0] + x**3


def brusselator(state):
    def laplacian(a):
        return five_points_by_roll(a) - 4 * a + 4 * jnp.sin(a)

    u, v = state["u"], state["v"]
    return {"u": 1 + u**2 * v - 4.4 * u + 0.1 * laplacian(u), "v": 3.4 * u - u**2 * v + 0.1 * laplacian(v)}


def burgers(x):
    """Upwind differences: which neighbor is used depends on x."""
    left, right = jnp.roll(x, 1), jnp.roll(x, -1)
    return -x * jnp.where(x > 0, x - left, right - x)


def limited(x):
    def minmod(a, b):
        return jnp.where(a * b > 0, jnp.where(jnp.abs(a) < jnp.abs(b), a, b), 0)

    return minmod(x[1:-1] - x[:-2], x[2:] - x[1:-1])


def heat(x):
    def step(u, _):
        return u + 0.2 * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)), None

    return lax.scan(step, x, None, length=10)[0]


def heat_with_ends(x):
    def step(_, u):
        return u.at[1:-1].add(0.1 * (u[:-2] - 2 * u[1:-1] + u[2:]))

    return lax.fori_loop(0, 4, step, x)


def conv_with_zero_taps(x):
    kernel = np.zeros((2, 3, 5))
    kernel[0, 0, 1] = kernel[0, 2, 4] = kernel[1, 1, 0] = 1.5
    return lax.conv_general_dilated(jnp.tanh(x)[None], kernel, (2,), [(2, 1)], rhs_dilation=(1,))[0]


def depthwise(x):
    kernel = np.broadcast_to([1.0, 0.0, -1.0], (3, 1, 3))
    return lax.conv_general_dilated(x[None], kernel, (1,), "SAME", feature_group_count=3)[0]


STENCILS = {
    "tridiagonal": Case(tridiagonal, (12,)),
    "five points by roll": Case(five_points_by_roll, (5, 6)),
    "five points by slices": Case(five_points_by_slices, (5, 6)),
    "five points by pad": Case(five_points_by_pad, (5, 6)),
    "five points by convolution": Case(five_points_by_conv, (5, 6)),
    "brusselator": Case(brusselator, {"u": (4, 5), "v": (4, 5)}),
    "brusselator of one leaf": Case(lambda x: jnp.stack(list(brusselator({"u": x[0], "v": x[1]}).values())), (2, 4, 4)),
    "upwind": Case(burgers, (8,), count=24),
    "limiter": Case(limited, (7,), count=80),
    "ten steps of heat": Case(heat, (30,)),
    "heat in a fori loop": Case(heat_with_ends, (14,)),
    "convolution with zero taps": Case(conv_with_zero_taps, (3, 9)),
    "depthwise convolution": Case(depthwise, (3, 6)),
    "convolution with a kernel of the input": Case(
        lambda x: jnp.convolve(x[0], x[1, :3]), (2, 6), exact="what a kernel does is not followed place by place"),
    "correlation": Case(lambda x: jnp.correlate(x, np.array([1.0, 0.0, 2.0]), mode="same"), (9,)),
    "transposed convolution": Case(lambda x: lax.conv_transpose(x, np.ones((2, 1, 1)), (2,), "VALID"), (1, 5, 1)),
    "convolution, channels last, dilated": Case(
        lambda x: lax.conv_general_dilated(x, KERNEL, (1,), "VALID", rhs_dilation=(2,),
                                           dimension_numbers=("NHC", "HIO", "NHC")), (2, 6, 2)),
    "convolution in groups of the batch": Case(
        lambda x: lax.conv_general_dilated(x, np.ones((2, 1, 2)), (1,), "VALID", batch_group_count=2), (2, 1, 4),
        exact="groups of the batch are not followed"),
    "max pooling, dilated": Case(
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), ((1, 0),), window_dilation=(2,)), (7,), count=40),
    "gradient of max pooling": Case(
        jax.grad(lambda x: jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID") ** 3)), (6,), count=40,
        exact="what a window gives back may go anywhere"),
    "resized": Case(lambda x: jax.image.resize(x, (7,), "linear"), (4,)),
    "max pooling": Case(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"), (4, 6), count=60),
    "average pooling": Case(lambda x: lax.reduce_window(jnp.sin(x), 0.0, lax.add, (3,), (2,), "SAME"), (9,)),
    "periodic convolution by fft": Case(lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * np.fft.rfft([1.0, 2, 0, 0, 0, 0])),
                                        exact="a transform mixes everything, and back cancels"),
    "moving sum by cumsum": Case(lambda x: jnp.cumsum(x)[3:] - jnp.cumsum(x)[:-3], (8,), exact="sums cancel"),
}  # fmt: skip


# Moves


def split_and_joined(x):
    a, b, c = jnp.split(x, [1, 4])
    return jnp.concatenate([jnp.sin(c), a * 2, b[::2]])


MOVES = {
    "flip": Case(lambda x: x[::-1] * 2),
    "flip of one axis": Case(lambda x: jnp.flip(x, 1) ** 2, (2, 3)),
    "transpose": Case(lambda x: x.transpose(2, 0, 1) ** 2, (2, 3, 2)),
    "reshape in columns": Case(lambda x: x.reshape(3, 4, order="F"), (2, 6)),
    "split and joined": Case(split_and_joined, (7,)),
    "stack": Case(lambda x: jnp.stack([x, x[::-1], x**2], axis=1)),
    "tile": Case(lambda x: jnp.tile(x, (2, 3)), (2, 2)),
    "repeat": Case(lambda x: jnp.repeat(x, np.array([2, 0, 1, 3]), total_repeat_length=6), (4,)),
    "broadcast": Case(lambda x: jnp.broadcast_to(x[:, None], (4, 3)) * np.arange(3.0), (4,)),
    "squeezed and expanded": Case(lambda x: jnp.expand_dims(jnp.squeeze(x, 1), (0, 2)) * 3, (4, 1)),
    "pad, inside too": Case(lambda x: lax.pad(x, 0.0, ((1, 2, 1),)), (5,)),
    "pad that cuts": Case(lambda x: lax.pad(x, 0.0, ((-1, -2, 0), (1, 0, 2))), (5, 2)),
    "pad by reflection": Case(lambda x: jnp.pad(x, 2, mode="reflect"), (5,)),
    "slice with steps": Case(lambda x: x[1::2, ::-1] * 2, (5, 3)),
    "roll": Case(lambda x: jnp.roll(x, (1, 2), (0, 1)), (3, 4)),
    "diagonal of a matrix": Case(lambda x: jnp.diag(jnp.sin(x)), (4, 4)),
    "matrix of a diagonal": Case(lambda x: jnp.diag(x, 1), (3,)),
    "trace": Case(lambda x: jnp.trace(x**2), (4, 3)),
    "upper triangle": Case(lambda x: jnp.triu(x, 1), (4, 4)),
    "lower triangle of an outer product": Case(lambda x: jnp.tril(jnp.outer(x, x)), (4,)),
    "rotated": Case(jnp.rot90, (3, 2)),
    "meshgrid": Case(lambda x: jnp.stack(jnp.meshgrid(x[:2], x[2:])), (5,)),
    "dynamic slice, known start": Case(lambda x: lax.dynamic_slice(x, (1, 2), (2, 2)), (4, 5)),
    "dynamic slice, start beyond the end": Case(lambda x: lax.dynamic_slice(x, (4, -2), (3, 2)), (5, 4)),
    "dynamic update, start beyond the end": Case(lambda x: lax.dynamic_update_slice(x, jnp.sin(x[:3]), (4,))),
    "roll by the input": Case(lambda x: jnp.roll(x, jnp.floor(9 * x[0]).astype(int)), (4,), count=120),
    "dynamic slice, start of the input": Case(
        lambda x: lax.dynamic_slice(x["v"], (jnp.floor(4 * x["s"]).astype(int),), (3,)), {"s": (), "v": (6,)},
        low=0.0, high=1.0, count=40),
    "dynamic update, known start": Case(lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (3,))),
    "dynamic update, start of the input": Case(
        lambda x: lax.dynamic_update_slice(x["v"], jnp.sin(x["u"]), (jnp.floor(4 * x["s"]).astype(int),)),
        {"s": (), "u": (2,), "v": (5,)}, low=0.0, high=1.0, count=40),
}  # fmt: skip


# Elements


def through_bfloat16(x):
    return (x.astype(jnp.bfloat16) * 2).astype(x.dtype) * x[::-1]


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_vjp
def rounded_backwards(x):
    return jnp.round(x)


rounded_backwards.defvjp(lambda x: (jnp.round(x), None), lambda _, u: (u,))


@jax.custom_vjp
def swapped_backwards(x, y):
    return x + y


swapped_backwards.defvjp(lambda x, y: (x + y, None), lambda _, u: (u[::-1], jnp.cumsum(u)))


@jax.custom_jvp
def cumulative_rule(x):
    return jnp.sin(x)


cumulative_rule.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cumsum(tangents[0])))


ELEMENTS = {
    "tanh": Case(jnp.tanh),
    "chain of elements": Case(lambda x: jnp.log1p(jnp.exp(x)) * jnp.sqrt(1 + x**2) / (2 + jnp.cos(x))),
    "relu": Case(jax.nn.relu, count=16),
    "gelu": Case(jax.nn.gelu),
    "leaky relu": Case(jax.nn.leaky_relu, count=16),
    "error function": Case(lambda x: jax.scipy.special.erf(x) + lax.lgamma(2 + x)),
    "powers and angles": Case(lambda x: jnp.arctan2(x[:3], x[3:]) + jnp.hypot(x[:3], 2) ** x[3:], low=0.3),
    "remainder": Case(lambda x: x % 0.7 + jnp.fmod(x, 0.4)),
    "remainder by another": Case(lambda x: jnp.remainder(x[:3], x[3:]), low=0.2, count=24),
    "clip": Case(lambda x: jnp.clip(x, -0.5, 0.5), count=24),
    "clip by others": Case(lambda x: lax.clamp(x[:2], x[2:4], x[4:] + 1.5), count=60),
    "maximum": Case(lambda x: jnp.maximum(x, x[::-1]), count=24),
    "complex product": Case(lambda x: jnp.abs((x + 1j * x[::-1]) * np.exp(1j * np.arange(6)))),
    "complex phase": Case(lambda x: jnp.real(jnp.exp(1j * x) * x) + jnp.imag(1j * x.conj())),
    "floor and sign": Case(lambda x: jnp.floor(x) + jnp.sign(x) * x[::-1]),
    "integers": Case(lambda x: x * (3 * x[::-1]).astype(int), count=16),
    "stopped": Case(lambda x: x * lax.stop_gradient(x[::-1].sum() * x[::-1])),
    "zero times": Case(lambda x: x + 0.0 * x[::-1]),
    "known zeros times": Case(lambda x: x[::-1] * np.where(MASK, 2.0, 0.0)),
    "bfloat16 on the way": Case(through_bfloat16, count=16, tolerance=2e-2),
    "bfloat16 and float64": Case(lambda x: x[0] * x[1], [(4,), (4,)], dtypes=("bfloat16", "float64"),
                                 tolerance=2e-2),
    "straight through, forward rule": Case(lambda x: rounded(x) * np.arange(1.0, 7.0)),
    "straight through, backward rule": Case(lambda x: rounded_backwards(x) * np.arange(1.0, 7.0), mode="rev"),
    "backward rule that moves": Case(lambda x: swapped_backwards(x[:3], jnp.sin(x[3:])), mode="rev"),
    "forward rule that adds up": Case(cumulative_rule),
    "random factors of a known key": Case(lambda x: x * jax.random.normal(jax.random.key(3), x.shape)),
    "dropout with a known key": Case(lambda x: jnp.where(jax.random.bernoulli(jax.random.key(1), 0.5, x.shape), x, 0)),
    "where with a known mask": Case(lambda x: jnp.where(MASK, x, x[::-1] ** 2)),
    "where with a mask of indices": Case(lambda x: jnp.where(jnp.arange(6) % 3 == 1, jnp.sin(x), 0)),
    "where of the input": Case(lambda x: jnp.where(x > 0, x, x[::-1] ** 2), count=24),
    "select among three": Case(lambda x: lax.select_n(np.array([0, 2, 1, 1, 0, 2]), x, x[::-1], jnp.roll(x, 1))),
    "choose": Case(lambda x: jnp.choose(np.array([1, 0, 1]), [x[:3], x[3:]], mode="clip")),
    "piecewise": Case(lambda x: jnp.select([x < -0.5, x < 0.5], [x**2, jnp.sin(x)], x[::-1]), count=32),
    "cancelled": Case(lambda x: (x + x[::-1]) - x, exact="sums cancel"),
    "choice of one number": Case(lambda x: lax.select(x[0] > 0, x, jnp.cumsum(x)), count=24),
    "barrier": Case(lambda x: lax.optimization_barrier((jnp.sin(x), x[::-1]))[0] * x),
    "two types out": Case(lambda x: (x.astype(jnp.float32) * 2, x[::-1] ** 2), tolerance=1e-6),
    "squares of sine and cosine": Case(lambda x: jnp.sin(x) ** 2 + jnp.cos(x) ** 2 + x[::-1], exact="sums cancel"),
    "never positive": Case(lambda x: jax.nn.relu(-1 - x**2) + x[::-1], exact="signs are not followed"),
}  # fmt: skip


# Indices


def assembled_elements(x):
    """Stiffness times displacement, element by element."""
    k = np.array([[2.0, -1, -1], [-1, 1, 0.5], [-1, 0.5, 1]])
    return jnp.zeros_like(x).at[TRIANGLES].add(jnp.tanh(x[TRIANGLES] @ k))


def forces(x):
    """Springs to the neighbours of a list."""
    d = x[NEIGHBOURS] - x[:, None]
    return jnp.sum(d / (0.1 + jnp.sum(d**2, -1, keepdims=True)), axis=1)


def splines(x):
    """Cubic pieces over four coefficients, at known places."""
    t = np.linspace(0, 4.9, 9)
    i = np.floor(t).astype(int)
    s = t - i
    basis = np.stack([(1 - s) ** 3, 3 * s**3 - 6 * s**2 + 4, -3 * s**3 + 3 * s**2 + 3 * s + 1, s**3 + 0.1], 1) / 6
    return jnp.sum(basis * jnp.exp(x)[i[:, None] + np.arange(4)], axis=1)


def segment_softmax(x):
    e = jnp.exp(x - jax.ops.segment_max(x, SEGMENTS, 4)[SEGMENTS])
    return e / jax.ops.segment_sum(e, SEGMENTS, 4)[SEGMENTS]


def computed_indices(x):
    i = jnp.arange(6)
    neighbour = jnp.where(i % 2 == 0, jnp.clip(i + 1, 0, 5), (i * 5 + 3) % 6)
    return x[neighbour] * x


def data_index(x):
    return jnp.floor(jnp.abs(8 * x)).astype(int) % x.size


INDICES = {
    "gather": Case(lambda x: x[INDEX]),
    "gather of rows": Case(lambda x: jnp.sin(x)[np.array([[2, 0], [1, 1]])], (3, 2)),
    "gather of pairs": Case(lambda x: x[np.array([0, 2, 3]), np.array([1, 1, 0])], (4, 2)),
    "gather out of bounds": Case(lambda x: x.at[np.array([0, 9, 2])].get(mode="fill", fill_value=0)),
    "gather clipped": Case(lambda x: jnp.take(x, np.array([0, 9, -1]), mode="clip")),
    "gather by the input": Case(lambda x: x[data_index(x)], (4,), count=80),
    "vmapped gather": Case(lambda x: jax.vmap(lambda v, i: v[i])(x, np.array([[1, 0], [3, 3], [2, 0]])), (3, 4)),
    "vmapped gather by the input": Case(lambda x: jax.vmap(lambda v: v[data_index(v)])(x), (2, 3), count=80),
    "computed indices": Case(computed_indices),
    "take along": Case(lambda x: jnp.take_along_axis(x, np.array([[1, 0], [2, 2]]), axis=1), (2, 3)),
    "take along the order": Case(lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1), (2, 3), count=60),
    "boolean mask": Case(lambda x: x[MASK] ** 2),
    "set": Case(lambda x: x.at[np.array([1, 3])].set(x[:2] * x[4:])),
    "set to numbers": Case(lambda x: jnp.sin(x).at[jnp.array([0, 4])].set(1.0)),
    "add at": Case(lambda x: x.at[np.array([1, 1, 4])].add(x[:3] ** 2)),
    "multiply at": Case(lambda x: x.at[np.array([1, 4])].multiply(jnp.sin(x[2:4]), unique_indices=True)),
    "maximum at": Case(lambda x: jnp.zeros(3).at[np.array([0, 0, 2, 2, 2, 0])].max(x), low=0.1, count=40),
    "set one, known in a trace": Case(lambda x: x.at[jnp.argmax(jnp.arange(4))].set(x[0])),
    "set twice": Case(lambda x: x.at[np.array([1, 1])].set(x[3:5] * 2),
                      exact="which of two writes stays is not followed"),
    "set out of bounds": Case(lambda x: x.at[np.array([1, 9])].set(x[3:5], mode="drop")),
    "vmapped windows": Case(lambda x: jax.vmap(lambda s: lax.dynamic_slice(x, (s,), (2,)))(np.array([0, 3, 9]))),
    "vmapped updates": Case(
        lambda x: jax.vmap(lambda r, s: lax.dynamic_update_slice(x, r, (s,)))(x.reshape(3, 2), np.array([0, 3, 9]))),
    "vmapped additions": Case(
        lambda x: jax.vmap(lambda v, i: jnp.zeros(3).at[i].add(v))(x, np.array([[0, 0], [2, 1], [1, 5]])), (3, 2)),
    "columns taken": Case(lambda x: jnp.take(jnp.exp(x), np.array([3, 0, 3]), axis=1), (2, 4)),
    "coordinates": Case(
        lambda x: jax.scipy.ndimage.map_coordinates(x, [np.array([0.3, 1.6]), np.array([2.2, 0.4])], order=1), (3, 4)),
    "set by the input": Case(lambda x: x["v"].at[data_index(x["v"])[0]].set(x["u"]), {"u": (), "v": (4,)}, count=80),
    "add at the input": Case(lambda x: jnp.zeros(4).at[data_index(x)].add(x), (4,), count=80),
    "segment sum": Case(lambda x: jax.ops.segment_sum(jnp.exp(x), SEGMENTS, 4)),
    "segment sum of rows": Case(lambda x: jax.ops.segment_sum(x, SEGMENTS, 4), (6, 2)),
    "ragged softmax": Case(segment_softmax, count=16),
    "histogram weights": Case(lambda x: jnp.bincount(SEGMENTS, weights=x, length=5)),
    "elements": Case(assembled_elements, (9,)),
    "springs": Case(lambda x: jnp.zeros_like(x).at[EDGES[:, 0]].add(jnp.sin(x[EDGES[:, 1]])) + x[:1], (5,)),
    "neighbours": Case(forces, (6, 2)),
    "splines": Case(splines, (8,)),
    "one hot, known": Case(lambda x: jax.nn.one_hot(INDEX, 6) @ x),
    "one hot of the largest": Case(lambda x: jax.nn.one_hot(jnp.argmax(x), 6) * x, count=60),
    "interpolation at the input": Case(lambda x: jnp.interp(x, np.linspace(-2, 2, 7), np.arange(7.0) ** 2)),
    "interpolation of the input": Case(lambda x: jnp.interp(np.linspace(0.2, 3.7, 5), np.arange(5.0), x), (5,)),
    "interpolation in a table of the input": Case(lambda x: jnp.interp(x[4:], np.arange(4.0), x[:4]), (6,),
                                                  low=0.0, high=3.0, count=80),
}  # fmt: skip


# Sums, orders, products


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def causal_attention(x):
    scores = jnp.where(np.tri(4, dtype=bool), x @ x.T, -jnp.inf)
    return jax.nn.softmax(scores) @ jnp.sin(x)


def causal_weights(x):
    return jax.nn.softmax(jnp.where(np.tri(4, k=1, dtype=bool), x, -jnp.inf))


def linear_attention(x):
    """The mask is a factor, so no exponential of infinity occurs."""
    return (x @ x.T * np.tri(4)) @ x


def two_block_layers(x):
    w = np.arange(1.0, 25).reshape(4, 2, 3) / 9
    hidden = jnp.tanh(jnp.einsum("bi,bij->bj", x, w))
    return jnp.einsum("bj,bij->bi", hidden, w)


REDUCTIONS = {
    "row sums": Case(lambda x: x.sum(1), (3, 4)),
    "means of both axes": Case(lambda x: (jnp.mean(x, 0), jnp.mean(x**2, 1)), (3, 4)),
    "softmax of rows": Case(lambda x: jax.nn.softmax(x), (3, 4)),
    "log softmax": Case(lambda x: jax.nn.log_softmax(x), (2, 3)),
    "logsumexp": Case(lambda x: jax.nn.logsumexp(x, axis=0), (3, 4)),
    "layer norm of rows": Case(layer_norm, (3, 4)),
    "maximum of rows": Case(lambda x: jnp.max(x, axis=1), (3, 4), count=60),
    "minimum of all": Case(jnp.min, (5,), count=60),
    "product of rows": Case(lambda x: jnp.prod(x, axis=1), (3, 4)),
    "norms of rows": Case(lambda x: jnp.linalg.norm(x, axis=1), (3, 4)),
    "variance": Case(lambda x: jnp.var(x, axis=0), (4, 3)),
    "median": Case(lambda x: jnp.median(x, axis=1), (2, 5), count=80),
    "sum with a known mask": Case(lambda x: jnp.sum(x, where=MASK)),
    "sort": Case(jnp.sort, (4,), count=200),
    "sort of rows": Case(lambda x: jnp.sort(x, axis=-1), (3, 3), count=60),
    "sort by known keys": Case(lambda x: lax.sort((np.array([3, 1, 2, 0, 5, 4]), x), num_keys=1)[1],
                               exact="an order is not worked out, even that of known keys"),
    "gather by argsort": Case(lambda x: jnp.sin(x)[jnp.argsort(x)], (4,), count=200),
    "sort with values": Case(lambda x: lax.sort((x[:3], x[3:]), num_keys=1)[1], count=100),
    "top k": Case(lambda x: lax.top_k(x, 2)[0], (2, 4), count=100),
    "cumulative sum": Case(jnp.cumsum),
    "cumulative sum from behind": Case(lambda x: lax.cumsum(jnp.sin(x), 1, reverse=True), (2, 4)),
    "cumulative product": Case(jnp.cumprod, (5,)),
    "cumulative maximum": Case(lax.cummax, (4,), count=80),
    "cumulative minimum from behind": Case(lambda x: lax.cummin(x, reverse=True), (4,), count=80),
    "product of all": Case(jnp.prod, (5,)),
    "norm of all": Case(jnp.linalg.norm, (5,)),
    "cumulative logsumexp": Case(lambda x: lax.cumlogsumexp(x, axis=0), (5,)),
    "associative scan": Case(lambda x: lax.associative_scan(operator.mul, x, axis=0), (6, 2)),
    "differences": Case(lambda x: jnp.diff(x, n=2), (7,)),
    "dot": Case(lambda x: jnp.dot(x[:3], x[3:])),
    "outer": Case(lambda x: jnp.outer(x[:2], jnp.sin(x[2:])), (5,)),
    "kron with a known matrix": Case(lambda x: jnp.kron(np.array([[1.0, 0.0], [2.0, -1.0]]), x), (2, 2)),
    "kron": Case(lambda x: jnp.kron(x[0], x[1]), (2, 3)),
    "cross": Case(lambda x: jnp.cross(x[:2], x[2:]), (4, 3)),
    "tall layer": Case(lambda x: jnp.tanh(TALL @ x), (4,)),
    "wide layer": Case(lambda x: jnp.tanh(TALL.T @ x), (8,)),
    "known sparse array": Case(lambda x: BCOO.fromdense(SPARSE, nse=15) @ jnp.sin(x)),
    "sparse array from the right": Case(lambda x: jnp.sin(x) @ BCOO.fromdense(SPARSE.T, nse=15)),
    "sparse array of x": Case(lambda x: BCOO((x, np.array([[0, 1], [1, 1], [4, 0]])), shape=(6, 3)) @ x**2, (3,)),
    "sparse array of x, made dense": Case(
        lambda x: BCOO((x, np.array([[0, 1], [1, 1]])), shape=(2, 2)).todense(), (2,)),
    "solve of columns": Case(lambda x: lax.linalg.triangular_solve(W[:3, :3] + 4 * np.eye(3), x), (2, 3),
                             exact="a triangle is solved as a square"),
    "known sparse matrix": Case(lambda x: SPARSE @ jnp.sin(x)),
    "known sparse matrices": Case(lambda x: SPARSE @ jnp.tanh(SPARSE_TOO @ x)),
    "known sparse matrix from behind": Case(lambda x: x @ SPARSE.T, (2, 6)),
    "known diagonal": Case(lambda x: jnp.diag(jnp.arange(1.0, 7.0)) @ x**2),
    "known triangle": Case(lambda x: jnp.tril(W) @ x),
    "known matrix of the program": Case(lambda x: jnp.eye(6, k=1) @ x + jnp.kron(jnp.eye(2), jnp.ones((3, 3))) @ x**2),
    "matrix product": Case(lambda x: x @ x, (3, 3)),
    "einsum": Case(lambda x: jnp.einsum("ij,jk->ik", x, W[:3]), (2, 3)),
    "batched einsum": Case(lambda x: jnp.einsum("bij,bjk->bik", x, jnp.sin(x)), (3, 2, 2)),
    "einsum of a diagonal": Case(lambda x: jnp.einsum("ii->i", x) ** 2, (4, 4)),
    "bilinear form": Case(lambda x: jnp.einsum("bi,ij,bj->b", x, W[:3, :3], x), (4, 3)),
    "causal attention": Case(causal_attention, (4, 2),
                             exact="that weights are zero by exp(-inf) is no property of the linear program"),
    "causal weights": Case(causal_weights, (4, 4),
                           exact="that weights are zero by exp(-inf) is no property of the linear program"),
    "causal linear attention": Case(linear_attention, (4, 2)),
    "two layers of blocks": Case(two_block_layers, (4, 2)),
    "fifty blocks": Case(lambda x: x * x.sum(1, keepdims=True), (50, 2)),
    "polynomial": Case(lambda x: jnp.polyval(np.array([1.0, -2.0, 0.5]), x)),
    "polynomial of the input": Case(lambda x: jnp.polyval(x[:3], x[3:])),
}  # fmt: skip


# Linear algebra and transforms


def spd(x):
    # Positive definite matrices of the input, one a sample.
    return x @ x.mT + 2 * np.eye(x.shape[-1])


def of_blocks(x):
    blocks = jnp.zeros((4, 4)).at[:2, :2].set(spd(x[:2])).at[2:, 2:].set(spd(x[2:]))
    return jnp.linalg.solve(blocks, np.arange(1.0, 5))


def implicit(x):
    """y + y**3 / 9 = x, element by element."""

    def iterated(f, y):
        return lax.fori_loop(0, 40, lambda _, y: y - f(y) / 1.5, y)

    return lax.custom_root(lambda y: y + y**3 / 9 - x, x, iterated, lambda g, y: y / g(jnp.ones_like(y)))


ALGEBRA = {
    "solve": Case(lambda x: jnp.linalg.solve(x[:, :3] + 4 * np.eye(3), x[:, 3]), (3, 4)),
    "solve in batches": Case(lambda x: jnp.linalg.solve(spd(x), x[..., :1]), (3, 2, 2)),
    "solve with a known matrix": Case(lambda x: jnp.linalg.solve(W + 4 * np.eye(6), x)),
    "solve with blocks": Case(of_blocks, (4, 2), exact="blocks of one matrix are not told apart"),
    "inverse": Case(lambda x: jnp.linalg.inv(x + 4 * np.eye(3)), (3, 3)),
    "determinants": Case(lambda x: jnp.linalg.det(x), (3, 2, 2)),
    "determinants by factors": Case(lambda x: jnp.linalg.det(x), (2, 4, 4)),
    "logarithms of determinants": Case(lambda x: jnp.linalg.slogdet(spd(x))[1], (2, 3, 3)),
    "triangle and rotation": Case(lambda x: jnp.linalg.qr(x), (3, 2), exact="the triangle has known zeros"),
    "exponential of a matrix": Case(jax.scipy.linalg.expm, (2, 2)),
    "conjugate gradients": Case(lambda x: jax.scipy.sparse.linalg.cg(lambda v: spd(W) @ v, x, tol=1e-14)[0]),
    "implicit function": Case(implicit, exact="a solve is dense between its unknowns"),
    "triangular solve": Case(
        lambda x: lax.linalg.triangular_solve(x[:, :3] + 4 * np.eye(3), x[:, 3:], left_side=True, lower=True), (3, 4),
        exact="a triangle is solved as a square"),
    "triangular solve with a known matrix": Case(
        lambda x: lax.linalg.triangular_solve(np.tril(W) + 4 * np.eye(6), x[:, None], left_side=True, lower=True),
        exact="a triangle is solved as a square"),
    "cholesky": Case(lambda x: jnp.linalg.cholesky(spd(x)), (3, 3), exact="the factor has known zeros"),
    "cholesky in batches": Case(lambda x: jnp.diagonal(jnp.linalg.cholesky(spd(x)), 0, 1, 2)[:, 1], (3, 2, 2)),
    "eigenvalues in batches": Case(lambda x: jnp.linalg.eigvalsh(x), (3, 2, 2)),
    "eigenvectors in batches": Case(lambda x: jnp.linalg.eigh(x + x.mT + np.diag([0.0, 9.0]))[1], (2, 2, 2)),
    "singular values": Case(lambda x: jnp.linalg.svd(x, compute_uv=False), (2, 3)),
    "tridiagonal solve": Case(
        lambda x: lax.linalg.tridiagonal_solve(np.r_[0.0, np.ones(4)], np.full(5, 4.0), np.r_[np.ones(4), 0.0],
                                               jnp.sin(x)[:, None])[:, 0], (5,)),
    "tridiagonal solve of batches": Case(
        lambda x: lax.linalg.tridiagonal_solve(x[:, 0].at[:, 0].set(0), x[:, 1] + 4, x[:, 2].at[:, -1].set(0),
                                               x[:, 3, :, None]), (2, 4, 3), exact="where bands end is not seen"),
    "fourier, real and imaginary": Case(lambda x: jnp.real(jnp.fft.fft(x)) + 0.5 * jnp.imag(jnp.fft.fft(x)), (5,)),
    "inverse fourier": Case(lambda x: jnp.real(jnp.fft.ifft(x * np.exp(1j * np.arange(5)))), (5,)),
    "fourier of rows": Case(lambda x: jnp.abs(jnp.fft.rfft(x, axis=1)), (3, 5)),
    "fourier in two axes": Case(lambda x: jnp.abs(jnp.fft.fft2(x)), (2, 3, 3)),
}  # fmt: skip


# Control flow and transformations


def carried(x):
    return lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), 0.5, x)


def carried_back(x):
    return lax.scan(lambda c, v: (c + v**2, c), 0.0, x, reverse=True)[1]


def two_carries(x):
    """Only one of the two carries changes."""
    return lax.scan(lambda c, k: ((jnp.roll(c[0], 1), c[1] * k), c[1]), (x, jnp.sin(x)), np.arange(1.0, 3.0))


def indexed_loop(x):
    return lax.fori_loop(0, 5, lambda i, a: a.at[i].set(a[i] * a[i + 1]), x)


def windows_in_a_loop(x):
    def step(i, a):
        piece = lax.dynamic_slice(x, (i,), (2,))
        return lax.dynamic_update_slice(a, jnp.prod(piece)[None], (i,))

    return lax.fori_loop(0, 4, step, jnp.zeros(5))


def counted_while(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) + x), (0, x))[1]


def shifting_while(x):
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + jnp.roll(s[1], 1)), (0, x))[1]


def until_large(x):
    return lax.while_loop(lambda s: jnp.sum(s**2) < 30, lambda s: s * 1.5, x)


def branch(x):
    return lax.cond(x[0] > 0, lambda x: x**2, lambda x: x[::-1] * 2, x)


def known_branch(x):
    return lax.cond(jnp.arange(3).sum() > 2, lambda x: x**2, lambda x: x[::-1] * 2, x)


def known_switch(x):
    return lax.switch(jnp.array(2), [jnp.sin, lambda x: x[::-1], lambda x: jnp.roll(x, 1)], x)


def switch_in_a_loop(x):
    """Every step takes a branch of its own."""
    branches = [lambda a: a, lambda a: a.at[0].multiply(a[1]), lambda a: a.at[2].add(a[3])]
    return lax.scan(lambda a, i: (lax.switch(i, branches, a), None), x, np.array([1, 2, 0]))[0]


def nested_scans(x):
    def inner(c, v):
        return c + v[::-1], c[0]

    return lax.scan(lambda c, r: lax.scan(inner, c, jnp.stack([r, jnp.sin(r)])), x[0], x[1:])


def branch_in_a_loop(x):
    def step(a, _):
        return lax.cond(a[0] > 0, lambda a: a - 0.9, lambda a: a.at[1].set(a[0] * a[2]), a), None

    return lax.scan(step, x, None, length=2)[0]


CONTROL = {
    "scan, carry and outputs": Case(carried, (5,)),
    "scan from behind": Case(carried_back, (5,)),
    "scan, two carries": Case(two_carries, (4,)),
    "scan over rows": Case(lambda x: lax.scan(lambda c, r: (c + r, c * r[::-1]), jnp.zeros(3), x)[1], (4, 3)),
    "scan without inputs": Case(lambda x: lax.scan(lambda c, _: (jnp.sin(c) * x, c[0]), x, None, length=3), (4,)),
    "loop with an index": Case(indexed_loop),
    "loop with windows": Case(windows_in_a_loop),
    "scans in scans": Case(nested_scans, (3, 2)),
    "scan with checkpoints": Case(
        lambda x: lax.scan(jax.checkpoint(lambda c, v: (jnp.sin(c) * v, c)), x[:2], jnp.sin(x[2:])[:, None]), (5,)),
    "long loop": Case(lambda x: lax.fori_loop(0, 100, lambda i, a: 0.9 * jnp.sin(a) + 0.1 * x, x)),
    "long loop that shifts": Case(lambda x: lax.fori_loop(0, 40, lambda i, a: a + 0.5 * jnp.roll(a, 1), x)),
    "branch in a loop": Case(branch_in_a_loop, (4,), count=40),
    "switch by the input": Case(
        lambda x: lax.switch(jnp.floor(2 * x[0] + 1.5).astype(int), [jnp.sin, jnp.flip, lambda x: jnp.roll(x, 1)], x),
        count=80),
    "while, counted": Case(counted_while),
    "while that shifts": Case(shifting_while),
    "while of the input": Case(until_large),
    "branch by the input": Case(branch, count=24),
    "branch that is known": Case(known_branch),
    "switch that is known": Case(known_switch),
    "switch in a loop": Case(switch_in_a_loop),
    "branch in every sample": Case(
        lambda x: jax.vmap(lambda v: lax.cond(v[0] > 0, jnp.sin, lambda v: v[::-1], v))(x), (3, 3), count=24),
    "nested jit": Case(jax.jit(lambda x: jax.jit(jnp.sin)(x) * jax.jit(lambda y: y[::-1])(x))),
    "checkpoint": Case(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)) * jnp.roll(x, 1))),
    "map": Case(lambda x: lax.map(lambda v: jnp.sin(v) * v.sum(), x), (4, 2)),
    "vmap": Case(jax.vmap(lambda v: jnp.outer(v, v)), (3, 2)),
    "vmap of the last axis": Case(jax.vmap(lambda v: v / v.sum(), 1, 1), (3, 2), low=0.2),
    "gradient": Case(jax.grad(lambda x: jnp.sum(jnp.sin(x[1:] * x[:-1])))),
    "pushforward": Case(lambda x: jax.jvp(jnp.tanh, (x,), (x[::-1],))[1]),
    "linear program": Case(lambda x: jax.linear_transpose(lambda y: y[1:] - y[:-1], jnp.zeros(7))(x)[0]),
}  # fmt: skip


# Shapes and trees


def dynamics(z):
    """Constraints of optimal control: states (T + 1, 2), controls (T, 1)."""
    s, u = z["state"], z["control"]
    step = jnp.stack([s[:-1, 1], -jnp.sin(s[:-1, 0]) + u[:, 0]], axis=1)
    return {"start": s[0] - np.array([1.0, 0.0]), "steps": s[1:] - s[:-1] - 0.1 * step}


def kkt(z):
    """The gradient of a Lagrangian whose single constraint involves all inputs."""
    return jax.grad(lambda z: jnp.sum(z["x"] ** 4) + z["multiplier"] * (jnp.sum(z["x"] ** 2) - 1))(z)


SHAPES = {
    "constant outputs": Case(lambda x: (jnp.ones(3), x * 2)),
    "nothing depends": Case(lambda x: jnp.arange(4.0)),
    "some rows constant": Case(lambda x: jnp.concatenate([np.ones(2), x[:2], jnp.zeros(1)])),
    "no outputs": Case(lambda x: jnp.sin(x)[:0]),
    "no inputs": Case(lambda x: jnp.sum(x) * jnp.ones(3), (0,)),
    "an empty leaf": Case(lambda x: x["a"] * (1 + x["b"].sum()), {"a": (2,), "b": (0, 3)}),
    "one to one": Case(lambda x: x**3, (1,)),
    "scalar": Case(lambda x: jnp.sin(x) * x, ()),
    "scalar to vector": Case(lambda x: jnp.stack([x, jnp.ones_like(x), x**2]), ()),
    "vector to scalar": Case(lambda x: x[0] * x[3]),
    "one axis more": Case(lambda x: x[None, :, None] * 2, (4,)),
    "trees": Case(lambda x: {"sum": x["a"] + x["b"][0], "pair": (x["b"], x["a"][::-1])}, {"a": (3,), "b": (2, 3)}),
    "leaves apart": Case(lambda x: [jnp.sin(x[1]), x[0] ** 2, x[2]], [(3,), (2, 2), ()]),
    "optimal control": Case(dynamics, {"control": (5, 1), "state": (6, 2)}),
    "arrow": Case(lambda x: jnp.concatenate([jnp.sum(x**2)[None], x[1:] * x[0]]), (9,)),
    "optimality": Case(kkt, {"multiplier": (), "x": (7,)}),
}  # fmt: skip


# Hessians


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def element_energy(x):
    """Per element a function of its three nodes."""

    def energy(u):
        return jnp.sum(u**4) + jnp.prod(u) + jnp.exp(u[0] - u[1])

    return jnp.sum(jax.vmap(energy)(x[TRIANGLES]))


def pair_energy(x):
    d2 = jnp.sum((x[NEIGHBOURS] - x[:, None]) ** 2, axis=-1) + 0.5
    return jnp.sum(d2**-2 - d2**-1)


def control_cost(z):
    return jnp.sum(jnp.cos(z["state"][:, 0]) * z["state"][:, 1] ** 2) + jnp.sum(z["control"] ** 4)


def shooting(x):
    """Every control influences all later states."""
    return lax.scan(lambda s, u: (jnp.sin(s) + u, None), 0.3, x)[0]


def images(x):
    """Total variation, smoothed."""
    d0, d1 = x[1:, :-1] - x[:-1, :-1], x[:-1, 1:] - x[:-1, :-1]
    return jnp.sum(jnp.sqrt(d0**2 + d1**2 + 0.1))


def lagrangian(z):
    return jnp.sum(z["x"] ** 4) + z["multiplier"] * (jnp.sum(z["x"] ** 2) - 1)


HESSIANS = {
    "Rosenbrock": Case(rosenbrock, (10,)),
    "separable": Case(lambda x: jnp.sum(jnp.sin(x) * x), (7,)),
    "arrow function": Case(lambda x: x[0] * jnp.sum(jnp.sin(x[1:])) + jnp.sum(x**3), (8,)),
    "Lagrangian": Case(lagrangian, {"multiplier": (), "x": (6,)}),
    "element energy": Case(element_energy, (9,)),
    "pair energy": Case(pair_energy, (6, 2)),
    "cost of control": Case(control_cost, {"control": (3, 1), "state": (4, 2)}),
    "shooting": Case(shooting, (5,)),
    "total variation": Case(images, (4, 4)),
    "linear": Case(lambda x: x @ np.arange(6.0)),
    "quadratic form, known matrix": Case(lambda x: x @ (np.diag(np.ones(5), 1) @ x)),
    "bilinear": Case(lambda x: jnp.dot(x["a"], jnp.sin(x["b"])), {"a": (4,), "b": (4,)}),
    "dense layer": Case(lambda x: jnp.sum(jnp.tanh(W @ x))),
    "sparse layer": Case(lambda x: jnp.sum(jnp.tanh(SPARSE @ x) ** 2)),
    "convolved": Case(lambda x: jnp.sum(jnp.convolve(x, np.array([1.0, 0.0, -1.0]), mode="valid") ** 4), (8,)),
    "squares of segments": Case(lambda x: jnp.sum(jax.ops.segment_sum(x, SEGMENTS, 4) ** 3)),
    "product of some": Case(lambda x: jnp.prod(x[1:4]) + x[0] ** 2),
    "norms of points": Case(lambda x: jnp.sum(jnp.linalg.norm(x, axis=1)), (4, 2)),
    "softplus": Case(lambda x: jnp.sum(jax.nn.softplus(x) * MASK)),
    "logarithm of a sum": Case(lambda x: jnp.sum(jax.nn.logsumexp(x, axis=1)), (3, 3)),
    "piecewise quadratic": Case(lambda x: jnp.sum(jnp.where(x > 0, x**2, x * x[::-1])), count=32),
    "squared hinge": Case(lambda x: jnp.sum(jax.nn.relu(x[1:] - x[:-1]) ** 2), count=16),
    "branches": Case(lambda x: lax.cond(x[0] > 0, rosenbrock, lambda x: jnp.sum(x**4), x), count=16),
    "checkpointed chain": Case(lambda x: jnp.sum(jax.checkpoint(lambda y: jnp.sin(y[1:] * y[:-1]))(x))),
    "heat, squared": Case(lambda x: jnp.sum(lax.fori_loop(0, 2, lambda i, u: u + 0.1 * jnp.roll(u, 1), x) ** 3), (9,)),
    "scalar, twice": Case(lambda x: jnp.sin(x) * x, ()),
    "no input": Case(lambda x: jnp.sum(x**2), (0,)),
}  # fmt: skip


def named(table, kind):
    for name, case in table.items():
        case.name, case.kind = name, kind
    return table


CASES = {
    **named(STENCILS | MOVES | ELEMENTS | INDICES | REDUCTIONS | ALGEBRA | CONTROL | SHAPES, "jacobian"),
    **named(HESSIANS, "hessian"),
}
