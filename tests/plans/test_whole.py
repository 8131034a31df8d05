"""All of a block without seeds: chosen if it is far cheaper, and right wherever it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from reference import assert_close, is_block, views

from jacobia import Pattern, hessian, jacobian
from jacobia._plans import whole as _whole
from jacobia._plans import whole_kernel as _way
from jacobia._plans.accumulated import accumulated

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(11)
WIDE = RNG.normal(size=(2048, 256)).astype(np.float32) / 16
X = RNG.normal(size=256).astype(np.float32)


@pytest.fixture
def always(monkeypatch, new_programs):
    """Use nonzeros whenever that is possible."""
    monkeypatch.setattr(_whole, "_WAYS", {"accumulate": accumulated})
    monkeypatch.setattr(_whole, "WORTH_LOOKING", -1.0)
    monkeypatch.setattr(_whole, "BETTER", float("inf"))


@pytest.mark.parametrize("case", [c for c in CASES if c.modes == ("auto", "fwd", "rev")], ids=str)
def test_every_case_that_way(case, always):
    fresh = lambda *args, **kwargs: case.f(*args, **kwargs)  # noqa: E731 - f itself may be known by its identity
    J = jacobian(fresh, case.argnums, **case.options)(*case.args_as("float32"), **case.kwargs)
    blocks = [b for b in jax.tree.leaves(case.reference(), is_leaf=is_block) if b is not None]
    for view, block in zip(views(J), blocks, strict=True):
        way = view.plan.way
        assert_close(view[...], block)
        if np.any(block) and not jnp.issubdtype(view.dtype, jnp.complexfloating):
            assert way == "nonzeros" and view.stats[:6] == (view.matrix.shape[0], 0, 0, 0, 0, 1)


def test_a_large_stencil_takes_no_seeds_and_remembers_all_of_it():
    jac = jacobian(lambda x: jnp.sin(x) * jnp.roll(x, 1))
    for x in (np.linspace(-1, 1, 2048, dtype=np.float32), np.linspace(0, 3, 2048, dtype=np.float32)):
        by_hand = np.diag(np.cos(x) * np.roll(x, 1)) + np.roll(np.diag(np.sin(x)), -1, axis=1)
        J = jac(x)
        assert J.plan.way == "nonzeros"
        np.testing.assert_allclose(J[...], by_hand, rtol=1e-4, atol=1e-5)
        assert J.stats[:6] == (2048, 0, 0, 0, 0, 1)
        np.testing.assert_allclose(J[7], by_hand[7], rtol=1e-4, atol=1e-5)
        assert J.stats.kernel_calls == 1


def test_inside_jit_and_through_grad(always):
    def of(w):
        return lambda x: jnp.tanh(w @ x) * x[0]

    w, x = WIDE[:5, :4], X[:4]
    expected = jax.jacfwd(of(w))(x)
    assert_close(jax.jit(lambda x: jacobian(of(w))(x)[...])(x), expected)
    assert_close(jax.jit(lambda w, x: jacobian(of(w))(x)[...])(w, x), expected)
    norm = lambda jac: lambda x: jnp.sum(jac(x)[...] ** 2)  # noqa: E731
    whole = lambda x: jnp.sum(jax.jacfwd(of(w))(x) ** 2)  # noqa: E731
    assert_close(jax.grad(norm(jacobian(of(w))))(x), jax.grad(whole)(x))
    batch = np.stack([x, 2 * x])
    assert_close(jax.vmap(lambda x: jacobian(of(w))(x)[...])(batch), jax.vmap(jax.jacfwd(of(w)))(batch))


def test_what_was_read_before_is_not_computed_again(always):
    J = jacobian(lambda x: jnp.sin(x) * x[1])(X[:4])
    J[2]
    assert J.plan.way == "rows" and J.plan.passes == 3
    J[...]
    assert J.stats.pullbacks == 4


def test_other_constants_are_another_walk(always):
    def masked(mask):
        return lambda x: mask * x**2

    first, second = np.array([1.0, 0, 2, 0], np.float32), np.array([0, 3.0, 0, 1.0], np.float32)
    x = X[:4]
    for mask in (first, second, first):
        J = jacobian(masked(mask))(x)
        assert J.plan.way == "nonzeros"
        assert_close(J[...], np.diag(2 * x * mask))


def test_a_hessian_that_way(always):
    f = lambda x: jnp.sum((x[1:] - x[:-1] ** 2) ** 2)  # noqa: E731
    H = hessian(f)(X[:6])
    assert H.plan.way == "nonzeros"
    assert_close(H[...], jax.hessian(f)(X[:6]))
    assert H.stats.kernel_calls == 1


# What does not depend on x


LINEAR, BENT = (RNG.normal(size=s).astype(np.float32) for s in ((5, 4), (3, 4)))


def partly_linear(first, second):
    return lambda x: jnp.concatenate([second @ (first @ x), jnp.tanh(BENT @ x)])


def by_hand(first, second, x):
    return np.concatenate([second @ first, (1 - np.tanh(BENT @ x) ** 2)[:, None] * BENT])


@pytest.fixture
def remembering(always, monkeypatch):
    monkeypatch.setattr(_way, "_MANY", 1)


def test_rows_that_do_not_depend_on_x_are_taken_over_from_point_to_point(remembering):
    other = LINEAR @ LINEAR.T
    jac = jacobian(partly_linear(LINEAR, other))
    for k, x in enumerate((X[:4], 2 * X[:4], -X[:4])):
        J = jac(x)
        np.testing.assert_allclose(J[...], by_hand(LINEAR, other, x), rtol=1e-4, atol=1e-5)
        assert J.stats.constant_rows == (5 if k else 0)
        assert J._origin.blue.found.get("whole", 0)._split.flops >= 2 * 5 * 5 * 4


def test_never_those_of_another_program(remembering):
    for scale in (1, 2, 3):
        other = scale * LINEAR @ LINEAR.T
        jac = jacobian(partly_linear(LINEAR, other))
        for x in (X[:4], 2 * X[:4]):
            np.testing.assert_allclose(jac(x)[...], by_hand(LINEAR, other, x), rtol=1e-4, atol=1e-4)


def test_never_those_of_other_arrays_of_the_same_program(remembering):
    stacked = np.stack([LINEAR @ LINEAR.T, 3 * LINEAR @ LINEAR.T])
    at = np.stack([X[:4], X[:4]])
    jac = jax.vmap(lambda w, x: jacobian(partly_linear(LINEAR, w))(x)[...])
    for w, found in zip(stacked, jac(stacked, at), strict=True):
        np.testing.assert_allclose(found, by_hand(LINEAR, w, X[:4]), rtol=1e-4, atol=1e-4)
    view = jax.jit(lambda w, x: jacobian(partly_linear(LINEAR, w))(x))
    for w in stacked:
        np.testing.assert_allclose(view(w, X[:4])[...], by_hand(LINEAR, w, X[:4]), rtol=1e-4, atol=1e-4)


def test_what_was_remembered_and_is_gone_is_computed_again(remembering):
    other = LINEAR @ LINEAR.T
    jac = jacobian(partly_linear(LINEAR, other))
    J = jac(X[:4])
    assert J[...].shape == (8, 4)
    for a in J._origin.blue.found.get("whole", 0)._remembered:
        a.delete()
    np.testing.assert_allclose(jac(X[:4])[...], by_hand(LINEAR, other, X[:4]), rtol=1e-4, atol=1e-5)


def test_nothing_is_remembered_where_it_saves_nothing(always):
    J = jacobian(partly_linear(LINEAR, LINEAR @ LINEAR.T))(X[:4])
    assert J[...].shape == (8, 4)
    assert J._origin.blue.found.get("whole", 0)._split is None  # too few operations


# Through a narrow part

NARROW = [RNG.normal(size=s).astype(np.float32) / np.sqrt(s[1]) for s in ((12, 20), (3, 12), (12, 3), (25, 12))]


def narrow(x):
    for w in NARROW:
        x = jnp.tanh(w @ x)
    return x


def narrow_by_hand(x):
    full, x = np.eye(len(x)), np.asarray(x, np.float64)
    for w in NARROW:
        x = np.tanh(w @ x)
        full = (1 - x**2)[:, None] * (w @ full)
    return full


def test_a_product_of_two_thin_matrices():
    J = jacobian(narrow, mode="waist")(X[:20])
    assert J.plan.way == "waist" and "through 3 numbers" in J.plan.why
    np.testing.assert_allclose(J[...], narrow_by_hand(X[:20]), atol=1e-5)
    assert J.stats[:6] == (25, 0, 0, 0, 0, 1)
    told = jacobian(narrow, mode="waist")(2 * X[:20]).explain()
    assert told.density is None and told.plans[0].way == "waist"
    fresh = jacobian(narrow, mode="waist")(X[:20])
    np.testing.assert_allclose(fresh[3:5], narrow_by_hand(X[:20])[3:5], atol=1e-5)
    assert fresh.stats.pullbacks == 2


def test_it_is_taken_by_itself_where_it_pays(monkeypatch):
    monkeypatch.setattr(_whole, "WORTH_LOOKING", 100.0)
    weights = [jnp.ones(s) for s in ((100, 200), (2, 100), (100, 2), (200, 100))]

    def narrower(x):
        for w in weights:
            x = jnp.tanh(w @ x)
        return x

    assert jacobian(narrower)(jnp.ones(200)).plan.way == "waist"


def test_a_product_inside_transformations():
    jac = jacobian(narrow, mode="waist")
    np.testing.assert_allclose(jax.jit(lambda x: jac(x)[...])(X[:20]), narrow_by_hand(X[:20]), atol=1e-5)
    both = jax.vmap(lambda x: jac(x)[...])(np.stack([X[:20], 2 * X[:20]]))
    np.testing.assert_allclose(both[1], narrow_by_hand(2 * X[:20]), atol=1e-5)
    grad = jax.grad(lambda x: jnp.sum(jac(x)[...] ** 2))(X[:20])
    expected = jax.grad(lambda x: jnp.sum(jax.jacfwd(narrow)(x) ** 2))(X[:20])
    np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-5)


def test_trees_and_hessians_through_a_narrow_part():
    def f(p, x):
        return {"a": narrow(p["w"] * x), "b": x[:2]}

    J = jacobian(f, mode="waist")({"w": X[:20]}, X[20:40])["a"]["w"]
    np.testing.assert_allclose(J[...], narrow_by_hand(X[:20] * X[20:40]) * X[20:40], atol=1e-5)
    g = lambda x: jnp.sum(jnp.sin(NARROW[1] @ (NARROW[0] @ x)))  # noqa: E731
    H = hessian(g, mode="waist")(X[:20])
    assert H.plan.way == "waist"
    np.testing.assert_allclose(H[...], jax.hessian(g)(X[:20]), atol=1e-5)


clipped = jax.custom_vjp(lambda x: x)
clipped.defvjp(lambda x: (x, None), lambda _, u: (jnp.clip(u, -1, 1),))

# mode, f, options → what is said of it
REFUSED = {
    "no waist": ("waist", jnp.sin, {}, "expected an f of one dtype with a waist .* got one without"),
    "complex": ("accumulate", lambda z: z * (1 + 0j), {"holomorphic": True}, "expected a real f, got complex64"),
    "by Python": ("accumulate", jnp.sin, {"jit": False}, "expected an f that is compiled, got jit=False"),
    "a pattern": ("waist", jnp.sin, {"sparsity": Pattern.from_dense(np.eye(4))}, "expected sparsity='auto', got a Pat"),
    "a rule": ("accumulate", clipped, {}, "expected an f with a linear pullback, got a custom_vjp"),
    "large": ("accumulate", jnp.sin, {"memory_limit": 100}, "expected a result .*=100 bytes, got one of 64 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mode_that_f_does_not_allow(case):
    mode, f, options, said = REFUSED[case]
    z = X[:4].astype(np.complex64) if "holomorphic" in options else X[:4]
    jac = jacobian(f, mode=mode, **options)
    assert jac(z)[1].shape == (4,)
    with pytest.raises(ValueError, match=rf"jacobian\(mode='{mode}'\): {said}.*Set mode='auto'"):
        jac(z)[...]


def test_samples_have_no_mode_of_their_own():
    with pytest.raises(ValueError, match=r"expected one matrix, got samples of shape \(3,\)"):
        jacobian(jax.vmap(jnp.sin), batch_axis=0, mode="accumulate")(np.ones((3, 4), np.float32))[...]


@pytest.mark.parametrize(
    "option", [{"mode": "fwd"}, {"mode": "rev"}, {"chunk_size": 2}, {"sparsity": "dense"}], ids=str
)
def test_who_says_how_gets_it(always, option):
    J = jacobian(jnp.sin, **option)(X[:4])
    assert J.plan.way in ("rows", "columns")
    J[...]
    assert J.stats.pullbacks + J.stats.pushforwards == 4


def test_small_functions_are_not_looked_into(monkeypatch):
    monkeypatch.setattr(_whole, "_WAYS", {})
    J = jacobian(lambda x: jnp.tanh(WIDE[:64, :64] @ x))(X[:64])
    assert J.plan.way == "columns"
    J[...]


def test_a_dense_network_goes_on_by_seeds():
    hidden = [RNG.normal(size=s).astype(np.float32) / 16 for s in ((256, 256), (256, 256), (256, 256))]

    def network(x):
        for w in hidden:
            x = jnp.tanh(w @ x)
        return x

    assert jacobian(network)(X).plan.way in ("rows", "columns")


def test_an_array_that_f_closes_over_and_that_is_gone_is_named():
    w = jnp.linspace(1, 2, 3000)
    J = jacobian(lambda x: w * (jnp.roll(x, 1) - x) * jnp.sin(x) * jnp.cos(x))(jnp.ones(3000))
    w.delete()
    with pytest.raises(ValueError, match="an array that f closes over, which has been deleted"):
        J[...]
