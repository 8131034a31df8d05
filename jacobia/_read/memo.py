"""Reads that repeat an earlier read of the same kind at another point, by one compiled call.

They need a store that knows none of the requested lines. A kernel returns lines of a block, padded to a few widths. In
the first read of a kind, NumPy takes the result of the key from the lines. From the second read on, the kernel returns
the result as well as the lines, which go to the store.
Knows what the last read of a kind has chosen. Knows nothing of costs but the number of lines.
Shapes: B samples, M by N a block, R requested lines.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, eval_context
from jacobia._plans.mirror import store_of
from jacobia._plans.recipes import Recipe, recipe_name
from jacobia._plans.request import Request
from jacobia._plans.samples import are_few, width_of
from jacobia._plans.sizes import padded_to
from jacobia._plans.take import as_array, keep, on_host
from jacobia._plans.ways import choose_way
from jacobia._program.walk import subprograms
from jacobia._run.blueprint import Blueprint
from jacobia._run.limits import padded_width
from jacobia._run.point import Linearized
from jacobia._run.seeds import LOOP, Sweep
from jacobia._store.gather import gather
from jacobia._store.keys import ROLES, Asked

# A kernel that returns the result too is compiled for each kind of key. That does not pay if evaluating f takes so long
# that taking the result by NumPy (some 50 us) does not matter, or if the program is so long that it takes seconds to
# compile. Such programs use the kernel that returns lines alone.
_CHEAP = 1e6  # the cost of f, in elements read or written
_SHORT = 400  # equations

# The most kinds of keys for one kernel, and the most prepared reads of the views of one layout.
_KINDS = 64
_KEYS = 256


class Take(NamedTuple):
    """How the result of a key is taken from the lines of one kernel: all but the numbers."""

    place: int  # the index of the lines among the results of the kernel
    cube: tuple[int, int, int]  # the shape (samples, rows, columns) of the lines; -1: an axis that may have padding
    turned: bool  # whether the lines are rows of the mirror image, and so columns of this block
    axis: int  # the axis of the cube along which the lines are numbered; padding is at its end
    seeds: int  # the number of lines without padding
    samples: int  # the number of samples without padding
    roles: tuple[str, ...]  # the axes ("batch", "rows", "columns") along which places are given
    order: tuple[str, ...]  # of the roles in the view
    outer: bool  # whether the key takes all combinations of its numbers
    shape: tuple[int, ...]  # of the result

    def of(self, lines: Any, places: Sequence, xp: Any = jnp) -> Any:
        """The result of the key.

        Args:
          lines: the array that the kernel returns.
          places: for each of `roles`, the places of the result along that axis of the lines, in the shape of the key.
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


class _Prepared(NamedTuple):
    # A read of one key, with everything that does not depend on the point.
    block: int  # the number of the block that is read
    recipe: Recipe
    sweeps: tuple[Sweep, ...]
    kernel: tuple[Any, Any] | None  # its name and its body; None: the recipe's kernel, and then NumPy takes the result
    take: Take | None  # None: the kernel's lines are the result
    ids: tuple  # the numbers of seeds, and of samples if only some are evaluated
    places: tuple  # the places of the result in the lines, for each role of `take`
    numbers: np.ndarray | None  # of the lines; None: all
    samples: np.ndarray | None  # numbers; None: all
    placed: bool = False  # whether ids and places are on the device: done when the same key is read again

    def run(self, origin: Linearized) -> jax.Array:
        recipe, take = self.recipe, self.take
        kernel, given = self.kernel or recipe.plain, () if self.kernel is None else self.places
        if recipe.samples is None and origin.keeps_for(self.sweeps):
            out = origin.run(self.sweeps, self.ids, (), None if self.kernel is None else take, given)
        else:
            out = origin.run_fused(*kernel, self.ids, given)
        lines = out[0][recipe.place]
        if take is not None and isinstance(lines, Tracer):  # another thread has begun a trace
            return take.of(lines, self.places)
        origin.note_later(_remember, self, lines)
        if take is None:
            return lines
        if self.kernel is not None:
            return out[-1]
        if not on_host(lines):
            return take.of(lines, self.places)
        return as_array(take.of(np.asarray(lines), [np.asarray(p) for p in self.places], np), lines)


class Reads:
    """The prepared reads of all views with one layout; bounded in number.

    A read is found by its key, and by its kind: the number of lines and the shape of the result, without the numbers
    in the key.

    Args:
      order: the order of the roles in the views.
      natural: whether the axes of the views are in the order of the block.
    """

    def __init__(self, order: tuple[str, ...], natural: bool) -> None:
        self.order, self.natural = order, natural
        self._of: dict[tuple, tuple[Blueprint, _Prepared]] = {}
        self._kinds: dict[tuple, tuple[Blueprint, _Prepared]] = {}

    def again(self, origin: Linearized, index: int, key: Any) -> jax.Array | None:
        """Read a key that was read before at another point, and store the lines.

        Args:
          key: the token of the key.

        Returns:
          None if the key has no prepared read, or if the store knows something of it.
        """
        found = self._of.get((index, key, origin.stacks))
        if found is None or found[0] is not origin.blue:
            return None
        read = found[1]
        if not read.placed:
            read = _placed(read)
            self._of[index, key, origin.stacks] = origin.blue, read
        with origin.lock:
            return read.run(origin) if _lacks(origin, index, read) else None

    def alike(self, origin: Linearized, index: int, key: Any, asked: Asked) -> jax.Array | None:
        """Read a key like one that was read before, with other numbers; None as for `again`."""
        found = self._kinds.get((index, _form(asked), origin.stacks))
        if found is None or found[0] is not origin.blue:
            return None
        read = _filled(found[1], asked, math.prod(origin.lead))
        self._keep(self._of, (index, key, origin.stacks), origin, read)
        with origin.lock:
            return read.run(origin) if _lacks(origin, index, read) else None

    def keep(self, origin: Linearized, key: Any, asked: Asked, read: _Prepared) -> None:
        """Keep a prepared read, under the token of its key and under its kind."""
        self._keep(self._of, (read.block, key, origin.stacks), origin, read)
        self._keep(self._kinds, (read.block, _form(asked), origin.stacks), origin, read)

    def _keep(self, reads: dict, name: tuple, origin: Linearized, read: _Prepared) -> None:
        if len(reads) >= _KEYS:
            reads.clear()
        reads[name] = origin.blue, read


def _lacks(origin: Linearized, index: int, read: _Prepared) -> bool:
    # Whether the store knows none of the requested lines. May be False where it knows none: only quick checks are made.
    store = origin.stores.get(index)
    if store is None:
        return True
    if store.whole() is not None or store.nonzeros is not None or store.mirror is not None or store.patches:
        return False
    lines, others = (store.rows, store.columns) if read.recipe.way == "rows" else (store.columns, store.rows)
    return read.samples is None and not others.pieces and lines.lacks(read.numbers)


def _form(asked: Asked) -> tuple:
    # The kind of a request: its sizes and shapes without its numbers.
    parts = zip(asked.numbers.values(), asked.places.values(), asked.ids.values(), strict=True)
    own = [
        (None if n is None else n.size, None if p is None else p.shape, None if i is None else i.shape)
        for n, p, i in parts
    ]
    return (asked.choice.shape, asked.choice.outer, *own)


def _filled(read: _Prepared, asked: Asked, samples: int) -> _Prepared:
    # A prepared read, with the numbers of another request of its kind.
    recipe, take = read.recipe, read.take
    numbers = None if read.numbers is None else asked.numbers[recipe.way]
    chosen = None if read.samples is None else asked.numbers["batch"]
    places: Sequence = ()
    if take is not None:
        held = _held(asked, recipe, recipe.samples or samples)
        places = [held[r] for r in take.roles]
    return read._replace(
        numbers=numbers, samples=chosen, ids=_ids(read.sweeps[0], numbers, recipe.samples, chosen),
        places=_given(places, read.kernel), placed=False,
    )  # fmt: skip


def _held(asked: Asked, recipe: Recipe, samples: int) -> dict[str, Any]:
    # Role → the places of the result along that axis of the lines; None: all in order.
    held = {r: asked.places[r] if asked.numbers[r] is None else asked.ids[r] for r in ROLES}
    if recipe.width is not None:
        held[recipe.way] = asked.places[recipe.way]
    if recipe.samples is not None:
        held["batch"] = asked.places["batch"]
    if samples == 1 and not asked.choice.outer:  # all entries are in the one sample; an outer key may repeat the sample
        held["batch"] = None
    return held


def _given(places: Sequence, kernel: Any) -> tuple:
    return tuple(places) if kernel is None else tuple([p.astype(np.int32) for p in places])


def again(origin: Linearized, index: int, key: Any, reads: Reads, asked: Asked) -> Any:
    """Read a key by the kernel of an earlier read, and store the lines.

    Args:
      key: the token of the key; None: it has none.
      reads: the prepared reads of the view's layout; this read is added.

    Returns:
      None if no kernel fits, or if the store knows something of the request.
    """
    if 0 in asked.choice.shape:
        return None
    rows, columns = asked.numbers["rows"], asked.numbers["columns"]
    if index in origin.stores and not origin.stores[index].lacks(rows, columns):
        return None
    recipe = _recipe(origin, index, asked)
    if recipe is None:
        return None
    read, settled = _prepared(origin, index, recipe, reads.order, reads.natural, asked)
    nbytes = math.prod(asked.choice.shape) * origin.blue.blocks[index].dtype.itemsize
    if settled and key is not None and origin.limit(nbytes) is None:  # else each read must check the free memory
        reads.keep(origin, key, asked, read)
    return read.run(origin)


def _prepared(
    origin: Linearized, index: int, recipe: Recipe, order: tuple[str, ...], natural: bool, asked: Asked
) -> tuple[_Prepared, bool]:
    # The prepared read, and whether the next read of its kind will use the same kernel.
    numbers = None if recipe.width is None else asked.numbers[recipe.way]
    samples = None if recipe.samples is None else asked.numbers["batch"]
    take, places = _taking(origin, index, recipe, numbers, samples, order, asked)
    as_it_is = natural and not places and take.outer and not recipe.turned
    if as_it_is and recipe.shape == take.shape:
        made, settled = _Made(recipe.sweeps, recipe.plain, None), True
    else:
        made, settled = _made(origin, recipe, take, as_it_is, numbers, samples)
    ids = _ids(made.sweeps[0], numbers, recipe.samples, samples)
    return _Prepared(index, recipe, *made, ids, _given(places, made.kernel), numbers, samples), settled


def _ids(sweep: Sweep, numbers: np.ndarray | None, count: int | None, samples: np.ndarray | None) -> tuple:
    ids = None if numbers is None or sweep.width is None else padded_to(numbers, sweep.width, -1)
    return (ids,) if samples is None or count is None else (ids, padded_to(samples, count, int(samples[0])))


def _placed(read: _Prepared) -> _Prepared:
    with eval_context():
        return read._replace(ids=jax.device_put(read.ids), places=jax.device_put(read.places), placed=True)


class _Made(NamedTuple):
    sweeps: tuple[Sweep, ...]
    kernel: tuple[Any, Any] | None  # its name and its body; None: the recipe's kernel, and then NumPy takes the result
    take: Take | None  # None: the lines are the result


def _made(
    origin: Linearized, recipe: Recipe, take: Take, as_it_is: bool, numbers: Any, samples: Any
) -> tuple[_Made, bool]:
    # The kernel for a kind of key: the first time, that for lines alone; from the second time on, the one that returns
    # the result as well. Also whether this is settled.
    name = take, as_it_is
    known = recipe.takes.get(name)
    if known is not None:
        return known, True
    by_numpy = _Made(recipe.sweeps, None, take)
    if name not in recipe.takes:
        if len(recipe.takes) >= _KINDS:
            recipe.takes.pop(next(iter(recipe.takes)))
        recipe.takes[name] = None
        return by_numpy, False
    made = by_numpy
    if _is_cheap(origin):
        made = _compiled(origin, recipe, take, as_it_is, numbers, samples)
    recipe.takes[name] = made
    return made, True


def _compiled(origin: Linearized, recipe: Recipe, take: Take, as_it_is: bool, numbers: Any, samples: Any) -> _Made:
    # The kernel that returns the result as well as the lines. It is for this number of lines, so it needs no padding.
    (sweep,) = recipe.sweeps
    if numbers is not None and sweep.padded and numbers.size <= LOOP:
        sweep = sweep._replace(width=numbers.size, padded=False)
    result = None if as_it_is and _unpadded(origin, recipe, sweep) == take.shape else take
    if samples is None:
        return _Made((sweep,), origin.fused((sweep,), (), result), result)
    ids = _ids(sweep, numbers, recipe.samples, samples)
    return _Made((sweep,), origin.cut_kernel(sweep, ids[1], result), result)


def _recipe(origin: Linearized, index: int, asked: Asked) -> Recipe | None:
    rows, columns = asked.numbers["rows"], asked.numbers["columns"]
    found, (m, n) = origin.blue.found, origin.blue.counts[index]
    if rows is None and columns is None and asked.numbers["batch"] is None:
        return found.get("recipe", recipe_name(origin, index, "all", None))
    r, c = m if rows is None else rows.size, n if columns is None else columns.size
    if not asked.choice.outer and asked.choice.ids[0].size not in (r, c) and min(r, c) > 1:
        return None  # entries at pairs: some rows and some columns together may take fewer passes
    way = choose_way(origin, index, Request(index, rows, columns).asks, r, c).way
    lines, most = (rows, m) if way == "rows" else (columns, n)
    width = None if lines is None else padded_width(lines.size, most)
    samples = asked.numbers["batch"]
    if samples is None or not are_few(origin, samples):
        return found.get("recipe", recipe_name(origin, index, way, width))
    store = origin.stores.get(index)
    if store is not None and any(map(len, store.patches.values())):
        return None  # the store knows lines of some samples
    return found.get("recipe", recipe_name(origin, index, way, width, width_of(origin, samples)))


def _unpadded(origin: Linearized, recipe: Recipe, sweep: Sweep) -> tuple[int, ...]:
    # The shape of the lines without padding.
    shape, lead = list(recipe.shape), len(origin.lead) if recipe.samples is None else 1
    if sweep.width is not None and not sweep.single:
        shape[lead if recipe.lines == "rows" else -1] = sweep.width
    return tuple(shape)


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
    size = (m, n)[axis - 1] if numbers is None else -1  # -1: the axis may end with padding
    cube = (b, size, m) if recipe.turned else (b, size, n) if axis == 1 else (b, m, size)
    held = _held(asked, recipe, b)
    roles = tuple(r for r in ROLES if held[r] is not None)
    count = (m, n)[axis - 1] if numbers is None else numbers.size
    left = b if samples is None else samples.size
    take = Take(recipe.place, cube, recipe.turned, axis, count, left, roles, order, choice.outer, choice.shape)
    return take, [held[r] for r in roles]


def _is_cheap(origin: Linearized) -> bool:
    return origin.blue.primal_cost < _CHEAP and _equations(origin.blue.program.jaxpr) < _SHORT


def _equations(jaxpr: Any) -> int:
    return sum(1 + sum(_equations(getattr(p, "jaxpr", p)) for p in subprograms(eqn)) for eqn in jaxpr.eqns)


def _remember(origin: Linearized, read: _Prepared, lines: jax.Array) -> None:
    recipe, numbers = read.recipe, read.numbers
    run = read.sweeps[0].width or recipe.count
    count = run if numbers is None else numbers.size
    keep(origin, recipe.block, recipe.lines, numbers, read.samples, lines)
    store_of(origin, read.block).count(recipe.way, recipe.by, count, count, run)
