"""The names that moved between versions of JAX, each on a real program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import _compat


def equations(f, *args):
    return jax.make_jaxpr(f)(*args).jaxpr.eqns


def test_every_name_is_there():
    assert [name for name in _compat.__all__ if not hasattr(_compat, name)] == []


def test_trace_state_tells_traces_apart():
    outside = _compat.trace_state()
    assert outside == _compat.trace_state()
    inside = []
    jax.make_jaxpr(lambda x: inside.extend([_compat.trace_state(), _compat.trace_state()]) or x)(1.0)
    assert inside[0] == inside[1] and inside[0] != outside
    jax.vmap(lambda x: inside.append(_compat.trace_state()) or x)(jnp.ones(2))
    assert inside[2] != outside and inside[2] != inside[0]
    assert _compat.trace_state() == outside


def test_is_jaxpr_takes_closed_and_open_programs_and_nothing_else():
    closed = jax.make_jaxpr(jnp.sin)(1.0)
    assert _compat.is_jaxpr(closed) and _compat.is_jaxpr(closed.jaxpr)
    for other in (jnp.sin, closed.jaxpr.eqns[0], None, (closed,), "jaxpr"):
        assert not _compat.is_jaxpr(other)


def test_inner_consts_of_a_jit_with_a_closed_over_array():
    array = np.array([1.0, 2.0], np.float32)
    (call,) = equations(lambda x: jax.jit(lambda v: v * jnp.asarray(array))(x), np.ones(2, np.float32))
    (found,) = _compat.inner_consts(call.params["jaxpr"])
    assert np.array_equal(found, array)
    (call,) = equations(lambda x: jax.jit(lambda v: v * 2)(x), 1.0)
    assert _compat.inner_consts(call.params["jaxpr"]) == []


@pytest.mark.parametrize(("consts", "carry", "xs"), [(0, 1, 1), (2, 1, 0), (1, 3, 2), (0, 0, 1), (1, 0, 1)])
def test_scan_split_on_a_real_scan(consts, carry, xs):
    def f(fixed, init, rows):
        def body(c, x):
            total = sum([*fixed, *c, *x]) if fixed else sum([*c, *x])
            return [v * 1.5 + total for v in c], total

        return jax.lax.scan(body, init, rows, length=3)

    args = [1.0] * consts, [2.0] * carry, [np.ones(3, np.float32)] * xs
    (scan,) = [e for e in equations(f, *args) if e.primitive.name == "scan"]
    assert _compat.scan_split(scan.params) == (consts, carry)
    assert len(scan.invars) == consts + carry + xs


def test_bind_runs_an_equation_on_other_values():
    (sin,) = equations(jnp.sin, 1.0)
    assert _compat.bind(sin, 2.0) == [pytest.approx(np.sin(2.0))]
    (cond,) = [
        e
        for e in equations(lambda i, x: jax.lax.switch(i, [jnp.sin, jnp.cos], x), 0, 1.0)
        if e.primitive.name == "cond"
    ]
    assert _compat.bind(cond, np.int32(1), np.float32(2.0)) == [pytest.approx(np.cos(2.0))]
    (scan,) = equations(lambda c: jax.lax.scan(lambda c, _: (2 * c, c), c, None, length=3), 1.0)
    last, all_ = _compat.bind(scan, np.float32(1.0))
    assert last == 8 and all_.tolist() == [1, 2, 4]


def test_bind_keeps_the_context_of_the_equation():
    def f(a, b):
        with jax.default_matmul_precision("highest"):
            return a @ b

    matrix = np.ones((2, 2), np.float32)
    eqns = equations(f, matrix, matrix)
    again = equations(lambda a, b: _compat.bind(eqns[-1], a, b), matrix, matrix)
    assert again[-1].params["precision"] == eqns[-1].params["precision"]
    assert again[-1].params["precision"][0] == jax.lax.Precision.HIGHEST

    def keyed(x):
        with jax.threefry_partitionable(False):
            return x + jax.lax.rng_uniform(0.0, 1.0, (2,)).sum() * 0 + x

    eqns = equations(keyed, 1.0)
    again = equations(lambda x: _compat.bind(eqns[-1], x, x), 1.0)
    assert again[-1].ctx.threefry_partitionable is eqns[-1].ctx.threefry_partitionable is False


def test_jit_disabled_and_config_values_see_this_thread_now():
    assert not _compat.jit_disabled()
    with jax.disable_jit():
        assert _compat.jit_disabled()
    before = _compat.config_values()
    assert before["jax_enable_x64"] is False and before["jax_default_matmul_precision"] is None
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        now = _compat.config_values()
    assert now["jax_enable_x64"] is True and now["jax_default_matmul_precision"] == "highest"
    assert _compat.config_values() == before


def test_the_token_is_the_same_until_a_setting_changes():
    token = _compat.settings_token()
    assert _compat.settings_token() is token
    with jax.enable_x64(True):
        assert _compat.settings_token() is not token
    with jax.default_matmul_precision("highest"):
        assert _compat.settings_token() is not token
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        assert _compat.settings_token() is not token
    assert _compat.settings_token() is token
