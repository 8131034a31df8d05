"""Plots: known entries are drawn, unknown entries are hatched, and nothing is computed unless requested."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import coloring, hessian, jacobian, sparsity_pattern
from jacobia._sparse import picture as _picture
from jacobia._view import plot as _plot

pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("agg")

W = jax.random.normal(jax.random.key(0), (6, 4))
X = jnp.linspace(-1, 1, 4)


def f(x):
    return jnp.tanh(W @ x) * jnp.where(jnp.arange(6) % 2, 1, -1)


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(J, **kwargs):
    """The entries of the first image, unknown ones NaN; nothing is computed."""
    before = J.stats.kernel_calls, J.stats.seeds_run
    ax = J.plot(**kwargs)
    ax.figure.canvas.draw()
    if not kwargs.get("compute"):
        assert (J.stats.kernel_calls, J.stats.seeds_run) == before
    image = ax.get_images()[0]
    assert image.norm.vmin == -image.norm.vmax
    return np.ma.filled(image.get_array().astype(float), np.nan), ax


def test_known_rows_and_columns_are_drawn_and_the_rest_is_hatched():
    J, full = jacobian(f)(X), jax.jacrev(f)(X)
    J[1:3], J[:, 2]
    values, ax = drawn(J)
    expected = np.full((6, 4), np.nan)
    expected[1:3], expected[:, 2] = full[1:3], full[:, 2]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert ax.patch.get_hatch() and "not known" in ax.get_xlabel()
    np.testing.assert_allclose(drawn(J.T)[0], expected.T, rtol=1e-5)


def test_all_of_it_where_asked_for():
    J, full = jacobian(f)(X), jax.jacrev(f)(X)
    assert np.isnan(drawn(J)[0]).all()
    values, ax = drawn(J, compute=True)
    np.testing.assert_allclose(values, full, rtol=1e-5)
    assert "not known" not in ax.get_xlabel()
    _, mine = pyplot.subplots()
    assert drawn(J, ax=mine, cmap="PiYG")[1] is mine and mine.get_images()[0].get_cmap().name == "PiYG"


def test_nonzeros_trees_and_axes():
    J = jacobian(lambda x: x[1:] * x[:-1])(jnp.arange(1.0, 6))
    J.nonzeros()
    np.testing.assert_allclose(drawn(J)[0], jax.jacrev(lambda x: x[1:] * x[:-1])(jnp.arange(1.0, 6)))
    J = jacobian(lambda p: jnp.outer(p["a"], p["b"]))({"a": X, "b": X[:3]})["a"]  # (4, 3, 4)
    J[2, 1]
    values, _ = drawn(J)
    assert values.shape == (12, 4) and np.isfinite(values).all(axis=1).nonzero()[0].tolist() == [7]


def test_samples():
    H = hessian(jax.vmap(lambda x: jnp.sum(x**3) * x[0]), batch_axis=0)(jnp.stack([X] * 8))
    H[1, 2]
    values, ax = drawn(H, sample=1)
    assert np.isfinite(values).all(axis=1).tolist() == [False, False, True, False] and "sample 1" in ax.get_xlabel()
    assert np.isnan(drawn(H, sample=0)[0]).all()
    np.testing.assert_allclose(drawn(H, sample=-2, compute=True)[0], H[6], rtol=1e-5)
    for sample in (None, 8, 1.5, True):
        with pytest.raises(ValueError, match=r"J.plot\(sample=.*one of the 8 samples.*J.plot\(sample=0\)"):
            H.plot(sample=sample)
    with pytest.raises(ValueError, match="without samples. Leave sample out"):
        jacobian(f)(X).plot(sample=0)


def test_large_ones_in_cells_with_the_largest_entry(monkeypatch):
    monkeypatch.setattr(_picture, "_CELLS", 10)
    A = np.random.default_rng(0).normal(size=(20, 10))

    def cells(rows):
        blocks = A[rows].reshape(len(rows) // 2, 2, 10).transpose(0, 2, 1)
        return np.take_along_axis(blocks, abs(blocks).argmax(-1)[..., None], -1)[..., 0]

    J = jacobian(lambda x: jnp.asarray(A) @ x, mode="rev")(jnp.ones(10))
    J[4:8]
    values, ax = drawn(J)
    assert values.shape == (10, 10) and "largest" in ax.get_xlabel()
    np.testing.assert_allclose(values[2:4], cells(np.arange(4, 8)), rtol=1e-6)
    assert np.isnan(np.delete(values, [2, 3], 0)).all()
    np.testing.assert_allclose(drawn(J, compute=True)[0], cells(np.arange(20)), rtol=1e-6)
    monkeypatch.setattr(_plot, "_AT_ONCE", 1)  # row by row: what is read together makes no difference
    J[:, 3]
    np.testing.assert_allclose(drawn(J)[0], cells(np.arange(20)), rtol=1e-6)


def test_a_million_entries_on_a_diagonal():
    J = jacobian(lambda x: x**2)(jnp.arange(1_000_000.0))
    J.nonzeros()
    values, _ = drawn(J)
    assert values.shape == (256, 256) and (np.diag(values) > 0).all() and np.count_nonzero(values) == 256


def test_nonzeros_that_are_known_need_no_matrix():
    J = jacobian(lambda x: x[1:] - x[:-1])(jnp.ones(1_000_000))  # all of it takes terabytes
    J.nonzeros()
    assert drawn(J)[0].shape == (256, 256)
    before = J.stats.kernel_calls
    drawn(J, compute=True)
    assert J.stats.kernel_calls == before
    new = jacobian(lambda x: x[1:] - x[:-1])(jnp.ones(1_000_000))
    assert np.isfinite(drawn(new, compute=True)[0]).all()


def test_infinities_nans_and_complex_numbers():
    J = jacobian(jnp.sqrt)(jnp.array([-1.0, 0.0, 4.0]))
    J[...]
    values, ax = drawn(J)
    assert (
        values[1, 1] == np.nanmax(values) == 0.25
        and "1 infinite, pink: 1 NaN" in ax.get_xlabel()
        and len(ax.get_images()) == 2
    )
    J = jacobian(lambda z: 3j * z, holomorphic=True)(jnp.ones(2) + 0j)
    values, ax = drawn(J, compute=True)
    np.testing.assert_allclose(values, 3 * np.eye(2))
    assert "magnitudes" in ax.get_xlabel()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (1, 30)], ids=str)
def test_any_shape(shape):
    J = jacobian(lambda x: jnp.ones(shape) @ x)(jnp.ones(shape[1]))
    assert drawn(J, compute=True)[0].size == max(1, np.prod(shape))


def test_dark_axes_get_maps_with_a_dark_middle():
    J = jacobian(f)(X)
    J[...]
    with pyplot.style.context("dark_background"):
        for ax in (J.plot(), J.pattern.spy()):
            image = ax.get_images()[0]
            assert sum(image.cmap(image.norm(0.0))[:3]) < 0.5
    for ax in (J.plot(), J.pattern.spy()):
        image = ax.get_images()[0]
        assert sum(image.cmap(image.norm(0.0))[:3]) > 2.5


def test_inside_a_transformation():
    with pytest.raises(TypeError, match=r"J.plot\(\): expected a view outside of jit"):
        jax.jit(lambda x: jacobian(f)(x).plot() and x)(X)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    J = jacobian(f)(X)
    for plot, name in ((J.plot, "J.plot"), (J.pattern.spy, "Pattern.spy"), (J.coloring.plot, "Coloring.plot")):
        with pytest.raises(ImportError) as error:
            plot()
        assert name in str(error.value) and 'pip install "jacobia[plot]"' in str(error.value)


def test_no_row_is_lost_between_pixels():
    J = jacobian(lambda x: jnp.sin(x).sum() * jnp.ones(1500), mode="rev")(jnp.ones(3))
    for k in (100, 101, 1499):
        J.clear()
        J[k]
        image = J.plot(aspect="auto").get_images()[0]
        image.figure.canvas.draw()
        size = image.axes.get_window_extent().height
        rows = (~np.ma.getmaskarray(image.get_array())).any(axis=1)
        assert rows.sum() == 1 and rows.size <= size, (rows.size, size)


def test_empty_patterns_have_no_entries_to_draw():
    pattern = sparsity_pattern(jnp.sin, jnp.ones(0))
    for ax in (coloring(pattern, "columns").plot(), pattern.spy()):
        assert not np.nansum(ax.get_images()[0].get_array())


@pytest.mark.parametrize("name", ["J.plot", "Pattern.spy", "Coloring.plot"])
def test_only_on_axes(name):
    J = jacobian(f)(X)
    plot = {"J.plot": J.plot, "Pattern.spy": J.pattern.spy, "Coloring.plot": J.coloring.plot}[name]
    with pytest.raises(TypeError, match=rf"{name}\(ax=\.\.\.\): expected the axes of matplotlib to draw on, got int"):
        plot(5)


def test_one_entry():
    J = jacobian(jnp.tanh)(jnp.ones(1))
    assert J.pattern.spy().get_xlabel() == "1 entry of 1 × 1"
    assert J.coloring.plot().get_xlabel().startswith("1 color for 1 column,")


# Colorings


def arrow(n):
    return sparsity_pattern(lambda x: x * x[0] + x.sum() * jnp.eye(n)[0], jnp.ones(n))


@pytest.mark.parametrize("partition", ["rows", "columns", "symmetric", "both"])
def test_each_entry_has_the_color_that_it_is_read_from(partition):
    pattern = arrow(7)
    colors = coloring(pattern, partition)
    ax = colors.plot()
    ax.figure.canvas.draw()
    image = np.ma.filled(ax.get_images()[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(np.isfinite(image), pattern.to_scipy().toarray() != 0)
    for i, j in zip(pattern.rows, pattern.cols, strict=True):
        rows, columns = colors.row_colors, colors.column_colors
        may = [] if rows is None else [rows[i]]
        may += [] if columns is None else [columns[j] + colors.num_row_colors * (partition == "both")]
        may += [columns[i]] if partition == "symmetric" else []
        assert image[i, j] in may
    assert f"{colors.num_colors} color" in ax.get_xlabel() and f"at least {colors.lower_bound}" in ax.get_xlabel()


def test_many_colors_and_many_rows():
    dense = coloring(sparsity_pattern(lambda x: jnp.ones((12, 12)) @ x, jnp.ones(12)), "columns")
    assert dense.num_colors == 12 and len(dense.plot().get_images()[0].get_cmap().colors) == 12
    long = coloring(sparsity_pattern(lambda x: x[1:] - x[:-1], jnp.ones(5000)), "columns")
    _, mine = pyplot.subplots()
    assert long.plot(mine) is mine and max(mine.get_images()[0].get_array().shape) <= 256
    coloring(sparsity_pattern(lambda x: 0 * x, jnp.ones(3))).plot().figure.canvas.draw()
