"""Rows by pullbacks or columns by pushforwards: which of them are possible, and which are cheaper, and why.

Knows counts, and what one pass costs. Nothing is computed here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jacobia._compat import Tracer
from jacobia._plans.mirror import own_image
from jacobia._plans.request import Request
from jacobia._run.blueprint import Block
from jacobia._run.directions import Ways
from jacobia._run.missing import refused
from jacobia._run.point import Linearized
from jacobia._words import counted

# So few seeds that it hardly matters how many.
_FEW = 64

# Where one number of passes is this many times the other, the numbers decide. Closer ones are weighed by what a pass
# costs: of most programs a pullback and a pushforward differ by less than a factor of two, but a pullback through a
# gather or a sort, which adds up numbers where they go one by one, takes ten times the other.
CLOSE = 4

# What was not asked for must promise to take so much of the time: an estimate may be wrong, and lines that were asked
# for are those that are read again.
_WORTH_MORE = 0.5

# All of a block, by one pass, may cost so many times what the lines cost that were asked for.
_WORTH_ALL = 2


class Choice(NamedTuple):
    way: str  # "rows", "columns" or "none"
    why: str


def choose(
    asked: str,
    missing_rows: int,
    missing_columns: int,
    ways: Ways,
    relative_cost: Callable[[], float | None] = lambda: None,
    one: bool = False,
    alike: Callable[[], bool] = lambda: True,
) -> Choice:
    """Choose between pullbacks for the missing rows and pushforwards for the missing columns.

    Args:
      asked: "rows" (some rows, all columns), "columns", "block" (some of both) or "all".
      missing_rows: rows that would have to be computed if it is done by rows.
      missing_columns: the same for columns.
      ways: which of the two are possible at all.
      relative_cost: what all these rows cost, in units of what all these columns cost; None: too little to be looked
        at. Asked only where the numbers of passes do not decide.
      one: whether one line the other way than asked for is all of the block, so that whoever reads on, or reads another
        one in a trace, has it.
      alike: whether a row costs about as much as a column, so that numbers far apart decide. Asked only where the
        numbers could.
    """
    if missing_rows == 0 or missing_columns == 0:
        return Choice("none", "everything asked for is known")
    if not ways.columns:
        return Choice("rows", "only pullbacks are possible or allowed")
    if not ways.rows:
        return Choice("columns", "only pushforwards are possible or allowed")
    if one and asked in ("rows", "columns"):
        other, cost = ("rows", relative_cost()) if asked == "columns" else ("columns", relative_cost())
        cost = 1 / cost if cost and other == "columns" else cost
        if cost is None or cost <= _WORTH_ALL:
            return Choice(other, f"{'a pullback' if other == 'rows' else 'a pushforward'} gives all of it")
    if asked in ("rows", "columns") and (missing_rows if asked == "rows" else missing_columns) <= _FEW:
        return Choice(asked, f"{asked} are asked for")
    weigh = _close(missing_rows, missing_columns) or (asked == "block" and missing_rows == missing_columns)
    weigh = weigh or not alike()
    weighed = relative_cost() if weigh else None
    if asked == "rows" and not _far_cheaper(missing_columns, missing_rows, weighed and 1 / weighed):
        return Choice("rows", "rows are asked for")
    if asked == "columns" and not _far_cheaper(missing_rows, missing_columns, weighed):
        return Choice("columns", "columns are asked for")
    by_rows, by_columns = counted(missing_rows, "pullbacks"), counted(missing_columns, "pushforwards")
    if weighed is not None:
        if weighed < 1:
            return Choice("rows", f"{by_rows} cost less than {by_columns}")
        return Choice("columns", f"{by_columns} cost less than {by_rows}")
    if missing_rows < missing_columns:
        return Choice("rows", f"{by_rows} {'is' if missing_rows == 1 else 'are'} fewer than {by_columns}")
    if missing_columns < missing_rows:
        return Choice("columns", f"{by_columns} {'is' if missing_columns == 1 else 'are'} fewer than {by_rows}")
    return Choice("columns", "as many of both, and they cost little")


def _close(rows: int, columns: int) -> bool:
    few, many = sorted((rows, columns))
    return many > _FEW and many < CLOSE * few


def _far_cheaper(few: int, many: int, weighed: float | None) -> bool:
    # A few seeds in one kernel cost about as much as one; beyond, a fourth of the passes is worth computing
    # what was not asked for.
    if weighed is not None:
        return weighed < _WORTH_MORE
    return many > _FEW and CLOSE * few <= many


def possible(origin: Linearized, block: Block) -> Ways:
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
        ways = Ways(blue.mode != "fwd" and block.only != "columns", False)
    else:
        ways = Ways(block.ways.rows and rows, block.ways.columns and columns)
    if not any(ways):
        raise refused(origin, block)
    return ways


def choose_way(origin: Linearized, index: int, asked: str, rows: int, columns: int) -> Choice:
    """Rows or columns, for so many missing ones of one block."""
    blue, block = origin.blue, origin.blue.blocks[index]
    if own_image(blue, index):
        choice = choose(asked, rows, columns, possible(origin, block))
        same = choice.way == "columns" and asked != "columns" and rows == columns
        return choice._replace(way="rows") if same else choice
    one = asked in ("rows", "columns") and 1 == math.prod(block.column_shape if asked == "rows" else block.row_shape)
    alike = lambda: blue.apart("rows", block.outs, block.ins) is None  # noqa: E731
    cost = lambda: blue.relative_cost(block, rows, columns)  # noqa: E731
    return choose(asked, rows, columns, possible(origin, block), cost, one, alike)


def choose_ways(origin: Linearized, missing: Sequence[Request], asked: Sequence[Request]) -> list[str]:
    """Rows or columns for several blocks, the same for all where that is possible."""
    blue, blocks = origin.blue, [origin.blue.blocks[r.block] for r in missing]
    each, together = [possible(origin, b) for b in blocks], list(zip(blocks, missing, strict=True))
    joint = Ways(all(p.rows for p in each), all(p.columns for p in each))
    if any(joint) and not blue.symmetric:
        rows = sum({(b.outs, key_of(r.rows)): count_of(r.rows, b.row_shape) for b, r in together}.values())
        columns = sum({(b.ins, key_of(r.columns)): count_of(r.columns, b.column_shape) for b, r in together}.values())
        all_of = _joined(blocks)
        alike = lambda: all(blue.apart("rows", b.outs, b.ins) is None for b in blocks)  # noqa: E731
        cost = lambda: blue.relative_cost(all_of, rows, columns)  # noqa: E731
        return [choose(asked[0].asks, rows, columns, joint, cost, alike=alike).way] * len(blocks)
    return [
        choose_way(origin, r.block, a.asks, count_of(r.rows, b.row_shape), count_of(r.columns, b.column_shape)).way
        for a, (b, r) in zip(asked, together, strict=True)
    ]


def other_ways(origin: Linearized, missing: Sequence[Request], ways: Sequence[str]) -> list[str] | None:
    """Rows in place of columns and the other way round; None where f lacks one of them."""
    other = ["columns" if way == "rows" else "rows" for way in ways]
    fine = [getattr(possible(origin, origin.blue.blocks[r.block]), w) for r, w in zip(missing, other, strict=True)]
    return other if all(fine) else None


def _joined(blocks: list[Block]) -> Block:
    outs = tuple(sorted({i for b in blocks for i in b.outs}))
    return blocks[0]._replace(outs=outs, ins=tuple(sorted({j for b in blocks for j in b.ins})))


def count_of(numbers: Any, shape: tuple[int, ...]) -> int:
    """How many lines; None: all of this shape."""
    return math.prod(shape) if numbers is None else len(numbers)


def key_of(numbers: Any) -> Any:
    """A hashable value that the same numbers share."""
    if numbers is None:
        return None
    return id(numbers) if isinstance(numbers, Tracer) else numbers.tobytes()


def check_width(origin: Linearized, block: Block, request: Request, way: str) -> None:
    """Refuse rows that come from very many columns, since a pullback would round (see Blueprint.blocks).

    Raises:
      TypeError: so many columns.
    """
    if origin.blue.mode == "fwd" or block.ways.rows or way == "rows" or request.rows is None:
        return
    rows, passes = len(request.rows), count_of(request.columns, block.column_shape)
    if passes > 4096 and passes > 64 * rows:
        outs, ins = origin.blue.spaces.outputs, origin.blue.spaces.inputs
        x, y = ins.dtypes[block.ins[0]], outs.dtypes[block.outs[0]]
        raise TypeError(
            f"J[...]: expected inputs as wide as the outputs for {rows} rows, got {x} and {y}. A pullback "
            f"would round to {x}, and without it they take {passes} pushforwards. Convert the output of f to {x} for a "
            f"Jacobian of that precision, or the inputs to {y}."
        )
