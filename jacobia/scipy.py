"""Derivatives as callbacks for SciPy's solvers: float64 NumPy arrays or SciPy sparse arrays.

For `solve_ivp`, `least_squares`, `root` and `minimize`. Knows the transforms `jacobian` and `hessian`. Knows nothing of
how they compute.
Shapes: M outputs, N inputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jacobia._sparse.pattern import FORMATS
from jacobia._transform import hessian, jacobian
from jacobia._view.jacobian import Jacobian

# The default format is sparse for matrices of at least _LARGE entries of which at most the fraction _SHARE can be
# nonzero.
_LARGE, _SHARE = 50 * 50, 0.1


def jac(f: Callable, argnums: int = 0, *, format: str | None = None, **options: Any) -> Callable:
    """The Jacobian of `f` as a callback for a SciPy solver.

    Args:
      f: a function, written with JAX operations, from an array of N numbers to an array of M numbers. Further arguments
        of the solver (`args=`) are passed on.
      argnums: which argument to differentiate: 1 for the `f(t, y)` of `solve_ivp`.
      format: "dense", or a format of `scipy.sparse`. None: the first call chooses "csr" if the matrix has at least
        2,500 entries of which at most a tenth can be nonzero, and "dense" otherwise. For `solve_ivp`, "csc" saves a
        conversion.
      **options: options of `jacobian`.

    Returns:
      A function of the arguments of `f`. It returns a float64 array of shape `(M, N)`, of NumPy or of `scipy.sparse`.
      If `f` returns one number without axes, the result is the gradient `(N,)`, as `minimize` needs it. `f` is traced
      and run with 64-bit types, whether or not JAX has them enabled. A second call traces and compiles nothing.

    Raises:
      TypeError: `argnums` is not an int; at a call, x is not an array of real numbers.
      ValueError: an unknown format; at a call, the Jacobian of `f` is not a single matrix.

    Example:
      >>> import numpy as np, scipy.optimize
      >>> f = lambda x: x**2 - np.arange(1.0, 4.0)
      >>> scipy.optimize.root(f, np.ones(3), jac=jac(f)).x.round(6).tolist()
      [1.0, 1.414214, 1.732051]
    """
    return _Callback("jac", jacobian(f, argnums, **options), argnums, format)


def hess(f: Callable, argnums: int = 0, *, format: str | None = None, **options: Any) -> Callable:
    """The Hessian of a scalar `f` as a callback for a SciPy solver.

    For `NonlinearConstraint(fun, ...)`, whose `hess` is a function of x and v, write `hess(lambda x, v: v @ fun(x))`.

    Args:
      f: a function, written with JAX operations, from an array of N numbers to one number. Further arguments of the
        solver are passed on.
      argnums: which argument to differentiate.
      format: as in `jac`.
      **options: options of `hessian`.

    Returns:
      A function of the arguments of `f`. It returns a float64 array of shape `(N, N)`, of NumPy or of `scipy.sparse`.

    Raises:
      TypeError: as in `jac`.
      ValueError: as in `jac`; or `f` returns more than one number.
    """
    return _Callback("hess", hessian(f, argnums, **options), argnums, format)


class _Callback:
    # The first call fixes the format: a solver looks at the first matrix, and expects all others in the same format.
    def __init__(self, name: str, transform: Any, argnums: Any, format: str | None):
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
                got, instead = "a tree", "Set ravel=True for one matrix of all leaves"
                if self._transform._options.has_aux:
                    got, instead = "aux too", "Leave has_aux out, and return the value alone"
                elif isinstance(J, Jacobian):
                    got, instead = "samples", "Leave batch_axis out, and solve for one sample at a time"
                raise ValueError(
                    f"jacobia.scipy.{self._name}(f): expected an f from one array to one array, got {got}. {instead}."
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
