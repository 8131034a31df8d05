"""The program of one sample, compared with the program of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_cases import FORWARD_ONLY, INDEPENDENT, MIXING, QUICK, B, C, Case, N, W, points
from jax import lax

from jacobia._compat import opened
from jacobia._program.axis.cut import cut

pytestmark = pytest.mark.slow


def one_of(array, sample, axis):
    return lax.dynamic_slice_in_dim(array, sample, 1, axis % array.ndim)


def made(f, *args, axes):
    """The program of one sample of `f(*args)`, with the constants that it needs, whole."""
    jaxpr, consts = opened(jax.make_jaxpr(lambda *args: jax.tree.leaves(f(*args)))(*args))
    size = next(a.shape[k] for a, k in zip(args, axes, strict=True) if k is not None)
    ndims = [v.aval.ndim for v in jaxpr.outvars]
    axis = next(k for k in axes if k is not None)
    inner = [None] * len(consts) + list(axes)
    run = cut(jaxpr, inner, [axis] * len(ndims), size)
    return run, consts, inner, [axis % n for n in ndims]


def assert_same(f, *args, axes, tolerance=1e-4):
    """What `f` gives for the batch is what its cut gives for each sample."""
    run, consts, inner, outer = made(f, *args, axes=axes)
    assert run is not None
    size = next(a.shape[k] for a, k in zip(args, axes, strict=True) if k is not None)

    def both(*args):
        def one(sample):
            whole = [*consts, *args]
            return run(sample, [a if k is None else one_of(a, sample, k) for a, k in zip(whole, inner, strict=True)])

        return jax.tree.leaves(f(*args)), jax.vmap(one)(jnp.arange(size))

    for whole, parts, axis in zip(*jax.jit(both, compiler_options=QUICK)(*args), outer, strict=True):
        assert parts.dtype == whole.dtype and parts.shape[1 + axis] == 1
        parts = np.moveaxis(np.squeeze(np.asarray(parts), axis + 1), 0, axis)
        np.testing.assert_allclose(parts, whole, rtol=tolerance, atol=tolerance)


def derivatives(f):
    """What a kernel of columns runs: the value and a pushforward."""
    return lambda x, t: jax.jvp(f, (x,), (t,))


def pullbacks(f):
    def run(x, u):
        y, pull = jax.vjp(f, x)
        return y, pull(u)[0]

    return run


# The derivatives of these keep samples apart, but the functions do not, or do so along several axes only.
WHOLE = {
    "dynamic slice", "branch by all", "halves", "permuted and back", "reversed twice", "rolled and back",
    "samples in pairs", "labels", "labels of the input", "diagonal", "known diagonal", "known permutations",
    "detached mean", "integers", "zero times the mean", "known branch", "padded and cut", "until large",
    "masked mean", "diagonal by a mask", "diagonal by einsum", "handed over, by cg", "sparse of a sample, made dense",
    "sparse, diagonal", "triangle of some samples",
}  # fmt: skip
CASES = INDEPENDENT | FORWARD_ONLY
PULLED = [
    "mlp", "layer norm", "softmax", "attention", "convolution", "convolution, kernels per sample", "max pooling",
    "average pooling", "sort", "solve", "take along", "add at", "interp", "branches per sample", "rnn", "map",
    "siamese", "merged from before", "columns, transposed", "segments",
]  # fmt: skip
HESSIANS = ["mlp", "softmax", "max pooling", "convolve per sample", "take along", "rnn inside", "siamese"]


def under(names, cases=CASES):
    return [pytest.param(cases[name], id=name.replace(" ", "-")) for name in cases if name in names]


@pytest.mark.parametrize("case", under(set(CASES) - WHOLE))
def test_derivatives_of_one_sample(case):
    x, t = points(case.shape)
    assert_same(derivatives(case.f), x, t, axes=[case.axis, case.axis])


@pytest.mark.parametrize("case", under(set(PULLED) - WHOLE))
def test_pullbacks_of_one_sample(case):
    x, _ = points(case.shape)
    u = jax.tree.map(lambda y: np.asarray(jnp.sin(jnp.arange(y.size)).reshape(y.shape)), jax.eval_shape(case.f, x))
    assert_same(pullbacks(case.f), x, u, axes=[case.axis, case.axis])


@pytest.mark.parametrize("case", under(HESSIANS))
def test_hessians_of_one_sample(case):
    x, t = points(case.shape)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(case.f(x))))
    assert_same(lambda x, t: jax.linearize(gradient, x)[1](t), x, t, axes=[case.axis, case.axis])


@pytest.mark.parametrize("case", under(WHOLE))
def test_samples_that_meet_on_the_way_are_not_cut(case):
    x, t = points(case.shape)
    assert made(derivatives(case.f), x, t, axes=[case.axis, case.axis])[0] is None


@pytest.mark.parametrize("case", under(set(MIXING) - {"rule that moves"}, MIXING))
def test_what_mixes_is_not_cut(case):
    x, _ = points(case.shape)
    assert made(case.f, x, axes=[case.axis])[0] is None


# What has no samples

X = points((B, N))[0]


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x / x.shape[0],
        lambda x: x * C + jnp.sin(C),
        lambda x: x * jnp.arange(B)[:, None],
        lambda x: jnp.where(C > 0, x, C),
        lambda x: jnp.where(C[:, :1] > 0, jnp.concatenate([x, C], axis=1), 0),
        lambda x: jnp.concatenate([x, C])[B:] * x,
        lambda x: jnp.einsum("bi,bj->bij", x, C),
        lambda x: jnp.einsum("bij,bj->bi", np.arange(B * N * N, dtype=np.float32).reshape(B, N, N), x),
        lambda x: jnp.take_along_axis(jnp.asarray(C), jnp.argsort(x, axis=1), axis=1),
        lambda x: jnp.take_along_axis(x, np.argsort(C, axis=1), axis=1),
        lambda x: jnp.zeros((B, N)).at[:, 2].set(x[:, 0]),
        lambda x: x.at[:, 1].set(C[:, 0]),
        lambda x: jnp.tanh(x.reshape(2 * B, 3) * C.reshape(2 * B, 3)).reshape(B, N),
        lambda x: lax.scan(lambda c, w: (c * w + x, c.sum(1)), jnp.asarray(C), jnp.arange(3.0))[0],
        lambda x: lax.scan(lambda _, v: (None, v[0] * v[1]), None, (x, C))[1],
        lambda x: lax.cond(C[0, 0] > 0, lambda x: x, lambda x: jnp.asarray(C), x),
        lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * x), (0, jnp.asarray(C)))[1],
        lambda x: jnp.linalg.solve(jnp.eye(N) * 3 + C[:, :, None] * C[:, None], x[..., None]),
        lambda x: jnp.linalg.solve(jnp.eye(N) * 3 + x[:, :, None] * x[:, None], C[..., None]),
        lambda x: lax.linalg.triangular_solve(jnp.eye(N) + C[:, :, None] * C[:, None], x[..., None], left_side=True),
        lambda x: jax.vmap(lambda v, c: jnp.convolve(v, c))(x, C),
        lambda x: jax.vmap(lambda v, c: lax.dynamic_slice(v, (c,), (2,)))(x, np.array([0, 1, 2, 3])),
        lambda x: jax.vmap(lambda v, c: lax.dynamic_update_slice(c, v[:2], (v[0].astype(int),)))(x, C),
        lambda x: jax.vmap(lambda k, v: jax.random.normal(k, v.shape) * v)(jax.random.split(jax.random.key(0), B), x),
        lambda x: jnp.asarray(W)[(x * 3).astype(int) % N].sum(-1),
        lambda x: (x, jnp.asarray(C) * 2, jnp.arange(B)),
        lambda x: jnp.zeros((B, 2)),
        lambda x: lax.sort((x, jnp.asarray(C)), dimension=1, num_keys=1)[1],
        lambda x: jax.jit(lambda y: y * C + jax.checkpoint(jnp.sin)(y))(x),
        lambda x: jnp.stack(jnp.unstack(jnp.stack([x, C], axis=1), axis=1), axis=2),
    ],
    ids=range(30),
)  # fmt: skip
def test_what_has_no_samples_is_cut_where_it_meets_them(f):
    assert_same(f, X, axes=[0])


def test_other_arguments_are_whole():
    assert_same(lambda w, x, v: (x @ w) * v.sum(), np.asarray(W), X, C, axes=[None, 0, None])
    assert_same(lambda c, x: x * c, C, X, axes=[None, 0])


def test_axes_differ():
    a, b = points((B, N))
    run, consts, _, _ = made(lambda a, b: a * jnp.sin(b.T), a, b.T, axes=[0, 1])
    found = run(2, [*consts, a[2:3], b.T[:, 2:3]])
    np.testing.assert_allclose(found[0], (a * np.sin(b))[2:3], rtol=1e-5)


def test_an_output_without_samples_must_have_their_axis():
    assert made(lambda x: (x, jnp.arange(N)), X, axes=[0])[0] is None
    assert made(lambda x: x.T, points((B, B))[0], axes=[0])[0] is None


def test_detached_sums_are_not_cut():
    assert made(derivatives(lambda x: x * lax.stop_gradient(x.sum(0))), X, X, axes=[0, 0])[0] is None


def test_what_nobody_asks_for_is_left_out():
    assert_same(lambda x: lax.cond(True, lambda: (jnp.sin(x), x.sum(0)), lambda: (x, x[0]))[0], X, axes=[0])
    assert_same(lambda x: jax.jit(lambda y: (y * 2, y[::-1]))(x)[0], X, axes=[0])
    assert_same(lambda x: lax.scan(lambda c, _: (c * 2, c.sum(0)), x, None, length=3)[0], X, axes=[0])


def test_rules_are_told():
    @jax.custom_jvp
    def f(x):
        return x * 2

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0] * 3))
    assert made(f, X, axes=[0])[0].has_rules
    assert not made(jnp.sin, X, axes=[0])[0].has_rules
    assert not made(lambda x: jnp.linalg.solve(x[:, :, None] * x[:, None], x[..., None]), X, axes=[0])[0].has_rules
    assert_same(f, X, axes=[0])


def test_a_cut_without_rules_is_differentiable():
    def f(x):
        y = jnp.linalg.solve(2 * jnp.eye(N) + x[:, :, None] * x[:, None], x[..., None])[..., 0]
        return lax.scan(lambda c, _: (jnp.sin(c @ W), None), y, None, length=2)[0]

    run, consts, _, _ = made(f, X, axes=[0])
    of_one = jax.grad(lambda v: jnp.sum(run(1, [*consts, v])[0] ** 2))
    of_all = jax.grad(lambda v: jnp.sum(f(v) ** 2))
    one, whole = jax.jit(lambda v: (of_one(v[1:2]), of_all(v)[1:2]), compiler_options=QUICK)(X)
    np.testing.assert_allclose(one, whole, rtol=1e-4)


def test_one_sample_or_none_is_not_cut():
    assert made(jnp.sin, X[:1], axes=[0])[0] is None
    assert made(jnp.sin, X[:0], axes=[0])[0] is None


def test_a_mutable_reference_is_not_cut():
    def through(x):
        ref = jax.new_ref(jnp.zeros((B, N)))
        ref[...] = x
        return ref[...]

    assert made(through, X, axes=[0])[0] is None


def test_effects_are_not_lost():
    def noisy(x):
        jax.debug.print("{}", x.sum())
        return x

    assert made(noisy, X, axes=[0])[0] is None


def test_making_a_cut_computes_nothing(compiles):
    f = derivatives(lambda x: jax.nn.softmax(x @ W))
    jaxpr, consts = opened(jax.make_jaxpr(f)(X, X))
    before = compiles.count
    assert cut(jaxpr, [None] * len(consts) + [0, 0], [0, 0], B) is not None
    assert compiles.count == before


def test_a_traced_sample_and_a_sample_that_is_a_number():
    run, consts, _, _ = made(lambda x: x * C, X, axes=[0])
    for sample in (3, np.int32(3), jnp.int32(3)):
        np.testing.assert_allclose(run(sample, [*consts, X[3:4]])[0], (X * C)[3:4])
    np.testing.assert_allclose(jax.jit(lambda s: run(s, [*consts, X[3:4]]))(3)[0], (X * C)[3:4])


@pytest.mark.parametrize("case", [Case(lambda x: x - x.mean(0)), Case(lambda x: x.T, (B, B))], ids=["mean", "turned"])
def test_the_comparison_can_fail(case):
    """The same program, cut as if it kept samples apart, gives other numbers."""
    whole = np.asarray(case.f(points(case.shape)[0]))
    parts = np.concatenate([np.asarray(case.f(points(case.shape)[0][k : k + 1])).reshape(1, -1) for k in range(B)])
    assert np.abs(whole - parts).max() > 1e-3
