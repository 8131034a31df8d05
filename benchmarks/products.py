"""Bars of products, diagonals and Gram matrices, computed without the matrix, at n = 1,000 and 1,000,000."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import Result, rounds, slower
from jacobia import hessian, jacobian, operator

_SIZES = 1_000, 1_000_000


def _band(x: jax.Array) -> jax.Array:
    return jnp.pad(jnp.tanh(x[1:]), (0, 1)) * x + jnp.pad(x[:-1], (1, 0)) ** 2


def _chain(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(x[1:] * x[:-1]))


def _ways(n: int) -> dict[str, tuple[Callable, Callable, Callable, Callable]]:
    # Product → (by hand at x, jacobia at x, by hand at a new point, jacobia at a new point); by hand: a jitted call.
    x, jac, hess = jnp.linspace(0.0, 1.0, n), jacobian(_band), hessian(_chain)
    J, H = jac(x), hess(x)
    jvp = jax.jit(lambda x, v: jax.jvp(_band, (x,), (v,))[1])
    vjp = jax.jit(lambda x, u: jax.vjp(_band, x)[1](u)[0])
    hvp = jax.jit(lambda x, v: jax.jvp(jax.grad(_chain), (x,), (v,))[1])
    return {
        "J @ v": (lambda v: jvp(x, v), lambda v: J @ v, lambda v: jvp(v, v), lambda v: jac(v) @ v),
        "u @ J": (lambda u: vjp(x, u), lambda u: u @ J, lambda u: vjp(u, u), lambda u: u @ jac(u)),
        "H @ v": (lambda v: hvp(x, v), lambda v: H @ v, lambda v: hvp(v, v), lambda v: hess(v) @ v),
    }


def products(quick: bool) -> list[Result]:
    """`J @ v` and `u @ J` of one view, and of a new view at a new point, beside jitted `jvp` and `vjp`."""
    results = []
    for n in _SIZES:
        points = [jnp.cos(jnp.linspace(0.0, 1.0, n) + 0.1 * k) for k in range(4)]
        for name, (hand, kept, anew, new) in _ways(n).items():
            np.testing.assert_allclose(kept(points[1]), hand(points[1]), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(new(points[1]), anew(points[1]), rtol=1e-4, atol=1e-5)
            times = rounds({"hand": hand, "kept": kept, "new": new}, points, quick)
            times["hand"] = [1.2 * t + 15e-6 for t in times["hand"]]
            note = "against 1.2 × the jitted call by hand + 15 µs"
            results.append(slower(f"`{name}`, n = {n:,}, {note}", times, "kept", "hand", 1.0))
            results.append(slower(f"`{name}` at a new point, n = {n:,}, {note}", times, "new", "hand", 1.0))
    return results


def diagonals(quick: bool) -> list[Result]:
    """Diagonals of a tridiagonal J and H, a million wide, beside f."""
    n = _SIZES[1]
    f, jac, hess = jax.jit(_band), jacobian(_band), hessian(_chain)
    points = [jnp.linspace(0.0, 1.0 + k, n) for k in range(4)]
    x = points[1]
    right = jnp.pad(jnp.tanh(x[1:]), (0, 1))
    np.testing.assert_allclose(jac(x).diagonal(), right, rtol=1e-4, atol=1e-5)
    contenders = {"f": f, "J": lambda x: jac(x).diagonal(), "H": lambda x: hess(x).diagonal()}
    times = rounds(contenders, points, quick)
    return [
        slower("`J.diagonal()`, tridiagonal, n = 1,000,000, against f", times, "J", "f", 3),
        slower("`H.diagonal()`, chain, n = 1,000,000, against the same", times, "H", "f"),
    ]


def trees(quick: bool) -> list[Result]:
    """A product with all leaves of a tree, beside a jitted `jvp` of trees."""
    x = {"w": jnp.ones((64, 64)) / 64, "b": jnp.zeros(64)}
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(32, 64)), jnp.float32)

    def f(t: dict) -> jax.Array:
        return jnp.tanh(inputs @ t["w"] + t["b"])

    hand = jax.jit(lambda x, v: jax.jvp(f, (x,), (v,))[1])
    op = operator(jacobian(f)(x))
    points = [jnp.full((64, 64), float(k)) for k in range(4)]
    contenders = {"ours": lambda w: op @ {"w": w, "b": x["b"]}, "by hand": lambda w: hand(x, {"w": w, "b": x["b"]})}
    np.testing.assert_allclose(contenders["ours"](points[1]), contenders["by hand"](points[1]), rtol=1e-4, atol=1e-4)
    times = rounds(contenders, points, quick)
    times["by hand"] = [1.2 * t + 15e-6 for t in times["by hand"]]
    what = "`operator(J) @ v`, a layer 64 → 64, against 1.2 × the jitted `jvp` of trees by hand + 15 µs"
    return [slower(what, times, "ours", "by hand", 1.0)]


def grams(quick: bool) -> list[Result]:
    """JᵀJ of 100,000 residuals of 200 parameters."""
    m, n = (20_000, 100) if quick else (100_000, 200)
    rng = np.random.default_rng(0)
    A = jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(n), jnp.float32)

    def residuals(x: jax.Array) -> jax.Array:
        return jnp.tanh(A @ x)

    def chunked(x: jax.Array) -> jax.Array:
        def part(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
            J = jax.vmap(jax.grad(lambda x, a: jnp.tanh(a @ x)), in_axes=(None, 0))(x, rows)
            return total + J.T @ J, None

        return jax.lax.scan(part, jnp.zeros((n, n)), A.reshape(20, m // 20, n))[0]

    def of_all(x: jax.Array) -> jax.Array:
        J = jax.jacfwd(residuals)(x)
        return J.T @ J

    jac, points = jacobian(residuals), [jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(3)]
    contenders = {"ours": lambda x: jac(x).gram(), "chunks": jax.jit(chunked), "all": jax.jit(of_all)}
    np.testing.assert_allclose(contenders["ours"](points[0]), chunked(points[0]), rtol=1e-3, atol=1e-2)
    times, what = rounds(contenders, points, quick), f"`J.gram()`, {m:,} x {n}"
    return [
        slower(f"{what}, against JᵀJ by hand, in chunks of single gradients", times, "ours", "chunks", 1.2),
        slower(f"{what}, against JᵀJ by hand, of all of `jacfwd`", times, "ours", "all", 1.2),
    ]


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "products": products,
    "products-trees": trees,
    "products-diagonals": diagonals,
    "products-grams": grams,
}
