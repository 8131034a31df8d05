"""A program and a point → the linear program, from which everything else is read off.

`pullback`, `pushforward` and `linearize` linearize a `Program` at a `Point`. Knows programs and points. Knows nothing
of rows, columns or what is remembered.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jacobia._call.trace import Program, interned
from jacobia._compat import Tracer, opened, vary_like
from jacobia._program.readings.dependence import Dependence, dependence
from jacobia._program.walk import holds, run_needed
from jacobia._space import Batch, Space, to_front, to_place

if TYPE_CHECKING:
    from jacobia._program.readings.independence import Mixing


class Point(NamedTuple):
    """A program f, the point where f is linearized, and which of its leaves are differentiated."""

    program: Program
    positions: tuple[int, ...]  # the places of the differentiated leaves
    consts: Sequence
    leaves: Sequence
    batch: Batch | None = None  # if given, tangents and cotangents have the batch axis first


def _restricted(
    point: Point, outs: Sequence[int], ins: Sequence[int], head: Sequence | None = None
) -> tuple[Callable, list]:
    # f restricted to the requested outputs and inputs, and the point there: the Jacobian with respect to a bias does
    # not pay for the weights.
    places, batch = [point.positions[k] for k in ins], point.batch
    own = [point.leaves[p] for p in places]

    def g(xs: list) -> list:
        if batch is not None:
            xs = to_place(xs, [batch.inputs[k] for k in ins])
        ys = _outputs(_moved(point, places, xs), tuple(outs), head)
        return ys if batch is None else to_front(ys, [batch.outputs[i] for i in outs])

    return g, own if batch is None else to_front(own, [batch.inputs[k] for k in ins])


def _outputs(point: Point, outs: tuple[int, ...], head: Sequence | None) -> list:
    program, heads = point.program, point.program.heads
    if heads is not None and head is None:
        y = _all_heads(program, heads, point)
        return [y[i] for i in outs]
    return program.part(point.consts, [*point.leaves, *(head or ())], outs)


def _moved(point: Point, places: Sequence[int], xs: list) -> Point:
    # The point with the values xs in the leaves at these places.
    leaves = list(point.leaves)
    for place, x in zip(places, xs, strict=True):
        leaves[place] = x
    return point._replace(leaves=leaves)


def pullback(
    point: Point, outs: Sequence[int], ins: Sequence[int], head: Sequence | None = None
) -> Callable[[list], list]:
    """Cotangents of the outputs `outs` → cotangents of the inputs `ins`."""
    g, xs = _restricted(point, outs, ins, head)
    ys, pull = jax.vjp(g, xs)
    return lambda cotangents: pull([vary_like(c, y) for c, y in zip(cotangents, ys, strict=True)])[0]


def pushforward(
    point: Point, outs: Sequence[int], ins: Sequence[int], head: Sequence | None = None
) -> Callable[[list], list]:
    """Tangents of the inputs `ins` → tangents of the outputs `outs`."""
    g, xs = _restricted(point, outs, ins, head)

    def push(tangents: list) -> list:
        return jax.jvp(g, (xs,), ([vary_like(t, x) for t, x in zip(tangents, xs, strict=True)],))[1]

    if point.program.jaxpr is None or not holds(point.program.jaxpr, "custom_vjp_call"):
        return push
    # jax.jvp leaves an operation `custom_lin` for each custom_vjp, and nothing can run it. Run only the operations that
    # the results need: often `custom_lin` is not among them.
    closed = jax.make_jaxpr(push)(xs)
    return lambda tangents: run_needed(closed.jaxpr, list(closed.consts), list(tangents), "custom_lin")


def transposed_pullback(point: Point, outs: Sequence[int], ins: Sequence[int]) -> Callable[[list], list]:
    """The pushforward of an f that has only a pullback (`custom_vjp`), if that pullback is linear: its transpose."""
    g, xs = _restricted(point, outs, ins)
    ys, pull = jax.vjp(g, xs)
    _, push = jax.vjp(lambda cotangents: pull(cotangents)[0], [jnp.zeros_like(y) for y in ys])
    return lambda tangents: push(tangents)[0]


def second(point: Point, outs: Sequence[int], ins: Sequence[int]) -> Callable[[list], list]:
    """Tangents t of the inputs `ins` → the second derivative of the outputs `outs` along t, twice.

    Forward over forward: nothing is transposed, so no residuals are kept.
    """
    g, xs = _restricted(point, outs, ins)

    def along(tangents: list) -> list:
        ts = [vary_like(t, x) for t, x in zip(tangents, xs, strict=True)]
        return jax.jvp(lambda xs: jax.jvp(g, (xs,), (ts,))[1], (xs,), (ts,))[1]

    return along


def derivative_program(
    program: Program, positions: tuple[int, ...], way: str, outs: Sequence[int], ins: Sequence[int]
) -> Any:
    """The program of y, followed by one pullback ("rows") or one pushforward ("columns").

    Its inputs are the constants and leaves of f, then the seeds.
    """
    if program.heads is not None:
        raise TypeError("the gradient of a vector-valued f is no single program")
    skip = len(program.jaxpr.invars) - program.num_leaves
    avals = [v.aval for v in program.jaxpr.invars]
    rows = way == "rows"
    seeded = [program.jaxpr.outvars[i].aval for i in outs] if rows else [avals[skip + positions[j]] for j in ins]

    def derivative(args: list, seeds: list) -> list:
        g, xs = _restricted(Point(program, positions, args[:skip], args[skip:]), outs, ins)
        if rows:
            y, pull = jax.vjp(g, xs)
            return [*y, *pull(seeds)[0]]
        y, tangents = jax.jvp(g, (xs,), (seeds,))
        return [*y, *tangents]

    return jax.make_jaxpr(derivative)(inputs_of(program), [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in seeded])


def inputs_of(program: Program) -> list[jax.ShapeDtypeStruct]:
    """The constants and leaves of a program as shapes and dtypes, to trace with."""
    avals = [v.aval for v in program.jaxpr.invars]
    return [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]


def linearize(point: Point) -> tuple[list, list, Callable[[list], list]]:
    """y, aux, and the linear program of all differentiated leaves, whose residuals are kept."""
    g, xs = _all(point)
    _, lin, (y, aux) = jax.linearize(g, xs, has_aux=True)
    return y, aux, lin


def _every(point: Point) -> tuple[Callable, list]:
    # f as a function of all differentiated leaves, with all outputs.
    heads, num_y = point.program.heads, point.program.num_y
    num = num_y if heads is None else len(heads) * len(point.positions)
    return _restricted(point, range(num), range(len(point.positions)))


def _all(point: Point) -> tuple[Callable, list]:
    # The same for jax.linearize with has_aux: the auxiliary output is y with its axes as f returns them, and aux.
    xs, batch = [point.leaves[p] for p in point.positions], point.batch

    def g(xs: list) -> tuple[list, tuple[list, list]]:
        xs = xs if batch is None else to_place(xs, batch.inputs)
        y, aux = value(_moved(point, point.positions, xs))
        return (y if batch is None else to_front(y, batch.outputs)), (y, aux)

    return g, xs if batch is None else to_front(xs, batch.inputs)


def value(point: Point) -> tuple[list, list]:
    """y and aux, without derivatives."""
    program, heads = point.program, point.program.heads
    if heads is None:
        return program(point.consts, point.leaves)
    return _all_heads(program, heads, point), program(point.consts, [*point.leaves, *heads.zeros()])[1]


def _all_heads(program: Program, heads: Space, point: Point) -> list:
    # The gradients of all entries of a vector-valued f: one pullback for each entry.
    zeros, width = heads.zeros(), len(point.positions)
    out = []
    for o, shape in enumerate(heads.shapes):
        basis, mine = heads.pick([o]), tuple(range(o * width, (o + 1) * width))

        def rows(m: Any, o: int = o, basis: Space = basis, mine: tuple = mine) -> list:
            head = [*zeros[:o], *basis.basis(m), *zeros[o + 1 :]]
            return program.part(point.consts, [*point.leaves, *head], mine)

        stacked = jax.vmap(rows)(jax.lax.iota(jnp.int32, basis.size))
        out += [a.reshape(shape + a.shape[1:]) for a in stacked]
    return out


def gradient(point: Point, heads: Space, forward: bool = False) -> tuple[Program, list]:
    """The gradient of f as a program. Its Jacobian is the Hessian of f.

    For each output leaf of f, its outputs are the gradients with respect to each differentiated leaf. Its aux is y and
    aux of f.

    Args:
      point: a point of f. Its arrays may be of any kind, since only their shapes are used.
      heads: the output leaves of f (of one sample, with a batch axis).
      forward: for an f without a pullback: compute the gradient by one pushforward for each entry of the inputs.

    Returns:
      The program, and the arrays that it closes over in addition to the constants of f. If f is not scalar, the program
      takes further leaves, a cotangent for each output leaf of f, and returns the gradient of the output leaf combined
      with that cotangent.
    """
    program, positions, ins = point.program, point.positions, range(len(point.positions))
    bare = point._replace(batch=None)
    scalar, num = all(n == 1 for n in heads.sizes), len(point.leaves)

    def run(consts: Sequence, leaves: Sequence) -> list:
        at = bare._replace(consts=consts, leaves=leaves[:num])
        grads = []
        for o, shape in enumerate(heads.shapes):
            if forward:
                own = _pushed_gradient(at, o, None if scalar else leaves[num + o], point.batch)
            else:
                g, xs = _restricted(at, (o,), ins)
                (y,), pull = jax.vjp(g, xs)
                own = pull([jnp.ones_like(y) if scalar else vary_like(leaves[num + o], y)])[0]
            keep = scalar and point.batch is None  # an output of one entry keeps its shape
            grads += [a.reshape(shape + a.shape) for a in own] if keep else own
        y, aux = value(at)
        return [*grads, *y, *aux]

    cotangents = [] if scalar else heads.zeros()
    num_leaves, num_y, of = num + len(cotangents), len(heads) * len(positions), None if scalar else heads
    if program.jaxpr is None:
        made = Program(run, num_y, num_leaves)
        made.heads = of
        return made, []
    consts = [v.aval for v in program.jaxpr.invars[: len(point.consts)]]  # with the shardings of the program
    jaxpr, own = opened(jax.make_jaxpr(run)(consts, [*point.leaves, *cotangents]))
    return interned(jaxpr, num_leaves, num_y, of), own


def _pushed_gradient(at: Point, o: int, head: Any, batch: Batch | None) -> list:
    # The gradient of output o, or of `head` times output o: one pushforward for each entry of the inputs. Independent
    # samples share a pushforward.
    grads = []
    for j, place in enumerate(at.positions):
        x, push = at.leaves[place], pushforward(at, (o,), (j,))
        axis = None if batch is None else batch.inputs[j]
        shape = x.shape if axis is None else x.shape[:axis] + x.shape[axis + 1 :]
        basis = Space((shape,), (x.dtype,), ("",))

        def entry(k: Any, x: Any = x, push: Any = push, axis: Any = axis, basis: Space = basis) -> jax.Array:
            (seed,) = basis.basis(k)
            seed = seed if axis is None else jnp.expand_dims(seed, axis)
            (t,) = push([jnp.broadcast_to(seed, x.shape)])
            t = t if head is None else head * t
            return (jnp.sum(t) if axis is None else t.reshape(-1)).astype(x.dtype)

        entries = jax.vmap(entry, out_axes=-1)(jax.lax.iota(jnp.int32, basis.size))
        own = entries.reshape(entries.shape[:-1] + shape)
        grads.append(own if axis is None else jnp.moveaxis(own, 0, axis))
    return grads


def read_dependence(point: Point) -> Dependence:
    """Which output leaves depend on which differentiated leaves, read off the linear program."""
    linear = linear_program(point)
    consts = linear.consts
    if point.program.jaxpr is None:  # jit=False: constants are residuals, perhaps zero only here
        consts = [None] * len(consts)
    return dependence(linear.jaxpr, consts, linear.known, linear.num_tangents)


def read_mixing(point: Point) -> "Mixing | None":
    """The operation of the linear program that mixes samples; None: no operation does."""
    from jacobia._program.readings.independence import Known, mixing  # with the files of the walk: only for batches

    assert point.batch is not None
    linear = linear_program(point)
    if holds(linear.jaxpr, "custom_lin"):  # left by a custom_vjp: read the pullback instead
        outs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in linear.jaxpr.outvars]
        linear = transposed_program(point, outs)
    inputs = [None if k is None else Known(k) for k in linear.known] + [0] * linear.num_tangents
    return mixing(linear.jaxpr, linear.consts, inputs, [0] * len(linear.jaxpr.outvars), point.batch.size)


class LinearProgram(NamedTuple):
    """The program that maps constants, leaves and tangents to the tangents of the outputs."""

    jaxpr: Any
    consts: list
    known: list  # for each constant and leaf its value, or None if unknown
    num_tangents: int


def linear_program(point: Point) -> LinearProgram:
    """The linear program of all outputs and differentiated leaves at a point. Shapes in place of arrays are enough."""
    return _read_program(point, None, lambda at: linearize(at)[2])


def pushed_program(point: Point) -> LinearProgram:
    """The linear program as a pushforward, which computes the values of f along with the tangents.

    So a loop of f stays one loop, whose counter is known.

    Raises:
      TypeError: f has no pushforward.
    """
    if point.program.jaxpr is None:
        return linear_program(point)

    def push(at: Point) -> Callable[[list], list]:
        g, xs = _every(at)
        return lambda tangents: jax.jvp(g, (xs,), (tangents,))[1]

    return _read_program(point, None, push)


def transposed_program(point: Point, outs: Sequence) -> LinearProgram:
    """The transposed linear program: it takes cotangents of the outputs, of these shapes, in place of tangents."""

    def pull(at: Point) -> Callable[[list], list]:
        g, xs = _every(at)
        pulled = jax.vjp(g, xs)[1]
        return lambda cotangents: pulled(cotangents)[0]

    return _read_program(point, outs, pull)


def _read_program(point: Point, outs: Sequence | None, linear: Callable) -> LinearProgram:
    def tangents(leaves: list) -> list:
        return _all(point._replace(leaves=leaves))[1]

    # The leaves may be shapes, whose axes cannot be moved: eval_shape traces them.
    seeds = jax.eval_shape(tangents, list(point.leaves)) if outs is None else list(outs)
    is_shape = any(isinstance(a, jax.ShapeDtypeStruct) for a in (*point.consts, *point.leaves))
    if point.program.jaxpr is None and not is_shape:  # jit=False: Python runs f only at these values
        closed = jax.make_jaxpr(linear(point))(seeds)
        return LinearProgram(closed.jaxpr, closed.consts, [], len(seeds))
    closed = jax.make_jaxpr(lambda consts, leaves, seeds: linear(point._replace(consts=consts, leaves=leaves))(seeds))(
        list(point.consts), list(point.leaves), seeds
    )
    known = [None if isinstance(c, Tracer) else c for c in point.consts] + [None] * len(point.leaves)
    return LinearProgram(closed.jaxpr, closed.consts, known, len(seeds))
