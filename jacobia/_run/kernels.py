"""Compiled kernels: made once, found again, bounded in number.

A kernel runs one or more sweeps. It is found by its program and its sweeps, so another function object that computes
the same compiles nothing; nor does another set of rows, since row numbers are arguments and widths are few.
Knows programs, names and arguments. Knows nothing of what a kernel computes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax

from jacobia._call.linearize import Point, derivative_program, linearize
from jacobia._call.trace import Program, settings, settings_key, tracing
from jacobia._compat import Literal, eval_jaxpr, opened
from jacobia._program.fingerprint import fingerprint
from jacobia._progress import config, waiting

# A compiled kernel on a CPU takes one to two megabytes, code and bookkeeping.
LIMIT = 256


class CacheInfo(NamedTuple):
    """`kernels` held now, `compiles` made, look-ups that found a kernel (`hits`) or made one (`misses`), `limit`."""

    kernels: int
    compiles: int
    hits: int
    misses: int
    limit: int


class _Cache:
    # Owner of all compiled kernels. Least recently used goes first.
    def __init__(self, limit: int):
        self.lock = threading.Lock()
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        with self.lock:
            self.kernels: OrderedDict[Hashable, Callable] = OrderedDict()
            self.compiles = self.hits = self.misses = 0

    def run(self, key: Hashable, make: Callable[[], Callable], args: tuple) -> Any:
        kernel = self.kernels.get(key)
        found = kernel is not None
        if _ahead.only:
            raise _Ready(self._compiled(key, make, args))
        if kernel is None:
            with self.lock:
                kernel = self.kernels.setdefault(key, make())
                self.misses += 1
                while len(self.kernels) > self.limit:
                    self.kernels.popitem(last=False)
        try:
            out = kernel(*args) if not config.progress else _seen(kernel, args, found)
        except Exception:
            if not found:  # f has not got this direction, or not these settings: it would never run
                with self.lock:
                    self.kernels.pop(key, None)
            raise
        if found:  # kept in order once the kernel is on its way, which is what a small one waits for
            with self.lock:
                self.hits += 1
                if key in self.kernels:
                    self.kernels.move_to_end(key)
        return out

    def _compiled(self, key: Hashable, make: Callable[[], Callable], args: tuple) -> "_Ahead":
        kernel = self.kernels.get(key)
        if not isinstance(kernel, _Ahead):
            jitted = make() if kernel is None else kernel
            kernel = _Ahead(jitted, jitted.lower(*args).compile())  # type: ignore[attr-defined]
            with self.lock:
                self.kernels[key] = kernel
                self.misses += 1
                while len(self.kernels) > self.limit:
                    self.kernels.popitem(last=False)
        return kernel


class _Ahead:
    # A kernel that was compiled before it was called; other arguments than expected are compiled for as always.
    def __init__(self, jitted: Any, compiled: Any):
        self.jitted, self.compiled = jitted, compiled

    def __call__(self, *args: Any) -> Any:
        try:
            return self.compiled(*args)
        except (TypeError, ValueError):
            return self.jitted(*args)


class _Ready(BaseException):
    # In place of a result: the kernel that would have computed it. No error, so nothing on the way may catch it.
    def __init__(self, kernel: _Ahead):
        self.kernel = kernel


class _AheadOnly(threading.local):
    only = False


_ahead = _AheadOnly()


def compiled(read: Callable[[], Any]) -> Any:
    """What the kernel of a read is compiled to, without running it; None for a read that needs none.

    The read goes its way up to the call of its kernel, which is compiled there, and kept for the call to come.
    """
    before = _ahead.only  # it may be on the way to a kernel itself
    _ahead.only = True
    try:
        read()
    except _Ready as ready:
        return ready.kernel.compiled
    finally:
        _ahead.only = before
    return None


class Taken(NamedTuple):
    """Bytes that a kernel takes beyond its arguments."""

    temporaries: int
    result: int

    @property
    def peak(self) -> int:
        return self.temporaries + self.result


def analysed(read: Callable[[], Any]) -> Taken:
    """What the kernel of a read takes, by the compiler's own analysis."""
    kernel = compiled(read)
    found = None if kernel is None else kernel.memory_analysis()
    return Taken(0, 0) if found is None else Taken(found.temp_size_in_bytes, found.output_size_in_bytes)


def _seen(kernel: Callable, args: tuple, found: bool) -> Any:
    # With progress: compiling is told from computing, which is waited for.
    if tracing():
        return kernel(*args)
    with waiting("computing" if found else "compiling"):
        out = kernel(*args)
    with waiting("computing"):
        return jax.block_until_ready(out)


_cache = _Cache(LIMIT)


def cache_info() -> CacheInfo:
    """Counters of the cache of compiled kernels."""
    with _cache.lock:
        return CacheInfo(len(_cache.kernels), _cache.compiles, _cache.hits, _cache.misses, _cache.limit)


def cache_clear() -> None:
    """Forget all compiled kernels and set the counters to zero. Views go on working, and compile again."""
    _cache.clear()


def _jitted(made_under: dict, body: Callable) -> Callable:
    # jax.jit traces again when a setting has changed that could change results; here it is noticed.
    def kernel(*args: Any) -> Any:
        _check_settings(made_under)
        out = body(*args)
        with _cache.lock:  # it could be traced, so it is compiled now
            _cache.compiles += 1
        return out

    return jax.jit(kernel)


class ReadError(ValueError):
    """A view cannot be read any more: under other settings, or at a point that is gone."""


def _check_settings(made_under: dict) -> None:
    now = settings()
    changed = sorted(k for k in now | made_under if now.get(k) != made_under.get(k))
    if changed:
        told = ", ".join(f"{k} was {made_under.get(k)!r} and is {now.get(k)!r}" for k in changed)
        raise ReadError(
            f"J[...]: expected the settings under which the view was made, got others: {told}. "
            "Read it under its own settings, or make the view again."
        )


class Kind:
    """What a kernel does: a key whose hash is computed once."""

    __slots__ = ("_hash", "value")

    def __init__(self, *value: Hashable):
        self.value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self.value == other.value)


def call(program: Program, positions: tuple[int, ...], kind: Kind, body: Callable, *args: Any) -> Any:
    """`body(*args)`, compiled, by a kernel that all programs that compute the same share.

    A program that holds Python functions (derivative rules, callbacks) is known only by its identity. Its
    kernels are those of its expansion: its derivative, in which the rules have been applied.
    """
    name = expansion(program, positions) if program.opaque else program
    return _cache.run((name, kind), lambda: _jitted(program.settings, body), args)


def expansion(program: Program, positions: tuple[int, ...]) -> Hashable:
    """What such a program is known by: its derivative, or itself where that holds Python functions too."""
    return program.found.find("expansion", positions, lambda: _expanded(program, positions))


def _expanded(program: Program, positions: tuple[int, ...]) -> Hashable:
    # Kernels are run and not differentiated again, so the rules that are left in them do not matter.
    for jaxpr, own in derivatives(program, positions):
        found = fingerprint(jaxpr, own, rules=False)
        if not found.opaque:  # else a rule is still to be applied: the other direction may do so
            plain = fingerprint(program.jaxpr, rules=False)  # what no derivative shows: aux
            return Kind(plain.key, found.key, settings_key(program.settings))
    return program


def derivatives(program: Program, positions: tuple[int, ...]) -> Iterator[tuple[Any, list]]:
    """The programs of a pushforward and of a pullback, as far as f has them, and the arrays that they hold."""
    outs, ins = tuple(range(program.num_y)), tuple(range(len(positions)))
    for way in ("columns", "rows"):
        try:
            yield opened(derivative_program(program, positions, way, outs, ins))
        except (TypeError, ValueError, NotImplementedError):
            continue


class Kept(NamedTuple):
    """A linear program with its residuals: leaves of `tree`, some of them inputs of f that need no copy."""

    y: list
    aux: list
    residuals: list
    tree: Any


def keep(point: Point) -> Kept:
    """Linearize once by a compiled kernel and keep the residuals."""
    program = point.program
    form = _keep_form(point)
    out = iter(call(program, point.positions, form.kind, form.body, list(point.consts), list(point.leaves)))
    args = [*point.consts, *point.leaves]
    y, aux = [next(out) for _ in range(form.num_y)], [next(out) for _ in range(form.num_aux)]
    return Kept(y, aux, [next(out) if k is None else args[k] for k in form.sources], form.tree)


def _keep_form(point: Point) -> "_KeepForm":
    return point.program.found.find("keep", (point.positions, point.batch), lambda: _KeepForm(point))


class _KeepForm:
    # How to linearize a program: traced once, to see which residuals are inputs. A kernel would copy those.
    num_y: int
    num_aux: int
    tree: Any  # of the linear program

    def __init__(self, point: Point):
        def flat(consts: list, leaves: list) -> list:
            y, aux, lin = linearize(point._replace(consts=consts, leaves=leaves))
            residuals, self.tree = jax.tree_util.tree_flatten(lin)
            self.num_y, self.num_aux = len(y), len(aux)
            return [*y, *aux, *residuals]

        closed = jax.make_jaxpr(flat)(list(point.consts), list(point.leaves))
        jaxpr, own = opened(closed)
        places = {v: k - len(own) for k, v in enumerate(jaxpr.invars) if k >= len(own)}
        outs = jaxpr.outvars[self.num_y + self.num_aux :]
        self.sources = [None if isinstance(v, Literal) else places.get(v) for v in outs]
        self.nbytes = sum(
            v.aval.size * v.aval.dtype.itemsize for v, s in zip(outs, self.sources, strict=True) if s is None
        )
        head, sources = self.num_y + self.num_aux, self.sources

        def body(consts: list, leaves: list) -> list:
            out = eval_jaxpr(jaxpr, (), *own, *consts, *leaves)
            return out[:head] + [r for r, s in zip(out[head:], sources, strict=True) if s is None]

        self.body = body
        self.kind = Kind("keep", point.positions, point.batch)


def residual_bytes(point: Point) -> int:
    """Bytes that `keep` would hold on to, beyond the inputs themselves."""
    return _keep_form(point).nbytes
