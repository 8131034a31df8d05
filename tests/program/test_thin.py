"""Patterns that what is known of values makes thin: few values of an index, zeros in a factor.

The truth is the union of the nonzeros of JAX's dense derivative at many random points, in float64.
Shapes: P points, M outputs, N inputs, nnz stored entries.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sparse_cases import Case, dense, nonzero, point, points

from jacobia import jacobian, sparsity_pattern

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
    "a halved index": many(lambda x: x[jnp.argmax(x[:5]) // 2]),
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
    "a pair, one of any value": many(lambda x: x.reshape(2, 3)[jnp.clip(integer(x[:2]), 1, 1), integer(x[2:4])]),
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
            made = jacobian(case.f, ravel=True)(point(case, k)).to_scipy()
            np.testing.assert_allclose(made.toarray(), full[k], atol=1e-12)


@pytest.mark.parametrize("name, case", [*INTEGERS.items(), *PRODUCTS.items()])
def test_a_pattern_is_exact(name, case):
    case.name = name
    check(case)
