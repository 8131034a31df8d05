"""Errors: raised at the call, of the promised type, naming the argument and the leaf, saying what to do.

Form: `call(argument=...): expected X, got Y. Likely cause or next step.`
"""

import math
import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.special
from reference import assert_close, assert_helpful, central_differences

import jacobia
from jacobia import hessian, jacobian

X = np.linspace(0.1, 1, 4, dtype=np.float32)
REFUSALS = (TypeError, ValueError, RuntimeError)


class Watched:
    """A function that knows whether it was run, and whether it was differentiated."""

    def __init__(self, body=lambda x, *_: x * 2):
        self.runs, self.derivatives = 0, 0
        probe = jax.custom_jvp(lambda x: x)

        @probe.defjvp
        def _(primals, tangents):
            self.derivatives += 1
            return primals[0], tangents[0]

        self.probe, self.body = probe, body

    def __call__(self, *args, **kwargs):
        self.runs += 1
        return self.body(*jax.tree.map(self.touch, args), **kwargs)

    def touch(self, leaf):
        return self.probe(leaf) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


def test_the_error_types():
    assert issubclass(jacobia.IndependenceError, ValueError)
    assert issubclass(jacobia.BatchMixingError, ValueError)
    assert issubclass(jacobia.MaterializationError, MemoryError)


def test_the_watch_sees_a_derivative():
    f = Watched()
    assert_close(jacobian(f)(X)[1], 2 * np.eye(4)[1])
    assert f.runs and f.derivatives


# The function


@pytest.mark.parametrize("f", [None, 3, "sin", [jnp.sin], np.ones(3)], ids=lambda f: type(f).__name__)
def test_something_that_is_no_function(f):
    with pytest.raises(TypeError) as caught:
        jacobian(f)(X)
    assert_helpful(caught, "jacobian", "callable")


def test_a_function_that_raises_is_let_through():
    class Mine(Exception):
        pass

    def f(x):
        raise Mine("from f")

    with pytest.raises(Mine, match="from f"):
        jacobian(f)(X)
    with pytest.raises(Mine, match="from f"):
        jacobian(f, jit=False)(X)


def test_a_function_that_raises_once_works_afterwards():
    broken = [True]

    def f(x):
        if broken.pop() if broken else False:
            raise KeyError("once")
        return x**2

    with pytest.raises(KeyError, match="once"):
        jacobian(f)(X)
    assert_close(jacobian(f)(X)[...], np.diag(2 * X))


NO_ARRAYS = {
    "None": lambda x: None,
    "a string": lambda x: "text",
    "a set": lambda x: {1, 2},
    "a function": lambda x: jnp.sin,
    "an object": lambda x: object(),
}


@pytest.mark.parametrize("f", NO_ARRAYS.values(), ids=NO_ARRAYS.keys())
def test_a_function_that_returns_no_array(f):
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(f)(X)
    assert_helpful(caught, "jacobian")


def test_a_leaf_of_the_output_that_is_no_array_is_named():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda x: {"good": x, "label": "text"})(X)
    assert_helpful(caught, "label", "str")


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.uint8])
def test_integer_and_boolean_outputs(dtype, lazy):
    def f(x):
        return {"good": x, "count": (x > 0).astype(dtype)}

    with pytest.raises(TypeError) as caught:
        jacobian(f, lazy=lazy)(X)
    assert_helpful(caught, "count", jnp.dtype(dtype).name)


def test_python_control_flow_names_the_two_ways_out():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x: x if x[0] > 0 else -x)(X)
    assert "jax.lax.cond" in str(caught.value) and "jit=False" in str(caught.value)


def test_has_aux_without_a_pair():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda x: x * 2, has_aux=True)(X)
    assert "has_aux" in str(caught.value)


# The inputs; nothing of f runs


BAD_INPUTS = {
    "int": (np.arange(4), "int"),
    "python int": (3, "int"),
    "bool": (np.array([True, False]), "bool"),
    "python bool": (True, "bool"),
    "string": ("text", "str"),
    "callable": (jnp.sin, ""),
}


@pytest.mark.parametrize("bad, word", BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_inputs_that_cannot_be_differentiated(bad, word):
    f = Watched(lambda params: params["weight"] * 2)
    with pytest.raises(TypeError) as caught:
        jacobian(f)({"weight": X, "steps": bad})
    assert f.derivatives == 0
    assert_helpful(caught, "steps", word)


def test_an_input_leaf_is_named_with_its_argument():
    f = Watched(lambda x, model: x)
    with pytest.raises(TypeError) as caught:
        jacobian(f, (0, 1))(X, {"layers": [X, np.arange(3)]})
    assert f.derivatives == 0
    assert_helpful(caught, "layers", "1", "int")
    assert "where" in str(caught.value)


def test_a_typed_prng_key_among_the_differentiated_inputs():
    f = Watched(lambda params: params["weight"])
    with pytest.raises(TypeError) as caught:
        jacobian(f)({"weight": X, "noise": jax.random.key(0)})
    assert f.derivatives == 0
    assert_helpful(caught, "noise", "key")


def test_a_typed_prng_key_among_the_others_passes():
    J = jacobian(lambda x, key: x * jax.random.normal(key, (4,)))(X, jax.random.key(0))
    assert_close(J[...], np.diag(jax.random.normal(jax.random.key(0), (4,))))


@pytest.mark.parametrize("argnums", [1, -2, 5, (0, 1), (-3,)], ids=repr)
def test_argnums_out_of_range(argnums):
    f = Watched()
    with pytest.raises(ValueError) as caught:
        jacobian(f, argnums)(X)
    assert f.runs == 0
    assert_helpful(caught, "argnums")


@pytest.mark.parametrize("argnums", [(0, 0), (0, -2), (1, 0, 1)], ids=repr)
def test_argnums_repeated(argnums):
    f = Watched()
    with pytest.raises(ValueError) as caught:
        jacobian(f, argnums)(X, X)
    assert f.runs == 0
    assert_helpful(caught, "argnums")


@pytest.mark.parametrize("argnums", [0.0, "x", None, (0, "y"), [1.5]], ids=repr)
def test_argnums_of_another_type(argnums):
    f = Watched()
    with pytest.raises(TypeError) as caught:
        jacobian(f, argnums)(X, X)
    assert f.runs == 0
    assert_helpful(caught, "argnums")


def test_no_positional_argument():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda x: x)(x=X)
    assert "argnums" in str(caught.value)


def test_a_static_argument_cannot_be_differentiated():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda x, n: x * n, argnums=1, static_argnums=1)(X, 2.0)
    assert "static_argnums" in str(caught.value)


def test_a_static_argument_must_be_hashable():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda x, n: x * n[0], static_argnums=1)(X, [2.0])
    assert "hash" in str(caught.value)


def test_where_of_another_structure():
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda p: p["a"], where={"b": True})({"a": X})
    assert "where" in str(caught.value)


def test_where_that_leaves_nothing():
    try:
        J = jacobian(lambda p: p["a"] * 2, where=lambda leaf: False)({"a": X})
    except ValueError as error:
        assert "where" in str(error)
    else:
        assert J == {"a": None}


# Mistakes that newcomers make: each says what to write instead


@pytest.mark.parametrize("transform", [jacobian, hessian], ids=["jacobian", "hessian"])
@pytest.mark.parametrize(
    "x", [X, jnp.asarray(X), [1.0, 2.0], (X, X), {"a": X}, 1.0, np.arange(3)], ids=lambda x: type(x).__name__
)
def test_the_input_in_the_place_of_argnums(transform, x):
    with pytest.raises(TypeError) as caught:
        transform(jnp.sum, x)
    assert_helpful(caught, "argnums", f"write {transform.__name__}(f)(x)")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("transform", [jacobian, hessian], ids=["jacobian", "hessian"])
@pytest.mark.parametrize("options", [{}, {"static_argnums": 1}, {"argnums": (0, 1)}], ids=str)
def test_a_call_without_positional_arguments(transform, options):
    for kwargs in ({}, {"x": X}):
        with pytest.raises(ValueError) as caught:
            transform(lambda x, n=1: jnp.sum(x), **options)(**kwargs)
        assert_helpful(caught, "argnums", f"{transform.__name__}(f)(x)", *(f"({k})" for k in kwargs))


def test_an_argument_passed_by_name_is_named():
    with pytest.raises(ValueError) as caught:
        jacobian(lambda x, y: x * y, 1)(X, y=X)
    assert_helpful(caught, "argnums", "1 positional argument;", "(y)", "by position")


MEANT_FOR_A_VIEW = {
    "[0]": lambda j: j[0],
    "[...] by a pair": lambda j: j[1, :],
    ".shape": lambda j: j.shape,
    ".T": lambda j: j.T,
    ".mv": lambda j: j.mv(X),
    ".nonzeros": lambda j: j.nonzeros(),
    ".stats": lambda j: j.stats,
    ".sum": lambda j: j.sum(),
    "len": len,
    "[...]": np.asarray,
    "matmul": lambda j: j @ X,
    "rmatmul": lambda j: X @ j,
    "add": lambda j: j + 1,
    "rsub": lambda j: 1 - j,
    "neg": lambda j: -j,
    "float": float,
    "rows": lambda j: [row for row in j],
}


@pytest.mark.parametrize("transform", [jacobian, hessian], ids=["jacobian", "hessian"])
@pytest.mark.parametrize("what, use", MEANT_FOR_A_VIEW.items(), ids=MEANT_FOR_A_VIEW)
def test_the_function_that_makes_views_used_as_a_view(transform, what, use):
    with pytest.raises((TypeError, AttributeError)) as caught:
        use(transform(jnp.sum))
    assert_helpful(caught, "Call it with the arguments of f", f"write {transform.__name__}(f)(x)")
    if what[0] in ".[":
        assert f"(f)(x){what.split()[0]}." in str(caught.value)


def test_the_function_that_makes_views_is_still_a_function():
    jac = jacobian(jnp.sin)
    assert jac and callable(jac) and not hasattr(jac, "no_such_attribute") and jac == jac
    assert_close(jax.jit(jac)(X)[1], np.diag(np.cos(X))[1])


class Series:
    """What a pandas Series or a torch tensor looks like from outside."""

    def __init__(self, values):
        self.values, self.dtype, self.shape = values, values.dtype, values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)


def some_rows(rows):
    yield from rows


NO_ARRAY = {
    "a Series": (Series(X), "numpy.asarray(args[0])"),
    "a sparse array": (scipy.sparse.csr_array(np.eye(4)), ".toarray()"),
    "an object array": (np.array([1, "a"], object), "dtype object"),
    "dates": (np.array(["2020"], "datetime64[Y]"), "dtype datetime64[Y]"),
    "words": (np.array(["a"]), "to numbers"),
    "a set": ({1.0, 2.0}, "a list or tuple"),
    "a range": (range(3), "a list or tuple"),
    "a shape": (jax.ShapeDtypeStruct((4,), jnp.float32), "explain"),
    "a view": (jacobian(jnp.sin)(X), "J[...]"),
}


@pytest.mark.parametrize("x, hint", NO_ARRAY.values(), ids=NO_ARRAY)
def test_an_input_that_is_no_array(x, hint):
    f = Watched()
    with pytest.raises(TypeError) as caught:
        jacobian(f)(x)
    assert f.runs == 0
    assert_helpful(caught, "args[0]", hint)


def test_a_series_passed_by_name_or_in_a_tree():
    for call, path in (
        (lambda: jacobian(lambda x, w: x * w)(X, w=Series(X)), "numpy.asarray(w)"),
        (lambda: hessian(lambda p: p["a"])({"a": Series(X)}), "numpy.asarray(args[0]['a'])"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert_helpful(caught, path)


STATIC = {
    "a slice": lambda x, n: x[:n],
    "zeros": lambda x, n: jnp.sum(x) * jnp.zeros(n),
    "range": lambda x, n: sum(x[k] for k in range(n)),
    "reshape": lambda x, n: x.reshape(n, -1),
    "arange": lambda x, n: jnp.sum(x) * jnp.arange(n),
    "if": lambda x, n: x if n > 1 else -x,
    "a list": lambda x, n: [x, -x, 2 * x][n],
    "a dictionary": lambda x, n: {2: x}[n] * 2,
    "int": lambda x, n: x * int(n),
    "split": lambda x, n: jnp.split(x, n)[0],
    "format": lambda x, n: x * len(f"{n:03d}"),
    "bit_length": lambda x, n: x * n.bit_length(),
    "in a jit": lambda x, n: jax.jit(lambda x: x[:n])(x),
}


@pytest.mark.parametrize("f", STATIC.values(), ids=STATIC)
def test_an_int_that_must_be_static(f):
    with pytest.raises(TypeError) as caught:
        jacobian(f)(X, 2)
    assert_helpful(caught, "jacobian(n=...)", "Set static_argnums=1.")
    assert "leaves[" not in str(caught.value) and ".py" not in str(caught.value)
    with pytest.raises(TypeError) as caught:
        hessian(lambda x, n: jnp.sum(jnp.asarray(f(x, n))))(X, n=2)
    assert_helpful(caught, "hessian(n=...)", "Set static_argnames='n'.")
    assert_close(jacobian(f, static_argnums=1)(X, 2)[...], jax.jacrev(lambda x: f(x, 2))(X))


def test_static_values_are_told_apart_from_others():
    def f(x, scale, n, flag, *, m, shift):
        return (x[:n] if flag > 0 else x[:1]).repeat(m, total_repeat_length=2 * m) * scale + shift

    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, scale, n, *, shift: x[:n] * scale + shift)(X, 2.0, 2, shift=1)
    assert_helpful(caught, "jacobian(n=...)", "static_argnums=2.")
    with pytest.raises(TypeError) as caught:
        jacobian(f)(X, 2.0, 2, 0.5, m=2, shift=1)
    assert_helpful(caught, "jacobian(n, flag, m=...)", "static_argnums=(2, 3) and static_argnames='m'")


def test_static_values_in_trees_and_arrays():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, c: x[: c["n"]])(X, {"n": 2})
    assert_helpful(caught, "c['n']", "Close over it", "jacobian(lambda x: f(x, ...))(x)")
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, mask: x[mask])(X, X > 0.5)
    assert_helpful(caught, "mask", "Close over it")
    with pytest.raises(TypeError) as caught:
        jacobian(lambda *args: args[0][: args[1]])(X, 2)
    assert_helpful(caught, "args[1]", "static_argnums=1")


def test_static_arguments_by_number_or_by_name_as_in_jit():
    def f(x, n=3):
        return x[:n]

    for options in ({"static_argnums": 1}, {"static_argnames": "n"}, {"static_argnums": -1}):
        assert jacobian(f, **options)(X, 2).shape == (2, 4)
    for options in ({"static_argnums": 1}, {"static_argnames": "n"}):
        assert jacobian(f, **options)(X, n=2).shape == (2, 4)
        assert jacobian(f, **options)(X).shape == (3, 4)
        assert jax.jit(f, **options)(X, n=2).shape == (2,)


@pytest.mark.parametrize(
    "error", [TypeError("mine"), IndexError("mine"), AttributeError("mine"), KeyError("mine")], ids=repr
)
def test_errors_of_f_stay_its_own_where_an_argument_could_be_static(error):
    def f(x, n):
        raise error

    for args in ((X, 2), ([1.0, 2.0], 2)):
        with pytest.raises(type(error), match="mine"):
            jacobian(f)(*args)


def test_a_list_where_f_wants_an_array():
    for call in (
        lambda: jacobian(jnp.sin)([1.0, 2.0]),
        lambda: hessian(lambda x: x @ x)([1.0, 2.0]),
        lambda: jacobian(lambda m: jnp.eye(2) @ m)([[1.0, 2.0], [3.0, 4.0]]),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert_helpful(caught, "args[0]", "list", "jax.numpy.asarray")
    assert jacobian(lambda x: x[0] * x[1])([1.0, 2.0])[0].shape == ()


VALUES = {
    "np.sin": (lambda x: np.sin(x), "jnp.sin"),
    "scipy": (lambda x: scipy.special.erf(x), "jax.scipy"),
    "np.asarray": (lambda x: jnp.asarray(np.asarray(x)), "jax.numpy"),
    "float": (lambda x: x * float(x[0]), "x.astype(float)"),
    "math": (lambda x: x * math.sin(x[0]), "jnp.sin for math.sin"),
}
HIDDEN = {
    "int": (lambda x: x[int(x[0])], "jax.numpy"),
    "item": (lambda x: x * x[0].item(), "jax.numpy"),
    "tolist": (lambda x: x * x.tolist()[0], "jax.numpy"),
    "nonzero": (lambda x: x[jnp.nonzero(x)], "sizes"),
    "a mask": (lambda x: x[x > 0], "jax.numpy.where(mask, x, 0)"),
}


@pytest.mark.parametrize("f, hint", [*VALUES.values(), *HIDDEN.values()], ids=[*VALUES, *HIDDEN])
def test_values_of_a_traced_array(f, hint):
    for transform in (jacobian, hessian):
        with pytest.raises(TypeError) as caught:
            transform(f)(X)
        assert_helpful(caught, "f=<lambda>", hint)
        assert "jit=False" not in str(caught.value)


@pytest.mark.parametrize("f, hint", VALUES.values(), ids=VALUES)
def test_what_running_by_python_does_not_help(f, hint):
    with pytest.raises(TypeError) as caught:
        jacobian(f, jit=False)(X)[0]
    assert_helpful(caught, hint)
    assert "jit=False" not in str(caught.value)


CONTROL_FLOW = {
    "if": lambda x: x if x[0] > 0 else -x,
    "while": lambda x: (lambda: [x for _ in iter(lambda: bool(x[0] > 0), True)] or x)(),
    "and": lambda x: x * (x[0] > 0 and x[1] > 0),
    "not": lambda x: x * (not x[0] > 0),
    "max": lambda x: max(x[0], x[1]) * x,
}


@pytest.mark.parametrize("f", CONTROL_FLOW.values(), ids=CONTROL_FLOW)
def test_control_flow_on_values(f):
    for transform in (jacobian, hessian):
        with pytest.raises(TypeError) as caught:
            transform(f)(X)
        assert_helpful(caught, "jax.lax.cond", "set jit=False")


def test_an_option_in_the_second_call():
    for name, value in (("mode", "fwd"), ("argnums", 0), ("chunk_size", 4)):
        with pytest.raises(TypeError) as caught:
            jacobian(lambda x: x * 2)(X, **{name: value})
        assert_helpful(caught, f"Write jacobian(f, {name}=...)(x)")
    assert jacobian(lambda x, mode: x * 2)(X, mode="mine").shape == (4, 4)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("fwdd", "fwd"),
        ("forward", "fwd"),
        ("reverse", "rev"),
        ("AUTO", "auto"),
        ("jacrev", "rev"),
        ("vjp", "rev"),
        ("acumulate", "accumulate"),
    ],
)
def test_a_mode_that_is_nearly_one(given, meant):
    with pytest.raises(ValueError) as caught:
        jacobian(jnp.sin, mode=given)
    assert_helpful(caught, "mode", f"Did you mean {meant!r}?")


def test_names_in_the_place_of_numbers():
    for options, hint in (
        ({"argnums": "x"}, "numbered from 0, not named"),
        ({"argnums": (0, "x")}, "not named"),
        ({"static_argnums": "n"}, "static_argnames"),
    ):
        with pytest.raises(TypeError) as caught:
            jacobian(jnp.sin, **options)
        assert_helpful(caught, hint)
    assert jacobian(lambda x, y: x * y, range(2))(X, X)[1].shape == (4, 4)


# Views as trees: errors name the guard and say J[...]


def a_view():
    return jacobian(lambda x: jnp.sin(x) * x[0])(X)


AS_A_TREE = {
    "vmap": lambda J: jax.vmap(lambda row: row * 2)(J),
    "vmap of a sum": lambda J: jax.vmap(jnp.sum)(J),
    "grad": lambda J: jax.grad(lambda J: J[...].sum())(J),
    "value_and_grad": lambda J: jax.value_and_grad(lambda J: J.sum())(J),
    "jacrev": lambda J: jax.jacrev(lambda J: J[...])(J),
    "jvp": lambda J: jax.jvp(lambda J: J[...], (J,), (J,)),
    "map of a sum": lambda J: jax.tree.map(lambda a: a + 1, J),
    "map of two": lambda J: jax.tree.map(jnp.add, J, J),
    "map of a product": lambda J: jax.tree.map(lambda a: 0.5 * a, J),
    "map of jnp.sum": lambda J: jax.tree.map(jnp.sum, J),
    "map of a norm": lambda J: jax.tree.map(jnp.linalg.norm, J),
    "map of a[0]": lambda J: jax.tree.map(lambda a: a[0], J),
    "global norm": lambda J: sum(jnp.sum(jnp.square(a)) for a in jax.tree.leaves(J)),
    "norm by abs": lambda J: sum(jnp.sum(jnp.abs(a) ** 2) for a in jax.tree.leaves(J)),
    "ravel_pytree": jax.flatten_util.ravel_pytree,
    "ravel_pytree of a tree": lambda J: jax.flatten_util.ravel_pytree({"J": J, "x": X}),
    "into a transform": lambda J: jacobian(lambda J: J.sum())(J),
}


@pytest.mark.parametrize("use", AS_A_TREE.values(), ids=AS_A_TREE)
@pytest.mark.parametrize("kind", ["Jacobian", "Hessian", "batched", "tree"])
def test_a_view_taken_for_a_tree_of_numbers(use, kind):
    J = {
        "Jacobian": a_view,
        "Hessian": lambda: hessian(lambda x: jnp.sum(x**3))(X),
        "batched": lambda: jacobian(jax.vmap(lambda x: x**2), batch_axis=1)(np.ones((4, 3), np.float32)),
        "tree": lambda: jacobian(lambda p: p["a"] * p["b"])({"a": X, "b": X}),
    }[kind]()
    with pytest.raises(Exception) as caught:
        use(J)
    assert "J[...]" in str(caught.value), caught.value
    assert "key<fry>" not in str(caught.value)


def test_a_deleted_guard_is_made_anew():
    J = a_view()
    expected = np.asarray(J[1])
    *_, guard = jax.tree.leaves(J)
    guard.delete()
    assert_close(jax.jit(lambda J: J)(a_view())[1], expected)
    K = jax.jit(lambda J: J)(J)
    jax.tree.leaves(K)[-1].delete()
    assert_close(K[1], expected)
    assert_close(jax.jit(lambda J: J[1])(K), expected)
    V = jax.vmap(lambda x: a_view())(jnp.ones(3))
    assert_close(jax.jit(lambda V: V)(V)[1][1], expected)


def test_the_guard_costs_nothing_and_goes_everywhere():
    J = a_view()
    *_, guard = jax.tree.leaves(J)
    assert guard.nbytes <= 16 and guard.dtype.name == "key<the guard of a lazy view: write J[...]>"
    expected = np.asarray(J[1])
    assert_close(jax.jit(lambda J: J)(J)[1], expected)
    assert_close(jax.lax.scan(lambda J, _: (J, J[1]), J, None, length=2)[1], np.stack([expected] * 2))
    assert_close(jax.device_put(J, jax.devices()[0])[1], expected)
    with pytest.raises(TypeError, match="guard of a lazy view"):
        jax.random.normal(guard[0, 0])


# Complex numbers


@pytest.mark.parametrize(
    "f, x, leaf",
    [
        (lambda p: p["z"] * 2, {"z": np.ones(2, np.complex64)}, "z"),
        (lambda p: {"w": p["z"] * 1j}, {"z": np.ones(2, np.float32)}, "w"),
    ],
    ids=["input", "output"],
)
def test_complex_needs_holomorphic(f, x, leaf):
    with pytest.raises(TypeError) as caught:
        jacobian(f)(x)
    assert_helpful(caught, leaf, "complex64", "holomorphic")


def test_holomorphic_needs_complex():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x: x * 2, holomorphic=True)(X)
    assert_helpful(caught, "holomorphic", "float32")
    with pytest.raises(TypeError) as caught:
        jacobian(lambda z: jnp.real(z), holomorphic=True)(np.ones(2, np.complex64))
    assert "holomorphic" in str(caught.value)


NOT_HOLOMORPHIC = {
    "conj": lambda z: jnp.conj(z) * 2,
    "real": lambda z: jnp.real(z) + 0j,
    "imag": lambda z: jnp.imag(z) * 1j,
    "abs": lambda z: jnp.abs(z) * z,
    "conj inside": lambda z: jax.jit(lambda v: jnp.sin(v) * jnp.conj(v))(z),
    "abs squared": lambda z: (z * jnp.conj(z)).astype(z.dtype),
    "conj in a scan": lambda z: jax.lax.scan(lambda c, _: (jnp.conj(c), None), z, None, length=3)[0],
}


@pytest.mark.parametrize("f", NOT_HOLOMORPHIC.values(), ids=NOT_HOLOMORPHIC.keys())
def test_functions_that_are_not_holomorphic(f):
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(f, holomorphic=True)(np.array([1 + 2j, 3 - 1j], np.complex64))
    assert "holomorphic" in str(caught.value)


def test_conj_away_from_x_is_no_matter():
    w = np.array([1 + 2j, 3 - 1j], np.complex64)
    J = jacobian(lambda z: z * jnp.conj(w) * jnp.abs(w), holomorphic=True)(w)
    assert_close(J[0], np.diag(np.conj(w) * np.abs(w))[0])
    assert_close(J[:, 1], np.diag(np.conj(w) * np.abs(w))[:, 1])


# Options


def test_their_defaults_pass():
    J = jacobian(jnp.sin, batch_axis=None, sparsity="auto", mesh=None)(X)
    assert_close(J[...], np.diag(np.cos(X)))


BAD_OPTIONS = {
    "mode word": ({"mode": "backward"}, ValueError),
    "mode number": ({"mode": 1}, (TypeError, ValueError)),
    "chunk 0": ({"chunk_size": 0}, ValueError),
    "chunk -1": ({"chunk_size": -1}, ValueError),
    "chunk 2.5": ({"chunk_size": 2.5}, (TypeError, ValueError)),
    "chunk x": ({"chunk_size": "x"}, (TypeError, ValueError)),
    "chunk None": ({"chunk_size": None}, (TypeError, ValueError)),
    "memory -1": ({"memory_limit": -1}, ValueError),
    "memory word": ({"memory_limit": "1 GB"}, TypeError),
    "where": ({"where": 3}, TypeError),
    "static_argnums": ({"static_argnums": 9}, ValueError),
    "static_argnames": ({"static_argnames": 3}, TypeError),
}


@pytest.mark.parametrize("options, error", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_values_of_options(options, error):
    f = Watched()
    with pytest.raises(error) as caught:
        jacobian(f, **options)(X)
    assert f.derivatives == 0
    assert_helpful(caught, *options)


def test_an_unknown_option():
    with pytest.raises(TypeError, match="chunks"):
        jacobian(jnp.sin, chunks=3)


def test_a_key_word_that_f_does_not_take():
    with pytest.raises(TypeError, match="scale"):
        jacobian(lambda x: x)(X, scale=2.0)


def test_a_dense_result_beyond_the_memory_limit():
    J = jacobian(lambda x: jnp.outer(x, x).reshape(-1), memory_limit=1_000_000)(np.ones(100, np.float32))
    assert J.shape == (10_000, 100)
    with pytest.raises(jacobia.MaterializationError) as caught:
        J[...]
    message = str(caught.value)
    assert re.search(r"4(\.0+)?\s?MB|3\.8\d?\s?MiB|4[,_ ]?000[,_ ]?000", message), message
    assert "memory_limit" in message
    assert (J.stats.pullbacks, J.stats.pushforwards) == (0, 0)
    with pytest.raises(MemoryError):
        np.asarray(J)
    expected = np.zeros(100, np.float32)
    expected[0] = 2
    assert_close(J[0], expected)


DENSE = {
    "J[...]": lambda J: J[...],
    "J.T[...]": lambda J: J.T[...],
    "asarray": np.asarray,
    "materialize": lambda J: jacobia.materialize({"a": J, "b": J}),
    "rows": lambda J: J[:500_000],
    "columns": lambda J: J[:, :500_000],
    "listed rows": lambda J: J[list(range(0, 200_000, 2))],
    "masked rows": lambda J: J[np.arange(10**6) % 100 == 0],
}


@pytest.mark.parametrize("read", DENSE.values(), ids=DENSE)
def test_a_million_variables_are_not_made_dense(read):
    J = jacobian(jnp.sin, memory_limit=10**9)(np.ones(10**6, np.float32))
    with pytest.raises(jacobia.MaterializationError, match=r"under memory_limit=1.0 GB, got .* [GT]B.* J.mv and J.vm"):
        read(J)
    assert J.stats.kernel_calls == 0


@pytest.mark.parametrize("key", [0, slice(1, 4), [5, 2]], ids=["row", "rows", "listed"])
def test_rows_of_a_million_variables(key):
    rows = jacobian(jnp.sin, memory_limit=10**9)(np.zeros(10**6, np.float32))[key]
    assert rows.shape[-1] == 10**6 and jnp.sum(rows) == np.size(np.arange(10)[key])


def test_nonzeros_of_a_million_variables():
    J = jacobian(jnp.sin, memory_limit=10**9)(np.zeros(10**6, np.float32))
    assert J.nonzeros()[0].shape == (10**6,) and J.to_scipy().nnz == 10**6


@pytest.mark.parametrize("mode, name", [("fwd", "custom_vjp"), ("rev", "while_loop")])
def test_a_mode_that_the_program_does_not_allow(mode, name):
    def while_loop(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]

    @jax.custom_vjp
    def custom_vjp(x):
        return x**2

    custom_vjp.defvjp(lambda x: (x**2, x), lambda x, u: (2 * x * u,))
    f = {"custom_vjp": custom_vjp, "while_loop": while_loop}[name]
    reference = central_differences(f, X)
    # Refused, or computed in the other direction, but never wrong numbers.
    try:
        forced = np.asarray(jacobian(f, mode=mode)(X))
    except (TypeError, ValueError):
        forced = None
    assert forced is None or np.allclose(forced, reference, rtol=1e-4)
    J = jacobian(f)(X)
    assert_close(J[1], reference[1])
    assert_close(J[:, 1], reference[:, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda J: J.mv(np.ones(3, np.float32)),
        lambda J: J.vm(np.ones(3, np.float32)),
        lambda J: J.mv("text"),
    ],
    ids=["mv", "vm", "text"],
)
def test_products_with_something_that_does_not_fit(call):
    J = jacobian(jnp.sin)(X)
    with pytest.raises((TypeError, ValueError)):
        call(J)
    assert J.stats.pullbacks == J.stats.pushforwards == 0


# Unusual values that are no errors


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    x = jnp.asarray(X, dtype)
    J = jacobian(lambda x: jnp.sin(x) * x[0])(x)
    expected = central_differences(lambda x: jnp.sin(x) * x[0], np.asarray(x, np.float32))
    assert J.dtype == dtype and J[0].dtype == dtype and J[:, 0].dtype == dtype and J[...].dtype == dtype
    for key in (0, (slice(None), 0), ...):
        assert_close(J[key], expected[key])


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_mixed_dtypes_are_never_narrowed(mode):
    def f(p):
        return {"half": p["half"] * 2, "wide": p["half"].astype(jnp.float32) * 1e5 * p["wide"]}

    p = {"half": np.ones(2, np.float16), "wide": np.ones(2, np.float32)}
    J = jacobian(f, mode=mode)(p)
    dtypes = {out: {name: view.dtype for name, view in row.items()} for out, row in J.items()}
    assert dtypes["half"] == {"half": jnp.float16, "wide": jnp.float32}
    assert dtypes["wide"] == {"half": jnp.float32, "wide": jnp.float32}
    # 1e5 is beyond float16: a pullback in the dtype of the input gives inf.
    for key in (0, (slice(None), 0), ...):
        block = J["wide"]["half"][key]
        assert block.dtype == jnp.float32
        assert_close(block, (1e5 * np.eye(2))[key], tolerance=1e-2)


def test_float64_output_of_a_float32_input(x64):
    J = jacobian(lambda x: x.astype(jnp.float64) * 1e200)(X)
    for key in (0, (slice(None), 0), ...):
        assert J[key].dtype == jnp.float64
        assert_close(J[key], (1e200 * np.eye(4))[key])


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
@pytest.mark.parametrize("key", [0, 2, [3, 0], (slice(None), 1), (slice(None), 2), ...], ids=repr)
def test_nan_and_infinity_stay_in_their_rows_and_columns(mode, key):
    x = np.array([np.nan, 1.0, np.inf], np.float32)
    J = jacobian(lambda x: jnp.concatenate([x**2, 3 * x[1:2]]), mode=mode)(x)
    expected = np.array([[np.nan, 0, 0], [0, 2, 0], [0, 0, np.inf], [0, 3, 0]], np.float32)[key]
    actual = np.asarray(J[key])
    # Beside a point that is not finite a zero seed gives 0, or 0 * inf = NaN, as in jax.jacrev.
    finite = np.isfinite(x)
    is_free = ~(finite[[0, 1, 2, 1]][:, None] & finite)[key] & (expected == 0) & np.isnan(actual)
    np.testing.assert_array_equal(np.where(is_free, expected, actual), expected)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (1, 1)])
def test_small_shapes(shape):
    x = np.ones(shape, np.float32)
    J = jacobian(lambda x: x * 3)(x)
    expected = 3 * np.eye(x.size).reshape(shape + shape)
    assert J.shape == expected.shape
    assert_close(J[...], expected)
    assert_close(J.matrix[...], expected.reshape(x.size, x.size))


def test_python_floats_and_lists_of_them():
    J = jacobian(lambda p: p[0] * p[1])([2.0, 3.0])
    assert [float(view) for view in J] == [3.0, 2.0]


def test_an_empty_tree_of_inputs():
    try:
        J = jacobian(lambda p, x: x, 0)({}, X)
    except (TypeError, ValueError) as error:
        assert "argnums" in str(error) or "args" in str(error)
    else:
        assert J == {}
