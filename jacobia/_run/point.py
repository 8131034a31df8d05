"""One call of a transform: the point, its linearization, and how sweeps are run there.

All views of a call share one `Linearized`. Knows points and sweeps. Knows nothing of keys, or of what stores hold.
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
from jacobia._run.alive import check
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
    """f linearized at one point. Shared by all views of a call; its leaves may be traced, or stacked by vmap."""

    # Defaults are class attributes, not set for each instance, because views are made often.
    stacks: Stacks = ()  # the axes that vmap or scan has added in front, and which arrays have them
    batch: tuple[int, ...] = ()  # the sizes of these axes
    const_leaves: tuple[bool, ...] = ()  # which constants are leaves of a view as a pytree; (): not decided
    source: Any = None  # how to make this call again, for pickle
    guard: Any = None  # the guard among the leaves of the pytree from which the view was made
    guard_seen = False  # whether the guard has been found unchanged
    traced: bool = False  # whether any array is a tracer
    made_in: Any = None  # the trace of a traced point: results of an inner trace are not kept
    reads = 0
    expects_more = True  # whether the first read may keep residuals for later reads
    in_trace: tuple = ()  # of a traced point: requests and answers computed in its trace
    _kept: Any = None
    _kept_in: Any = None
    _value: Any = None
    _of_numpy = False  # whether the leaves are still NumPy arrays
    _later: Any = None  # what to put into the stores before they are first looked at

    def __init__(self, blue: Blueprint, consts: Sequence, leaves: Sequence, of_numpy: bool = False):
        """`of_numpy`: the leaves are NumPy arrays that nobody else holds. A kernel takes them as they are."""
        self.blue = blue
        self.consts = consts
        self.at_hand = leaves
        if of_numpy:
            self._of_numpy = True
        self.lock = threading.RLock()
        self._stores: dict = {}

    @property
    def leaves(self) -> Sequence:
        """The leaves of the point, as JAX arrays."""
        if self._of_numpy:
            with eval_context():  # concrete arrays, even inside a trace
                self.at_hand, self._of_numpy = [jax.device_put(a) for a in self.at_hand], False
        return self.at_hand

    @property
    def stores(self) -> dict:
        """Number of a block → its store."""
        if self._later is not None:
            with self.lock:
                note, self._later = self._later, None
                if note is not None:
                    note[0](self, *note[1:])
        return self._stores

    def note_later(self, remember: Callable, *args: Any) -> None:
        """Call `remember(self, *args)` when a store is next looked at: after most reads, none is."""
        assert self._later is None, "something else has not been remembered yet"
        self._later = remember, *args

    @staticmethod
    def anywhere(
        blue: Blueprint, consts: Sequence, leaves: Sequence, stacks: Stacks = (), guard: Any = None
    ) -> "Linearized":
        """A `Linearized` at leaves that may be traced, or stacked by vmap."""
        self = Linearized(blue, consts, leaves)
        self.stacks, self.guard = stacks, guard
        self.batch = tuple(s.size for s in stacks)
        self.traced = any(isinstance(a, Tracer) for a in (*leaves, *consts))
        self.made_in = trace_state() if self.traced else None
        return self

    @property
    def remembers(self) -> bool:
        """Whether results are concrete arrays that a store can keep; otherwise they are part of a trace."""
        return not (tracing() or self.traced)

    @property
    def compiles(self) -> bool:
        """Whether reads run compiled kernels of their own; otherwise they are part of a trace, or run by Python."""
        return self.blue.jit and not (jit_disabled() or tracing() or self.traced)

    @property
    def lead(self) -> tuple[int, ...]:
        """The sizes of the leading axes of every result: those added by vmap, then the batch axis."""
        return self.batch + self.blue.spaces.lead

    @property
    def point(self) -> Point:
        return self.blue.point(self.consts, self.leaves)

    @property
    def device(self) -> Any:
        """The device of the point; None: it is traced."""
        return device_of(self.leaves)

    def by(self, way: str, block: Block) -> str:
        """What computes the "rows" or "columns" of a block: "pullbacks" or "pushforwards"."""
        return "pullbacks" if self.blue.by(way, block.outs, block.ins) == "pullback" else "pushforwards"

    def by_for_products(self, way: str, block: Block) -> str:
        """The direction of a product: for `u H` with several outputs a pullback, as a pushforward serves one output."""
        if way == "rows" and self.blue.program.heads is not None:
            return "pullback"
        return self.blue.by(way, block.outs, block.ins)

    def directions(self, block: Block) -> Directions:
        """The known directions of a block. Those of an f that Python runs are learned first, at this point."""
        if self.blue.program.jaxpr is None and not self.batch:
            return self.learn(block)
        return self.blue.directions(block.outs, block.ins)

    def learn(self, block: Block) -> Directions:
        """The directions of a block, learned by tracing."""
        if self.blue.program.jaxpr is None and self.batch:
            return self.blue.learn(block.outs, block.ins, point=self.blue.one_point(self.consts, self.leaves))
        if self.blue.program.jaxpr is None:
            return self.blue.learn(block.outs, block.ins, linear=lambda: self._linearized_here()[2])
        return self.blue.learn(block.outs, block.ins)

    def has_second(self, block: Block) -> bool:
        """Whether the f of a Hessian is known to have second derivatives forward over forward, for a block."""
        blue = self.blue
        if blue.primal is None or blue.primal.program.jaxpr is None:  # f has no program that could be traced
            return False
        o = block.outs[0] // len(blue.spaces.inputs)
        return has_second(blue.primal.program, blue.positions, blue.primal_spaces, o, block.ins)

    def again(self) -> "Linearized":
        """The same point with empty stores."""
        fresh = Linearized.anywhere(self.blue, self.consts, self.leaves, self.stacks, self.guard)
        fresh.source, fresh.const_leaves, fresh.expects_more = self.source, self.const_leaves, False
        return fresh

    def limit(self, need: int) -> int | None:
        return byte_limit(self.blue.memory_limit, need, lambda: None if self.traced else self.device)

    def check_alive(self, computes: bool = True) -> None:
        """Raise if the point cannot be computed with (see `alive.check`). Called before anything is computed."""
        check(self, computes)

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
          take: hashable; `take.of(lines, places)` is computed too, of the lines `take.place` of the first sweep.

        Returns:
          The answers of each sweep; then the list of images if there are any, and the result of `take`.
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
        # Whether reads share one linearization: always where Python runs f, from the second read on in a trace.
        alone = self.compiles or self.batch or (self.reads < 2 and self.blue.jit)
        return not alone and not any(map(varying, self.leaves))

    def _compiled(
        self, sweeps: tuple[Sweep, ...], ids: Sequence, images: tuple[Image, ...], take: Any, places: tuple
    ) -> list:
        blue = self.blue
        if self._keeps(sweeps, self.reads):
            # Assume that the next view is read as often as this one: once, or more than once.
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
        """Run a kernel that `fused` has returned."""
        self.check_alive()
        self.reads += 1
        program, positions = self.blue.program, self.blue.positions
        return call(program, positions, kind, body, self.consts, self.at_hand, ids, places)

    # Sweeps for a few samples of a batch alone

    def cuts(self, sweep: Sweep, samples: Any) -> bool:
        """Whether a sweep can be run for some samples alone, since f evaluates its samples independently."""
        if not self.batch:
            return self.cut_of(sweep) is not None
        chosen = choose(self.stacks, samples) if self.blue.spaces.batch is None else None
        return chosen is not None and worth_apart(count(chosen), math.prod(self.batch))

    def apart_of(self, sweep: Sweep) -> Apart | None:
        return self.blue.apart(sweep.way, *sweep.ends) if sweep.by == "pullback" else None

    def cut_of(self, sweep: Sweep) -> Cut | None:
        # The program of one sample. If derivative rules were dropped from it, it must not be differentiated again.
        made = None if self.blue.spaces.batch is None else self.blue.cut(sweep)
        return made if made is not None and (self.compiles or not made.has_rules) else None

    @property
    def cores(self) -> int:
        """The cores of the CPU that computes, each with its own cache; 0 on another device or inside a trace."""
        device = None if self.traced else self.device
        return (os.cpu_count() or 1) if self.compiles and device is not None and device.platform == "cpu" else 0

    def run_cut(self, sweep: Sweep, ids: Any, samples: Any) -> list[Any]:
        """Run a sweep for some samples. Every answer has the axis of samples in front."""
        chosen = self.chosen(samples)
        if not self.compiles or isinstance(samples, Tracer):
            self.check_alive()
            self.reads += 1
            return self._cut_body(sweep)(self.consts, self.leaves, ids, chosen)
        return self.run_fused(*self.cut_kernel(sweep, chosen), (ids, chosen), ())[0]

    def chosen(self, samples: Any) -> Any:
        """The numbers of samples in the form that the kernel for a few samples takes."""
        return choose(self.stacks, samples) if self.batch else samples

    def cut_kernel(self, sweep: Sweep, chosen: Any, take: Any = None) -> tuple[Kind, Callable]:
        """The kernel for this many samples: its name, and its body, which takes the numbers of seeds and of samples."""
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
        # A single seed of all samples runs f as it is, so that the compiler shares f(x) with results beside the view.
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

    # The linear program, kept from the second read on (from the first where Python runs f)

    def keeps_for(self, sweeps: tuple[Sweep, ...]) -> bool:
        """Whether the next read uses kept residuals: the second read does, and the first one if more are expected."""
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
        # A row pulled back through one sample alone is cheaper than one through the kept residuals of all samples.
        return self.apart_of(sweep) is None and self.pushes(sweep)

    def pushes(self, sweep: Sweep) -> bool:
        """Whether a sweep can be run through the linear program of all outputs and inputs."""
        if sweep.way == "second":
            return False  # a second derivative is not linear in its seed
        if self.blue.program.heads is not None:
            return False  # a row of a Hessian of several outputs has no single linear program
        if sweep.by == "pullback":
            return not self.blue.spaces.hessian
        # The program holds all outputs. Some of them may have a custom_vjp, which has no pushforward.
        outs, ins = range(len(self.blue.spaces.outputs)), range(len(self.blue.spaces.inputs))
        return self.blue.directions(tuple(outs), tuple(ins)).pushforward == sweep.by == "jvp"

    def _kept_residuals(self) -> Any:
        if self._kept is None:
            self._kept = keep(self.point)
        return self._kept

    def _linearized_here(self) -> tuple[list, list, Callable]:
        # Residuals belong to the trace in which they were made, and are not used or kept outside it.
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
        """The leaves of y = f(x), and those of aux."""
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
        """The aux that f returned beside its output."""
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
        """The kept residuals, from the second read on; None: they are not kept."""
        keeps = self.reads > 1 and not self.batch and (self._kept is not None or self._residuals_fit())
        return self._kept_residuals() if keeps else None

    def linear_in_trace(self, one: Sweep) -> Callable | None:
        """The linear program of f, where products in this trace share it or Python runs f; else None."""
        return self._linearized_here()[2] if self._shares() and self.pushes(one) else None

    def run_with(self, name: tuple, body: Callable, arrays: Sequence) -> Any:
        """Run `body(consts, leaves, arrays)`, compiled under a name; the arrays are the same for all stacked points.

        The key of the kernel includes the differentiated inputs and the batch axes, so the name need not.
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
