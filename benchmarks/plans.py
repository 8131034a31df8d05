"""Bars of plans: a narrow waist, constant rows, residuals that are kept, and the time of planning itself.

Shapes: M outputs, N inputs, D the width of a state.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.results import Result, all_of_it, by_any_rows, checked, faster, rounds, slower
from benchmarks.workloads import WORKLOADS, Workload, build_mlp, mlp_parameters, mlp_rows
from jacobia import jacobian


def _layers(name: str, title: str, sizes: tuple[int, ...]) -> Workload:
    return Workload(name, title, sizes[:1], sizes[-1], build_mlp(sizes), mlp_rows(sizes))


AUTOENCODER = _layers("waist", "autoencoder 2000→512→16→512→2000", (2000, 512, 16, 512, 2000))
DEEP = _layers("deep", "MLP of 10 layers of 64", (64,) * 11)


# ---- all of it ----


def _way(workload: Workload) -> str:
    f = workload.build(jnp, jnp.asarray)
    return jacobian(f)(jnp.zeros(workload.shape)).plan.way


def waist(quick: bool) -> list[Result]:
    """An autoencoder: all of its Jacobian, and some rows, for which the waist is of no use."""
    times, base = all_of_it(AUTOENCODER, quick)
    what = f"`J[...]`, {AUTOENCODER.title}, `jac` kept, than {base}"
    whole = faster(what, times, "kept", base, 8)
    whole = replace(whole, note=f"{whole.note}, by {_way(AUTOENCODER)}")
    few = replace(AUTOENCODER, rows=slice(3, 8))
    f, points, right = checked(few)
    any_rows, five = jax.jit(partial(by_any_rows, f)), jnp.arange(3, 8)
    jac = jacobian(f)
    contenders = {"kept": lambda x: jac(x)[3:8], "by hand": lambda x: any_rows(x, five)}
    right(contenders)
    times = rounds(contenders, points, quick)
    what = "the same, 5 rows at a new x, against a jitted vmap of a vjp that takes row numbers"
    return [whole, slower(what, times, "kept", "by hand", 1.1)]


_N, _LINEAR = 1500, 1000
_DRAWN = mlp_parameters((_N, _N), seed=4)[0][0]  # the weights: first the rows of linear outputs, then the others


def _build_partly_linear(xp: Any, array: Callable) -> Callable:
    a, b = array(_DRAWN[:_LINEAR]), array(_DRAWN[_LINEAR:])
    return lambda x: xp.concatenate([a @ x, xp.tanh(b @ x)])


def _partly_linear_rows(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    weight = _DRAWN[wanted].astype(np.float64)
    slope = 1 - np.tanh(weight @ x) ** 2
    return np.where(wanted < _LINEAR, 1, slope)[:, None] * weight


CONSTANT = Workload("constant", "1,000 linear outputs of 1,500", (_N,), _N, _build_partly_linear, _partly_linear_rows)


def constant(quick: bool) -> list[Result]:
    """A Jacobian of which some rows are the same at every point."""
    times, base = all_of_it(CONSTANT, quick, count=50)
    what = f"`J[...]`, {CONSTANT.title}, n = 1,500, 50 points in turn, than {base}"
    result = faster(what, times, "kept", base, 6)
    return [replace(result, note=f"{result.note}, by {_way(CONSTANT)}")]


def mlp(quick: bool) -> list[Result]:
    """A network without structure, where no plan is faster: planning must cost nothing."""
    times, base = all_of_it(WORKLOADS["mlp"], quick)
    what = "`J[...]`, MLP 64→256→256→64, nothing to gain by a plan"
    return [
        slower(f"{what}, inside jit, against {base}", times, "in jit", base, 1.05),
        slower(f"{what}, `jac` kept, against the same", times, "kept", base, 1.15),
    ]


# ---- residuals ----

_D, _DT = 16, 0.01
_COUPLING = 2 * mlp_parameters((_D, _D), seed=5)[0][0]


def _rate(xp: Any, w: Any, h: Any) -> Any:
    return w @ xp.tanh(h) - h


def _slope(xp: Any, w: Any, h: Any) -> Any:
    return w * (1 - xp.tanh(h) ** 2) - xp.eye(_D)


def _explicit(xp: Any, w: Any, h: Any) -> Any:
    return h + _DT * _rate(xp, w, h)


def _implicit(xp: Any, w: Any, h: Any) -> Any:
    z = h
    for _ in range(8):  # Newton's method
        z = z - xp.linalg.solve(xp.eye(_D) - _DT * _slope(xp, w, z), z - h - _DT * _rate(xp, w, z))
    return z


def euler(title: str, step: Callable, count: int, rows: slice | None = None) -> Workload:
    """The state after `count` steps, as a function of the first state."""

    def build(xp: Any, array: Callable) -> Callable:
        w = array(_COUPLING)

        def f(h: Any) -> Any:
            if xp is jnp:
                return jax.lax.scan(lambda h, _: (step(jnp, w, h), None), h, None, length=count)[0]
            for _ in range(count):
                h = step(xp, w, h)
            return h

        return f

    def closed_form(h: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        w, product = _COUPLING.astype(np.float64), np.eye(_D)
        for _ in range(count):
            before, h = h, step(np, w, h)
            if step is _explicit:
                product = (np.eye(_D) + _DT * _slope(np, w, before)) @ product
            else:  # by the implicit function theorem
                product = np.linalg.solve(np.eye(_D) - _DT * _slope(np, w, h), product)
        return product[wanted]

    return Workload("euler", title, (_D,), _D, build, closed_form, rows)


TEN = slice(3, 13)
RESIDUALS = (
    (euler("300 steps of implicit Euler, each of 8 Newton iterations", _implicit, 300, TEN), 0.4),
    (euler("300 steps of explicit Euler", _explicit, 300, TEN), 0.7),
)


def residuals(quick: bool) -> list[Result]:
    """Ten reads of one view, of one row each."""
    results = []
    for workload, limit in RESIDUALS:
        f, points, right = checked(workload)
        jac, fused = jacobian(f), jax.jit(lambda x, k, f=f: by_any_rows(f, x, k[None])[0])
        numbers = list(range(_D))[TEN]
        on_device = [jnp.asarray(k) for k in numbers]

        def reads(x, jac=jac, numbers=numbers):
            J = jac(x)
            return [J[k] for k in numbers]

        contenders = {
            "view": reads,
            "fused": lambda x, fused=fused, on_device=on_device: [fused(x, k) for k in on_device],
        }
        right(contenders)
        times = rounds(contenders, points, quick, jax.block_until_ready)
        what = f"ten rows, one at a time, of {workload.title}, against ten fused jitted calls"
        results.append(slower(what, times, "view", "fused", limit))
    return results


# ---- planning ----


def _build_wide(xp: Any, array: Callable) -> Callable:
    inner = build_mlp((512, 4096))(xp, array)
    return lambda x: xp.tanh(inner(x))


def _wide_rows(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    ((weight, bias),) = mlp_parameters((512, 4096))
    weight = weight[wanted].astype(np.float64)
    return (1 - np.tanh(weight @ x + bias[wanted]) ** 2)[:, None] * weight


_SIDE = 50


def _build_stencil(xp: Any, array: Callable) -> Callable:
    def f(x: Any) -> Any:
        u = xp.pad(x.reshape(_SIDE, _SIDE), 1)
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        return (around - 4 * xp.sin(u[1:-1, 1:-1])).ravel()

    return f


def _stencil_rows(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    row, column = np.divmod(wanted[:, None], _SIDE)
    there = np.arange(_SIDE**2)
    distance = abs(row - there // _SIDE) + abs(column - there % _SIDE)
    return np.where(distance == 0, -4 * np.cos(x), distance == 1)


PLANNED = (
    Workload("wide", "`tanh(W x + b)`, 512→4096", (512,), 4096, _build_wide, _wide_rows),
    AUTOENCODER,
    DEEP,
    Workload("stencil", "5-point stencil, n = 2,500", (_SIDE**2,), _SIDE**2, _build_stencil, _stencil_rows),
    euler("100 steps of explicit Euler", _explicit, 100),
)


def planning(quick: bool) -> list[Result]:
    """The time of planning (tracing and analysis) for a new program, without that of tracing f."""
    results = []
    for workload in PLANNED:
        f, points, right = checked(workload, count=2)
        right({"J[...]": lambda x, f=f: jacobian(f)(x)[...]})
        x, way = points[0], jacobian(f)(points[0]).plan.way
        times: timing.Times = {"tracing": [], "planning": [], "compiling": []}
        for k in range(4 if quick else 12):
            # Constants are part of the program, so another constant makes a program for which nothing is cached.
            first, again, planned = (_scaled(workload, 1 + k / 64) for _ in range(3))
            jax.make_jaxpr(first)(x)  # JAX caches traces of parts of a program: fill these caches for both contenders
            jac = jacobian(planned)
            tracing = timing.seconds(partial(jax.make_jaxpr(again), x))
            times["tracing"].append(tracing)
            times["planning"].append(timing.seconds(lambda jac=jac, x=x: jac(x).plan) - tracing)
            times["compiling"].append(timing.seconds(partial(jac.compile, x)))
        times = {name: spent[1:] for name, spent in times.items()}
        what = f"planning `J[...]`, {workload.title}, without tracing f, against compiling the kernel"
        result = slower(what, times, "planning", "compiling", 0.3)
        traced_in = timing.human(float(np.median(times["tracing"])))
        results.append(replace(result, note=f"{result.note}, by {way}; tracing f: {traced_in}"))
    return results


def _scaled(workload: Workload, factor: float) -> Callable:
    f = workload.build(jnp, jnp.asarray)
    return lambda x: f(factor * x)


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "plans-waist": waist,
    "plans-constant": constant,
    "plans-mlp": mlp,
    "plans-residuals": residuals,
    "plans-planning": planning,
}
