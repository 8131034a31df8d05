"""Whether nonzeros that were read back are all of a Jacobian: compared with products, which need no pattern.

Once for a program and a coloring, at the first point. Shapes: M outputs, N inputs, nnz entries; samples in front.
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
_NOISE = 10  # roundings of the largest numbers about, that may show anywhere
_LINES = 4  # that are looked into for the entry that is missing


def confirm(origin: Linearized, index: int, coloring: Coloring, data: jax.Array, ways: Sequence[str]) -> None:
    """Raise unless products with what was read back are products with J.

    Args:
      data: shape (*lead, nnz).
      ways: "rows" (u J, one pullback) and "columns" (J v, one pushforward), those that f has.

    Raises:
      ValueError: they differ by more than rounding explains.
    """
    done = origin.blue.program.found.find("confirmed", (origin.blue.positions, origin.blue.spaces), set)
    empty = 0 in data.shape[:-1] or 0 in coloring.pattern.shape
    if empty or hash(coloring) in done or not data.is_fully_addressable:
        return
    flat = _wide(data).reshape(math.prod(data.shape[:-1]), coloring.pattern.nnz)
    for way in ways:
        _compare(_Products(origin, index, way), coloring, flat)
    done.add(hash(coloring))


class _Products:
    # J v or u J of one block; lines are what they have an entry for: rows for J v, columns for u J.

    def __init__(self, origin: Linearized, index: int, way: str):
        self.origin, self.index, self.way = origin, index, way
        self.block: Block = origin.blue.blocks[index]

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """From (k, M) or (k, N) to (samples, k, lines)."""
        origin, k, form = self.origin, len(vectors), Form(self.way, several=True, shared=True)
        store_of(origin, self.index).count("rows", "pushforwards", 0, 0, k)  # nobody has asked for these
        out = _wide(ByDirection(origin, self.index, form).of(origin, vectors))
        return out.reshape(math.prod(origin.lead), k, out.shape[-1])


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.complex128 if jnp.iscomplexobj(array) else np.float64)


def _vectors(size: int) -> np.ndarray:
    # Few bits, so that no format rounds them, and many values, so that differences do not cancel.
    random = np.random.default_rng(0)
    signs = random.choice(np.array([-1, 1]), (_VECTORS, size))
    return (signs * random.integers(32, 128, (_VECTORS, size)) / 64).astype(np.float32)


def _compare(products: _Products, coloring: Coloring, data: np.ndarray) -> None:
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
    wrong = error > np.cbrt(eps) * scale + noise  # never where they are not finite
    if wrong.any():
        places = np.argwhere(wrong)[np.argsort(-error[wrong], kind="stable")]
        raise ValueError(_told(products, coloring, vectors, places, noise))


def lacks_entry(origin: Linearized, i: int, j: int, why: str) -> str:
    """What to say of a pattern without a nonzero."""
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
    # Parts of the places where the pattern has nothing in this line, as long as one of them matters.
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
    # Of the coarsest numbers on the way. Accelerators multiply float32 by fewer bits than it has.
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
