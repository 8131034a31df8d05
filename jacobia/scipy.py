"""Derivatives as SciPy's solvers call them: arrays of NumPy in float64, dense or sparse.

For `solve_ivp`, `least_squares`, `root`, `minimize`. Knows the two transforms, and nothing of how they compute.
Shapes: M outputs, N inputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jacobia._sparse.pattern import FORMATS
from jacobia._transform import hessian, jacobian
from jacobia._view.jacobian import Jacobian

# Sparse from so many entries on, where at most this share of them can be nonzero.
_LARGE, _SHARE = 50 * 50, 0.1


def jac(f: Callable, argnums: int = 0, *, format: str | None = None, **options: Any) -> Callable:
    """The Jacobian of `f` for a solver of SciPy.

    Args:
      f: from an array of N numbers, and perhaps others, to an array of M numbers, by operations of JAX. Further
        arguments of the solver (`args=`) are passed on.
      argnums: which argument is differentiated: 1 for the `f(t, y)` of `solve_ivp`.
      format: "dense", or a format of `scipy.sparse`. None: "csr" where there are 2,500 entries or more of which at most
        a tenth can be nonzero, "dense" otherwise, settled by the first call. `solve_ivp` wants "csc" in the end.
      **options: those of `jacobian`.

    Returns:
      A function of the arguments of `f` that returns an array `(M, N)` of NumPy, or of `scipy.sparse`, in float64. f is
      traced and run with 64-bit types, whether or not they are on outside. A second call traces and compiles nothing.
      Of an f that gives one number without axes it is the gradient `(N,)`, as `minimize` wants it.

    Raises:
      TypeError: x is no array of real numbers.
      ValueError: an unknown format, or an f of which there is no single matrix.

    Example:
      >>> import numpy as np, scipy.optimize
      >>> f = lambda x: x**2 - np.arange(1.0, 4.0)
      >>> scipy.optimize.root(f, np.ones(3), jac=jac(f)).x.round(6).tolist()
      [1.0, 1.414214, 1.732051]
    """
    return _Callback("jac", jacobian(f, argnums, **options), argnums, format)


def hess(f: Callable, argnums: int = 0, *, format: str | None = None, **options: Any) -> Callable:
    """The Hessian of a scalar `f` for a solver of SciPy, as `jac` is the Jacobian.

    The `hess(x, v)` of `NonlinearConstraint(fun, ...)` is `hess(lambda x, v: v @ fun(x))`.

    Args:
      f: from an array of N numbers, and perhaps others, to one number, by operations of JAX.
      argnums: which argument is differentiated.
      format: as in `jac`.
      **options: those of `hessian`.

    Returns:
      A function of the arguments of `f` that returns an array `(N, N)` of NumPy, or of `scipy.sparse`, in float64.

    Raises:
      TypeError, ValueError: as `jac`.
    """
    return _Callback("hess", hessian(f, argnums, **options), argnums, format)


class _Callback:
    # Which format it is, is settled by the first call: a solver looks at one matrix and takes all others to be alike.
    def __init__(self, name: str, transform: Callable, argnums: Any, format: str | None):
        formats = "dense", *FORMATS
        if format is not None and format not in formats:
            raise ValueError(
                f"jacobia.scipy.{name}(format=...): expected None or one of {', '.join(formats)}, got {format!r}."
            )
        if not isinstance(argnums, int):
            raise TypeError(
                f"jacobia.scipy.{name}(argnums={argnums!r}): expected an int, got {type(argnums).__name__}. "
                "Solvers take one matrix."
            )
        self._name, self._transform, self._argnums, self.format = name, transform, argnums, format

    def __repr__(self) -> str:
        return f"<jacobia.scipy.{self._name} of {self._transform.__name__}, format={self.format}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given, k = list(args), self._argnums
        if -len(given) <= k < len(given):
            given[k] = self._in_float64(given[k])
        with jax.enable_x64(True):
            J = self._transform(*given, **kwargs)
            if not isinstance(J, Jacobian) or J._layout.lead:
                got = "samples" if isinstance(J, Jacobian) else "a tree, or aux"
                raise ValueError(
                    f"jacobia.scipy.{self._name}(f): expected an f from one array to one array, got {got}. Set "
                    "ravel=True for one matrix of all leaves."
                )
            block = J._layout.block
            if self._name == "hess" and len(block.row_shape) != len(block.column_shape):
                raise ValueError(
                    f"jacobia.scipy.hess(f): expected an f of one number, got a Hessian of shape {J.shape}. Take the "
                    "one that is minimized; of a constraint, hess(lambda x, v: v @ fun(x))."
                )
            if self.format is None:
                large = J.size >= _LARGE and J.matrix.shape[0] > 1
                self.format = "csr" if large and J.pattern.density <= _SHARE else "dense"
            if self.format != "dense":
                return J.matrix.to_scipy(self.format)
            gradient = not block.row_shape and self._name == "jac"
            shape = (-1,) if gradient else J.matrix.shape
            return np.array(J[...]).reshape(shape if block.column_shape or block.row_shape else ())

    def _in_float64(self, x: Any) -> np.ndarray:
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"jacobia.scipy.{self._name}(f)(...): expected an array of real numbers in place {self._argnums}, got "
                f"{array.dtype}. SciPy's solvers are for real numbers: split complex ones into two."
            )
        return array.astype(np.float64)
