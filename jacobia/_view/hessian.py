"""The view `Hessian`: the Jacobian of the gradient, symmetric in fact.

Knows what a view says of itself. Knows nothing of how lines are computed.
"""

import jax

from jacobia._view.jacobian import Jacobian


class Hessian(Jacobian):
    """A lazy Hessian of shape `y.shape + x.shape + x.shape`, made by `hessian(f)(x)`.

    A `Jacobian`, of the gradient of `f`. Rows are Hessian-vector products. Of a scalar `f`, a row that is
    remembered serves its column, here and in the view that is the transpose of this one.
    """

    __slots__ = ()

    @property
    def value(self) -> jax.Array:
        """f(x): the output leaf whose second derivatives these are."""
        width = len(self._origin.blue.spaces.inputs)
        return self._origin.value()[1][self._layout.block.outs[0] // width]
