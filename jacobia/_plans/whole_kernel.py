"""A kernel that computes all of a block: its program, its arrays, and what it costs.

Intermediates that depend on the arrays that f closes over, and not on x, are computed once and kept.
Knows programs. Knows nothing of how they are found.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jacobia._call.linearize import inputs_of
from jacobia._compat import Tracer, eval_jaxpr, opened
from jacobia._program.readings.cost import Work, seed_cost, work
from jacobia._program.readings.once import split, varying
from jacobia._run.point import Linearized

# Intermediates that do not depend on x are kept if they take at least _SHARE of all operations, and at least _MANY.
_SHARE, _MANY = 0.2, 1e6


class WholeKernel:
    """A kernel that computes all of a block.

    Args:
      way: "nonzeros" or "waist".
      body: maps constants, leaves and arrays to one array.
      arrays: the arrays that the body takes besides the point.
      name: the name of the kernel; with the program of f it is unique.
      shaped: maps the array of the body, and `more`, to the block, `y.shape + x.shape`.
      extra: the cost of `shaped`, in elements read or written.
      density: of the pattern, where there is one.
      rows: the row of each entry that the body returns; None where the body returns a matrix.
      fits: whether the kernel is right for the given constants.
    """

    def __init__(
        self,
        origin: Linearized,
        index: int,
        way: str,
        why: str,
        body: Callable[[Sequence, Sequence, Sequence], jax.Array],
        arrays: Sequence,
        name: Hashable,
        shaped: Callable[[jax.Array, Sequence], jax.Array],
        more: Sequence = (),
        extra: float = 0,
        density: float | None = None,
        rows: np.ndarray | None = None,
        fits: Callable[[Sequence], bool] = lambda consts: True,
    ):
        args, skip = inputs_of(origin.blue.program), len(origin.consts)
        closed = jax.make_jaxpr(lambda arrays, consts, leaves: body(consts, leaves, arrays))(
            list(arrays), args[:skip], args[skip:]
        )
        self.jaxpr, own = opened(closed)
        self.way, self.why, self.name, self.density, self.fits = way, why, name, density, fits
        self.arrays, self.more, self._shaped = [*own, *arrays], list(more), shaped
        self._rows, self._num_rows = rows, origin.blue.counts[index][0]
        self._num_leaves = len(args) - skip
        # Intermediates of closed-over arrays alone are computed at every point, unless they are kept.
        changing = len(self.jaxpr.invars) if self._split is None else self._num_leaves
        self.cost = seed_cost(self.jaxpr, changing, False) + extra
        traced = any(isinstance(c, Tracer) for c in origin.consts)
        self._held = None if traced else origin.consts
        self._remembered: list | None = None
        self.met = False  # whether the kernel has run at another point before

    @cached_property
    def work(self) -> Work:
        return work(self.jaxpr, len(self.jaxpr.invars))

    @cached_property
    def _changes(self) -> list[bool]:
        still = len(self.jaxpr.invars) - self._num_leaves
        return [False] * still + [True] * self._num_leaves

    @cached_property
    def constant_rows(self) -> int:
        """How many rows of the block the program shows to be independent of x."""
        changing = varying(self.jaxpr, self._changes)[0]
        rows = np.flatnonzero(changing.any(axis=1)) if self._rows is None else self._rows[changing]
        return self._num_rows - len(np.unique(rows))

    @cached_property
    def _split(self) -> Any:
        found = split(self.jaxpr, self._changes)
        worth = found is not None and found.flops >= max(_MANY, _SHARE * self.work.flops)
        return found if worth else None

    def _body(self, consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        own, more = arrays
        (out,) = eval_jaxpr(self.jaxpr, (), *own, *consts, *leaves)
        return self._shaped(out, more)

    def _short_body(self, consts: Sequence, leaves: Sequence, arrays: Sequence) -> jax.Array:
        own, more, remembered = arrays
        (out,) = self._split.each([*own, *consts, *leaves], remembered)
        return self._shaped(out, more)

    def compute(self, origin: Linearized) -> jax.Array:
        """Compute all of the block, `y.shape + x.shape`."""
        # Kept intermediates are of these closed-over arrays: another view of the same program may close over others.
        held = self._held
        same = held is not None and all(a is b for a, b in zip(origin.consts, held, strict=True))
        if not (same and origin.compiles) or self._split is None:
            return origin.run_with(("whole", self.name), self._body, (self.arrays, self.more))
        if self._remembered is None or any(a.is_deleted() for a in self._remembered):
            once = lambda consts, leaves, own: self._split.once([*own, *consts, *leaves])  # noqa: E731
            self._remembered = origin.run_with(("once", self.name), once, self.arrays)
        arrays = self.arrays, self.more, self._remembered
        return origin.run_with(("each", self.name), self._short_body, arrays)
