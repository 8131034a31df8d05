"""One block of one call, laid out as a view: what is known of it, and how a key is read. The centre of the library.

A read is five steps (`LiveBlock._read`): take the key apart, ask the store what is missing, choose a way, run a kernel,
put and take. What was read alike at another point is one compiled call (`memo`).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, weakly_typed
from jacobia._plans.colors import compressed, pattern_of, turned
from jacobia._plans.lines import compute_each, crossing, fulfil, fulfil_all
from jacobia._plans.nonzeros import nonzeros
from jacobia._plans.samples import compute_few, few, read_few
from jacobia._plans.take import array_module, as_array, complete, entries_of, known_cube, on_host
from jacobia._plans.wants import Done, Want, store_of
from jacobia._read.layout import Layout
from jacobia._read.memo import again
from jacobia._run import plan as _plan
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._sparse.cover import Cross
from jacobia._sparse.pattern import Pattern
from jacobia._store.gather import gather
from jacobia._store.keys import ROLES, Asked, asked, concrete, is_all, pick, token

# A remembered row leaves the remembered matrix by one compiled call: eager indexing costs ten times that.
_row_of = jax.jit(lambda rows, k: rows[k])

weakly = jax.jit(weakly_typed)


class LiveBlock:
    """What a view is a view of. Immutable, but for what it remembers."""

    __slots__ = ("_index", "_layout", "_origin")

    _origin: Linearized
    _index: int
    _layout: Layout

    def _item(self, key: Any) -> jax.Array:
        origin, index, name = self._origin, self._index, None
        if index not in origin.stores and origin.compiles:
            name = token(key)
            found = None if name is None else self._layout.reads.again(origin, index, name)
            if found is not None:
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
        # Of a matrix that is known, a key means what NumPy says.
        layout = self._layout
        if layout.natural and not layout.lead and len(items) == 1 and type(items[0]) is int:
            k, m = items[0], layout.shape[0]
            if -m <= k < m:
                return _row_of(full, k + m if k < 0 else k)
        xp: Any = np if on_host(full) else jnp
        try:
            out = layout.arrange(xp.asarray(full))[items]
        except IndexError:
            pick(key, layout.axes)  # which raises the same with more words
            raise
        return as_array(xp, np.asarray(out) if xp is np else out, full)

    def _read(self, what: Asked, name: Any) -> jax.Array:
        choice = what.choice
        if name is not None:  # of a block of which nothing is known
            out = self._layout.reads.alike(self._origin, self._index, name, what)
            if out is not None:
                return out
        if 0 in choice.shape:
            return self._origin.empty(choice.shape, self._layout.block.dtype)
        origin, index, layout = self._origin, self._index, self._layout
        want = self._want(what)
        self._check_result(choice.shape)
        inline = not origin.remembers or any(isinstance(i, Tracer) for i in choice.ids)
        if inline:
            # Part of a trace: what is indexed and nothing else, and nothing is remembered.
            out = self._few_samples(what, want, inline) if layout.lead else None
            if out is None:
                out = self._inline(what, compute_each(origin, [want])[0] if self._known() is None else None)
            return out
        with origin.lock:
            out = again(origin, index, name, layout.reads, what) if origin.compiles else None
            if out is None and layout.lead:
                out = self._few_samples(what, want, inline)
            if out is None:
                out = self._fulfilled(what, want)
            self._shrink()
        return out

    def _fulfilled(self, what: Asked, want: Want) -> jax.Array:
        origin, index, order, choice = self._origin, self._index, self._layout.order, what.choice
        across = self._across(what, want)
        if across is not None:
            fulfil(origin, [Want(index, across.rows, None)] if len(across.rows) else [])
            fulfil(origin, [Want(index, None, across.columns)] if len(across.columns) else [])
            return origin.placed(entries_of(origin, index, what.ids["rows"], what.ids["columns"]))
        done = fulfil(origin, [want])
        if done and self._is_answer(done[0], what):
            return done[0].array
        store = store_of(origin, index)
        xp = array_module(store)
        cube, held = known_cube(xp, origin, index, want)
        out = gather(xp, cube, what.among(held), order, choice.outer, choice.shape)
        return as_array(xp, out, store.arrays()[0])

    def _few_samples(self, what: Asked, want: Want, inline: bool) -> jax.Array | None:
        # Some samples of a batch, evaluated by themselves, where that is worth it.
        origin, samples, choice = self._origin, what.numbers["batch"], what.choice

        def work() -> jax.Array | None:
            if not few(origin, want, samples):
                return None
            xp: Any = jnp if inline else np
            cube, held = compute_few(origin, want, samples) if inline else read_few(origin, want, samples)
            out = gather(xp, cube, what.among(held), self._layout.order, choice.outer, choice.shape)
            return out if inline else origin.placed(out)

        return by_what_exists(origin, [self._layout.block], work)

    def _is_answer(self, done: Done, what: Asked) -> bool:
        # The kernel's own array, where it ran these lines and no others, in this order.
        return (
            not self._layout.transposed
            and done.block == self._index
            and not done.turned
            and done.numbers is not None
            and done.array.shape == what.choice.shape
            and what.choice.outer
            and all(places is None for places in what.places.values())
            and what.numbers["columns" if done.way == "rows" else "rows"] is None
            and np.array_equal(what.numbers[done.way], done.numbers)  # and not fewer, padded to as many
        )

    def _want(self, what: Asked) -> Want:
        want = Want(self._index, what.numbers["rows"], what.numbers["columns"])
        rows, columns = self._origin.blue.counts[self._index]
        if want.rows is None and want.columns is not None and rows > 1:
            self._check_defined("columns", "J[...][:, k]")
        if want.columns is None and want.rows is not None and columns > 1:
            self._check_defined("rows", "J[...][k]")
        return want

    def _check_defined(self, way: str, instead: str) -> None:
        # Between real and complex numbers one direction alone is defined.
        only = self._layout.block.only
        if only not in (None, way):
            got = "a complex input and a real output" if only == "rows" else "a real input and a complex output"
            call, like = ("J.mv", "jax.jacrev") if only == "rows" else ("J.vm", "jax.jacfwd")
            raise TypeError(
                f"J[...]: expected an input and an output that are both real, or both complex and holomorphic, for "
                f"{way} and {call}, got {got}, which have {only} only, as in {like}. Write {instead} where the matrix "
                "is small enough, or differentiate with respect to real and imaginary parts."
            )

    def _across(self, what: Asked, want: Want) -> Cross | None:
        # Entries at pairs of places, as of a mask: rows and columns may be fewer than either.
        if what.choice.outer or not self._origin.remembers:
            return None
        return crossing(self._origin, want, what.ids["rows"].reshape(-1), what.ids["columns"].reshape(-1))

    def _inline(self, what: Asked, done: Done | None) -> jax.Array:
        layout = self._layout
        shape = [math.prod(s) for s in (layout.lead, layout.block.row_shape, layout.block.column_shape)]
        held: dict[str, Any] = {}
        if done is not None and done.numbers is not None:
            held = {done.way: done.numbers}
            shape[ROLES.index(done.way)] = len(done.numbers)
        known = self._known() if done is None else done.array
        choice = what.choice
        out = gather(jnp, known.reshape(shape), what.among(held), layout.order, choice.outer, choice.shape)
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
        # All of it, as it is remembered: rows in front of columns.
        known = self._known()
        if known is not None:
            return known
        origin, layout, want = self._origin, self._layout, Want(self._index, None, None)
        if 0 in layout.shape:
            block = layout.block
            return origin.empty(layout.lead + block.row_shape + block.column_shape, self._layout.block.dtype)
        self._check_result(layout.shape)
        if not origin.remembers:
            return compute_each(origin, [want])[0].array
        with origin.lock:
            fulfil(origin, [want])
            return complete(origin, self._index)

    def _nonzeros(self) -> tuple[jax.Array, Pattern]:
        origin, index = self._origin, self._index
        if origin.blue.sparsity != "dense" and self._layout.block.only is not None:
            raise TypeError(
                "J.nonzeros(): expected an input and an output that are both real, or both complex and holomorphic, "
                "got one of each. Set sparsity='dense', or write J[...]."
            )
        if origin.blue.sparsity == "dense":
            full = self._full()
            data, pattern = full.reshape(*origin.lead, -1), pattern_of(origin, index)
        elif not origin.remembers:
            origin.check_alive()
            data, pattern = (nonzeros if origin.blue.sparsity == "auto" else compressed)(origin, index)
        else:
            with origin.lock:
                store = store_of(origin, index)
                if store.nonzeros is None or store.nonzeros.is_deleted():
                    origin.check_alive()
                    if origin.blue.sparsity == "auto":
                        store.nonzeros, store.pattern = nonzeros(origin, index)
                        store.counts[5] += 1
                    else:
                        store.nonzeros, store.pattern = compressed(origin, index)
                data, pattern = store.nonzeros, store.pattern
        data = weakly(data) if self._layout.weak else data
        return turned(data, pattern) if self._layout.transposed else (data, pattern)

    def _known(self) -> Any:
        store = self._origin.stores.get(self._index)
        return None if store is None else store.whole()

    def _check_result(self, shape: tuple[int, ...]) -> None:
        nbytes = math.prod(shape) * self._layout.block.dtype.itemsize
        _plan.check_result(
            f"J[...] of shape {shape}",
            nbytes,
            self._origin.limit(nbytes),
            "Read fewer rows or columns at a time, use J.mv and J.vm, or raise memory_limit.",
        )

    def _shrink(self) -> None:
        store = store_of(self._origin, self._index)
        limit = self._origin.limit(store.nbytes)
        if limit is not None:
            store.shrink(limit)


def read_together(views: Sequence[Any], key: Any) -> dict[int, jax.Array]:
    """The same key of several views of one call, by their ids: one kernel call for all of them."""
    if len(views) == 1:
        return {id(views[0]): views[0][key]}
    origin = views[0]._origin
    if origin.remembers and all(0 not in J.shape and (key is ... or is_all(key, J.ndim)) for J in views):
        with origin.lock:
            fulfil_all(origin, [J._index for J in views])
            return {id(J): J[...] for J in views}
    whats = [J._asked(key) for J in views]
    wants = [J._want(what) for J, what in zip(views, whats, strict=True)]
    todo = [k for k, what in enumerate(whats) if 0 not in what.choice.shape and views[k]._known() is None]
    if origin.remembers and not any(isinstance(i, Tracer) for what in whats for i in what.choice.ids):
        with origin.lock:
            fulfil(origin, [wants[k] for k in todo])
            return {id(J): J[key] for J in views}
    done = dict(zip(todo, compute_each(origin, [wants[k] for k in todo]) if todo else (), strict=True))
    return {id(J): J._inline(whats[k], done[k]) if k in done else J[key] for k, J in enumerate(views)}
