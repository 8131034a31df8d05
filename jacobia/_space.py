"""The leaves of a tree seen as one flat vector: sizes, offsets, names for messages, and slices of its basis.

Knows shapes. Never makes a whole identity matrix: a seed is one element of the basis, made from its number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jacobia._errors import MaterializationError

# Elements, rows, columns and entries are numbered with 32 bits: without x64 JAX narrows wider numbers, and they wrap
# around.
MOST = 2**31 - 1


@dataclass(frozen=True)
class Space:
    """Leaves that are read as one flat vector of length `size`."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    paths: tuple[str, ...] = field(compare=False)  # names of the leaves, as a caller would write them

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(s) for s in self.shapes)

    @cached_property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def is_numbered(self) -> bool:
        """Whether 32 bits are enough to number its elements."""
        return self.size <= MOST

    def __len__(self) -> int:
        return len(self.shapes)

    def pick(self, which: Sequence[int]) -> "Space":
        """The space of some of the leaves."""
        return Space(
            tuple(self.shapes[k] for k in which),
            tuple(self.dtypes[k] for k in which),
            tuple(self.paths[k] for k in which),
        )

    def basis(self, index: Any) -> list[jax.Array]:
        """Element `index` of the standard basis, leaf by leaf. `index` may be traced.

        Raises:
          MaterializationError: there are more elements than numbers of 32 bits, and `index` would wrap around.
        """
        if not self.is_numbered:
            raise MaterializationError(
                f"rows or columns: expected at most {MOST} elements, the limit of 32-bit numbers, got {self.size} in "
                f"{', '.join(self.paths)}. Use J.mv and J.vm, or differentiate a part of them at a time."
            )
        if self.size == 1:  # the only seed is 1: as a constant, so that a compiler can simplify
            parts = zip(self.shapes, self.dtypes, self.sizes, strict=True)
            return [jnp.ones(s, d) if n else jnp.zeros(s, d) for s, d, n in parts]
        seeds, offset = [], 0
        for shape, dtype, size in zip(self.shapes, self.dtypes, self.sizes, strict=True):
            ids = jax.lax.iota(jnp.int32, size) + offset
            seeds.append((ids == index).astype(dtype).reshape(shape))
            offset += size
        return seeds

    def zeros(self, lead: tuple[int, ...] = ()) -> list[jax.Array]:
        return [jnp.zeros(lead + s, d) for s, d in zip(self.shapes, self.dtypes, strict=True)]


@dataclass(frozen=True)
class Batch:
    """The independent samples of a batch: how many there are, and along which axis of each leaf."""

    size: int
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


def to_front(leaves: Sequence, axes: Sequence[int]) -> list:
    """Samples on the first axis of every leaf."""
    return [jnp.moveaxis(a, k, 0) for a, k in zip(leaves, axes, strict=True)]


def to_place(leaves: Sequence, axes: Sequence[int]) -> list:
    """Samples from the first axis to where f has them."""
    return [jnp.moveaxis(a, 0, k) for a, k in zip(leaves, axes, strict=True)]
