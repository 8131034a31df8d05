"""How many bytes a read takes at its peak: its kernels, and then what is put together from what is known.

Nothing is computed; kernels are compiled.
Knows plans, and what a key takes from lines. Runs nothing.
Shapes: B samples, M by N a block.
"""

import math
from typing import Any

from jacobia._plans.mirror import store_of
from jacobia._plans.pairs import Pairs
from jacobia._plans.plan import Plan
from jacobia._plans.recall import Recall
from jacobia._plans.samples import Samples
from jacobia._read.layout import Layout
from jacobia._run.kernels import Taken, analysed
from jacobia._store.gather import evenly, gathered, places
from jacobia._store.keys import ROLES, Asked


def peak(plan: Plan, what: Asked, layout: Layout, everything: bool) -> int:
    """What a plan takes, and what a key makes of its answers.

    Args:
      everything: whether the key is `...`, whose answer is arranged as the view is.
    """
    itemsize, held, most = layout.block.dtype.itemsize, 0, 0
    for part in plan.kernels():
        kernel = _taken(part)
        most = max(most, held + kernel.peak)
        held += kernel.result
    if everything:
        copies = 0 if layout.natural else layout.transposed + (not layout.unfolded)
        store = store_of(plan.origin, plan.request.block)
        if store.whole() is None and _some_known(plan):
            copies += 1  # it is put together
        after = copies * math.prod(layout.shape)
    elif isinstance(plan, Pairs):
        after = 2 * math.prod(what.choice.shape)
    elif isinstance(plan, Samples):
        cube = _cube_of_samples(plan)
        after = cube + max(cube, math.prod(what.choice.shape))
    else:
        after = _after_lines(plan, what, layout, held)
    return max(most, held + after * itemsize) if after else most


def _taken(plan: Plan) -> Taken:
    if isinstance(plan, Recall):
        return Taken(0, plan.nbytes)
    return Taken(0, 0) if plan.outline.way == "none" else analysed(plan.again().run)


def _cube_of_samples(plan: Samples) -> int:
    _, rows, columns, samples, _ = plan.request
    counts = plan.origin.blue.counts[plan.request.block]
    m, n = (c if k is None else len(k) for c, k in zip(counts, (rows, columns), strict=True))
    return len(samples) * m * n


def _after_lines(plan: Plan, what: Asked, layout: Layout, kernel: int) -> int:
    # How many elements are taken from lines, of which the kernel has given so many bytes.
    origin, (index, *asked, _, _), choice, ids = plan.origin, plan.request, what.choice, what.ids
    store, (m, n) = store_of(origin, index), origin.blue.counts[index]
    sizes = {"batch": math.prod(origin.lead), "rows": m, "columns": n}
    known, way = _some_known(plan), plan.outline.way
    if isinstance(plan, Recall):
        way = "columns" if plan.request.rows is None else "rows"
    elif way == "none":
        way = "columns" if store.rows.num_missing(plan.request.rows) else "rows"
    numbers, cube = {}, 0
    lines: Any = getattr(plan.request, way, None)  # None: all, or no lines
    if store.whole() is None and lines is not None and (known or len(lines) < sizes[way]):
        numbers, sizes[way] = {way: lines}, len(lines)
        cube = math.prod(sizes.values()) if known and not _in_one(store, way, lines) else 0
    result = math.prod(choice.shape) * layout.block.dtype.itemsize
    shape, other = (layout.block.row_shape, asked[1]) if way == "rows" else (layout.block.column_shape, asked[0])
    turned = way == "columns" and origin.blue.symmetric
    own = layout.natural and not turned and len(shape) == 1 and numbers and not known and other is None
    own = own and kernel == result
    if own and choice.outer and _is_all(places(ids[way], numbers[way]), len(numbers[way])):
        return 0  # it is the kernel's own array
    found = {role: places(i, numbers.get(role)) for role, i in ids.items()}
    every = choice.outer and layout.order == ROLES
    every = every and all(i is None or _is_all(i, sizes[r]) for r, i in found.items())
    return cube if cube and every else cube + gathered(sizes, found, layout.order, choice)


def _some_known(plan: Plan) -> bool:
    # Whether lines that are known take part.
    origin, (index, *asked, _, _) = plan.origin, plan.request
    store = store_of(origin, index)
    missing = [lines.num_missing(k) for lines, k in zip((store.rows, store.columns), asked, strict=True)]
    return missing != [c if k is None else len(k) for c, k in zip(origin.blue.counts[index], asked, strict=True)]


def _is_all(numbers: Any, count: int) -> bool:
    return numbers.size == count and evenly(numbers.reshape(-1)) == slice(0, count, 1)


def _in_one(store: Any, way: str, lines: Any) -> bool:
    # Whether all of them stand evenly in one piece, of which NumPy has a view.
    held = getattr(store, way)
    if held.num_missing(lines):
        return False
    pieces = list(held.take(lines))
    return len(pieces) == 1 and evenly(pieces[0][1]) is not None
