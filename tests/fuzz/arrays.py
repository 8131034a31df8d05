"""Constants, and arrays in the shapes that operations need. Random numbers depend only on generator and shapes."""

import math

import jax.numpy as jnp
import numpy as np

LARGEST = 14  # elements of an array; results are cut to that


def known(rng, *shape, zeros=0.0):
    """A constant without tiny or large elements. Each element is zero with probability `zeros`."""
    values = rng.uniform(0.4, 1.4, shape) * rng.choice([-1.0, 1.0], shape)
    return np.where(rng.random(shape) < zeros, 0.0, values)


def constant(rng, a, *shape, zeros=0.0):
    # NumPy arrays and JAX arrays are different constants of a program.
    array = known(rng, *shape, zeros=zeros).astype(a.dtype)
    return array if rng.random() < 0.5 else jnp.asarray(array)


def vector(a):
    """All elements of an array as a vector, at least one."""
    return a.reshape(-1) if a.size else jnp.concatenate([a.reshape(-1), jnp.ones(1, a.dtype)])


def matrix(a):
    """All elements as a matrix without empty axes."""
    if a.ndim == 2 and a.size:
        return a
    a = vector(a)
    return a.reshape(next(k for k in (3, 2, 1) if a.size % k == 0), -1)


def square(rng, a, side=3):
    """A well-conditioned matrix that depends on a."""
    parts = jnp.resize(jnp.tanh(vector(a)), (side, side))
    return parts * constant(rng, a, side, side, zeros=0.5) * 0.3 + 2 * np.eye(side, dtype=a.dtype)


def some(a, *shape):
    """Elements of a, repeated or cut to fit a shape. Handles lengths of zero."""
    a = vector(a)
    return a[np.arange(math.prod(shape)) % a.size].reshape(shape)


def beside(rng, b, a):
    """b in the shape of a, or in a shape that broadcasts to it: with axes of length 1, or with fewer axes."""
    shape = [n if rng.random() < 0.7 else 1 for n in a.shape]
    if rng.random() < 0.2:
        shape = shape[rng.integers(0, len(shape) + 1) :]
    return some(b, *shape)


def axis_of(rng, a):
    return int(rng.integers(a.ndim))


def ranked(a):
    """a with at least one axis, and no empty axis."""
    return a if a.ndim and a.size else vector(a)


def integers(b, size):
    """Indices that depend on values, in range."""
    return jnp.floor(jnp.abs(5 * vector(b))).astype(int) % size


def along(rng, a, function):
    a = ranked(a)
    return function(a, axis_of(rng, a))
