"""Check one program: read it in several sessions, compare, and find the smallest program that fails in the same way."""

import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia import BatchMixingError, hessian, jacobian, sparsity_pattern
from jacobia._run.directions import said_by_jax

from .batched import MIXING
from .programs import Program, function, inputs, options, smaller
from .readings import READS, TRACED, WAYS, Block, Read, nonzeros, of_key, pattern, views_of
from .rules import NOT_LINEAR
from .truth import Skip, Truth, truth

# Known bugs: functions (program, failure) → whether the failure is this bug. Should be empty.
KNOWN: dict[str, Callable] = {}
SECONDS = 30  # CPU seconds for one program; a longer run counts as a hang


class Failure(NamedTuple):
    """One failure.

    Attributes:
      kind: failures of the same kind count as the same: "mismatch", or the type and the beginning of an error.
      session, reads: how the program was read.
      detail: for people.
    """

    kind: str
    session: str
    reads: str
    detail: str


class Result(NamedTuple):
    failures: list[Failure]
    compared: int
    known: tuple[str, ...] = ()
    skipped: str = ""


class Session(NamedTuple):
    way: str
    options: dict[str, Any]
    reads: list[Read]

    def __str__(self) -> str:
        return f"{self.way}, {self.options}" if self.options else self.way


class Hang(BaseException):
    """Not an `Exception`, so that no `except Exception` on the way catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"more than {seconds} s in\n{''.join(traceback.format_stack(frame)[-12:])}")

    # CPU time, since the machine may be busy; and ten times as much wall time, for programs that wait for ever.
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def check(program: Program, more: int = 1, seconds: int = SECONDS) -> Result:
    """Read the program in the usual session and in some more.

    What JAX can't differentiate must raise, and what hangs is a failure.
    """
    with jax.enable_x64(True) if program.dtype == "float64" else nullcontext():
        try:
            with within(seconds):
                return checked(program, more)
        except Skip as reason:
            return Result([], 0, skipped=str(reason))
        except Hang as hang:
            return sorted_out(program, [Failure("hang", "", "", str(hang))], 0)


def checked(program: Program, more: int) -> Result:
    true = truth(program)
    if true.blocks is None:
        try:
            jax.eval_shape(function(program), *inputs(program))
        except Exception as error:
            raise Skip(f"invalid: {type(error).__name__}: {error}") from error
        return refused(program, true)
    failures, compared = [], 0
    for session in sessions(program, true, more):
        found, count = run(program, session, true)
        failures += found
        compared += count
    return sorted_out(program, failures, compared)


def sorted_out(program: Program, failures: list[Failure], compared: int) -> Result:
    names = [known(program, failure) for failure in failures]
    new = [failure for failure, name in zip(failures, names, strict=True) if name is None]
    return Result(new, compared, tuple(name for name in names if name))


def known(program: Program, failure: Failure) -> str | None:
    return next((name for name, is_this in KNOWN.items() if is_this(program, failure)), None)


def transform(program: Program, **more: Any) -> Callable:
    make = hessian if program.kind == "hessian" else jacobian
    return make(function(program), **options(program), **more)


def refused(program: Program, true: Truth) -> Result:
    # Each read must raise the error that JAX raises; so must a second read.
    for what, read in (
        ("[...]", lambda J: J[...]), ("nonzeros", lambda J: J.nonzeros()), ("[...]", lambda J: J[...])
    ):  # fmt: skip
        try:
            out = [read(J) for J in views_of(transform(program)(*inputs(program))) if J.size]
        except Exception as error:
            if true.mixes:
                told = isinstance(error, BatchMixingError)
            else:
                text = "".join(traceback.format_exception(error))
                # If several directions are missing, the error is that of the direction that is tried first.
                told = any(e.split("\n")[0][:60] in text for e in true.errors) or said_by_jax(error) is not None
            if not told:
                return sorted_out(program, [failure_of(error, "must raise", what, str(true.errors))], 1)
        else:
            if out:
                told = f"{true.errors} mixes={true.mixes}: {out}"
                return sorted_out(program, [Failure("no error", "must raise", what, told)], 1)
    return Result([], 3)


def sessions(program: Program, true: Truth, more: int) -> list[Session]:
    rng = np.random.default_rng((14, program.seed))
    usual = usual_reads(rng, arranged(program, true, {}, ""))
    out = [Session("fresh each", {}, readable(program, usual, ""))]
    for _ in range(more):
        way = str(rng.choice([*WAYS, "plain", "plain", "vmapped", "vmapped", "lazy=False"]))
        chosen = drawn_options(rng, program, true, way)
        blocks = arranged(program, true, chosen, way)
        reads: list[Read] = []
        for _ in range(rng.integers(1, 4)):
            k = int(rng.integers(len(blocks)))
            make = nonzeros if chosen.get("sparsity") and rng.random() < 0.5 else READS[rng.integers(len(READS))]
            read = make(rng, k, blocks[k])
            reads.append(read)
        out.append(Session(way, chosen, readable(program, reads, way)))
    return out


def usual_reads(rng: np.random.Generator, blocks: list) -> list[Read]:
    # For every program: a row, a column, all nonzeros, and a few samples if there are any.
    k = int(rng.integers(len(blocks)))
    block = blocks[k]
    if 0 in block.shape:
        return [of_key(k, ...), nonzeros(rng, k, block), pattern(rng, k, block)]
    places = tuple(int(rng.integers(n)) for n in block.shape)
    keys: list[Any] = [places[: block.lead + block.rows], (..., *places[block.lead + block.rows :])]
    keys += [slice(1, 2)] * (block.lead > 0)
    return [*(of_key(k, key) for key in keys), nonzeros(rng, k, block), pattern(rng, k, block)]


def has_not_linear(program: Program) -> bool:
    return any(step.name in NOT_LINEAR for step in program.steps)


def readable(program: Program, reads: list[Read], way: str) -> list[Read]:
    # If a pullback is not linear, u @ J is not a combination of rows, and a walk raises: leave these reads out.
    words = (".vm(", "nonzeros", "pattern", ".to_") if has_not_linear(program) else ()
    return [
        read for read in reads if (read.traced or way not in TRACED) and not any(word in read.name for word in words)
    ]


def drawn_options(rng: np.random.Generator, program: Program, true: Truth, way: str) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if rng.random() < 0.25:
        modes = ["fwd"] * true.fwd + ["rev"] * true.rev
        if modes:
            more["mode"] = modes[rng.integers(len(modes))]
    if rng.random() < 0.15:
        more["chunk_size"] = int(rng.integers(1, 4))
    if rng.random() < 0.2:
        more["ravel"] = True
    if rng.random() < 0.02 and program.batch is None:
        more["jit"] = False
    if rng.random() < 0.08:
        more["sparsity"] = "dense"
    elif rng.random() < 0.06 and more.get("ravel") and program.batch is None and not has_not_linear(program):
        more["sparsity"] = "pattern"
    return more


def arranged(program: Program, true: Truth, more: dict, way: str) -> list[Block]:
    # The shape, the number of batch axes and the number of axes of y of each block, as the session reads it.
    lead = (program.batch is not None) + (way == "vmapped")
    blocks = dense_blocks(program, true, more, way)[0]
    own = [1] if more.get("ravel") else true.rows
    return [Block(block.shape, lead, rows) for block, rows in zip(blocks, own, strict=True)]


def dense_blocks(program: Program, true: Truth, more: dict, way: str) -> list[list[np.ndarray]]:
    assert true.blocks is not None
    points = true.blocks
    if more.get("ravel"):
        points = [[ravelled(program, blocks, true.rows)] for blocks in points]
    if way == "vmapped":
        return [[np.stack(pair) for pair in zip(*points, strict=True)]]
    return points


def ravelled(program: Program, blocks: list[np.ndarray], rows: list[int]) -> np.ndarray:
    lead = int(program.batch is not None)
    flat = [
        b.reshape(
            *b.shape[:lead],
            int(np.prod(b.shape[lead : lead + r], dtype=int)),
            int(np.prod(b.shape[lead + r :], dtype=int)),
        )
        for b, r in zip(blocks, rows, strict=True)
    ]
    width = 1 if isinstance(program.argnums, int) else len(program.argnums)
    lines = [np.concatenate(flat[k : k + width], axis=-1) for k in range(0, len(flat), width)]
    return np.concatenate(lines, axis=-2)


def run(program: Program, session: Session, true: Truth) -> tuple[list[Failure], int]:
    more, reads = dict(session.options), session.reads
    points = [inputs(program, k) for k in range(2)]
    truths = dense_blocks(program, true, more, session.way)
    names = "; ".join(read.name for read in reads)
    try:
        if more.get("sparsity") == "pattern":
            more["sparsity"] = sparsity_pattern(
                function(program), *points[0], argnums=program.argnums, hessian=program.kind == "hessian"
            )
        if session.way == "lazy=False":
            arrays = jax.tree.leaves(transform(program, **more, lazy=False)(*points[0]))
            outs, expected = arrays, truths[0]
            names = "lazy=False"
        elif session.way == "vmapped":
            vs = views_of(jax.vmap(transform(program, **more))(*jax.tree.map(lambda *xs: np.stack(xs), *points)))
            outs, expected = [read.of_views(vs) for read in reads], [read.of_blocks(truths[0]) for read in reads]
        else:
            outs, expected = WAYS[session.way](transform(program, **more), points, reads, truths)
    except Exception as error:
        if isinstance(error, BatchMixingError) and program.native and any(s.name in MIXING for s in program.steps):
            return [], 0  # may be refused: it mixes for other inputs
        return [failure_of(error, str(session), names)], 1
    failures = []
    for place, (a, e) in enumerate(zip(outs, expected, strict=True)):
        a = np.asarray(a)
        if a.shape != np.shape(e):
            failures.append(Failure("shape", str(session), names, f"number {place}: {a.shape}, expected {np.shape(e)}"))
        elif not near(a, e, program.dtype):
            failures.append(
                Failure("mismatch", str(session), names, f"number {place}:\n{a!r}\nexpected\n{np.asarray(e)!r}")
            )
    return failures, len(outs)


def near(a: np.ndarray, e: np.ndarray, dtype: str) -> bool:
    scale = np.max(np.abs(e), initial=1.0)
    return bool(np.max(np.abs(a - e), initial=0.0) <= (1e-8 if dtype == "float64" else 5e-4) * scale)


def failure_of(error: BaseException, session: str, reads: str, more: str = "") -> Failure:
    text = " ".join(str(error).split())
    mixed = re.search(r"samples mixed by (.*?) \(", text)
    kind = f"{type(error).__name__}: {mixed[1] if mixed else text[:60]}"
    lines = "".join(traceback.format_exception(error))
    return Failure(kind, session, reads, f"{lines[-3000:]}\n{more}")


def minimal(program: Program, kind: str, tries: int = 60) -> tuple[Program, Failure | None]:
    """A smaller program with a failure of this kind: parts are left out as long as the failure stays."""
    failure, again = None, True
    while again and tries > 0:
        again = False
        for less in smaller(program):
            tries -= 1
            if tries < 0:
                break
            found = [f for f in check(less).failures if f.kind == kind]
            if found:
                program, failure, again = less, found[0], True
                break
    return program, failure
