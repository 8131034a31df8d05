"""The reference: all blocks of a Jacobian or Hessian by JAX, in every direction that the program has.

Blocks are in the order of `jax.tree.leaves` of a tree of views: outputs, then inputs (then inputs again).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

from .programs import Program, function, inputs, is_float

QUICK = {"xla_backend_optimization_level": 0}


class Skip(Exception):
    """The program has no derivative on which JAX's own directions agree."""


class Truth(NamedTuple):
    """All blocks, at each point.

    Attributes:
      blocks: for each point the blocks, or None where JAX has neither direction.
      rows: the shape of y in each block (for a Hessian, of y and the first x); the rest is the shape of x.
      errors: what JAX said of directions that are missing.
      mixes: a derivative of one sample with respect to another one is not zero; then blocks are None.
      fwd, rev: whether JAX has it: of a Hessian, forward over reverse and reverse over reverse.
    """

    blocks: list[list[np.ndarray]] | None
    rows: list[int]
    errors: list[str]
    mixes: bool = False
    fwd: bool = False
    rev: bool = False


def differentiated(program: Program) -> tuple[int, ...]:
    numbers = program.argnums if isinstance(program.argnums, tuple) else (program.argnums,)
    return tuple(n % len(program.shapes) for n in numbers)


def truth(program: Program, count: int = 2) -> Truth:
    """The truth by f itself; or, if JAX has no direction of f, by the part of f that its outputs need."""
    found = truth_of(function(program), program, count)
    return found if found.blocks or found.mixes else truth_of(without_dead(function(program)), program, count)


def without_dead(f: Callable) -> Callable:
    def g(*xs: Any) -> Any:
        closed, y = jax.make_jaxpr(f, return_shape=True)(*xs)
        jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
        out = jax.core.eval_jaxpr(jaxpr, closed.consts, *jax.tree.leaves(xs))
        return jax.tree.unflatten(jax.tree.structure(y), out)

    return g


def truth_of(f: Callable, program: Program, count: int) -> Truth:
    numbers = differentiated(program)
    args = [inputs(program, k) for k in range(count)]

    def leaves(args: tuple) -> list:
        return [next(leaf for leaf in jax.tree.leaves(args[n]) if is_float(leaf)) for n in numbers]

    y_ndims: list[int] = []

    def of_tree(xs: list, rest: tuple) -> Any:
        full = list(rest)
        for n, x in zip(numbers, xs, strict=True):
            full[n] = {**rest[n], "x": x} if isinstance(rest[n], dict) else x
        y = f(*full)
        y_ndims[:] = [leaf.ndim for leaf in jax.tree.leaves(y)]
        return y

    if program.kind == "jacobian":
        ways = [jax.jacfwd(of_tree), jax.jacrev(of_tree)]
    else:
        total = of_tree if program.batch is None else lambda xs, rest: of_tree(xs, rest).sum()
        ways = [jax.jacfwd(jax.jacrev(total)), jax.jacrev(jax.jacrev(total)), jax.jacfwd(jax.jacfwd(total))]
    ways, errors = possible([jax.jit(way) for way in ways], leaves(args[0]), args[0])  # traced once
    if any("Zero(" in error for error in errors):  # a symbolic zero leaked: a bug of JAX
        raise Skip("JAX itself fails in reverse")
    x_ndims = [leaf.ndim for leaf in leaves(args[0])]
    if program.kind == "hessian":
        y_ndims = [(0 if program.batch is not None else n) + m for n in y_ndims for m in x_ndims]
    rows = [n for n in y_ndims for _ in x_ndims]
    if not any(ways):
        return Truth(None, rows, errors)
    run = jax.jit(lambda xs, rest: [way(xs, rest) for way in ways if way], compiler_options=QUICK)
    points = []
    for arg in args:
        try:
            found = [[np.asarray(a) for a in jax.tree.leaves(tree)] for tree in run(leaves(arg), arg)]
        except Exception as error:  # JAX traces it, but cannot compile it
            raise Skip(f"JAX itself fails: {type(error).__name__}") from error
        if not all(np.isfinite(a).all() for a in found[0]):
            raise Skip("not finite")
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                if not close(a, b, program.dtype):
                    raise Skip("JAX's own directions differ")
        points.append(found[0])
    if program.batch is not None:
        cut = [[of_samples(program, a, n) for a, n in zip(blocks, rows, strict=True)] for blocks in points]
        rows = [n - 1 for n in rows]
        if any(mixes for blocks in cut for _, mixes in blocks):
            return Truth(None, rows, errors, True)
        points = [[a for a, _ in blocks] for blocks in cut]
    return Truth(points, rows, errors, False, bool(ways[0]), bool(ways[1]))


def possible(ways: list, *args: Any) -> tuple[list, list[str]]:
    """The ways that JAX can trace (None in place of the others), and the errors of the others."""
    errors = []
    for k, way in enumerate(ways):
        try:
            jax.eval_shape(way, *args)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            ways = [*ways[:k], None, *ways[k + 1 :]]
    return ways, errors


def of_samples(program: Program, full: np.ndarray, rows: int) -> tuple[np.ndarray, bool]:
    """The blocks of one sample each, samples in front, and whether there is anything beside them."""
    axis, columns = program.batch or 0, full.ndim - rows
    full = np.moveaxis(np.moveaxis(full, rows + axis % columns, 0), 1 + axis % rows, 0)
    own = np.moveaxis(np.diagonal(full, axis1=0, axis2=1), -1, 0)
    rest = full.copy()
    rest[np.arange(len(own)), np.arange(len(own))] = 0
    return own, bool(np.max(np.abs(rest), initial=0.0) > 1e-7)


def close(a: np.ndarray, b: np.ndarray, dtype: str) -> bool:
    if a.shape != b.shape:
        return False
    scale = np.max(np.abs(b), initial=1.0)
    return bool(np.max(np.abs(a - b), initial=0.0) <= (1e-8 if dtype == "float64" else 3e-4) * scale)
