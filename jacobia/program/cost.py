"""A reading of a program: how many bytes are alive at once while it runs.

An estimate for one seed: every intermediate counts in full from the equation that makes it to the last
one that uses it. The compiler fuses some of them away, so it errs on the careful side.
"""

from typing import Any

from jacobia._compat import Literal
from jacobia.program.walk import subprograms


def _nbytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def peak_bytes(jaxpr: Any) -> int:
    """Bytes of intermediates alive at the fullest moment; inputs are not counted, outputs are."""
    last: dict[Any, int] = {}
    for k, eqn in enumerate(jaxpr.eqns):
        last.update((a, k) for a in eqn.invars if not isinstance(a, Literal))
    last.update((a, len(jaxpr.eqns)) for a in jaxpr.outvars if not isinstance(a, Literal))
    dying: dict[int, int] = {}
    live = peak = 0
    for k, eqn in enumerate(jaxpr.eqns):
        inner = max((peak_bytes(getattr(p, "jaxpr", p)) for p in subprograms(eqn)), default=0)
        for v in eqn.outvars:
            live += _nbytes(v.aval)
            end = last.get(v, k)
            dying[end] = dying.get(end, 0) + _nbytes(v.aval)
        peak = max(peak, live + inner)
        live -= dying.get(k, 0)
    return peak
