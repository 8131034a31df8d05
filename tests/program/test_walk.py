"""Programs that are hard to walk: nothing is missed, and the values are those of JAX's dense derivatives.

Every case once gave a wrong number, an exception, a program that does not end, or a pattern that was much too full.
"""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sparse_cases import Case, dense, named, nonzero, point, points

from jacobia import MaterializationError, hessian, jacobian, sparsity_pattern
from jacobia._plans import walking as _walking
from jacobia._plans.nonzeros import walk_of

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]

RNG = np.random.default_rng(5)
MANY = 20  # steps: more than are walked one by one
WHERE = np.array([0, 2, 2, 1])
INDEX = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5]])
SQUARE = RNG.normal(size=(4, 4)) * 0.1 + np.eye(4)
KERNEL = RNG.normal(size=(2, 66, 1))


# Zeros that the tangents turn out to be, and what is computed beside them


def zeros_in_a_short_scan(x):
    _, ys = lax.scan(lambda c, v: (c + jnp.cos(v), jnp.cos(v) + c), 0.0, x * np.zeros(5))
    return ys * x


def zeros_in_a_long_loop(x):
    return x * lax.fori_loop(0, MANY, lambda i, a: jnp.cos(a), x * np.zeros(3))


def zeros_in_a_while(x):
    return x * lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.cos(s[1])), (0, x * np.zeros(3)))[1]


def zeros_in_a_branch(x):
    return x * lax.cond(x[0] > 0, jnp.cos, lambda z: jnp.exp(z) + 1, x * np.zeros(3))


# Loops


def no_steps(x):
    last, ys = lax.scan(lambda c, v: (c * v, jnp.sin(c) + v), x, jnp.zeros((0, 3)) * x)
    return last, ys, last + ys.sum() ** 2


def map_with_a_key(x):
    """The carry moves, but no tangent is in it."""

    def step(key, v):
        key, own = jax.random.split(key)
        return key, v * jax.random.normal(own, v.shape)

    return lax.scan(step, jax.random.key(0), x)[1]


def keys_in_a_branch(x):
    key = jax.random.key(0)
    y, key = lax.cond(x[0] > 0, lambda y, k: (y * 2, jax.random.split(k)[0]), lambda y, k: (y * 3, k), x, key)
    return y * jax.random.normal(key, (4,))


def maps_of_several(x):
    s = x.sum() * np.arange(1.0, MANY + 1)  # the same columns at every step
    y = jnp.concatenate([x[:1] * x[1:2], x[1:]])  # some steps have more columns than others
    return lax.map(lambda p: p[0] * p[1], (x, y)), lax.map(lambda p: p[0] * p[1] + x[0], (s, x[::-1]))


def becomes_a_tangent_later(x):
    def step(carry, _):
        a, b, d = carry
        return (x * 2, a * 3, jnp.sin(b)), d

    return lax.scan(step, (jnp.ones(4), jnp.ones(4), jnp.ones(4)), None, length=MANY)


def until_every_sample_is_large(x):
    return jax.vmap(lambda v: lax.while_loop(lambda s: jnp.sum(s**2) < 30, lambda s: s * 1.5 + 0.1 * s[::-1], v))(x)


def a_branch_that_would_not_end(x):
    return lax.cond(x[0] > 0, lambda x: lax.while_loop(lambda s: s[0] < 30, lambda s: s * 1.5, x), jnp.sin, x)


def branches_of_branches(x):
    def inner(x):
        return lax.cond(x[1] > 0, lambda x: x**2, lambda x: x[::-1], x)

    def looped(x):
        return lax.scan(lambda c, v: (lax.cond(c[0] > 0, lambda c: c * v, lambda c: c, c), None), x, x)[0]

    return lax.cond(x[0] > 0, inner, looped, x)


# Solvers


def richardson(matvec, b):
    return lax.while_loop(lambda s: jnp.linalg.norm(b - matvec(s)) > 1e-13, lambda s: s + b - matvec(s), b)


def solved_until_good(x):
    """The test of the loop looks at what is linear."""
    return lax.custom_linear_solve(lambda v: SQUARE @ v, x, richardson, transpose_solve=richardson)


def cut_short(matvec, b):
    def step(_, s):
        return lax.cond(jnp.sum(jnp.abs(b - matvec(s))) > 1e-14, lambda s: s + b - matvec(s), lambda s: s, s)

    return jnp.where(jnp.sum(b) > 1e300, 0.0, lax.fori_loop(0, 60, step, b))


def solved_with_a_branch(x):
    return lax.custom_linear_solve(lambda v: SQUARE @ v, x * x[0], cut_short, transpose_solve=cut_short)


# Indices


@jax.custom_jvp
def set_twice(x):
    return jnp.zeros(3).at[np.array([1, 1, 2, 0])].set(x)


@set_twice.defjvp
def _(primals, tangents):
    """JAX's own rule never does this: two tangents go to one place, and one of them stays."""
    return set_twice(primals[0]), jnp.zeros(3).at[np.array([1, 1, 2, 0])].set(tangents[0] * np.arange(1.0, 5))


# Windows whose places are moved by the padding


def moved_windows(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 65), (1, 1), ((1, -1), (32, 32)))


def moved_convolution(x):
    return lax.conv_general_dilated(x, KERNEL, (1,), ((1, -1),))


def wide_types_of_convolution(x):
    narrow, kernel = x.astype(jnp.bfloat16), np.full((1, 1, 3), 1.01, jnp.bfloat16)
    y = lax.conv_general_dilated(narrow, kernel, (1,), "SAME", preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


# Names of axes


def of_named_axes(x):
    def sample(v):
        return v - lax.pmean(v, "i"), lax.psum(v * v[::-1], "i"), lax.all_gather(v, "i")[lax.axis_index("i")]

    return jax.vmap(sample, axis_name="i")(x)


def on_a_mesh(x):
    """What comes out of it is a residual as well."""
    return meshed(x[:2]) * x[2:]


def meshed(x):
    mesh = jax.make_mesh((1,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = jax.sharding.PartitionSpec("a")
    return jax.shard_map(jnp.cos, mesh=mesh, in_specs=parts, out_specs=parts)(x)


# Nothing at all


def of_nothing(x):
    none, some = x["none"], x["some"]
    return [
        jnp.concatenate([(some @ np.ones((3, 0))).reshape(-1), some[0]]), none @ some.T, jnp.outer(none[:, 0], some[0]),
        none.sum(0), none.sum(1), jnp.concatenate([none.sum(1), some[0]]), jnp.cumsum(none, 0), jnp.cumsum(none, 1),
        some[np.zeros(0, int)], some.at[np.zeros(0, int)].set(none), lax.map(jnp.sin, none),
        jnp.sin(some[:, :0]).sum(1), lax.map(jnp.sin, jnp.tile(some[:1, :0], (MANY, 1))),
    ]  # fmt: skip


CASES = named(
    {
        "zeros in a short scan": Case(zeros_in_a_short_scan, (5,)),
        "zeros in a long loop": Case(zeros_in_a_long_loop, (3,)),
        "zeros in a while": Case(zeros_in_a_while, (3,)),
        "zeros in a branch": Case(zeros_in_a_branch, (3,)),
        "a scan of no steps": Case(no_steps, (3,)),
        "a long map": Case(lambda x: lax.map(lambda v: jnp.sin(v) * v.sum(), x), (MANY, 2)),
        "a long map with a constant": Case(lambda x: lax.map(lambda v: v * x[MANY], x[:MANY]), (MANY + 1,)),
        "a long map in a long map": Case(lambda x: lax.map(lambda r: lax.map(jnp.sin, r), x), (17, 17), count=2),
        "a long map in vmap": Case(jax.vmap(lambda r: lax.map(lambda v: v * jnp.sin(v), r)), (2, MANY)),
        "a long map with a key": Case(map_with_a_key, (MANY, 2)),
        "long maps of several": Case(maps_of_several, (MANY,), count=4),
        "a long scan that counts": Case(lambda x: lax.scan(lambda c, v: (c + 1, jnp.sin(v) * c), 1.0, x), (MANY,)),
        "keys in a branch": Case(keys_in_a_branch, (4,)),
        "becomes a tangent later": Case(becomes_a_tangent_later, (4,), exact="which step gives it is not worked out"),
        "until every sample is large": Case(until_every_sample_is_large, (3, 2)),
        "a branch that would not end": Case(a_branch_that_would_not_end, (3,), count=24),
        "branches of branches": Case(branches_of_branches, (3,), count=24, exact="loops take any branch"),
        "solved until good": Case(solved_until_good, (4,)),
        "solved with a branch": Case(solved_with_a_branch, (4,)),
        "set twice by a rule": Case(set_twice, (4,), exact="which of two writes stays is not followed"),
        "subtract at": Case(lambda x: x.at[np.array([0, 2, 2])].subtract(x[:3] ** 2), (5,)),
        "choice by a literal": Case(lambda x: (lax.select(True, x, x[::-1]), jnp.where(False, x, x**2)), (4,)),
        "moved windows": Case(moved_windows, (3, 66), exact="wide windows are dense", count=2),
        "moved convolution": Case(moved_convolution, (1, 66, 4), exact="wide kernels are dense", count=2),
        "wide types of a convolution": Case(wide_types_of_convolution, (1, 1, 6), tolerance=1e-6),
        "sums over named axes": Case(of_named_axes, (3, 2)),
        "of nothing": Case(of_nothing, {"none": (0, 3), "some": (2, 3)}, count=2),
        "gather by repeats": Case(lambda x: jnp.sin(x)[WHERE] * x[WHERE[::-1]], (3,)),
    },
    "jacobian",
) | named(
    {
        "a long map of points": Case(
            lambda x: jnp.sum(lax.map(lambda v: v[0] ** 3 * v[1] + jnp.sin(v[1]), x)), (MANY, 2), count=3
        ),
        "a root in a branch": Case(
            lambda x: lax.cond(x[0] > 0, lambda x: jnp.sum(jnp.sqrt(jnp.abs(x) + x[0])), lambda x: jnp.sum(x**3), x),
            (3,),
            count=24,
        ),
    },
    "hessian",
)


def under(*names):
    return pytest.mark.parametrize("case", [CASES[name] for name in names or CASES], ids=str)


@cache
def known(case):
    return dense(case, points(case))


def matrix(case, x):
    J = (hessian if case.kind == "hessian" else jacobian)(case.f, ravel=True)(x)
    data, rows, cols = (np.asarray(a) for a in J.nonzeros())
    keys = rows.astype(np.int64) * max(1, J.shape[1]) + cols
    assert (keys[1:] > keys[:-1]).all()
    out = np.zeros(J.shape)
    out[rows, cols] = data
    return out


@under()
def test_values_are_those_of_the_dense_derivative(case):
    matrices = known(case)
    for k in (0, 1, case.count - 1):
        scale = np.max(np.abs(matrices[k]), initial=1.0)
        np.testing.assert_allclose(matrix(case, point(case, k)), matrices[k], rtol=0, atol=case.tolerance * scale)


@under()
def test_patterns_have_every_entry(case):
    true = nonzero(known(case))
    pattern = sparsity_pattern(case.f, point(case), hessian=case.kind == "hessian").todense()
    assert not (true & ~pattern).any(), np.argwhere(true & ~pattern)[:8]
    if case.exact is True:
        np.testing.assert_array_equal(pattern, true)


@under()
def test_patterns_at_a_point_have_every_entry(case):
    for k in (0, case.count - 1):
        true = nonzero(known(case)[k : k + 1])
        local = sparsity_pattern(case.f, point(case, k), hessian=case.kind == "hessian", local=True).todense()
        assert not (true & ~local).any(), np.argwhere(true & ~local)[:8]


@under("a branch that would not end", "a long map with a constant", "subtract at")
def test_nonzeros_under_jit_and_gradients_of_them(case):
    x = point(case)
    jac = jacobian(case.f, ravel=True)
    rows, cols = (np.asarray(a) for a in jac(x).nonzeros()[1:])
    np.testing.assert_allclose(jax.jit(lambda x: jac(x).nonzeros()[0])(x), jac(x).nonzeros()[0], rtol=1e-12)
    if case.name == "a branch that would not end":
        return  # JAX itself does not go back through a while
    read = [lambda x: jax.jacfwd(case.f)(x)[rows, cols], lambda x: jac(x).nonzeros()[0]]
    gradients = jax.jit(lambda x: [jax.grad(lambda x, of=of: jnp.sum(jnp.sin(of(x))))(x) for of in read])
    expected, actual = gradients(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_gradients_do_not_meet_the_branch_that_was_not_taken():
    x = np.array([-1.0, 2.0])
    jac = jacobian(lambda x: lax.cond(x[0] > 0, lambda x: jnp.sqrt(x[0]) * x, lambda x: x * x[0], x), ravel=True)
    second = jax.jit(jax.jacfwd(lambda x: jac(x).nonzeros()[0]))(x)
    np.testing.assert_allclose(second, [[2, 0], [0, 1], [1, 0]], atol=1e-12)


def filled(f, x, m, message):
    with pytest.warns(UserWarning, match=message):
        data, rows, cols = jacobian(f, ravel=True)(x).nonzeros()
    out = np.zeros((m, x.size))
    out[rows, cols] = data
    return out


def test_what_a_mesh_gives_is_no_tangent_alone():
    x = np.array([0.3, -0.2, 2.0, 3.0])
    actual = filled(on_a_mesh, x, 2, "shard_map")
    a, b = x[:2], x[2:]
    expected = np.concatenate([np.diag(-np.sin(a) * b), np.diag(np.cos(a))], axis=1)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_what_a_mesh_makes_of_zeros_is_kept():
    x = np.array([0.3, -0.2, 2.0, 3.0])
    actual = filled(lambda x: meshed(x[:2] * np.zeros(2)) * x[2:], x, 2, "shard_map")
    np.testing.assert_allclose(actual, np.eye(2, 4, 2), atol=1e-12)


def test_what_is_linear_in_no_step_is_linear_still():
    """Of two tangents that are multiplied and divided only the whole is linear."""

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), jnp.cos(x) * t * ((1 + t**2) / (1 + t**2))

    actual = filled(lambda x: f(x)[::-1] * 2, np.arange(3.0), 3, "not linear")
    np.testing.assert_allclose(actual, 2 * np.diag(np.cos(np.arange(3.0)))[::-1], atol=1e-12)


def test_known_indices_are_known_under_jit():
    """Also where nothing has been read outside of it before."""
    jac = jacobian(lambda x: jnp.zeros(6).at[INDEX].add(jnp.tanh(x[INDEX])), ravel=True)
    x = np.arange(6.0)
    assert jax.jit(lambda x: jac(x).nonzeros()[0])(x).shape == jac(x).nonzeros()[0].shape == (6,)


# Walks are kept by program, and what they rely on may be another the next time


def test_walks_of_other_indices_and_other_zeros(empty_cache):
    x, rng = jnp.arange(1.0, 7.0), np.random.default_rng(3)
    for _ in range(7):
        index, where = jnp.asarray(rng.integers(0, 6, 6)), jnp.asarray(rng.random(6) < 0.5)
        matrix = jnp.asarray(rng.normal(size=(6, 6)) * (rng.random((6, 6)) < 0.3))

        def f(x, index=index, where=where, matrix=matrix):
            return jnp.stack([x[index] * x * where, matrix @ x, jnp.where(where, x, x[::-1])])

        J = jacobian(f, ravel=True)(x)
        data, rows, cols = J.nonzeros()
        actual = np.zeros(J.shape)
        actual[rows, cols] = data
        np.testing.assert_allclose(actual, jax.jit(jax.jacfwd(f))(x).reshape(18, 6), atol=1e-12)


def test_indices_that_are_traced():
    def scattered(x, index, mask):
        J = jacobian(lambda x: x[index] * x * mask, ravel=True)(x)
        data, rows, cols = J.nonzeros()
        return jnp.zeros(J.shape).at[rows, cols].add(data)

    def reference(x, index, mask):
        return jax.jacfwd(lambda x: x[index] * x * mask)(x)

    rng = np.random.default_rng(6)
    given = rng.normal(size=(3, 5)), rng.integers(0, 5, (3, 5)), (rng.random((3, 5)) < 0.5) * 1.0
    expected = np.asarray(jax.jit(jax.vmap(reference))(*given))
    np.testing.assert_allclose(jax.jit(jax.vmap(scattered))(*given), expected, atol=1e-12)
    jitted = jax.jit(scattered)
    for k in range(3):
        np.testing.assert_allclose(jitted(*(a[k] for a in given)), expected[k], atol=1e-12)
    looped = lax.scan(lambda c, v: (c, scattered(*v)), 0, given)[1]
    np.testing.assert_allclose(looped, expected, atol=1e-12)


# Entries put in order: rows of unequal width, rows whose order turns over, and any number of slots


def on_a_grid(shape, periodic=False, ravel=True, diagonals=False):
    """A nonlinear function of each point and its neighbours, zero or going on across the boundary."""
    steps = [s for s in itertools.product((-1, 0, 1), repeat=len(shape)) if diagonals or sum(map(abs, s)) <= 1]

    def f(x):
        u = x.reshape(shape)
        padded = jnp.pad(u, 1, mode="wrap" if periodic else "constant")
        near = [padded[tuple(slice(1 + s, 1 + s + k) for s, k in zip(step, shape, strict=True))] for step in steps]
        out = sum((k + 1.5) * v for k, v in enumerate(near)) * jnp.cos(u)
        return out.ravel() if ravel else out

    return f


def a_band(before, after):
    def f(x):
        padded = jnp.pad(x, (before, after))
        return sum((k + 1.5) * padded[k : k + x.size] for k in range(before + after + 1)) * jnp.cos(x)

    return f


# Columns before and behind the diagonal: few and many slots.
BANDS = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 1), (3, 4), (4, 4), (6, 5)]

LAID_OUT = {
    "square": (on_a_grid((4, 4)), 16),
    "wide": (on_a_grid((3, 7)), 21),
    "high": (on_a_grid((7, 3)), 21),
    "one line": (on_a_grid((1, 6)), 6),
    "one column": (on_a_grid((6, 1)), 6),
    "not flat": (on_a_grid((4, 5), ravel=False), 20),
    "periodic": (on_a_grid((4, 5), periodic=True), 20),
    "diagonals": (on_a_grid((4, 5), diagonals=True), 20),
    "periodic diagonals": (on_a_grid((4, 5), periodic=True, diagonals=True), 20),
    "space": (on_a_grid((3, 4, 5)), 60),
    "periodic space": (on_a_grid((3, 4, 5), periodic=True), 60),
    "two species": (lambda x: jnp.stack([on_a_grid((4, 3))(x[:12]) * x[12:], jnp.sin(x[12:]) + x[:12] ** 2]), 24),
    "every other row": (lambda x: jnp.where(np.arange(40) % 2 == 0, a_band(1, 1)(x), 0), 40),
    **{f"band {a} {b}": (a_band(a, b), 24) for a, b in BANDS},
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_entries_are_in_order_and_those_of_the_dense_derivative(name):
    f, n = LAID_OUT[name]
    x = RNG.normal(size=n)
    expected = np.asarray(jax.jit(jax.jacfwd(f))(x)).reshape(-1, n)
    J = jacobian(f, ravel=True)(x)
    data, rows, cols = (np.asarray(a) for a in J.nonzeros())
    want_rows, want_cols = np.nonzero(expected)
    np.testing.assert_array_equal(rows, want_rows)
    np.testing.assert_array_equal(cols, want_cols)
    np.testing.assert_allclose(data, expected[rows, cols], rtol=1e-12)


def test_gradients_of_entries_of_rows_of_unequal_width():
    f, n = LAID_OUT["wide"]
    x = RNG.normal(size=n)
    jac = jacobian(f, ravel=True)
    _, rows, cols = (np.asarray(a) for a in jac(x).nonzeros())
    read = [lambda x: jac(x).nonzeros()[0], lambda x: jax.jacfwd(f)(x)[rows, cols]]
    gradients = jax.jit(lambda x: [jax.grad(lambda x, of=of: jnp.sum(jnp.sin(of(x))))(x) for of in read])
    np.testing.assert_allclose(*gradients(x), rtol=1e-9)


# Intermediates that are too wide forward, or both ways

LENGTH = 60
FEW_NONZERO = np.where(np.arange(LENGTH) < 5, 2.0, 0.0)


def somewhere(x, size):
    return (jnp.abs(x) * 1000).astype(int) % size


@jax.custom_vjp
def only_pulled(x):
    return jnp.var(x)


only_pulled.defvjp(lambda x: (jnp.var(x), x), lambda x, ct: (ct * 2 * (x - x.mean()) / x.size,))

WIDE = {
    "variance": jnp.var,
    "centred rows": lambda x: (x - x.mean())[:3],
    "softmax": lambda x: jax.nn.softmax(x)[::30],
    "sum times known zeros": lambda x: jnp.sin(x).sum() * x[::-1] * FEW_NONZERO,
    "values alone": lambda x: (jnp.sin(x).sum() * np.ones((LENGTH, 2))).sum(0),
    "written to an unknown place": lambda x: jnp.zeros(2).at[somewhere(x, 2)].add(x),
    "last of a running sum": lambda x: jnp.cumsum(x**2)[-1:],
    "loop": lambda x: lax.scan(lambda c, v: (c * 0.9 + jnp.sin(v), None), 0.0, x)[0],
    "pair": lambda x: (jnp.std(x), (x - x.mean())[5:7]),
    "only pulled": only_pulled,
}


def widely(f, x, **options):
    J = jacobian(f, ravel=True, **options)(x)
    data, rows, cols = J.nonzeros()
    if isinstance(data, jax.core.Tracer):
        return jnp.zeros(J.shape).at[rows, cols].add(data)
    out = np.zeros(J.shape)
    np.add.at(out, (np.asarray(rows), np.asarray(cols)), np.asarray(data))
    return out


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(_walking, "_WIDE", 24_000)
    monkeypatch.setattr(_walking, "_LONG", 0)
    return {"memory_limit": 2**40}  # another limit, another walk than that of a test which is content with more


@pytest.mark.parametrize("name", WIDE)
def test_what_is_too_wide_forward_is_walked_backward(name, narrow):
    f = WIDE[name]
    X = np.random.default_rng(7).normal(size=(3, LENGTH))

    @jax.jit
    @jax.vmap
    def reference(x):
        return jnp.concatenate([jnp.atleast_2d(o) for o in jax.tree.leaves(jax.jacrev(f)(x))])

    expected, J = np.asarray(reference(X)), jacobian(f, ravel=True, **narrow)(X[0])
    assert walk_of(J._origin).transposed
    np.testing.assert_allclose(widely(f, X[0], **narrow), expected[0], atol=1e-12)
    own = lambda x: widely(f, x, **narrow)  # noqa: E731
    one, all_ = jax.jit(lambda X: (own(X[1]), jax.vmap(own)(X)))(X)
    np.testing.assert_allclose(one, expected[1], atol=1e-12)
    np.testing.assert_allclose(all_, expected, atol=1e-12)
    batched, rows, cols = jacobian(jax.vmap(f), ravel=True, batch_axis=0, **narrow)(X).nonzeros()
    np.testing.assert_allclose(batched, expected[:, rows, cols], atol=1e-12)


@pytest.mark.parametrize("name", [k for k in WIDE if k != "only pulled"])
def test_the_pattern_is_the_same_backward(name, request):
    x = np.arange(1.0, LENGTH + 1)
    forward = jacobian(WIDE[name], ravel=True)(x)
    assert not walk_of(forward._origin).transposed and forward.pattern == sparsity_pattern(WIDE[name], x)
    backward = jacobian(WIDE[name], ravel=True, **request.getfixturevalue("narrow"))(x)
    assert walk_of(backward._origin).transposed and backward.pattern == forward.pattern


def test_what_is_wide_both_ways_is_walked_if_there_is_memory(narrow):
    x = np.arange(1.0, LENGTH + 1)
    centred = lambda x: x - x.mean()  # noqa: E731
    assert not walk_of(jacobian(centred, **narrow)(x)._origin).transposed
    np.testing.assert_allclose(widely(centred, x, **narrow), np.eye(LENGTH) - 1 / LENGTH, atol=1e-12)


def counted_by_the_point(x):
    return x - lax.fori_loop(0, somewhere(x[0], 3), lambda i, a: a + x.mean(), 0.0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x - x.mean(),
        lambda x: x[somewhere(x, LENGTH)],
        jnp.cumsum,
        lambda x: x * only_pulled(x),
        counted_by_the_point,
    ],
    ids=["centred", "read at an unknown place", "running sum", "only pulled", "only pushed"],
)
def test_what_does_not_fit_says_so(f, empty_cache):
    x = np.arange(1.0, LENGTH + 1)
    expected = widely(f, x)  # a walk with more memory must not be reused below
    J = jacobian(f, ravel=True, memory_limit=60_000)(x)
    for read in (J.nonzeros, J.to_bcoo, lambda: J.pattern):
        with pytest.raises(MaterializationError, match=r"\(60, 60\).*60.0 KB, got 60 elements x 6[01] .*J\.mv.*J\["):
            read()
    np.testing.assert_allclose(J[7], expected[7], atol=1e-12)
    np.testing.assert_allclose(J.mv(x), expected @ x, atol=1e-9)


def test_a_pattern_needs_no_values(empty_cache):
    J = jacobian(lambda x: (x.sum() * np.ones(1000)).sum() * jnp.ones(80), memory_limit=200_000)(jnp.ones(80))
    assert J.pattern.nnz == 6400
    with pytest.raises(MaterializationError, match="1000 elements x 80 entries each, 640.0 KB"):
        J.nonzeros()


def test_memory_that_runs_out_says_so(monkeypatch):
    def walked(*args):
        raise MemoryError("Unable to allocate 37 GiB")

    monkeypatch.setattr("jacobia._program.columns.accumulate.Walked.__init__", walked)
    with pytest.raises(MaterializationError, match="more than fits in memory"):
        jacobian(lambda x: jnp.sin(x) * 1.2345)(jnp.ones(3)).nonzeros()  # a program that no other test has walked


def test_a_variance_of_many_numbers():
    n = 10**5
    x = jnp.asarray(np.random.default_rng(8).normal(size=n))
    data, rows, cols = jacobian(jnp.var)(x).nonzeros()
    assert not rows.any() and np.array_equal(cols, np.arange(n))
    np.testing.assert_allclose(data, 2 * (x - x.mean()) / n, atol=1e-18, rtol=1e-9)
