"""From what is missing to what is known: choose a way, run one kernel for all blocks, remember.

Between the view, which knows what a key asks for, and the kernels, which know how to run sweeps.
"""

import math
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer
from jacobia._errors import MaterializationError
from jacobia._plans.choose import (
    check_width,
    key_of,
    nonzeros_known,
    possible,
    still_wanted,
    turned_ways,
    ways_of,
)
from jacobia._plans.fitting import fitting
from jacobia._plans.program import Whole
from jacobia._plans.recipes import Recipe, Together, recipe_name, worth_remembering
from jacobia._plans.sizes import padded, sized
from jacobia._plans.wants import Done, Todo, Want, flip_form, flipped, mirrored, most_of, request, store_of
from jacobia._plans.whole import whole
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._run.seeds import Image, Sweep
from jacobia._sparse.cover import Cross, cross
from jacobia._store.lines import Lines, Store
from jacobia._store.recall import recall


def fulfil(origin: Linearized, wants: Sequence[Want]) -> list[Done]:
    """Compute what is missing of some blocks of one call, in one kernel call, and remember it."""
    missing, asked, reflected = [], [], set()
    for want in wants:
        store = store_of(origin, want.block)
        recall(origin, want.block, store, want.rows, want.columns)
        if store.whole() is not None:
            continue
        if _reflected(origin, want, asked):
            reflected.add(want.block)
            continue
        if store.rows.num_missing(want.rows) and store.columns.num_missing(want.columns):
            missing.append(_missing(want, store))
            asked.append(still_wanted(*want, store))
    if not missing:
        return []
    done = compute(origin, missing, asked, reflected)
    for result in done:
        store = store_of(origin, result.block)
        if result.numbers is None:
            store.set_whole(result.array)
        else:
            (store.rows if result.way == "rows" else store.columns).put(result.numbers, result.array)
    return done


def crossing(origin: Linearized, want: Want, rows: np.ndarray, columns: np.ndarray) -> Cross | None:
    """The rows and columns for entries at pairs of places, where they are fewer than rows or columns alone."""
    store, ways = store_of(origin, want.block), possible(origin, origin.blue.blocks[want.block])
    if origin.lead or not all(ways) or store.whole() is not None or store.nonzeros is not None:
        return None
    alone = min(store.rows.missing(want.rows).size, store.columns.missing(want.columns).size)
    if not alone:
        return None
    unknown = np.isin(rows, store.rows.missing(want.rows)) & np.isin(columns, store.columns.missing(want.columns))
    if alone == 1 and unknown.any():
        return None
    found = cross(rows[unknown], columns[unknown])
    if origin.blue.symmetric and origin.blue.mirrors[want.block] == want.block:  # a row is a column too
        found = Cross(np.union1d(found.rows, found.columns), found.columns[:0])
    return found if len(found.rows) + len(found.columns) < alone else None


def fulfil_all(origin: Linearized, indices: Sequence[int]) -> None:
    """Compute all of some blocks, in one kernel call, and remember it."""
    recipe = None if origin.stores else origin.blue.found.get("recipe", (frozenset(indices), origin.stacks))
    if recipe is None:
        fulfil(origin, [Want(k, None, None) for k in indices])
        return
    out = origin.run_fused(recipe.kind, recipe.body, recipe.ids, ())
    for block, sweep, place, asked, way, by, lines in recipe.answers:
        store_of(origin, block).full = out[sweep][place]
        store_of(origin, asked).count(way, by, lines, lines, lines)
    for block, full in zip(recipe.images, out[-1], strict=False):
        store_of(origin, block).full = full


def _reflected(origin: Linearized, want: Want, among: Sequence[Want]) -> bool:
    # Whether all of it is the transpose of what is computed anyway.
    if not origin.blue.symmetric or want.rows is not None or want.columns is not None:
        return False
    image = origin.blue.mirrors[want.block]
    return any(w.block == image and w.rows is None and w.columns is None for w in among)


def compute_each(origin: Linearized, wants: Sequence[Want]) -> list[Done]:
    """What is asked for of some blocks, as part of a trace; nothing is remembered."""
    own = [k for k, w in enumerate(wants) if not _reflected(origin, w, wants[:k])]
    done = [_turned_back(origin, d) if d.turned else d for d in compute(origin, [wants[k] for k in own])]
    found = dict(zip(own, done, strict=True))
    for k, want in enumerate(wants):
        if k not in found:
            mirror = origin.blue.mirrors[want.block]
            image = next(n for n in own if wants[n] == Want(mirror, None, None))
            found[k] = Done(want.block, "rows", None, flipped(origin, wants[image].block, found[image].array))
    return [found[k] for k in range(len(wants))]


def _turned_back(origin: Linearized, done: Done) -> Done:
    # Rows of a mirror image, as columns of the block that was asked for.
    image = origin.blue.mirrors[done.block]
    if done.numbers is None:
        return Done(image, "rows", None, flipped(origin, done.block, done.array))
    lead = origin.lead
    array = jnp.moveaxis(done.array, len(lead), -1)
    array = array.reshape(lead + origin.blue.blocks[image].row_shape + array.shape[-1:])
    return Done(image, "columns", done.numbers, array)


def _missing(want: Want, store: Store) -> Want:
    def lines(of: Lines, numbers: Any) -> np.ndarray | None:
        return None if of.num_missing(numbers) == of.count else of.missing(numbers)

    return Want(want.block, lines(store.rows, want.rows), lines(store.columns, want.columns))


def compute(
    origin: Linearized,
    missing: Sequence[Want],
    asked: Sequence[Want] | None = None,
    reflected: Set[int] | None = None,
) -> list[Done]:
    """Run one kernel for all blocks, by the directions that f has.

    Args:
      missing: what has to be computed.
      asked: what was asked for, which says what the caller would rather have: rows or columns.
      reflected: blocks that are wanted whole besides, as transposes of missing ones. None: no transposes are made.

    Returns:
      What is missing, in order, and the transposes of whole blocks that are wanted as well.
    """
    origin.check_alive()
    blocks = [origin.blue.blocks[w.block] for w in missing]

    def work() -> list[Done]:
        if len(missing) == 1 and not reflected and missing[0].rows is None and missing[0].columns is None:
            way = whole(origin, missing[0].block)
            if way is not None:
                return [_whole(origin, missing[0].block, way)]
        ways = ways_of(origin, blocks, missing, asked or missing)
        for block, want, way in zip(blocks, missing, ways, strict=True):
            check_width(origin, block, want, way)
        try:
            plan = _sweeps(origin, missing, ways)
        except MaterializationError:
            ways = turned_ways(origin, blocks, ways)  # fewer passes, but more than fits: the other way may
            plan = _sweeps(origin, missing, ways)
        return _run(origin, missing, ways, reflected, *plan)

    return by_what_exists(origin, blocks, work)


def compute_missing(origin: Linearized, want: Want) -> None:
    """What is missing of one block, by the kernel that a read runs; nothing is remembered. To have it compiled."""
    store = store_of(origin, want.block)
    if store.whole() is not None or nonzeros_known(origin, want):
        return
    if store.rows.num_missing(want.rows) and store.columns.num_missing(want.columns):
        compute(origin.again(), [_missing(want, store)], [still_wanted(*want, store)], set())


def _whole(origin: Linearized, index: int, way: Whole) -> Done:
    full = way.compute(origin)
    store = store_of(origin, index)
    store.count("rows", origin.by("rows", origin.blue.blocks[index]), origin.blue.counts[index][0], 0, 0)
    if way.met:
        store.constant_rows += way.constant_rows
    way.met = way.met or origin.compiles
    return Done(index, "rows", None, full)


def _run(
    origin: Linearized,
    missing: Sequence[Want],
    ways: list[str],
    reflected: Set[int] | None,
    todo: list["Todo"],
    sweeps: tuple[Sweep, ...],
    ids: list,
    answers: list["_Answer"],
) -> list[Done]:
    images = _images(origin, missing, reflected, todo, answers) if origin.compiles else {}
    sweeps = fitting(origin, sweeps, ids, tuple(images.values()))
    out = origin.run(sweeps, ids, tuple(images.values()))
    done = [
        Done(t.want.block, t.way, a.numbers, out[a.sweep][a.place], _is_turned(t, want, way))
        for t, a, want, way in zip(todo, answers, missing, ways, strict=True)
    ]
    for want, way, answer, result in zip(missing, ways, answers, done, strict=True):
        _count(origin, want, way, sweeps[answer.sweep], result)
    if len(done) == 1 and not any(isinstance(i, Tracer) for i in ids):
        _remember_way(origin, missing[0], ways[0], done[0], sweeps, answers[0].place)
    made = [Done(block, "rows", None, full) for block, full in zip(images, out[-1], strict=False)]
    need = 2 * sum(_nbytes(origin, w.block) for w in missing)
    if len(done) > 1 and all(i is None for i in ids) and worth_remembering(origin, need):
        parts = [
            (d.block, a.sweep, a.place, w.block, way, _by(origin, d), most_of(origin.blue.blocks[w.block], way))
            for d, a, w, way in zip(done, answers, missing, ways, strict=True)
        ]
        forms = origin.fused(sweeps, tuple(images.values()))
        recipe = Together(*forms, tuple(ids), tuple(parts), tuple(images))
        origin.blue.found.put("recipe", (frozenset(d.block for d in (*done, *made)), origin.stacks), recipe)
    return [*done, *made]


def _images(
    origin: Linearized,
    missing: Sequence[Want],
    reflected: Set[int] | None,
    todo: list["Todo"],
    answers: list["_Answer"],
) -> dict[int, Image]:
    # Whole blocks that are wanted and are transposes of what is computed, by their numbers.
    if reflected is None or not origin.blue.symmetric:
        return {}
    wanted = reflected | {w.block for w in missing if w.rows is None and w.columns is None}
    computed = {t.want.block for t in todo}
    images = {}
    for (want, way), answer in zip(todo, answers, strict=True):
        image = origin.blue.mirrors[want.block]
        if image in wanted - computed and (want.rows if way == "rows" else want.columns) is None:
            form = flip_form(origin.blue, origin.blue.spaces.lead, want.block)
            images[image] = Image(answer.sweep, answer.place, *form)
    return images


def _is_turned(todo: "Todo", want: Want, way: str) -> bool:
    if (todo.want.rows if todo.way == "rows" else todo.want.columns) is None:
        return todo.want.block != want.block
    return todo.way != way


def _count(origin: Linearized, want: Want, way: str, sweep: Sweep, done: Done) -> None:
    lines = most_of(origin.blue.blocks[want.block], way) if done.numbers is None else len(done.numbers)
    run = lines if sweep.width is None else sweep.width
    store_of(origin, want.block).count(way, _by(origin, done), lines, lines, run)


def _by(origin: Linearized, done: Done) -> str:
    return origin.by(done.way, origin.blue.blocks[done.block])


def _laid_out(origin: Linearized, want: Want, way: str) -> Todo:
    # Where all lines are computed, those of a symmetric matrix may lie either way: as it is cheaper to write them.
    todo = mirrored(origin, want, way)
    if todo.want.rows is None and todo.way == "rows" and origin.blue.lies_across:
        return Todo(Want(origin.blue.mirrors[todo.want.block], todo.want.columns, None), "columns")
    return todo


def _nbytes(origin: Linearized, index: int) -> int:
    block = origin.blue.blocks[index]
    return block.dtype.itemsize * math.prod(origin.lead + block.row_shape + block.column_shape)


def _remember_way(origin: Linearized, want: Want, way: str, done: Done, sweeps: tuple[Sweep, ...], place: int) -> None:
    (sweep,), index = sweeps, want.block
    block = origin.blue.blocks[index]
    every = done.numbers is None
    if every and done.block != index:
        return
    one = sweep.single and origin.blue.memory_limit is None  # nothing to divide, however long it is
    width = None if every else sweep.width
    count = most_of(block, way) if width is None else width
    need = 2 * _nbytes(origin, index) if every else 0 if one else count * origin.blue.per_seed
    if not worth_remembering(origin, need):
        return
    name = recipe_name(origin, index, "all" if request(want) == "all" else way, width)
    turned = done.turned and not every
    shape = tuple(done.array.shape)
    recipe = Recipe(way, width, count, done.block, done.way, turned, _by(origin, done), sweeps, place, shape, None,
                    origin.fused(sweeps))  # fmt: skip
    origin.blue.found.put("recipe", name, recipe)


class _Answer(NamedTuple):
    sweep: int
    place: int  # among the leaves that the sweep reads
    numbers: Any


def _sweeps(
    origin: Linearized, missing: Sequence[Want], ways: list[str]
) -> tuple[list[Todo], tuple[Sweep, ...], list, list[_Answer]]:
    # Blocks that need the same lines of the same leaves share their seeds.
    todo = [_laid_out(origin, want, way) for want, way in zip(missing, ways, strict=True)]
    blocks = [origin.blue.blocks[t.want.block] for t in todo]
    groups: dict[Any, list[int]] = {}
    for k, (block, (want, way)) in enumerate(zip(blocks, todo, strict=True)):
        seeded, numbers = (block.outs, want.rows) if way == "rows" else (block.ins, want.columns)
        by = origin.blue.by(way, block.outs, block.ins)
        groups.setdefault((way, by, seeded, key_of(numbers)), []).append(k)
    sweeps, ids, answers = [], [], {}
    for (way, *_), members in groups.items():
        numbers = todo[members[0]].want.rows if way == "rows" else todo[members[0]].want.columns
        outs = tuple(dict.fromkeys(i for k in members for i in blocks[k].outs))
        ins = tuple(dict.fromkeys(j for k in members for j in blocks[k].ins))
        sweep = sized(origin, way, outs, ins, numbers)
        if sweep.padded and sweep.width == 1:
            sweep = sweep._replace(single=True)
        sweeps.append(sweep)
        ids.append(padded(numbers, sweep))
        read = ins if way == "rows" else outs
        for k in members:
            own = blocks[k].ins if way == "rows" else blocks[k].outs
            answers[k] = _Answer(len(sweeps) - 1, 0 if origin.blue.ravel else read.index(own[0]), numbers)
    return todo, tuple(sweeps), ids, [answers[k] for k in range(len(blocks))]
