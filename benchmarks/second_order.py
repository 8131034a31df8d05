"""Bars of Hessians and of batches: all entries, single rows, diagonals, and the check that samples stay apart."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jacobia
from benchmarks import timing
from benchmarks.peers import BASE
from benchmarks.results import MIB, Result, checked, faster, rounds, slower, wait
from benchmarks.workloads import WORKLOADS, Workload, forward, inputs, mlp_parameters
from jacobia import hessian, jacobian, materialize

_N = 2000
_SMALL = WORKLOADS["hessian"]
ROSENBROCK = Workload(
    "rosenbrock", f"Hessian, Rosenbrock, n = {_N}", (_N,), _N, _SMALL.build, _SMALL.closed_form, hessian=True
)


def rosenbrock(quick: bool) -> list[Result]:
    """All of a Hessian, and one row of a Hessian at a new point."""
    _, points, right = checked(ROSENBROCK)
    points = points[:8]
    f = ROSENBROCK.build(jnp, jnp.asarray)
    hess = hessian(f)
    contenders: dict[str, Callable] = {
        "kept": lambda x: hess(x)[...],
        "anew": lambda x: hessian(f)(x)[...],
        "jax": jax.jit(jax.hessian(f)),
    }
    right(contenders)
    times = rounds(contenders, points, quick)
    what = f"`H[...]`, {ROSENBROCK.title}"
    results = [
        slower(f"{what}, `hess` kept, against jitted `jax.hessian`", times, "kept", "jax", 1.1),
        slower(f"{what}, `hessian(f)(x)[...]`, against the same", times, "anew", "jax", 1.1),
    ]
    row = 1234
    one: dict[str, Callable] = {"row": lambda x: hess(x)[row], "jax": contenders["jax"]}
    x = inputs(ROSENBROCK)[0]
    closed = ROSENBROCK.closed_form(x.astype(np.float64), np.array([row]))[0]
    np.testing.assert_allclose(one["row"](jnp.asarray(x)), closed, rtol=1e-3, atol=1e-2)
    times = rounds(one, points, quick)
    return [*results, faster("one row of it at a new x, against all by jitted `jax.hessian`", times, "row", "jax")]


def batch(quick: bool) -> list[Result]:
    """Jacobians of all samples of a batched function."""
    workload = WORKLOADS["batch"]
    f, points, _ = checked(workload)  # f uses x @ w, so it takes one sample as well as a batch
    jac = jacobian(f, batch_axis=0)
    contenders: dict[str, Callable] = {
        "kept": lambda x: jac(x)[...],
        "anew": lambda x: jacobian(f, batch_axis=0)(x)[...],
        BASE[0]: jax.jit(jax.vmap(jax.jacrev(f))),
        BASE[1]: jax.jit(jax.vmap(jax.jacfwd(f))),
    }
    x = inputs(workload)[0]
    size, width = x.shape
    dense = workload.closed_form(x.astype(np.float64), np.arange(size * width)).reshape(size, width, size, width)
    expected = np.einsum("bmbn->bmn", dense)
    for call in contenders.values():
        np.testing.assert_allclose(call(points[0]), expected, rtol=1e-4, atol=1e-5)
    times = rounds(contenders, points, quick)
    base = timing.better(times, BASE)
    what = "`J[...]` with batch_axis=0, batch of 256, 32→32"
    return [
        slower(
            f"{what}, `jac` kept, against jitted vmap of {base.removeprefix('jitted ')} of one sample",
            times,
            "kept",
            base,
            1.1,
        ),
        slower(f"{what}, `jacobian(f, batch_axis=0)(x)[...]`, against the same", times, "anew", base, 1.1),
    ]


def _mlp_loss(sizes: tuple[int, ...], samples: int) -> tuple[Callable, list]:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(samples, sizes[0])), jnp.float32)
    y = jnp.asarray(rng.normal(size=(samples, sizes[-1])), jnp.float32)

    def loss(layers: list) -> jax.Array:
        out = jax.vmap(lambda v: forward(jnp, layers, v))(x)
        return jnp.mean((out - y) ** 2)

    points = [jax.tree.map(jnp.asarray, mlp_parameters(sizes, seed=k)) for k in range(4)]
    return loss, points


def _chain(leaves: dict[str, jax.Array]) -> jax.Array:
    # A function of several small leaves, whose Hessian couples each leaf with its neighbours.
    values = list(leaves.values())
    return sum(jnp.sum(jnp.sin(a) * jnp.cos(b)) ** 2 for a, b in zip(values, values[1:], strict=False))


def _pair(leaves: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(jnp.tanh(leaves["big"] @ leaves["small"]) ** 2)


def _draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape[0]).normal(size=shape), jnp.float32)


def _one_leaf(leaves: dict[str, jax.Array]) -> jax.Array:
    return _SMALL.build(jnp, jnp.asarray)(leaves["x"])


def _points(tree: Any) -> list:
    return [jax.tree.map(lambda a, k=k: a + k / 8, tree) for k in range(4)]


# Title → (the function that makes f and its points, the bar for the time over that without symmetry)
TREES: dict[str, tuple[Callable[[], tuple[Callable, list]], float | None]] = {
    "loss of an MLP 16→32→16 on 128 samples": (lambda: _mlp_loss((16, 32, 16), 128), 0.5),
    "loss of an MLP 16→32→16 on one sample": (lambda: _mlp_loss((16, 32, 16), 1), None),
    "loss of an MLP 8→16→16→16→4 on 16 samples": (lambda: _mlp_loss((8, 16, 16, 16, 4), 16), 1.05),
    "8 leaves of 24, each with its neighbours": (
        lambda: (_chain, _points({f"x{k}": _draw(24) for k in range(8)})),
        1.05,
    ),
    "a leaf of 800 and one of 40": (lambda: (_pair, _points({"big": _draw(20, 40), "small": _draw(40)})), 1.05),
    "one leaf of 300": (lambda: (_one_leaf, _points({"x": _draw(300)})), 1.05),
}


def _wait_tree(tree: Any) -> Any:
    return jax.block_until_ready(tree)


def tree_hessian(name: str, quick: bool) -> list[Result]:
    """All blocks of the Hessian with respect to a tree, beside the same blocks computed without symmetry."""
    make, bar = TREES[name]
    f, points = make()
    hess, full = hessian(f), jacobian(jax.grad(f))
    contenders: dict[str, Callable] = {
        "jacobia": lambda p: materialize(hess(p)),
        "without symmetry": lambda p: materialize(full(p)),
        "jax": jax.jit(jax.hessian(f)),
    }
    expected = contenders["jax"](points[0])
    for call in contenders.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), call(points[0]), expected)
    times = rounds(contenders, points, quick, _wait_tree)
    what = f"Hessian of a tree, all: {name}"
    return [
        slower(f"{what}, against jitted `jax.hessian`", times, "jacobia", "jax", bar),
        slower(f"{what}, against `jacobian(jax.grad(f))`, all", times, "jacobia", "without symmetry", bar),
    ]


def _pinn() -> tuple[Callable, Callable, list[jax.Array]]:
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters((2, 64, 64, 1))]
    rng = np.random.default_rng(9)

    def one(x: jax.Array) -> jax.Array:
        return forward(jnp, layers, x)[0]

    def by_hand(x: jax.Array) -> jax.Array:
        g = jax.grad(one)
        return jnp.stack([jax.jvp(g, (x,), (e,))[1][k] for k, e in enumerate(jnp.eye(2, dtype=x.dtype))])

    points = [jnp.asarray(rng.normal(size=(100_000, 2)), jnp.float32) for _ in range(3)]
    return jax.vmap(one), jax.vmap(by_hand), points


def pinn(quick: bool) -> list[Result]:
    """The diagonal of the Hessian of each of 100,000 samples, d = 2."""
    u, by_hand, points = _pinn()
    hess = hessian(u, batch_axis=0)
    contenders = {"diagonal": lambda x: hess(x).diagonal(), "by hand": jax.jit(by_hand)}
    expected = contenders["by hand"](points[0])
    np.testing.assert_allclose(contenders["diagonal"](points[0]), expected, rtol=1e-3, atol=1e-4)
    times = rounds(contenders, points, quick)
    what = "diagonal of the Hessian of an MLP 2→64→64→1, 100,000 samples"
    ours, theirs = (
        jax.jit(call).lower(points[0]).compile().memory_analysis().temp_size_in_bytes
        for call in (lambda x: hess(x).diagonal(), by_hand)
    )
    return [
        slower(f"{what}, against jitted `vmap` of two `jvp`s of `grad`", times, "diagonal", "by hand", 0.95),
        Result(
            f"{what}, temporaries, both in jit",
            ours / theirs,
            "×",
            1.3,
            note=f"{ours / MIB:.0f} / {theirs / MIB:.0f} MiB",
        ),
    ]


def _residuals() -> dict[str, Callable]:
    """Burgers' residual of all samples, written in several ways: functions of parameters and points, (B,)."""
    nu, e1 = 0.01 / np.pi, np.array([0.0, 1.0], np.float32)

    def u_of(layers: list) -> Callable:
        return lambda z: forward(jnp, layers, z)[0]

    def each(of_one: Callable) -> Callable:
        return lambda layers, X: jax.vmap(lambda z: of_one(u_of(layers), z))(X)

    def by_hand(u: Callable, z: jax.Array) -> jax.Array:
        g, second = jax.jvp(jax.grad(u), (z,), (e1,))
        return g[0] + u(z) * g[1] - nu * second[1]

    def all_by_jax(u: Callable, z: jax.Array) -> jax.Array:
        J, H = jax.jacrev(u)(z), jax.hessian(u)(z)
        return J[0] + u(z) * J[1] - nu * H[1, 1]

    def all_of_views(u: Callable, z: jax.Array) -> jax.Array:
        J, H = jacobian(u)(z)[...], hessian(u)(z)[...]
        return J[0] + u(z) * J[1] - nu * H[1, 1]

    def single_reads(u: Callable, z: jax.Array) -> jax.Array:
        J, H = jacobian(u)(z), hessian(u)(z)
        return J[0] + u(z) * J[1] - nu * H[1, 1]

    def of_batch(layers: list, X: jax.Array) -> jax.Array:
        u = jax.vmap(u_of(layers))
        J, H = jacobian(u, batch_axis=0)(X), hessian(u, batch_axis=0)(X)
        return J[:, 0] + u(X) * J[:, 1] - nu * H[:, 1, 1]

    ways = {"by hand": by_hand, "all by jax": all_by_jax, "all": all_of_views, "single": single_reads}
    return {name: each(way) for name, way in ways.items()} | {"batch_axis": of_batch}


def pinn_step(quick: bool) -> list[Result]:
    """A training step of a PINN: gradients of the mean square of Burgers' residual at 10,000 points."""
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters((2, 32, 32, 32, 1))]
    rng = np.random.default_rng(9)
    points = [jnp.asarray(rng.uniform(-1, 1, size=(10_000, 2)), jnp.float32) for _ in range(3)]

    def step(residual: Callable) -> Callable:
        loss = jax.grad(lambda layers, X: jnp.mean(residual(layers, X) ** 2))
        return jax.jit(lambda X: ravel_pytree(loss(layers, X))[0])

    contenders = {name: step(residual) for name, residual in _residuals().items()}
    expected = contenders["by hand"](points[0])
    for call in contenders.values():
        np.testing.assert_allclose(call(points[0]), expected, rtol=1e-3, atol=1e-4)
    times = rounds(contenders, points, quick)
    what = "a step of a PINN (Burgers, MLP 2→32→32→32→1, 10,000 points)"
    return [
        slower(f"{what} by two single reads, against `jvp` of `grad`", times, "single", "by hand", 1.15),
        slower(f"{what} by `batch_axis`, against the same", times, "batch_axis", "by hand", 1.15),
        slower(f"{what} by `J[...]` and `H[...]`, against `jacrev` and `hessian`", times, "all", "all by jax", 1.15),
        slower(f"{what} by `J[...]` and `H[...]`, against `jvp` of `grad`", times, "all", "by hand"),
    ]


def independence(quick: bool) -> list[Result]:
    """The time to check that samples stay apart, beside that of compiling the kernel of one row."""
    sizes = (64, 256, 256, 64)
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters(sizes)]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(10_000, sizes[0])), jnp.float32)

    def new() -> Callable:
        def f(x: jax.Array) -> jax.Array:
            for weight, bias in layers[:-1]:
                x = jnp.tanh(x @ weight.T + bias)
            return x @ layers[-1][0].T

        return f

    spent: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: spent.append(duration) if "backend_compile" in event else None
    )
    times: timing.Times = {"with": [], "without": [], "check": [], "compile": []}
    for _ in range(5 if quick else 15):
        for name, verify in (("with", True), ("without", False)):
            jacobia.cache_clear()
            start = time.perf_counter()
            J = jacobian(new(), batch_axis=0, verify_batch=verify)(x)
            times[name].append(time.perf_counter() - start)
        times["check"].append(times["with"][-1] - times["without"][-1])
        spent.clear()
        wait(J[:, 0])
        times["compile"].append(sum(spent))
    if not all(times["compile"]):
        raise RuntimeError("independence(): expected an event for each compilation, got none. Was it renamed?")
    what = "independence of samples, MLP 64→256→256→64 on 10,000: the check, against compiling the kernel of one row"
    return [slower(what, {k: v[1:] for k, v in times.items()}, "check", "compile", 0.5)]


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "hessian-rosenbrock": rosenbrock,
    "batch-axis": batch,
    **{f"hessian-tree-{k}": partial(tree_hessian, name) for k, name in enumerate(TREES)},
    "pinn": pinn,
    "pinn-step": pinn_step,
    "independence": independence,
}
