"""Bars of Laplacians, beside folx if it is installed, and beside JAX alone.

Knows jacobia and JAX.
"""

from collections.abc import Callable
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import Result, faster, rounds, slower
from jacobia import jacobian, laplacian

Net = Callable[[jax.Array], jax.Array]


def _mlp(d: int, width: int, layers: int) -> Net:
    keys = jax.random.split(jax.random.key(0), layers + 1)
    weights = [jax.random.normal(keys[0], (width, d)) / d**0.5]
    weights += [jax.random.normal(k, (width, width)) / width**0.5 for k in keys[1:layers]]
    last = jax.random.normal(keys[-1], (width,)) / width**0.5

    def psi(x: jax.Array) -> jax.Array:
        for w in weights:
            x = jnp.tanh(w @ x)
        return last @ x

    return psi


def _by_products(f: Net) -> Net:
    # The usual loop: one Hessian-vector product for each input.
    def one(x: jax.Array) -> jax.Array:
        gradient = jax.grad(f)
        basis = jnp.eye(x.size)
        return jnp.sum(jax.vmap(lambda e: jax.jvp(gradient, (x,), (e,))[1] @ e)(basis))

    return one


def _contenders(psi: Net, small: bool) -> dict[str, Callable]:
    made: dict[str, Callable] = {"ours": laplacian(jax.vmap(psi), batch_axis=0)}
    if find_spec("folx") is not None:
        import folx

        forward = folx.forward_laplacian
        made["folx"] = jax.jit(jax.vmap(lambda x: forward(psi, sparsity_threshold=0)(x).laplacian))
    if small:
        made["products"] = jax.jit(jax.vmap(_by_products(psi)))
    return made


def _compared(d: int, samples: int, folx: tuple[Callable, float], small: bool, quick: bool) -> list[Result]:
    psi = _mlp(d, 64, 3)
    contenders = _contenders(psi, small)
    points = [jax.random.normal(jax.random.key(k), (samples, d)) for k in range(3)]
    right = contenders["products"](points[0]) if small else contenders["ours"](points[0])
    for contender in contenders.values():
        np.testing.assert_allclose(contender(points[0]), right, rtol=1e-3, atol=1e-3 * float(jnp.abs(right).max()))
    times = rounds(contenders, points, quick)
    what = f"`laplacian`, tanh MLP {d:,} → 64×3, {samples:,} samples"
    compare, bar = folx
    results = [compare(f"{what}, against folx", times, "ours", "folx", bar)] if "folx" in times else []
    if small:
        results.append(slower(f"{what}, against a Hessian-vector product for each input", times, "ours", "products"))
    return results


def networks(quick: bool) -> list[Result]:
    """Local energies of small networks, as in variational Monte Carlo."""
    return [
        *_compared(30, 1024 if quick else 4096, (slower, 0.6), True, quick),
        *_compared(784, 128, (faster, 20), True, quick),
    ]


def a_million_inputs(quick: bool) -> list[Result]:
    """An exact Laplacian at d = 1,000,000: 64 directions replace all of them."""
    psi = _mlp(1_000_000, 64, 3)
    points = [jax.random.normal(jax.random.key(k), (16, 1_000_000)) for k in range(2)]
    batched = jax.vmap(psi)
    contenders = {"ours": laplacian(batched, batch_axis=0), "value": jax.jit(batched)}
    found = contenders["ours"](points[0])
    x, key = points[0][0], jax.random.key(9)
    product = jax.jit(lambda v: jax.jvp(jax.grad(psi), (x,), (v,))[1] @ v)
    drawn = jnp.stack([product(jax.random.rademacher(k, x.shape, x.dtype)) for k in jax.random.split(key, 64)])
    assert abs(float(drawn.mean() - found[0])) < 4 * float(drawn.std()) / 8, "not that of Hessian-vector products"
    times = rounds(contenders, points, quick)
    return [slower("`laplacian`, MLP 1,000,000 → 64×3, 16 samples, against the value", times, "ours", "value", 3)]


def lineax_diagonal(quick: bool) -> list[Result]:
    """`lineax.diagonal` of a tridiagonal J, a million wide."""
    if find_spec("lineax") is None:
        return []
    import lineax

    n = 1_000_000

    def f(x: jax.Array) -> jax.Array:
        return jnp.pad(jnp.tanh(x[1:]), (0, 1)) * x + jnp.pad(x[:-1], (1, 0)) ** 2

    jac, points = jacobian(f), [jnp.linspace(0.0, 1.0 + k, n) for k in range(4)]
    contenders = {"f": jax.jit(f), "ours": lambda x: lineax.diagonal(jac(x).as_lineax())}
    np.testing.assert_allclose(contenders["ours"](points[0]), jnp.pad(jnp.tanh(points[0][1:]), (0, 1)), atol=1e-5)
    times = rounds(contenders, points, quick)
    return [slower("`lineax.diagonal(J.as_lineax())`, tridiagonal, n = 1,000,000, against f", times, "ours", "f", 3)]


def tangent_kernel(quick: bool) -> list[Result]:
    """A tile of an empirical neural tangent kernel, between two batches of 256."""
    sizes, samples = (64, 256, 256, 1), 64 if quick else 256
    keys = jax.random.split(jax.random.key(0), 5)
    params = [jax.random.normal(k, (n, m)) / n**0.5 for k, n, m in zip(keys, sizes, sizes[1:], strict=False)]

    def net(p: list, x: jax.Array) -> jax.Array:
        for w in p[:-1]:
            x = jnp.tanh(x @ w)
        return (x @ p[-1])[..., 0]

    first, second = (jax.random.normal(k, (samples, sizes[0])) for k in keys[3:])

    @jax.jit
    def by_hand(p: list) -> jax.Array:
        flat = [
            jnp.concatenate([a.reshape(samples, -1) for a in jax.vmap(jax.grad(net), (None, 0))(p, x)], axis=1)
            for x in (first, second)
        ]
        return flat[0] @ flat[1].T

    each = jax.vmap(jacobian(net, ravel=True), in_axes=(None, 0))
    tile = jax.jit(lambda p: each(p, first)[...][:, 0] @ each(p, second)[...][:, 0].T)
    of_batches = jacobian(net, ravel=True)
    contenders = {
        "by hand": by_hand,
        "views": tile,
        "outer": lambda p: of_batches(p, first).outer(of_batches(p, second)),
    }
    points = [[w + 0.01 * k for w in params] for k in range(3)]
    for contender in contenders.values():
        np.testing.assert_allclose(contender(points[0]), by_hand(points[0]), rtol=1e-3, atol=1e-3)
    times, what = rounds(contenders, points, quick), f"a tile {samples} × {samples} of a neural tangent kernel"
    return [
        slower(f"{what}, of views of single samples, against `vmap(grad)`", times, "views", "by hand", 1.1),
        slower(f"{what}, `J.outer(J')` of functions of a batch, against the same", times, "outer", "by hand", 1.1),
    ]


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "laplacians": networks,
    "laplacians-million": a_million_inputs,
    "lineax-diagonal": lineax_diagonal,
    "tangent-kernel": tangent_kernel,
}
