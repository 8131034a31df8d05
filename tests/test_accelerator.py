"""On a GPU or TPU: the laws, the row kernel, memory. Elsewhere: every kind of read can be lowered for such devices.

`JACOBIA_PLATFORM=cuda pytest tests/test_accelerator.py` runs the first part.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jacobia import hessian, jacobian, laplacian

pytestmark = pytest.mark.filterwarnings("ignore:mesh=:UserWarning")
PLATFORMS = ("tpu", "cuda", "rocm")
HAS_ONE = jax.default_backend() != "cpu"
on_device = pytest.mark.skipif(not HAS_ONE, reason=f"no GPU or TPU: the backend is {jax.default_backend()}")

M, N = 24, 16
RANDOM = np.random.default_rng(0)
W, V = RANDOM.normal(size=(M, N)).astype(np.float32) / 4, RANDOM.normal(size=(N, 4)).astype(np.float32)
X = np.linspace(-1, 1, N, dtype=np.float32)
MANY = RANDOM.normal(size=(8, N)).astype(np.float32)


def layer(x):
    return jnp.tanh(W @ x) * jnp.sum(x**2)


def stencil(x):
    return jnp.sin(x) * jnp.roll(x, 1) + x**2


def narrow(x):
    return jnp.tanh(W @ jnp.sin(V @ jnp.tanh(V.T @ x)))


def energy(x):
    return jnp.sum(jnp.tanh(W @ x) ** 2)


def samples(X):
    return jnp.tanh(X @ W.T)


READS = {
    "rows": lambda x: jacobian(layer)(x)[1:4],
    "a row": lambda x: jacobian(layer)(x)[2],
    "traced rows": lambda x: jacobian(layer)(x)[jnp.argmax(x)],
    "columns": lambda x: jacobian(layer)(x)[:, 2:5],
    "all by rows": lambda x: jacobian(layer, mode="rev")(x)[...],
    "all by columns": lambda x: jacobian(layer, mode="fwd")(x)[...],
    "in chunks": lambda x: jacobian(layer, mode="rev", chunk_size=5)(x)[...],
    "nonzeros": lambda x: jacobian(stencil)(x).nonzeros()[0],
    "all from nonzeros": lambda x: jacobian(stencil, mode="accumulate")(x)[...],
    "waist": lambda x: jacobian(narrow, mode="waist")(x)[...],
    "diagonal": lambda x: jacobian(stencil)(x).diagonal(),
    "Hessian": lambda x: hessian(energy)(x)[...],
    "rows of a Hessian": lambda x: hessian(energy)(x)[3:5],
    "diagonal of a Hessian": lambda x: hessian(energy)(x).diagonal(),
    "batch": lambda x: jacobian(samples, batch_axis=0)(x * MANY)[...],
    "a row of a batch": lambda x: jacobian(samples, batch_axis=0)(x * MANY)[:, 2],
    "batch of Hessians": lambda x: hessian(jax.vmap(energy), batch_axis=0)(x * MANY)[...],
    "rows of their samples": lambda x: jacobian(lambda w: jnp.tanh((MANY * x) @ w))(jnp.asarray(W.T))[1:5],
    "J @ v": lambda x: jacobian(layer)(x) @ x,
    "u @ J": lambda x: jacobian(layer)(x).vm(jnp.ones(M)),
    "Gram matrix": lambda x: jacobian(layer)(x).gram(),
    "Laplacian": lambda x: laplacian(energy)(x),
    "mesh": lambda x: jacobian(layer, mesh=Mesh(np.array(jax.devices()), ("i",)), mode="rev")(x)[...],
    "mesh, batch": lambda x: hessian(
        jax.vmap(energy), batch_axis=0, mesh=Mesh(np.array(jax.devices()), ("i",))
    )(x * MANY)[...],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(READS))
def test_reads_lower_for_accelerators(name):
    pytest.importorskip("jax.export", reason="this JAX has no jax.export")
    exported = jax.export.export(jax.jit(READS[name]), platforms=PLATFORMS)(jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert exported.platforms == PLATFORMS
    assert [a.shape for a in exported.out_avals] == [jax.eval_shape(READS[name], X).shape]


# On a device


@on_device
@pytest.mark.parametrize("name", list(READS))
def test_reads_are_those_of_the_cpu(name):
    with jax.default_matmul_precision("highest"):
        got = jax.jit(READS[name])(X)
        with jax.default_device(jax.devices("cpu")[0]):
            want = READS[name](X) if "mesh" not in name else None
    if want is not None:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@on_device
@pytest.mark.parametrize("key", [np.s_[...], np.s_[1:4], 5, np.s_[:, 3], [2, 7], np.s_[2:9, 1:3]], ids=str)
def test_views_on_a_device(key):
    with jax.default_matmul_precision("highest"):
        J, want = jacobian(layer)(X), np.asarray(jax.jacrev(layer)(X))
        got = J[key]
        assert got.devices() == {jax.devices()[0]}
        np.testing.assert_allclose(got, want[np.asarray(key) if isinstance(key, list) else key], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(J[...], want, rtol=1e-3, atol=1e-4)  # with what is remembered


@on_device
def test_memory_is_what_was_told():
    x = jnp.ones(2048)
    J = jacobian(lambda x: jnp.sin(jnp.cumsum(x) * x), sparsity="dense")(x)
    told = J.explain().memory
    before = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    J[...].block_until_ready()
    taken = jax.devices()[0].memory_stats()["peak_bytes_in_use"] - before
    assert taken <= 1.25 * told + (1 << 20)


@on_device
def test_rows_go_to_the_host():
    parts = list(jacobian(layer)(X).blocks(block=5, offload="host"))
    assert all(type(a) is np.ndarray for _, a in parts)
    np.testing.assert_allclose(np.concatenate([a for _, a in parts]), jacobian(layer)(X)[...], rtol=1e-3, atol=1e-4)
