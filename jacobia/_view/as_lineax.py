"""Views and operators as linear operators of lineax, which answer lineax's questions from patterns and programs.

Knows lineax, points and patterns. The functions that make views are passed in. Knows nothing of how products are
computed.
Shapes: M outputs, N inputs, nnz entries.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import tree_leaves

from jacobia._compat import Tracer
from jacobia._errors import MaterializationError
from jacobia._plans.nonzeros import every, walk_of
from jacobia._program.fingerprint import Identity
from jacobia._run.blueprint import Blueprint
from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern


class Source(NamedTuple):
    """The static part of an operator: everything but its arrays. Equal for calls that share kernels."""

    blue: Blueprint
    number: int | None  # the number of a block; None: all blocks, as one operator on trees
    transposed: bool
    block: Callable  # (point, number of a block) → its view as a matrix
    whole: Callable | None = None  # (point, transposed) → all blocks as an operator on trees
    held: tuple[Any, ...] = ()  # for each constant of f its identity; None if it is traced


def as_lineax(origin: Linearized, source: Source, tags: Any) -> Any:
    """A view, or a tree of views as one operator, as a `lineax.AbstractLinearOperator`.

    Raises:
      ImportError: lineax is not installed.
      ValueError: a view with samples, or tags that the shape, the pattern or a check of symmetry contradicts.
    """
    if origin.lead:
        raise ValueError(
            f"as_lineax(): expected one matrix, got samples, {origin.lead} of them. lineax has no batches: write "
            "jax.vmap(lambda x, b: lineax.linear_solve(jacobian(f)(x).as_lineax(), b))(X, B)."
        )
    held = tuple(None if isinstance(c, Tracer) else Identity(c) for c in origin.consts)
    arrays = [c for c, h in zip(origin.consts, held, strict=True) if h is None], list(origin.leaves)
    made = _operator_class()(*arrays, source._replace(held=held), _tags(tags))
    _check(made)
    return made


def _tags(tags: Any) -> frozenset:
    made = frozenset(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else frozenset([tags])
    if words := [tag for tag in made if isinstance(tag, str)]:
        raise TypeError(
            f"as_lineax(tags=...): expected tags of lineax, got {words[0]!r}. Write lineax.symmetric_tag, "
            "lineax.diagonal_tag, ... ."
        )
    return made


def _check(made: Any) -> None:
    import lineax as lx

    square = {
        lx.symmetric_tag, lx.diagonal_tag, lx.tridiagonal_tag, lx.unit_diagonal_tag, lx.lower_triangular_tag,
        lx.upper_triangular_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag,
    }  # fmt: skip
    given = sorted(map(str, made.tags & square))
    if given and made.in_size() != made.out_size():
        raise ValueError(
            f"as_lineax(tags=...): expected no {given[0]} of a matrix that is not square, got shape "
            f"({made.out_size()}, {made.in_size()}). Leave the tag out."
        )
    symmetric = made.tags & {lx.symmetric_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag}
    has_numbers = _origin(made).remembers and made.in_size() > 0
    bands = {
        lx.diagonal_tag: (0, 0), lx.tridiagonal_tag: (1, 1), lx.lower_triangular_tag: (None, 0),
        lx.upper_triangular_tag: (0, None),
    }  # fmt: skip
    for tag in [t for t in (*bands, *symmetric) if t in made.tags]:
        # A pattern may have more entries than J has nonzeros, so it does not refute a tag by itself. A pattern with few
        # entries is close to exact, and is trusted.
        pattern = made.pattern()
        if pattern is not None and (_band(pattern, *bands[tag]) if tag in bands else pattern == pattern.T):
            continue
        if pattern is not None and pattern.density < _SPARSE:
            raise ValueError(
                f"as_lineax(tags=...): expected tags that hold, got {tag} of a matrix whose pattern has other entries: "
                f"{pattern.nnz} of {pattern.shape}. Solvers would be silently wrong. Leave the tag out."
            )
        if tag in bands and has_numbers:
            _check_band(made, tag, *bands[tag])
    if symmetric and has_numbers:
        _check_symmetry(made)
    if lx.unit_diagonal_tag in made.tags and has_numbers:
        _check_unit_diagonal(made)


def _some_columns(made: Any) -> tuple[np.ndarray, np.ndarray]:
    # The numbers of a few columns, the first and the last among them; and these columns, one in each row.
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), made.in_structure())
    flat, unflat = ravel_pytree(zeros)
    numbers = np.unique(np.linspace(0, flat.size - 1, _COLUMNS).astype(int))
    columns = [ravel_pytree(made.mv(unflat(flat.at[k].set(1))))[0] for k in numbers.tolist()]
    return numbers, np.asarray(jnp.stack(columns))


def _check_band(made: Any, tag: Any, below: int | None, above: int | None) -> None:
    # A few columns of a matrix whose pattern does not show that the tag holds. Many entries outside the band are seen
    # in them.
    numbers, columns = _some_columns(made)
    offset = np.arange(columns.shape[1]) - numbers[:, None]  # of the row from the column
    outside = np.zeros(offset.shape, bool)
    if below is not None:
        outside |= offset > below
    if above is not None:
        outside |= -offset > above
    largest = np.abs(np.where(outside, columns, 0))
    if largest.max(initial=0) > np.abs(columns).max(initial=0) * float(jnp.finfo(columns.dtype).eps) ** 0.5:
        k, i = np.unravel_index(int(largest.argmax()), largest.shape)
        raise ValueError(
            f"as_lineax(tags=...): expected tags that hold, got {tag} of a matrix with the entry {columns[k, i]:.3g} "
            f"in row {i} and column {numbers[k]}. Solvers would be silently wrong. Leave the tag out."
        )


def _check_unit_diagonal(made: Any) -> None:
    numbers, columns = _some_columns(made)
    found = columns[np.arange(len(numbers)), numbers]
    wrong = np.flatnonzero(np.abs(found - 1) > float(jnp.finfo(columns.dtype).eps) ** 0.5)
    if wrong.size:
        k = int(wrong[0])
        raise ValueError(
            f"as_lineax(tags=...): expected a diagonal of ones, as the tag says, got {found[k]:.3g} in row "
            f"{numbers[k]}. Leave the tag out."
        )


def _check_symmetry(made: Any) -> None:
    # Compare u @ J @ v with v @ J @ u for two random vectors of ones and minus ones. A solver would silently return
    # wrong numbers for a matrix that is not symmetric as its tag says.
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), made.in_structure())
    flat, unflat = ravel_pytree(zeros)
    u, v = (jax.random.rademacher(k, flat.shape, flat.dtype) for k in jax.random.split(jax.random.key(0)))
    Ju, Jv = (ravel_pytree(made.mv(unflat(a)))[0] for a in (u, v))
    import lineax as lx

    apart = abs(jnp.vdot(u, Jv) - jnp.conj(jnp.vdot(v, Ju)) if _is_complex(made) else jnp.vdot(u, Jv) - jnp.vdot(v, Ju))
    scale = jnp.linalg.norm(Ju) * jnp.linalg.norm(v) + jnp.linalg.norm(Jv) * jnp.linalg.norm(u)
    if apart > scale * float(jnp.finfo(flat.dtype).eps) ** 0.5:
        raise ValueError(
            "as_lineax(tags=...): expected a symmetric matrix, as the tag says, got one of which u @ J @ v and "
            f"v @ J @ u differ by {float(apart):.3g}, of ones and minus ones. Leave the tag out."
        )
    for tag, sign in ((lx.positive_semidefinite_tag, 1), (lx.negative_semidefinite_tag, -1)):
        least = min(sign * float(jnp.vdot(a, Ja).real) for a, Ja in ((u, Ju), (v, Jv)))
        if tag in made.tags and least < -float(scale) * float(jnp.finfo(flat.dtype).eps) ** 0.5:
            raise ValueError(
                f"as_lineax(tags=...): expected a {'positive' if sign > 0 else 'negative'} semidefinite matrix, as the "
                f"tag says, got one of which v @ J @ v is {sign * least:.3g}, v of ones and minus ones. Leave the tag "
                "out."
            )


# A pattern whose density is less than this is trusted if it contradicts a tag.
_SPARSE = 0.5

# This many columns are looked at, if a pattern does not show whether a tag holds.
_COLUMNS = 8

# Above this number of nonzeros, they are not listed just to answer whether J is banded.
_LISTED = 1 << 24


def _band(pattern: Pattern, below: int | None, above: int | None) -> bool:
    offset = pattern.rows - pattern.cols
    low = below is None or not (offset > below).any()
    return low and (above is None or not (-offset > above).any())


def _origin(made: Any) -> Linearized:
    rest, held = iter(made.consts), made.of.held
    consts = [next(rest) if h is None else h.held for h in held]
    return Linearized.anywhere(made.of.blue, consts, made.leaves)


def _operator(made: Any) -> Any:
    assert made.of.whole is not None
    return made.of.whole(_origin(made), made.of.transposed)


def _views(made: Any, places: Iterable[int]) -> list:
    # The views of these blocks, as matrices.
    origin = _origin(made)
    return [made.of.block(origin, k) for k in places]


def _structure(made: Any, side: str) -> Any:
    # What the operator takes or returns, as a tree of `jax.ShapeDtypeStruct`.
    blue, index = made.of.blue, made.of.number
    if index is None:
        return getattr(_operator(made), side)
    block = blue.blocks[index]
    rows = (side == "out_structure") != made.of.transposed
    space, leaves = (blue.spaces.outputs, block.outs) if rows else (blue.spaces.inputs, block.ins)
    return jax.ShapeDtypeStruct(
        block.row_shape if rows else block.column_shape, jnp.result_type(*space.pick(leaves).dtypes)
    )


def _product(made: Any, vector: Any) -> Any:
    if made.of.number is None:
        return _operator(made).mv(vector)
    J, told = _views(made, [made.of.number])[0], _structure(made, "out_structure")
    flat = jnp.ravel(vector)
    return (flat @ J if made.of.transposed else J @ flat).reshape(told.shape).astype(told.dtype)


def _matrix(made: Any) -> jax.Array:
    blue, of = made.of.blue, made.of
    if of.number is not None or blue.ravel:
        full = _views(made, [of.number or 0])[0][...]
    else:
        views, n = _views(made, range(len(blue.blocks))), len(blue.spaces.inputs)
        full = jnp.block([[J[...] for J in views[k : k + n]] for k in range(0, len(views), n)])
    return full.T if of.transposed else full


def _pattern(made: Any) -> Pattern | None:
    # None: the pattern cannot be read off the program.
    blue, of = made.of.blue, made.of
    block = every(blue) if of.number is None else blue.blocks[of.number]
    if blue.program.jaxpr is None or blue.sparsity != "auto":
        return None
    try:
        found = walk_of(_origin(made), quiet=True).of(block.outs, block.ins, blue.symmetric).pattern
    except (MaterializationError, TypeError, ValueError):
        return None
    return found.T if of.transposed else found


def _within(made: Any, below: int | None, above: int | None) -> bool:
    # Whether all entries that can be nonzero lie within `below` diagonals below and `above` diagonals above the main
    # diagonal. None: any number.
    size, other = made.in_size(), made.out_size()
    if size != other:
        return False
    key = made.of.number, made.of.transposed, below, above

    def look() -> bool:
        pattern = made.pattern()
        return pattern is not None and pattern.nnz <= _LISTED and _band(pattern, below, above)

    return made.of.blue.found.find("band", key, look)


def _diagonal(made: Any) -> jax.Array:
    blue, of = made.of.blue, made.of
    if of.number is not None:
        return _views(made, [of.number])[0].diagonal()
    outs, ins = blue.spaces.outputs, blue.spaces.inputs
    if blue.ravel or outs.sizes != ins.sizes:
        return jnp.diagonal(_matrix(made))
    own = range(0, len(blue.blocks), len(ins) + 1)
    return jnp.concatenate([J.diagonal() for J in _views(made, own)])


def _tridiagonal(made: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The main, lower and upper diagonal: from the nonzeros if the pattern shows that they are few, otherwise from the
    # whole matrix.
    of, n = made.of, made.in_size()
    pattern = made.pattern()
    if of.number is None or pattern is None or pattern.density > _SPARSE:
        full = _matrix(made)
        return jnp.diagonal(full), jnp.diagonal(full, -1), jnp.diagonal(full, 1)
    data, pattern = _views(made, [of.number])[0]._nonzeros()
    offset, found = pattern.rows - pattern.cols, []
    for k in (0, -1, 1) if of.transposed else (0, 1, -1):
        at = np.flatnonzero(offset == k)
        places = np.minimum(pattern.rows[at], pattern.cols[at])
        found.append(jnp.zeros(n - abs(k), data.dtype).at[places].set(data[at]))
    return found[0], found[1], found[2]


@cache
def _operator_class() -> type:
    try:
        import equinox as eqx
        import lineax as lx
    except ImportError as error:
        raise ImportError(
            "J.as_lineax(): expected the package lineax, which is not installed. "
            'Install it: pip install "jacobia[lineax]".'
        ) from error

    class JacobianOperator(lx.AbstractLinearOperator):
        """A Jacobian or Hessian as a linear operator: products without the matrix, structure from its program."""

        consts: list
        leaves: list
        of: Source = eqx.field(static=True)
        tags: frozenset[object] = eqx.field(static=True)

        def mv(self, vector: Any) -> Any:
            return _product(self, vector)

        def as_matrix(self) -> jax.Array:
            return _matrix(self)

        def transpose(self) -> Any:
            if lx.is_symmetric(self):
                return self
            of = self.of._replace(transposed=not self.of.transposed)
            return JacobianOperator(self.consts, self.leaves, of, lx.transpose_tags(self.tags))

        def in_structure(self) -> Any:
            return _structure(self, "in_structure")

        def out_structure(self) -> Any:
            return _structure(self, "out_structure")

        def pattern(self) -> Pattern | None:
            """Which entries can be nonzero; None: the pattern cannot be read off the program."""
            return _pattern(self)

    _answer(lx, JacobianOperator)
    return JacobianOperator


def _answer(lx: Any, kind: type) -> None:
    """Register the answers to the questions that lineax asks of every operator."""

    def tagged(*tags: Any) -> Callable[[Any], bool]:
        return lambda op: bool(op.tags & frozenset(tags))

    def symmetric(op: Any) -> bool:
        blue, index, real = op.of.blue, op.of.number, not _is_complex(op)
        known = blue.symmetric and (index is None or blue.mirrors[index] == index)
        definite = real and tagged(lx.positive_semidefinite_tag, lx.negative_semidefinite_tag)(op)
        return known or definite or tagged(lx.symmetric_tag, lx.diagonal_tag)(op)

    def within(below: int | None, above: int | None, *tags: Any) -> Callable[[Any], bool]:
        return lambda op: tagged(*tags)(op) or _within(op, below, above)

    def linearise(op: Any) -> Any:
        # Linearizing the product computes the part that depends on the point only once.
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), op.in_structure())
        _, linear = jax.linearize(op.mv, zeros)
        tags = op.tags | ({lx.symmetric_tag} if symmetric(op) else set())
        return lx.FunctionLinearOperator(linear, op.in_structure(), tags)

    def materialise(op: Any) -> Any:
        flat = all(len(s.shape) == 1 for s in (op.in_structure(), op.out_structure()) if hasattr(s, "shape"))
        tags = op.tags | ({lx.symmetric_tag} if symmetric(op) else set())
        if flat and op.of.number is not None:
            return lx.MatrixLinearOperator(op.as_matrix(), tags)
        return lx.materialise(linearise(op))

    answers: dict[Any, Callable] = {
        lx.is_symmetric: symmetric,
        lx.is_diagonal: within(0, 0, lx.diagonal_tag),
        lx.is_tridiagonal: within(1, 1, lx.tridiagonal_tag, lx.diagonal_tag),
        lx.is_lower_triangular: within(None, 0, lx.lower_triangular_tag),
        lx.is_upper_triangular: within(0, None, lx.upper_triangular_tag),
        lx.has_unit_diagonal: tagged(lx.unit_diagonal_tag),
        lx.is_positive_semidefinite: tagged(lx.positive_semidefinite_tag),
        lx.is_negative_semidefinite: tagged(lx.negative_semidefinite_tag),
        lx.diagonal: _diagonal,
        lx.tridiagonal: _tridiagonal,
        lx.linearise: linearise,
        lx.materialise: materialise,
        lx.conj: lambda op: lx.conj(linearise(op)) if _is_complex(op) else op,
    }
    for question, answer in answers.items():
        question.register(kind)(answer)


def _is_complex(op: Any) -> bool:
    leaves = tree_leaves((op.in_structure(), op.out_structure()))
    return any(jnp.issubdtype(s.dtype, jnp.complexfloating) for s in leaves)
