"""Displays of a view: one line, HTML, treescope. Nothing is computed for them."""

import html
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian
from jacobia._words import array_word, counted, readable

W = jnp.arange(12.0).reshape(4, 3)


def tanh(x):
    return jnp.tanh(W @ x)


def cube(x):
    return jnp.sum(x**3) * x[0]


def at(f=tanh, n=3, **options):
    return jacobian(f, **options)(jnp.ones(n))


@pytest.fixture
def uncounted():
    """A view whose kernel calls are compared: those before and after a display are as many."""
    seen = []

    def look(J):
        before = J.stats
        shown = repr(J), J._repr_html_()
        assert J.stats == before
        seen.append(J)
        return shown

    yield look
    assert seen


def test_words():
    assert counted(1, "pushforwards") == "1 pushforward" and counted(2, "rows") == "2 rows"
    assert counted(1, "entries", ",") == "1 entry" and counted(1000, "entries", ",") == "1,000 entries"
    assert counted(1, "passes") == "1 pass" and counted(0, "passes") == "0 passes"
    dtypes = {"f32": np.float32, "f64": float, "bf16": jnp.bfloat16, "c64": np.complex64, "i32": np.int32,
              "u8": np.uint8, "bool": bool, "f8_e4m3fn": jnp.float8_e4m3fn}  # fmt: skip
    assert [array_word(dtype, (2, 3)) for dtype in dtypes.values()] == [f"{name}[2,3]" for name in dtypes]
    assert array_word(np.float32, ()) == "f32[]" and array_word(np.float32, (7,)) == "f32[7]"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (9408, "9.4 KB"), (10**6, "1.0 MB"), (2**31, "2.1 GB"),
     (4 * 10**12, "4.0 TB")],
)  # fmt: skip
def test_bytes_for_people(nbytes, text):
    assert readable(nbytes) == text and readable(np.int64(nbytes)) == text


def test_a_view_on_one_line(uncounted):
    J = jacobian(lambda x: jnp.tanh(jnp.ones((1000, 784)) @ x), mode="rev")(jnp.ones(784))
    assert uncounted(J)[0] == "Jacobian(f32[1000,784], nothing known, cpu:0)"
    J[:3]
    assert uncounted(J)[0] == "Jacobian(f32[1000,784], rows 3/1000 known, 9.4 KB, cpu:0)"
    J[1:4]
    assert uncounted(J)[0] == "Jacobian(f32[1000,784], rows 4/1000 known, 12.5 KB, cpu:0)"
    assert "\n" not in repr(J) and f"{J}" == str(J) == repr(J)
    J.clear()
    assert "nothing known" in repr(J)


def read(*keys, **options):
    J = at(**options)
    for key in keys:
        J[key]
    return J


@pytest.mark.parametrize(
    ("J", "known"),
    [
        (lambda: read(1), "rows 1/4 known"),
        (lambda: read((slice(None), 1)), "columns 1/3 known"),
        (lambda: read(1, (slice(None), 1)), "rows 1/4, columns 1/3 known"),
        (lambda: read(1).T, "columns 1/4 known"),
        (lambda: read((slice(None), 1)).matrix, "columns 1/3 known"),
        (lambda: read(...), "all known"),
        (lambda: read(...).T, "all known"),
    ],
)
def test_what_is_known(J, known, uncounted):
    assert f", {known}, " in uncounted(J())[0]


def test_what_is_known_of_nonzeros_and_hessians(uncounted):
    J = at(lambda x: x[1:] * x[:-1], n=9)
    J.nonzeros()
    assert uncounted(J)[0] == "Jacobian(f32[8,9], all nonzeros known, 64 bytes, cpu:0)"
    H = hessian(cube)(jnp.ones(5))
    H[2]
    assert uncounted(H)[0] == "Hessian(f32[5,5], rows and columns 1/5 known, 20 bytes, cpu:0)"
    H.diagonal()
    assert "rows and columns 1/5, diagonal known, 40 bytes" in uncounted(H)[0]


def test_an_off_diagonal_block_that_its_mirror_knows(uncounted, compiles):
    H = hessian(lambda p: jnp.sum(p["a"]) ** 2 * jnp.sum(p["b"] ** 3))({"a": jnp.ones(3), "b": jnp.ones(4)})
    H["a"]["b"][...]
    before = compiles.count
    assert uncounted(H["b"]["a"])[0].startswith("Hessian(f32[4,3], all known, ")
    assert compiles.count == before  # no transpose was computed


def test_what_is_known_of_a_batch(uncounted):
    H = hessian(jax.vmap(cube), batch_axis=0)(jnp.ones((8, 5)))
    H[3, 1]
    assert "Hessian(f32[8,5,5], lines of 1/8 samples known, 20 bytes" in uncounted(H)[0]
    H[:, 1]
    assert "rows and columns 1/5, lines of 1/8 samples known" in uncounted(H)[0]


def test_samples_with_rows_and_samples_with_columns_are_counted_together(uncounted):
    J = jacobian(jnp.tanh, batch_axis=0)(jnp.ones((20, 3)))
    J[1, 2], J[3, :, 1], J[1, 0]
    assert "lines of 2/20 samples known" in uncounted(J)[0]


def test_a_deleted_point(uncounted):
    x = jnp.ones(3) * 2
    J = jacobian(tanh)(x)
    J[2]
    x.delete()
    line, page = uncounted(J)
    assert line == "Jacobian(f32[4,3], rows 1/4 known, 12 bytes, point deleted)" and "point deleted" in page


def test_a_panel_tells_what_a_read_would_raise():
    x, closed = jnp.ones(3) * 2, jnp.ones(3) * 3
    deleted = jacobian(tanh)(x), jacobian(lambda x: x * closed)(jnp.ones(3))
    x.delete(), closed.delete()
    for J in (*deleted, jax.eval_shape(jacobian(tanh), jnp.ones(3)), jacobian(jnp.tanh, mode="waist")(jnp.ones(3))):
        with pytest.raises(ValueError) as error:
            J[...]
        assert f"<td>raises: {html.escape(str(error.value))}</td>" in J._repr_html_()


def test_what_is_known_of_a_deleted_point_can_be_read():
    x = jnp.ones(3) * 2
    J, K = jacobian(tanh)(x), jacobian(tanh)(x)
    J[...], K[:2], K[2:]
    x.delete()
    for view in (J, K):
        assert "raises" not in view._repr_html_() and view[...].shape == (4, 3)


def test_a_result_larger_than_the_limit_is_told_though_its_missing_rows_would_fit():
    J = jacobian(tanh, memory_limit=40)(jnp.ones(3))  # 4 rows of 12 bytes
    J[1], J[2]
    with pytest.raises(MemoryError) as error:
        J[...]
    assert J.explain().refused == str(error.value) and "<td>raises: " in J._repr_html_()
    assert not J.explain([0, 3]).refused


def test_names_that_raise_or_cannot_be_printed():
    class Model:
        def __call__(self, x):
            return jnp.sin(x)

        def __getattr__(self, name):
            raise RuntimeError(name)

    def named(x):
        return jnp.sin(x)

    named.__name__ = "a\x00\x1b\ud800\n<b>"
    assert 'jacobia-of">jacobian</span>' in jacobian(Model())(jnp.ones(3))._repr_html_()
    assert 'jacobia-of">jacobian(a????&lt;b&gt;)</span>' in jacobian(named)(jnp.ones(3))._repr_html_()


def test_what_does_not_fit_is_told():
    J = jacobian(lambda x: x**2, memory_limit=10_000)(jnp.ones(100))
    page = J._repr_html_()
    assert "<td>raises: " in page and "memory_limit=10.0 KB" in page


def test_a_display_makes_no_store():
    T = hessian(lambda p: sum(jnp.sum(v**3) for v in p.values()))({"a": jnp.ones(2), "b": jnp.ones(3)})
    repr(T["a"]["b"])
    assert not T["a"]["b"]._origin.stores


def test_a_deleted_row_is_not_known():
    J = at(mode="rev")
    J[0]
    J[2].delete()
    assert "rows 1/4 known" in repr(J)


def test_without_arrays():
    shown = []
    jax.jit(lambda x: shown.extend([repr(jacobian(tanh)(x)), jacobian(tanh)(x)._repr_html_()]))(jnp.ones(3))
    assert shown[0] == "Jacobian(f32[4,3], traced)" and "traced" in shown[1] and "<svg" not in shown[1]
    assert repr(at().real) == repr(at()) and repr(at().imag) == "Derived(f32[4,3])"


def test_a_view_of_shapes_explains_itself_and_refuses_to_compute(uncounted):
    J = jax.eval_shape(jacobian(tanh), jnp.ones(3))
    line, page = uncounted(J)
    assert line == "Jacobian(f32[4,3], a shape alone)" and "raises: J[...]: expected a view at arrays" in page
    assert J.shape == (4, 3) and J.pattern.nnz == 11 and "pushforwards" in str(J.explain())
    for read in (lambda: J[0], lambda: J[...], lambda: J @ np.ones(3, np.float32), J.nonzeros, lambda: J.value):
        with pytest.raises(ValueError, match=r"got one of jax\.eval_shape, in which args\[0\] is a shape alone"):
            read()


@pytest.mark.parametrize("read", [lambda J: J[...], lambda J: J.diagonal(), lambda J: J.nonzeros()[0]])
def test_a_deleted_result_takes_no_bytes(read, uncounted):
    J = jacobian(jnp.tanh)(jnp.ones(70))
    result = read(J)
    assert J.stats.nbytes == result.nbytes
    result.delete()
    assert J.stats.nbytes == 0 and uncounted(J)[0] == "Jacobian(f32[70,70], nothing known, cpu:0)"


def test_a_display_does_not_wait_for_a_read():
    J, asked, shown = at(), threading.Event(), []
    with J._origin.lock:
        thread = threading.Thread(target=lambda: (shown.extend([repr(J), J._repr_html_()]), asked.set()))
        thread.start()
        assert asked.wait(30)
    thread.join()
    assert shown[0] == "Jacobian(f32[4,3], being read by another thread, cpu:0)" and "<svg" not in shown[1]


def bands(page):
    return [
        tuple(float(x) for x in re.findall(r' (?:x|y|width|height)="([^"]+)"', rect))
        for rect in re.findall(r"<rect x[^>]+>", page)
    ]


def test_the_strips_show_what_is_known(uncounted):
    f = jnp.tanh
    J = jacobian(lambda x: f(jnp.ones((100, 50)) @ x))(jnp.ones(50))
    assert bands(uncounted(J)[1]) == []
    J[50:]
    ((x, y, width, height),) = bands(uncounted(J)[1])
    assert (x, y) == (0, 70) and (width, height) == (70, 70)
    ((x, y, width, height),) = bands(uncounted(J.T)[1])
    assert (x, y) == (100, 0) and (width, height) == (100, 100)
    J[:, 0]
    assert bands(uncounted(J)[1])[1] == (0, 0, 2, 140)  # a column is seen, however narrow
    J[...]
    assert bands(uncounted(J)[1]) == [(0, 0, 70, 140)]


def test_html_stands_alone_and_names_are_escaped(uncounted):
    def named(x):
        return tanh(x)

    named.__name__ = "<script>alert('&')</script>\ud800" + "x" * 30_000
    J = jacobian(named)(jnp.ones(3))
    page = uncounted(J)[1]
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"src=|href=|url\(|@import|http", page)
    assert page.count("<details>") == 1 and "pullbacks" in page and "--jp-" in page
    # Where styles are dropped, the plain text remains.
    assert "<pre class='jacobia-text'>Jacobian(f32[4,3]" in page and "style='display:none'" in page


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_html_stays_small(count, uncounted):
    J = jacobian(lambda x: jnp.tanh(jnp.arange(float(count)) * x.sum()))(jnp.ones(40))
    J[::2]
    J[:, ::3]
    line, page = uncounted(J)
    assert len(page.encode()) <= 20_000 and len(line) < 120


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_empty(shape, uncounted):
    J = jacobian(lambda x: jnp.ones(shape) @ x)(jnp.ones(shape[1]))
    assert "empty" in uncounted(J)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy.char, which treescope loads
def test_treescope():
    treescope = pytest.importorskip("treescope")
    J = at()
    assert treescope.render_to_text({"a": J}).strip() == f"{{'a': {J!r}}}" and J.stats.kernel_calls == 0
    page = treescope.render_to_html(J, compressed=False)
    assert "iframe" in page and "jacobia-view" in page and J.stats.kernel_calls == 0
