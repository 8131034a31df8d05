"""The demo: which pixels change the score of a class?

Trains a small network on scikit-learn's handwritten digits, reads single rows of its Jacobian for images that it was
not trained on, draws them, and compares the time with jitted `jax.jacrev`.
Optional packages (extra `demo`) are imported inside functions, so that importing jacobia needs none of them.
Shapes: B images, 64 pixels each, 10 classes.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._transform import jacobian

SIDE = 8  # the images are SIDE x SIDE pixels
FIRST, SECOND = 8, 3  # the two classes whose rows are read, in this order
HIDDEN = 256

Params = list[tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Report:
    """The results of one run of the demo. Times are medians, in seconds."""

    images: int
    accuracy: float
    pullbacks_first: int  # after J[:, FIRST]; one pullback serves all images
    pullbacks_both: int  # after J[:, [SECOND, FIRST]] on the same view
    seconds_view: float
    seconds_dense: float
    difference: float  # largest absolute difference between jacobia and jax.jacrev
    picture: Path


def run(
    out: str | Path = "sensitivities.png",
    *,
    seed: int = 0,
    epochs: int = 40,
    images: int | None = None,
    rounds: int = 30,
) -> Report:
    """Train the network, read rows of its Jacobians, draw them, and time them.

    Args:
      out: the path of the picture; its suffix chooses the format.
      seed: the seed of the train/test split, of the initial weights and of the order of the batches.
      epochs: passes over the training images.
      images: how many unseen images to read rows for; None: all 450.
      rounds: how many calls of each variant are timed.

    Returns:
      A `Report`.

    Raises:
      ImportError: a package of the extra `demo` is missing.
    """
    _check_packages()
    pixels, labels, unseen_pixels, unseen_labels = _digits(seed)
    params = _train(pixels, labels, unseen_pixels, unseen_labels, seed=seed, epochs=epochs)
    accuracy = _accuracy(params, unseen_pixels, unseen_labels)
    x = unseen_pixels[:images]

    def logits(image):
        return _network(params, image)

    # One lazy Jacobian for each image, shape (B, 10, 64): no derivative is computed yet.
    lazy = jax.jit(jax.vmap(jacobian(logits)))
    J = lazy(x)
    J[:, FIRST]
    pullbacks_first = J.stats.pullbacks
    both = J[:, [SECOND, FIRST]]
    pullbacks_both = J.stats.pullbacks

    dense = jax.jit(jax.vmap(jax.jacrev(logits)))
    (seconds_view, by_view), (seconds_dense, by_dense) = _time_in_turn(
        lambda: lazy(x)[:, FIRST], lambda: dense(x)[:, FIRST], rounds=rounds
    )

    picture = _draw(Path(out), np.asarray(x), np.asarray(unseen_labels), params, np.asarray(both))
    return Report(
        images=len(x),
        accuracy=accuracy,
        pullbacks_first=pullbacks_first,
        pullbacks_both=pullbacks_both,
        seconds_view=seconds_view,
        seconds_dense=seconds_dense,
        difference=float(np.abs(np.asarray(by_view) - np.asarray(by_dense)).max()),
        picture=picture,
    )


def describe(report: Report) -> str:
    """The report, as the command line prints it."""
    more = report.pullbacks_both - report.pullbacks_first
    ratio = report.seconds_dense / report.seconds_view
    verdict = f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower"
    shape = (report.images, 10, SIDE * SIDE)
    return f"""\
The network gets {report.accuracy:.1%} of the unseen images right.
J = jit(vmap(jacobian(network)))(images): {report.images} lazy Jacobians, shape {shape}
  J[:, {FIRST}]       ran {_pullbacks(report.pullbacks_first)}, for all images together; all ten rows take 10
  J[:, [{SECOND}, {FIRST}]]  ran {_pullbacks(more)} more: row {FIRST} was remembered
The row of class {FIRST} for every image, median time:
  a new J, then J[:, {FIRST}]                {_milliseconds(report.seconds_view)}
  jitted jax.jacrev, all rows, sliced  {_milliseconds(report.seconds_dense)}
J[:, {FIRST}] is {verdict}; it is one row of ten, so 10 times is about the most there is to gain.
The two answers differ by at most {report.difference:.1e}.
Saved {report.picture}"""


def _pullbacks(count: int) -> str:
    return f"{count} pullback" if count == 1 else f"{count} pullbacks"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:8.2f} ms"


def _check_packages() -> None:
    packages = {"sklearn": "scikit-learn", "tqdm": "tqdm", "matplotlib": "matplotlib"}
    missing = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(f'the demo needs {", ".join(missing)}: pip install "jacobia[demo]"')


def _digits(seed: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)  # the data are integers from 0 to 16
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=450, stratify=labels, random_state=seed
    )
    return jnp.asarray(train_x), jnp.asarray(train_y), jnp.asarray(test_x), jnp.asarray(test_y)


def _network(params: Params, image: jax.Array) -> jax.Array:
    *hidden, (w, b) = params
    for v, c in hidden:
        image = jax.nn.gelu(image @ v + c)
    return image @ w + b


def _first_params(key: jax.Array) -> Params:
    widths = (SIDE * SIDE, HIDDEN, HIDDEN, 10)
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m))
        for k, n, m in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def _loss(params: Params, pixels: jax.Array, labels: jax.Array) -> jax.Array:
    scores = jax.nn.log_softmax(_network(params, pixels))
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()


def _accuracy(params: Params, pixels: jax.Array, labels: jax.Array) -> float:
    return float((_network(params, pixels).argmax(axis=1) == labels).mean())


def _train(pixels, labels, unseen_pixels, unseen_labels, *, seed, epochs, batch=128, rate=2e-3) -> Params:
    from tqdm import tqdm

    @jax.jit
    def epoch(params, moments, key, count):
        def step(carry, rows):
            params, (mean, square), key, count = carry
            key, noise_key = jax.random.split(key)
            # Noise on the inputs keeps the sensitivities smooth enough to look at.
            noisy = pixels[rows] + 0.3 * jax.random.normal(noise_key, (batch, SIDE * SIDE))
            loss, grads = jax.value_and_grad(_loss)(params, noisy, labels[rows])
            # Adam (Kingma and Ba, arXiv:1412.6980), with its usual constants.
            count = count + 1
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
            square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, grads)
            params = jax.tree.map(
                lambda p, m, s: p - rate * (m / (1 - 0.9**count)) / (jnp.sqrt(s / (1 - 0.999**count)) + 1e-8),
                params,
                mean,
                square,
            )
            return (params, (mean, square), key, count), loss

        key, order_key = jax.random.split(key)
        steps = len(pixels) // batch
        order = jax.random.permutation(order_key, len(pixels))[: steps * batch].reshape(steps, batch)
        (params, moments, key, count), losses = jax.lax.scan(step, (params, moments, key, count), order)
        return params, moments, key, count, losses.mean()

    key, params_key = jax.random.split(jax.random.key(seed))
    params = _first_params(params_key)
    zeros = jax.tree.map(jnp.zeros_like, params)
    moments, count = (zeros, zeros), jnp.zeros(())
    with tqdm(range(epochs), desc="training", unit="epoch") as bar:
        for _ in bar:
            params, moments, key, count, loss = epoch(params, moments, key, count)
            accuracy = _accuracy(params, unseen_pixels, unseen_labels)
            bar.set_postfix(loss=f"{float(loss):.3f}", accuracy=f"{accuracy:.1%}")
    return params


def _time_in_turn(*calls: Callable[[], jax.Array], rounds: int) -> list[tuple[float, jax.Array]]:
    # Calls alternate, so that a drift of the machine's speed affects all of them alike.
    answers = [jax.block_until_ready(call()) for call in calls]  # warm
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            taken.append(time.perf_counter() - start)
    return [(statistics.median(taken), answer) for taken, answer in zip(seconds, answers, strict=True)]


def _draw(out: Path, x: np.ndarray, labels: np.ndarray, params: Params, both: np.ndarray) -> Path:
    # both: rows SECOND and FIRST of every image, shape (B, 2, 64).
    from matplotlib.figure import Figure

    seen_as = np.asarray(_network(params, jnp.asarray(x)).argmax(axis=1))
    chosen = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10) if (labels == digit).any()]
    limit = float(np.abs(both[chosen]).max())

    # Figure instead of pyplot: no global state, no display needed.
    figure = Figure(figsize=(1.25 * len(chosen) + 2.2, 5.2), layout="constrained")
    grid = figure.subplots(3, len(chosen), squeeze=False)
    figure.suptitle("Which pixels move the score of a class? Two rows of each image's Jacobian", fontsize=14)
    drawn = []
    for column, i in zip(grid.T, chosen, strict=True):
        image = x[i].reshape(SIDE, SIDE)
        column[0].imshow(image, cmap="gray_r", vmin=0, vmax=1)
        column[0].set_title(f"{labels[i]}, seen as {seen_as[i]}", fontsize=10)
        for axes, row in ((column[1], both[i, 1]), (column[2], both[i, 0])):
            drawn.append(axes.imshow(row.reshape(SIDE, SIDE), cmap="RdBu_r", vmin=-limit, vmax=limit))
            # The outline of the digit; the white margin closes it at the border.
            at = np.arange(-1, SIDE + 1)
            axes.contour(at, at, np.pad(image, 1), levels=[0.5], colors="black", linewidths=0.9)
            axes.set_xlim(-0.6, SIDE - 0.4)
            axes.set_ylim(SIDE - 0.4, -0.6)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], ("image", f"score of {FIRST}", f"score of {SECOND}"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    bar = figure.colorbar(drawn[0], ax=grid[1:, :], shrink=0.85, pad=0.01)
    bar.set_label("change of the score per unit of ink\nred: ink raises it, blue: ink lowers it", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out
