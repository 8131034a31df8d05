"""Dense lines out of nonzeros that are known: no kernel runs, of one point and of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

from jacobia import MaterializationError, hessian, jacobian, materialize

B, N = 40, 9
X = np.random.default_rng(9).normal(size=(B, N)).astype(np.float32)


def neighbours(x):
    return x[1:] * x[:-1]


def energy(x):
    return jnp.sum(x[0] * x[1:] ** 3)


def of_neighbours(x):
    """Row k has x[k + 1] at k and x[k] at k + 1."""
    out = np.zeros((*x.shape[:-1], N - 1, N), np.float32)
    k = np.arange(N - 1)
    out[..., k, k], out[..., k, k + 1] = x[..., 1:], x[..., :-1]
    return out


def of_energy(x):
    out = np.zeros((*x.shape, N), np.float32)
    k = np.arange(1, N)
    out[..., k, k] = 6 * x[..., :1] * x[..., 1:]
    out[..., 0, 1:] = out[..., 1:, 0] = 3 * x[..., 1:] ** 2
    return out


VIEWS = {
    "one point": (jacobian(neighbours), X[0], of_neighbours),
    "batch_axis": (jacobian(jax.vmap(neighbours), batch_axis=0), X, of_neighbours),
    "vmap": (jax.vmap(jacobian(neighbours)), X, of_neighbours),
    "vmap twice": (jax.vmap(jax.vmap(jacobian(neighbours))), X.reshape(8, 5, N), of_neighbours),
    "hessians": (hessian(jax.vmap(energy), batch_axis=0), X, of_energy),
}
LAST = (..., 3), (..., 2, slice(None)), (..., slice(1, 4), slice(None, None, -2)), (..., 0, 1)
FIRST = 3, (2, 1), (slice(0, 2), slice(None), 3), ([5, 1], [0, 2])


@pytest.mark.parametrize("name", VIEWS)
def test_known_nonzeros_serve_all_keys(name):
    transform, x, truth = VIEWS[name]
    truth = truth(np.asarray(x))
    first = FIRST if x.ndim > 1 else (3, (2, 1))
    for keys in ([...], LAST, first, [*first, ..., *LAST], [*LAST, *first], [3, ..., (..., 3)]):
        J = transform(x)
        J.nonzeros()
        before = J.stats
        for key in keys:
            assert_close(J[key], truth[key])
        assert J.stats._replace(nbytes=before.nbytes) == before


def test_blocks_of_a_hessian_of_samples():
    p = {"a": X[:, :3], "b": X[:, 3:7]}
    H = hessian(lambda p: jax.vmap(lambda a, b: jnp.sum(a**2 * b[1:]) + b[0])(p["a"], p["b"]), batch_axis=0)(p)
    a, b = np.asarray(p["a"]), np.asarray(p["b"])
    mixed = np.zeros((B, 3, 4), np.float32)
    mixed[:, np.arange(3), np.arange(1, 4)] = 2 * a
    H["a"]["b"].nonzeros()
    calls = H["a"]["b"].stats.kernel_calls
    assert_close(H["a"]["b"][:, :, 1], mixed[:, :, 1])
    assert_close(H["a"]["b"][7, :, 1], mixed[7, :, 1])
    assert_close(H["a"]["b"][...], mixed)
    assert H["a"]["b"].stats.kernel_calls == calls
    own = np.zeros((B, 3, 3), np.float32)
    own[:, np.arange(3), np.arange(3)] = 2 * b[:, 1:]
    whole = materialize(H)
    assert_close(whole["a"]["a"], own)
    assert_close(whole["b"]["a"], mixed.swapaxes(1, 2))


def test_what_is_explained_of_few_samples_and_of_all():
    J = jacobian(jax.vmap(neighbours), batch_axis=0)(X)
    J.nonzeros()
    for key in (3, (slice(None), 2), ...):
        told = J.explain(key)
        assert told.plan.way == "none" and "all of its nonzeros are known" in str(told)
    assert "samples: 1 of 40" in str(J.explain(3))


def test_dense_lines_that_do_not_fit():
    x = np.ones((B, 40), np.float32)  # 250 KB of dense matrices, 12 KB of nonzeros
    J = jacobian(jax.vmap(neighbours), batch_axis=0, memory_limit=200_000)(x)
    J.nonzeros()
    assert_close(J[3], np.eye(39, 40, dtype=np.float32) + np.eye(39, 40, 1, dtype=np.float32))
    with pytest.raises(MaterializationError, match="memory_limit"):
        J[...]


def test_a_batch_divided_over_devices_stays_divided():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i")))
    J = jacobian(jax.vmap(neighbours), batch_axis=0)(x)
    J.nonzeros()
    assert_close(J[...], of_neighbours(X))
    assert len(J[...].sharding.device_set) == 2


def test_nonzeros_that_were_deleted_are_computed_again():
    J = jacobian(jax.vmap(neighbours), batch_axis=0)(X)
    J.nonzeros()[0].delete()
    assert_close(J[3], of_neighbours(X[3]))
    assert_close(J[...], of_neighbours(X))
