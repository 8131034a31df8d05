"""How many bytes a read takes at its peak: its kernels, and then assembling the result from known lines.

Kernels are compiled, and nothing is computed.
Knows plans, and the layout of a view. Knows nothing of any particular way.
"""

import math

from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Plan, PlanOfLines
from jacobia._plans.take import some_known
from jacobia._read.layout import Layout
from jacobia._store.keys import Asked


def peak(plan: Plan, layout: Layout, what: Asked | None = None) -> int:
    """The bytes at the peak of a read: those of the plan's kernels, and those of assembling the result.

    Args:
      what: the request of a key; None: all of the block, or an answer that is not lines.
    """
    itemsize, held, most = layout.block.dtype.itemsize, 0, 0
    for part in plan.kernels():
        kernel = part.taken()
        most = max(most, held + kernel.peak)
        held += kernel.result
    after = 0
    if isinstance(plan, PlanOfLines):
        if what is None:
            after = _copies(plan, layout) * math.prod(layout.shape)
        else:
            after = plan.elements(what, layout.order, layout.natural, held // itemsize)
    return max(most, held + after * itemsize) if after else most


def _copies(plan: Plan, layout: Layout) -> int:
    # How many copies of the whole block are made on its way into the view.
    copies = 0 if layout.natural else layout.transposed + (not layout.unfolded)
    put_together = store_of(plan.origin, plan.request.block).whole() is None and some_known(plan.origin, plan.request)
    return copies + put_together
