"""Operations with rules of their own: (generator of constants, array, array) → array."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .arrays import some, vector

# Rules of the pushforward


@jax.custom_jvp
def turned(x):
    return jnp.sin(x)


turned.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0] * 2))


@jax.custom_jvp
def moved(x):
    return jnp.sin(x)


moved.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0][::-1] * 2))


@jax.custom_jvp
def weighted(x, y):
    return x * y


@weighted.defjvp
def _(primals, tangents):
    (x, y), (s, t) = primals, tangents
    return weighted(x, y), s * y + 3 * t * x


# Rules of the pullback alone: JAX has no pushforward


@jax.custom_vjp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defvjp(lambda x: (softsign(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))


@jax.custom_vjp
def mixed(x, y):
    return x * y


mixed.defvjp(lambda x, y: (x * y, (x, y)), lambda xy, u: (u * xy[1], 3 * u[::-1] * xy[0]))


@jax.custom_vjp
def ruled_by_loop(x):
    return jnp.sin(x)


ruled_by_loop.defvjp(
    lambda x: (jnp.sin(x), x),
    lambda x, u: (lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * jnp.cos(x)), (0, u))[1],),
)


@jax.custom_vjp
def ruled_by_callback(x):
    return jnp.sin(x)


ruled_by_callback.defvjp(
    lambda x: (jnp.sin(x), x),
    lambda x, u: (u * jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"),),
)


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, u: (jnp.clip(u, -0.7, 0.7),))


@jax.custom_vjp
def guided(x):
    return jax.nn.relu(x)


guided.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, u: (jnp.where((x > 0) & (u > 0), u, 0),))


@jax.custom_vjp
def squashed(x):
    return jnp.sin(x)


squashed.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.tanh(u) * jnp.cos(x),))


RULES = {
    "rule": lambda rng, a, b: turned(a),
    "rule that moves": lambda rng, a, b: moved(vector(a)),
    "rule of two": lambda rng, a, b: weighted(a, some(b, *a.shape)),
}

# JAX has no pushforward of these,
REVERSE_ONLY = {
    "pullback": lambda rng, a, b: softsign(a),
    "pullback of two": lambda rng, a, b: mixed(vector(a), some(b, vector(a).size)),
    "pullback by loop": lambda rng, a, b: ruled_by_loop(a),
    "pullback by callback": lambda rng, a, b: ruled_by_callback(a),
}

# and the pullbacks of these are not linear.
NOT_LINEAR = {
    "clip pullback": lambda rng, a, b: clipped(a),
    "guide pullback": lambda rng, a, b: guided(a),
    "squash pullback": lambda rng, a, b: squashed(a),
}
