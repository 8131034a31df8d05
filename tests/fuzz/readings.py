"""Ways to read views (READS), and ways to obtain views (WAYS).

A read is a pair of functions: one of the views of a tree, one of the dense blocks in the same order.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jacobia import Jacobian, materialize


class Read(NamedTuple):
    """How views are read, and the expected result.

    Attributes:
      name: the read as code.
      of_views: views → array or arrays.
      of_blocks: dense blocks → the same arrays, by NumPy.
    """

    name: str
    of_views: Callable
    of_blocks: Callable
    traced: bool = True  # may be a part of a trace


class Block(NamedTuple):
    """What is known of a block before it is read."""

    shape: tuple[int, ...]
    lead: int  # axes of samples
    rows: int  # axes of y

    @property
    def parts(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        k = self.lead
        return self.shape[:k], self.shape[k : k + self.rows], self.shape[k + self.rows :]


def views_of(tree: Any) -> list:
    return [v for v in jax.tree.leaves(tree, is_leaf=is_view) if is_view(v)]


def is_view(value: Any) -> bool:
    return isinstance(value, Jacobian)


# Keys


def axis_key(rng: np.random.Generator, n: int) -> Any:
    kind = rng.integers(6)
    if not n or kind == 0:
        return slice(None)
    if kind == 1:
        return int(rng.integers(-n, n))
    if kind == 2:
        low = int(rng.integers(n))
        return slice(low, low + int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    if kind == 3:
        return slice(None, None, -1)
    if kind == 4:
        return rng.integers(-n, n, rng.integers(1, 4)).tolist()
    return rng.random(n) < 0.5


def random_key(rng: np.random.Generator, shape: tuple[int, ...], rows: int) -> Any:
    """A random key: often one of the common kinds, sometimes another."""
    if not shape:
        return [..., ()][rng.integers(2)]
    n, last = shape[0], shape[-1]
    places = tuple(int(rng.integers(n)) if n else slice(None) for n in shape)
    kinds = [
        lambda: ...,
        lambda: places[0],
        lambda: axis_key(rng, n),
        lambda: axis_key(rng, n),
        lambda: (..., places[-1]),
        lambda: (slice(None),) * rows + (axis_key(rng, shape[rows]),) if rows < len(shape) else ...,
        lambda: places,
        lambda: places[: int(rng.integers(1, len(shape) + 1))],
        lambda: tuple(slice(k, k + 2) for k in rng.integers(0, 2, len(shape)).tolist()),
        lambda: tuple(axis_key(rng, k) if rng.random() < 0.6 else slice(None) for k in shape),
        lambda: rng.random(shape) < 0.3,
        lambda: (None, places[0]),
        lambda: slice(1, 1),
        lambda: (..., slice(0, last, 2)),
        lambda: np.int64(places[0]) if n else ...,
    ]
    key = kinds[rng.integers(len(kinds))]()
    try:
        np.empty(shape)[key]
    except IndexError:  # lists of different lengths
        return ...
    return key


# Reads


def by_key(rng: np.random.Generator, k: int, block: Block) -> Read:
    return of_key(k, random_key(rng, block.shape, block.lead + block.rows))


def of_key(k: int, key: Any) -> Read:
    return Read(f"[{k}][{written(key)}]", lambda vs: vs[k][key], lambda bs: bs[k][key])


def by_traced_number(rng: np.random.Generator, k: int, block: Block) -> Read:
    n = block.shape[0] if block.shape else 0
    if not n:
        return by_key(rng, k, block)
    i = int(rng.integers(-n, n))
    return Read(f"[{k}][traced {i}]", lambda vs: jax.jit(lambda i: vs[k][i])(i), lambda bs: bs[k][i])


def transposed(rng: np.random.Generator, k: int, block: Block) -> Read:
    key = random_key(rng, block.shape[::-1], len(block.shape) - block.lead - block.rows)
    return Read(f"[{k}].T[{written(key)}]", lambda vs: vs[k].T[key], lambda bs: bs[k].T[key])


def flat(block: Block) -> tuple[int, ...]:
    lead, rows, columns = block.parts
    return (*lead, int(np.prod(rows, dtype=int)), int(np.prod(columns, dtype=int)))


def as_matrix(rng: np.random.Generator, k: int, block: Block) -> Read:
    shape = flat(block)
    key = random_key(rng, shape, len(shape) - 1)
    return Read(f"[{k}].matrix[{written(key)}]", lambda vs: vs[k].matrix[key], lambda bs: bs[k].reshape(shape)[key])


def scattered(shape: tuple[int, ...], data: jax.Array, rows: Any, cols: Any) -> Any:
    if isinstance(data, jax.core.Tracer):
        return jnp.zeros(shape, data.dtype).at[..., rows, cols].add(data)
    out = np.zeros(shape, data.dtype)
    np.add.at(out, (..., np.asarray(rows), np.asarray(cols)), np.asarray(data))  # compiles nothing
    return out


def nonzeros(rng: np.random.Generator, k: int, block: Block) -> Read:
    shape = flat(block)

    def read(vs: list) -> Any:
        return scattered(shape, *vs[k].nonzeros())

    return Read(f"[{k}].nonzeros()", read, lambda bs: bs[k].reshape(shape))


def pattern(rng: np.random.Generator, k: int, block: Block) -> Read:
    shape = flat(block)
    holes = {}

    def read(vs: list) -> Any:
        holes[0] = ~np.asarray(vs[k].pattern.todense()).astype(bool)
        return np.zeros(shape)

    return Read(f"[{k}].pattern", read, lambda bs: bs[k].reshape(shape) * holes[0])


def sparse(rng: np.random.Generator, k: int, block: Block) -> Read:
    shape = flat(block)
    name = str(rng.choice(["to_bcoo", "to_bcsr"] + ["to_scipy"] * (not block.lead)))

    def read(vs: list) -> Any:
        out = getattr(vs[k], name)()
        if name == "to_scipy":
            return out.toarray()
        if name == "to_bcsr":
            out = out.to_bcoo()
        assert out.shape == shape
        rows, cols = (out.indices[(0,) * block.lead][:, i] for i in range(2))
        return scattered(shape, out.data, rows, cols)

    return Read(f"[{k}].{name}()", read, lambda bs: bs[k].reshape(shape), traced=name != "to_scipy")


def diagonal(rng: np.random.Generator, k: int, block: Block) -> Read:
    lead, rows, columns = block.parts
    if rows != columns:
        if len(rows) == len(columns) == 1:
            return Read(
                f"[{k}].diagonal()", lambda vs: vs[k].diagonal(), lambda bs: np.diagonal(bs[k], axis1=-2, axis2=-1)
            )
        return by_key(rng, k, block)
    return Read(
        f"[{k}].diagonal()", lambda vs: vs[k].diagonal(),
        lambda bs: np.diagonal(bs[k].reshape(flat(block)), axis1=-2, axis2=-1).reshape(lead + rows),
    )  # fmt: skip


def product(rng: np.random.Generator, k: int, block: Block) -> Read:
    lead, rows, columns = block.parts
    m, n = flat(block)[-2:]
    several = (2,) if rng.random() < 0.5 else ()
    count = 2 if several else 1
    if rng.random() < 0.5:
        v = rng.normal(size=lead + columns + several)
        return Read(
            f"[{k}].mv({'several' if several else 'one'})", lambda vs: vs[k].mv(v.astype(vs[k].dtype)),
            lambda bs: (bs[k].reshape(*lead, m, n) @ v.reshape(*lead, n, count)).reshape(lead + rows + several),
        )  # fmt: skip
    u = rng.normal(size=lead + several + rows)
    return Read(
        f"[{k}].vm({'several' if several else 'one'})", lambda vs: vs[k].vm(u.astype(vs[k].dtype)),
        lambda bs: (u.reshape(*lead, count, m) @ bs[k].reshape(*lead, m, n)).reshape(lead + several + columns),
    )  # fmt: skip


def whole(rng: np.random.Generator, k: int, block: Block) -> Read:
    return Read(f"[{k}] as an array", lambda vs: 2 * vs[k], lambda bs: 2 * bs[k])


def explained(rng: np.random.Generator, k: int, block: Block) -> Read:
    key = random_key(rng, block.shape, block.lead + block.rows)

    def read(vs: list) -> Any:
        return np.zeros(len(str(vs[k].explain(key))) * 0)

    return Read(f"[{k}].explain({written(key)})", read, lambda bs: np.zeros(0))


def cleared(rng: np.random.Generator, k: int, block: Block) -> Read:
    def read(vs: list) -> Any:
        vs[k].clear()
        return np.zeros(0)

    return Read(f"[{k}].clear()", read, lambda bs: np.zeros(0), traced=False)


def together(rng: np.random.Generator, k: int, block: Block) -> Read:
    key = [..., 0, (..., 0)][rng.integers(3)]
    if key is not ... and not (block.shape and all(block.shape)):
        key = ...

    def read(vs: list) -> Any:
        if all(v.shape and all(v.shape) for v in vs):
            return materialize({"all": vs}, key)["all"][k]
        return materialize({"all": vs})["all"][k][key]  # an empty view has no entry at this key

    return Read(f"materialize(all, {written(key)})[{k}]", read, lambda bs: bs[k][key])


READS = [
    *[by_key] * 10, *[nonzeros] * 3, by_traced_number, transposed, as_matrix, pattern, sparse, diagonal, product,
    product, whole, explained, cleared, together,
]  # fmt: skip


def written(key: Any) -> str:
    return repr(key).replace("Ellipsis", "...").replace("slice", "s")


# Ways to obtain views. Each takes the transform, the points and the reads, and returns the results and the expected
# results.


def plain(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    vs = views_of(jac(*points[0]))
    return [read.of_views(vs) for read in reads], [read.of_blocks(truths[0]) for read in reads]


def second_point(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    a, b = plain(jac, points, reads, truths)
    c, d = plain(jac, points[1:], reads, truths[1:])
    e, f = plain(jac, points, reads[::-1], truths)
    return a + c + e, b + d + f


def fresh_each(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    outs = [plain(jac, points, [read], truths) for read in reads]
    return [a for out, _ in outs for a in out], [e for _, out in outs for e in out]


def in_jit(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    run = jax.jit(lambda *args: [read.of_views(views_of(jac(*args))) for read in reads])
    return run(*points[1]), [read.of_blocks(truths[1]) for read in reads]


def one_view_in_jit(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    def read(*args: Any) -> list:
        vs = views_of(jac(*args))
        return [read.of_views(vs) for read in reads]

    return jax.jit(read)(*points[0]), [read.of_blocks(truths[0]) for read in reads]


def into_jit(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    run = jax.jit(lambda vs: [read.of_views(vs) for read in reads])
    return run(views_of(jac(*points[0]))), [read.of_blocks(truths[0]) for read in reads]


def out_of_jit(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    vs = views_of(jax.jit(jac)(*points[1]))
    return [read.of_views(vs) for read in reads], [read.of_blocks(truths[1]) for read in reads]


def reads_vmapped(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    out = jax.vmap(lambda *args: [read.of_views(views_of(jac(*args))) for read in reads])(*batch)
    return out, [np.stack([read.of_blocks(blocks) for blocks in truths]) for read in reads]


def copied(jac: Callable, points: list, reads: list[Read], truths: list) -> tuple[list, list]:
    vs = [copy.deepcopy(v) if k % 2 else copy.copy(v) for k, v in enumerate(views_of(jac(*points[0])))]
    return [read.of_views(vs) for read in reads], [read.of_blocks(truths[0]) for read in reads]


WAYS = {
    "plain": plain,
    "second point": second_point,
    "fresh each": fresh_each,
    "in jit": in_jit,
    "one view in jit": one_view_in_jit,
    "into jit": into_jit,
    "out of jit": out_of_jit,
    "reads vmapped": reads_vmapped,
    "copied": copied,
}
TRACED = {"in jit", "one view in jit", "into jit", "reads vmapped"}
