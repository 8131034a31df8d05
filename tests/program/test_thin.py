"""Patterns that known values make sparser: an index with few values, zeros in a factor.

The reference is the union of the nonzeros of JAX's dense derivative at many random points, in float64.
Shapes: P points, M outputs, N inputs, nnz stored entries.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sparse_cases import Case, dense, nonzero, point, points

from jacobia import hessian, jacobian, sparsity_pattern

pytestmark = pytest.mark.slow

TABLE = np.array([5, 0, 3, 3])


def integer(x):
    return jnp.floor(10 * x).astype(int)


def window(x):
    return lax.dynamic_slice(x, (jnp.argmax(x[:2]),), (3,))


def update(x):
    return lax.dynamic_update_slice(jnp.sin(x), x[:2] ** 2, (jnp.argmax(x[2:4]),))


def many(f, **kwargs):
    return Case(f, count=200, **kwargs)


INTEGERS = {
    "clipped": many(lambda x: x[jnp.clip(integer(x[0]), 0, 1)]),
    "clipped, an array": many(lambda x: x[jnp.clip(integer(x), 1, 2)]),
    "clipped to bounds of each": many(lambda x: x[jnp.clip(integer(x[:3]), np.array([0, 2, 4]), np.array([1, 2, 5]))]),
    "clamped": many(lambda x: x[lax.clamp(2, integer(x[0]), 4)] * x),
    "below zero": many(lambda x: x[jnp.clip(integer(x[0]), -1, 1)]),
    "a window": many(window),
    "a window that is moved": many(lambda x: lax.dynamic_slice(x, (2 + jnp.argmax(x[:3]),), (3,))),
    "a window of any start": many(lambda x: lax.dynamic_slice(x, (integer(x[0]),), (3,))),
    "a window of any start, counted in bytes": many(
        lambda x: lax.dynamic_slice(x, (integer(x[0]).astype(jnp.uint8),), (3,))),
    "a window as long as all": many(lambda x: lax.dynamic_update_slice(x, x**2, (integer(x[0]),))),
    "updated at any start": many(lambda x: lax.dynamic_update_slice(jnp.sin(x), x[:2] ** 2, (integer(x[0]),))),
    "a halved index": many(lambda x: x[jnp.argmax(jnp.tile(x[:5], 20)) // 2 % 3]),
    "a halved index below zero": many(lambda x: x[jnp.clip(integer(x[0]), -2, 1) // 2]),
    "a remainder": many(lambda x: x[integer(x[0]) % 3]),
    "a remainder of C": many(lambda x: jnp.sin(x)[lax.rem(jnp.abs(jnp.clip(integer(x[0]), -50, 50)), 4)]),
    "a remainder by a negative number": many(lambda x: x[integer(x[0]) % -3]),
    "one of two": many(lambda x: x[jnp.where(x[:2] > 0, jnp.argmax(x[:2]), jnp.array([3, 5]))]),
    "a choice of known indices": many(lambda x: x[jnp.where(x[:3] > 0, np.array([0, 1, 2]), np.array([3, 1, 4]))]),
    "a comparison": many(lambda x: x[(x[0] > 0).astype(int)] + x[jnp.where(x[1] < x[2], 4, 5)]),
    "two together": many(lambda x: x[(i := jnp.argmax(x[:2]))] * x[i + 2]),
    "a pair, two together": many(lambda x: x.reshape(2, 3)[(i := jnp.argmax(x[:2])), i]),
    "a pair, one known": many(lambda x: x.reshape(2, 3)[jnp.argmax(x[:2]), 1:]),
    "a pair, one of any value": many(
        lambda x: x.reshape(2, 3).at[jnp.clip(integer(x[:2]), 1, 1), integer(x[2:4])].get(mode="clip")),
    "of a table": many(lambda x: x[jnp.asarray(TABLE)[jnp.argmax(x[:4])]]),
    "stacked": many(lambda x: x[jnp.stack([jnp.argmax(x[:2]), 2 + jnp.argmin(x[2:4])])]),
    "filled": many(lambda x: x.at[4 + jnp.argmax(x[:4])].get(mode="fill", fill_value=0)),
    "unsigned, wrapped": many(lambda x: x[(jnp.argmax(x[:2]).astype(jnp.uint8) - 1) % 5]),
    "samples": Case(lambda x: jax.vmap(lambda v: v[jnp.argmax(v[:2])])(x), (3, 4), count=100),
    "samples of windows": Case(lambda x: jax.vmap(window)(x), (2, 5), count=100),
    "in a branch": many(lambda x: lax.cond(x[5] > 0, lambda i: x[i], lambda i: x[i + 2], jnp.argmax(x[:2]))),
    "set": many(lambda x: x.at[jnp.clip(integer(x[0]), 0, 1)].set(x[3] ** 2)),
    "set to a number": many(lambda x: jnp.sin(x).at[jnp.clip(integer(x[0]), 0, 1)].set(2.0)),
    "set into numbers": many(lambda x: jnp.ones(6).at[jnp.argmax(x[:3])].set(x[3])),
    "set apart": many(lambda x: x.at[jnp.array([0, 3]) + jnp.clip(integer(x[:2]), 0, 1)].set(x[4:] ** 2)),
    "set, one beyond the end": many(lambda x: x.at[5 + jnp.argmax(x[:2])].set(x[3] ** 2)),
    "set a row": Case(lambda x: x.at[jnp.argmax(x[:2, 0])].set(x[2] ** 2), (4, 3), count=100),
    "updated": many(update),
    "updated, always somewhere": many(
        lambda x: lax.dynamic_update_slice(jnp.sin(x), x[:4] ** 2, (jnp.argmax(x[4:]),))),
    "added": many(lambda x: x.at[jnp.clip(integer(x[:3]), 0, 1)].add(x[3:] ** 2)),
    "subtracted": many(lambda x: jnp.zeros(4).at[jnp.argmax(x[:2])].subtract(x[3])),
    "samples that are set": Case(
        lambda x: jax.vmap(lambda v: v.at[jnp.argmax(v[:2])].set(v[3] ** 2))(x), (2, 4), count=100),
    "set, two at one place": many(
        lambda x: jnp.zeros(6).at[jnp.clip(integer(x[:2]), 0, 1)].set(x[3:5])),
    "over the largest number": many(
        lambda x: x[(jnp.clip(integer(x[0]), 0, 1).astype(jnp.int8) * 127 + 1) % 5]),
}  # fmt: skip


Z = np.array([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 1, 2, 4]])
STAIRS = np.tri(4, dtype=bool)


def some(f, shape=(4,), **kwargs):
    return Case(f, shape, count=12, **kwargs)


# By a factor that is known.
PRODUCTS = {
    "a number times zero": some(lambda x: jnp.dot(jnp.array(0.0), x)),
    "rows of zeros, the same columns everywhere": some(lambda x: Z @ (x.sum() * jnp.ones(4))),
    "rows of zeros, from behind": some(lambda x: (x[:2].sum() * jnp.ones((2, 4))) @ Z.T),
    "rows of zeros, after a layer": some(lambda x: Z @ jnp.tanh(np.arange(1.0, 17).reshape(4, 4) @ x)),
    "a batch of which some rows are zero": some(
        lambda x: jnp.einsum("bij,bj->bi", np.stack([Z, Z[::-1]]), x.sum() * jnp.ones((2, 4)))),
    "free axes on both sides": some(
        lambda x: jnp.einsum("abc,cde->abde", np.stack([Z, Z[::-1]]), x.sum() * jnp.ones((4, 2, 3)))),
    "a triangle of what shares columns": some(lambda x: np.tri(4) @ (x[1:] * x[:-1]), (5,)),
    "a triangle from behind": some(lambda x: (x[1:] * x[:-1]).T @ np.tri(4), (5, 2)),
    "triangles in a batch": some(
        lambda x: jnp.einsum("bij,kjb->bki", np.stack([np.tri(4), np.tri(4).T]), x[:, 1:] * x[:, :-1]), (2, 5, 2)),
}  # fmt: skip


def spd(x):
    return x @ x.T + 2 * jnp.eye(len(x))


def blocks(x):
    return jax.scipy.linalg.block_diag(jnp.outer(x[:2], x[:2]), x[2:, None])


def bidiagonal(x):
    return jnp.diag(x) + jnp.diag(x[1:] ** 2, 1)


# By a factor of the input, which has its zeros in the same places at every point.
PLACES = {
    "a diagonal": some(lambda x: jnp.diag(x) @ x),
    "a diagonal from behind": some(lambda x: x @ jnp.diag(x, 1)[:4]),
    "a diagonal that is stepped through": some(lambda x: jnp.sin(jnp.diag(x)) @ x[::-1]),
    "two diagonals": some(lambda x: bidiagonal(x) @ jnp.sin(x)),
    "a power of diagonals": some(lambda x: bidiagonal(x) @ (bidiagonal(x) @ x)),
    "a product of matrices": some(lambda x: (bidiagonal(x) @ bidiagonal(x)) @ x, (5,)),
    "a diagonal that is set": some(lambda x: jnp.zeros((4, 4)).at[np.arange(4), np.arange(4)].set(x) @ x**2),
    "a diagonal that is added": some(lambda x: jnp.zeros((4, 5)).at[np.arange(4), np.arange(1, 5)].add(x)[:, 1:] @ x),
    "a diagonal that is cleared": some(
        lambda x: jnp.outer(x, x).at[np.arange(4), np.arange(4)].set(0.0) @ x),
    "a row that is cleared": some(lambda x: (jnp.outer(x, x).at[1].set(0.0) @ x) * x[0]),
    "a triangle": some(lambda x: jnp.tril(jnp.outer(x, x)) @ x),
    "a triangle times another": some(lambda x: jnp.tril(x[0]) @ jnp.tril(x[1]), (2, 3, 3)),
    "a mask that multiplies": some(lambda x: (STAIRS * x[0]) @ x[1], (2, 4, 4)),
    "a mask that chooses": some(lambda x: jnp.where(STAIRS, x[0], 0) @ x[1], (2, 4, 4)),
    "a mask of rows": some(lambda x: jnp.where(STAIRS[1], jnp.exp(x), 0) * x[::-1]),
    "blocks": some(lambda x: blocks(x) @ x[1:]),
    "blocks times blocks": some(lambda x: blocks(x).T @ blocks(x)),
    "blocks that are written": some(
        lambda x: lax.dynamic_update_slice(jnp.zeros((4, 4)), jnp.outer(x[:2], x[:2]), (1, 2)) @ x**2),
    "padding": some(lambda x: jnp.pad(x, (0, 2)) * jnp.tile(x, 2)[:6]),
    "padding inside": some(lambda x: lax.pad(jnp.sin(x), 0.0, ((1, 0, 1),))[:4] * x),
    "stacked with zeros": some(lambda x: jnp.stack([x, jnp.zeros(4)]) @ x),
    "a sum of zeros": some(lambda x: jnp.tril(jnp.outer(x, x), -1).sum(1) * x),
    "a running sum": some(lambda x: jnp.cumsum(jnp.pad(x[:2], (2, 0))) * x),
    "elements that are read": some(lambda x: jnp.diag(x)[np.array([0, 1, 3]), np.array([0, 2, 3])] * x[1:]),
    "a window that is read": some(lambda x: lax.dynamic_slice(jnp.diag(x), (1, 0), (2, 4)) @ x),
    "turned and joined": some(
        lambda x: jnp.concatenate([jnp.diag(x).T[::-1], jnp.zeros((1, 4))]).reshape(4, 5).T @ x),
    "a diagonal that is divided": some(lambda x: (jnp.diag(x) / (1 + x**2)) @ x[::-1]),
    "an array of a batch": some(lambda x: jax.vmap(lambda v: jnp.diag(v) @ jnp.roll(v, 1))(x), (3, 4)),
    "a convolution": some(lambda x: jnp.convolve(x, lax.stop_gradient(jnp.pad(x[:2], (1, 1))))),
    "in a branch": some(lambda x: lax.cond(x[0] > 0, lambda d: d @ x, lambda d: d.T @ x, jnp.diag(x, 1)[:4, :4])),
    "a cosine of zeros": some(lambda x: jnp.cos(jnp.diag(x)) @ x),
    "hessian of a diagonal": Case(lambda x: jnp.sum((jnp.diag(x) @ jnp.roll(x, 1)) ** 2), (5,), kind="hessian"),
}  # fmt: skip


def found(case):
    """The pattern, and the matrix at all points."""
    with jax.enable_x64(True):
        return sparsity_pattern(case.f, point(case), hessian=case.kind == "hessian"), dense(case, points(case))


def check(case):
    pattern, full = found(case)
    true = nonzero(full)
    assert not (true & ~pattern.todense()).any(), "an entry is missed"
    assert case.exact is not True or pattern.nnz == true.sum()
    with jax.enable_x64(True):
        for k in range(4):
            transform = hessian if case.kind == "hessian" else jacobian
            made = transform(case.f, ravel=True)(point(case, k)).to_scipy()
            np.testing.assert_allclose(made.toarray(), full[k], atol=1e-12)


@pytest.mark.parametrize("name, case", [*INTEGERS.items(), *PRODUCTS.items(), *PLACES.items()])
def test_a_pattern_is_exact(name, case):
    case.name = name
    check(case)
