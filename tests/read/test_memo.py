"""Keys of blocks of which nothing is known: later reads of the same kind give equal results and compile nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(7)
A = RNG.normal(size=(12, 5)).astype(np.float32)
B, N = 9, 5


def layer(x):
    return jnp.tanh(A @ x)


def cube(x):
    return jnp.sin(jnp.outer(x, x[:3])) * x[0]  # (5, 3)


def tree(p):
    return {"y": jnp.tanh(A @ p["a"]) * jnp.sum(p["b"]), "z": p["b"] * p["a"][0]}


def energy(x):
    return jnp.sum(jnp.sin(A @ x)) * x[0]


def energies(p):
    return energy(p["a"]) * p["b"][0]


def points(shape, count=3):
    return [RNG.normal(size=shape).astype(np.float32) for _ in range(count)]


def rows_of_layer(x):
    return (1 - np.tanh(A @ x) ** 2)[:, None] * A


VECTORS, BATCHES = points((N,)), points((B, N))
TREES = [{"a": x, "b": x[:2] + 1} for x in VECTORS]
CUBE, TREE, ENERGIES = jacobian(cube), jacobian(tree), hessian(energies)
LAYERS = jacobian(jax.vmap(layer), batch_axis=0)
# name → (how a view is made at a point, the array it stands for, points)
VIEWS = {
    "rows": (jacobian(layer), jax.jacrev(layer), VECTORS),
    "more axes": (CUBE, jax.jacrev(cube), VECTORS),
    "transposed": (lambda x: CUBE(x).T, lambda x: jax.jacrev(cube)(x).T, VECTORS),
    "matrix": (lambda x: CUBE(x).matrix, lambda x: jax.jacrev(cube)(x).reshape(15, 5), VECTORS),
    "block": (lambda p: TREE(p)["y"]["a"], lambda p: jax.jacrev(tree)(p)["y"]["a"], TREES),
    "ravel": (
        jacobian(tree, ravel=True),
        lambda p: jnp.concatenate([jnp.concatenate([b["a"], b["b"]], 1) for b in jax.jacrev(tree)(p).values()]),
        TREES,
    ),
    "hessian": (hessian(energy), jax.hessian(energy), VECTORS),
    "hessian block": (
        lambda p: ENERGIES(p)["a"]["b"],
        lambda p: jax.hessian(energies)(p)["a"]["b"],
        TREES,
    ),
    "batch": (LAYERS, jax.vmap(jax.jacrev(layer)), BATCHES),
    "batch transposed": (
        lambda x: LAYERS(x).T,
        lambda x: jax.vmap(jax.jacrev(layer))(x).T,
        BATCHES,
    ),
    "hessians": (hessian(jax.vmap(energy), batch_axis=0), jax.vmap(jax.hessian(energy)), BATCHES),
    "forward": (jacobian(layer, mode="fwd"), jax.jacrev(layer), VECTORS),
    "reverse": (jacobian(layer, mode="rev"), jax.jacrev(layer), VECTORS),
}


def mask(shape, seed):
    return np.random.default_rng(seed).random(shape) < 0.3


KEYS = {
    "one": lambda s: 1,
    "last": lambda s: -1,
    "some": lambda s: slice(0, 2),
    "backwards": lambda s: slice(None, None, -1),
    "list": lambda s: [1, 0, 1],
    "array": lambda s: jnp.array([2, 0]),
    "mask": lambda s: mask(s[:1], 3),
    "column": lambda s: (..., 1),
    "columns": lambda s: (..., slice(1, 3)),
    "of the last axis": lambda s: (..., [1, 0]),
    "entry": lambda s: (0,) * len(s),
    "part": lambda s: (slice(1, 3),) + (slice(0, 2),) * (len(s) - 1),
    "points": lambda s: ([0, 1],) + ([1, 0],) * (len(s) - 1),
    "points across": lambda s: (*np.nonzero(mask(s, 5)),),
    "mask of all axes": lambda s: mask(s, 6),
    "new axis": lambda s: (None, 1),
    "all": lambda s: ...,
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_key_is_read_alike_at_every_point(view):
    make, dense, xs = VIEWS[view]
    dense = jax.jit(dense)
    expected = [np.asarray(dense(x)) for x in xs]
    for name, key in KEYS.items():
        key, stats = key(expected[0].shape), []
        for x, full in zip(xs, expected, strict=True):
            J = make(x)
            got = J[key]
            key_of_numpy = np.asarray(key) if isinstance(key, jax.Array) else key
            np.testing.assert_allclose(got, full[key_of_numpy], rtol=2e-4, atol=2e-5, err_msg=f"{name} of {view}")
            assert isinstance(got, jax.Array) and got.shape == full[key_of_numpy].shape and got.dtype == J.dtype
            # From the third time on, another kernel also makes the result, and runs no padding: leave seeds_run and
            # nbytes out.
            stats.append(J.stats._replace(constant_rows=0, seeds_run=0, nbytes=0))
            calls = J.stats.kernel_calls
            np.testing.assert_allclose(J[key], full[key_of_numpy], rtol=2e-4, atol=2e-5)  # remembered
            assert J.stats.kernel_calls == calls, f"{name} of {view}"
            np.testing.assert_allclose(J[...], full, rtol=2e-4, atol=2e-5, err_msg=f"all after {name} of {view}")
        assert len(set(stats)) == 1, f"{name} of {view}: {stats}"


def test_new_sets_of_the_same_kind_compile_nothing(compiles):
    jac, rng = jacobian(lambda x: jnp.tanh(A @ x) + 1), np.random.default_rng(0)

    def keys():
        lines, row = np.zeros(12, bool), rng.permutation(12)[:3].tolist()
        lines[row] = True
        start = int(rng.integers(0, 9))
        some, k, j = slice(start, start + 3), row[0], row[1] % 5
        yield from (k, row, np.array(row), lines, some, (row, slice(None)), (slice(None), j), (k, j))
        yield from ((some, slice(1, 4)), (None, k), ([k], [j]))

    for x in VECTORS * 2:
        for key in keys():
            jac(x)[key]
    before = compiles.count
    for x in VECTORS:
        full = rows_of_layer(x)
        for key in keys():
            np.testing.assert_allclose(jac(x)[key], full[key], rtol=1e-4, atol=1e-5)
    assert compiles.count == before


def test_few_kernels_serve_random_keys(compiles):
    jac, rng = jacobian(lambda x: jnp.tanh(A @ x) + 2), np.random.default_rng(1)
    jac(VECTORS[0])
    before = compiles.count
    for k in range(200):
        rows, count = rng.permutation(12).tolist(), int(rng.integers(1, 6))
        start = int(rng.integers(0, 7))
        key = [
            rows[0], rows[:count], slice(start, start + count), (slice(None), rows[0] % 5), mask(12, k),
            mask((12, 5), k), (slice(start, start + count), slice(0, count)), (rows[0], rows[1] % 5),
            ([rows[0]], [rows[1] % 5]), ...,
        ][k % 10]  # fmt: skip
        jac(VECTORS[k % 3])[key]
    assert compiles.count - before <= 40


def test_fewer_lines_that_are_padded_to_as_many_are_not_the_answer():
    # Eight rows are asked for, of which three are known: five are computed, by a kernel for eight.
    jac = jacobian(lambda x: jnp.tanh(A @ x) * 5, mode="rev")
    for x in VECTORS:
        J, full = jac(x), rows_of_layer(x) * 5
        J[5:8]
        np.testing.assert_allclose(J[:8], full[:8], rtol=1e-4, atol=1e-5)
        assert J.stats.rows_computed == 8


BEFORE = {
    "nothing": lambda J: None,
    "a row": lambda J: J.matrix[..., 1, :],
    "a column": lambda J: J.matrix[..., 0],
}


SAMPLES = {
    "one of many": (jacobian(jax.vmap(lambda x: layer(x) * 2), batch_axis=0), points((7, N), 5)),
    "the only one": (jacobian(jax.vmap(lambda x: layer(x) * 3), batch_axis=0), points((1, N), 5)),
    "the only one, mapped": (jax.vmap(jacobian(lambda x: layer(x) * 3)), points((1, N), 5)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_repeated(name):
    jac, xs = SAMPLES[name]
    scale = 2 if name == "one of many" else 3
    keys = [[0, 0], np.array([[0, 0]]), ([0, 0], slice(0, 2)), ([-1, -1, -1], slice(None), slice(None, None, -1)), [0]]
    keys += [([0, 0], 1), ([0, 0], [1, 2]), np.arange(xs[0].shape[0]) == 0, (0, 1), ([0, 0], [1, 2], [0, 1])]
    for key in keys:
        for x in xs:
            full = scale * np.stack([rows_of_layer(row) for row in x])
            J = jac(x)
            np.testing.assert_allclose(J[key], full[key], rtol=2e-4, atol=2e-5, err_msg=str(key))
            np.testing.assert_allclose(J[0, :2], full[0, :2], rtol=2e-4, atol=2e-5)


def test_arrays_of_small_integers_and_other_byte_orders():
    wide = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    jac = jacobian(lambda x: jnp.tanh(wide @ x))
    keys = [np.array([-1, -2], np.int8), np.array([200, 3], np.uint8), np.array([1], "<i2"), np.array([256], ">i2")]
    keys += [np.array([-300], np.int16), (slice(None), np.array([-1], np.int8)), [1, 2], (1, 2)]
    for x in points((3,), 4):
        full = (1 - np.tanh(wide @ x) ** 2)[:, None] * wide
        for key in keys:
            np.testing.assert_allclose(jac(x)[key], full[key], rtol=2e-4, atol=2e-5, err_msg=repr(key))


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_explained_is_what_runs(view):
    make, dense, xs = VIEWS[view]
    for number, (name, key) in enumerate(KEYS.items()):
        # Of views, keys and what is read before every pair of two occurs.
        before = list(BEFORE)[(number + list(VIEWS).index(view)) % len(BEFORE)]
        for x in xs:  # the third time another kernel runs
            J = make(x)
            BEFORE[before](J)
            given = key(J.shape)
            told, old = J.explain(given), J.stats
            J[given]
            done = [b - a for a, b in zip(old, J.stats, strict=True)]
            rows, columns, pulled, pushed, _, calls, *_ = done
            case = f"{name} of {view} after {before}: {told.plan}, done {done}"
            if told.way == "none":
                assert calls == 0 == rows + columns, case
            elif told.way == "rows and columns":
                assert rows + columns == pulled + pushed == told.passes, case
                assert calls == (rows > 0) + (columns > 0), case
            elif told.passes:
                assert (rows, columns) == ((told.passes, 0) if told.way == "rows" else (0, told.passes)), case
                by = told.by[0 if told.way == "rows" else 1]
                assert by == "Hessian-vector products" or (pulled, pushed) == (
                    (told.passes, 0) if by == "pullbacks" else (0, told.passes)
                ), case
                assert pulled + pushed == told.passes and calls == 1, case
            else:
                assert told.way in ("nonzeros", "waist") and (pulled, pushed, calls) == (0, 0, 1), case
