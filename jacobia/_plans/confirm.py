"""Whether a given pattern has every nonzero of J: the nonzeros read back are compared with products with J.

Products need no pattern. They are compared for a program and a coloring up to the first point where no line is zero.
Shapes: M outputs, N inputs, nnz entries, k vectors; samples in front.
Knows products and patterns. Knows nothing of how the nonzeros were computed.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._plans.mirror import store_of
from jacobia._plans.products import ByDirection, Form
from jacobia._program.walk import subprograms
from jacobia._run.blueprint import Block
from jacobia._run.point import Linearized
from jacobia._sparse.coloring import Coloring
from jacobia._sparse.pattern import Pattern

_VECTORS = 4
_NOISE = 10  # roundings of the largest number in a product; an error of this size may appear in any entry
_POINTS = 4  # at most this many points are compared: a line may be zero everywhere
_LINES = 4  # the number of wrong lines that are searched for the missing entry


def confirm(origin: Linearized, index: int, coloring: Coloring, data: jax.Array, ways: Sequence[str]) -> None:
    """Raise unless products with the nonzeros read back equal products with J.

    Args:
      data: the nonzeros, shape (*lead, nnz).
      ways: which products to compare, of those that f has: "rows" (u J, a pullback), "columns" (J v, a pushforward).

    Raises:
      ValueError: the products differ by more than rounding explains.
    """
    counts = origin.blue.program.found.find("confirmed", (origin.blue.positions, origin.blue.spaces), dict)
    name = hash(coloring)
    points = counts.get(name, 0)
    empty = 0 in data.shape[:-1] or 0 in coloring.pattern.shape
    if empty or points >= _POINTS or not data.is_fully_addressable:
        return
    flat = _wide(data).reshape(math.prod(data.shape[:-1]), coloring.pattern.nnz)
    told = [_compare(_Products(origin, index, way), coloring, flat) for way in ways]
    counts[name] = _POINTS if all(told) else points + 1


class _Products:
    # Products J v or u J with one block. An entry of the result belongs to a line: a row for J v, a column for u J.

    def __init__(self, origin: Linearized, index: int, way: str):
        self.origin, self.index, self.way = origin, index, way
        self.block: Block = origin.blue.blocks[index]

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """From (k, M) or (k, N) to (samples, k, lines)."""
        origin, k, form = self.origin, len(vectors), Form(self.way, several=True, shared=True)
        store_of(origin, self.index).count("rows", "pushforwards", 0, 0, k)  # no requested seeds, k seeds run
        out = _wide(ByDirection(origin, self.index, form).of(origin, vectors))
        return out.reshape(math.prod(origin.lead), k, out.shape[-1])


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.complex128 if jnp.iscomplexobj(array) else np.float64)


def _vectors(size: int) -> np.ndarray:
    # Few bits, so that no dtype rounds the vectors; many different values, so that errors do not cancel.
    random = np.random.default_rng(0)
    signs = random.choice(np.array([-1, 1]), (_VECTORS, size))
    return (signs * random.integers(32, 128, (_VECTORS, size)) / 64).astype(np.float32)


def _compare(products: _Products, coloring: Coloring, data: np.ndarray) -> bool:
    # Whether the products tell something of every line that has entries. Those of a line that is zero at this point, as
    # that of x**2 at zeros, where solvers start, do not.
    from scipy.sparse import csr_array

    pattern, by_rows = coloring.pattern, products.way == "rows"
    vectors = _vectors(pattern.shape[0 if by_rows else 1])
    exact = products.of(vectors)
    read, scale = np.empty_like(exact), np.abs(exact)
    for k, entries in enumerate(data):
        matrix = csr_array((entries, np.array(pattern.cols), pattern.indptr.copy()), shape=pattern.shape)
        matrix = matrix.T if by_rows else matrix
        read[k] = (matrix @ vectors.T).T
        scale[k] += (abs(matrix) @ abs(vectors.T)).T
    with np.errstate(invalid="ignore"):
        error = np.abs(exact - read)
    known = np.isfinite(error) & np.isfinite(scale)
    eps = _eps(products.origin, products.block)
    noise = _NOISE * eps * scale[known].max(initial=0)
    wrong = error > np.cbrt(eps) * scale + noise  # False where the error is NaN
    if wrong.any():
        places = np.argwhere(wrong)[np.argsort(-error[wrong], kind="stable")]
        raise ValueError(_told(products, coloring, vectors, places, noise))
    entries = np.bincount(pattern.cols if by_rows else pattern.rows, minlength=exact.shape[-1])
    return bool((exact.any(axis=(0, 1)) | (entries == 0)).all())


def lacks_entry(origin: Linearized, i: int, j: int, why: str) -> str:
    """The message for a pattern that lacks the nonzero (i, j)."""
    return (
        f"{origin.blue.name}(sparsity=...): expected a pattern with every nonzero of J, got one without entry "
        f"({i}, {j}): {why}. Add the entry, or take sparsity='auto' or 'dense'."
    )


def _told(products: _Products, coloring: Coloring, vectors: np.ndarray, places: np.ndarray, noise: float) -> str:
    call, by_rows = f"{products.origin.blue.name}(sparsity=...)", products.way == "rows"
    for sample, _, line in places[:_LINES]:
        across = _missing(products, coloring.pattern, vectors, sample, line, noise)
        if across is not None:
            i, j = (across, line) if by_rows else (line, across)
            return lacks_entry(products.origin, i, j, f"row {i} differs from a product with J")
    line = f"{'column' if by_rows else 'row'} {places[0][2]}"
    also = ", or J is not symmetric" if coloring.partition == "symmetric" else ""
    return (
        f"{call}: expected a pattern with every nonzero of J, got one for which {line} differs from a product with J. "
        f"An entry is missing there, or in a line of the same color{also}."
    )


def _missing(
    products: _Products, pattern: Pattern, vectors: np.ndarray, sample: int, line: int, noise: float
) -> int | None:
    # The place of a missing entry in a line, by bisection. The places where the pattern has no entry are split into
    # parts, and the part that contributes most to the product is split again. None: no part exceeds the noise.
    lines, across = (pattern.cols, pattern.rows) if products.way == "rows" else (pattern.rows, pattern.cols)
    left = np.setdiff1d(np.arange(vectors.shape[1]), np.asarray(across)[np.asarray(lines) == line])
    while left.size:
        parts = np.array_split(left, _VECTORS)
        seeds = np.zeros_like(vectors)
        for seed, vector, part in zip(seeds, vectors, parts, strict=True):
            seed[part] = vector[part]
        found = np.abs(products.of(seeds)[sample, :, line])
        if not found.max() > noise:
            return None
        if left.size == 1:
            return int(left[0])
        left = parts[int(found.argmax())]
    return None


def _eps(origin: Linearized, block: Block) -> float:
    # The eps of the coarsest dtype in the program. An accelerator may multiply float32 at the precision of bfloat16.
    dtypes = {*origin.blue.spaces.outputs.dtypes, *origin.blue.spaces.inputs.dtypes, block.dtype}
    if origin.blue.program.jaxpr is not None:
        dtypes |= _dtypes(origin.blue.program.jaxpr)
    eps = max(float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact))
    on_host = origin.device is None or origin.device.platform == "cpu"
    return eps if on_host or eps < float(jnp.finfo(jnp.float32).eps) else max(eps, float(jnp.finfo(jnp.bfloat16).eps))


def _dtypes(jaxpr: Any) -> set:
    found = {v.aval.dtype for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "dtype")}
    for eqn in jaxpr.eqns:
        for inner in subprograms(eqn):
            found |= _dtypes(getattr(inner, "jaxpr", inner))
    return found
