"""Blocks of a view, and arrays on disk: values, resuming, damage, and messages."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobia
from jacobia import hessian, jacobian
from jacobia._stream import saved as saved_module

pytestmark = pytest.mark.slow

pytest.importorskip("zarr", reason="zarr is not installed")

M, N = 30, 8
WEIGHTS = np.random.default_rng(0).normal(size=(M, N)).astype(np.float32)
X = np.linspace(0, 1, N, dtype=np.float32)


def f(x):
    return jnp.tanh(WEIGHTS @ x) * jnp.sum(x)


REFERENCE = np.asarray(jax.jit(jax.jacrev(f))(X))


def assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# Blocks


@pytest.mark.parametrize("block", [None, 1, 7, 64])
def test_blocks_are_the_view(block):
    J = jacobian(f)(X)
    parts = list(J.blocks(block=block))
    assert [p.start for p, _ in parts] == list(range(0, M, block or M))
    assert all(isinstance(a, jax.Array) for _, a in parts)
    assert_close(np.concatenate([a for _, a in parts]), REFERENCE)
    assert J.stats.rows_computed == 0  # nothing is remembered
    assert J.stats.pullbacks == M


def test_blocks_of_some_rows_and_on_the_host():
    J = jacobian(f)(X)
    for rows in (slice(4, 19), range(4, 19), slice(4, -11)):
        parts = list(J.blocks(rows, block=4, offload="host"))
        assert [(p.start, p.stop) for p, _ in parts] == [(4, 8), (8, 12), (12, 16), (16, 19)]
        assert all(type(a) is np.ndarray for _, a in parts)
        assert_close(np.concatenate([a for _, a in parts]), REFERENCE[4:19])


VIEWS = {
    "transposed": (lambda: jacobian(f)(X).T, lambda: REFERENCE.T),
    "gradient": (
        lambda: jacobian(lambda x: jnp.sum(f(x) ** 2))(X),
        lambda: jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))(X),
    ),
    "transposed, most of the columns at once": (
        lambda: jacobian(lambda x: jnp.outer(f(x), x[:2]))(X).T,
        lambda: jax.jit(jax.jacrev(lambda x: jnp.outer(f(x), x[:2])))(X).T,
    ),
    "without inputs": (lambda: jacobian(lambda x: jnp.ones(4) * jnp.sum(x))(jnp.ones(0)), lambda: np.ones((4, 0))),
    "matrix": (lambda: jacobian(lambda x: f(x).reshape(5, 6))(X).matrix, lambda: REFERENCE),
    "several axes": (lambda: jacobian(lambda x: f(x).reshape(5, 6))(X), lambda: REFERENCE.reshape(5, 6, N)),
    "several axes, transposed": (
        lambda: jacobian(lambda x: f(x).reshape(5, 6))(X).T,
        lambda: REFERENCE.reshape(5, 6, N).T,
    ),
    "Hessian": (
        lambda: hessian(lambda x: jnp.sum(f(x) ** 2))(X),
        lambda: jax.jit(jax.hessian(lambda x: jnp.sum(f(x) ** 2)))(X),
    ),
    "samples": (
        lambda: jacobian(jax.vmap(f), batch_axis=0)(np.stack([X, 2 * X, -X])),
        lambda: jax.jit(jax.vmap(jax.jacrev(f)))(np.stack([X, 2 * X, -X])),
    ),
}


@pytest.mark.parametrize("name", list(VIEWS))
def test_blocks_go_along_the_first_axis(name, tmp_path):
    make, want = VIEWS[name]
    J, want = make(), np.asarray(want())
    assert_close(np.concatenate([a for _, a in J.blocks(block=2)]), want)
    assert_close(np.concatenate([a for _, a in J.blocks(block=max(1, len(want) - 1))]), want)
    assert_close(J.save(tmp_path / "J", block=2), want)


def test_blocks_of_what_is_known_are_not_computed_again():
    J = jacobian(f)(X)
    J[...]
    before = J.stats
    assert_close(np.concatenate([a for _, a in J.blocks(block=9)]), REFERENCE)
    assert J.stats == before


def test_blocks_fit_under_the_limit():
    J = jacobian(f, memory_limit=16 * N * 4 * 5)(X)
    assert {p.stop - p.start for p, _ in J.blocks()} == {5}


def test_progress(capsys):
    list(jacobian(f)(X).blocks(block=10, progress=True))
    assert "30/30" in capsys.readouterr().err


def test_what_has_no_blocks():
    J = jacobian(f)(X)
    with pytest.raises(TypeError, match=r"J.blocks\(rows=...\): expected a slice, or a range within 30, without gaps"):
        J.blocks([1, 5])
    with pytest.raises(ValueError, match=r"J.blocks\(block=...\): expected a positive int"):
        next(J.blocks(block=0))
    with pytest.raises(ValueError, match="expected None or 'host', got 'disk'"):
        next(J.blocks(offload="disk"))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: [a for _, a in jacobian(f)(x).blocks()])(X)
    with pytest.raises(ValueError, match="expected a view with axes"):
        jacobian(jnp.sin)(jnp.float32(1.0)).blocks()
    with pytest.raises(ValueError, match=r"an f with pullbacks, .*write J.T.blocks\(\)"):
        jacobian(f, mode="fwd")(X).blocks()


# Saved


@pytest.mark.parametrize("compression", [None, "zstd", "gzip", "blosc"])
def test_save_and_open(tmp_path, compression):
    S = jacobian(f)(X).save(tmp_path / "J", block=7, compression=compression)
    assert repr(S).endswith("shape=(30, 8), dtype=float32, complete)")
    again = jacobia.open(tmp_path / "J")
    assert (again.shape, again.dtype, again.ndim, again.size, len(again)) == ((M, N), np.float32, 2, M * N, M)
    assert_close(again, REFERENCE)


def test_keys_are_those_of_numpy(tmp_path):
    S = jacobian(f)(X).save(tmp_path / "J", block=7)
    whole = np.asarray(S)
    keys = [3, -1, np.s_[2:5], [5, 20, 7], np.s_[:, 3], np.s_[10:20, [1, 2]], np.s_[..., 0], (2, 3), whole > 1, None]
    keys += [np.s_[[1, 16], [2, 3]], np.s_[::-7], np.s_[0:0], np.s_[:, None, 2:4]]
    for key in keys:
        np.testing.assert_array_equal(S[key], whole[key])
    with pytest.raises(IndexError, match="out of bounds"):
        S[M]


def test_only_blocks_that_a_key_needs_are_read(tmp_path, monkeypatch):
    S, blocks, read = jacobian(f)(X).save(tmp_path / "J", block=7), [], saved_module.Saved.read
    monkeypatch.setattr(saved_module.Saved, "read", lambda self, k: blocks.append(k) or read(self, k))
    S[8:12]
    S[[0, 29]]
    assert blocks == [1, 0, 4]


@pytest.mark.parametrize("dtype", ["float16", "float64", np.float32])
def test_dtypes(tmp_path, dtype):
    S = jacobian(f)(X).save(tmp_path / "J", dtype=dtype)
    assert S.dtype == np.dtype(dtype)
    np.testing.assert_allclose(S, REFERENCE, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_zeros_and_nan_are_written(tmp_path, value):
    filled = np.full((N, N), value, np.float32)
    S = jacobian(lambda x: jnp.sum(filled * x, axis=1))(X).save(tmp_path / "J", block=2)
    np.testing.assert_array_equal(S, filled)
    assert not S.missing
    assert len(list((tmp_path / "J" / "c").glob("*/*"))) == 4


def test_a_save_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    whole = np.asarray(jacobian(f)(X).save(tmp_path / "whole", block=4))
    written = []

    def write(self, part, values, of=saved_module.Saved.write):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(part.start)
        of(self, part, values)

    with monkeypatch.context() as patch:
        patch.setattr(saved_module.Saved, "write", write)
        with pytest.raises(KeyboardInterrupt):
            jacobian(f)(X).save(tmp_path / "J", block=4)
    part = jacobia.open(tmp_path / "J")
    assert "3 of 8 blocks" in repr(part)
    np.testing.assert_array_equal(part[:12], whole[:12])
    with pytest.raises(ValueError, match=r"block 3, \[12:16\] .*missing"):
        part[13]
    J = jacobian(f)(X)
    np.testing.assert_array_equal(J.save(tmp_path / "J"), whole)
    assert J.stats.pullbacks == M - 12  # no finished block is computed again


def test_a_journal_cut_short_loses_the_last_block_alone(tmp_path):
    whole = np.asarray(jacobian(f)(X).save(tmp_path / "J", block=4))
    journal = tmp_path / "J" / "jacobia.journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    assert [p.start for p in jacobia.open(tmp_path / "J").missing] == [28]
    J = jacobian(f)(X)
    np.testing.assert_array_equal(J.save(tmp_path / "J"), whole)
    assert J.stats.pullbacks == 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_block_is_named_and_computed_again(tmp_path, harm):
    whole = np.asarray(jacobian(f)(X).save(tmp_path / "J", block=4))
    chunk = tmp_path / "J" / "c" / "2" / "0"
    data = bytearray(chunk.read_bytes())
    if harm == "gone":
        chunk.unlink()
    else:
        data[9] ^= 1
        chunk.write_bytes(bytes(data) if harm == "flipped" else bytes(data[:-9]))
    S = jacobia.open(tmp_path / "J")
    np.testing.assert_array_equal(S[:8], whole[:8])
    with pytest.raises(ValueError, match=r"block 2, \[8:12\] of the first axis: .*damaged.*computes the block again"):
        S[...]
    J = jacobian(f)(X)
    with pytest.warns(UserWarning, match=r"block 2, \[8:12\] of the first axis, is damaged"):
        S = J.save(tmp_path / "J")
    np.testing.assert_array_equal(S, whole)
    assert J.stats.pullbacks == 4


OTHERS = {
    "program of f": lambda: (jacobian(lambda x: jnp.sin(WEIGHTS @ x))(X), {}),
    "point or closed-over array": lambda: (jacobian(f)(X + 1), {}),
    "dtype": lambda: (jacobian(f)(X), {"dtype": "float64"}),
    "shape": lambda: (jacobian(lambda x: f(x)[:8])(X), {}),
    "block": lambda: (jacobian(f)(X), {"block": 5}),
    "compression": lambda: (jacobian(f)(X), {"compression": "zstd"}),
    "option: {'mode': 'auto'} there, {'mode': 'rev'} here": lambda: (jacobian(f, mode="rev")(X), {}),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_another_jacobian_is_not_mixed_in(tmp_path, name):
    jacobian(f)(X).save(tmp_path / "J", block=4)
    J, options = OTHERS[name]()
    with pytest.raises(ValueError, match=f"got another {name}.*Choose another path"):
        J.save(tmp_path / "J", **options)


def ruled(k):
    @jax.custom_jvp
    def g(x):
        return jnp.sin(x)

    g.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), k * jnp.cos(primals[0]) * tangents[0]))
    return lambda x: g(x)


def called_back(k):
    @jax.custom_jvp
    def g(x):
        return jnp.sin(x)

    def rule(primals, tangents):
        slope = jax.pure_callback(lambda x: k * np.cos(x), jax.ShapeDtypeStruct((N,), np.float32), primals[0])
        return jnp.sin(primals[0]), slope * tangents[0]

    g.defjvp(rule)
    return lambda x: g(x)


@pytest.mark.parametrize("make", [ruled, called_back])
def test_rules_of_their_own_are_told_apart(tmp_path, make):
    S = jacobian(make(2.0))(X).save(tmp_path / "J", block=4)
    np.testing.assert_allclose(np.diag(S), 2 * np.cos(X), rtol=1e-5)
    with pytest.raises(ValueError, match="got another program of f"):
        jacobian(make(3.0))(X).save(tmp_path / "J")
    if make is ruled:
        assert not jacobian(make(2.0))(X).save(tmp_path / "J").missing  # another object, the same rule


def test_samples_along_another_axis_are_another_jacobian(tmp_path):
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    jacobian(jnp.sin, batch_axis=0)(square).save(tmp_path / "J")
    with pytest.raises(ValueError, match=r"another option: \{'samples': \[\[0\], \[0\]\]\} there"):
        jacobian(jnp.sin, batch_axis=1)(square).save(tmp_path / "J")


def test_two_saves_at_once_to_one_path(tmp_path, monkeypatch):
    others = []

    def write(self, part, values, of=saved_module.Saved.write):
        if not others:
            with pytest.raises(ValueError, match="another call of J.save writes to. Wait for its end") as caught:
                jacobian(f)(2 * X).save(tmp_path / "J", block=4)
            others.append(caught)
        of(self, part, values)

    monkeypatch.setattr(saved_module.Saved, "write", write)
    assert_close(jacobian(f)(X).save(tmp_path / "J", block=4), REFERENCE)
    assert others


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "junk"])
def test_a_damaged_description_is_written_again(tmp_path, text):
    jacobian(f)(X).save(tmp_path / "J", block=4)
    described = tmp_path / "J" / "zarr.json"
    described.unlink() if text is None else described.write_text(text)
    with pytest.raises(ValueError, match="expected zarr.json to describe an array, .*J.save\\(path\\) writes it again"):
        jacobia.open(tmp_path / "J")[3]
    J = jacobian(f)(X)
    assert_close(J.save(tmp_path / "J"), REFERENCE)
    assert J.stats.pullbacks == 0


class Touching:
    """An object that is not data: unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_that_lies_in_a_folder_is_unpickled(tmp_path):
    folder, made = tmp_path / "J", tmp_path / "made"
    jacobian(f)(X).save(folder, block=4)
    (folder / "zarr.json").unlink()
    (folder / "0.0").write_bytes(pickle.dumps(Touching(str(made))))
    old = {"zarr_format": 2, "shape": REFERENCE.shape, "chunks": REFERENCE.shape, "dtype": "|O", "fill_value": 0}
    codecs = {"order": "C", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}}
    (folder / ".zarray").write_text(json.dumps(old | codecs))
    with pytest.raises(ValueError, match="expected zarr.json to describe an array"):
        jacobia.open(folder)[0]
    assert not made.exists()


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    S = jacobian(f)(X).save("J")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert_close(S, REFERENCE)
    for call in (jacobian(f)(X).save, jacobia.open):
        with pytest.raises(TypeError, match="expected a path of a folder, got NoneType"):
            call(None)
        for path in ("", "s3://bucket/J"):
            with pytest.raises(ValueError, match="expected a path of a folder of this machine"):
                call(path)


def test_a_group_of_somebody_else_is_left_alone(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_group(str(tmp_path / "group"), zarr_format=3, attributes={"precious": 1})
    with pytest.raises(ValueError, match="got something else"):
        jacobian(f)(X).save(tmp_path / "group")
    assert zarr.open_group(str(tmp_path / "group"), mode="r").attrs["precious"] == 1


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected nothing, an empty folder or one that J.save wrote"):
        jacobian(f)(X).save(tmp_path)
    with pytest.raises(ValueError, match="got something else"):
        jacobian(f)(X).save(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="without a journal"):
        jacobia.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="got nothing there"):
        jacobia.open(tmp_path / "nowhere")


def test_options_of_save(tmp_path):
    J = jacobian(f)(X)
    with pytest.raises(
        ValueError, match=r"compression=...\): expected None or one of 'zstd', 'gzip', 'blosc', got 'rar'"
    ):
        J.save(tmp_path / "J", compression="rar")
    with pytest.raises(TypeError, match="dtype of floats or complex numbers that Zarr has, got int32"):
        J.save(tmp_path / "J", dtype="int32")
    with pytest.raises(TypeError, match="bfloat16.*Write dtype='float32'"):
        jacobian(lambda x: x * x)(jnp.ones(3, jnp.bfloat16)).save(tmp_path / "J")


def test_without_zarr(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"expected the package zarr. pip install 'jacobia\[stream\]'"):
        jacobian(f)(X).save(tmp_path / "J")
    assert not (tmp_path / "J").exists()


def test_a_damaged_or_newer_journal(tmp_path):
    jacobian(f)(X).save(tmp_path / "J", block=4)
    journal = tmp_path / "J" / "jacobia.journal"
    text = journal.read_text()
    journal.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="expected version 1 or older, got 9"):
        jacobia.open(tmp_path / "J")
    journal.write_text("x" + text)
    with pytest.raises(ValueError, match="expected a line of JSON"):
        jacobia.open(tmp_path / "J")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk(tmp_path, monkeypatch):
    jacobian(f)(X).save(tmp_path / "J", block=4)
    jacobian(f)(X).save(tmp_path / "K", block=15)

    def full(self, part, values):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(values.tobytes())

    with monkeypatch.context() as patch:
        patch.setattr(saved_module.Saved, "write", full)
        with pytest.raises(OSError, match="got a full disk. Finished blocks are valid") as caught:
            jacobian(f)(X + 1).save(tmp_path / "L", block=15)
    assert caught.value.errno == 28
    assert_close(jacobian(f)(X).save(tmp_path / "J"), REFERENCE)


# Nonzeros


def stencil(x):
    return jnp.sin(x[:-1]) * x[1:]


def test_nonzeros_of_a_large_sparse_matrix(tmp_path):
    x = np.linspace(0, 1, 400, dtype=np.float32)
    J, want = jacobian(stencil)(x), np.asarray(jax.jit(jax.jacrev(stencil))(x))
    S = J.save(tmp_path / "J", block=100)
    assert (S.shape, S.nnz, S.missing, len(S)) == ((399, 400), 798, [], 399)
    assert repr(S).endswith("shape=(399, 400), nnz=798, dtype=float32, complete)")
    assert J.stats.pullbacks == 0
    assert_close(S.to_scipy().todense(), want)
    for key in (..., 3, -1, np.s_[5:9], [7, 3, 200], np.s_[:, 2], (4, 5), np.s_[10:20, 8:14], np.s_[0:0]):
        np.testing.assert_allclose(S[key], want[key], rtol=1e-5, atol=1e-6)
    chunk = tmp_path / "J" / "data" / "c" / "3"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    S = jacobia.open(tmp_path / "J")
    np.testing.assert_allclose(S[:100], want[:100], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"data: block 3, \[300:400\] .*damaged"):
        S[...]
    with pytest.warns(UserWarning, match="block 3"):
        assert_close(jacobian(stencil)(x).save(tmp_path / "J"), want)
    with pytest.raises(ValueError, match="got another point"):
        jacobian(stencil)(2 * x).save(tmp_path / "J")
    J[...]  # which is no reason to save it as another kind
    assert isinstance(J.save(tmp_path / "J"), jacobia.SavedCSR)
    with pytest.raises(ValueError, match="got a dense one in place of a sparse one"):
        jacobian(f)(X).save(tmp_path / "J")
    jacobian(f)(X).save(tmp_path / "dense")
    with pytest.raises(ValueError, match="got a sparse one in place of a dense one"):
        J.save(tmp_path / "dense")


def test_a_sparse_matrix_that_is_too_large_as_a_dense_one(tmp_path):
    S = jacobian(stencil)(np.linspace(0, 1, 2_000_000, dtype=np.float32)).save(tmp_path / "J")
    with pytest.raises(jacobia.MaterializationError, match=r"1999999 rows as a dense array.*to_scipy\(\)"):
        S[...]
    assert S[1_000_000, 999_999:1_000_003].shape == (4,)


# A process that has imported everything, and forks one that saves for every path that it is told.
_SAVING = """
import os, sys, jax, jax.numpy as jnp, numpy as np, zarr
from jacobia import jacobian
W = np.random.default_rng(0).normal(size=(600, 40)).astype(np.float32)
while path := sys.stdin.readline():
    child = os.fork()
    if child:
        sys.stdin.readline()
        os.waitpid(child, 0)
        print("over", flush=True)
        continue
    J = jacobian(lambda x: jnp.tanh(W @ x) * jnp.sum(x))(np.linspace(0, 1, 40, dtype=np.float32))
    print("begun", os.getpid(), flush=True)
    J.save(path.strip(), block=5)
    print("pulled", J.stats.pullbacks, flush=True)
    os._exit(0)
"""


@pytest.fixture
def saving():
    """Saves at a path in a process of its own, which is killed after some seconds: the number of pullbacks, or None."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", _SAVING], **pipes, text=True, env=env)

    def run(path, wait=None):
        def tell(line):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

        tell(path)
        begun, child = process.stdout.readline().split()
        assert begun == "begun"
        said = process.stdout.readline() if wait is None else None
        if wait is not None:
            time.sleep(wait)
            os.kill(int(child), signal.SIGKILL)  # where it has ended, it waits for its parent
        tell("")  # which waits for it
        said = said or process.stdout.readline()
        if not said.startswith("pulled"):
            assert said == "over\n"
            return None
        assert process.stdout.readline() == "over\n"
        return int(said.split()[-1])

    yield run
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, saving):
    start = time.perf_counter()
    saving(tmp_path / "whole")
    seconds = time.perf_counter() - start
    finished, moments = 0, np.random.default_rng(1)
    for _ in range(10):
        saving(tmp_path / "J", moments.uniform(0, 0.7 * seconds))
        if (tmp_path / "J" / "jacobia.journal").exists():
            lines = (tmp_path / "J" / "jacobia.journal").read_bytes().count(b"\n")
            assert lines >= finished
            finished = lines
    blocks = 0 if finished == 0 else 120 - len(jacobia.open(tmp_path / "J").missing)
    pulled = saving(tmp_path / "J")
    assert pulled == 600 - 5 * blocks
    S = jacobia.open(tmp_path / "J")
    np.testing.assert_array_equal(S, jacobia.open(tmp_path / "whole"))
    names = [line.split(b'"block": ')[1].split(b",")[0] for line in S._journal.path.read_bytes().splitlines()[1:]]
    assert len(names) == len(set(names)) == 120  # no block was computed again once it was finished
