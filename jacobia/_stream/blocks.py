"""Blocks of a view along its first axis, one after the other. Nothing is remembered.

The next block is computed while the current block is used.
Knows views and sweeps. Knows nothing of files.
Shapes: the first axis has length L; a block has K of its L positions.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jacobia._errors import MaterializationError
from jacobia._operators.lines import has, lines_at
from jacobia._plans.choose import fulfil
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import PlanOfLines
from jacobia._progress import check_progress, shown
from jacobia._read.block import LiveBlock, weakly
from jacobia._run.devices import empty
from jacobia._run.point import Linearized
from jacobia._stream.processes import at_home, share_of
from jacobia._words import readable

# Bytes of a block, if the memory limit allows several of this size: enough for a disk to write at full speed.
_BLOCK = 1 << 24
# How many blocks the memory limit must hold: the block in use, the next block, their working sets, and blocks being
# written.
_AT_ONCE = 16


def blocks(
    J: LiveBlock, rows: Any, block: Any, progress: bool | None, offload: str | None
) -> Iterator[tuple[slice, Any]]:
    """Pairs of a slice of the first axis and that part of the view, in order."""
    check(J, "blocks")
    check_progress("J.blocks", progress)
    if offload not in (None, "host"):
        raise ValueError(f"J.blocks(offload=...): expected None or 'host', got {offload!r}.")
    (first, last), size, share = _range(J, rows), block_size(J, "blocks", block), share_of(J, "blocks")
    start, stop = (first + k for k in share.of(last - first))
    parts = [slice(k, min(k + size, stop)) for k in range(start, stop, size)]
    made = computed(J, at_home(J, share, "blocks"), parts, offload == "host")
    return shown(made, stop - start, rows_of, "row", progress)


def check(J: LiveBlock, name: str, sparse: bool = False) -> None:
    """Raise if a view has no blocks.

    Args:
      sparse: whether the nonzeros of the view will be written, which needs neither rows nor columns.

    Raises:
      ValueError: a view without axes, or without the direction that computes the lines of a block.
      TypeError: inside a transformation.
    """
    if not J._layout.shape:
        raise ValueError(f"J.{name}(): expected a view with axes, got shape (). Write J[...].")
    if not J._origin.remembers:
        raise TypeError(
            f"J.{name}(): expected a view outside of jit and other transformations, got one inside. Write J[rows]."
        )
    way = _way(J)
    if way is not None and not sparse and not has(J, way):
        lacks, mode = "pullbacks" if way == "rows" else "pushforwards", J._origin.blue.mode
        under, leave = (f" under mode={mode!r}", "Leave mode out, or w") if mode in ("fwd", "rev") else ("", "W")
        other = f"{name}() of the view in front of .T" if J._layout.turn else f"J.T.{name}()"
        raise ValueError(
            f"J.{name}(): expected an f with {lacks}, since blocks are {way}, got an f without {lacks}{under}. "
            f"{leave}rite {other} for blocks of the other axis."
        )


def _way(J: LiveBlock) -> str | None:
    # Whether positions of the first axis are "rows" or "columns". None: they are samples, or neither, as in a gradient.
    layout, parts = J._layout, J._layout.axes.parts
    first = next(part.role for part in parts if part.shape)
    straight = first == "rows" and not layout.turn
    return first if not layout.lead and (straight or (first == "columns" and layout.turn and layout.flat)) else None


def _range(J: LiveBlock, rows: Any) -> tuple[int, int]:
    count = J._layout.shape[0]
    if rows is None:
        return 0, count
    if isinstance(rows, range) and rows.step == 1 and 0 <= rows.start <= rows.stop <= count:
        return rows.start, rows.stop
    if isinstance(rows, slice) and rows.step in (None, 1):
        start, stop, _ = rows.indices(count)
        return start, max(start, stop)
    raise TypeError(
        f"J.blocks(rows=...): expected a slice, or a range within {count}, without gaps, or None, got {rows!r}. "
        "Write J[rows] for other rows."
    )


def block_size(J: LiveBlock, name: str, given: Any) -> int:
    """K, the number of positions of the first axis in a block."""
    count, *rest = J._layout.shape
    line = max(1, math.prod(rest) * J._layout.block.dtype.itemsize)
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
            raise ValueError(f"J.{name}(block=...): expected a positive int, or None, got {given!r}. Leave it out.")
        return int(given)
    limit = J._origin.limit(count * line)
    budget = min(_BLOCK, _BLOCK if limit is None else limit // _AT_ONCE)
    if limit is not None and line > limit:
        raise MaterializationError(
            f"J.{name}(): expected a row that fits under memory_limit={readable(limit)}, got {readable(line)}. Raise "
            "memory_limit, or use products: J @ v."
        )
    return max(1, min(count, budget // line))


def computed(J: LiveBlock, home: Linearized, parts: list[slice], on_host: bool) -> Iterator[tuple[slice, Any]]:
    """The blocks of these slices. Each is computed while the previous one is used.

    Args:
      home: f linearized at the point of the view, on the devices of this process.
    """
    before = None
    for part in parts:
        made = part, block_at(J, home, part)
        if on_host and isinstance(made[1], jax.Array):
            made[1].copy_to_host_async()
        if before is not None:
            yield _given(before, on_host)
        before = made
    if before is not None:
        yield _given(before, on_host)


def _given(made: tuple[slice, Any], on_host: bool) -> tuple[slice, Any]:
    return (made[0], np.asarray(made[1])) if on_host else made


def block_at(J: LiveBlock, home: Linearized, part: slice) -> jax.Array:
    """One block. Every block runs the same kernel, whatever was read before, so its bits are always the same."""
    if home is J._origin and J._known() is not None:
        return J._item(part)
    layout, origin, way = J._layout, home.again(), _way(J)
    if 0 in layout.shape:
        return empty(origin.leaves, (part.stop - part.start, *layout.shape[1:]), layout.block.dtype)
    if way is None:
        what = J._asked(part)
        plan, _ = fulfil(origin, J._request(what)._replace(pairs=None))
        assert isinstance(plan, PlanOfLines)
        return J._divided(plan.take(what, layout.order))
    numbers = np.arange(part.start, part.stop)
    if not layout.turn:  # one position of the first axis of y is `per` rows
        per = math.prod(layout.axes.parts[1].shape[1:])
        numbers = np.arange(part.start * per, part.stop * per)
    out = lines_at(origin, J._index, way, numbers)
    store_of(J._origin, J._index).count(way, origin.by(way, layout.block), 0, len(numbers), len(numbers))
    out = (out if way == "rows" else out.T).reshape(part.stop - part.start, *layout.shape[1:])
    out = weakly(out) if layout.weak else out
    return out if origin.blue.spread is None else origin.blue.spread.divided(out)


def rows_of(made: tuple[slice, Any]) -> int:
    """The number of positions of the first axis in a block."""
    return made[0].stop - made[0].start
