"""Operations on a batch (B, N) that were not made by `jax.vmap`: (generator of constants, array, array) → array."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO

from .arrays import constant, integers, known
from .rules import turned


def batch_solved(rng, a, b):
    n = a.shape[1]
    return jnp.linalg.solve(np.asarray(known(rng, n, n) * 0.2 + 2 * np.eye(n), a.dtype), a.T).T


def batch_solved_each(rng, a, b):
    n = a.shape[1]
    m = jnp.einsum("bi,bj->bij", jnp.tanh(a), jnp.tanh(b[:, :1] * a)) * 0.2 + 2 * np.eye(n, dtype=a.dtype)
    return jnp.linalg.solve(m, a[..., None])[..., 0]


def batch_triangular(rng, a, b):
    n = a.shape[1]
    m = np.asarray(known(rng, n, n) * 0.2 + 2 * np.eye(n), a.dtype)
    if rng.random() < 0.5:
        return lax.linalg.triangular_solve(m, a, left_side=False, lower=bool(rng.integers(2)))
    return lax.linalg.triangular_solve(m, a.T, left_side=True, transpose_a=bool(rng.integers(2))).T


def batch_scanned(rng, a, b):
    return lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), b[:, 0], a.T)[1].T


def batch_halves(rng, a, b):
    n = a.shape[1]
    return jnp.concatenate([a[:1] @ constant(rng, a, n, n), a[1:] @ constant(rng, a, n, n)])


def batch_places(rng, a, b):
    return a.at[np.arange(a.shape[0]), rng.integers(0, a.shape[1], a.shape[0])].multiply(2, unique_indices=True)


def batch_sparse(rng, a, b):
    m = BCOO.fromdense(known(rng, 3, a.shape[1], zeros=0.5).astype(a.dtype), nse=3 * a.shape[1])
    return (m @ a.T).T


def batch_permuted(rng, a, b):
    order = rng.permutation(a.shape[0])
    return jnp.sin(a[order])[np.argsort(order)] * b[:, :1]


BATCHED = {
    "sin": lambda rng, a, b: jnp.sin(a),
    "matmul": lambda rng, a, b: a @ constant(rng, a, a.shape[1], int(rng.integers(1, 4)), zeros=0.3),
    "multiply": lambda rng, a, b: a * b[:, :1],
    "outer": lambda rng, a, b: jnp.einsum("bi,bj->bij", a, b).reshape(a.shape[0], -1),
    "scale": lambda rng, a, b: a * constant(rng, a, a.shape[0], 1, zeros=0.3),
    "scale columns": lambda rng, a, b: a * constant(rng, a, 1, a.shape[1], zeros=0.3),
    "mask": lambda rng, a, b: jnp.where(rng.random(a.shape) < 0.6, a, b[:, :1]),
    "sum": lambda rng, a, b: a.sum(1, keepdims=True),
    "norm": lambda rng, a, b: a / (1 + jnp.sum(a**2, 1, keepdims=True)),
    "softmax": lambda rng, a, b: jax.nn.softmax(a, axis=1),
    "maximum": lambda rng, a, b: a - a.max(1, keepdims=True),
    "cumsum": lambda rng, a, b: jnp.cumsum(a, axis=1),
    "sort": lambda rng, a, b: jnp.sort(a, axis=1),
    "flip": lambda rng, a, b: a[:, ::-1],
    "roll": lambda rng, a, b: jnp.roll(a, 1, axis=1),
    "gather": lambda rng, a, b: a[:, rng.integers(0, a.shape[1], 3)],
    "take along": lambda rng, a, b: jnp.take_along_axis(a, rng.integers(0, a.shape[1], (a.shape[0], 2)), 1),
    "labels": lambda rng, a, b: a[np.arange(a.shape[0]), rng.integers(0, a.shape[1], a.shape[0])][:, None],
    "argmax": lambda rng, a, b: jnp.take_along_axis(a, jnp.argmax(a, 1, keepdims=True), 1),
    "add at": lambda rng, a, b: a.at[:, rng.integers(0, a.shape[1], 2)].add(b[:, :1]),
    "multiply at": batch_places,
    "concatenate": lambda rng, a, b: jnp.concatenate([a, constant(rng, a, a.shape[0], 1), b[:, :2]], axis=1),
    "pad": lambda rng, a, b: lax.pad(a, np.zeros((), a.dtype), ((0, 0, 0), (1, int(rng.integers(-1, 2)), 0)))[:, :5],
    "stack": lambda rng, a, b: jnp.stack([a, a * a], axis=1)[:, int(rng.integers(2))],
    "convolve": lambda rng, a, b: lax.conv(a[:, None], constant(rng, a, 1, 1, 2), (1,), "SAME")[:, 0],
    "window": lambda rng, a, b: lax.reduce_window(a, -np.inf, lax.max, (1, 2), (1, 1), "SAME"),
    "solve": batch_solved,
    "solve each": batch_solved_each,
    "triangular": batch_triangular,
    "sparse": batch_sparse,
    "scan": batch_scanned,
    "map": lambda rng, a, b: lax.map(lambda v: jnp.sin(v) * v.sum(), a),
    "halves": batch_halves,
    "permute": batch_permuted,
    "reshape": lambda rng, a, b: jnp.sin(a.reshape(-1)).reshape(a.shape),
    "transpose": lambda rng, a, b: jnp.tanh(constant(rng, a, a.shape[1], a.shape[1]) @ a.T).T,
    "cond": lambda rng, a, b: lax.cond(a[0, 0] > 0, jnp.sin, lambda a: a * 2, a),
    "fori": lambda rng, a, b: lax.fori_loop(0, 2, lambda i, c: c.at[:, i % c.shape[1]].multiply(b[:, 0]), a),
    "stop": lambda rng, a, b: a * lax.stop_gradient(a.mean(0)),
    "rule": lambda rng, a, b: turned(a),
}

MIXING = {
    "mean over samples": lambda rng, a, b: a - a.mean(0),
    "samples cumulated": lambda rng, a, b: jnp.cumsum(a, axis=0),
    "samples reversed": lambda rng, a, b: a[::-1],
    "samples permuted": lambda rng, a, b: a[rng.permutation(a.shape[0])],
    "samples sorted": lambda rng, a, b: jnp.sort(a, axis=0),
    "samples scanned": lambda rng, a, b: lax.scan(lambda c, v: (c + v, c * v), b[0, 0], a[:, 0])[1][:, None],
    "samples multiplied": lambda rng, a, b: constant(rng, a, a.shape[0], a.shape[0], zeros=0.7) @ a,
    "samples gathered": lambda rng, a, b: a[integers(b[:, 0], a.shape[0])],
}
