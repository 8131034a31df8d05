"""Interior-point solvers fed with triplets and patterns: cyipopt, and pounce (extra `ipopt`)."""

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobia import hessian, jacobian, sparsity_pattern, triplets

pytestmark = pytest.mark.usefixtures("x64")

FOLDER = Path(__file__).parent
N = 20
BOUNDS = {"lb": np.full(N, -10.0), "ub": np.full(N, 10.0), "cl": np.full(N - 1, 2.0), "cu": np.full(N - 1, 1e19)}


def objective(x):
    return jnp.sum((x - 1) ** 2) + jnp.sum((x[1:] - x[:-1]) ** 4)


def constraints(x):
    return x[:-1] * x[1:]


def lagrangian(x, multipliers, factor):
    return factor * objective(x) + multipliers @ constraints(x)


class Problem:
    """The callbacks of IPOPT: structures once, values at each point."""

    def __init__(self):
        x, multipliers = np.ones(N), np.ones(N - 1)
        self._jac, self._hess = jacobian(constraints), hessian(lagrangian)
        self._rows = triplets(sparsity_pattern(constraints, x))
        self._lower = triplets(sparsity_pattern(lagrangian, x, multipliers, 1.0, hessian=True), lower=True)
        self._jitted = [jax.jit(f) for f in (objective, jax.grad(objective), constraints)]

    def objective(self, x):
        return float(self._jitted[0](x))

    def gradient(self, x):
        return np.asarray(self._jitted[1](x))

    def constraints(self, x):
        return np.asarray(self._jitted[2](x))

    def jacobianstructure(self):
        return self._rows.rows, self._rows.cols

    def jacobian(self, x):
        return self._rows.values(self._jac(x))

    def hessianstructure(self):
        return self._lower.rows, self._lower.cols

    def hessian(self, x, multipliers, factor):
        return self._lower.values(self._hess(x, multipliers, factor))


@cache
def solution():
    import scipy.optimize

    made = Problem()
    above = {"type": "ineq", "fun": lambda x: made.constraints(x) - 2, "jac": lambda x: np.asarray(made._jac(x))}
    options = {"ftol": 1e-12, "maxiter": 500}
    start = np.full(N, 2.0)
    found = scipy.optimize.minimize(
        made.objective, start, (), "SLSQP", made.gradient, constraints=above, options=options
    )
    assert found.success
    return found.x


def test_cyipopt():
    cyipopt = pytest.importorskip("cyipopt", reason="cyipopt is not installed, or has no wheel for this Python")
    problem = cyipopt.Problem(n=N, m=N - 1, problem_obj=Problem(), **BOUNDS)
    problem.add_option("print_level", 0)
    problem.add_option("sb", "yes")
    x, info = problem.solve(np.full(N, 2.0))
    assert info["status"] == 0
    np.testing.assert_allclose(x, solution(), atol=1e-4)


@pytest.mark.skipif(find_spec("pounce") is None, reason="pounce is not installed")
def test_pounce():
    # In a process of its own: importing pounce.jax turns 64-bit types on for good.
    code = "import test_ipopt; print(*test_ipopt.by_pounce())"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    np.testing.assert_allclose([float(v) for v in done.stdout.split()[-N:]], solution(), atol=1e-4)


def by_pounce():
    from pounce.jax import from_jax

    x = np.ones(N)
    rows = triplets(sparsity_pattern(constraints, x))
    lower = triplets(sparsity_pattern(lagrangian, x, np.ones(N - 1), 1.0, hessian=True), lower=True)
    problem = from_jax(
        objective, constraints, n=N, m=N - 1, sparse=True, **BOUNDS,
        jac_pattern=(rows.rows, rows.cols), hess_pattern=(lower.rows, lower.cols),
    )  # fmt: skip
    problem.add_option("print_level", 0)
    x, info = problem.solve(np.full(N, 2.0))
    assert info["status"] == 0
    return x
