"""How a Gram matrix, a norm or a trace would be computed, as an `Explanation`. Nothing is computed.

Knows matrices, and how they are read. Knows nothing of what the reads run.
"""

import math
from dataclasses import replace

from jacobia._operators.gram import has_few_pairs
from jacobia._operators.lines import at_once, fits, is_sparse
from jacobia._read.block import LiveBlock
from jacobia._read.considered import explain
from jacobia._read.explain import Explanation

NAMES = ("gram", "outer", "row_norms", "column_norms", "trace")


def told(J: LiveBlock, name: str, way: str, shape: tuple[int, ...]) -> Explanation:
    """Explain the method of J called `name` (one of `NAMES`).

    Args:
      way: the lines that are summed over, or whose norms are taken: "rows" or "columns" of the block.
      shape: of the result.
    """
    if name == "trace":
        base, note = explain(J, "diagonal"), "the sum of the diagonal"
    elif name in ("gram", "outer") and has_few_pairs(J, way):
        base, note = explain(J, "nonzeros"), f"sums of products of two nonzeros in one {way[:-1]}"
    elif "norms" in name and is_sparse(J):
        base, note = explain(J, "nonzeros"), "sums of squares of nonzeros"
    elif fits(J):
        base, note = explain(J, ...), "computed from all of J at once"
    else:
        lines = f"{at_once(J, way)} {way} at a time"
        base, note = explain(J, ...), f"J does not fit in memory: {lines} are computed, used and dropped"
    nbytes = math.prod(shape) * J._layout.block.dtype.itemsize
    return replace(base, shape=shape, nbytes=nbytes, notes=(f"{name}: {note}", *base.notes))
