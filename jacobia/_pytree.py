"""Views as pytrees, so that they go into and out of `jit`, `vmap` and `scan`.

The leaves are the point and a guard. Mapping over them would move the point, not the matrix: a typed PRNG key among
them makes arithmetic and ravelling raise. Its shape `(1,)` tells how the view has been batched since, for `vmap` and
`scan` put axes in front of every leaf. What a view remembers is no leaf.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._arguments import copied
from jacobia._blueprint import Blueprint
from jacobia._compat import Tracer
from jacobia._compressed import is_traced
from jacobia._hessian import Hessian
from jacobia._jacobian import Jacobian, Layout, view
from jacobia._reading import Linearized
from jacobia.program.fingerprint import Identity


class _Form(NamedTuple):
    kind: type  # of the view
    blue: Blueprint
    block: int  # its number
    matrix: bool
    turn: str
    held: tuple[Any, ...]  # concrete arrays that f closes over, by identity; None where it is a leaf


def _flatten(J: Jacobian) -> tuple[tuple, _Form]:
    origin = J._origin
    if is_traced(origin.blue.sparsity):
        raise TypeError(
            "J (as a pytree): expected a pattern or coloring that is part of the program, got one that is traced: such "
            "a view stays where it was made. Read J.nonzeros() there, or close over the coloring."
        )
    origin.check_alive()
    shapes = origin.blue.const_shapes
    is_leaf = origin.const_leaves or tuple(
        isinstance(c, Tracer) or np.shape(c) != s for c, s in zip(origin.consts, shapes, strict=True)
    )
    held = tuple(None if leaf else Identity(c) for c, leaf in zip(origin.consts, is_leaf, strict=True))
    consts = (c for c, leaf in zip(origin.consts, is_leaf, strict=True) if leaf)
    form = _Form(type(J), origin.blue, J._index, J._layout.matrix, J._layout.turn, held)
    return (*consts, *origin.leaves, origin.guard()), form


def _unflatten(form: _Form, leaves: Sequence) -> Jacobian:
    *moving, guard = leaves
    blue = form.blue
    own = [s for s, h in zip(blue.const_shapes, form.held, strict=True) if h is None]
    batch = _batch(moving, guard, own + list(blue.leaf_shapes))
    rest = iter([copied(a) if isinstance(a, np.ndarray) else a for a in moving])  # vmap lets NumPy arrays through
    consts = [next(rest) if h is None else h.held for h in form.held]
    origin = Linearized.anywhere(blue, consts, list(rest), batch, guard)
    origin.const_leaves = tuple(h is None for h in form.held)  # what has been a leaf stays one, traced or not
    return view(form.kind, origin, form.block, Layout(blue.blocks[form.block], origin.lead, form.matrix, form.turn))


def _batch(leaves: Sequence, guard: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if not all(hasattr(a, "shape") for a in (*leaves, guard)):
        return ()  # JAX puts other things in the places of leaves while it looks at a tree
    batch, expected = guard.shape[:-1], guard.shape[-1:]
    if expected != (1,) or any(a.shape != batch + s for a, s in zip(leaves, shapes, strict=True)):
        got = [tuple(a.shape) for a in leaves]
        raise ValueError(
            f"J (as a pytree): expected leaves of shapes {list(shapes)} behind common batch axes, got {got}. A view "
            "leaves vmap with out_axes=0 only, and its leaves are the point, not the matrix: map over J[...]."
        )
    return batch


jax.tree_util.register_pytree_node(Jacobian, _flatten, _unflatten)
jax.tree_util.register_pytree_node(Hessian, _flatten, _unflatten)
