"""Pictures of sparsity patterns: in braille characters, and on matplotlib axes.

Knows row and column numbers, a shape, and a color for each entry. Knows nothing of derivatives.
Shapes: M rows, N columns, nnz entries.
"""

from typing import Any

import numpy as np

# A braille character has 4 x 2 dots. Each dot is one bit, added to the code of the empty character.
_FIRST, _DOTS = 0x2800, np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
# At most this many cells along each side of a plot: each cell is at least a pixel, so no entry is lost.
_CELLS = 256
# A matrix whose sides differ by more than this factor is stretched to fill its axes.
_LONG = 8


def braille(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], lines: int, characters: int) -> list[str]:
    """A picture of a pattern in braille characters, between brackets. A dot is a cell with at least one entry.

    Args:
      lines: the maximal number of lines.
      characters: the maximal number of characters in a line, brackets included.
    """
    (m, n), most = shape, (4 * max(1, lines), 2 * max(1, characters - 2))
    if not m or not n:
        return []
    steps = np.maximum(1, [-(-m // most[0]), -(-n // most[1])])
    if max(shape) <= _LONG * min(shape):
        steps[:] = steps.max()  # square cells: the same step in both directions
    dots = np.zeros((-(-m // steps[0]) + 3 & ~3, -(-n // steps[1]) + 1 & ~1), bool)
    dots[rows // steps[0], cols // steps[1]] = True
    codes = _FIRST + np.einsum("abcd,bd->ac", dots.reshape(len(dots) // 4, 4, -1, 2), _DOTS)
    text = ["".join(map(chr, line)) for line in codes]
    if len(text) == 1:
        return [f"[{text[0]}]"]
    left, right = ("⎡", *"⎢" * (len(text) - 2), "⎣"), ("⎤", *"⎥" * (len(text) - 2), "⎦")
    return [a + line + b for a, line, b in zip(left, text, right, strict=True)]


def axes_for(ax: Any, call: str) -> Any:
    """The axes to draw on: `ax` if given, otherwise the axes of a new figure.

    Raises:
      ImportError: matplotlib is not installed.
      TypeError: `ax` is not axes of matplotlib.
    """
    if ax is not None:
        if not hasattr(ax, "imshow"):
            raise TypeError(
                f"{call}: expected the axes of matplotlib to draw on, got {type(ax).__name__}. Leave ax out, or write "
                "ax=plt.gca()."
            )
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{call}: expected matplotlib, got no such package. Install it: pip install "jacobia[plot]".'
        ) from error
    return plt.subplots(layout="constrained")[1]


def is_dark(ax: Any) -> bool:
    """Whether the axes are darker than middle gray. The palest color of a color map must then be its darkest."""
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(ax.get_facecolor()), (0.299, 0.587, 0.114))) < 0.5


def show(ax: Any, image: np.ndarray, shape: tuple[int, int], **kwargs: Any) -> Any:
    """Draw an image of a whole matrix. The axes count rows and columns, however many cells the image has."""
    (m, n), is_long = shape, max(shape) > _LONG * min(shape)
    settings = {"interpolation": "nearest", "aspect": "auto" if is_long else "equal"}
    settings |= {"extent": (-0.5, max(n, 1) - 0.5, max(m, 1) - 0.5, -0.5)}
    return ax.imshow(image if image.size else np.full((1, 1), np.nan), **(settings | kwargs))


def bounds(shape: tuple[int, int]) -> list[np.ndarray]:
    """The bounds of the cells of a plot along each axis: equal cells, of which the last may be cut off."""
    steps = [max(1, -(-k // _CELLS)) for k in shape]
    return [np.arange(0, k + step, step).clip(max=k) for k, step in zip(shape, steps, strict=True)]


def cells(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The cell of each entry of a matrix, shape (nnz,); and the bounds of the cells along each axis."""
    found = bounds(shape)
    down, across = (np.searchsorted(b, k, side="right") - 1 for b, k in zip(found, (rows, cols), strict=True))
    return down * (len(found[1]) - 1) + across, found


def fullness(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The density of each cell relative to the densest. A cell that is cut off at an end counts its own area only."""
    place, found = cells(rows, cols, shape)
    heights, widths = map(np.diff, found)
    filled = np.bincount(place, minlength=heights.size * widths.size).reshape(heights.size, widths.size)
    filled = filled / np.outer(heights, widths)
    return filled / (filled.max(initial=0) or 1)


def colored(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], colors: np.ndarray) -> np.ndarray:
    """The color of the first entry in each cell; NaN for a cell without entries."""
    place, (down, across) = cells(rows, cols, shape)
    image = np.full((down.size - 1, across.size - 1), np.nan)
    filled, first = np.unique(place, return_index=True)
    image.flat[filled] = colors[first]
    return image
