"""Products of a view with vectors and matrices: `J @ v`, `u @ J`, `J.mv(v)`, `J.vm(u)`.

Knows layouts, and the forms in which vectors are given. Knows nothing of how products are computed.
Shapes: M outputs, N inputs, K vectors; batch axes first.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.given import as_array, no_array
from jacobia._plans.choose import run
from jacobia._plans.products import Form, fitting, multiply, products
from jacobia._plans.request import Request
from jacobia._plans.take import note
from jacobia._read.block import LiveBlock
from jacobia._run import limits as _limits
from jacobia._run.spread import off_mesh
from jacobia._view.array import ArrayLike, factor

_FACTORS = jax.Array, np.ndarray


class Products(LiveBlock, ArrayLike):
    """Products of a view, computed without its matrix."""

    __slots__ = ()

    def mv(self, v: Any) -> jax.Array:
        """The product `J v`, without the matrix: one pushforward for each v.

        Only an f without a linear pushforward (a `custom_vjp` whose pullback is not linear) needs the matrix.

        Args:
          v: a tangent of shape `x.shape`, or K of them, `(*x.shape, K)`. For `J.T`, a cotangent whose axes are
            reversed.

        Returns:
          Shape `y.shape`, or `(*y.shape, K)`. For a batched view, batch axes come first in v and in the result.
        """
        return self._given("mv", v)

    def vm(self, u: Any) -> jax.Array:
        """The product `u J`, without the matrix: one pullback for each u.

        Only an f without a linear pullback needs the matrix.

        Args:
          u: a cotangent of shape `y.shape`, or K of them, `(K, *y.shape)`. For `J.T`, a tangent whose axes are
            reversed.

        Returns:
          Shape `x.shape`, or `(K, *x.shape)`. For a batched view, batch axes come first in u and in the result.
        """
        return self._given("vm", u)

    def __matmul__(self, other: Any) -> jax.Array:
        v = other if isinstance(other, _FACTORS) else self._factor(other)
        form = self._form_of(v, on_the_left=False)
        if form is None:
            self._check_whole(v, on_the_left=False)
            return self[...] @ v
        return self._multiplied(form, v)

    def __rmatmul__(self, other: Any) -> jax.Array:
        u = other if isinstance(other, _FACTORS) else self._factor(other)
        form = self._form_of(u, on_the_left=True)
        if form is None:
            self._check_whole(u, on_the_left=True)
            return jnp.asarray(u) @ self[...]
        return self._multiplied(form, u)

    def _form_of(self, factor: Any, on_the_left: bool) -> Form | None:
        # The form of the product with this factor of `@`; None: multiply the whole matrix.
        layout, block, lead = self._layout, self._layout.block, self._layout.lead
        if not layout.matrices or factor.ndim == 0:
            return None
        way = "rows" if on_the_left != bool(layout.turn) else "columns"
        size = math.prod(block.row_shape if way == "rows" else block.column_shape)
        if factor.shape[-1 if on_the_left or factor.ndim == 1 else -2] != size:
            raise _no_inner(factor.shape, self.shape, on_the_left)
        if factor.ndim <= 2:
            return Form(way, factor.ndim == 2, not on_the_left, shared=bool(lead))
        return Form(way, True, not on_the_left) if factor.shape[:-2] == lead else None

    def _check_whole(self, factor: Any, on_the_left: bool) -> None:
        # Raise for shapes that do not fit before the whole matrix is computed.
        if not (factor.ndim and self.shape):
            number = "J" if factor.ndim else "v"
            raise ValueError(f"J @ v: expected arrays with axes, got {number}, which has none. Write J * v.")
        inner = self.shape[-2] if on_the_left and self.ndim > 1 else self.shape[-1]
        if factor.shape[-1 if on_the_left or factor.ndim == 1 else -2] != inner:
            raise _no_inner(factor.shape, self.shape, on_the_left)

    def _given(self, name: str, vectors: Any) -> jax.Array:
        layout = self._layout
        if layout.turn and not (layout.matrices and layout.unfolded):
            return self._turned(name, as_array(f"J.T.{name}(...)", vectors))
        way = "columns" if (name == "mv") != bool(layout.turn) else "rows"
        form = Form(way, last=name == "mv", flat=False)
        return self._multiplied(*fitting(name, vectors, form, layout.lead, layout.block))

    def _turned(self, name: str, vectors: jax.Array) -> jax.Array:
        # The transpose reverses all axes, so its product is the other product of the straight view, with axes reversed.
        if self._layout.lead:
            raise ValueError(
                f"J.T.{name}(...): expected a view without batch axes, got shape {self.shape}, with batch axes last. "
                f"Write J.mT.{name}(...)."
            )
        straight = self.T
        return jnp.transpose((straight.vm if name == "mv" else straight.mv)(jnp.transpose(vectors)))

    def _multiplied(self, form: Form, vectors: Any) -> jax.Array:
        spread = self._origin.blue.spread
        if spread is None:
            return self._product(form, vectors)
        with off_mesh(spread):
            return self._product(form, vectors)

    def _product(self, form: Form, vectors: Any) -> jax.Array:
        origin, index, block = self._origin, self._index, self._layout.block
        if vectors.dtype.kind in "cOUSMm":
            if vectors.dtype.kind != "c":
                raise no_array("J @ v", vectors)
            spaces = origin.blue.spaces
            seeded = spaces.outputs.pick(block.outs) if form.way == "rows" else spaces.inputs.pick(block.ins)
            if not any(jnp.issubdtype(d, jnp.complexfloating) for d in seeded.dtypes):
                return self._product(form, vectors.real) + 1j * self._product(form, vectors.imag)
        spread = origin.blue.spread
        vectors = vectors if spread is None else spread.place(vectors)
        out = multiply(origin, index, form, vectors)
        if out is not None:
            return self._divided(out)
        self._check_defined(form.way, "J[...] @ v" if form.way == "columns" else "u @ J[...]")
        request = Request(index, kind="product")
        _, answers = run(origin, [index], lambda: products(origin, request, form, vectors, self._known(), self._full))
        note(origin, answers)
        return self._divided(answers[0].array)

    def _factor(self, other: Any) -> jax.Array:
        if hasattr(other, "nnz") and hasattr(other, "shape"):  # sparse: may be too large to be made dense
            _limits.check_result(
                f"J @ S with a sparse S, made dense, of shape {tuple(other.shape)}",
                nbytes := math.prod(other.shape) * self.dtype.itemsize,
                self._origin.limit(nbytes),
                "Write J.to_scipy() @ S, or J.to_bcoo() @ S, which stay sparse.",
            )
        return factor(other)


def _no_inner(shape: tuple[int, ...], of_view: tuple[int, ...], on_the_left: bool) -> ValueError:
    n, m = of_view[-1:][0], of_view[-2:][0]
    size, other = (m, n) if on_the_left else (n, m)
    what, axis = ("v @ J", -1) if on_the_left else ("J @ v", -1 if len(shape) == 1 else -2)
    if shape == (other,):
        hint = "Write J @ v" if on_the_left else "Write v @ J, or J.T @ v"
    elif len(shape) == 2 and shape[-2 if on_the_left else -1] == size:
        hint = "Write v.T @ J" if on_the_left else "Write J @ v.T"
    else:
        hint = f"J has shape {of_view}: J @ v takes {n} numbers, and v @ J {m}"
    if not on_the_left and (shape == of_view[:-2] + (n,) or shape == of_view[-len(shape) :]):
        hint = "Write J.mv(v) for the product with a tangent of the shape of x"
    return ValueError(f"{what}: expected v of length {size} along axis {axis % len(shape)}, got shape {shape}. {hint}.")
