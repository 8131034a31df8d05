"""Laplacians against traces of Hessians by JAX, and against closed forms."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacobia
from jacobia import BatchMixingError, laplacian, value_and_laplacian
from jacobia._compat import opened
from jacobia._program.laplace.sweep import Sweep

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]

RANDOM = np.random.default_rng(0)
D = 6
W, V, SQUARE = RANDOM.normal(size=(4, D)), RANDOM.normal(size=(3, 4)), RANDOM.normal(size=(D, D))
POSITIVE = SQUARE @ SQUARE.T + 6 * np.eye(D)
X = RANDOM.normal(size=D)
BATCH = RANDOM.normal(size=(3, D))


def mlp(x):
    return jnp.sum(V @ jnp.tanh(W @ x) ** 2)


def scan(x):
    def step(carry, each):
        return jnp.tanh(carry * each + x[0]), carry * x[1]

    last, told = lax.scan(step, x, jnp.linspace(0.0, 1.0, 3))
    return jnp.sum(last**2) + jnp.sum(jnp.sin(told))


def scan_over_the_input(x):
    last, told = lax.scan(lambda c, a: (c * jnp.sin(a) + a, c * a), 0.5, x)
    return last * jnp.sum(told**2)


def attention(x):
    rows = x.reshape(3, 2)
    return jnp.sum(jax.nn.softmax(rows @ rows.T / 2) @ rows**2)


def electrons(x):
    places = x.reshape(2, 3)
    apart = jnp.linalg.norm(places[0] - places[1])
    return jnp.exp(-jnp.linalg.norm(places) - 0.5 * apart)


def while_loop(x):
    return jnp.sum(lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * x), (0, x))[1])


def determinants(x):
    matrices = jnp.sin(jnp.einsum("kij,j->ki", POSITIVE.reshape(2, 3, D), x))[:, :, None] * x[:3] + 2 * jnp.eye(3)
    sign, log = jnp.linalg.slogdet(matrices)
    return jnp.sum(sign * log) * log[0]


PROGRAMS = {
    "mlp": mlp,
    "products with the input": lambda x: jnp.tanh(W @ x) @ W @ x + x @ x,
    "one row for all": lambda x: jnp.sum(jnp.sin(SQUARE @ jnp.tanh(jnp.ones((D, 2)) @ jnp.sin(W[:2] @ jnp.tanh(x))))),
    "scaled input": lambda x: jnp.sum(jnp.tanh(W @ ((x - 0.3) / jnp.arange(1.0, D + 1)))),
    "scan": scan,
    "scan over the input": scan_over_the_input,
    "fori_loop": lambda x: jnp.sum(lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x + i, x)),
    "while_loop": while_loop,
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: jnp.sum(x**3), lambda x: jnp.sum(jnp.sin(x) * x[0]), x),
    "solve": lambda x: jnp.sum(jnp.linalg.solve(POSITIVE + jnp.diag(x), jnp.sin(x)) ** 2),
    "triangular solve": lambda x: jnp.sum(
        jax.scipy.linalg.solve_triangular(POSITIVE + jnp.diag(x), x, lower=True) ** 2
    ),
    "determinants": determinants,
    "slogdet": lambda x: jnp.linalg.slogdet(POSITIVE + jnp.outer(x, x))[1],
    "cholesky": lambda x: jnp.sum(jnp.linalg.cholesky(POSITIVE + jnp.diag(x**2))),
    "eigh": lambda x: jnp.sum(jnp.linalg.eigh(POSITIVE + jnp.outer(jnp.sin(x), jnp.sin(x)))[0][:3]),
    "qr": lambda x: jnp.sum(jnp.linalg.qr(POSITIVE + jnp.outer(x, x))[1][0]),
    "sort": lambda x: jnp.sum(jnp.sort(x) * jnp.arange(D) ** 2 * jnp.sin(jnp.sort(x))),
    "fft": lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x**2)) ** 2),
    "attention": attention,
    "electrons": electrons,
    "norm": jnp.linalg.norm,
    "logsumexp": lambda x: jax.nn.logsumexp(x * x[::-1]),
    "convolve": lambda x: jnp.sum(jnp.convolve(jnp.sin(x), x[:3]) ** 2),
    "gather": lambda x: jnp.sum(x[jnp.array([0, 2, 2])] * x[jnp.argsort(x)[:3]]),
    "scatter": lambda x: jnp.sum(jnp.zeros(4).at[jnp.arange(D) % 4].add(x**2) ** 2),
    "update": lambda x: jnp.sum(lax.dynamic_update_slice(x**2, jnp.sin(x[:3]), (2,)) ** 3),
    "max": lambda x: jnp.max(x) ** 2 + jnp.sum(jnp.maximum(x, 0) ** 3),
    "cumulative": lambda x: jnp.sum(jnp.cumsum(x) ** 2) + jnp.sum(jnp.cumprod(x)),
    "quotient": lambda x: jnp.sum(x / (1 + x[::-1] ** 2)),
    "power": lambda x: jnp.sum(jnp.abs(x) ** x[::-1]),
    "rules": lambda x: jnp.sum(jax.nn.relu(W @ x) ** 2) + jnp.sum(jax.nn.softplus(x)),
    "where": lambda x: jnp.sum(jnp.where(x > 0, x**2, jnp.sin(x))),
    "checkpoint": jax.checkpoint(mlp),
    "einsum": lambda x: jnp.einsum("ij,kj,kl->", x.reshape(3, 2), x.reshape(3, 2) ** 2, jnp.sin(x.reshape(3, 2))),
    "products of a stack": lambda x: jnp.sum(
        jnp.einsum("bij,bjk->bik", *[x.reshape(3, 1, 2), x.reshape(3, 2, 1)]) ** 2
    ),
    "clip by the input": lambda x: jnp.sum(jnp.clip(x, -1, x[0]) ** 2),
    "constant": lambda x: jnp.float64(3),
    "linear": lambda x: jnp.sum(W @ x),
    "index": lambda x: jnp.sum(x) ** 2 * jnp.argmax(x),
}


def trace_of_hessian(f, x):
    flat = lambda a: f(a.reshape(x.shape))  # noqa: E731
    return jnp.trace(jax.jacfwd(jax.jacfwd(flat))(x.ravel()), axis1=-2, axis2=-1)


@functools.cache
def trace_at(f):
    """`trace_of_hessian` of a program of this file, compiled once."""
    return jax.jit(lambda x: trace_of_hessian(f, x))


def close(found, right, tolerance=1e-10):
    assert found.shape == right.shape and found.dtype == right.dtype
    np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    f = PROGRAMS[name]
    close(laplacian(f)(X), trace_at(f)(X))


@pytest.mark.parametrize("factored, room", [(False, None), (True, 1), (False, 1)], ids=str)
@pytest.mark.parametrize("name", ["mlp", "products with the input", "one row for all", "scan", "cond", "determinants"])
def test_pairs_and_chunks(name, factored, room):
    # Factored or not, and all directions at once or some at a time.
    f = PROGRAMS[name]
    jaxpr, consts = opened(jax.make_jaxpr(f)(X))
    sweep = Sweep(jaxpr, [len(consts)])
    (z,) = jax.jit(lambda x: sweep.run([*consts, x], factored, room))(X)
    close(z.value, jax.jit(f)(X))
    close(z.laplacian, trace_at(f)(X))


@pytest.mark.parametrize("name", ["mlp", "rules", "electrons", "scan", "attention", "solve", "determinants"])
def test_samples(name):
    f = PROGRAMS[name]
    right, value, slope = jax.jit(jax.vmap(lambda x: (trace_of_hessian(f, x), f(x), jax.grad(f)(x))))(BATCH)
    y, gradient, found = value_and_laplacian(jax.vmap(f), batch_axis=0)(BATCH)
    close(found, right)
    close(y, value)
    close(gradient, slope)
    close(jax.vmap(laplacian(f))(BATCH), right)


def test_samples_elsewhere_and_several_outputs():
    f = lambda X: jnp.stack([jnp.sum(jnp.sin(SQUARE @ X), axis=0), jnp.prod(X, axis=0)])  # noqa: E731
    right = jax.jit(jax.vmap(lambda x: trace_of_hessian(lambda x: f(x[:, None])[:, 0], x), out_axes=-1))(BATCH)
    close(laplacian(f, batch_axis=-1)(BATCH.T), right)


def test_blocks_of_samples(monkeypatch):
    monkeypatch.setattr("jacobia._run.swept.fits_cache", lambda num, each, cores: 2)
    f = lambda X: jnp.sum(jnp.tanh(X @ W.T) ** 3, axis=1)  # noqa: E731
    right = jax.jit(jax.vmap(lambda x: trace_of_hessian(lambda x: f(x[None])[0], x)))(BATCH)
    y, gradient, found = value_and_laplacian(f, batch_axis=0)(BATCH)
    close(found, right)
    close(gradient, jax.jit(jax.grad(lambda X: f(X).sum()))(BATCH))


@pytest.mark.parametrize("name", ["mlp", "electrons", "while_loop", "products with the input", "linear"])
def test_value_and_gradient(name):
    f = PROGRAMS[name]
    y, gradient, found = value_and_laplacian(f)(X)
    close(y, jax.jit(f)(X))
    close(gradient, jax.jit(jax.jacfwd(f))(X))
    close(found, trace_at(f)(X))


def test_closed_forms():
    k = jnp.arange(1.0, 4.0)
    at = jnp.array([0.3, -0.2, 0.5])
    close(laplacian(lambda x: jnp.exp(k @ x))(at), k @ k * jnp.exp(k @ at), 1e-12)
    close(laplacian(lambda x: 1 / jnp.linalg.norm(x))(at), jnp.float64(0), 1e-12)  # harmonic in three dimensions
    close(laplacian(lambda x: jnp.exp(1j * (k @ x)))(at), -k @ k * jnp.exp(1j * (k @ at)), 1e-12)
    close(laplacian(lambda x: x**3)(at), 6 * at, 1e-12)
    close(laplacian(lambda x: jnp.stack([x @ x, x[0] ** 3]))(at), jnp.array([6.0, 6 * 0.3]), 1e-12)


def test_trees_and_arguments():
    f = lambda p, scale: {"y": scale * jnp.sum(p["a"] ** 3) * p["b"] ** 2}  # noqa: E731
    p = {"a": jnp.asarray(X), "b": jnp.float64(2)}
    right = 3.0 * (6 * jnp.sum(X) * 4 + 2 * jnp.sum(p["a"] ** 3))
    close(laplacian(f)(p, 3.0)["y"], right)
    close(laplacian(f, where={"a": True, "b": False})(p, 3.0)["y"], 3.0 * 6 * jnp.sum(X) * 4)
    close(laplacian(lambda a, b: f({"a": a, "b": b}, 3.0)["y"], (0, 1))(p["a"], p["b"]), right)
    _, gradient, _ = value_and_laplacian(lambda p: f(p, 1.0)["y"])(p)
    jax.tree.map(close, gradient, jax.grad(lambda p: f(p, 1.0)["y"])(p))
    found, aux = laplacian(lambda x: (mlp(x), x[0]), has_aux=True)(X)
    close(found, trace_at(mlp)(X))
    assert aux == X[0]
    assert value_and_laplacian(lambda x: (mlp(x), x[0]), has_aux=True)(X)[0][1] == X[0]


@pytest.mark.parametrize("name", ["mlp", "one row for all", "electrons", "scan"])
def test_derivatives_of_a_laplacian(name):
    f = PROGRAMS[name]
    right = lambda x: trace_of_hessian(f, x)  # noqa: E731
    slope, curvature = jax.jit(lambda x: (jax.grad(right)(x), jax.hessian(right)(x)))(X)
    close(jax.grad(laplacian(f))(X), slope, 1e-9)
    close(jax.jit(jax.hessian(laplacian(f)))(X), curvature, 1e-8)


def test_derivatives_where_the_gram_matrix_is_singular():
    # Two equal rows, and a row of zeros: a factor of W Wᵀ has no derivative.
    weights = jnp.asarray(W).at[1].set(W[0]).at[2].set(0.0)
    loss = lambda w, laplacian: laplacian(lambda x: jnp.sum(jnp.tanh(w @ x) ** 2))(X) ** 2  # noqa: E731
    by_hessian = lambda f: lambda x: trace_of_hessian(f, x)  # noqa: E731
    close(jax.grad(loss)(weights, laplacian), jax.jit(jax.grad(lambda w: loss(w, by_hessian)))(weights))


def test_directions_are_as_few_as_what_everything_goes_through():
    def narrow(x):
        return jnp.sum(jnp.sin(SQUARE @ jnp.ones((D, 2)) @ jnp.sin(W[:2] @ x)))

    jaxpr, consts = opened(jax.make_jaxpr(narrow)(X))
    sweep = Sweep(jaxpr, [len(consts)])
    assert sweep.narrows
    text = str(jax.make_jaxpr(lambda x: [z.laplacian for z in sweep.run([*consts, x], True)])(X))
    assert "f64[2,2]" in text and f"f64[{D},{D}]" not in text.split("eigh")[-1]


def test_a_million_inputs(new_programs):
    n = 1_000_000
    x, weights = jnp.linspace(0.0, 1.0, n, dtype=jnp.float32), jnp.ones((3, n), jnp.float32) / n
    sparse = lambda x: jnp.sum((x[1:] - x[:-1] ** 2) ** 2)  # noqa: E731
    exact = np.sum(2 + 12 * np.linspace(0, 1, n)[:-1] ** 2 - 4 * np.linspace(0, 1, n)[1:])
    np.testing.assert_allclose(laplacian(sparse)(x), exact, rtol=1e-4)
    dense = lambda x: jnp.sum(jnp.sin(weights @ x))  # noqa: E731
    np.testing.assert_allclose(laplacian(dense)(x), -3 * np.sin(0.5) / n, rtol=1e-3)


def test_what_can_only_be_pulled_through():
    @jax.custom_vjp
    def cube(x):
        return jnp.sum(x**3)

    cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g,))
    y, gradient, found = value_and_laplacian(cube)(X)
    close(found, 6 * jnp.sum(X))
    close(gradient, 3 * jnp.asarray(X) ** 2)
    close(y, jnp.sum(X**3))


def test_rules_that_say_something_else():
    # The second derivative is that of the rule's tangent, which is constant here: the rule is not applied again.
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvp(lambda p, t: (jnp.round(p[0]), t[0]))
    f = lambda x: jnp.sum(rounded(x) ** 2 * x)  # noqa: E731
    close(laplacian(f)(X), trace_at(f)(X))
    right = jax.vmap(trace_at(f))(BATCH)
    close(laplacian(jax.vmap(f), batch_axis=0)(BATCH), right)


def test_nothing_is_compiled_again(empty_cache, compiles):
    transform = laplacian(lambda x: jnp.sum(jnp.sin(W @ x)))
    transform(X)
    before = compiles.count
    transform(X + 1)
    assert compiles.count == before and jacobia.cache_info().compiles == 1


def test_inside_jit_and_pickled():
    close(jax.jit(laplacian(mlp))(X), laplacian(mlp)(X))
    close(pickle.loads(pickle.dumps(laplacian(mlp)))(X), laplacian(mlp)(X))
    assert repr(laplacian(mlp)) == "<laplacian(mlp)>"


def test_errors():
    with pytest.raises(
        TypeError, match=r"laplacian\(args\[0\]\): expected a real input, got complex128. Differentiate"
    ):
        laplacian(mlp)(X + 1j)
    with pytest.raises(TypeError, match=r"laplacian\(f=...\): expected a callable, got int"):
        laplacian(3)
    with pytest.raises(TypeError, match=r"laplacian\(mode=...\): expected an option among argnums, has_aux"):
        laplacian(mlp, mode="rev")
    with pytest.raises(ValueError, match=r"value_and_laplacian\(.*\): expected an f of one number, got .*\(6,\)"):
        value_and_laplacian(lambda x: x)(X)
    with pytest.raises(BatchMixingError, match=r"laplacian\(batch_axis=...\).*reduce_sum"):
        laplacian(lambda x: x - x.mean(0), batch_axis=0)(BATCH)


def test_stop_gradient():
    stop = lax.stop_gradient
    programs = [
        lambda x: jnp.sum(x**2 * stop(x)),
        lambda x: jnp.sum((x + stop(jnp.round(x) - x)) ** 2),
        lambda x: jnp.sum(jnp.exp(x - stop(x.max()))),
        lambda x: jnp.sum(stop(x**3)),
        lambda x: lax.scan(lambda c, a: (c * a + stop(c * a), c), 1.0, x)[0],
    ]
    for f in programs:
        y, gradient, found = value_and_laplacian(f)(X)
        close(found, trace_at(f)(X))
        close(gradient, jax.jit(jax.grad(f))(X))


def test_while_loops_of_samples():
    f = lambda a: lax.while_loop(lambda s: s < 4, lambda s: s * 1.5 + a**2 + 0.3, a)  # noqa: E731
    x = jnp.array([0.3, 1.7])
    right = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(f))))(x)
    close(laplacian(jax.vmap(f), batch_axis=0)(x), right)
    close(laplacian(lambda x: jax.vmap(f)(x).sum())(x), right.sum())


def test_sums_of_very_many_inputs(new_programs):
    # No direction is written out: D by D numbers would not fit.
    d = 200_000
    x = jnp.linspace(0.1, 1.0, d)
    close(laplacian(lambda x: jnp.sum(x**3))(x), 6 * jnp.sum(x))
    close(laplacian(lambda x: jnp.exp(jnp.mean(x)))(x), jnp.exp(jnp.mean(x)) / d, 1e-8)
    close(laplacian(jnp.linalg.norm)(x), (d - 1) / jnp.linalg.norm(x), 1e-8)
    close(laplacian(jnp.sin)(x), -jnp.sin(x))
    two = laplacian(lambda x: jnp.sum(jnp.sin(jnp.sum(x.reshape(2, -1) ** 2, axis=1) / d)))(x)
    s = np.sum(np.asarray(x).reshape(2, -1) ** 2, axis=1) / d
    close(two, jnp.sum(np.cos(s) - 4 / d * np.sin(s) * s), 1e-8)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.sum(x**3),
        jnp.prod,
        lambda x: jnp.linalg.slogdet(0.1 * jnp.ones((3, 3)) + jnp.diag(x))[1],
        lambda x: jnp.sum(jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=3)[0]),
    ],
    ids=["powers", "a product", "a determinant", "a loop"],
)
def test_where_ranks_are_not_promoted(f):
    X = np.linspace(1, 2, 6).reshape(2, 3)
    right = np.stack([np.trace(jax.hessian(f)(x)) for x in X])
    slopes = np.stack([jax.grad(lambda x: jnp.trace(jax.hessian(f)(x)))(x) for x in X])
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        np.testing.assert_allclose(laplacian(f)(X[0]), right[0], rtol=1e-4)
        np.testing.assert_allclose(jax.grad(laplacian(f))(X[0]), slopes[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(laplacian(jax.vmap(f), batch_axis=0)(X), right, rtol=1e-4)
        np.testing.assert_allclose(jax.vmap(laplacian(f))(X), right, rtol=1e-4)


def test_no_tracer_is_kept():
    with jax.checking_leaks():
        assert laplacian(mlp)(X).shape == ()
        assert jax.jit(jax.grad(laplacian(mlp)))(X).shape == (D,)
