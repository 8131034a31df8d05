"""`laplacian(f)`, with value and gradient from the same sweep: the trace of the Hessian, without the Hessian.

Knows calls, samples, and which of two ways is cheaper. Knows nothing of how operations carry a Laplacian.
Shapes: B samples, D inputs of one sample.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.tree_util import tree_leaves, tree_unflatten

from jacobia._call.uncalled import told
from jacobia._derived.of_function import OfFunction
from jacobia._program.walk import has_rules, holds
from jacobia._run import swept
from jacobia._run.point import Linearized
from jacobia._run.seeds import Spaces
from jacobia._transform import hessian
from jacobia._view.jacobian import Jacobian

# Where a sweep takes so many numbers for each operation of f, or fewer, nobody looks whether the Hessian is sparse.
_FEW = 64


@told()
def laplacian(f: Callable, argnums: int | Sequence[int] = 0, **options: Any) -> Callable:
    """The Laplacian of `f`: the sum of its second derivatives along each input.

    Derivatives along all inputs are carried from the inputs to the outputs together, in one sweep, with the sum of
    second derivatives beside them; where everything goes through fewer than D numbers, that many directions take the
    place of D, exactly. Where the Hessian is sparse and D is large, its diagonal is read off its program. Of an f with
    derivative rules of its own (`jax.custom_jvp`, `jax.custom_vjp`) it is the trace of its Hessian, as JAX has it.

    Args:
      f: any pure JAX function of real inputs that JAX can push through (`jax.jvp`), or whose Hessian JAX computes.
      argnums: which positional arguments to differentiate by, all of them together.
      **options: `batch_axis`, `verify_batch`, `has_aux`, `where`, `static_argnums`, `static_argnames`, `memory_limit`,
        as in `jacobian`.

    Returns:
      A function of the arguments of `f` that returns an array for each output of `f`, of its shape and dtype, or
      `(laplacian, aux)` with `has_aux`. With `batch_axis`, each sample has its own. The result can be differentiated.

    Raises:
      TypeError: complex inputs, or options that are not there.
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
    """What `f` returns, its gradient and its Laplacian, from one sweep.

    Args:
      f: as in `laplacian`, of one number; with `batch_axis`, one for each sample.
      argnums: as in `laplacian`.
      **options: as in `laplacian`.

    Returns:
      A function of the arguments of `f` that returns `(y, gradient, laplacian)`, or `((y, aux), gradient, laplacian)`
      with `has_aux`; the gradient is like the differentiated inputs.

    Raises:
      As `laplacian`, and ValueError: an f of several numbers.
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
        # Where f can't be pushed through, or where the diagonal of a large Hessian is read off its program.
        program, spaces = origin.blue.program, origin.blue.spaces
        if program.jaxpr is None:
            return False
        # Of a function with a rule of its own, second derivatives are what that rule says when it is differentiated.
        if holds(program.jaxpr, "custom_vjp_call") or has_rules(program.jaxpr):
            return True
        if spaces.outputs.size != 1 or spaces.inputs.size <= _FEW or holds(program.jaxpr, "while"):
            return False
        if any(jnp.issubdtype(d, jnp.complexfloating) for d in spaces.outputs.dtypes):
            return False
        if self._sweeper(origin).expansion <= _FEW:
            return False
        return all(v.explain("diagonal").way == "nonzeros" for v in self._diagonals(args, kwargs))

    def _sweeper(self, origin: Linearized) -> swept.Swept:
        make = lambda: swept.Swept(origin, self._with_value)  # noqa: E731
        return make() if origin.blue.program.jaxpr is None else origin.blue.found.find(self._name, None, make)

    def _diagonals(self, args: tuple, kwargs: dict) -> list[Jacobian]:
        # Of each output, the blocks of each input with itself.
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
