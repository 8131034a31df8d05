"""Rows by pullbacks or columns by pushforwards: which of the two are possible, which one is cheaper, and why.

Knows counts, and what one pass costs. Knows nothing of kernels, and computes no derivative.
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

# Up to this many seeds, the time of a kernel hardly depends on their number.
_FEW = 64

# If one direction takes at least this many times the passes of the other, the numbers of passes decide. Closer numbers
# are weighed by the cost of a pass: in most programs a pullback and a pushforward differ by less than a factor of two,
# but a pullback through a gather or a sort scatters and adds element by element, and takes ten times a pushforward.
CLOSE = 4

# Compute rows by columns (or the reverse) only if the estimate is at most this fraction of the requested direction's
# cost. Estimates err, and the requested lines are the ones likely to be read again.
_WORTH_MORE = 0.5

# One pass in the other direction that gives all of the block may cost this many times the requested lines.
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
      missing_rows: the number of rows to compute if rows are chosen.
      missing_columns: the number of columns to compute if columns are chosen.
      ways: which of the two are possible.
      relative_cost: gives the cost of these rows divided by the cost of these columns; None: both are so cheap that
        weighing them would take longer. Called only where the numbers of passes do not decide.
      one: whether a single line in the other direction is all of the block, so that later reads, in a trace too, need
        no further pass.
      alike: tells whether a row costs about as much as a column, so that numbers of passes far apart decide. Called
        only where they are far apart.
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
            return Choice(other, f"{'a pullback' if other == 'rows' else 'a pushforward'} gives all of the block")
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
    return Choice("columns", "as many rows as columns, and both are cheap")


def _close(rows: int, columns: int) -> bool:
    few, many = sorted((rows, columns))
    return many > _FEW and many < CLOSE * few


def _far_cheaper(few: int, many: int, weighed: float | None) -> bool:
    # Up to _FEW seeds in one kernel cost about as much as one seed. Beyond, the direction that was not requested is
    # taken where it needs a fourth of the passes.
    if weighed is not None:
        return weighed < _WORTH_MORE
    return many > _FEW and CLOSE * few <= many


def possible(origin: Linearized, block: Block) -> Ways:
    """Whether rows, and whether columns, of a block can be computed one by one.

    Raises:
      The error by which JAX refused a direction of f: neither rows nor columns can be computed.
    """
    blue, known = origin.blue, origin.directions(block)
    rows, columns = known.pullback, known.pushforward is not None
    if blue.spaces.pushes_rows:  # either direction gives a row
        rows = rows or known.pushforward == "jvp"
    if blue.symmetric:
        columns = rows
    if not known.linear:  # f has rows alone, as JAX computes them, whatever the dtypes
        ways = Ways(blue.mode != "fwd" and block.only != "columns", False)
    else:
        ways = Ways(block.ways.rows and rows, block.ways.columns and columns)
    if not any(ways):
        raise refused(origin, block)
    return ways


def choose_way(origin: Linearized, index: int, asked: str, rows: int, columns: int) -> Choice:
    """Choose rows or columns for one block, of which `rows` rows and `columns` columns are missing."""
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
    """Choose rows or columns for several blocks: one direction for all of them where all have it."""
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
    """`ways` with rows and columns exchanged; None where f lacks one of the directions that this takes."""
    other = ["columns" if way == "rows" else "rows" for way in ways]
    fine = [getattr(possible(origin, origin.blue.blocks[r.block]), w) for r, w in zip(missing, other, strict=True)]
    return other if all(fine) else None


def _joined(blocks: list[Block]) -> Block:
    outs = tuple(sorted({i for b in blocks for i in b.outs}))
    return blocks[0]._replace(outs=outs, ins=tuple(sorted({j for b in blocks for j in b.ins})))


def count_of(numbers: Any, shape: tuple[int, ...]) -> int:
    """The number of lines; `numbers` None stands for all lines of this shape."""
    return math.prod(shape) if numbers is None else len(numbers)


def key_of(numbers: Any) -> Any:
    """A hashable value, equal for equal numbers; for traced numbers, for the same tracer alone."""
    if numbers is None:
        return None
    return id(numbers) if isinstance(numbers, Tracer) else numbers.tobytes()


def check_width(origin: Linearized, block: Block, request: Request, way: str) -> None:
    """Refuse rows that would take very many pushforwards because a pullback would round (see `Blueprint.blocks`).

    Raises:
      TypeError: more than 4096 pushforwards, and more than 64 for each row.
    """
    if origin.blue.mode == "fwd" or block.ways.rows or way == "rows" or request.rows is None:
        return
    rows, passes = len(request.rows), count_of(request.columns, block.column_shape)
    if passes > 4096 and passes > 64 * rows:
        outs, ins = origin.blue.spaces.outputs, origin.blue.spaces.inputs
        x, y = ins.dtypes[block.ins[0]], outs.dtypes[block.outs[0]]
        raise TypeError(
            f"J[...]: expected inputs and outputs of the same dtype for {rows} rows, got {x} and {y}. A pullback "
            f"would round to {x}, and without pullbacks these rows take {passes} pushforwards. Convert the output of f "
            f"to {x} for a Jacobian of that precision, or the inputs to {y}."
        )
