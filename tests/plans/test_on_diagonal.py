"""The diagonal from nonzeros, computed alone or already known, compared with that of the dense matrix.

Shapes: B samples, N inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia import Pattern, hessian, jacobian
from jacobia._plans import on_diagonal

pytestmark = pytest.mark.slow

N, B = 6, 3
X = np.random.default_rng(2).uniform(0.5, 1.5, N).astype(np.float32)
XB = np.random.default_rng(3).uniform(0.5, 1.5, (B, N)).astype(np.float32)
W = np.random.default_rng(4).normal(size=(N, N)).astype(np.float32)

F = {
    "tridiagonal": lambda x: jnp.pad(x[1:], (0, 1)) * x + jnp.pad(x[:-1], (1, 0)) ** 2 * jnp.sin(x),
    "shifted": lambda x: jnp.roll(x, 1) ** 2,
    "some": lambda x: jnp.where(jnp.arange(N) % 2 == 0, x**2, x[::-1]),
    "dense": lambda x: jnp.tanh(W @ x),
    "sums": lambda x: x - x.mean() + x * x.sum(),
    "loop": lambda x: lax.fori_loop(0, 30, lambda _, y: y + 0.1 * (jnp.roll(y, 1) - y) * x, x),
    "tall": lambda x: jnp.concatenate([x**2, x]),
    "wide": lambda x: x[: N - 2] * x[2:] * x[: N - 2],
    "constant": lambda x: jnp.ones(N),
}


@pytest.fixture(autouse=True)
def always(monkeypatch, new_programs):
    """Compute nonzeros on the diagonal whenever that is possible."""
    monkeypatch.setattr(on_diagonal, "WORTH_LOOKING", -1.0)
    monkeypatch.setattr(on_diagonal, "BETTER", float("inf"))
    monkeypatch.setattr(on_diagonal, "_FEW", 0)


def close(found, right):
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", F)
def test_of_one_matrix(name):
    f = F[name]
    right = np.diagonal(jax.jacobian(f)(X))
    for view in (jacobian(f)(X), jacobian(f)(X).T, jacobian(f)(X).matrix):
        close(view.diagonal(), right)
        if name != "constant":  # for a constant f, passes cost nothing either
            assert view.stats.pullbacks == view.stats.pushforwards == 0 and view.stats.kernel_calls == 1
    close(jax.jit(lambda x: jacobian(f)(x).diagonal())(X), right)


@pytest.mark.parametrize("name", [n for n in F if n not in ("tall", "wide")])
def test_of_samples(name):
    f = F[name]
    right = np.stack([np.diagonal(jax.jacobian(f)(x)) for x in XB])
    J = jacobian(jax.vmap(f), batch_axis=0)(XB)
    close(J.diagonal(), right)
    assert J.stats.pullbacks == J.stats.pushforwards == 0 or name == "constant"
    J = jacobian(lambda x: jax.vmap(f)(x.T).T, batch_axis=-1)(XB.T)
    close(J.diagonal(), right)
    close(jax.vmap(jacobian(f))(XB).diagonal(), right)


@pytest.mark.parametrize("name", F)
def test_of_a_hessian(name):
    energy = lambda x: jnp.sum(jnp.sin(F[name](x)))  # noqa: E731
    H = hessian(energy)(X)
    close(H.diagonal(), np.diagonal(jax.hessian(energy)(X)))
    assert H.stats.pullbacks == H.stats.pushforwards == 0 or name == "constant"


def test_of_several_axes_and_leaves():
    f = lambda t: {"a": t["b"] ** 2 * t["a"].sum(), "b": t["a"] ** 3}  # noqa: E731
    tree = {"a": X[:4].reshape(2, 2), "b": X[1:5].reshape(2, 2)}
    dense = jax.jacobian(f)(tree)
    J = jacobian(f)(tree)
    for i in "ab":
        for j in "ab":
            close(J[i][j].diagonal(), np.diagonal(dense[i][j].reshape(4, 4)).reshape(2, 2))
    flat = np.block([[np.asarray(dense[i][j]).reshape(4, 4) for j in "ab"] for i in "ab"])
    close(jacobian(f, ravel=True)(tree).diagonal(), np.diagonal(flat))


def test_of_samples_whose_leaves_differ_it_is_by_passes():
    f = lambda x: (x[:, :2] ** 2, x[:, 2:] * x[:, :1])  # noqa: E731
    J = jacobian(f, batch_axis=0, ravel=True)(XB)
    close(
        J.diagonal(),
        np.stack([np.diagonal(np.concatenate(jax.jacobian(lambda x: (x[:2] ** 2, x[2:] * x[:1]))(x))) for x in XB]),
    )


def test_out_of_nonzeros_that_are_known():
    for name in ("tridiagonal", "some", "tall", "wide"):
        J = jacobian(F[name])(X)
        J.nonzeros()
        calls = J.stats.kernel_calls
        close(J.diagonal(), np.diagonal(jax.jacobian(F[name])(X)))
        assert J.stats.kernel_calls == calls


def test_other_settings_are_kept_to():
    f, right = F["tridiagonal"], np.diagonal(jax.jacobian(F["tridiagonal"])(X))
    band = Pattern.from_dense(np.abs(np.subtract.outer(np.arange(N), np.arange(N))) <= 1)
    for options in ({"mode": "rev"}, {"mode": "fwd"}, {"sparsity": "dense"}, {"sparsity": band}, {"jit": False}):
        J = jacobian(f, **options)(X)
        close(J.diagonal(), right)
        passes = 3 if "sparsity" in options and options["sparsity"] is band else N
        assert J.stats.pullbacks + J.stats.pushforwards == passes, options


def test_what_is_explained():
    J = jacobian(F["tridiagonal"])(X)
    assert J.explain("diagonal").plan.way == "nonzeros" and "no seeds" in str(J.explain("diagonal"))
    assert J.stats.kernel_calls == 0


def test_of_a_million():
    n = 1_000_000
    J = jacobian(F["tridiagonal"])(x := jnp.linspace(0, 1, n))
    right = np.pad(x[1:], (0, 1)) + np.pad(x[:-1], (1, 0)) ** 2 * np.cos(x)
    np.testing.assert_allclose(J.diagonal(), right, rtol=1e-4, atol=1e-6)
