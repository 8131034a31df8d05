"""Rows, columns and samples spread over the devices of a mesh: values, shardings, and no communication."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jacobia import hessian, jacobian
from jacobia._run.kernels import compiled

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:mesh=:UserWarning"),
    pytest.mark.skipif(jax.device_count() < 2, reason="one device only"),
]
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
D, N, B = jax.device_count(), 16, 16
RANDOM = np.random.default_rng(0)
X0, SAMPLES, SCALES = RANDOM.normal(size=N), RANDOM.normal(size=(B, 6)), RANDOM.normal(size=(B, 6))
WEIGHTS = {m: RANDOM.normal(size=(m, N)) / 4 for m in (16, 13)}
SMALL = RANDOM.normal(size=(6, 5))


def auto():
    return Mesh(np.array(jax.devices()), ("i",))


def explicit():
    return jax.make_mesh((D,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))


MESHES = {"auto": auto, "explicit": explicit}
PLACES = {
    "replicated": lambda a, mesh: jax.device_put(a, NamedSharding(mesh, P())),
    "sharded": lambda a, mesh: jax.device_put(a, NamedSharding(mesh, P("i" if len(a) % D == 0 else None))),
    "on one device": lambda a, mesh: jnp.asarray(a),
    "of NumPy": lambda a, mesh: a,
}


def layer(w, xp=jnp):
    return lambda x: xp.tanh(w @ x) * xp.sum(x**2)


def energy(w):
    return lambda x: jnp.sum(jnp.tanh(w @ x) ** 2)


@functools.cache
def references(m):
    """The Jacobian of a layer of m rows, and the Hessian of its energy."""
    with jax.enable_x64(True):
        first, second = jax.jit(lambda x: (jax.jacrev(layer(WEIGHTS[m]))(x), jax.hessian(energy(WEIGHTS[m]))(x)))(X0)
    return np.asarray(first), np.asarray(second)


def check(read, want, mesh, communicates=False):
    got = read()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
    assert isinstance(got.sharding, NamedSharding)
    assert got.sharding.mesh == mesh
    if not communicates:
        text = compiled(read).as_text()
        assert not [c for c in COLLECTIVES if c in text]


# Kinds of meshes, places of x, numbers of rows, and whether closed-over weights are sharded: every pair of two occurs.
SPREAD = [
    ("auto", "replicated", 16, False),
    ("explicit", "replicated", 13, True),
    ("auto", "sharded", 13, True),
    ("explicit", "sharded", 16, False),
    ("auto", "on one device", 16, True),
    ("explicit", "on one device", 13, False),
    ("auto", "of NumPy", 13, False),
    ("explicit", "of NumPy", 16, True),
]


@pytest.mark.parametrize("kind, place, m, closed", SPREAD)
def test_rows_and_columns(x64, kind, place, m, closed):
    mesh, w = MESHES[kind](), WEIGHTS[m]
    weights = jax.device_put(w, NamedSharding(mesh, P(None, "i"))) if closed else jnp.asarray(w)
    x, f, e = PLACES[place](X0, mesh), layer(weights), energy(weights)
    want, second = references(m)
    for mode in ("auto", "fwd", "rev"):
        for key in (np.s_[...], np.s_[1:6], [2, 9, 4], np.s_[:, 2:7]):
            check(lambda mode=mode, key=key: jacobian(f, mesh=mesh, mode=mode)(x)[key], want[key], mesh)
    for key in (3, np.s_[:, 3], np.s_[2, 3]):
        check(lambda key=key: jacobian(f, mesh=mesh)(x)[key], want[key], mesh)
    for key in (np.s_[...], np.s_[1:9], 3, np.s_[:, 2:4]):
        check(lambda key=key: hessian(e, mesh=mesh)(x)[key], second[key], mesh)
    check(lambda: hessian(e, mesh=mesh)(x).diagonal(), np.diag(second), mesh)
    check(lambda: jacobian(f, mesh=mesh)(x).nonzeros()[0], want.ravel(), mesh)
    check(lambda: jacobian(f, mesh=mesh)(x) @ X0, want @ X0, mesh)
    check(lambda: hessian(e, mesh=mesh)(x) @ x, second @ X0, mesh)


@functools.cache
def of_samples(size):
    """The Jacobians and the Hessians of the first samples."""
    f = lambda x, c: jnp.tanh((x * c) @ SMALL)  # noqa: E731
    second = jax.hessian(lambda x, c: jnp.sum(f(x, c) ** 2))
    with jax.enable_x64(True):
        both = jax.jit(jax.vmap(lambda x, c: (jax.jacrev(f)(x, c), second(x, c))))(SAMPLES[:size], SCALES[:size])
    return jax.tree.map(np.asarray, both)


@pytest.mark.parametrize("kind, place, size", [
    ("auto", "replicated", 16),
    ("explicit", "replicated", 13),
    ("auto", "sharded", 13),
    ("explicit", "sharded", 16),
    ("auto", "on one device", 16),
    ("explicit", "on one device", 13),
])  # fmt: skip
def test_samples(x64, kind, place, size):
    mesh, scales = MESHES[kind](), SCALES[:size]
    x, c = PLACES[place](SAMPLES[:size], mesh), PLACES["sharded"](scales, mesh)
    want, second = of_samples(size)

    def J(**options):
        return jacobian(lambda x: jnp.tanh((x * c) @ SMALL), batch_axis=0, mesh=mesh, **options)(x)

    def H():
        return hessian(lambda x: jnp.sum(jnp.tanh((x * c) @ SMALL) ** 2, -1), batch_axis=0, mesh=mesh)(x)

    for key in (np.s_[...], np.s_[:, 2], np.s_[:, 1:4], np.s_[:, :, 2]):
        check(lambda key=key: J()[key], want[key], mesh)
    check(lambda: J(mode="fwd")[...], want, mesh)
    check(lambda: J()[3], want[3], mesh, communicates=True)  # of one sample, which one device has
    check(lambda: H()[...], second, mesh)
    check(lambda: H()[:, 2], second[:, 2], mesh)
    check(lambda: H().diagonal(), np.diagonal(second, axis1=1, axis2=2), mesh)
    check(lambda: J() @ X0[:6], want @ X0[:6], mesh)


@pytest.mark.parametrize("kind", list(MESHES))
def test_results_are_divided_where_the_devices_divide_an_axis(x64, kind):
    mesh = MESHES[kind]()
    J = jacobian(layer(WEIGHTS[16]), mesh=mesh, mode="rev")(X0)
    assert J[...].sharding.spec == P("i")
    assert {s.data.shape for s in J[...].addressable_shards} == {(16 // D, N)}
    J = jacobian(layer(WEIGHTS[13]), mesh=mesh, mode="rev")(X0)
    assert J[...].sharding.spec == P(None, "i")  # 13 rows, 16 columns


def test_what_no_axis_divides_is_whole_and_says_so(x64):
    w = WEIGHTS[13][:, :13]
    with pytest.warns(UserWarning, match=rf"that {D} devices divide, got shape \(13, 13\).*or {-(-13 // D) * D} in pl"):
        full = jacobian(layer(w), mesh=auto())(X0[:13])[...]
    assert full.is_fully_replicated
    np.testing.assert_allclose(full, jax.jit(jax.jacrev(layer(w)))(X0[:13]), rtol=1e-9)


@pytest.mark.parametrize("kind", list(MESHES))
def test_sparse_arrays(x64, kind):
    J, want = jacobian(layer(WEIGHTS[16]), mesh=MESHES[kind]())(X0), references(16)[0]
    np.testing.assert_allclose(J.to_scipy().todense(), want, rtol=1e-9)
    np.testing.assert_allclose(J.to_bcoo().todense(), want, rtol=1e-9)
    np.testing.assert_allclose(J.to_bcsr().todense(), want, rtol=1e-9)


def test_rows_are_remembered(x64):
    J = jacobian(layer(WEIGHTS[16]), mesh=explicit(), mode="rev")(X0)
    want = references(16)[0]
    for key in (np.s_[0:8], np.s_[4:12], 3, np.s_[2:6, 1:3], ..., 5):
        np.testing.assert_allclose(J[key], want[key], rtol=1e-9)
    assert J.stats.rows_computed == 16


def test_trees(x64):
    def f(p):
        return {"y": jnp.tanh(SMALL.T @ p["x"]) * p["s"]}

    p = {"x": jnp.asarray(SAMPLES[0]), "s": jnp.asarray(2.0)}
    got, want = jacobian(f, mesh=explicit())(p), jax.jit(jax.jacrev(f))(p)
    for name in p:
        np.testing.assert_allclose(got["y"][name][...], want["y"][name], rtol=1e-9)


def test_in_transformations(x64):
    f = layer(WEIGHTS[16])
    ours, theirs = lambda x: jacobian(f, mesh=auto())(x), lambda x: jax.jacrev(f)(x)
    for key in (np.s_[...], np.s_[1:4], 2, np.s_[:, 1:3]):
        np.testing.assert_allclose(jax.jit(lambda x, k=key: ours(x)[k])(X0), references(16)[0][key], rtol=1e-9)

    def total(of):
        return lambda x: jnp.sum(of(x)[1:4] ** 2)

    many = np.stack([X0, -X0, 2 * X0])
    slope, each = jax.jit(lambda x, many: (jax.grad(total(theirs))(x), jax.vmap(theirs)(many)))(X0, many)
    np.testing.assert_allclose(jax.jit(jax.grad(total(ours)))(X0), slope, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda x: ours(x)[...]))(many), each, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(lambda x: ours(x)[2])(many), each[:, 2], rtol=1e-9)  # and without jit
    with pytest.raises(TypeError, match="without Explicit axes inside of jit"):
        jax.jit(lambda x: jacobian(f, mesh=explicit())(x)[...])(PLACES["sharded"](X0, explicit()))


@pytest.mark.skipif(D % 2 or D < 4, reason="a mesh of two axes takes four devices")
def test_other_axes_of_the_mesh_stay_as_they_are(x64):
    mesh = Mesh(np.array(jax.devices()).reshape(-1, 2), ("rows", "model"))
    w = jax.device_put(WEIGHTS[16], NamedSharding(mesh, P(None, "model")))
    x = jax.device_put(X0, NamedSharding(mesh, P("model")))
    J, want = jacobian(layer(w), mesh=(mesh, "rows"))(x), jax.jacrev(layer(WEIGHTS[16]))
    np.testing.assert_allclose(J[...], references(16)[0], rtol=1e-9)
    total = jax.grad(lambda x: jnp.sum(jacobian(layer(w), mesh=(mesh, "rows"))(x)[1:4] ** 2))
    np.testing.assert_allclose(total(x), jax.jit(jax.grad(lambda x: jnp.sum(want(x)[1:4] ** 2)))(X0), rtol=1e-8)


def test_each_device_has_its_part_of_the_memory():
    def f(x):
        return jnp.sin(jnp.cumsum(x) * x) * jnp.sum(x)

    x, peaks = jnp.ones(512), []
    for mesh in (None, auto()):
        taken = compiled(
            lambda mesh=mesh: jacobian(f, mesh=mesh, mode="rev", sparsity="dense")(x)[...]
        ).memory_analysis()
        peaks.append(taken.temp_size_in_bytes + taken.output_size_in_bytes)
    assert peaks[1] <= 1.1 * peaks[0] / D + 65536


@pytest.mark.parametrize("kind", list(MESHES))
def test_where_a_mesh_is_set(x64, kind):
    mesh = MESHES[kind]()
    want, second = references(16)
    outside = jacobian(layer(WEIGHTS[16]), mesh=mesh)(X0)
    with jax.set_mesh(mesh):
        inside = jacobian(layer(WEIGHTS[16]), mesh=mesh)(X0)
        for key in (np.s_[...], np.s_[1:4], 3):
            np.testing.assert_allclose(jacobian(layer(WEIGHTS[16]), mesh=mesh)(X0)[key], want[key], rtol=1e-9)
        np.testing.assert_allclose(outside[0:8], want[0:8], rtol=1e-9)
        np.testing.assert_allclose(outside @ X0, want @ X0, rtol=1e-9)
        np.testing.assert_allclose(hessian(energy(WEIGHTS[16]), mesh=mesh)(X0).diagonal(), np.diag(second), rtol=1e-9)
    np.testing.assert_allclose(inside[...], want, rtol=1e-9)


def test_what_f_says_of_layouts_is_left_out(x64):
    mesh, f = auto(), layer(WEIGHTS[16])
    told = lambda x: jax.lax.with_sharding_constraint(f(x), NamedSharding(mesh, P("i")))  # noqa: E731
    np.testing.assert_allclose(jacobian(told, mesh=mesh)(X0)[...], references(16)[0], rtol=1e-9)
    mapped = jax.shard_map(jnp.sin, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    with pytest.raises(TypeError, match="an f that one device can run, got one with shard_map inside"):
        jacobian(mapped, mesh=mesh)(X0)


def test_views_over_devices_are_not_pickled():
    with pytest.raises(TypeError, match="expected a view without mesh=.*J.save"):
        pickle.dumps(jacobian(jnp.sin, mesh=auto())(jnp.ones(4)))


def test_explain_tells(x64):
    told = str(jacobian(layer(WEIGHTS[16]), mesh=auto())(X0).explain())
    assert f"spread over {D} devices along axis 'i'" in told


def test_what_is_no_mesh(x64):
    f = layer(WEIGHTS[16])
    with pytest.raises(TypeError, match=r"jacobian\(mesh=...\): expected a jax.sharding.Mesh, .*got int"):
        jacobian(f, mesh=8)
    both = Mesh(np.array(jax.devices()).reshape(-1, 1), ("a", "b"))
    with pytest.raises(ValueError, match=r"got axes 'a', 'b'. Write mesh=\(mesh, 'a'\)"):
        hessian(f, mesh=both)
    with pytest.raises(ValueError, match="an axis of the mesh, 'a' or 'b', got 'c'"):
        jacobian(f, mesh=(both, "c"))
    with pytest.raises(ValueError, match="jit=False"):
        jacobian(f, mesh=auto(), jit=False)(X0)


def test_rules_can_not_be_taken_off_the_mesh(x64):
    w = jax.device_put(WEIGHTS[16], NamedSharding(explicit(), P(None, "i")))
    with pytest.raises(TypeError, match=r"jax.nn.relu.*Pass these arrays as arguments of f"):
        jacobian(lambda x: jax.nn.relu(w @ x), mesh=explicit())(X0)
    got = jacobian(lambda x, w: jax.nn.relu(w @ x), mesh=explicit())(X0, w)[...]
    np.testing.assert_allclose(got, jax.jit(jax.jacrev(lambda x: jax.nn.relu(WEIGHTS[16] @ x)))(X0), rtol=1e-9)


# Where the number of devices matters: a mesh of each kind, and rows and samples that it divides or does not.
ON_EIGHT = """
test_rows_and_columns[explicit-sharded-16-False] test_rows_and_columns[auto-sharded-13-True] test_trees
test_samples[explicit-sharded-16] test_samples[auto-sharded-13] test_other_axes_of_the_mesh_stay_as_they_are
test_results_are_divided_where_the_devices_divide_an_axis test_what_no_axis_divides_is_whole_and_says_so
test_rows_are_remembered test_each_device_has_its_part_of_the_memory test_explain_tells
""".split()


@pytest.mark.slow
@pytest.mark.skipif(D != 2, reason="these are the tests on eight devices")
def test_the_same_on_eight_devices():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JACOBIA", "XLA", "JAX", "PYTEST"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *(f"{__file__}::{name}" for name in ON_EIGHT)],
        env=env | {"JACOBIA_DEVICES": "8"}, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0 and "skipped" not in run.stdout, run.stdout[-3000:]
