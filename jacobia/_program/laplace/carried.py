"""A value on its way from the inputs to the outputs, with what its Laplacian is made of.

Knows arrays. Knows no programs.
Shapes: D inputs, R directions (D of them, until fewer will do).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Carried(NamedTuple):
    """A value z, its derivatives along the directions, and its Laplacian.

    `legs`: () where z does not depend on the inputs; one array P of shape (R, *z.shape) where the sum over the inputs
    of second derivatives is that over the directions P_r, P_r; two arrays P, Q where it is that over P_r, Q_r.
    `owner`: of a z each element of which depends on one input alone, the number of that input (-1: on none). The leg is
    then the derivative by that input, (1, *z.shape): no direction is written out.
    """

    value: Any
    legs: tuple = ()
    owner: np.ndarray | None = None
    laplacian: Any = None  # None: zero
    fixed: bool = False  # whether the legs are the same wherever the inputs are

    @property
    def moves(self) -> bool:
        """Whether z depends on the inputs."""
        return bool(self.legs)


def written_out(z: Carried, count: int) -> Carried:
    """The same with all D directions written out."""
    if z.owner is None:
        return z
    return some_of(z, 0, count)


def some_of(z: Carried, start: Any, count: int) -> Carried:
    """The same with so many directions written out, from one on; beyond the last one they are zero."""
    numbers = start + jax.lax.iota(jnp.int32, count)
    if z.owner is None:
        legs = tuple(jnp.take(leg, numbers, axis=0, mode="fill", fill_value=0) for leg in z.legs)
        return z._replace(legs=legs)
    numbers = numbers.reshape((-1,) + (1,) * z.owner.ndim)
    return z._replace(legs=(jnp.where(numbers == z.owner, z.legs[0], 0),), owner=None)


def pushed(push: Any, legs: Sequence[tuple]) -> tuple:
    """Each of the legs of some values through a linear function of a direction, which is vectorized."""
    return tuple(jax.vmap(push)(*leg) for leg in zip(*legs, strict=True))


def added(terms: Sequence) -> Any:
    """The sum of what is there; None: zero."""
    found = [t for t in terms if t is not None]
    return None if not found else sum(found[1:], found[0])
