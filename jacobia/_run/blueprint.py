"""Everything about a call of a transform but its arrays: its program, its blocks, and what was found out about them.

Hashable, so that it can be the static part of a pytree. Knows programs, shapes and costs. Knows nothing of arrays, and
runs nothing.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import tree_structure

from jacobia._call.linearize import Point
from jacobia._call.trace import Program
from jacobia._compat import opened
from jacobia._found import Found
from jacobia._program.axis.cut import Cut, cut
from jacobia._program.readings.cost import Work, peak_bytes, seed_cost, work, written_bytes
from jacobia._program.readings.seed import products_met
from jacobia._run.apart import Apart, apart
from jacobia._run.directions import Directions, Ways, directions, learn
from jacobia._run.seeds import Spaces, Sweep, applied_program, is_by_number
from jacobia._run.spread import Spread
from jacobia._space import Batch, Space


class Primal(NamedTuple):
    """The f of a Hessian. The program of the blueprint is that of its gradient."""

    program: Program
    num_own: int  # how many constants of the gradient come before those of f
    outputs: Space  # those of one sample, with a batch
    batch: Batch | None
    has_rules: bool  # f has derivative rules of its own, so the Jacobian of its gradient may not be symmetric
    forward: bool  # whether the gradient is computed by pushforwards, since f has no pullback


# A linear program writes about this many times the bytes that its primal does.
_LINEAR = 2

# If all passes cost less than this many elements read or written (a few microseconds), their costs are not compared:
# estimating them takes some ten milliseconds, once.
_WORTH_WEIGHING = 1e4

# If evaluating f costs less than this (some ten microseconds), rows are not pulled back through single samples.
_WORTH_APART = 1e4

# A selection of seeds runs in a loop, which costs this much for each element of an answer, on top of the pass itself:
# 1.7 ns in the median (0.2 to 4), measured with 256 to 1000 of 512 to 2000 seeds on a tridiagonal program, exp, a
# layer and an MLP.
_PICKED = 15


class Block(NamedTuple):
    """One view of the tree: which output leaves (rows) and input leaves (columns), and its shapes."""

    outs: tuple[int, ...]
    ins: tuple[int, ...]
    row_shape: tuple[int, ...]
    column_shape: tuple[int, ...]
    dtype: Any
    ways: Ways
    weak: bool  # whether its entries are weakly typed, as Python numbers are
    # Where one side is complex and the other real, one kind of line alone is defined, since the derivative is linear
    # over the reals only: "rows" of a real output with respect to a complex input, "columns" of a complex output with
    # respect to a real input. None: both are defined.
    only: str | None = None


@dataclass(frozen=True)
class Blueprint:
    """Everything about a call but its arrays: hashable, and equal for calls that could share a kernel."""

    name: str  # "jacobian", for messages
    program: Program
    positions: tuple[int, ...]
    spaces: Spaces
    in_tree: Any
    kept_leaves: tuple[bool, ...]  # for each leaf of in_tree, whether it is differentiated
    out_tree: Any
    aux_tree: Any
    ravel: bool
    mode: str
    chunk_size: Any
    memory_limit: int | None
    jit: bool
    leaf_shapes: tuple[tuple[int, ...], ...]
    const_shapes: tuple[tuple[int, ...], ...]
    primal: Primal | None = None  # the f of a Hessian
    sparsity: Any = "auto"  # or "dense", a pattern, a coloring
    weak: tuple[bool, ...] = ()  # for each differentiated leaf, whether it is weakly typed
    spread: Spread | None = None  # the mesh axis over which seeds or samples are spread

    @cached_property
    def _hash(self) -> int:
        return hash((self.program, self.positions, self.mode, self.ravel))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def single(self) -> bool:
        """Whether the call gives one view, with no tree around it."""
        return self.ravel or (tree_structure(0) == self.in_tree == self.out_tree and self.kept_leaves == (True,))

    @property
    def devices(self) -> int:
        """How many devices share the seeds."""
        return 1 if self.spread is None else self.spread.size

    def placed(self, leaves: Sequence) -> Sequence:
        """The leaves of the point, put on the devices that share the seeds."""
        spread, axes = self.spread, self.sample_axes
        return leaves if spread is None else [spread.place(a, axes.get(k)) for k, a in enumerate(leaves)]

    @property
    def sample_axes(self) -> dict[int, int]:
        """Number of a leaf → its batch axis, for the leaves that have one."""
        batch = self.spaces.batch
        return {} if batch is None else dict(zip(self.positions, batch.inputs, strict=True))

    def point(self, consts: Sequence, leaves: Sequence) -> Point:
        """The point at which the program is linearized."""
        return Point(self.program, self.positions, consts, leaves, self.spaces.batch)

    def one_point(self, consts: Sequence, leaves: Sequence) -> Point:
        """The shapes of one of the points that vmap has stacked. Constants that are not stacked keep their values."""
        shape = jax.ShapeDtypeStruct
        own = [c if jnp.shape(c) == s else shape(s, c.dtype) for c, s in zip(consts, self.const_shapes, strict=True)]
        return self.point(own, [shape(s, a.dtype) for a, s in zip(leaves, self.leaf_shapes, strict=True)])

    def primal_point(self, consts: Sequence, leaves: Sequence) -> Point:
        """The point at which the f of a Hessian is evaluated."""
        assert self.primal is not None
        program, num_own, _, batch, *_ = self.primal
        return Point(program, self.positions, consts[num_own:], leaves, batch)

    @property
    def primal_spaces(self) -> Spaces:
        """The outputs and inputs of the f of a Hessian."""
        assert self.primal is not None
        return Spaces(self.primal.outputs, self.spaces.inputs, self.primal.batch)

    @cached_property
    def symmetric(self) -> bool:
        """Whether the matrix is symmetric: the Hessian of a scalar f without derivative rules of its own.

        Then a row of a block is a column of its mirror image.
        """
        return self.primal is not None and self.program.heads is None and not self.primal.has_rules

    # Directions

    def directions(self, outs: tuple[int, ...], ins: tuple[int, ...]) -> Directions:
        """The known directions between some outputs and inputs."""
        return directions(self.program, self.positions, self.spaces, outs, ins)

    def learn(self, outs: tuple[int, ...], ins: tuple[int, ...], **how: Any) -> Directions:
        """The directions between some outputs and inputs, learned by tracing (see `directions.learn`)."""
        return learn(self.program, self.positions, self.spaces, outs, ins, **how)

    def by(self, way: str, outs: tuple[int, ...], ins: tuple[int, ...]) -> str:
        """The direction that gives rows or columns: "pullback", "jvp" or "transposed pullback"."""
        pushforward = self.directions(outs, ins).pushforward
        if way == "columns":
            return pushforward or "jvp"
        return "jvp" if self.spaces.pushes_rows and pushforward == "jvp" else "pullback"

    @cached_property
    def mirrors(self) -> tuple[int, ...]:
        """For each block of a Hessian, the number of the block that is its transpose."""
        if self.ravel:
            return (0,)
        n = len(self.spaces.inputs)
        outs = range(len(self.spaces.outputs) // n)
        return tuple((o * n + j) * n + i for o in outs for i in range(n) for j in range(n))

    @cached_property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """For each block, its numbers of rows and columns as a matrix, (M, N)."""
        return tuple((math.prod(b.row_shape), math.prod(b.column_shape)) for b in self.blocks)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, row by row of the tree of views: one for each output leaf and input leaf. With `ravel`, one."""
        outs, ins = self.spaces.outputs, self.spaces.inputs
        if self.ravel:
            return (self._block(tuple(range(len(outs))), tuple(range(len(ins))), (outs.size,), (ins.size,)),)
        return tuple(
            self._block((i,), (j,), outs.shapes[i], ins.shapes[j]) for i in range(len(outs)) for j in range(len(ins))
        )

    def _block(self, outs: tuple, ins: tuple, row_shape: tuple, column_shape: tuple) -> Block:
        y = [self.spaces.outputs.dtypes[i] for i in outs]
        x = [self.spaces.inputs.dtypes[j] for j in ins]
        dtype = jnp.result_type(*y, *x)
        # A pullback computes in the dtype of the input, a pushforward in that of the output. A direction whose dtype is
        # narrower than the result would silently round or overflow, so it is not allowed.
        exact = _exact(dtype, y, x)
        exact = exact if any(exact) else Ways(True, True)
        only = _only(y, x)
        asked = Ways(self.mode != "fwd", self.mode != "rev")
        if self.spaces.hessian:
            asked = Ways(True, True)  # rows and columns are the same lines, by the direction that `mode` says
        both = Ways(exact.rows and asked.rows, exact.columns and asked.columns)
        # An entry is weakly typed if the input is, as in `jax.jacrev`; for a Hessian, the first of its two inputs.
        places = [i % len(self.spaces.inputs) for i in outs] if self.spaces.hessian else ins
        weak = all(self.weak[j] and self.spaces.inputs.dtypes[j] == dtype for j in places)
        return Block(outs, ins, row_shape, column_shape, dtype, both if any(both) else exact, weak, only)

    @property
    def exact(self) -> Ways:
        """Whether rows, and whether columns, of all leaves together are computed in the dtype of the result."""
        y, x = self.spaces.outputs.dtypes, self.spaces.inputs.dtypes
        return _exact(jnp.result_type(*y, *x), y, x)

    def relative_cost(self, block: Block, rows: int, columns: int) -> float | None:
        """The cost of `rows` rows divided by that of `columns` columns; None if too cheap to compare, or unknown."""
        if _LINEAR * min(rows, columns) * self.primal_cost < _WORTH_WEIGHING:
            return None
        m, n = math.prod(block.row_shape), math.prod(block.column_shape)
        by_rows = rows * self.pass_cost("rows", block) + self._picking("rows", block, rows, m) * n
        by_columns = columns * self.pass_cost("columns", block) + self._picking("columns", block, columns, n) * m
        known = 0 < by_rows < math.inf and 0 < by_columns < math.inf
        return by_rows / by_columns if known else None

    def _picking(self, way: str, block: Block, seeds: int, of: int) -> float:
        free = seeds == of or self._left_out(way, block.outs, block.ins)
        return 0 if free else _PICKED * seeds

    def pass_cost(self, way: str, block: Block) -> float:
        """The cost of one row or column, in elements read or written; infinite where f lacks the direction."""
        key = way, self.by(way, block.outs, block.ins), block.outs, block.ins
        return self._of_program("cost", key, lambda: self._pass_cost(way, block.outs, block.ins))

    def _pass_cost(self, way: str, outs: tuple, ins: tuple) -> float:
        own = self.apart(way, outs, ins)
        return self._cost_of_all(way, outs, ins) if own is None else own.cost

    def _cost_of_all(self, way: str, outs: tuple, ins: tuple) -> float:
        closed = self.pass_program(way, outs, ins)
        if closed is None:
            return math.inf
        seeds, left_out = len(outs if way == "rows" else ins), self._left_out(way, outs, ins)
        return seed_cost(closed.jaxpr, seeds, way == "columns", left_out)

    def _left_out(self, way: str, outs: tuple, ins: tuple) -> Set[int]:
        # The products of a pass that a kernel does not compute: it takes a row of the matrix by the seed's number.
        closed = self.pass_program(way, outs, ins)

        def found() -> Set[int]:
            basis = self.spaces.outputs.pick(outs) if way == "rows" else self.spaces.inputs.pick(ins)
            jaxpr = closed.jaxpr if closed is not None and is_by_number(self.spaces, basis) else None
            return frozenset() if jaxpr is None else products_met(jaxpr, jaxpr.invars[-1])

        return self._of_program("left out", (way, self.by(way, outs, ins), outs, ins), found)

    def pass_work(self, way: str, block: Block) -> Work | None:
        """The operations and bytes of one row or column; None where no single program computes it."""
        closed = None if self.program.heads is not None else self.pass_program(way, block.outs, block.ins)
        if closed is None:
            return None
        own = self.apart(way, block.outs, block.ins)
        if own is not None:
            return work(own.row, 1)
        left_out = self._left_out(way, block.outs, block.ins)
        return work(closed.jaxpr, len(block.outs if way == "rows" else block.ins), left_out)

    def pass_program(self, way: str, outs: tuple, ins: tuple) -> Any:
        """The program that computes one row or column from constants, leaves and a seed; None where there is none."""
        key = way, self.by(way, outs, ins), outs, ins
        if self.program.jaxpr is None or self.program.heads is not None:
            return None
        return self._of_program("pass", key, lambda: self._pass_program(*key))

    def _of_program(self, what: str, key: tuple, make: Callable[[], Any]) -> Any:
        # Found once for a program: equal functions share it.
        return self.program.found.find(what, (self.positions, self.spaces, *key), make)

    def _pass_program(self, way: str, by: str, outs: tuple, ins: tuple) -> Any:
        try:
            return applied_program(self.program, self.positions, self.spaces, way, by, outs, ins)
        except (TypeError, ValueError, NotImplementedError):
            return None  # running it raises the error

    @cached_property
    def primal_cost(self) -> float:
        """The cost of evaluating f, in elements read or written."""
        return math.inf if self.program.jaxpr is None else seed_cost(self.program.jaxpr, self.program.num_leaves, False)

    def apart(self, way: str, outs: tuple, ins: tuple) -> Apart | None:
        """How to pull a row back through its own sample alone; None where f does not evaluate samples one by one."""
        spaces = self.spaces
        if way != "rows" or len(outs) != 1 or spaces.batch is not None or spaces.hessian or self.program.jaxpr is None:
            return None
        if self.primal_cost < _WORTH_APART or self.by(way, outs, ins) != "pullback":
            return None
        return self._of_program("apart", (outs, ins), lambda: self._apart(outs, ins))

    def _apart(self, outs: tuple, ins: tuple) -> Apart | None:
        return apart(self.program, self.positions, self.spaces, outs[0], ins, self._cost_of_all("rows", outs, ins))

    def cut(self, sweep: Sweep) -> Cut | None:
        """The program that maps one seed to its answer for one sample; None where f does not keep samples apart."""
        name = sweep.way, sweep.by, sweep.seeded, sweep.read
        return self.found.find("cut", name, lambda: self._cut(*name))

    def _cut(self, way: str, by: str, seeded: tuple, read: tuple) -> Cut | None:
        program, spaces = self.program, self.spaces
        if way == "second":
            assert self.primal is not None
            program, spaces = self.primal.program, self.primal_spaces
        batch = spaces.batch
        if program.jaxpr is None or batch is None:
            return None
        outs, ins = (seeded, read) if way == "rows" else (read, seeded)
        jaxpr, own = opened(applied_program(program, self.positions, spaces, way, by, outs, ins))
        axes: list[int | None] = [None] * len(program.jaxpr.invars)
        for place, axis in zip(self.positions, batch.inputs, strict=True):
            axes[len(axes) - program.num_leaves + place] = axis
        made = cut(jaxpr, [None] * len(own) + axes + [0] * len(seeded), [0] * len(read), batch.size)
        return made and Cut(lambda sample, args: made(sample, [*own, *args]), made.has_rules)

    @property
    def primal_work(self) -> Work:
        """The operations and bytes of evaluating f."""
        return work(self.program.jaxpr, len(self.program.jaxpr.invars))

    @cached_property
    def found(self) -> Found:
        """What has been found out for arguments of these shapes: costs, plans, names of kernels, layouts of views."""
        return Found()

    def nbytes_of_seed(self, way: str, outs: tuple, ins: tuple) -> int:
        """The bytes that one seed keeps alive: its intermediates, the seed, and the answer."""
        own = self.apart(way, outs, ins)
        return self.per_seed if own is None else own.nbytes

    def heavy_of_seed(self, way: str, outs: tuple, ins: tuple) -> int:
        """The bytes that one seed writes to memory: results of operations that no compiler fuses."""
        own = self.apart(way, outs, ins)
        return self.heavy if own is None else own.heavy

    @cached_property
    def per_seed(self) -> int:
        """The bytes that one seed of all samples keeps alive."""
        peak = peak_bytes(self.program.jaxpr) if self.program.jaxpr is not None else 0
        sides, lead = (self.spaces.outputs, self.spaces.inputs), math.prod(self.spaces.lead)
        return peak + lead * sum(s.size * max((d.itemsize for d in s.dtypes), default=0) for s in sides)

    @cached_property
    def heavy(self) -> int:
        """The bytes that one seed of all samples writes to memory."""
        return 0 if self.program.jaxpr is None else _LINEAR * written_bytes(self.program.jaxpr)

    @property
    def lies_across(self) -> bool:
        """Whether all of a symmetric matrix is faster to write with the seeds on its last axis.

        Elementwise operations vectorize best along seeds; matrix products return their answers row by row.
        """
        block = self.blocks[0]
        if not self.symmetric or self.by("rows", block.outs, block.ins) != "jvp":
            return False
        inputs = self.spaces.inputs
        line = inputs.size * max((d.itemsize for d in inputs.dtypes), default=0) * math.prod(self.spaces.lead)
        return self.program.jaxpr is not None and self.heavy < line

    def sweep(
        self,
        way: str,
        outs: tuple,
        ins: tuple,
        width: int | None,
        chunk: int | None,
        padded: bool = False,
        diagonal: bool = False,
        block: int | None = None,
    ) -> Sweep:
        seeded, read = (outs, ins) if way == "rows" else (ins, outs)
        y, x = self.spaces.outputs.dtypes, self.spaces.inputs.dtypes
        if self.ravel:
            dtypes = (self.blocks[0].dtype,) * len(read)
        elif way == "rows":
            dtypes = tuple(jnp.result_type(y[outs[0]], x[j]) for j in read)
        else:
            dtypes = tuple(jnp.result_type(y[i], x[ins[0]]) for i in read)
        by = self.by(way, outs, ins)
        return Sweep(way, by, seeded, read, width, chunk, dtypes, self.ravel, padded, diagonal, block)


def _only(y: Any, x: Any) -> str | None:
    y_complex, x_complex = (any(jnp.issubdtype(d, jnp.complexfloating) for d in side) for side in (y, x))
    return None if y_complex == x_complex else "rows" if x_complex else "columns"


def _exact(dtype: Any, y: Any, x: Any) -> Ways:
    return Ways(all(d == dtype for d in x), all(d == dtype for d in y))
