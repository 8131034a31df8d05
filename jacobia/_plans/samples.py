"""Few samples of a batch: what a key asks of them is computed for them alone, and remembered.

Only where f evaluates its samples independently, which `program.cut` decides; otherwise, and where many samples are
asked for, the whole batch is computed.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._plans.choose import choose_way
from jacobia._plans.recipes import Recipe, recipe_name, worth_remembering
from jacobia._plans.sizes import padded, sized
from jacobia._plans.wants import Want, mirrored, request, store_of
from jacobia._run import plan as _plan
from jacobia._run.plan import Plan
from jacobia._run.point import Linearized
from jacobia._run.seeds import Sweep
from jacobia._store.lines import Patches


def few(origin: Linearized, want: Want, samples: Any) -> bool:
    """Whether to read some samples by themselves."""
    if samples is None or not are_few(origin, samples):
        return False
    store = origin.stores.get(want.block)
    if store is not None:  # lines that are known for all samples
        known = store.whole() is not None or not store.rows.missing(_numbers(want.rows, store.rows.count)).size
        if known or not store.columns.missing(_numbers(want.columns, store.columns.count)).size:
            return False
    plan = _plan_for(origin, want, samples)
    return origin.cuts(plan.sweep(origin, plan.numbers, len(samples)), samples)


def are_few(origin: Linearized, samples: Any) -> bool:
    """Whether some samples are a small part of all."""
    return _plan.worth_apart(width_of(origin, samples), math.prod(origin.lead))


def plan_few(origin: Linearized, want: Want, samples: Any) -> Plan:
    """What reading them would do now."""
    plan = _plan_for(origin, want, samples)
    store = origin.stores.get(plan.todo.block)
    patches = Patches() if store is None else store.patches.get(plan.way, Patches())
    lines = patches.missing(samples, _numbers(plan.numbers, plan.most))[1]
    if not lines.size:
        return Plan("none", 0, 0, "it is known for these samples")
    block = origin.blue.blocks[want.block]
    instead = math.prod(block.row_shape if plan.asked_way == "columns" else block.column_shape)
    return Plan(plan.asked_way, lines.size, instead, f"the {plan.asked_way} of these samples")


def compute_few(origin: Linearized, want: Want, samples: Any) -> tuple[jax.Array, dict[str, Any]]:
    """As part of a trace: an array with axes (samples, rows, columns), and the numbers it holds, None for all."""
    plan = _plan_for(origin, want, samples)
    sweep = plan.sweep(origin, plan.numbers, len(samples))
    array = origin.run_cut(sweep, padded(plan.numbers, sweep), samples)[0]
    plan.note(origin, sweep, plan.numbers)
    return _oriented(plan, array.reshape(len(samples), *plan.flat)), plan.holds(samples, plan.numbers)


def read_few(origin: Linearized, want: Want, samples: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The same from what is known, computed where it is missing."""
    plan = _plan_for(origin, want, samples)
    store, numbers = store_of(origin, plan.todo.block), _numbers(plan.numbers, plan.most)
    patches = store.patches.setdefault(plan.way, Patches())
    absent, lines = patches.missing(samples, numbers)
    if absent.size:
        wide = np.full(width_of(origin, absent), absent[0], np.int32)
        wide[: absent.size] = absent
        part = lines if lines.size < plan.most else None
        sweep = plan.sweep(origin, part, wide.size)
        array = origin.run_cut(sweep, padded(part, sweep), wide)[0]
        plan.note(origin, sweep, part)
        patches.put(absent, lines, array)
        if absent.size == samples.size and lines.size == numbers.size:
            _remember_way(origin, plan, sweep, wide, array)
    lined = (samples.size, *(numbers.size if k < 0 else k for k in plan.flat))
    cube = np.zeros(lined, origin.blue.blocks[plan.todo.block].dtype)
    by_line = cube if plan.way == "rows" else cube.swapaxes(1, 2)
    for array, here, there in patches.take(samples, numbers):
        piece = np.asarray(array).reshape(array.shape[0], *plan.flat)
        by_line[there] = (piece if plan.way == "rows" else piece.swapaxes(1, 2))[here]
    return _oriented(plan, cube), plan.holds(samples, numbers)


def _remember_way(origin: Linearized, plan: "_Plan", sweep: Sweep, samples: np.ndarray, lines: Any) -> None:
    if origin.batch or not worth_remembering(origin, lines.nbytes):
        return
    count, width = plan.most if sweep.width is None else sweep.width, len(samples)
    recipe = Recipe(
        plan.asked_way, sweep.width, count, plan.todo.block, plan.way, plan.turned, plan.by(origin), (sweep,), 0,
        tuple(lines.shape), width, origin.cut_kernel(sweep, samples),
    )  # fmt: skip
    name = recipe_name(origin, plan.want.block, plan.asked_way, sweep.width, width)
    origin.blue.found.put("recipe", name, recipe)


class _Plan(NamedTuple):
    want: Want
    todo: Want  # the want, or its mirror image
    way: str  # of todo
    turned: bool  # which of the two
    most: int  # lines there are
    flat: tuple[int, int]  # of the lines of one sample, -1 for how many
    outs: tuple[int, ...]
    ins: tuple[int, ...]

    @property
    def numbers(self) -> Any:
        return self.todo.rows if self.way == "rows" else self.todo.columns

    @property
    def asked_way(self) -> str:
        return self.way if not self.turned else "columns"

    def sweep(self, origin: Linearized, numbers: Any, samples: int) -> Sweep:
        return sized(origin, self.way, self.outs, self.ins, numbers, samples=samples)

    def holds(self, samples: Any, numbers: Any) -> dict[str, Any]:
        return {"batch": samples, "rows": None, "columns": None} | {self.asked_way: numbers}

    def note(self, origin: Linearized, sweep: Sweep, numbers: Any) -> None:
        lines = self.most if numbers is None else len(numbers)
        run = lines if sweep.width is None else sweep.width
        store_of(origin, self.want.block).count(self.asked_way, self.by(origin), lines, lines, run)

    def by(self, origin: Linearized) -> str:
        return origin.by(self.way, origin.blue.blocks[self.todo.block])


def _plan_for(origin: Linearized, want: Want, samples: Any) -> _Plan:
    block = origin.blue.blocks[want.block]
    if isinstance(samples, np.ndarray):
        for asked in ("rows", "columns"):  # what is known decides, before what is cheap
            plan = _plan_by(origin, want, asked)
            store = origin.stores.get(plan.todo.block)
            patches = None if store is None else store.patches.get(plan.way)
            if patches is not None and not patches.missing(samples, _numbers(plan.numbers, plan.most))[0].size:
                return plan
    rows = math.prod(block.row_shape) if want.rows is None else len(want.rows)
    columns = math.prod(block.column_shape) if want.columns is None else len(want.columns)
    return _plan_by(origin, want, choose_way(origin, want.block, request(want), rows, columns).way)


def _plan_by(origin: Linearized, want: Want, asked: str) -> _Plan:
    todo, way = mirrored(origin, want, asked)
    target = origin.blue.blocks[todo.block]
    m, n = math.prod(target.row_shape), math.prod(target.column_shape)
    most, flat = (m, (-1, n)) if way == "rows" else (n, (m, -1))
    return _Plan(want, todo, way, way != asked, most, flat, target.outs, target.ins)


def _oriented(plan: _Plan, cube: Any) -> Any:
    return cube.swapaxes(1, 2) if plan.turned else cube


def _numbers(numbers: Any, count: int) -> np.ndarray:
    return np.arange(count) if numbers is None else numbers


def width_of(origin: Linearized, samples: Any) -> int:
    """How many samples the kernel for some of them takes."""
    return _plan.padded_width(len(samples), math.prod(origin.lead))
