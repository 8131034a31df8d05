"""Operations of linear algebra: (generator of constants, array, array) → array."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO

from .arrays import axis_of, constant, known, matrix, ranked, some, square, vector

# Products


def from_left(rng, a, b):
    m = matrix(a)
    return constant(rng, a, int(rng.integers(0, 4)), m.shape[0], zeros=rng.choice([0.0, 0.6])) @ m


def from_right(rng, a, b):
    a = ranked(a)
    return a @ constant(rng, a, a.shape[-1], int(rng.integers(1, 5)), zeros=rng.choice([0.0, 0.6]))


def dense_product(rng, a, b):
    v = vector(a)
    return constant(rng, a, 4, v.size) @ v / v.size


def product(rng, a, b):
    a, b = matrix(a), matrix(b)
    k = min(a.shape[1], b.shape[0])
    return a[:, :k] @ b[:k]


def inner(rng, a, b):
    return jnp.vdot(vector(a), some(b, vector(a).size))


def outer(rng, a, b):
    return jnp.outer(vector(a)[:3], vector(b)[:4])


def by_batch(rng, a, b):
    a = matrix(a)
    b = some(b, *a.shape)
    names = ["bi,bj->bij", "bi,bi->b", "bi,ci->bc", "bi,bj->ij", "ij,ij->i", "ij,kj->ik"]
    return jnp.einsum(str(rng.choice(names)), a, b)


def of_matrices(rng, a, b):
    a = some(a, 2, 2, 2)
    return jnp.einsum("bij,bjk->bik", a, constant(rng, a, 2, 2, 2, zeros=0.4))


def kronecker(rng, a, b):
    return jnp.kron(vector(a)[:3], some(b, 2))


def convolved(rng, a, b):
    return jnp.convolve(vector(a), constant(rng, a, 3, zeros=0.4), mode=str(rng.choice(["full", "same", "valid"])))


def convolved_both(rng, a, b):
    return jnp.convolve(vector(a), vector(b)[:3])


def convolved_images(rng, a, b):
    image = some(a, 1, 2, 4) if rng.random() < 0.5 else some(a, 2, 2, 3)
    groups = int(rng.integers(1, 3))
    kernel = constant(rng, a, 2, 2 // groups, 2, zeros=0.3)
    if rng.random() < 0.3:
        kernel = some(b, 2, 2 // groups, 2)
    dilation = int(rng.integers(1, 3))
    return lax.conv_general_dilated(
        image, kernel, (int(rng.integers(1, 3)),), [(int(rng.integers(-1, 2)), 2)], lhs_dilation=(dilation,),
        rhs_dilation=(int(rng.integers(1, 3)),), feature_group_count=groups,
    )  # fmt: skip


def fourier(rng, a, b):
    a = ranked(a)
    return jnp.abs(jnp.fft.rfft(a, axis=axis_of(rng, a)) + (0.3 + 0.2j))


def sparse_product(rng, a, b):
    v = matrix(a) if rng.random() < 0.5 else vector(a)
    return BCOO.fromdense(known(rng, 3, v.shape[0], zeros=0.5).astype(a.dtype), nse=3 * v.shape[0]) @ v


def vmapped(rng, a, b):
    m = matrix(a)
    axis, out = int(rng.integers(2)), int(rng.integers(2))
    k = int(rng.integers(m.shape[1 - axis]))
    return jax.vmap(lambda v: v[k] * jnp.cumsum(v), axis, out)(m)


# Linear algebra


def solved(rng, a, b):
    matrix_of = square(rng, b) if rng.random() < 0.5 else square(rng, jnp.ones(1, a.dtype))
    right = some(a, 3) if rng.random() < 0.5 else some(a, 3, 2)
    return jnp.linalg.solve(matrix_of, right)


def solved_columns(rng, a, b):
    return jnp.linalg.solve(np.asarray(known(rng, 3, 3) * 0.3 + 2 * np.eye(3), a.dtype), some(a, 2, 3).T).T


def solved_triangular(rng, a, b):
    matrix_of = square(rng, b) if rng.random() < 0.5 else square(rng, jnp.ones(1, a.dtype))
    left = bool(rng.random() < 0.5)
    return lax.linalg.triangular_solve(
        matrix_of, some(a, 3, 2) if left else some(a, 2, 3), left_side=left, lower=bool(rng.random() < 0.5),
        transpose_a=bool(rng.random() < 0.5), unit_diagonal=bool(rng.random() < 0.3),
    )  # fmt: skip


def cholesky(rng, a, b):
    m = square(rng, a)
    return jnp.linalg.cholesky(m @ m.T)


def inverse(rng, a, b):
    return jnp.linalg.inv(square(rng, a))


def determinant(rng, a, b):
    return jnp.stack([jnp.linalg.det(square(rng, a)), vector(b)[0]])


def solved_tridiagonal(rng, a, b):
    n = 4
    low, high = (constant(rng, a, n) * 0.3 for _ in range(2))
    return lax.linalg.tridiagonal_solve(
        jnp.asarray(low).at[0].set(0), jnp.full(n, 2, a.dtype), jnp.asarray(high).at[-1].set(0), some(a, n, 2)
    )


def solved_by_rule(rng, a, b):
    m = constant(rng, a, 3, 3) * 0.2 + 2 * np.eye(3, dtype=a.dtype)
    return lax.custom_linear_solve(
        lambda v: m @ v, some(a, 3), lambda matvec, v: jnp.linalg.solve(m, v),
        transpose_solve=lambda matvec, v: jnp.linalg.solve(m.T, v),
    )  # fmt: skip


def root(rng, a, b):
    v = some(a, 3)
    return lax.custom_root(
        lambda u: u**3 + u - v, jnp.zeros_like(v), lambda f, u: lax.fori_loop(
            0, 40, lambda _, u: u - (u**3 + u - v) / (3 * u**2 + 1), u),
        lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y),
    )  # fmt: skip


PRODUCTS = {
    # products
    "from left": from_left,
    "from right": from_right,
    "matrix": dense_product,
    "product": product,
    "inner": inner,
    "outer": outer,
    "einsum": by_batch,
    "matrices": of_matrices,
    "kronecker": kronecker,
    "convolve": convolved,
    "convolve both": convolved_both,
    "images": convolved_images,
    "fourier": fourier,
    "sparse": sparse_product,
    "vmap": vmapped,
    # linear algebra
    "solve": solved,
    "solve columns": solved_columns,
    "triangular": solved_triangular,
    "cholesky": cholesky,
    "inverse": inverse,
    "determinant": determinant,
    "tridiagonal": solved_tridiagonal,
    "solve by rule": solved_by_rule,
    "root by rule": root,
}
