"""Callables that carry state: each call sees their current state, and compiles nothing again."""

import dataclasses
import functools
import math
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

import jacobia
from jacobia import hessian, jacobian
from jacobia._call.state import carries_state

X = np.linspace(0.1, 1, 3, dtype=np.float32)
W = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


class Model:
    """Weights that may be replaced or changed in place. Counts how often it is called."""

    scale = 1.0

    def __init__(self, w=W):
        self.w, self.runs = jnp.asarray(w), 0

    def __call__(self, x):
        self.runs += 1
        return jnp.tanh(self.w @ x)

    def method(self, x):
        return self(x)

    @functools.singledispatchmethod
    def dispatched(self, x):
        return self(x)

    half = functools.partialmethod(lambda self, factor, x: factor * self(x), 0.5)

    @classmethod
    def of_class(cls, x):
        return cls.scale * x**2

    @staticmethod
    def of_nobody(x):
        return x**2


# How a function of one argument is made of a model. The function is kept while the weights of the model change.
KEPT = {
    "bound method": lambda m: m.method,
    "callable object": lambda m: m,
    "__call__": lambda m: m.__call__,
    "partial of a method": lambda m: functools.partial(m.method),
    "partial of an object": lambda m: functools.partial(lambda model, x: model(x), m),
    "partial by keyword": lambda m: functools.partial(lambda x, model: model(x), model=m),
    "nested partials": lambda m: functools.partial(functools.partial(lambda k, f, x: k * f(x), 2), m.method),
    "tree_util.Partial": lambda m: jax.tree_util.Partial(m.method),
    "partialmethod": lambda m: m.half,
    "checkpoint": lambda m: jax.checkpoint(m.method),
    "jacfwd": lambda m: jax.jacfwd(m.method),
    "custom_jvp": lambda m: _ruled(m),
    "wraps": lambda m: functools.wraps(m.method)(lambda x: m(x)),
    "singledispatch": lambda m: functools.singledispatch(m.method),
    "jacobian of jacobian": lambda m: jacobian(m.method, lazy=False),
    "frozen dataclass that holds it": lambda m: Frozen((m.method,)),
    "partial with it in a tuple": lambda m: functools.partial(lambda fs, x: fs[0](x), (m,)),
}


def _ruled(m):
    f = jax.custom_jvp(m.method)
    f.defjvp(lambda primals, tangents: jax.jvp(m.__call__, primals, tangents))
    return f


@dataclasses.dataclass(frozen=True)
class Frozen:
    fs: tuple

    def __call__(self, x):
        return self.fs[0](x)


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_each_call_sees_the_weights_of_now(make):
    model = Model()
    f = make(model)
    jac = jacobian(f)
    for step in range(3):
        model.w = jnp.asarray(W) * (1 + step)
        expected = jax.jacrev(f)(X)
        assert_close(jac(X)[...], expected)
        assert_close(jac(X)[1], expected[1])
        assert_close(jacobian(f)(X)[0], expected[0])


def test_a_batched_model():
    model = Model()
    f = jax.vmap(model)
    batch = np.stack([X, 2 * X])
    kept, mapped = jacobian(f, batch_axis=0), jax.vmap(jacobian(model))
    for step in range(3):
        model.w = jnp.asarray(W) * (1 + step)
        expected = jax.vmap(jax.jacrev(model))(batch)
        assert_close(kept(batch)[...], expected)
        assert_close(mapped(batch)[:, 1], expected[:, 1])


def test_a_hessian_sees_the_weights_of_now():
    model = Model()
    f = lambda x: jnp.sum(model(x))  # noqa: E731
    hess = hessian(functools.partial(lambda model, x: jnp.sum(model(x)), model))
    for step in range(3):
        model.w = jnp.asarray(W) * (1 + step)
        assert_close(hess(X)[...], jax.hessian(f)(X))


def test_training_compiles_once_and_learns(compiles):
    model = Model()
    jac = jacobian(model.method)
    seen = []
    for step in range(4):
        J = jac(X)
        rows, value = J[...], J.value
        assert_close(rows, (1 - np.tanh(model.w @ X) ** 2)[:, None] * np.asarray(model.w))
        seen.append(np.asarray(rows))
        np.asarray(jac(X)[0]), np.asarray(J.mv(X))
        model.w = model.w - 0.1 * value[:, None] * X
        if step == 0:
            before = compiles.count
    assert compiles.count == before
    assert len({a.tobytes() for a in seen}) == 4


@pytest.mark.usefixtures("empty_cache")
def test_nonzeros_see_the_weights_of_now():
    # Only the first weights are searched for zeros. Later steps compile nothing.
    model = Model()
    jac = jacobian(model)
    for step in range(7):
        assert_close(np.asarray(jac(X).nonzeros()[0]).reshape(2, 3), jax.jacrev(model)(X))
        model.w = jnp.asarray(W / (2 + step))
    assert jacobia.cache_info().compiles <= 5


@pytest.mark.parametrize("kind", ["array", "list", "dict"])
def test_what_a_partial_holds_may_change_in_place(kind):
    held = {"array": W.copy(), "list": [W.copy()], "dict": {"w": W.copy()}}[kind]
    inside = {"array": lambda h: h, "list": lambda h: h[0], "dict": lambda h: h["w"]}[kind]
    f = functools.partial(lambda h, x: jnp.tanh(jnp.asarray(inside(h)) @ x), held)
    frozen = Frozen((functools.partial(f),))
    jac = jacobian(f), jacobian(frozen)
    for _ in range(3):
        for j in jac:
            assert_close(j(X)[...], jax.jacrev(f)(X))
        inside(held)[...] *= 2


def test_state_of_a_class():
    jac = jacobian(Model.of_class)
    try:
        for scale in (1.0, 3.0):
            Model.scale = scale
            assert_close(jac(X)[1], jax.jacrev(Model.of_class)(X)[1])
    finally:
        Model.scale = 1.0


@pytest.mark.parametrize("call", ["position", "keyword", "named static"])
def test_a_callable_among_the_arguments(call):
    model = Model()
    jac = jacobian(lambda x, g: g(x), static_argnums=1 if call == "named static" else ())
    for step in range(3):
        model.w = jnp.asarray(W) * (1 + step)
        J = jac(X, g=model.method) if call == "keyword" else jac(X, model.method)
        assert_close(J[...], jax.jacrev(model)(X))


def test_a_predicate_may_change_its_mind():
    class Chosen:
        size = 3

        def __call__(self, leaf):
            return leaf.size == self.size

    chosen, point = Chosen(), {"a": X, "b": X[:2]}
    jac = jacobian(lambda p: jnp.sum(p["a"]) * p["b"], where=chosen)
    assert jac(point)["b"] is None and jac(point)["a"].shape == (2, 3)
    chosen.size = 2
    assert jac(point)["a"] is None and jac(point)["b"].shape == (2, 2)


# Traced once: what cannot change


def runs(f, count):
    # How much `count` grows over further Jacobians, after a first one has traced f.
    jac = jacobian(f)
    np.asarray(jac(X)[0])
    before = count()
    for scale in (2, 3):
        np.asarray(jac(scale * X)[0])
        np.asarray(jacobian(f)(scale * X)[...])
    return count() - before


def counted():
    def f(x, w=None):
        f.calls += 1
        return jnp.tanh(jnp.asarray(W) @ x)

    f.calls = 0
    return f


@dataclasses.dataclass(frozen=True)
class Linear:
    w: jax.Array
    f: object
    name: str = "linear"
    kind: object = jnp.float32

    def __call__(self, x):
        return self.f(x)

    def method(self, x):
        return self(x)


ONCE = {
    "def": lambda f: f,
    "partial": lambda f: functools.partial(f, w=jnp.asarray(W)),
    "partial of numbers": lambda f: functools.partial(f, w=(1, 2.5, "name", None, jnp.float32, np.float32(3))),
    "jit": lambda f: jax.jit(f),
    "jit of a method": lambda f: jax.jit(Linear(jnp.asarray(W), f).method),
    "vmap": lambda f: functools.wraps(f)(lambda x: f(x)),
    "checkpoint": lambda f: jax.checkpoint(f),
    "jacobian": lambda f: jacobian(f, lazy=False),
    "frozen": lambda f: Linear(jnp.asarray(W), f),
    "method of a frozen one": lambda f: Linear(jnp.asarray(W), f).method,
    "partial of a frozen one": lambda f: functools.partial(Linear(jnp.asarray(W), f)),
}


@pytest.mark.parametrize("make", ONCE.values(), ids=ONCE)
def test_what_cannot_change_is_traced_once(make):
    f = counted()
    assert runs(make(f), lambda: f.calls) == 0


def test_what_may_change_is_traced_at_every_call():
    model = Model()
    assert runs(model, lambda: model.runs) == 4


def test_closures_and_globals_are_looked_at_once():
    # The documented behavior, as in `jit`.
    model = Model()
    f = lambda x: model(x)  # noqa: E731
    first = jacobian(f)(X)[...]
    model.w = 2 * model.w
    assert_close(jacobian(f)(X)[...], first)
    assert_close(jacobian(lambda x: model(x))(X)[...], jax.jacrev(model)(X))


def test_a_jitted_method_is_what_jit_makes_of_it():
    model = Model()
    f = jax.jit(model.method)
    f(X)
    model.w = 2 * model.w
    assert_close(jacobian(f)(X)[...], jax.jacrev(f)(X))


class Loose(Frozen):
    """Inherits from a frozen class but is not frozen itself: instances may get further attributes."""

    def __call__(self, x):
        return self.factor * x


def test_the_heir_of_a_frozen_class_is_not_frozen():
    f = Loose(())
    for factor in (1.0, 2.0):
        f.factor = factor
        assert_close(jacobian(f)(X)[...], factor * np.eye(3))


def test_a_module_that_refuses_assignment_by_a_method_of_its_own(monkeypatch):
    class Module:
        pass

    @dataclasses.dataclass
    class Own(Module):
        w: object

        def __call__(self, x):
            return x

    assert carries_state(Own(1.0))
    monkeypatch.setitem(sys.modules, "equinox", types.SimpleNamespace(Module=Module))
    assert not carries_state(Own(jnp.ones(2))) and not carries_state(Own((jnp.tanh, jax.nn.relu)))
    assert carries_state(Own([1])) and carries_state(Own(np.ones(2))) and carries_state(jax.vmap(Own([1])))


@pytest.mark.parametrize(
    "f, expected",
    [
        (jnp.sin, False),
        (jnp.add, False),
        (jax.nn.gelu, False),
        (np.sin, False),
        (math.sin, False),
        (jnp.ones(3).dot, False),
        ([1].append, True),
        (np.ones(3).dot, True),
        (Model, True),
        (Model.of_nobody, False),
        (Model.of_class, True),
        (functools.lru_cache(Model().method), True),
        (functools.partial(jnp.sum, axis=[0]), True),
        (functools.partial(jnp.sum, axis=(0,), dtype=np.float32), False),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),
)
def test_which_callables_carry_state(f, expected):
    assert carries_state(f) is expected
