"""Compiled kernels: each is made once and kept in a cache of limited size.

A kernel runs one or more sweeps. Its key is its program and its sweeps, so another function object with the same
program compiles nothing. Nor does another set of rows: row numbers are arguments of the kernel, and widths are few.
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

# The number of kernels kept. A compiled kernel on a CPU takes one to two megabytes, its code and JAX's records of it.
LIMIT = 256


class CacheInfo(NamedTuple):
    """Counters of the cache of compiled kernels.

    Attributes:
      kernels: how many kernels are held now.
      compiles: how many compilations there were.
      hits: how many look-ups found a kernel.
      misses: how many look-ups made a kernel.
      limit: the most kernels that are held.
    """

    kernels: int
    compiles: int
    hits: int
    misses: int
    limit: int


class _Cache:
    # The owner of all compiled kernels. The least recently used one is dropped first.
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
            if not found:  # a kernel that failed at its first call (f lacks the direction) would never run
                with self.lock:
                    self.kernels.pop(key, None)
            raise
        if found:  # the order of use is updated after the kernel was dispatched, so that a small one does not wait
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
    # A kernel that was compiled before its first call. Arguments that it was not compiled for go to `jax.jit`.
    def __init__(self, jitted: Any, compiled: Any):
        self.jitted, self.compiled = jitted, compiled

    def __call__(self, *args: Any) -> Any:
        try:
            return self.compiled(*args)
        except (TypeError, ValueError):
            return self.jitted(*args)


class _Ready(BaseException):
    # Raised in place of a result: carries the kernel that would have computed it. A BaseException, so that no handler
    # of errors catches it on the way.
    def __init__(self, kernel: _Ahead):
        self.kernel = kernel


class _AheadOnly(threading.local):
    only = False


_ahead = _AheadOnly()


def only_compiles() -> bool:
    """Whether this thread compiles kernels ahead of time, and runs none of them: shapes are enough then."""
    return _ahead.only


def compiled(read: Callable[[], Any]) -> Any:
    """The compiled form of the kernel of a read, which is not run; None for a read that calls no kernel.

    The read runs up to the call of its kernel. The kernel is compiled there, and kept in the cache.
    """
    before = _ahead.only  # calls may be nested
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
    """The bytes that the kernel of a read takes, by the compiler's memory analysis."""
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
    """Drop all compiled kernels and set the counters to zero. Views stay valid; their next read compiles again."""
    _cache.clear()


def _jitted(made_under: dict, body: Callable) -> Callable:
    # jax.jit traces again after a change of a setting that could change results. The check then raises.
    def kernel(*args: Any) -> Any:
        _check_settings(made_under)
        out = body(*args)
        with _cache.lock:  # counted once the body is traced without an error: jax.jit compiles it next
            _cache.compiles += 1
        return out

    return jax.jit(kernel)


class ReadError(ValueError):
    """A view cannot be read any more: JAX settings have changed, or an array of its point has been deleted."""


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
    """A hashable description of what a kernel does, as a key of the cache. The hash is computed once."""

    __slots__ = ("_hash", "value")

    def __init__(self, *value: Hashable):
        self.value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kind) and self.value == other.value)


def call(program: Program, positions: tuple[int, ...], kind: Kind, body: Callable, *args: Any) -> Any:
    """Run `body(*args)` as a compiled kernel, which equal programs share.

    A program that holds Python functions (derivative rules, callbacks) is equal to itself alone. Its kernels are
    looked up by its expansion instead: its derivative, in which the rules have been applied.
    """
    name = expansion(program, positions) if program.opaque else program
    return _cache.run((name, kind), lambda: _jitted(program.settings, body), args)


def expansion(program: Program, positions: tuple[int, ...]) -> Hashable:
    """The key of a program that holds Python functions: its derivative, or itself if that holds such functions too."""
    return program.found.find("expansion", positions, lambda: _expanded(program, positions))


def _expanded(program: Program, positions: tuple[int, ...]) -> Hashable:
    # Kernels are run and never differentiated, so derivative rules that are left in a derivative do not matter.
    for jaxpr, own in derivatives(program, positions):
        found = fingerprint(jaxpr, own, rules=False)
        # An opaque derivative still holds a custom rule. Try the other direction: its program may have applied it.
        if not found.opaque:
            plain = fingerprint(program.jaxpr, rules=False)  # the derivative does not show aux
            return Kind(plain.key, found.key, settings_key(program.settings))
    return program


def derivatives(program: Program, positions: tuple[int, ...]) -> Iterator[tuple[Any, list]]:
    """The programs of a pushforward and of a pullback, if f has them, each with the arrays that it holds."""
    outs, ins = tuple(range(program.num_y)), tuple(range(len(positions)))
    for way in ("columns", "rows"):
        try:
            yield opened(derivative_program(program, positions, way, outs, ins))
        except (TypeError, ValueError, NotImplementedError):
            continue


class Kept(NamedTuple):
    """A linear program with its residuals, the leaves of `tree`. Residuals that are inputs of f are not copied."""

    y: list
    aux: list
    residuals: list
    tree: Any


def keep(point: Point) -> Kept:
    """Linearize f at a point by a compiled kernel, and return the residuals."""
    program = point.program
    form = _keep_form(point)
    out = iter(call(program, point.positions, form.kind, form.body, list(point.consts), list(point.leaves)))
    args = [*point.consts, *point.leaves]
    y, aux = [next(out) for _ in range(form.num_y)], [next(out) for _ in range(form.num_aux)]
    return Kept(y, aux, [next(out) if k is None else args[k] for k in form.sources], form.tree)


def _keep_form(point: Point) -> "_KeepForm":
    return point.program.found.find("keep", (point.positions, point.batch), lambda: _KeepForm(point))


class _KeepForm:
    # How to linearize a program. It is traced once to find the residuals that are inputs of f: the kernel does not
    # return these, since it would copy them.
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
    """The bytes of the residuals that `keep` would return, without those that are inputs of f."""
    return _keep_form(point).nbytes
