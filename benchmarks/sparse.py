"""Bars of sparse Jacobians and Hessians: all nonzeros, patterns, first calls, colors, and dense problems.

They are compared with asdex if it is installed. `python -m benchmarks.sparse` runs one measurement in a process of its
own, so that its memory peak and its first call are not affected by another one.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jacobia
from benchmarks import memory, sparse_problems, timing
from benchmarks.peers import BASE
from benchmarks.results import MIB, Result, faster, median, rounds, slower
from benchmarks.sparse_problems import PROBLEMS, Problem, check_colors, check_nonzeros, check_pattern, in_order
from benchmarks.workloads import forward, mlp_parameters
from jacobia import Pattern, coloring, hessian, jacobian, sparsity_pattern

ROOT = Path(__file__).resolve().parents[1]
HAND = (
    "by hand, vmapped",
    "by hand, seeds last",
    "by hand, one seed after another",
    "by hand, one seed after another, read by pairs",
)
COMPILED_IN = "by hand, seeds and indices compiled in"
OF_F = "× that of f"  # the unit of bars against f itself; f is no contender, so being slower than f does not count


def _without_asdex(*bars: str) -> list[Result]:
    return [Result(bar, None, "", note="asdex is not installed", skipped=True) for bar in bars]


def _transform(problem: Problem) -> Callable:
    return hessian if problem.hessian else jacobian


# ---- all nonzeros, warm ----


def compressed_by_hand(push: Callable, colors: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> timing.Contenders:
    """The nonzeros by one pushforward for each color and a gather, in several versions that XLA compiles differently.

    Seeds and indices are arguments, except in the last version, `COMPILED_IN`. There XLA computes at compile time what
    does not depend on x, which takes seconds, and holds the results in the program.
    """
    count, m = int(colors.max()) + 1, int(rows.max()) + 1
    seeds = jnp.asarray(colors == np.arange(count)[:, None], jnp.float32)  # (C, N)
    turned = jnp.asarray(seeds.T)
    color = colors[cols].astype(np.int32)
    by_color, by_row = jnp.asarray(color * m + rows), jnp.asarray(rows * count + color)
    pairs = jnp.asarray(color), jnp.asarray(rows)

    def flat(compressed: jax.Array, where: jax.Array) -> jax.Array:
        return compressed.reshape(-1).at[where].get(mode="promise_in_bounds")

    def in_turn(x: jax.Array, seeds: jax.Array) -> jax.Array:
        _, pushforward = jax.linearize(push, x)
        return jnp.stack([pushforward(s) for s in seeds])

    @jax.jit
    def vmapped(x, seeds, where):
        return flat(jax.vmap(lambda s: jax.jvp(push, (x,), (s,))[1])(seeds), where)

    @jax.jit
    def last(x, seeds, where):
        pushforward = jax.vmap(lambda s: jax.jvp(push, (x,), (s,))[1], in_axes=-1, out_axes=-1)
        return flat(pushforward(seeds), where)

    @jax.jit
    def one_after_another(x, seeds, where):
        return flat(in_turn(x, seeds), where)

    @jax.jit
    def by_pairs(x, seeds, pairs):
        return in_turn(x, seeds).at[pairs].get(mode="promise_in_bounds")

    calls = (
        lambda x: vmapped(x, seeds, by_color),
        lambda x: last(x, turned, by_row),
        lambda x: one_after_another(x, seeds, by_color),
        lambda x: by_pairs(x, seeds, pairs),
    )
    compiled_in = jax.jit(lambda x: by_pairs(x, seeds, pairs))
    return dict(zip(HAND, calls, strict=True)) | {COMPILED_IN: compiled_in}


def by_asdex(problem: Problem, f: Callable, n: int, rows: np.ndarray, cols: np.ndarray) -> timing.Contenders:
    """asdex with the pattern given: its jitted call, and its fastest one, which returns values without indices."""
    import asdex

    aval = jax.ShapeDtypeStruct((n,), jnp.float32)
    pattern = asdex.SparsityPattern.from_coo(rows, cols, (n, n), input_avals=(aval,), argnums=0)
    if problem.hessian:
        colored = asdex.hessian_coloring_from_sparsity(pattern)
        whole, compressed = (
            make(f, colored) for make in (asdex.hessian_from_coloring, asdex.compressed_hessian_from_coloring)
        )
    else:
        colored = asdex.jacobian_coloring_from_sparsity(pattern)
        whole, compressed = (
            make(f, colored) for make in (asdex.jacobian_from_coloring, asdex.compressed_jacobian_from_coloring)
        )
    check_pattern((colored.sparsity.rows, colored.sparsity.cols), (rows, cols))
    jitted = jax.jit(whole)
    return {
        f"asdex, {colored.num_colors} colors": lambda x: jitted(x).data,
        "asdex, values alone": jax.jit(lambda x: asdex.decompress_data(compressed(x), colored)),
    }


def warm(name: str, size: int, quick: bool) -> list[Result]:
    """All nonzeros at a new x. Only the larger size has bars."""
    problem = PROBLEMS[name]
    n, bars = problem.sizes[size], size == 1
    f, points = problem.build(1.5), sparse_problems.points(n)
    rows, cols = problem.pattern(n)
    colors = problem.colors(n)
    check_colors(rows, cols, None, colors)
    make = _transform(problem)(f)
    # A lower bound: writing as many numbers, which need no computation.
    written = jax.jit(lambda x: jnp.arange(len(rows), dtype=x.dtype) + x[0])
    contenders: timing.Contenders = {"jacobia": lambda x: make(x).nonzeros()[0], "f": jax.jit(f), "writing": written}
    contenders |= compressed_by_hand(problem.pushed(f), colors, rows, cols)
    if find_spec("asdex"):
        contenders |= by_asdex(problem, f, n, rows, cols)
    check_pattern(make(points[0]).nonzeros()[1:], (rows, cols))
    for contender, call in contenders.items():
        for x in points[:2] if contender not in ("f", "writing") else ():
            check_nonzeros(problem.pushed(f), x, call(x), rows, cols)
    times = rounds(contenders, points, quick)
    hand = timing.better(times, HAND)
    count = int(colors.max()) + 1
    what = f"all nonzeros, {problem.what}, {problem.title}, n = {n:,}"
    limits = (10, 0.7, 0.7) if problem.hessian else (2, 0.5, 0.25)
    to_f, to_hand, to_asdex = limits if bars else (None, None, None)
    results = [
        slower(f"{what}, against jitted f", times, "jacobia", "f", to_f, OF_F),
        slower(f"{what}, against writing as many numbers", times, "jacobia", "writing", unit="× that"),
        slower(f"{what}, against {count} colors and recovery {hand}", times, "jacobia", hand, to_hand),
        slower(f"{what}, against {count} colors and recovery {COMPILED_IN}", times, "jacobia", COMPILED_IN),
    ]
    theirs = [name for name in contenders if name.startswith("asdex")]
    if not theirs:
        return results + _without_asdex(f"{what}, against asdex")
    return results + [
        slower(f"{what}, against jitted {name}", times, "jacobia", name, limit)
        for name, limit in zip(theirs, (to_asdex, None), strict=True)
    ]


# ---- patterns and first calls, each in a process of its own ----


def _apart(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sparse", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _pattern_by_jacobia(problem: Problem, n: int) -> dict[str, Any]:
    # Constants are part of the program, so another constant makes a program for which nothing is cached.
    spent: list[float] = []
    size = problem.sizes[0]
    for k in range(6):
        f = problem.build(1 + k / 8)
        x = jax.ShapeDtypeStruct((n if k else size,), jnp.float32)
        before = memory.peak()
        start = time.perf_counter()
        found = sparsity_pattern(f, x, hessian=problem.hessian)
        spent.append(time.perf_counter() - start)
        if k == 1:
            peak = memory.peak()
            rise = peak - before
            check_pattern((found.rows, found.cols), problem.pattern(n))
    return {"seconds": spent[1:], "peak": peak, "rise": rise}


def _csr_by_jacobia(problem: Problem, n: int) -> dict[str, Any]:
    import scipy.sparse  # noqa: F401

    f, x = problem.build(1.5), sparse_problems.points(n, 1)[0].block_until_ready()
    start = time.perf_counter()
    matrix = _transform(problem)(f)(x).to_scipy("csr")
    seconds = time.perf_counter() - start
    _check_csr(problem, f, x, matrix)
    return {"seconds": seconds}


def _csr_by_asdex(problem: Problem, n: int) -> dict[str, Any]:
    # The stages of asdex.jacobian(f, x, output_format="scipy_csr")(x), called one by one so that each can be timed.
    import asdex
    import scipy.sparse  # noqa: F401

    f, x = problem.build(1.5), sparse_problems.points(n, 1)[0].block_until_ready()
    before = memory.peak()
    start = time.perf_counter()
    pattern = (asdex.hessian_sparsity if problem.hessian else asdex.jacobian_sparsity)(f, x)
    detected = time.perf_counter()
    peak = memory.peak()
    if problem.hessian:
        whole = asdex.hessian_from_coloring(f, asdex.hessian_coloring_from_sparsity(pattern), "scipy_csr")
    else:
        whole = asdex.jacobian_from_coloring(f, asdex.jacobian_coloring_from_sparsity(pattern), "scipy_csr")
    matrix = whole(x)
    seconds = time.perf_counter() - start
    _check_csr(problem, f, x, matrix)
    return {"seconds": seconds, "pattern": detected - start, "peak": peak, "rise": peak - before}


def _check_csr(problem: Problem, f: Callable, x: jax.Array, matrix: Any) -> None:
    rows, cols = problem.pattern(x.size)
    matrix.sort_indices()
    check_pattern((np.repeat(np.arange(x.size), np.diff(matrix.indptr)), matrix.indices), (rows, cols))
    check_nonzeros(problem.pushed(f), x, matrix.data, rows, cols)


ALONE: dict[str, Callable[[Problem, int], dict[str, Any]]] = {
    "jacobia-pattern": _pattern_by_jacobia,
    "jacobia-csr": _csr_by_jacobia,
    "asdex-csr": _csr_by_asdex,
}


def first(name: str, quick: bool) -> list[Result]:
    """The pattern alone, with empty caches, and the first call that returns a SciPy matrix; n = 10⁶."""
    problem = PROBLEMS[name]
    n = problem.sizes[-1]
    pattern = _apart("jacobia-pattern", name, str(n))
    matrix = [_apart("jacobia-csr", name, str(n))["seconds"] for _ in range(1 if quick else 3)]
    seconds = statistics.median(pattern["seconds"])
    case = f"{problem.what}, {problem.title}, n = {n:,}"
    what = f"pattern of the {case}"
    results = [
        Result(f"{what}, `sparsity_pattern` of a new f", seconds, "s", 1.5, note=timing.human(seconds)),
        Result(f"{what}, peak of memory", pattern["peak"] / MIB, "MiB", note=_rise(pattern)),
    ]
    against = f"{what}, than asdex", f"{what}, peak of memory, against asdex"
    call = f"first call to a SciPy matrix, in a process of its own, {case}"
    results.append(Result(call, statistics.median(matrix), "s", note=median(matrix)))
    if not find_spec("asdex"):
        return results + _without_asdex(*against, f"{call}, against asdex")
    theirs = _apart("asdex-csr", name, str(n))
    patterns = {"jacobia": [seconds], "asdex": [theirs["pattern"]]}
    calls = {"jacobia": [statistics.median(matrix)], "asdex": [theirs["seconds"]]}
    peaks = f"{pattern['peak'] / MIB:.0f} / {theirs['peak'] / MIB:.0f} MiB, {_rise(theirs)}"
    return [
        *results,
        faster(against[0], patterns, "jacobia", "asdex", 20),
        Result(against[1], pattern["peak"] / theirs["peak"], "×", 0.2, note=peaks),
        slower(f"{call}, against asdex", calls, "jacobia", "asdex", 0.1),
    ]


def _rise(measured: dict[str, Any]) -> str:
    return f"of which the pattern: {measured['rise'] / MIB:.0f} MiB"


# ---- patterns of loops ----


def _step(c: float) -> Callable:
    def step(x):
        padded = jnp.pad(x, 1)
        return x + 0.1 * (padded[:-2] - 2 * x + padded[2:]) + c * jnp.sin(x) * padded[2:]

    return step


def _counted(c: float, steps: int = 5) -> Callable:
    step = _step(c)
    return lambda x: jax.lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, step(s[1])), (0, x))[1]


def _until(c: float) -> Callable:
    return lambda x: jax.lax.while_loop(lambda x: jnp.sum(x**2) > 1, _step(c), x)


def _scanned(c: float, steps: int) -> Callable:
    step = _step(c)
    return lambda x: jax.lax.scan(lambda h, _: (step(h), None), x, None, length=steps)[0]


def loops(quick: bool) -> list[Result]:
    """Patterns of `while_loop` and of `scan`."""
    n = 1000
    x = jax.ShapeDtypeStruct((n,), jnp.float32)
    # Title → (f, its pattern). If the number of steps is not known, every output can depend on every input.
    cases = {
        "5 steps": (_counted, in_order(*sparse_problems.band(n, 5), n)),
        "until it is small": (_until, in_order(*sparse_problems.band(n, n - 1), n)),
    }
    results = []
    count = 3 if quick else 7
    for title, (new, (rows, cols)) in cases.items():
        spent = []
        for k in range(count + 1):
            f = new(1 + k / 8)
            start = time.perf_counter()
            found = sparsity_pattern(f, x)
            spent.append(time.perf_counter() - start)
            assert np.all(found.todense()[rows, cols])
            if k and sum(spent) > 5:
                break
        what = f"pattern of a `while_loop` of a stencil, n = {n}, {title}"
        seconds = statistics.median(spent[1:])
        results += [
            Result(what, seconds, "s", 0.5, note=timing.human(seconds)),
            Result(f"{what}: entries found, to those that can be nonzero", found.nnz / len(rows), "to one"),
        ]
    n = 100
    x = jax.ShapeDtypeStruct((n,), jnp.float32)
    times: timing.Times = {"10": [], "1000": []}
    for k in range(2 * count + 1):
        for steps in times:
            f = _scanned(1 + k / 8, int(steps))
            start = time.perf_counter()
            found = sparsity_pattern(f, x)
            times[steps].append(time.perf_counter() - start)
            check_pattern((found.rows, found.cols), in_order(*sparse_problems.band(n, min(int(steps), n - 1)), n))
    times = {steps: spent[1:] for steps, spent in times.items()}
    what = "pattern of a `scan` of 1,000 steps of a stencil, n = 100, against one of 10 steps"
    return [*results, slower(what, times, "1000", "10", 2)]


# ---- blocks, and what is dense ----


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))


def blocks(quick: bool) -> list[Result]:
    """A block-diagonal Jacobian: 50 independent layers 20 → 20."""
    count, width = 50, 20
    weights = _draw(count, width, width)
    w = jnp.asarray(weights)
    points = sparse_problems.points(count * width)

    def f(x):
        return jnp.tanh(jnp.einsum("bij,bj->bi", w, x.reshape(count, width))).ravel()

    jac = jacobian(f)
    contenders = {
        "jacobia": lambda x: jac(x).nonzeros()[0],
        "in jit": jax.jit(lambda x: jacobian(f)(x).nonzeros()[0]),
        BASE[0]: jax.jit(jax.jacrev(f)),
        BASE[1]: jax.jit(jax.jacfwd(f)),
    }
    rows = np.repeat(np.arange(count * width), width)
    cols = (rows // width * width).reshape(-1, width) + np.arange(width)
    check_pattern(jac(points[0]).nonzeros()[1:], (rows, cols.ravel()))
    for x in points[:2]:
        inside = np.einsum("bij,bj->bi", weights.astype(np.float64), np.asarray(x, np.float64).reshape(count, width))
        expected = ((1 - np.tanh(inside) ** 2)[..., None] * weights).ravel()
        for name, call in contenders.items():
            answer = np.asarray(call(x))
            answer = answer[rows, cols.ravel()] if name in BASE else answer
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    times = rounds(contenders, points, quick)
    base = timing.better(times, BASE)
    what = "nonzeros of 50 independent layers 20→20"
    return [
        faster(f"{what}, `jac` kept, than {base}", times, "jacobia", base, 20),
        faster(f"{what}, inside jit, than {base}", times, "in jit", base, 20),
    ]


def wide(quick: bool) -> list[Result]:
    """The whole dense Jacobian of `tanh(W x)`, 512 → 4096."""
    n, m = 512, 4096
    weight = _draw(m, n)
    w = jnp.asarray(weight)
    points = sparse_problems.points(n)

    def f(x):
        return jnp.tanh(w @ x)

    jac = jacobian(f)
    contenders = {
        "all": lambda x: jac(x)[...],
        "nonzeros": lambda x: jac(x).nonzeros()[0].reshape(m, n),
        BASE[0]: jax.jit(jax.jacrev(f)),
        BASE[1]: jax.jit(jax.jacfwd(f)),
    }
    for x in points[:2]:
        expected = (1 - np.tanh(weight.astype(np.float64) @ np.asarray(x, np.float64)) ** 2)[:, None] * weight
        for call in contenders.values():
            np.testing.assert_allclose(call(x), expected, rtol=1e-4, atol=1e-5)
    times = rounds(contenders, points, quick)
    base = timing.better(times, BASE)
    what = f"`tanh(W x)`, 512→4096, all, than {base}"
    informs = slower(f"the same by `.nonzeros()`, reshaped, against {base}", times, "nonzeros", base)
    return [faster(what, times, "all", base, 5), informs]


def compile_time(quick: bool) -> list[Result]:
    """The time until the first entry of an MLP's Jacobian is there."""
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters((64,) * 11)]
    x = sparse_problems.points(64, 1)[0]

    def programs() -> dict[str, Callable]:
        def f(x):
            return forward(jnp, layers, x)

        return {"jacobia": lambda x: jacobian(f)(x).nonzeros()[0], "jacfwd": jax.jacfwd(f)}

    calls = programs()
    np.testing.assert_allclose(calls["jacobia"](x).reshape(64, 64), calls["jacfwd"](x), rtol=1e-3, atol=1e-5)
    times: timing.Times = {name: [] for name in calls}
    for _ in range(4 if quick else 16):
        for name, call in programs().items():
            jax.clear_caches()
            jacobia.cache_clear()
            times[name].append(timing.seconds(lambda call=call: jax.jit(call).lower(x).compile()))
    times = {name: spent[1:] for name, spent in times.items()}
    what = "compiling the nonzeros of an MLP of 10 layers of 64, traced and lowered, against jitted jacfwd"
    return [slower(what, times, "jacobia", "jacfwd", 1.25)]


# ---- Hessians that are assembled, and those with a dense row ----


def elements(quick: bool) -> list[Result]:
    """The Hessian of an energy on 20,000 triangles."""
    m = sparse_problems.mesh(100)
    triangles, slopes, areas = jnp.asarray(m.triangles), jnp.asarray(m.slopes), jnp.asarray(m.areas)
    points = sparse_problems.points(m.num_nodes)
    pairs = sparse_problems.element_pairs(m)
    rows, cols = in_order(*pairs, m.num_nodes)
    keys = [r.astype(np.int64) * m.num_nodes + c for r, c in ((rows, cols), pairs)]
    place = jnp.asarray(np.searchsorted(*keys), jnp.int32)

    def energy(u):
        return jnp.sum(jax.vmap(sparse_problems.element_energy)(u[triangles], slopes, areas))

    @jax.jit
    def assembled(u, triangles, slopes, areas, place):
        local = jax.vmap(jax.hessian(sparse_problems.element_energy))(u[triangles], slopes, areas)
        return jax.ops.segment_sum(local.ravel(), place, len(rows))

    hess = hessian(energy)
    contenders = {
        "jacobia": lambda u: hess(u).nonzeros()[0],
        "by hand": lambda u: assembled(u, triangles, slopes, areas, place),
    }
    check_pattern(hess(points[0]).nonzeros()[1:], (rows, cols))
    for call in contenders.values():
        for u in points[:2]:
            check_nonzeros(jax.grad(energy), u, call(u), rows, cols)
    times = rounds(contenders, points, quick)
    what = "Hessian of an energy on 20,000 triangles, its nonzeros, against assembly by hand"
    return [slower(what, times, "jacobia", "by hand", 1.5)]


# Name → (title, energy, pattern of its Hessian)
BORDERED: dict[str, tuple[str, Callable, Callable]] = {
    "arrow": ("arrow", sparse_problems.arrow_energy, sparse_problems.arrow),
    "kkt": ("KKT matrix of a chain", sparse_problems.lagrangian, sparse_problems.kkt),
}


def bordered(name: str, quick: bool) -> list[Result]:
    """Hessians with one dense row and column, n = 10⁵."""
    title, energy, entries = BORDERED[name]
    n = 100_000
    points = sparse_problems.points(n)
    rows, cols = in_order(*entries(n), n)
    hess = hessian(energy)
    contenders = {"jacobia": lambda x: hess(x).nonzeros()[0], "f": jax.jit(jax.value_and_grad(energy))}
    check_pattern(hess(points[0]).nonzeros()[1:], (rows, cols))
    for x in points[:2]:
        check_nonzeros(jax.grad(energy), x, contenders["jacobia"](x), rows, cols)
    times = rounds(contenders, points, quick, jax.block_until_ready)
    compiled = jax.jit(lambda x: hessian(energy)(x).nonzeros()[0]).lower(points[0]).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    what = f"nonzeros of a Hessian, {title}, n = {n:,}"
    size = 4 * len(rows)
    return [
        slower(f"{what}, against f and its gradient", times, "jacobia", "f", 3, OF_F),
        Result(
            f"{what}, temporaries, in jit", temporaries / size, "× the nonzeros", 4,
            note=f"{temporaries / MIB:.2g} / {size / MIB:.2g} MiB",
        ),
    ]  # fmt: skip


# ---- colors ----


def colors(quick: bool) -> list[Result]:
    """The numbers of colors that patterns take, beside the bounds of theorems."""
    around = np.indices((3, 3)).reshape(2, -1).T - 1
    plane, space, n = (300, 300), (40, 40, 40), 10_000
    star = "symmetric"
    cases = [
        ("5-point on 300 × 300", sparse_problems.stencil(plane, sparse_problems.cross(2)), 90_000, "columns", 5),
        ("9-point on 300 × 300", sparse_problems.stencil(plane, around), 90_000, "columns", 9),
        ("7-point on 40 × 40 × 40", sparse_problems.stencil(space, sparse_problems.cross(3)), 64_000, "columns", 7),
        ("band of half-bandwidth 10", sparse_problems.band(n, 10), n, star, 21),
        ("band of half-bandwidth 5", sparse_problems.band(n, 5), n, star, 11),
        ("arrow", sparse_problems.arrow(n), n, "both", 3),
        ("arrow", sparse_problems.arrow(n), n, star, 2),
    ]
    results = []
    for title, entries, size, partition, limit in cases:
        rows, cols = in_order(*entries, size)
        pattern = Pattern.from_coo(rows, cols, (size, size))
        start = time.perf_counter()
        found = coloring(pattern, partition)
        seconds = time.perf_counter() - start
        of_rows = found.column_colors if partition == star else found.row_colors
        check_colors(rows, cols, of_rows, found.column_colors)
        used = sum(len(np.unique(c[c >= 0])) for c in (found.row_colors, found.column_colors) if c is not None)
        assert used == found.num_colors
        note = f"at least {found.lower_bound}; {timing.human(seconds)}"
        results.append(Result(f'colors, {title}, "{partition}"', used, "colors", limit, note=note))
    return results


# ---- one row of a million ----


def row(quick: bool) -> list[Result]:
    """`J[5]` at a new x, n = 10⁶."""
    results = []
    for problem in PROBLEMS.values():
        n = problem.sizes[-1]
        f, points = problem.build(1.5), sparse_problems.points(n)
        make, push = _transform(problem)(f), problem.pushed(f)
        seed = jnp.zeros(n).at[5].set(1)
        pullback = jax.jit(lambda seed, x, push=push: jax.vjp(push, x)[1](seed)[0])
        contenders = {"row": lambda x, make=make: make(x)[5], "pullback": partial(pullback, seed)}
        for x in points[:2]:
            expected = np.asarray(contenders["pullback"](x))
            np.testing.assert_allclose(contenders["row"](x), expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
        times = rounds(contenders, points, quick)
        what = f"`J[5]`, {problem.what}, {problem.title}, n = {n:,}, against a jitted pullback"
        results.append(slower(what, times, "row", "pullback", 1.5))
    return results


# The problems on which every measurement is made.
FOUR = ("tridiagonal", "five-point", "brusselator", "rosenbrock")

BARS: dict[str, Callable[[bool], list[Result]]] = {
    **{f"sparse-warm-{name}": partial(warm, name, 1) for name in PROBLEMS},
    **{f"sparse-warm-smaller-{name}": partial(warm, name, 0) for name in FOUR},
    **{f"sparse-first-{name}": partial(first, name) for name in FOUR},
    "sparse-loops": loops,
    "sparse-blocks": blocks,
    "sparse-wide": wide,
    "sparse-compile": compile_time,
    "sparse-elements": elements,
    **{f"sparse-{name}": partial(bordered, name) for name in BORDERED},
    "sparse-colors": colors,
    "sparse-row": row,
}


def main(arguments: list[str]) -> None:
    what, name, n = arguments
    print(json.dumps(ALONE[what](PROBLEMS[name], int(n))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
