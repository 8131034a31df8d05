"""Where a mesh spans several processes: which part of a view is this one's, computed on its own devices.

Rows need no other process, so that one that has died holds up nobody's rows.
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
    """The number of this process among those of a mesh, and how many there are."""

    rank: int
    num: int

    def of(self, total: int) -> tuple[int, int]:
        """From where to where its part of so many goes."""
        return self.rank * total // self.num, (self.rank + 1) * total // self.num


def share_of(J: LiveBlock) -> Share:
    """The part of this process; all of it where there is one process, or no mesh."""
    spread = J._origin.blue.spread
    if spread is None:
        return Share(0, 1)
    processes = sorted({d.process_index for d in spread.mesh.devices.flat})
    own = jax.process_index()
    if own not in processes:
        raise ValueError(
            f"J.blocks(): expected a process with devices in the mesh, one of {processes}, got process {own}. Call it "
            "in those alone."
        )
    return Share(processes.index(own), len(processes))


def at_home(J: LiveBlock, share: Share) -> Linearized:
    """f at the same point on the devices of this process alone."""
    origin, spread = J._origin, J._origin.blue.spread
    if share.num == 1 or spread is None:
        return origin
    if J._layout.lead:
        raise ValueError(
            "J.blocks(): expected a view without samples where a mesh spans several processes, got shape "
            f"{J._layout.shape}. Read J[...], whose parts are its addressable_shards."
        )
    own = [d for d in spread.mesh.devices.flat if d.process_index == jax.process_index()]
    mesh = Mesh(np.array(own), (spread.axis,))
    blue = replace(origin.blue, spread=Spread(mesh, spread.axis, mesh))
    consts, leaves = ([_here(blue.spread, a) for a in arrays] for arrays in (origin.consts, origin.leaves))
    return Linearized.anywhere(blue, consts, leaves)


def _here(spread: Any, array: Any) -> Any:
    # Every process has all of an array of the point: it is whole along the axis.
    whole = array.is_fully_addressable or array.is_fully_replicated
    if not whole:
        raise ValueError(
            "J.blocks(): expected arrays that every process has as a whole, got one that is divided along another axis "
            f"of the mesh, {array.sharding.spec}. Use a mesh with one axis."
        )
    return spread.place(np.asarray(array) if array.is_fully_addressable else array.addressable_data(0))
