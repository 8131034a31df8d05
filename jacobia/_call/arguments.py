"""A call `jac(*args, **kwargs)`, taken apart into arrays, which are traced, and static values, part of the program.

Knows trees and types. Knows nothing of what f computes.
"""

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_structure, tree_unflatten

from jacobia._call.options import shown, shown_type
from jacobia._call.state import carries_state

_SCALARS = (int, float, complex)
_ONE_LEAF = tree_structure(0)
_STATIC = (str, bytes, bool)


class Static:
    """A value that is part of the program. Types count too: 1, 1.0 and True differ, and so do 0.0 and -0.0."""

    __slots__ = ("key", "value")

    def __init__(self, value: Any):
        self.value = value
        self.key = _typed(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _typed(value: Any) -> Hashable:
    if type(value) in (tuple, frozenset):
        return type(value), type(value)(_typed(v) for v in value)
    return type(value), repr(value) if isinstance(value, (float, complex)) else value


class Call(NamedTuple):
    """One call, taken apart. All fields but `leaves` are hashable, and say how to put the call together again."""

    leaves: list  # arrays
    treedef: Any  # the tree of (args, kwargs) without static arguments
    fixed: tuple[tuple[int, Static], ...]  # (place among all leaves, value) of each leaf that is static
    static_args: tuple[tuple[int, Static], ...]
    static_kwargs: tuple[tuple[str, Static], ...]

    @property
    def form(self) -> Hashable:
        return self[1:]

    @property
    def carries_state(self) -> bool:
        """Whether a callable among the static values may compute something else at the next call."""
        held = [item.value for _, item in (*self.fixed, *self.static_args, *self.static_kwargs)]
        return any(callable(value) and carries_state(value) for value in held)

    def path(self, leaf: int) -> str:
        """The name of a leaf, as the caller would write it, such as `args[0]['w']`."""
        fixed = {place for place, _ in self.fixed}
        places = [k for k in range(self.treedef.num_leaves) if k not in fixed]
        return leaf_path(self.treedef, [k for k, _ in self.static_args], places[leaf])

    def rebuild(self, leaves: list) -> tuple[tuple, dict]:
        """The arguments of f, with these arrays in the places of `leaves`."""
        if self.fixed:
            leaves = list(leaves)
            for place, item in self.fixed:
                leaves.insert(place, item.value)
        args, kwargs = tree_unflatten(self.treedef, leaves)
        args = list(args)
        for place, item in self.static_args:
            args.insert(place, item.value)
        return tuple(args), kwargs | {name: item.value for name, item in self.static_kwargs}


class StaticArguments(NamedTuple):
    """Which arguments are static, by position and by name."""

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    named: int  # the number of named positional parameters of f; arguments below it may be absent from a call


def static_arguments(f: Callable, numbers: tuple[int, ...], names: tuple[str, ...]) -> StaticArguments:
    """The static arguments of f. As in `jax.jit`, numbers and names that are not given follow from the signature."""
    if not (numbers or names):
        return StaticArguments((), (), 0)
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return StaticArguments(numbers, names, 0)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not numbers:
        numbers = tuple(k for k, p in enumerate(named) if p.name in names)
    elif not names:
        count = len(named)
        chosen = [named[k] for k in numbers if -count <= k < count]
        names = tuple(p.name for p in chosen if p.kind is p.POSITIONAL_OR_KEYWORD)
    return StaticArguments(numbers, names, len(named))


def take_apart(
    name: str,
    args: tuple,
    kwargs: dict,
    static_argnums: tuple[int, ...],
    static_argnames: tuple[str, ...],
    named: int = 0,
) -> Call:
    """Split a call. NumPy arrays are copied; Python numbers become weakly typed arrays, as in `jax.jit`.

    `static_argnums`, `static_argnames` and `named` are the fields of `StaticArguments`.

    Raises:
      TypeError: an argument of a type that is neither an array nor a static value; a static argument without a hash.
      ValueError: a number in `static_argnums` that is out of range.
    """
    for k in static_argnums:
        if not -len(args) <= k < max(len(args), named):
            raise ValueError(
                f"{name}(static_argnums=...): expected numbers from {-len(args)} to {len(args) - 1}, got {k}. "
                f"f was called with {_counted(args)}; keyword arguments are named by static_argnames."
            )
    places = sorted({k % len(args) for k in static_argnums if k < len(args)})
    static_args = tuple((k, _checked(name, f"args[{k}]", args[k])) for k in places)
    static_kwargs = tuple((k, _checked(name, k, kwargs[k])) for k in static_argnames if k in kwargs)
    if places or static_kwargs:
        args = tuple(a for k, a in enumerate(args) if k not in places)
        kwargs = {k: v for k, v in kwargs.items() if k not in static_argnames}
    flat, treedef = tree_flatten((args, kwargs))
    leaves, fixed = [], []
    for place, leaf in enumerate(flat):
        if isinstance(leaf, jax.Array):
            leaves.append(leaf)
        elif isinstance(leaf, _STATIC):
            fixed.append((place, Static(leaf)))
        elif isinstance(leaf, (np.ndarray, np.generic)) and _is_numeric(leaf.dtype) and not np.ma.isMaskedArray(leaf):
            leaves.append(copied(leaf))
        elif isinstance(leaf, _SCALARS):
            leaves.append(jnp.asarray(leaf))
        elif hasattr(leaf, "__jax_array__"):
            leaves.append(jnp.asarray(leaf))
        elif callable(leaf):
            fixed.append((place, _checked(name, leaf_path(treedef, places, place), leaf)))
        else:
            raise _no_argument(name, leaf_path(treedef, places, place), leaf)
    return Call(leaves, treedef, tuple(fixed), static_args, static_kwargs)


def _no_argument(name: str, path: str, value: Any) -> TypeError:
    kind, static = type(value).__name__, "name the argument in static_argnums or static_argnames"
    if isinstance(value, (np.ndarray, np.generic)):
        kind, hint = f"{kind} of dtype {value.dtype}", f"Convert it to numbers, or {static}"
        if np.ma.isMaskedArray(value) or value.dtype == object:
            hint = f"Write {path}.filled(...)" if value.dtype != object else f"Write {path}.astype(float), or {static}"
    elif isinstance(value, jax.ShapeDtypeStruct):
        hint = f"{name}(f).explain(...) and {name}(f).compile(...) take shapes; a view is made at arrays"
    elif hasattr(value, "toarray"):
        hint = "Write .toarray(), or pass its .data alone and build the matrix inside f"
    elif hasattr(value, "__array__"):
        hint = f"Write numpy.asarray({path})"
    elif hasattr(value, "__iter__"):
        hint = f"Write jax.numpy.asarray(list({path})), or a list or tuple of arrays, or {static}"
    elif dataclasses.is_dataclass(value):
        hint = f"Write jax.tree_util.register_dataclass({kind}) after the class, which makes it a pytree, or {static}"
    else:
        hint = f"If it is part of the program, {static}"
    return TypeError(
        f"{name}({path}=...): expected an array, a number, a string, a callable, a boolean or None, got {kind}. {hint}."
    )


def of_numbers(name: str, call: Call, path: str, dtype: Any) -> TypeError | None:
    """The error for integers in a list of numbers or in a sparse array. None: the path is of neither."""
    top = path.split("]")[0] + "]"
    whole = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    if path == top or not top.startswith("args[") or not whole:
        return None
    argument = call.rebuild(call.leaves)[0][int(top[len("args[") : -1])]
    if hasattr(argument, "todense") or hasattr(argument, "toarray"):
        hint = f"Pass {top}.data alone, and build the matrix inside f"
    elif type(argument) in (list, tuple) and all(np.ndim(leaf) == 0 for leaf in tree_leaves(argument)):
        hint = f"A {type(argument).__name__} is a tree of numbers to JAX: write jax.numpy.asarray({top}, float)"
        hint += f", or, for a shape, jax.ShapeDtypeStruct({top}, float)" if type(argument) is tuple else ""
    else:
        return None
    return TypeError(f"{name}({path}): expected a float input to differentiate, got {dtype}. {hint}.")


def _is_numeric(dtype: Any) -> bool:
    # The dtypes that JAX adds to NumPy, such as bfloat16, are numbers, though their NumPy kind is "V".
    return dtype.kind not in "OSUMmV" or jnp.issubdtype(dtype, jnp.inexact)


class _Copies:
    # Copies NumPy arrays into JAX arrays. A compiled copy is five times as fast as device_put, but has to be compiled
    # for each shape. So a shape is compiled once it has been copied `often` times. At most `shapes` shapes are counted;
    # then counting starts anew.
    often, shapes = 32, 256

    def __init__(self) -> None:
        self._met: dict[tuple, int] = {}
        self._compiled = jax.jit(jnp.copy)

    def of(self, array: Any) -> jax.Array:
        own = np.array(array)  # JAX may read it later
        name = own.shape, own.dtype
        times = self._met.get(name, 0)
        if times >= self.often:
            return self._compiled(own)
        if len(self._met) >= self.shapes:
            self._met.clear()
        self._met[name] = times + 1
        return jax.device_put(own)


copied = _Copies().of
"""A copy of a NumPy array as a JAX array. Later changes of the NumPy array have no effect on the copy."""


def _checked(name: str, path: str, value: Any) -> Static:
    try:
        hash(value)
    except TypeError:
        hint = "Static arguments are part of the program, such as int(n); pass arrays without naming them static"
        hint = f"Write tuple({path})" if isinstance(value, list) else hint
        raise TypeError(
            f"{name}({path}=...): expected a hashable static argument, got {shown_type(value)}. {hint}."
        ) from None
    return Static(value)


def leaf_path(treedef: Any, static_places: Sequence[int], place: int) -> str:
    """The name of a leaf of (args, kwargs) without static arguments, as the caller would write it."""
    paths = tree_flatten_with_path(tree_unflatten(treedef, range(treedef.num_leaves)))[0]
    (_, top, *rest), _ = paths[place]
    if not hasattr(top, "idx"):
        return str(top.key) + keystr(tuple(rest))
    number = top.idx
    for k in sorted(static_places):
        number += k <= number
    return f"args[{number}]" + keystr(tuple(rest))


def differentiated(
    name: str, call: Call, argnums: int | tuple[int, ...], where: Any
) -> tuple[tuple[int, ...], tuple[str, ...], Any, tuple[bool, ...]]:
    """Which leaves are differentiated.

    Returns:
      positions of the differentiated leaves in `call.leaves`; their paths; the tree of the differentiated arguments (an
      int argnum drops the tuple level); and for each leaf of that tree, whether it is differentiated.

    Raises:
      TypeError: an argument to differentiate is no array or tree of arrays; or `where` is neither a predicate nor a
        tree of booleans.
      ValueError: `argnums` is out of range, repeated or static; or `where` has another tree structure.
    """
    fixed = {place for place, _ in call.fixed}
    traced = iter(range(len(call.leaves)))
    numbers = [_Number(None if k in fixed else next(traced), k) for k in range(call.treedef.num_leaves)]
    args, _ = tree_unflatten(call.treedef, numbers)
    args = list(args)
    for place, _item in call.static_args:
        args.insert(place, None)
    static_places = {place for place, _ in call.static_args}
    if not args:
        raise ValueError(
            f"{name}(argnums=...): expected at least one positional argument of f, got none. Write {name}(f)(x): what "
            f"is passed by name{_listed(call, numbers)} is not differentiated."
        )
    chosen = []
    wanted = (argnums,) if isinstance(argnums, int) else argnums
    for k in wanted:
        if not -len(args) <= k < len(args):
            raise ValueError(
                f"{name}(argnums=...): expected numbers from {-len(args)} to {len(args) - 1}, got {k}. "
                f"f was called with {_counted(args)}; what is passed by name{_listed(call, numbers)} is not "
                "differentiated, pass it by position."
            )
        if k % len(args) in static_places:
            raise ValueError(
                f"{name}(argnums=...): expected an argument that is traced, got {k}, which is named in static_argnums. "
                "An argument is differentiated or part of the program, not both."
            )
        chosen.append(k % len(args))
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"{name}(argnums=...): expected different arguments, got {argnums}. Name each argument once.")
    tree = args[chosen[0]] if isinstance(argnums, int) else tuple(args[k] for k in chosen)
    if tree is None:
        raise TypeError(
            f"{name}(args[{chosen[0]}]=...): expected an array, or a tree of arrays, to differentiate, got None. Pass "
            "an array, or number another argument in argnums."
        )
    flat, in_tree = tree_flatten(tree, is_leaf=lambda v: isinstance(v, _Number))
    keep = _kept(name, call, flat, in_tree, where)
    positions, paths = [], []
    for number, kept in zip(flat, keep, strict=True):
        if not kept:
            continue
        path = leaf_path(call.treedef, [k for k, _ in call.static_args], number.place)
        if number.leaf is None:
            value = dict(call.fixed)[number.place].value
            hint = "Leave it out with where=, as where=lambda leaf: hasattr(leaf, 'dtype')."
            if in_tree == _ONE_LEAF:
                hint = "Pass an array, or number another argument in argnums."
            raise TypeError(
                f"{name}({path}=...): expected a float array to differentiate, got {type(value).__name__}. {hint}"
            )
        positions.append(number.leaf)
        paths.append(path)
    return tuple(positions), tuple(paths), in_tree, tuple(keep)


def _counted(args: Sequence) -> str:
    return f"{len(args)} positional argument{'s' * (len(args) != 1)}"


def _listed(call: Call, numbers: list) -> str:
    names = [*call.treedef.unflatten(numbers)[1], *(k for k, _ in call.static_kwargs)]
    return f" ({', '.join(names)})" if names else ""


class _Number(NamedTuple):
    leaf: int | None  # the place in call.leaves; None: a static value
    place: int  # the place among all leaves, static values included


def _kept(name: str, call: Call, flat: list, in_tree: Any, where: Any) -> list[bool]:
    if where is None:
        return [True] * len(flat)
    values = {place: item.value for place, item in call.fixed}
    leaves = [values[n.place] if n.leaf is None else call.leaves[n.leaf] for n in flat]
    tree, structure = tree_flatten(where)
    if is_predicate(where):
        if tree and structure == in_tree != _ONE_LEAF:  # a callable module is not a function of a leaf
            raise _no_mask(name, where)
        return [_answer(name, where, leaf) for leaf in leaves]
    if not all(map(_is_boolean, tree)):
        raise _no_mask(name, where)
    if structure != in_tree:
        raise ValueError(
            f"{name}(where=...): expected a tree of booleans like the differentiated arguments, {in_tree}, got "
            f"{structure}. Write jax.tree.map(lambda leaf: True, tree) of these arguments, with False for what is left "
            "out; or a function of a leaf, which fits every tree."
        )
    return [bool(b) for b in tree]


def _no_mask(name: str, where: Any) -> TypeError:
    return TypeError(
        f"{name}(where=...): expected a function of a leaf, or a tree of booleans, got {shown(where)}. True stands for "
        "a leaf that is differentiated, False for one that is not."
    )


def _answer(name: str, where: Callable, leaf: Any) -> bool:
    try:
        answer = where(leaf)
    except TypeError:
        try:
            inspect.signature(where).bind(leaf)
        except TypeError:
            raise TypeError(
                f"{name}(where=...): expected a function of one leaf, got {getattr(where, '__name__', where)}"
                f"{inspect.signature(where)}. Write where=lambda leaf: ..., which gives True or False."
            ) from None
        except ValueError:  # a builtin has no signature
            pass
        raise
    try:
        return bool(answer)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}(where=...): expected True or False for each leaf, got {shown(answer)}. where= chooses whole "
            "leaves: read J[..., mask] for some entries of one."
        ) from None


def is_predicate(where: Any) -> bool:
    """Whether `where` is a function of a leaf. A callable module whose leaves are booleans is a mask instead."""
    if not callable(where):
        return False
    leaves = tree_leaves(where)
    return not leaves or not all(_is_boolean(leaf) or _is_flags(leaf) for leaf in leaves)


def copied_where(name: str, where: Any) -> Any:
    """`where`, with its booleans copied: later changes of a mask have no effect."""
    if where is None or is_predicate(where):
        return where
    leaves, treedef = tree_flatten(where)
    for leaf in leaves:
        if isinstance(leaf, (np.ndarray, jax.Array)) and not _is_boolean(leaf):
            raise TypeError(
                f"{name}(where=...): expected a function of a leaf, or a tree of booleans, one for each leaf, got "
                f"{shown(leaf)}. where= chooses whole leaves: read J[..., mask] for some entries of one."
            )
    return tree_unflatten(treedef, [bool(b) if _is_boolean(b) else b for b in leaves])


def _is_boolean(value: Any) -> bool:
    if isinstance(value, (np.ndarray, jax.Array)):
        return value.shape == () and value.dtype == bool
    return isinstance(value, (bool, np.bool_))


def _is_flags(value: Any) -> bool:
    # An array of booleans, one for each entry of a leaf. It is recognized as a mask, so that the error can explain that
    # masks of entries are not supported.
    return isinstance(value, (np.ndarray, jax.Array)) and value.dtype == bool


def check_inexact(name: str, path: str, dtype: Any, holomorphic: bool, what: str) -> None:
    """Raise unless a leaf has a dtype that can be differentiated, real or complex as `holomorphic` says."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        raise TypeError(
            f"{name}({path}): expected a float {what} to differentiate, got a typed key, {dtype}. Number another "
            "argument in argnums; leave a key in a tree out with where=; of a lazy view J take the array, J[...]."
        )
    if jnp.issubdtype(dtype, jnp.complexfloating):
        if holomorphic:
            return
        way_out = "Set holomorphic=True for a holomorphic f, or d" if name in ("jacobian", "hessian") else "D"
        raise TypeError(
            f"{name}({path}): expected a real {what}, got {dtype}. "
            f"{way_out}ifferentiate with respect to real and imaginary parts."
        )
    elif jnp.issubdtype(dtype, jnp.floating):
        if not holomorphic:
            return
        raise TypeError(
            f"{name}({path}, holomorphic=True): expected a complex {what}, got {dtype}. "
            "Convert it to complex, or leave holomorphic out."
        )
    hint = "Convert it to float, or return it as aux."
    if what == "input":
        hint = "Convert it to float, or leave it out with where=."
    if path.startswith("args[") and path.count("[") == 1 and path.endswith("]"):
        hint = f"Write jax.numpy.asarray({path}, float)."
    raise TypeError(f"{name}({path}): expected a float {what} to differentiate, got {dtype}. {hint}")
