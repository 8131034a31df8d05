"""Readings of a program: how many bytes are alive at once while it runs, what one seed costs, how much work it does.

All are estimates from shapes. Which operations a compiler fuses is known only roughly.
Knows shapes, and how operations are wired. Knows no values, and no machine.
"""

from collections.abc import Set
from typing import Any, NamedTuple

from jacobia._compat import Literal, scan_split
from jacobia._program.flow import around, dependent, marks
from jacobia._program.moves import FUSED
from jacobia._program.walk import subprograms
from jacobia._program.wiring import wiring


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
    """Bytes of the results of operations that are not fused with their neighbors."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = sum(written_bytes(getattr(p, "jaxpr", p)) for p in subprograms(eqn))
        own = sum(_nbytes(v.aval) for v in eqn.outvars) if wiring(eqn).fused is None else 0
        total += inner or own
    return total


def seed_cost(jaxpr: Any, num_seeded: int, transposed: bool, taken: Set[int] = frozenset()) -> float:
    """What one more seed costs, in elements read or written; for comparing plans for one program.

    Args:
      jaxpr: a program whose last `num_seeded` inputs are the seeds; only equations that depend on them are counted.
      transposed: whether the results are stored transposed, as columns are: what was written in one order is then
        read and written again in the other.
      taken: products (`seed.products_met`) that are replaced by reading a row of the matrix.
    """
    return _seed_cost(jaxpr, _last(jaxpr, num_seeded), taken, transposed)


def _seed_cost(jaxpr: Any, seeded: list[bool], taken: Set[int], transposed: bool = False) -> float:
    eqns, linear = _dependent(jaxpr, seeded)
    outs = [a for a in _variables(jaxpr.outvars) if a in linear]
    cost, written, behind = 0.0, set(), set()  # values in memory; values made from values in memory
    for eqn in _alive(eqns, set(outs)):
        made, ins = [v for v in eqn.outvars if v in linear], [a for a in _variables(eqn.invars) if a in linear]
        size = sum(v.aval.size for v in made)
        if inner := _inside(eqn):
            cost += _length(eqn) * sum(_seed_cost(body, flags, taken) for body, flags in _bodies(eqn, inner, linear))
        elif wiring(eqn).fused is None and id(eqn) not in taken:  # reading a row is fused
            cost += size + sum(a.aval.size for a in ins) + _beyond_memory(eqn)
        else:
            cost += (wiring(eqn).fused or FUSED) * size
            behind.update(made if any(a in behind for a in ins) else ())
            continue
        written.update(made)
        behind.update(made)
    cost += sum(a.aval.size for a in outs if a not in written)
    return cost + (sum(a.aval.size for a in outs if a in behind) if transposed else 0)


def _last(jaxpr: Any, count: int) -> list[bool]:
    return [k >= len(jaxpr.invars) - count for k in range(len(jaxpr.invars))]


def _dependent(jaxpr: Any, seeded: list[bool]) -> tuple[list, set]:
    # The equations and values that depend on the seeds.
    linear = dependent(jaxpr, seeded)
    return [eqn for eqn in jaxpr.eqns if any(marks(eqn, linear))], linear


def _inside(eqn: Any) -> list:
    # The programs inside, without the update function of a scatter.
    return [] if wiring(eqn).fused is None else list(subprograms(eqn))


def _bodies(eqn: Any, inner: list, linear: set) -> list[tuple[Any, list[bool]]]:
    # The programs inside, and which of their inputs depend on the seeds. The inputs of a body match those of the
    # equation from the last one backwards: the two may differ in the constants in front.
    ins = marks(eqn, linear)
    made = []
    for program in inner:
        body = getattr(program, "jaxpr", program)
        missing = len(body.invars) - len(ins)
        flags = [False] * missing + ins[max(0, -missing) :]
        if eqn.primitive.name == "scan":
            flags = around(body, flags, *scan_split(eqn.params))
        elif eqn.primitive.name == "while" and len(body.outvars) == len(eqn.outvars):
            flags = around(body, flags, len(body.invars) - len(eqn.outvars), len(eqn.outvars))
        made.append((body, flags))
    return made


def _length(eqn: Any) -> int:
    return eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1


class Work(NamedTuple):
    """What running a program takes: floating-point operations, and bytes read and written."""

    flops: float
    nbytes: float

    def times(self, count: float) -> "Work":
        return Work(count * self.flops, count * self.nbytes)

    def plus(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.nbytes + other.nbytes)


def work(jaxpr: Any, num_seeded: int, taken: Set[int] = frozenset()) -> Work:
    """The work that depends on the last `num_seeded` inputs; if these are the seeds, the work of one more seed.

    Moving data counts no operations. Bytes are those of operations that a compiler does not fuse, and of the outputs.
    """
    return _work(jaxpr, _last(jaxpr, num_seeded), taken)


def _work(jaxpr: Any, seeded: list[bool], taken: Set[int]) -> Work:
    total, outs = Work(0, 0), set(_variables(jaxpr.outvars))
    eqns, linear = _dependent(jaxpr, seeded)
    for eqn in eqns:
        inner = _inside(eqn)
        for body, flags in _bodies(eqn, inner, linear):
            total = total.plus(_work(body, flags, taken).times(_length(eqn)))
        if not inner:
            alone = wiring(eqn).fused is None or any(v in outs for v in eqn.outvars)
            own = [a for a in _variables(eqn.invars) if a in linear]  # what all seeds share is read once for all
            moved = sum(_nbytes(a.aval) for a in (*own, *eqn.outvars)) if alone else 0
            row = eqn.outvars[0].aval if id(eqn) in taken else None
            total = total.plus(Work(flops(eqn), moved) if row is None else Work(row.size, 2 * _nbytes(row)))
    return total


def flops(eqn: Any) -> float:
    """Floating-point operations of one equation without a program inside."""
    name = eqn.primitive.name
    if name == "dot_general":
        return 2 * _multiplications(eqn)
    if name == "conv_general_dilated":
        kernel, out = eqn.invars[1].aval, eqn.outvars[0].aval
        channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * out.size * kernel.size / max(1, channels)
    if not wiring(eqn).computes or not hasattr(eqn.outvars[0].aval, "dtype"):
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


# What these operations cost besides reading and writing, in units of copying one element of an array (0.13 ns).
# Measured on a CPU with two cores, each vectorized over 256 seeds.

# A multiplication inside a matrix product: 0.01 ns if it is large, 0.06 ns for 64 products with a 16 × 16 matrix.
_FLOP = 1 / 16
# A multiplication inside a convolution: 0.03 ns with 16 channels, 0.2 ns between 3 and 8, 4 ns with one.
_CONVOLVED = 1
# An element of the updates of a scatter, which are written one by one: 1 ns.
_SCATTERED = 8
# A row of the operand of a sum along the last axis, which is the vectorized one: 0.9 ns an element if that axis has
# length 4 and is summed, 1.5 ns if it has length 2 and another axis is summed, 0.3 ns for length 16, 0.2 ns for 64.
_SUMMED = 16
# An element of a Fourier transform (1 ns), and of a cumulative sum (3 ns).
_TRANSFORMED = 8
_CUMULATED = 16


def _beyond_memory(eqn: Any) -> float:
    name, size = eqn.primitive.name, sum(v.aval.size for v in eqn.outvars)
    if name == "dot_general":
        return _FLOP * _multiplications(eqn)
    if name == "conv_general_dilated":
        return _CONVOLVED * flops(eqn) / 2
    if name.startswith("scatter"):
        return _SCATTERED * eqn.invars[2].aval.size
    if name.startswith("reduce_") and "axes" in eqn.params:
        summed = eqn.invars[0].aval
        last = next((n for n in reversed(summed.shape) if n > 1), 1)
        return _SUMMED * summed.size / last if summed.size > size else 0
    if name == "fft":
        return _TRANSFORMED * size
    return _CUMULATED * size if name.startswith("cum") else 0


def _multiplications(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    total = eqn.outvars[0].aval.size
    for axis in contracted:
        total *= shape[axis]
    return total
