"""Colorings against brute force: J is compressed with dense seeds in NumPy, and every nonzero must be recovered.

Shapes: M rows, N columns, C colors. The expected numbers of colors come from theorems.
"""

import itertools
import pickle
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia._sparse import greedy as _greedy
from jacobia._sparse.coloring import PARTITIONS, Coloring, alone
from jacobia._sparse.partition import coloring
from jacobia._sparse.pattern import Pattern
from jacobia._sparse.recovery import recover, recovery

ANY = ("auto", "rows", "columns", "both")


def message(caught, *words):
    """The message has the form of the contract and names these words."""
    text = str(caught.value)
    assert re.search(r"\w+\(.+\).*: expected .+, got .+\. \S", text, re.DOTALL), text
    for word in words:
        assert word in text, (word, text)


# Patterns


def stencil(shape, vectors, periodic=False):
    """The pattern of a stencil on a grid whose points are numbered with the first coordinate running fastest."""
    points = np.indices(shape[::-1])[::-1].reshape(len(shape), -1)
    size, strides = np.array(shape)[:, None], np.cumprod((1, *shape[:-1]))
    rows, cols = [], []
    for vector in vectors:
        moved = points + np.array(vector)[:, None]
        moved = moved % size if periodic else moved
        inside = np.all((moved >= 0) & (moved < size), axis=0)
        rows.append(strides @ points[:, inside])
        cols.append(strides @ moved[:, inside])
    n = points.shape[1]
    return Pattern.from_coo(np.concatenate(rows), np.concatenate(cols), (n, n))


def cross(ndim, reach=1):
    steps = [s for k in range(1, reach + 1) for s in (-k, k)]
    return [(0,) * ndim] + [tuple(s * (a == b) for b in range(ndim)) for a in range(ndim) for s in steps]


def box(ndim):
    return list(itertools.product((-1, 0, 1), repeat=ndim))


def band(n, k):
    return stencil((n,), [(d,) for d in range(-k, k + 1)])


def arrow(n):
    i = np.arange(n)
    return Pattern.from_coo(np.concatenate([i, i, 0 * i]), np.concatenate([i, 0 * i, i]), (n, n))


def random_pattern(m, n, density, seed, symmetric=False):
    dense = np.random.default_rng(seed).random((m, n)) < density
    return Pattern.from_dense(dense | dense.T if symmetric else dense)


# The reference


def seeds_of(colors):
    """One row of zeros and ones for each color."""
    return (colors == np.arange(colors.max(initial=-1) + 1)[:, None]).astype(float)


def compressed_by(J, c):
    m, n = c.pattern.shape
    if c.partition == "rows":
        return seeds_of(c.colors) @ J
    if c.partition in ("columns", "symmetric"):
        return (J @ seeds_of(c.colors).T).T
    columns = c.colors[m:]
    columns = np.where(columns >= 0, columns - c.num_row_colors, -1)
    return seeds_of(c.colors[:m]) @ J, (J @ seeds_of(columns).T).T


def values_on(pattern, seed=0, symmetric=False):
    J = np.random.default_rng(seed).integers(1, 1000, pattern.shape).astype(float)  # sums of these are exact
    return (J + J.T if symmetric else J) * pattern.todense()


def assert_recovers(c):
    """Every entry of J comes back, read in NumPy by the maps of `recovery`."""
    pattern = c.pattern
    J = values_on(pattern, symmetric=c.partition == "symmetric")
    B = compressed_by(J, c)
    expected = J[pattern.rows, pattern.cols]
    where = recovery(c)
    for ids in where:
        assert isinstance(ids, np.ndarray) and ids.dtype == np.int32 and ids.shape == (pattern.nnz,)
    sources = B if c.partition == "both" else (B, B)
    found = [sources[s][k, p] for s, k, p in zip(*where, strict=True)]
    np.testing.assert_array_equal(found, expected)
    wrong = {"rows": 1, "columns": 0, "symmetric": 0}.get(c.partition)
    assert wrong not in where.source
    return B, expected


def assert_valid(c):
    """What is promised of every coloring."""
    m, n = c.pattern.shape
    assert c.colors.shape == ({"rows": m, "both": m + n}.get(c.partition, n),)
    assert c.colors.dtype == np.int32 and not c.colors.flags.writeable
    assert set(c.colors.tolist()) - {-1} == set(range(c.num_colors))
    assert (c.num_colors > 0) == (c.pattern.nnz > 0)
    assert c.lower_bound <= c.num_colors
    for colors, ids, size in ((c.row_colors, c.pattern.rows, m), (c.column_colors, c.pattern.cols, n)):
        if colors is not None:
            empty = np.bincount(ids, minlength=size) == 0
            assert colors.shape == (size,) and np.all(colors[empty] == -1)
    assert_recovers(c)


RANDOM = [(0, 0, 0), (0, 3, 0), (3, 0, 0), (4, 5, 0), (1, 1, 1), (1, 6, 1), (6, 1, 1), (5, 5, 1), (7, 4, 0.3)]
RANDOM += [(4, 7, 0.5), (12, 30, 0.1), (30, 12, 0.1), (25, 25, 0.08), (40, 40, 0.2)]


@pytest.mark.parametrize("case", RANDOM, ids=str)
@pytest.mark.parametrize("partition", ANY)
def test_every_entry_is_recovered(case, partition):
    for seed in range(3):
        c = coloring(random_pattern(*case, seed=seed), partition)
        assert c.partition == partition or partition == "auto"
        assert_valid(c)


@pytest.mark.parametrize("n, density", [(0, 0), (1, 1), (3, 0), (5, 0.3), (12, 0.1), (30, 0.05), (30, 0.2), (9, 1)])
def test_every_entry_of_a_symmetric_matrix_is_recovered(n, density):
    for seed in range(4):
        assert_valid(coloring(random_pattern(n, n, density, seed, symmetric=True), "symmetric"))


@pytest.mark.parametrize(
    "pattern", [random_pattern(8, 6, 0.4, 0), arrow(7), band(9, 2)], ids=["random", "arrow", "band"]
)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_recovery_in_jit_and_with_axes_in_front(pattern, partition):
    if partition == "symmetric" and pattern != pattern.T:
        pytest.skip("not a symmetric pattern")
    c = coloring(pattern, partition)
    B, expected = assert_recovers(c)
    B = jax.tree.map(jnp.asarray, B)
    np.testing.assert_array_equal(recover(B, c), expected)  # float32 holds them
    twice = jax.tree.map(lambda b: np.stack([b, 2 * b]).astype(np.float16), B)
    out = jax.jit(recover)(twice, c)
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, np.stack([expected, 2 * expected]).astype(np.float16))


# Counts of colors


def count(pattern, partition):
    c = coloring(pattern, partition)
    assert c.lower_bound <= c.num_colors
    return c.num_colors


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (7, 5), (5, 7), (40, 3), (31, 33)], ids=str)
@pytest.mark.parametrize("partition", ANY)
def test_stencils_on_a_plane(shape, partition):
    if partition in ("auto", "both") and min(shape) < 5:
        pytest.skip("a mix of rows and columns may do with fewer on so small a grid")
    assert count(stencil(shape, cross(2)), partition) == 5
    assert count(stencil(shape, box(2)), partition) == 9
    assert count(stencil(shape, cross(2, reach=2)), partition) <= 11  # 9 crosses of this size do not tile the plane


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 4, 5), (6, 5, 4), (12, 11, 13)], ids=str)
def test_stencils_in_space(shape):
    assert count(stencil(shape, cross(3)), "columns") == 7
    assert count(stencil(shape, box(3)), "columns") == 27


def test_stencils_that_look_one_way():
    upwind = [(0, 0), (-1, 0), (-2, 0), (0, -1), (0, -2)]
    assert count(stencil((21, 23), upwind), "columns") == 5
    assert count(stencil((21, 23), upwind), "rows") == 5


def test_stencils_on_periodic_grids():
    assert count(stencil((15, 20), cross(2), periodic=True), "columns") == 5
    assert count(stencil((12, 15), box(2), periodic=True), "columns") == 9
    assert_valid(coloring(stencil((11, 13), cross(2), periodic=True), "columns"))
    assert count(stencil((103, 107), cross(2), periodic=True), "columns") <= 8  # 5 inside, and a seam


def test_diagonals_that_run_through_the_edges_of_the_grid():
    n, k = 400, 20
    dense = sum(np.eye(n, k=d) for d in (0, 1, -1, k, -k))
    assert count(Pattern.from_dense(dense), "columns") <= 7


@pytest.mark.parametrize("k", [0, 1, 5, 10])
def test_bands(k):
    for partition in ("columns", "rows", "auto"):
        assert count(band(50, k), partition) == 2 * k + 1
    lower = stencil((50,), [(-d,) for d in range(k + 1)])
    assert count(lower, "columns") == k + 1


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_star_colorings_of_bands(k):
    # 2k + 1 colors are necessary from n = 3k + 1 on: Coleman, More, "Estimation of sparse Hessian matrices and graph
    # coloring problems", Mathematical Programming 28 (1984), pp. 243-270.
    assert count(band(60, k), "symmetric") == 2 * k + 1
    assert coloring(band(200, k), "symmetric").lower_bound == k + 1


@pytest.mark.parametrize("n", [4, 5, 30, 3000])
def test_arrows(n):
    assert count(arrow(n), "both") == count(arrow(n), "auto") == 3
    assert count(arrow(n), "symmetric") == coloring(arrow(n), "symmetric").lower_bound == 2
    assert count(arrow(n), "columns") == count(arrow(n), "rows") == n
    assert coloring(arrow(n)).partition == "both"


def test_the_direction_with_fewer_colors():
    dense = np.eye(6)
    dense[2] = 1
    assert coloring(Pattern.from_dense(dense)).partition == "rows"
    assert coloring(Pattern.from_dense(dense.T)).partition == "columns"
    assert coloring(Pattern.from_dense(np.eye(6))).partition == "columns"
    assert count(Pattern.from_dense(dense), "auto") == count(Pattern.from_dense(dense.T), "auto") == 2
    assert count(Pattern.from_dense(dense), "both") == count(Pattern.from_dense(dense.T), "both") == 2
    triangle = Pattern.from_dense([[1, 1, 0], [0, 1, 1], [1, 0, 1]])  # 3 colors either way, though 2 are the bound
    assert coloring(triangle).partition == "columns" and coloring(triangle).num_colors == 3
    # The lower bound for rows is 2 colors, and for columns 3. But rows take 3 as well, since any two rows share a
    # column.
    tie = Pattern.from_dense([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0]])
    assert coloring(tie, "rows").lower_bound == 2 and coloring(tie, "rows").num_colors == 3
    assert coloring(tie).partition == "columns" and coloring(tie).num_colors == 3


def test_dense_rows_and_columns_beside_a_stencil():
    grid = stencil((12, 10), cross(2))
    dense = grid.todense()
    dense[[7, 50]] = True
    assert count(Pattern.from_dense(dense), "auto") == 7
    dense[:, [3, 90]] = True
    assert count(Pattern.from_dense(dense), "auto") == 9
    assert_valid(coloring(Pattern.from_dense(dense)))


def fewest_star_colors(adjacent):
    # Search all colorings; a branch is cut where a path of four vertices has only two colors.
    n = len(adjacent)

    def is_star(colors):
        v = len(colors) - 1
        old = [np.flatnonzero(adjacent[u, : v + 1]) for u in range(v + 1)]
        paths = ((a, b, c, d) for b in range(v + 1) for c in old[b] for a in old[b] if a != c for d in old[c] if d != b)
        clash = any(colors[u] == colors[w] for u in range(v + 1) for w in old[u])
        return not clash and not any(colors[a] == colors[c] and colors[b] == colors[d] for a, b, c, d in paths)

    def extends(colors, limit):
        if len(colors) == n:
            return True
        tries = ([*colors, c] for c in range(min(limit, max(colors, default=-1) + 2)))
        return any(is_star(t) and extends(t, limit) for t in tries)

    return next(limit for limit in range(1, n + 1) if extends([], limit))


@pytest.mark.parametrize("seed", range(6))
def test_star_colorings_beside_all_colorings(seed):
    pattern = random_pattern(7, 7, 0.25, seed, symmetric=True)
    dense = pattern.todense() | np.eye(7, dtype=bool)
    pattern = Pattern.from_dense(dense)
    c = coloring(pattern, "symmetric")
    fewest = fewest_star_colors(dense & ~np.eye(7, dtype=bool))
    assert c.lower_bound <= fewest <= c.num_colors <= fewest + 1
    k = 2
    assert fewest_star_colors(band(3 * k + 1, k).todense() & ~np.eye(3 * k + 1, dtype=bool)) == 2 * k + 1


@pytest.mark.parametrize("partition", ["rows", "columns", "both"])
def test_lower_bounds_beside_all_colorings(partition):
    for seed in range(4):
        pattern = random_pattern(3, 3, 0.5, seed)
        size = 6 if partition == "both" else 3
        fewest = 9
        for colors in itertools.product(range(-1, 3), repeat=size):
            shifted = np.array(colors)
            if partition == "both":
                shifted[3:][shifted[3:] >= 0] += shifted[:3].max(initial=-1) + 1
            try:
                c = Coloring(pattern, partition, shifted)
            except ValueError:
                continue
            fewest = min(fewest, len(set(c.colors.tolist()) - {-1}))
        c = coloring(pattern, partition)
        assert c.lower_bound <= fewest <= c.num_colors


# Large patterns


@pytest.mark.parametrize("num_lines", [5, 10**7])  # counted, and sorted
def test_entries_that_are_alone_in_their_color(num_lines):
    rng = np.random.default_rng(0)
    lines, colors = rng.integers(0, 5, 40), rng.integers(-1, 8, 40)
    same = (lines[:, None] == lines) & (colors[:, None] == colors)
    found = alone(lines, colors, num_lines, 8)
    np.testing.assert_array_equal(found, (same.sum(1) == 1) & (colors >= 0))
    assert found.any() and not found.all()


def test_a_million_points():
    i = np.arange(10**6)
    x, y = i % 1000, i // 1000
    cols = [i, i[x > 0] - 1, i[x < 999] + 1, i[y > 0] - 1000, i[y < 999] + 1000]
    rows = [i, i[x > 0], i[x < 999], i[y > 0], i[y < 999]]
    pattern = Pattern.from_coo(np.concatenate(rows), np.concatenate(cols), (10**6, 10**6))
    start = time.perf_counter()
    assert count(pattern, "columns") == 5
    assert time.perf_counter() - start < 3  # a tenth of it is usual


def test_a_star_coloring_of_ten_thousand():
    ids = np.random.default_rng(0).integers(0, 10**4, (2, 2 * 10**4))
    pattern = Pattern.from_coo(*np.concatenate([ids, ids[::-1]], axis=1), (10**4, 10**4))
    start = time.perf_counter()
    c = coloring(pattern, "symmetric")
    assert time.perf_counter() - start < 10  # a fiftieth of it is usual
    assert c.num_colors < coloring(pattern, "columns").num_colors


def test_a_row_that_is_half_full_does_not_take_forever(monkeypatch):
    n = 10**5
    i = np.arange(n)
    pattern = Pattern.from_coo(np.concatenate([i, 0 * i[::2]]), np.concatenate([i, i[::2]]), (n, n))
    assert count(pattern, "auto") == 2
    monkeypatch.setattr(_greedy, "columns", None)  # it would go over the columns once for each color
    c = coloring(pattern, "columns")
    assert c.lower_bound == n // 2 and c.num_colors <= n // 2 + 1


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_without_the_compiled_loop(case, monkeypatch):
    assert _greedy._compiled() is not None
    patterns = [random_pattern(*case, seed=seed) for seed in range(3)]
    usual = [count(p, "columns") for p in patterns]
    monkeypatch.setattr(_greedy, "_compiled", lambda: None)
    for pattern, few in zip(patterns, usual, strict=True):
        c = coloring(pattern, "columns")
        assert_valid(c)
        assert c.num_colors <= few + 3


# Colorings that come from elsewhere


def test_colors_of_ones_own():
    pattern = band(4, 1)
    c = Coloring(pattern, "columns", np.array([0, 1, 2, 0], np.int64))
    assert_valid(c)
    assert c == coloring(pattern, "columns") or c.num_colors == 3
    assert_valid(Coloring(arrow(4), "both", [0, -1, -1, -1, 1, 2, 2, 2]))
    assert Coloring(arrow(4), "both", [0, -1, -1, -1, 1, 2, 2, 2]).row_colors.tolist() == [0, -1, -1, -1]
    assert Coloring(arrow(4), "both", [0, -1, -1, -1, 1, 2, 2, 2]).column_colors.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "partition, colors, words",
    [
        ("columns", [0, 1, 0, 2], ["entry (1, 0)", "columns 0 and 2 of color 0 both have an entry in row 1"]),
        ("rows", [0, 1, 2, 1], ["rows 1 and 3 of color 1 both have an entry in column 2"]),
        ("columns", [0, 1, 2, -1], ["column 3 has no color"]),
        (
            "symmetric",
            [0, 1, 0, 1],
            ["columns 0 and 2 of color 0 both have an entry in row 1", "columns 1 and 3 of color 1"],
        ),
        (
            "both",
            [0, 1, -1, -1, 2, 3, 4, 3],
            ["columns 1 and 3 of color 1 both have an entry in row 2", "row 2 has no color"],
        ),
        ("columns", [0, 1, 2], ["(4,)", "(3,)", "every column"]),
        ("both", [0, 1, 2, 3], ["(8,)", "(4,)"]),
        ("rows", [[0, 1, 2, 3]], ["(4,)", "(1, 4)"]),
        ("columns", [0, 1, 2, 4], ["from -1 (no color) to 3", "0 to 4"]),
        ("columns", [0, 1, -2, 3], ["from -1", "-2 to 3"]),
        (
            "both",
            [0, 1, 2, 3, 0, 1, 2, 3],
            ["after the last color of rows", "got 0 for a column and 3 for a row", "add 4"],
        ),
        ("both", [0, 1, -1, -1, 1, 2, 3, 4], ["got 1 for a column and 1 for a row"]),
        ("diagonal", [0, 1, 2, 3], ["'diagonal'", "'rows', 'columns', 'both', 'symmetric'"]),
        ("auto", [0, 1, 2, 3], ["'auto'", "'rows', 'columns'"]),
    ],
    ids=str,
)
def test_colors_that_are_no_coloring(partition, colors, words):
    with pytest.raises(ValueError) as caught:
        Coloring(band(4, 1), partition, colors)
    message(caught, "Coloring(", *words)


def test_other_arguments_that_do_not_fit():
    with pytest.raises(TypeError) as caught:
        Coloring(band(3, 1), "columns", [0.0, 1.0, 2.0])
    message(caught, "Coloring(colors=", "float64")
    for call, name in ((coloring, "coloring"), (lambda p: Coloring(p, "rows", []), "Coloring")):
        with pytest.raises(TypeError) as caught:
            call(np.eye(3))
        message(caught, f"{name}(pattern=", "ndarray", "Pattern.from_dense")
    with pytest.raises(ValueError) as caught:
        coloring(band(3, 1), "diagonal")
    message(caught, "coloring(partition='diagonal'", "'auto', 'rows', 'columns', 'both', 'symmetric'")
    with pytest.raises(ValueError) as caught:
        coloring(Pattern.from_dense(np.ones((3, 4))), "symmetric")
    message(caught, "coloring(partition='symmetric'", "(3, 4)", "square")
    with pytest.raises(ValueError) as caught:
        coloring(Pattern.from_dense(np.tri(3) + np.eye(3)[::-1]), "symmetric")
    message(caught, "coloring(partition='symmetric'", "entry (1, 0) without (0, 1)")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_shapes_that_other_seeds_would_give(partition):
    c = coloring(arrow(5), partition)
    B = compressed_by(values_on(c.pattern), c)
    if partition == "both":
        with pytest.raises(ValueError) as caught:
            recover(B[0], c)
        message(caught, "recover(compressed=", "pair")
        for wrong, name in (((B[1], B[1]), "compressed[0]"), ((B[0], B[0]), "compressed[1]")):
            with pytest.raises(ValueError) as caught:
                recover(wrong, c)
            message(caught, f"recover({name}=", "another coloring")
        return
    for wrong in (B[1:], B[:, 1:], B[0]):
        with pytest.raises(ValueError) as caught:
            recover(wrong, c)
        message(caught, "recover(compressed=", str(wrong.shape), "another coloring")


# As values


@pytest.mark.parametrize("partition", PARTITIONS)
def test_saved_loaded_pickled_and_through_jit(partition, tmp_path):
    c = coloring(arrow(6), partition)
    c.save(tmp_path / "c")
    for other in (Coloring.load(tmp_path / "c"), pickle.loads(pickle.dumps(c)), jax.jit(lambda c: c)(c)):
        assert other == c and hash(other) == hash(c) and repr(other) == repr(c)
        assert (other.num_colors, other.num_row_colors, other.lower_bound) == (
            c.num_colors,
            c.num_row_colors,
            c.lower_bound,
        )
    assert_valid(Coloring.load(tmp_path / "c"))
    assert Coloring.load(tmp_path / "c") != coloring(arrow(7), partition)
    with pytest.raises(AttributeError):
        c.num_colors = 1
    with pytest.raises(ValueError, match="read-only"):
        c.colors[0] = 1


def test_a_file_of_another_kind_newer_or_damaged(tmp_path):
    path = tmp_path / "c"
    pattern = band(4, 1)
    pattern.save(path)
    with pytest.raises(ValueError) as caught:
        Coloring.load(path)
    message(caught, "Coloring.load(path=", "jacobia.coloring", "jacobia.pattern")
    coloring(pattern).save(path)
    with pytest.raises(ValueError) as caught:
        Pattern.load(path)
    message(caught, "Pattern.load(path=", "jacobia.coloring")
    arrays = dict(np.load(path))
    for change, words in (
        ({"version": 2}, ["version 1", "version 2"]),
        ({"colors": np.array([0, 1, 0, 1])}, ["damaged", "columns 0 and 2"]),
        ({"partition": np.array("diagonal")}, ["damaged", "'diagonal'"]),
        ({"rows": arrays["rows"][1:]}, ["damaged", "9 and 10"]),
    ):
        with open(path, "wb") as file:
            np.savez(file, **(arrays | change))
        with pytest.raises(ValueError) as caught:
            Coloring.load(path)
        message(caught, "Coloring.load(path=", *words)


def test_repr():
    assert repr(coloring(band(9, 1), "columns")) == (
        "Coloring(partition='columns', num_colors=3, lower_bound=3, shape=(9, 9))"
    )
    assert "num_row_colors=1" in repr(coloring(arrow(5), "both"))
    leaves, tree = jax.tree.flatten(coloring(arrow(5), "both"))
    assert len(leaves) == 4
    assert "num_colors=3" in repr(jax.tree.unflatten(tree, [object()] * 4))
