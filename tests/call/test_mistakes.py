"""Mistakes of newcomers: each message names the argument, tells what was expected and what came, and what to write."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
    "in_axes": "batch_axis",
    "strategy": "mode",
    "vectorize": "mode",
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
        ("laplacian", "create_graph", "write laplacian(f)(x)."),
        ("jacobian", "create_graph", "write jacobian(f)(x)."),
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
    ({"memory_limit": "1GB"}, "Write 4 * 2**30 for 4 GiB"),
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
