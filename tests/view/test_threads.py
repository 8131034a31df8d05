"""Eight threads at once: reading one view, and making views of a function that has not been called before."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

import jacobia
from jacobia import jacobian

THREADS = 8
RNG = np.random.default_rng(11)
W = RNG.normal(size=(24, 6)).astype(np.float32)
X = RNG.normal(size=6).astype(np.float32)
KEYS = [
    ...,
    0,
    -1,
    slice(3, 9),
    slice(None, None, -5),
    (slice(None), 2),
    (4, 1),
    [20, 3, 3],
    (slice(0, 4), slice(1, 3)),
]


def closed_form(x):
    return (1 - np.tanh(W @ x.astype(np.float64)) ** 2)[:, None] * W


def in_threads(work):
    """`work(k)` in eight threads that start together; their results in order, or the first exception."""
    start = threading.Barrier(THREADS)

    def run(k):
        start.wait(timeout=30)
        return work(k)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def make_layer():
    return lambda x: jnp.tanh(W @ x)


@pytest.fixture(autouse=True)
def _empty(empty_cache):
    yield


@pytest.mark.parametrize("round_", range(3))
def test_threads_read_one_view(round_):
    J = jacobian(make_layer())(X)
    dense = closed_form(X)

    def read(k):
        order = np.random.default_rng(100 * round_ + k).permutation(len(KEYS))
        return [(i, np.asarray(J[KEYS[i]])) for i in order]

    for results in in_threads(read):
        for i, values in results:
            assert_close(values, dense[KEYS[i]])
    assert_close(J[...], dense)


def test_threads_read_the_same_row():
    J = jacobian(make_layer())(X)
    rows = in_threads(lambda k: np.asarray(J[5]))
    assert_close(rows, [closed_form(X)[5].astype(np.float32)] * THREADS)
    before = J.stats.kernel_calls
    assert_close(J[5], closed_form(X)[5])
    assert J.stats.kernel_calls == before


@pytest.mark.parametrize("round_", range(3))
def test_threads_make_views_of_one_new_function(round_):
    f = make_layer()
    points = [(k + 1) * X / THREADS for k in range(THREADS)]

    def make_and_read(k):
        J = jacobian(f)(points[k])
        return np.asarray(J[k]), np.asarray(J[:, k % 6]), np.asarray(J)

    for k, (row, column, everything) in enumerate(in_threads(make_and_read)):
        dense = closed_form(points[k])
        assert_close((row, column, everything), (dense[k], dense[:, k % 6], dense))


def test_threads_make_functions_with_one_program():
    def make_and_read(k):
        factor = np.float32(k + 1)
        return [np.asarray(jacobian(lambda x: jnp.sin(x) * factor)(X)[i]) for i in range(6)]

    for k, rows in enumerate(in_threads(make_and_read)):
        assert_close(np.stack(rows), (k + 1) * np.diag(np.cos(X.astype(np.float64))))


def test_threads_clear_while_others_read():
    J = jacobian(make_layer())(X)
    dense = closed_form(X)

    def work(k):
        for i in range(20):
            if k == 0:
                J.clear()
                jacobia.cache_clear()
            else:
                assert_close(J[(i + k) % 24], dense[(i + k) % 24])
        return True

    assert all(in_threads(work))


def test_a_thousand_reads_compute_no_row_twice():
    w = RNG.normal(size=(200, 6)).astype(np.float32)
    J, dense = jacobian(lambda x: jnp.tanh(w @ x))(X), (1 - np.tanh(w @ X) ** 2)[:, None] * w
    rows = np.random.default_rng(5).integers(0, 200, size=(16, 63))
    start = threading.Barrier(16)

    def read(mine):
        start.wait(timeout=30)
        return np.stack([np.asarray(J[int(k)]) for k in mine])

    with ThreadPoolExecutor(16) as pool:
        for mine, values in zip(rows, pool.map(read, rows), strict=True):
            assert_close(values, dense[mine])
    assert J.stats.rows_computed == len(np.unique(rows))
