"""A value carried through a program, with its derivatives along directions and its Laplacian.

Knows arrays. Knows no programs.
Shapes: D inputs, R directions (R = D until a narrow place allows fewer).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Carried(NamedTuple):
    """A value z, its derivatives along the directions, and its Laplacian.

    `legs`: the derivatives. () if z does not depend on the inputs; one array P of shape (R, *z.shape) if a Laplacian is
    the sum over r of second derivatives along P_r, P_r; two arrays P, Q if it is the sum along P_r, Q_r.
    `owner`: given if each element of z depends on one input only: the number of that input (-1: on none). The one leg,
    of shape (1, *z.shape), is then the derivative by that input: the D directions are not written out.
    """

    value: Any
    legs: tuple = ()
    owner: np.ndarray | None = None
    laplacian: Any = None  # None: zero
    fixed: bool = False  # whether the legs are the same at every point

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
    """The same with `count` directions written out, from number `start` on; those beyond the last one are zero."""
    numbers = start + jax.lax.iota(jnp.int32, count)
    if z.owner is None:
        legs = tuple(jnp.take(leg, numbers, axis=0, mode="fill", fill_value=0) for leg in z.legs)
        return z._replace(legs=legs)
    numbers = numbers.reshape((-1,) + (1,) * z.owner.ndim)
    return z._replace(legs=(jnp.where(numbers == z.owner, z.legs[0], 0),), owner=None)


def pushed(push: Any, legs: Sequence[tuple]) -> tuple:
    """The legs of some values pushed through a linear function of one direction, vectorized over all directions."""
    return tuple(jax.vmap(push)(*leg) for leg in zip(*legs, strict=True))


def added(terms: Sequence) -> Any:
    """The sum of the terms, where None is zero."""
    found = [t for t in terms if t is not None]
    return None if not found else sum(found[1:], found[0])
