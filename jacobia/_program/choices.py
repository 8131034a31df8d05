"""The few values that an integer may have, whatever the point is: a clipped index, a remainder, an argmax.

An elementwise operation is run on each of the possible values, so `i // 2` needs no rule and wraps as integers do.
Computed on demand. Floating-point numbers are not followed: a compiler may round them differently.
Knows equations. Knows nothing of columns or of derivatives.
Shapes: C values of a choice, S the shape of the integer.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import bind
from jacobia._program.known import Between, Few, Lazy
from jacobia._program.moves import MOVES
from jacobia._program.wiring import wiring

# Most values that are followed, and most entries of all of them if they are more than `_WAYS`: a later operation may
# leave fewer, as `i // 100` does.
_VALUES, _SMALL = 1 << 8, 1 << 14
# Most entries of up to `_WAYS` values.
_ENTRIES = 1 << 21
# Integers up to this size are exact as floating-point numbers.
_EXACT = 1 << 53
# Most ways to read or write that are told apart.
_WAYS = 64

_UNKNOWN = Lazy()


def results(eqn: Any, operands: Sequence[Lazy | None]) -> list[Lazy | None]:
    """The values that each result of one equation may have: a `Few`, a `Between`, or None for any value.

    Args:
      operands: the same for each operand; an array if it is known.
    """
    args = [_UNKNOWN if v is None else v for v in operands]
    return [
        Lazy(make=lambda *given, k=k: [_choice(eqn, given, k)], args=args) if _is_integer(v.aval) else None
        for k, v in enumerate(eqn.outvars)
    ]


def _is_integer(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and (jnp.issubdtype(dtype, np.integer) or dtype == np.dtype(bool))


def _choice(eqn: Any, operands: Sequence, k: int) -> Few | Between | None:
    how, aval = wiring(eqn).how, eqn.outvars[k].aval
    given: list = [
        v if v is None or isinstance(v, (Few, Between)) else Few(np.asarray(v)[None].astype(a.aval.dtype))
        for v, a in zip(operands, eqn.invars, strict=True)
    ]
    found = None
    if how == "pass":
        return given[k]
    if all(isinstance(v, Few) for v in given):
        if wiring(eqn).element:
            same = not wiring(eqn).computes and [a.aval.dtype for a in eqn.invars] == [aval.dtype]
            found = given[0] if same else _of_each(eqn, given, k)
        elif how == "move":
            found = _moved(eqn, given, k)
        elif how == "read block" or how == "read" and eqn.invars[1].aval.shape[-1] == 1:
            # Elements change places, so choices of the same number no longer belong together: new sources.
            found = _of_each(eqn, [Few(v.values) for v in given], k)
    if found is None:
        found = _bounded(eqn, given) or _all_of(aval.dtype)
    return _numbered(found, aval) if isinstance(found, Between) else found


def _too_many(count: int, size: int) -> bool:
    return count > _VALUES or count * size > (_ENTRIES if count <= _WAYS else _SMALL)


def _of_each(eqn: Any, given: Sequence[Few], k: int) -> Few | None:
    # All combinations of the values of all sources.
    count, aval = {id(v.source): len(v.values) for v in given}, eqn.outvars[k].aval
    total = math.prod(count.values())
    if _too_many(total, max(a.aval.size for a in (*eqn.invars, *eqn.outvars))):
        return None
    numbers = dict(zip(count, np.unravel_index(np.arange(total), tuple(count.values())), strict=True))
    values = np.asarray(jax.vmap(lambda *a: bind(eqn, *a))(*(v.values[numbers[id(v.source)]] for v in given))[k])
    sources = {id(v.source): v.source for v in given if len(v.values) > 1}
    if len(sources) == 1:
        return Few(values, *sources.values())
    return Few(np.unique(values, axis=0) if aval.size else values[:1])


def _moved(eqn: Any, given: Sequence[Few], k: int) -> Few | None:
    total = max(len(v.values) for v in given)
    if _too_many(total, max(a.aval.size for a in (*eqn.invars, *eqn.outvars))):
        return None
    planes = [v.values[np.minimum(np.arange(total), len(v.values) - 1)] for v in given]
    return Few(np.asarray(MOVES[eqn.primitive.name].numbers(eqn, planes, 0)[k]))


def _all_of(dtype: Any) -> Between:
    if dtype == np.dtype(bool):
        return Between(np.zeros((), bool), np.ones((), bool))
    return Between(np.asarray(jnp.iinfo(dtype).min), np.asarray(jnp.iinfo(dtype).max))


def _bounds(v: Few | Between | None, dtype: Any) -> Between:
    return Between(v.values.min(0), v.values.max(0)) if isinstance(v, Few) else v or _all_of(dtype)


def _bounded(eqn: Any, given: Sequence) -> Between | None:
    # Operations with bounded results, even if an operand may have any value.
    name = eqn.primitive.name
    if name == "argmax" or name == "argmin":
        count = math.prod(eqn.invars[0].aval.shape[a] for a in eqn.params["axes"])
        return Between(np.asarray(0), np.asarray(count - 1))
    if not all(_is_integer(a.aval) for a in eqn.invars):
        return None
    own = [_bounds(v, a.aval.dtype) for v, a in zip(given, eqn.invars, strict=True)]
    if name == "max" or name == "min":
        pick = np.maximum if name == "max" else np.minimum
        return Between(*(pick(a, b) for a, b in zip(*own, strict=True)))
    if name == "clamp":
        return Between(*(np.minimum(np.maximum(x, low), high) for low, x, high in zip(*own, strict=True)))
    if name == "rem" and isinstance(given[1], Few) and given[1].values.all():
        most = np.abs(given[1].values.astype(object)).max(0) - 1
        return Between(np.where(own[0].least < 0, -most, 0), most)
    return None


def _numbered(v: Between, aval: Any) -> Few | Between:
    # The values one by one, if they are few.
    least, most = (np.asarray(a).astype(float) for a in v)
    if not aval.size or max(np.abs(least).max(), np.abs(most).max()) > _EXACT:
        return v
    count = int(min((most - least).max(), _VALUES)) + 1
    if _too_many(count, aval.size):
        return v
    values = np.broadcast_to(least, aval.shape) + np.arange(count).reshape(-1, *[1] * len(aval.shape))
    return Few(np.minimum(values, most).astype(aval.dtype))


# Ways to read or write


class Way(NamedTuple):
    """One choice of values for all indices of an operation."""

    columns: list[np.ndarray | None]  # None: any value
    valid: np.ndarray | None  # False where an earlier way has the same values; None: this is the only way


def ways(columns: Sequence[np.ndarray | Few | None], lengths: Sequence[int]) -> list[Way]:
    """The ways in which indices may be chosen, at most `_WAYS`; `columns` has one entry per indexed axis.

    Args:
      lengths: of these axes. An index that may be every number below the length is treated as unknown.

    >>> [(own, valid.tolist()) for (own,), valid in ways([Few(np.array([2, 0, 2]))], [3])]
    [(array(0), True), (array(2), True)]
    """
    found = [None if isinstance(c, Between) else c for c in columns]
    groups: dict[int, list[int]] = {}
    for k, c in enumerate(found):
        if isinstance(c, Few):
            groups.setdefault(id(c.source), []).append(k)
    told = {g: _told_apart([found[k].values for k in own]) for g, own in groups.items()}  # pyright: ignore
    for g, (_, valid) in sorted(told.items(), key=lambda item: -len(item[1][1])):
        anywhere = valid.all() and len(valid) >= math.prod(lengths[k] for k in groups[g])
        if anywhere and len(valid) > 1 or math.prod(len(valid) for _, valid in told.values()) > _WAYS:
            del told[g]
            for k in groups[g]:
                found[k] = None
    made = []
    for numbers in np.ndindex(*(len(valid) for _, valid in told.values())):
        own, valid = list(found), None
        for (g, (values, here)), n in zip(told.items(), numbers, strict=True):
            for k, v in zip(groups[g], values, strict=True):
                own[k] = np.asarray(v[n])
            valid = here[n] if valid is None else valid & here[n]
        made.append(Way(own, valid))  # pyright: ignore
    return made if len(made) > 1 else [made[0]._replace(valid=None)]


def _told_apart(columns: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    # For columns that are chosen together, (C, *S) each: their values, and where these are the first of equal ones.
    rank, *others = columns
    for c in others:  # number the pairs
        pairs = np.stack([np.unique(a, return_inverse=True)[1].reshape(-1) for a in (rank, c)], axis=-1)
        rank = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(c.shape)
    order = np.argsort(rank, axis=0, kind="stable")
    rank = np.take_along_axis(rank, order, 0)
    valid = np.concatenate([np.ones_like(rank[:1], bool), rank[1:] != rank[:-1]])
    order = np.take_along_axis(order, np.argsort(~valid, axis=0, kind="stable"), 0)[: int(valid.sum(0).max(initial=1))]
    valid = np.sort(~valid, axis=0)[: len(order)]
    return [np.take_along_axis(c, order, 0) for c in columns], ~valid
