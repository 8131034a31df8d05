"""The prediction `J.explain(key).memory`, compared with the measured rise of the peak of resident memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory_cases import CASES

import jacobia

SCRIPT = Path(__file__).with_name("memory_cases.py")


@pytest.mark.slow
def test_the_predicted_peak_is_the_measured_one():
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("only Linux sets the peak of a process back, by /proc/self/clear_refs")
    # Freed memory goes back to the system at once, so that later allocations raise the resident memory.
    here = str(Path(jacobia.__file__).parents[1])
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": here}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f["name"] for f in found] == list(CASES)
    off = [f for f in found if not 0.7 <= f["predicted"] / f["measured"] <= 1.3]
    assert not off, "\n".join(map(str, off))
