"""Value, gradient and Laplacian of f at a point, by one sweep; sample by sample if f evaluates samples independently.

Knows points, samples and sweeps. Knows nothing of how operations carry a Laplacian.
Shapes: B samples, D inputs of one sample.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.linearize import Point, pullback, value
from jacobia._compat import opened
from jacobia._program.axis.cut import cut
from jacobia._program.laplace.carried import Carried, written_out
from jacobia._program.laplace.sweep import Sweep
from jacobia._program.walk import holds, needed, some
from jacobia._program.wiring import wiring
from jacobia._run.limits import fits_cache
from jacobia._run.point import Linearized
from jacobia._space import Batch, to_place

# The bytes of the directions that are carried at once. More than fits in the cache is not faster.
_ROOM = 1 << 26

# The most samples at once on a CPU where f factors matrices. A CPU factors them one by one anyway, and with two
# factorizations of many matrices side by side JAX has been seen to hang.
_FACTORED = 16

Found = tuple[list, list, list]  # leaves of y, their Laplacians, leaves of the gradient


class Swept:
    """A sweep through f, prepared once for a program. `at(point)` gives values, Laplacians and the gradient.

    Args:
      with_gradient: compute the gradient too; only for an f that returns one number (for each sample).
    """

    def __init__(self, origin: Linearized, with_gradient: bool):
        blue = origin.blue
        program, spaces = blue.program, blue.spaces
        jaxpr, own = program.jaxpr, []
        if jaxpr is None:  # Python runs f: trace it at the values of this point
            run = lambda consts, leaves: program(consts, leaves)[0]  # noqa: E731
            jaxpr, own = opened(jax.make_jaxpr(run)(list(origin.consts), list(origin.leaves)))
        jaxpr = needed(jaxpr, tuple(range(program.num_y)))
        places = [len(jaxpr.invars) - program.num_leaves + p for p in blue.positions]
        # A `while` has no pullback. Then the sweep goes along every input, and gives the gradient too.
        narrow = not (with_gradient and holds(jaxpr, "while"))
        self._own, self._with_gradient, self._inputs = own, with_gradient, spaces.inputs
        self._positions, self._cut, owners = blue.positions, None, None
        if spaces.batch is not None:
            self._cut = _of_one_sample(jaxpr, places, spaces.batch)
            if self._cut is None:
                owners = _owners(spaces.inputs.shapes, spaces.batch)
            else:
                jaxpr, self._own = self._cut
                places = [len(jaxpr.invars) - program.num_leaves + p for p in blue.positions]
        self._sweep = Sweep(jaxpr, places, owners, narrow)
        self._room = _ROOM if blue.memory_limit is None else blue.memory_limit // 2
        self._block = None
        if self._cut is not None and spaces.batch is not None:
            self._block = _block(origin, spaces.batch.size, max(1, self._sweep.nbytes), jaxpr)

    @property
    def expansion(self) -> float:
        """The numbers that the sweep carries for its directions, divided by the operations of f."""
        return self._sweep.expansion

    def at(self, point: Point) -> Found:
        """Values, Laplacians and the gradient at a point; y and its Laplacian have the shapes of f's outputs."""
        consts, leaves = list(point.consts), list(point.leaves)
        if not self._sweep.narrows:
            return self._found(point, consts, leaves, False)

        # Factors of Gram matrices are the fastest, but have no derivatives where a matrix is singular. So derivatives
        # are taken of the sweep without factors. The rule outlives the trace, and so holds no arrays of the point.
        bare = point._replace(consts=[], leaves=[])

        @jax.custom_jvp
        def run(consts: list, leaves: list) -> Found:
            return self._found(bare, consts, leaves, True)

        def with_derivative(primals: tuple, tangents: tuple) -> tuple:
            return jax.jvp(lambda consts, leaves: self._found(bare, consts, leaves, False), primals, tangents)

        run.defjvp(with_derivative)
        return run(consts, leaves)

    def _found(self, point: Point, consts: list, leaves: list, factored: bool) -> Found:
        point = point._replace(consts=consts, leaves=leaves)
        if self._cut is None:
            outs = self._sweep.run([*self._own, *consts, *leaves], factored, self._room)
            values, laplacians, legs = self._apart(outs)
            return values, laplacians, self._gradient(point, legs)
        return self._of_samples(point, factored)

    def _apart(self, outs: Sequence[Carried]) -> tuple[list, list, list]:
        # A sweep along every input has found the gradient: its legs.
        values = [jnp.asarray(z.value) for z in outs]
        laplacians = [jnp.zeros_like(z.value) if z.laplacian is None else z.laplacian for z in outs]
        every = [written_out(z, self._sweep.count) for z in outs] if self._with_gradient else []
        known = all(len(z.legs) == 1 and len(z.legs[0]) == self._sweep.count for z in every)
        return values, laplacians, [z.legs[0] for z in every] if known else []

    def _gradient(self, point: Point, legs: list) -> list:
        if not self._with_gradient:
            return []
        if not legs:
            return gradient(point)
        batch, (leg,) = point.batch, legs  # (D, *y.shape)
        flat = leg.reshape(self._inputs.size, -1).T  # of one number, or of one for each sample
        found, start = [], 0
        for shape, dtype, size in zip(self._inputs.shapes, self._inputs.dtypes, self._inputs.sizes, strict=True):
            own = flat[:, start : start + size].astype(dtype)
            found.append(own.reshape(shape if batch is None else (len(flat), *shape)))
            start += size
        return found if batch is None else to_place(found, batch.inputs)

    def _of_samples(self, point: Point, factored: bool) -> Found:
        batch = point.batch
        assert batch is not None
        axes = dict(zip(self._positions, batch.inputs, strict=True))

        def one(given: tuple) -> tuple[list, list, list]:
            sample, own = given
            leaves = [jnp.expand_dims(own[k], axes[k]) if k in axes else a for k, a in enumerate(point.leaves)]
            outs = self._sweep.run([*self._own, sample, *point.consts, *leaves], factored, self._room)
            values, laplacians, legs = self._apart(outs)
            return _squeezed(values, batch), _squeezed(laplacians, batch), [leg.reshape(-1) for leg in legs]

        own = {k: jnp.moveaxis(point.leaves[k], axis, 0) for k, axis in axes.items()}
        numbers = jax.lax.iota(jnp.int32, batch.size)
        if self._block is None:
            made = jax.vmap(lambda *a: one(a))(numbers, own)
        else:
            made = jax.lax.map(one, (numbers, own), batch_size=self._block)
        values, laplacians, legs = made
        legs = [jnp.moveaxis(leg, 0, 1) for leg in legs]
        return to_place(values, batch.outputs), to_place(laplacians, batch.outputs), self._gradient(point, legs)


def _squeezed(leaves: list, batch: Batch) -> list:
    return [jax.lax.squeeze(a, [axis]) for a, axis in zip(leaves, batch.outputs, strict=True)]


def gradient(point: Point) -> list:
    """The gradient of an f of one number, or of one for each sample, by one pullback."""
    pull = pullback(point, (0,), tuple(range(len(point.positions))))
    found = pull([jnp.ones(a.shape, a.dtype) for a in jax.eval_shape(lambda: value(point)[0])])
    return found if point.batch is None else to_place(found, point.batch.inputs)


def _of_one_sample(jaxpr: Any, places: Sequence[int], batch: Batch) -> tuple[Any, list] | None:
    # The program of one sample, as a function of its number and the inputs of f, and the arrays that it holds. None: f
    # mixes samples, or the program has lost derivative rules and cannot be differentiated.
    axes: list[int | None] = [None] * len(jaxpr.invars)
    for place, axis in zip(places, batch.inputs, strict=True):
        axes[place] = axis
    made = cut(jaxpr, axes, batch.outputs, batch.size)
    if made is None or made.has_rules:
        return None
    avals = [v.aval for v in jaxpr.invars]
    shapes = [
        jax.ShapeDtypeStruct(a.shape if axis is None else (*a.shape[:axis], 1, *a.shape[axis + 1 :]), a.dtype)
        for a, axis in zip(avals, axes, strict=True)
    ]
    return opened(jax.make_jaxpr(made)(jax.ShapeDtypeStruct((), jnp.int32), shapes))


def _owners(shapes: Sequence[tuple[int, ...]], batch: Batch) -> list[np.ndarray]:
    # The same input of all samples shares one direction, since samples do not mix.
    owners, start = [], 0
    for shape, axis in zip(shapes, batch.inputs, strict=True):
        size = math.prod(shape)
        own = np.arange(start, start + size, dtype=np.int32).reshape(shape)
        owners.append(np.broadcast_to(np.expand_dims(own, axis), (*shape[:axis], batch.size, *shape[axis:])))
        start += size
    return owners


def _block(origin: Linearized, samples: int, each: int, jaxpr: Any) -> int | None:
    # How many samples run at once, each of `each` bytes; None: all.
    if jax.default_backend() == "cpu":
        most = _FACTORED if some(jaxpr, lambda eqn: bool(wiring(eqn).core)) else samples
        fitting = fits_cache(samples, each, os.cpu_count() or 1) or samples
        block = min(most, fitting)
        return None if block >= samples else block
    limit = origin.limit(samples * each)
    return None if limit is None or 2 * samples * each <= limit else max(1, limit // (2 * each))
