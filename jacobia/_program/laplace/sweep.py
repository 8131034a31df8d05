"""Value and Laplacian of a program in one sweep from the inputs to the outputs.

A Laplacian depends on the derivatives of an intermediate z only through their inner products G = Dz Dzᵀ. So where a
program is narrow (everything goes through K < D elements), D directions are replaced exactly by K directions with the
same inner products: a factor of the Gram matrix G or, if the result is to be differentiated, the pair I, G.
Knows programs, and the rules of operations. Knows nothing of samples or points.
Shapes: D inputs, R directions, K elements in a cut.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._compat import inner_consts
from jacobia._program.laplace import loops, rules
from jacobia._program.laplace.carried import Carried, some_of, written_out
from jacobia._program.narrow import Flat, Step, Value, moves, moving, narrowest
from jacobia._program.readings.cost import flops
from jacobia._program.walk import CALLS, is_plain_call, run, subprograms

# Calls that are entered. Calls with derivative rules of their own are not: their rules count.
_ENTERED = (*CALLS, "closed_call", "core_call", "remat2", "checkpoint")

# Programs with more equations than this are not searched for narrow places.
_MOST = 5_000

# Cost of a multiplication in a Gram matrix, in units of one operation on a direction in the steps that follow.
_WORTH = 4

# How many values with directions are alive at a time.
_BESIDE = 3

# Fewest directions in a chunk: every chunk computes the values again, and a smaller one would do little else.
_FEWEST = 8

# Bytes of the directions that are multiplied at once in a Gram matrix.
_BLOCK = 1 << 21


def _body(eqn: Any) -> Any:
    name = eqn.primitive.name
    if name not in _ENTERED or (name in CALLS and not is_plain_call(eqn)) or rules.is_determinant(eqn):
        return None
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


class Cut(NamedTuple):
    """A narrow place: the steps from the narrow place before it to this one, and the values it is made of."""

    steps: list[Step]
    values: list[Value]


class Sweep:
    """A program, read once: its steps in an order in which each narrow place comes before what follows.

    Args:
      jaxpr: an open program.
      places: positions of the inputs to differentiate by, all of them together.
      owners: for each of these inputs, the number of the direction of each element, if several elements share one (as
        the samples of a batch do); None: each element is a direction of its own.
      narrow: whether fewer directions may take the place of all.
    """

    def __init__(
        self, jaxpr: Any, places: Sequence[int], owners: Sequence[np.ndarray] | None = None, narrow: bool = True
    ):
        avals = [jaxpr.invars[k].aval for k in places]
        alone = owners is None
        if owners is None:
            starts = np.concatenate([[0], np.cumsum([a.size for a in avals])])  # and an end
            owners = [
                np.arange(s, s + a.size, dtype=np.int32).reshape(a.shape) for s, a in zip(starts, avals, strict=False)
            ]
        self._owners = dict(zip(places, owners, strict=True))
        self.count = 1 + max((int(o.max()) for o in owners if o.size), default=-1)
        self._flat = _flattened(jaxpr, set(places))
        self._cuts, self._rest = _ordered(self._flat, self.count if alone and narrow else 0)

    @property
    def narrows(self) -> bool:
        """Whether there is a place that is narrower than the inputs."""
        return bool(self._cuts)

    @cached_property
    def expansion(self) -> float:
        """How many elements the directions have, for each operation of f."""
        (along, alone), every = self._looked[0], [*(s for cut in self._cuts for s in cut.steps), *self._rest]
        return along / max(1, alone, sum(flops(s.eqn) for s in every if not any(subprograms(s.eqn))))

    @property
    def nbytes(self) -> int:
        """Bytes that directions take at a time, behind the last narrow place."""
        return _BESIDE * self._looked[1]

    @cached_property
    def _looked(self) -> tuple[tuple[int, int], int]:
        # From shapes alone: the number of elements of written-out directions, and of values; the bytes of the largest
        # directions behind the last place where directions were replaced.
        found: list[tuple[tuple[int, int], int]] = []

        def look(args: list) -> None:
            with jax.numpy_rank_promotion("allow"):
                env, since, _ = self._through_cuts(args, True)
                self._do(self._rest, env)
            each = {v: sum(leg.size for leg in z.legs if z.owner is None) for v, z in env.items()}
            behind = [n * env[v].value.dtype.itemsize for v, n in each.items() if n and v not in since]
            found.append(((sum(each.values()), sum(jnp.size(z.value) for z in env.values())), max(behind, default=0)))

        jax.eval_shape(look, [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self._flat.inputs])
        return found[0]

    def run(self, args: Sequence, factored: bool, room: int | None = None) -> list[Carried]:
        """The outputs.

        Args:
          factored: whether Gram matrices may be factored; the outputs can't be differentiated then.
          room: bytes that directions may take; if they take more, they go through in chunks, and the outputs have no
            legs.
        """
        with jax.numpy_rank_promotion("allow"):  # legs have one axis more than values; f has been traced before
            env, since, steps = self._through_cuts(args, factored)
            if room is not None and self.nbytes > room:
                rows = max(len(z.legs[0]) if z.owner is None else self.count for z in since.values() if z.moves)
                return self._in_chunks(steps, since, rows, max(_FEWEST, rows * room // self.nbytes))
            self._do(self._rest, env)
            return self._outs(env)

    def _through_cuts(self, args: Sequence, factored: bool) -> tuple[dict, dict, list[Step]]:
        # The values at the last narrow place; the values where directions were last replaced, and the steps that
        # follow from there.
        env = self._start(args)
        since, steps = dict(env), []
        for k, cut in enumerate(self._cuts):
            self._do(cut.steps, env)
            steps += cut.steps
            left = [s for later in self._cuts[k + 1 :] for s in later.steps] + self._rest
            if _narrowed(env, cut, left, self.count, factored):
                since, steps = dict(env), []
        return env, since, steps + self._rest

    def _start(self, args: Sequence) -> dict[Value, Carried]:
        env = {}
        for k, (v, a) in enumerate(zip(self._flat.inputs, args, strict=True)):
            own = self._owners.get(k)
            env[v] = Carried(a) if own is None else Carried(a, (jnp.ones((1, *a.shape), a.dtype),), own, None, True)
        return env

    def _outs(self, env: dict) -> list[Carried]:
        return [self._read(env, v) for v in self._flat.outs]

    def _in_chunks(self, steps: Sequence[Step], env: dict[Value, Carried], rows: int, most: int) -> list[Carried]:
        # A Laplacian is a sum over directions: chunks are added up. Laplacians from before count in the first chunk.
        def some(start: Any, first: Any) -> list:
            own = dict(env)
            for v, z in env.items():
                if z.moves:
                    before = None if z.laplacian is None else jnp.where(first, z.laplacian, 0)
                    own[v] = some_of(z, start, most)._replace(laplacian=before)
            self._do(steps, own)
            return [jnp.zeros_like(z.value) if z.laplacian is None else z.laplacian for z in self._outs(own)]

        def step(total: list, k: Any) -> tuple[list, None]:
            return [t + more for t, more in zip(total, some(k * most, k == 0), strict=True)], None

        plain = {v: Carried(z.value) for v, z in env.items()}
        self._do(steps, plain)
        values = [z.value for z in self._outs(plain)]
        total, _ = lax.scan(step, list(map(jnp.zeros_like, values)), jnp.arange(-(-rows // most)))
        return [Carried(v, (), None, t) for v, t in zip(values, total, strict=True)]

    def _read(self, env: dict, v: Any) -> Carried:
        return env[v] if isinstance(v, Value) else Carried(v)

    def _do(self, steps: Sequence[Step], env: dict) -> None:
        for eqn, ins, outs in steps:
            given = [self._read(env, v) for v in ins]
            if not moving(outs):
                given = [Carried(z.value) for z in given]
            env.update(zip(outs, self._one(eqn, given), strict=True))

    def _one(self, eqn: Any, ins: list[Carried]) -> list[Carried]:
        made = loops.through(eqn, ins, self.count, self._inside)
        return rules.through(eqn, ins, self.count) if made is None else made

    def _inside(self, jaxpr: Any, ins: Sequence[Carried]) -> list[Carried]:
        def rule(eqn: Any, values: list) -> list:
            given = [v if isinstance(v, Carried) else Carried(v) for v in values]
            body = _body(eqn)
            if body is not None:
                consts = [Carried(c) for c in inner_consts(body)]
                return self._inside(getattr(body, "jaxpr", body), [*consts, *given])
            return self._one(eqn, given)

        split = len(jaxpr.constvars)
        outs = run(jaxpr, list(ins[:split]), list(ins[split:]), rule)
        return [o if isinstance(o, Carried) else Carried(jnp.asarray(o)) for o in outs]


def _flattened(jaxpr: Any, places: set[int]) -> Flat:
    steps: list[Step] = []

    def rule(eqn: Any, values: list) -> list:
        body = _body(eqn)
        if body is not None:
            return run(getattr(body, "jaxpr", body), inner_consts(body), values, rule)
        sources = list(dict.fromkeys(moving(values)))
        stops = eqn.primitive.name == "stop_gradient"
        still = [stops or not sources or not jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars]
        found = [None if s else sources for s in still]
        outs = [Value(v.aval, own) for v, own in zip(eqn.outvars, found, strict=True)]
        steps.append(Step(eqn, values, outs))
        return outs

    inputs = [Value(v.aval, [] if k in places else None) for k, v in enumerate(jaxpr.invars)]
    outs = run(jaxpr, [], inputs, rule)
    # A value that no output is made of, as in front of a `stop_gradient`, need not move.
    live = set(moving(outs))
    for step in reversed(steps):
        if live.isdisjoint(step.outs):
            for v in step.outs:
                v.sources = None
        else:
            live.update(v for o in step.outs if o in live for v in o.sources or ())
    return Flat(inputs, [v for v in inputs if moves(v)], steps, outs)


def _ordered(flat: Flat, count: int) -> tuple[list[Cut], list[Step]]:
    # From the narrowest place back towards the inputs, as long as the part before it has another narrow place.
    parts: list[list[Value]] = []
    ends = moving(flat.outs)
    never: list[Value] = []
    while ends and len(flat.steps) <= _MOST:
        found = narrowest(flat._replace(outs=ends), count, set(never))
        size = sum(v.aval.size for v in found)
        if not 0 < size < count or any(v in never for v in found):
            break
        parts.append(found)
        ends = found
        never += found
    cuts, done = [], set()
    for found in reversed(parts):
        steps = _leading_to(flat, found, done)
        done.update(id(s) for s in steps)
        cuts.append(Cut(steps, found))
    rest = _leading_to(flat, [v for v in flat.outs if isinstance(v, Value)], done)
    return cuts, rest


def _leading_to(flat: Flat, ends: Sequence[Value], done: set[int]) -> list[Step]:
    wanted, found = set(ends), []
    for step in reversed(flat.steps):
        if any(o in wanted for o in step.outs):
            wanted.update(v for v in step.ins if isinstance(v, Value))
            if id(step) not in done:
                found.append(step)
    return found[::-1]


def _narrowed(env: dict, cut: Cut, left: Sequence[Step], count: int, factored: bool) -> bool:
    # Replaces the directions of the values in a cut by K, if making and using these costs less than keeping the old.
    values = [v for v in cut.values if env[v].moves]  # the sign of a determinant was taken to move, but does not
    if not values:
        return False
    zs, k = [written_out(env[v], count) for v in values], sum(v.aval.size for v in values)
    rows, pairs = len(zs[0].legs[0]), len(zs[0].legs)
    fixed = all(z.fixed for z in zs)
    alone = fixed and factored and pairs == 1
    each = sum(flops(s.eqn) + sum(o.aval.size for o in s.outs) for s in left if moving(s.ins))
    gain = (rows * pairs - k * (1 if alone else 2)) * each
    dtype = jnp.result_type(*(z.value.dtype for z in zs))
    if gain <= (0 if fixed else _WORTH * rows * k * k) or jnp.issubdtype(dtype, jnp.complexfloating):
        return False
    flat = [jnp.concatenate([z.legs[p].reshape(rows, -1).T.astype(dtype) for z in zs]) for p in range(pairs)]
    gram = _inner_products(flat[0], flat[-1])
    legs = (_factor(gram),) if alone else (jnp.eye(k, dtype=dtype), gram if pairs == 1 else (gram + gram.T) / 2)
    start = 0
    for v, z in zip(values, zs, strict=True):
        end = start + v.aval.size
        own = tuple(leg[:, start:end].reshape(k, *v.aval.shape).astype(z.value.dtype) for leg in legs)
        env[v], start = z._replace(legs=own, owner=None), end
    return True


def _inner_products(p: Any, q: Any) -> Any:
    # P Qᵀ, over the directions in blocks that stay in a cache: 3 times as fast for 64 by 10⁶.
    k, rows = p.shape
    block = max(1, _BLOCK // (k * p.dtype.itemsize))
    count = rows // block

    def times(a: Any, b: Any) -> Any:
        return jnp.matmul(a, b.T, precision="highest")

    def step(total: Any, start: Any) -> tuple[Any, None]:
        a, b = (lax.dynamic_slice_in_dim(x, start, block, axis=1) for x in (p, q))
        return total + times(a, b), None

    if count < 2:
        return times(p, q)
    rest = times(p[:, count * block :], q[:, count * block :])
    return lax.scan(step, rest, block * jnp.arange(count))[0]


def _factor(gram: Any) -> Any:
    # F with Fᵀ F = G, also for a singular G.
    values, vectors = jnp.linalg.eigh(gram)
    return jnp.sqrt(jnp.maximum(values, 0))[:, None] * vectors.T
