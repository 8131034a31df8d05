"""Keys of every kind, at a new x, against kernels written by hand for the same rows or columns.

The kernels are jitted and close over the weights and the seeds. Contenders run in turn, one call each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.results import Result, median, wait
from benchmarks.workloads import forward, mlp_parameters
from jacobia import hessian, jacobian

SIZES, B = (64, 256, 256, 200), 16
N, M = SIZES[0], SIZES[-1]
LAYERS = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters(SIZES)]
_mask = np.zeros(M, bool)
_mask[[4, 9, 77, 120]] = True
_pairs = np.zeros((M, N), bool)
_pairs[[3, 50, 60], [7, 9, 11]] = True

# Title of a read → (key, the rows or columns to compute by hand, the function that takes the result from them)
KEYS: dict[str, tuple[Any, tuple[str, Any], Callable]] = {
    "J[1:4]": (np.s_[1:4], ("rows", [1, 2, 3]), lambda a: a),
    "J[-3:]": (np.s_[-3:], ("rows", [197, 198, 199]), lambda a: a),
    "J[5]": (5, ("rows", [5]), lambda a: a[0]),
    "J[[3, 50, 60, 7, 9]]": ([3, 50, 60, 7, 9], ("rows", [3, 50, 60, 7, 9]), lambda a: a),
    "J[array]": (jnp.array([3, 50, 60, 7, 9]), ("rows", [3, 50, 60, 7, 9]), lambda a: a),
    "J[mask]": (_mask, ("rows", [4, 9, 77, 120]), lambda a: a),
    "J[1:4, :]": (np.s_[1:4, :], ("rows", [1, 2, 3]), lambda a: a),
    "J[:, 3]": (np.s_[:, 3], ("columns", [3]), lambda a: a[:, 0]),
    "J[..., 3]": (np.s_[..., 3], ("columns", [3]), lambda a: a[:, 0]),
    "J[:, 2:5]": (np.s_[:, 2:5], ("columns", [2, 3, 4]), lambda a: a),
    "J[3, 4]": (np.s_[3, 4], ("rows", [3]), lambda a: a[0, 4]),
    "J[10:20, 3:9]": (np.s_[10:20, 3:9], ("columns", list(range(3, 9))), lambda a: a[10:20]),
    "J[::-1]": (np.s_[::-1], ("columns", list(range(N))), lambda a: a[::-1]),
    "J[None, 2]": (np.s_[None, 2], ("rows", [2]), lambda a: a),
    "J[mask of pairs]": (_pairs, ("rows", [3, 50, 60]), lambda a: a[[0, 1, 2], [7, 9, 11]]),
}
FEW = ("J[1:4]", "J[5]", "J[[3, 50, 60, 7, 9]]", "J[:, 3]", "J[3, 4]", "J[10:20, 3:9]")


def mlp(x: Any) -> Any:
    return forward(jnp, LAYERS, x)


def energy(x: Any) -> Any:
    return jnp.sum(mlp(x) ** 2)


def points(count: int = 200) -> list:
    x = np.random.default_rng(5).normal(size=N)
    return [jnp.asarray(x + k / 1000, jnp.float32) for k in range(count)]


def lines(f: Callable, way: str, numbers: list) -> Callable:
    """Rows (R, N) by a pullback, or columns (M, R) by a pushforward, with seeds that are constants of the kernel."""
    if way == "rows":
        seeds = np.eye(jax.eval_shape(f, points(1)[0]).size, dtype=np.float32)[numbers]
        return lambda x: (lambda pull: jax.vmap(lambda s: pull(s)[0])(seeds))(jax.vjp(f, x)[1])
    seeds = np.eye(N, dtype=np.float32)[numbers]
    return lambda x: jax.vmap(jax.linearize(f, x)[1], out_axes=1)(seeds)


def by_hand(name: str) -> Callable:
    """The jitted kernel for one of `KEYS`."""
    _, (way, numbers), taken = KEYS[name]
    own = lines(mlp, way, numbers)
    return jax.jit(lambda x: taken(own(x)))


def against(
    name: str, read: Callable, other: Callable, inputs: list, times: float, more: float, quick: bool
) -> Result:
    """The time of a read, divided by `times` the time of the other plus `more` microseconds: the bar is 1."""
    np.testing.assert_allclose(read(inputs[0]), other(inputs[0]), rtol=1e-3, atol=1e-4)
    for x in inputs[:4]:
        wait(read(x))
    found = timing.rounds_in_turn({"read": read, "hand": other}, inputs, wait, 100 if quick else 400, 0)
    allowed = [times * t + more / 1e6 for t in found["hand"]]
    bar = f"{name}, of {times:g} × by hand" + (f" + {more:g} µs" if more else "")
    note = f"{median(found['read'])} / {median(found['hand'])}"
    return Result(bar, timing.ratio(found["read"], allowed), "×", 1.0, note=note)


def at_a_new_x(quick: bool) -> list[Result]:
    jac, inputs = jacobian(mlp), points()
    results = []
    for name, (key, *_) in KEYS.items():
        results.append(against(f"{name} at a new x", lambda x, k=key: jac(x)[k], by_hand(name), inputs, 1.3, 15, quick))
    return results


def in_jit(quick: bool) -> list[Result]:
    jac, inputs = jacobian(mlp), points()
    results = []
    for name, (key, *_) in KEYS.items():
        read = jax.jit(lambda x, k=key: jac(x)[k])
        results.append(against(f"{name} in jit", read, by_hand(name), inputs, 1.05, 0, quick))
    return results


def remembered(quick: bool) -> list[Result]:
    J, inputs = jacobian(mlp)(points(1)[0]), points(4)
    full = np.asarray(J[...])
    results = []
    for name, (key, *_) in KEYS.items():
        own = np.asarray(key) if isinstance(key, jax.Array) else key
        read, other = lambda _, k=key: J[k], lambda _, k=own: jax.device_put(full[k])
        results.append(against(f"{name}, remembered, against NumPy and device_put", read, other, inputs, 2, 0, quick))
    return results


def other_views(what: str, quick: bool) -> list[Result]:
    """Reads of other views: a block of a tree, a Hessian, `J.T`, `J.matrix`, all samples of a batch."""
    inputs, f = points(), energy if what == "hessian" else mlp
    jac, results = (hessian if what == "hessian" else jacobian)(f), []
    tree = jacobian(lambda p: {"y": mlp(p["a"]), "z": p["b"] * p["a"][:3]})
    batch = jacobian(jax.vmap(mlp), batch_axis=0)
    views = {
        "tree": lambda x: tree({"a": x, "b": x[:3]})["y"]["a"],
        "hessian": jac,
        "transposed": lambda x: jac(x).T,
        "matrix": lambda x: jac(x).matrix,
        "batch": batch,
    }
    if what == "tree":  # x is sliced before the clock starts
        inputs = [{"a": x, "b": x[:3]} for x in inputs]
        views[what] = lambda p: tree(p)["y"]["a"]
    if what == "batch":
        inputs = [jnp.stack([x] * B) + jnp.arange(B)[:, None] / 100 for x in inputs]
    for name in FEW:
        key, (way, numbers), taken = KEYS[name]
        keys = key if isinstance(key, tuple) else (key,)
        if what == "hessian":  # every line of a Hessian is a Hessian-vector product
            seeds = np.eye(N, dtype=np.float32)[numbers]
            own = lambda x, s=seeds: jax.vmap(lambda v: jax.jvp(jax.grad(f), (x,), (v,))[1])(s)  # noqa: E731
            own = own if way == "rows" else lambda x, own=own: own(x).T
        else:
            own = lines(mlp, way, numbers)
        if what == "transposed":
            keys, taken = (keys if len(keys) == 2 else (*keys, slice(None)))[::-1], lambda a, t=taken: t(a).T
        if what == "batch":
            keys = (slice(None), *keys)
        one = lambda x, own=own, taken=taken: taken(own(x["a"] if what == "tree" else x))  # noqa: E731
        hand = jax.jit(jax.vmap(one) if what == "batch" else one)
        read = lambda x, k=keys: views[what](x)[k]  # noqa: E731
        results.append(against(f"{name} of a view: {what}", read, hand, inputs, 1.5, 20, quick))
    return results


BARS = {
    "keys": at_a_new_x,
    "keys-in-jit": in_jit,
    "keys-remembered": remembered,
    **{f"keys-{what}": partial(other_views, what) for what in ("tree", "hessian", "transposed", "matrix", "batch")},
}
