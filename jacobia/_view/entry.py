"""An `Entry`: what is known of f at one abstract input, namely its program, its batch axes, and the checks passed.

An entry is made of a call that has been taken apart, once for each abstract input. No derivative is run.
Knows programs and options. Knows nothing of points.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray

from jacobia._call.arguments import Call, check_inexact, differentiated, of_numbers
from jacobia._call.linearize import Point, gradient, linearize, read_dependence, read_mixing
from jacobia._call.options import Options
from jacobia._call.trace import Program, Traced, interned, trace
from jacobia._compat import Tracer
from jacobia._errors import BatchMixingError, IndependenceError
from jacobia._found import Found
from jacobia._program.plain import names_a_mesh, plain
from jacobia._program.walk import has_rules, holds
from jacobia._read.layout import Layout, layout_of
from jacobia._run.blueprint import Block, Blueprint, Primal
from jacobia._run.directions import Directions, directions, learn, said_by_jax
from jacobia._run.seeds import Spaces
from jacobia._run.spread import Spread
from jacobia._space import Batch, Space
from jacobia._sparse.coloring import Coloring

# Operations that hold derivative rules as Python functions.
_RULES = "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "call_hi_primitive"

# This many functions with the same program suggest a loop that makes f anew: warn once.
_TRACED = 100


class Entry(NamedTuple):
    """What is known of f at one abstract input."""

    blue: Blueprint
    consts: list  # arrays that the program closes over
    layouts: list[Layout]
    only: Layout | None  # the layout of the only view, if the transform returns just that view


def types_of(options: Options, call: Call) -> list:
    """The types of the arrays of a call, as f is traced with them. Over a mesh: without shardings, as on one device."""
    types = [jax.typeof(a) for a in call.leaves]
    if options.spread is None:
        return types
    return [ShapedArray(t.shape, t.dtype, weak_type=t.weak_type) for t in types]


def entry(f: Callable, options: Options, where: Any, call: Call, jit: bool) -> Entry:
    """Trace f, find its batch axes, and make every check that needs no derivative."""
    if options.spread is None:
        return _entry(f, options, where, call, jit)
    made: list[Entry] = []

    def traced(leaves: list) -> None:
        made.append(_entry(f, options, where, call._replace(leaves=leaves), jit))

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        jax.eval_shape(traced, types_of(options, call))
    return made[0]


def _entry(f: Callable, options: Options, where: Any, call: Call, jit: bool) -> Entry:
    name = options.name
    positions, paths, in_tree, kept = differentiated(name, call, options.argnums, where)
    mixing = None  # the first complex input without holomorphic=True: outputs must then be real
    for place, path in zip(positions, paths, strict=True):
        dtype = call.leaves[place].dtype
        if _may_mix(options, dtype, "rev"):
            mixing = mixing or (path, dtype)
        else:
            try:
                check_inexact(name, path, dtype, options.holomorphic, "input")
            except TypeError as error:
                raise of_numbers(name, call, path, dtype) or error from None
    ins = Space(tuple(call.leaves[p].shape for p in positions), tuple(call.leaves[p].dtype for p in positions), paths)
    if options.batch_axis is not None:
        _batch_axes(name, options.batch_axis, ins, "input", None)
    traced = trace(name, f, call, positions, options.has_aux, jit)
    if options.spread is not None:
        traced = _on_devices(name, traced, options.spread)
    for aval, path in zip(traced.out_avals, traced.out_paths, strict=True):
        if mixing is not None and jnp.issubdtype(aval.dtype, jnp.complexfloating):
            check_inexact(name, *mixing, False, "input")  # raises: both are complex
        if not _may_mix(options, aval.dtype, "fwd"):
            check_inexact(name, path, aval.dtype, options.holomorphic, "output")
    outs = Space(tuple(a.shape for a in traced.out_avals), tuple(a.dtype for a in traced.out_avals), traced.out_paths)
    made = lambda: _settled(options, traced, call, jit, outs, ins, positions, in_tree, kept)  # noqa: E731
    if traced.program.opaque or traced.consts or not jit or any(isinstance(a, Tracer) for a in call.leaves):
        return made()
    # Functions that have the same program and close over no arrays share one entry.
    avals = tuple(jax.typeof(a) for a in call.leaves)
    same = options, positions, outs, ins, in_tree, kept, avals, traced.out_tree, traced.aux_tree
    found = traced.program.found
    known = found.get("entry", same)
    if known is None:
        known = made()
        if not any(isinstance(c, Tracer) for c in known.consts):
            found.put("entry", same, known)
    else:
        _count_again(name, found)
    return known


def _on_devices(name: str, traced: Traced, spread: Spread) -> Traced:
    # The program that one device runs: without mesh axes in its types, and with every constant on every device.
    program = traced.program
    if program.jaxpr is None:
        raise ValueError(
            f"{name}(mesh=...): expected an f that is compiled, got jit=False, by which Python runs it. Leave one of "
            "them out."
        )
    if holds(program.jaxpr, "shard_map"):
        raise TypeError(
            f"{name}(mesh=...): expected an f that one device can run, got one with shard_map inside. Leave mesh out, "
            "or differentiate what shard_map maps."
        )
    if names_a_mesh(program.jaxpr):
        if any(holds(program.jaxpr, rule) for rule in _RULES):
            raise TypeError(
                f"{name}(mesh=...): expected no derivative rules, such as that of jax.nn.relu, in an f that closes "
                "over arrays with Explicit axes, got some: a rule can't be rewritten for one device. Pass these arrays "
                "as arguments of f, or put them on a mesh with Auto axes."
            )
        program = interned(plain(program.jaxpr), program.num_leaves, program.num_y)
    return traced._replace(program=program, consts=[spread.place(c) for c in traced.consts])


def _count_again(name: str, found: Found) -> None:
    times = found.put("traced again", None, found.get("traced again", None, 0) + 1)
    if times == _TRACED:
        warnings.warn(
            f"{name}(f): expected few functions with one program, got {times}, each of which was traced anew, as f was "
            "made anew or carries state. A trace takes as long as some hundred calls of a small kernel: make f once, "
            "outside of the loop, and pass what changes as an argument.",
            stacklevel=7,
        )


def _settled(
    options: Options, traced: Traced, call: Call, jit: bool, outs: Space, ins: Space, positions: tuple[int, ...],
    in_tree: Any, kept: tuple[bool, ...],
) -> Entry:  # fmt: skip
    # The part that depends on the program only, not on the function object.
    name = options.name
    batch = None
    if options.batch_axis is not None:
        batch, outs, ins = _one_sample(options, outs, ins)
    point = Point(traced.program, positions, traced.consts, call.leaves, batch)
    if batch is not None and options.verify_batch:
        _check_samples(name, point, "f")
    if name == "hessian":
        spaces, program, consts, primal = _of_gradient(options, traced, point, outs, ins)
        if batch is not None and options.verify_batch:
            at = Point(program, positions, consts, call.leaves, spaces.batch)
            _check_samples(name, at, "the gradient of f")
    else:
        spaces, program, consts, primal = Spaces(outs, ins, batch), traced.program, traced.consts, None
    blue = Blueprint(
        name, program, positions, spaces, in_tree, kept, traced.out_tree, traced.aux_tree, options.ravel, options.mode,
        options.chunk_size, options.memory_limit, jit, tuple(a.shape for a in call.leaves),
        tuple(c.shape for c in consts), primal, options.sparsity,
        tuple(jax.typeof(call.leaves[p]).weak_type for p in positions), options.spread,
    )  # fmt: skip
    if options.ravel and not any(blue.exact):
        raise TypeError(
            f"{name}(ravel=True): expected inputs or outputs of one dtype, as wide as the result, got inputs "
            f"{', '.join(map(str, ins.dtypes))} and outputs {', '.join(map(str, outs.dtypes))}. Either direction would "
            "round some of them: convert them, or leave ravel out."
        )
    for block in blue.blocks:
        _check_width(name, blue, block)
    if not isinstance(options.sparsity, str):
        _check_sparsity(options, blue)
    if options.strict or options.holomorphic:
        _check_program(options, blue, blue.point(consts, call.leaves))
    layouts = [layout_of(blue, k) for k in range(len(blue.blocks))]
    as_it_is = blue.single and options.lazy and not options.has_aux
    return Entry(blue, consts, layouts, layouts[0] if as_it_is else None)


def _may_mix(options: Options, dtype: Any, mode: str) -> bool:
    # A complex input with real outputs has rows, as in `jax.jacrev`. A complex output with real inputs has columns, as
    # in `jax.jacfwd`, but only for mode="fwd".
    allowed = ("rev", "auto") if mode == "rev" else ("fwd",)
    real = (
        options.name in ("jacobian", "laplacian", "value_and_laplacian")
        and not options.holomorphic
        and options.mode in allowed
    )
    return real and bool(jnp.issubdtype(dtype, jnp.complexfloating))


def _check_width(name: str, blue: Blueprint, block: Block) -> None:
    # Raise if only one direction is defined for the block, and that direction would round to a narrower dtype.
    if block.only is None:
        return
    side = blue.spaces.inputs.pick(block.ins) if block.only == "rows" else blue.spaces.outputs.pick(block.outs)
    narrow = [(p, d) for p, d in zip(side.paths, side.dtypes, strict=True) if d != block.dtype]
    if narrow:
        path, dtype = narrow[0]
        raise TypeError(
            f"{name}({path}): expected {block.dtype}, as wide as the result, since {block.only} alone are defined "
            f"between real and complex numbers, got {dtype}. Convert it, or leave ravel out."
        )


def _check_sparsity(options: Options, blue: Blueprint) -> None:
    given, (outs, ins) = options.sparsity, blue.spaces[:2]
    call = f"{options.name}(sparsity={type(given).__name__})"
    if len(blue.blocks) != 1:
        raise ValueError(
            f"{call}: expected one matrix, got {len(blue.blocks)}, for {len(outs)} outputs and {len(ins)} inputs. "
            "Set ravel=True: all outputs are rows of one matrix then, and all inputs columns."
        )
    shape = given.pattern.shape if isinstance(given, Coloring) else given.shape
    if shape != blue.counts[0]:
        of = " of one sample" if blue.spaces.batch is not None else ""
        raise ValueError(
            f"{call}: expected a pattern of shape {blue.counts[0]}{of}, got {shape}. It is (outputs, inputs), each "
            "flattened and put one behind the other."
        )


def _of_gradient(
    options: Options, traced: Traced, point: Point, outs: Space, ins: Space
) -> tuple[Spaces, Any, list, Primal]:
    # The Hessian of f is the Jacobian of its gradient.
    scalar, batch = all(n == 1 for n in outs.sizes), point.batch
    if options.ravel and (len(outs) != 1 or not scalar):
        raise ValueError(
            f"{options.name}(ravel=True): expected f to return one number, got shapes "
            f"{', '.join(map(str, outs.shapes))}. Leave ravel out, or ravel the inputs of f alone."
        )
    f_spaces = Spaces(outs, ins, batch)
    (program, own), known = _gradient(point, f_spaces)
    bare = batch is not None or options.ravel  # drop axes of length 1 of the output
    grads = Space(
        tuple(x if bare else y + x for y in outs.shapes for x in ins.shapes),
        tuple(x for _ in outs.dtypes for x in ins.dtypes),
        tuple(f"the gradient of {y} with respect to {x}" for y in outs.paths for x in ins.paths),
    )
    along = None if batch is None else Batch(batch.size, batch.inputs * len(outs), batch.inputs)
    ruled = traced.program.jaxpr is None or has_rules(traced.program.jaxpr)  # jit=False: no program
    spaces = Spaces(grads, ins, along, hessian=True, by_pullback=ruled or options.mode == "rev")
    primal = Primal(traced.program, len(own), outs, batch, ruled, not known.pullback)
    return spaces, program, [*own, *traced.consts], primal


def _gradient(point: Point, spaces: Spaces) -> tuple[tuple[Program, list], Directions]:
    # The gradient program: one pullback, or pushforwards if f has no pullback.
    program, outs, ins = point.program, range(len(spaces.outputs)), range(len(spaces.inputs))
    if program.jaxpr is None:  # jit=False: Python runs f at this point
        known = learn(program, point.positions, spaces, outs, ins, cache(lambda: linearize(point)[2]))
    else:
        known = directions(program, point.positions, spaces, outs, ins)
    if known.pullback or known.pushforward is None:
        try:
            return gradient(point, spaces.outputs), known
        except Exception as error:
            if said_by_jax(error) is None:
                raise
            known = learn(program, point.positions, spaces, outs, ins)
            if known.pullback or known.pushforward is None:
                raise
    return gradient(point, spaces.outputs, forward=True), known


def _one_sample(options: Options, outs: Space, ins: Space) -> tuple[Batch, Space, Space]:
    # The batch axes, and the spaces of outputs and inputs of one sample.
    name, axis = options.name, options.batch_axis
    in_axes = _batch_axes(name, axis, ins, "input", None)
    sized = ins if len(ins) else outs
    size = sized.shapes[0][(in_axes or _batch_axes(name, axis, outs, "output", None))[0]]
    out_axes = _batch_axes(name, axis, outs, "output", (size, sized.paths[0], sized.shapes[0]))
    batch = Batch(size, out_axes, in_axes)
    if name == "hessian":
        for shape, path, k in zip(outs.shapes, outs.paths, out_axes, strict=True):
            if any(n != 1 for n in shape[:k] + shape[k + 1 :]):
                raise ValueError(
                    f"{name}({path}, batch_axis={axis}): expected one number for each of {size} samples, got "
                    f"shape {shape}. Choose one number of each, or take jax.vmap(hessian(f)) of an f of one sample."
                )
    return batch, _without(outs, out_axes), _without(ins, in_axes)


def _without(space: Space, axes: tuple[int, ...]) -> Space:
    shapes = tuple(s[:k] + s[k + 1 :] for s, k in zip(space.shapes, axes, strict=True))
    return Space(shapes, space.dtypes, space.paths)


def _batch_axes(name: str, axis: Any, space: Space, what: str, first: tuple | None) -> tuple[int, ...]:
    axes = []
    for shape, path in zip(space.shapes, space.paths, strict=True):
        size, given, given_shape = first or (None, *_with_axis(axis, space))
        beside = f", as in {given} of shape {given_shape}" if given else ""
        if not -len(shape) <= axis < len(shape):
            hint = "Leave it out with where= or argnums=." if what == "input" else "Return it as aux, or per sample."
            if not given:
                last = len(shape) - 1
                numbers = "0" if last == 0 else f"0 {'or' if last == 1 else 'to'} {last}"
                hint = f"Axes are numbered from 0: write batch_axis={numbers}." if shape else "Leave batch_axis out."
            raise ValueError(
                f"{name}({path}, batch_axis={axis}): expected every differentiated input and every output to have axis "
                f"{axis}{beside}, got {path} of shape {shape}. {hint}"
            )
        if size is not None and shape[axis] != size:
            raise ValueError(
                f"{name}({path}, batch_axis={axis}): expected {size} samples along axis {axis}{beside}, got {path} of "
                f"shape {shape}. Every input and output has the same number of samples along this axis."
            )
        first = first or (shape[axis], path, shape)
        axes.append(axis % len(shape))
    return tuple(axes)


def _with_axis(axis: int, space: Space) -> tuple[str, tuple[int, ...]]:
    # For an error message: a leaf that has the axis, to compare with one that does not.
    pairs = zip(space.paths, space.shapes, strict=True)
    return next(((p, s) for p, s in pairs if -len(s) <= axis < len(s)), ("", ()))


def _check_samples(name: str, point: Point, what: str) -> None:
    found = read_mixing(point)
    if found is not None:
        raise BatchMixingError(
            f"{name}(batch_axis=...): expected the derivative of {what} to keep samples apart, got {found}. "
            "Leave batch_axis out for all pairs of samples; set verify_batch=False if they are independent in a way "
            "that the program does not show."
        )


def _check_program(options: Options, blue: Blueprint, point: Point) -> None:
    found = read_dependence(point)
    if options.holomorphic and found.real_linear:
        raise TypeError(
            f"{options.name}(holomorphic=True): expected a holomorphic f, got {', '.join(found.real_linear)} on the "
            "way from an input to an output, whose rows and columns would disagree. Differentiate with respect to real "
            "and imaginary parts."
        )
    if options.strict:
        outs, ins = blue.spaces.outputs, blue.spaces.inputs
        for path, sources in zip(outs.paths, found.outputs, strict=True):
            for j, in_path in enumerate(ins.paths):
                if j not in sources:
                    raise IndependenceError(
                        f"{options.name}(strict=True): expected every output to depend on every input, but {path} does "
                        f"not depend on {in_path}: that block is all zeros. Leave strict out if this is meant."
                    )
