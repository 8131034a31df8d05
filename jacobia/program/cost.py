"""Readings of a program: how many bytes are alive at once while it runs, what one seed costs, what work it is.

Both are estimates from shapes. What a compiler fuses into its neighbours is known only roughly.
"""

from typing import Any, NamedTuple

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


class Work(NamedTuple):
    """What running a program takes: floating-point operations, and bytes read and written."""

    flops: float
    nbytes: float

    def times(self, count: float) -> "Work":
        return Work(count * self.flops, count * self.nbytes)

    def plus(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.nbytes + other.nbytes)


def work(jaxpr: Any, num_seeded: int) -> Work:
    """What depends on the last `num_seeded` inputs: what one more seed takes, where these are the seeds.

    Moving data is no operation. Bytes are those of operations that no compiler fuses, and of the outputs.
    """
    total, outs = Work(0, 0), set(_variables(jaxpr.outvars))
    linear = set(jaxpr.invars[len(jaxpr.invars) - num_seeded :])
    for eqn in jaxpr.eqns:
        ins = _variables(eqn.invars)
        if not any(a in linear for a in ins):
            continue
        linear.update(eqn.outvars)
        inner = list(subprograms(eqn))
        for p in inner:
            body = getattr(p, "jaxpr", p)
            length = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            seeded = sum(a in linear for a in ins[-len(body.invars) :])
            total = total.plus(work(body, min(max(seeded, 1), len(body.invars))).times(length))
        if not inner:
            alone = eqn.primitive.name in _UNFUSED or any(v in outs for v in eqn.outvars)
            own = [a for a in ins if a in linear]  # what all seeds share is read once for all of them
            moved = sum(_nbytes(a.aval) for a in (*own, *eqn.outvars)) if alone else 0
            total = total.plus(Work(flops(eqn), moved))
    return total


_MOVES = {
    "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice", "dynamic_update_slice", "concatenate", "pad",
    "rev", "squeeze", "gather", "scatter", "select_n", "convert_element_type", "copy", "iota", "stop_gradient",
}  # fmt: skip


def flops(eqn: Any) -> float:
    """Floating-point operations of one equation without a program inside."""
    name = eqn.primitive.name
    if name == "dot_general":
        return 2 * _multiplications(eqn)
    if name == "conv_general_dilated":
        kernel, out = eqn.invars[1].aval, eqn.outvars[0].aval
        channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * out.size * kernel.size / max(1, channels)
    if name in _MOVES or not hasattr(eqn.outvars[0].aval, "dtype"):
        return 0
    return max(a.aval.size for a in (*_variables(eqn.invars), *eqn.outvars) if hasattr(a.aval, "size"))


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
