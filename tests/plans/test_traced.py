"""Reads inside one trace: nothing is computed twice, and no axis of length 1 is left over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia import hessian, jacobian

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
W = RNG.normal(size=(6, 6)).astype(np.float32)
X = RNG.normal(size=6).astype(np.float32)


def layer(x):
    return jnp.tanh(W @ jnp.sin(x))


DENSE = np.asarray(jax.jacfwd(layer)(X))
J = jacobian(layer)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def evaluations(f, *args):
    """How often the traced function evaluates the layer."""
    return sum(e.primitive.name == "tanh" for e in equations(jax.make_jaxpr(f)(*args).jaxpr))


def reading(*reads):
    def read(x):
        view = J(x)
        return [r(view, x) for r in reads]

    return read


CASES = {
    "a row twice": (reading(lambda v, x: v[1], lambda v, x: v[1]), [DENSE[1], DENSE[1]], 1),
    "some of the rows": (reading(lambda v, x: v[1:4], lambda v, x: v[[3, 1]]), [DENSE[1:4], DENSE[[3, 1]]], 1),
    "other rows": (reading(lambda v, x: v[1:4], lambda v, x: v[4]), [DENSE[1:4], DENSE[4]], 2),
    "columns": (reading(lambda v, x: v[:, 1:3], lambda v, x: v.T[2]), [DENSE[:, 1:3], DENSE[:, 2]], 1),
    "all, and an entry": (reading(lambda v, x: v[...], lambda v, x: v[2, 3]), [DENSE, DENSE[2, 3]], 1),
    "all, and a product": (reading(lambda v, x: v[...], lambda v, x: v.mv(x)), [DENSE, DENSE @ X], 1),
    "its Gram matrix": (reading(lambda v, x: v @ v.T), [DENSE @ DENSE.T], 1),
    "the other one": (reading(lambda v, x: v.T @ v), [DENSE.T @ DENSE], 1),
    "nonzeros": (reading(lambda v, x: v.nonzeros()[0], lambda v, x: v.nonzeros()[0]), [DENSE.reshape(-1)] * 2, 1),
    "the diagonal": (reading(lambda v, x: v.diagonal(), lambda v, x: v.T.diagonal()), [np.diag(DENSE)] * 2, 1),
    "traced numbers": (
        reading(lambda v, x: v[jnp.argmax(x)], lambda v, x: v[jnp.argmin(x)]),
        [DENSE[X.argmax()], DENSE[X.argmin()]],
        2,
    ),
    "in a loop, and behind": (
        reading(
            lambda v, x: lax.scan(lambda c, k: (c + v[k] + v[0] + v[0], None), jnp.zeros(6), jnp.arange(3))[0],
            lambda v, x: v[0],
        ),
        [DENSE[:3].sum(0) + 6 * DENSE[0], DENSE[0]],
        4,  # results of a step are not kept beyond that step
    ),
    "in a map, and behind": (
        reading(lambda v, x: jax.vmap(lambda k: v[k] + v[0])(jnp.arange(3)), lambda v, x: v[0]),
        [DENSE[:3] + DENSE[0], DENSE[0]],
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["traced", "compiled"])
def test_what_a_trace_has_computed(name, under):
    f, expected, times = CASES[name]
    for found, right in zip(under(f)(X) if under is jax.jit else jax.vmap(f)(X[None]), expected, strict=True):
        np.testing.assert_allclose(found if under is jax.jit else found[0], right, rtol=1e-4, atol=1e-5)
    assert evaluations(f, X) == times


def test_gradients_of_what_a_trace_has_computed():
    twice = jax.grad(lambda x: jnp.sum((view := J(x))[1] ** 2) + jnp.sum(view[1]))
    once = jax.grad(lambda x: jnp.sum((row := jax.jacfwd(layer)(x)[1]) ** 2) + jnp.sum(row))
    np.testing.assert_allclose(twice(X), once(X), rtol=1e-4, atol=1e-5)


LEFT = {
    "rows": lambda v: v[1] + v[2] + v[1:3].sum(0),
    "in a loop": lambda v: lax.fori_loop(0, 2, lambda i, s: s + v[1] + v[i] + v[2], jnp.zeros(6)) + v[1],
    "in a branch": lambda v: lax.cond(v.value[0] > 0, lambda: v[2] + v[1], lambda: v[0] * 2) + v[1],
    "in a map": lambda v: v[1] + jax.vmap(lambda k: v[k] + v[0])(jnp.arange(2)).sum(0),
    "inside, once more": lambda v: v[1] + jax.jit(lambda: v[1] + v[2])() + v[2],
}


@pytest.mark.parametrize("name", LEFT)
def test_nothing_of_a_trace_is_left(name):
    with jax.checking_leaks():
        jax.jit(lambda x: LEFT[name](J(x)))(X)


def test_a_view_that_is_read_inside_and_outside():
    view = J(X)  # a view that was made outside, and is read inside
    inside = jax.jit(lambda k: view[k] + view[k])
    np.testing.assert_allclose(inside(2), 2 * DENSE[2], rtol=1e-5)
    np.testing.assert_allclose(view[2], DENSE[2], rtol=1e-5)


# One seed, and samples one by one, without axes of length 1: compilers go on with these, and copy


def batched(x):
    return jax.vmap(layer)(x)


def energy(x):
    return jax.vmap(lambda v: jnp.sum(layer(v) ** 2))(x)


SINGLE = {
    "a row": (lambda x: jacobian(layer)(x)[1], X),
    "a column": (lambda x: jacobian(layer)(x)[:, 1], X),
    "a row of a Hessian": (lambda x: hessian(lambda v: jnp.sum(layer(v) ** 2))(x)[1], X),
    "a product": (lambda x: jacobian(layer)(x).mv(x), X),
    "a row of all samples": (lambda x: jacobian(batched, batch_axis=0)(x)[:, 1], np.stack([X] * 5)),
    "all of all samples": (lambda x: jacobian(batched, batch_axis=0)(x)[...], np.stack([X] * 5)),
    "gradients of samples": (lambda x: jacobian(energy, batch_axis=0)(x)[:, 1], np.stack([X] * 5)),
    "Hessians of samples": (lambda x: hessian(energy, batch_axis=0)(x)[...], np.stack([X] * 5)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_arithmetic_has_no_axis_of_length_one(name):
    f, x = SINGLE[name]
    worked = [v.aval for e in equations(jax.make_jaxpr(f)(x).jaxpr) if e.primitive.name in ("mul", "tanh", "sin", "cos")
              for v in e.outvars]  # fmt: skip
    assert worked and not [a for a in worked if jnp.issubdtype(a.dtype, jnp.floating) and 1 in a.shape]


def test_one_line_that_is_all_of_it():
    gradient, tangent = jacobian(lambda x: jnp.sum(layer(x)))(X), jacobian(lambda t: layer(t * X))(np.float32(1))
    for view, key, by in ((gradient, 3, "pullbacks"), (tangent, 3, "pushforwards")):
        assert view.explain(key).passes == 1
        first = view[key]
        assert getattr(view.stats, by) == 1 == view.stats.kernel_calls
        np.testing.assert_array_equal(first, view[...][key])
        assert view.stats.kernel_calls == 1
