"""Views inside, into and out of jit, grad, vmap and scan; traced indices; mistakes that must raise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from reference import assert_close, central_differences, dense, is_view, passes, views

from jacobia import hessian, jacobian, materialize, value_and_jacobian

RNG = np.random.default_rng(5)
W = RNG.normal(size=(5, 4)).astype(np.float32)
X = RNG.normal(size=4).astype(np.float32)
BATCH = RNG.normal(size=(3, 4)).astype(np.float32)
REFUSALS = (TypeError, ValueError, RuntimeError)


def layer(x):
    return jnp.tanh(W @ x)


def closed_form(x):
    x = np.asarray(x, np.float64)
    return (1 - np.tanh(W @ x) ** 2)[:, None] * W


def jnp_closed_form(x):
    return (1 - jnp.tanh(W @ x) ** 2)[:, None] * W


DENSE = closed_form(X)
DENSE_BATCH = np.stack([closed_form(x) for x in BATCH])


# jit


KEYS = [
    1,
    -1,
    slice(1, 4),
    (slice(None), 2),
    (2, 1),
    [3, 0, 3],
    ...,
    slice(0, 0),
    (slice(0, 2), slice(1, 3)),
    None,
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_keys_inside_jit(key):
    assert_close(jax.jit(lambda x: jacobian(layer)(x)[key])(X), DENSE[key])


def test_three_rows_inside_jit_cost_three_rows():
    matrix = jnp.asarray(RNG.normal(size=(300, 300)), jnp.float32)

    def f(x):
        return jnp.tanh(matrix @ x)

    def flops(g):
        return jax.jit(g).lower(np.ones(300, np.float32)).compile().cost_analysis()["flops"]

    rows, everything = flops(lambda x: jacobian(f)(x)[1:4]), flops(lambda x: jax.jacrev(f)(x)[1:4])
    column = flops(lambda x: jacobian(f)(x)[:, 1])
    assert rows < everything / 20
    assert column < everything / 20


def test_a_view_comes_out_of_jit():
    J = jax.jit(jacobian(layer))(X)
    assert is_view(J) and J.shape == (5, 4)
    assert passes(J) == 0
    assert_close(J[1:3], DENSE[1:3])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (2, 0)
    assert_close(J.value, np.tanh(W @ X))
    assert_close(J[...], DENSE)


def test_a_view_with_a_traced_array_closed_over_comes_out_of_jit_again_and_again():
    # JAX fixes the number of leaves at the first result, and would write out of bounds if a later result had more.
    view = jax.jit(lambda w, x: jacobian(lambda x: jnp.sin(w @ x))(x))
    w, x = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.linspace(0, 1, 4, dtype=np.float32)
    for scale in (1, 2, 3, 4):
        J = view(scale * w, x)
        assert len(jax.tree.leaves(J)) == 3
        np.testing.assert_allclose(J[1], np.cos(scale * w[1] @ x) * scale * w[1], rtol=1e-4, atol=1e-5)
        assert jax.tree.structure(J) == jax.tree.structure(jax.tree.map(lambda a: a, J))


def test_a_view_goes_into_jit():
    J = jacobian(layer)(X)
    J[0]
    read = jax.jit(lambda J, s: s * J[1:3])
    assert_close(read(J, 2.0), 2 * DENSE[1:3])
    assert_close(read(jacobian(layer)(BATCH[0]), 2.0), 2 * DENSE_BATCH[0][1:3])
    assert_close(jax.jit(lambda J: jnp.sum(J, axis=0))(J), DENSE.sum(0))
    assert_close(jax.jit(lambda J: J.T[2])(J), DENSE[:, 2])


def test_a_view_goes_through_jit_and_starts_empty():
    J = jacobian(layer)(X)
    J[0], J[1]
    K = jax.jit(lambda J: J)(J)
    assert is_view(K) and passes(K) == 0 and K.stats.nbytes == 0
    assert_close(K[...], DENSE)
    for look in (lambda J: J.T, lambda J: J.matrix):
        L = jax.jit(look)(J)
        assert_close(L[...], look(DENSE) if look(J).shape == (4, 5) else DENSE)


def test_a_transposed_view_goes_into_jit():
    assert_close(jax.jit(lambda T: T[1])(jacobian(layer)(X).T), DENSE[:, 1])


def test_a_view_is_closed_over_by_a_jitted_function():
    J = jacobian(layer)(X)
    assert_close(jax.jit(lambda s: s * J[0])(2.0), 2 * DENSE[0])
    assert_close(jax.jit(lambda s: s * J[:, 1])(2.0), 2 * DENSE[:, 1])
    assert_close(jax.jit(lambda i: J[i])(3), DENSE[3])
    assert_close(J[...], DENSE)


def test_a_tree_of_views_goes_through_jit():
    params = {"w": jnp.asarray(W), "b": jnp.ones(5)}

    def f(p, x):
        return p["w"] @ x + p["b"]

    J = jax.jit(jacobian(f))(params, X)
    assert set(J) == {"w", "b"} and len(views(J)) == 2
    reference = central_differences(f, params, X)
    assert_close(dense(J), reference)
    rows = jax.jit(lambda J: materialize(J, 2))(J)
    assert_close(rows, jax.tree.map(lambda block: block[2], reference))
    inside = jax.jit(lambda p, x: materialize(jacobian(f)(p, x), slice(0, 2)))(params, X)
    assert_close(inside, jax.tree.map(lambda block: block[0:2], reference))


def test_aux_and_value_inside_jit():
    @jax.jit
    def f(x):
        J, aux = jacobian(lambda x: (layer(x), jnp.sum(x)), has_aux=True)(x)
        return J[0], J.value, aux

    assert_close(f(X), (DENSE[0], np.tanh(W @ X), np.sum(X)))


def test_products_inside_jit():
    v, u = np.ones(4, np.float32), np.ones(5, np.float32)
    assert_close(jax.jit(lambda x: jacobian(layer)(x).mv(v))(X), DENSE @ v)
    assert_close(jax.jit(lambda x: jacobian(layer)(x).vm(u))(X), u @ DENSE)


# Traced indices


INDICES = [0, 2, 4, -1, -5, 5, 9, -6, -9]


@pytest.mark.parametrize("i", INDICES)
def test_traced_indices_wrap_negatives_and_clamp(i):
    dense_row = jax.jit(lambda a, i: a[i])(jnp.asarray(DENSE, jnp.float32), i)
    dense_column = jax.jit(lambda a, i: a[:, i])(jnp.asarray(DENSE, jnp.float32), i)
    assert_close(traced_row(X, i), dense_row)
    assert_close(traced_column(X, i), dense_column)
    assert_close(traced_entry(X, i, 1), dense_row[1])
    assert np.any(np.asarray(traced_row(X, i)))  # a one-hot seed beyond the end would give zeros


traced_row = jax.jit(lambda x, i: jacobian(layer)(x)[i])
traced_column = jax.jit(lambda x, i: jacobian(layer)(x)[:, i])
traced_entry = jax.jit(lambda x, i, j: jacobian(layer)(x)[i, j])
traced_rows = jax.jit(lambda x, rows: jacobian(layer)(x)[rows])


def test_traced_index_arrays():
    for rows in ([0, 3], [-1, 4], [2, 2], [7, -8]):
        rows = np.array(rows)
        expected = jax.jit(lambda a, rows: a[rows])(jnp.asarray(DENSE, jnp.float32), rows)
        assert_close(traced_rows(X, rows), expected)


def test_a_concrete_view_takes_a_traced_index():
    J = jacobian(layer)(X)
    read = jax.jit(lambda i: J[i])
    for i in INDICES:
        assert_close(read(i), jax.jit(lambda a, i: a[i])(jnp.asarray(DENSE, jnp.float32), i))


def test_a_traced_index_in_a_loop():
    def total(x):
        J = jacobian(layer)(x)
        return jax.lax.fori_loop(0, 5, lambda i, acc: acc + J[i], jnp.zeros(4))

    assert_close(jax.jit(total)(X), DENSE.sum(0))
    assert_close(total(X), DENSE.sum(0))


def test_vmap_over_indices():
    J = jacobian(layer)(X)
    assert_close(jax.vmap(lambda i: J[i])(jnp.array([3, 1])), DENSE[[3, 1]])


# grad and nesting


def test_grad_through_a_row():
    weights = np.linspace(1, 2, 4, dtype=np.float32)

    def loss(x):
        return jacobian(layer)(x)[1] @ weights

    expected = central_differences(lambda x: jnp_closed_form(x)[1] @ weights, X)
    assert_close(jax.grad(loss)(X), expected)
    assert_close(jax.jit(jax.grad(loss))(X), expected)


READS = {
    "column": (lambda J: jnp.sum(J[:, 2] ** 2), lambda x, a: jnp.sum(a[:, 2] ** 2)),
    "entry": (lambda J: J[2, 1], lambda x, a: a[2, 1]),
    "function of all": (lambda J: jnp.sum(jnp.sin(J)), lambda x, a: jnp.sum(jnp.sin(a))),
    "all": (lambda J: jnp.sum(J[...] ** 2), lambda x, a: jnp.sum(a**2)),
    "transpose": (lambda J: jnp.sum(J.T[0] ** 2), lambda x, a: jnp.sum(a[:, 0] ** 2)),
    "mv": (lambda J: jnp.sum(J.mv(jnp.ones(4)) ** 2), lambda x, a: jnp.sum(jnp.sum(a, 1) ** 2)),
    "vm": (lambda J: jnp.sum(J.vm(jnp.ones(5)) ** 2), lambda x, a: jnp.sum(jnp.sum(a, 0) ** 2)),
    "value": (lambda J: jnp.sum(J[0]) + jnp.sum(J.value), lambda x, a: jnp.sum(a[0]) + jnp.sum(layer(x))),
}


@pytest.mark.parametrize("read, of_array", READS.values(), ids=READS.keys())
def test_grad_through_any_read(read, of_array):
    expected = central_differences(lambda x: of_array(x, jnp_closed_form(x)), X)
    assert_close(jax.grad(lambda x: read(jacobian(layer)(x)))(X), expected)


def test_value_and_grad_with_parameters():
    def loss(scale, x):
        return jnp.sum(jacobian(lambda x: scale * layer(x))(x)[0:2] ** 2)

    expected = 2 * 3.0 * np.sum(DENSE[0:2] ** 2)
    assert_close(jax.grad(loss)(3.0, X), np.asarray(expected))


def test_forward_mode_through_a_row():
    direction = np.ones(4, np.float32)
    row, tangent = jax.jvp(lambda x: jacobian(layer)(x)[1], (X,), (direction,))
    second = central_differences(lambda x: jnp_closed_form(x)[1], X)
    assert_close((row, tangent), (DENSE[1], second @ direction))


SECOND = central_differences(jnp_closed_form, X)


def test_nested_jacobians():
    H = jacobian(jacobian(layer))(X)
    assert is_view(H) and H.shape == (5, 4, 4)
    assert_close(H[1], SECOND[1])
    assert_close(H[...], SECOND)
    assert_close(jacobian(lambda x: jacobian(layer)(x)[...])(X)[...], SECOND)
    assert_close(jacobian(lambda x: jacobian(layer)(x)[1:3])(X)[:, 2], SECOND[1:3, 2])


def test_nested_jacobians_with_jax_ones():
    assert_close(jax.jacfwd(lambda x: jacobian(layer)(x)[...])(X), SECOND)
    assert_close(jax.jacrev(lambda x: jacobian(layer)(x)[...])(X), SECOND)
    assert_close(jacobian(jax.jacrev(layer))(X)[...], SECOND)
    assert_close(jax.hessian(lambda x: jnp.sum(layer(x) ** 3))(X), jacobian(jacobian(cubes))(X)[...])


def cubes(x):
    return jnp.sum(layer(x) ** 3)


def test_nested_jacobians_of_trees():
    f = lambda p: p["a"] ** 2 * p["b"]  # noqa: E731
    p = {"a": np.float32(2), "b": np.float32(3)}
    H = jacobian(jacobian(f))(p)
    expected = {"a": {"a": 6.0, "b": 4.0}, "b": {"a": 4.0, "b": 0.0}}
    assert_close(dense(H), jax.tree.map(np.float32, expected))


def test_nested_jacobians_inside_jit():
    assert_close(jax.jit(lambda x: jacobian(jacobian(layer))(x)[2])(X), SECOND[2])


# vmap


def test_vmap_returns_a_lazy_batched_view():
    J = jax.vmap(jacobian(layer))(BATCH)
    assert is_view(J)
    assert (J.shape, J.ndim, J.dtype, len(J)) == ((3, 5, 4), 3, jnp.float32, 3)
    assert passes(J) == 0
    assert_close(J[...], DENSE_BATCH)


BATCH_KEYS = [
    0,
    -1,
    slice(0, 2),
    (slice(None), 1),
    (..., 2),
    (1, 2, 3),
    ([2, 0], [1, 1]),
    (slice(None), slice(1, 3)),
]


@pytest.mark.parametrize("key", [*BATCH_KEYS, None, slice(0, 0)], ids=repr)
def test_keys_of_a_batched_view(key):
    J = jax.vmap(jacobian(layer))(BATCH)
    assert_close(J[key], DENSE_BATCH[key])
    assert_close(np.asarray(J)[key], DENSE_BATCH[key])


def test_a_row_of_every_sample_is_one_pullback():
    J = jax.vmap(jacobian(layer))(BATCH)
    assert_close(J[:, 1:3], DENSE_BATCH[:, 1:3])
    assert (J.stats.pullbacks, J.stats.pushforwards) == (2, 0)


def test_out_of_range_in_a_batched_view():
    J = jax.vmap(jacobian(layer))(BATCH)
    with pytest.raises(IndexError):
        J[3]
    with pytest.raises(IndexError):
        J[0, 5]
    assert passes(J) == 0


def test_vmap_of_reads_inside():
    assert_close(jax.vmap(lambda x: jacobian(layer)(x)[1:3])(BATCH), DENSE_BATCH[:, 1:3])
    assert_close(jax.vmap(lambda x: jacobian(layer)(x)[:, 0], out_axes=1)(BATCH), DENSE_BATCH[:, :, 0].T)
    assert_close(jax.jit(jax.vmap(lambda x: jacobian(layer)(x)[0]))(BATCH), DENSE_BATCH[:, 0])


def test_vmap_with_other_in_axes():
    assert_close(jax.vmap(jacobian(layer), in_axes=1)(BATCH.T)[...], DENSE_BATCH)
    f = lambda w, x: jnp.tanh(w @ x)  # noqa: E731
    J = jax.vmap(jacobian(f, 1), in_axes=(None, 0))(W, BATCH)
    assert_close(J[...], DENSE_BATCH)


def test_vmap_over_a_batched_view():
    J = jax.vmap(jacobian(layer))(BATCH)
    assert_close(jax.vmap(lambda view: view[1])(J), DENSE_BATCH[:, 1])
    assert_close(jax.vmap(lambda view: view.T[1])(J), DENSE_BATCH[:, :, 1])


def test_vmap_twice():
    X2 = np.stack([BATCH, 2 * BATCH])
    J = jax.vmap(jax.vmap(jacobian(layer)))(X2)
    assert J.shape == (2, 3, 5, 4)
    assert_close(J[0], DENSE_BATCH)
    assert_close(J[...], np.stack([DENSE_BATCH, [closed_form(x) for x in X2[1]]]))


def test_vmap_and_jit():
    assert_close(jax.jit(jax.vmap(jacobian(layer)))(BATCH)[1], DENSE_BATCH[1])
    assert_close(jax.vmap(jax.jit(jacobian(layer)))(BATCH)[:, 2], DENSE_BATCH[:, 2])


@pytest.mark.parametrize("out_axes", [1, -1])
@pytest.mark.parametrize("size", [3, 4], ids=["3 samples", "as many samples as inputs"])
def test_vmap_with_other_out_axes_raises(out_axes, size):
    batch = np.concatenate([BATCH, BATCH])[:size]
    with pytest.raises(REFUSALS):
        np.asarray(jax.vmap(jacobian(layer), out_axes=out_axes)(batch))


@pytest.mark.parametrize("out_axes", [1, -1])
def test_vmap_over_a_view_with_other_out_axes_raises(out_axes):
    J = jax.vmap(jacobian(layer))(np.concatenate([BATCH, BATCH[:1]]))
    with pytest.raises(REFUSALS):
        np.asarray(jax.vmap(lambda view: view, out_axes=out_axes)(J))


# scan and other control flow


def test_reads_inside_scan():
    def step(x, _):
        row = jacobian(layer)(x)[0]
        return x - 0.1 * row, row

    last, rows = jax.lax.scan(step, jnp.asarray(X), None, length=3)
    x, expected = X.astype(np.float64), []
    for _ in range(3):
        expected.append(closed_form(x)[0])
        x = x - 0.1 * expected[-1]
    assert_close((last, rows), (x, np.stack(expected)))


def test_views_come_out_of_scan():
    _, J = jax.lax.scan(lambda c, x: (c, jacobian(layer)(x)), 0.0, BATCH)
    assert is_view(J) and J.shape == (3, 5, 4)
    assert_close(J[:, 1], DENSE_BATCH[:, 1])
    assert_close(J[...], DENSE_BATCH)


def test_a_batched_view_is_scanned_over():
    J = jax.vmap(jacobian(layer))(BATCH)
    _, rows = jax.lax.scan(lambda c, view: (c, view[2]), 0.0, J)
    assert_close(rows, DENSE_BATCH[:, 2])


def test_a_view_is_carried_by_scan():
    J = jacobian(layer)(X)
    last, rows = jax.lax.scan(lambda view, i: (view, view[i]), J, jnp.array([1, 3]))
    assert_close(rows, DENSE[[1, 3]])
    assert_close(last[...], DENSE)


def test_reads_inside_cond_and_checkpoint():
    read = jax.jit(lambda flag, x: jax.lax.cond(flag, lambda: jacobian(layer)(x)[0], lambda: jnp.zeros(4)))
    assert_close(read(True, X), DENSE[0])
    assert_close(read(False, X), np.zeros(4))
    assert_close(jax.checkpoint(lambda x: jacobian(layer)(x)[0])(X), DENSE[0])


# Modes of JAX


def test_disable_jit():
    with jax.disable_jit():
        J = jacobian(layer)(X)
        assert_close(J[1:3], DENSE[1:3])
        assert_close(J[:, 1], DENSE[:, 1])
        assert_close(J[...], DENSE)
        assert_close(jax.vmap(jacobian(layer))(BATCH)[0], DENSE_BATCH[0])
    assert_close(jacobian(layer)(X)[1:3], DENSE[1:3])


def test_debug_nans():
    with jax.debug_nans(True):
        J = jacobian(lambda x: jnp.sqrt(x))(np.array([1.0, 4.0], np.float32))
        assert_close(J[0], np.array([0.5, 0]))
        assert_close(J[...], np.diag([0.5, 0.25]))
        with pytest.raises(FloatingPointError):
            np.asarray(jacobian(lambda x: jnp.log(x - 2) * x)(np.array([1.0], np.float32))[...])


# Traps


def trap_views():
    return {
        "view": jacobian(layer)(X),
        "transpose": jacobian(layer)(X).T,
        "batched": jax.vmap(jacobian(layer))(BATCH),
        "from jit": jax.jit(jacobian(layer))(X),
        "leaf of a tree": jacobian(lambda p: layer(p["x"]))({"x": X})["x"],
    }


@pytest.mark.parametrize("name", ["view", "transpose", "batched", "from jit", "leaf of a tree"])
@pytest.mark.parametrize(
    "trap",
    [
        lambda J: jax.tree.map(lambda leaf: leaf + 1, J),
        lambda J: jax.tree.map(lambda leaf: 2 * leaf, {"J": J}),
        lambda J: jax.tree.map(jnp.add, J, J),
        lambda J: ravel_pytree(J),
        lambda J: ravel_pytree([J, J]),
    ],
    ids=["add", "scale", "sum", "ravel", "ravel two"],
)
def test_tree_arithmetic_on_a_view_raises(name, trap):
    J = trap_views()[name]
    with pytest.raises(REFUSALS):
        trap(J)


@pytest.mark.parametrize("name", ["view", "transpose", "batched", "from jit", "leaf of a tree"])
@pytest.mark.parametrize(
    "change", [jnp.zeros_like, jnp.ones_like, jnp.flip, lambda a: jnp.roll(a, 1), jnp.isfinite, jnp.shape, np.size,
               lambda a: jnp.full_like(a, 2), lambda a: jnp.zeros(a.shape, a.dtype)]
)  # fmt: skip
def test_a_view_of_other_leaves_is_not_read(name, change):
    J = trap_views()[name]
    for read in (lambda K: K[0], lambda K: K[...], lambda K: K.row_norms(), lambda K: K.nonzeros()):
        with pytest.raises(REFUSALS, match=r"Write J\[...\] there"):
            read(jax.tree.map(change, J))
    assert_close(jax.tree.map(lambda a: a.copy(), J)[0], np.asarray(J[0]))


@pytest.mark.parametrize("made", [jacobian(layer), hessian(lambda x: jnp.sum(layer(x))), value_and_jacobian(layer)])
def test_a_derivative_of_a_view_is_no_view(made):
    for derivative in (
        lambda: jax.jvp(made, (X,), (X,)),
        lambda: jax.linearize(made, X)[1](X),
        lambda: jax.jit(lambda x: jax.jvp(made, (x,), (x,)))(X),
        lambda: jax.jvp(jax.vmap(made), (BATCH,), (BATCH,)),
    ):
        with pytest.raises(ValueError, match=r"as jax\.jvp, .* Write J\[...\] there: return it"):
            derivative()
    read = lambda x: jax.tree.map(lambda J: J[...], made(x), is_leaf=is_view)  # noqa: E731
    assert jax.tree.leaves(jax.jvp(read, (X,), (X,))[1])


@pytest.mark.parametrize(
    "call",
    [
        lambda J: jax.lax.sin(J),
        lambda J: jax.lax.add(J, J),
        lambda J: jax.lax.dot(J, J),
        lambda J: jax.lax.transpose(J, (1, 0)),
    ],
    ids=["sin", "add", "dot", "transpose"],
)
def test_lax_functions_on_a_view_raise(call):
    with pytest.raises(REFUSALS):
        call(jacobian(layer)(X))


def test_flattening_and_putting_together_gives_the_view_back():
    J = jacobian(layer)(X)
    J[0]
    leaves, tree = jax.tree.flatten(J)
    K = jax.tree.unflatten(tree, leaves)
    assert is_view(K) and K.stats.nbytes == 0
    assert_close(K[...], DENSE)


def test_views_of_one_function_at_two_points_share_a_compiled_function():
    traced = []

    @jax.jit
    def read(J):
        traced.append(J)
        return J[1]

    for x in BATCH:
        assert_close(read(jacobian(layer)(x)), closed_form(x)[1])
    assert len(traced) == 1


def test_closed_over_constants_are_no_leaves():
    big = jnp.ones((7, 4))
    J = jacobian(lambda x: big @ x)(X)
    assert all(np.shape(leaf) != (7, 4) for leaf in jax.tree.leaves(J))


def test_block_until_ready_takes_a_view():
    J = jax.block_until_ready(jacobian(layer)(X))
    assert_close(J[...], DENSE)
