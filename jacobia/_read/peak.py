"""How many bytes a read takes at its peak: its kernel, and then what is put together from what is known.

Nothing is computed; the kernel is compiled.
Shapes: B samples, M by N a block.
"""

import math
from collections.abc import Callable
from typing import Any

from jacobia._plans.choose import nonzeros_known, plan
from jacobia._plans.lines import compute_missing
from jacobia._plans.samples import plan_few
from jacobia._plans.wants import Want, store_of
from jacobia._run.kernels import Taken, analysed
from jacobia._run.point import Linearized
from jacobia._sparse.cover import Cross
from jacobia._store.gather import evenly, gathered, places
from jacobia._store.keys import ROLES, Pick


def peak_of_whole(origin: Linearized, index: int, copies: int) -> int:
    """All of a block, with so many copies to arrange it."""
    block, want = origin.blue.blocks[index], Want(index, None, None)
    nbytes = math.prod(origin.lead + block.row_shape + block.column_shape) * block.dtype.itemsize
    store = store_of(origin, index)
    kernel = analysed(lambda: compute_missing(origin, want))
    if store.whole() is None and _some_known(origin, want):
        copies += 1  # it is put together
    return max(kernel.peak, kernel.result + copies * nbytes)


def peak_of_lines(
    origin: Linearized, want: Want, ids: dict[str, Any], order: tuple[str, ...], choice: Pick, rowwise: bool
) -> int:
    """Some lines of a block, or some entries of them.

    Args:
      ids: for each role, the numbers asked for, shaped as in the key; None: all.
      rowwise: whether rows lie as the kernel gives them.
    """
    store, block, todo = store_of(origin, want.block), origin.blue.blocks[want.block], plan(origin, want)
    m, n = origin.blue.counts[want.block]
    sizes = {"batch": math.prod(origin.lead), "rows": m, "columns": n}
    kernel = analysed(lambda: compute_missing(origin, want))
    known, recalled = _some_known(origin, want), nonzeros_known(origin, want)
    way = todo.way
    if way == "none":
        by_rows = want.rows is not None if recalled else not store.rows.num_missing(want.rows)
        way = "rows" if by_rows else "columns"
    numbers, cube = {}, 0
    lines: Any = getattr(want, way, None)  # None: all, or no lines
    if store.whole() is None and lines is not None and (known or len(lines) < sizes[way]):
        numbers, sizes[way] = {way: lines}, len(lines)
        cube = math.prod(sizes.values()) if known and not _in_one(store, way, lines) else 0
    result = math.prod(choice.shape) * block.dtype.itemsize
    if rowwise and way == "rows" and numbers and not known and want.columns is None and kernel.result == result:
        if choice.outer and _is_all(places(ids["rows"], numbers[way]), len(numbers[way])):
            return kernel.peak  # it is the kernel's own array
    found = {role: places(i, numbers.get(role)) for role, i in ids.items()}
    every = choice.outer and order == ROLES and all(i is None or _is_all(i, sizes[r]) for r, i in found.items())
    after = cube if cube and every and not recalled else cube + gathered(sizes, found, order, choice)
    return max(kernel.peak, kernel.result + after * block.dtype.itemsize)


def peak_of_cross(origin: Linearized, index: int, across: Cross, count: int) -> int:
    """So many entries at pairs of places, by rows and then columns."""
    wants = [Want(index, across.rows, None)] if len(across.rows) else []
    wants += [Want(index, None, across.columns)] if len(across.columns) else []
    held = peak = 0
    for want in wants:
        kernel = analysed(lambda want=want: compute_missing(origin, want))
        peak = max(peak, held + kernel.peak)
        held += kernel.result
    return max(peak, held + 2 * count * origin.blue.blocks[index].dtype.itemsize)


def peak_of_samples(origin: Linearized, want: Want, samples: Any, choice: Pick, read: Callable[[], Any]) -> int:
    """Some samples of a batch by themselves, which `read` reads where nothing is known."""
    (m, n), itemsize = origin.blue.counts[want.block], origin.blue.blocks[want.block].dtype.itemsize
    known = plan_few(origin, want, samples).way == "none"
    kernel = Taken(0, 0) if known else analysed(read)
    rows, columns = (c if k is None else len(k) for c, k in zip((m, n), (want.rows, want.columns), strict=True))
    cube, result = len(samples) * rows * columns, math.prod(choice.shape)
    return max(kernel.peak, kernel.result + (cube + max(cube, result)) * itemsize)


def _some_known(origin: Linearized, want: Want) -> bool:
    # Whether lines that are known, or nonzeros, take part.
    store = store_of(origin, want.block)
    if nonzeros_known(origin, want):
        return True
    missing = [store.rows.num_missing(want.rows), store.columns.num_missing(want.columns)]
    most = [c if k is None else len(k) for c, k in zip(origin.blue.counts[want.block], want[1:], strict=True)]
    return missing != most


def _is_all(numbers: Any, count: int) -> bool:
    return numbers.size == count and evenly(numbers.reshape(-1)) == slice(0, count, 1)


def _in_one(store: Any, way: str, lines: Any) -> bool:
    # Whether all of them stand evenly in one piece, of which NumPy has a view.
    held = getattr(store, way)
    if held.num_missing(lines):
        return False
    pieces = list(held.take(lines))
    return len(pieces) == 1 and evenly(pieces[0][1]) is not None
