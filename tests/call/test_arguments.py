"""Calls taken apart and put together again: no function is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian
from jacobia._call.arguments import Static, check_inexact, differentiated, leaf_path, take_apart

A, B = np.float32([1, 2]), np.float32([[3]])


def square(x):
    return x * x


def apart(*args, static_argnums=(), static_argnames=(), **kwargs):
    return take_apart("jacobian", args, kwargs, static_argnums, static_argnames)


def same(a, b):
    a, b = jax.tree.flatten(a), jax.tree.flatten(b)
    return a[1] == b[1] and all(
        np.array_equal(x, y) if hasattr(x, "shape") or hasattr(y, "shape") else (type(x), x) == (type(y), y)
        for x, y in zip(a[0], b[0], strict=True)
    )


CALLS = {
    "arrays": ((A, B), {}, (), ()),
    "trees": (({"b": A, "a": (B, [A, None])}, ()), {}, (), ()),
    "keywords": ((A,), {"b": B, "a": {"c": A}}, (), ()),
    "static by themselves": ((A, "mode", True, square, None), {"flag": False, "name": "n"}, (), ()),
    "static inside trees": (({"m": "mode", "x": A, "f": square},), {"k": [True, A, "s"]}, (), ()),
    "named static": ((A, (1, 2), B), {"n": 3, "m": A}, (1,), ("n",)),
    "static at both ends": (("first", A, (2, 3)), {}, (0, -1), ()),
    "all static": ((1, 2), {}, (0, 1), ()),
    "a name that is not given": ((A,), {}, (), ("n",)),
    "nothing": ((), {}, (), ()),
    "empty leaves": ((np.zeros((0, 2), np.float32), {}, []), {}, (), ()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_comes_together_again(name):
    args, kwargs, argnums, argnames = CALLS[name]
    call = take_apart("jacobian", args, kwargs, argnums, argnames)
    assert all(isinstance(leaf, jax.Array) for leaf in call.leaves)
    again_args, again_kwargs = call.rebuild(call.leaves)
    assert same(again_args, args) and same(again_kwargs, kwargs)
    hash(call.form)


@pytest.mark.parametrize("name", CALLS)
def test_other_arrays_take_the_places_of_the_leaves(name):
    args, kwargs, argnums, argnames = CALLS[name]
    call = take_apart("jacobian", args, kwargs, argnums, argnames)
    moved = call.rebuild([leaf + 1 for leaf in call.leaves])
    expected = [
        [leaf + 1 if isinstance(leaf, np.ndarray) else leaf for leaf in jax.tree.leaves(part)]
        for part in (args, kwargs)
    ]
    assert same([jax.tree.leaves(part) for part in moved], expected)
    before = list(call.leaves)
    call.rebuild(call.leaves)
    assert all(a is b for a, b in zip(call.leaves, before, strict=True))  # the list is not written to


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (1.0, True), (0.0, -0.0), (0, False), (0j, -0j), ("1", 1), (None, False)],
    ids=str,
)
def test_static_values_that_python_calls_equal(one, other):
    assert Static(one) != Static(other)
    assert Static(one) == Static(one) and hash(Static(one)) == hash(Static(one))


def test_static_values_of_two_calls():
    assert apart(A, 1, static_argnums=(1,)).form != apart(A, 1.0, static_argnums=(1,)).form
    assert apart(A, 0.0, static_argnums=(1,)).form != apart(A, -0.0, static_argnums=(1,)).form
    assert apart(A, "a").form == apart(B, "a").form != apart(A, "b").form
    assert apart(A, n=1, static_argnames=("n",)).form != apart(A, m=1, static_argnames=("m",)).form
    assert apart(A, True).form != apart(A, False).form


@pytest.mark.parametrize(
    ("one", "other"),
    [((1,), (True,)), ((1,), (1.0,)), ((0.0,), (-0.0,)), (((1,), 2), ((1.0,), 2)), (frozenset([1]), frozenset([True]))],
    ids=str,
)
def test_static_containers_that_python_calls_equal(one, other):
    assert Static(one) != Static(other)
    assert Static(one) == Static(one) and hash(Static(one)) == hash(Static(one))


def test_python_numbers_are_weakly_typed_and_numpy_ones_are_not():
    call = apart(1.5, 2, 1j, np.float16(1.5), np.float32([1]), jnp.bfloat16(2))
    assert [leaf.weak_type for leaf in call.leaves] == [True, True, True, False, False, False]
    assert [str(leaf.dtype) for leaf in call.leaves] == [
        "float32", "int32", "complex64", "float16", "float32", "bfloat16",
    ]  # fmt: skip
    (leaf,) = apart(np.asarray([1, 2], jnp.bfloat16)).leaves
    assert leaf.dtype == jnp.bfloat16


def test_numpy_arrays_are_copied_and_jax_arrays_are_kept():
    buffer, kept = np.zeros(96, np.float32), jnp.asarray(A)
    start = -buffer.ctypes.data % 64 // 4
    array = buffer[start : start + 64]  # aligned: what JAX would take over without a copy
    call = apart(array, kept)
    array[:] = 7
    assert not np.any(call.leaves[0]) and call.leaves[1] is kept


def test_a_view_among_the_arguments_is_an_array():
    class View:
        def __jax_array__(self):
            return jnp.asarray(A)

    (leaf,) = apart(View()).leaves
    assert isinstance(leaf, jax.Array) and np.array_equal(leaf, A)


@pytest.mark.parametrize(
    "bad",
    [object(), np.array(["s"]), np.array([None]), {1, 2}, np.datetime64("2020-01-01")],
    ids=["object", "strings", "objects", "set", "date"],
)
def test_other_things_raise_and_are_named(bad):
    with pytest.raises(TypeError, match=r"^jacobian\(args\[1\]\['a'\]=\.\.\.\): expected .*static_argnums"):
        apart(A, {"a": bad})


def test_static_numbers_out_of_range_and_static_values_without_a_hash():
    for number in (2, -3):
        with pytest.raises(ValueError, match=rf"from -2 to 1, got {number}"):
            apart(A, B, static_argnums=(number,))
    with pytest.raises(TypeError, match=r"args\[1\]=.*hashable"):
        apart(A, [1], static_argnums=(1,))
    with pytest.raises(TypeError, match="names=.*hashable"):
        apart(A, names=[1], static_argnames=("names",))


def test_paths_as_a_caller_writes_them():
    tree = jax.tree.structure((({"a": [0, 0]}, 0), {"key": (0,)}))
    assert [leaf_path(tree, (), k) for k in range(4)] == ["args[0]['a'][0]", "args[0]['a'][1]", "args[1]", "key[0]"]


# Which leaves are differentiated


def chosen(*args, argnums=0, where=None, static_argnums=(), **kwargs):
    call = take_apart("jacobian", args, kwargs, static_argnums, ())
    return differentiated("jacobian", call, argnums, where)


def test_argnums_pick_arguments_in_their_order():
    assert chosen(A, B)[:2] == ((0,), ("args[0]",))
    assert chosen(A, B, argnums=-1)[:2] == ((1,), ("args[1]",))
    positions, _, tree, kept = chosen(A, B, argnums=(1, 0))
    assert positions == (1, 0) and tree == jax.tree.structure((0, 0)) and kept == (True, True)
    assert chosen(A, argnums=(0,))[2] == jax.tree.structure((0,))
    assert chosen(A)[2] == jax.tree.structure(0)


def test_positions_leave_static_arguments_and_leaves_out():
    assert chosen("mode", {"f": square, "x": A}, (3, 4), B, argnums=(3,), static_argnums=(2,))[0] == (1,)
    positions, paths, *_ = chosen("mode", {"f": square, "x": A}, argnums=1, where=lambda leaf: not callable(leaf))
    assert positions == (0,) and paths == ("args[1]['x']",)
    assert chosen((1, 2), A, argnums=1, static_argnums=(0,))[0] == (0,)


def test_paths_count_static_arguments():
    assert chosen((1, 2), A, argnums=1, static_argnums=(0,))[1] == ("args[1]",)
    assert chosen(A, (1,), (2,), B, A, argnums=(0, 3, 4), static_argnums=(1, 2))[1] == ("args[0]", "args[3]", "args[4]")
    assert chosen((1,), A, (2,), B, argnums=(1, 3), static_argnums=(2, 0))[1] == ("args[1]", "args[3]")


def test_where_as_a_predicate_and_as_a_tree():
    args = {"w": A, "n": np.int32(3), "none": None, "name": "n"}
    positions, paths, tree, kept = chosen(args, where=lambda leaf: not isinstance(leaf, str) and leaf.dtype == A.dtype)
    assert paths == ("args[0]['w']",) and kept == (False, False, True)
    assert tree == jax.tree.structure({"w": 0, "n": 0, "none": None, "name": 0})
    again = chosen(args, where={"w": True, "n": np.False_, "none": None, "name": False})
    assert again[:2] == (positions, paths) and again[3] == kept


def test_where_that_does_not_fit():
    with pytest.raises(TypeError, match="tree of booleans"):
        chosen({"a": A}, where={"a": 1})
    with pytest.raises(ValueError, match="like the differentiated arguments"):
        chosen({"a": A}, where={"b": True})


def test_argnums_that_do_not_fit():
    for number in (2, -3):
        with pytest.raises(ValueError, match=rf"from -2 to 1, got {number}"):
            chosen(A, B, argnums=number)
    with pytest.raises(ValueError, match="different arguments"):
        chosen(A, B, argnums=(0, -2))
    with pytest.raises(ValueError, match="static_argnums"):
        chosen(A, 1, argnums=1, static_argnums=(1,))
    for value in ("mode", True, square, functools.partial(square)):
        with pytest.raises(TypeError, match=r"args\[1\]=.*float array"):
            chosen(A, value, argnums=1)


@pytest.mark.parametrize(
    ("dtype", "holomorphic", "word"),
    [
        ("float32", False, None),
        ("bfloat16", False, None),
        ("complex64", True, None),
        ("float32", True, "complex"),
        ("complex64", False, "holomorphic=True"),
        ("int32", False, "int32"),
        ("bool", False, "bool"),
        ("int32", True, "int32"),
    ],
)
def test_what_can_be_differentiated(dtype, holomorphic, word):
    for what, hint in (("input", "where="), ("output", "aux")):
        if word is None:
            check_inexact("jacobian", "args[0]['a']", jnp.dtype(dtype), holomorphic, what)
            continue
        with pytest.raises(TypeError, match=rf"^jacobian\(args\[0\]\['a'\].*{word}") as error:
            check_inexact("jacobian", "args[0]['a']", jnp.dtype(dtype), holomorphic, what)
        assert what in str(error.value) and (dtype not in ("int32", "bool") or hint in str(error.value))


def test_a_typed_key_is_no_float():
    with pytest.raises(TypeError, match="typed key"):
        check_inexact("jacobian", "args[0]", jax.random.key(0).dtype, False, "input")


# `where`: a mask or a predicate, decided by what it holds


@jax.tree_util.register_pytree_node_class
class Module:
    """A callable tree, as modules of Equinox are."""

    def __init__(self, w, b, call=None):
        self.w, self.b, self.call = w, b, call

    def __call__(self, x):
        return self.call(self, x)

    def tree_flatten(self):
        return (self.w, self.b), self.call

    @classmethod
    def tree_unflatten(cls, call, children):
        return cls(*children, call)


def affine(module, x):
    return module.w @ x + module.b


def differs(module, leaf):
    return leaf.ndim > module.b


MODEL = Module(jnp.asarray(B), jnp.asarray([1.0]), affine)
POINT = np.float32([2])


@pytest.mark.parametrize(
    "where, kept",
    [
        (Module(True, False, affine), "w"),
        (Module(np.bool_(False), np.bool_(True), affine), "b"),
        (Module(jnp.asarray(True), np.asarray(False), affine), "w"),
        (Module(None, 1, differs), "w"),  # a predicate: it holds a number
        (Module((), (), lambda module, leaf: leaf.ndim == 1), "b"),  # a predicate that holds nothing
        (functools.partial(lambda n, leaf: leaf.ndim == n, 1), "b"),
        (jax.tree_util.Partial(lambda n, leaf: leaf.ndim == n, 2), "w"),
    ],
)
def test_a_mask_may_be_callable(where, kept):
    J = jacobian(lambda module: module(POINT), where=where)(MODEL)
    assert (J.w is None, J.b is None) == (kept != "w", kept != "b")
    if kept == "w":
        assert np.array_equal(J.w[...], np.float32([[[2]]]))
    H = hessian(lambda module: jnp.sum(module(POINT) ** 2), where=where)(MODEL)
    other = {"w": "b", "b": "w"}[kept]
    assert getattr(getattr(H, kept), kept) is not None and getattr(H, other) is None


def test_a_callable_mask_of_another_structure_is_not_called():
    with pytest.raises(ValueError, match="where=.*tree of booleans like"):
        jacobian(lambda module: module(POINT), where=Module(True, (True, False), affine))(MODEL)


def test_changing_a_mask_later_changes_nothing():
    mask, point = {"a": True, "b": False}, {"a": A, "b": A}
    jac = jacobian(lambda p: p["a"] * p["b"], where=mask)
    mask["a"], mask["b"] = False, True
    J = jac(point)
    assert J["b"] is None and np.array_equal(J["a"][...], np.diag(A))
    J = jacobian(lambda p: p["a"] * p["b"], where=mask)(point)
    assert J["a"] is None and np.array_equal(J["b"][...], np.diag(A))
