"""One pullback or pushforward of given vectors, at any point of a program, compiled once.

Knows points and sweeps. Knows nothing of how vectors are laid out: `finish` does that, inside the kernel.
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
    """`finish(apply, vectors)` of the leaves of a sweep.

    Args:
      name: names what `finish` does.
      finish: from a pullback or pushforward of leaves, and the vectors at one point, to the result.
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
        self._keeps: bool | None = None  # whether residuals serve, once the directions of f are known

    def at(self, origin: Linearized, vectors: Any) -> Any:
        """At one point."""
        if origin.compiles and not isinstance(vectors, Tracer):
            return self.compiled(origin, vectors)
        origin.check_alive()
        origin.reads += 1
        linear = origin.linear_in_trace(self._one)
        if linear is not None:
            return self._finish(applied_linear(linear, *self._way), vectors)
        return self._body(origin.consts, origin.leaves, vectors)

    def compiled(self, origin: Linearized, vectors: Any) -> Any:
        """The same, of arrays outside of transformations."""
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
