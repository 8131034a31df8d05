"""Patterns, compared with dense NumPy arrays: made from anything, sorted, saved and loaded, displayed.

Shapes: M rows, N columns.
"""

import copy
import os
import pickle
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

from jacobia._sparse.pattern import Pattern

SHAPES = [(0, 0), (0, 4), (4, 0), (1, 1), (1, 5), (5, 1), (3, 5), (5, 3), (6, 6)]


def random_dense(shape, density=0.4, seed=0):
    return np.random.default_rng(seed).random(shape) < density


def band(m, n, offsets=(-1, 0, 1)):
    return sum(np.eye(m, n, k, dtype=bool) for k in offsets) > 0


def message(caught, *words):
    """The message has the form of the contract and names these words."""
    text = str(caught.value)
    assert re.search(r"\w+\(.+\).*: expected .+, got .+\. \S", text, re.DOTALL), text
    for word in words:
        assert word in text, (word, text)


def assert_is(pattern, dense):
    assert pattern.shape == dense.shape
    rows, cols = np.nonzero(dense)
    for ids, expected in ((pattern.rows, rows), (pattern.cols, cols)):
        assert isinstance(ids, np.ndarray) and ids.dtype == np.int32 and not ids.flags.writeable
        np.testing.assert_array_equal(ids, expected)
    assert pattern.nnz == dense.sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_from_everything_and_back(shape):
    dense = random_dense(shape)
    rows, cols = np.nonzero(dense)
    patterns = [
        Pattern.from_dense(dense),
        Pattern.from_dense(jnp.asarray(dense * 2.0)),
        Pattern.from_coo(rows, cols, shape),
        Pattern(rows, cols, shape),
        Pattern.from_scipy(scipy.sparse.csr_array(dense)),
        Pattern.from_scipy(scipy.sparse.coo_matrix(dense)),
        Pattern.from_bcoo(sparse.BCOO((jnp.asarray(rows * 0.0), jnp.asarray(np.argwhere(dense))), shape=shape)),
    ]
    for pattern in patterns:
        assert_is(pattern, dense)
        assert pattern == patterns[0] and hash(pattern) == hash(patterns[0])
        np.testing.assert_array_equal(pattern.todense(), dense)
        np.testing.assert_array_equal(pattern.indptr, np.concatenate([[0], np.cumsum(dense.sum(1))]))
        assert pattern.density == (dense.mean() if dense.size else 0)
        assert_is(pattern.T, dense.T)
        bcoo = pattern.to_bcoo()
        assert bcoo.shape == shape and bcoo.indices_sorted and bcoo.unique_indices
        np.testing.assert_array_equal(bcoo.indices, np.argwhere(dense))
        np.testing.assert_array_equal(bcoo.data, np.ones(pattern.nnz))
        for format in ("csr", "csc", "coo", "lil") if 0 not in shape else ("csr",):
            out = pattern.to_scipy(format)
            assert out.format == format and out.dtype == bool
            np.testing.assert_array_equal(out.toarray(), dense)


def test_any_order_and_duplicates():
    rows, cols = [3, 0, 3, 2, 0, 3], [1, 4, 0, 2, 4, 1]
    dense = np.zeros((4, 5), bool)
    dense[rows, cols] = True
    for integer in (np.int8, np.uint8, np.int32, np.int64, np.uint64):
        assert_is(Pattern.from_coo(np.array(rows, integer), np.array(cols, integer), (4, 5)), dense)
    assert_is(Pattern.from_coo(rows, cols, (np.int64(4), 5)), dense)


def test_large_numbers_do_not_overflow():
    n = 2**31 - 1
    pattern = Pattern.from_coo([n - 1, n - 2, n - 1], [n - 2, n - 1, 0], (n, n))
    assert pattern.rows.tolist() == [n - 2, n - 1, n - 1] and pattern.cols.tolist() == [n - 1, 0, n - 2]


def test_what_is_stored_counts_even_if_it_is_zero():
    ids = (np.array([0, 1, 1, 1]), np.array([1, 0, 0, 2]))
    stored = scipy.sparse.coo_array((np.array([0.0, 1.0, 2.0, 0.0]), ids), shape=(2, 3))
    dense = np.array([[0, 1, 0], [1, 0, 1]], bool)
    assert_is(Pattern.from_scipy(stored), dense)
    padded = sparse.BCOO((jnp.zeros(4), jnp.array([[0, 1], [1, 0], [1, 2], [2, 3]])), shape=(2, 3))
    assert_is(Pattern.from_bcoo(padded), dense)
    assert_is(Pattern.from_dense(np.array([[np.nan, 0.0, -0.0]])), np.array([[1, 0, 0]], bool))


def test_immutable_and_apart_from_what_it_was_made_of():
    rows = np.array([0, 1], np.int32)
    pattern = Pattern.from_coo(rows, rows, (2, 2))
    rows[:] = 0
    assert_is(pattern, np.eye(2, dtype=bool))
    with pytest.raises(ValueError, match="read-only"):
        pattern.rows[0] = 1
    with pytest.raises(AttributeError):
        pattern.shape = (3, 3)
    out = pattern.to_scipy()
    out.indices[:] = 0
    out.indptr[:] = 0
    assert_is(pattern, np.eye(2, dtype=bool))
    assert pattern.indptr.tolist() == [0, 1, 2]


def test_equality_is_that_of_the_content():
    eye = Pattern.from_dense(np.eye(3))
    assert eye == Pattern.from_coo([2, 1, 0], [2, 1, 0], (3, 3))
    others = [Pattern.from_dense(np.eye(3, 4)), Pattern.from_dense(band(3, 3)), Pattern.from_dense(np.eye(3)[::-1])]
    for other in [*others, "eye", None]:
        assert eye != other
    assert len({eye, *others, Pattern.from_dense(np.eye(3))}) == 4


def test_copies_and_pickles():
    pattern = Pattern.from_dense(band(4, 6))
    for other in (copy.copy(pattern), copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        assert_is(other, band(4, 6))
        assert other == pattern and hash(other) == hash(pattern)


def test_a_pattern_is_an_argument_of_jit():
    traces = []

    @jax.jit
    def scatter(pattern, values):
        traces.append(repr(pattern))
        return jnp.zeros(pattern.shape).at[pattern.rows, pattern.cols].set(values), pattern

    for seed in range(2):
        dense = np.random.default_rng(seed).permutation(band(4, 6))
        pattern = Pattern.from_dense(dense)
        out, same = scatter(pattern, jnp.ones(pattern.nnz))
        np.testing.assert_array_equal(out, dense)
        assert same == pattern and same.T == pattern.T and hash(same) == hash(pattern)
        assert repr(same) == repr(pattern)
    assert traces == ["Pattern(shape=(4, 6), traced)"]  # another pattern of as many entries: no second trace
    leaves, tree = jax.tree.flatten(pattern)
    assert len(leaves) == 2
    assert "traced" in repr(jax.tree.unflatten(tree, [object(), None]))


def test_to_bcoo_inside_jit():
    pattern = Pattern.from_dense(band(4, 6))
    out = jax.jit(lambda p: p.to_bcoo() @ jnp.arange(6.0))(pattern)
    np.testing.assert_allclose(out, band(4, 6) @ np.arange(6.0))


# Files


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4, 6)], ids=str)
@pytest.mark.parametrize("name", ["pattern", "a.npz"])
def test_saved_and_loaded(shape, name, tmp_path):
    pattern = Pattern.from_dense(random_dense(shape))
    pattern.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert Pattern.load(tmp_path / name) == pattern
    assert_is(Pattern.load(str(tmp_path / name)), random_dense(shape))


def saved(path, **changes):
    arrays = {"format": "jacobia.pattern", "version": 1, "rows": np.arange(3), "cols": np.arange(3), "shape": [3, 3]}
    with open(path, "wb") as file:
        np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not None})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format": None}, ["jacobia.pattern", "no format"]),
        ({"format": "jacobia.coloring"}, ["jacobia.pattern", "jacobia.coloring"]),
        ({"version": 2}, ["version 1", "version 2", "newer"]),
        ({"version": None}, ["damaged", "version"]),
        ({"cols": None}, ["damaged", "cols"]),
        ({"cols": np.arange(2)}, ["damaged", "3 and 2"]),
        ({"cols": np.arange(3) + 1}, ["damaged", "cols", "from 0 to 2"]),
        ({"cols": np.ones(3)}, ["damaged", "integers"]),
        ({"shape": [3]}, ["damaged", "shape"]),
        ({"shape": [-3, 3]}, ["damaged", "shape"]),
    ],
    ids=str,
)
def test_a_file_that_is_not_as_it_was_written(changes, words, tmp_path):
    saved(tmp_path / "p")
    assert Pattern.load(tmp_path / "p") == Pattern.from_dense(np.eye(3))
    saved(tmp_path / "p", **changes)
    with pytest.raises(ValueError) as caught:
        Pattern.load(tmp_path / "p")
    message(caught, "Pattern.load(path=", *words)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "p"
    with pytest.raises(FileNotFoundError):
        Pattern.load(path)
    for content in (b"", b"text\n", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            Pattern.load(path)
        message(caught, "Pattern.load(path=", "another kind", "Pattern.save")
    Pattern.from_dense(random_dense((30, 30))).save(path)
    whole = path.read_bytes()
    half = len(whole) // 2
    for content in (whole[:half], whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]):
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            Pattern.load(path)
        message(caught, "Pattern.load(path=", "damaged")


# Errors


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Pattern.from_coo([0, 1], [0], (2, 2)), ValueError, ["from_coo(rows=", "2 and 1"]),
        (lambda: Pattern.from_coo([[0]], [0], (2, 2)), ValueError, ["from_coo(rows=", "(1, 1)"]),
        (lambda: Pattern.from_coo([0], [2], (2, 2)), ValueError, ["from_coo(cols=", "from 0 to 1", "got 2"]),
        (lambda: Pattern.from_coo([-1], [0], (2, 2)), ValueError, ["from_coo(rows=", "from 0 to 1", "got -1"]),
        (lambda: Pattern.from_coo([0], [0], (1, 0)), ValueError, ["from_coo(cols=", "got 0"]),
        (lambda: Pattern.from_coo([0.0], [0], (2, 2)), TypeError, ["from_coo(rows=", "float64"]),
        (lambda: Pattern.from_coo([0], [True], (2, 2)), TypeError, ["from_coo(cols=", "bool", "from_dense"]),
        (lambda: Pattern.from_coo([0], [0], (2,)), ValueError, ["from_coo(shape=", "(2,)"]),
        (lambda: Pattern.from_coo([0], [0], 2), ValueError, ["from_coo(shape=", "two lengths"]),
        (lambda: Pattern.from_coo([0], [0], (2.0, 2)), ValueError, ["from_coo(shape=", "(2.0, 2)"]),
        (lambda: Pattern.from_coo([0], [0], (2**31, 2)), ValueError, ["from_coo(shape=", str(2**31 - 1)]),
        (lambda: Pattern.from_dense(np.ones(3)), ValueError, ["from_dense(array=", "(3,)"]),
        (lambda: Pattern.from_scipy(np.ones((2, 2))), TypeError, ["from_scipy(matrix=", "ndarray", "from_dense"]),
        (lambda: Pattern.from_bcoo(np.ones((2, 2))), TypeError, ["from_bcoo(bcoo=", "ndarray", "from_dense"]),
        (
            lambda: Pattern.from_scipy(scipy.sparse.coo_array(np.ones(3))),
            ValueError,
            ["from_scipy(matrix=", "(3,)"],
        ),
        (
            lambda: Pattern.from_bcoo(sparse.BCOO((jnp.ones((2, 1)), jnp.zeros((2, 1, 1), int)), shape=(2, 2))),
            ValueError,
            ["from_bcoo(bcoo=", "1 batch"],
        ),
        (lambda: Pattern.from_dense(np.eye(2)).to_scipy("csx"), ValueError, ["to_scipy(format=", "'csx'", "csr"]),
    ],
    ids=lambda v: "call" if callable(v) and not isinstance(v, type) else None,
)
def test_errors_say_what_was_expected(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message(caught, "Pattern.", *words)


# Pictures


def picture(pattern, screen=(80, 24)):
    """The dots of `print(pattern)` on such a screen, as booleans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.get_terminal_size", lambda: os.terminal_size(screen))
        head, *lines = str(pattern).splitlines()
    assert head == repr(pattern) and len(lines) <= screen[1] - 3 and all(len(line) < screen[0] for line in lines)
    codes = np.array([[ord(c) - 0x2800 for c in line[1:-1]] for line in lines])
    order = np.array([[0, 3], [1, 4], [2, 5], [6, 7]])  # of the bits, in a character of 4 by 2 dots
    return (codes[:, None, :, None] >> order[None, :, None, :] & 1).reshape(4 * len(lines), -1).astype(bool)


@pytest.mark.parametrize("dense", [band(3, 4), band(2, 30), band(70, 70), band(80, 154), np.eye(1)], ids=np.shape)
def test_printed_entry_by_entry_where_the_screen_has_room(dense):
    dots = picture(Pattern.from_dense(dense))
    m, n = dense.shape
    np.testing.assert_array_equal(dots[:m, :n], dense != 0)
    assert not dots[m:].any() and not dots[:, n:].any() and dots.shape[0] < m + 4 and dots.shape[1] < n + 2


def test_printed_on_one_line_and_on_several():
    lines = str(Pattern.from_dense(np.eye(3))).splitlines()
    assert lines == ["Pattern(shape=(3, 3), nnz=3, density=0.333)", "[⠑⠄]"]
    lines = str(Pattern.from_dense(np.ones((9, 2)))).splitlines()
    assert lines[1:] == ["⎡⣿⎤", "⎢⣿⎥", "⎣⠉⎦"]
    assert "\n" not in repr(Pattern.from_dense(np.eye(3)))


@pytest.mark.parametrize("screen", [(80, 24), (120, 60), (20, 10), (4, 4)], ids=str)
def test_large_patterns_fill_the_screen(screen):
    n = 10**6
    dots = picture(Pattern.from_coo(np.arange(n), np.arange(n), (n, n)), screen)
    height, width = dots.shape
    on = np.argwhere(dots)
    assert len(on) >= min(height, width) - 3 and (on[:, 0] == on[:, 1]).all()  # the diagonal, as high as wide
    if screen == (80, 24):
        assert height == 4 * 21


def test_a_cell_with_one_entry_is_seen_and_long_matrices_are_squeezed():
    dots = picture(Pattern.from_coo([5], [70_000], (10, 100_000)))
    assert dots.sum() == 1 and dots[5].any() and dots.shape[0] == 12
    dots = picture(Pattern.from_coo([999], [0], (1000, 3)))
    assert dots.sum() == 1 and dots.shape[1] == 4 and not dots[:70].any()


@pytest.mark.parametrize("shape", [(0, 7), (7, 0), (0, 0)], ids=str)
def test_without_entries_one_line(shape):
    pattern = Pattern.from_coo([], [], shape)
    assert str(pattern) == repr(pattern) == f"Pattern(shape={shape}, nnz=0, density=0)"
    assert not picture(Pattern.from_coo([], [], (50, 50))).any()


def test_in_a_notebook():
    page = Pattern.from_dense(np.eye(9))._repr_html_()
    assert "Pattern(shape=(9, 9)" in page and "⎡⠑⢄⠀⠀⠀⎤<br>" in page


def test_spy():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    ax = Pattern.from_dense(band(3, 4)).spy()
    (image,) = ax.get_images()
    np.testing.assert_array_equal(np.asarray(image.get_array()) > 0, band(3, 4))
    assert image.get_extent() == [-0.5, 3.5, 2.5, -0.5]
    _, mine = pyplot.subplots()
    n = 10**5
    assert Pattern.from_coo(np.arange(n), np.arange(n), (n, n)).spy(mine, cmap="Blues") is mine
    (image,) = mine.get_images()
    assert image.get_cmap().name == "Blues" and max(image.get_array().shape) <= 256
    np.testing.assert_array_equal(np.asarray(image.get_array()) > 0, np.eye(len(image.get_array()), dtype=bool))
    for shape in ((0, 3), (3, 0), (2, 2), (1, 1000)):
        ax = Pattern.from_coo([], [], shape).spy()
        ax.figure.canvas.draw()
    pyplot.close("all")


def test_spy_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError) as caught:
        Pattern.from_dense(np.eye(2)).spy()
    message(caught, "Pattern.spy(", 'pip install "jacobia[plot]"')


def test_five_million_entries_are_no_matter_of_seconds():
    ids = np.random.default_rng(0).integers(0, 10**6, (2, 5 * 10**6), dtype=np.int32)
    start = time.perf_counter()
    pattern = Pattern.from_coo(*ids, (10**6, 10**6))
    made = time.perf_counter()
    str(pattern)
    assert made - start < 5 and time.perf_counter() - made < 2  # a tenth of it is usual
    key = pattern.rows.astype(np.int64) * 10**6 + pattern.cols
    assert np.all(np.diff(key) > 0)
