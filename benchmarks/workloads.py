"""The workloads: functions that have the same values in every library.

Knows NumPy only: a function is built from an array module (`numpy`, `jax.numpy`, `torch`, `paddle`) and that library's
conversion from NumPy arrays. Each workload has its Jacobian in closed form, in float64, which is checked against
central differences.
Shapes: M outputs, N inputs, B samples, R rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 512  # the number of rows compared at once: the dense Jacobian of the batch has 8192 × 8192 entries


@dataclass(frozen=True)
class Workload:
    """A function, the shape of its argument, and the closed form of its Jacobian (or Hessian)."""

    name: str
    title: str
    shape: tuple[int, ...]
    num_outputs: int  # M, the number of rows of the matrix; N for a Hessian
    build: Callable[[Any, Callable], Callable]  # (array module, NumPy array → array) → f
    closed_form: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (x float64, R row numbers) → (R, N)
    rows: slice | None = None  # the rows that are read; None: all
    hessian: bool = False  # whether the matrix is the Hessian of f, which is scalar

    @property
    def num_inputs(self) -> int:
        return int(np.prod(self.shape))


def inputs(workload: Workload, count: int = 32) -> list[np.ndarray]:
    """`count` different float32 points, the same in every process."""
    rng = np.random.default_rng(7)
    return [rng.normal(size=workload.shape).astype(np.float32) for _ in range(count)]


def check(workload: Workload, x: np.ndarray, answer: np.ndarray, rtol: float = 1e-4) -> None:
    """Raise `AssertionError` unless `answer` equals the closed form, to `rtol` of its largest entry.

    Args:
      workload: the workload that was run.
      x: the point, any float dtype.
      answer: the result of a library, of any shape with (rows read) × N entries.
    """
    wanted = np.arange(workload.num_outputs)[workload.rows or slice(None)]
    matrix = np.asarray(answer)
    if matrix.size != len(wanted) * workload.num_inputs:
        raise AssertionError(f"{workload.name}: {matrix.shape} is not {(len(wanted), workload.num_inputs)}")
    matrix = matrix.reshape(len(wanted), workload.num_inputs)
    for start in range(0, len(wanted), BLOCK):
        block = slice(start, start + BLOCK)
        expected = workload.closed_form(x.astype(np.float64), wanted[block])
        error = np.abs(matrix[block] - expected).max()
        if not error <= rtol * np.abs(expected).max():  # also catches NaN
            raise AssertionError(f"{workload.name}: rows from {wanted[start]} are off by {error:.2g}")


def check_closed_form(workload: Workload) -> None:
    """Raise `AssertionError` unless the closed form agrees with central differences of f in float64."""
    rng = np.random.default_rng(11)
    f = workload.build(np, lambda a: a.astype(np.float64))
    x, u, v = rng.normal(size=(3, *workload.shape))
    rows = np.array_split(np.arange(workload.num_outputs), -(-workload.num_outputs // BLOCK))
    product = np.concatenate([workload.closed_form(x, r) @ v.ravel() for r in rows])  # J v
    if workload.hessian:
        h = 1e-3
        plus, minus = h * (u + v), h * (u - v)
        measured = (f(x + plus) - f(x + minus) - f(x - minus) + f(x - plus)) / (4 * h * h)
        product = u.ravel() @ product
    else:
        h = 1e-5
        measured = ((f(x + h * v) - f(x - h * v)) / (2 * h)).ravel()
    np.testing.assert_allclose(product, measured, rtol=1e-5, atol=1e-6 * np.abs(product).max())


def mlp_parameters(sizes: tuple[int, ...], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (out, in) and biases (out,) of a tanh network, float32."""
    rng = np.random.default_rng(seed)
    return [
        ((rng.normal(size=(n, m)) / np.sqrt(m)).astype(np.float32), rng.normal(size=n).astype(np.float32) / 4)
        for m, n in zip(sizes, sizes[1:], strict=False)
    ]


def forward(xp: Any, layers: list, x: Any, activation: Callable | None = None) -> Any:
    """The network at x: an activation (tanh) after every layer but the last."""
    for weight, bias in layers[:-1]:
        x = (activation or xp.tanh)(weight @ x + bias)
    weight, bias = layers[-1]
    return weight @ x + bias


def build_mlp(sizes: tuple[int, ...]) -> Callable[[Any, Callable], Callable]:
    def build(xp, array):
        layers = [(array(w), array(b)) for w, b in mlp_parameters(sizes)]
        return lambda x: forward(xp, layers, x)

    return build


def mlp_rows(sizes):
    def rows(x, wanted):
        layers = [(w.astype(np.float64), b.astype(np.float64)) for w, b in mlp_parameters(sizes)]
        hidden = []
        for weight, bias in layers[:-1]:
            x = np.tanh(weight @ x + bias)
            hidden.append(x)
        result = layers[-1][0][wanted]
        for (weight, _), h in zip(layers[-2::-1], hidden[::-1], strict=True):
            result = (result * (1 - h * h)) @ weight
        return result

    return rows


def _exp_rows(x, wanted):
    result = np.zeros((len(wanted), x.size))
    result[np.arange(len(wanted)), wanted] = np.exp(x[wanted])
    return result


B, WIDTH = 256, 32
_BATCH_WEIGHT, _BATCH_BIAS = mlp_parameters((WIDTH, WIDTH), seed=1)[0]


def _build_batch(xp, array):
    weight, bias = array(np.ascontiguousarray(_BATCH_WEIGHT.T)), array(_BATCH_BIAS)
    return lambda x: xp.tanh(x @ weight + bias)


def _batch_rows(x, wanted):
    sample, output = np.divmod(wanted, WIDTH)
    y = np.tanh(x @ _BATCH_WEIGHT.T.astype(np.float64) + _BATCH_BIAS)
    result = np.zeros((len(wanted), B, WIDTH))
    result[np.arange(len(wanted)), sample] = (1 - y[sample, output] ** 2)[:, None] * _BATCH_WEIGHT[output]
    return result.reshape(len(wanted), B * WIDTH)


def _build_rosenbrock(xp, array):
    return lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def _rosenbrock_rows(x, wanted):
    diagonal = np.zeros(x.size)
    diagonal[:-1] += 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    beside = np.diag(-400 * x[:-1], 1)
    return (np.diag(diagonal) + beside + beside.T)[wanted]


_SMALL = mlp_parameters((3, 3), seed=2)[0][0]


def _build_small(xp, array):
    matrix = array(_SMALL)
    return lambda x: xp.sin(x) * (matrix @ x)


def _small_rows(x, wanted):
    a = _SMALL.astype(np.float64)
    return (np.diag(np.cos(x) * (a @ x)) + np.sin(x)[:, None] * a)[wanted]


_SQUARE, _TALL = (64, 256, 256, 64), (64, 256, 256, 2000)

WORKLOADS = {
    w.name: w
    for w in [
        Workload("mlp", "MLP 64→256→256→64, all", (64,), 64, build_mlp(_SQUARE), mlp_rows(_SQUARE)),
        Workload("exp", "exp, n = 2000, all", (2000,), 2000, lambda xp, array: xp.exp, _exp_rows),
        Workload(
            "rows", "rows 1:4 of an MLP 64→256→256→2000", (64,), 2000,
            build_mlp(_TALL), mlp_rows(_TALL), rows=slice(1, 4),
        ),
        Workload("batch", "batch of 256, 32→32, all", (B, WIDTH), B * WIDTH, _build_batch, _batch_rows),
        Workload(
            "hessian", "Hessian, Rosenbrock, n = 200", (200,), 200,
            _build_rosenbrock, _rosenbrock_rows, hessian=True,
        ),
        Workload("small", "f: R³→R³, repeated", (3,), 3, _build_small, _small_rows),
    ]
}  # fmt: skip
