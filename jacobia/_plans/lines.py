"""From what is missing to what is known: choose a way, run one kernel for all blocks, remember.

Between the view, which knows what a key asks for, and the kernels, which know how to run sweeps.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer
from jacobia._errors import MaterializationError
from jacobia._plans.fitting import fitting
from jacobia._plans.program import Whole
from jacobia._plans.whole import whole
from jacobia._run import plan as _plan
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.plan import Plan
from jacobia._run.point import Linearized, by_what_exists, refused
from jacobia._run.seeds import Image, Sweep
from jacobia._sparse.cover import Cross, cross
from jacobia._store.lines import Lines, Store
from jacobia._store.recall import recall
from jacobia._words import counted


class Want(NamedTuple):
    """Lines of one block: numbers (sorted and different, or traced), or None for all."""

    block: int  # its number
    rows: Any
    columns: Any


class Done(NamedTuple):
    block: int  # the one that was computed: the mirror image of the one asked for, where a column was a row there
    way: str  # "rows" or "columns"
    numbers: Any  # None: all
    array: Any  # (R, *x.shape), x.shape for one row, or (*y.shape, R), padded behind; or y.shape + x.shape for all
    turned: bool = False  # columns were asked for, and are rows of the mirror image


def store_of(origin: Linearized, index: int) -> Store:
    store = origin.stores.get(index)
    if store is None:
        with origin.lock:
            store = origin.stores.get(index) or _new_store(origin, index)
    return store


def _new_store(origin: Linearized, index: int) -> Store:
    blue = origin.blue
    m, n = blue.counts[index]
    store = Store(m, n)
    if blue.symmetric:
        lead = origin.lead  # taken out here: the origin owns the store, and nothing owns the origin
        other = blue.mirrors[index]
        twin = store if other == index else Store(n, m)
        store.reflect(twin, lambda full: _flip(full, *_flip_form(blue, lead, other)))
        twin.reflect(store, lambda full: _flip(full, *_flip_form(blue, lead, index)))
        origin.stores[other] = twin
    origin.stores[index] = store
    return store


def flipped(origin: Linearized, index: int, full: Any) -> jax.Array:
    """The whole mirror image of a block."""
    return _flip(full, *_flip_form(origin.blue, origin.lead, index))


def _flip_form(blue: Blueprint, lead: tuple[int, ...], index: int) -> tuple:
    image, block = blue.blocks[blue.mirrors[index]], blue.blocks[index]
    rows = len(lead) + len(block.row_shape)
    axes = range(rows + len(block.column_shape))
    return (*axes[: len(lead)], *axes[rows:], *axes[len(lead) : rows]), lead + image.row_shape + image.column_shape


@partial(jax.jit, static_argnums=(1, 2))
def _flip(full: jax.Array, axes: tuple, shape: tuple) -> jax.Array:
    return jnp.transpose(full, axes).reshape(shape)


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
            asked.append(_want(*want, store))
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
    if alone < 2:
        return None
    unknown = np.isin(rows, store.rows.missing(want.rows)) & np.isin(columns, store.columns.missing(want.columns))
    found = cross(rows[unknown], columns[unknown])
    return found if len(found.rows) + len(found.columns) < alone else None


def fulfil_all(origin: Linearized, indices: Sequence[int]) -> None:
    """Compute all of some blocks, in one kernel call, and remember it."""
    recipe = None if origin.stores else origin.blue.recipes.get((frozenset(indices), origin.stacks))
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


def _want(block: int, rows: Any, columns: Any, store: Store) -> Want:
    return Want(block, _none_if_all(rows, store.rows), _none_if_all(columns, store.columns))


def _missing(want: Want, store: Store) -> Want:
    def lines(of: Lines, numbers: Any) -> np.ndarray | None:
        return None if of.num_missing(numbers) == of.count else of.missing(numbers)

    return Want(want.block, lines(store.rows, want.rows), lines(store.columns, want.columns))


def _none_if_all(numbers: np.ndarray | None, lines: Lines) -> np.ndarray | None:
    return None if numbers is None or numbers.size == lines.count else numbers


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
        ways = _ways(origin, blocks, missing, asked or missing)
        for block, want, way in zip(blocks, missing, ways, strict=True):
            _check_width(origin, block, want, way)
        try:
            plan = _sweeps(origin, missing, ways)
        except MaterializationError:
            ways = _turned(origin, blocks, ways)  # fewer passes, but more than fits: the other way may
            plan = _sweeps(origin, missing, ways)
        return _run(origin, missing, ways, reflected, *plan)

    return by_what_exists(origin, blocks, work)


def compute_missing(origin: Linearized, want: Want) -> None:
    """What is missing of one block, by the kernel that a read runs; nothing is remembered. To have it compiled."""
    store = store_of(origin, want.block)
    if store.whole() is not None or nonzeros_known(origin, want):
        return
    if store.rows.num_missing(want.rows) and store.columns.num_missing(want.columns):
        compute(origin.again(), [_missing(want, store)], [_want(*want, store)], set())


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
            (d.block, a.sweep, a.place, w.block, way, _by(origin, d), _most(origin.blue.blocks[w.block], way))
            for d, a, w, way in zip(done, answers, missing, ways, strict=True)
        ]
        forms = origin.fused(sweeps, tuple(images.values()))
        recipe = _Together(*forms, tuple(ids), tuple(parts), tuple(images))
        origin.blue.recipes[frozenset(d.block for d in (*done, *made)), origin.stacks] = recipe
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
            form = _flip_form(origin.blue, origin.blue.spaces.lead, want.block)
            images[image] = Image(answer.sweep, answer.place, *form)
    return images


def _is_turned(todo: "Todo", want: Want, way: str) -> bool:
    if (todo.want.rows if todo.way == "rows" else todo.want.columns) is None:
        return todo.want.block != want.block
    return todo.way != way


def _count(origin: Linearized, want: Want, way: str, sweep: Sweep, done: Done) -> None:
    lines = _most(origin.blue.blocks[want.block], way) if done.numbers is None else len(done.numbers)
    run = lines if sweep.width is None else sweep.width
    store_of(origin, want.block).count(way, _by(origin, done), lines, lines, run)


def _by(origin: Linearized, done: Done) -> str:
    return origin.by(done.way, origin.blue.blocks[done.block])


class Todo(NamedTuple):
    want: Want
    way: str


def mirrored(origin: Linearized, want: Want, way: str) -> Todo:
    """What is computed for a want: a column of a symmetric matrix is a row of its mirror image."""
    if way == "columns" and origin.blue.symmetric:
        return Todo(Want(origin.blue.mirrors[want.block], want.columns, want.rows), "rows")
    return Todo(want, way)


def _laid_out(origin: Linearized, want: Want, way: str) -> Todo:
    # Where all lines are computed, those of a symmetric matrix may lie either way: as it is cheaper to write them.
    todo = mirrored(origin, want, way)
    if todo.want.rows is None and todo.way == "rows" and origin.blue.lies_across:
        return Todo(Want(origin.blue.mirrors[todo.want.block], todo.want.columns, None), "columns")
    return todo


def _check_width(origin: Linearized, block: Block, want: Want, way: str) -> None:
    # Where a pullback would round (see Blueprint.blocks), rows come from columns: right, and dear for many inputs.
    if origin.blue.mode == "fwd" or block.ways.rows or way == "rows" or want.rows is None:
        return
    rows, passes = len(want.rows), _count_of(want.columns, block.column_shape)
    if passes > 4096 and passes > 64 * rows:
        outs, ins = origin.blue.spaces.outputs, origin.blue.spaces.inputs
        x, y = ins.dtypes[block.ins[0]], outs.dtypes[block.outs[0]]
        raise TypeError(
            f"J[...]: expected inputs as wide as the outputs for {rows} rows, got {x} and {y}. A pullback "
            f"would round to {x}, and without it they take {passes} pushforwards. Convert the output of f to {x} for a "
            f"Jacobian of that precision, or the inputs to {y}."
        )


def nonzeros_known(origin: Linearized, want: Want) -> bool:
    """Whether lines of a block are recalled from its nonzeros."""
    return store_of(origin, want.block).nonzeros is not None and not origin.lead


def plan(origin: Linearized, want: Want, across: Cross | None = None) -> Plan:
    """What `fulfil` would do for one block; nothing is computed.

    Args:
      across: rows and columns for entries at pairs of places.
    """
    store = store_of(origin, want.block)
    if store.whole() is not None:
        return Plan("none", 0, 0, "all of it is known")
    if nonzeros_known(origin, want):
        return Plan("none", 0, 0, "all of its nonzeros are known")
    rows, columns = store.rows.num_missing(want.rows), store.columns.num_missing(want.columns)
    choice = choose_way(origin, want.block, request(_want(*want, store)), rows, columns)
    if across is not None:
        own, other = counted(len(across.rows), "rows"), counted(len(across.columns), "columns")
        passes = len(across.rows) + len(across.columns)
        if not passes:
            return Plan("none", 0, 0, "everything asked for is known")
        return Plan("rows and columns", passes, min(rows, columns), f"{own} and {other} hold all of it")
    if request(want) == "all" and rows == store.rows.count and columns == store.columns.count:
        found = whole(origin, want.block)
        if found is not None:
            return Plan(found.way, 0, min(rows, columns), found.why)
    passes, instead = (rows, columns) if choice.way == "rows" else (columns, rows)
    return Plan(choice.way, 0 if choice.way == "none" else passes, instead, choice.why)


def possible(origin: Linearized, block: Block) -> _plan.Ways:
    """Which lines of a block can be computed one by one.

    Raises:
      What JAX says of the directions of f: none of them can.
    """
    blue, known = origin.blue, origin.directions(block)
    rows, columns = known.pullback, known.pushforward is not None
    if blue.spaces.pushes_rows:  # either direction gives a row
        rows = rows or known.pushforward == "jvp"
    if blue.symmetric:
        columns = rows
    if not known.linear:  # whatever the dtypes, and as JAX gives them
        ways = _plan.Ways(blue.mode != "fwd" and block.only != "columns", False)
    else:
        ways = _plan.Ways(block.ways.rows and rows, block.ways.columns and columns)
    if not any(ways):
        raise refused(origin, block)
    return ways


def choose_way(origin: Linearized, index: int, asked: str, rows: int, columns: int) -> _plan.Choice:
    """Rows or columns, for so many missing ones of one block."""
    blue = origin.blue
    block, own = blue.blocks[index], blue.symmetric and blue.mirrors[index] == index
    if own:  # rows and columns are the same lines
        choice = _plan.choose(asked, rows, columns, possible(origin, block))
        same = choice.way == "columns" and asked != "columns" and rows == columns
        return choice._replace(way="rows") if same else choice
    return _plan.choose(asked, rows, columns, possible(origin, block), lambda: blue.relative_cost(block, rows, columns))


def _ways(origin: Linearized, blocks: list[Block], missing: Sequence[Want], asked: Sequence[Want]) -> list[str]:
    each = [possible(origin, b) for b in blocks]
    rows = sum(
        {(b.outs, _key(w.rows)): _count_of(w.rows, b.row_shape) for b, w in zip(blocks, missing, strict=True)}.values()
    )
    columns = sum(
        {
            (b.ins, _key(w.columns)): _count_of(w.columns, b.column_shape) for b, w in zip(blocks, missing, strict=True)
        }.values()
    )
    joint = _plan.Ways(all(p.rows for p in each), all(p.columns for p in each))
    if any(joint) and not (origin.blue.symmetric and len(blocks) > 1):
        if len(blocks) == 1:
            return [choose_way(origin, missing[0].block, request(asked[0]), rows, columns).way]
        one = _plan.choose(
            request(asked[0]), rows, columns, joint, lambda: origin.blue.relative_cost(_joined(blocks), rows, columns)
        )
        return [one.way] * len(blocks)
    return [
        choose_way(
            origin, m.block, request(a), _count_of(m.rows, b.row_shape), _count_of(m.columns, b.column_shape)
        ).way
        for a, m, b in zip(asked, missing, blocks, strict=True)
    ]


def _turned(origin: Linearized, blocks: list[Block], ways: list[str]) -> list[str]:
    turned = ["columns" if way == "rows" else "rows" for way in ways]
    fine = [getattr(possible(origin, b), way) for b, way in zip(blocks, turned, strict=True)]
    return turned if all(fine) else ways


def _joined(blocks: list[Block]) -> Block:
    outs = tuple(sorted({i for b in blocks for i in b.outs}))
    return blocks[0]._replace(outs=outs, ins=tuple(sorted({j for b in blocks for j in b.ins})))


def request(want: Want) -> str:
    """What a want asks for, in one word: "all", "rows", "columns" or a "block" of both."""
    if want.rows is None:
        return "all" if want.columns is None else "columns"
    return "rows" if want.columns is None else "block"


def _count_of(numbers: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) if numbers is None else len(numbers)


def _key(numbers: Any) -> Any:
    if numbers is None:
        return None
    return id(numbers) if isinstance(numbers, Tracer) else numbers.tobytes()


@dataclass
class Recipe:
    """How lines of a block were computed, for a block of which they are not known: there is nothing to weigh again."""

    way: str  # "rows" or "columns", as they are asked for
    width: int | None  # of the kernel; None: all lines
    count: int  # how many seeds it runs
    block: int  # whose store gets the lines: the mirror image, where a column was a row there
    lines: str  # "rows" or "columns" over there
    turned: bool
    by: str
    sweeps: tuple[Sweep, ...]
    place: int  # of the lines among what the kernel gives
    shape: tuple[int, ...]  # of the lines
    samples: int | None  # how many run by themselves; None: all
    plain: tuple[Any, Callable]  # the kernel that gives the lines alone: its name and its body
    takes: dict = field(default_factory=dict)  # kernels that give the result of a key as well, by the kind of the key


def recipe_name(origin: Linearized, index: int, way: str, width: int | None, samples: int | None = None) -> tuple:
    """What a recipe is found by: `way` is "all" where all of a block is asked for."""
    return index, way, width, samples, origin.stacks


class _Together(NamedTuple):
    # The same for all of several blocks.
    kind: Any
    body: Any
    ids: tuple
    answers: tuple  # (block, sweep, place of its answer; block asked for, way, by, lines)
    images: tuple[int, ...]  # blocks behind the answers


def _nbytes(origin: Linearized, index: int) -> int:
    block = origin.blue.blocks[index]
    return block.dtype.itemsize * math.prod(origin.lead + block.row_shape + block.column_shape)


def worth_remembering(origin: Linearized, need: int) -> bool:
    """Whether a way is remembered: only what is small."""
    return origin.compiles and origin.limit(need) is None


def _remember_way(origin: Linearized, want: Want, way: str, done: Done, sweeps: tuple[Sweep, ...], place: int) -> None:
    (sweep,), index = sweeps, want.block
    block = origin.blue.blocks[index]
    every = done.numbers is None
    if every and done.block != index:
        return
    one = sweep.single and origin.blue.memory_limit is None  # nothing to divide, however long it is
    width = None if every else sweep.width
    count = _most(block, way) if width is None else width
    need = 2 * _nbytes(origin, index) if every else 0 if one else count * origin.blue.per_seed
    if not worth_remembering(origin, need):
        return
    name = recipe_name(origin, index, "all" if request(want) == "all" else way, width)
    turned = done.turned and not every
    shape = tuple(done.array.shape)
    recipe = Recipe(way, width, count, done.block, done.way, turned, _by(origin, done), sweeps, place, shape, None,
                    origin.fused(sweeps))  # fmt: skip
    origin.blue.recipes[name] = recipe


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
        groups.setdefault((way, by, seeded, _key(numbers)), []).append(k)
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


def _most(block: Block, way: str) -> int:
    return math.prod(block.row_shape if way == "rows" else block.column_shape)


def padded(numbers: Any, sweep: Sweep) -> Any:
    """Numbers of seeds as the kernel of a sweep takes them."""
    if numbers is None or sweep.width is None:
        return None
    return padded_to(numbers, sweep.width) if sweep.padded else jnp.asarray(numbers, jnp.int32)


def padded_to(numbers: np.ndarray, width: int, padding: int = -1) -> np.ndarray:
    """Numbers of seeds, or of samples, with others behind them that do not count."""
    out = np.full(width, padding, np.int32)
    out[: numbers.size] = numbers
    return out


def sized(
    origin: Linearized,
    way: str,
    outs: tuple,
    ins: tuple,
    numbers: Any,
    diagonal: bool = False,
    samples: int | None = None,
) -> Sweep:
    """A sweep over some seeds (None: all), for so many samples (None: all), as wide as memory allows.

    How wide the kernel is and how many seeds run at once is decided last: it depends on everything else. Where no
    memory has to be watched it is always the same.
    """
    blue, padded = origin.blue, numbers is not None and origin.compiles
    seeded, read = blue.spaces.outputs.pick(outs), blue.spaces.inputs.pick(ins)
    if way != "rows":
        seeded, read = read, seeded
    seeds = seeded.size if numbers is None else len(numbers)
    width = _plan.padded_width(seeds, seeded.size) if padded else seeds
    by = blue.by(way, outs, ins)
    name = (way, by, outs, ins, None if numbers is None else width, padded, diagonal, origin.batch, samples)
    if name in blue.small_sweeps:
        return blue.small_sweeps[name]
    answer = 1 if diagonal else read.size
    share = 1.0 if samples is None else samples / math.prod(origin.lead)
    line = int(answer * max(d.itemsize for d in seeded.dtypes + read.dtypes) * math.prod(origin.lead) * share)
    per_seed = int(blue.per_seed * math.prod(origin.batch) * share)
    limit = origin.limit(width * (line + per_seed))
    _plan.check_result(
        f"{blue.name}: {seeds} {way} of a Jacobian",
        seeds * line,
        limit,
        "Read fewer rows or columns at a time, use J.mv and J.vm, or raise memory_limit.",
    )
    if limit is not None and width * line > limit:
        width = seeds  # a kernel of its own, where padding would not fit
    chunk = _plan.chunk(width, per_seed, width * line, blue.chunk_size, limit)
    block = None
    if chunk is None and samples is None and blue.chunk_size == "auto" and origin.cores:
        if blue.spaces.batch is not None:
            block = _plan.fits_cache(blue.spaces.batch.size, blue.heavy * width // blue.spaces.batch.size, origin.cores)
        elif way == "rows" and numbers is None:  # columns would have to be laid out anew
            chunk = _plan.fits_cache(width, blue.heavy, origin.cores)
    sweep = blue.sweep(way, outs, ins, None if numbers is None else width, chunk, padded, diagonal, block)
    if limit is None:
        blue.small_sweeps[name] = sweep
    return sweep
