"""`jacobian(f)`: from a call to views, by a program that is traced once for each abstract input."""

import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jax.tree_util import tree_flatten, tree_leaves, tree_structure, tree_unflatten

from jacobia._arguments import Call, check_inexact, differentiated, take_apart
from jacobia._blueprint import Blueprint
from jacobia._compat import Tracer, jit_disabled, settings_token
from jacobia._errors import IndependenceError
from jacobia._jacobian import Jacobian, Layout, read_together, view
from jacobia._kernels import Spaces
from jacobia._linearize import Point, read_dependence, trace
from jacobia._reading import Linearized
from jacobia._space import Space
from jacobia.program.fingerprint import Identity

# Abstract inputs remembered per function, the oldest go first; and functions, the least recently used go first.
_INPUTS, _FUNCTIONS = 64, 1024

_LATER = {"batch_axis": None, "sparsity": "auto", "mesh": None}


class Options(NamedTuple):
    """The arguments of `jacobian`, checked, in hashable form."""

    name: str
    argnums: Any
    has_aux: bool
    holomorphic: bool
    static_argnums: tuple[int, ...]
    static_argnames: tuple[str, ...]
    ravel: bool
    strict: bool
    lazy: bool
    jit: bool
    mode: str
    chunk_size: Any
    memory_limit: int | None


def jacobian(
    f: Callable,
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    where: Any = None,
    batch_axis: int | None = None,
    ravel: bool = False,
    strict: bool = False,
    lazy: bool = True,
    jit: bool = True,
    mode: str = "auto",
    chunk_size: int | str = "auto",
    sparsity: Any = "auto",
    memory_limit: int | None = None,
    mesh: Any = None,
) -> Callable:
    """The Jacobian of `f`, as a function that returns lazy views.

    `jacobian(f)(x)` computes no derivative. Indexing the view computes the rows (by pullbacks) or columns (by
    pushforwards) asked for, in one call of one compiled kernel, and remembers them.

    Args:
      f: any pure JAX function. Positional and keyword arguments are passed on; the latter are not
        differentiated.
      argnums: which positional arguments to differentiate. An int drops the tuple level of the result, `(0,)`
        keeps it, negative numbers count from the end.
      has_aux: `f` returns `(y, aux)`; the transform then returns `(J, aux)`.
      holomorphic: inputs and outputs are complex and `f` is holomorphic.
      static_argnums: positions of hashable arguments that are part of the program, as in `jax.jit`.
      static_argnames: the same for keyword arguments.
      where: a predicate on leaves, or a tree of booleans like the differentiated arguments: which leaves are
        differentiated. The others pass through, and have `None` in the result.
      batch_axis: not there yet.
      ravel: one view of shape `(M, N)` over all outputs and all differentiated inputs, flattened.
      strict: raise where an output leaf does not depend on an input leaf, decided from the program.
      lazy: `False` returns arrays, nested as `jax.jacrev` nests them.
      jit: `False` runs `f` by Python, for control flow on values. Slow.
      mode: "auto", "rev" (pullbacks only) or "fwd" (pushforwards only). Where the dtype of input and output
        differ, only the way that does not round is taken in every mode.
      chunk_size: how many seeds run at once; "auto" keeps the working set under `memory_limit`.
      sparsity: not there yet.
      memory_limit: bytes that one result and its working set may take. Default: half of the free memory of the
        device that holds the inputs.
      mesh: not there yet.

    Returns:
      A function of the arguments of `f`. It returns a view of shape `y.shape + x.shape` and dtype
      `jnp.result_type(x, y)`, or a tree of views: the output tree of `f`, with the tree of the differentiated
      inputs in each leaf.

    Raises:
      TypeError: an argument of the wrong type; inputs or outputs that cannot be differentiated.
      ValueError: an argument out of range.
      NotImplementedError: an argument that is not there yet.
      IndependenceError: with `strict`, an output that does not depend on an input.
    """
    later = {"batch_axis": batch_axis, "sparsity": sparsity, "mesh": mesh}
    for name, given in later.items():
        if given is not _LATER[name] and given != _LATER[name]:
            raise NotImplementedError(
                f"jacobian({name}=...): expected {_LATER[name]!r}, all that this version takes, got {given!r}. "
                + ("Write jax.vmap(jacobian(f))(X) for a batch." if name == "batch_axis" else "Leave it out.")
            )
    return _make(
        "jacobian", f, where, argnums, has_aux, holomorphic, static_argnums, static_argnames, ravel, strict, lazy, jit,
        mode, chunk_size, memory_limit,
    )  # fmt: skip


def _make(name: str, f: Any, where: Any, *rest: Any) -> "_Transform":
    if not callable(f):
        raise TypeError(
            f"{name}(f=...): expected a callable, got {type(f).__name__}. Pass the function, not its result."
        )
    try:
        options = _options(name, *rest)
    except TypeError:  # a list cannot be looked up; what is wrong otherwise is told by the same checks
        options = _options.__wrapped__(name, *rest)
    return _Transform(f, options, where)


@lru_cache(maxsize=256, typed=True)
def _options(
    name: str, argnums: Any, has_aux: Any, holomorphic: Any, static_argnums: Any, static_argnames: Any, ravel: Any,
    strict: Any, lazy: Any, jit: Any, mode: Any, chunk_size: Any, memory_limit: Any,
) -> Options:  # fmt: skip
    # Checked once for each combination: transforms are often made anew at each call.
    flags = {
        "has_aux": has_aux,
        "holomorphic": holomorphic,
        "ravel": ravel,
        "strict": strict,
        "lazy": lazy,
        "jit": jit,
    }
    for flag, given in flags.items():
        if given is not True and given is not False:
            raise TypeError(f"{name}({flag}=...): expected True or False, got {given!r}. Flags are booleans.")
    if not isinstance(mode, str) or mode not in ("auto", "fwd", "rev"):
        raise ValueError(
            f"{name}(mode=...): expected 'auto', 'fwd' or 'rev', got {mode!r}. 'auto' chooses what is cheaper."
        )
    if chunk_size != "auto":
        _check_count(name, "chunk_size", chunk_size, "a positive int or 'auto'")
    if memory_limit is not None:
        _check_count(name, "memory_limit", memory_limit, "a positive number of bytes or None")
    return Options(
        name, _numbers(name, "argnums", argnums, keep_int=True), has_aux, holomorphic,
        _numbers(name, "static_argnums", static_argnums), _names(name, static_argnames), ravel, strict, lazy, jit,
        mode, chunk_size, memory_limit,
    )  # fmt: skip


def _check_count(name: str, what: str, given: Any, expected: str) -> None:
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"{name}({what}=...): expected {expected}, got {given!r}. Leave it out for the default.")
    if given.__index__() < 1:
        raise ValueError(f"{name}({what}=...): expected {expected}, got {given!r}. Leave it out for the default.")


def _numbers(name: str, what: str, given: Any, keep_int: bool = False) -> Any:
    if hasattr(given, "__index__") and not isinstance(given, bool):
        return given.__index__() if keep_int else (given.__index__(),)
    if isinstance(given, (tuple, list)) and all(hasattr(k, "__index__") and not isinstance(k, bool) for k in given):
        if keep_int and not given:
            raise ValueError(
                f"{name}({what}=...): expected at least one argument number, got {given!r}. Write 0 or (0,)."
            )
        return tuple(k.__index__() for k in given)
    raise TypeError(
        f"{name}({what}=...): expected an int or a sequence of ints, got {given!r}. Arguments are numbered from 0."
    )


def _names(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (tuple, list)) and all(isinstance(k, str) for k in given):
        return tuple(given)
    raise TypeError(
        f"{name}(static_argnames=...): expected a string or a sequence of strings, got {given!r}. "
        "Positional arguments are named by static_argnums."
    )


class Entry(NamedTuple):
    """What is known of f at one abstract input."""

    blue: Blueprint
    consts: list  # arrays that f closes over
    layouts: list[Layout]
    only: Layout | None  # of the one view that is returned as it is


class _Transform:
    """`jacobian(f)`: call it with the arguments of f."""

    def __init__(self, f: Callable, options: Options, where: Any):
        self.__wrapped__ = f
        self._f, self._options, self._where = f, options, where
        self._plain = not (options.static_argnums or options.static_argnames or not options.jit)
        self._entries = _entries_of(f, (options, _where_key(where)))

    @property
    def __name__(self) -> str:
        return f"{self._options.name}({getattr(self._f, '__name__', type(self._f).__name__)})"

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return f"The Jacobian of a function, as lazy views.\n\n{getattr(self._f, '__doc__', None) or ''}"

    def __repr__(self) -> str:
        return f"<{self.__name__}>"

    def __reduce__(self) -> Any:
        return _Transform, (self._f, self._options, self._where)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        options = self._options
        origin, entry = self._linearized(args, kwargs)
        if entry.only is not None:
            return view(origin, 0, entry.only)
        views = _tree(origin.blue, [view(origin, k, layout) for k, layout in enumerate(entry.layouts)])
        if not options.lazy:
            views = materialize(views, ...)
        if options.has_aux:
            return views, tree_unflatten(origin.blue.aux_tree, origin.value()[1])
        return views

    def linearized(self, args: tuple, kwargs: dict) -> Linearized:
        """f linearized at these arguments, with nothing remembered."""
        return self._linearized(args, kwargs)[0]

    def _linearized(self, args: tuple, kwargs: dict) -> tuple[Linearized, Entry]:
        # Arrays that were seen before take the short way: everything else is checked, converted, traced.
        if self._plain:
            leaves, treedef = ([args[0]], None) if len(args) == 1 and not kwargs else tree_flatten((args, kwargs))
            for a in leaves:
                if type(a) not in _ARRAYS:
                    break
            else:
                entry = self._entries.get((treedef, settings_token(), *[a.aval for a in leaves]))
                if entry is not None:
                    origin = Linearized(entry.blue, entry.consts, leaves)
                    origin.source = (self, args, kwargs)
                    return origin, entry
        options = self._options
        call = take_apart(options.name, args, kwargs, options.static_argnums, options.static_argnames)
        entry = self._entry(call)
        _ARRAYS.update(type(a) for a in call.leaves if not isinstance(a, Tracer))
        origin = Linearized.anywhere(entry.blue, entry.consts, call.leaves)
        origin.source = None if origin.traced else (self, *call.rebuild(call.leaves))
        return origin, entry

    def _entry(self, call: Call) -> Entry:
        jit = self._options.jit and not jit_disabled()
        form = call.form if any(call[2:]) else None if call.treedef == _ONE_ARRAY else call.treedef
        key = (form, settings_token(), *[jax.typeof(a) for a in call.leaves])
        entry = self._entries.get(key) if jit else None
        if entry is None:
            entry = _entry(self._f, self._options, self._where, call, jit)
            if jit and not any(isinstance(c, Tracer) for c in entry.consts):
                self._entries.put(key, entry)
        return entry


# Types of arrays that are computed and not traced, as they are met: asking for them is faster than isinstance.
_ARRAYS: set[type] = set()

_ONE_ARRAY = tree_structure(((0,), {}))


def _entry(f: Callable, options: Options, where: Any, call: Call, jit: bool) -> Entry:
    name = options.name
    positions, paths, in_tree, kept = differentiated(name, call, options.argnums, where)
    for place, path in zip(positions, paths, strict=True):
        check_inexact(name, path, call.leaves[place].dtype, options.holomorphic, "input")
    traced = trace(name, f, call, options.has_aux, jit)
    for aval, path in zip(traced.out_avals, traced.out_paths, strict=True):
        check_inexact(name, path, aval.dtype, options.holomorphic, "output")
    ins = Space(tuple(call.leaves[p].shape for p in positions), tuple(call.leaves[p].dtype for p in positions), paths)
    outs = Space(tuple(a.shape for a in traced.out_avals), tuple(a.dtype for a in traced.out_avals), traced.out_paths)
    blue = Blueprint(
        name, traced.program, positions, Spaces(outs, ins), in_tree, kept, traced.out_tree, traced.aux_tree,
        options.ravel, options.mode, options.chunk_size, options.memory_limit, jit,
        tuple(a.shape for a in call.leaves), tuple(c.shape for c in traced.consts),
    )  # fmt: skip
    if options.ravel and not any(blue.exact):
        raise TypeError(
            f"{name}(ravel=True): expected inputs or outputs of one dtype, as wide as the result, got inputs "
            f"{', '.join(map(str, ins.dtypes))} and outputs {', '.join(map(str, outs.dtypes))}. Either direction would "
            "round some of them: convert them, or leave ravel out."
        )
    if options.strict or options.holomorphic:
        _check_program(options, blue, Point(traced.program, positions, traced.consts, call.leaves))
    layouts = [Layout(b, (), False, False) for b in blue.blocks]
    as_it_is = blue.single and options.lazy and not options.has_aux
    return Entry(blue, traced.consts, layouts, layouts[0] if as_it_is else None)


def _check_program(options: Options, blue: Blueprint, point: Point) -> None:
    found = read_dependence(point)
    if options.holomorphic and found.real_linear:
        raise TypeError(
            f"{options.name}(holomorphic=True): expected a holomorphic f, got {', '.join(found.real_linear)} on the "
            "way from an input to an output, whose rows and columns would disagree. Differentiate with respect to real "
            "and imaginary parts."
        )
    if options.strict:
        outs, ins = blue.spaces
        for path, sources in zip(outs.paths, found.outputs, strict=True):
            for j, in_path in enumerate(ins.paths):
                if j not in sources:
                    raise IndependenceError(
                        f"{options.name}(strict=True): expected every output to depend on every input, but {path} does "
                        f"not depend on {in_path}: that block is all zeros. Leave strict out if this is meant."
                    )


def _tree(blue: Blueprint, items: list) -> Any:
    # The output tree, with the tree of the differentiated inputs in each leaf.
    if blue.ravel:
        return items[0]
    rest, width = iter(items), len(blue.spaces.inputs)
    rows = []
    for _ in range(len(blue.spaces.outputs)):
        own = iter([next(rest) for _ in range(width)])
        rows.append(tree_unflatten(blue.in_tree, [next(own) if kept else None for kept in blue.kept_leaves]))
    return tree_unflatten(blue.out_tree, rows)


def materialize(tree: Any, key: Any = ...) -> Any:
    """Read the same key of every view of a tree, in one kernel call for all views of one `jacobian` call.

    Args:
      tree: a tree of views, as `jacobian(f)(x)` returns it. Other leaves stay as they are.
      key: any key that NumPy takes.

    Returns:
      The tree with arrays in the places of views.
    """
    leaves, treedef = tree_flatten(tree, is_leaf=lambda v: isinstance(v, Jacobian))
    calls: dict[int, list[Jacobian]] = {}
    for leaf in leaves:
        if isinstance(leaf, Jacobian):
            calls.setdefault(id(leaf._origin), []).append(leaf)
    ready: dict[int, Any] = {}
    for views in calls.values():
        ready.update(read_together(views, key))
    return tree_unflatten(treedef, [ready.get(id(v), v) for v in leaves])


class _Entries:
    """Abstract inputs → what is known of f there; bounded, the oldest go first."""

    def __init__(self) -> None:
        self.known: OrderedDict[Hashable, Entry] = OrderedDict()

    def get(self, key: Hashable) -> Entry | None:
        return self.known.get(key)

    def put(self, key: Hashable, entry: Entry) -> None:
        self.known[key] = entry
        while len(self.known) > _INPUTS:
            self.known.popitem(last=False)


_functions: OrderedDict[int, tuple[weakref.ref, dict]] = OrderedDict()
_functions_lock = threading.Lock()


def _entries_of(f: Callable, options: Hashable) -> _Entries:
    # By the identity of f, and no longer than f lives. A bound method lives as long as its object.
    owner, name = (f.__self__, f.__func__) if isinstance(f, types.MethodType) else (f, None)
    place = id(owner)
    try:
        ref = weakref.ref(owner, lambda _: _functions.pop(place, None))
    except TypeError:
        return _Entries()  # cannot be watched: its entries live as long as this transform
    with _functions_lock:
        known = _functions.get(place)
        if known is None or known[0]() is not owner:
            known = _functions[place] = (ref, {})
        _functions.move_to_end(place)
        while len(_functions) > _FUNCTIONS:
            _functions.popitem(last=False)
        return known[1].setdefault((name, options), _Entries())


def _where_key(where: Any) -> Hashable:
    if where is None or callable(where):
        return None if where is None else Identity(where)
    return tree_structure(where), tuple(tree_leaves(where))
