"""One of several processes over whose devices rows are spread. Run by `test_processes.py`.

Arguments: the number of this process, the number of processes, a port, a folder, and the number of the process that
dies, or -1.
"""

import os
import sys

RANK, COUNT, PORT, FOLDER, DYING = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
if COUNT > 1:
    jax.distributed.initialize(f"127.0.0.1:{PORT}", COUNT, RANK, initialization_timeout=60)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jacobia import hessian, jacobian  # noqa: E402
from jacobia._stream import save as save_module  # noqa: E402
from jacobia._stream import saved as saved_module  # noqa: E402

WEIGHTS = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
X = np.linspace(0, 1, 8, dtype=np.float32)


def f(x):
    return jnp.tanh(WEIGHTS @ x) * jnp.sum(x)


def energy(x):
    return jnp.sum(f(x) ** 2)


def check(got, want):
    for shard in got.addressable_shards:
        np.testing.assert_allclose(np.asarray(shard.data), want[shard.index], rtol=1e-4, atol=1e-5)


mesh = jax.make_mesh((jax.device_count(),), ("rows",)) if COUNT > 1 else None
if DYING == RANK:
    write = saved_module.Saved.write

    def dies(self, part, values):
        if self._journal.finished:
            os._exit(9)
        write(self, part, values)

    saved_module.Saved.write = dies
if DYING >= 0:
    save_module._PATIENCE = 4
    try:
        jacobian(f, mesh=mesh)(X).save(f"{FOLDER}/died", block=2)
    except TimeoutError as error:
        print(error, flush=True)
        os._exit(3)  # the end of jax.distributed would wait for the other one for some minutes
want = np.asarray(jax.jit(jax.jacrev(f))(X))
if COUNT > 1:
    for key in (np.s_[...], np.s_[0:8], 3, np.s_[1:4], np.s_[:, 2], np.s_[[5, 1]]):
        check(jacobian(f, mesh=mesh)(X)[key], want[key])
    check(hessian(energy, mesh=mesh)(X)[...], np.asarray(jax.jit(jax.hessian(energy))(X)))
    check(jacobian(f, mesh=mesh)(X) @ X, want @ X)
    first, last = RANK * 16 // COUNT, (RANK + 1) * 16 // COUNT
    parts = list(jacobian(f, mesh=mesh)(X).blocks(block=3))
    assert (parts[0][0].start, parts[-1][0].stop) == (first, last)
    np.testing.assert_allclose(np.concatenate([a for _, a in parts]), want[first:last], rtol=1e-4, atol=1e-5)
rows = jacobian(f, mode="rev", chunk_size=2, mesh=mesh)(X)[...]
for shard in rows.addressable_shards:
    np.save(f"{FOLDER}/rows-{COUNT}-{shard.index[0].start or 0:02d}.npy", np.asarray(shard.data))
S = jacobian(f, mesh=mesh)(X).save(f"{FOLDER}/J-{COUNT}", block=2)
np.testing.assert_allclose(S, want, rtol=1e-4, atol=1e-5)
print("fine", flush=True)
if COUNT > 1:
    jax.distributed.shutdown()
