"""Random programs for every shortcut: the shortcut is taken, and the results are those of JAX.

`--programs 500` runs more programs. Whether a shortcut is taken is read off the reading of the program, or the view.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shortcut_cases import Draw, N, columns_met, narrow, partly_constant, rows_met, samples_apart

from jacobia import hessian, jacobian, materialize
from jacobia._read.memo import again
from jacobia._store.keys import token

pytestmark = pytest.mark.slow

B = 8  # samples


def pytest_generate_tests(metafunc):
    metafunc.parametrize("number", range(metafunc.config.getoption("programs")))


@pytest.fixture
def draw(number):
    return Draw(10**6 + number)


def assert_close(got, right):
    right = np.asarray(right)
    scale = max(1, np.abs(right).max(initial=0))
    np.testing.assert_allclose(got, right, rtol=3e-4, atol=1e-4 * scale)


def split_in_two(f, x, at):
    """The same function of two arguments, with two results."""

    def g(a, b):
        y = f(jnp.concatenate([a, b]))
        return y[:at], y[at:]

    return g, (x[:2], x[2:])


# Seeds that are followed by their number


@pytest.mark.parametrize("mode", ["rev", "fwd"])
def test_seeds_meet_matrices(mode, number, draw):
    f, x = rows_met(number) if mode == "rev" else columns_met(number), draw.point()
    expected = jax.jit(jax.jacfwd(f) if mode == "rev" else jax.jacrev(f))(x)
    J = jacobian(f, mode=mode)(x)
    assert J._origin.blue._left_out("rows" if mode == "rev" else "columns", (0,), (0,))
    assert_close(J[...], expected)
    count = len(expected) if mode == "rev" else N
    some = tuple(np.sort(draw.random.choice(count, 3, replace=False)))
    key = (np.array(some),) if mode == "rev" else (slice(None), np.array(some))
    read = draw.one_of(["some", "jit", "chunks", "blocks"])
    if read == "some":
        assert_close(jacobian(f, mode=mode)(x)[key], expected[key])
    elif read == "jit":
        assert_close(jax.jit(lambda x: jacobian(f, mode=mode)(x)[key])(x), expected[key])
    elif read == "chunks":
        assert_close(jacobian(f, mode=mode, chunk_size=2, ravel=True)(x)[...], expected)
    else:
        at = draw.count(1, len(expected) - 1)
        g, (a, b) = split_in_two(f, x, at)
        blocks = jacobian(g, (0, 1), mode=mode)(a, b)
        assert_close(np.block([[np.asarray(blocks[i][j]) for j in (0, 1)] for i in (0, 1)]), expected)


# Narrow parts


def test_narrow_parts_are_cut(number, draw):
    f, x = narrow(number), draw.point()
    expected = jax.jit(jax.jacfwd(f))(x)
    J = jacobian(f, mode="waist")(x)
    assert J.plan.way == "waist"
    assert_close(J[...], expected)
    if draw.chance():
        assert_close(jax.jit(lambda x: jacobian(f, mode="waist")(x)[...])(x), expected)
    else:
        g, args = split_in_two(f, x, draw.count(1, len(expected) - 1))
        J = jacobian(g, (0, 1), mode="waist", ravel=True)(*args)
        assert J.plan.way == "waist"
        assert_close(J[...], expected)


# Rows that do not depend on x, and what is made of closed-over arrays alone


def test_what_does_not_depend_on_x_is_computed_once(number, draw):
    of, arrays = partly_constant(number)
    f, points = of(*arrays), np.stack([draw.point() for _ in range(3)])
    expected = jax.jit(jax.vmap(jax.jacfwd(f)))(points)
    still = (expected == expected[0]).all((0, 2)).sum()
    jac = jacobian(f, mode="accumulate")
    for k, x in enumerate(points):
        J = jac(x)
        assert J.plan.way == "nonzeros"
        assert_close(J[...], expected[k])
        way = J._origin.blue.found.get("whole", 0)
        assert way._remembered
        assert not k or 3 <= J.stats.constant_rows <= still
    other = of(2 * arrays[0], arrays[1])  # the same program of other arrays
    assert_close(jacobian(other, mode="accumulate")(points[0])[...], jax.jit(jax.jacfwd(other))(points[0]))
    assert_close(jac(points[0])[...], expected[0])


# Few samples


def test_few_samples_are_evaluated_by_themselves(number, draw):
    f, one, shape = samples_apart(number, B)
    x, axis = draw.point((B, N)), draw.count(0, 1)
    s, t = (int(k) for k in draw.random.choice(B, 2, replace=False))
    jac = jax.jit(lambda x, k: jax.jacfwd(one)(x, k))
    right = {k: jac(x[k], k) for k in (s, t)}
    g, at = (f, x) if axis == 0 else (lambda x: f(x.T), x.T)
    if axis:  # samples lie along the second axis of the input and of the output
        g = lambda x: jnp.moveaxis(f(x.T).reshape(B, -1), 0, 1)  # noqa: E731
        right = {k: a.reshape(-1, N) for k, a in right.items()}
    J = jacobian(g, batch_axis=axis)(at)
    key = draw.one_of([s, (s, ..., 1), (s, ..., slice(2, 5))])
    inside = key[1:] if isinstance(key, tuple) else ...
    assert any("evaluated by themselves" in note for note in J.explain(key).notes)
    assert_close(J[key], right[s][inside])
    assert_close(J[[t, s]], np.stack([right[t], right[s]]))
    if draw.chance():
        assert_close(jax.jit(lambda x: jacobian(g, batch_axis=axis)(x)[key])(at), right[s][inside])
    else:
        views = jax.vmap(jacobian(one))(x, np.arange(B))
        assert any("evaluated by themselves" in note for note in views.explain(t).notes)
        assert_close(views[t], right[t].reshape(*shape, N))


# Recipes: what was read of the view before


def test_a_view_is_read_as_the_one_before(number, draw):
    f = draw.one_of([rows_met, columns_met, narrow])(number)
    first, second = draw.point(), draw.point()
    expected = jax.jit(jax.jacrev(f))(second)
    jac = jacobian(f, mode=draw.one_of(["auto", "rev"]))
    k, more = (int(k) for k in draw.random.choice(len(expected), 2, replace=False))
    low = draw.count(0, len(expected) - 3)
    keys = [..., slice(low, low + draw.count(2, 3)), k, [more, k, more], (slice(None), 1), (k, 1), ([k, more], [0, 1])]

    def taken(J, key):
        reads, name = J._layout.reads, token(key)
        out = again(J._origin, J._index, name, reads, J._asked(key))
        assert out is not None, key
        return out

    for key in keys:
        right = np.asarray(expected)[key]
        for _ in range(2):
            jac(first)[key]
            assert_close(taken(jac(second), key), right)
        J = jac(second)
        prepared = J._layout.reads.again(J._origin, J._index, token(key))
        assert prepared is not None, key
        assert_close(prepared, right)
        J = jac(second)
        J[more]
        if J.stats.rows_computed == 1 and key is k:  # a further row
            assert_close(taken(J, k), right)
            assert_close(J[[more, k]], expected[np.array([more, k])])


def test_blocks_are_read_as_those_before(number, draw):
    f, first, second = rows_met(number), draw.point(), draw.point()
    expected = jax.jit(jax.jacfwd(f))(second)
    g, _ = split_in_two(f, first, draw.count(1, len(expected) - 1))
    jac = jacobian(g, (0, 1), mode=draw.one_of(["rev", "fwd"]))
    materialize(jac(first[:2], first[2:]))
    blocks = jac(second[:2], second[2:])
    assert blocks[0][0]._origin.blue.found.get("recipe", (frozenset(range(4)), ()))
    assert_close(np.block(jax.tree.map(np.asarray, [list(row) for row in materialize(blocks)])), expected)
    if draw.chance():
        scalar = lambda a, b: jnp.sum(jnp.sin(f(jnp.concatenate([a, b]))))  # noqa: E731
        hess = hessian(scalar, (0, 1))
        materialize(hess(first[:2], first[2:]))
        blocks = hess(second[:2], second[2:])
        assert blocks[0][0]._origin.blue.found.get("recipe", (frozenset(range(4)), ()))
        right = jax.jit(jax.hessian(lambda x: scalar(x[:2], x[2:])))(second)
        assert_close(np.block(jax.tree.map(np.asarray, [list(row) for row in materialize(blocks)])), right)
