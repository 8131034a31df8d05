"""Where values are zero whatever the point is: outside a diagonal, outside blocks, behind a known mask.

A mask marks the elements that can be nonzero; it has the shape of the value, and None means all. Computed on demand.
Zero times anything counts as zero, as it does in `columns/`.
Knows equations. Knows nothing of columns or of derivatives.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from jacobia._compat import bind
from jacobia._program.known import Lazy, several
from jacobia._program.moves import MOVES
from jacobia._program.positions import Places, dynamic_places, gather_places, scatter_places
from jacobia._program.wiring import ALL, EACH, linear_in, wiring

# Most products that are looked at to find the zeros of one array.
_STEPS = 10**8

_UNKNOWN = Lazy()
Masks = Sequence[np.ndarray | None]


def results(eqn: Any, masks: Sequence[Lazy | None], known: Sequence[Lazy | None]) -> list[Lazy | None]:
    """The masks of the results of one equation, from the masks of its operands and the operands that are known."""
    rule = _element if wiring(eqn).element else _BY_HOW.get(wiring(eqn).how)
    zero = linear_in(eqn) or range(len(masks))  # operands whose masks are used; of others the values
    masks = [m if k in zero else None for k, m in enumerate(masks)]
    if rule is None or (None in masks if _of_all(eqn) else all(m is None for m in masks)):
        return [None] * len(eqn.outvars)

    def make(*given: Any) -> list:
        own, values = given[: len(masks)], given[len(masks) :]
        empty = all(m is None for m in own) or not all(v.aval.size for v in (*eqn.invars, *eqn.outvars))
        made = [None] * len(eqn.outvars) if empty else rule(eqn, own, values)
        return [None if m is None or m.all() else m for m in made]

    values = [None if k in zero else v for k, v in enumerate(known)]
    args = [_UNKNOWN if v is None else v for v in (*masks, *values)]
    return [*several(make, args, len(eqn.outvars))]


def _of_all(eqn: Any) -> bool:
    # Whether a result is zero only where all operands are.
    return wiring(eqn).element and (not wiring(eqn).linear or wiring(eqn).linear is ALL)


def of_known(value: Lazy) -> Lazy:
    """The mask of a value that is known."""
    return Lazy(make=lambda v: [np.asarray(np.asarray(v) != 0)], args=(value,))


def _full(masks: Masks, eqn: Any) -> list[np.ndarray]:
    return [np.ones(a.aval.shape, bool) if m is None else m for m, a in zip(masks, eqn.invars, strict=True)]


def _element(eqn: Any, masks: Masks, known: Sequence) -> list:
    wired, shape = wiring(eqn), eqn.outvars[0].aval.shape
    if wired.linear is EACH:
        return [np.logical_and.reduce([np.broadcast_to(m, shape) for m in masks if m is not None])]
    if wired.how == "choice" and known[0] is not None:
        which, cases = np.asarray(known[0]).astype(int), _full(masks, eqn)[1:]
        return [np.logical_or.reduce([(which == k) & m for k, m in enumerate(cases)])]
    own = [masks[k] for k in linear_in(eqn) or range(len(masks))]
    given = [np.broadcast_to(m, shape) for m in own if m is not None]
    if len(given) < len(own) or not wired.linear and not _keeps_zero(eqn):
        return [None] * len(eqn.outvars)
    return [np.logical_or.reduce(given)] * len(eqn.outvars)


def _keeps_zero(eqn: Any) -> bool:
    return not any(np.any(np.asarray(out) != 0) for out in bind(eqn, *(np.zeros((), a.aval.dtype) for a in eqn.invars)))


def _pass(eqn: Any, masks: Masks, known: Sequence) -> list:
    return list(masks)


def _move(eqn: Any, masks: Masks, known: Sequence) -> list:
    return [m[0] for m in MOVES[eqn.primitive.name].numbers(eqn, [m[None] for m in _full(masks, eqn)], 1)]


def _sum_over(eqn: Any, masks: Masks, known: Sequence) -> list:
    return [_full(masks, eqn)[0].any(tuple(eqn.params["axes"]))]


def _running_sum(eqn: Any, masks: Masks, known: Sequence) -> list:
    (mask,), axis = _full(masks, eqn), eqn.params["axis"]
    if eqn.params["reverse"]:
        return [np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)]
    return [np.logical_or.accumulate(mask, axis)]


def _columns(eqn: Any, known: Sequence) -> list:
    # Indices by columns, None where they are not known.
    return [None] * eqn.invars[1].aval.shape[-1] if known[1] is None else list(np.moveaxis(np.asarray(known[1]), -1, 0))


def _gather(eqn: Any, masks: Masks, known: Sequence) -> list:
    fill = eqn.params["fill_value"]
    beyond = eqn.params["mode"] == GatherScatterMode.FILL_OR_DROP and (fill is None or fill != 0)
    if beyond and known[1] is None:
        return [None]
    return _read(_full(masks, eqn)[0], gather_places(eqn, _columns(eqn, known)), beyond)


def _dynamic_slice(eqn: Any, masks: Masks, known: Sequence) -> list:
    wide, narrow = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return _read(_full(masks, eqn)[0], dynamic_places(wide, narrow, known[1 : 1 + len(wide)]), False)


def _read(mask: np.ndarray, places: Places, beyond: bool) -> list:
    # `beyond`: whether what is read beyond the end can be nonzero.
    if places.unknown:
        mask = np.broadcast_to(mask.any(tuple(places.unknown), keepdims=True), mask.shape)
    read = mask.reshape(-1)[np.broadcast_to(places.flat, places.narrow)]
    return [np.where(places.inside, read, beyond)]


def _scatter(replace: bool) -> Callable:
    def rule(eqn: Any, masks: Masks, known: Sequence) -> list:
        base, _, update = _full(masks, eqn)
        return _written(base, update, scatter_places(eqn, _columns(eqn, known)), replace)

    return rule


def _dynamic_update_slice(eqn: Any, masks: Masks, known: Sequence) -> list:
    base, update, *_ = _full(masks, eqn)
    return _written(base, update, dynamic_places(base.shape, update.shape, known[2 : 2 + base.ndim]), True)


def _written(base: np.ndarray, update: np.ndarray, places: Places, replace: bool) -> list:
    if places.unknown or not places.sure:
        return [None if update.any() else base]
    inside = np.broadcast_to(places.inside, places.narrow)
    rows, made = np.broadcast_to(places.flat, places.narrow)[inside], base.reshape(-1).copy()
    if replace:
        made[rows] = False
    made[rows[update[inside]]] = True
    return [made.reshape(base.shape)]


def _contraction(eqn: Any, masks: Masks, known: Sequence) -> list:
    contracted, batch = eqn.params["dimension_numbers"]
    ranks = [len(a.aval.shape) for a in eqn.invars]
    labels = [list(range(ranks[0])), list(range(ranks[0], sum(ranks)))]
    for a, b in (*zip(*contracted, strict=True), *zip(*batch, strict=True)):
        labels[1][b] = labels[0][a]
    free = [[k for j, k in enumerate(own) if j not in (*contracted[i], *batch[i])] for i, own in enumerate(labels)]
    out = [*(labels[0][a] for a in batch[0]), *free[0], *free[1]]
    lengths = dict(zip(chain(*labels), chain(*(a.aval.shape for a in eqn.invars)), strict=True))
    if math.prod(lengths.values()) > _STEPS:
        return [None]
    own = [(m.astype(np.float32), names) for m, names in zip(masks, labels, strict=True) if m is not None]
    kept = [k for k in out if any(k in names for _, names in own)]
    met = np.einsum(*chain(*own), kept, optimize=len(own) > 1) > 0  # pyright: ignore
    met = met.reshape([lengths[k] if k in kept else 1 for k in out])
    return [np.broadcast_to(met, eqn.outvars[0].aval.shape)]


# `wiring.how` → rule; elementwise operations have `_element`.
_BY_HOW: dict[str, Callable[[Any, Masks, Sequence], list]] = {
    "pass": _pass,
    "move": _move,
    "read": _gather,
    "read block": _dynamic_slice,
    "write": _scatter(True),
    "write sum": _scatter(False),
    "write difference": _scatter(False),
    "write product": lambda eqn, masks, known: [masks[0]],
    "write block": _dynamic_update_slice,
    "sum over": _sum_over,
    "running sum": _running_sum,
    "contraction": _contraction,
}
