"""Rows or columns, for what is missing of a block.

Nothing is computed here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jacobia._compat import Tracer
from jacobia._plans.wants import Want, request, store_of
from jacobia._plans.whole import whole
from jacobia._run import plan as _plan
from jacobia._run.blueprint import Block
from jacobia._run.missing import refused
from jacobia._run.plan import Plan
from jacobia._run.point import Linearized
from jacobia._sparse.cover import Cross
from jacobia._store.lines import Lines, Store
from jacobia._words import counted


def still_wanted(block: int, rows: Any, columns: Any, store: Store) -> Want:
    return Want(block, none_if_all(rows, store.rows), none_if_all(columns, store.columns))


def none_if_all(numbers: np.ndarray | None, lines: Lines) -> np.ndarray | None:
    return None if numbers is None or numbers.size == lines.count else numbers


def check_width(origin: Linearized, block: Block, want: Want, way: str) -> None:
    # Where a pullback would round (see Blueprint.blocks), rows come from columns: right, and dear for many inputs.
    if origin.blue.mode == "fwd" or block.ways.rows or way == "rows" or want.rows is None:
        return
    rows, passes = len(want.rows), count_of(want.columns, block.column_shape)
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
    choice = choose_way(origin, want.block, request(still_wanted(*want, store)), rows, columns)
    if across is not None:
        parts = [(len(own), way) for own, way in zip(across, ("rows", "columns"), strict=True) if len(own)]
        if not parts:
            return Plan("none", 0, 0, "everything asked for is known")
        why = " and ".join(counted(*part) for part in parts)
        passes, way = sum(n for n, _ in parts), " and ".join(way for _, way in parts)
        return Plan(way, passes, min(rows, columns), f"{why} {'holds' if passes == 1 else 'hold'} all of it")
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


def ways_of(origin: Linearized, blocks: list[Block], missing: Sequence[Want], asked: Sequence[Want]) -> list[str]:
    each = [possible(origin, b) for b in blocks]
    together = list(zip(blocks, missing, strict=True))
    rows = sum({(b.outs, key_of(w.rows)): count_of(w.rows, b.row_shape) for b, w in together}.values())
    columns = sum({(b.ins, key_of(w.columns)): count_of(w.columns, b.column_shape) for b, w in together}.values())
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
            origin, m.block, request(a), count_of(m.rows, b.row_shape), count_of(m.columns, b.column_shape)
        ).way
        for a, m, b in zip(asked, missing, blocks, strict=True)
    ]


def turned_ways(origin: Linearized, blocks: list[Block], ways: list[str]) -> list[str]:
    turned = ["columns" if way == "rows" else "rows" for way in ways]
    fine = [getattr(possible(origin, b), way) for b, way in zip(blocks, turned, strict=True)]
    return turned if all(fine) else ways


def _joined(blocks: list[Block]) -> Block:
    outs = tuple(sorted({i for b in blocks for i in b.outs}))
    return blocks[0]._replace(outs=outs, ins=tuple(sorted({j for b in blocks for j in b.ins})))


def count_of(numbers: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) if numbers is None else len(numbers)


def key_of(numbers: Any) -> Any:
    if numbers is None:
        return None
    return id(numbers) if isinstance(numbers, Tracer) else numbers.tobytes()
