"""The same program in four processes of two devices each: rows, bits, blocks, a joint save, a dying process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jacobia

pytest.importorskip("zarr", reason="zarr is not installed")
pytestmark = pytest.mark.slow
SCRIPT, ROOT = Path(__file__).with_name("process.py"), Path(__file__).parents[2]
SECONDS = 240


def run(count, folder, dying=-1):
    """Start so many processes, and wait for their ends: what each has returned and said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JACOBIA", "XLA", "JAX", "PYTEST"))}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(count), str(port), str(folder), str(dying)],
            env=env | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


def test_several_processes(tmp_path):
    count = 4
    for processes in (1, count):
        codes, said = run(processes, tmp_path)
        assert codes == [0] * processes, "\n".join(s[-2000:] for s in said)
    rows = {n: np.concatenate([np.load(p) for p in sorted(tmp_path.glob(f"rows-{n}-*"))]) for n in (1, count)}
    np.testing.assert_array_equal(rows[1], rows[count])  # to the bit
    S = jacobia.open(tmp_path / f"J-{count}")
    assert not S.missing
    np.testing.assert_allclose(S, rows[1], rtol=1e-4, atol=1e-5)


def test_one_that_dies_is_waited_for_so_long_and_no_longer(tmp_path):
    codes, said = run(2, tmp_path, dying=1)
    assert codes[1] == 9
    assert codes[0] == 3
    assert "expected other processes to finish 3 blocks, ['10:12', '12:14', '14:16']" in said[0]
    S = jacobia.open(tmp_path / "died")
    assert [p.start for p in S.missing] == [10, 12, 14]  # what was saved stays
    assert np.isfinite(S[:10]).all()
