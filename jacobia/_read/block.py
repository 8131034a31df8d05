"""One block of one call, laid out as a view: what its store holds, and how a key is read. The centre of the library.

A read has five steps (`LiveBlock._read`): take the key apart, ask the store what is missing, choose a plan, run its
kernel, put the answer into the store and take the result from it. A read like an earlier one at another point is one
compiled call (`memo`).
Knows keys, layouts and stores. Knows nothing of how lines are computed: plans know that.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, weakly_typed
from jacobia._plans.choose import (
    compute,
    compute_all,
    compute_together,
    fulfil,
    fulfil_together,
    plans,
)
from jacobia._plans.colors import pattern_of, turned
from jacobia._plans.diagonal import diagonal_shape
from jacobia._plans.mirror import store_of
from jacobia._plans.plan import Plan, PlanOfLines, known
from jacobia._plans.recipes import once_more
from jacobia._plans.request import Answer, Request
from jacobia._plans.take import as_array, complete, on_host, put
from jacobia._plans.traced import whole_in_trace
from jacobia._read.layout import Layout
from jacobia._read.memo import again
from jacobia._run import limits as _limits
from jacobia._run.devices import empty
from jacobia._run.point import Linearized
from jacobia._run.spread import off_mesh
from jacobia._sparse.pattern import Pattern
from jacobia._store.gather import gather
from jacobia._store.keys import ROLES, Asked, asked, concrete, is_all, pick, token
from jacobia._store.lines import alive

# A row is taken from a stored matrix by one compiled call: eager indexing costs ten times as much.
_row_of = jax.jit(lambda rows, k: rows[k])

weakly = jax.jit(weakly_typed)


class LiveBlock:
    """The block that a view shows: a call, the number of the block, and a layout. Immutable but for its store."""

    __slots__ = ("_index", "_layout", "_origin")

    _origin: Linearized
    _index: int
    _layout: Layout

    def _item(self, key: Any) -> jax.Array:
        spread = self._origin.blue.spread
        if spread is None:
            return self._found(key)
        with off_mesh(spread):
            return spread.divided(self._found(key))

    def _divided(self, out: Any) -> Any:
        # A result, divided over the mesh over which seeds are spread.
        spread = self._origin.blue.spread
        return out if spread is None else spread.divided(out)

    def _found(self, key: Any) -> jax.Array:
        origin, index, name = self._origin, self._index, None
        store = origin.stores.get(index)
        if (store is None or store.full is None) and origin.compiles:
            name = token(key)
            found = None if name is None else self._layout.reads.again(origin, index, name)
            if found is not None:
                if store is not None:
                    self._shrink()
                return found
        if key is Ellipsis or is_all(key, len(self._layout.shape)):
            return self._whole()
        full = self._known()
        if full is not None and self._origin.remembers and self._layout.block.only is None:
            items = concrete(key)
            if items is not None:
                return self._part_of(full, key, items)
        return self._read(self._asked(key), name)

    def _asked(self, key: Any) -> Asked:
        return asked(key, self._layout.axes)

    def _part_of(self, full: jax.Array, key: Any, items: tuple) -> jax.Array:
        # The result of a key, by NumPy indexing of the known matrix.
        layout = self._layout
        if layout.natural and not layout.lead and len(items) == 1 and type(items[0]) is int:
            k, m = items[0], layout.shape[0]
            if -m <= k < m:
                return _row_of(full, k + m if k < 0 else k)
        xp: Any = np if on_host(full) else jnp
        try:
            out = layout.arrange(xp.asarray(full))[items]
        except (IndexError, TypeError, ValueError):
            pick(key, layout.axes)  # raises the same error with a better message
            raise
        return as_array(np.asarray(out) if xp is np else out, full)

    def _read(self, what: Asked, name: Any) -> jax.Array:
        origin, index, layout, choice = self._origin, self._index, self._layout, what.choice
        if name is not None:
            first = index not in origin.stores
            out = layout.reads.alike(origin, index, name, what)
            if out is not None:
                if not first:
                    self._shrink()
                return out
        if 0 in choice.shape:
            return empty(origin.leaves, choice.shape, layout.block.dtype)
        request = self._request(what)
        self._check_result(choice.shape)
        if not origin.remembers or any(isinstance(i, Tracer) for i in choice.ids):
            # Inside a trace, only the requested lines are computed, and nothing is put into the store.
            return self._inline(what, None if self._known() is not None else compute(origin, request))
        with origin.lock:
            out = again(origin, index, name, layout.reads, what) if origin.compiles else None
            if out is None:
                plan, answers = fulfil(origin, request)
                assert isinstance(plan, PlanOfLines)
                is_it = bool(answers) and self._is_answer(answers[0], what)
                out = answers[0].array if is_it else plan.take(what, layout.order)
            self._shrink()
        return out

    def _plans(self, key: Any) -> Iterator[Plan]:
        """The plans for a key, or for "nonzeros" or "diagonal", in the order in which a read would try them."""
        if isinstance(key, str):
            yield from plans(self._origin, self._request_of(key))
            return
        what = self._asked(key)
        request = self._request(what)
        if 0 in what.choice.shape:
            yield known(self._origin, request, "the result is empty")
        else:
            yield from plans(self._origin, request)

    def _is_answer(self, answer: Answer, what: Asked) -> bool:
        # Whether the kernel's array is the result: exactly the requested lines, in the order of the key.
        return (
            not self._layout.transposed
            and answer.block == self._index
            and not answer.turned
            and answer.numbers is not None
            and answer.samples is None
            and answer.array.shape == what.choice.shape
            and what.choice.outer
            and all(places is None for places in what.places.values())
            and what.numbers["columns" if answer.way == "rows" else "rows"] is None
            and np.array_equal(what.numbers[answer.way], answer.numbers)  # not fewer lines that were padded
        )

    def _request(self, what: Asked) -> Request:
        batch, rows, columns = (what.numbers[r] for r in ROLES)
        m, n = self._origin.blue.counts[self._index]
        if rows is None and columns is not None and m > 1:
            self._check_defined("columns", "J[...][:, k]")
        if columns is None and rows is not None and n > 1:
            self._check_defined("rows", "J[...][k]")
        pairs = None
        if not what.choice.outer and self._origin.remembers:  # the key picks entries, as a mask does
            pairs = what.ids["rows"].reshape(-1), what.ids["columns"].reshape(-1)
        return Request(self._index, rows, columns, batch, pairs)

    def _check_defined(self, way: str, instead: str) -> None:
        # If only one of input and output is complex, only rows or only columns are defined.
        only = self._layout.block.only
        if only not in (None, way):
            got = "a complex input and a real output" if only == "rows" else "a real input and a complex output"
            call, like = ("J.mv", "jax.jacrev") if only == "rows" else ("J.vm", "jax.jacfwd")
            raise TypeError(
                f"J[...]: expected an input and an output that are both real, or both complex and holomorphic, for "
                f"{way} and {call}, got {got}, which have {only} only, as in {like}. Write {instead} where the matrix "
                "is small enough, or differentiate with respect to real and imaginary parts."
            )

    def _inline(self, what: Asked, answer: Answer | None) -> jax.Array:
        layout, choice = self._layout, what.choice
        if answer is None:
            shape = [math.prod(s) for s in (layout.lead, layout.block.row_shape, layout.block.column_shape)]
            cube, held = self._known().reshape(shape), {}
        else:
            cube, held = answer.cube(self._origin)
        out = gather(jnp, cube, what.among(held), layout.order, choice.outer, choice.shape)
        return weakly_typed(out) if layout.weak else out

    def _whole(self) -> jax.Array:
        origin, layout, index = self._origin, self._layout, self._index
        if self._known() is None and origin.compiles:
            with origin.lock:
                out = again(origin, index, ..., layout.reads, layout.everything)
            if out is not None:
                return out
        full = self._full()
        return full if layout.natural else layout.arrange(full)

    def _full(self) -> jax.Array:
        # All of the block in its natural order, which the store uses: samples, rows, columns.
        known = self._known()
        if known is not None:
            return known
        origin, layout, block = self._origin, self._layout, self._layout.block
        shape = layout.lead + block.row_shape + block.column_shape
        if 0 in shape:
            return empty(origin.leaves, shape, block.dtype)
        self._check_result(layout.shape)
        if not origin.remembers:
            return compute_all(origin, self._index).reshape(shape)
        with origin.lock:
            fulfil(origin, Request(self._index))
            return complete(origin, self._index)

    def _nonzeros(self) -> tuple[jax.Array, Pattern]:
        data, pattern = self._whole_nonzeros()
        return self._divided(data), pattern

    def _whole_nonzeros(self) -> tuple[jax.Array, Pattern]:
        # The nonzeros before they are divided over a mesh.
        with off_mesh(self._origin.blue.spread):
            data, pattern = self._other("nonzeros")
        data = weakly(data) if self._layout.weak else data
        return turned(data, pattern) if self._layout.transposed else (data, pattern)

    def _pattern(self) -> Pattern:
        pattern = pattern_of(self._origin, self._index)
        return pattern.T if self._layout.transposed else pattern

    def _diagonal(self) -> jax.Array:
        layout, shape = self._layout, diagonal_shape(self._origin, self._index, self._layout.matrix)
        if 0 in shape:
            return empty(self._origin.leaves, shape, layout.block.dtype)
        with off_mesh(self._origin.blue.spread):
            out = self._other("diagonal")[0].reshape(shape)
        out = weakly(out) if layout.weak else out
        return self._divided(jnp.transpose(out) if layout.turn == "T" and out.ndim > 1 else out)

    def _other(self, kind: str) -> tuple[jax.Array, Any]:
        # Answers that are not lines: the nonzeros with their pattern, or the diagonal.
        origin, request = self._origin, self._request_of(kind)
        if not origin.remembers:
            origin.check_alive()
            answer = compute(origin, request)
            return answer.array, answer.numbers
        with origin.lock:
            answer = once_more(origin, request)
            if answer is not None:
                origin.note_later(put, [answer])
                return answer.array, answer.numbers
            store = store_of(origin, self._index)
            if not alive(getattr(store, kind)):
                if store.whole() is None:
                    origin.check_alive()
                fulfil(origin, request)
            return getattr(store, kind), store.pattern

    def _shape_of(self, key: Any) -> tuple[int, ...]:
        """The shape of the result of a key, of "nonzeros" or of "diagonal"."""
        if not isinstance(key, str):
            return self._asked(key).choice.shape
        if key == "nonzeros":
            return (*self._layout.lead, pattern_of(self._origin, self._index).nnz)
        return diagonal_shape(self._origin, self._index, self._layout.matrix)

    def _request_of(self, kind: str) -> Request:
        if kind not in ("nonzeros", "diagonal"):
            raise ValueError(
                f"key={kind!r}: expected a key that J[key] takes, or 'nonzeros' or 'diagonal', got another string. "
                "Leave the key out for all of J."
            )
        if kind == "nonzeros" and self._origin.blue.sparsity != "dense" and self._layout.block.only is not None:
            raise TypeError(
                "J.nonzeros(): expected an input and an output that are both real, or both complex and holomorphic, "
                "got one of each. Set sparsity='dense', or write J[...]."
            )
        return Request(self._index, kind=kind)

    def _known(self) -> Any:
        # All of the block, from the store or from the current trace; None: it is not known.
        store = self._origin.stores.get(self._index)
        full = None if store is None else store.whole()
        return whole_in_trace(self._origin, self._index) if full is None else full

    def _check_result(self, shape: tuple[int, ...]) -> None:
        nbytes = math.prod(shape) * self._layout.block.dtype.itemsize // self._origin.blue.devices
        _limits.check_result(
            f"J[...] of shape {shape}",
            nbytes,
            self._origin.limit(nbytes),
            _limits.READ_LESS,
        )

    def _shrink(self) -> None:
        store = store_of(self._origin, self._index)
        limit = self._origin.limit(store.nbytes)
        if limit is not None:
            store.shrink(limit)


def read_together(views: Sequence[Any], key: Any) -> dict[int, jax.Array]:
    """Read the same key of several views of one call by one kernel call.

    Returns:
      id of a view → its result.
    """
    if len(views) == 1:
        return {id(views[0]): views[0][key]}
    origin = views[0]._origin
    if origin.remembers and all(0 not in J.shape and (key is ... or is_all(key, J.ndim)) for J in views):
        with origin.lock:
            _fulfil_all(origin, [J._index for J in views])
            return {id(J): J[...] for J in views}
    whats = [J._asked(key) for J in views]
    requests = [J._request(what)._replace(samples=None, pairs=None) for J, what in zip(views, whats, strict=True)]
    todo = [k for k, what in enumerate(whats) if 0 not in what.choice.shape and views[k]._known() is None]
    if origin.remembers and not any(isinstance(i, Tracer) for what in whats for i in what.choice.ids):
        with origin.lock:
            fulfil_together(origin, [requests[k] for k in todo])
            return {id(J): J[key] for J in views}
    done = dict(zip(todo, compute_together(origin, [requests[k] for k in todo]) if todo else (), strict=True))
    return {id(J): J._inline(whats[k], done[k]) if k in done else J[key] for k, J in enumerate(views)}


def _fulfil_all(origin: Linearized, indices: Sequence[int]) -> None:
    # Compute all of some blocks by one kernel call, and store them. If the stores are empty, the kernel of an earlier
    # call at another point is run.
    recipe = None if origin.stores else origin.blue.found.get("recipe", (frozenset(indices), origin.stacks))
    if recipe is None:
        fulfil_together(origin, [Request(k) for k in indices])
        return
    out = origin.run_fused(recipe.kind, recipe.body, recipe.ids, ())
    answers = [Answer(block, "rows", None, out[sweep][place], counts=c) for block, sweep, place, c in recipe.answers]
    images = zip(recipe.images, out[-1], strict=False)
    put(origin, [*answers, *(Answer(block, "rows", None, full) for block, full in images)])
