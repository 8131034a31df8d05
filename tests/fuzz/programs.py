"""A program from a number: its inputs, steps and outputs; how it is written, made into a function, and made smaller.

Shapes: N inputs, M outputs, B samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .arrays import LARGEST
from .batched import BATCHED, MIXING
from .control import CONTROL, FORWARD_ONLY
from .elements import ELEMENTS
from .products import PRODUCTS
from .rules import NOT_LINEAR, REVERSE_ONLY, RULES

SHAPES = [(3,), (4,), (5,), (2, 3), (3, 2), (1, 4), (3, 1), (2, 1, 2), (1,), (), (0,), (0, 2), (6,), (2, 2)]
WEIGHTS = np.array([8, 8, 8, 4, 4, 3, 3, 2, 2, 2, 0.5, 0.5, 6, 4])
B = 3
OPERATIONS = {**ELEMENTS, **PRODUCTS, **CONTROL, **RULES}
TABLE = {**OPERATIONS, **FORWARD_ONLY, **REVERSE_ONLY, **NOT_LINEAR}


class Step(NamedTuple):
    """An operation on two earlier values (0 is the newest), with constants drawn from a seed."""

    name: str
    a: int
    b: int
    seed: int


@dataclass(frozen=True)
class Program:
    """What is differentiated.

    Attributes:
      shapes: of the inputs; of one sample, with samples.
      steps: operations, in order.
      outputs: how many of the last values are returned.
      kind: "jacobian", or "hessian": of the sum of the outputs' sines.
      batch: None; or the axis of samples: in a function that `jax.vmap` made, or (`native`) one of arrays (B, N).
      argnums: of the inputs that are differentiated.
      integers: whether the first input is a dict with integers in it, left out by `where=`.
      dtype: of the inputs.
    """

    seed: int
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: int = 1
    kind: str = "jacobian"
    batch: int | None = None
    native: bool = False
    argnums: int | tuple[int, ...] = 0
    integers: bool = False
    dtype: str = "float64"


def generate(seed: int) -> Program:
    rng = np.random.default_rng((11, seed))
    batch = native = False
    kind = "hessian" if rng.random() < 0.25 else "jacobian"
    if rng.random() < 0.25:
        batch, native = True, bool(rng.random() < 0.5)
    names = list(OPERATIONS)
    if native:
        names = list(BATCHED) + (list(MIXING) * 2 if rng.random() < 0.25 else [])
    else:
        for table, share in ((FORWARD_ONLY, 0.12), (REVERSE_ONLY, 0.15), (NOT_LINEAR, 0.08)):
            if rng.random() < share:
                names += list(table) * max(1, len(OPERATIONS) // (2 * len(table)))
    steps = tuple(
        Step(names[rng.integers(len(names))], int(rng.integers(4)), int(rng.integers(4)), int(rng.integers(1000)))
        for _ in range(rng.integers(1, 7))
    )
    count = 1 if native else int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
    shapes = tuple(SHAPES[k] for k in rng.choice(len(SHAPES), count, p=WEIGHTS / WEIGHTS.sum()))
    if native:
        shapes = ((int(rng.integers(1, 5)),),)
    argnums: Any = 0
    if count > 1:
        argnums = [0, 1, -1, (0, 1), (1, 0), (0,)][rng.integers(6)]
    axis = 0
    if batch:
        ndims = [len(s) for s in shapes]
        axis = int(rng.choice([0, 0, 1, -1])) if native or min(ndims) else 0
    return Program(
        seed, shapes, steps, int(rng.choice([1, 2, 3], p=[0.7, 0.25, 0.05])), kind, axis if batch else None, native,
        argnums, not batch and bool(rng.random() < 0.08), "float32" if rng.random() < 0.15 else "float64",
    )  # fmt: skip


def inputs(program: Program, point: int = 0) -> tuple:
    """The arguments of the function, at one of several points."""
    rng = np.random.default_rng((12, program.seed, point))
    out = []
    for shape in program.shapes:
        if program.batch is not None:
            axis = program.batch % (len(shape) + 1)
            shape = (*shape[:axis], B, *shape[axis:])
        out.append(np.asarray(rng.uniform(-1.5, 1.5, shape), program.dtype))
    if program.integers:
        out[0] = {"n": np.arange(3), "x": out[0]}
    return tuple(out)


def cut(a: Any, native: bool = False) -> Any:
    # The longest axis is cut until there are few elements. The batch axis is never cut.
    while a.size > LARGEST * (B if native else 1):
        axis = max(range(native, a.ndim), key=lambda k: a.shape[k])
        rest = a.size // a.shape[axis]
        limit = LARGEST * (B if native else 1)
        a = jax.lax.slice_in_dim(a, 0, max(1, min(limit // rest, a.shape[axis] - 1)), axis=axis)
    return a


def values(program: Program, xs: tuple) -> list:
    if program.integers:
        xs = (jnp.take(xs[0]["x"].reshape(-1), xs[0]["n"], mode="fill", fill_value=1.0) * xs[0]["n"], *xs[1:])
    table = {**BATCHED, **MIXING} if program.native else TABLE
    pool = list(xs)
    for step in program.steps:
        a, b = pool[-1 - step.a % len(pool)], pool[-1 - step.b % len(pool)]
        a, b = jnp.asarray(a), jnp.asarray(b)
        out = table[step.name](np.random.default_rng((13, step.seed)), a, b)
        pool.append(cut(out, program.native).astype(xs[0].dtype))
    return pool


def one_sample(program: Program) -> Callable:
    """The function of one sample (or, `native`, of a batch along axis 0)."""

    def f(*xs):
        ys = values(program, xs)[-program.outputs :]
        if program.batch == 1 and not program.native:
            ys = [y if y.ndim else y[None] for y in ys]  # the batch axis becomes axis 1
        if program.kind == "hessian":
            axes = 1 if program.native else None
            return sum(jnp.sum(jnp.sin(y), axis=axes) for y in ys)
        return ys[0] if len(ys) == 1 else {chr(97 + k): y for k, y in enumerate(ys)}

    return f


def function(program: Program) -> Callable:
    """The function that is differentiated, with samples along the axis that the options name."""
    f, axis = one_sample(program), program.batch
    if axis is None:
        return f
    of_rows = f if program.native else jax.vmap(f)

    def turned(*xs):
        ys = of_rows(*(jnp.moveaxis(x, axis, 0) for x in xs))
        if program.kind == "hessian":
            return ys[None] if axis == 1 else ys
        return jax.tree.map(lambda y: jnp.moveaxis(y, 0, axis), ys)

    return of_rows if axis == 0 else turned


def options(program: Program) -> dict[str, Any]:
    out: dict[str, Any] = {"argnums": program.argnums}
    if program.integers:
        out["where"] = is_float
    if program.batch is not None:
        out["batch_axis"] = program.batch
    return out


def is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def smaller(program: Program) -> Iterator[Program]:
    """Programs with a part left out, larger parts first."""
    for k in range(len(program.steps)):
        yield replace(program, steps=program.steps[:k] + program.steps[k + 1 :])
    if program.outputs > 1:
        yield replace(program, outputs=program.outputs - 1)
    if program.kind == "hessian":
        yield replace(program, kind="jacobian")
    if program.integers:
        yield replace(program, integers=False)
    if program.batch is not None and not program.native:
        yield replace(program, batch=None)
    if program.batch:
        yield replace(program, batch=0)
    if len(program.shapes) > 1:
        yield replace(program, shapes=program.shapes[:1], argnums=0)
    if program.argnums != 0:
        yield replace(program, argnums=0)
    for k, shape in enumerate(program.shapes):
        if shape != (2,):
            yield replace(program, shapes=(*program.shapes[:k], (2,), *program.shapes[k + 1 :]))
    for k, step in enumerate(program.steps):
        for less in (step._replace(a=0), step._replace(b=0)):
            if less != step:
                yield replace(program, steps=(*program.steps[:k], less, *program.steps[k + 1 :]))


def spelled(program: Program) -> str:
    """The program as a call of `Program`, and as JAX sees it."""
    try:
        with jax.enable_x64(program.dtype == "float64"):
            shapes = jax.tree.map(jax.typeof, inputs(program))
            jaxpr = str(jax.make_jaxpr(function(program))(*inputs(program)))
    except Exception as error:  # a program that can't be traced is shown as Python
        shapes, jaxpr = program.shapes, f"(not traced: {error})"
    return f"{program}\nat {shapes}, options {options(program)}\n{jaxpr[:4000]}"
