"""From what is missing to what is known: choose a way, run one kernel for all blocks, remember.

Between the view, which knows what a key asks for, and the kernels, which know how to run sweeps.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia import _plan
from jacobia._blueprint import Block
from jacobia._compat import Tracer, eval_context
from jacobia._errors import MaterializationError
from jacobia._kernels import Sweep
from jacobia._reading import Linearized, another_way, no_way
from jacobia._store import Lines, Store


class Want(NamedTuple):
    """Lines of one block: numbers (sorted and different, or traced), or None for all."""

    block: int  # its number
    rows: Any
    columns: Any


class Done(NamedTuple):
    way: str  # "rows" or "columns"
    numbers: Any  # None: all
    array: Any  # (R, *x.shape), (*y.shape, R), padded behind; or y.shape + x.shape for all


def store_of(origin: Linearized, index: int) -> Store:
    store = origin.stores.get(index)
    if store is None:
        block = origin.blue.blocks[index]
        fresh = Store(math.prod(block.row_shape), math.prod(block.column_shape))
        store = origin.stores.setdefault(index, fresh)
    return store


def fulfil(origin: Linearized, wants: Sequence[Want]) -> list[Done]:
    """Compute what is missing of some blocks of one call, in one kernel call, and remember it."""
    missing, asked = [], []
    for want in wants:
        store = store_of(origin, want.block)
        if store.whole() is None:
            rows, columns = store.rows.missing(want.rows), store.columns.missing(want.columns)
            if rows.size and columns.size:
                missing.append(_want(want.block, rows, columns, store))
                asked.append(_want(*want, store))
    if not missing:
        return []
    done = compute(origin, missing, asked)
    for want, result in zip(missing, done, strict=True):
        store = store_of(origin, want.block)
        if result.numbers is None:
            store.set_whole(result.array)
        else:
            (store.rows if result.way == "rows" else store.columns).put(result.numbers, result.array)
    return done


def _want(block: int, rows: Any, columns: Any, store: Store) -> Want:
    return Want(block, _none_if_all(rows, store.rows), _none_if_all(columns, store.columns))


def _none_if_all(numbers: np.ndarray | None, lines: Lines) -> np.ndarray | None:
    return None if numbers is None or numbers.size == lines.count else numbers


def compute(origin: Linearized, missing: Sequence[Want], asked: Sequence[Want] | None = None) -> list[Done]:
    """Run one kernel for all blocks; the other way where f does not have the one that was chosen.

    Args:
      missing: what has to be computed.
      asked: what was asked for, which says what the caller would rather have: rows or columns.
    """
    blocks = [origin.blue.blocks[w.block] for w in missing]
    program = origin.blue.program
    before, first_error = (program.pulls, program.pushes), None
    while True:
        ways = _ways(origin, blocks, missing, asked or missing)
        for block, want, way in zip(blocks, missing, ways, strict=True):
            _check_width(origin, block, want, way)
        try:
            sweeps, ids, answers = _sweeps(origin, blocks, missing, ways)
        except MaterializationError:
            ways = _turned(origin, blocks, ways)  # fewer passes, but more than fits: the other way may
            sweeps, ids, answers = _sweeps(origin, blocks, missing, ways)
        try:
            out = origin.run(sweeps, ids)
        except Exception as error:
            first_error = first_error or no_way(error, origin.blue, ways[0])
            if not another_way(error, blocks, program, ways[0]):
                program.pulls, program.pushes = before  # it was something else
                raise first_error from (None if first_error is error else error)
            continue
        done = [Done(way, a.numbers, out[a.sweep][a.place]) for way, a in zip(ways, answers, strict=True)]
        for want, block, answer, result in zip(missing, blocks, answers, done, strict=True):
            _count(origin, want, block, sweeps[answer.sweep], result)
        if len(done) == 1 and not any(isinstance(i, Tracer) for i in ids):
            _remember_way(origin, missing[0].block, done[0], blocks[0], sweeps)
        return done


def _count(origin: Linearized, want: Want, block: Block, sweep: Sweep, done: Done) -> None:
    seeds = _most(block, done.way) if done.numbers is None else len(done.numbers)
    run = seeds if sweep.width is None else sweep.width
    store_of(origin, want.block).count(done.way, seeds, seeds, run)


def _check_width(origin: Linearized, block: Block, want: Want, way: str) -> None:
    # Where a pullback would round (see Blueprint.blocks), rows come from columns: right, and dear for many inputs.
    if origin.blue.mode == "fwd" or block.ways.rows or way == "rows" or want.rows is None:
        return
    rows, passes = len(want.rows), _count_of(want.columns, block.column_shape)
    if passes > 4096 and passes > 64 * rows:
        outs, ins = origin.blue.spaces
        x, y = ins.dtypes[block.ins[0]], outs.dtypes[block.outs[0]]
        raise TypeError(
            f"J[...]: expected inputs as wide as the outputs for {rows} rows, got {x} and {y}. A pullback "
            f"would round to {x}, and without it they take {passes} pushforwards. Convert the output of f to {x} for a "
            f"Jacobian of that precision, or the inputs to {y}."
        )


class Plan(NamedTuple):
    """What a read would do now."""

    way: str  # "rows" (pullbacks), "columns" (pushforwards), or "none": all of it is known
    passes: int
    instead: int  # passes of the other way
    why: str


def plan(origin: Linearized, want: Want) -> Plan:
    """What `fulfil` would do for one block; nothing is computed."""
    block, store = origin.blue.blocks[want.block], store_of(origin, want.block)
    if store.whole() is not None:
        return Plan("none", 0, 0, "all of it is known")
    rows, columns = store.rows.missing(want.rows), store.columns.missing(want.columns)
    ways = _possible(origin, block)
    choice = _plan.choose(
        _asked(_want(*want, store)), rows.size, columns.size, ways, lambda: origin.blue.cheaper(block)
    )
    passes, instead = (rows.size, columns.size) if choice.way == "rows" else (columns.size, rows.size)
    return Plan(choice.way, 0 if choice.way == "none" else passes, instead, choice.why)


def _possible(origin: Linearized, block: Block) -> _plan.Ways:
    program = origin.blue.program
    return _plan.Ways(block.ways.rows and program.pulls, block.ways.columns and program.pushes is not None)


def _ways(origin: Linearized, blocks: list[Block], missing: Sequence[Want], asked: Sequence[Want]) -> list[str]:
    possible = [_possible(origin, b) for b in blocks]
    rows = sum(
        {(b.outs, _key(w.rows)): _count_of(w.rows, b.row_shape) for b, w in zip(blocks, missing, strict=True)}.values()
    )
    columns = sum(
        {
            (b.ins, _key(w.columns)): _count_of(w.columns, b.column_shape) for b, w in zip(blocks, missing, strict=True)
        }.values()
    )
    joint = _plan.Ways(all(p.rows for p in possible), all(p.columns for p in possible))
    if any(joint):
        one = _plan.choose(_asked(asked[0]), rows, columns, joint, lambda: origin.blue.cheaper(_joined(blocks)))
        return [one.way] * len(blocks)
    return [
        _plan.choose(_asked(a), _count_of(m.rows, b.row_shape), _count_of(m.columns, b.column_shape), p).way
        for a, m, b, p in zip(asked, missing, blocks, possible, strict=True)
    ]


def _turned(origin: Linearized, blocks: list[Block], ways: list[str]) -> list[str]:
    turned = ["columns" if way == "rows" else "rows" for way in ways]
    possible = [getattr(_possible(origin, b), way) for b, way in zip(blocks, turned, strict=True)]
    return turned if all(possible) else ways


def _joined(blocks: list[Block]) -> Block:
    outs = tuple(sorted({i for b in blocks for i in b.outs}))
    return blocks[0]._replace(outs=outs, ins=tuple(sorted({j for b in blocks for j in b.ins})))


def _asked(want: Want) -> str:
    if want.rows is None:
        return "all" if want.columns is None else "columns"
    return "rows" if want.columns is None else "block"


def _count_of(numbers: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) if numbers is None else len(numbers)


def _key(numbers: Any) -> Any:
    if numbers is None:
        return None
    return id(numbers) if isinstance(numbers, Tracer) else numbers.tobytes()


class _Recipe(NamedTuple):
    # How a fresh view was read the last time: the next one of its kind need not think again.
    way: str
    lines: int
    kind: Any  # of its kernel
    body: Any


def _remember_way(origin: Linearized, index: int, done: Done, block: Block, sweeps: tuple[Sweep, ...]) -> None:
    # Only what is read often and is small: all of a block, or as many rows as a kernel is wide.
    need = 2 * block.dtype.itemsize * math.prod(block.row_shape) * math.prod(block.column_shape)
    if not origin.compiles or origin.batch or origin.limit(need) is not None:
        return
    if done.numbers is None:
        origin.blue.recipes[index, None] = _Recipe(done.way, _most(block, done.way), *origin.fused(sweeps))
    elif done.way == "rows" and sweeps[0].width == len(done.numbers):
        origin.blue.recipes[index, sweeps[0].width] = _Recipe(done.way, len(done.numbers), *origin.fused(sweeps))


@lru_cache(maxsize=256)
def _on_device(numbers: range) -> Any:
    # Row numbers as the kernel takes them: the same rows are read at one point after the other.
    with eval_context():
        return jax.device_put(np.arange(numbers.start, numbers.stop, numbers.step, dtype=np.int32))


def at_once(origin: Linearized, index: int, numbers: range | None) -> Any:
    """Some rows or (None) all of a block of which nothing is known yet, read as in the view before it.

    Returns:
      `(R, *x.shape)`, or `y.shape + x.shape` for all; None where there was no such view.
    """
    recipe = origin.blue.recipes.get((index, None if numbers is None else len(numbers)))
    if recipe is None or index in origin.stores or origin.special:
        return None
    with origin.lock:
        if index in origin.stores:
            return None  # another thread was faster
        ids = None if numbers is None else _on_device(numbers)
        ((lines,),) = origin.run_fused(recipe.kind, recipe.body, (ids,))
        if isinstance(lines, Tracer):  # read under a trace: what is computed there is not remembered
            return lines
        store = store_of(origin, index)
        if numbers is None:
            store.full = lines
        else:
            store.rows.put(np.arange(numbers.start, numbers.stop, numbers.step), lines)
        store.count(recipe.way, recipe.lines, recipe.lines, recipe.lines)
        return lines


class _Answer(NamedTuple):
    sweep: int
    place: int  # among the leaves that the sweep reads
    numbers: Any


def _sweeps(
    origin: Linearized, blocks: list[Block], missing: Sequence[Want], ways: list[str]
) -> tuple[tuple[Sweep, ...], list, list[_Answer]]:
    # Blocks that need the same lines of the same leaves share their seeds.
    groups: dict[Any, list[int]] = {}
    for k, (block, want, way) in enumerate(zip(blocks, missing, ways, strict=True)):
        seeded, numbers = (block.outs, want.rows) if way == "rows" else (block.ins, want.columns)
        groups.setdefault((way, seeded, _key(numbers)), []).append(k)
    sweeps, ids, answers = [], [], {}
    for (way, _, _), members in groups.items():
        numbers = missing[members[0]].rows if way == "rows" else missing[members[0]].columns
        outs = tuple(dict.fromkeys(i for k in members for i in blocks[k].outs))
        ins = tuple(dict.fromkeys(j for k in members for j in blocks[k].ins))
        sweep = _sized(origin, way, outs, ins, numbers)
        sweeps.append(sweep)
        ids.append(_padded(numbers, sweep))
        read = ins if way == "rows" else outs
        for k in members:
            own = blocks[k].ins if way == "rows" else blocks[k].outs
            answers[k] = _Answer(len(sweeps) - 1, 0 if origin.blue.ravel else read.index(own[0]), numbers)
    return tuple(sweeps), ids, [answers[k] for k in range(len(blocks))]


def _most(block: Block, way: str) -> int:
    return math.prod(block.row_shape if way == "rows" else block.column_shape)


def _padded(numbers: Any, sweep: Sweep) -> Any:
    if numbers is None or sweep.width is None:
        return None
    if not sweep.padded:
        return jnp.asarray(numbers, jnp.int32)
    out = np.full(sweep.width, -1, np.int32)
    out[: numbers.size] = numbers
    return out


def _sized(origin: Linearized, way: str, outs: tuple, ins: tuple, numbers: Any) -> Sweep:
    # How wide the kernel is and how many seeds run at once is decided last: it depends on all of the above. Where
    # no memory has to be watched it is always the same.
    blue, padded = origin.blue, numbers is not None and origin.compiles
    seeded, read = blue.spaces.outputs.pick(outs), blue.spaces.inputs.pick(ins)
    if way == "columns":
        seeded, read = read, seeded
    seeds = seeded.size if numbers is None else len(numbers)
    width = _plan.padded_width(seeds, seeded.size) if padded else seeds
    name = (way, outs, ins, None if numbers is None else width, padded, origin.batch)
    if name in blue.small_sweeps:
        return blue.small_sweeps[name]
    samples = math.prod(origin.batch)
    line = read.size * max(d.itemsize for d in seeded.dtypes + read.dtypes) * samples
    per_seed = blue.per_seed * samples
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
    sweep = blue.sweep(way, outs, ins, None if numbers is None else width, chunk, padded)
    if limit is None:
        blue.small_sweeps[name] = sweep
    return sweep


# Taking: from what is known to one array


def complete(origin: Linearized, index: int) -> Any:
    """The whole block, put together from its lines if need be."""
    store, block = store_of(origin, index), origin.blue.blocks[index]
    if store.whole() is None:
        xp = array_module(store)
        cube, _ = known_cube(xp, origin, index, Want(index, None, None))
        store.set_whole(as_array(xp, cube.reshape(origin.batch + block.row_shape + block.column_shape), store))
    return store.full


def known_cube(xp: Any, origin: Linearized, index: int, want: Want) -> tuple[Any, dict[str, Any]]:
    """Known lines that cover a want, with axes (samples, rows, columns).

    Returns:
      the array, and for rows and columns the numbers it holds, None for all.
    """
    store, block = store_of(origin, index), origin.blue.blocks[index]
    b, m, n = math.prod(origin.batch), math.prod(block.row_shape), math.prod(block.column_shape)
    full = store.whole()
    if full is not None:
        return xp.asarray(full).reshape(b, m, n), {"rows": None, "columns": None}
    way = "columns" if store.rows.missing(want.rows).size else "rows"
    lines, numbers, count = (store.rows, want.rows, m) if way == "rows" else (store.columns, want.columns, n)
    axis, shape = (1, (b, -1, n)) if way == "rows" else (2, (b, m, -1))
    numbers = np.arange(count) if numbers is None else numbers
    parts, places = [], []
    for array, inside, here in lines.take(numbers):
        parts.append(xp.take(xp.asarray(array).reshape(shape), inside, axis=axis))
        places.append(here)
    back = np.argsort(np.concatenate(places), kind="stable")
    cube = parts[0] if len(parts) == 1 else xp.take(xp.concatenate(parts, axis=axis), back, axis=axis)
    return cube, {"rows": None, "columns": None} | {way: numbers}


def array_module(store: Store) -> Any:
    """NumPy for arrays in this machine's memory: it takes lines without compiling; else jax.numpy."""
    return np if all(_on_host(a) for a in store.arrays()) else jnp


def _on_host(array: Any) -> bool:
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def as_array(xp: Any, out: Any, store: Store) -> Any:
    """The result as a `jax.Array` on the device of what is remembered."""
    if xp is jnp:
        return out
    like = store.arrays()[0]  # device_put compiles nothing, where jnp.asarray does for every new shape
    return jax.device_put(np.array(out), like.sharding if like.committed else None)
