"""From a key to an `Explanation`: the plans that a read would try, with their costs. Nothing is computed.

The plans are the same objects that the read runs.
Knows plans. Knows nothing of any particular way.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial

from jacobia._plans.choose import refusal, there_is_room
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Considered, Outline, Plan
from jacobia._read.block import LiveBlock
from jacobia._read.explain import Explanation
from jacobia._read.peak import peak
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._store.keys import is_all


def outline_of(view: LiveBlock) -> Outline:
    """The outline of the plan that `J[...]` would run now."""
    return by_what_exists(view._origin, [view._layout.block], lambda: there_is_room(view._plans(...))[0][0].outline)


def explain(view: LiveBlock, key: object) -> Explanation:
    """Explain what `J[key]` would do now; for the keys "nonzeros" and "diagonal", what those methods would do."""
    origin, layout, lines = view._origin, view._layout, not isinstance(key, str)

    def memory(plan: Plan) -> int:
        if not origin.compiles:
            got, instead = "run by Python (jit=False)", "Leave out jit=False."
            if origin.blue.jit:
                got, instead = "traced", "Ask outside of transformations."
            raise ValueError(
                f"J.explain().memory: expected a view whose kernels are compiled, got one that is {got}. {instead}"
            )
        with origin.lock:
            every = not lines or is_all(key, len(layout.shape))
            return peak(plan, layout, None if every else view._asked(key))

    def made() -> Explanation:
        (first, *others), refused = there_is_room(view._plans(key))
        beside = () if first.outline.way == "none" else _considered([first, *others], origin.blue.symmetric)
        by = (_by(origin, view, "rows"), _by(origin, view, "columns")) if lines else (first.by(), first.by())
        shape = view._shape_of(key)
        nbytes, notes = math.prod(shape) * layout.block.dtype.itemsize, (*first.notes(), *_notes(origin, view))
        if not refused and lines and view._known() is None:
            refused = str(refusal(lambda: view._check_result(shape)) or "")
        if refused:
            notes = (*notes, f"memory: no plan fits, and reading raises: {refused}")
        density = _density(origin, view._index)
        return Explanation(
            repr(view),
            shape,
            nbytes,
            density,
            first.outline,
            tuple(beside),
            by,
            notes,
            partial(memory, first),
            refused,
        )

    return by_what_exists(origin, [layout.block], made)


def _considered(plans: Iterable[Plan], symmetric: bool) -> Iterator[Considered]:
    # The first plan of each way. Rows and columns of a symmetric matrix are the same Hessian-vector products.
    seen = set()
    for plan in plans:
        way = "rows" if symmetric and plan.outline.way == "columns" else plan.outline.way
        told = None if way in seen else plan.considered()
        seen.add(way)
        if told is not None:
            yield told


def _by(origin: Linearized, view: LiveBlock, way: str) -> str:
    return "Hessian-vector products" if origin.blue.symmetric else origin.by(way, view._layout.block)


def _notes(origin: Linearized, view: LiveBlock) -> Iterator[str]:
    blue, known = origin.blue, origin.directions(view._layout.block)
    if known.pushforward == "transposed pullback":
        yield "pushforwards: f has none (custom_vjp), so its pullback is transposed"
    if blue.primal is not None and blue.primal.forward:
        yield "gradient: f has no pullback, so the gradient is computed by pushforwards (forward over forward)"
    if not known.linear:
        yield "pullback: not linear in its cotangent (custom_vjp), so only rows can be computed"
    if blue.spread is not None:
        yield blue.spread.told()
    yield "f: compiled" if blue.jit else "f: run by Python at each read (jit=False), which is slow"


def _density(origin: Linearized, index: int) -> float | None:
    # The density of the pattern; None if no pattern has been found.
    pattern, program = store_of(origin, index).pattern, origin.blue.found.get("whole", index)
    return pattern.density if pattern is not None else None if program is None else program.density
