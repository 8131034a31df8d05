"""The bars: limits on time, compilations and memory that jacobia promises to keep, and their measurements.

Each bar runs in a fresh process, so that no kernel, cache or memory peak of another bar counts. Contenders that are
compared run in the same process, in turn. `python -m benchmarks.bars NAME` runs one bar and prints JSON lines.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

import jacobia
from benchmarks import (
    keys,
    laplacians,
    memory,
    plans,
    products,
    ranking,
    scaling,
    second_order,
    solvers,
    sparse,
    timing,
)
from benchmarks.peers import BASE, by_hand
from benchmarks.results import (
    MIB,
    Compilations,
    Result,
    all_of_it,
    by_any_rows,
    checked,
    faster,
    rounds,
    slower,
    wait,
)
from benchmarks.workloads import (
    WORKLOADS,
    Workload,
    build_mlp,
    check,
    forward,
    inputs,
    mlp_parameters,
)
from jacobia import jacobian

ROOT = Path(__file__).resolve().parents[1]
# ---- speed ----


def some_rows(quick: bool) -> list[Result]:
    """Rows 1:4 of 2000."""
    workload = WORKLOADS["rows"]
    f, points, right = checked(workload)
    any_rows = jax.jit(lambda x, rows: by_any_rows(f, x, rows))
    three = jnp.arange(1, 4)
    jac = jacobian(f)
    contenders = {
        "anew": lambda x: jacobian(f)(x)[1:4],
        "kept": lambda x: jac(x)[1:4],
        "in jit": jax.jit(lambda x: jacobian(f)(x)[1:4]),
        "by hand": jax.jit(by_hand(f, workload)),
        "by hand, any rows": lambda x: any_rows(x, three),
        "jacrev": jax.jit(lambda x: jax.jacrev(f)(x)[1:4]),
    }
    right(contenders)
    times = rounds(contenders, points, quick)
    what = "rows 1:4 of 2000"
    anew = "`jacobian(f)(x)[1:4]`"
    return [
        slower(f"{what}, {anew}, against a jitted vmap of a vjp", times, "anew", "by hand", 1.5),
        slower(f"{what}, `jac` kept, against the same", times, "kept", "by hand", 1.5),
        slower(f"{what}, inside jit, against the same", times, "in jit", "by hand"),
        slower(f"{what}, `jac` kept, against one that takes row numbers", times, "kept", "by hand, any rows"),
        faster(f"{what}, {anew}, than jitted `jacrev(f)(x)[1:4]`", times, "anew", "jacrev", 25),
        faster(f"{what}, `jac` kept, than the same", times, "kept", "jacrev", 25),
        faster(f"{what}, inside jit, than the same", times, "in jit", "jacrev", 35),
    ]


def everything(name: str, quick: bool) -> list[Result]:
    """`J[...]` at a new x."""
    workload = WORKLOADS[name]
    if workload.rows:
        title = "MLP 64→256→256→2000, all"
        workload = Workload(name, title, workload.shape, workload.num_outputs, workload.build, workload.closed_form)
    times, base = all_of_it(workload, quick)
    what = f"`J[...]`, {workload.title.removesuffix(', all')}"
    if name == "small":  # the time is that of dispatch alone, so the bars differ
        return [
            slower(f"{what}, `jac` kept, against jitted jacrev", times, "kept", BASE[0], 3.5),
            slower(f"{what}, `jacobian(f)(x)[...]`, against jitted jacrev", times, "anew", BASE[0], 3.5),
            slower(f"{what}, inside jit, against {base}", times, "in jit", base, 1.15),
        ]
    return [
        slower(f"{what}, `jac` kept, against {base}", times, "kept", base, 1.15),
        slower(f"{what}, `jacobian(f)(x)[...]`, against the same", times, "anew", base, 1.15),
        slower(f"{what}, inside jit, against the same", times, "in jit", base, 1.15),
    ]


def per_sample(quick: bool) -> list[Result]:
    """One Jacobian for each sample, by vmap: no bar."""
    workload = WORKLOADS["batch"]
    f, points, _ = checked(workload)
    contenders = {
        "jacobia": jax.jit(jax.vmap(lambda x: jacobian(f)(x)[...])),
        BASE[0]: jax.jit(jax.vmap(jax.jacrev(f))),
        BASE[1]: jax.jit(jax.vmap(jax.jacfwd(f))),
    }
    expected = contenders[BASE[0]](points[0])
    for call in contenders.values():
        np.testing.assert_allclose(call(points[0]), expected, rtol=1e-4, atol=1e-5)
    times = rounds(contenders, points, quick)
    base = timing.better(times, BASE)
    what = "batch of 256, 32→32, one Jacobian a sample by `vmap`, in jit"
    return [slower(f"{what}, against {base}", times, "jacobia", base)]


def shared_weights(quick: bool) -> list[Result]:
    """One row for each sample, where all samples share the weights: written in several ways."""
    sizes, count = (64, 384, 384, 8), 500
    w = jax.tree.map(jnp.asarray, mlp_parameters(sizes))
    rng = np.random.default_rng(7)
    points = [jnp.asarray(rng.normal(size=(count, sizes[0])), jnp.float32) for _ in range(8)]
    f = lambda w, x: forward(jnp, w, x)  # noqa: E731
    axes = (None, 0)
    mapped = jax.vmap(jacobian(f, 1), in_axes=axes)
    compiled = jax.jit(mapped)
    of_batch = lambda w, X: jax.vmap(f, in_axes=axes)(w, X)  # noqa: E731
    batched = jacobian(of_batch, 1, batch_axis=0)
    field = lambda w: lambda X: jax.vmap(jacobian(lambda x: f(w, x)))(X)[:, 1]  # noqa: E731
    by_argument = jax.jit(lambda w, X: jax.vmap(jacobian(f, 1), in_axes=axes)(w, X)[:, 1])
    by_closure = jax.jit(lambda w, X: field(w)(X))
    by_batch = jax.jit(lambda w, X: jacobian(of_batch, 1, batch_axis=0)(w, X)[:, 1])
    grad = jax.jit(jax.vmap(jax.grad(lambda w, x: f(w, x)[1], 1), in_axes=axes))
    contenders = {
        "vmap(jacobian(f, 1), in_axes=(None, 0))(w, X)[:, 1]": lambda X: mapped(w, X)[:, 1],
        "the same, the view made in jit": lambda X: compiled(w, X)[:, 1],
        "the same, all in jit": lambda X: by_argument(w, X),
        "w closed over, all in jit": lambda X: by_closure(w, X),
        "batch_axis=0": lambda X: batched(w, X)[:, 1],
        "batch_axis=0, all in jit": lambda X: by_batch(w, X),
        "vmap(grad)": lambda X: grad(w, X),
    }
    expected = contenders["vmap(grad)"](points[0])
    for call in contenders.values():
        np.testing.assert_allclose(call(points[0]), expected, rtol=1e-3, atol=1e-5)
    times = rounds(contenders, points, quick)
    what = "a row of 500 samples that share the weights of an MLP 64→384→384→8"
    return [
        slower(f"{what}, {name}, against jitted vmap(grad)", times, name, "vmap(grad)", 1.2)
        for name in contenders
        if name != "vmap(grad)"
    ]


def remembered(quick: bool) -> list[Result]:
    """Reads of known entries, beside one call of a jitted identity."""
    results = []
    identity = jax.jit(lambda a: a)
    for name in ("small", "mlp"):
        workload = WORKLOADS[name]
        f, points, right = checked(workload)
        right({"J[...]": lambda x, f=f: jacobian(f)(x)[...]})
        J = jacobian(f)(points[0])
        wait(J[...])
        contenders = {"all": lambda x, J=J: J[...], "identity": identity}
        times = rounds(contenders, points, quick)
        results.append(slower(f"remembered `J[...]`, {workload.title}", times, "all", "identity", 1.5))
    # From here on, J is the Jacobian of the MLP, which has 64 rows.
    workload = WORKLOADS["mlp"]
    numbers = list(range(64))
    check(workload, inputs(workload)[0], np.stack([np.asarray(J[i]) for i in numbers]))
    times = rounds({"row": lambda i: J[i], "identity": lambda i: identity(points[0])}, numbers, quick)
    what = "a remembered row, 64 different ones in turn after `J[...]`"
    results.append(slower(what, times, "row", "identity", 2.5))

    def read_all(view):
        for i in numbers:
            wait(view[i])

    def call_identity():
        for _ in numbers:
            wait(identity(points[0]))

    jac = jacobian(f)
    firsts: timing.Times = {"rows": [], "identity": []}
    for k in range(10 if quick else 40):
        view = jac(points[k % len(points)])
        wait(view[...])
        firsts["rows"].append(timing.seconds(partial(read_all, view)) / 64)
        firsts["identity"].append(timing.seconds(call_identity) / 64)
    firsts = {name: seconds[2:] for name, seconds in firsts.items()}  # warm
    what = "the same, each row for the first time after `J[...]`"
    results.append(slower(what, firsts, "rows", "identity", 2.5))
    return results


def scan_rows(quick: bool) -> list[Result]:
    """Ten reads of one row each of a 300-step scan: no bar."""
    weight = jnp.asarray(mlp_parameters((64, 64), seed=3)[0][0])

    def f(x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(weight @ h + x), None), x, None, length=300)[0]

    points = [jnp.asarray(x) for x in inputs(WORKLOADS["mlp"])]
    fused = jax.jit(lambda x, i: by_any_rows(f, x, i[None])[0])
    numbers = [jnp.asarray(i) for i in range(10)]
    jac = jacobian(f)

    def reads(x):
        J = jac(x)
        return [J[i] for i in range(10)]

    contenders = {"view": reads, "fused": lambda x: [fused(x, i) for i in numbers]}
    expected = np.stack(contenders["fused"](points[0]))
    atol = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(np.stack(reads(points[0])), expected, rtol=1e-4, atol=atol)
    times = rounds(contenders, points, quick, jax.block_until_ready)
    what = "ten rows, one at a time, of a 300-step scan, against ten fused jitted calls"
    return [slower(what, times, "view", "fused")]


# ---- compilations ----


@jax.custom_jvp
def _softsign(x):
    return x / (1 + jnp.abs(x))


@_softsign.defjvp
def _softsign_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return _softsign(x), t / (1 + jnp.abs(x)) ** 2


def fresh_lambdas(quick: bool) -> list[Result]:
    """A new function object with the same body each time."""
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in mlp_parameters((64, 256, 256, 64))]
    points = [jnp.asarray(x) for x in inputs(WORKLOADS["mlp"])]

    def new_tanh():
        return lambda x: forward(jnp, layers, x)

    def new_relu():
        return lambda x: forward(jnp, layers, x, jax.nn.relu)

    def new_custom():
        return lambda x: forward(jnp, layers, x, _softsign)

    def new_custom_and_rule():
        own = jax.custom_jvp(lambda x: x / (1 + jnp.abs(x)))
        own.defjvp(lambda primals, tangents: (own(*primals), tangents[0] / (1 + jnp.abs(primals[0])) ** 2))
        return lambda x: forward(jnp, layers, x, own)

    counter = Compilations()
    results = []
    cases = {
        "MLP": (new_tanh, True),
        "MLP with `jax.nn.relu`": (new_relu, True),
        "MLP with a `custom_jvp` of one's own": (new_custom, True),
        "MLP with a `custom_jvp` made anew each time too": (new_custom_and_rule, False),
    }
    for title, (new, bar) in cases.items():
        contenders = {
            "jacobia": lambda x, new=new: jacobian(new())(x)[...],
            "jax": lambda x, new=new: jax.jit(jax.jacrev(new()))(x),
        }
        ours, theirs = (contenders[name](points[0]) for name in ("jacobia", "jax"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        before = counter.count
        for x in points[:20]:
            wait(contenders["jacobia"](x))
        compiled = counter.count - before
        what = f"a new lambda with the same body, {title}"
        results.append(Result(f"{what}: 20 more after the first", compiled, "compilations", 0 if bar else None))
        times = rounds(contenders, points, quick)
        limit = 1 / 15 if bar else None
        what += ", against `jax.jit(jacrev(…))` and its compilation"
        results.append(slower(what, times, "jacobia", "jax", limit))
    return results


def row_sets(how: str, quick: bool) -> list[Result]:
    """200 random row sets of random sizes, half of them small."""
    workload = WORKLOADS["rows"]
    f = workload.build(jnp, jnp.asarray)
    host = inputs(workload)
    points = [jnp.asarray(x) for x in host]
    rng = np.random.default_rng(5)
    counter = Compilations()
    before = counter.count
    J = jacobian(f)(points[0])
    for k in range(200):
        size = int(rng.integers(1, 2001)) if k % 2 else int(2000 ** rng.random())
        rows = rng.choice(2000, size, replace=False)
        if how == "a new view for each":
            J = jacobian(f)(points[k % len(points)])
        elif how == "one view, cleared before each":
            J.clear()
        answer = np.asarray(J[rows])
        if k % 20 == 0:
            x = host[k % len(points) if how == "a new view for each" else 0].astype(np.float64)
            np.testing.assert_allclose(answer, workload.closed_form(x, rows), rtol=1e-3, atol=1e-4)
    return [Result(f"200 random row sets, M = 2000, {how}", counter.count - before, "compilations", 12)]


# ---- memory ----

TALL = (64, 1024, 8000)
MEMORY_LIMIT = 64 * MIB


def temporaries(quick: bool) -> list[Result]:
    """The bytes of temporaries of the compiled programs, by the compiler's analysis."""
    f = build_mlp(TALL)(jnp, jnp.asarray)
    x = jnp.asarray(inputs(WORKLOADS["mlp"])[0])

    def needs(call: Callable) -> int:
        return jax.jit(call).lower(x).compile().memory_analysis().temp_size_in_bytes

    theirs = needs(jax.jacrev(f))
    results = [Result("temporaries of jitted jacrev, M = 8000, N = 64", theirs / MIB, "MiB")]
    for limit, bar in ((MEMORY_LIMIT, theirs / 4 / MIB), (MEMORY_LIMIT // 4, None)):
        ours = needs(lambda x, limit=limit: jacobian(f, mode="rev", memory_limit=limit)(x)[...])
        what = f'temporaries of `J[...]`, mode="rev", memory_limit={limit // MIB} MiB, in jit'
        results.append(Result(what, ours / MIB, "MiB", bar))
    return results


def peak(library: str, quick: bool) -> list[Result]:
    """The memory that the process took, compilation included: no bar."""
    f = build_mlp(TALL)(jnp, jnp.asarray)
    points = [jnp.asarray(x) for x in inputs(WORKLOADS["mlp"])[:4]]
    jax.jit(f)(points[0]).block_until_ready()
    call = {
        "jitted jacrev": jax.jit(jax.jacrev(f)),
        "jacobia": lambda x: jacobian(f, mode="rev", memory_limit=MEMORY_LIMIT)(x)[...],
    }[library]
    before = memory.peak()
    for x in points:
        wait(call(x))
    rise = (memory.peak() - before) / MIB
    return [Result(f"rise of the peak of resident memory, M = 8000, N = 64, {library}", rise, "MiB")]


FLAT = 8.0  # MiB of growth over the last half: 500 programs that leave 16 KiB each


def many_functions(library: str, quick: bool) -> list[Result]:
    """1,000 different programs made, read and dropped."""
    count = 200 if quick else 1000
    x = jnp.linspace(0.1, 1.0, 8)

    def new(i: int) -> Callable:
        factor, times = 1 + i / 4096, 1 + i % 4

        def f(x):
            for _ in range(times):
                x = jnp.sin(x * factor)
            return x

        return f

    def read(i: int) -> jax.Array:
        return jacobian(new(i))(x)[1] if library == "jacobia" else jax.jit(jax.jacrev(new(i)))(x)[1]

    np.testing.assert_allclose(read(3), jax.jacrev(new(3))(x)[1], rtol=1e-5)
    resident, held = [], []
    for i in range(count):
        wait(read(i))
        if library == "jacobia":
            held.append(jacobia.cache_info().kernels)
        resident.append(memory.resident() / MIB)
    half = np.asarray(resident[count // 2 :])
    rise = float(np.polyfit(np.arange(len(half)), half, 1)[0] * len(half))
    what = f"{count} different functions made, read and dropped, {library}"
    note = f"from {half[0]:.0f} to {half[-1]:.0f} MiB"
    bar = FLAT if library == "jacobia" and not quick else None
    results = [Result(f"{what}: rise of resident memory over the last half", rise, "MiB", bar, note=note)]
    if library == "jacobia":
        results.append(Result(f"{what}: kernels held, at most", max(held), "kernels", jacobia.cache_info().limit))
    return results


BARS: dict[str, Callable[[bool], list[Result]]] = {
    "rows": some_rows,
    **{f"all-{name}": partial(everything, name) for name in WORKLOADS},
    "per-sample": per_sample,
    "shared-weights": shared_weights,
    "remembered": remembered,
    "fresh-lambdas": fresh_lambdas,
    "row-sets-cleared": partial(row_sets, "one view, cleared before each"),
    "row-sets-new-view": partial(row_sets, "a new view for each"),
    "row-sets-one-view": partial(row_sets, "one view, not cleared"),
    "temporaries": temporaries,
    "peak-jacobia": partial(peak, "jacobia"),
    "peak-jacrev": partial(peak, "jitted jacrev"),
    "functions-jacobia": partial(many_functions, "jacobia"),
    "functions-jax": partial(many_functions, "jax.jit"),
    "scan-rows": scan_rows,
    **keys.BARS,
    "plans-ranking": ranking.plans_ranking,
    **second_order.BARS,
    **products.BARS,
    **laplacians.BARS,
    **scaling.BARS,
    **sparse.BARS,
    **plans.BARS,
    **solvers.BARS,
}


def run(names: list[str], quick: bool) -> list[Result]:
    """Run the bars with these names (all, if there are none), one after another, each in a process of its own."""
    results = []
    for name in names or BARS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.bars", name, *(["--quick"] if quick else [])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            lines = done.stdout.splitlines()
            results += [Result(**json.loads(line)) for line in lines if line.startswith('{"bar"')]
        else:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            results.append(Result(name, None, "", note=why))
            print(done.stderr, file=sys.stderr)
    return results


def main(arguments: list[str]) -> None:
    for result in BARS[arguments[0]]("--quick" in arguments):
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
