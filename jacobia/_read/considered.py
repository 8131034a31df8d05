"""The plans that come into question for a read, and what each would take.

From a request to an `Explanation`; nothing is computed.
"""

import math
from collections.abc import Callable
from typing import Any

from jacobia._plans.choose import plan, possible
from jacobia._plans.samples import few, plan_few
from jacobia._plans.wants import Want, request, store_of
from jacobia._plans.whole import whole
from jacobia._program.readings.cost import Work
from jacobia._read.explain import Considered, Explanation
from jacobia._run.blueprint import Block
from jacobia._run.plan import Plan
from jacobia._run.point import Linearized
from jacobia._sparse.cover import Cross


def explain(
    origin: Linearized,
    view: str,
    want: Want,
    samples: Any,
    shape: tuple[int, ...],
    across: Cross | None,
    memory: Callable[[], int],
) -> Explanation:
    """What reading `want` would do now.

    Args:
      view: how the view shows itself.
      samples: numbers of samples, None for all.
      shape: of the result.
      across: rows and columns for entries at pairs of places.
      memory: how to find out how many bytes the read takes.
    """
    blue, block = origin.blue, origin.blue.blocks[want.block]
    notes, alone = [], 0 not in shape and bool(origin.lead) and few(origin, want, samples)
    todo = plan_few(origin, want, samples) if alone else plan(origin, want, across)
    if 0 in shape:
        todo = Plan("none", 0, 0, "there is nothing in it")
    if alone:
        notes.append(f"samples: {len(samples)} of {math.prod(origin.lead)}, evaluated by themselves")
    known = origin.directions(block)
    if known.pushforward == "transposed pullback":
        notes.append("pushforwards: f has none (custom_vjp), its pullback is transposed")
    if blue.primal is not None and blue.primal.forward:
        notes.append("gradient: f has no pullback, so that it is made of pushforwards: forward over forward")
    if not known.linear:
        notes.append("pullback: not linear in its cotangent (custom_vjp), so that there are rows and nothing else")
    notes.append("f: compiled" if blue.jit else "f: run by Python at each read (jit=False), which is slow")
    products = "Hessian-vector products" if blue.symmetric else None
    by = products or origin.by("rows", block), products or origin.by("columns", block)
    plans = () if alone or todo.way == "none" else _considered(origin, want, todo, by, across)
    found, pattern = blue.found.get("whole", want.block), store_of(origin, want.block).pattern
    density = pattern.density if pattern is not None else None if found is None else found.density
    nbytes = math.prod(shape) * block.dtype.itemsize
    return Explanation(view, shape, nbytes, density, todo, plans, by, tuple(notes), memory)


def _considered(
    origin: Linearized, want: Want, todo: Plan, by: tuple[str, str], across: Cross | None
) -> tuple[Considered, ...]:
    blue, store = origin.blue, store_of(origin, want.block)
    block, ways, plans = blue.blocks[want.block], possible(origin, blue.blocks[want.block]), []
    found = whole(origin, want.block) if request(want) == "all" else None
    if found is not None and store.whole() is None:
        plans.append(Considered(found.way, 0, "", *found.work))
    for way, lines, wanted, allowed, what in (
        ("rows", store.rows, want.rows, ways.rows, by[0]),
        ("columns", store.columns, want.columns, ways.columns, by[1]),
    ):
        if blue.symmetric and way != ("rows" if todo.way != "columns" else "columns"):
            continue  # the same products give both
        instead = across is not None and way == todo.way  # fewer of the same, below
        total = _passes_work(origin, way, block) if allowed and not instead else None
        if total is not None:
            passes = lines.num_missing(wanted)
            each, once = total
            plans.append(Considered(way, passes, what, *each.times(passes).plus(once)))
    if across is not None:
        own, other = _passes_work(origin, "rows", block), _passes_work(origin, "columns", block)
        if own is not None and other is not None:
            total = own[0].times(len(across.rows)).plus(other[0].times(len(across.columns))).plus(own[1])
            plans.append(Considered(todo.way, todo.passes, "passes", *total))
    return tuple(sorted(plans, key=lambda p: p.way != todo.way))


def _passes_work(origin: Linearized, way: str, block: Block) -> tuple[Work, Work] | None:
    # Of one pass, and of what runs once beside all of them.
    each = origin.blue.pass_work(way, block)
    lead = math.prod(origin.batch)
    return each and (each.times(lead), origin.blue.primal_work.times(lead))
