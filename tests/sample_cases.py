"""Functions of a batch whose samples are differentiated one by one.

Each function is defined once, so that all tests of the same case share its kernels. B = 3 samples, M = 5 outputs, N = 4
inputs.
"""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np

from jacobia import hessian

RNG = np.random.default_rng(23)
W = RNG.normal(size=(5, 4)).astype(np.float32) / 2
X = RNG.normal(size=(3, 4)).astype(np.float32)
T = RNG.normal(size=3).astype(np.float32)
IMAGES = RNG.normal(size=(2, 3, 2)).astype(np.float32)


Case = partial(cases.Case, batch_axis=0)


def weights(like):
    return jnp.asarray(W, like.dtype)


# Functions of a batch, each defined once, so that a kernel serves every test that reads it


def one(x):
    return jnp.tanh(weights(x) @ x)


def layer(x):
    return jnp.tanh(x @ weights(x).T)


def layer_of_columns(x):
    return jnp.tanh(weights(x) @ x)


def narrow(x):
    return jnp.sin(x[:, :2]) * x[:, 2:]


def per_sample_number(x):
    return jnp.sum(jnp.sin(x), axis=1) * x[:, 0]


def kept_axis(x):
    return jnp.sum(x**3, axis=1, keepdims=True)


def of_numbers(t):
    return jnp.stack([t, t**2], axis=1)


def numbers_to_numbers(t):
    return jnp.sin(t) * t


def middle_axis(x):
    return jnp.einsum("ibk,kl->lbi", jnp.sin(x), weights(x)[:2, :2])


def no_outputs(x):
    return x[:, :0] ** 2


def tree_of_samples(p):
    hidden = jnp.tanh(p["x"] @ weights(p["x"]).T + p["t"][:, None])
    return {"hidden": hidden, "norm": jnp.sum(hidden**2, axis=1), "pair": (p["t"] ** 2, p["x"] * p["t"][:, None])}


def two_arguments(x, t):
    return jnp.sin(x) * t[:, None]


def with_parameters(params, x):
    return jnp.tanh(x @ params["w"].T + params["b"])


def holomorphic(z):
    return jnp.stack([z[:, 0] * z[:, 1], jnp.exp(z[:, 0])], axis=1)


def by_scan(x):
    last, _ = jax.lax.scan(lambda c, k: (jnp.sin(c + k * x), None), x, jnp.arange(2, dtype=x.dtype))
    return last


@jax.custom_vjp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defvjp(lambda x: (softsign(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))


def with_custom_vjp(x):
    return softsign(x) * x[:, ::-1]


SAMPLES = {"x": X, "t": T}
PARAMS = {"w": W, "b": W[:, 0]}
CASES = [
    Case("tall", layer, (X,)),
    Case("wide", narrow, (X,)),
    Case("axis -2", layer, (X,), batch_axis=-2),
    Case("axis 1", layer_of_columns, (X.T,), batch_axis=1),
    Case("axis -1", layer_of_columns, (X.T,), batch_axis=-1),
    Case("middle axis", middle_axis, (RNG.normal(size=(3, 2, 2)),), batch_axis=1),
    Case("middle axis, negative", middle_axis, (RNG.normal(size=(3, 2, 2)),), batch_axis=-2),
    Case("a number of each", per_sample_number, (X,)),
    Case("a number of each, kept axis", kept_axis, (X,)),
    Case("numbers to rows", of_numbers, (T,)),
    Case("numbers to numbers", numbers_to_numbers, (T,)),
    Case("no samples", layer, (X[:0],)),
    Case("one sample", layer, (X[:1],)),
    Case("no inputs", by_scan, (X[:, :0],)),
    Case("no outputs", no_outputs, (X,)),
    Case("size 1", by_scan, (X[:1, :1],)),
    Case("images", by_scan, (IMAGES,)),
    Case("trees", tree_of_samples, (SAMPLES,)),
    Case("both arguments", two_arguments, (X, T), argnums=(1, 0)),
    Case("second argument", two_arguments, (X, T), argnums=-1),
    Case("parameters of all samples", with_parameters, (PARAMS, X), argnums=1),
    Case("holomorphic", holomorphic, (X[:, :2] + 1j * X[:, 2:],), options={"holomorphic": True}),
    Case("custom_vjp", with_custom_vjp, (X,)),
]


# One number for each sample, for Hessians


def energy(x):
    return jnp.sum(jnp.sin(x @ weights(x).T) ** 2, axis=1)


def energy_of_one(x):
    return jnp.sum(jnp.sin(weights(x) @ x) ** 2)


def energy_kept(x):
    return energy(x)[:, None]


def energy_of_columns(x):
    return energy(x.T)[None, :]


def cubes_of_images(x):
    return jnp.sum(x**3 * x[:, ::-1], axis=(1, 2))


def second(x):
    # d2 sin(z)**2 / dz2 = 2 cos(2 z).
    x, w = np.asarray(x, np.float64), W.astype(np.float64)
    return np.einsum("ki,k,kj->ij", w, 2 * np.cos(2 * (w @ x)), w)


def gradient(x):
    return jnp.sin(2 * (x @ weights(x).T)) @ weights(x)


HESSIAN_CASES = [
    Case("energy", energy, (X,), transform=hessian),
    Case("energy, kept axis", energy_kept, (X,), transform=hessian),
    Case("energy, axis 1", energy_of_columns, (X.T,), batch_axis=1, transform=hessian),
    Case("energy, axis -1", energy_of_columns, (X.T,), batch_axis=-1, transform=hessian),
    Case("energy of images", cubes_of_images, (IMAGES,), transform=hessian),
    Case("energy of numbers", numbers_to_numbers, (T,), transform=hessian),
    Case("energy of one sample", energy, (X[:1],), transform=hessian),
    Case("energy of none", energy, (X[:0],), transform=hessian),
]
