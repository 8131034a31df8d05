"""All blocks of a Jacobian or Hessian as one linear operator on trees: one pass for all leaves together.

Knows trees and views. Knows nothing of how products are computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_structure, tree_unflatten

from jacobia._call.options import shown_type
from jacobia._call.uncalled import Uncalled
from jacobia._plans.nonzeros import every
from jacobia._plans.products import has_products
from jacobia._run.missing import by_what_exists, refused
from jacobia._run.multiplied import Multiplied
from jacobia._run.point import Linearized
from jacobia._space import Space
from jacobia._view.as_lineax import Source, as_lineax
from jacobia._view.hessian import Hessian
from jacobia._view.jacobian import Jacobian


def operator(tree: Any) -> "Operator":
    """All blocks of a Jacobian or Hessian as one linear operator on trees.

    Args:
      tree: the result of `jacobian(f)(x)` or `hessian(f)(x)`: a view, or a tree of all views of one call.

    Returns:
      An `Operator`. `op @ v` is one pushforward of all inputs to all outputs, and `u @ op` is one pullback.

    Raises:
      TypeError: `tree` holds something else than views.
      ValueError: the views are of several calls, only some of one call, or transposed; or a Hessian of several outputs.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import jacobian
      >>> x = {"a": jnp.ones(2), "b": jnp.ones(())}
      >>> op = operator(jacobian(lambda t: {"y": t["a"] * t["b"]})(x))
      >>> (op @ x)["y"].tolist()
      [2.0, 2.0]
    """
    blocks = tree_leaves(tree, is_leaf=_is_view)
    others = [v for v in blocks if not _is_view(v)]
    if others or not blocks:
        if others and isinstance(others[0], Uncalled):
            raise TypeError(others[0].called_first())
        got = shown_type(others[0]) if others else "a tree without any"
        raise TypeError(
            f"operator(tree): expected the views that jacobian(f)(x) or hessian(f)(x) returns, got {got}. "
            "Leave lazy=False and has_aux out, or pass the views alone."
        )
    origin, straight = blocks[0]._origin, all(not v._layout.turn for v in blocks)
    whole = [v._index for v in blocks] == list(range(len(origin.blue.blocks)))
    if not (straight and whole and all(v._origin is origin for v in blocks)):
        raise ValueError(
            "operator(tree): expected all views of one call, as jacobian(f)(x) returns them, got some, transposed "
            "ones, or those of several calls (as views that came out of jit or vmap are). operator(tree).T is the "
            "transpose of all; of many points, write jax.vmap(lambda x, v: operator(jacobian(f)(x)) @ v)(X, V)."
        )
    if origin.blue.program.heads is not None:
        raise ValueError(
            "operator(tree): expected the Hessian of one number, got that of several. Take operator(hessian(g)(x)) of "
            "each, or of their sum."
        )
    return Operator(origin)


def _is_view(value: Any) -> bool:
    return isinstance(value, Jacobian)


class Operator:
    """The Jacobian J of all outputs and all inputs at one point, as a linear map from trees to trees.

    Made by `operator(tree)`.
    """

    def __init__(self, origin: Linearized, transposed: bool = False):
        self._origin, self._transposed = origin, transposed

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"

    def __getitem__(self, key: Any) -> Any:
        raise TypeError(
            "operator(tree)[...]: expected a product, got a key; an operator has no entries that could be read. Read a "
            "view, J[...], or jacobia.materialize(tree, key)."
        )

    __iter__ = None  # an operator has no rows to iterate over

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "operator(tree): expected an array, got an operator, which is applied to trees. Write J[...] for a view, "
            "or jacobia.materialize(tree)."
        )

    @property
    def shape(self) -> tuple[int, int]:
        """`(M, N)`: how many numbers `mv` returns and takes, over all leaves, for one sample."""
        spaces = self._origin.blue.spaces
        m, n = sum(spaces.outputs.sizes), sum(spaces.inputs.sizes)
        return (n, m) if self._transposed else (m, n)

    @property
    def T(self) -> "Operator":
        """The transpose at the same point, an `Operator`."""
        return Operator(self._origin, not self._transposed)

    @property
    def in_structure(self) -> Any:
        """What `mv` takes: a tree of `jax.ShapeDtypeStruct`."""
        return self._structure("outputs" if self._transposed else "inputs")

    @property
    def out_structure(self) -> Any:
        """What `mv` returns: a tree of `jax.ShapeDtypeStruct`."""
        return self._structure("inputs" if self._transposed else "outputs")

    def mv(self, v: Any) -> Any:
        """The product `J v`: one pushforward.

        Args:
          v: a tree like `in_structure`: tangents of the differentiated inputs, with batch axes first. For `op.T`,
            cotangents of the outputs.

        Returns:
          A tree like `out_structure`.

        Raises:
          ValueError: a tree of another structure, or a leaf of another shape.
        """
        return self._product("mv(v=...)", v, "rows" if self._transposed else "columns")

    def vm(self, u: Any) -> Any:
        """The product `u J`: one pullback.

        Args:
          u: a tree like `out_structure`: cotangents of the outputs, with batch axes first. For `op.T`, tangents of the
            differentiated inputs.

        Returns:
          A tree like `in_structure`.

        Raises:
          ValueError: a tree of another structure, or a leaf of another shape.
        """
        return self._product("vm(u=...)", u, "columns" if self._transposed else "rows")

    def as_lineax(self, tags: Any = ()) -> Any:
        """A linear operator of lineax on the same trees; see `Jacobian.as_lineax`.

        Args:
          tags: tags of lineax to be trusted.
        """
        blue = self._origin.blue
        kind = Hessian if blue.primal is not None else Jacobian
        return as_lineax(self._origin, Source(blue, None, self._transposed, kind._block, Operator), tags)

    def as_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` of shape `(M, N)`: leaves are flattened and concatenated.

        Raises:
          ValueError: the views have samples.
        """
        from scipy.sparse.linalg import LinearOperator

        if self._origin.lead:
            raise ValueError(
                f"operator(...).as_scipy(): expected one matrix, got samples, {self._origin.lead}. SciPy has no "
                "batches: make the operator of one sample."
            )

        def product(of: "Operator", flat: Any) -> np.ndarray:
            structure = of.in_structure
            leaves, treedef = tree_flatten(structure)
            ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
            parts = [a.reshape(s.shape) for a, s in zip(np.split(np.ravel(flat), ends), leaves, strict=True)]
            found = [np.ravel(a) for a in tree_leaves(of.mv(tree_unflatten(treedef, parts)))]
            return np.concatenate(found) if found else np.zeros(0)

        dtype = np.result_type(*(s.dtype for s in tree_leaves((self.in_structure, self.out_structure))))
        transposed = lambda u: np.conj(product(self.T, np.conj(u)))  # noqa: E731
        return LinearOperator(self.shape, lambda v: product(self, v), transposed, dtype=dtype)  # pyright: ignore

    def __matmul__(self, v: Any) -> Any:
        return self.mv(v)

    def __rmatmul__(self, u: Any) -> Any:
        return self.vm(u)

    __array_ufunc__ = None  # `u @ op` with u of NumPy is `op.__rmatmul__(u)`

    def _structure(self, side: str) -> Any:
        origin = self._origin
        space: Space = getattr(origin.blue.spaces, side)
        leaves = [jax.ShapeDtypeStruct(origin.lead + s, d) for s, d in zip(space.shapes, space.dtypes, strict=True)]
        return self._tree(side, leaves)

    def _tree(self, side: str, leaves: Sequence) -> Any:
        blue = self._origin.blue
        if side == "inputs" or blue.primal is not None:  # the gradient has the tree of the inputs
            rest = iter(leaves)
            return tree_unflatten(blue.in_tree, [next(rest) if kept else None for kept in blue.kept_leaves])
        return tree_unflatten(blue.out_tree, leaves)

    def _leaves(self, call: str, side: str, tree: Any) -> list:
        # No dtype is converted here: the kernel casts its arguments.
        expected, wanted, leaves = *self._expected(side), tree_flatten(tree)
        leaves, structure = leaves
        if structure != expected:
            raise ValueError(
                f"operator(...).{call}: expected a tree of structure {expected}, got {structure}. It is that of the "
                f"{side} of f."
            )
        leaves = [a if isinstance(a, (jax.Array, np.ndarray)) else jnp.asarray(a) for a in leaves]
        for k, (leaf, want) in enumerate(zip(leaves, wanted, strict=True)):
            real = leaf.dtype.kind != "c" or jnp.issubdtype(want.dtype, jnp.complexfloating)
            if leaf.shape != want.shape or not real:
                path = keystr(tree_flatten_with_path(tree)[0][k][0]) or "the only leaf"
                got = f"shape {leaf.shape}" if real else f"{leaf.dtype}. Multiply real and imaginary parts apart"
                raise ValueError(
                    f"operator(...).{call}: expected {want.dtype} of shape {want.shape} at {path}, as the {side} of f "
                    f"have it, got {got}."
                )
        return leaves

    def _expected(self, side: str) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
        # The structure and its leaves, kept for calls with the same program and batch.
        def made() -> tuple[Any, list[jax.ShapeDtypeStruct]]:
            structure = self._structure(side)
            return tree_structure(structure), tree_leaves(structure)

        return self._origin.blue.found.find("operator", (side, self._origin.batch), made)

    def _product(self, call: str, tree: Any, way: str) -> Any:
        origin = self._origin
        given, told = ("outputs", "inputs") if way == "rows" else ("inputs", "outputs")
        vectors = self._leaves(call, given, tree)
        blue = origin.blue
        prepared = blue.found.get("product", ("operator", way, origin.stacks))
        if prepared is None or not origin.compiles:
            return self._tree(told, self._first(way, vectors))
        return self._tree(told, prepared.at(origin, vectors))

    def _first(self, way: str, vectors: list) -> list[jax.Array]:
        origin, blue = self._origin, self._origin.blue
        block = every(blue)
        seeded = blue.spaces.outputs if way == "rows" else blue.spaces.inputs

        def cast(apply: Callable, vectors: list) -> list:
            return apply([jnp.asarray(a, d) for a, d in zip(vectors, seeded.dtypes, strict=True)])

        def work() -> list[jax.Array]:
            if not has_products(origin, block, way):
                raise refused(origin, block)
            sweep = blue.sweep(way, block.outs, block.ins, None, None)
            made = Multiplied(origin, sweep, "operator", cast, False)
            out = made.at(origin, vectors)
            if origin.compiles:
                blue.found.put("product", ("operator", way, origin.stacks), made)
            return out

        return by_what_exists(origin, [block], work)
