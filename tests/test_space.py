"""A `Space`, leaves as one flat vector: sizes, selected leaves, and single elements of the basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._space import Space

SPACE = Space(((2, 3), (), (0,), (2,)), (jnp.float32, jnp.complex64, jnp.float32, jnp.float16), ("a", "b", "c", "d"))


def test_sizes():
    assert SPACE.sizes == (6, 1, 0, 2) and SPACE.size == 9 and len(SPACE) == 4
    assert Space((), (), ()).size == 0


def test_some_of_the_leaves_in_any_order():
    some = SPACE.pick((3, 0))
    assert some == Space(((2,), (2, 3)), (jnp.float16, jnp.float32), ("d", "a"))
    assert some.paths == ("d", "a")


def test_names_are_no_part_of_what_is_compared():
    renamed = Space(SPACE.shapes, SPACE.dtypes, ("p", "q", "r", "s"))
    assert renamed == SPACE and hash(renamed) == hash(SPACE)
    assert Space(SPACE.shapes, (jnp.float32,) * 4, SPACE.paths) != SPACE


@pytest.mark.parametrize("index", range(9))
def test_one_element_of_the_basis(index):
    seeds = SPACE.basis(index)
    assert [s.shape for s in seeds] == list(SPACE.shapes) and [s.dtype for s in seeds] == list(SPACE.dtypes)
    flat = np.concatenate([np.asarray(s, complex).reshape(-1) for s in seeds])
    assert np.array_equal(flat, np.eye(9)[index])


def test_traced_numbers_and_numbers_outside():
    flat = jax.vmap(lambda k: jnp.concatenate([s.real.reshape(-1).astype(float) for s in SPACE.basis(k)]))
    assert np.array_equal(flat(jnp.arange(-1, 10)), np.eye(11)[:, 1:-1])  # outside: zeros


def test_zeros():
    zeros = SPACE.zeros()
    assert [z.shape for z in zeros] == list(SPACE.shapes) and [z.dtype for z in zeros] == list(SPACE.dtypes)
    assert not any(np.any(z) for z in zeros)
