"""Random programs, composed of JAX operations: no nonzero is missed, and the values are those of the dense matrix.

Every operation takes two vectors of any length and a seed, which gives known matrices, indices and masks of the
lengths it needs, and returns a vector; a program is a list of (operation, operand, operand, seed).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from sparse_cases import Case, dense, nonzero, point, points

from jacobia import hessian, jacobian, sparsity_pattern

LONGEST = 12
MODES = ("clip", "fill", "wrap")


def drawn(seed, *shape):
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape)


def mask(seed, *shape):
    return np.random.default_rng(seed).random(shape) < 0.5


def indices(seed, count, size, beyond=0):
    return np.random.default_rng(seed).integers(0, size + beyond, count)


def alike(b, a):
    # b, repeated or cut to the length of a.
    return b[np.arange(a.size) % b.size]


def as_matrix(v):
    rows = next(k for k in (3, 2, 1) if v.size % k == 0)
    return v.reshape(rows, -1)


def gathered(a, b, seed):
    i = indices(seed, 1 + seed % 8, a.size, beyond=2)
    return jnp.take(a, i, mode=MODES[seed % 3], fill_value=0)


def scatter_added(a, b, seed):
    return a.at[indices(seed, b.size, a.size, beyond=1)].add(b, mode="drop")


def scatter_set(a, b, seed):
    count = min(a.size, b.size)
    i = np.random.default_rng(seed).permutation(a.size)[:count]
    return a.at[i].set(b[:count], unique_indices=bool(seed % 2))


def scatter_multiplied(a, b, seed):
    count = min(a.size, b.size)
    i = np.random.default_rng(seed).permutation(a.size)[:count]
    return a.at[i].multiply(b[:count], unique_indices=True)


def gathered_by_value(a, b, seed):
    return a[jnp.floor(jnp.abs(5 * b)).astype(int) % a.size]


def updated(a, b, seed):
    count = min(a.size, b.size, 3)
    # Not a part of `a` itself: XLA has been seen to update it in place while it reads.
    return lax.dynamic_update_slice(a, jnp.sin(b[:count]), (seed % (a.size + 1),))


def sliced_by_value(a, b, seed):
    return lax.dynamic_slice(a, (jnp.floor(3 * b[0]).astype(int),), (max(1, a.size - 2),))


def convolved(a, b, seed):
    kernel = np.where(mask(seed, 3), drawn(seed, 3), 0)
    return jnp.convolve(a, kernel, mode=("full", "same")[seed % 2])


def carried(a, b, seed):
    last, all_ = lax.scan(lambda c, v: (jnp.sin(c) + v, c * v), b[0], a, reverse=bool(seed % 2))
    return jnp.append(all_, last)


def stepped(a, b, seed):
    def step(i, u):
        return u.at[i % a.size].add(0.3 * jnp.sin(u[(i + seed) % a.size]))

    return lax.fori_loop(0, 1 + seed % 4, step, a)


def diffused(a, b, seed):
    return lax.scan(lambda u, _: (0.5 * u + 0.2 * jnp.roll(u, 1), None), a, None, length=1 + seed % 5)[0]


def branched(a, b, seed):
    return lax.cond(b[0] > 0, lambda a, b: a * b, lambda a, b: a[::-1], a, alike(b, a))


def switched(a, b, seed):
    return lax.switch(jnp.array(seed % 3), [jnp.sin, jnp.cumsum, jnp.flip], a)


def pooled(a, b, seed):
    padding = ((seed % 2, 1),)
    return lax.reduce_window(a, -jnp.inf, lax.max, (2,), (1 + seed % 2,), padding)


def summed_windows(a, b, seed):
    return lax.reduce_window(a, 0.0, lax.add, (2,), (1,), ((1, 1),), base_dilation=(1 + seed % 2,))


def product(a, b, seed):
    a, b = as_matrix(a), as_matrix(b)
    k = min(a.shape[1], b.shape[0])
    return (a[:, :k] @ b[:k]).reshape(-1)


def batched_product(a, b, seed):
    a, b = as_matrix(a), as_matrix(alike(b, a))
    return jnp.einsum("bi,bj->bij", a, b).reshape(-1)


def per_row(a, b, seed):
    return jax.vmap(lambda v, i: v[i] * v.sum(), (0, None))(as_matrix(a), seed % as_matrix(a).shape[1]).reshape(-1)


def segments(a, b, seed):
    return jax.ops.segment_sum(a, indices(seed, a.size, 4), 4)


def masked_matrix(a, b, seed):
    return (drawn(seed, 5, a.size) * mask(seed, 5, a.size)) @ a


@jax.custom_jvp
def turned(x):
    return jnp.sin(x)


turned.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0][::-1] * 2))

OPERATIONS = {
    # moves
    "flip": lambda a, b, seed: a[::-1],
    "roll": lambda a, b, seed: jnp.roll(a, seed % 5),
    "slice": lambda a, b, seed: a[seed % min(3, a.size) :: 1 + seed % 2],
    "pad": lambda a, b, seed: lax.pad(a, 0.0, ((seed % 3, seed % 2, seed % 2),)),
    "cut": lambda a, b, seed: lax.pad(a, 0.0, ((-(seed % 2) if a.size > 2 else 0, 1, 0),)),
    "transpose": lambda a, b, seed: as_matrix(a).T.reshape(-1),
    "tile": lambda a, b, seed: jnp.tile(a, 2),
    "repeat": lambda a, b, seed: jnp.repeat(a, 2),
    "concatenate": lambda a, b, seed: jnp.concatenate([b[:2], a, np.ones(seed % 2)]),
    "stack": lambda a, b, seed: jnp.stack([a, alike(b, a)], axis=seed % 2).reshape(-1),
    # elements
    "sin": lambda a, b, seed: jnp.sin(a),
    "bump": lambda a, b, seed: jnp.exp(-(a**2)),
    "scale": lambda a, b, seed: a * drawn(seed, a.size),
    "zeros": lambda a, b, seed: a * np.where(mask(seed, a.size), 2.0, 0.0),
    "add": lambda a, b, seed: a + alike(b, a),
    "multiply": lambda a, b, seed: a * alike(b, a),
    "divide": lambda a, b, seed: a / (2 + alike(b, a) ** 2),
    "relu": lambda a, b, seed: jax.nn.relu(a),
    "maximum": lambda a, b, seed: jnp.maximum(a, alike(b, a)),
    "clip": lambda a, b, seed: jnp.clip(a, -0.6, 0.7),
    "where": lambda a, b, seed: jnp.where(mask(seed, a.size), a, alike(b, a)),
    "where by value": lambda a, b, seed: jnp.where(a > 0.1, a, alike(b, a)),
    "stop": lambda a, b, seed: a * lax.stop_gradient(alike(b, a)),
    "complex": lambda a, b, seed: jnp.real(jnp.exp(1j * a) * alike(b, a)),
    "rule": lambda a, b, seed: turned(a),
    # sums and orders
    "mean": lambda a, b, seed: a - a.mean(),
    "row sums": lambda a, b, seed: as_matrix(a).sum(seed % 2),
    "row maxima": lambda a, b, seed: as_matrix(a).max(1),
    "row products": lambda a, b, seed: jnp.prod(as_matrix(a), axis=0),
    "softmax of rows": lambda a, b, seed: jax.nn.softmax(as_matrix(a)).reshape(-1),
    "cumsum": lambda a, b, seed: lax.cumsum(a, reverse=bool(seed % 2)),
    "cumprod": lambda a, b, seed: lax.cumprod(jnp.sin(a)),
    "cummax": lambda a, b, seed: lax.cummax(a),
    "sort of rows": lambda a, b, seed: jnp.sort(as_matrix(a), axis=1).reshape(-1),
    "order": lambda a, b, seed: a[jnp.argsort(alike(b, a))],
    "segments": segments,
    "windows of maxima": pooled,
    "windows of sums": summed_windows,
    # products
    "matrix": lambda a, b, seed: drawn(seed, 4, a.size) @ a / a.size,
    "sparse matrix": masked_matrix,
    "convolve": convolved,
    "outer": lambda a, b, seed: jnp.outer(a[:3], b[:4]).reshape(-1),
    "product": product,
    "batched product": batched_product,
    "convolve both": lambda a, b, seed: jnp.convolve(a, b[:3]),
    "fourier": lambda a, b, seed: jnp.abs(jnp.fft.rfft(a, axis=0) + 0.1),
    # indices
    "gather": gathered,
    "gather by value": gathered_by_value,
    "add at": scatter_added,
    "set at": scatter_set,
    "multiply at": scatter_multiplied,
    "update": updated,
    "slice by value": sliced_by_value,
    # control flow
    "scan": carried,
    "fori": stepped,
    "diffuse": diffused,
    "cond": branched,
    "switch": switched,
    "vmap": per_row,
    "jit": lambda a, b, seed: jax.jit(lambda a: a[::-1] * 2)(a),
    "checkpoint": lambda a, b, seed: jax.checkpoint(lambda a: jnp.sin(jnp.sin(a)))(a),
}

STEP = st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 5), st.integers(0, 5), st.integers(0, 29))
PROGRAMS = st.lists(STEP, min_size=1, max_size=6)
SIZES = st.integers(3, LONGEST)


def composed(program):
    """The last two vectors of a program, each step of which reads what came before (0 is the newest)."""

    def f(x):
        pool = [x]
        for name, i, j, seed in program:
            a, b = pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]
            pool.append(OPERATIONS[name](a, b, seed)[:LONGEST])
        return {"last": pool[-1], "before": pool[-2]}

    return f


def reduced(program):
    return lambda x: jnp.sum(jnp.sin(composed(program)(x)["last"]))


def check(case):
    is_hessian = case.kind == "hessian"
    matrices = dense(case, points(case))
    true = nonzero(matrices)
    with jax.enable_x64(True):
        x = point(case)
        pattern = sparsity_pattern(case.f, x, hessian=is_hessian)
        found = np.asarray(pattern.todense()).astype(bool)
        assert found.shape == true.shape
        assert not (true & ~found).any(), np.argwhere(true & ~found)
        if is_hessian:
            np.testing.assert_array_equal(found, found.T)
        J = (hessian if is_hessian else jacobian)(case.f, ravel=True)(x)
        data, rows, cols = J.nonzeros()
        actual = np.zeros(J.shape)
        actual[rows, cols] = data
    scale = np.max(np.abs(matrices[0]), initial=1.0)
    np.testing.assert_allclose(actual, matrices[0], rtol=0, atol=1e-9 * scale)


def trying(count):
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@trying(60)
@given(PROGRAMS, SIZES)
def test_jacobians_of_random_programs(program, size):
    check(Case(composed(program), (size,), name="random"))


@trying(20)
@given(PROGRAMS, SIZES)
def test_hessians_of_random_programs(program, size):
    check(Case(reduced(program), (size,), name="random", kind="hessian"))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_one_operation(name):
    """Each one alone, and after a product that makes its operand depend on neighbours."""
    for seed in (0, 5):
        check(Case(composed([("multiply", 0, 0, 0), (name, 0, 1, seed)]), (6,), name="one"))
