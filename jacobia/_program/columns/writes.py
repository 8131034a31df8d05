"""Carries that steps only write to: the loop returns what each step writes, and one write behind it does all of them.

`o.at[i].set(x[i] * x[i - 1])` carries o from step to step, though no step reads what another one has written. Without o
the steps carry nothing to each other, and are walked side by side, however many there are.
Knows programs of steps, and positions. Knows no columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import Literal, bind
from jacobia._program.columns.apply import is_tangent
from jacobia._program.columns.counters import Loop, known_results
from jacobia._program.flow import around
from jacobia._program.known import Lazy
from jacobia._program.positions import scatter_places
from jacobia._program.wiring import wiring

# Most elements that all steps write, and most for each element of the carry; the larger limit holds.
_ELEMENTS, _TIMES = 1 << 16, 4
# Shorter loops are walked with the carry, which takes less time than to find out where they write.
_LONG = 512
# Operations that read a carry, and that write to it.
_READ, _REPLACED = {"read", "read block"}, {"write", "write block"}
_ADDED = {"write sum": lax.scatter_add, "write difference": lax.scatter_sub}
_WRITTEN = _REPLACED | set(_ADDED)


@dataclass(frozen=True, eq=False)
class _Write:
    """One write of a step, into the carry or into zeros that are added to the carry."""

    eqn: Any
    adds: bool

    @property
    def update(self) -> Any:
        return self.eqn.invars[1 if wiring(self.eqn).how == "write block" else 2]

    @property
    def indices(self) -> list:
        """One array of indices, or a start for each axis."""
        return list(self.eqn.invars[2:] if wiring(self.eqn).how == "write block" else self.eqn.invars[1:2])


@dataclass(frozen=True, eq=False)
class _Carry:
    """A carry that steps only read and write at given places, or leave unchanged."""

    place: int  # among what is carried
    writes: list[_Write] = field(default_factory=list)
    reads: list[tuple[int, Any]] = field(default_factory=list)  # number of writes in its step before it, equation
    gone: list = field(default_factory=list)  # equations that are taken out of the step


def around_writes(w: Any, loop: Loop, walk: Callable[[Loop], list]) -> list:
    """The results of a loop.

    Args:
      walk: gives the results of a loop whose carries all stay in it.
    """
    found = _written(loop) if len(loop.order) >= _LONG else []
    while found:
        rest = _Rest(loop, found)
        known = known_results(rest.loop)
        kept = [c for c in found if rest.may_be_behind(c, known)]
        if len(kept) == len(found):
            return rest.behind(w, walk(rest.loop))
        found = kept
    return walk(loop)


def _written(loop: Loop) -> list[_Carry]:
    # Carried tangents that steps read and write at places, and use for nothing else.
    jaxpr, n, m = loop.program[0], len(loop.consts), len(loop.start)
    moving = around(loop.body, list(map(is_tangent, loop.inputs)), n, m)[n:]
    users: dict = {}
    for eqn in jaxpr.eqns:
        for a in eqn.invars:
            if not isinstance(a, Literal):
                users.setdefault(a, []).append(eqn)
    results = [a for a in jaxpr.outvars if not isinstance(a, Literal)]
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    zero = partial(_is_zero, loop, made=made)
    found = []
    for k in range(m):
        carry = _chain(k, jaxpr.invars[n + k], jaxpr.outvars[k], users, results, made, zero) if moving[k] else None
        total = 0 if carry is None else len(loop.order) * sum(v.update.aval.size for v in carry.writes)
        if carry is not None and total <= max(_ELEMENTS, _TIMES * loop.avals[k].size):
            found.append(carry)
    return found


def _chain(
    place: int, state: Any, end: Any, users: dict, results: Sequence, made: dict, zero: Callable
) -> _Carry | None:
    carry = _Carry(place)
    if state is end:  # unchanged
        return carry
    while state is not end:
        write, gone = None, []
        for eqn in users.get(state, ()):
            if wiring(eqn).how in _READ and eqn.invars[0] is state and state not in eqn.invars[1:]:
                carry.reads.append((len(carry.writes), eqn))
            elif write is None and (found := _as_write(eqn, state, users, results, made, zero)) is not None:
                write, gone = found
            else:
                return None
        if write is None or state in results:
            return None
        carry.writes.append(write)
        carry.gone.extend(gone)
        state = gone[0].outvars[0]
    return carry if results.count(end) == 1 and end not in users else None


def _as_write(
    eqn: Any, state: Any, users: dict, results: Sequence, made: dict, zero: Callable
) -> tuple[_Write, list] | None:
    # An equation that writes into a state, or adds to it zeros that were written into; and the equations to take out.
    how = wiring(eqn).how
    if how in _WRITTEN:
        own = eqn.invars[0] is state and state not in eqn.invars[1:]
        return (_Write(eqn, how in _ADDED), [eqn]) if own else None
    if how != "sum" or len(eqn.invars) != 2 or eqn.invars[0] is eqn.invars[1]:
        return None
    (other,) = (a for a in eqn.invars if a is not state)
    write = None if isinstance(other, Literal) else made.get(other)
    if write is None or wiring(write).how not in _WRITTEN or len(users[other]) > 1 or other in results:
        return None
    return (_Write(write, True), [eqn, write]) if zero(write.invars[0]) else None


def _is_zero(loop: Loop, v: Any, made: dict) -> bool:
    # Constants are looked at only here: a walk that has used a value can't be used for another value.
    if v in made:
        eqn = made[v]
        return eqn.primitive.name == "broadcast_in_dim" and isinstance(a := eqn.invars[0], Literal) and not a.val
    consts = loop.program[0].invars[: len(loop.consts)]
    given = loop.consts[consts.index(v)] if v in consts else None
    if given is None or is_tangent(given):
        return given is not None and not getattr(given, "width", 1)
    known = given.known if jnp.issubdtype(v.aval.dtype, jnp.inexact) else None
    return isinstance(known, Lazy) and not known.value().any()


class _Rest:
    """A loop without some of its carries: they become constants, and each step returns what it would write to them."""

    def __init__(self, loop: Loop, carries: Sequence[_Carry]):
        self._whole, self._carries, self._length = loop, carries, len(loop.order)
        jaxpr, n, m = loop.program[0], len(loop.consts), len(loop.start)
        places = [c.place for c in carries]
        self._kept = [k for k in range(m) if k not in places]
        gone = {id(eqn) for c in carries for eqn in c.gone}
        first = {id(eqn): jaxpr.invars[n + c.place] for c in carries for _, eqn in c.reads}
        eqns = []
        for eqn in jaxpr.eqns:
            if id(eqn) in first:  # reads the carry as it was before all steps
                eqns.append(eqn.replace(invars=[first[id(eqn)], *eqn.invars[1:]]))
            elif id(eqn) not in gone:
                eqns.append(eqn)
        carried, each = jaxpr.invars[n : n + m], jaxpr.invars[n + m :]
        invars = [*jaxpr.invars[:n], *(carried[k] for k in places), *(carried[k] for k in self._kept), *each]
        told = [a for c in carries for a in _told(c)]
        outvars = [*(jaxpr.outvars[k] for k in self._kept), *jaxpr.outvars[m:], *told]
        body = jaxpr.replace(eqns=eqns, invars=invars, outvars=outvars)
        own = [jax.ShapeDtypeStruct((self._length, *a.aval.shape), a.aval.dtype) for a in told]
        avals = [*(loop.avals[k] for k in self._kept), *loop.avals[m:], *own]
        start = [loop.start[k] for k in self._kept]
        self.loop = replace(
            loop, body=body, consts=[*loop.consts, *(loop.start[k] for k in places)], start=start, avals=avals
        )

    def _own(self, carry: _Carry, results: Sequence) -> list[tuple[list, Any]]:
        # From the results: for each write of a carry (indices, update), then for each read (indices, None).
        rest = iter(results[len(results) - sum(len(_told(c)) for c in self._carries) :])
        for c in self._carries:
            own = [([next(rest) for _ in v.indices], next(rest)) for v in c.writes]
            own += [([next(rest) for _ in eqn.invars[1:]], None) for _, eqn in c.reads]
            if c is carry:
                return own
        raise KeyError(carry)

    def may_be_behind(self, carry: _Carry, known: Sequence) -> bool:
        """Whether no read finds what an earlier step or write has written, and no write replaces what another wrote."""
        own = self._own(carry, known)
        if not all(isinstance(i, Lazy) for indices, _ in own for i in indices):
            return False
        loop, length, aval = self._whole, self._length, self._whole.avals[carry.place]
        size, count = aval.size, len(carry.writes) + 1
        time = np.argsort(loop.order) * count  # of each step, in writes
        first = np.full(size, length * count + 1)
        again = False
        for j, (v, (indices, _)) in enumerate(zip(carry.writes, own, strict=False)):
            program = _write_of_all(v, length, aval)
            (eqn,) = [e for e in program.eqns if wiring(e).how in _WRITTEN]
            index = _index(v, [i.value() for i in indices], np)
            places = scatter_places(eqn, [index[..., k] for k in range(index.shape[-1])])
            inside = np.broadcast_to(places.inside, places.narrow)
            flat = np.broadcast_to(places.flat, places.narrow)[inside]
            step = np.broadcast_to(time.reshape(-1, *[1] * (len(places.narrow) - 1)), places.narrow)[inside]
            again |= bool((first[flat] <= length * count).any()) or len(np.unique(flat)) < len(flat)
            np.minimum.at(first, flat, step + j + 1)
        if again and not all(v.adds for v in carry.writes):
            return False
        numbers = np.arange(size).reshape(aval.shape)
        for (j, eqn), (indices, _) in zip(carry.reads, own[len(carry.writes) :], strict=True):
            with jax.ensure_compile_time_eval():
                read = jax.vmap(lambda *i, eqn=eqn: bind(eqn, numbers, *i)[0])
                flat = np.asarray(read(*(i.value() for i in indices))).reshape(length, -1)
            if (first[np.clip(flat, 0, size - 1)] <= time[:, None] + j).any():
                return False
        return True

    def behind(self, w: Any, results: list) -> list:
        """The results of the whole loop, from the results of this one and the writes that it left out."""
        loop, m = self._whole, len(self._whole.start)
        ends: list = [None] * m
        for k, v in zip(self._kept, results, strict=False):
            ends[k] = v
        for c in self._carries:
            state = loop.start[c.place]
            for v, (indices, update) in zip(c.writes, self._own(c, results), strict=False):
                program = _write_of_all(v, self._length, loop.avals[c.place])
                (state,) = w.body(program, [state, *indices, update])
            ends[c.place] = state
        return [*ends, *results[len(self._kept) :][: len(loop.avals) - m]]


def _told(carry: _Carry) -> list:
    # What the steps return for a carry: indices and updates of its writes, indices of its reads.
    writes = [a for v in carry.writes for a in (*v.indices, v.update)]
    return [*writes, *(a for _, eqn in carry.reads for a in eqn.invars[1:])]


def _index(write: _Write, indices: Sequence, xp: Any) -> Any:
    # The indices of all steps as one array, whose last axis runs over indexed axes.
    return xp.stack(indices, -1) if wiring(write.eqn).how == "write block" else indices[0]


def _write_of_all(write: _Write, length: int, carry: Any) -> Any:
    """The write of a step for all steps at once, as a program of the carry, indices and updates."""
    eqn, block = write.eqn, wiring(write.eqn).how == "write block"
    shape = write.update.aval.shape
    if block:
        axes = tuple(range(len(shape)))
        d = lax.ScatterDimensionNumbers(tuple(a + 1 for a in axes), (), axes)
        mode = lax.GatherScatterMode.CLIP
    else:
        d, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
        d = lax.ScatterDimensionNumbers(
            tuple(a + 1 for a in d.update_window_dims), d.inserted_window_dims, d.scatter_dims_to_operand_dims,
            d.operand_batching_dims, tuple(a + 1 for a in d.scatter_indices_batching_dims),
        )  # fmt: skip
    scatter = _ADDED.get(wiring(eqn).how, lax.scatter_add if write.adds else lax.scatter)

    def run(state: Any, *rest: Any) -> Any:
        *indices, update = rest
        return scatter(state, _index(write, indices, jnp), update, d, mode=mode)

    each = [jax.ShapeDtypeStruct((length, *a.aval.shape), a.aval.dtype) for a in (*write.indices, write.update)]
    return jax.make_jaxpr(run)(jax.ShapeDtypeStruct(carry.shape, carry.dtype), *each)
