"""Explanations of reads, which agree with what is then done; and compilation ahead of time."""

import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import MaterializationError, cache_clear, cache_info, coloring, hessian, jacobian, materialize
from jacobia._plans import whole as _whole
from jacobia._plans.plan import Considered, Outline
from jacobia._program.readings.cost import work
from jacobia._read.explain import Explanation

RNG = np.random.default_rng(5)
W = RNG.normal(size=(6, 4)).astype(np.float32)
X = RNG.normal(size=4).astype(np.float32)
OF_X = jax.ShapeDtypeStruct((4,), jnp.float32)


def layer(x):
    return jnp.tanh(W @ x)


def made(plan, plans=(), **changes):
    given = dict(
        view="a view", shape=(2, 4), nbytes=32, density=None, plan=plan, plans=plans,
        by=("pullbacks", "pushforwards"), notes=("f: compiled",), _memory=lambda: 7,
    )  # fmt: skip
    return Explanation(**{**given, **changes})


ROWS = Considered("rows", 2, "pullbacks", 1.5e6, 2048)
COLUMNS = Considered("columns", 4, "pushforwards", 24, 1e9)


def test_as_text():
    told = made(Outline("rows", 2, 4, "rows are asked for"), (ROWS, COLUMNS), density=0.25)
    assert str(told).splitlines() == [
        "a view",
        "asked for: shape (2, 4), 32 bytes, 25 % nonzero",
        "to do: 2 pullbacks in one kernel call (rows are asked for); instead of 4 pushforwards",
        "    plan     passes          operations  bytes moved",
        "  > rows     2 pullbacks     1.5 M       2.0 KB",
        "    columns  4 pushforwards  24          1.0 GB",
        "f: compiled",
    ]


def test_as_html_says_the_same_and_escapes_it():
    told = made(Outline("rows", 2, 4, "a < b"), (ROWS, COLUMNS))
    page = told._repr_html_()
    assert page.count("<tr>") == 3 and "<b>2 pullbacks</b>" in page and "<b>4 pushforwards</b>" not in page
    assert "a &lt; b" in page and "a < b" not in page
    assert "<table>" not in made(Outline("none", 0, 0, "it is known"))._repr_html_()


def test_fields():
    told = made(Outline("columns", 1, 5, "because"))
    assert (told.way, told.passes, told.why, told.memory) == ("columns", 1, "because", 7)
    assert "to do: 1 pushforward in one kernel call (because); instead of 5 pullbacks" in str(told)
    nothing = made(Outline("none", 0, 0, "it is known"))
    assert "to do: nothing; it is known" in str(nothing)
    compared = made(Outline("columns", 1, 5, "1 pushforward costs less than 5 pullbacks"))
    assert "in one kernel call (1 pushforward costs less than 5 pullbacks)\n" in str(compared)  # said once
    assert "without seeds (all at once); instead of 1 pass" in str(made(Outline("nonzeros", 0, 1, "all at once")))
    assert told == made(Outline("columns", 1, 5, "because"), _memory=lambda: 8)


def test_a_view_tells_what_it_will_do_and_does_it():
    J = jacobian(layer)(X)
    for key, way, passes in ((slice(1, 3), "rows", 2), ((slice(None), 2), "columns", 1), (..., "columns", 3)):
        told = J.explain(key)
        before = J.stats
        assert (told.way, told.passes) == (way, passes)
        assert told.plans[0][:2] == (way, passes) and {p.way for p in told.plans} == {"rows", "columns"}
        assert told.shape == J[key].shape and told.nbytes == J[key].nbytes
        assert J.stats.pullbacks + J.stats.pushforwards == before.pullbacks + before.pushforwards + passes
    assert J.explain().way == "none" and J.explain().plans == ()


WIDE = RNG.normal(size=(300, 20)).astype(np.float32)


@pytest.mark.parametrize("limit", [100, 500, 1000])
@pytest.mark.parametrize("key", [(7, 7), ([7, 8], [3, 4])], ids=str)
def test_where_there_is_no_room_for_one_way_the_other_one_is_told_and_runs(limit, key):
    J = jacobian(lambda x: jnp.tanh(WIDE @ x), memory_limit=limit)(np.ones(20, np.float32))
    told = J.explain(key)
    assert told.way == "rows" and told.why == "columns do not fit in memory" or limit == 100
    try:
        read = J[key]
    except MaterializationError as error:
        assert str(error) in str(told) and "no plan fits" in str(told) and J.stats.kernel_calls == 0
        return
    assert read.shape == told.shape and told.memory >= read.nbytes
    assert (told.passes, 0) == (J.stats.pullbacks, J.stats.pushforwards)


def test_what_there_is_no_room_for_at_all_is_told():
    J = jacobian(jnp.sin, memory_limit=2000)(np.ones(50, np.float32))
    told = J.explain()
    assert "memory: no plan fits, and reading raises: jacobian: 50 columns" in str(told)
    assert J.plan == told.plan and told.plan.way == "columns"
    with pytest.raises(MaterializationError):
        told.memory  # noqa: B018
    with pytest.raises(MaterializationError):
        J[...]
    assert "memory:" not in str(J.explain(1))


def test_what_to_do_is_told_where_known_nonzeros_do_not_fit_as_a_matrix():
    J = jacobian(jnp.sin, memory_limit=2000)(np.ones(50, np.float32))
    J.nonzeros()
    with pytest.raises(MaterializationError) as caught:
        J[...]
    assert re.fullmatch(r"J\[...\] .*: expected .*, got one of 10.* KB. Read fewer .* memory_limit.", str(caught.value))
    assert str(J.explain()).count("J[...] out of nonzeros") == str(J.explain()).count("Read fewer rows") == 1


def test_explaining_computes_nothing():
    J = jacobian(layer)(X)
    calls = cache_info()
    J.explain(), J.explain(1), jacobian(layer).explain(X)  # noqa: B018
    assert cache_info() == calls and J.stats.kernel_calls == 0


def test_a_hessian_has_one_kind_of_product():
    told = hessian(lambda x: jnp.sum(layer(x) ** 2))(X).explain()
    assert len(told.plans) == 1 and told.plans[0].by == "Hessian-vector products" and "instead" not in str(told)


def test_notes():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, u: (2 * u,))
    J = jacobian(twice)(X)
    J[:, 1]  # which finds it out
    assert "its pullback is transposed" in str(J.explain())
    slow = jacobian(layer, jit=False)(X).explain()
    assert "jit=False" in str(slow) and "slow" in str(slow) and slow.plans == ()
    with pytest.raises(ValueError, match=r"memory: expected a view whose kernels are compiled, got .*jit=False"):
        slow.memory  # noqa: B018


def test_nonzeros_are_among_the_plans(monkeypatch, new_programs):
    monkeypatch.setattr(_whole, "WORTH_LOOKING", -1.0)
    monkeypatch.setattr(_whole, "BETTER", float("inf"))
    told = jacobian(lambda x: x**2)(X).explain()
    assert told.way == "nonzeros" and told.density == 0.25
    assert [p.way for p in told.plans] == ["nonzeros", "columns", "rows"] and "no seeds" in str(told)


@pytest.mark.parametrize("key", [..., 1, slice(0, 2), (slice(None), 0)], ids=str)
def test_memory_is_that_of_the_kernel_which_the_read_then_takes(key, new_programs):
    cache_clear()
    J = jacobian(lambda x: layer(x))(X)  # not read before
    told = J.explain(key)
    result = np.asarray(jax.jacfwd(layer)(X))[key].nbytes
    assert result <= told.memory <= 100 * result
    compiles = cache_info().compiles
    assert compiles == 1 and told.memory == told.memory
    J[key]
    assert cache_info().compiles == compiles


# Shapes in place of arrays


def test_a_matrix_larger_than_memory_is_explained():
    told = jacobian(jnp.sin).explain(jax.ShapeDtypeStruct((10**6,), jnp.float32))
    assert told.shape == (10**6, 10**6) and told.way in ("rows", "columns")


def test_shapes_are_enough():
    by_shape, by_array = jacobian(layer).explain(OF_X), jacobian(layer).explain(X)
    assert by_shape == dataclasses.replace(by_array, view=by_shape.view)
    assert by_shape.memory == by_array.memory > 0
    tree = jacobian(lambda p, x: p["w"] @ x + p["b"], 0).explain({"w": W, "b": W[:, 0]}, OF_X)
    assert (tree["w"].shape, tree["b"].shape) == ((6, 6, 4), (6, 6))


# Ahead of time


@pytest.mark.parametrize("given", [X, OF_X], ids=["array", "shape"])
@pytest.mark.parametrize("key", [..., 2, slice(1, 3), (slice(None), 1)], ids=str)
def test_what_is_compiled_ahead_is_not_compiled_again(given, key):
    cache_clear()
    jac = jacobian(lambda x: jnp.sin(W @ x))
    jac.compile(given, key=key)
    compiles = cache_info().compiles
    assert compiles == 1
    expected = (np.cos(W @ X)[:, None] * W)[key]
    np.testing.assert_allclose(jac(X)[key], expected, rtol=1e-5)
    assert cache_info().compiles == compiles


def test_a_tree_is_compiled_as_one_kernel():
    cache_clear()
    jac = jacobian(lambda p, x: jnp.tanh(p["w"] @ x + p["b"]))
    params = {"w": W, "b": W[:, 0]}
    jac.compile(params, X)
    assert cache_info().compiles == 1
    materialize(jac(params, X))
    assert cache_info().compiles == 1


def test_other_arguments_than_those_compiled_for_are_compiled_for():
    cache_clear()
    jac = jacobian(lambda x: x * W[0])
    jac.compile(OF_X)
    np.testing.assert_allclose(jac(X)[...], np.diag(W[0]))
    with jax.default_device(jax.devices()[0]):
        np.testing.assert_allclose(jac(jax.device_put(X, jax.devices()[0]))[...], np.diag(W[0]))


def test_python_is_not_compiled():
    with pytest.raises(ValueError, match=r"jacobian\(f, jit=False\).compile\(...\): expected an f that is compiled"):
        jacobian(layer, jit=False).compile(X)


SECOND = """
import sys, jax, numpy as np, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from jacobia import jacobian
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
jac = jacobian(lambda x: jnp.tanh(jnp.outer(x, x) @ x))
jac.compile(jax.ShapeDtypeStruct((5,), jnp.float32), key=slice(1, 3))
print(sum("cache_hits" in n for n in found), sum("cache_misses" in n for n in found))
"""


def test_a_second_process_compiles_nothing(tmp_path):
    counts = []
    for _ in range(2):
        command = [sys.executable, "-c", SECOND, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        counts.append(tuple(map(int, done.stdout.split())))
    (hits, misses), (later_hits, later_misses) = counts
    assert hits == 0 and misses > 0
    assert later_hits == misses and later_misses == 0


# Operations and bytes, beside what the compiler counts


def mlp(x):
    for w in (np.full((32, 16), 0.1, np.float32), np.full((8, 32), 0.1, np.float32)):
        x = jnp.tanh(w @ x)
    return x


def polynomial(x):
    return x[1:] ** 3 * x[:-1] - 2 * x[1:]


def squares(x):
    return jnp.sum(jnp.outer(x, x) ** 2, axis=0)


@pytest.mark.parametrize("f", [mlp, polynomial, squares], ids=lambda f: f.__name__)
@pytest.mark.parametrize("way", ["rows", "columns"])
def test_operations_are_those_that_the_compiler_counts(f, way):
    x = jnp.linspace(0.1, 1, 16)
    J = jacobian(f)(x)
    blue, block = J._origin.blue, J._origin.blue.blocks[0]
    own = blue.pass_work(way, block).plus(blue.primal_work)
    if way == "rows":
        y, pull = jax.vjp(f, x)
        program = jax.jit(lambda x, u: jax.vjp(f, x)[1](u)).lower(x, y)
    else:
        program = jax.jit(lambda x, v: jax.jvp(f, (x,), (v,))).lower(x, x)
    found = program.compile().cost_analysis()
    found = found[0] if isinstance(found, list) else found
    counted = found["flops"] + found.get("transcendentals", 0)
    assert 0.4 * counted <= own.flops <= 2.5 * counted


def test_work_of_a_product():
    closed = jax.make_jaxpr(lambda x: W @ x)(X)
    assert work(closed.jaxpr, 1) == (2 * 24, 4 * 4 + 6 * 4)


def stencil(x):
    return jnp.sin(x) * jnp.roll(x, 1, -1)


@jax.custom_vjp
def rounded(x):
    return 2 * x


rounded.defvjp(lambda x: (2 * x, None), lambda _, ct: (jnp.round(2 * ct),))  # not linear in its cotangent

LONG = np.linspace(0.1, 2, 12).astype(np.float32)
BATCH = np.stack([LONG, 2 * LONG])
PATTERN = jacobian(stencil)(LONG).pattern
VIEWS = {
    "rows and columns": lambda: jacobian(stencil)(LONG),
    "no pushforward": lambda: jacobian(stencil, mode="rev")(LONG),
    "samples": lambda: jacobian(stencil, batch_axis=0)(BATCH),
    "stacked": lambda: jax.vmap(jacobian(stencil))(BATCH),
    "a pattern": lambda: jacobian(stencil, sparsity=PATTERN)(LONG),
    "colors of rows": lambda: jacobian(stencil, sparsity=coloring(PATTERN, "rows"))(LONG),
    "colors of both": lambda: jacobian(stencil, sparsity=coloring(PATTERN, "both"))(LONG),
    "nothing sparse": lambda: jacobian(stencil, sparsity="dense")(LONG),
    "a pullback that is not linear": lambda: jacobian(rounded, sparsity=PATTERN.T)(LONG),
    "a Hessian": lambda: hessian(lambda x: (stencil(x) ** 2).sum())(LONG),
    "a Hessian by pullbacks": lambda: hessian(lambda x: (stencil(x) ** 2).sum(), mode="rev")(LONG),
    "several Hessians": lambda: hessian(lambda x: jnp.stack([(x**3).sum(), x[0] * x[1]]))(LONG),
}
READS = {"nonzeros": lambda J: J.nonzeros()[0], "diagonal": lambda J: J.diagonal()}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("view", VIEWS)
def test_nonzeros_and_the_diagonal_are_explained_as_they_run(view, name):
    J = VIEWS[view]()
    READS[name](VIEWS[view]())  # a pattern that is given is compared with products at the first point
    for known in ((), (slice(2, 5),)):
        J.clear()
        for key in known:
            J[key]
        told, before = J.explain(name), J.stats
        assert before == J.stats and told.memory >= told.nbytes
        out, done = READS[name](J), [b - a for a, b in zip(before, J.stats, strict=True)]
        assert (told.shape, told.nbytes) == (out.shape, out.nbytes)
        assert (done[2] + done[3], done[5]) == (told.passes, 1), (told.plan, done)
        again, after = J.explain(name), J.stats
        assert (again.way, again.passes) == ("none", 0) and "to do: nothing" in str(again)
        assert J.stats == after and READS[name](J) is out or name == "diagonal"


@pytest.mark.parametrize("name", READS)
def test_nonzeros_and_the_diagonal_are_compiled_ahead(name):
    f = lambda x: jnp.tanh(x) * jnp.roll(x, 2)  # noqa: E731
    cache_clear()
    jacobian(f).compile(jax.ShapeDtypeStruct((9,), jnp.float32), key=name)
    before = cache_info().compiles
    out = READS[name](jacobian(f)(LONG[:9]))
    assert before == cache_info().compiles == 1
    dense = np.asarray(jax.jacfwd(f)(LONG[:9]))
    rows, cols = np.nonzero(dense)
    np.testing.assert_allclose(out, np.diag(dense) if name == "diagonal" else dense[rows, cols], rtol=1e-6)


def test_what_is_neither_a_key_nor_a_reading():
    for ask in (jacobian(stencil)(LONG).explain, lambda key: jacobian(stencil).compile(LONG, key=key)):
        with pytest.raises(ValueError, match="'rows'.*'nonzeros' or 'diagonal'"):
            ask("rows")
    with pytest.raises(ValueError, match="diagonal"):
        jacobian(lambda x: jnp.outer(x, x[:2]))(LONG).explain("diagonal")


def test_what_was_told_stays():
    J = jacobian(stencil)(LONG)
    told = {name: J.explain(name) for name in (..., "nonzeros", "diagonal")}
    before = {name: t.memory for name, t in told.items()}
    J.nonzeros(), J.diagonal(), J[...]
    assert {name: t.memory for name, t in told.items()} == before and min(before.values()) > 0


def test_nonzeros_of_a_matrix_that_is_known_need_no_point():
    x = jnp.array(LONG)
    J = jacobian(stencil)(x)
    full, pattern = J[...], J.pattern
    x.delete()
    np.testing.assert_array_equal(J.nonzeros()[0], np.asarray(full)[pattern.rows, pattern.cols])


def test_a_diagonal_of_lines_that_are_known_is_explained():
    J = jacobian(stencil)(LONG)
    full = J[...]
    told = J.explain("diagonal")
    assert (told.way, told.passes, told.memory) == ("none", 0, 0)
    np.testing.assert_array_equal(J.diagonal(), np.diag(full))
