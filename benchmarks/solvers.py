"""Bars of what solvers do: small stiff systems of NumPy arrays, ten rows of an expensive program, first calls, chains.

Knows jacobia and JAX.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import Result, faster, rounds, slower
from jacobia import jacobian

ROOT = Path(__file__).resolve().parents[1]


# ---- small stiff systems, float64, as a callback of SciPy ----


def robertson(y):
    a, b, c = y
    return jnp.array([-0.04 * a + 1e4 * b * c, 0.04 * a - 1e4 * b * c - 3e7 * b**2, 3e7 * b**2])


def hires(y):
    a = 280 * y[5] * y[7]
    return jnp.array([
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -a + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        a - 1.81 * y[6],
        -a + 1.81 * y[6],
    ])  # fmt: skip


def rod(y):
    padded = jnp.pad(y, 1)
    return padded[:-2] - 2 * y + padded[2:] + jnp.exp(-y * y)


STIFF = {"Robertson, n = 3": (robertson, 3), "HIRES, n = 8": (hires, 8), "a rod, n = 20": (rod, 20)}


def stiff(quick: bool) -> list[Result]:
    """A whole Jacobian at a new x, with NumPy arrays as input and result."""
    results = []
    with jax.enable_x64(True):
        for title, (f, n) in STIFF.items():
            points = [np.linspace(0.2, 0.9, n) + 1e-3 * k for k in range(8)]
            dense, sparse, jitted = jacobian(f), jacobian(f), jax.jit(jax.jacfwd(f))
            contenders = {
                "jacfwd": lambda x, jitted=jitted: np.asarray(jitted(x)),
                "dense": lambda x, dense=dense: np.asarray(dense(x)[...]),
                "csc": lambda x, sparse=sparse: sparse(x).to_scipy(format="csc"),
                "fresh": lambda x, f=f: np.asarray(jacobian(lambda y: f(y))(x)[...]),
                "trace": lambda x, f=f: jax.make_jaxpr(lambda y: f(y))(x),
            }
            for x in points[:3]:
                expected = contenders["jacfwd"](x)
                np.testing.assert_allclose(contenders["dense"](x), expected, rtol=1e-12)
                np.testing.assert_allclose(contenders["csc"](x).toarray(), expected, rtol=1e-12)
                np.testing.assert_allclose(contenders["fresh"](x), expected, rtol=1e-12)
            times = rounds(contenders, points, quick, wait=lambda result: result)
            what = f"{title}, float64, a NumPy array"
            results += [
                slower(f"{what}, dense, against jitted `jacfwd`", times, "dense", "jacfwd", 2.5),
                slower(f"{what}, CSC, against the same", times, "csc", "jacfwd", 4),
                slower(f"{what}, a fresh function each call, against the same", times, "fresh", "jacfwd", 30),
                slower(f"{what}, a fresh function each call, against tracing it by JAX", times, "fresh", "trace"),
            ]
    return results


# ---- ten rows of one view of an expensive program ----


def implicit_euler(n: int = 32, steps: int = 30) -> Callable:
    a = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)) / np.sqrt(n), jnp.float32)

    def residual(z, y):
        return z - y - 0.1 * (jnp.tanh(a @ z) - z)

    def newton(z, y):
        return z - jnp.linalg.solve(jax.jacfwd(residual)(z, y), residual(z, y))

    return lambda x: jax.lax.scan(lambda y, _: (newton(newton(y, y), y), None), x, None, length=steps)[0]


def ten_reads(quick: bool) -> list[Result]:
    """Ten rows, read one at a time; each read waits for its result."""
    f, n = implicit_euler(), 32
    jac = jacobian(f)

    def seed(i):
        return jnp.zeros(n).at[i].set(1)

    fused = jax.jit(lambda x, i: jax.vjp(f, x)[1](seed(i))[0])
    linearized, row = jax.jit(lambda x: jax.vjp(f, x)[1]), jax.jit(lambda pullback, i: pullback(seed(i))[0])

    def ours(x):
        J = jac(x)
        return [J[i].block_until_ready() for i in range(10)]

    def by_hand(x):
        pullback = linearized(x)
        return [row(pullback, i).block_until_ready() for i in range(10)]

    contenders = {"jacobia": ours, "fused": lambda x: [fused(x, i).block_until_ready() for i in range(10)]}
    contenders["by hand"] = by_hand
    points = [jnp.linspace(-1, 1, n) + 0.01 * k for k in range(8)]
    for x in points[:2]:
        np.testing.assert_allclose(ours(x), by_hand(x), rtol=1e-4, atol=1e-5)
    times = rounds(contenders, points, quick, wait=lambda result: result)
    what = "ten rows, one at a time, of implicit Euler, 30 steps of n = 32"
    return [
        slower(f"{what}, against ten fused jitted calls", times, "jacobia", "fused", 0.45),
        slower(f"{what}, against residuals kept by hand", times, "jacobia", "by hand"),
    ]


# ---- several narrow places ----


def narrow(sizes: tuple[int, ...], residual: bool = False) -> Callable:
    rng = np.random.default_rng(0)
    weights = [
        jnp.asarray(rng.normal(size=(b, a)) / np.sqrt(a), jnp.float32)
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]

    def f(x):
        for w in weights:
            y = jnp.tanh(w @ x)
            x = x + y if residual else y
        return x

    return f


CHAINS = {
    "1000→10→1000→10→1000": ((1000, 10, 1000, 10, 1000), False, 10),
    "residual, 256, five layers": ((256,) * 6, True, 1 / 1.05),
}


def _of_rank(k: int, x: jax.Array) -> jax.Array:
    return (x[:, None] + jnp.ones(k)) @ (jnp.ones((k, 1)) * x)


def chains(quick: bool) -> list[Result]:
    """All of J, for chains of layers: with two narrow waists, and with residual connections."""
    results = []
    for title, (sizes, residual, limit) in CHAINS.items():
        f, points = narrow(sizes, residual), [jnp.linspace(-1, 1, sizes[0]) + 0.01 * k for k in range(8)]
        jac = jacobian(f)
        contenders = {
            "jacobia": lambda x, jac=jac: jac(x)[...],
            "jacfwd": jax.jit(jax.jacfwd(f)),
            "jacrev": jax.jit(jax.jacrev(f)),
            # A lower bound: the last matrix product alone, of known factors.
            "product": jax.jit(partial(_of_rank, min(sizes))),
        }
        expected = np.asarray(contenders["jacfwd"](points[0]))
        np.testing.assert_allclose(contenders["jacobia"](points[0]), expected, atol=1e-4 * abs(expected).max())
        times = rounds(contenders, points, quick)
        better = min(("jacfwd", "jacrev"), key=lambda name: statistics.median(times[name]))
        what = f"`J[...]`, tanh {title}"
        results.append(faster(f"{what}, than jitted `{better}`", times, "jacobia", better, limit))
        if not residual:
            results.append(slower(f"{what}, against writing a product of that rank", times, "jacobia", "product"))
    return results


# ---- first calls, each in a process of its own ----


def _mlp(x):
    for w in np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32):
        x = jnp.tanh(w @ x)
    return x


def _arm(q):
    turn = jnp.eye(4)
    for k in range(6):
        c, s = jnp.cos(q[k]), jnp.sin(q[k])
        turn = turn @ jnp.array([[c, -s, 0, 0.3], [s, 0 * c, -c, 0], [0, 1, 0, 0.1], [0, 0, 0, 1.0]])
    return turn[:3, 3]


def _neighbours(x):
    return jax.lax.fori_loop(1, x.size, lambda i, o: o.at[i].set(x[i] * x[i - 1]), jnp.zeros_like(x))


FIRST: dict[str, tuple[Callable, int]] = {
    "`expm` of 3 × 3": (lambda x: jax.scipy.linalg.expm(x.reshape(3, 3)).ravel(), 9),
    "MLP 8→8→8→8": (_mlp, 8),
    "Robertson, n = 3": (robertson, 3),
    "a robot arm of 6 joints": (_arm, 6),
    "a loop over neighbours, n = 24": (_neighbours, 24),
    "a rod, n = 64": (rod, 64),
    "a rod, n = 1000": (rod, 1000),
    "sort times cumsum, n = 16": (lambda x: jnp.sort(x) * jnp.cumsum(x), 16),
}
_READS: dict[str, Callable] = {
    "all": lambda f, x: jacobian(f)(x)[...].block_until_ready(),
    "scipy": lambda f, x: jacobian(f)(x).to_scipy(),
    "jacfwd": lambda f, x: jax.jit(jax.jacfwd(f))(x).block_until_ready(),
}


def first_call(title: str, read: str) -> float:
    """Seconds for the first read of a new f. SciPy is imported, and JAX has run, before the clock starts."""
    import scipy.sparse

    assert scipy.sparse.issparse
    f, n = FIRST[title]
    x = jnp.linspace(0.1, 0.9, n)
    jax.jit(jax.jacfwd(lambda x: jnp.sin(x) + 1))(jnp.ones(2))
    jax.make_jaxpr(f)(x)
    start = time.perf_counter()
    _READS[read](f, x)
    return time.perf_counter() - start


def first_calls(quick: bool) -> list[Result]:
    """The first read of a new f, each in a process of its own: the least of several times, since noise only adds."""
    results = []
    for title, (_, n) in FIRST.items():
        times: dict[str, list[float]] = {read: [] for read in _READS}
        for _ in range(1 if quick else 3):
            for read, own in times.items():
                command = [sys.executable, "-m", "benchmarks.solvers", title, read]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                own.append(json.loads(done.stdout.splitlines()[-1]))
        least = {read: [min(own)] for read, own in times.items()}
        what = f"first `to_scipy()` of a new f, {title}"
        if n <= 64:
            results.append(slower(f"{what}, against the first `J[...]`", least, "scipy", "all", 1.5))
        results.append(slower(f"{what}, against the first call of jitted `jacfwd`", least, "scipy", "jacfwd", 1.3))
    return results


def solve_ivp_with_it(quick: bool) -> list[Result]:
    """`solve_ivp` with BDF on a Brusselator of 64 x 64 cells, by our Jacobian and by SciPy's own differences."""
    from scipy.integrate import solve_ivp

    import jacobia.scipy

    n = 32 if quick else 64

    def brusselator(t, y):
        u, v = y.reshape(2, n, n)

        def spread(a):
            return jnp.roll(a, 1, 0) + jnp.roll(a, -1, 0) + jnp.roll(a, 1, 1) + jnp.roll(a, -1, 1) - 4 * a

        w = u * u * v
        return jnp.concatenate([(1 - 4 * u + w + n * spread(u)).ravel(), (3 * u - w + n * spread(v)).ravel()])

    jitted = jax.jit(brusselator)

    def f(t, y):
        with jax.enable_x64(True):
            return np.asarray(jitted(t, y))

    cells = np.linspace(0, 1, n, endpoint=False)
    y0 = np.concatenate([np.add.outer(np.sin(2 * np.pi * cells), cells * 0).ravel() + 1, np.full(n * n, 3.0)])
    with jax.enable_x64(True):
        pattern = jacobian(brusselator, 1)(0.0, y0).pattern.to_scipy()
    jac = jacobia.scipy.jac(brusselator, 1, format="csc")
    ways = {"ours": {"jac": jac}, "differences": {"jac_sparsity": pattern}}
    times: dict[str, list[float]] = {name: [] for name in ways}
    ends = {}
    for _ in range(3 if quick else 5):
        for name, options in ways.items():
            start = time.perf_counter()
            found = solve_ivp(f, (0, 1), y0, "BDF", rtol=1e-6, atol=1e-8, **options)
            times[name].append(time.perf_counter() - start)
            ends[name] = found.y[:, -1], found.njev
    np.testing.assert_allclose(ends["ours"][0], ends["differences"][0], rtol=1e-4)
    what = f"`solve_ivp`, BDF, Brusselator {n} x {n}, by `jacobia.scipy.jac` than by differences with the pattern given"
    return [faster(what, times, "ours", "differences", 3)]


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "solvers-stiff": stiff,
    "solvers-ten-reads": ten_reads,
    "solvers-chains": chains,
    "solvers-first-calls": first_calls,
    "solvers-solve-ivp": solve_ivp_with_it,
}


def main(arguments: list[str]) -> None:
    print(json.dumps(first_call(*arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
