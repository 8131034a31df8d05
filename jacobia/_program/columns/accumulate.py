"""All nonzeros of a Jacobian at once: the linear program walked with every tangent held as its own Jacobian.

The walk finds what the shapes decide (which entries can be nonzero); the arithmetic goes on a tape, which runs in about
the time that f takes. No seeds, no colors, no recovery.
Knows programs and tangents. Knows nothing of points, seeds or what is remembered.
Shapes: N inputs, M outputs, nnz entries.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, bind, eval_jaxpr, inner_consts
from jacobia._program import choices, zeros
from jacobia._program.axis.samples import body_of
from jacobia._program.columns.apply import NotLinear, is_tangent
from jacobia._program.columns.assemble import assembled
from jacobia._program.columns.counters import known_results, of_scan
from jacobia._program.columns.fence import apart
from jacobia._program.columns.loops import LOOPS
from jacobia._program.columns.merging import unused
from jacobia._program.columns.parts import parts_of
from jacobia._program.columns.room import Extent, TooWide, check_columns, numbered
from jacobia._program.columns.rules import rule_of, unknown
from jacobia._program.columns.slots import Parts, Slots, nothing, select, values
from jacobia._program.columns.tape import Fixed, Tape
from jacobia._program.known import (
    Columns,
    Few,
    Lazy,
    Steps,
    can_be_known,
    joined_columns,
    known_columns,
    results,
)
from jacobia._program.walk import run
from jacobia._progress import waiting


class Value:
    """A value that does not depend on the tangents: its name on the tape, and the value itself if it is known.

    If it is not known, `choice` is the values that an integer may have, and `mask` the elements that can be nonzero. A
    value that is known at every step of a loop has neither.
    """

    __slots__ = ("_choice", "_mask", "known", "name", "shape")

    def __init__(
        self,
        name: Any,
        shape: tuple[int, ...],
        known: Lazy | Columns | None,
        choice: Lazy | None = None,
        mask: Lazy | None = None,
    ):
        self.name, self.shape, self.known, self._choice, self._mask = name, shape, known, choice, mask

    @property
    def choice(self) -> Lazy | None:
        return self.known if isinstance(self.known, Lazy) and not isinstance(self.known, Steps) else self._choice

    @property
    def mask(self) -> Lazy | None:
        if isinstance(self.known, Lazy) and not isinstance(self.known, Steps):
            return zeros.of_known(self.known)
        return self._mask

    def renamed(self, name: Any) -> "Value":
        """The same under the name it has on another tape."""
        return Value(name, self.shape, self.known, self._choice, self._mask)


# What is assumed of an operation without a rule, and because of one that is not linear in its tangents.
_NO_RULE = "jacobia has no sparsity rule for this operation, so every result is assumed to depend on every operand"
_NOT_LINEAR = "this operation is not linear in its tangents, so every output is assumed to depend on every input"


class Walk:
    """The interpreter of linear programs on structured intermediates."""

    # Loops of up to `steps` steps are walked step by step, which runs fastest: each step has only the columns it needs.
    # If tangents have at most `small` elements, compile time counts more, and the limit is `few_steps`.
    steps, few_steps, small = 16, 4, 1 << 12

    def __init__(self, tape: Tape, n: int):
        self.tape, self.n = tape, n
        self.dense: dict[str, str] = {}  # operations that make the pattern dense, in order → what is assumed

    def warn(self, name: str, assumed: str = _NO_RULE) -> None:
        self.dense.setdefault(name, assumed)

    def inside(self, tape: Tape, n: int | None = None) -> "Walk":
        """The same on another tape, with another number of inputs: for the body of a loop."""
        walk = type(self)(tape, self.n if n is None else n)
        walk.dense = self.dense
        return walk

    def unrolls(self, length: int, values: Sequence) -> bool:
        """Whether a loop over these values is walked step by step."""
        size = sum(v.size for v in values if is_tangent(v))
        return length <= (self.few_steps if size <= self.small else self.steps)

    def value(self, name: Any, shape: tuple[int, ...], known: Lazy | None = None) -> Value:
        return Value(name, shape, known)

    def name(self, value: Any) -> Any:
        if is_tangent(value):
            raise NotLinear()
        return value.name

    def known(self, value: Any) -> np.ndarray | None:
        """The value, if it does not depend on the point."""
        if is_tangent(value):
            raise NotLinear()
        return value.known.always() if isinstance(value.known, Lazy) else None

    def nonzero(self, value: Any) -> np.ndarray | None:
        """Where the value can be nonzero; None: everywhere."""
        if is_tangent(value):
            raise NotLinear()
        if isinstance(value.known, Lazy):
            return value.known.always(lambda v: np.asarray(v != 0))
        return None if value.mask is None else value.mask.made()

    def chosen(self, value: Any) -> Any:
        """The value if it does not depend on the point; else the `Few` values it may have, or None."""
        if is_tangent(value):
            raise NotLinear()
        if isinstance(value.known, Lazy):
            return value.known.always()
        made = None if value.choice is None else value.choice.made()
        return made if isinstance(made, Few) else None

    def columns(self, value: Any) -> list:
        """An index array split along its last axis: each column is known, or `Few` values it may have, or None."""
        if is_tangent(value):
            raise NotLinear()
        return known_columns(value.known or value.choice, value.shape[-1])

    def run(self, jaxpr: Any, consts: Sequence, args: Sequence) -> list:
        return [self.wrapped(v) for v in run(jaxpr, list(consts), list(args), self.rule)]

    def body(self, program: Any, args: Sequence) -> list:
        """The results of a program inside an operation."""
        consts = [self.wrapped(c) for c in inner_consts(program)]
        return self.run(getattr(program, "jaxpr", program), consts, args)

    def wrapped(self, value: Any) -> Any:
        # Any other value is a literal, or an array that the program carries.
        if is_tangent(value) or isinstance(value, Value):
            return value
        known = None if isinstance(value, Tracer) else Lazy(value)
        return Value(Fixed(value), np.shape(value), known)

    def rule(self, eqn: Any, ins: list) -> list:
        ins = [self.wrapped(v) for v in ins]
        body = body_of(eqn)
        if body is not None:
            return self.body(body, ins)
        if not any(map(is_tangent, ins)):
            return self.residual(eqn, ins)
        name, rule = eqn.primitive.name, rule_of(eqn)
        # Zero tangents give zeros, except in loops and branches, which may also compute values without tangents.
        if rule is not None and not any(isinstance(v, Parts) or v.width for v in ins if is_tangent(v)):
            return [nothing(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
        rule = LOOPS.get(name) or rule or unknown
        try:
            return [_settled(v, self.n) for v in rule(self, eqn, ins)]
        except (NotLinear, TooWide) as error:
            error.operation = error.operation or name
            raise

    def residual(self, eqn: Any, ins: list) -> list:
        """An equation without tangents: it runs at every point, and its results are known if its operands are."""
        names = self.tape.steps_of(lambda *a: bind(eqn, *a), [v.name for v in ins], len(eqn.outvars))
        known: Sequence = [None] * len(names)
        choice, mask = known, known
        if can_be_known(eqn) and all(isinstance(v.known, Lazy) for v in ins):
            known = results(eqn, [v.known for v in ins])
        elif eqn.primitive.name == "scan":
            known = known_results(of_scan(self, eqn, ins))
        else:
            if eqn.primitive.name == "concatenate":
                known = [joined_columns(eqn, [v.known or v.choice for v in ins])]
            choice = choices.results(eqn, [v.choice for v in ins])
            values = [v.known if v.known is v.choice else None for v in ins]
            mask = zeros.results(eqn, [v.mask for v in ins], values)
        made = zip(names, eqn.outvars, known, choice, mask, strict=True)
        return [Value(name, v.aval.shape, k, c, m) for name, v, k, c, m in made]


def _settled(value: Any, n: int) -> Any:
    # A tangent that is zero by structure always has no slots. A rule that moves columns (padding, say) may have moved
    # all of them out; no other rule need check for that.
    if isinstance(value, Slots):
        return value if not value.width or _any_used(value.cols, n) else nothing(value.shape, value.dtype)
    if isinstance(value, Parts):
        terms = [(s, r) for s, r in value.terms if s.width and (r >= 0).any() and _any_used(s.cols, n)]
        return Parts(terms, value.shape, value.dtype) if terms else nothing(value.shape, value.dtype)
    return value


def _any_used(cols: np.ndarray, n: int) -> bool:
    return bool(cols.size) and bool(cols.min() < n)


class Entries(NamedTuple):
    """The entries of a matrix that can be nonzero, and how to compute them at a point.

    Sorted by row and then by column; int32 (nnz,).
    """

    rows: np.ndarray
    cols: np.ndarray
    arrays: list[np.ndarray]  # made while walking: inputs of a kernel, so that they are no constants in it
    values: Callable[[Sequence, Sequence], Any]  # from the inputs of the program and these arrays to (nnz,)
    largest: Extent  # size of the largest values computed on the way


class Walked:
    """A linear program that has been walked: every output as tangents in slots.

    `relied` maps the number of each input whose value the walk has looked at to this value. With other values the walk
    may differ.
    """

    def __init__(self, jaxpr: Any, consts: Sequence, known: Sequence, num_tangents: int):
        self._tape = tape = Tape()
        split = len(jaxpr.invars) - num_tangents
        self._inputs = [tape.new() for _ in range(split)]
        self.relied: dict[int, Any] = {}
        given = [
            Value(name, v.aval.shape, None if k is None else self._watched(i, k))
            for i, (name, v, k) in enumerate(zip(self._inputs, jaxpr.invars[:split], known, strict=True))
        ]
        self.ins = [v.aval.size for v in jaxpr.invars[split:]]
        self.n, offset, tangents = sum(self.ins), 0, []
        for v in jaxpr.invars[split:]:
            cols = numbered(v.aval.shape, offset)[None]
            tangents.append(Slots(cols, None, v.aval.shape, v.aval.dtype))
            offset += v.aval.size
        walk = Walk(tape, self.n)
        try:
            with waiting("reading the program"):
                outs = walk.run(jaxpr, [walk.wrapped(c) for c in consts], [*given, *tangents])
        except NotLinear as error:  # the program is linear as a whole
            walk.warn(error.operation or "the program", _NOT_LINEAR)
            outs = self._dense(jaxpr, consts)
        self._outs = [
            o if is_tangent(o) else nothing(v.aval.shape, v.aval.dtype)
            for o, v in zip(outs, jaxpr.outvars, strict=True)
        ]
        self.outs = [o.size for o in self._outs]
        self._untold = list(walk.dense.items())

    def tell(self) -> None:
        """Warn, once, where the pattern may have more entries than needed."""
        while self._untold:
            name, assumed = self._untold.pop(0)
            warnings.warn(
                f"{name}: {assumed}. The pattern may have more entries than needed; the values are right.", stacklevel=3
            )

    def _dense(self, jaxpr: Any, consts: Sequence) -> list:
        # Every output depends on every input: all seeds are pushed through at once.
        split, sizes = len(self._inputs), np.concatenate([[0], np.cumsum(self.ins)])

        def run(*inputs: Any) -> list:
            def push(seed: Any) -> list:
                seeds = [
                    seed[a:b].reshape(v.aval.shape).astype(v.aval.dtype)
                    for a, b, v in zip(sizes[:-1], sizes[1:], jaxpr.invars[split:], strict=True)
                ]
                return eval_jaxpr(jaxpr, consts, *inputs, *seeds)

            return jax.vmap(push)(jnp.eye(self.n))

        names = self._tape.steps_of(run, self._inputs, len(jaxpr.outvars))
        cols = numbered((self.n,))
        return [
            Slots(cols.reshape(-1, *[1] * v.aval.ndim), name, v.aval.shape, v.aval.dtype)
            for name, v in zip(names, jaxpr.outvars, strict=True)
        ]

    def _watched(self, i: int, value: Any) -> Lazy:
        def read() -> list:
            self.relied[i] = value
            return [value]

        return Lazy(make=read)

    @property
    def largest(self) -> Extent:
        """The size of the largest values among the outputs and what they are computed from."""
        terms = [slots for o in self._outs for slots in ([s for s, _ in o.terms] if isinstance(o, Parts) else [o])]
        made = self._tape.largest([s.vals for s in terms if s.vals is not None])
        return max([made, *(s.extent for s in terms)])

    @property
    def most_entries(self) -> int:
        """A bound on the number of entries of all outputs: the number of places in their slots."""
        return sum(slots.width * slots.size for o in self._outs for slots, _ in parts_of(o))

    def entries(self, outs: Sequence[int], ins: Sequence[int], on_diagonal: bool = False) -> Entries:
        """The entries of some outputs with respect to some inputs, in order; or only those on the diagonal."""
        tape, n = self._tape, sum(self.ins[j] for j in ins)
        to = np.full(self.n + 1, n, np.int32)
        starts, offset = np.concatenate([[0], np.cumsum(self.ins)]), 0
        for j in ins:
            to[starts[j] : starts[j + 1]] = np.arange(offset, offset + self.ins[j])
            offset += self.ins[j]
        whole = len(ins) == len(self.ins) and np.array_equal(to[:-1], np.arange(n))
        terms, offset = [], 0
        for k in outs:
            for slots, rows in parts_of(self._outs[k]):
                own = slots if whole else _renumbered(tape, slots, to, n, self.n)
                own = _settled(_on_diagonal(tape, own, rows + offset, n) if on_diagonal else own, n)
                if own.width:
                    terms.append((own, np.where(rows < 0, -1, rows + offset)))
            offset += self.outs[k]
            check_columns(1, (offset,))
        made = assembled(tape, terms, offset, n)
        used = tape.used([made.data])

        def values_at(inputs: Sequence, arrays: Sequence) -> Any:
            given = dict(zip(self._inputs, inputs, strict=True)) | dict(zip(used, arrays, strict=True))

            def ahead(values: list) -> list:
                return tape.run(dict(zip(given, values, strict=True)), made.ahead)

            written = apart(ahead, list(given.values()), made.size) if made.ahead else []
            return tape.run(given | dict(zip(made.ahead, written, strict=True)), [made.data])[0]

        arrays = [tape.arrays[k] for k in used]
        return Entries(made.rows, made.cols, arrays, values_at, tape.largest([made.data]))


def _on_diagonal(tape: Tape, slots: Slots, rows: np.ndarray, n: int) -> Slots:
    # Only entries whose column equals their row. Steps of the tape that compute only other entries do not run.
    cols = slots.full_cols().reshape(slots.width, slots.size)
    cols = np.where(cols == rows, cols, np.int32(n)).reshape(slots.width, *slots.shape)
    made = Slots(cols, values(tape, slots, n), slots.shape, slots.dtype)
    return select(tape, made, np.flatnonzero(~unused(cols, n)), n)


def _renumbered(tape: Tape, slots: Slots, to: np.ndarray, n: int, before: int) -> Slots:
    cols = to[slots.cols]
    made = Slots(cols, values(tape, slots, before), slots.shape, slots.dtype)
    return select(tape, made, np.flatnonzero(~unused(cols, n)), n)
