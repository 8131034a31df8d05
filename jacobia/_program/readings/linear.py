"""A reading of a program: is it linear in its seeds, operation by operation?

The pullback of a `custom_vjp` is whatever its rule says: clipped, normalized, shifted. Only one in which every
operation on the seeds is seen to be linear has products, columns and nonzeros beside its rows.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, inner_consts, scan_split
from jacobia._program.columns.moves import MOVES
from jacobia._program.walk import run, subprograms


class Kind(enum.Enum):
    """What is known of one intermediate."""

    FREE = "does not depend on the seeds"
    ZERO = "zero, whatever the seeds are"
    LINEAR = "linear in the seeds"
    OTHER = "depends on the seeds, not seen to be linear in them"


FREE, ZERO, LINEAR, OTHER = Kind


def outputs_of(jaxpr: Any, consts: Sequence, num_seeds: int) -> list[Kind]:
    """What each output of a program is to its last `num_seeds` inputs, which it is read for.

    Args:
      consts: the values of its constant variables.
    """
    inputs = [FREE] * (len(jaxpr.invars) - num_seeds) + [LINEAR] * num_seeds
    outs = run(jaxpr, [_of_value(c) for c in consts], inputs, _rule)
    return [v if isinstance(v, Kind) else _of_value(v) for v in outs]


def _of_value(value: Any) -> Kind:
    dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
    if isinstance(value, Tracer) or not jnp.issubdtype(dtype, jnp.number):
        return FREE
    return FREE if np.any(np.asarray(value)) else ZERO


def _rule(eqn: Any, values: list) -> list[Kind]:
    kinds = [v if isinstance(v, Kind) else _of_value(v) for v in values]  # literals
    name = eqn.primitive.name
    if name in _CONTROL:
        return _CONTROL[name](eqn, kinds)
    inside = list(subprograms(eqn))
    if len(inside) == 1 and _ends(inside[0]) == (len(kinds), len(eqn.outvars)):
        return _body(inside[0], kinds)
    if name in _EACH:
        return kinds
    if name in _BILINEAR:
        return [_product(kinds[:2], kinds[2:])]
    if name == "bcoo_dot_general":
        return [_product([kinds[0], kinds[2]], [kinds[1]])]
    linear = _linear_in(eqn, len(kinds))
    if linear is None:
        return [OTHER if _moves(kinds) else FREE] * len(eqn.outvars)
    others = [k for i, k in enumerate(kinds) if i not in linear]
    return [OTHER if _moves(others) else _sum([kinds[i] for i in linear])] * len(eqn.outvars)


def _moves(kinds: Sequence[Kind]) -> bool:
    return LINEAR in kinds or OTHER in kinds


def _sum(kinds: Sequence[Kind]) -> Kind:
    # Linear in all of these together. Beside something that is not zero it would be affine.
    found = set(kinds)
    if OTHER in found or {LINEAR, FREE} <= found:
        return OTHER
    return next((k for k in (LINEAR, FREE) if k in found), ZERO)


def _product(factors: Sequence[Kind], others: Sequence[Kind]) -> Kind:
    if ZERO in factors:
        return ZERO
    if OTHER in factors or list(factors).count(LINEAR) > 1 or _moves(others):
        return OTHER
    return LINEAR if LINEAR in factors else FREE


# By primitive: the operands that it is linear in, all of them together, where the others do not depend on the seeds.
_ALL = (
    *(name for name in MOVES if name != "bitcast_convert_type"), "neg", "add", "add_any", "sub", "reduce_sum",
    "cumsum", "real", "imag", "conj", "complex", "reduce_precision", "copy", "copy_p", "reduce_window_sum", "fft",
    "psum", "psum2", "psum_invariant", "pbroadcast", "pvary", "pcast", "all_gather", "all_gather_invariant",
    "all_gather_reduced", "reduce_scatter", "unreduced_psum", "unreduced_reduce_scatter", "all_to_all", "ppermute",
    "sharding_constraint", "mesh_cast", "reshard", "layout_constraint", "name", "expand_dims",
)  # fmt: skip
_LINEAR_IN: dict[str, tuple[int, ...]] = {
    "div": (0,),
    "gather": (0,),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
    "scatter-add": (0, 2),
    "scatter_add": (0, 2),
    "scatter-sub": (0, 2),
    "scatter_sub": (0, 2),
    "scatter-mul": (0,),
    "scatter_mul": (0,),
    "triangular_solve": (1,),
    "tridiagonal_solve": (3,),
    "select_and_scatter_add": (0,),
    "select_and_gather_add": (0,),
    "bcoo_todense": (0,),
    "bcoo_extract": (1,),
}
_BILINEAR = ("mul", "dot_general", "conv_general_dilated", "ragged_dot_general", "ragged_dot")
_EACH = ("optimization_barrier", "device_put")


def _linear_in(eqn: Any, count: int) -> Sequence[int] | None:
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if name == "convert_element_type":
        return (0,) if jnp.issubdtype(out.dtype, jnp.inexact) else None
    if name == "select_n":
        return range(1, count)
    if name == "dynamic_slice":
        return (0,)
    if name == "custom_linear_solve":
        return range(sum(eqn.params["const_lengths"]), count)
    return _LINEAR_IN.get(name, range(count) if name in _ALL else None)


def _ends(program: Any) -> tuple[int, int]:
    jaxpr = getattr(program, "jaxpr", program)
    return len(jaxpr.invars), len(jaxpr.outvars)


def _body(program: Any, kinds: Sequence[Kind]) -> list[Kind]:
    outs = run(getattr(program, "jaxpr", program), [_of_value(c) for c in inner_consts(program)], list(kinds), _rule)
    return [v if isinstance(v, Kind) else _of_value(v) for v in outs]


def _cond(eqn: Any, kinds: list[Kind]) -> list[Kind]:
    if _moves(kinds[:1]):
        return [OTHER] * len(eqn.outvars)
    return [_sum(own) for own in zip(*(_body(b, kinds[1:]) for b in eqn.params["branches"]), strict=True)]


def _scan(eqn: Any, kinds: list[Kind]) -> list[Kind]:
    n, m = scan_split(eqn.params)
    return _around(eqn.params["jaxpr"], kinds[:n], kinds[n : n + m], kinds[n + m :])


def _while(eqn: Any, kinds: list[Kind]) -> list[Kind]:
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carry = _around(eqn.params["body_jaxpr"], kinds[n : n + m], kinds[n + m :], [])
    (goes_on,) = _body(eqn.params["cond_jaxpr"], [*kinds[:n], *carry])
    return [OTHER] * len(carry) if _moves([goes_on]) else carry


def _around(body: Any, consts: list[Kind], carry: list[Kind], each: list[Kind]) -> list[Kind]:
    # Until nothing changes: a sum of kinds only ever goes from ZERO to the others, and from those to OTHER.
    while True:
        outs = _body(body, [*consts, *carry, *each])
        grown = [_sum([c, o]) for c, o in zip(carry, outs, strict=False)]
        if grown == carry:
            return [*grown, *outs[len(carry) :]]
        carry = grown


_CONTROL: dict[str, Callable] = {"cond": _cond, "scan": _scan, "while": _while}
