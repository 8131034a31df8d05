"""Hessians: values against second differences, rows by Hessian-vector products, symmetry, products, transformations.

Shapes: y.shape + x.shape + x.shape for every block; the batch axis is tested in test_batch.py.
"""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessian_cases import (
    CASES,
    PARAMS,
    RNG,
    V,
    W,
    X,
    Z,
    bilinear,
    by_formula,
    constant,
    energy,
    energy_hessian,
    exponential_by_formula,
    holomorphic,
    is_float,
    jnp_energy_hessian,
    linear,
    many_outputs,
    matrix_input,
    model,
    model_of_x,
    no_inputs,
    one_element,
    scalar,
    size_one,
    vector,
    with_exponential,
    with_rules_that_call_it_again,
)
from jax.flatten_util import ravel_pytree
from reference import (
    NOTHING,
    assert_close,
    assert_helpful,
    central_differences,
    dense,
    in_threads,
    is_block,
    passes,
    second_differences,
    views,
    work,
)

import jacobia
from jacobia import Hessian, Jacobian, hessian, jacobian

pytestmark = pytest.mark.slow

REFUSALS = (TypeError, ValueError, RuntimeError)
cases = pytest.mark.parametrize("case", CASES, ids=str)
SCALAR = ("1-D", "one element", "one element of two axes", "0-D", "2-D", "size 1", "custom_jvp", "custom_vjp", "scan")
SCALAR += ("cond", "holomorphic", "keywords", "rules that call it again", "linear", "no inputs")
RULED = ("custom_jvp", "custom_vjp", "rules that call it again")  # they need not be symmetric
scalar_cases = pytest.mark.parametrize("case", [case for case in CASES if case.name in SCALAR], ids=str)
DENSE = energy_hessian(X)


@pytest.fixture
def H():
    return hessian(energy)(X)


# The reference itself


def test_second_differences_are_right_where_the_answer_is_known():
    np.testing.assert_allclose(second_differences(energy, X), DENSE, rtol=1e-8, atol=1e-8)
    blocks = second_differences(bilinear, V[:2], V, argnums=(0, 1))
    np.testing.assert_allclose(blocks[0][0], np.sum(V**2) * np.array([[0, 1], [1, 0]]), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(blocks[0][1], 2 * V[:2][::-1, None] * V, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(blocks[1][0], 2 * (V[:2][::-1, None] * V).T, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(blocks[1][1], 2 * V[0] * V[1] * np.eye(3), rtol=1e-8, atol=1e-8)


# Values, shapes, nesting


@pytest.mark.parametrize("argnums", [-1, (-1,), [1, 0], (-2, 1)], ids=repr)
def test_argnums_as_in_jax(argnums):
    args = PARAMS["b"].astype(np.float32), (X[:3], np.float32(2))
    H = hessian(two_arguments, argnums)(*args)
    K = jax.eval_shape(jax.hessian(two_arguments, tuple(argnums) if isinstance(argnums, list) else argnums), *args)
    assert jax.tree.structure(H, is_leaf=is_block) == jax.tree.structure(K)
    assert jax.tree.map(jnp.shape, K) == jax.tree.map(lambda view: view.shape, H, is_leaf=is_block)
    numbers = argnums if isinstance(argnums, int) else tuple(argnums)
    assert_close(jacobia.materialize(H), second_differences(two_arguments, *args, argnums=numbers))


def two_arguments(x, y):
    return jnp.sum(jnp.outer(x**2, y[0] ** 2)) * y[1]


def test_dtypes_of_the_blocks_of_two_dtypes(x64):
    p = {"a": np.array([0.5, 1.0], np.float32), "b": np.array([0.3, 0.7, 2.0], np.float64)}
    H = hessian(mixed)(p)
    dtypes = {"a": {"a": jnp.float32, "b": jnp.float64}, "b": {"a": jnp.float64, "b": jnp.float64}}
    assert jax.tree.map(lambda view: view.dtype, H, is_leaf=is_block) == jax.tree.map(jnp.dtype, dtypes)
    full = jacobia.materialize(H)
    assert jax.tree.map(lambda block: block.dtype, full) == jax.tree.map(jnp.dtype, dtypes)
    assert_close(full, second_differences(mixed, p), tolerance=1e-5)


def mixed(p):
    return jnp.sum(jnp.sin(p["a"])) * jnp.sum(p["b"] ** 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_dtype(dtype):
    x = jnp.asarray([0.5, 1.0, 2.0], dtype)
    H = hessian(lambda x: jnp.sum(x**3))(x)
    assert H.dtype == x.dtype == H[0].dtype
    assert_close(H[...], np.diag([3.0, 6, 12]))


# Metadata and displays


def test_it_is_a_hessian_and_says_so(H):
    assert isinstance(H, Hessian) and isinstance(H, Jacobian) and issubclass(Hessian, Jacobian)
    assert "Hessian" in repr(H) and "f32[4,4]" in repr(H)
    assert H.shape == H.T.shape == H.matrix.shape == (4, 4) and len(H) == 4
    assert not hasattr(H, "no_such_attribute")
    assert isinstance(hessian(vector)(V), Hessian)


def test_making_a_view_compiles_no_hessian():
    before = jacobia.cache_info().compiles
    hessian(lambda x: jnp.sum(jnp.cosh(x)))(X)
    assert jacobia.cache_info().compiles == before


# Rows are Hessian-vector products


def test_a_row_is_one_hessian_vector_product(H):
    assert_close(H[2], DENSE[2])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls, H.stats.rows_computed) == (1, 0, 1, 1)


def test_all_missing_rows_in_one_kernel_call(H):
    assert_close(H[1], DENSE[1])
    assert_close(H[0:3], DENSE[0:3])
    assert (H.stats.pushforwards, H.stats.kernel_calls) == (3, 2)
    assert_close(H[...], DENSE)
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (4, 0, 3)
    assert H.stats.rows_computed + H.stats.columns_computed == 4


def test_all_of_it_in_one_kernel_call(H):
    assert_close(H[...], DENSE)
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (4, 0, 1)
    assert_close(np.asarray(H), DENSE)
    assert_close(H + 1, DENSE + 1)
    assert H.stats.kernel_calls == 1


def test_reverse_over_reverse(x64):
    H = hessian(energy, mode="rev")(X.astype(np.float64))
    assert_close(H[2], DENSE[2])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (0, 1, 1)
    assert_close(H[:, 2], DENSE[:, 2])
    assert_close(H[1, 2], DENSE[1, 2])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (0, 1, 1)
    assert_close(H[...], DENSE)
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (0, 4, 2)


@pytest.mark.parametrize("f", [with_rules_that_call_it_again, with_exponential], ids=lambda f: f.__name__)
def test_rules_that_call_the_function_again(f):
    # JAX itself cannot push forward through such a rule; that is why there is another way.
    with pytest.raises(TypeError):
        jax.hessian(f)(X)
    H = hessian(f)(X)
    expected = second_differences({"with_exponential": exponential_by_formula}.get(f.__name__, by_formula), X)
    assert_close(H[1], expected[1])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (0, 1, 1)
    assert_close(H[:, 1], expected[:, 1])
    assert H.stats.kernel_calls == 2  # custom rules: symmetry is not assumed
    assert_close(H[...], expected)
    assert_close(H.mv(X), expected @ X)
    assert_close(jax.jit(lambda x: hessian(f)(x)[2])(X), expected[2])


def test_explain_says_what_will_run():
    for mode, ran, other in (("auto", "pushforward", "pullback"), ("rev", "pullback", "pushforward")):
        H = hessian(energy, mode=mode)(X)
        for key in (2, ...):
            plan = re.search("to do: (.*?)(;|$)", str(H.explain(key)), re.MULTILINE)[1]
            assert other not in plan and (ran in plan or "Hessian-vector" in plan), (mode, key, plan)


def test_a_vector_valued_function_is_lazy_in_the_rows_of_the_gradient():
    x = V.astype(np.float32)
    expected = second_differences(vector, x)
    H = hessian(vector)(x)
    assert H.shape == (2, 3, 3) and work(H) == NOTHING
    assert_close(H[1], expected[1])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (3, 0, 1)
    assert_close(H[1, 2], expected[1, 2])
    assert H.stats.kernel_calls == 1
    assert_close(H[0, 2], expected[0, 2])
    assert (H.stats.pushforwards, H.stats.kernel_calls) == (4, 2)
    assert_close(H[...], expected)
    assert H.stats.pushforwards <= 7 and H.stats.kernel_calls == 3
    assert_close(np.swapaxes(H, 1, 2), expected)


def test_one_row_of_a_vector_valued_function():
    x = V.astype(np.float32)
    H = hessian(vector)(x)
    assert_close(H[0, 1], second_differences(vector, x)[0, 1])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (1, 0, 1)


@pytest.mark.parametrize("key", [(slice(None), 1), (slice(None), slice(None), 2), (..., 0, 1), (0, 1, 2)], ids=repr)
def test_parts_of_a_vector_valued_function(key):
    x = V.astype(np.float32)
    H = hessian(vector)(x)
    assert_close(H[key], np.asarray(second_differences(vector, x)[key]))
    assert passes(H) <= 3 and H.stats.kernel_calls == 1


def test_only_the_output_that_is_read_is_computed():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H = hessian(many_outputs, 1)(*args)
    expected = second_differences(many_outputs, *args, argnums=1)
    assert_close(H["norm"][0], expected["norm"][0])
    assert H["norm"].stats.pushforwards == 1
    assert passes(H["pair"][0]) == passes(H["pair"][1]) == 0
    assert_close(H["pair"][0][...], expected["pair"][0])
    assert H["pair"][0].shape == (1, 3, 3) and H["pair"][0].stats.pushforwards == 3  # one element: a scalar
    assert_close(H["pair"][1][1, 0], expected["pair"][1][1, 0])


# Symmetry is used


def test_a_remembered_row_serves_its_column_and_its_entries(H):
    H[2]
    before = work(H)
    assert before[-1] == 1
    assert_close(H[:, 2], DENSE[:, 2])
    assert_close(H[1, 2], DENSE[1, 2])
    assert_close(H[2, 1], DENSE[2, 1])
    assert_close(H.T[2], DENSE[2])
    assert_close(H.T[:, 2], DENSE[:, 2])
    assert_close(H[[0, 3], [2, 2]], DENSE[[0, 3], [2, 2]])
    assert_close(H[1:3, 2:3], DENSE[1:3, 2:3])
    assert work(H) == before


def test_a_column_that_is_read_first_serves_its_row(H):
    assert_close(H[:, 3], DENSE[:, 3])
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (1, 0, 1)
    before = work(H)
    assert_close(H[3], DENSE[3])
    assert_close(H[3, 0], DENSE[3, 0])
    assert_close(H[-1, 1:3], DENSE[-1, 1:3])
    assert work(H) == before


def test_the_rest_of_it_after_rows_and_columns(H):
    H[2], H[:, 0]
    assert H.stats.pushforwards == 2
    assert_close(H[...], DENSE)
    assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (4, 0, 3)


def test_a_block_that_known_rows_and_columns_cover(H):
    H[[0, 2]]
    before = work(H)
    # Rows 0 and 2 are known and so, by symmetry, are columns 0 and 2.
    assert_close(H[[0, 1, 2, 3], 0], DENSE[:, 0])
    assert_close(H[0:4:2, 1:4:2], DENSE[0:4:2, 1:4:2])
    assert_close(H[[1, 3, 1], [2, 0, 0]], DENSE[[1, 3, 1], [2, 0, 0]])
    assert work(H) == before


def test_entries_some_in_known_rows_and_some_in_known_columns(H):
    H[[0, 2]]
    # Row 1 is not known, but its entry is in column 2, which is.
    assert_close(H[[0, 0, 1], [1, 3, 2]], DENSE[[0, 0, 1], [1, 3, 2]])
    assert passes(H) == 2


def test_three_quarters_of_a_symmetric_matrix_cost_one_more_row(H):
    H[[0, 1, 2]]
    assert_close(H[3], DENSE[3])
    assert H.stats.pushforwards <= 4


@scalar_cases
def test_a_row_serves_its_column_in_every_scalar_case(case, x64):
    H = case.make()(*case.args_as(np.float64), **case.kwargs)
    view, n = H.matrix, int(np.sqrt(H.size))
    assert view.shape == (n, n)
    reference = case.reference().reshape(n, n)
    if n == 0:
        assert_close(view[...], reference)
        assert work(view) == NOTHING
        return
    assert_close(view[n - 1], reference[n - 1])
    before = work(view)
    assert before[-1] == 1
    assert_close(view[:, n - 1], reference[:, n - 1])
    assert_close(view[0, n - 1], reference[0, n - 1])
    assert work(view) == before or case.name in RULED


def test_a_one_element_output_is_symmetric_too():
    x = V.astype(np.float32)
    H, expected = hessian(one_element)(x), second_differences(one_element, x)
    assert H.shape == (1, 3, 3)
    assert_close(H[0, 2], expected[0, 2])
    before = work(H)
    assert before[3] == 1 and before[-1] == 1
    assert_close(H[0, :, 2], expected[0, :, 2])
    assert_close(H[..., 2], expected[..., 2])
    assert_close(H[:, 1, 2], expected[:, 1, 2])
    assert work(H) == before


def test_an_input_of_two_axes_is_symmetric_too():
    H, expected = hessian(matrix_input)(Z), second_differences(matrix_input, Z)
    assert H.shape == (2, 3, 2, 3)
    assert_close(H[1, 2], expected[1, 2])
    before = work(H)
    assert before[3] == 1 and before[-1] == 1
    assert_close(H[:, :, 1, 2], expected[:, :, 1, 2])
    assert_close(H[0, 1, 1, 2], expected[0, 1, 1, 2])
    assert_close(H.matrix[5], expected.reshape(6, 6)[5])
    assert_close(H.matrix[:, 5], expected.reshape(6, 6)[:, 5])
    assert work(H) == before
    assert_close(H[1], expected[1])
    assert (H.stats.pushforwards, H.stats.kernel_calls) == (3, 2)


def test_clear_forgets_the_column_with_the_row(H):
    H[2]
    H.clear()
    assert H.stats.nbytes == 0
    before = passes(H)
    assert_close(H[:, 2], DENSE[:, 2])
    assert passes(H) - before == 1


# Trees: a block and its transpose


@pytest.fixture
def blocks():
    params = jax.tree.map(np.float32, PARAMS)
    return hessian(model)(params), second_differences(model, params)


@pytest.mark.parametrize("first, second", [("b", "w"), ("w", "b")])
def test_an_off_diagonal_block_is_computed_once_for_both_places(blocks, first, second):
    H, expected = blocks
    assert_close(H[first][second][...], expected[first][second])
    assert H[first][second].stats.kernel_calls == 1
    assert passes(H[first][second]) <= 2  # the shorter side of 2 x 6
    assert_close(H[second][first][...], expected[second][first])
    assert_close(H[second][first][0], expected[second][first][0])
    assert work(H[second][first]) == NOTHING


@pytest.mark.parametrize("first, second", [("b", "w"), ("w", "b")])
def test_a_row_of_a_block_serves_the_column_of_its_transpose(blocks, first, second):
    H, expected = blocks
    row = (1,) * PARAMS[first].ndim
    rest = (slice(None),) * PARAMS[second].ndim
    assert_close(H[first][second][row], expected[first][second][row])
    assert passes(H[first][second]) == 1
    assert_close(H[second][first][(*rest, *row)], expected[second][first][(*rest, *row)])
    assert work(H[second][first]) == NOTHING
    assert_close(H[second][first][...], expected[second][first])
    assert_close(H[first][second][...], expected[first][second])


def test_the_transpose_of_a_block_is_the_other_block(blocks):
    H, expected = blocks
    T = H["b"]["w"].T
    assert T.shape == (3, 2, 2)
    assert_close(T[...], expected["b"]["w"].T)
    assert_close(H["w"]["b"].matrix.T[...], expected["b"]["w"].reshape(2, 6))


def test_diagonal_blocks_do_not_pay_for_the_others(blocks):
    H, expected = blocks
    assert_close(H["b"]["b"][1], expected["b"]["b"][1])
    assert H["b"]["b"].stats.pushforwards == 1
    assert [work(H[i][j]) for i, j in ("bw", "wb", "ww")] == [NOTHING] * 3


def test_materialize_reads_all_blocks_in_one_kernel_call(blocks):
    H, expected = blocks
    full = jacobia.materialize(H)
    assert_close(full, expected)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(full))
    assert max(view.stats.kernel_calls for view in views(H)) == 1
    before = [work(view) for view in views(H)]
    for i in "bw":
        for j in "bw":
            assert_close(H[i][j][...], expected[i][j])
            assert_close(H[i][j][1], expected[i][j][1])
    assert [work(view) for view in views(H)] == before


def test_materialize_reads_a_key_of_all_blocks(blocks):
    H, expected = blocks
    assert_close(jacobia.materialize(H, 1), jax.tree.map(lambda block: block[1], expected))
    assert max(view.stats.kernel_calls for view in views(H)) <= 1
    assert_close(jacobia.materialize(H["w"], slice(0, 1)), jax.tree.map(lambda block: block[0:1], expected["w"]))


def test_materialize_after_some_blocks(blocks):
    H, expected = blocks
    H["w"]["b"][...]
    assert_close(jacobia.materialize(H), expected)
    assert work(H["b"]["w"]) == NOTHING


def test_symmetric_blocks_of_several_arguments():
    args = V[:2].astype(np.float32), V.astype(np.float32)
    H = hessian(bilinear, (0, 1))(*args)
    expected = second_differences(bilinear, *args, argnums=(0, 1))
    assert isinstance(H, tuple) and isinstance(H[0], tuple)
    assert_close(H[0][1][...], expected[0][1])
    assert_close(H[1][0][...], expected[1][0])
    assert work(H[1][0]) == NOTHING
    assert_close(jacobia.materialize(H), expected)


def test_blocks_of_outputs_do_not_meet():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H = hessian(many_outputs)(*args)
    expected = second_differences(many_outputs, *args)
    assert_close(H["norm"]["w"]["b"][...], expected["norm"]["w"]["b"])
    assert_close(H["pair"][0]["b"]["w"][...], expected["pair"][0]["b"]["w"])
    assert passes(H["pair"][0]["b"]["w"]) > 0  # not those of "norm"
    assert_close(H["norm"]["b"]["w"][...], expected["norm"]["b"]["w"])


def two_scalars(params, x):
    return {"energy": model_of_x(params, x), "square": jnp.sum(params["w"] @ x) ** 2}


def test_two_scalar_outputs_are_symmetric_each():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H, expected = hessian(two_scalars)(*args), second_differences(two_scalars, *args)
    assert_close(H["square"]["w"]["b"][...], expected["square"]["w"]["b"])
    assert_close(H["energy"]["b"]["w"][...], expected["energy"]["b"]["w"])
    assert passes(H["energy"]["b"]["w"]) == 2  # not those of "square"
    assert_close(H["energy"]["w"]["b"][...], expected["energy"]["w"]["b"])
    assert_close(H["square"]["b"]["w"][...], expected["square"]["b"]["w"])
    assert work(H["energy"]["w"]["b"]) == work(H["square"]["b"]["w"]) == NOTHING


def test_a_scalar_output_beside_an_array():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H, expected = hessian(many_outputs, 1)(*args), second_differences(many_outputs, *args, argnums=1)
    assert_close(H["norm"][2], expected["norm"][2])
    assert_close(H["norm"][:, 2], expected["norm"][:, 2])  # symmetry is used where all outputs are scalars


def test_clear_of_one_block_forgets_what_the_other_one_shares(blocks):
    H, expected = blocks
    H["b"]["w"][...]
    H["b"]["w"].clear()
    assert H["b"]["w"].stats.nbytes == 0
    assert_close(H["w"]["b"][...], expected["w"]["b"])
    assert_close(H["b"]["w"][...], expected["b"]["w"])


# Value, auxiliary output, options


def test_every_view_of_a_tree_has_the_value_of_its_output():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H = hessian(many_outputs, (0, 1))(*args)
    y = many_outputs(*args)
    assert_close(H["norm"][0]["b"][1].value, np.asarray(y["norm"]))
    assert_close(H["pair"][1][0]["w"][0]["w"].value, np.asarray(y["pair"][1]))


def with_aux(x):
    return energy(x), {"mean": jnp.mean(x), "kind": jnp.arange(2)}


def test_aux_is_returned_and_remembered():
    H, aux = hessian(with_aux, has_aux=True)(X)
    assert_close(aux, {"mean": np.mean(X), "kind": np.arange(2)})
    assert_close(H.aux, {"mean": np.mean(X), "kind": np.arange(2)})
    assert_close(H.value, np.asarray(energy(X)))
    assert work(H) == NOTHING
    assert_close(H[1], DENSE[1])
    K, aux = hessian(with_aux, has_aux=True, lazy=False)(X)
    assert_close(K, DENSE)
    assert_close(aux["mean"], np.mean(X))


def test_aux_of_a_tree_stands_beside_the_tree():
    H, aux = hessian(lambda p: (model(p), p["b"] + 1), has_aux=True)(jax.tree.map(np.float32, PARAMS))
    assert set(H) == {"b", "w"} and H["w"]["b"].shape == (2, 3, 2)
    assert_close(aux, np.float32(PARAMS["b"]) + 1)
    assert_close(H["b"]["w"].aux, np.float32(PARAMS["b"]) + 1)


def raveled(blocks, trees):
    # Leaves of the inputs in the order of flattening, (N, N).
    rows = [jax.tree.leaves(row) for row in trees(blocks)]
    sizes = [int(np.sqrt(rows[i][i].size)) for i in range(len(rows))]
    return np.block([[b.reshape(sizes[i], -1) for b in row] for i, row in enumerate(rows)])


def test_ravel_makes_one_matrix_of_all_inputs():
    args = jax.tree.map(np.float32, (PARAMS, V))
    H = hessian(model_of_x, (0, 1), ravel=True)(*args)
    blocks = second_differences(model_of_x, *args, argnums=(0, 1))
    expected = raveled(blocks, lambda h: (h[0]["b"], h[0]["w"], h[1]))
    assert isinstance(H, Hessian) and H.shape == expected.shape == (11, 11)
    assert_close(H[9], expected[9])
    before = work(H)
    assert before[3] == 1 and before[-1] == 1
    assert_close(H[:, 9], expected[:, 9])
    assert_close(H[3, 9], expected[3, 9])
    assert work(H) == before
    assert_close(H[...], expected)
    assert H.stats.pushforwards == 11
    assert_close(H.diagonal(), np.diagonal(expected))


def test_ravel_of_one_array_of_many_axes_and_of_one_element():
    assert_close(hessian(matrix_input, ravel=True)(Z)[...], second_differences(matrix_input, Z).reshape(6, 6))
    assert hessian(one_element, ravel=True)(X[:3]).shape in ((3, 3), (1, 3, 3))
    assert hessian(scalar, ravel=True)(np.float32(1)).shape == (1, 1)


def test_holomorphic():
    z = np.array([0.5 + 1j, -0.3 + 0.2j], np.complex64)
    H = hessian(holomorphic, holomorphic=True)(z)
    e = np.exp(z[1])
    expected = np.array([[2 * e, 2 * z[0] * e], [2 * z[0] * e, z[0] ** 2 * e + 6j * z[1]]])
    assert H.dtype == jnp.complex64
    assert_close(H[1], expected[1])
    before = work(H)
    assert_close(H[:, 1], expected[:, 1])  # the transpose, not its conjugate
    assert work(H) == before
    assert_close(H[...], expected)
    assert_close(H.mv(z), expected @ z)
    assert_close(H.vm(z), z @ expected)
    assert_close(H.diagonal(), np.diagonal(expected))


def test_complex_without_holomorphic_raises():
    with pytest.raises(TypeError) as caught:
        hessian(holomorphic)(np.ones(2, np.complex64))
    assert_helpful(caught, "holomorphic")


TABLE = {"scale": V[:2], "table": RNG.normal(size=(4, 2)), "index": np.array([0, 3, 3], np.int32)}


def lookup(m):
    return jnp.sum((m["scale"] * m["table"][m["index"]]) ** 2)


def floats_of(table):
    return {"scale": np.float32(table["scale"]), "table": np.float32(table["table"]), "index": table["index"]}


def test_where_leaves_the_others_out():
    m = floats_of(TABLE)
    H = hessian(lookup, where=is_float)(m)
    expected = second_differences(lambda p: lookup({**p, "index": m["index"]}), {k: m[k] for k in ("scale", "table")})
    assert set(H) == {"index", "scale", "table"}
    assert H["index"] is None or all(leaf is None for leaf in H["index"].values())
    assert H["scale"]["index"] is None and H["table"]["index"] is None
    assert_close(H["scale"]["table"][...], expected["scale"]["table"])
    assert_close(H["table"]["scale"][...], expected["table"]["scale"])
    assert work(H["table"]["scale"]) == NOTHING
    full = jacobia.materialize(H)
    assert_close(full["scale"]["scale"], expected["scale"]["scale"])
    assert_close(full["table"]["table"], expected["table"]["table"])


def test_where_takes_a_tree_of_booleans():
    m = floats_of(TABLE)
    H = hessian(lookup, where={"scale": True, "table": False, "index": False})(m)
    rows = m["table"][m["index"]].astype(np.float64)
    assert_close(H["scale"]["scale"][...], np.diag(2 * np.sum(rows**2, 0)).astype(np.float32))
    assert len(views(H)) == 1


def test_where_nests_as_jacobian_of_jacobian_does():
    m = floats_of(TABLE)
    H, J = hessian(lookup, where=is_float)(m), jacobian(lookup, where=is_float)(m)
    # None stands where jacobian has None, in both levels.
    assert H["index"] == J["index"] and all(set(H[name]) == set(m) for name in ("scale", "table"))


def by_sign(x):
    return jnp.sum(x**3) if x[0] > 0 else -(jnp.sum(x) ** 2)


def test_jit_false_runs_python_control_flow():
    H, K = (hessian(by_sign, jit=False)(np.float32([first, 2])) for first in (1, -1))
    assert_close(H[1], np.array([0.0, 12]))
    assert (H.stats.pullbacks, H.stats.kernel_calls) == (1, 1)  # what Python runs is not read for rules of its own
    assert_close(K[...], np.full((2, 2), -2.0))


def test_python_control_flow_raises_and_names_the_way_out():
    with pytest.raises(REFUSALS) as caught:
        hessian(by_sign)(X)[0]
    assert "jax.lax.cond" in str(caught.value) and "jit=False" in str(caught.value)


def power_tower(x, times, kind="sin"):
    for _ in range(times):
        x = getattr(jnp, kind)(x)
    return jnp.sum(x)


def test_static_arguments_are_part_of_the_program():
    x = X.astype(np.float64)
    twice = -np.sin(np.sin(x)) * np.cos(x) ** 2 - np.cos(np.sin(x)) * np.sin(x)
    assert_close(hessian(power_tower, static_argnums=1)(X, 2)[...], np.diag(twice))
    assert_close(hessian(power_tower, static_argnums=(1,))(X, 1)[...], np.diag(-np.sin(x)))
    assert_close(hessian(power_tower, static_argnames="times")(X, times=2)[...], np.diag(twice))
    assert_close(hessian(power_tower, static_argnums=1)(X, 1, kind="cos")[...], np.diag(-np.cos(x)))


def test_keyword_arguments_are_passed_on():
    H = hessian(lambda x, *, scale, shift=0.0: scale["a"] * jnp.sum(x**3 + shift))(X, scale={"a": 2.0}, shift=X)
    assert_close(H[...], np.diag(12 * X))


def separable(p):
    return jnp.sum(p["near"] ** 2) + jnp.sum(p["far"] ** 3)


def test_strict_names_two_inputs_that_do_not_meet():
    with pytest.raises(jacobia.IndependenceError) as caught:
        hessian(separable, strict=True)({"near": X, "far": X})
    assert "hessian(" in str(caught.value) and "near" in str(caught.value) and "far" in str(caught.value)


@pytest.mark.parametrize("f", [linear, constant], ids=lambda f: f.__name__)
def test_strict_sees_that_the_gradient_does_not_depend_on_x(f):
    with pytest.raises(jacobia.IndependenceError):
        hessian(f, strict=True)(X)
    assert_close(hessian(f)(X)[...], np.zeros((4, 4)))


MEETING = (
    "1-D",
    "one element",
    "0-D",
    "vector",
    "tree of one argument",
    "both arguments, swapped",
    "custom_vjp",
    "scan",
)
MEETING += ("rules that call it again",)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in MEETING], ids=str)
def test_strict_is_silent_where_every_block_matters(case):
    H = case.make(strict=True)(*case.args_as(np.float32), **case.kwargs)
    assert views(H) and all(work(view) == NOTHING for view in views(H))


def test_a_linear_function_has_a_zero_hessian():
    for f in (linear, constant):
        H = hessian(f)(X)
        assert_close(H[1], np.zeros(4))
        assert_close(H[:, 1:3], np.zeros((4, 2)))
        assert_close(H[...], np.zeros((4, 4)))
        assert_close(H.mv(X), np.zeros(4))
        assert_close(H.diagonal(), np.zeros(4))


def test_numpy_input_may_change_after_the_view_was_made():
    x = X.copy()
    H = hessian(energy)(x)
    H[0]
    x[...] = 100
    assert_close(H[...], DENSE)
    assert_close(H.mv(X), DENSE @ X)


# As an array


def test_arithmetic_uses_the_whole_matrix(H):
    assert_close(2.0 * H, 2 * DENSE)
    assert_close(-H, -DENSE)
    assert_close(H - H.T, np.zeros((4, 4)))
    assert_close(jnp.sum(H, axis=0), DENSE.sum(0))
    assert_close(jnp.linalg.eigvalsh(H[...]), np.linalg.eigvalsh(DENSE))
    assert_close(jnp.trace(H), np.trace(DENSE))
    assert passes(H) == 4
    assert float(hessian(scalar)(0.5)) == pytest.approx(2 * np.cos(0.5) - 0.5 * np.sin(0.5), rel=1e-4)


# Products


U = RNG.normal(size=4).astype(np.float32)


def test_a_product_is_one_hessian_vector_product(H):
    assert_close(H.mv(U), DENSE @ U)
    assert H.stats.rows_computed == H.stats.columns_computed == 0
    assert passes(H) <= 1 and H.stats.kernel_calls <= 1
    assert_close(H.vm(U), U @ DENSE)
    assert_close(H @ U, DENSE @ U)
    assert_close(U @ H, U @ DENSE)
    assert_close(H.T @ U, DENSE @ U)
    assert_close(H.T.mv(U), DENSE @ U)
    assert H.stats.rows_computed == H.stats.columns_computed == 0


def test_several_right_hand_sides(H):
    many = RNG.normal(size=(4, 3)).astype(np.float32)
    assert_close(H.mv(many), DENSE @ many)
    assert_close(H.vm(many.T), many.T @ DENSE)
    assert_close(H @ many, DENSE @ many)
    assert_close(many.T @ H, many.T @ DENSE)
    assert H.stats.rows_computed == 0


def test_products_with_a_view_that_is_all_known(H):
    H[...]
    calls = H.stats.kernel_calls
    assert_close(H.mv(U), DENSE @ U)
    assert_close(H @ U, DENSE @ U)
    assert H.stats.pushforwards == 4 and H.stats.kernel_calls <= calls + 2


def test_products_of_a_matrix_input_and_of_a_vector_valued_function():
    H, expected = hessian(matrix_input)(Z), second_differences(matrix_input, Z)
    v = RNG.normal(size=(2, 3)).astype(np.float32)
    many = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    assert_close(H.mv(v), np.tensordot(expected, v, 2))
    assert_close(H.vm(v), np.tensordot(v, expected, 2))
    assert_close(H.mv(many), np.tensordot(expected, many, 2))
    x = V.astype(np.float32)
    K, expected = hessian(vector)(x), second_differences(vector, x)
    assert_close(K.mv(x), expected @ x)
    u = np.ones((2, 3), np.float32)
    assert_close(K.vm(u), np.tensordot(u, expected, 2))


def test_products_of_blocks(blocks):
    H, expected = blocks
    b, w = (np.float32(PARAMS[name]) for name in "bw")
    assert_close(H["b"]["w"].mv(w), np.tensordot(expected["b"]["w"], w, 2))
    assert_close(H["b"]["w"].vm(b), np.tensordot(b, expected["b"]["w"], 1))
    assert_close(H["w"]["b"].mv(b), np.tensordot(expected["w"]["b"], b, 1))
    assert_close(H["w"]["b"].vm(w), np.tensordot(w, expected["w"]["b"], 2))


def test_products_in_reverse_over_reverse(x64):
    H = hessian(energy, mode="rev")(X.astype(np.float64))
    assert_close(H.mv(U), DENSE @ U)
    assert_close(H.vm(U), DENSE @ U)


@pytest.mark.parametrize("call", [lambda H: H.mv(np.ones(5)), lambda H: H.vm(np.ones(3)), lambda H: H @ np.ones(5)])
def test_a_vector_of_another_shape_raises(H, call):
    with pytest.raises((TypeError, ValueError)):
        call(H)
    assert work(H) == NOTHING


def test_products_of_empty_hessians():
    H = hessian(no_inputs)(np.zeros(0, np.float32))
    assert_close(H[...], np.zeros((0, 0)))
    assert_close(H.diagonal(), np.zeros(0))
    assert H.stats.kernel_calls == 0
    assert_close(H.mv(np.zeros(0, np.float32)), np.zeros(0))


# The diagonal


def test_the_diagonal_of_a_hessian_is_not_the_matrix(H):
    assert_close(H.diagonal(), np.diagonal(DENSE))
    assert isinstance(H.diagonal(), jax.Array) and H.diagonal().dtype == jnp.float32
    assert H.stats.rows_computed <= 4


def test_the_diagonal_uses_what_is_known(H):
    H[...]
    before = work(H)
    assert_close(H.diagonal(), np.diagonal(DENSE))
    assert_close(H.T.diagonal(), np.diagonal(DENSE))
    assert_close(H.matrix.diagonal(), np.diagonal(DENSE))
    assert work(H) == before


def test_the_diagonal_after_some_rows(H):
    H[1:3]
    assert_close(H.diagonal(), np.diagonal(DENSE))
    assert_close(H[...], DENSE)


DIAGONALS = ("one element", "0-D", "2-D", "no inputs", "vector", "2-D to 2-D", "tree of one argument", "no outputs")
DIAGONALS += ("rules that call it again",)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in DIAGONALS], ids=str)
def test_the_diagonal_has_the_shape_of_the_input(case, x64):
    H = case.make()(*case.args_as(np.float64), **case.kwargs)
    for view, block in zip(views(H), jax.tree.leaves(case.reference()), strict=True):
        y = view.value.ndim
        shape = block.shape[y:]
        x = shape[: len(shape) // 2]
        if shape != x + x:
            with pytest.raises(ValueError):
                view.diagonal()
            assert work(view) == NOTHING
            continue
        n = int(np.prod(x))
        expected = np.diagonal(block.reshape(block.shape[:y] + (n, n)), axis1=-2, axis2=-1)
        assert_close(view.diagonal(), expected.reshape(block.shape[:y] + x))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_the_diagonal_in_both_modes(mode, x64):
    assert_close(hessian(energy, mode=mode)(X.astype(np.float64)).diagonal(), np.diagonal(DENSE))


def jacobian_square(x):
    return jnp.tanh(jnp.asarray(W[:4], x.dtype) @ x)


def jacobian_of_matrix(z):
    return jnp.sin(z) * z[::-1]


def tall(x):
    return jnp.tanh(jnp.asarray(W, x.dtype) @ x)


def wide(x):
    return tall(x)[:3]


def test_the_diagonal_of_a_jacobian():
    J, expected = jacobian(jacobian_square)(X), central_differences(jacobian_square, X)
    assert_close(J.diagonal(), np.diagonal(expected))
    J[...]
    before = work(J)
    assert_close(J.diagonal(), np.diagonal(expected))
    assert_close(J.T.diagonal(), np.diagonal(expected))
    assert work(J) == before


def test_the_diagonal_of_a_jacobian_of_two_axes():
    J, expected = jacobian(jacobian_of_matrix)(Z), central_differences(jacobian_of_matrix, Z)
    assert_close(J.diagonal(), np.diagonal(expected.reshape(6, 6)).reshape(2, 3))
    assert_close(J.matrix.diagonal(), np.diagonal(expected.reshape(6, 6)))


@pytest.mark.parametrize(
    "argnums, num_outputs", [((0, 1), 2), ((1, 0), 1), ((0, 1, 2), 2), ((0,), 2), ((0,), 1), (1, 1)], ids=str
)
def test_the_diagonals_of_several_blocks(argnums, num_outputs):
    def f(x, y, z):
        return (jnp.sin(x) * y[::-1] * z, x * y)[:num_outputs]

    args = (X, X + 1, X - 1)
    expected = jax.tree.leaves(jax.jit(jax.jacfwd(f, argnums))(*args))
    fresh, after_a_row = (views(jacobian(f, argnums)(*args)) for _ in range(2))
    traced = jax.jit(lambda *args: [J.diagonal() for J in views(jacobian(f, argnums)(*args))])(*args)
    for J, K, inside, block in zip(fresh, after_a_row, traced, expected, strict=True):
        assert_close(J.diagonal(), np.diagonal(block))
        K[1]
        assert_close(K.diagonal(), np.diagonal(block))
        assert_close(inside, np.diagonal(block))


def test_the_diagonal_of_a_transpose_of_two_axes():
    # J.T is an array of shape (3, 2, 3, 2), and so its diagonal is one of (3, 2).
    T, expected = jacobian(jacobian_of_matrix)(Z).T, central_differences(jacobian_of_matrix, Z)
    assert T.shape == (3, 2, 3, 2)
    assert_close(T.diagonal(), np.diagonal(expected.reshape(6, 6)).reshape(2, 3).T)
    assert_close(hessian(matrix_input)(Z).T.diagonal(), np.einsum("ijij->ji", second_differences(matrix_input, Z)))


@pytest.mark.parametrize("f", [tall, wide], ids=lambda f: f.__name__)
def test_the_diagonal_of_a_2d_view_that_is_not_square(f):
    J, expected = jacobian(f)(X), central_differences(f, X)
    assert_close(J.diagonal(), np.diagonal(expected))
    assert passes(J) <= min(expected.shape)
    assert_close(J.T.diagonal(), np.diagonal(expected))
    known = jacobian(f)(X)
    known[...]
    before = work(known)
    assert_close(known.diagonal(), np.diagonal(expected))
    assert work(known) == before


def test_the_diagonal_of_a_0d_view():
    assert_close(jacobian(scalar)(np.float32(0.5)).diagonal(), np.float32(np.cos(0.5) * 0.5 + np.sin(0.5)))
    assert_close(hessian(scalar)(np.float32(0.5)).diagonal(), np.float32(2 * np.cos(0.5) - 0.5 * np.sin(0.5)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: jacobian(lambda z: z.T * 2)(Z),
        lambda: jacobian(lambda z: z[0])(Z),
        lambda: jacobian(lambda x: jnp.sum(x))(X),
        lambda: jacobian(lambda x: jnp.outer(x, x))(X),
        lambda: hessian(model)(jax.tree.map(np.float32, PARAMS))["b"]["w"],
    ],
    ids=["transposed", "row", "gradient", "outer", "block"],
)
def test_a_block_without_a_diagonal(make):
    view = make()
    with pytest.raises(ValueError) as caught:
        view.diagonal()
    assert_helpful(caught, "diagonal")
    assert work(view) == NOTHING


def test_the_diagonal_of_an_off_diagonal_block_that_is_square():
    f = lambda p: jnp.sum(p["a"] ** 2 * jnp.sin(p["b"])) * p["a"][0]  # noqa: E731
    p = {"a": X[:3], "b": U[:3]}
    H, expected = hessian(f)(p), second_differences(f, p)
    assert_close(H["a"]["b"].diagonal(), np.diagonal(expected["a"]["b"]))
    H["a"]["b"][...]
    assert_close(H["b"]["a"].diagonal(), np.diagonal(expected["b"]["a"]))


# Transformations


THIRD = central_differences(jnp_energy_hessian, X)


def test_reads_inside_jit():
    assert_close(jax.jit(lambda x: hessian(energy)(x)[1:3])(X), DENSE[1:3])
    assert_close(jax.jit(lambda x: hessian(energy)(x)[:, 2])(X), DENSE[:, 2])
    assert_close(jax.jit(lambda x: hessian(energy)(x)[...])(X), DENSE)
    assert_close(jax.jit(lambda x: hessian(energy)(x).mv(U))(X), DENSE @ U)
    assert_close(jax.jit(lambda x: hessian(energy)(x).diagonal())(X), np.diagonal(DENSE))
    assert_close(jax.jit(lambda x, i: hessian(energy)(x)[i])(X, -2), DENSE[-2])
    assert_close(jax.jit(lambda x, i: hessian(energy)(x)[:, i])(X, 1), DENSE[:, 1])
    assert_close(jax.jit(lambda x: hessian(energy)(x).value)(X), np.asarray(energy(X)))


def test_a_row_inside_jit_costs_a_row():
    matrix = jnp.asarray(RNG.normal(size=(200, 200)), jnp.float32)

    def f(x):
        return jnp.sum(jnp.tanh(matrix @ x) ** 2)

    def flops(g):
        return jax.jit(g).lower(np.ones(200, np.float32)).compile().cost_analysis()["flops"]

    everything = flops(jax.hessian(f))
    assert flops(lambda x: hessian(f)(x)[1:4]) < everything / 20
    assert flops(lambda x: hessian(f)(x)[:, 1]) < everything / 20
    assert flops(lambda x: hessian(f)(x)[3, 1]) < everything / 20
    assert flops(lambda x: hessian(f)(x).mv(x)) < everything / 20


def test_a_view_leaves_jit_and_enters_it():
    H = jax.jit(hessian(energy))(X)
    assert isinstance(H, Hessian) and H.shape == (4, 4) and work(H) == NOTHING
    assert_close(H[2], DENSE[2])
    assert_close(H[:, 2], DENSE[:, 2])
    assert (H.stats.pushforwards, H.stats.kernel_calls) == (1, 1)
    read = jax.jit(lambda H, s: s * H[1:3])
    assert_close(read(H, 2.0), 2 * DENSE[1:3])
    assert_close(jax.jit(lambda H: H @ U)(hessian(energy)(X)), DENSE @ U)
    K = jax.jit(lambda H: H)(H)
    assert isinstance(K, Hessian) and work(K) == NOTHING and K.stats.nbytes == 0
    assert_close(K[...], DENSE)
    assert_close(jax.jit(lambda s: s * H[0])(3.0), 3 * DENSE[0])


def test_a_tree_of_views_goes_through_jit(blocks):
    H, expected = blocks
    K = jax.jit(lambda H: H)(H)
    assert all(isinstance(view, Hessian) for view in views(K)) and len(views(K)) == 4
    assert_close(dense(K), expected)
    L = jax.jit(hessian(model))(jax.tree.map(np.float32, PARAMS))
    assert_close(L["b"]["w"][...], expected["b"]["w"])
    assert_close(L["w"]["b"][...], expected["w"]["b"])
    assert_close(jax.jit(jacobia.materialize)(H), expected)


GRADS = {
    "row": (lambda H: jnp.sum(H[1] ** 2), lambda a: jnp.sum(a[1] ** 2)),
    "column": (lambda H: jnp.sum(H[:, 0] ** 2), lambda a: jnp.sum(a[:, 0] ** 2)),
    "all": (lambda H: jnp.sum(jnp.sin(H)), lambda a: jnp.sum(jnp.sin(a))),
    "mv": (lambda H: jnp.sum(H.mv(U) ** 2), lambda a: jnp.sum((a @ U) ** 2)),
    "diagonal": (lambda H: jnp.sum(H.diagonal()) ** 2, lambda a: jnp.trace(a) ** 2),
}


@pytest.mark.parametrize("read, of_array", GRADS.values(), ids=GRADS.keys())
def test_grad_through_any_read(read, of_array):
    expected = central_differences(lambda x: of_array(jnp_energy_hessian(x)), X)
    assert_close(jax.jit(jax.grad(lambda x: read(hessian(energy)(x))))(X), expected)


def test_the_jacobian_of_a_row_is_a_third_derivative():
    assert_close(jacobian(lambda x: hessian(energy)(x)[1])(X)[...], THIRD[1])
    assert_close(jacobian(hessian(energy))(X)[0, 2], THIRD[0, 2])
    assert_close(jax.jit(jax.jacfwd(lambda x: hessian(energy)(x)[...]))(X), THIRD)
    assert_close(hessian(lambda x: jacobian(energy)(x)[2])(X)[...], THIRD[2])


def test_grad_of_a_parameter_of_the_function():
    def loss(scale):
        return jnp.sum(hessian(lambda x: scale**2 * energy(x))(X)[0:2] ** 2)

    assert_close(jax.jit(jax.grad(loss))(1.5), np.float32(4 * 1.5**3 * np.sum(DENSE[0:2] ** 2)))


def test_reads_inside_scan():
    def step(x, _):
        H = hessian(energy)(x)
        return x - 0.1 * H[0], (H[:, 1], H.diagonal())

    x, columns, diagonals = X.astype(np.float64), [], []
    for _ in range(3):
        matrix = energy_hessian(x)
        columns.append(matrix[:, 1])
        diagonals.append(np.diagonal(matrix))
        x = x - 0.1 * matrix[0]
    last, read = jax.lax.scan(step, jnp.asarray(X), None, length=3)
    assert_close((last, read), (x, (np.stack(columns), np.stack(diagonals))))


def test_newton_inside_jit_finds_the_minimum():
    matrix = np.array([[3.0, 1], [1, 2]], np.float32)

    def f(x):
        return x @ (matrix @ x) / 2 - jnp.sum(x)

    @jax.jit
    def newton(x):
        return x - jnp.linalg.solve(hessian(f)(x)[...], jax.grad(f)(x))

    assert_close(newton(np.ones(2, np.float32)), np.linalg.solve(matrix.astype(np.float64), np.ones(2)))


def test_a_remembered_hessian_may_be_read_again_after_it_was_read_inside_jit(H):
    H[1]
    assert_close(jax.jit(lambda s: s * H[1] + H[:, 2])(2.0), 2 * DENSE[1] + DENSE[:, 2])
    assert_close(H[...], DENSE)


def test_tree_arithmetic_on_a_hessian_raises(H):
    for trap in (lambda H: jax.tree.map(lambda leaf: leaf + 1, H), ravel_pytree, jax.lax.sin):
        with pytest.raises(REFUSALS):
            trap(H)


def test_disable_jit():
    with jax.disable_jit():
        H = hessian(size_one)(np.float32([2]))
        assert_close(H[0], np.array([12.0]))
        assert_close(H[...], np.array([[12.0]]))


# Copies


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda H: pickle.loads(pickle.dumps(H))], ids=["copy", "deepcopy", "pickle"]
)
def test_copies_read_the_same(H, duplicate):
    H[1]
    K = duplicate(H)
    assert isinstance(K, Hessian) and (K.shape, K.dtype) == (H.shape, H.dtype)
    assert_close(K[2], DENSE[2])
    before = work(K)
    assert_close(K[:, 2], DENSE[:, 2])
    assert work(K) == before
    assert_close(K[...], DENSE)
    assert_close(K.mv(U), DENSE @ U)
    assert_close(duplicate(H.T)[...], DENSE)
    assert_close(H[...], DENSE)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda H: pickle.loads(pickle.dumps(H))], ids=["deep", "pickle"])
def test_a_tree_of_hessians_is_copied(blocks, duplicate):
    H, expected = blocks
    H["b"]["w"][...]
    K = duplicate(H)
    assert_close(dense(K), expected)
    L = duplicate(H["w"]["b"])
    assert_close(L[...], expected["w"]["b"])


# Errors


@pytest.mark.parametrize("f", [None, 3, "sin", np.ones(3)], ids=lambda f: type(f).__name__)
def test_something_that_is_no_function(f):
    with pytest.raises(TypeError) as caught:
        hessian(f)(X)
    assert_helpful(caught, "hessian", "callable")


def test_integer_inputs_and_outputs_are_named():
    with pytest.raises(TypeError) as caught:
        hessian(lambda p: jnp.sum(p["a"]))({"a": np.arange(3)})
    assert_helpful(caught, "hessian", "'a'", "int32")
    with pytest.raises(TypeError) as caught:
        hessian(lambda x: {"good": jnp.sum(x), "count": jnp.sum(x > 0)})(X)
    assert_helpful(caught, "hessian", "count", "int32")


def test_an_output_that_is_no_array_is_named():
    with pytest.raises((TypeError, ValueError)) as caught:
        hessian(lambda x: {"good": jnp.sum(x), "label": "text"})(X)
    assert_helpful(caught, "hessian", "label")


@pytest.mark.parametrize("argnums", [1, -2, (0, 0), (0, -1), "x", 0.0, ()], ids=repr)
def test_argnums_that_cannot_be(argnums):
    with pytest.raises((TypeError, ValueError)) as caught:
        hessian(energy, argnums)(X)
    assert_helpful(caught, "hessian", "argnums")


BAD_OPTIONS = {
    "mode": "sideways",
    "chunk_size": 0,
    "lazy": "yes",
    "memory_limit": -1,
    "ravel": 3,
    "strict": "maybe",
    "verify_batch": "maybe",
    "static_argnums": 0.5,
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_options_of_another_kind(option):
    with pytest.raises((TypeError, ValueError)) as caught:
        hessian(energy, **{option: BAD_OPTIONS[option]})(X)
    assert_helpful(caught, "hessian", option)


def test_a_misspelt_option_is_a_type_error():
    with pytest.raises(TypeError, match="chunks"):
        hessian(energy, chunks=3)


def test_a_result_beyond_the_memory_limit():
    H = hessian(energy, memory_limit=8)(X)
    with pytest.raises(jacobia.MaterializationError):
        H[...]


def test_a_function_that_raises_is_let_through():
    def f(x):
        raise KeyError("from f")

    with pytest.raises(KeyError, match="from f"):
        hessian(f)(X)


def test_a_view_of_a_holomorphic_function_that_conjugates_raises():
    with pytest.raises((TypeError, ValueError)) as caught:
        hessian(lambda z: jnp.sum(z * jnp.conj(z)), holomorphic=True)(np.ones(2, np.complex64))[0]
    assert "holomorphic" in str(caught.value)


# Threads, and caches; last, since these tests empty the kernel cache that the others share


THREAD_KEYS = [..., 0, -1, slice(1, 3), (slice(None), 2), (2, 1), [3, 0, 3], (slice(0, 2), slice(1, 3))]


@pytest.mark.parametrize("round_", range(2))
def test_threads_read_one_hessian(round_, empty_cache):
    H = hessian(lambda x: energy(x) + round_)(X)
    for k, read in enumerate(in_threads(lambda k: H[THREAD_KEYS[k]])):
        assert_close(read, np.asarray(DENSE[THREAD_KEYS[k]]))
    assert_close(H[...], DENSE)
    assert_close(H.T[...], DENSE)


def test_threads_read_a_block_and_its_transpose(blocks):
    H, expected = blocks
    pairs = [("b", "w"), ("w", "b"), ("b", "b"), ("w", "w")] * 2
    for (i, j), read in zip(pairs, in_threads(lambda k: H[pairs[k][0]][pairs[k][1]][...]), strict=True):
        assert_close(read, expected[i][j])


def test_every_view_of_one_function_counts_in_the_same_way(empty_cache):
    # The counter of one mode ("pullbacks" or "pushforwards") must not be reused for another mode of the same function.
    def f(x):
        return with_rules_that_call_it_again(x)

    for mode in ("fwd", "auto", "rev", "fwd", "auto"):
        H = hessian(f, mode=mode)(X)
        assert_close(H[0], second_differences(by_formula, X)[0])
        assert (H.stats.pushforwards, H.stats.pullbacks, H.stats.kernel_calls) == (0, 1, 1), mode


def read_all_ways(H):
    return H[1], H[0:3], H[:, 3], H[2, 2], H[...], H.mv(U), H.diagonal()


def make_quartic():
    return lambda x: jnp.sum((W @ x) ** 4)


def test_a_second_lambda_with_the_same_body_compiles_nothing(compiles, empty_cache):
    w = W.astype(np.float64)
    for scale in (1, 2, 3):
        reads = read_all_ways(hessian(make_quartic())(scale * X))
        matrix = np.einsum("ki,k,kj->ij", w, 12 * (w @ (scale * X)) ** 2, w)
        assert_close(reads[0], matrix[1])
        assert_close(reads[4], matrix)
        if scale == 1:
            first, compiled = compiles.count, jacobia.cache_info().compiles
            assert compiled >= 1
    assert compiles.count == first
    assert jacobia.cache_info().compiles == compiled


def test_another_set_of_rows_compiles_nothing(compiles, empty_cache):
    f = make_quartic()
    hessian(f)(X)[[0, 1]]
    compiled = jacobia.cache_info().compiles
    for rows in ([2, 3], [1, 3], [3, 0]):
        hessian(f)(X)[rows]
    assert jacobia.cache_info().compiles == compiled


def test_a_hessian_and_a_jacobian_of_one_function_do_not_meet(empty_cache):
    x = V.astype(np.float32)
    J, H = jacobian(vector)(x), hessian(vector)(x)
    assert_close(J[1], central_differences(vector, x)[1])
    assert_close(H[1], second_differences(vector, x)[1])
    assert_close(J[...], central_differences(vector, x))
    assert_close(hessian(vector, mode="rev")(x)[1], second_differences(vector, x)[1])


def test_a_function_is_traced_once_per_abstract_input(empty_cache):
    calls = []

    def f(x):
        calls.append(x)
        return jnp.sum(jnp.sin(x) * x[0])

    read_all_ways(hessian(f)(X))
    traced = len(calls)
    for scale in (2, 3):
        read_all_ways(hessian(f)(scale * X))
    assert len(calls) == traced
