"""Nonzeros by given patterns and colorings, compared with derivatives written out in NumPy.

Shapes: M outputs, N inputs, B samples, nnz stored entries.
"""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

import jacobia
from jacobia import Coloring, Pattern, coloring, hessian, jacobian, sparsity_pattern

pytestmark = pytest.mark.slow

PARTITIONS = ("rows", "columns", "both")
# An arrow with a full first row and column: both directions together take the fewest colors.
ARROW = np.array([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 0, 9, 0, 0], [1, 0, 0, 3, 0]], np.float32)
RANDOM = np.array([[0, 2, 0, 0, 1], [3, 0, 0, 4, 0], [0, 5, 6, 0, 0], [0, 0, 0, 0, 0]], np.float32)
X = np.linspace(0.2, 1, 5, dtype=np.float32)
MATRICES = {
    "arrow": ARROW,
    "random": RANDOM,
    "tall": RANDOM[:, :2],
    "wide": RANDOM[:1],
    "one": np.ones((1, 1), np.float32),
    "full": np.arange(1, 7, dtype=np.float32).reshape(3, 2),
    "none": np.zeros((2, 3), np.float32),
    "no rows": np.zeros((0, 3), np.float32),
    "no columns": np.zeros((3, 0), np.float32),
}
# A symmetric matrix: a grid of three by two.
GRID = np.diag(np.arange(1.0, 7)) + sum(
    w * (np.eye(6)[[a]].T @ np.eye(6)[[b]] + np.eye(6)[[b]].T @ np.eye(6)[[a]])
    for w, a, b in [(2, 0, 1), (3, 1, 2), (4, 3, 4), (5, 4, 5), (6, 0, 3), (7, 1, 4), (8, 2, 5)]
).astype(np.float32)


def of_matrix(A):
    """A function whose Jacobian is A cos(x), column by column."""
    return lambda x: jnp.asarray(A) @ jnp.sin(x)


def jacobian_of(A, x):
    return A * np.cos(x)


def energy(x):
    """Its Hessian at x is GRID * (x_i x_j) + diag(GRID x * cosh x) by the product rule, with s = sinh x."""
    s = jnp.sinh(x)
    return 0.5 * s @ jnp.asarray(GRID, x.dtype) @ s


def hessian_of_energy(x):
    s, c = np.sinh(x), np.cosh(x)
    return GRID * np.outer(c, c) + np.diag((GRID @ s) * s)


def points(A):
    return np.linspace(0.2, 1, A.shape[1], dtype=np.float32)


def scattered(nonzeros, shape):
    data, rows, cols = nonzeros
    out = np.zeros((*data.shape[:-1], *shape), np.asarray(data).dtype)
    out[..., np.asarray(rows), np.asarray(cols)] = data
    return out


def given(A, partition):
    pattern = Pattern.from_dense(A)
    return pattern if partition == "pattern" else coloring(pattern, partition)


# Every partition


@pytest.mark.parametrize("partition", ["pattern", "auto", *PARTITIONS])
@pytest.mark.parametrize("name", MATRICES)
def test_nonzeros_are_those_of_the_matrix(name, partition):
    A = MATRICES[name]
    x = points(A)
    J = jacobian(of_matrix(A), sparsity=given(A, partition))(x)
    data, rows, cols = J.nonzeros()
    assert data.dtype == np.float32 and data.shape == (np.count_nonzero(A),)
    np.testing.assert_array_equal((rows, cols), np.nonzero(A))
    assert_close(scattered((data, rows, cols), A.shape), jacobian_of(A, x))
    assert_close(J[...], jacobian_of(A, x))
    if name not in ("no rows", "no columns"):
        assert_close(np.asarray(J.to_bcoo().todense()), jacobian_of(A, x))
        assert_close(np.asarray(J.to_bcsr().todense()), jacobian_of(A, x))
        assert_close(J.to_scipy("csc").toarray(), jacobian_of(A, x))
    assert_close(scattered(J.T.nonzeros(), A.T.shape), jacobian_of(A, x).T)
    assert J.T.pattern == J.pattern.T == Pattern.from_dense(A.T)


@pytest.mark.parametrize("partition", ["pattern", "auto", *PARTITIONS, "symmetric"])
@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_nonzeros_of_a_hessian(partition, mode):
    x = np.linspace(-0.5, 1, 6, dtype=np.float32)
    H = hessian(energy, sparsity=given(GRID, partition), mode=mode)(x)
    assert_close(scattered(H.nonzeros(), (6, 6)), hessian_of_energy(x))
    assert_close(scattered(H.T.nonzeros(), (6, 6)), hessian_of_energy(x))
    assert H.stats.pullbacks + H.stats.pushforwards == H.coloring.num_colors
    assert H.stats.pullbacks == (H.coloring.num_colors if mode == "rev" else 0)


def test_a_symmetric_coloring_of_a_jacobian_that_is_symmetric():
    x = np.linspace(-0.5, 1, 6, dtype=np.float32)
    J = jacobian(jax.grad(energy), sparsity=given(GRID, "symmetric"))(x)
    assert_close(scattered(J.nonzeros(), (6, 6)), hessian_of_energy(x))


def test_the_hessian_of_several_outputs():
    def f(x):
        return jnp.stack([x[0] ** 3, x[0] * x[1], jnp.sin(x[2])])

    x = np.array([0.5, 2, 1], np.float32)
    expected = np.zeros((3, 3, 3), np.float32)
    expected[0, 0, 0], expected[1, 0, 1], expected[1, 1, 0], expected[2, 2, 2] = 3, 1, 1, -np.sin(1)
    pattern = Pattern.from_dense(expected.reshape(9, 3))
    H = hessian(f, sparsity=pattern)(x)
    assert_close(scattered(H.nonzeros(), (9, 3)), expected.reshape(9, 3))
    assert_close(H[...], expected)
    with pytest.raises(ValueError, match=r"coloring\(pattern, 'columns'\)"):
        hessian(f, sparsity=coloring(pattern, "rows"))(x).nonzeros()


def test_complex():
    A = ARROW + 1j * ARROW
    z = (X + 0.3j).astype(np.complex64)
    for partition in PARTITIONS:
        J = jacobian(lambda z: jnp.asarray(A, z.dtype) @ jnp.sin(z), holomorphic=True, sparsity=given(A, partition))(z)
        assert_close(scattered(J.nonzeros(), A.shape), (A * np.cos(z)).astype(np.complex64))


def test_float64(x64):
    x = X.astype(np.float64)
    J = jacobian(of_matrix(ARROW.astype(np.float64)), sparsity=given(ARROW, "both"))(x)
    assert J.nonzeros()[0].dtype == np.float64
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW.astype(np.float64), x))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_0_d_inputs_and_outputs(partition):
    J = jacobian(jnp.sin, sparsity=given(np.ones((1, 1)), partition))(np.float32(0.5))
    assert_close(J.nonzeros()[0], np.cos(np.array([0.5], np.float32)))


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_colors_in_chunks(partition, chunk_size):
    J = jacobian(of_matrix(ARROW), sparsity=given(ARROW, partition), chunk_size=chunk_size)(X)
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


def test_chunks_are_a_loop():
    def program(**options):
        jac = jacobian(of_matrix(ARROW), sparsity=given(ARROW, "columns"), **options)
        return str(jax.make_jaxpr(lambda x: jac(x).nonzeros()[0])(X))

    assert "scan" in program(chunk_size=2) and "scan" not in program()
    assert "scan" in program(memory_limit=300)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_trees_by_ravel(partition):
    def f(p):
        return {"a": p["x"] ** 2, "b": (p["y"][1:2] * p["x"][0, 1],)}

    p = {"x": np.array([[1, 2]], np.float32), "y": np.array([3, 4, 5], np.float32)}
    expected = np.array([[2, 0, 0, 0, 0], [0, 4, 0, 0, 0], [0, 4, 0, 2, 0]], np.float32)
    J = jacobian(f, ravel=True, sparsity=given(expected, partition))(p)
    assert_close(scattered(J.nonzeros(), (3, 5)), expected)


def test_a_hessian_of_a_tree_by_ravel():
    A = np.array([[2, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    p = {"x": np.ones(1, np.float32), "y": np.array([3, 4], np.float32)}
    H = hessian(lambda p: p["x"][0] ** 2 + p["y"][0] * p["y"][1], ravel=True, sparsity=Pattern.from_dense(A))(p)
    assert_close(scattered(H.nonzeros(), (3, 3)), A)


@pytest.mark.parametrize("chunk_size", ["auto", 2])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_python_control_flow(partition, chunk_size):
    def f(x):
        return of_matrix(ARROW)(x) if x[0] > 0 else x[:4]

    J = jacobian(f, jit=False, sparsity=given(ARROW, partition), chunk_size=chunk_size)(X)
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


# Samples


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS])
@pytest.mark.parametrize("axis", [0, -1])
def test_the_pattern_of_one_sample(axis, partition):
    samples = np.stack([X, X + 1, X - 2])
    f = jax.vmap(of_matrix(ARROW), in_axes=axis, out_axes=axis)
    J = jacobian(f, batch_axis=axis, sparsity=given(ARROW, partition))(np.moveaxis(samples, 0, axis))
    expected = np.stack([jacobian_of(ARROW, x) for x in samples])
    assert J.nonzeros()[0].shape == (3, np.count_nonzero(ARROW))
    assert_close(scattered(J.nonzeros(), ARROW.shape), expected)
    assert_close(np.asarray(J.to_bcoo().todense()), expected)
    assert J.pattern.shape == ARROW.shape


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS, "symmetric"])
def test_hessians_of_samples(partition):
    samples = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    H = hessian(jax.vmap(energy), batch_axis=0, sparsity=given(GRID, partition))(samples)
    assert_close(scattered(H.nonzeros(), (6, 6)), np.stack([hessian_of_energy(x) for x in samples]))


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS])
def test_vmap_of_the_transform(partition):
    samples = np.stack([X, X + 1, X - 2])
    expected = np.stack([jacobian_of(ARROW, x) for x in samples])
    jac = jacobian(of_matrix(ARROW), sparsity=given(ARROW, partition))
    J = jax.vmap(jac)(samples)
    assert_close(scattered(J.nonzeros(), ARROW.shape), expected)
    inside = jax.vmap(lambda x: jac(x).nonzeros()[0])(samples)
    assert_close(inside, J.nonzeros()[0])


def test_no_samples():
    f = jax.vmap(of_matrix(ARROW))
    J = jacobian(f, batch_axis=0, sparsity=given(ARROW, "columns"))(np.zeros((0, 5), np.float32))
    assert J.nonzeros()[0].shape == (0, np.count_nonzero(ARROW))


# Inside transformations


@pytest.mark.parametrize("partition", PARTITIONS)
def test_jit_with_a_coloring_closed_over(partition):
    own = given(ARROW, partition)
    out = jax.jit(lambda x: jacobian(of_matrix(ARROW), sparsity=own)(x).nonzeros()[0])(X)
    assert_close(out, jacobian_of(ARROW, X)[ARROW != 0])


@pytest.mark.parametrize("partition", PARTITIONS)
def test_jit_with_a_coloring_as_argument(partition):
    traces = []

    @jax.jit
    def read(x, own):
        traces.append(own)
        J = jacobian(of_matrix(ARROW), sparsity=own)(x)
        return J.nonzeros(), J.T.nonzeros(), J.to_bcoo().todense(), J.to_bcsr().todense()

    for k, A in enumerate((ARROW, np.where(ARROW, ARROW, 0))):
        own = given(A, partition)
        nonzeros, turned, bcoo, bcsr = read(X + k, own)
        expected = jacobian_of(ARROW, X + k)
        for matrix in (scattered(nonzeros, A.shape), scattered(turned, A.T.shape).T, bcoo, bcsr):
            assert_close(np.asarray(matrix), expected)
    assert len(traces) == 1


def test_jit_with_a_hessian_coloring_as_argument():
    x = np.linspace(-0.5, 1, 6, dtype=np.float32)
    read = jax.jit(lambda x, own: hessian(energy, sparsity=own)(x).nonzeros())
    assert_close(scattered(read(x, given(GRID, "symmetric")), (6, 6)), hessian_of_energy(x))


def test_what_a_traced_pattern_can_do():
    pattern = Pattern.from_dense(ARROW)
    with pytest.raises(TypeError, match=r"jacobia.coloring\(pattern\)"):
        jax.jit(lambda x, p: jacobian(of_matrix(ARROW), sparsity=p)(x).nonzeros()[0])(X, pattern)
    with pytest.raises(TypeError, match=r"Read J.nonzeros\(\) there"):
        jax.jit(lambda x, c: jacobian(of_matrix(ARROW), sparsity=c)(x))(X, coloring(pattern))
    shape = jax.jit(lambda x, p: jacobian(of_matrix(ARROW), sparsity=p)(x).pattern)(X, pattern)
    assert shape == pattern


def test_a_coloring_that_came_out_of_jit():
    own = jax.jit(lambda c: c)(given(np.eye(5), "both"))
    jac = jacobian(sine, sparsity=own)
    assert_close(jax.jit(lambda x: jac(x).nonzeros()[0])(X), np.cos(X))
    assert_close(jac(X).nonzeros()[0], np.cos(X))
    J = jacobian(of_matrix(ARROW), sparsity=jax.jit(lambda c: c)(given(ARROW, "both")))(X)
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


def test_a_view_leaves_jit_with_its_coloring():
    jac = jacobian(of_matrix(ARROW), sparsity=given(ARROW, "both"))
    J = jax.jit(jac)(X)
    assert J.coloring == given(ARROW, "both")
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_grad_through_nonzeros(partition):
    jac = jacobian(of_matrix(ARROW), sparsity=given(ARROW, partition))
    weights = np.arange(1, np.count_nonzero(ARROW) + 1, dtype=np.float32)
    slope = jax.grad(lambda x: jac(x).nonzeros()[0] @ weights)(X)
    full = np.zeros(ARROW.shape, np.float32)
    full[np.nonzero(ARROW)] = weights
    assert_close(slope, -(full * ARROW).sum(0) * np.sin(X))


def sine(x):
    return jnp.sin(x)


def test_copies_and_pickles():
    J = jacobian(sine, sparsity=given(np.tri(5), "columns"))(X)  # more entries than J has
    for other in (copy.copy(J), copy.deepcopy(J), pickle.loads(pickle.dumps(J))):
        assert_close(scattered(other.nonzeros(), (5, 5)), np.diag(np.cos(X)))
        assert other.coloring == J.coloring


# Programs that can't be walked, or lack a direction


def called_back(A, forward=None):
    """A sin(x) by NumPy, with A cos(x) t as its rule."""

    @jax.custom_jvp
    def f(x):
        out = jax.ShapeDtypeStruct(A.shape[:1], x.dtype)
        return jax.pure_callback(lambda x: (A @ np.sin(x)).astype(x.dtype), out, x, vmap_method="sequential")

    @f.defjvp
    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), jnp.asarray(A) @ (jnp.cos(x) * t)

    return f


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS])
def test_a_callback(partition):
    J = jacobian(called_back(ARROW), sparsity=given(ARROW, partition))(X)
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


def test_a_callback_as_the_derivative():
    """Forward only: what a callback does to tangents can't be transposed."""

    @jax.custom_jvp
    def f(x):
        return jnp.asarray(ARROW) @ jnp.sin(x)

    @f.defjvp
    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        shape = jax.ShapeDtypeStruct((4,), x.dtype)
        push = lambda x, t: ((ARROW * np.cos(x)[..., None, :]) @ t[..., None])[..., 0].astype(x.dtype)  # noqa: E731
        return f(x), jax.pure_callback(push, shape, x, t, vmap_method="broadcast_all")

    for own in (Pattern.from_dense(ARROW), given(ARROW, "columns")):
        J = jacobian(f, sparsity=own)(X)
        assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))
        assert J.stats.pullbacks == 0
    for partition in ("rows", "both"):
        J = jacobian(f, sparsity=given(ARROW, partition))(X)
        with pytest.raises(ValueError, match=r"pullbacks.*coloring\(pattern, 'columns'\) takes pushforwards"):
            J.nonzeros()


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS])
def test_custom_vjp(partition):
    @jax.custom_vjp
    def f(x):
        return jnp.asarray(ARROW) @ jnp.sin(x)

    f.defvjp(lambda x: (f(x), x), lambda x, u: ((u @ jnp.asarray(ARROW)) * jnp.cos(x),))
    J = jacobian(f, sparsity=given(ARROW, partition))(X)
    assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


def test_custom_vjp_by_a_callback_has_pullbacks_alone():
    @jax.custom_vjp
    def f(x):
        return jnp.asarray(ARROW) @ jnp.sin(x)

    def pull(x, u):
        shape = jax.ShapeDtypeStruct((5,), x.dtype)
        back = lambda x, u: (u @ ARROW * np.cos(x)).astype(x.dtype)  # noqa: E731
        return (jax.pure_callback(back, shape, x, u, vmap_method="broadcast_all"),)

    f.defvjp(lambda x: (f(x), x), pull)
    for own in (Pattern.from_dense(ARROW), given(ARROW, "rows")):
        J = jacobian(f, sparsity=own)(X)
        assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))
        assert J.stats.pushforwards == 0
    for partition in ("columns", "both"):
        with pytest.raises(ValueError, match=r"pushforwards.*coloring\(pattern, 'rows'\) takes pullbacks alone"):
            jacobian(f, sparsity=given(ARROW, partition))(X).nonzeros()
    lacking = ARROW.copy()
    lacking[2, 2] = 0
    with pytest.raises(ValueError, match=r"entry \(2, 2\)"):
        jacobian(f, sparsity=given(lacking, "rows"))(X).nonzeros()


def doubled(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, jnp.sin(x)))[1]


def test_a_while_loop_has_pushforwards_alone():
    def f(x):
        return jnp.stack([doubled(x).sum(), doubled(x)[0]])

    # All five columns share row 0 and take 5 colors; the two rows take 2.
    A = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], np.float32)
    assert coloring(Pattern.from_dense(A)).partition == "rows"
    message = r"pullbacks, got .*coloring\(pattern, 'columns'\) takes pushforwards alone"
    with pytest.raises(ValueError, match="JAX says: Reverse-mode.*" + message.removeprefix("pullbacks, got ")):
        jacobian(f, sparsity=given(A, "rows"))(X).nonzeros()
    J = jacobian(f, sparsity=Pattern.from_dense(A))(X)
    assert_close(scattered(J.nonzeros(), A.shape), 8 * np.cos(X) * A)
    assert J.coloring.partition == "columns" and J.stats.pullbacks == 0
    for partition in ("rows", "both"):
        with pytest.raises(ValueError, match=message):
            jacobian(f, sparsity=given(A, partition))(X).nonzeros()


def test_both_directions_that_need_one():
    own = Coloring(Pattern.from_dense(np.eye(5)), "both", np.r_[-np.ones(5, int), np.zeros(5, int)])
    J = jacobian(doubled, sparsity=own)(X)
    assert_close(J.nonzeros()[0], 8 * np.cos(X))


def test_a_bare_callback_has_neither():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((5,), np.float32), x, vmap_method="sequential")

    for own in (Pattern.from_dense(np.eye(5)), given(np.eye(5), "rows"), given(np.eye(5), "columns")):
        J = jacobian(f, sparsity=own)(X)
        for _ in range(2):
            with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
                J.nonzeros()
        assert J.pattern == Pattern.from_dense(np.eye(5))


@pytest.mark.parametrize("mode, fine, other", [("fwd", "columns", "rows"), ("rev", "rows", "columns")])
def test_mode_is_kept_to(mode, fine, other):
    f = of_matrix(ARROW)
    for own in (Pattern.from_dense(ARROW), given(ARROW, fine)):
        J = jacobian(f, mode=mode, sparsity=own)(X)
        assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))
        assert J.coloring.partition == fine
        assert (J.stats.pullbacks == 0) == (mode == "fwd")
    with pytest.raises(ValueError, match=rf"mode='{mode}'.*coloring\(pattern, '{fine}'\)"):
        jacobian(f, mode=mode, sparsity=given(ARROW, other))(X).nonzeros()


def test_f_is_never_walked(monkeypatch):
    def walk(*_):
        raise AssertionError("walked")

    monkeypatch.setattr("jacobia._plans.nonzeros.WalkedProgram.__init__", walk)
    with pytest.raises(AssertionError, match="walked"):
        jacobian(of_matrix(ARROW))(X).pattern
    for own in ("dense", Pattern.from_dense(ARROW), given(ARROW, "both")):
        J = jacobian(of_matrix(ARROW), sparsity=own)(X)
        J.pattern, J.coloring, J.to_bcoo(), J.to_bcsr(), J.to_scipy()
        assert_close(scattered(J.nonzeros(), ARROW.shape), jacobian_of(ARROW, X))


# Dense, and auto


def test_dense():
    J = jacobian(of_matrix(ARROW), sparsity="dense")(X)
    assert J.pattern == Pattern.from_dense(np.ones((4, 5)))
    assert J.stats.kernel_calls == 0
    data, rows, cols = J.nonzeros()
    assert_close(data.reshape(4, 5), jacobian_of(ARROW, X))
    np.testing.assert_array_equal((rows, cols), np.indices((4, 5)).reshape(2, -1))
    assert J.stats.kernel_calls == 1
    assert_close(J[1], jacobian_of(ARROW, X)[1])
    assert J.stats.kernel_calls == 1
    assert_close(scattered(J.T.nonzeros(), (5, 4)), jacobian_of(ARROW, X).T)
    assert_close(np.asarray(J.to_bcoo().todense()), jacobian_of(ARROW, X))
    assert J.coloring.num_colors == 4


def test_dense_trees_samples_and_hessians():
    J = jacobian(lambda p: {"a": p[0] * p[1]}, sparsity="dense")((X, X))
    assert_close(J["a"][0].nonzeros()[0].reshape(5, 5), np.diag(X))
    J = jacobian(lambda x: x**2, batch_axis=0, sparsity="dense")(np.stack([X, X]))
    assert J.nonzeros()[0].shape == (2, 25) and J.pattern.shape == (5, 5)
    x = np.linspace(-0.5, 1, 6, dtype=np.float32)
    assert_close(hessian(energy, sparsity="dense")(x).nonzeros()[0].reshape(6, 6), hessian_of_energy(x))
    inside = jax.jit(lambda x: jacobian(of_matrix(ARROW), sparsity="dense")(x).nonzeros()[0])(X)
    assert_close(inside.reshape(4, 5), jacobian_of(ARROW, X))


def test_auto_is_the_default_and_colors_what_it_finds():
    for options in ({}, {"sparsity": "auto"}):
        J = jacobian(of_matrix(ARROW), **options)(X)
        assert J.pattern.shape == (4, 5)
        assert J.coloring.pattern == J.pattern
        assert J.coloring is J.coloring
        assert J.stats.kernel_calls == 0
    f = lambda x: jnp.sum(x**3) + jnp.sum(x) * x[0]  # noqa: E731
    H = hessian(f)(X)
    assert H.coloring.partition == "symmetric" and H.coloring.pattern == sparsity_pattern(f, X, hessian=True)
    assert H.coloring.num_colors < coloring(H.pattern).num_colors


@pytest.mark.parametrize("partition", [*PARTITIONS, "symmetric"])
def test_the_coloring_of_the_transpose(partition):
    A = GRID if partition == "symmetric" else ARROW
    own = given(A, partition)
    J = jacobian(jax.grad(energy) if partition == "symmetric" else of_matrix(A), sparsity=own)(points(A))
    assert J.coloring is own
    turned = J.T.coloring
    assert turned.pattern == own.pattern.T and turned.num_colors == own.num_colors
    assert J.T.T.coloring == own
    if partition in ("rows", "columns"):
        assert turned.partition == ("rows" if partition == "columns" else "columns")


# Missing entries


def test_the_reference_pattern_is_not_missing_anything():
    for partition in PARTITIONS:
        jacobian(of_matrix(ARROW), sparsity=given(ARROW, partition))(X).nonzeros()


@pytest.mark.parametrize("partition", ["pattern", *PARTITIONS])
@pytest.mark.parametrize("entry", [(0, 3), (1, 0), (3, 3), (2, 2)], ids=str)
def test_a_missing_entry_is_found_out(entry, partition):
    lacking = ARROW.copy()
    lacking[entry] = 0
    J = jacobian(of_matrix(ARROW), sparsity=given(lacking, partition))(X)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=rf"jacobian\(sparsity=...\).*entry \({entry[0]}, {entry[1]}\): row {entry[0]} "
        ):
            J.nonzeros()
    with pytest.raises(ValueError, match="entry"):
        jacobian(of_matrix(ARROW), sparsity=given(lacking, partition))(X + 1).to_bcoo()


def test_all_entries_missing():
    J = jacobian(of_matrix(ARROW), sparsity=Pattern.from_coo([], [], (4, 5)))(X)
    with pytest.raises(ValueError, match="entry"):
        J.nonzeros()


@pytest.mark.parametrize("partition", [*PARTITIONS, "symmetric"])
def test_a_missing_entry_of_a_hessian(partition):
    lacking = GRID.copy()
    lacking[1, 4] = lacking[4, 1] = 0
    H = hessian(energy, sparsity=given(lacking, partition))(np.linspace(0.3, 1, 6, dtype=np.float32))
    with pytest.raises(ValueError, match=r"hessian\(sparsity=...\).*entry \((1, 4|4, 1)\)"):
        H.nonzeros()


def test_a_missing_entry_of_a_sample():
    lacking = ARROW.copy()
    lacking[1, 1] = 0
    samples = np.stack([np.pi / 2 * np.ones(5), X]).astype(np.float32)  # the first has a derivative of zero
    f = jax.vmap(of_matrix(ARROW))
    with pytest.raises(ValueError, match=r"entry \(1, 1\)"):
        jacobian(f, batch_axis=0, sparsity=given(lacking, "columns"))(samples).nonzeros()
    with pytest.raises(ValueError, match=r"entry \(1, 1\)"):
        jax.vmap(jacobian(of_matrix(ARROW), sparsity=given(lacking, "rows")))(samples).nonzeros()


def test_a_jacobian_that_is_not_symmetric():
    A = np.array([[1, 2, 0], [3, 4, 5], [0, 6, 7]], np.float32)
    with pytest.raises(ValueError, match="or J is not symmetric"):
        jacobian(of_matrix(A), sparsity=given(A, "symmetric"))(X[:3]).nonzeros()


def test_under_jit_nothing_is_found_out():
    lacking = ARROW.copy()
    lacking[0, 3] = 0
    jac = jacobian(of_matrix(ARROW), sparsity=given(lacking, "columns"))
    assert jax.jit(lambda x: jac(x).nonzeros()[0])(X).shape == (np.count_nonzero(lacking),)


def test_numbers_that_are_not_finite_are_no_missing_entries():
    f = lambda x: jnp.sqrt(x) + 3 * jnp.roll(x, 1)  # noqa: E731
    x = np.array([0, 1, 4], np.float32)
    J = jacobian(f, sparsity=Pattern.from_dense(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]])))(x)
    assert np.isinf(J.nonzeros()[0][0])
    assert_close(J.nonzeros()[0][1:], np.array([3, 3, 0.5, 3, 0.25], np.float32))


def test_an_entry_beside_numbers_that_are_not_finite():
    lacking = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match=r"entry \(2, 2\)"):
        jacobian(lambda x: jnp.sqrt(x) + 3 * jnp.roll(x, 1), sparsity=Pattern.from_dense(lacking))(
            np.array([0, 1, 4], np.float32)
        ).nonzeros()


def test_products_that_overflow_are_no_missing_entries():
    A = np.full((2, 3), 60000, np.float16)
    J = jacobian(lambda x: jnp.asarray(A) @ x, sparsity=Pattern.from_dense(A))(np.ones(3, np.float16))
    assert_close(J.nonzeros()[0], A.reshape(-1))


def test_rounding_within_f_is_no_missing_entry():
    def f(x):
        y = x.astype(jnp.bfloat16)
        for _ in range(30):
            y = jnp.sin(y) * 1.3
        return y.astype(x.dtype)

    x = np.linspace(0.5, 1, 200, dtype=np.float32)
    data, _, _ = jacobian(f, sparsity=Pattern.from_dense(np.eye(200)))(x).nonzeros()
    assert_close(data, jax.vmap(jax.grad(f))(x), tolerance=0.2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_no_missing_entry(dtype):
    n = 40
    A = np.where(np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 5, 1, 0)
    random = np.random.default_rng(1).normal(size=(n, n)) * A
    f = lambda x: (jnp.asarray(random, dtype) @ jnp.sin(x.astype(dtype))).astype(x.dtype)  # noqa: E731
    x = np.linspace(0, 1, n, dtype=np.float32)
    J = jacobian(f, sparsity=Pattern.from_dense(A))(x)
    assert_close(scattered(J.nonzeros(), (n, n)), (random * np.cos(x)).astype(np.float32), tolerance=3e-2)


def test_small_rows_beside_large_ones():
    scale = np.array([1e-2, 1, 1e2, 1], np.float32)[:, None]
    lacking = ARROW.copy()
    lacking[0, 3] = 0
    J = jacobian(of_matrix(ARROW * scale), sparsity=given(lacking, "columns"))(X)
    with pytest.raises(ValueError, match=r"entry \(0, 3\)"):
        J.nonzeros()


# Errors at the call


@pytest.mark.parametrize("transform", [jacobian, hessian])
@pytest.mark.parametrize(
    "value, error", [("sparse", ValueError), (np.eye(3), TypeError), (None, TypeError), (3, TypeError)], ids=str
)
def test_other_values(transform, value, error):
    with pytest.raises(error, match=r"sparsity=...\): expected 'auto', 'dense', a Pattern or a Coloring, got"):
        transform(jnp.sin, sparsity=value)


@pytest.mark.parametrize("kind", ["Pattern", "Coloring"])
def test_a_pattern_of_another_shape(kind):
    own = Pattern.from_dense(ARROW.T)
    own = own if kind == "Pattern" else coloring(own)
    message = rf"\(sparsity={kind}\): expected a pattern of shape \(4, 5\), got \(5, 4\)"
    with pytest.raises(ValueError, match="jacobian" + message):
        jacobian(of_matrix(ARROW), sparsity=own)(X)
    with pytest.raises(ValueError, match="jacobian" + message):
        jax.jit(lambda x, own: jacobian(of_matrix(ARROW), sparsity=own)(x).nonzeros())(X, own)
    with pytest.raises(ValueError, match=r"shape \(4, 5\) of one sample, got \(5, 4\)"):
        jacobian(jax.vmap(of_matrix(ARROW)), batch_axis=0, sparsity=own)(X[None])
    with pytest.raises(ValueError, match=r"hessian.*expected a pattern of shape \(6, 6\), got \(5, 4\)"):
        hessian(energy, sparsity=own)(np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"expected a pattern of shape \(10, 10\), got \(5, 4\)"):
        jacobian(lambda p: p, ravel=True, sparsity=own)((X, X))


@pytest.mark.parametrize("transform, f", [(jacobian, lambda p: p[0] * p[1]), (hessian, lambda p: p[0] @ p[1])])
def test_trees_without_ravel(transform, f):
    with pytest.raises(ValueError, match=r"expected one matrix, got .* 2 inputs. Set ravel=True"):
        transform(f, sparsity=Pattern.from_dense(np.ones((5, 10))))((X, X))


def test_one_leaf_of_a_tree_is_enough():
    A = np.eye(5, dtype=np.float32)
    J = jacobian(lambda p: {"y": jnp.sin(p["x"])}, sparsity=Pattern.from_dense(A))({"x": X})
    assert_close(J["y"]["x"].nonzeros()[0], np.cos(X))
    J = jacobian(lambda p: p["x"] * p["w"], where={"x": True, "w": False}, sparsity=Pattern.from_dense(A))(
        {"x": X, "w": X}
    )
    assert_close(J["x"].nonzeros()[0], X)


def test_a_result_beyond_the_limit():
    with pytest.raises(jacobia.MaterializationError, match=r"J.nonzeros\(\)"):
        jacobian(of_matrix(ARROW), sparsity=given(ARROW, "both"), memory_limit=20)(X).nonzeros()


# Kernels and counters


@pytest.mark.parametrize("partition", PARTITIONS)
def test_counters(partition):
    own = given(ARROW, partition)
    jac = jacobian(lambda x: of_matrix(ARROW)(x) + len(partition), sparsity=own)  # a program of this test alone
    rows, columns = own.num_row_colors, own.num_colors - own.num_row_colors
    J = jac(X)
    J.pattern, J.coloring
    assert J.stats.kernel_calls == J.stats.seeds_run == 0
    J.nonzeros(), J.to_bcoo(), J.to_scipy()
    stats = J.stats
    assert (stats.pullbacks, stats.pushforwards) == (rows, columns)
    assert (stats.rows_computed, stats.columns_computed) == (0, 0)
    ways = (rows > 0) + (columns > 0)
    assert stats.seeds_run == own.num_colors + 4 * ways  # the first time, products with random vectors too
    assert stats.kernel_calls == 1 + ways
    assert stats.nbytes == 4 * np.count_nonzero(ARROW)
    other = jac(X + 1)
    other.nonzeros()
    assert other.stats[2:6] == (rows, columns, own.num_colors, 1)
    other.clear()
    assert other.stats.nbytes == 0
    other.nonzeros()
    assert other.stats[2:6] == (2 * rows, 2 * columns, 2 * own.num_colors, 2)


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("partition", PARTITIONS)
def test_kernels_are_shared(partition, compiles):
    f = of_matrix(ARROW)
    jacobian(f, sparsity=given(ARROW, partition))(X).nonzeros()
    before, own = compiles.count, jacobia.cache_info().compiles
    jacobian(f, sparsity=given(ARROW, partition))(X + 1).nonzeros()  # an equal coloring, another point
    jacobian(of_matrix(ARROW), sparsity=given(ARROW, partition))(X + 2).nonzeros()  # and another function
    assert (compiles.count, jacobia.cache_info().compiles) == (before, own)


@pytest.mark.usefixtures("empty_cache")
def test_another_coloring_of_as_many_colors_compiles_nothing():
    A, B = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[::-1]
    f = lambda x, a: jnp.sin(a @ x)  # noqa: E731
    x = X[:4]
    J = jacobian(f, sparsity=given(A, "columns"))(x, A)
    assert_close(scattered(J.nonzeros(), (4, 4)), A * np.cos(x)[:, None])
    before = jacobia.cache_info().compiles
    J = jacobian(f, sparsity=given(B, "columns"))(x, B)
    assert_close(scattered(J.nonzeros(), (4, 4)), B * np.cos(x[::-1])[:, None])
    assert jacobia.cache_info().compiles == before


def test_f_is_traced_once_for_equal_colorings():
    runs = []

    def f(x):
        runs.append(x)
        return jnp.asarray(ARROW) @ jnp.sin(x)

    for k in range(3):
        jacobian(f, sparsity=given(ARROW, "both"))(X + k).nonzeros()
    assert len(runs) == 1


def test_few_combinations_of_arguments_are_kept():
    def f(x):
        return x * 2

    for k in range(100):
        jacobian(f, sparsity=Pattern.from_coo([0, k], [0, k], (200, 200)))
    from jacobia._view import entries

    assert len(entries._functions[id(f)][1]) <= entries._OPTIONS


# Nonzeros that are remembered serve every read: nothing is computed again.

READS = [0, slice(1, 3), (slice(None), 1), (0, 1), ..., [0, 0]]


@pytest.mark.parametrize("key", READS, ids=str)
@pytest.mark.parametrize("kind", ["jacobian", "hessian"])
def test_remembered_nonzeros_serve_every_read(kind, key):
    x = np.linspace(0.1, 1, 8, dtype=np.float32)
    if kind == "jacobian":
        J = jacobian(lambda x: (x * jnp.roll(x, 1))[:6])(x)
        expected = (np.diag(np.roll(x, 1)) + np.diag(x) @ np.roll(np.eye(8), -1, axis=1))[:6]
    else:
        J = hessian(lambda x: jnp.sum(x * jnp.roll(x, 1)))(x)
        expected = np.roll(np.eye(8), 1, axis=1) + np.roll(np.eye(8), -1, axis=1)
    J.nonzeros()
    before = J.stats
    assert "nonzeros" in repr(J) and J.plan.passes == 0
    np.testing.assert_allclose(J[key], expected[key], rtol=1e-6)
    np.testing.assert_allclose(J.T[0], expected.T[0], rtol=1e-6)
    assert J.stats[:6] == before[:6]


def test_remembered_nonzeros_keep_to_the_limit():
    J = jacobian(lambda x: x**2, memory_limit=4000)(np.linspace(0, 1, 100, dtype=np.float32))
    J.nonzeros()
    with pytest.raises(jacobia.MaterializationError, match="expected a result under memory_limit"):
        J[np.arange(100), np.arange(100)]
    np.testing.assert_allclose(J[3, 3], 6 / 99, rtol=1e-6)
    assert J.stats.pullbacks == J.stats.pushforwards == 0


def test_a_point_where_lines_are_zero_confirms_no_pattern(new_programs):
    f = lambda x: x**2 + jnp.roll(x, 1) ** 2  # noqa: E731
    short = jacobian(f, sparsity=Pattern.from_dense(np.eye(4)))
    for start in (jnp.zeros(4), jnp.zeros(4).at[1].set(1.0) * 0, jnp.zeros(4)):
        assert not short(start).nonzeros()[0].any()
    for _ in range(2):
        with pytest.raises(ValueError, match="expected a pattern with every nonzero of J"):
            short(jnp.arange(4.0)).nonzeros()
    right = jacobian(f, sparsity=Pattern.from_dense(np.eye(4) + np.roll(np.eye(4), 1, axis=0)))
    seeds = []
    for x in (jnp.zeros(4), jnp.ones(4), jnp.arange(4.0)):
        J = right(x)
        assert_close(J.to_scipy().toarray(), np.asarray(jax.jacrev(f)(x)))
        seeds.append(J.stats.seeds_run)
    assert seeds[0] == seeds[1] > seeds[2]  # compared until a point tells of every line
    zero = jacobian(lambda x: x * jnp.arange(4.0), sparsity=Pattern.from_dense(np.eye(4)))  # row 0 is zero everywhere
    seeds = []
    for k in range(6):
        J = zero(jnp.full(4, 1.0 + k))
        J.nonzeros()
        seeds.append(J.stats.seeds_run)
    assert seeds[0] == seeds[3] > seeds[4] == seeds[5]
