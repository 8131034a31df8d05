"""The same program for one sample of the batch.

Knows where the samples are (`samples`) and how to run equations. Knows nothing of derivatives.
Shapes: B samples; a value with samples keeps their axis, with the entries of one sample only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jacobia._compat import Literal, bind, eval_jaxpr, inner_consts, scan_split
from jacobia._program.along import Along, Followed, Lost, lost
from jacobia._program.axis.samples import body_of, follow, found, has_references, is_empty, shifted, solver_parts
from jacobia._program.wiring import wiring

_Step = Callable[[Any, list], list]  # (sample, values) -> results


class Cut:
    """A program for one sample, called as `cut(sample, args)`; both arguments may be traced.

    `has_rules`: bodies stand in place of functions that have their own derivative rules, so the program must not be
    differentiated.
    """

    def __init__(self, step: _Step, has_rules: bool):
        self._step, self.has_rules = step, has_rules

    def __call__(self, sample: Any, args: Sequence) -> list:
        return self._step(sample, list(args))


def cut(jaxpr: Any, in_axes: Sequence[int | None], out_axes: Sequence[int], size: int) -> Cut | None:
    """Make the program of one sample.

    Args:
      jaxpr: an open program of a batch.
      in_axes: per input the axis along which its samples lie, or None if every sample uses all of it.
      out_axes: per output the axis along which its samples lie.
      size: B, how many samples there are.

    Returns:
      `cut(sample, args) -> outs`, where args with samples, and all outs, have length 1 along their axis; None if the
      samples cannot be followed all the way.
    """
    if size < 2 or jaxpr.constvars or has_references(jaxpr):
        return None
    maker = _Maker(size)
    states = [_along(v, a) for v, a in zip(jaxpr.invars, in_axes, strict=True)]
    wanted = [_along(v, a) for v, a in zip(jaxpr.outvars, out_axes, strict=True)]
    try:
        step = maker.program(jaxpr, states, wanted)
        made = Cut(step, maker.has_rules)
        outs = jax.eval_shape(made, jnp.int32(0), [_one(v.aval, s) for v, s in zip(jaxpr.invars, states, strict=True)])
    except (Lost, TypeError, ValueError):  # the last two: an operation whose parameters fit the whole batch only
        return None
    expected = [_one(v.aval, w) for v, w in zip(jaxpr.outvars, wanted, strict=True)]
    fits = all((o.shape, o.dtype) == (e.shape, e.dtype) for o, e in zip(outs, expected, strict=True))
    return made if fits else None


def _along(var: Any, axis: int | None) -> Along | None:
    return None if axis is None else Along(axis % var.aval.ndim)


def _one(aval: Any, along: Along | None) -> Any:
    shape = aval.shape
    if along is not None:
        shape = (*shape[: along.axis], along.one, *shape[along.axis + 1 :])
    return jax.ShapeDtypeStruct(shape, aval.dtype)


def _lays_out(sharding: Any) -> bool:
    # Whether a parameter says how the batch is spread over devices.
    return sharding is not None and any(axis is not None for axis in getattr(sharding, "spec", (0,)))


def _whole(program: Any) -> _Step:
    jaxpr, consts = getattr(program, "jaxpr", program), inner_consts(program)
    return lambda sample, values: eval_jaxpr(jaxpr, consts, *values)


def _empty(eqn: Any) -> _Step:
    # In place of an equation in which samples are lost: empty results are known, and no other one is used.
    def step(sample: Any, values: list) -> list:
        return [jnp.zeros(v.aval.shape, v.aval.dtype) if is_empty(v) else None for v in eqn.outvars]

    return step


def _settled(value: Any, aval: Any) -> Any:
    # Bodies of loops and branches must return the declared dtype, even for a Python number.
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return value
    return lax.convert_element_type(value, aval.dtype)


def _flat(eqn: Any, followed: Followed) -> _Step:
    # An elementwise operation without the axis of samples, which has length 1. Under `vmap` a compiler would keep this
    # axis and, where it is the last one, sum along it, number by number.
    axis = followed.outs[0].axis

    def step(sample: Any, values: list) -> list:  # scalars have no axes; an operand for all samples has length 1 there
        given = [v if jnp.ndim(v) == 0 else lax.squeeze(v, [axis]) for v in values]
        return [lax.expand_dims(out, [axis]) for out in bind(eqn, *given)]

    return step


class _Maker:
    def __init__(self, size: int):
        self.size = size
        self.has_rules = False

    def program(self, program: Any, states: Sequence, wanted: Sequence) -> _Step:
        """A program, closed or not, from inputs with samples as in `states` to outputs with samples as `wanted`."""
        jaxpr, consts = getattr(program, "jaxpr", program), inner_consts(program)
        where = dict(zip(jaxpr.invars, states, strict=True))
        steps = []
        for eqn in jaxpr.eqns:
            given = [None if isinstance(a, Literal) else where.get(a) for a in eqn.invars]
            try:
                followed = follow(eqn, given, self.size)
                step = self.step(eqn, given, followed)
                outs = followed.outs
            except Lost as error:  # which matters only if a result is used
                if eqn.effects:
                    raise
                step, outs = _empty(eqn), [None if is_empty(v) else error for v in eqn.outvars]
            where.update(zip(eqn.outvars, outs, strict=True))
            steps.append((eqn, step))
        last = [
            self.taken(a.aval, None if isinstance(a, Literal) else where.get(a), w)
            for a, w in zip(jaxpr.outvars, wanted, strict=True)
        ]

        def run(sample: Any, args: list) -> list:
            env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

            def read(atom: Any) -> Any:
                return atom.val if isinstance(atom, Literal) else env.get(atom)

            for eqn, step in steps:
                env.update(zip(eqn.outvars, step(sample, [read(a) for a in eqn.invars]), strict=True))
            return [
                None if take is None else take(sample, _settled(read(a), a.aval))
                for take, a in zip(last, jaxpr.outvars, strict=True)
            ]

        return run

    def taken(self, aval: Any, state: Any, wanted: Any) -> Callable[[Any, Any], Any] | None:
        """A function that takes the part of one sample out of a value, if it is not cut already; None: it is unused."""
        if isinstance(wanted, Lost):
            return None
        found([state])
        if state == wanted:
            return lambda sample, value: value
        if state is not None or wanted is None or aval.shape[wanted.axis] != wanted.one * self.size:
            raise Lost("a value whose samples lie along another axis", None if state is None else state.axis)
        a, shape = wanted.axis, aval.shape
        apart = (*shape[:a], wanted.outer, self.size, wanted.inner, *shape[a + 1 :])
        one = (*shape[:a], wanted.one, *shape[a + 1 :])

        def take(sample: Any, value: Any) -> Any:
            if wanted.one == 1:
                return lax.dynamic_slice_in_dim(value, sample, 1, a)
            return lax.dynamic_slice_in_dim(value.reshape(apart), sample, 1, a + 1).reshape(one)

        return take

    def step(self, eqn: Any, states: Sequence, followed: Followed) -> _Step:
        if all(s is None for s in states):
            return lambda sample, values: bind(eqn, *values)
        takes = [self.taken(a.aval, s, w) for a, s, w in zip(eqn.invars, states, followed.operands, strict=True)]
        inner = self.inner(eqn, followed)
        return lambda sample, values: inner(sample, [t and t(sample, v) for t, v in zip(takes, values, strict=True)])

    def inner(self, eqn: Any, followed: Followed) -> _Step:
        # One equation on the parts of its operands that belong to one sample.
        name, body = eqn.primitive.name, body_of(eqn)
        if body is not None:
            self.has_rules |= name.startswith("custom_")
            return self.program(body, followed.operands, followed.outs)
        nested = {"cond": self.cond, "scan": self.scan, "while": self.loop, "custom_linear_solve": self.solve}
        if name in nested:
            return nested[name](eqn, followed)
        if name == "sharding_constraint" or any(
            _lays_out(followed.params.get(k)) for k in ("sharding", "out_sharding")
        ):
            raise lost(eqn, None)
        one = eqn.replace(params=followed.params)
        if wiring(eqn).element and followed.outs[0].one == 1:
            return _flat(one, followed)
        return lambda sample, values: bind(one, *values)

    def cond(self, eqn: Any, followed: Followed) -> _Step:
        branches = [self.program(b, followed.operands[1:], followed.outs) for b in eqn.params["branches"]]

        def run(sample: Any, values: list) -> list:
            index = lax.convert_element_type(values[0], jnp.int32)
            return lax.switch(index, [lambda *v, b=b: b(sample, list(v)) for b in branches], *values[1:])

        return run

    def scan(self, eqn: Any, followed: Followed) -> _Step:
        n, m = scan_split(eqn.params)
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        states, outs = followed.operands, followed.outs
        stepped = next((x for x in states[n + m :] if x is not None and x.axis == 0), None)
        if stepped is None:
            xs = [shifted(x, -1) for x in states[n + m :]]
            step = self.program(body, states[: n + m] + xs, outs[:m] + [shifted(o, -1) for o in outs[m:]])
        else:  # a scan over the samples: only the steps of one sample
            if m:
                raise lost(eqn, 0)
            length, step = stepped.one, _whole(body)

        def run(sample: Any, values: list) -> list:
            def once(carry: list, xs: list) -> tuple[list, list]:
                outs = step(sample, [*values[:n], *carry, *xs])
                return outs[:m], outs[m:]

            carry, ys = lax.scan(
                once, values[n : n + m], values[n + m :], length, eqn.params["reverse"], eqn.params["unroll"]
            )
            return [*carry, *ys]

        return run

    def loop(self, eqn: Any, followed: Followed) -> _Step:
        c, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        tested, consts, carry = followed.operands[:c], followed.operands[c : c + b], followed.operands[c + b :]
        test = self.program(eqn.params["cond_jaxpr"], tested + carry, [None])
        body = self.program(eqn.params["body_jaxpr"], consts + carry, carry)

        def run(sample: Any, values: list) -> list:
            return lax.while_loop(
                lambda now: test(sample, [*values[:c], *now])[0],
                lambda now: body(sample, [*values[c : c + b], *now]),
                values[c + b :],
            )

        return run

    def solve(self, eqn: Any, followed: Followed) -> _Step:
        parts = solver_parts(eqn)
        end = parts["transpose_solve"][1].stop
        rhs, n = followed.operands[end:], len(followed.operands) - end
        made = {
            name: self.program(program, followed.operands[where] + rhs, followed.outs if name == "solve" else rhs)
            for name, (program, where) in parts.items()
            if program is not None and name != "vecmat"
        }
        more = len(followed.outs) > n

        def run(sample: Any, values: list) -> list:
            def of(name: str, x: list) -> list:
                return made[name](sample, [*values[parts[name][1]], *x])

            def solve(_: Any, b: list) -> Any:
                outs = of("solve", b)
                return (outs[:n], outs[n:]) if more else outs

            def transposed(_: Any, b: list) -> Any:
                outs = of("transpose_solve", b)
                return (outs[:n], outs[n:]) if more else outs

            back = transposed if "transpose_solve" in made else None
            outs = lax.custom_linear_solve(lambda x: of("matvec", x), values[end:], solve, back, has_aux=more)
            return [*outs[0], *outs[1]] if more else list(outs)

        return run
