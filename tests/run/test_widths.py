"""Sizes beyond 32-bit integers: a program is refused, or needs no such size. No large array is made.

Shapes: M outputs, N inputs, nnz entries, K slots.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import MaterializationError, Pattern, jacobian, sparsity_pattern
from jacobia._plans.accumulated import written
from jacobia._program.columns import room
from jacobia._program.columns.room import TooWide, check_columns, numbered
from jacobia._program.walk import subprograms
from jacobia._space import Space
from jacobia._sparse import pattern as _pattern

pytestmark = pytest.mark.slow

MOST = 2**31 - 1
X = np.linspace(0.5, 1.5, 6, dtype=np.float32)


def shape(*sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def looked_up(jaxpr):
    """The axes along which a program looks up or writes by numbers, and the dtypes of these numbers."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("gather", "scatter", "scatter-add", "dynamic_slice", "dynamic_update_slice"):
            yield eqn.invars[0].aval.shape, eqn.invars[1].aval.dtype
        for inner in subprograms(eqn):
            yield from looked_up(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("size", [(70_000, 70_000), (2**30, 5), (5, 2**30), (3, 4)], ids=str)
def test_no_place_of_a_large_matrix_is_one_number(size):
    entries = shape(7), shape(7, dtype=np.int32), shape(7, dtype=np.int32)
    traced = jax.make_jaxpr(lambda data, rows, cols: written(data, rows, cols, size))(*entries)
    assert traced.out_avals[0].shape == size
    (place,) = looked_up(traced.jaxpr)
    assert place == (size, np.int32)


def test_entries_are_written_where_they_belong():
    rows, cols = np.array([0, 2, 2], np.int32), np.array([3, 0, 1], np.int32)
    expected = np.zeros((3, 4))
    expected[rows, cols] = 1, 2, 3
    np.testing.assert_array_equal(written(jnp.arange(1.0, 4), rows, cols, (3, 4)), expected)


def test_columns_and_numbers_end_where_32_bits_do():
    check_columns(1, (MOST,))
    check_columns(1 << 15, (1 << 15, 1))
    for width, own in ((1, (MOST + 1,)), (1 << 16, (1 << 15, 1)), (3, (2**30,))):
        with pytest.raises(TooWide):
            check_columns(width, own)
    with pytest.raises(TooWide):
        numbered((2**16, 2**15))
    with pytest.raises(TooWide):
        numbered((3,), start=MOST)
    made = numbered((2, 3), start=5)
    np.testing.assert_array_equal(made, [[5, 6, 7], [8, 9, 10]])
    assert made.dtype == np.int32


@pytest.mark.parametrize("f, x", [
    (jnp.sin, shape(2**31)),
    (lambda x: jnp.broadcast_to(x[:, None], (2**11, 2**21)), shape(2**11)),
    (lambda x: (x[:1], jnp.broadcast_to(x[:, None, None], (2**11, 2**11, 2**10))), shape(2**11)),
], ids=["inputs", "outputs", "outputs beside others"])  # fmt: skip
def test_patterns_of_too_many_numbers_are_refused(f, x):
    with pytest.raises(MaterializationError):
        sparsity_pattern(f, x)


def test_inputs_of_two_axes_are_counted_together(monkeypatch):
    # With a lower limit, since the known values of 2**31 inputs take gigabytes.
    monkeypatch.setattr(room, "MOST", 1000)
    assert sparsity_pattern(lambda x: jnp.sum(x**2), shape(2**4, 2**5)).nnz == 2**9
    with pytest.raises(MaterializationError, match="1024 elements"):
        sparsity_pattern(lambda x: jnp.sum(x**2), shape(2**5, 2**5))


PROGRAMS = {
    "elementwise": jnp.sin,
    "sums": lambda x: jnp.sum(x.reshape(2, 3), axis=0) ** 2,
    "products": lambda x: np.arange(12, dtype=np.float32).reshape(2, 6) @ x,
    "moves": lambda x: jnp.concatenate([x[::-1], x[:2], jnp.pad(x, 2)[:3]]),
    "writes": lambda x: jnp.zeros(8).at[np.array([1, 1, 7, 3, 3, 0])].add(x),
    "windows": lambda x: jnp.convolve(x, np.array([1.0, 2.0, 3.0])),
    "loops": lambda x: jax.lax.scan(lambda c, _: (jnp.roll(c, 1) * 2, c[0]), x, None, length=20)[1],
    "maps": lambda x: jax.lax.map(lambda v: v**2, jnp.tile(x, 4)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_where_numbers_end_is_an_error_and_no_wrong_number(name, monkeypatch, empty_cache):
    # The limit is lowered: programs that fit give the same numbers, and others raise an error.
    f, refused, expected = PROGRAMS[name], 0, np.asarray(jax.jit(jax.jacfwd(PROGRAMS[name]))(X))
    for most in (3, 10, 30, 100, 10_000):
        monkeypatch.setattr(room, "MOST", most)
        try:
            J = jacobian(lambda x, f=f: f(x))(X)
            dense = J.to_bcoo().todense()
        except MaterializationError as error:
            refused += 1
            assert "J.mv" in str(error)
            continue
        np.testing.assert_allclose(dense, expected, rtol=1e-5)
    assert 0 < refused < 5


def test_patterns_have_no_more_entries_than_numbers(monkeypatch):
    rows, cols = np.arange(5), np.arange(5)
    monkeypatch.setattr(_pattern, "MOST", 5)
    assert Pattern(rows, cols, (5, 5)).nnz == 5
    with pytest.raises(MaterializationError, match="at most 5 entries.*got 6"):
        Pattern(np.repeat(rows, 2)[:6], np.array([0, 1, 0, 1, 0, 1]), (5, 5))
    with pytest.raises(MaterializationError, match="at most 5 entries.*got 25"):
        Pattern.from_dense(np.ones((5, 5)))


def test_rows_and_columns_that_have_no_number():
    with pytest.raises(MaterializationError, match=f"at most {MOST} elements, .*, got {2**32} in x, y"):
        Space(((2**31,), (2**16, 2**15)), (np.float32,) * 2, ("x", "y")).basis(0)
    assert Space(((2**31 - 1,),), (np.float32,), ("x",)).is_numbered
