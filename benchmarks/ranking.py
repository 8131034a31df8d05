"""Whether mode="auto" chooses the fastest plan: all plans that exist for a request are timed beside each other.

A case is a program and a request. Each plan is forced by `mode=`. The time of the plan that "auto" chooses is that of
the forced plan of the same name: their kernels are equal, and timing both would only compare noise.
`python -m benchmarks.ranking` prints the table; with `--write` it is put into docs/planning.md.
Shapes: M outputs, N inputs.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, timing
from benchmarks.results import Result, median, wait
from benchmarks.workloads import forward, mlp_parameters
from jacobia import hessian, jacobian

PAGE = Path(__file__).resolve().parents[1] / "docs" / "planning.md"

CLOSE = 1.25  # a choice within this factor of the least time counts as right: other processes on the machine make noise
TOLERANCE = 2e-3  # the largest error, as a fraction of the largest entry; both sides are float32

# Name of a plan → the `mode` that forces it. The last two compute all of a block, and raise where that is impossible.
MODES = {"rows": "rev", "columns": "fwd", "nonzeros": "accumulate", "waist": "waist"}


@dataclass(frozen=True)
class Program:
    """A function of one array, and the requests for its Jacobian (or Hessian) as an (M, N) matrix."""

    title: str
    f: Callable
    shape: tuple[int, ...]
    requests: tuple[str, ...]
    hessian: bool = False

    @property
    def transform(self) -> Callable:
        return hessian if self.hessian else jacobian

    def points(self, count: int = 12) -> list[jax.Array]:
        rng = np.random.default_rng(5)
        return [jnp.asarray(rng.normal(size=self.shape), jnp.float32) for _ in range(count)]


def lines(size: int, count: int) -> np.ndarray:
    """The numbers of `count` lines, spread over all `size` lines."""
    return np.linspace(0, size - 1, min(size, count)).astype(int)


# Title of a request → the function that maps (M, N) to a key of the (M, N) matrix.
REQUESTS: dict[str, Callable[[int, int], Any]] = {
    "all": lambda m, n: ...,
    "5 rows": lambda m, n: lines(m, 5),
    "half the rows": lambda m, n: lines(m, m // 2),
    "5 columns": lambda m, n: (slice(None), lines(n, 5)),
    "half the columns": lambda m, n: (slice(None), lines(n, n // 2)),
    "a block, 100 × 150": lambda m, n: (slice(0, min(m, 100)), slice(0, min(n, 150))),
}
EVERY = tuple(REQUESTS)


def _weights(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[-1]), jnp.float32)


def _mlp(*sizes: int) -> Callable:
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters(sizes)]
    return lambda x: forward(jnp, layers, x)


def _layer(outputs: int, inputs: int) -> Callable:
    weight = _weights(outputs, inputs)
    return lambda x: jnp.tanh(weight @ x)


def _tridiagonal(x):
    return x[:-2] - 2 * x[1:-1] ** 2 + x[2:]


def _five_points(x):
    inner = x[1:-1, 1:-1]
    return x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * inner + inner**3


def _small_layers(blocks: int, width: int) -> Callable:
    weights = _weights(blocks, width, width)
    return lambda x: jax.vmap(lambda w, v: jnp.tanh(w @ v))(weights, x)


def _convolution_1d(x):
    return jnp.tanh(jnp.convolve(x, jnp.sin(jnp.arange(9.0)), mode="same"))


def _convolution_2d(inputs: int, outputs: int) -> Callable:
    kernel = _weights(outputs, inputs, 3, 3)
    return lambda x: jnp.tanh(jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME")[0])


def _rnn(width: int, steps: int) -> Callable:
    weight = _weights(width, width)

    def f(x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(weight @ h + x), None), jnp.zeros_like(x), None, length=steps)[0]

    return f


def _rnn_of_a_sequence(width: int, features: int) -> Callable:
    weight, into = _weights(width, width), _weights(width, features, seed=1)

    def f(x):
        return jax.lax.scan(lambda h, v: (jnp.tanh(weight @ h + into @ v), None), jnp.zeros(width), x)[0]

    return f


def _attention(width: int) -> Callable:
    queries, keys, values = _weights(3, width, width)

    def f(x):
        scores = (x @ queries) @ (x @ keys).T / np.sqrt(width)
        return jax.nn.softmax(scores, axis=-1) @ (x @ values)

    return f


def _filtered(n: int) -> Callable:
    gain = jnp.exp(-jnp.linspace(0, 4, n // 2 + 1))
    return lambda x: jnp.tanh(jnp.fft.irfft(jnp.fft.rfft(x) * gain, n))


def _triangular(n: int) -> Callable:
    matrix = jnp.tril(_weights(n, n)) + 2 * jnp.eye(n)
    return lambda x: jax.scipy.linalg.solve_triangular(matrix, jnp.tanh(x), lower=True)


def _low_rank(n: int, k: int) -> Callable:
    back, into = _weights(n, k), _weights(k, n, seed=1)
    return lambda x: back @ jnp.tanh(into @ x)


def _half_linear(n: int) -> Callable:
    linear, inner = _weights(2 * n // 3, n), _weights(n // 3, n, seed=1)
    return lambda x: jnp.concatenate([linear @ x, jnp.tanh(inner @ x)])


def _normalized(x):
    return (x - x.mean()) / jnp.sqrt(x.var() + 1e-5) + x


def _distances(x):
    return jnp.sum((x[:, None] - x[None]) ** 2, -1)


def _gathered(n: int, count: int) -> Callable:
    numbers = np.random.default_rng(0).integers(0, n, count)
    return lambda x: jnp.sin(x[numbers]) * jnp.arange(1.0, count + 1)


def _heat(x):
    def step(u, _):
        return u + 0.1 * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)) - 0.01 * u**3, None

    return jax.lax.scan(step, x, None, length=20)[0]


def _rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _loss(*sizes: int) -> Callable:
    net = _mlp(*sizes)
    return lambda x: 0.5 * jnp.sum(net(x) ** 2)


def _log_likelihood(samples: int, n: int) -> Callable:
    features = _weights(samples, n)
    return lambda x: jnp.sum(jax.nn.softplus(features @ x)) + 0.1 * jnp.sum(x**2)


def _coupled(n: int) -> Callable:
    matrix = _weights(n, n)
    return lambda x: jnp.tanh(x) @ (matrix @ jnp.tanh(x))


PROGRAMS = [
    Program("tanh(W x), 64 → 2000", _layer(2000, 64), (64,), EVERY),
    Program("tanh(W x), 2000 → 64", _layer(64, 2000), (2000,), EVERY),
    Program("tanh(W x), 500 → 500", _layer(500, 500), (500,), ("all", "half the rows", "a block, 100 × 150")),
    Program("MLP 64→256→256→64", _mlp(64, 256, 256, 64), (64,), ("all", "5 rows", "5 columns")),
    Program("MLP 512→1024→1024→512", _mlp(512, 1024, 1024, 512), (512,), ("all", "5 rows")),
    Program("MLP 256→1024→16", _mlp(256, 1024, 16), (256,), ("all", "5 columns", "a block, 100 × 150")),
    Program("MLP 16→1024→256", _mlp(16, 1024, 256), (16,), ("all", "5 rows", "half the rows")),
    Program("MLP 512→256→4→256→512", _mlp(512, 256, 4, 256, 512), (512,), ("all", "half the rows")),
    Program("MLP 512→256→16→256→512", _mlp(512, 256, 16, 256, 512), (512,), ("all", "5 rows")),
    Program("MLP 512→256→64→256→512", _mlp(512, 256, 64, 256, 512), (512,), ("all", "5 columns")),
    Program("MLP 1500→512→16→512→1500", _mlp(1500, 512, 16, 512, 1500), (1500,), ("all",)),
    Program("tridiagonal, n = 500", _tridiagonal, (500,), ("all", "half the rows")),
    Program("tridiagonal, n = 2000", _tridiagonal, (2000,), ("all", "5 rows", "half the columns")),
    Program("5 points, 22 × 22", _five_points, (22, 22), ("all", "a block, 100 × 150")),
    Program("5 points, 45 × 45", _five_points, (45, 45), ("all", "5 rows")),
    Program("64 layers of 16 → 16", _small_layers(64, 16), (64, 16), ("all", "5 rows")),
    Program("convolution, n = 1000", _convolution_1d, (1000,), ("all", "5 columns")),
    Program("convolution, 3 × 16 × 16 → 8 × 16 × 16", _convolution_2d(3, 8), (3, 16, 16), ("all", "5 rows")),
    Program("convolution, 8 × 16 × 16 → 3 × 16 × 16", _convolution_2d(8, 3), (8, 16, 16), ("all", "5 rows")),
    Program("RNN, 50 steps, 64 → 64", _rnn(64, 50), (64,), ("all", "5 rows", "5 columns")),
    Program("RNN, 50 steps, 128 → 128", _rnn(128, 50), (128,), ("all", "half the rows")),
    Program("RNN of a sequence, 50 × 8 → 32", _rnn_of_a_sequence(32, 8), (50, 8), ("all", "half the columns")),
    Program("cumsum, n = 1000", lambda x: jnp.cumsum(jnp.sin(x)), (1000,), ("all", "5 rows")),
    Program("sort, n = 1000", lambda x: jnp.sort(x) ** 2, (1000,), ("all", "5 rows")),
    Program("attention, 32 × 16", _attention(16), (32, 16), ("all", "5 rows", "half the columns")),
    Program("softmax, n = 500", jax.nn.softmax, (500,), ("all", "5 columns")),
    Program("logsumexp, 20 × 50 → 20", partial(jax.nn.logsumexp, axis=-1), (20, 50), ("all", "5 columns")),
    Program("filter by FFT, n = 1000", _filtered(1000), (1000,), ("all", "5 rows")),
    Program("triangular solve, n = 300", _triangular(300), (300,), ("all", "5 columns")),
    Program("exp, n = 2000", jnp.exp, (2000,), ("all", "5 rows")),
    Program("U tanh(V x), 1000→8→1000", _low_rank(1000, 8), (1000,), ("all", "5 rows")),
    Program("linear and tanh, 1500 → 1000 + 500", _half_linear(1500), (1500,), ("all", "half the rows")),
    Program("layer norm, n = 500", _normalized, (500,), ("all", "5 rows")),
    Program("distances, 30 × 4 → 30 × 30", _distances, (30, 4), ("all", "5 rows", "half the rows")),
    Program("gather, 1000 → 2000", _gathered(1000, 2000), (1000,), ("all", "half the rows")),
    Program("heat, 20 steps, n = 300", _heat, (300,), ("all", "half the columns")),
    Program("Hessian, Rosenbrock, n = 200", _rosenbrock, (200,), ("all", "5 rows"), hessian=True),
    Program("Hessian, Rosenbrock, n = 1000", _rosenbrock, (1000,), ("all", "5 columns"), hessian=True),
    Program("Hessian, loss of an MLP 64→256→32", _loss(64, 256, 32), (64,), ("all", "5 rows"), hessian=True),
    Program("Hessian, log-likelihood, 500 × 100", _log_likelihood(500, 100), (100,), ("all", "5 rows"), hessian=True),
    Program("Hessian, tanh(x)ᵀ A tanh(x), n = 200", _coupled(200), (200,), ("all", "half the rows"), hessian=True),
]


@dataclass(frozen=True)
class Case:
    """The measurements of one request."""

    program: str
    request: str
    chosen: str
    times: timing.Times  # of each plan that exists

    @property
    def best(self) -> str:
        return timing.better(self.times, list(self.times))

    @property
    def ratio(self) -> float:
        """The time of the chosen plan, divided by the least time."""
        return 1.0 if self.best == self.chosen else timing.ratio(self.times[self.chosen], self.times[self.best])


def plans(program: Program, request: str) -> dict[str, Callable]:
    """Name of a plan → the function that maps a point to the result of the request, for each plan that exists."""
    key, made = _key(program, request), {}
    for way, mode in MODES.items():
        if request != "all" and way not in ("rows", "columns"):
            continue  # these modes compute all of a block; for other requests they are "auto"
        view = program.transform(program.f, mode=mode)
        call = partial(_read, view, key)
        try:
            call(program.points(1)[0])
        except ValueError as error:
            if "mode=" not in str(error):
                raise
            continue  # there is no such plan
        made[way] = call
    return made


def _key(program: Program, request: str) -> Any:
    out = jax.eval_shape(program.f, jax.ShapeDtypeStruct(program.shape, jnp.float32))
    n = int(np.prod(program.shape))
    return REQUESTS[request](n if program.hessian else out.size, n)


def _read(view: Callable, key: Any, x: jax.Array) -> jax.Array:
    J = view(x)
    return J[...] if key is ... else J.matrix[key]


def chosen(program: Program, request: str) -> str:
    """The name of the plan that mode="auto" takes. Rows and columns of a Hessian are pushforwards both: "columns"."""
    told = program.transform(program.f)(program.points(1)[0]).matrix.explain(_key(program, request))
    return "columns" if program.hessian and told.way in ("rows", "columns") else told.way


def measure(program: Program, request: str, quick: bool) -> Case:
    """Measure one case: the answers of all plans are checked, then the plans are timed in turn."""
    contenders, points, key = plans(program, request), program.points(), _key(program, request)
    reference = jax.jit(jax.hessian(program.f) if program.hessian else jax.jacrev(program.f))
    for x in points[:2]:
        n = int(np.prod(program.shape))
        expected = np.asarray(reference(x)).reshape(-1, n)[key]
        for name, call in contenders.items():
            error = np.abs(np.asarray(call(x)).reshape(expected.shape) - expected).max()
            if not error <= TOLERANCE * np.abs(expected).max():  # also catches NaN
                raise AssertionError(f"{program.title}, {request}, {name}: off by {error:.2g}")
    times = timing.rounds_in_turn(contenders, points, wait, *((5, 0.01) if quick else (9, 0.02)))
    return Case(program.title, request, chosen(program, request), times)


def cases(quick: bool, only: str = "") -> list[Case]:
    made = []
    for program in PROGRAMS:
        for request in program.requests:
            if only in f"{program.title}, {request}":
                made.append(measure(program, request, quick))
                print(line(made[-1]), file=sys.stderr, flush=True)
        jax.clear_caches()
    return made


def line(case: Case) -> str:
    """A row of the table."""
    times = [median(case.times[way]) if way in case.times else "" for way in MODES]
    return "| " + " | ".join([case.program, case.request, case.chosen, *times, f"{case.ratio:.2f}"]) + " |"


def summary(made: list[Case]) -> tuple[float, Case]:
    """The share of cases whose choice is within CLOSE of the best, and the worst case."""
    return statistics.mean(c.ratio <= CLOSE for c in made), max(made, key=lambda c: c.ratio)


def table(made: list[Case]) -> str:
    head = ["program", "read", "chosen", *MODES, "ratio"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(line, made)]
    share, worst = summary(made)
    text = (
        f"{len(made)} cases of {len(PROGRAMS)} programs; in {100 * share:.0f} % the choice takes at most {CLOSE} times "
        f"the least time; the worst takes {worst.ratio:.2f} times ({worst.program}, {worst.request}). "
        f"{report.machine()}."
    )
    return "\n".join([text, "", *rows])


def plans_ranking(quick: bool) -> list[Result]:
    """The bars: how often the choice is right, and how much slower the worst choice is."""
    made = cases(quick)
    share, worst = summary(made)
    what = f"{len(made)} requests of {len(PROGRAMS)} programs, all plans timed"
    note = f"{worst.program}, {worst.request}: {worst.chosen} and not {worst.best}"
    return [
        Result(f"{what}: share where the choice takes at most {CLOSE} × the least", share, "", 0.9, at_least=True),
        Result(f"{what}: the worst choice against the best plan", worst.ratio, "×", 2.0, note=note),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description="Is the best plan chosen?")
    parser.add_argument("--write", action="store_true", help="put the table into docs/planning.md")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a record")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose title has this in it")
    arguments = parser.parse_args()
    if arguments.write and (arguments.only or arguments.quick):
        parser.error("--write goes without --only and --quick: the page shows all cases of one run")
    text = table(cases(arguments.quick, arguments.only))
    print(text)
    if arguments.write:
        report.write("cases", text, PAGE)


if __name__ == "__main__":
    main()
