"""Entries at given pairs (row, column), from the fewest rows and columns that cover them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian
from jacobia._sparse.cover import cross

RNG = np.random.default_rng(8)
W = RNG.normal(size=(7, 6)).astype(np.float32)
X = RNG.normal(size=6).astype(np.float32)
FULL = (1 - np.tanh(W @ X) ** 2)[:, None] * W


def layer(x):
    return jnp.tanh(W @ x)


def smallest(mask):
    """Brute force: try all sets of rows, and cover the other entries by columns."""
    m = len(mask)
    return min(
        bin(chosen).count("1") + int(mask[[k for k in range(m) if not chosen >> k & 1]].any(axis=0).sum())
        for chosen in range(2**m)
    )


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
def test_no_fewer_lines_hold_all(density):
    for _ in range(25):
        mask = RNG.random((6, 5)) < density
        rows, columns = np.nonzero(mask)
        found = cross(rows, columns)
        held = np.zeros_like(mask)
        held[found.rows] = held[:, found.columns] = True
        assert held[mask].all()
        assert len(found.rows) + len(found.columns) == smallest(mask)


def cross_mask(shape=(7, 6)):
    mask = np.zeros(shape, bool)
    mask[3] = mask[:, 2] = True
    return mask


def test_a_cross_is_one_row_and_one_column():
    J = jacobian(layer)(X)
    mask = cross_mask()
    told = J.explain(mask)
    assert told.way == "rows and columns" and told.passes == 2 and "instead of 6 pushforwards" in str(told)
    np.testing.assert_allclose(J[mask], FULL[mask], rtol=1e-4, atol=1e-6)
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 1)
    np.testing.assert_allclose(J[mask], FULL[mask], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(J[3], FULL[3], rtol=1e-4, atol=1e-6)
    assert (J.stats.pullbacks, J.stats.pushforwards) == (1, 1)
    assert J.explain(mask).way == "none"


KNOWN = {"row": (3, 1), "column": ((slice(None), 2), 1), "others": (slice(0, 2), 2), "all": (..., 0)}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_not_computed_again(name):
    known, passes = KNOWN[name]
    J = jacobian(layer)(X)
    assert J[known].size
    before = J.stats.pullbacks + J.stats.pushforwards
    mask = cross_mask()
    np.testing.assert_allclose(J[mask], FULL[mask], rtol=1e-4, atol=1e-6)
    assert J.stats.pullbacks + J.stats.pushforwards - before == passes


def test_pairs_of_places_and_other_views():
    i, j = np.array([[3, 3, 0], [5, 3, 3]]), np.array([[0, 1, 2], [2, 4, 5]])
    np.testing.assert_allclose(jacobian(layer)(X)[i, j], FULL[i, j], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jacobian(layer)(X).T[j, i], FULL[i, j], rtol=1e-4, atol=1e-6)
    mask = cross_mask()
    np.testing.assert_allclose(jacobian(layer)(X).T[mask.T], FULL.T[mask.T], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: jacobian(layer)(x)[mask])(X), FULL[mask], rtol=1e-4, atol=1e-6)
    for mode in ("fwd", "rev"):
        np.testing.assert_allclose(jacobian(layer, mode=mode)(X)[mask], FULL[mask], rtol=1e-4, atol=1e-6)
    batch = np.stack([X, 2 * X, 3 * X])
    views = jax.vmap(jacobian(layer))(batch)
    np.testing.assert_allclose(views[:, mask][0], FULL[mask], rtol=1e-4, atol=1e-6)


def test_a_symmetric_cross():
    f = lambda x: jnp.sum(layer(x) ** 2)  # noqa: E731
    expected = np.asarray(jax.hessian(f)(X))
    mask = np.zeros((6, 6), bool)
    mask[3] = mask[:, 3] = True
    H = hessian(f)(X)
    np.testing.assert_allclose(H[mask], expected[mask], rtol=1e-3, atol=1e-5)
    assert H.stats.pullbacks + H.stats.pushforwards == 1


def test_higher_ranks():
    f = lambda x: jnp.einsum("ij,jk->ik", x, x) * x  # noqa: E731
    x = RNG.normal(size=(3, 3)).astype(np.float32)
    expected = np.asarray(jax.jacrev(f)(x))
    mask = np.zeros((3, 3, 3, 3), bool)
    mask[1, 2] = mask[..., 0, 1] = True
    J = jacobian(f)(x)
    np.testing.assert_allclose(J[mask], expected[mask], rtol=1e-4, atol=1e-5)
    assert J.stats.pullbacks + J.stats.pushforwards == 2


def test_memory_of_a_cross():
    J = jacobian(layer)(X)
    assert 12 * 4 <= J.explain(cross_mask()).memory <= 4000
