"""Mistakes of newcomers: each message names the argument, what was expected and given, and what to write instead."""

import dataclasses
import inspect
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from reference import assert_helpful

import jacobia
from jacobia import hessian, jacobian

X = np.linspace(0.1, 1, 4, dtype=np.float32)
TRANSFORMS = (
    "jacobian hessian laplacian divergence value_and_jacobian value_and_hessian value_and_laplacian ggn "
    "empirical_fisher"
).split()


def f(x):
    return jnp.tanh(x) * x[0]


def g(x):
    return jnp.sum(x**3)


def transform(name):
    """A transform of one function, and how it is written."""
    made = getattr(jacobia, name)
    if name in ("ggn", "empirical_fisher"):
        return lambda f, *args, **kwargs: made(jnp.sum, f, *args, **kwargs), f"{name}(loss, f)"
    return made, f"{name}(f)"


# The input, passed where the function is


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_input_beside_the_function(name):
    made, written = transform(name)
    for call, instead in (
        (lambda: made(g, X), f"write {written}(x)."),
        (lambda: made(g, X, X), f"write {written}(x, y)."),
        (lambda: made(g, 0, X, X), f"write {written}(x, y, ...)."),
        (lambda: made(g, x=X), f"write {written}(x)."),
        (lambda: made(g, X, argnums=0), ", argnums=...)(x)."),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert_helpful(caught, f"{name}(", instead)


@pytest.mark.parametrize("name", [*TRANSFORMS, "sparsity_pattern"])
def test_the_result_in_the_place_of_the_function(name):
    made, written = transform(name)
    args = (X,) if name == "sparsity_pattern" else ()
    for result in (f(X), X, jacobian(f)(X)):
        with pytest.raises(TypeError) as caught:
            made(result, *args)
        instead = f"{name}(f, x)" if name == "sparsity_pattern" else f"{written}(x)"
        assert_helpful(caught, f"{name}(f=...)", "Pass the function, not its result", f"write {instead}.")
    with pytest.raises(TypeError) as caught:
        made([f, g], *args)
    assert_helpful(caught, "Pass one function, which may return a tree.")


def test_no_function_and_no_arguments():
    with pytest.raises(TypeError) as caught:
        jacobian()
    assert_helpful(caught, "jacobian(f=...)", "Write jacobian(f)(x).")
    with pytest.raises(ValueError) as caught:
        jacobia.sparsity_pattern(f)
    assert_helpful(caught, "Write sparsity_pattern(f, x)", "jax.ShapeDtypeStruct")


MISSPELLED = {
    "argnum": "argnums",
    "wrt": "argnums",
    "batch_axes": "batch_axis",
    "strategy": "mode",
    "chunks": "chunk_size",
    "hasaux": "has_aux",
    "memory_limits": "memory_limit",
}


@pytest.mark.parametrize("option, meant", MISSPELLED.items(), ids=MISSPELLED)
@pytest.mark.parametrize("name", ["jacobian", "hessian", "value_and_jacobian", "ggn"])
def test_an_option_that_is_nearly_one(name, option, meant):
    with pytest.raises(TypeError) as caught:
        transform(name)[0](g, **{option: 0})
    assert_helpful(caught, f"{name}({option}=...)", f"Did you mean {meant}?")


def test_options_that_others_have():
    for name, option, hint in (
        ("laplacian", "batch_axes", "Did you mean batch_axis?"),
        ("divergence", "argnum", "Did you mean argnums?"),
        ("laplacian", "lazy", "Leave it out, which jacobian and hessian alone have."),
        ("laplacian", "targets", "write laplacian(f)(x)."),
        ("jacobian", "targets", "write jacobian(f)(x)."),
        ("jacobian", "create_graph", "Leave it out: results can be differentiated"),
        ("hessian", "in_axes", "Write jax.vmap(hessian(f), in_axes=...), or batch_axis=."),
        ("jacobian", "vectorize", "Leave it out: rows and columns are always vectorized."),
    ):
        with pytest.raises(TypeError) as caught:
            transform(name)[0](g, **{option: 0})
        assert_helpful(caught, f"{name}({option}=...)", hint)


def test_a_transform_shows_the_signature_that_is_written():
    assert list(inspect.signature(jacobian).parameters)[:3] == ["f", "argnums", "has_aux"]
    assert jacobian.__name__ == "jacobian" and jacobian.__doc__.startswith("The Jacobian of `f`")


# The function that makes views, passed where a view is


TAKEN_FOR_A_RESULT = {
    "[0]": lambda j: j[0],
    "[...]": lambda j: j[:, 0],
    ".shape": lambda j: j.shape,
    "two": lambda j: [*j],
    "len": len,
    "asarray": np.asarray,
    "a sum": lambda j: j + 1,
    "a comparison": lambda j: j > 0,
    "a quotient": lambda j: j // 2,
}


@pytest.mark.parametrize("use", TAKEN_FOR_A_RESULT.values(), ids=TAKEN_FOR_A_RESULT)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_function_taken_for_its_result(name, use):
    made, written = transform(name)
    with pytest.raises((TypeError, AttributeError)) as caught:
        use(made(g))
    assert_helpful(caught, written, "Call it with the arguments of f first", f"{written}(x)")


@pytest.mark.parametrize("attribute", ["numpy", "toarray", "mv", "no_such_thing"])
def test_attributes_of_views_on_the_function(attribute):
    with pytest.raises(AttributeError) as caught:
        getattr(jacobian(f), attribute)
    assert_helpful(caught, f"jacobian(f).{attribute}", "jacobian(f)(x)")


TAKE_VIEWS = {
    "materialize": jacobia.materialize,
    "operator": jacobia.operator,
    "estimate_trace": lambda j: jacobia.estimate_trace(j, jax.random.key(0)),
    "estimate_diagonal": lambda j: jacobia.estimate_diagonal(j, jax.random.key(0)),
}


@pytest.mark.parametrize("use", TAKE_VIEWS.values(), ids=TAKE_VIEWS)
def test_what_takes_views_says_to_call_it_first(use):
    for made, written in ((jacobian(f), "jacobian(f)(x)"), (hessian(g), "hessian(f)(x)")):
        with pytest.raises(TypeError) as caught:
            use(made)
        assert_helpful(caught, f"write {written}")


def test_a_transform_is_still_a_function():
    for name in TRANSFORMS:
        made = transform(name)[0](g)
        assert made and callable(made) and not hasattr(made, "no_such_attribute") and made == made


# Options


BAD_VALUES = [
    ({"memory_limit": "1GB"}, "Write 4 * 10**9 for 4 GB"),
    ({"memory_limit": 1e9}, "Write 1000000000."),
    ({"chunk_size": 8.0}, "Write 8."),
    ({"has_aux": None}, "Write has_aux=True or has_aux=False."),
    ({"lazy": np.bool_(False)}, "got np.False_. Write lazy=True"),
    ({"sparsity": np.eye(4)}, "Write sparsity=Pattern.from_dense(...)"),
    ({"sparsity": None}, "leave it out for 'auto'"),
    ({"argnums": X}, "got ndarray of shape (4,)"),
    ({"argnums": jnp.asarray(X)}, "got Array of shape (4,)"),
]


@pytest.mark.parametrize("options, hint", BAD_VALUES, ids=str)
def test_values_of_options(options, hint):
    with pytest.raises(TypeError) as caught:
        jacobian(f, **options)
    assert_helpful(caught, f"jacobian({next(iter(options))}=...)", hint)


# The arguments of f


@dataclasses.dataclass
class Params:
    w: np.ndarray


INPUTS = {
    "an int": (3, "jacobian(args[0])", "Write jax.numpy.asarray(args[0], float)."),
    "ints": (np.arange(3), "jacobian(args[0])", "Write jax.numpy.asarray(args[0], float)."),
    "flags": (X > 0.5, "jacobian(args[0])", "Write jax.numpy.asarray(args[0], float)."),
    "a list of ints": (
        [1, 2, 3],
        "jacobian(args[0][0])",
        "A list is a tree of numbers to JAX: write jax.numpy.asarray(",
    ),
    "a shape": (
        X.shape,
        "jacobian(args[0][0])",
        "A tuple is a tree of numbers to JAX: write jax.numpy.asarray(args[0]",
    ),
    "a tuple": ((1.0, 2.0), "jacobian(args[0]=...)", "got a tuple, which is a tree of numbers to JAX"),
    "None": (None, "jacobian(args[0]=...)", "Pass an array, or number another argument in argnums."),
    "a string": ("text", "jacobian(args[0]=...)", "Pass an array, or number another argument in argnums."),
    "a function": (f, "jacobian(args[0]=...)", "Pass an array, or number another argument in argnums."),
    "a leaf": ({"w": X, "n": 3}, "jacobian(args[0]['n'])", "Convert it to float, or leave it out with where=."),
    "a name": ({"w": X, "n": "relu"}, "jacobian(args[0]['n']=...)", "Leave it out with where="),
    "objects": (np.array([1.0, 2.0], object), "jacobian(args[0]=...)", "args[0].astype(float)"),
    "a range": (range(3), "jacobian(args[0]=...)", "Write jax.numpy.asarray(list(args[0]))"),
    "a dataclass": (Params(X), "jacobian(args[0]=...)", "Write jax.tree_util.register_dataclass(Params)"),
    "a sparse array": (BCOO.fromdense(jnp.eye(2)), "jacobian(args[0]", "Pass args[0].data alone"),
}


@pytest.mark.parametrize("x, argument, hint", INPUTS.values(), ids=INPUTS)
def test_an_input_that_cannot_be_differentiated(x, argument, hint):
    with pytest.raises(TypeError) as caught:
        jacobian(jnp.sin)(x)
    assert_helpful(caught, argument, hint)


def test_lists_of_other_things_are_no_lists_of_ints():
    for x, hint in (([1j, 2j], "holomorphic=True"), ([jax.random.key(0)], "leave a key in a tree out with where=")):
        with pytest.raises(TypeError) as caught:
            jacobian(lambda x: x[0])(x)
        assert_helpful(caught, "args[0][0]", hint)
        assert "float)" not in str(caught.value)


@pytest.mark.parametrize("kind", ["Series", "DataFrame"])
def test_pandas(kind):
    pandas = pytest.importorskip("pandas")
    x = {"Series": pandas.Series(X), "DataFrame": pandas.DataFrame({"a": X})}[kind]
    for call, path in (
        (lambda: jacobian(f)(x), "args[0]"),
        (lambda: hessian(g)({"a": x}), "args[0]['a']"),
        (lambda: jacobian(lambda a, w: a * w)(X, w=x), "w"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert_helpful(caught, f"({path}=...)", kind, f"Write numpy.asarray({path}).")
    with pytest.raises(TypeError) as caught:
        jacobian(f, x)
    assert_helpful(caught, "write jacobian(f)(x).")


def test_static_values_in_tuples_are_whole_arguments():
    for body, value in ((lambda x, s: x.reshape(s), (2, 2)), (lambda x, s: x[s[0] : s[1]], (0, 2))):
        with pytest.raises(TypeError) as caught:
            jacobian(body)(X, value)
        assert_helpful(caught, "jacobian(s=...)", "Set static_argnums=1.")
        with pytest.raises(TypeError) as caught:
            jacobian(body)(X, s=value)
        assert_helpful(caught, "jacobian(s=...)", "Set static_argnames='s'.")
        assert jacobian(body, static_argnums=1)(X, value).shape[-1] == 4


def test_a_whole_float_in_the_place_of_an_int():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, n: x[:n])(X, 2.0)
    assert_helpful(caught, "jacobian(n=...)", "Write 2 for 2.0. Set static_argnums=1.")


def test_an_array_in_the_place_of_an_int():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, n: x[:n])(X, jnp.arange(3)[2])
    assert_helpful(caught, "jacobian(n=...)", "Write int(n). Set static_argnums=1.")


def test_a_list_named_static():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x, n: x[: n[0]], static_argnums=1)(X, [2])
    assert_helpful(caught, "args[1]", "hashable", "Write tuple(args[1]).")


def test_sizes_that_depend_on_values():
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x: jnp.unique(x))(X)
    assert_helpful(caught, "jnp.unique(x, size=n)")


OUTPUTS = {
    "a function": (lambda x: jnp.sin, "output", "Call it in f."),
    "a method": (lambda x: {"a": x.sum}, "output['a']", "Call it in f."),
    "a range": (lambda x: range(3), "output", "Return jax.numpy.stack(list(...)) of it."),
    "a sparse array": (lambda x: scipy.sparse.eye_array(3), "output", "Return its .data, or a dense array."),
    "words": (
        lambda x: np.array(["a"]),
        "output",
        "and dtype <U1. Leave it out of what f returns: aux too holds arrays alone",
    ),
    "a transform": (lambda x: jacobian(g), "jacobian(f)", "write jacobian(f)(x)."),
}


@pytest.mark.parametrize("body, path, hint", OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_that_is_no_array(body, path, hint):
    for made in (jacobian, hessian):
        with pytest.raises(TypeError) as caught:
            made(body)(X)
        assert_helpful(caught, path, hint)


def test_has_aux_without_a_pair_names_what_came():
    for body, got in ((f, "got Array of shape (4,)."), (lambda x: (x, x, x), "got a tuple of 3.")):
        with pytest.raises(TypeError) as caught:
            jacobian(body, has_aux=True)(X)
        assert_helpful(caught, "has_aux=True", got)


@pytest.mark.parametrize(
    "shape, axis, hint",
    [
        ((3, 4), 2, "write batch_axis=0 or 1."),
        ((3,), -2, "write batch_axis=0."),
        ((3, 4, 5), 3, "write batch_axis=0 to 2."),
        ((), 0, "Leave batch_axis out."),
    ],
    ids=str,
)
def test_a_batch_axis_that_no_input_has(shape, axis, hint):
    with pytest.raises(ValueError) as caught:
        jacobian(jnp.sin, batch_axis=axis)(np.ones(shape, np.float32))
    assert_helpful(caught, f"args[0], batch_axis={axis}", hint)


# where=


@jax.tree_util.register_pytree_node_class
class Model:
    """A callable tree, as modules of Equinox are."""

    def __init__(self, w, b):
        self.w, self.b = w, b

    def __call__(self, x):
        return self.w @ x + self.b

    def tree_flatten(self):
        return (self.w, self.b), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


MODEL = Model(np.ones((2, 4), np.float32), np.ones(2, np.float32))
MASKS = {
    "a mask of entries": (
        Model(np.ones((2, 4), bool), np.ones(2, bool)),
        "where= chooses whole leaves: read J[..., mask]",
    ),
    "of JAX": (Model(jnp.ones((2, 4), bool), True), "where= chooses whole leaves"),
    "the model": (MODEL, "True stands for a leaf that is differentiated, False for one that is not."),
    "comparison": (lambda leaf: leaf > 0, "expected True or False for each leaf, got Array of shape (2, 4)"),
    "another tree": (Model(True, None), "Write jax.tree.map(lambda leaf: True, tree)"),
    "numbers": (Model(1, 0), "True stands for"),
    "an array": (X > 0.5, "where= chooses whole leaves"),
    "an array of floats": (X, "where= chooses whole leaves"),
}


@pytest.mark.parametrize("mask, hint", MASKS.values(), ids=MASKS)
def test_a_mask_that_is_none(mask, hint):
    with pytest.raises((TypeError, ValueError)) as caught:
        jacobian(lambda model: model(X), where=mask)(MODEL)
    assert_helpful(caught, "jacobian(where=...)", hint)


def test_a_function_of_a_leaf_for_one_array():
    assert jacobian(f, where=lambda leaf: leaf.ndim == 1)(X).shape == (4, 4)
    assert jacobian(f, where=lambda leaf: leaf.ndim == 2)(X) is None


def test_functions_that_are_no_functions_of_one_leaf():
    for where, got in ((lambda: True, "got <lambda>()."), (lambda path, leaf: True, "got <lambda>(path, leaf).")):
        with pytest.raises(TypeError) as caught:
            jacobian(f, where=where)(X)
        assert_helpful(caught, "expected a function of one leaf", got, "Write where=lambda leaf: ...")
    with pytest.raises(TypeError, match="can only concatenate"):
        jacobian(f, where=lambda leaf: "a" + 1)(X)


def test_a_deleted_argument_of_a_function_that_python_runs():
    x = jnp.asarray(X) + 0
    x.delete()
    for call, path in (
        (lambda: jacobian(f, jit=False)(x), "args[0]"),
        (lambda: jacobian(lambda a, *, b: a * b, jit=False)(X, b=x), "b"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert_helpful(caught, f"jacobian({path}=...)", "deleted or donated", f"{path}.copy()")


def test_modules_of_equinox_as_masks():
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.Linear(4, 2, key=jax.random.key(0))
    mask = jax.tree.map(lambda leaf: leaf.ndim == 2, model)
    J = jacobian(lambda model: model(X), where=mask)(model)
    assert J.weight.shape == (2, 2, 4) and J.bias is None
    for wrong in (model, jax.tree.map(lambda leaf: leaf > 0, model)):
        with pytest.raises(TypeError) as caught:
            jacobian(lambda model: model(X), where=wrong)(model)
        assert_helpful(caught, "jacobian(where=...)", "a tree of booleans")


# Errors of f are f's own


def shapes(x, *_):
    return x @ jnp.ones(7)


@pytest.mark.parametrize("made", [jacobian, hessian, jacobia.laplacian, jacobia.value_and_jacobian])
@pytest.mark.parametrize(
    "args", [(X,), (X, 2), ((1.0, 2.0),), ([1.0, 2.0],)], ids=["x", "x and 2", "a tuple", "a list"]
)
def test_an_error_of_f_comes_through(made, args):
    with pytest.raises(TypeError) as own:
        jax.jit(shapes)(*args)
    with pytest.raises(TypeError) as caught:
        made(shapes)(*args)
    if isinstance(args[0], np.ndarray):
        assert str(caught.value) == str(own.value) and caught.value.__cause__ is None
    assert "shapes" in [
        frame.name for frame in traceback.extract_tb((caught.value.__cause__ or caught.value).__traceback__)
    ]


def test_masked_arrays():
    masked = np.ma.array([1.0, 2, 3], mask=[0, 1, 0])
    with pytest.raises(TypeError) as caught:
        jacobian(lambda x: x**2)(masked)
    assert_helpful(caught, "jacobian(args[0]=...)", "got MaskedArray", "Write args[0].filled(...)")


def test_a_shape_in_place_of_an_array():
    with pytest.raises(TypeError) as caught:
        jacobian(f).explain((3,))
    assert_helpful(caught, "args[0][0]", "or, for a shape, jax.ShapeDtypeStruct(args[0], float)")


def test_a_batch_of_vectors_behind_an_at_sign():
    x = jnp.ones((3, 4))
    for J in (jacobian(jnp.tanh, batch_axis=0)(x), jacobian(jnp.tanh)(x)):
        with pytest.raises(ValueError) as caught:
            J @ x
        assert str(caught.value).endswith("Write J.mv(v) for the product with a tangent of the shape of x.")
        assert J.mv(x).shape == (3, 4)


@pytest.mark.parametrize(
    ("wrong", "options", "hint"),
    [
        (jnp.tanh, {"batch_axis": 0}, "Leave batch_axis out"),
        (lambda x: (jnp.tanh(x), x), {"has_aux": True}, "Leave has_aux out"),
        (lambda x: (x, x), {}, "Set ravel=True"),
    ],
)
def test_what_scipy_cannot_take(wrong, options, hint):
    with pytest.raises(ValueError) as caught:
        jacobia.scipy.jac(wrong, **options)(np.ones((2, 3)))
    assert_helpful(caught, "jacobia.scipy.jac(f)", hint)
