"""Views as pytrees: how they enter and leave `jit`, `vmap` and `scan`.

The leaves of a view are its point (constants and arguments of f) and a guard, a typed PRNG key. Mapping arithmetic over
the leaves, or raveling them, would move the point instead of changing the matrix; the key makes both raise. The guard
has shape `(1,)` behind the axes of stacked points, and so shows which axes `scan` has added in front of every leaf, or
removed. Axes of `vmap` are recorded in each `Carried`. Remembered rows and columns are not leaves.
Knows views and points. Knows nothing of how lines are computed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._call.arguments import copied
from jacobia._compat import Tracer
from jacobia._plans.colors import is_traced
from jacobia._program.fingerprint import Identity
from jacobia._read.layout import layout_of
from jacobia._run.alive import changed
from jacobia._run.blueprint import Blueprint
from jacobia._run.guard import SHAPE, is_gone, is_guard
from jacobia._run.point import Linearized
from jacobia._run.stacked import Axes, Carried, Guard, Stack, Stacks, with_axes
from jacobia._view.hessian import Hessian
from jacobia._view.jacobian import Jacobian, view


class _Form(NamedTuple):
    kind: type  # of the view
    blue: Blueprint
    block: int  # the number of the block
    matrix: bool
    turn: str
    depth: int  # the number of axes of stacked points
    held: tuple[Any, ...]  # for each constant: its identity if it is concrete and static; None if it is a leaf


def _flatten(J: Jacobian) -> tuple[tuple, _Form]:
    origin = J._origin
    if is_traced(origin.blue.sparsity):
        raise TypeError(
            "J (as a pytree): expected a pattern or coloring that is part of the program, got one that is traced: such "
            "a view stays where it was made. Read J.nonzeros() there, or close over the coloring."
        )
    origin.check_alive(computes=False)
    shapes = origin.blue.const_shapes
    is_leaf = origin.const_leaves or tuple(
        isinstance(c, Tracer) or np.shape(c) != s for c, s in zip(origin.consts, shapes, strict=True)
    )
    held = tuple(None if leaf else Identity(c) for c, leaf in zip(origin.consts, is_leaf, strict=True))
    axes = [stack.axes for stack in origin.stacks]
    consts = [Carried(c, tuple(a.consts[k] for a in axes)) for k, c in enumerate(origin.consts) if is_leaf[k]]
    leaves = [Carried(x, tuple(a.leaves[k] for a in axes)) for k, x in enumerate(origin.leaves)]
    form = _Form(type(J), origin.blue, J._index, J._layout.matrix, J._layout.turn, len(axes), held)
    guard = None if is_gone(origin.guard) else origin.guard
    return (*consts, *leaves, Guard(guard, origin.batch)), form


def _unflatten(form: _Form, parts: Sequence) -> Jacobian:
    *moving, guard = parts
    blue, rest = form.blue, iter([p if isinstance(p, Carried) else Carried(p, ()) for p in moving])
    consts = [next(rest) if h is None else Carried(h.held, ()) for h in form.held]
    leaves = list(rest)
    stacks, key = _stacks(blue, form.held, consts, leaves, guard), guard.array if isinstance(guard, Guard) else None
    dtype = getattr(key, "dtype", None)  # None: a placeholder of JAX
    if dtype is not None and not is_guard(key):
        raise changed(f"arrays of other types in the place of its leaves ({dtype} in the place of the guard)")
    own = [_own(c.array) for c in consts], [_own(x.array) for x in leaves]
    origin = Linearized.anywhere(blue, *own, stacks, key)
    origin.const_leaves = tuple(h is None for h in form.held)  # constants that were leaves stay leaves
    block, turn = blue.blocks[form.block], form.turn
    if turn == "T" and len(stacks) > form.depth:  # transpose each view: new axes are in front
        turn = "mT"
        if form.depth or blue.spaces.lead or not (form.matrix or len(block.row_shape) == len(block.column_shape) == 1):
            raise ValueError(
                "J.T (out of vmap or scan): expected the transpose of a matrix, whose samples then lie in front, got "
                f"that of a view of shape {(*block.row_shape, *block.column_shape)}. Return J, and transpose J[...] "
                "outside."
            )
    return view(form.kind, origin, form.block, layout_of(blue, form.block, origin.lead, form.matrix, turn))


def _own(array: Any) -> Any:
    return copied(array) if isinstance(array, np.ndarray) else array  # vmap passes NumPy arrays through uncopied


def _stacks(
    blue: Blueprint, held: Sequence, consts: Sequence[Carried], leaves: Sequence[Carried], guard: Any
) -> Stacks:
    if not all(hasattr(a, "shape") for a in (guard, *(p.array for p in (*consts, *leaves)))):
        return ()  # JAX unflattens trees with placeholders for leaves, which have no shape
    sizes = guard.shape[:-2]

    def aligned(part: Carried, held: bool) -> tuple[int | None, ...]:
        # Match the recorded axes to those of the guard: scan adds axes in front of all leaves, or removes them.
        new = len(sizes) - len(part.axes)
        return (None,) * len(sizes) if held else (0,) * new + part.axes if new >= 0 else part.axes[-new:]

    of_consts = [aligned(c, h is not None) for c, h in zip(consts, held, strict=True)]
    of_leaves = [aligned(x, False) for x in leaves]
    expected = [
        with_axes(axes, sizes, own)
        for axes, own in zip((*of_consts, *of_leaves), (*blue.const_shapes, *blue.leaf_shapes), strict=True)
    ]
    got = [tuple(p.array.shape) for p in (*consts, *leaves)]
    if guard.shape[-2:] != SHAPE and got == expected:
        raise changed("another shape in the place of the guard")
    if guard.shape[-2:] != SHAPE or got != expected:
        raise ValueError(
            f"J (as a pytree): expected leaves of shapes {expected}, got {got}. They are the point, not the matrix, "
            "and what all samples share is among them once: map over J[...], or by jax.vmap."
        )
    return tuple(
        Stack(n, Axes(tuple(a[k] for a in of_consts), tuple(a[k] for a in of_leaves))) for k, n in enumerate(sizes)
    )


jax.tree_util.register_pytree_node(Jacobian, _flatten, _unflatten)
jax.tree_util.register_pytree_node(Hessian, _flatten, _unflatten)
