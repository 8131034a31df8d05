"""Operations that hold programs and run them once: branches and linear solves, walked with their columns.

Knows programs inside operations. Knows no single operation.
Shapes: N inputs, K slots.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobia._program.axis.samples import solver_parts
from jacobia._program.columns.apply import NotLinear
from jacobia._program.columns.closure import as_tangent
from jacobia._program.columns.merging import union
from jacobia._program.columns.parts import as_slots
from jacobia._program.columns.rules import dense
from jacobia._program.columns.slots import Parts, Slots, aligned, nothing, values
from jacobia._program.columns.tape import Fixed, Tape


def cond(w: Any, eqn: Any, ins: Sequence) -> list:
    """If the choice is known, only that branch is walked; otherwise all are, and the chosen one is run."""
    branches, which, given = eqn.params["branches"], ins[0], ins[1:]
    if isinstance(which, (Slots, Parts)):
        raise NotLinear("cond")
    known = w.known(which)
    if known is not None:
        return w.body(branches[int(np.clip(int(known), 0, len(branches) - 1))], given)
    # Each branch has its own tape, and only the chosen one runs: another one may never end, or give NaN.
    walks = []
    for branch in branches:
        tape = Tape()
        entered = [_entered(w, tape, v) for v in given]
        walks.append((tape, [name for name, _, _ in entered], w.inside(tape).body(branch, [v for _, v, _ in entered])))
    outer = [_entered(w, Tape(), v)[2] for v in given]
    cols = [_of_branches(w, walks, k, v.aval) for k, v in enumerate(eqn.outvars)]
    runs, arrays = [], []
    for tape, names, outs in walks:
        wanted = [values(tape, o, w.n) if isinstance(o, Slots) else o.name for o in outs]
        used = tape.used([n for n in wanted if not isinstance(n, Fixed)])
        runs.append((tape, names, wanted, used))
        arrays += [w.tape.array(tape.arrays[k]) for k in used]
    dtypes = [v.aval.dtype for v in eqn.outvars]

    def run(index: Any, *args: Any) -> Sequence:
        made, chosen = iter(args[len(outer) :]), []
        for tape, names, wanted, used in runs:
            env = dict(zip(names, args, strict=False)) | {k: next(made) for k in used}
            chosen.append(lambda tape=tape, env=env, wanted=wanted: typed(tape, env, wanted, dtypes))
        return lax.switch(jnp.asarray(index).astype(jnp.int32), chosen)  # clamps, as cond does

    results = w.tape.steps_of(run, [w.name(which), *outer, *arrays], len(cols))
    return [
        w.value(name, v.aval.shape) if c is None else Slots(c, name, v.aval.shape, v.aval.dtype)
        for name, c, v in zip(results, cols, eqn.outvars, strict=True)
    ]


def _entered(w: Any, tape: Tape, v: Any) -> tuple[int, Any, Any]:
    # A value on another tape: its name there, what it is there, and its name here.
    name = tape.new()
    if not isinstance(v, (Slots, Parts)):
        return name, v.renamed(name), w.name(v)
    t = as_slots(w.tape, v, w.n)
    return name, Slots(t.cols, name, t.shape, t.dtype), values(w.tape, t, w.n)


def _of_branches(w: Any, walks: Sequence, k: int, aval: Any) -> np.ndarray | None:
    # Gives result k the same columns in every branch, and returns them; None: it is no tangent in any branch.
    if not any(isinstance(outs[k], (Slots, Parts)) for _, _, outs in walks):
        return None
    ts = [as_tangent(tape, outs[k], aval, w.n) for tape, _, outs in walks]
    cols = union([t.cols for t in ts], w.n) if any(t.width for t in ts) else nothing(aval.shape, aval.dtype).cols
    for t, (tape, _, outs) in zip(ts, walks, strict=True):
        outs[k] = aligned(tape, t, cols, w.n)
    return cols


def typed(tape: Tape, env: dict, wanted: Sequence, dtypes: Sequence) -> list:
    # The wanted values (names or literals) with these dtypes.
    found = iter(tape.run(env, [n for n in wanted if not isinstance(n, Fixed)]))
    out = [jnp.asarray(n.value if isinstance(n, Fixed) else next(found)) for n in wanted]
    return [o if o.dtype == d else o.astype(d) for o, d in zip(out, dtypes, strict=True)]


def solve(w: Any, eqn: Any, ins: Sequence) -> list:
    """A linear solve is the program that solves it."""
    parts = solver_parts(eqn)
    program, where = parts["solve"]
    try:
        return w.body(program, [*ins[where], *ins[parts["transpose_solve"][1].stop :]])
    except NotLinear:  # such as conjugate gradients: the result is linear, the steps are not
        return dense(w, eqn, ins)
