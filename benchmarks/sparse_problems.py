"""Sparse problems a million wide: f, its pattern and an optimal coloring in closed form, and a check of nonzeros.

Knows NumPy, SciPy and the JAX that f is written in. Knows nothing of jacobia.
Shapes: M outputs, N inputs, nnz entries in the order of the pattern (by row, then by column), C colors of columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZES = (100_000, 1_000_000)


@dataclass(frozen=True)
class Problem:
    """A family of functions of one vector, all with the same pattern."""

    title: str
    build: Callable[[float], Callable]  # a constant → f; another constant makes another program
    sizes: tuple[int, int]  # the two values of N, close to SIZES
    entries: Callable[[int], tuple[np.ndarray, np.ndarray]]  # N → rows and columns of the pattern, in any order
    colors: Callable[[int], np.ndarray]  # N → the colors of the columns, (N,), with the fewest colors possible
    hessian: bool = False  # whether the matrix is the Hessian of f, which is scalar

    def pattern(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, int32, shape (nnz,)."""
        return in_order(*self.entries(n), n)

    def pushed(self, f: Callable) -> Callable:
        """The function whose Jacobian the matrix is: f, or its gradient for a Hessian."""
        return jax.grad(f) if self.hessian else f

    @property
    def what(self) -> str:
        return "Hessian" if self.hessian else "Jacobian"


def in_order(rows: np.ndarray, cols: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries sorted by row and then by column, each once; int32."""
    key = np.sort(rows.astype(np.int64) * n + cols)
    key = key[np.concatenate([[True], key[1:] != key[:-1]])]  # ten times as fast as np.unique
    return (key // n).astype(np.int32), (key % n).astype(np.int32)


def points(n: int, count: int = 4) -> list[jax.Array]:
    """`count` different float32 points of shape (N,), the same in every process."""
    rng = np.random.default_rng(7)
    return [jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(count)]


def check_nonzeros(push: Callable, x: jax.Array, data: Any, rows: np.ndarray, cols: np.ndarray) -> None:
    """Raise `AssertionError` unless the sparse matrix times random vectors equals `jax.jvp` of `push`.

    The tolerance for a row is 10⁻⁴ of the sum of the absolute values of its terms.
    """
    data = np.asarray(data, np.float64)
    if data.shape != rows.shape:
        raise AssertionError(f"expected {rows.shape} nonzeros, got {data.shape}")
    rng = np.random.default_rng(11)
    pushforward = jax.jit(lambda x, v: jax.jvp(push, (x,), (v,))[1])
    for _ in range(2):
        v = rng.normal(size=x.size).astype(np.float32)
        expected = np.asarray(pushforward(x, jnp.asarray(v)), np.float64)
        terms = data * v[cols]
        product = np.bincount(rows, terms, minlength=expected.size)
        allowed = 1e-4 * np.bincount(rows, abs(terms), minlength=expected.size) + 1e-6
        off = ~(abs(product - expected) <= allowed)  # also catches NaN
        if off.any():
            row = int(off.argmax())
            raise AssertionError(
                f"{off.sum()} rows are off; row {row} gives {product[row]:.6g}, not {expected[row]:.6g}"
            )


def check_pattern(found: tuple[Any, Any], expected: tuple[np.ndarray, np.ndarray]) -> None:
    """Raise `AssertionError` unless both patterns have the same entries in the same order."""
    for name, ours, theirs in zip(("rows", "cols"), found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def check_colors(
    rows: np.ndarray, cols: np.ndarray, row_colors: np.ndarray | None, column_colors: np.ndarray | None
) -> None:
    """Raise `AssertionError` unless every entry can be read from the compressed matrices.

    An entry can be read by its column color if no other entry of its row has a column of this color; or by its row
    color, with rows and columns exchanged. Color -1 means no color. For a star coloring, pass its colors twice.
    """
    readable = np.zeros(len(rows), bool)
    for lines, across, colors in ((rows, cols, column_colors), (cols, rows, row_colors)):
        if colors is not None:
            count = int(colors.max()) + 2
            key = lines.astype(np.int64) * count + colors[across] + 1
            readable |= (np.bincount(key)[key] == 1) & (colors[across] >= 0)
    assert readable.all(), f"{np.sum(~readable)} entries can't be read"


# ---- patterns ----


def band(n: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of a band matrix with this half-bandwidth."""
    offsets = np.arange(-half, half + 1)
    cols = np.arange(n)[:, None] + offsets
    rows = np.broadcast_to(np.arange(n)[:, None], cols.shape)
    keep = (cols >= 0) & (cols < n)
    return rows[keep], cols[keep]


def stencil(shape: tuple[int, ...], steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """Entries (point, neighbour) of a grid: the neighbours are the points one of `steps`, shape (S, D), away."""
    place = np.indices(shape).reshape(len(shape), -1)
    size = np.array(shape)[:, None]
    rows, cols = [], []
    for step in np.asarray(steps):
        there = place + step[:, None]
        keep = np.all((there >= 0) & (there < size), axis=0)
        rows.append(np.flatnonzero(keep))
        cols.append(np.ravel_multi_index(tuple(there[:, keep]), shape))
    return np.concatenate(rows), np.concatenate(cols)


def cross(dimensions: int) -> np.ndarray:
    """The steps to a point itself and to its neighbours along each axis: 5 in the plane, 7 in space."""
    eye = np.eye(dimensions, dtype=int)
    return np.concatenate([0 * eye[:1], eye, -eye])


def arrow(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of an arrow matrix: the diagonal, the first row and the first column."""
    i, rest = np.arange(n), np.arange(1, n)
    return np.concatenate([i, 0 * rest, rest]), np.concatenate([i, rest, 0 * rest])


def _side(n: int) -> int:
    return round(n**0.5)


def _five(n: int) -> tuple[np.ndarray, np.ndarray]:
    k = _side(n)
    return stencil((k, k), cross(2))


def _five_colors(n: int) -> np.ndarray:
    i, j = np.indices((_side(n), _side(n)))
    return ((i + 2 * j) % 5).ravel()


def _two_species(n: int) -> tuple[np.ndarray, np.ndarray]:
    k = _side(n // 2)
    i, j = np.indices((k, k)).reshape(2, -1)
    here = i * k + j
    around = [((i + a) % k) * k + (j + b) % k for a, b in cross(2)]
    own, there = np.tile(here, 5), np.concatenate(around)
    size = k * k
    return (
        np.concatenate([own, own + size, here, here + size]),
        np.concatenate([there, there + size, here + size, here]),
    )


def _two_species_colors(n: int) -> np.ndarray:
    # A row has 6 entries, so at least 6 colors are needed. The side of the grid is a multiple of 6, so that the colors
    # continue across the periodic boundary.
    k = _side(n // 2)
    i, j = np.indices((k, k))
    own = i + 2 * j
    return (np.stack([own, own + 3]) % 6).ravel()


# ---- functions ----


def _tridiagonal(c: float) -> Callable:
    def f(x):  # a step of Burgers' equation
        padded = jnp.pad(x, 1)
        left, right = padded[:-2], padded[2:]
        return left - 2 * x + right - c * x * (right - left)

    return f


def _five_point(c: float) -> Callable:
    def f(x):  # Bratu's problem
        k = _side(x.size)
        u = x.reshape(k, k)
        padded = jnp.pad(u, 1)
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        return (around - 4 * u + c * jnp.exp(u)).ravel()

    return f


def _brusselator(c: float) -> Callable:
    def around(a):
        return jnp.roll(a, 1, 0) + jnp.roll(a, -1, 0) + jnp.roll(a, 1, 1) + jnp.roll(a, -1, 1) - 4 * a

    def f(x):
        k = _side(x.size // 2)
        u, v = x.reshape(2, k, k)
        square = u * u * v
        return jnp.stack([1 + square - (c + 1) * u + around(u), c * u - square + around(v)]).ravel()

    return f


def _rosenbrock(c: float) -> Callable:
    return lambda x: jnp.sum(c * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _seven_point(c: float) -> Callable:
    def f(x):
        k = round(x.size ** (1 / 3))
        u = x.reshape(k, k, k)
        p, inner = jnp.pad(u, 1), slice(1, -1)
        around = p[2:, inner, inner] + p[:-2, inner, inner] + p[inner, 2:, inner] + p[inner, :-2, inner]
        return (around + p[inner, inner, 2:] + p[inner, inner, :-2] - 6 * u + c * u**3).ravel()

    return f


def _nine_point(c: float) -> Callable:
    def f(x):
        k = _side(x.size)
        u = x.reshape(k, k)
        p = jnp.pad(u, 1)
        around = sum((1 + i + 2 * j) * p[i : i + k, j : j + k] for i in range(3) for j in range(3))
        return (around + c * u**3).ravel()

    return f


def _upwind(c: float) -> Callable:
    def f(x):  # one-sided at the boundary
        slope = jnp.concatenate([x[1:2] - x[:1], x[1:] - x[:-1]])
        return -c * x * slope

    return f


def _upwind_entries(n: int) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(n)
    return np.concatenate([i, i]), np.concatenate([i, np.where(i == 0, 1, i - 1)])


def _cube(n: int) -> tuple[int, int, int]:
    k = round(n ** (1 / 3))
    return k, k, k


def _seven_colors(n: int) -> np.ndarray:
    i, j, k = np.indices(_cube(n))
    return ((i + 2 * j + 3 * k) % 7).ravel()


def _nine_colors(n: int) -> np.ndarray:
    i, j = np.indices((_side(n), _side(n)))
    return (3 * (i % 3) + j % 3).ravel()


def _box(n: int) -> tuple[np.ndarray, np.ndarray]:
    k = _side(n)
    return stencil((k, k), np.indices((3, 3)).reshape(2, -1).T - 1)


PROBLEMS = {
    "tridiagonal": Problem(
        "tridiagonal", _tridiagonal, SIZES, lambda n: band(n, 1), lambda n: np.arange(n) % 3
    ),
    "five-point": Problem("5-point on a grid", _five_point, (316**2, 1000**2), _five, _five_colors),
    "brusselator": Problem(
        "Brusselator in the plane", _brusselator, (2 * 222**2, 2 * 708**2), _two_species, _two_species_colors
    ),
    # For a symmetric tridiagonal matrix, a star coloring needs 3 colors, as many as a column coloring.
    "rosenbrock": Problem(
        "chained Rosenbrock", _rosenbrock, SIZES, lambda n: band(n, 1), lambda n: np.arange(n) % 3, hessian=True
    ),
    "seven-point": Problem(
        "7-point in space", _seven_point, (46**3, 100**3), lambda n: stencil(_cube(n), cross(3)),
        _seven_colors,
    ),
    "nine-point": Problem(
        "9-point on a grid", _nine_point, (316**2, 1000**2), _box,
        _nine_colors,
    ),
    "upwind": Problem("upwind, one-sided", _upwind, SIZES, _upwind_entries, lambda n: np.arange(n) % 2),
}  # fmt: skip


# ---- finite elements ----


@dataclass(frozen=True)
class Mesh:
    """Triangles of the unit square.

    Attributes:
      triangles: node numbers, int32, shape (T, 3).
      slopes: the gradients of the three hat functions of each triangle, float32, shape (T, 3, 2).
      areas: float32, shape (T,).
    """

    triangles: np.ndarray
    slopes: np.ndarray
    areas: np.ndarray
    num_nodes: int


def mesh(k: int) -> Mesh:
    """2 k² triangles on (k + 1)² nodes: a grid of squares with moved inner nodes, each cut along a random diagonal."""
    rng = np.random.default_rng(13)
    grid = np.indices((k + 1, k + 1)).reshape(2, -1).T
    inner = np.all((grid > 0) & (grid < k), axis=1)[:, None]
    places = (grid + inner * rng.uniform(-0.2, 0.2, grid.shape)) / k
    i, j = np.indices((k, k)).reshape(2, -1)
    a, b = i * (k + 1) + j, i * (k + 1) + j + 1
    c, d = a + k + 1, b + k + 1
    either = rng.random(k * k) < 0.5
    first = np.where(either, np.stack([a, c, b]), np.stack([a, c, d]))
    second = np.where(either, np.stack([b, c, d]), np.stack([a, d, b]))
    triangles = np.concatenate([first, second], axis=1).T.astype(np.int32)
    corners = places[triangles]  # (T, 3, 2)
    edges = np.roll(corners, 1, axis=1) - np.roll(corners, -1, axis=1)  # the edge opposite to each corner
    double = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    assert np.all(double > 0)
    slopes = np.stack([-edges[..., 1], edges[..., 0]], axis=-1) / double[:, None, None]
    assert np.allclose(slopes.sum(axis=1), 0) and np.isclose(double.sum() / 2, 1)
    return Mesh(triangles, slopes.astype(np.float32), (double / 2).astype(np.float32), (k + 1) ** 2)


def element_energy(u: jax.Array, slopes: jax.Array, area: jax.Array) -> jax.Array:
    """The energy of a soap film above a triangle, in a field; `u`, shape (3,), is its height at the corners."""
    gradient = u @ slopes
    return area * (jnp.sqrt(1 + gradient @ gradient) + jnp.mean(u) ** 4)


def element_pairs(m: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns of the entries of all element matrices, each of shape (9 T,)."""
    t = m.triangles
    return np.repeat(t, 3, axis=1).ravel(), np.tile(t, 3).ravel()


# ---- a dense row and column ----


def arrow_energy(x: jax.Array) -> jax.Array:
    """A function whose Hessian is an arrow matrix."""
    return jnp.sum(x**4) + x[0] * jnp.sum(jnp.sin(x[1:]))


def lagrangian(z: jax.Array) -> jax.Array:
    """The Lagrangian of a chain under one constraint on all variables. The multiplier is the last entry of z.

    Its Hessian is the KKT matrix.
    """
    x, multiplier = z[:-1], z[-1]
    return jnp.sum((x[1:] - x[:-1] ** 2) ** 2) + multiplier * (jnp.sum(x**2) - 1)


def kkt(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of a tridiagonal matrix bordered by a dense row and column, with a zero corner."""
    rows, cols = band(n - 1, 1)
    i, last = np.arange(n - 1), np.full(n - 1, n - 1)
    return np.concatenate([rows, i, last]), np.concatenate([cols, last, i])
