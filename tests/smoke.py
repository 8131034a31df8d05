"""Does an installed jacobia work? `python -I tests/smoke.py`, or `python -I tests/smoke.py README.md` for its examples.

`.ci/release` runs this script where only a wheel of jacobia and its dependencies are installed. It does not use pytest,
which is missing there.
"""

import re
import subprocess
import sys
from importlib.metadata import files, requires, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jacobia

ROOT = Path(__file__).resolve().parents[1]


def f(x):
    return jnp.sin(x[1:] * x[:-1])


X = jnp.arange(1.0, 6.0)


def what_is_installed():
    home = Path(jacobia.__file__).parent
    assert "site-packages" in home.parts and str(ROOT) not in sys.path, (
        "the source tree was tried, not what is installed"
    )
    assert version("jacobia") == jacobia.__version__
    assert {str(p) for p in files("jacobia")} >= {
        "jacobia/py.typed",
        f"jacobia-{jacobia.__version__}.dist-info/licenses/LICENSE",
    }
    needed = {re.match("[a-z]+", line)[0] for line in requires("jacobia") if "extra ==" not in line}
    assert needed == {"jax", "jaxlib", "numpy"}, needed


def what_is_read():
    J = jacobia.jacobian(f)(X)
    assert np.allclose(J[1:3], jax.jacrev(f)(X)[1:3]) and J.stats.pullbacks == 2
    assert np.allclose(J.to_scipy().toarray(), jax.jacrev(f)(X)) and J.pattern.nnz == 8
    assert np.allclose(J @ X, jax.jvp(f, (X,), (X,))[1])
    H = jacobia.hessian(lambda x: f(x).sum())(X)
    assert np.allclose(H[...], jax.hessian(lambda x: f(x).sum())(X), atol=1e-5)
    said = subprocess.run(
        [sys.executable, "-I", "-m", "jacobia", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["jacobia", jacobia.__version__]


def what_is_missing_is_named():
    J = jacobia.jacobian(lambda x: 2 * x)(X)
    with_demo = [sys.executable, "-I", "-m", "jacobia", "demo", "--out", "/dev/null"]
    for extra, use in {
        "demo": lambda: _raise(subprocess.run(with_demo, capture_output=True, text=True).stderr),
        "estimators": lambda: jacobia.estimate_trace(J, jax.random.key(0)),
        "lineax": J.as_lineax,
        "plot": lambda: J.pattern.spy(),
        "stream": lambda: J.save("J"),
    }.items():
        try:
            use()
        except ImportError as error:
            assert f"jacobia[{extra}]" in str(error), error
        else:
            raise AssertionError(f"extra {extra}: expected an ImportError, got none")
    try:
        list(J.blocks(progress=True))
    except ImportError as error:
        assert "jacobia[progress]" in str(error), error
    else:
        raise AssertionError("progress=True: expected an ImportError, got none")


def _raise(text):
    raise ImportError(text)


def examples(path):
    found = re.findall(r"^```python\n(.*?)^```$", Path(path).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert found
    for example in found:
        exec(compile(example, str(path), "exec"), {})
    return len(found)


if __name__ == "__main__":
    what_is_installed()
    if len(sys.argv) > 1:
        print(f"{examples(sys.argv[1])} examples of {Path(sys.argv[1]).name} hold")
    else:
        what_is_read()
        what_is_missing_is_named()
        print(f"jacobia {version('jacobia')}, JAX {jax.__version__}, NumPy {np.__version__}: installed, and works")
