"""Products with a Jacobian without the matrix: `J v` is one pushforward, `u J` one pullback.

The kernel takes the vectors in the shape in which the caller gives them, and returns the products in the shape of the
result, so that nothing is transposed or reshaped outside the kernel.
Knows vectors and shapes. Knows nothing of keys.
Shapes: M outputs, N inputs, k vectors, nnz entries; samples in front.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.given import as_array
from jacobia._compat import Tracer
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Outline, Plan
from jacobia._plans.request import Answer, Count, Request
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.multiplied import Multiplied
from jacobia._run.point import Linearized
from jacobia._run.seeds import mapped
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import alive

# The cost of a product for each nonzero, in elements read or written: the nonzero, its row, its column, the entry of
# the vector, and the sum it is added to.
_EACH = 8


class Form(NamedTuple):
    """The shape of the vectors of a product, and of its results."""

    way: str  # "columns" for J v, "rows" for u J
    several: bool = False  # whether there is an axis of k vectors
    last: bool = False  # whether that axis is the last one; otherwise it is the first one behind the samples
    flat: bool = True  # whether results have shape (M,) in place of y.shape, and (N,) in place of x.shape
    shared: bool = False  # whether all samples are multiplied by the same vectors

    def seeds(self, block: Block, lead: tuple[int, ...], vectors: jax.Array) -> jax.Array:
        """The vectors as `(*lead, k, *x.shape)`, or `(*lead, k, *y.shape)`."""
        shape, b = block.column_shape if self.way == "columns" else block.row_shape, len(lead)
        if self.shared:
            vectors = jnp.broadcast_to(vectors, lead + vectors.shape)
        if not self.several:
            return vectors.reshape(lead + (1,) + shape)
        if self.last:
            vectors = jnp.moveaxis(vectors, -1, b)
        return vectors.reshape(lead + (vectors.shape[b],) + shape)

    def result(self, block: Block, lead: tuple[int, ...], out: jax.Array) -> jax.Array:
        """The products, from answers `(*lead, k, ...)` to the seeds, in the shape of the result."""
        shape, b = block.row_shape if self.way == "columns" else block.column_shape, len(lead)
        shape = (math.prod(shape),) if self.flat else shape
        if not self.several:
            return out.reshape(lead + shape)
        out = out.reshape(lead + (out.shape[b],) + shape)
        return jnp.moveaxis(out, b, -1) if self.last else out

    def number(self, block: Block, lead: tuple[int, ...], vectors: Any) -> int:
        """The number k of vectors."""
        if not self.several:
            return 1
        return vectors.shape[-1] if self.last else vectors.shape[0 if self.shared else len(lead)]


def multiply(origin: Linearized, index: int, form: Form, vectors: Any) -> jax.Array | None:
    """The product by the kernel that computed it at another point.

    Returns:
      None if no such kernel is kept, inside a trace, or if the store may hold the whole matrix.
    """
    prepared = origin.blue.found.get("product", (index, form, origin.stacks))
    if prepared is None or not origin.compiles or isinstance(vectors, Tracer):
        return None
    store = origin.stores.get(index)
    if store is not None and store.holds:
        return None
    return prepared.again(origin, vectors)


def products(
    origin: Linearized, request: Request, form: Form, vectors: Any, known: Any, full: Callable[[], jax.Array]
) -> "Iterator[Product]":
    """The plan for a product: by the known matrix or nonzeros, by a direction that f has, or by all of the block.

    Args:
      known: all of the block; None if it is not known.
      full: computes all of the block.
    """
    index, block = request.block, origin.blue.blocks[request.block]
    store = origin.stores.get(index)
    entries = (store.nonzeros, store.pattern) if store is not None and alive(store.nonzeros) else None
    if known is not None:
        outline, by = Outline("none", 0, 0, "the matrix is known"), partial(_by_matrix_of, lambda: known)
    elif entries is not None and _EACH * entries[1].nnz <= origin.blue.pass_cost(form.way, block):
        outline, by = Outline("none", 0, 0, "the nonzeros are known"), partial(_by_nonzeros, *entries)
    elif has_products(origin, block, form.way):
        outline, by = Outline(form.way, form.number(block, origin.lead, vectors), 0, "one for each vector"), None
    else:
        why = "f has no linear pass for this product, so the matrix is computed"
        outline, by = Outline("none", 0, 0, why), partial(_by_matrix_of, full)
    yield Product(origin, request, outline, form, vectors, by)


@dataclass(frozen=True, eq=False)
class Product(Plan):
    """`J v` or `u J`."""

    form: Form
    vectors: Any
    known: Callable[[Block, tuple[int, ...], Form, Any], jax.Array] | None  # None: by a pushforward or a pullback

    def run(self) -> list[Answer]:
        origin, index, form, vectors = self.origin, self.request.block, self.form, self.vectors
        block, counts = origin.blue.blocks[index], ()
        if self.known is not None:
            out = self.known(block, origin.lead, form, vectors)
        else:
            way = ByDirection(origin, index, form)
            out, counts = way.of(origin, vectors), (way.counted(origin, vectors),)
            if origin.compiles:
                origin.blue.found.put("product", (index, form, origin.stacks), way)
        return [Answer(index, "product", None, out, counts=counts)]

    def by(self) -> str:
        pulls = self.origin.by_for_products(self.form.way, self.origin.blue.blocks[self.request.block]) == "pullback"
        return "pullbacks" if pulls else "pushforwards"


class ByDirection:
    """A product by a direction that f has, at any point."""

    def __init__(self, origin: Linearized, index: int, form: Form):
        blue, self._index, self._form = origin.blue, index, form
        self._block = block = blue.blocks[index]
        by = origin.by_for_products(form.way, block)
        self._by = "pullbacks" if by == "pullback" else "pushforwards"
        sweep = blue.sweep(form.way, block.outs, block.ins, None, None)._replace(by=by)
        finish = partial(_applied, blue, block, form)
        self._multiplied = Multiplied(origin, sweep, (index, form), finish, form.shared)

    def of(self, origin: Linearized, vectors: Any) -> jax.Array:
        return self._multiplied.at(origin, vectors)

    def again(self, origin: Linearized, vectors: Any) -> jax.Array:
        """The product at another point, by the same compiled kernel; not inside a trace. Counts the passes."""
        out = self._multiplied.compiled(origin, vectors)
        count = self._form.number(self._block, origin.lead, vectors)
        store_of(origin, self._index).count(self._form.way, self._by, 0, count, count)
        return out

    def counted(self, origin: Linearized, vectors: Any) -> Count:
        count = self._form.number(self._block, origin.lead, vectors)
        return Count(self._index, self._form.way, self._by, 0, count, count)


def _applied(blue: Blueprint, block: Block, form: Form, apply: Callable[[list], list], vectors: Any) -> jax.Array:
    # One pullback or pushforward for each vector. With `ravel`, a vector is the concatenation of several leaves.
    lead, b = blue.spaces.lead, len(blue.spaces.lead)
    outs, ins = blue.spaces.outputs.pick(block.outs), blue.spaces.inputs.pick(block.ins)
    seeded = outs if form.way == "rows" else ins
    seeds = form.seeds(block, lead, vectors)
    leaves = [seeds]
    if blue.ravel:
        ends = [sum(seeded.sizes[: k + 1]) for k in range(len(seeded))]
        parts = zip(jnp.split(seeds, ends[:-1], axis=-1), seeded.shapes, strict=True)
        leaves = [a.reshape(a.shape[:-1] + s) for a, s in parts]
    out = mapped(apply, b, b)([a.astype(d) for a, d in zip(leaves, seeded.dtypes, strict=True)])
    out = [a.astype(block.dtype) for a in out]
    if blue.ravel:
        out = [jnp.concatenate([a.reshape(a.shape[: b + 1] + (-1,)) for a in out], axis=-1)]
    (answer,) = out
    return form.result(block, lead, answer)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_matrix(block: Block, lead: tuple[int, ...], form: Form, full: jax.Array, vectors: jax.Array) -> jax.Array:
    m, n = math.prod(block.row_shape), math.prod(block.column_shape)
    matrix = full.reshape(lead + (m, n))
    seeds = form.seeds(block, lead, vectors).astype(block.dtype)
    seeds = seeds.reshape(lead + (seeds.shape[len(lead)], -1))
    return form.result(block, lead, seeds @ (matrix if form.way == "rows" else matrix.swapaxes(-1, -2)))


def _by_matrix_of(
    full: Callable[[], jax.Array], block: Block, lead: tuple[int, ...], form: Form, vectors: Any
) -> jax.Array:
    return _by_matrix(block, lead, form, full(), vectors)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_entries(
    block: Block, lead: tuple[int, ...], form: Form, data: jax.Array, rows: jax.Array, cols: jax.Array, vectors: Any
) -> jax.Array:
    m, n = math.prod(block.row_shape), math.prod(block.column_shape)
    seeds = form.seeds(block, lead, vectors).astype(block.dtype)
    k = seeds.shape[len(lead)]
    seeds, (met, added, size) = seeds.reshape(lead + (k, -1)), (cols, rows, m)
    if form.way == "rows":
        met, added, size = rows, cols, n
    terms = data[..., None, :].astype(block.dtype) * jnp.take(seeds, met, axis=-1)
    zeros = jnp.zeros(lead + (k, size), block.dtype)
    out = zeros.at[..., added].add(terms, indices_are_sorted=form.way == "columns")
    return form.result(block, lead, out)


def _by_nonzeros(
    data: jax.Array, pattern: Pattern, block: Block, lead: tuple[int, ...], form: Form, vectors: Any
) -> jax.Array:
    return _by_entries(block, lead, form, data, pattern.rows, pattern.cols, vectors)


def fitting(
    name: str, vectors: Any, form: Form, lead: tuple[int, ...], block: Block
) -> tuple[Form, jax.Array | np.ndarray]:
    """The form of the argument of `J.mv` or `J.vm`, and the argument as an array.

    Raises:
      ValueError: the argument has none of the shapes that fit.
    """
    v = vectors if isinstance(vectors, (jax.Array, np.ndarray)) else as_array(f"J.{name}(...)", vectors)
    one = lead + (block.column_shape if form.way == "columns" else block.row_shape)
    axis = len(one) if form.last else len(lead)
    if v.shape == one:
        return form, v
    if v.ndim == len(one) + 1 and v.shape[:axis] + v.shape[axis + 1 :] == one:
        return form._replace(several=True), v
    raise _no_fit(name, v.shape, form, lead, block)


def _no_fit(name: str, shape: tuple[int, ...], form: Form, lead: tuple[int, ...], block: Block) -> ValueError:
    one, other = block.column_shape, block.row_shape
    one, other = (one, other) if form.way == "columns" else (other, one)
    several = ", ".join(map(str, (*lead, *one, "k") if form.last else (*lead, "k", *one)))
    v = "v" if name == "mv" else "u"
    if not lead and len(shape) == len(one) + 1 and (shape[1:] if form.last else shape[:-1]) == one:
        where = "last" if form.last else "first"
        turned = f"{v}.T" if len(one) == 1 else f"jax.numpy.moveaxis({v}, {'0, -1' if form.last else '-1, 0'})"
        hint = f"Several vectors stand along the {where} axis: write {turned}"
    elif shape == lead + other:
        hint = f"Write J.{'vm' if name == 'mv' else 'mv'}, which takes this shape"
    elif len(one) == 1:
        hint = f"It is like the {'input' if form.way == 'columns' else 'output'} of f, of shape {one}"
    else:
        hint = "J.matrix @ v takes flat vectors"
    return ValueError(
        f"J.{name}({v}=...): expected shape {lead + one}, or ({several}) for k vectors, got {shape}. {hint}."
    )


def has_products(origin: Linearized, block: Block, way: str) -> bool:
    """Whether products by "rows" (a pullback of any cotangent) or "columns" (a pushforward) need no matrix."""
    known = origin.directions(block)
    direction = known.pullback if origin.by_for_products(way, block) == "pullback" else known.pushforward
    return known.linear and bool(direction)
