"""Pullbacks or pushforwards of given vectors, by a kernel that is compiled once for all points of a program.

Knows points and sweeps. Knows nothing of the shapes of vectors: `finish` converts them inside the kernel.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from jacobia._compat import Tracer
from jacobia._run.kernels import Kind, call
from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep, applied, applied_linear
from jacobia._run.stacked import at_each


class Multiplied:
    """A kernel that computes `finish(apply, vectors)`, with `apply` a pullback or pushforward of lists of leaves.

    Args:
      sweep: says which direction, and of which outputs and inputs.
      name: hashable; what `finish` does, as part of the key of the kernel.
      finish: maps `apply` and the vectors of one point to the result.
      shared: whether all stacked points have the same vectors.
    """

    def __init__(self, origin: Linearized, sweep: Sweep, name: Hashable, finish: Callable, shared: bool):
        blue, self._finish = origin.blue, finish
        self._way = way = blue.spaces, sweep.way, sweep.by, *sweep.ends
        self._one = sweep._replace(width=1)

        def body(consts: Sequence, leaves: Sequence, vectors: Any) -> Any:
            return finish(applied(blue.point(consts, leaves), *way), vectors)

        self._body = at_each(body, origin.stacks, None if shared else 0)
        self._kind = Kind("product", blue.positions, blue.spaces, sweep, name, origin.stacks)
        self._kept_kind = Kind("kept product", blue.positions, blue.spaces, sweep, name)
        self._keeps: bool | None = None  # whether `apply` can use kept residuals; None: not decided yet

    def at(self, origin: Linearized, vectors: Any) -> Any:
        """The result at one point."""
        if origin.compiles and not isinstance(vectors, Tracer):
            return self.compiled(origin, vectors)
        origin.check_alive()
        origin.reads += 1
        linear = origin.linear_in_trace(self._one)
        if linear is not None:
            return self._finish(applied_linear(linear, *self._way), vectors)
        return self._body(origin.consts, origin.leaves, vectors)

    def compiled(self, origin: Linearized, vectors: Any) -> Any:
        """The result at one point by the compiled kernel; not inside a trace."""
        origin.check_alive()
        origin.reads += 1
        program, positions = origin.blue.program, origin.blue.positions
        if self._keeps is None and origin.reads > 1:
            self._keeps = origin.pushes(self._one)
        kept = origin.kept_for_products() if self._keeps else None
        if kept is None:
            return call(program, positions, self._kind, self._body, origin.consts, origin.at_hand, vectors)
        finish, way, tree = self._finish, self._way, kept.tree

        def of_kept(residuals: list, vectors: Any) -> Any:
            return finish(applied_linear(jax.tree_util.tree_unflatten(tree, residuals), *way), vectors)

        return call(program, positions, self._kept_kind, of_kept, kept.residuals, vectors)
