"""f, traced: a pure function of its constants and leaves, identified by what it computes.

Functions that compute the same share one `Program`. Knows calls and jaxprs. Knows nothing of derivatives.
"""

import re
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._call.arguments import Call
from jacobia._call.blame import looks_at_values, name_of, reason
from jacobia._call.options import shown_type
from jacobia._call.uncalled import Uncalled
from jacobia._compat import Tracer, config_values, eval_jaxpr, opened, trace_state
from jacobia._found import Found
from jacobia._program.fingerprint import fingerprint
from jacobia._program.walk import needed, nested_consts, run_hoisted
from jacobia._space import Space

with jax.ensure_compile_time_eval():
    _NO_TRACE = trace_state()

# Flags of JAX that are ignored: those that cannot change a result (where and how to run, what to log, what to check),
# and those that jax.jit ignores too, since their effect appears when f is traced, in another program.
_HARMLESS = re.compile(
    "debug|log|disable_jit|check|traceback|guard|device|platform|tracing|explain|cache|dump|pprint|profil|execution|folding"
    "|backend|prng_impl|custom_prng|mesh_context_manager|shmap_error|remat_pass|bcoo_cusparse|ragged_dot|refs_to_pins"
    "|runtime_errors|pallas_poison|mosaic_allow|recoverability|preemption|share_binary|export_ignore|jax2tf"
)


def tracing() -> bool:
    """Whether JAX is tracing now. Results computed now are tracers, not arrays."""
    return trace_state() != _NO_TRACE


def settings() -> dict[str, Any]:
    """The values of all JAX flags that can change results."""
    return {k: v for k, v in config_values().items() if not _HARMLESS.search(k)}


def settings_key(values: dict[str, Any]) -> tuple:
    return tuple(sorted((k, repr(v)) for k, v in values.items()))


class Program:
    """f at one abstract input: a function of (consts, leaves) that returns y and aux.

    Functions that compute the same share one Program. Exceptions are functions whose jaxpr holds Python functions,
    which can be compared by identity only. `settings` are those at the time of tracing.
    """

    __slots__ = (
        "__weakref__", "_run", "directions", "found", "heads", "jaxpr", "lock", "num_leaves", "num_y", "opaque",
        "settings",
    )  # fmt: skip

    def __init__(self, run: Callable, num_y: int, num_leaves: int, jaxpr: Any = None, opaque: bool = True):
        self._run, self.num_y, self.num_leaves = run, num_y, num_leaves
        self.jaxpr = jaxpr  # None: jit=False, f is run by Python
        self.opaque = opaque
        self.heads: Space | None = None  # for the gradient of a vector-valued f: the cotangents, after its leaves
        self.found = Found()  # what was found by tracing: walks, kernels to be made, ...
        self.directions: dict = {}  # differentiated leaves → the directions that f is known to have
        self.lock = threading.Lock()  # guards `directions`
        self.settings = settings()

    def __call__(self, consts: Sequence, leaves: Sequence) -> tuple[list, list]:
        out = self._run(consts, leaves)
        return out[: self.num_y], out[self.num_y :]

    def part(self, consts: Sequence, leaves: Sequence, outs: tuple[int, ...]) -> list:
        """Some leaves of y alone. The rest of f is not run, so it may hold rules that lack a direction."""
        if self.jaxpr is None:
            y, _ = self(consts, leaves)
            return [y[i] for i in outs]
        part = self.found.find("part", outs, lambda: needed(self.jaxpr, outs))
        return eval_jaxpr(part, (), *consts, *leaves)


_programs: weakref.WeakValueDictionary[Any, Program] = weakref.WeakValueDictionary()


class Traced(NamedTuple):
    """The result of tracing f once."""

    program: Program
    consts: list  # arrays that f closes over; every kernel takes them as arguments
    out_tree: Any
    out_avals: list
    out_paths: tuple[str, ...]
    aux_tree: Any


def trace(name: str, f: Callable, call: Call, differentiated: tuple[int, ...], has_aux: bool, jit: bool) -> Traced:
    """Trace f once. With `jit=False`, f is kept as a function and run by Python.

    Raises:
      TypeError: f returns something that is not an array, has effects that cannot be repeated, or looks at the values
        of traced arrays (see `blame`).
    """
    found: dict[str, Any] = {}

    def flat(leaves: Sequence, change: Callable | None = None) -> list:
        args, kwargs = call.rebuild(list(leaves))
        if change is not None:
            args, kwargs = change(args, kwargs)
        out = f(*args, **kwargs)
        y, aux = _split_aux(name, out, has_aux)
        pairs, found["out_tree"] = jax.tree_util.tree_flatten_with_path(y, is_leaf=_is_array_like)
        found["paths"] = tuple(f"output{jax.tree_util.keystr(p)}" for p, _ in pairs)
        ys = [_checked_output(name, p, leaf) for p, (_, leaf) in zip(found["paths"], pairs, strict=True)]
        if not ys:
            raise TypeError(
                f"{name}(f={name_of(f)}): expected f to return an array or a tree of arrays, got {y!r}. "
                "Return what is to be differentiated."
            )
        auxs, found["aux_tree"] = jax.tree_util.tree_flatten(aux)
        found["num_y"] = len(ys)
        return ys + auxs

    if not jit:
        return _kept_as_python(name, f, flat, call, found)
    try:
        closed = jax.make_jaxpr(flat)(call.leaves)
    except (TypeError, IndexError, AttributeError) as error:
        told = reason(name, f, call, differentiated, flat, error)
        if told is None:
            raise
        raise told from error
    _check_effects(name, f, closed)
    jaxpr, consts = opened(closed)
    consts = [_constant(c) for c in consts]
    nested = [_constant(c) for c in nested_consts(jaxpr)]
    if nested:  # constants of an inner jit become arguments too
        again = jax.make_jaxpr(lambda cs, ns, xs: run_hoisted(jaxpr, [], iter(ns), [*cs, *xs]))
        jaxpr, more = opened(again(consts, nested, call.leaves))
        consts = [*more, *consts, *nested]
    avals = [v.aval for v in jaxpr.outvars[: found["num_y"]]]
    program = interned(jaxpr, len(call.leaves), found["num_y"])
    return Traced(program, consts, found["out_tree"], avals, found["paths"], found["aux_tree"])


def interned(jaxpr: Any, num_leaves: int, num_y: int, heads: Space | None = None) -> Program:
    """The Program of a jaxpr of constants and leaves. All jaxprs that compute the same get the same Program."""
    print_ = fingerprint(jaxpr)
    fresh = Program(
        lambda consts, leaves: eval_jaxpr(jaxpr, (), *consts, *leaves), num_y, num_leaves, jaxpr, print_.opaque
    )
    fresh.heads = heads
    key = (print_.key, num_leaves, num_y, heads, settings_key(fresh.settings))
    return _programs.setdefault(key, fresh)


def _kept_as_python(name: str, f: Callable, flat: Callable, call: Call, found: dict) -> Traced:
    gone = [k for k, a in enumerate(call.leaves) if not isinstance(a, Tracer) and a.is_deleted()]
    if gone:
        path = call.path(gone[0])
        raise ValueError(
            f"{name}({path}=...): expected an array, got one which has been deleted or donated. Pass a copy, made "
            f"before: {path}.copy()."
        )

    def run(consts: Sequence, leaves: Sequence) -> list:
        try:
            return flat(leaves)
        except (TypeError, IndexError) as error:
            told = looks_at_values(name, f, error, jit=False)
            if told is None:
                raise
            raise told from error

    outs = run((), call.leaves)
    program = Program(run, found["num_y"], len(call.leaves))
    avals = [jax.typeof(y) for y in outs[: found["num_y"]]]
    return Traced(program, [], found["out_tree"], avals, found["paths"], found["aux_tree"])


def _split_aux(name: str, out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return out, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(
            f"{name}(has_aux=True): expected f to return a pair (output, aux), got {_counted(out)}. "
            "Return two things, or leave has_aux out."
        )
    return out[0], out[1]


def _is_array_like(leaf: Any) -> bool:
    # A lazy view that f returns is meant as an array, though it is a pytree.
    return hasattr(leaf, "__jax_array__") and not isinstance(leaf, jax.Array)


def _checked_output(name: str, path: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic, int, float, complex)):
        try:
            return jnp.asarray(leaf)
        except TypeError:
            pass  # an array of strings or objects
    if _is_array_like(leaf):
        return jnp.asarray(leaf)
    if isinstance(leaf, Uncalled):
        raise TypeError(leaf.called_first())
    kind, hint = shown_type(leaf), "Leave it out of what f returns: aux too holds arrays alone"
    if isinstance(leaf, (np.ndarray, np.generic)):
        kind = f"{kind} and dtype {leaf.dtype}"
    elif callable(leaf):
        hint = "Call it in f"
    elif hasattr(leaf, "todense") or hasattr(leaf, "toarray"):
        hint = "Return its .data, or a dense array"
    elif hasattr(leaf, "__iter__") and not isinstance(leaf, (str, bytes)):
        hint = "Return jax.numpy.stack(list(...)) of it"
    raise TypeError(f"{name}({path}): expected f to return arrays, got {kind}. {hint}.")


def _counted(out: Any) -> str:
    return f"a {type(out).__name__} of {len(out)}" if isinstance(out, (tuple, list)) else shown_type(out)


def _check_effects(name: str, f: Callable, closed: Any) -> None:
    # Debug effects (jax.debug.print) may run any number of times, and axis names have no effect on values. Other
    # effects must run exactly as often as the program says, and a kernel may repeat or skip parts of f.
    bad = sorted({type(e).__name__ for e in closed.effects} - {"DebugEffect", "NamedAxisEffect"})
    if bad:
        raise TypeError(
            f"{name}(f={name_of(f)}): expected a pure function, got effects {', '.join(bad)} (a mutable reference, "
            "or a callback whose order matters). A Jacobian runs f as often as it needs to; take them out of f."
        )


def _constant(c: Any) -> Any:
    if isinstance(c, jax.Array):
        return c
    with jax.ensure_compile_time_eval():  # a concrete array, even inside a trace
        return jnp.array(np.asarray(c))
