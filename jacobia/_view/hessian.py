"""The view `Hessian`: the Jacobian of the gradient.

Knows the interface of a view. Knows nothing of how lines are computed.
"""

import jax

from jacobia._view.jacobian import Jacobian


class Hessian(Jacobian):
    """A lazy Hessian of shape `y.shape + x.shape + x.shape`, made by `hessian(f)(x)`.

    It is the `Jacobian` of the gradient of `f`, and has the same methods. A row is one Hessian-vector product. If `f`
    is scalar, symmetry is used: a remembered row is also a remembered column, here and in the view that is the
    transpose of this one.
    """

    __slots__ = ()

    @property
    def value(self) -> jax.Array:
        """f(x): the output leaf whose second derivatives this view holds."""
        width = len(self._origin.blue.spaces.inputs)
        return self._origin.value()[1][self._layout.block.outs[0] // width]
