"""Which directions a program has: a pullback, a pushforward, and whether the pullback is linear.

This is learned here alone: each direction is traced by itself, and an error of JAX says that it is missing. The
program keeps the answer. An error raised by a rule of f, or by this library, never means a missing direction.
Knows programs and errors. Knows nothing of keys or stores.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jacobia._call.linearize import Point
from jacobia._call.trace import Program
from jacobia._program.readings.linear import LINEAR, OTHER, ZERO, outputs_of
from jacobia._program.walk import holds
from jacobia._run.seeds import Spaces, applied_program


class Ways(NamedTuple):
    """Whether rows and columns can be computed one by one: depends on `mode`, on dtypes, and on the rules of f."""

    rows: bool
    columns: bool


class Missing(NamedTuple):
    """The type and the message of the error by which JAX says that a direction is missing."""

    kind: type[Exception]
    says: str


@dataclass(frozen=True)
class Directions:
    """The directions that f has. By default, both, with a linear pullback; an error of JAX shows otherwise."""

    pullback: bool = True
    pushforward: str | None = "jvp"  # "transposed pullback" where f has no jvp; None: neither
    linear: bool = True  # whether the program of the pullback is linear; if not, only rows can be computed
    missing: tuple[Missing, ...] = field(default=(), compare=False)  # in the order in which directions were tried


# The messages of JAX for a missing direction: of `custom_vjp`, of `while_loop`, of callbacks and foreign functions, and
# of primitives without a rule.
_SAYS = re.compile(
    "forward-mode|[Rr]everse-mode|do not support (JVP|transpose)|cannot be differentiated"
    "|support, subclass .* must implement|(Differentiation|Transpose) rule|[Dd]erivatives? of|JVP|jvp"
    "|can't be transposed"
)
_KINDS = (TypeError, ValueError, NotImplementedError, RuntimeError)

# The primitive that a pushforward through a `custom_vjp` leaves in the program. It cannot be run.
_LEFT = "custom_lin"
# The directions of a program that holds one of these primitives are traced before the program is used.
_DOUBTFUL = ("custom_vjp_call", "custom_vjp_call_jaxpr", "call_hi_primitive", "while", _LEFT)
_NO_JVP = Missing(TypeError, "can't apply forward-mode differentiation (jvp) to a custom_vjp function.")


def said_by_jax(error: Exception) -> Missing | None:
    """The missing direction that an error of JAX reports; None for any other error."""
    if type(error) not in _KINDS or _SAYS.search(str(error)) is None:
        return None
    return Missing(type(error), str(error))


def is_doubtful(program: Program) -> bool:
    """Whether a program may lack a direction. Others are assumed to have both until an error shows otherwise."""
    return program.found.find("doubtful", None, lambda: any(holds(program.jaxpr, name) for name in _DOUBTFUL))


def directions(
    program: Program, positions: tuple[int, ...], spaces: Spaces, outs: Sequence[int], ins: Sequence[int]
) -> Directions:
    """The known directions between some outputs and inputs. Those of a doubtful program are learned first."""
    known = program.directions.get(_name(program, positions, spaces, outs, ins))
    if known is None and program.jaxpr is not None and is_doubtful(program):
        known = learn(program, positions, spaces, outs, ins)
    return known or Directions()


def learn(
    program: Program,
    positions: tuple[int, ...],
    spaces: Spaces,
    outs: Sequence[int],
    ins: Sequence[int],
    linear: Callable[[], Callable[[list], list]] | None = None,
    point: Point | None = None,
) -> Directions:
    """The directions between some outputs and inputs, learned by tracing each of them. Nothing is computed.

    Args:
      linear: for an f that Python runs (`jit=False`): gives the linear program of all outputs and inputs at a point.
      point: for such an f at points that vmap has stacked, where Python sees shapes alone: those of one point.

    Raises:
      Any error of tracing but those by which JAX says that the direction is missing.
    """
    name = _name(program, positions, spaces, outs, ins)
    known = program.directions.get(name)
    if known is None:
        every: tuple[tuple[int, ...], tuple[int, ...]] = name[2:]

        def traced(way: str, by: str) -> tuple[Any, int]:
            if linear is not None:
                return _of_linear(linear(), spaces, by)
            closed = applied_program(program, positions, spaces, way, by, *every, point)
            return closed, len(every[0] if way == "rows" else every[1])

        known = _learned(traced)
        with program.lock:
            known = program.directions.setdefault(name, known)
    return known


def _name(program: Program, positions: tuple, spaces: Spaces, outs: Sequence[int], ins: Sequence[int]) -> tuple:
    # One name for all outputs and inputs of a Hessian, since the outputs of a gradient are inputs of f, and of an f
    # that Python runs, since it is linearized as a whole.
    if spaces.hessian or program.jaxpr is None:
        outs, ins = range(len(spaces.outputs)), range(len(spaces.inputs))
    return positions, spaces.batch, tuple(outs), tuple(ins)


def _of_linear(linear: Callable[[list], list], spaces: Spaces, by: str) -> tuple[Any, int]:
    tangents, cotangents = spaces.inputs.zeros(spaces.lead), spaces.outputs.zeros(spaces.lead)
    if by == "jvp":
        return jax.make_jaxpr(linear)(tangents), len(tangents)
    pull = jax.linear_transpose(linear, tangents)
    if by == "pullback":
        return jax.make_jaxpr(lambda cotangents: pull(cotangents)[0])(cotangents), len(cotangents)
    push = jax.vjp(lambda cotangents: pull(cotangents)[0], cotangents)[1]
    return jax.make_jaxpr(lambda tangents: push(tangents)[0])(tangents), len(tangents)


def _learned(traced: Callable[[str, str], tuple[Any, int]]) -> Directions:
    # `traced` maps "rows" or "columns", and the direction that computes them, to a program and the number of its last
    # inputs that are seeds.
    missing: list[Missing] = []

    def tried(way: str, by: str) -> Any:
        found = _tried(lambda: traced(way, by))
        if isinstance(found, Missing):
            missing.append(found)
            return None
        return found

    pulled, pushed = tried("rows", "pullback"), tried("columns", "jvp")
    if pushed is not None or pulled is None:
        return Directions(pulled is not None, None if pushed is None else "jvp", True, tuple(missing))
    closed, seeds = pulled
    # A result that does not depend on the seeds is linear in them only if it is zero.
    linear = all(kind in (LINEAR, ZERO) for kind in outputs_of(closed.jaxpr, closed.consts, seeds))
    pushforward = "transposed pullback" if linear and tried("columns", "transposed pullback") is not None else None
    return Directions(True, pushforward, linear, tuple(missing))


def has_second(program: Program, positions: tuple[int, ...], spaces: Spaces, out: int, ins: tuple[int, ...]) -> bool:
    """Whether an output of f has second derivatives along some inputs, forward over forward."""
    name = "second", positions, spaces.batch, out, ins
    if name not in program.directions:
        closed = lambda: applied_program(program, positions, spaces, "second", "jvp", (out,), ins)  # noqa: E731
        found = _tried(lambda: (closed(), len(ins)))
        with program.lock:
            program.directions[name] = not isinstance(found, Missing)
    return program.directions[name]


def _tried(traced: Callable[[], tuple[Any, int]]) -> Any:
    # The program and its number of seeds, or the missing direction.
    try:
        closed, seeds = traced()
    except _KINDS as error:
        said = said_by_jax(error)
        if said is None:
            raise
        return said
    left = holds(closed.jaxpr, _LEFT) and OTHER in outputs_of(closed.jaxpr, closed.consts, seeds)
    return _NO_JVP if left else (closed, seeds)
