"""One call of a transform: the point, its linearization, and how sweeps are run there.

All views of a call share one `Linearized`. Knows nothing of keys or of what is remembered.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jacobia._call.linearize import Point, linearize, value
from jacobia._call.trace import tracing
from jacobia._compat import Tracer, eval_context, jit_disabled, trace_state, varying
from jacobia._program.axis.cut import Cut
from jacobia._run.alive import deleted
from jacobia._run.apart import Apart, rows_or_columns
from jacobia._run.blueprint import Block, Blueprint
from jacobia._run.devices import device_of
from jacobia._run.directions import Directions, has_second
from jacobia._run.kernels import Kept, Kind, call, keep, residual_bytes
from jacobia._run.limits import byte_limit, worth_apart
from jacobia._run.over_mesh import over_mesh
from jacobia._run.seeds import (
    Image,
    Sweep,
    num_seeds,
    sweep_in_blocks,
    sweep_of_samples,
    sweeps_at,
    sweeps_of,
)
from jacobia._run.stacked import Chosen, Stacks, at_chosen, at_each, choose, count


class Linearized:
    """f linearized at one point. Shared by all views of a call; its leaves may be traced, or batched."""

    # Until something else is said, an attribute has the value it has here: views are made often.
    stacks: Stacks = ()  # axes that vmap or scan has put in front, and which arrays have them
    batch: tuple[int, ...] = ()  # their sizes
    const_leaves: tuple[bool, ...] = ()  # which constants are leaves of a view as a pytree, where that is settled
    source: Any = None  # how to make this call again, for pickle
    guard: Any = None  # the key among the leaves of the tree that the view has come from
    traced: bool = False  # whether any array is a tracer
    made_in: Any = None  # the trace that a traced point belongs to: what is computed in an inner one is not kept
    reads = 0
    expects_more = True  # whether the first read may do more than it needs, for those that follow
    in_trace: tuple = ()  # of a traced point: what has been computed in its trace
    _kept: Any = None
    _kept_in: Any = None
    _value: Any = None
    _of_numpy = False  # whether the point is arrays of NumPy yet
    _later: Any = None  # what is to be remembered before somebody looks at a store

    def __init__(self, blue: Blueprint, consts: Sequence, leaves: Sequence, of_numpy: bool = False):
        """`of_numpy`: the leaves are arrays of NumPy that nobody else has; a kernel takes them as they are."""
        self.blue = blue
        self.consts = consts
        self.at_hand = leaves
        if of_numpy:
            self._of_numpy = True
        self.lock = threading.RLock()
        self._stores: dict = {}

    @property
    def leaves(self) -> Sequence:
        """The point."""
        if self._of_numpy:
            with eval_context():  # also where it is first asked for in a trace
                self.at_hand, self._of_numpy = [jax.device_put(a) for a in self.at_hand], False
        return self.at_hand

    @property
    def stores(self) -> dict:
        """What is remembered, by the numbers of blocks."""
        if self._later is not None:
            with self.lock:
                note, self._later = self._later, None
                if note is not None:
                    note[0](self, *note[1:])
        return self._stores

    def note_later(self, remember: Callable, *args: Any) -> None:
        """Remember something once somebody looks: `remember(self, *args)`. Most views are read once."""
        assert self._later is None, "something else has not been remembered yet"
        self._later = remember, *args

    @staticmethod
    def anywhere(
        blue: Blueprint, consts: Sequence, leaves: Sequence, stacks: Stacks = (), guard: Any = None
    ) -> "Linearized":
        """At leaves that may be traced or batched."""
        self = Linearized(blue, consts, leaves)
        self.stacks, self.guard = stacks, guard
        self.batch = tuple(s.size for s in stacks)
        self.traced = any(isinstance(a, Tracer) for a in (*leaves, *consts))
        self.made_in = trace_state() if self.traced else None
        return self

    @property
    def remembers(self) -> bool:
        """Whether results are arrays that can be kept; otherwise they are part of a trace."""
        return not (tracing() or self.traced)

    @property
    def compiles(self) -> bool:
        """Whether kernels are compiled besides; otherwise they are part of a trace, or run by Python."""
        return self.blue.jit and not (jit_disabled() or tracing() or self.traced)

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes of samples, in front of everything that is computed."""
        return self.batch + self.blue.spaces.lead

    @property
    def point(self) -> Point:
        return self.blue.point(self.consts, self.leaves)

    @property
    def device(self) -> Any:
        """Of the point; None: it is traced."""
        return device_of(self.leaves)

    def by(self, way: str, block: Block) -> str:
        """What gives rows or columns of a block here: pullbacks or pushforwards."""
        return "pullbacks" if self.blue.by(way, block.outs, block.ins) == "pullback" else "pushforwards"

    def by_for_products(self, way: str, block: Block) -> str:
        """The direction of a product: a cotangent for several outputs of f has no single head to push through."""
        if way == "rows" and self.blue.program.heads is not None:
            return "pullback"
        return self.blue.by(way, block.outs, block.ins)

    def directions(self, block: Block) -> Directions:
        """What is known of the directions of a block. What Python runs is looked at first, at this point."""
        if self.blue.program.jaxpr is None and not self.batch:
            return self.learn(block)
        return self.blue.directions(block.outs, block.ins)

    def learn(self, block: Block) -> Directions:
        """The same, learned if it has not been."""
        if self.blue.program.jaxpr is None:
            return self.blue.learn(block.outs, block.ins, lambda: self._linearized_here()[2])
        return self.blue.learn(block.outs, block.ins)

    def has_second(self, block: Block) -> bool:
        """Whether the f of a Hessian is known to have second derivatives forward over forward, for a block."""
        blue = self.blue
        if blue.primal is None or blue.primal.program.jaxpr is None:  # not to be told without running it
            return False
        o = block.outs[0] // len(blue.spaces.inputs)
        return has_second(blue.primal.program, blue.positions, blue.primal_spaces, o, block.ins)

    def again(self) -> "Linearized":
        """The same point with nothing remembered."""
        fresh = Linearized.anywhere(self.blue, self.consts, self.leaves, self.stacks, self.guard)
        fresh.source, fresh.const_leaves, fresh.expects_more = self.source, self.const_leaves, False
        return fresh

    def limit(self, need: int) -> int | None:
        return byte_limit(self.blue.memory_limit, need, lambda: None if self.traced else self.device)

    def check_alive(self) -> None:
        """Raise where an array of the point has been deleted or donated: whoever computes something asks first.

        A kernel that does not look at the array, and residuals that are kept, would go on; an error would come by
        chance.
        """
        leaves = self.at_hand  # nobody can delete an array of NumPy
        for k, a in enumerate((*leaves, *self.consts)):
            if self.traced and isinstance(a, Tracer):
                continue
            is_deleted = getattr(a, "is_deleted", None)  # None: an array of NumPy, or a shape alone
            if is_deleted is not None and is_deleted():
                raise deleted(self, k)

    # Running sweeps

    def run(
        self,
        sweeps: tuple[Sweep, ...],
        ids: Sequence,
        images: tuple[Image, ...] = (),
        take: Any = None,
        places: tuple = (),
    ) -> list:
        """Run sweeps: compiled for arrays, inline under a trace, by Python for jit=False.

        Args:
          take: hashable; `take.of(lines, places)` is wanted too, of the lines `take.place` of the first sweep.

        Returns:
          For each sweep its answers; behind them, where there are any, the images, and what was taken.
        """
        self.check_alive()
        self.reads += 1
        if self.blue.spread is not None and all(s.way != "second" for s in sweeps):
            return over_mesh(self, self.blue.spread, sweeps, ids)
        if not self.compiles:
            if self._shares() and all(map(self._pushes_all, sweeps)):
                return sweeps_of(self._linearized_here()[2], self.blue.spaces, sweeps, ids)
            return self._fused(sweeps)(self.consts, self.leaves, ids, ())
        return self._compiled(sweeps, ids, images, take, places)

    def _shares(self) -> bool:
        # Python runs f once. A trace linearizes on its own for a first read, and shares from the second.
        alone = self.compiles or self.batch or (self.reads < 2 and self.blue.jit)
        return not alone and not any(map(varying, self.leaves))

    def _compiled(
        self, sweeps: tuple[Sweep, ...], ids: Sequence, images: tuple[Image, ...], take: Any, places: tuple
    ) -> list:
        blue = self.blue
        if self._keeps(sweeps, self.reads):
            # The next view is taken to be read as this one is: more than once, until one is not.
            if blue.found.get("read again") != (self.reads > 1):
                blue.found.put("read again", None, self.reads > 1)
            kept = self._kept_residuals()
            spaces, tree = blue.spaces, kept.tree
            kind = self._kind("kept", sweeps, (), take)

            def body(residuals: list, ids: Sequence, places: tuple) -> list:
                lin = jax.tree_util.tree_unflatten(tree, residuals)
                return _with_taken(sweeps_of(lin, spaces, sweeps, ids), take, places)

            return call(blue.program, blue.positions, kind, body, kept.residuals, tuple(ids), places)
        kernel = self.fused(sweeps, images, take)
        return call(blue.program, blue.positions, *kernel, self.consts, self.leaves, tuple(ids), places)

    def fused(
        self, sweeps: tuple[Sweep, ...], images: tuple[Image, ...] = (), take: Any = None
    ) -> tuple[Kind, Callable]:
        """The kernel that linearizes and runs sweeps at once: its name and its body."""
        return self._kind("fused", sweeps, images, take), self._fused(sweeps, images, take)

    def run_fused(self, kind: Kind, body: Callable, ids: tuple, places: tuple) -> list:
        """Run a kernel that `fused` has named."""
        self.check_alive()
        self.reads += 1
        program, positions = self.blue.program, self.blue.positions
        return call(program, positions, kind, body, self.consts, self.at_hand, ids, places)

    # Few samples of a batch: the same at a point cut down to them

    def cuts(self, sweep: Sweep, samples: Any) -> bool:
        """Whether a sweep can be run for some samples alone: f evaluates the samples one by one, and so can we."""
        if not self.batch:
            return self.cut_of(sweep) is not None
        chosen = choose(self.stacks, samples) if self.blue.spaces.batch is None else None
        return chosen is not None and worth_apart(count(chosen), math.prod(self.batch))

    def apart_of(self, sweep: Sweep) -> Apart | None:
        return self.blue.apart(sweep.way, *sweep.ends) if sweep.by == "pullback" else None

    def cut_of(self, sweep: Sweep) -> Cut | None:
        # The program of one sample. One without its derivative rules must not be differentiated again.
        made = None if self.blue.spaces.batch is None else self.blue.cut(sweep)
        return made if made is not None and (self.compiles or not made.has_rules) else None

    @property
    def cores(self) -> int:
        """Cores of the CPU that computes, each with a cache of its own; 0 where it is no CPU, or part of a trace."""
        device = None if self.traced else self.device
        return (os.cpu_count() or 1) if self.compiles and device is not None and device.platform == "cpu" else 0

    def run_cut(self, sweep: Sweep, ids: Any, samples: Any) -> list[Any]:
        """Run a sweep for some samples, whose axis is the first of every answer."""
        chosen = self.chosen(samples)
        if not self.compiles or isinstance(samples, Tracer):
            self.check_alive()
            self.reads += 1
            return self._cut_body(sweep)(self.consts, self.leaves, ids, chosen)
        return self.run_fused(*self.cut_kernel(sweep, chosen), (ids, chosen), ())[0]

    def chosen(self, samples: Any) -> Any:
        """Numbers of samples as the kernel for some of them takes them."""
        return choose(self.stacks, samples) if self.batch else samples

    def cut_kernel(self, sweep: Sweep, chosen: Any, take: Any = None) -> tuple[Kind, Callable]:
        """The kernel for as many samples: its name, and its body, which takes the numbers of seeds and of samples."""
        name = ("cut", sweep, tuple(map(len, jax.tree_util.tree_leaves(chosen))), self.stacks, take)
        kind = self.blue.found.find("kind", name, lambda: Kind("cut", self.blue.positions, self.blue.spaces, *name[1:]))
        run = self._cut_body(sweep)

        def body(consts: Sequence, leaves: Sequence, ids: Sequence, places: tuple) -> list:
            return _with_taken([run(consts, leaves, *ids)], take, places)

        return kind, body

    def _cut_body(self, sweep: Sweep) -> Callable:
        blue, stacks = self.blue, self.stacks

        def of_samples(consts: Sequence, leaves: Sequence, ids: Any, samples: Any) -> list:
            made = blue.cut(sweep)
            assert made is not None
            return sweep_of_samples(made, blue.point(consts, leaves), blue.spaces, sweep, ids, samples)

        def of_views(consts: Sequence, leaves: Sequence, ids: Any, chosen: Chosen) -> list:
            def one(consts: Sequence, leaves: Sequence) -> list:
                return sweeps_at(blue.point(consts, leaves), blue.spaces, (sweep,), (ids,))[0]

            return at_chosen(one, stacks, blue.const_shapes, blue.leaf_shapes)(consts, leaves, chosen)

        return of_views if stacks else of_samples

    def _kind(self, what: str, sweeps: tuple[Sweep, ...], images: tuple[Image, ...] = (), take: Any = None) -> Kind:
        name = (what, sweeps, self.stacks, images, take)
        return self.blue.found.find("kind", name, lambda: Kind(what, self.blue.positions, self.blue.spaces, *name[1:]))

    def _fused(self, sweeps: tuple[Sweep, ...], images: tuple[Image, ...] = (), take: Any = None) -> Callable:
        blue = self.blue
        second = sweeps[0].way == "second"
        at, spaces = (blue.primal_point, blue.primal_spaces) if second else (blue.point, blue.spaces)
        # One seed of all samples runs f as it is, and shares its value with what is computed beside the view.
        whole = all(s.block is None and num_seeds(s, spaces) == 1 for s in sweeps)
        cuts, aparts = [None if whole else self.cut_of(s) for s in sweeps], [self.apart_of(s) for s in sweeps]

        def body(consts: Sequence, leaves: Sequence, ids: Sequence) -> list:
            point = at(consts, leaves)
            if None in cuts:
                out = [rows_or_columns(a, point, spaces, s, i) for a, s, i in zip(aparts, sweeps, ids, strict=True)]
            else:
                out = [sweep_in_blocks(c, point, spaces, s, i) for c, s, i in zip(cuts, sweeps, ids, strict=True) if c]
            return [*out, [i.of(out[i.sweep][i.place]) for i in images]] if images else out

        run = at_each(body, self.stacks, None)
        return lambda consts, leaves, ids, places: _with_taken(run(consts, leaves, ids), take, places)

    # The linear program, kept from the second read on (or from the first, where Python runs f)

    def keeps_for(self, sweeps: tuple[Sweep, ...]) -> bool:
        """Whether the read to come has its residuals kept: the second one, or the first where more will follow."""
        return self._keeps(sweeps, self.reads + 1)

    def _keeps(self, sweeps: tuple[Sweep, ...], reads: int) -> bool:
        if self._kept is None and reads < 2 and not (self.expects_more and self.blue.found.get("read again")):
            return False
        if self.batch or self.blue.spread is not None:
            return False
        if any(s.width is None or s.width > 64 or not self._pushes_all(s) for s in sweeps):
            return False
        return self._kept is not None or self._residuals_fit()

    def _residuals_fit(self) -> bool:
        need = residual_bytes(self.point)
        limit = self.limit(need)
        return limit is None or need <= limit // 4

    def _pushes_all(self, sweep: Sweep) -> bool:
        # A row of one sample is cheaper than a pullback through what is kept of all of them.
        return self.apart_of(sweep) is None and self.pushes(sweep)

    def pushes(self, sweep: Sweep) -> bool:
        """Whether the linear program of all outputs gives what a sweep asks for."""
        if sweep.way == "second":
            return False  # it is no sweep of the linear program
        if self.blue.program.heads is not None:
            return False  # it has no single row
        if sweep.by == "pullback":
            return not self.blue.spaces.hessian
        # It holds all outputs, of which some may have an opaque rule in them that can be pulled through only.
        outs, ins = range(len(self.blue.spaces.outputs)), range(len(self.blue.spaces.inputs))
        return self.blue.directions(tuple(outs), tuple(ins)).pushforward == sweep.by == "jvp"

    def _kept_residuals(self) -> Any:
        if self._kept is None:
            self._kept = keep(self.point)
        return self._kept

    def _linearized_here(self) -> tuple[list, list, Callable]:
        # Residuals belong to the trace they were made in: another one makes its own, and none is kept beyond its end.
        state = trace_state()
        if self._kept_in is not None and self._kept_in[0] == state:
            return self._kept_in[1]
        self.check_alive()
        made = linearize(self.point)
        if state == self.made_in or not tracing():
            self._kept_in = state, made
        return made

    # f(x) and aux

    def value(self) -> tuple[list, list]:
        """Leaves of y and of aux."""
        with self.lock:
            if self._value is not None and not any(a.is_deleted() for leaves in self._value for a in leaves):
                return self._value
            self.check_alive()
            if not self.compiles:
                if self.batch or self.blue.jit:
                    return self._batched(value)(self.consts, self.leaves)
                return self._linearized_here()[:2]
            self._value = self._compiled_value()
            return self._value

    def aux(self) -> Any:
        """What f returned beside its output."""
        skip = 0 if self.blue.primal is None else len(self.blue.primal.outputs)  # the aux of a gradient is y, then aux
        return jax.tree_util.tree_unflatten(self.blue.aux_tree, self.value()[1][skip:])

    def _batched(self, of_point: Callable) -> Callable:
        blue = self.blue

        def body(consts: Sequence, leaves: Sequence) -> Any:
            return of_point(blue.point(consts, leaves))

        return at_each(body, self.stacks)

    def _compiled_value(self) -> tuple[list, list]:
        if not self.batch and self._value is None and self._residuals_fit():
            kept = self._kept_residuals()
            return kept.y, kept.aux
        body = self._batched(value)
        return call(self.blue.program, self.blue.positions, self._kind("value", ()), body, self.consts, self.leaves)

    # Kernels of other kinds

    def kept_for_products(self) -> Kept | None:
        """Residuals from the second read on; None: they are not kept."""
        keeps = self.reads > 1 and not self.batch and (self._kept is not None or self._residuals_fit())
        return self._kept_residuals() if keeps else None

    def linear_in_trace(self, one: Sweep) -> Callable | None:
        """The linear program of f, where products in this trace are to share it, or Python runs f."""
        return self._linearized_here()[2] if self._shares() and self.pushes(one) else None

    def run_with(self, name: tuple, body: Callable, arrays: Sequence) -> Any:
        """`body(consts, leaves, arrays)`, where the arrays belong to no point; compiled under this name.

        A kernel is known by what is differentiated, too, and where samples are: the name need not tell.
        """
        self.check_alive()
        self.reads += 1
        body = at_each(body, self.stacks, None)
        if not self.compiles:
            return body(self.consts, self.leaves, arrays)
        blue, kind = self.blue, (*name, self.stacks)
        named = blue.found.find("kind", kind, lambda: Kind(*kind, blue.positions, blue.spaces))
        return call(blue.program, blue.positions, named, body, self.consts, self.at_hand, arrays)


def _with_taken(out: list, take: Any, places: tuple) -> list:
    return out if take is None else [*out, take.of(out[0][take.place], places)]
