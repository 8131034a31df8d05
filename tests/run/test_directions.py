"""Directions that f lacks, pullbacks that are not linear, and errors that are about neither; compared with JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobia import Pattern, coloring, hessian, jacobian, materialize, sparsity_pattern
from jacobia._program.readings.linear import FREE, LINEAR, OTHER, ZERO, outputs_of

pytestmark = pytest.mark.slow

A = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)) * 2, jnp.float32)
X = jnp.arange(1.0, 5.0)
SAMPLES = jnp.arange(48.0).reshape(12, 4) / 10 + 0.1


def close(a, b, tolerance=1e-4):
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def with_rule(pull, f=lambda x: x):
    made = jax.custom_vjp(f)
    made.defvjp(lambda x: (f(x), x), pull)
    return made


# Reading a program: is it linear in its last input?


READINGS = {
    "product with what is given": (lambda x, u: u * jnp.cos(x), LINEAR),
    "product with itself": (lambda x, u: u * u, OTHER),
    "over what is given": (lambda x, u: u / x, LINEAR),
    "what is given, over it": (lambda x, u: x / u, OTHER),
    "clipped": (lambda x, u: jnp.clip(u, -1, 1), OTHER),
    "positive part": (lambda x, u: jnp.where(u > 0, u, 0.0), OTHER),
    "where x is positive": (lambda x, u: jnp.where(x > 0, u, 0.0), LINEAR),
    "where x is positive, else one": (lambda x, u: jnp.where(x > 0, u, 1.0), OTHER),
    "shifted": (lambda x, u: u + x, OTHER),
    "nothing": (lambda x, u: jnp.zeros_like(u), ZERO),
    "times nothing": (lambda x, u: 0.0 * x * 0 + 0 * u, ZERO),
    "what is given": (lambda x, u: jnp.cos(x), FREE),
    "rounded": (lambda x, u: jnp.round(u), OTHER),
    "to integers and back": (lambda x, u: u.astype(int).astype(float), OTHER),
    "to half precision and back": (lambda x, u: u.astype(jnp.bfloat16).astype(jnp.float32), LINEAR),
    "matrix": (lambda x, u: A @ u, LINEAR),
    "norm": (lambda x, u: u / jnp.linalg.norm(u), OTHER),
    "padded with nothing": (lambda x, u: jnp.pad(u, 1), LINEAR),
    "padded with ones": (lambda x, u: jnp.pad(u, 1, constant_values=1), OTHER),
    "beside nothing": (lambda x, u: jnp.concatenate([u, jnp.zeros(2)]), LINEAR),
    "beside what is given": (lambda x, u: jnp.concatenate([u, x]), OTHER),
    "added into nothing": (lambda x, u: jnp.zeros(9).at[jnp.arange(4)].add(u), LINEAR),
    "added into what is given": (lambda x, u: x.at[1].add(u[0]), OTHER),
    "taken by what is given": (lambda x, u: u[x.astype(int)], LINEAR),
    "taken by itself": (lambda x, u: x[u.astype(int)], OTHER),
    "sorted": (lambda x, u: jnp.sort(u), OTHER),
    "under jit": (lambda x, u: jax.jit(lambda u: u * x)(u), LINEAR),
    "clipped under jit": (lambda x, u: jax.jit(lambda u: jnp.clip(u, -1, 1))(u), OTHER),
    "either of two": (lambda x, u: lax.cond(x[0] > 0, lambda u: 2 * u, lambda u: u[::-1], u), LINEAR),
    "either of two, by itself": (lambda x, u: lax.cond(u[0] > 0, lambda u: 2 * u, lambda u: u, u), OTHER),
    "it or what is given": (lambda x, u: lax.cond(x[0] > 0, lambda u: u, lambda u: x, u), OTHER),
    "loop": (lambda x, u: lax.fori_loop(0, 3, lambda i, c: c * x, u), LINEAR),
    "loop that adds up from nothing": (lambda x, u: lax.fori_loop(0, 3, lambda i, c: c + u, 0 * u), LINEAR),
    "loop that adds up from something": (lambda x, u: lax.fori_loop(0, 3, lambda i, c: c + u, x), OTHER),
    "loop that clips": (lambda x, u: lax.fori_loop(0, 3, lambda i, c: jnp.clip(c, -1, 1), u), OTHER),
    "loop until x": (lambda x, u: lax.while_loop(lambda c: c[0] < x[0], lambda c: (2.0, c[1]), (0.0, u))[1], LINEAR),
    "loop until it": (lambda x, u: lax.while_loop(lambda u: u[0] < 9, lambda u: 2 * u, u), OTHER),
    "clipped and thrown away": (lambda x, u: (jnp.clip(u, -1, 1), 2 * u)[1], LINEAR),
    "solve": (lambda x, u: jnp.linalg.solve(jnp.diag(x), u), LINEAR),
    "callback": (lambda x, u: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((4,), jnp.float32), u), OTHER),
}  # fmt: skip


@pytest.mark.parametrize(("program", "kind"), READINGS.values(), ids=READINGS.keys())
def test_what_a_program_is_to_its_seed(program, kind):
    closed = jax.make_jaxpr(program)(X, X)
    assert outputs_of(closed.jaxpr, closed.consts, 1) == [kind]


# Pullbacks that are not linear: rows, and what is made of rows


clip = with_rule(lambda _, u: (jnp.clip(u, -1, 1),))


def clipped(x):
    return A @ clip(x)


ROWS = np.asarray(jax.jacrev(clipped)(X))
U = np.arange(5, dtype=np.float32)
READS = {
    "all": (lambda J: J[...], ROWS),
    "a row": (lambda J: J[3], ROWS[3]),
    "a column": (lambda J: J[:, 2], ROWS[:, 2]),
    "an entry": (lambda J: J[1, 2], ROWS[1, 2]),
    "pairs": (lambda J: J[[0, 1, 2], [1, 2, 3]], ROWS[[0, 1, 2], [1, 2, 3]]),
    "a block": (lambda J: J[1:3, ::2], ROWS[1:3, ::2]),
    "diagonal": (lambda J: J.diagonal(), np.diagonal(ROWS)),
    "J v": (lambda J: J.mv(X), ROWS @ np.asarray(X)),
    "u J": (lambda J: J.vm(U), U @ ROWS),
    "several J v": (lambda J: J @ np.ones((4, 2), np.float32), ROWS @ np.ones((4, 2))),
    "transposed": (lambda J: J.T @ U, ROWS.T @ U),
    "materialized": (materialize, ROWS),
    "added to": (lambda J: J + 1, ROWS + 1),
    "explained first": (lambda J: (J.explain(), J.plan, J[:, 1])[2], ROWS[:, 1]),
}


@pytest.mark.parametrize(("read", "expected"), READS.values(), ids=READS.keys())
def test_every_read_is_made_of_rows(read, expected):
    close(read(jacobian(clipped)(X)), expected)


@pytest.mark.parametrize("first", ["J v", "a column", "a row", "diagonal"])
def test_what_was_read_before_does_not_matter(first):
    J = jacobian(clipped)(X)
    READS[first][0](J)
    for read, expected in READS.values():
        close(read(J), expected)
    close(jacobian(clipped)(2 * X)[:, 1], np.asarray(jax.jacrev(clipped)(2 * X))[:, 1])


OPTIONS = {
    "rev": lambda: jacobian(clipped, mode="rev")(X)[:, 1],
    "python": lambda: jacobian(clipped, jit=False)(X)[:, 1],
    "python, product": lambda: jacobian(clipped, jit=False)(X).mv(jnp.zeros(4).at[1].set(1)),
    "not lazy": lambda: jacobian(clipped, lazy=False)(X)[:, 1],
    "inside jit": lambda: jax.jit(lambda x: jacobian(clipped)(x)[:, 1])(X),
    "out of jit": lambda: jax.jit(jacobian(clipped))(X)[:, 1],
    "in a tree": lambda: jacobian(lambda p: {"a": clipped(p["x"])})({"x": X})["a"]["x"][:, 1],
    "dense": lambda: jacobian(clipped, sparsity="dense")(X).to_scipy().toarray()[:, 1],
    "wider outputs": lambda: jacobian(lambda x: clipped(x.astype(jnp.bfloat16).astype(jnp.float32)))(X)[:, 1],
}


@pytest.mark.parametrize("read", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_gives_the_numbers_of_jacrev(read):
    close(read(), ROWS[:, 1], 1e-2 if read is OPTIONS["wider outputs"] else 1e-4)


OTHER_RULES = {
    "positive part": lambda _, u: (jnp.where(u > 0, u, 0.0),),
    "shifted": lambda _, u: (u + 1,),
    "constant": lambda _, u: (jnp.ones_like(u),),
    "normalized": lambda _, u: (u / (0.1 + jnp.linalg.norm(u)),),
    "scaled by itself": lambda _, u: (u * jnp.where(jnp.max(u) > 1, 2.0, 1.0),),
}


@pytest.mark.parametrize("rule", OTHER_RULES.values(), ids=OTHER_RULES.keys())
def test_other_rules_that_are_not_linear(rule):
    f = with_rule(rule)
    g = lambda x: A @ f(x)  # noqa: E731
    rows, J = np.asarray(jax.jacrev(g)(X)), jacobian(g)(X)
    close(J.mv(X), rows @ np.asarray(X))
    close(jacobian(g)(X)[:, 1], rows[:, 1])
    close(jacobian(g)(X).vm(U), U @ rows)


VIEWS = {
    "vmap": lambda: jax.vmap(jacobian(clipped))(SAMPLES),
    "batch_axis": lambda: jacobian(jax.vmap(clipped), batch_axis=0)(SAMPLES),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_samples_have_the_rows_of_jacrev(view):
    rows = np.asarray(jax.vmap(jax.jacrev(clipped))(SAMPLES))
    close(view()[4, :, 1], rows[4, :, 1])
    close(view()[..., 1], rows[..., 1])
    close(view().mv(SAMPLES), np.einsum("bij,bj->bi", rows, SAMPLES))


def test_gradients_through_a_read():
    f = lambda x: A @ clip(jnp.sin(x))  # noqa: E731
    ours, theirs = (jax.grad(lambda x, J=J: jnp.sum(J(x)[...] ** 2))(X) for J in (jacobian(f), jax.jacrev(f)))
    close(ours, theirs)


def test_what_such_a_function_has_not():
    with pytest.raises(ValueError, match=r"mode='fwd'.*not linear in its cotangent.*Set mode='auto'"):
        jacobian(clipped, mode="fwd")(X)[:, 1]
    for mode in ("waist", "accumulate"):
        with pytest.raises(ValueError, match=f"mode='{mode}'"):
            jacobian(clipped, mode=mode)(X)[...]
    reads = (
        lambda: jacobian(clipped)(X).nonzeros(),
        lambda: jacobian(clipped)(X).pattern,
        lambda: sparsity_pattern(clipped, X),
    )
    for read in reads:
        with pytest.raises(ValueError, match='expected an f with a linear pullback.*sparsity="dense"'):
            read()


def test_entries_of_a_pattern_that_was_given_are_those_of_rows():
    pattern = np.ones((5, 4), bool)
    J = jacobian(clipped, sparsity=Pattern.from_dense(pattern))(X)
    close(J.to_scipy().toarray(), ROWS)
    pattern[2, 3] = False
    with pytest.raises(ValueError, match=r"without entry \(2, 3\)"):
        jacobian(clipped, sparsity=Pattern.from_dense(pattern))(X).nonzeros()
    with pytest.raises(ValueError, match=r"takes pullbacks alone"):
        jacobian(clipped, sparsity=coloring(Pattern.from_dense(pattern), "columns"))(X).nonzeros()


def test_a_rule_that_is_linear_keeps_everything():
    f = with_rule(lambda x, u: (jnp.cos(x) * u,), jnp.sin)
    g = lambda x: jnp.stack([f(x)[0], f(x)[1] * 2, f(x)[3]])  # noqa: E731
    J, rows = jacobian(g)(X), np.asarray(jax.jacrev(g)(X))
    close(J[:, 1], rows[:, 1])
    assert J.stats.pushforwards == 1 and J.stats.pullbacks == 0
    close(jacobian(g)(X).to_scipy().toarray(), rows)
    close(jacobian(g)(X).mv(X), rows @ np.asarray(X))


def test_rules_on_a_way_that_is_not_differentiated_do_not_matter():
    J = jacobian(lambda x, w: x[:2] * clip(w)[0])(X, X)
    close(J[:, 1], [0, 1])
    assert J._origin.directions(J._layout.block).pushforward == "jvp"


def test_outputs_that_lack_different_directions():
    views = jacobian(lambda x: {"loop": loop(x), "rule": clip(jnp.sin(x))})(X)
    close(views["loop"][:, 1], np.asarray(jax.jacfwd(loop)(X))[:, 1])
    close(views["loop"][...], jax.jacfwd(loop)(X))
    close(views["rule"][:, 1], np.asarray(jax.jacrev(lambda x: clip(jnp.sin(x)))(X))[:, 1])


def squares(x):
    return jnp.sum((0.1 * clipped(x)) ** 2)


def sines(x):
    return jnp.sin(clipped(x))


SECOND = np.asarray(jax.hessian(squares)(X))  # not symmetric
HESSIANS = {
    "all": (lambda H: H[...], SECOND),
    "a row": (lambda H: H[1], SECOND[1]),
    "a column": (lambda H: H[:, 1], SECOND[:, 1]),
    "H v": (lambda H: H.mv(X), SECOND @ np.asarray(X)),
    "u H": (lambda H: H.vm(X), np.asarray(X) @ SECOND),
    "diagonal": (lambda H: H.diagonal(), np.diagonal(SECOND)),
    "nonzeros": (lambda H: H.to_scipy().toarray(), SECOND),
}


@pytest.mark.parametrize(("read", "expected"), HESSIANS.values(), ids=HESSIANS.keys())
def test_hessians_are_those_of_jax_and_not_symmetric(read, expected):
    assert not np.allclose(SECOND, SECOND.T)
    close(read(hessian(squares)(X)), expected, 1e-3)


def test_a_row_and_a_column_of_such_a_hessian_are_different_lines():
    H = hessian(squares)(X)
    close(H[:, 1], SECOND[:, 1])
    close(H[1], SECOND[1])
    close(H[2], SECOND[2])


def test_hessians_of_several_outputs():
    expected = np.asarray(jax.hessian(sines)(X))
    close(hessian(sines)(X)[1, 2], expected[1, 2])
    close(hessian(sines)(X)[...], expected)
    close(hessian(sines)(X).diagonal(), np.diagonal(expected, axis1=1, axis2=2))


# Whose error is it?


ANY = {
    "a row": lambda J: J[0],
    "a column": lambda J: J[:, 1],
    "all": lambda J: J[...],
    "J v": lambda J: J.mv(X),
    "nonzeros": lambda J: J.nonzeros(),
    "diagonal": lambda J: J.diagonal(),
}


@pytest.mark.parametrize("kind", [TypeError, ValueError, NotImplementedError])
@pytest.mark.parametrize("read", ANY.values(), ids=ANY.keys())
def test_an_error_in_a_rule_is_raised_once_as_it_is(kind, read):
    calls = []

    def rule(x, u):
        calls.append(1)
        raise kind("mine")

    J = jacobian(with_rule(rule))(X)
    assert (J.shape, calls) == ((4, 4), [])
    with pytest.raises(kind, match="mine"):
        read(J)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_an_error_of_a_function_that_python_runs_is_raised_once(kind):
    calls = []

    def f(x):
        calls.append(1)
        if len(calls) > 1:
            raise kind("mine")
        return x * 2

    J = jacobian(f, jit=False)(X)
    with pytest.raises(kind, match="mine"):
        J[...]
    assert len(calls) == 2


def callback(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")


def pulled_by_callback(x, u):
    cos = lambda x, u: np.cos(x) * u  # noqa: E731
    return (jax.pure_callback(cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x, u, vmap_method="expand_dims"),)


def pulled_by_loop(x, u):
    return (lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * jnp.cos(x)), (0, u))[1],)


by_callback, by_loop = with_rule(pulled_by_callback, jnp.sin), with_rule(pulled_by_loop, jnp.sin)


def test_without_any_direction_the_first_error_is_raised():
    reads = [lambda J: J[...], lambda J: J[0], lambda J: J[:, 0], lambda J: J.mv(X), lambda J: J.nonzeros()]
    for read in (*reads, lambda J: J.diagonal(), lambda J: J.explain()):
        with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
            read(jacobian(callback)(X))
    with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
        jacobian(callback, jit=False)(X)[...]


HESSIAN_READS = [lambda H: H[...], lambda H: H[0], lambda H: H.mv(X), lambda H: H.diagonal()]


@pytest.mark.parametrize("read", HESSIAN_READS)
def test_hessians_through_a_rule_that_is_a_callback_end_in_one_error(read):
    with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
        read(hessian(lambda x: jnp.sum(by_callback(x) ** 2))(X))


@pytest.mark.parametrize("read", HESSIAN_READS)
def test_hessians_through_a_rule_that_is_a_loop_are_pushed(read):
    f = lambda x: jnp.sum(by_loop(x) ** 2)  # noqa: E731
    close(read(hessian(f)(X)), read(hessian(lambda x: by_hand(x))(X)))


def by_hand(x):
    # The same gradient: 2 sin(x) cos(x)^3.
    return -0.5 * jnp.sum(jnp.cos(x) ** 4)


def test_rules_that_cannot_be_transposed_have_rows_only():
    for f in (by_callback, by_loop):
        rows = np.asarray(jax.jacrev(f)(X))
        close(jacobian(f)(X)[:, 1], rows[:, 1])
        close(jacobian(f)(X).mv(X), rows @ np.asarray(X))


def test_a_number_taken_out_of_a_traced_array_ends_in_one_error():
    f = lambda x: jnp.sum(x**2) * float(x[0])  # noqa: E731
    for read in HESSIAN_READS:
        with pytest.raises(TypeError, match="float"):
            read(hessian(f, jit=False)(X))


def test_a_pushforward_by_a_callback_has_columns_alone():
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda p, t: (jnp.sin(p[0]), pulled_by_callback(p[0], t[0])[0]))
    expected = np.diag(np.cos(X))
    close(jacobian(f)(X)[1], expected[1])
    close(jacobian(f)(X).vm(X), np.asarray(X) @ expected)
    close(jacobian(f, jit=False)(X)[1], expected[1])
    with pytest.raises(ValueError, match="mode='rev'.*expected an f with pullbacks"):
        jacobian(f, mode="rev")(X)[0]


# Few samples


linear_rule = with_rule(lambda x, u: (jnp.cos(x) * u,), jnp.sin)


def loop(x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * x), (0, x))[1]


@pytest.mark.parametrize("f", [linear_rule, loop], ids=["no pushforward", "no pullback"])
@pytest.mark.parametrize("way", ["vmap", "batch_axis"])
def test_few_samples_are_read_by_the_direction_there_is(f, way):
    g = lambda x: A @ f(x)  # noqa: E731
    expected = np.asarray(jax.vmap((jax.jacfwd if f is loop else jax.jacrev)(g))(SAMPLES))
    view = lambda: jax.vmap(jacobian(g))(SAMPLES) if way == "vmap" else jacobian(jax.vmap(g), batch_axis=0)(SAMPLES)  # noqa: E731
    J = view()
    for key in ((4, slice(None), 1), (4, 2), (slice(2, 4), 1), (7, 2, 1)):
        close(view()[key], expected[key])
        close(J[key], expected[key])
    assert "evaluated by themselves" in str(view().explain((4, slice(None), 1)))
    close(jax.jit(lambda X: jax.vmap(jacobian(g))(X)[4, :, 1])(SAMPLES), expected[4, :, 1])


# Empty arrays


B0 = jnp.zeros((0, 4))
EMPTY = {
    "no rows": lambda x: jnp.concatenate([A @ x, B0 @ x]),
    "no rows first": lambda x: jnp.concatenate([B0 @ x, A @ x, B0 @ x]),
    "no columns": lambda x: jnp.concatenate([A @ x, jnp.zeros((3, 0)) @ x[:0]]),
    "parts of nothing": lambda x: jnp.concatenate([jnp.split(A @ x, [2, 2])[1], A @ x, (A @ x)[3:3] * 2]),
    "products of nothing": lambda x: jnp.concatenate([A @ x, jnp.outer(x[:0], x).reshape(-1)]),
    "sums of nothing": lambda x: A @ x + jnp.sum(x[:0]) + jnp.sum(B0 @ x),
}


@pytest.mark.parametrize("f", EMPTY.values(), ids=EMPTY.keys())
def test_empty_arrays_on_the_way(f):
    rows = np.asarray(jax.jacrev(f)(X))
    for mode in ("rev", "auto", "fwd"):
        close(jacobian(f, mode=mode)(X)[1], rows[1])
        close(jacobian(f, mode=mode)(X)[...], rows)
        close(jacobian(f, mode=mode)(X)[:, 1], rows[:, 1])
    J = jacobian(f)(X)
    J[1]
    assert J.stats.pullbacks == 1
    assert J._origin.directions(J._layout.block).pullback


# Hessians through loops that have no pullback


def energy(x):
    return jnp.sum(loop(x) * x[0])


def curved(x):
    return jnp.stack([loop(x)[0] * x[1], loop(x)[2] ** 2, x[0] * x[3]])


def twice(f, x=X):
    return np.asarray(jax.jit(jax.jacfwd(jax.jacfwd(f)))(x))


ENERGY = twice(energy)
LOOPED = {
    "all": (lambda H: H[...], ENERGY),
    "a row": (lambda H: H[1], ENERGY[1]),
    "a column": (lambda H: H[:, 1], ENERGY[:, 1]),
    "an entry": (lambda H: H[1, 2], ENERGY[1, 2]),
    "diagonal": (lambda H: H.diagonal(), np.diagonal(ENERGY)),
    "H v": (lambda H: H.mv(X), ENERGY @ np.asarray(X)),
    "u H": (lambda H: H.vm(X), np.asarray(X) @ ENERGY),
    "nonzeros": (lambda H: H.to_scipy().toarray(), ENERGY),
}


@pytest.mark.parametrize(("read", "expected"), LOOPED.values(), ids=LOOPED.keys())
def test_hessians_through_a_loop(read, expected):
    close(read(hessian(energy)(X)), expected, 1e-3)


def test_hessians_through_a_loop_are_lazy_symmetric_and_explained():
    H = hessian(energy)(X)
    close(H[:, 1], ENERGY[:, 1], 1e-3)
    close(H[1], ENERGY[1], 1e-3)
    assert (H.stats.pushforwards, H.stats.pullbacks) == (1, 0)
    assert "forward over forward" in str(H.explain())
    with pytest.raises(ValueError, match="mode='rev'.*expected an f with pullbacks"):
        hessian(energy, mode="rev")(X)[0]


LOOPED_TOO = {
    "python": lambda: (hessian(energy, jit=False)(X)[...], ENERGY),
    "inside jit": lambda: (jax.jit(lambda x: hessian(energy)(x)[1])(X), ENERGY[1]),
    "several outputs": lambda: (hessian(curved)(X)[...], twice(curved)),
    "a row of several outputs": lambda: (hessian(curved)(X)[1, 2], twice(curved)[1, 2]),
    "diagonal of several outputs": lambda: (
        hessian(curved)(X).diagonal(), np.diagonal(twice(curved), axis1=1, axis2=2)
    ),
    "one number": lambda: (hessian(loop)(jnp.float32(0.5))[...], twice(loop, jnp.float32(0.5))),
    "a loop until": lambda: (hessian(until)(X / 9)[...], twice(until, X / 9)),
}  # fmt: skip


def until(x):
    grown = lax.while_loop(lambda c: jnp.sum(c) < 5, lambda c: c * 1.5 + jnp.sin(x), x)
    return jnp.sum(grown * x)


@pytest.mark.parametrize("pair", LOOPED_TOO.values(), ids=LOOPED_TOO.keys())
def test_more_hessians_through_a_loop(pair):
    close(*pair(), 1e-3)


def test_hessians_through_a_loop_of_samples():
    expected = np.asarray(jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(energy))))(SAMPLES))
    for view in (lambda: jax.vmap(hessian(energy))(SAMPLES), lambda: hessian(jax.vmap(energy), batch_axis=0)(SAMPLES)):
        close(view()[...], expected, 1e-3)
        close(view()[4, :, 1], expected[4, :, 1], 1e-3)
        close(view().diagonal(), np.stack([np.diag(h) for h in expected]), 1e-3)
    last = hessian(lambda X: jax.vmap(energy, in_axes=1)(X)[None], batch_axis=-1)(SAMPLES.T)
    close(last[3], expected[3], 1e-3)


def test_hessians_through_a_loop_of_trees():
    f = lambda p: jnp.sum(loop(p["a"]) * p["b"] ** 2) + p["b"] * p["a"][0] ** 2  # noqa: E731
    p = {"a": X, "b": jnp.float32(2)}
    H, expected = hessian(f)(p), jax.jacfwd(jax.jacfwd(f))(p)
    for i in p:
        for j in p:
            close(H[i][j][...], expected[i][j], 1e-3)


# Arrays that are divided over an Explicit axis of a mesh


def test_samples_on_an_explicit_axis():
    mesh = jax.make_mesh((len(jax.devices()),), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    spread = jax.device_put(SAMPLES[: len(jax.devices())], jax.NamedSharding(mesh, jax.P("i")))
    energy = lambda x: jnp.sum(jnp.sin(x)) ** 2  # noqa: E731
    expected = np.stack([np.asarray(jax.hessian(energy)(x)) for x in np.asarray(spread)])
    close(hessian(jax.vmap(energy), batch_axis=0)(spread).diagonal(), np.stack([np.diag(h) for h in expected]))
    close(hessian(jax.vmap(energy), batch_axis=0)(spread)[...], expected)
    rows = jacobian(jax.vmap(jnp.sin), batch_axis=0)(spread)
    close(rows[...], np.stack([np.diag(np.cos(x)) for x in np.asarray(spread)]))
    close(rows.diagonal(), np.cos(spread))


@pytest.mark.parametrize("options", [{}, {"jit": False}], ids=str)
@pytest.mark.parametrize("inside", [False, True], ids=["eager", "in jit"])
def test_products_where_a_rule_without_a_pushforward_has_no_part_in_the_result(options, inside):
    same = with_rule(lambda x, u: (u,))

    def f(x):
        kept, _ = jax.jit(lambda x: (jnp.cos(x), same(x)))(x)  # of a call one result is needed
        return (jnp.where(same(x) > 0, jnp.sin(x), x) * kept)[:3]

    jac, v, u = jacobian(f, **options), jnp.arange(4.0) - 1, jnp.arange(3.0) + 1
    reads = {"mv": lambda J: J.mv(v), "several": lambda J: J.mv(jnp.eye(4)), "vm": lambda J: J.vm(u)}
    reads |= {"row": lambda J: J[1], "column": lambda J: J[:, 1], "diagonal": lambda J: J.matrix[:, :3].diagonal()}
    dense = jax.jacrev(f)(X)
    expected = {"mv": dense @ v, "several": dense, "vm": u @ dense, "row": dense[1], "column": dense[:, 1]}
    expected["diagonal"] = dense[:, :3].diagonal()
    for name, read in reads.items():
        run = jax.jit(lambda x, read=read: read(jac(x))) if inside else lambda x, read=read: read(jac(x))
        close(run(X), expected[name])


# Operations with rules of their own, which JAX has from 0.12 on.


def operation(**rules):
    hijax = pytest.importorskip("jax.experimental.hijax")
    if not hasattr(hijax, "HiPrim"):
        pytest.skip("this JAX has no such operations")

    class Own(hijax.HiPrim):
        def __init__(self, aval):
            self.in_avals, self.out_aval, self.params = (aval,), aval, {}
            super().__init__()

        def expand(self, x):
            return x**3

        def batch(self, axis_data, args, dims):
            return jax.vmap(self.expand, dims[0])(*args), 0

    for name, rule in rules.items():
        setattr(Own, name, rule)
    return lambda x: Own(jax.typeof(x))(x)


def test_an_operation_whose_pullback_is_not_linear_has_the_rows_of_jacrev():
    cube = operation(
        vjp_fwd=lambda self, nonzero, x: (self.expand(x), None),
        vjp_bwd_retval=lambda self, _, u: (jnp.clip(u, -1, 1),),
    )

    def f(x):
        return A @ cube(x)

    expected = jax.jacrev(f)(X)
    for key in (0, ..., (slice(None), 1)):
        close(jacobian(f)(X)[key], expected[key])
    with pytest.raises(ValueError, match="linear"):
        jacobian(f)(X).nonzeros()


def test_an_operation_with_a_rule_of_its_own_has_the_pattern_of_the_rule():
    cube = operation(
        vjp_fwd=lambda self, nonzero, x: (self.expand(x), x),
        vjp_bwd_retval=lambda self, x, u: (u * 4 * x**2,),  # not that of a cube: 3
    )

    def f(x):
        return cube(x[:3] * x[1:])

    data, rows, cols = jacobian(f)(X).nonzeros()
    assert rows.tolist() == [0, 0, 1, 1, 2, 2] and cols.tolist() == [0, 1, 1, 2, 2, 3]
    close(data, jax.jacrev(f)(X)[rows, cols])
    close(jacobian(f)(X)[...], jax.jacrev(f)(X))


def test_a_root_by_a_rule_is_read_through():
    def f(x):
        def solve(g, u):
            return lax.fori_loop(0, 40, lambda _, u: u - g(u) / (3 * u**2 + 1), u)

        return lax.custom_root(lambda u: u**3 + u - x * x, x, solve, lambda g, y: y / g(jnp.ones_like(y)))

    data, rows, cols = jacobian(f)(X).nonzeros()
    assert rows.tolist() == cols.tolist() == [0, 1, 2, 3]
    close(data, 2 * X / (3 * f(X) ** 2 + 1))
