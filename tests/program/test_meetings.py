"""Two readings of one program that differ: which reading is trusted, and that the numbers are right.

Independence and symmetry are decided by one reading; nonzeros by another one, whose pattern may have extra entries.
Values are compared with JAX's dense derivatives. Shapes: B samples, M outputs, N inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from reference import filled, scattered, views

from jacobia import hessian, jacobian, sparsity_pattern

pytestmark = pytest.mark.slow

X = np.array([[0.5, 1.5, -0.7, 1.1], [1.2, -0.3, 0.4, 2.0], [0.1, 0.9, 1.7, -1.4]], np.float32)
KERNEL = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


def convolved(x):
    """The tangent is the kernel of a convolution: it is taken to affect everything, other samples included."""
    return jnp.convolve(KERNEL, x)


def solved(x):
    """An iterative solver, linear in its result only: the tangent is taken to affect everything."""
    return jax.scipy.sparse.linalg.cg(lambda v: 5 * v + v.sum(), x)[0]


def pooled(x):
    return jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "SAME") ** 2)


def check(made, expected):
    expected = jax.tree.leaves(expected)
    assert len(made) == len(expected)
    for J, full in zip(made, expected, strict=True):
        matrix = np.asarray(full).reshape(J.matrix.shape)
        np.testing.assert_allclose(scattered(J), matrix, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(filled(J.to_bcoo()), matrix, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(filled(J.to_bcsr()), matrix, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(J[...], full, rtol=1e-4, atol=1e-4)


# Samples are independent, and the walk sees a union


def meet(f, *args):
    """Whether the walk has an entry between two samples of a function of a batch, with samples in front."""
    pattern = sparsity_pattern(f, *args)
    m, n = (k // len(X) for k in pattern.shape)
    return bool((pattern.rows // m != pattern.cols // n).any())


PROGRAMS = {
    "a kernel": convolved,
    "a solve": solved,
    "a kernel among others": lambda x: jnp.concatenate([jnp.sin(x[:2]), convolved(x)[1:3], x[::-1]]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_entries_of_other_samples_are_left_out(name):
    f = PROGRAMS[name]
    assert meet(jax.vmap(f), X)
    J = jacobian(jax.vmap(f), batch_axis=0)(X)
    expected = jax.jit(jax.vmap(jax.jacrev(f)))(X)
    check([J], expected)
    np.testing.assert_allclose(J[1], np.asarray(expected)[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(J.T.nonzeros()[0]).sum(), np.asarray(J[...]).sum(), rtol=1e-4)


@pytest.mark.parametrize("f", [lambda x: jnp.sum(convolved(x) ** 3), pooled], ids=["a kernel", "windows"])
def test_entries_of_other_samples_in_hessians(f):
    g = jax.vmap(jax.grad(f))
    assert meet(g, X)
    H = hessian(jax.vmap(f), batch_axis=0)(X)
    check([H], jax.jit(jax.vmap(jax.hessian(f)))(X))
    assert H.pattern == H.pattern.T


CONVOLVED = jax.jit(jax.vmap(jax.jacrev(convolved)))


@pytest.mark.parametrize("axis", [1, -1])
def test_samples_along_any_axis(axis):
    def f(x):
        return jax.vmap(convolved, in_axes=axis, out_axes=axis)(x)

    check([jacobian(f, batch_axis=axis)(X.T)], CONVOLVED(X))


def of_several(x, y):
    return {"both": convolved(x) * y[0], "one": convolved(y), "none": x[:1]}


@pytest.mark.parametrize("ravel", [False, True])
def test_several_leaves_of_samples(ravel):
    Y = X[:, :3] + 1
    J = jacobian(jax.vmap(of_several), (0, 1), batch_axis=0, ravel=ravel)(X, Y)
    expected = jax.jit(jax.vmap(jax.jacrev(of_several, (0, 1))))(X, Y)
    if ravel:
        rows = [np.concatenate([np.asarray(b).reshape(3, -1, b.shape[-1]) for b in pair], 2)
                for pair in expected.values()]  # fmt: skip
        expected = np.concatenate([rows[list(expected).index(k)] for k in sorted(expected)], 1)
    check(views(J), expected)


@jax.custom_vjp
def ruled(x):
    return jnp.sin(x)


ruled.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.cos(x),))


def test_samples_that_are_pulled_through():
    f = lambda x: convolved(ruled(x))  # noqa: E731
    check([jacobian(jax.vmap(f), batch_axis=0)(X)], jax.jit(jax.vmap(jax.jacrev(f)))(X))


def test_samples_that_lack_entries():
    mask = np.array([[1, 1, 0, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]], np.float32)
    f = lambda x: mask * jax.vmap(convolved)(x)  # noqa: E731
    J = jacobian(f, batch_axis=0)(X)
    check([J], mask[:, :, None] * np.asarray(CONVOLVED(X)))
    assert 2 not in J.pattern.rows


def test_samples_under_transformations():
    f = jacobian(jax.vmap(convolved), batch_axis=0)
    expected, many = np.asarray(CONVOLVED(X)), np.stack([X, 2 * X])
    np.testing.assert_allclose(jax.jit(lambda x: f(x).to_bcoo().todense())(X), expected, rtol=1e-5)
    mapped = jax.jit(jax.vmap(lambda x: f(x).to_bcoo().todense()))
    np.testing.assert_allclose(mapped(many), [expected] * 2, rtol=1e-5)
    energy = lambda x: jnp.sum(jacobian(jax.vmap(lambda x: convolved(x) ** 2), batch_axis=0)(x).nonzeros()[0] ** 2)  # noqa: E731
    dense = lambda x: jnp.sum(jax.vmap(jax.jacrev(lambda x: convolved(x) ** 2))(x) ** 2)  # noqa: E731
    np.testing.assert_allclose(*jax.jit(lambda x: [jax.grad(energy)(x), jax.grad(dense)(x)])(X), rtol=1e-4)


def test_independence_that_was_promised():
    far, one = 10 * np.arange(3)[:, None], X[:, :1]  # far apart, so that their order is fixed
    J = jacobian(lambda x: x * jnp.sort(x + far, axis=0), batch_axis=0, verify_batch=False)(one)
    expected = 2 * one + far
    np.testing.assert_allclose(scattered(J)[:, 0], expected, rtol=1e-5)


# A Hessian is symmetric where its program is that of a gradient: derivative rules of one's own need not be


@jax.custom_jvp
def one_sided(x):
    return x[0] * x[1] + x[2] ** 2 * x[1]


@one_sided.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    still = lax.stop_gradient(x)
    return one_sided(x), x[1] * t[0] + (still[0] + x[2] ** 2) * t[1] + 2 * x[2] * still[1] * t[2]


@jax.custom_vjp
def pulled(x):
    return x[0] * x[1] + x[2] ** 3


pulled.defvjp(
    lambda x: (pulled(x), x), lambda x, u: (u * jnp.stack([x[1] * x[2], lax.stop_gradient(x[0]), 3 * x[2] ** 2]),)
)
P = np.array([0.7, 1.3, -0.4], np.float32)


def in_a_branch(x):
    return lax.cond(x[0] > 0, lambda x: 2 * one_sided(x), lambda x: x.sum(), x)


UNSYMMETRIC = {
    "pushed": one_sided,
    "pulled": pulled,
    "a part": lambda x: jnp.sum(jnp.sin(x)) * one_sided(x),
    "in a branch": in_a_branch,
    "in a jit": lambda x: jax.jit(one_sided)(2 * x),
}


@pytest.mark.parametrize("name", UNSYMMETRIC)
def test_hessians_by_rules_that_are_no_gradients(name):
    f = UNSYMMETRIC[name]
    expected = np.asarray(jax.jit(jax.jacrev(jax.grad(f)))(P))
    assert np.abs(expected - expected.T).max() > 0.1
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    check([hessian(f)(P)], expected)
    pattern = sparsity_pattern(f, P, hessian=True)
    assert not expected[~pattern.todense()].any()
    for mode in ("auto", "rev", "fwd"):
        make = hessian(f, mode=mode)
        close(make(P)[...], expected)
        close(make(P)[:, 1], expected[:, 1])
        if mode == "auto":
            close(make(P)[0], expected[0])
            close(make(P)[[2, 0], 1:], expected[[2, 0], 1:])
    H = hessian(f)(P)
    close(H.mv(P), expected @ P)
    close(H.vm(P), P @ expected)
    close(H.diagonal(), np.diagonal(expected))
    close(H[1], expected[1])
    close(H[:, 1], expected[:, 1])
    close(filled(hessian(f, sparsity=pattern)(P).to_bcoo()), expected)
    close(jax.jit(lambda x: hessian(f)(x)[1])(P), expected[1])
    close(jax.vmap(hessian(f))(np.stack([P, P]))[1, 1], expected[1])


def test_hessians_by_rules_of_samples_of_blocks_and_of_several_outputs():
    many, close = np.stack([P, P + 1]), lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    expected = np.asarray(jax.jit(jax.vmap(jax.jacrev(jax.grad(one_sided))))(many))
    H = hessian(jax.vmap(one_sided), batch_axis=0)(many)
    close(scattered(H), expected)
    close(H[:, 1], expected[:, 1])
    split = lambda a, b: one_sided(jnp.concatenate([a, b]))  # noqa: E731
    blocks, rows = hessian(split, (0, 1))(P[:1], P[1:]), expected[0]
    close(blocks[1][0][...], rows[1:, :1])
    close(blocks[0][1][0], rows[:1, 1:][0])
    close(filled(blocks[0][1].to_bcoo()), rows[:1, 1:])
    several = lambda x: jnp.stack([one_sided(x), jnp.sum(x**3)])  # noqa: E731
    full = np.asarray(jax.jit(jax.jacrev(jax.jacrev(several)))(P))
    close(hessian(several)(P)[0, 1], full[0, 1])
    close(hessian(several)(P)[...], full)


def test_rules_of_jax_are_trusted():
    f = lambda x: jnp.sum(jax.nn.relu(x) * jnp.logaddexp(x, x[::-1]))  # noqa: E731
    H = hessian(f)(P)
    np.testing.assert_allclose(H[1], jax.jit(jax.hessian(f))(P)[1], rtol=1e-4, atol=1e-6)
    assert H.stats.pushforwards == 1 and H.stats.pullbacks == 0
