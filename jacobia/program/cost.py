"""Two readings of a program: how many bytes are alive at once while it runs, and what one seed costs.

Both are estimates from shapes. What a compiler fuses into its neighbours is known only roughly.
"""

from typing import Any

from jacobia._compat import Literal
from jacobia.program.walk import subprograms

# Operations that read and write memory of their own. The others run inside the loops of their neighbours.
_UNFUSED = {
    "dot_general", "conv_general_dilated", "sort", "fft", "gather", "scatter", "scatter-add", "triangular_solve",
    "cholesky", "lu", "qr", "eigh", "svd", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin",
    "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "reduce_window", "select_and_scatter_add", "custom_lin",
}  # fmt: skip

# Fused too, but with a branch for each element: as dear as a pass.
_BRANCHING = {"pad", "concatenate"}

# What an operation inside a fused loop costs, in units of one pass over memory.
_FUSED = 0.25


def _nbytes(aval: Any) -> int:
    return aval.size * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def peak_bytes(jaxpr: Any) -> int:
    """Bytes of intermediates alive at the fullest moment; inputs are not counted, outputs are.

    Every intermediate counts in full from the equation that makes it to the last one that uses it. The compiler
    fuses some of them away, so this errs on the careful side.
    """
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


def written_bytes(jaxpr: Any) -> int:
    """Bytes of the answers of operations that are not fused into their neighbours."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = sum(written_bytes(getattr(p, "jaxpr", p)) for p in subprograms(eqn))
        own = sum(_nbytes(v.aval) for v in eqn.outvars) if eqn.primitive.name in _UNFUSED else 0
        total += inner or own
    return total


def seed_cost(jaxpr: Any, num_seeded: int, transposed: bool) -> float:
    """What one more seed costs, in elements read or written; for comparing the two directions of one program.

    Args:
      jaxpr: a program whose last `num_seeded` inputs are the seeds; what does not depend on them runs once.
      transposed: whether the answers are laid out across, as columns are: what was written in one order is then
        read and written again in the other.
    """
    linear = set(jaxpr.invars[len(jaxpr.invars) - num_seeded :])
    eqns = []
    for eqn in jaxpr.eqns:
        if any(a in linear for a in eqn.invars if not isinstance(a, Literal)):
            linear.update(eqn.outvars)
            eqns.append(eqn)
    outs = [a for a in jaxpr.outvars if not isinstance(a, Literal) and a in linear]
    cost, written, behind = 0.0, set(), set()  # values in memory; values made from such
    for eqn in _alive(eqns, set(outs)):
        size, ins = sum(v.aval.size for v in eqn.outvars), _variables(eqn.invars)
        if inner := list(subprograms(eqn)):
            cost += sum(_body_cost(eqn, p, [a in linear for a in ins]) for p in inner)
        elif eqn.primitive.name in _UNFUSED:
            cost += size + sum(a.aval.size for a in ins if a in linear) + _FLOP * _multiplications(eqn)
        else:
            cost += (1 if eqn.primitive.name in _BRANCHING else _FUSED) * size
            behind.update(eqn.outvars if any(a in behind for a in ins) else ())
            continue
        written.update(eqn.outvars)
        behind.update(eqn.outvars)
    cost += sum(a.aval.size for a in outs if a not in written)
    return cost + (sum(a.aval.size for a in outs if a in behind) if transposed else 0)


def _variables(atoms: Any) -> list:
    return [a for a in atoms if not isinstance(a, Literal)]


def _alive(eqns: list, needed: set) -> list:
    alive = []
    for eqn in reversed(eqns):
        if any(v in needed for v in eqn.outvars):
            needed.update(_variables(eqn.invars))
            alive.append(eqn)
    return alive[::-1]


# A multiplication inside a matrix product, in units of one element read from memory.
_FLOP = 1 / 16


def _multiplications(eqn: Any) -> int:
    if eqn.primitive.name != "dot_general":
        return 0
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    total = eqn.outvars[0].aval.size
    for axis in contracted:
        total *= shape[axis]
    return total


def _body_cost(eqn: Any, inner: Any, linear: list[bool]) -> float:
    # Inputs of a body are those of the equation, from the back: constants in front may have been taken out.
    jaxpr = getattr(inner, "jaxpr", inner)
    length = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    seeded = sum(linear[-len(jaxpr.invars) :])
    return length * seed_cost(jaxpr, min(max(seeded, 1), len(jaxpr.invars)), False)
