"""Functions whose Hessians are tested, some with closed forms.

Each function is defined once, so that all tests of the same case share its kernels.
"""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
from cases import cube

from jacobia import hessian

RNG = np.random.default_rng(17)
W = RNG.normal(size=(5, 4)).astype(np.float32) / 2
X = RNG.normal(size=4).astype(np.float32)
Z = RNG.normal(size=(2, 3)).astype(np.float32)
PARAMS = {"b": RNG.normal(size=2), "w": RNG.normal(size=(2, 3))}
Case = partial(cases.Case, transform=hessian)


# Functions, each defined once, so that a kernel serves every test that reads it


def energy(x):
    return jnp.sum(jnp.sin(jnp.asarray(W, x.dtype) @ x) ** 2)


def energy_hessian(x):
    # d2 sin(z)**2 / dz2 = 2 cos(2 z).
    x, w = np.asarray(x, np.float64), W.astype(np.float64)
    return np.einsum("ki,k,kj->ij", w, 2 * np.cos(2 * (w @ x)), w)


def jnp_energy_hessian(x):
    return jnp.einsum("ki,k,kj->ij", W, 2 * jnp.cos(2 * (W @ x)), W)


def energy_gradient(x):
    w = W.astype(np.float64)
    return np.sin(2 * (w @ np.asarray(x, np.float64))) @ w


def one_element(x):
    return jnp.prod(x)[None] * x[:1]


def one_element_of_two_axes(x):
    return (jnp.sum(x**3) * x[0]).reshape(1, 1)


def scalar(x):
    return jnp.sin(x) * x


def matrix_input(z):
    return jnp.sum(jnp.sin(z) @ z.T)


def no_inputs(x):
    return jnp.sum(x) + 1


def no_outputs(x):
    return jnp.sin(x)[:0]


def no_outputs_of_one_input(x):
    return x[:0] ** 2


def size_one(x):
    return x[0] ** 3


def vector(x):
    return jnp.stack([x[0] * x[1] * x[2], jnp.sin(x[0]) * x[2] ** 2])


def ranks(z):
    return jnp.einsum("ij,kj,i->ik", jnp.sin(z), z, z[:, 0])


def scalar_to_vector(x):
    return jnp.stack([x, x**2, jnp.cos(x)])


def linear(x):
    return jnp.sum(x) * 3


def constant(x):
    return jnp.ones((), x.dtype)


def model(params):
    return jnp.sum(jnp.tanh(params["w"] @ params["w"][0] + params["b"]) ** 2)


def model_of_x(params, x):
    return jnp.sum(jnp.sin(params["w"] @ x) * params["b"]) + params["b"][0] ** 3


def many_outputs(params, x):
    hidden = jnp.sin(params["w"] @ x + params["b"])
    return {"norm": jnp.sum(hidden**2), "pair": (hidden[:1] * x[0], hidden * params["b"])}


def bilinear(x, y):
    return x[0] * jnp.sum(y**2) * x[1]


def with_custom_jvp(x):
    return jnp.sum(cube(x) * x[::-1])


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.cos(x) * u,))


def with_custom_vjp(x):
    return jnp.sum(sine(x) * x[0])


# Rules that call the function again: JAX cannot push forward through them, so only reverse over reverse works.
@jax.custom_vjp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defvjp(lambda x: (softsign(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))


def with_rules_that_call_it_again(x):
    return jnp.sum(softsign(x) ** 2 * x[::-1])


def by_formula(x):
    return jnp.sum((x / (1 + jnp.abs(x))) ** 2 * x[::-1])


@jax.custom_vjp
def exponential(x):
    return jnp.exp(x)


exponential.defvjp(lambda x: (exponential(x), x), lambda x, u: (exponential(x) * u,))


def with_exponential(x):
    return jnp.sum(exponential(x) * x[0])


def exponential_by_formula(x):
    return jnp.sum(jnp.exp(x) * x[0])


def with_scan(x):
    last, _ = jax.lax.scan(lambda c, k: (jnp.sin(c + k * x), None), x, jnp.arange(3, dtype=x.dtype))
    return jnp.sum(last * x)


def with_cond(x):
    return jax.lax.cond(x[0] > 0, lambda v: jnp.sum(v**3), lambda v: -(jnp.sum(v) ** 2), x)


def holomorphic(z):
    return z[0] ** 2 * jnp.exp(z[1]) + 1j * z[1] ** 3


def with_keywords(x, *, shift, power=2):
    return jnp.sum((x + shift) ** power) * x[0]


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


V = RNG.normal(size=3)
CASES = [
    Case("1-D", energy, (X,)),
    Case("one element", one_element, (V,)),
    Case("one element of two axes", one_element_of_two_axes, (V[:2],)),
    Case("0-D", scalar, (V[0],)),
    Case("2-D", matrix_input, (Z,)),
    Case("no inputs", no_inputs, (V[:0],)),
    Case("no outputs", no_outputs, (V,)),
    Case("size 1", size_one, (V[:1],)),
    Case("size 1, no outputs", no_outputs_of_one_input, (V[:1],)),
    Case("vector", vector, (V,)),
    Case("2-D to 2-D", ranks, (Z,)),
    Case("0-D to 1-D", scalar_to_vector, (V[0],)),
    Case("linear", linear, (V,)),
    Case("constant", constant, (V,)),
    Case("tree of inputs", model, (PARAMS,)),
    Case("tree of one argument", model_of_x, (PARAMS, V)),
    Case("tree and another argument", model_of_x, (PARAMS, V), argnums=(0, 1)),
    Case("second argument", bilinear, (V[:2], V), argnums=-1),
    Case("tuple of one argument", bilinear, (V[:2], V), argnums=(0,)),
    Case("both arguments, swapped", bilinear, (V[:2], V), argnums=(1, 0)),
    Case("tree of outputs", many_outputs, (PARAMS, V), argnums=(1,)),
    Case("custom_jvp", with_custom_jvp, (V,)),
    Case("custom_vjp", with_custom_vjp, (V,)),
    Case("rules that call it again", with_rules_that_call_it_again, (V,), modes=("auto", "rev"), same=by_formula),
    Case("both rules call it", with_exponential, (V,), modes=("auto", "rev"), same=exponential_by_formula),
    Case("scan", with_scan, (V[:2],)),
    Case("cond", with_cond, (V,)),
    Case("holomorphic", holomorphic, (V[:2] + 1j * V[1:],), options={"holomorphic": True}),
    Case("keywords", with_keywords, (V,), kwargs={"shift": np.float32([0.5, -1, 2]), "power": 3}),
]
