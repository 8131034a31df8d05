"""A block of which nothing that is asked for is known, read as the reads of its kind before: by one compiled call.

A kernel gives lines of a block, padded to a few widths. What a key makes of the lines is computed by NumPy the first
time; from the second time on the kernel gives the lines, to be remembered, and the result beside them. Knows what the
last read of a kind has chosen; weighs nothing but the number of lines.
Shapes: B samples, M by N a block, R lines asked for.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia import _plan
from jacobia._compat import Tracer, eval_context
from jacobia._few import are_few, width_of
from jacobia._fulfil import Recipe, Want, choose_way, padded_to, request, store_of
from jacobia._indexing import ROLES, Asked, gather
from jacobia._reading import Linearized
from jacobia._store import Patches
from jacobia._take import as_array, on_host
from jacobia.program.walk import subprograms

# A kernel that returns the result too is compiled anew for each kind of key. Where a pass takes so long that copying
# the result by NumPy (some 50 us) does not matter beside it, or where the program is so long that compiling it takes
# seconds, the kernel for lines alone has to do.
_CHEAP = 1e6  # elements read or written
_SHORT = 400  # equations

# So many kinds of keys are told apart for one kernel.
_KINDS = 64


class Take(NamedTuple):
    """What a key makes of the lines of one kernel: the form, without the numbers."""

    place: int  # of the lines among what the kernel gives
    cube: tuple[int, int, int]  # axes (samples, rows, columns) of the lines, padding included
    turned: bool  # they are rows of the mirror image, whose rows are columns here
    axis: int  # along which they lie, with padding behind them
    seeds: int  # how many they are without padding
    samples: int  # and samples
    roles: tuple[str, ...]  # which have places
    order: tuple[str, ...]
    outer: bool
    shape: tuple[int, ...]

    def of(self, lines: Any, places: Sequence, xp: Any = jnp) -> Any:
        """The result of the key.

        Args:
          lines: as the kernel gives them.
          places: for each of `roles`, where the result stands along that axis, shaped as in the key.
          xp: numpy or jax.numpy.
        """
        cube = lines.reshape(self.cube)
        if self.turned:
            cube = cube.swapaxes(1, 2)
        if cube.shape[self.axis] != self.seeds:
            cube = cube[(slice(None),) * self.axis + (slice(0, self.seeds),)]
        cube = cube if cube.shape[0] == self.samples else cube[: self.samples]
        found = dict(zip(self.roles, places, strict=True))
        return gather(xp, cube, found, self.order, self.outer, self.shape)


def again(origin: Linearized, index: int, order: tuple[str, ...], natural: bool, asked: Asked) -> Any:
    """The result of a key by the kernel of a read before, remembered; None where there was no such read.

    Args:
      order: of the roles in the view.
      natural: whether the axes of the view lie as those of the block.
    """
    if origin.special or 0 in asked.choice.shape:
        return None
    rows, columns = asked.numbers["rows"], asked.numbers["columns"]
    if index in origin.stores and not origin.stores[index].lacks(rows, columns):
        return None
    recipe = _recipe(origin, index, asked)
    if recipe is None:
        return None
    numbers = None if recipe.width is None else rows if recipe.way == "rows" else columns
    ids: tuple = (None if numbers is None else _on_device(numbers.tobytes(), numbers.dtype, recipe.width, -1),)
    samples = None if recipe.samples is None else asked.numbers["batch"]
    if samples is not None:
        ids += (_on_device(samples.tobytes(), samples.dtype, recipe.samples, int(samples[0])),)
    take, places = _taking(origin, index, recipe, numbers, samples, order, asked)
    same = natural and not places and take.outer and not recipe.turned and recipe.shape == take.shape
    kernel = recipe.plain if same else _with_take(origin, recipe, take, ids)
    if kernel is None:
        out = _run(origin, recipe, None, recipe.plain, ids, ())
    else:
        out = _run(origin, recipe, None if same else take, kernel, ids, tuple(map(_argument, places)))
    lines = out[0][recipe.place]
    if isinstance(lines, Tracer):  # another thread has begun a trace
        return take.of(lines, places)
    _remember(origin, index, recipe, numbers, samples, lines)
    if kernel is not None:
        return lines if same else out[-1]
    if not on_host(lines):
        return take.of(lines, places)
    return as_array(np, take.of(np.asarray(lines), places, np), lines)


def _recipe(origin: Linearized, index: int, asked: Asked) -> Recipe | None:
    rows, columns = asked.numbers["rows"], asked.numbers["columns"]
    recipes, (m, n) = origin.blue.recipes, origin.blue.counts[index]
    if rows is None and columns is None and asked.numbers["batch"] is None:
        return recipes.get((index, "all", None))
    r, c = m if rows is None else rows.size, n if columns is None else columns.size
    if not asked.choice.outer and asked.choice.ids[0].size not in (r, c) and min(r, c) > 1:
        return None  # entries at pairs of places, which fewer rows and columns together may hold
    way = choose_way(origin, index, request(Want(index, rows, columns)), r, c).way
    lines, most = (rows, m) if way == "rows" else (columns, n)
    width = None if lines is None else _plan.padded_width(lines.size, most)
    samples = asked.numbers["batch"]
    if samples is None or not are_few(origin, samples):
        return recipes.get((index, way, width))
    store = origin.stores.get(index)
    if store is not None and any(map(len, store.patches.values())):
        return None  # something is known of some samples
    return recipes.get((index, way, width, width_of(origin, samples)))


def _taking(
    origin: Linearized,
    index: int,
    recipe: Recipe,
    numbers: np.ndarray | None,
    samples: np.ndarray | None,
    order: tuple[str, ...],
    asked: Asked,
) -> tuple[Take, list]:
    choice, (m, n) = asked.choice, origin.blue.counts[index]
    b = recipe.samples or math.prod(origin.lead)
    axis = 1 if recipe.way == "rows" else 2
    size = (m, n)[axis - 1] if recipe.width is None else recipe.width
    cube = (b, size, n) if axis == 1 or recipe.turned else (b, m, size)
    if recipe.turned:
        cube = (b, size, m)
    held = {r: asked.places[r] if asked.numbers[r] is None else asked.ids[r] for r in ROLES}
    if numbers is not None:
        held[recipe.way] = asked.places[recipe.way]
    if samples is not None:
        held["batch"] = asked.places["batch"]
    roles = tuple(r for r in ROLES if held[r] is not None)
    count = size if numbers is None else numbers.size
    left = b if samples is None else samples.size
    take = Take(recipe.place, cube, recipe.turned, axis, count, left, roles, order, choice.outer, choice.shape)
    return take, [held[r] for r in roles]


def _with_take(origin: Linearized, recipe: Recipe, take: Take, ids: tuple) -> tuple[Any, Any] | None:
    # The kernel that gives the result beside the lines, from the second time on.
    known = recipe.takes.get(take)
    if known is not None:
        return known or None
    if take not in recipe.takes:
        if len(recipe.takes) >= _KINDS:
            recipe.takes.pop(next(iter(recipe.takes)))
        recipe.takes[take] = None
        return None
    kernel = _kernel(origin, recipe, take, ids) if _worth_compiling(origin) else ()
    recipe.takes[take] = kernel
    return kernel or None


def _kernel(origin: Linearized, recipe: Recipe, take: Take, ids: tuple) -> tuple[Any, Any]:
    if recipe.samples is None:
        return origin.fused(recipe.sweeps, (), take)
    return origin.cut_kernel(recipe.sweeps[0], ids[1], take)


def _worth_compiling(origin: Linearized) -> bool:
    return origin.blue.primal_cost < _CHEAP and _equations(origin.blue.program.jaxpr) < _SHORT


def _equations(jaxpr: Any) -> int:
    return sum(1 + sum(_equations(getattr(p, "jaxpr", p)) for p in subprograms(eqn)) for eqn in jaxpr.eqns)


def _run(
    origin: Linearized, recipe: Recipe, take: Take | None, kernel: tuple[Any, Any], ids: tuple, places: tuple
) -> list:
    if recipe.samples is None and origin.keeps_for(recipe.sweeps):
        return origin.run(recipe.sweeps, ids, (), take, places)
    return origin.run_fused(*kernel, ids, places)


def _remember(
    origin: Linearized,
    index: int,
    recipe: Recipe,
    numbers: np.ndarray | None,
    samples: np.ndarray | None,
    lines: jax.Array,
) -> None:
    store, own = store_of(origin, recipe.block), store_of(origin, index)
    if samples is not None:
        patches = store.patches.setdefault(recipe.lines, Patches())
        patches.put(samples, np.arange(recipe.count) if numbers is None else numbers, lines)
    elif numbers is None:
        store.set_whole(lines)
    else:
        (store.rows if recipe.lines == "rows" else store.columns).put(numbers, lines)
    count = recipe.count if numbers is None else numbers.size
    own.count(recipe.way, recipe.by, count, count, recipe.count)


@lru_cache(maxsize=256)
def _on_device(numbers: bytes, dtype: Any, width: int, padding: int) -> jax.Array:
    # Numbers as the kernel takes them: the same lines are read at one point after the other.
    with eval_context():
        return jax.device_put(padded_to(np.frombuffer(numbers, dtype), width, padding))


def _argument(places: np.ndarray) -> jax.Array:
    return _places_on_device(places.tobytes(), places.dtype, places.shape)


@lru_cache(maxsize=256)
def _places_on_device(places: bytes, dtype: Any, shape: tuple[int, ...]) -> jax.Array:
    with eval_context():
        return jax.device_put(np.frombuffer(places, dtype).reshape(shape).astype(np.int32))
