"""`laplacian(f)`: the trace of the Hessian without the Hessian, and the value and gradient of f from the same sweep.

Knows calls, samples, and which of two ways is cheaper. Knows nothing of how operations carry a Laplacian.
Shapes: B samples, D inputs of one sample.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.tree_util import tree_leaves, tree_unflatten

from jacobia._call.uncalled import told
from jacobia._derived.of_function import OfFunction
from jacobia._program.walk import has_rules, holds
from jacobia._run.point import Linearized
from jacobia._run.seeds import Spaces
from jacobia._transform import hessian
from jacobia._view.jacobian import Jacobian

if TYPE_CHECKING:
    from jacobia._run import swept

# With at most this many inputs, or this many carried numbers for each operation of f, a sweep is taken without looking
# whether the Hessian is sparse.
_FEW = 64


@told()
def laplacian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The Laplacian of `f`: the sum of its second derivatives along each of its D inputs.

    One sweep from the inputs to the outputs carries, for every intermediate, its derivatives along all inputs and the
    sum of its second derivatives. If all of `f` depends on its inputs through k < D numbers, k directions replace the
    D inputs; the result is still exact. If the Hessian is sparse and D is large, the diagonal of the Hessian is
    accumulated instead. If `f` has derivative rules of its own (`jax.custom_jvp`, `jax.custom_vjp`), the result is the
    trace of the Hessian that JAX computes by these rules.

    Args:
      f: any pure JAX function of real inputs with a pushforward (`jax.jvp`), or whose Hessian JAX can compute.
      argnums: which positional arguments to differentiate; the sum is over all their entries.
      **options: `batch_axis`, `verify_batch`, `has_aux`, `where`, `static_argnums`, `static_argnames`, `memory_limit`,
        as in `jacobian`.

    Returns:
      A function of the arguments of `f`. It returns an array of the shape and dtype of `y`, for each output of `f` in
      the tree of its outputs; `(laplacian, aux)` with `has_aux`. With `batch_axis`, the sum is over the inputs of each
      sample. The result can be differentiated.

    Raises:
      TypeError: complex inputs, an `f` that is not callable, or an unknown option.
      ValueError: an option out of range.
      BatchMixingError: with `batch_axis`, a derivative that mixes samples.

    References:
      Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward Laplacian",
      Nature Machine Intelligence 6 (2024), doi:10.1038/s42256-024-00794-x, for the sweep.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import laplacian
      >>> laplacian(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0])).item()
      18.0
    """
    return _Laplacian(f, argnums, options, False)


@told()
def value_and_laplacian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The value of `f`, its gradient and its Laplacian, from one sweep.

    Args:
      f: a function as in `laplacian` that returns one number; with `batch_axis`, one number for each sample.
      argnums: as in `laplacian`.
      **options: as in `laplacian`.

    Returns:
      A function of the arguments of `f`. It returns `(y, gradient, laplacian)`, or `((y, aux), gradient, laplacian)`
      with `has_aux`. The gradient has the tree, shapes and dtypes of the differentiated inputs, the Laplacian the shape
      and dtype of `y`.

    Raises:
      TypeError, BatchMixingError: what `laplacian` raises.
      ValueError: `f` returns several numbers.

    References:
      As for `laplacian`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jacobia import value_and_laplacian
      >>> y, gradient, lap = value_and_laplacian(lambda x: jnp.sum(x**3))(jnp.array([1.0, 2.0]))
      >>> y.item(), gradient.tolist(), lap.item()
      (9.0, [3.0, 12.0], 18.0)
    """
    return _Laplacian(f, argnums, options, True)


class _Laplacian(OfFunction):
    def __init__(self, f: Callable, argnums: Any, options: dict, with_value: bool):
        super().__init__("value_and_laplacian" if with_value else "laplacian", f, argnums, "fwd", options)
        if with_value:
            self.result, self.results = "a value, a gradient and a Laplacian", "them"
        self._with_value, self._hessian = with_value, hessian(f, argnums, **options)

    def __reduce__(self) -> Any:
        return _Laplacian, (self.__wrapped__, self._argnums, self._options, self._with_value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        origin = self._transform.linearized(args, kwargs)
        blue = origin.blue
        if self._with_value:
            _check_one_number(self.__name__, blue.spaces)
        from jacobia._run import swept  # with the files of the sweep: only for Laplacians

        if blue.found.find("laplacian by hessian", origin.traced, lambda: self._by_hessian(origin, args, kwargs)):
            values, laplacians = None, self._traces(args, kwargs)
            found = _run(origin, "gradient", swept.gradient) if self._with_value else []
        else:
            values, laplacians, found = _run(origin, self._name, self._sweeper(origin).at)
        out = tree_unflatten(blue.out_tree, laplacians)
        if not self._with_value:
            return (out, origin.aux()) if self._has_aux else out
        y = tree_unflatten(blue.out_tree, origin.value()[0] if values is None else values)
        rest = iter(found)
        gradient = tree_unflatten(blue.in_tree, [next(rest) if kept else None for kept in blue.kept_leaves])
        return (y, origin.aux()) if self._has_aux else y, gradient, out

    def _by_hessian(self, origin: Linearized, args: tuple, kwargs: dict) -> bool:
        # Whether to take the trace of the Hessian: if f has derivative rules, or if its large Hessian is sparse.
        program, spaces = origin.blue.program, origin.blue.spaces
        if program.jaxpr is None:
            return False
        # The second derivatives of a function with a derivative rule are defined by differentiating the rule.
        if holds(program.jaxpr, "custom_vjp_call") or has_rules(program.jaxpr):
            return True
        if spaces.outputs.size != 1 or spaces.inputs.size <= _FEW or holds(program.jaxpr, "while"):
            return False
        if any(jnp.issubdtype(d, jnp.complexfloating) for d in spaces.outputs.dtypes):
            return False
        if self._sweeper(origin).expansion <= _FEW:
            return False
        return all(v.explain("diagonal").way == "nonzeros" for v in self._diagonals(args, kwargs))

    def _sweeper(self, origin: Linearized) -> "swept.Swept":
        from jacobia._run import swept

        make = lambda: swept.Swept(origin, self._with_value)  # noqa: E731
        return make() if origin.blue.program.jaxpr is None else origin.blue.found.find(self._name, None, make)

    def _diagonals(self, args: tuple, kwargs: dict) -> list[Jacobian]:
        # The blocks on the diagonal of the Hessian of each output: those of an input leaf with itself.
        made = self._hessian(*args, **kwargs)
        made = made[0] if self._has_aux else made
        views = tree_leaves(made, is_leaf=lambda v: isinstance(v, Jacobian))
        n = len(views[0]._origin.blue.spaces.inputs)
        return [v for k, v in enumerate(views) if k % (n * n) % (n + 1) == 0]

    def _traces(self, args: tuple, kwargs: dict) -> list:
        views = self._diagonals(args, kwargs)
        n = len(views[0]._origin.blue.spaces.inputs)
        return [sum(v.trace() for v in views[k : k + n]) for k in range(0, len(views), n)]


def _check_one_number(name: str, spaces: Spaces) -> None:
    if spaces.outputs.size != 1:
        each = " for each sample" if spaces.batch is not None else ""
        raise ValueError(
            f"{name}: expected an f of one number{each}, got outputs of shapes "
            f"{', '.join(map(str, spaces.outputs.shapes))}. Write laplacian(f), and jacobian(f) for first derivatives."
        )


def _run(origin: Linearized, name: str, at: Callable) -> Any:
    return origin.run_with((name,), lambda consts, leaves, _: at(origin.blue.point(consts, leaves)), ())
