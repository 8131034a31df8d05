"""A mesh that spans several processes: the part of a view that belongs to this process, computed on its own devices.

No process waits for another one to compute rows, so a process that has died does not stop the others.
Knows meshes and points. Knows nothing of files.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jacobia._read.block import LiveBlock
from jacobia._run.point import Linearized
from jacobia._run.spread import Spread


class Share(NamedTuple):
    """The rank of this process among the processes of a mesh, and their number."""

    rank: int
    num: int

    def of(self, total: int) -> tuple[int, int]:
        """The start and the stop of this process's part of `total` places."""
        return self.rank * total // self.num, (self.rank + 1) * total // self.num


def share_of(J: LiveBlock, name: str) -> Share:
    """The share of this process; the whole view where there is one process, or no mesh.

    Args:
      name: of the method that asks, for errors.

    Raises:
      ValueError: this process has no device in the mesh.
    """
    spread = J._origin.blue.spread
    if spread is None:
        return Share(0, 1)
    processes = sorted({d.process_index for d in spread.mesh.devices.flat})
    own = jax.process_index()
    if own not in processes:
        raise ValueError(
            f"J.{name}(): expected a process with devices in the mesh, one of {processes}, got process {own}. Call "
            f"J.{name} in these processes only."
        )
    return Share(processes.index(own), len(processes))


def at_home(J: LiveBlock, share: Share, name: str) -> Linearized:
    """f at the same point, on the devices of this process alone. Arguments as for `share_of`.

    Raises:
      ValueError: several processes, and a view with samples, or an array that is divided among the processes.
    """
    origin, spread = J._origin, J._origin.blue.spread
    if share.num == 1 or spread is None:
        return origin
    if J._layout.lead:
        raise ValueError(
            f"J.{name}(): expected a view without samples where a mesh spans several processes, got shape "
            f"{J._layout.shape}. Read J[...]: its addressable_shards are the parts of this process."
        )
    own = [d for d in spread.mesh.devices.flat if d.process_index == jax.process_index()]
    mesh = Mesh(np.array(own), (spread.axis,))
    blue = replace(origin.blue, spread=Spread(mesh, spread.axis, mesh))
    consts, leaves = ([_here(blue.spread, a, name) for a in arrays] for arrays in (origin.consts, origin.leaves))
    return Linearized.anywhere(blue, consts, leaves)


def _here(spread: Any, array: Any, name: str) -> Any:
    # An array of the point on the devices of this process, which must hold all of it.
    whole = array.is_fully_addressable or array.is_fully_replicated
    if not whole:
        raise ValueError(
            f"J.{name}(): expected arrays that every process has as a whole, got one that is divided along another "
            f"axis of the mesh, {array.sharding.spec}. Use a mesh with one axis."
        )
    return spread.place(np.asarray(array) if array.is_fully_addressable else array.addressable_data(0))
