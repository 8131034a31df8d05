"""Functions of a batch: some keep samples apart, the others mix them."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import sparse

B, N = 4, 6
RNG = np.random.default_rng(0)
W = RNG.normal(size=(N, N)).astype(np.float32)
V = RNG.normal(size=(B, B)).astype(np.float32)
C = RNG.normal(size=(B, N)).astype(np.float32)
KERNEL = RNG.normal(size=(2, 3, 3)).astype(np.float32)  # out, in, width
MATRIX = W + 9 * np.eye(N, dtype=np.float32)
SPARSE = sparse.BCOO.fromdense(W * (np.abs(W) > 0.5))
SPARSE_EACH = sparse.BCOO.fromdense(C[:, :, None] * W * (np.abs(W) > 0.5), n_batch=1)  # a matrix for each sample
SPARSE_SAMPLES = sparse.BCOO.fromdense(V)
PERMUTATION = np.array([2, 0, 3, 1])
INVERSE = np.argsort(PERMUTATION)
LABELS = np.array([1, 0, 5, 1])


def quick_options():
    """Compiler options for programs that run once. Not every version of XLA knows the second one."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        del options["xla_cpu_use_fusion_emitters"]
    return options


QUICK = quick_options()


class Case(NamedTuple):
    f: object
    shape: tuple[int, ...] = (B, N)
    axis: int = 0


def points(shape):
    return np.stack([np.random.default_rng(k).uniform(0.2, 1.5, shape).astype(np.float32) for k in range(2)])


# Programs that keep samples apart


def mlp(x):
    return jnp.tanh(jnp.tanh(x @ W + 1) @ W)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * W[0]


def attention(x):
    q = x.reshape(B, 3, 1, 2)
    return jax.nn.dot_product_attention(q, q * 2, q + 1)


def conv(x):
    return lax.conv_general_dilated(x, KERNEL, (1,), "SAME")


def conv_per_sample(x):
    return jax.vmap(lambda image, kernel: lax.conv(image[None], kernel, (1,), "SAME")[0])(x, x[:, None, :, :3])


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID")


def average_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 1), "SAME")


def rnn(x):
    return lax.scan(lambda h, t: (jnp.tanh(h @ W[:2, :2] + t[:, None]), h), jnp.zeros((B, 2)), x.T)[0]


def rnn_inside(x):
    """Axis 0 is time; the batch axis is in the middle."""
    return lax.scan(lambda h, t: (jnp.sin(h + t), h * t), jnp.ones(x.shape[1:]), x)[1]


def squared_matrices(x):
    return jnp.einsum("bi,bj->bij", x, x) + 3 * jnp.eye(N)


def halves(x):
    return jnp.concatenate([x[: B // 2] @ W, x[B // 2 :] @ (2 * W)])


def siamese(x):
    y = jnp.tanh(jnp.concatenate([x, x * 2]) @ W)
    return y[:B] * y[B:]


@jax.custom_jvp
def ruled(x):
    return jnp.sin(x)


ruled.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0] * 2))


def loop(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x))[1]


def until_large(x):
    """The number of steps depends on all samples, but the derivative does not mix them."""
    return lax.while_loop(lambda s: jnp.sum(s) < 30, lambda s: s * 1.5, x)


def by_index(x):
    return lax.fori_loop(0, 3, lambda i, a: a.at[:, i].multiply(a[:, i + 1]), x)


def blocks(x):
    return jnp.kron(np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32)) @ x + np.diag(C[:, 0]) @ x


def solved(matrix, b):
    """lax.custom_linear_solve: the matrix and the solver are functions."""
    inverse = np.linalg.inv(matrix)
    return lax.custom_linear_solve(lambda v: matrix @ v, b, lambda _, b: inverse @ b, lambda _, b: inverse.T @ b)


def by_bands(x):
    return lax.linalg.tridiagonal_solve(np.r_[0, C[0, 1:]], C[1] + 9, np.r_[C[2, :-1], 0], x)


def diagonal_matrix(v):
    return sparse.BCOO((v, np.repeat(np.arange(len(v))[:, None], 2, 1)), shape=(len(v), len(v)))


SOLVES = {
    "right-hand sides": Case(lambda x: jnp.linalg.solve(MATRIX, x.T).T),
    "right-hand sides behind": Case(lambda x: jnp.linalg.solve(MATRIX, jnp.sin(x)), (2, N, B), 2),
    "right-hand side, vmap": Case(lambda x: jax.vmap(lambda b: jnp.linalg.solve(MATRIX, b))(x)),
    "several right-hand sides each": Case(lambda x: jnp.linalg.solve(MATRIX, x), (B, N, 2)),
    "matrix of a sample": Case(lambda x: jax.vmap(lambda v: jnp.linalg.solve(jnp.outer(v, v) + MATRIX, v))(x)),
    "inverse of a sample": Case(lambda x: jnp.linalg.inv(squared_matrices(x))[:, 0]),
    "cholesky and solve": Case(lambda x: jax.scipy.linalg.cho_solve((MATRIX, True), x.T).T),
    "triangle, from the left": Case(lambda x: lax.linalg.triangular_solve(MATRIX, x.T, left_side=True).T * x),
    "triangle, from the right": Case(lambda x: lax.linalg.triangular_solve(MATRIX, x, lower=True, transpose_a=True)),
    "triangles, in front": Case(
        lambda x: lax.linalg.triangular_solve(np.stack([MATRIX, W]), x, unit_diagonal=True), (2, B, N), 1),
    "triangle of some samples": Case(lambda x: jnp.concatenate([
        lax.linalg.triangular_solve(MATRIX, x[:1]), lax.linalg.triangular_solve(MATRIX, x[1:], lower=True)])),
    "three bands": Case(lambda x: by_bands(x.T).T),
    "three bands, vmap": Case(jax.vmap(lambda b: by_bands(b[:, None])[:, 0])),
    "handed over": Case(lambda x: solved(MATRIX, x.T).T),
    "handed over, by cg": Case(jax.vmap(lambda b: jax.scipy.sparse.linalg.cg(lambda v: MATRIX.T @ (MATRIX @ v), b)[0])),
    "sparse from the left": Case(lambda x: (SPARSE @ jnp.sin(x.T)).T),
    "sparse from the right": Case(lambda x: x @ SPARSE),
    "sparse in front": Case(lambda x: x**2 @ SPARSE, (2, B, N), 1),
    "sparse, vmap": Case(lambda x: jax.vmap(lambda v: SPARSE @ v)(x) * x),
    "sparse of each": Case(lambda x: jax.vmap(lambda a, v: a @ v)(SPARSE_EACH, x)),
    "sparse of a sample": Case(jax.vmap(lambda v: diagonal_matrix(v) @ v)),
    "sparse of a sample, made dense": Case(jax.vmap(lambda v: diagonal_matrix(v).todense())),
    "sparse by rows": Case(lambda x: (sparse.BCSR.from_bcoo(SPARSE) @ x.T).T),
    "sparse, diagonal": Case(lambda x: diagonal_matrix(C[:, 0]) @ x),
}  # fmt: skip

INDEPENDENT = SOLVES | {
    "mlp": Case(mlp),
    "layer norm": Case(layer_norm),
    "softmax": Case(lambda x: jax.nn.softmax(x)),
    "logsumexp": Case(lambda x: jax.nn.logsumexp(x, axis=1)),
    "attention": Case(attention),
    "convolution": Case(conv, (B, 3, 5)),
    "convolution, kernels per sample": Case(conv_per_sample, (B, 3, 5)),
    "convolve per sample": Case(lambda x: jax.vmap(jnp.convolve)(x, x)),
    "max pooling": Case(pool),
    "average pooling": Case(average_pool),
    "sort": Case(lambda x: jnp.sort(x, axis=-1)),
    "sort with values": Case(lambda x: lax.sort((x, jnp.sin(x)), dimension=1, num_keys=1)[1]),
    "median": Case(lambda x: jnp.median(x, axis=1)),
    "quantile": Case(lambda x: jnp.quantile(x, 0.3, axis=1)),
    "fft": Case(lambda x: jnp.abs(jnp.fft.rfft(x))),
    "norm": Case(lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)),
    "cross": Case(lambda x: jnp.cross(x[:, :3], x[:, 3:])),
    "kron": Case(lambda x: jax.vmap(jnp.kron)(x, x)),
    "einsum": Case(lambda x: jnp.einsum("bi,ij,bj->b", x, W, x)),
    "cholesky": Case(lambda x: jnp.linalg.cholesky(squared_matrices(x))),
    "solve": Case(lambda x: jnp.linalg.solve(squared_matrices(x), x[..., None])),
    "qr": Case(lambda x: jnp.linalg.qr(squared_matrices(x))[1], (B, N)),
    "eigenvalues": Case(lambda x: jnp.linalg.eigh(x[:, :3, None] * x[:, None, 3:])[0]),
    "triangular solve": Case(lambda x: lax.linalg.triangular_solve(squared_matrices(x), x[..., None], left_side=True)),
    "take": Case(lambda x: jnp.take(x, LABELS, axis=1)),
    "take along": Case(lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1)),
    "set": Case(lambda x: x.at[:, 1].set(x[:, 2])),
    "add at": Case(lambda x: x.at[:, jnp.array([1, 1])].add(x[:, :2] ** 2)),
    "dynamic slice": Case(lambda x: lax.dynamic_slice_in_dim(x, (x[0, 0] > 9).astype(int), 2, axis=1)),
    "dynamic update": Case(lambda x: lax.dynamic_update_slice(x, x[:, :2] ** 2, (0, 1))),
    "interp": Case(lambda x: jnp.interp(x, np.linspace(0, 2, 5), np.arange(5.0) ** 2)),
    "branch by all": Case(lambda x: lax.cond(jnp.sum(x) > 3, jnp.sin, lambda x: x**2, x)),
    "branches per sample": Case(
        lambda x: jax.vmap(lambda v: lax.switch(v[0].astype(int), [jnp.sin, jnp.cos], v))(x)
    ),
    "rnn": Case(rnn),
    "rnn inside": Case(rnn_inside, (3, B, 2), 1),
    "map": Case(lambda x: lax.map(lambda v: jnp.sin(v) * v.sum(), x)),
    "index in a loop": Case(by_index),
    "remat": Case(jax.checkpoint(lambda x: jnp.sin(x) * x.sum(1, keepdims=True))),
    "custom jvp": Case(lambda x: ruled(x) * x),
    "nested jit": Case(jax.jit(lambda x: jax.jit(jnp.sin)(x) * jax.jit(lambda y: y @ W)(x))),
    "halves": Case(halves),
    "siamese": Case(siamese),
    "permuted and back": Case(lambda x: jnp.sin(x[PERMUTATION])[INVERSE]),
    "reversed twice": Case(lambda x: jnp.sin(x[::-1])[::-1]),
    "rolled and back": Case(lambda x: jnp.roll(jnp.sin(jnp.roll(x, 1, axis=0)), -1, axis=0)),
    "samples in pairs": Case(lambda x: (jnp.sin(x.reshape(B // 2, 2 * N)) * 2).reshape(B, N)),
    "flat": Case(lambda x: jnp.sin(x.reshape(-1)).reshape(B, N)),
    "merged from behind": Case(lambda x: (x.reshape(B * 2, 3) @ W[:3, :3]).reshape(B, N)),
    "merged from before": Case(lambda x: jnp.tanh(x.reshape(2 * B, 3) @ W[:3]).reshape(2, B, N), (2, B, 3), 1),
    "labels": Case(lambda x: jax.nn.log_softmax(x)[jnp.arange(B), LABELS]),
    "labels of the input": Case(jax.jit(lambda x: x[jnp.arange(B), (x[:, 0] > 1).astype(int)])),
    "diagonal": Case(lambda x: jnp.sin(x)[jnp.arange(B), jnp.arange(B)], (B, B)),
    "cumulative": Case(lambda x: jnp.cumsum(x, 1) * jnp.cumprod(x, 1) + lax.cumlogsumexp(x, 1)),
    "associative scan": Case(lambda x: lax.associative_scan(operator.mul, x, axis=1)),
    "top k": Case(lambda x: lax.top_k(x, 2)[0]),
    "gated": Case(lambda x: jnp.where(x > 1, x, x**2) * jax.nn.one_hot(jnp.argmax(x, 1), N)),
    "known diagonal": Case(blocks),
    "known permutations": Case(lambda x: np.eye(B)[INVERSE] @ jnp.sin(np.eye(B)[PERMUTATION] @ x)),
    "columns": Case(lambda x: jnp.tanh(W @ x), (N, B), 1),
    "columns, transposed": Case(lambda x: jnp.tanh(x.T @ W).T, (N, B), -1),
    "in the middle": Case(lambda x: jnp.moveaxis(jnp.moveaxis(x, 1, 0) @ W[:3, :3], 0, 1), (2, B, 3), 1),
    "sum in front": Case(lambda x: jnp.cumsum(x.sum(0, keepdims=True) * x, 0), (2, B, 3), 1),
    "stacked": Case(lambda x: jnp.stack([x, x * 2, C * x], axis=1)[:, 1]),
    "detached mean": Case(lambda x: x * lax.stop_gradient(x.mean(0)) + lax.stop_gradient(x)[::-1]),
    "integers": Case(lambda x: x * (10 * x).astype(int)[PERMUTATION]),
    "of no sample": Case(lambda x: jnp.ones_like(x) * C),
    "zero times the mean": Case(lambda x: x + np.zeros(N, np.float32) * x.mean(0)),
    "masked mean": Case(lambda x: jnp.where(np.arange(N) > 9, x.mean(0), x)),
    "diagonal by a mask": Case(lambda x: (jnp.sin(x) * np.eye(B)).T.sum(1), (B, B)),
    "diagonal by einsum": Case(lambda x: jnp.einsum("ii->i", x), (B, B)),
    "known branch": Case(lambda x: lax.switch(jnp.array(0), [jnp.sin, lambda x: x[::-1]], x)),
    "segments": Case(lambda x: jax.vmap(lambda v: jax.ops.segment_sum(v, LABELS[[0, 1, 0, 1, 1, 1]], 2))(x)),
    "padded": Case(lambda x: jnp.pad(x, ((0, 0), (1, 2)), mode="edge")),
    "padded and cut": Case(lambda x: jnp.pad(x, ((1, 1), (0, 0)))[1:-1]),
    "complex": Case(lambda x: jnp.real(jnp.exp(1j * x) * x)),
    "two outputs": Case(lambda x: (x.sum(1), {"b": jnp.sin(x)})),
    "dead mean": Case(lambda x: lax.scan(lambda c, _: (c * 2, c.mean(0)), x, None, length=2)[0]),
}  # fmt: skip

# JAX has no pullback of these.
FORWARD_ONLY = {"loop": Case(loop), "until large": Case(until_large)}


# Programs that mix samples, or move them to another axis


@jax.custom_jvp
def mixing_rule(x):
    return jnp.sin(x)


mixing_rule.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0][::-1]))


def carried(x):
    return lax.scan(lambda c, v: (c + jnp.sin(v), c * v), jnp.zeros(N), x)[1]


def contrastive(x):
    z = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return -jnp.diagonal(jax.nn.log_softmax(z @ z.T * 2))


def long_loop(x):
    """Two samples meet after 70 steps."""
    return lax.scan(lambda c, _: (c + 0.1 * jnp.roll(c, 1, axis=0), None), x, None, length=70)[0]


def shifting_loop(x):
    return lax.fori_loop(0, 2, lambda i, a: jnp.roll(a, 1, axis=0), x)


def loop_that_mixes(x):
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * s[1].mean(0)), (0, x))[1]


def masked_at_first(x):
    return lax.scan(lambda c, _: (c + x, c.sum(0)), x * np.eye(B), None, length=70)[1].sum(0)


def masked_in_one_branch(x):
    return lax.cond(x[0, 0] > 9, lambda x: x * np.eye(B), lambda x: x * np.tri(B), x).sum(0)


def masked_in_every_step(x):
    return lax.scan(lambda c, v: (c, v * np.tri(B) + c), x, jnp.stack([x, x]))[1].sum((0, 1))


def image_axis(x):
    """The batch lies where a convolution slides."""
    return lax.conv_general_dilated(x, KERNEL[:, :2], (1,), "SAME")


def channel_axis(x):
    return lax.conv_general_dilated(x, np.ones((4, 4, 1), np.float32), (1,), "VALID")


MIXING_SOLVES = {
    "rows of a solve": Case(lambda x: jnp.linalg.solve(MATRIX[:B, :B], x)),
    "rows of a solve, behind": Case(lambda x: jnp.linalg.solve(MATRIX, x), (2, N, 3), 1),
    "matrix of the batch": Case(lambda x: jnp.linalg.solve(x.T @ x + MATRIX, x.T).T),
    "matrix of another": Case(
        lambda x: jax.vmap(lambda u, v: jnp.linalg.solve(jnp.outer(u, u) + MATRIX, v))(x, x[::-1])),
    "matrices for all": Case(lambda x: jnp.linalg.solve(squared_matrices(x), x.T).sum(0).T),
    "inverse of the batch": Case(lambda x: jnp.linalg.inv(x + 9 * np.eye(B)), (B, B)),
    "rows, from the left": Case(lambda x: lax.linalg.triangular_solve(MATRIX[:B, :B], x, left_side=True, lower=True)),
    "columns, from the right": Case(lambda x: lax.linalg.triangular_solve(MATRIX[:B, :B], x.T).T),
    "rows of three bands": Case(lambda x: by_bands(jnp.pad(x, ((0, 2), (0, 0))))[:B]),
    "rows, handed over": Case(lambda x: solved(MATRIX[:B, :B], x)),
    "rows of a sparse product": Case(lambda x: SPARSE_SAMPLES @ x),
    "columns of a sparse product": Case(lambda x: (x.T @ SPARSE_SAMPLES).T),
    "sparse of another": Case(lambda x: jax.vmap(lambda a, v: a @ v)(SPARSE_EACH, x[::-1])),
    "sparse of one sample": Case(lambda x: (diagonal_matrix(x[0]) @ x.T).T),
    "sparse of the batch": Case(lambda x: diagonal_matrix(x[::-1, 0]) @ C),
}  # fmt: skip

MIXING = MIXING_SOLVES | {
    "mean": Case(lambda x: x - x.mean(0)),
    "batch norm": Case(lambda x: (x - x.mean(0)) * lax.rsqrt(x.var(0) + 1e-5)),
    "total": Case(lambda x: x * x.sum()),
    "softmax over samples": Case(lambda x: jax.nn.softmax(x, axis=0)),
    "logsumexp over samples": Case(lambda x: x + jax.nn.logsumexp(x, axis=0)),
    "sort samples": Case(lambda x: jnp.sort(x, axis=0)),
    "sort by a column": Case(lambda x: x[jnp.argsort(x[:, 0])]),
    "sort with values": Case(lambda x: lax.sort((lax.stop_gradient(x), x), dimension=0, num_keys=1)[1]),
    "median of samples": Case(lambda x: x - jnp.median(x, axis=0)),
    "cumsum": Case(lambda x: jnp.cumsum(x, axis=0)),
    "cumprod": Case(lambda x: jnp.cumprod(x, axis=0)),
    "cummax": Case(lambda x: lax.cummax(x, axis=0, reverse=True)),
    "reversed": Case(lambda x: x[::-1]),
    "rolled": Case(lambda x: jnp.roll(x, 1, axis=0)),
    "rolled by the input": Case(lambda x: jnp.roll(x, (x[0, 0] > 0).astype(int), axis=0)),
    "shifted": Case(lambda x: jnp.pad(x, ((1, 0), (0, 0)))[:-1]),
    "shifted by padding": Case(lambda x: lax.pad(x, 0.0, ((1, -1, 0), (0, 0, 0)))),
    "swapped halves": Case(lambda x: jnp.concatenate([x[B // 2 :], x[: B // 2]])),
    "permuted": Case(lambda x: x[PERMUTATION]),
    "gathered by the input": Case(lambda x: x[(x[:, 0] > 0.7).astype(int)]),
    "taken along": Case(lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=0), axis=0)),
    "set from another": Case(lambda x: x.at[0].set(x[1])),
    "added at": Case(lambda x: x.at[jnp.array([0, 0])].add(x[:2])),
    "added at the input": Case(lambda x: x.at[(x[:, 0] > 0.7).astype(int)].add(x)),
    "norm of all": Case(lambda x: x / jnp.linalg.norm(x)),
    "gram": Case(lambda x: x @ x.T),
    "contrastive": Case(contrastive),
    "pairs": Case(lambda x: x[:, None] - x[None, :]),
    "scan over samples": Case(carried),
    "associative scan": Case(lambda x: lax.associative_scan(operator.add, x, axis=0)),
    "maximum": Case(lambda x: x * x.max(0)),
    "where": Case(lambda x: jnp.where(x > 1, x, x[::-1])),
    "clip": Case(lambda x: jnp.clip(x, None, x.mean(0))),
    "matrix": Case(lambda x: V @ x),
    "square": Case(lambda x: x @ x, (B, B)),
    "transposed": Case(lambda x: x.T, (B, B)),
    "symmetric": Case(lambda x: x + x.T, (B, B)),
    "symmetric by einsum": Case(lambda x: jnp.einsum("ij,ji->ij", x, x), (B, B)),
    "outer by einsum": Case(lambda x: jnp.einsum("bi,ci->bc", x, jnp.sin(x))),
    "reshape across": Case(lambda x: x.reshape(N, B).T),
    "reshape and transpose": Case(lambda x: x.reshape(2, 2, N).swapaxes(0, 1).reshape(B, N)),
    "merged in the wrong order": Case(lambda x: jnp.tanh(x.reshape(B, 2, 3)).swapaxes(0, 1), (2, B, 3), 1),
    "fft over samples": Case(lambda x: jnp.real(jnp.fft.fft(x, axis=0))),
    "one matrix": Case(lambda x: jnp.linalg.solve(x @ x.T + 9 * np.eye(B), C), (B, B)),
    "triangular": Case(lambda x: lax.linalg.triangular_solve(V + 9 * np.eye(B), x, left_side=True)),
    "triangular, from the other side": Case(lambda x: lax.linalg.triangular_solve(x + 9 * np.eye(B), C, left_side=True),
                                            (B, B)),
    "top k over samples": Case(lambda x: lax.top_k(x.T, B)[0].T),
    "window over samples": Case(lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), "SAME")),
    "max window over samples": Case(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3, 1), (1, 1), "SAME")),
    "convolved over samples": Case(image_axis, (3, 2, B), 2),
    "samples as channels": Case(channel_axis, (2, B, 3), 1),
    "branch that mixes": Case(lambda x: lax.cond(x[0, 0] > 0.1, lambda x: x[::-1], jnp.sin, x)),
    "loop that mixes": Case(lambda x: lax.scan(lambda c, _: (c - c.mean(0), None), x, None, length=2)[0]),
    "long loop": Case(long_loop),
    "loop that moves": Case(shifting_loop),
    "nested jit": Case(jax.jit(lambda x: x + jax.jit(lambda y: jnp.sin(y).sum(0))(x))),
    "vmap over features": Case(lambda x: jax.vmap(lambda c: c - c.mean(), 1, 1)(x)),
    "vmap turned": Case(lambda x: jax.vmap(jnp.sin, 1, 0)(x), (B, B)),
    "map over features": Case(lambda x: lax.map(lambda c: c / c.sum(), x.T).T),
    "rule that moves": Case(mixing_rule),
    "mean in columns": Case(lambda x: x - x.mean(1, keepdims=True), (N, B), 1),
    "mean, last axis": Case(lambda x: x - x.mean(-1, keepdims=True), (3, B), -1),
    "sum in the middle": Case(lambda x: jnp.sin(x) * x.sum(1, keepdims=True), (2, B, 3), 1),
    "tiled": Case(lambda x: jnp.tile(x[:2], (2, 1))),
    "repeated": Case(lambda x: jnp.repeat(x[:2], 2, axis=0)),
    "rotated": Case(jnp.rot90, (B, B)),
    "variance": Case(lambda x: x * jnp.var(x, axis=0)),
    "product": Case(lambda x: x + jnp.prod(x, axis=0)),
    "second output": Case(lambda x: (jnp.sin(x), x.at[1].set(x[0]))),
    "through integers": Case(lambda x: x[(10 * x[:, 0]).astype(int) % B]),
    "segments of samples": Case(lambda x: jax.ops.segment_sum(x, np.array([0, 1, 1, 0]), B)),
    "upper triangle": Case(lambda x: np.triu(np.ones((B, B), np.float32)) @ x),
    "attention among samples": Case(lambda x: jax.nn.softmax(x @ x.T) @ x),
    "interpolated": Case(lambda x: jax.image.resize(x[:2], (B, N), "linear")),
    "detached weights": Case(lambda x: jax.nn.softmax(lax.stop_gradient(x @ x.T)) @ x),
    "masked at first": Case(masked_at_first, (B, B)),
    "masked in one branch": Case(masked_in_one_branch, (B, B)),
    "masked in every step": Case(masked_in_every_step, (B, B)),
    "through complex": Case(lambda x: jnp.imag((1j * x).conj().sum(0) * x)),
}  # fmt: skip

MIXING_FORWARD = {"while that mixes": Case(loop_that_mixes)}
