"""Traces and diagonals of large matrices, estimated from products with random vectors.

The estimators are those of the package matfree, except Hutch++, which no library offers with a standard error.
Knows views, operators and estimators. Knows nothing of how products are computed.
Shapes: N by N a matrix, S random vectors.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jacobia._call.options import shown_type
from jacobia._call.uncalled import Uncalled
from jacobia._run.point import Linearized
from jacobia._view.jacobian import Jacobian
from jacobia._view.operator import Operator

_TRACES, _DIAGONALS = ("xtrace", "hutch++", "hutchinson"), ("xdiag", "hutchinson")


def estimate_trace(op: Any, key: jax.Array, method: str = "xtrace", samples: int = 32) -> tuple[jax.Array, jax.Array]:
    """Estimate the trace of a matrix from products with random vectors.

    `J.trace()` is exact, and cheap where the entries on the diagonal are, as for a sparse Jacobian.

    Args:
      op: a square view `J` or `H`, or an `operator(tree)`. An array view counts as its matrix `(N, N)`.
      key: a key of `jax.random.key`, or an old-style key, uint32 of shape (2,). The same key gives the same estimate.
      method: "xtrace": two products for each vector, exact for a matrix of rank below S. "hutch++": three products for
        two vectors. "hutchinson": one product for each vector, for matrices far from low rank.
      samples: S, the number of random vectors, 2 or more. If 2 S >= N, "xtrace" is exact.

    Returns:
      The estimate and its standard error, arrays of shape `()`: the estimate of the dtype of the matrix, the error
      real.

    Raises:
      ImportError: matfree is not installed (extra `estimators`); "hutch++" does not need it.
      TypeError: `op` is no view or operator, or `key` is no key.
      ValueError: a matrix that is not square, a view with samples, an unknown method, or fewer than two samples.

    References:
      Epperly, Tropp, Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J. Matrix
        Anal. Appl. 45 (2024), doi:10.1137/23M1548323.
      Meyer, Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA (2021),
        doi:10.1137/1.9781611976496.16.
    """
    return _estimate("estimate_trace", op, key, method, _TRACES, samples)


def estimate_diagonal(op: Any, key: jax.Array, method: str = "xdiag", samples: int = 32) -> tuple[Any, Any]:
    """Estimate the diagonal of a matrix from products with random vectors.

    Args:
      op: as in `estimate_trace`.
      key: as in `estimate_trace`.
      method: "xdiag": a product with J and one with its transpose for each vector. "hutchinson": one product.
      samples: S, the number of random vectors, 2 or more. If 2 S >= N, "xdiag" is exact.

    Returns:
      The estimate and the standard errors of its entries: two arrays of the shape of `J.diagonal()`, or, for an
      operator, two trees like its inputs. The estimate has the dtype of the matrix; the errors are real.

    Raises:
      TypeError, ValueError, ImportError: what `estimate_trace` raises.

    References:
      Epperly, Tropp, Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J. Matrix
        Anal. Appl. 45 (2024), doi:10.1137/23M1548323, for "xdiag".
    """
    return _estimate("estimate_diagonal", op, key, method, _DIAGONALS, samples)


def _estimate(name: str, op: Any, key: Any, method: str, methods: tuple[str, ...], samples: int) -> tuple[Any, Any]:
    if not isinstance(op, (Jacobian, Operator)):
        if isinstance(op, Uncalled):
            raise TypeError(op.called_first())
        raise TypeError(
            f"{name}(op=...): expected a view, or operator(tree), got {shown_type(op)}. Write "
            f"{name}(jacobian(f)(x), key)."
        )
    if method not in methods:
        raise ValueError(
            f"{name}(method=...): expected one of {', '.join(methods)}, got {method!r}. Leave it out for "
            f"{methods[0]!r}."
        )
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise ValueError(
            f"{name}(samples=...): expected an int, 2 or more, got {samples!r}. A standard error needs two vectors."
        )
    if not isinstance(key, jax.Array) or not _is_key(key):
        raise TypeError(f"{name}(key=...): expected a key, got {type(key).__name__}. Write jax.random.key(0).")
    origin = op._origin
    if origin.lead:
        raise ValueError(
            f"{name}(op=...): expected one matrix, got samples of shape {origin.lead}. Write jax.vmap of a function "
            "that makes the view and estimates."
        )
    structure = _structure(name, op)
    turned = op._transposed if isinstance(op, Operator) else bool(op._layout.turn)
    number = None if isinstance(op, Operator) else op._index
    block: Any = getattr(op, "_block", None)

    def body(consts: Any, leaves: Any, keys: Any) -> tuple[Any, Any]:
        at = Linearized.anywhere(origin.blue, consts, leaves)
        product = Operator(at, turned).mv if number is None else _flattened(block(at, number), turned)
        return _METHODS[name, method](product, structure, keys[0], samples)

    leaves, treedef = jax.tree.flatten(structure)  # equal programs may have other trees, and so other results
    shapes = tuple((s.shape, s.dtype) for s in leaves)
    return origin.run_with((name, method, samples, turned, number, treedef, shapes), body, [key])


def _flattened(J: Jacobian, turned: bool) -> Callable:
    return lambda v: (jnp.ravel(v) @ J if turned else J @ jnp.ravel(v)).reshape(v.shape)


def _is_key(key: jax.Array) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or (key.dtype == jnp.uint32 and key.shape == (2,))


def _structure(name: str, op: Any) -> Any:
    # The shapes and dtypes of the vectors, as a tree.
    if isinstance(op, Operator):
        told, given = op.out_structure, op.in_structure
        sizes = [[s.size for s in jax.tree.leaves(tree)] for tree in (told, given)]
        if sum(sizes[0]) != sum(sizes[1]):
            raise ValueError(f"{name}(op=...): expected a square matrix, got shape {op.shape}.")
        if jax.tree.structure(told) != jax.tree.structure(given):
            raise ValueError(
                f"{name}(op=...): expected outputs and inputs with the same tree structure, got different ones."
            )
        return given
    block = op._layout.block
    if op.matrix.shape[0] != op.matrix.shape[1]:
        raise ValueError(f"{name}(op=...): expected a square matrix, got shape {op.matrix.shape}.")
    shape = (
        block.column_shape if block.column_shape == block.row_shape and not op._layout.matrix else (op.matrix.shape[0],)
    )
    return jax.ShapeDtypeStruct(shape, block.dtype)


def _of_matfree(integrand: str, estimator: str, sampler: str) -> Callable:
    def run(product: Callable, structure: Any, key: Any, samples: int) -> tuple[Any, Any]:
        try:
            from matfree import stochtrace
        except ImportError as error:
            raise ImportError(
                "estimates: expected the package matfree, which is not installed. "
                'Install it: pip install "jacobia[estimators]".'
            ) from error
        like = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)
        count = min(samples, sum(s.size for s in jax.tree.leaves(structure))) if "leave" in estimator else samples
        drawn = getattr(stochtrace, sampler)(like, num=count)
        made = getattr(stochtrace, estimator)(getattr(stochtrace, integrand)(), drawn)
        mean, error = made(product, key)
        # matfree divides by the count, which makes the standard error too small: divide by one less.
        wider = (count / max(1, count - 1)) ** 0.5
        return mean, jax.tree.map(lambda e: jnp.real(e) * wider, error)

    return run


def _hutch_plus_plus(product: Callable, structure: Any, key: Any, samples: int) -> tuple[jax.Array, jax.Array]:
    # The trace on the span of A S, for half of the vectors S, is exact; the trace on its complement is estimated by
    # Hutchinson's method.
    like = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)
    flat, unflat = ravel_pytree(like)
    n, half = flat.size, min(samples // 2, flat.size)
    times = jax.vmap(lambda v: ravel_pytree(product(unflat(v)))[0], in_axes=1, out_axes=1)
    keys = jax.random.split(key)
    basis, _ = jnp.linalg.qr(times(jax.random.rademacher(keys[0], (n, half), flat.dtype)))
    rest = jax.random.rademacher(keys[1], (n, samples - samples // 2), flat.dtype)
    rest = rest - basis @ (jnp.conj(basis).T @ rest)
    exact = jnp.sum(jnp.conj(basis) * times(basis))
    each = jnp.sum(jnp.conj(rest) * times(rest), axis=0)
    return exact + jnp.mean(each), jnp.std(each, ddof=1) / len(each) ** 0.5


_LEAVING_OUT, _ALONE = "estimator_leave_one_out_mean_and_sem", "estimator_monte_carlo_mean_and_sem"

_METHODS: dict[tuple[str, str], Callable] = {
    ("estimate_trace", "xtrace"): _of_matfree("leave_one_out_xtrace", _LEAVING_OUT, "sampler_sphere"),
    ("estimate_trace", "hutch++"): _hutch_plus_plus,
    ("estimate_trace", "hutchinson"): _of_matfree("monte_carlo_trace", _ALONE, "sampler_signs"),
    ("estimate_diagonal", "xdiag"): _of_matfree("leave_one_out_xdiag", _LEAVING_OUT, "sampler_signs"),
    ("estimate_diagonal", "hutchinson"): _of_matfree("monte_carlo_diagonal", _ALONE, "sampler_signs"),
}
