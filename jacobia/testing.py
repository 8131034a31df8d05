"""`check_jacobian`: checks of the derivatives of a function, for the tests of custom derivative rules.

Shapes: M outputs, N inputs, over all leaves, flattened and concatenated.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves

from jacobia._call.arguments import take_apart
from jacobia._space import Space
from jacobia._transform import hessian as hessian_of
from jacobia._transform import jacobian

# The whole matrix is checked too if it has at most this number of entries.
_DENSE = 2**16
# Factors of the step that balances truncation and rounding. The other steps are for an f that is rough or flat at the
# scale of that step.
_FACTORS = (1.0, 0.1, 10.0, 1e-2, 1e-3)


def check_jacobian(
    f: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    where: Any = None,
    hessian: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    num_directions: int = 3,
    **kwargs: Any,
) -> None:
    """Check the derivatives of `f` at `args`, as `jacobian` and `hessian` compute them.

    For each input leaf, the checks use random directions v, and for each output leaf, random cotangents u:

    * one-sided differences: `f` must have the same slope on both sides of the point. A kink fails, even if JAX's
      derivative there is the mean of both slopes, as for `jnp.abs` at 0;
    * central differences of `f` against `J.mv(v)`. They are computed in float64, whatever the dtype of the arguments.
      If `f` does not run in float64, or has another value there (random numbers), they are computed in the dtype of
      `f`, which detects less. Steps are relative to each entry of the input; several steps are tried, and one of them
      must agree;
    * the adjoint identity `<u, J v> = <u J, v>`;
    * for up to 65,536 entries, the matrix: `J[...] @ v = J.mv(v)`, `u @ J[...] = J.vm(u)`, and single rows and columns
      equal those of the matrix;
    * with `hessian`, the same for the gradient of `f` and its Hessian, and symmetry: `<u, H v> = <v, H u>`.

    The same call always gives the same answer. For comparison, `jax.test_util.check_grads` uses one direction for all
    leaves, one absolute step in the dtype of the arguments, and tolerances that grow with the number of entries.

    Args:
      f: a pure JAX function, as for `jacobian`; with `hessian`, one that returns one number.
      *args: the point.
      argnums: which positional arguments to differentiate, as in `jacobian`.
      where: which leaves of these arguments to differentiate, as in `jacobian`.
      hessian: check second derivatives as well.
      rtol: tolerance relative to the entry. Default: `eps ** 0.4`, where eps is that of the less precise dtype of the
        two leaves: 2e-3 for float32 and 5e-7 for float64.
      atol: absolute tolerance. Default: the rounding error in these dtypes of an entry that is zero.
      seed: seed of the random directions.
      num_directions: the number of directions for each leaf.
      **kwargs: keyword arguments of `f`. If one has the same name as an argument of `check_jacobian`, bind it with
        `functools.partial`.

    Raises:
      AssertionError: a check fails. The message names the check, the leaves by their paths, and the largest difference
        with its index.
      TypeError: as `jacobian` and `hessian` raise it with `ravel=True`, among others for leaves of several dtypes of
        which either direction would round some.
      ValueError: as `jacobian` and `hessian` raise it; or `num_directions` is not a positive int.

    Example:
      >>> import jax.numpy as jnp
      >>> check_jacobian(jnp.tanh, jnp.ones(3))

    References:
      Griewank and Walther, "Evaluating Derivatives", 2nd edition (2008), doi:10.1137/1.9780898717761, for the products
      and their duality; Fornberg, "Generation of finite difference formulas on arbitrarily spaced grids", Mathematics
      of Computation 51 (1988), doi:10.1090/S0025-5718-1988-0935077-0, for the stencil.
    """
    if not isinstance(num_directions, int) or num_directions < 1:
        raise ValueError(
            f"check_jacobian(num_directions=...): expected a positive int, got {num_directions!r}. 3 is the default."
        )
    transforms = (jacobian, hessian_of) if hessian else (jacobian,)
    views = [transform(f, argnums, where=where, ravel=True)(*args, **kwargs) for transform in transforms]
    call, positions = take_apart("check_jacobian", args, kwargs, (), ()), views[0]._origin.blue.positions

    def values(leaves: list, points: list) -> list:
        merged = dict(enumerate(leaves)) | dict(zip(positions, points, strict=True))
        rebuilt, keywords = call.rebuild([merged[k] for k in range(len(leaves))])
        return tree_leaves(f(*rebuilt, **keywords))

    def gradient(leaves: list, points: list) -> list:
        return jax.grad(lambda points: jnp.sum(jnp.asarray(values(leaves, points)[0])))(points)

    name = getattr(f, "__name__", type(f).__name__)
    for J, g in zip(views, (values, gradient), strict=False):
        with np.errstate(all="ignore"):  # the checks report values that are not finite
            _Checks(name, J, g, call.leaves, positions, rtol, atol).run(np.random.default_rng(seed), num_directions)


class _Checks:
    """The checks of one matrix J, the derivative of g. Vectors are float64 NumPy arrays."""

    def __init__(self, name: str, J: Any, g: Callable, leaves: list, positions: Sequence[int], rtol: Any, atol: Any):
        self.name, self.J, self.rtol, self.atol = name, J, rtol, atol
        self.outs, self.ins = J._origin.blue.spaces.outputs, J._origin.blue.spaces.inputs
        self.out_at, self.in_at = _slices(self.outs), _slices(self.ins)
        self.out_eps, self.in_eps = (
            np.array([jnp.finfo(d).eps for d in s.dtypes], float) for s in (self.outs, self.ins)
        )
        self.points = [np.asarray(leaves[p]).astype(np.float64) for p in positions]
        self.scales = [_scale(p.reshape(-1)) for p in self.points]
        self.tops = [s.max(initial=0) or 1.0 for s in self.scales]
        # The size that rounding errors are relative to: |y|, and for a gradient also |f(x)| / |x|, since a gradient may
        # be what is left after numbers of that size cancel.
        self.size = np.zeros(self.outs.size)
        if J._origin.blue.spaces.hessian:
            self.size = abs(float(np.asarray(J.value).sum())) / np.concatenate([np.zeros(0), *self.scales])
        self.g, self.y, self.g_eps = self._precise(g, leaves, positions)
        self.size = np.maximum(self.size, abs(self.y))

    def run(self, rng: np.random.Generator, count: int) -> None:
        """Run all checks. The checks whose failure says most come first."""
        J, symmetric = self.J, self.J._origin.blue.spaces.hessian
        more = range(count + symmetric)  # symmetry of a diagonal block needs two directions
        tangents = zip(self.scales, self.tops, self.ins.dtypes, strict=True)
        v = [[_random(rng, s / top, dtype) for _ in more] for s, top, dtype in tangents]
        cotangents = zip(self.outs.sizes, self.outs.dtypes, strict=True)
        u = [[_random(rng, np.ones(n), dtype) for _ in range(count)] for n, dtype in cotangents]
        Jv = [[_product(J, J.mv, d, self.ins.size, at) for d in vs] for vs, at in zip(v, self.in_at, strict=True)]
        if symmetric:
            hint = "A rule for the first derivative may have a wrong derivative of its own."
            self._duality("symmetry", [w[1:] for w in v], v, Jv, [w[1:] for w in Jv], hint)
        for j, d in np.ndindex(len(v), len(more)):
            if v[j][d].size:
                self._differences(j, v[j][d], Jv[j][d])
        uJ = [[_product(J, J.vm, d, self.outs.size, at) for d in us] for us, at in zip(u, self.out_at, strict=True)]
        hint = "A custom rule may have a pullback that is not the transpose of its pushforward."
        self._duality("adjoint identity", u, v, Jv, uJ, hint)
        if J.size <= _DENSE:
            self._matrix(rng, count, u, v, Jv, uJ)

    def _differences(self, j: int, v: np.ndarray, got: np.ndarray) -> None:
        eps, top = np.repeat(np.maximum(self.out_eps, self.in_eps[j]), self.outs.sizes), self.tops[j]
        largest = np.repeat([abs(got[at]).max(initial=0) for at in self.out_at], self.outs.sizes)
        before, x, after = self.points[:j], self.points[j], self.points[j + 1 :]
        confirmed, smooth = np.zeros((2, *got.shape), bool)
        best = limit = slopes = jump = kink = floor = np.full(got.shape, np.nan)
        for factor in _FACTORS:
            t = factor * self.g_eps.max(initial=0) ** 0.2 * top
            moved = [[*before, x + k * t * v.reshape(x.shape), *after] for k in (1, -1, 2, -2)]
            f1, b1, f2, b2 = (self.g(points)[0] for points in moved)
            central = (8 * (f1 - b1) - (f2 - b2)) / (12 * t)
            # (f(t) - 2 y + f(-t)) / t is y'' t + O(t**3), plus the jump of the slope. This combination of two of them
            # cancels y'' t and keeps the jump.
            jump = 2 * (f1 - 2 * self.y + b1) / t - (f2 - 2 * self.y + b2) / (2 * t)
            noise = 8 * self.g_eps * np.max(np.abs([self.size, f1, b1, f2, b2]), axis=0) / t
            floor = np.nan_to_num(noise, posinf=0) if factor == 1 else floor
            slopes = np.fmax(slopes, np.maximum(abs(f1 - self.y), abs(b1 - self.y)) / t)
            kink = np.maximum(0.01, eps**0.4) * slopes + 4 * floor
            near = self._limit(eps, np.fmax(abs(got), abs(central)), largest + self.size / top) + floor
            # A step confirms nothing if it is so small that its rounding error hides the difference.
            confirmed |= (abs(got - central) <= near) & (noise <= near)
            smooth |= (abs(jump) <= kink) & (4 * noise <= kink)
            if confirmed.all() and smooth.all():
                return
            better = ~(abs(got - best) <= abs(got - central))
            best, limit = np.where(better, central, best), np.where(better, near, limit)
        along = f"along a random direction of {self.ins.paths[j]}"
        smooth |= ~np.isfinite(jump)
        hint = "f has a kink or a jump here: check it at another point."
        self._agree(
            "one-sided differences", f"no jump of the slope {along}", jump, 0 * kink, kink, hint, self.outs, smooth
        )
        precision = "float64" if self.g_eps.max() < 1e-15 else "the dtypes of f"
        hint = "A custom_jvp or custom_vjp rule may be wrong, or f have a kink nearby."
        what = f"the derivative {along}, by differences in {precision},"
        self._agree("central differences", what, got, best, limit, hint, self.outs, confirmed)

    def _duality(self, check: str, u: list, v: list, Jv: list, uJ: list, hint: str) -> None:
        # <u, J v> = <u J, v> for each pair of leaves.
        for i, j in np.ndindex(len(u), len(v)):
            for a, b, product, pulled in zip(u[i], v[j], Jv[j], uJ[i], strict=False):
                left, right = a * product[self.out_at[i]], pulled[self.in_at[j]] * b
                size = max(abs(left).sum(), abs(right).sum())
                floor = size + abs(a) @ self.size[self.out_at[i]] / self.tops[j]
                limit = self._limit(max(self.out_eps[i], self.in_eps[j]), size, floor)
                what = f"<u, J v> = <u J, v>, for u of {self.outs.paths[i]} and v of {self.ins.paths[j]}"
                self._agree(check, what, right.sum(), left.sum(), limit, hint)

    def _matrix(self, rng: Any, count: int, u: list, v: list, Jv: list, uJ: list) -> None:
        whole, lines = (copy.deepcopy(self.J) for _ in range(2))  # the same point, nothing remembered
        W = np.asarray(whole).astype(np.float64)
        eps = np.maximum.outer(np.repeat(self.out_eps, self.outs.sizes), np.repeat(self.in_eps, self.ins.sizes))
        floor = np.minimum.outer(abs(W).max(1, initial=0), abs(W).max(0, initial=0))
        floor += np.divide.outer(self.size, np.concatenate([np.zeros(0), *self.scales]))
        limit = self._limit(eps, abs(W), floor)
        hint = "No rule of f explains this: please report it, with f."
        sides = (
            ("J[...] @ v, as J.mv(v),", W, limit, v, Jv, self.in_at, self.ins, self.outs),
            ("u @ J[...], as J.vm(u),", W.T, limit.T, u, uJ, self.out_at, self.outs, self.ins),
        )
        for what, matrix, limits, vectors, products, places, source, space in sides:
            for j, at in enumerate(places):
                for a, product in zip(vectors[j], products[j], strict=True):
                    along, bound = f"{what} along {source.paths[j]}", limits[:, at] @ abs(a)
                    self._agree("product with the matrix", along, product, matrix[:, at] @ a, bound, hint, space)
            # The matrix is computed by rows or by columns; a row alone is a pullback, a column alone a pushforward.
            for k in rng.permutation(matrix.shape[1])[:count]:
                what, line = (f"J[:, {k}]", lines[:, k]) if source is self.ins else (f"J[{k}]", lines[k])
                self._agree(
                    "single line", f"{what}, as in J[...],", np.asarray(line), matrix[:, k], limits[:, k], hint, space
                )

    def _limit(self, eps: Any, size: Any, floor: Any) -> Any:
        # The tolerance. `floor` is the size of the numbers that cancel: their rounding error remains in a small result.
        rtol = eps**0.4 if self.rtol is None else self.rtol
        return rtol * size + (20 * eps * floor if self.atol is None else self.atol)

    def _agree(
        self, check: str, what: str, got: Any, expected: Any, limit: Any, hint: str,
        space: Space | None = None, passed: Any = False,
    ) -> None:  # fmt: skip
        got, expected, limit = np.atleast_1d(got, expected, limit)
        difference = abs(got - expected)
        bad = ~(difference <= limit) & ~np.asarray(passed)
        if not bad.any():
            return
        k = int(np.argmax(np.where(bad, np.nan_to_num(difference, nan=np.inf), -1)))
        if space is not None:
            leaf = int(np.searchsorted(np.cumsum(space.sizes), k, side="right"))
            index = np.unravel_index(k - sum(space.sizes[:leaf]), space.shapes[leaf])
            what = f"{what} in {space.paths[leaf]} at index {tuple(map(int, index))}"
        raise AssertionError(
            f"check_jacobian(f={self.name}): {check}: expected {what} to be {expected[k]:.6g}, got {got[k]:.6g}. "
            f"The difference, {difference[k]:.3g}, is beyond the tolerance, {limit[k]:.3g}; it is the largest of "
            f"{bad.sum()} in {bad.size} entries. {hint}"
        )

    def _precise(self, g: Callable, leaves: list, positions: Sequence[int]) -> tuple[Callable, np.ndarray, np.ndarray]:
        """g in float64 if it is the same function there, otherwise g itself; its value, and the eps of each entry."""
        own = _evaluator(g, leaves, [leaves[p].dtype for p in positions], contextlib.nullcontext)
        y, eps = own(self.points)
        try:
            wide = _evaluator(g, [*map(_wide, leaves)], [np.float64] * len(positions), lambda: jax.enable_x64(True))
            wide_y, wide_eps = wide(self.points)
        except Exception:  # f fixes dtypes: any other error was raised above
            return own, y, eps
        largest = np.repeat([abs(y[at]).max(initial=0) for at in self.out_at], self.outs.sizes)
        near = eps**0.4 * (abs(y) + largest) + 10 * eps * self.size
        same = y.shape == wide_y.shape and np.all(abs(y - wide_y) <= near)
        return (wide, wide_y, wide_eps) if same else (own, y, eps)


def _evaluator(g: Callable, leaves: list, dtypes: list, settings: Callable) -> Callable:
    compiled = jax.jit(lambda points: g(leaves, points))

    def evaluate(points: list) -> tuple[np.ndarray, np.ndarray]:
        with settings():
            out = [np.asarray(y) for y in compiled([p.astype(d) for p, d in zip(points, dtypes, strict=True)])]
        eps = [np.full(y.size, float(jnp.finfo(y.dtype).eps)) for y in out]
        values = [y.astype(np.float64).reshape(-1) for y in out]
        return np.concatenate([np.zeros(0), *values]), np.concatenate([np.zeros(0), *eps])

    return evaluate


def _wide(leaf: Any) -> Any:
    for kind, dtype in ((jnp.floating, np.float64), (jnp.complexfloating, np.complex128)):
        if jnp.issubdtype(leaf.dtype, kind):
            return np.asarray(leaf).astype(dtype)
    return leaf


def _slices(space: Space) -> list[slice]:
    ends = list(itertools.accumulate(space.sizes))
    return [slice(end - size, end) for end, size in zip(ends, space.sizes, strict=True)]


def _scale(x: np.ndarray) -> np.ndarray:
    # The step of an entry is relative to its magnitude. An entry that is 0 gets the median magnitude of the others.
    known = abs(x)[(x != 0) & np.isfinite(x)]
    return np.where((x != 0) & np.isfinite(x), abs(x), np.median(known) if known.size else 1.0)


def _random(rng: np.random.Generator, scale: np.ndarray, dtype: Any) -> np.ndarray:
    # No entry is tiny beside the others, and each is representable in the dtype, so that products do not round it.
    drawn = rng.choice([-1.0, 1.0], scale.shape) * rng.uniform(0.5, 1.5, scale.shape) * scale
    return drawn.astype(dtype).astype(np.float64)


def _product(J: Any, product: Callable, vector: np.ndarray, size: int, at: slice) -> np.ndarray:
    whole = np.zeros(size, J.dtype)
    whole[at] = vector
    return np.asarray(product(whole)).astype(np.float64)
