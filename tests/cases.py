"""Small functions with everything that a Jacobian must handle: ranks, trees, rules, loops, complex numbers.

Each function is defined once, so that all tests of the same case share its kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reference import blocks_of_samples, central_differences, second_differences

from jacobia import hessian, jacobian

RNG = np.random.default_rng(3)
W = RNG.normal(size=(5, 4))
V = RNG.normal(size=(3, 3))


def draw(*shape):
    return np.asarray(RNG.normal(size=shape))


@dataclass(frozen=True)
class Case:
    """A function, where and how it is differentiated, and the expected result.

    `modes` are the directions that the program allows; `same` is f without its custom rules, for the reference.
    """

    name: str
    f: Callable
    args: tuple
    argnums: int | tuple[int, ...] = 0
    options: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    modes: tuple[str, ...] = ("auto", "fwd", "rev")
    transform: Callable = jacobian
    same: Callable | None = None
    batch_axis: int | None = None

    def __str__(self):
        return self.name

    def args_as(self, dtype):
        """The arguments with floating-point leaves in `dtype`, complex ones in its complex dtype."""

        def cast(leaf):
            if np.iscomplexobj(leaf):
                return leaf.astype(np.result_type(dtype, np.complex64))
            return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf

        return jax.tree.map(cast, self.args)

    def make(self, **options):
        """The transform of f, to be called with `args_as(dtype)` and `kwargs`."""
        own = {} if self.batch_axis is None else {"batch_axis": self.batch_axis}
        return self.transform(self.f, self.argnums, **{**own, **self.options, **options})

    @cache  # noqa: B019 - cases live as long as the tests
    def reference(self):
        f, given = self.same or self.f, {"argnums": self.argnums, **self.kwargs}
        if self.batch_axis is not None:
            return self._of_samples(f, given)
        if self.transform is hessian:
            return second_differences(f, *self.args, **given)
        return central_differences(f, *self.args, where=self.options.get("where"), **given)

    def _of_samples(self, f, given):
        if self.transform is hessian:  # f gives one number a sample: the gradient of their sum holds all gradients
            f = jax.grad(lambda *args, of=f: jnp.sum(of(*args)), self.argnums)
        full = central_differences(f, *self.args, **given)
        ys, y_tree = jax.tree.flatten(jax.eval_shape(f, *self.args))
        k = self.batch_axis
        rows = [
            jax.tree.map(lambda block, y=y: blocks_of_samples(block, k, y.ndim, k), row)
            for y, row in zip(ys, y_tree.flatten_up_to(full), strict=True)
        ]
        return jax.tree.unflatten(y_tree, rows)

    __hash__ = object.__hash__


def weights(array, like):
    # A closed-over constant in the dtype of the argument.
    return jnp.asarray(array, like.dtype)


def tall(x):
    return jnp.tanh(weights(W, x) @ x)


def wide(x):
    return jnp.sin(weights(W.T, x) @ x) * x[:4]


def square(x):
    return jnp.exp(weights(V, x) @ x / 3)


def no_outputs(x):
    return jnp.sin(x)[:0]


def no_inputs(x):
    return jnp.sum(x) * jnp.ones(3, x.dtype)


def one_to_one(x):
    return x**3


def scalar(x):
    return jnp.sin(x) * x


def scalar_to_vector(x):
    return jnp.stack([x, x**2, jnp.cos(x)])


def vector_to_scalar(x):
    return jnp.sum(x**2) * x[0]


def ranks(x):
    return jnp.einsum("ijk,kl->lij", x, weights(V[:2], x))


def network(params, x):
    hidden = jnp.tanh(params["w"] @ x + params["b"])
    return {"hidden": hidden, "norm": jnp.sum(hidden**2), "pair": (x * params["b"][0], hidden[:1])}


def two_inputs(x, y):
    return jnp.outer(jnp.sin(x), y)


@jax.custom_jvp
def cube(x):
    return x**3


@cube.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return cube(x), 3 * x**2 * t


def with_custom_jvp(x):
    return cube(x) * x[::-1]


@jax.custom_vjp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defvjp(lambda x: (softsign(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))


def with_custom_vjp(x):
    return softsign(x)[:2] * 2


def with_while_loop(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) + x), (0, x))[1]


def with_scan(x):
    last, all_ = jax.lax.scan(lambda c, k: (jnp.tanh(c + k * x), c[0]), x, jnp.arange(3, dtype=x.dtype))
    return last, all_


def with_cond(x):
    return jax.lax.cond(x[0] > 0, lambda v: v**2, lambda v: -v, x)


def holomorphic(z):
    return jnp.stack([z[0] * z[1], jnp.exp(z[0]), z[1] ** 2 + 1j * z[0]])


def model(params):
    return params["scale"] * params["table"][params["index"]]


def with_keywords(x, *, shift, power=2):
    return (x + shift) ** power


def piecewise(x):
    return jnp.concatenate([jnp.zeros(1, x.dtype), jnp.where(x > 0, x**2, 0), jnp.ones(1, x.dtype)])


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


PARAMS = {"w": draw(3, 2), "b": draw(3)}
MODEL = {"scale": draw(2), "table": draw(4, 2), "index": np.array([0, 3, 3], np.int32)}

CASES = [
    Case("tall", tall, (draw(4),)),
    Case("wide", wide, (draw(5),)),
    Case("square", square, (draw(3),)),
    Case("no outputs", no_outputs, (draw(3),)),
    Case("no inputs", no_inputs, (draw(0),)),
    Case("size 1", one_to_one, (draw(1),)),
    Case("0-D to 0-D", scalar, (draw(),)),
    Case("0-D to 1-D", scalar_to_vector, (draw(),)),
    Case("1-D to 0-D", vector_to_scalar, (draw(4),)),
    Case("3-D to 3-D", ranks, (draw(2, 1, 2),)),
    Case("pytrees", network, (PARAMS, draw(2))),
    Case("pytrees, two arguments", network, (PARAMS, draw(2)), argnums=(0, 1)),
    Case("second argument", two_inputs, (draw(2), draw(3)), argnums=-1),
    Case("tuple of one argument", two_inputs, (draw(2), draw(3)), argnums=(0,)),
    Case("both arguments", two_inputs, (draw(2), draw(3)), argnums=(1, 0)),
    Case("custom_jvp", with_custom_jvp, (draw(3),)),
    Case("custom_vjp", with_custom_vjp, (draw(3),), modes=("auto", "rev")),
    Case("while_loop", with_while_loop, (draw(2),), modes=("auto", "fwd")),
    Case("scan", with_scan, (draw(2),)),
    Case("cond", with_cond, (draw(3),)),
    Case("holomorphic", holomorphic, (draw(2) + 1j * draw(2),), options={"holomorphic": True}),
    Case("integers left out", model, (MODEL,), options={"where": is_float}),
    Case("keywords", with_keywords, (draw(3),), kwargs={"shift": np.float32([0.5, -1, 2]), "power": 3}),
    Case("constant rows", piecewise, (draw(4),)),
]
