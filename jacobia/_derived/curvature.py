"""Curvature of a loss of a model: generalized Gauss-Newton and empirical Fisher matrices, as lazy Hessians.

Both are Hessians of a loss of the model's linearization at the point.
Knows calls. Knows nothing of how Hessians are read.
Shapes: M outputs of the model, N parameters, B samples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten, tree_leaves, tree_unflatten

from jacobia._call.options import checked_argnums, checked_function
from jacobia._call.state import Stand, Wrapping, carries_state
from jacobia._call.uncalled import told
from jacobia._transform import hessian


@told(hessian)
def ggn(loss: Callable, f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The generalized Gauss-Newton matrix `Jᵀ H J` of `loss(f(x))`: J the Jacobian of `f`, H the Hessian of `loss`.

    Args:
      loss: maps the output of `f` to one number; with `batch_axis`, to one number for each sample. With `has_aux`,
        `f` returns `(y, aux)` and the loss is `loss(y, aux)`, so that targets may be arguments of `f`:
        `ggn(loss, lambda w, x, t: (net(w, x), t), has_aux=True)(w, x, t)`.
      f: the model, any pure JAX function with a pushforward (`jax.jvp`).
      argnums: which positional arguments of `f` to differentiate.
      **options: those of `hessian`.

    Returns:
      A function of the arguments of `f`. It returns what `hessian` of a scalar function returns, without aux: a lazy
      view of shape `x.shape + x.shape` and the dtype of `x`, `(N, N)` with `ravel`, or a tree of views. The matrix is
      the Hessian of `loss(f(x))` where `f` is linear, and positive semidefinite where `loss` is convex.

    Raises:
      TypeError: `loss` or `f` is not callable; ValueError: the loss is not one number; and what `hessian` raises.

    References:
      Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14
      (2002), doi:10.1162/08997660260028683.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import ggn
      >>> G = ggn(lambda y: jnp.sum(y**2) / 2, lambda w: jnp.sin(w))(jnp.zeros(2))
      >>> G[...].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    has_aux, one = options.pop("has_aux", False), options.get("batch_axis") is None
    return hessian(_Linearized("ggn", loss, f, argnums, has_aux, one), argnums, **options)


@told(hessian)
def empirical_fisher(loss: Callable, f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The empirical Fisher matrix: the mean over samples of `g gᵀ`, with g the gradient of the loss of one sample.

    It is computed as the generalized Gauss-Newton matrix of `sum(losses**2) / (2 B)`, with the losses as the model.

    Args:
      loss: maps the output of `f` to one number for each sample, `(B,)`; `loss(y, aux)` with `has_aux`, as in `ggn`.
      f: the model, applied to a batch; a pure JAX function with a pushforward.
      argnums: which positional arguments of `f` to differentiate.
      **options: those of `hessian`.

    Returns:
      A function of the arguments of `f`. It returns lazy views of the shapes and dtypes of those of `ggn`.

    Raises:
      TypeError: what `ggn` raises.
      ValueError: the losses are not of shape `(B,)`.

    References:
      Kunstner, Balles, Hennig, "Limitations of the empirical Fisher approximation for natural gradient descent",
      NeurIPS (2019), arXiv:1905.12558, on what the matrix approximates and what not.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import empirical_fisher
      >>> X, t = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
      >>> F = empirical_fisher(lambda y: (y - t) ** 2 / 2, lambda w: X @ w)(jnp.zeros(2))
      >>> F[...].tolist()
      [[0.5, 0.0], [0.0, 2.0]]
    """
    has_aux = options.pop("has_aux", False)
    made = _Linearized("empirical_fisher", _half_mean_square, _Losses(loss, f, has_aux), argnums)
    return hessian(made, argnums, **options)


def _half_mean_square(losses: jax.Array) -> jax.Array:
    return jnp.sum(losses**2) / (2 * losses.size)


class _Losses(Wrapping):
    # The function from the arguments of f to the loss of each sample, (B,).
    def __init__(self, loss: Callable, f: Callable, has_aux: bool):
        _check("empirical_fisher", loss, f)
        self._loss, self._f, self._has_aux = loss, f, has_aux
        self.carries_state = carries_state(loss) or carries_state(f)

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        out = self._f(*args, **kwargs)
        losses = self._loss(*out) if self._has_aux else self._loss(out)
        if jnp.ndim(losses) != 1:
            raise ValueError(
                "empirical_fisher(loss=...): expected one number for each sample, (B,), got shape "
                f"{jnp.shape(losses)}. Leave the mean or the sum over samples out."
            )
        return losses


_POINT = "c of args[{}]"  # a keyword that no function has


class _Linearized(Stand):
    # The loss of the linearized model `f(c) + J (x - c)` at c = x. As c is an argument of its own, `hessian` takes it
    # as a constant, while derivatives of the matrix see that it moves with x. `one`: check that the loss is one number;
    # that of one for each sample is checked by `hessian`.
    def __init__(self, name: str, loss: Callable, f: Callable, argnums: Any, has_aux: bool = False, one: bool = False):
        _check(name, loss, f)
        self.__wrapped__ = f
        self.written = f"{name}(loss, f)"
        self._name, self._loss, self._f = name, loss, f
        argnums = checked_argnums(name, argnums, self.written)
        self._numbers: tuple[int, ...] = (argnums,) if isinstance(argnums, int) else argnums
        self._has_aux, self._one = has_aux, one
        self.carries_state = carries_state(loss) or carries_state(f)

    @property
    def __name__(self) -> str:
        return f"{self._name} of {getattr(self._f, '__name__', type(self._f).__name__)}"

    def completed(self, args: tuple, kwargs: dict) -> dict:
        if not all(-len(args) <= k < len(args) for k in self._numbers):
            return kwargs  # `hessian` raises
        return kwargs | {_POINT.format(k): args[k] for k in self._numbers}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        point = tree_leaves([kwargs.pop(_POINT.format(k)) for k in self._numbers])
        leaves, treedef = tree_flatten([args[k] for k in self._numbers])
        moving = [k for k, a in enumerate(leaves) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
        at = [jnp.asarray(point[k]) for k in moving]

        def model(*xs: Any) -> tuple[Any, Any]:
            changed = list(leaves)
            for k, x in zip(moving, xs, strict=True):
                changed[k] = x
            given = list(args)
            for k, value in zip(self._numbers, tree_unflatten(treedef, changed), strict=True):
                given[k] = value
            out = self._f(*given, **kwargs)
            return out if self._has_aux else (out, None)

        steps = tuple(leaves[k] - c for k, c in zip(moving, at, strict=True))
        y, pushed, aux = jax.jvp(model, tuple(at), steps, has_aux=True)
        linear = jax.tree.map(lambda a, d: a if d.dtype == jax.dtypes.float0 else a + d, y, pushed)
        out = self._loss(linear, aux) if self._has_aux else self._loss(linear)
        shapes = [np.shape(a) for a in tree_leaves(out)]
        if self._one and shapes != [()]:
            raise ValueError(
                f"{self._name}(loss=...): expected one number, got shape {', '.join(map(str, shapes))}. "
                "Sum the losses, or take their mean."
            )
        return out


def _check(name: str, loss: Any, f: Any) -> None:
    for what, given in (("loss", loss), ("f", f)):
        checked_function(name, what, given)
