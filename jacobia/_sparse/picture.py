"""Pictures of entries: in characters, and on the axes of matplotlib.

Knows row and column numbers, a shape, and what an entry is worth. Knows nothing of derivatives.
Shapes: M rows, N columns, nnz entries.
"""

from typing import Any

import numpy as np

# The dots of a braille character, 4 high and 2 wide, are bits on top of its first code.
_FIRST, _DOTS = 0x2800, np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
# Cells along each side of a plot: no smaller than a pixel, so none is lost.
_CELLS = 256
# A matrix so many times longer than wide fills its axes.
_LONG = 8


def braille(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], lines: int, characters: int) -> list[str]:
    """A picture in braille characters, in brackets: a dot where an entry is, or at least one of a cell of entries.

    Args:
      lines, characters: the most that the picture may take, brackets among them.
    """
    (m, n), most = shape, (4 * max(1, lines), 2 * max(1, characters - 2))
    if not m or not n:
        return []
    steps = np.maximum(1, [-(-m // most[0]), -(-n // most[1])])
    if max(shape) <= _LONG * min(shape):
        steps[:] = steps.max()  # a dot is as high as wide
    dots = np.zeros((-(-m // steps[0]) + 3 & ~3, -(-n // steps[1]) + 1 & ~1), bool)
    dots[rows // steps[0], cols // steps[1]] = True
    codes = _FIRST + np.einsum("abcd,bd->ac", dots.reshape(len(dots) // 4, 4, -1, 2), _DOTS)
    text = ["".join(map(chr, line)) for line in codes]
    if len(text) == 1:
        return [f"[{text[0]}]"]
    left, right = ("⎡", *"⎢" * (len(text) - 2), "⎣"), ("⎤", *"⎥" * (len(text) - 2), "⎦")
    return [a + line + b for a, line, b in zip(left, text, right, strict=True)]


def axes_for(ax: Any, call: str) -> Any:
    """The axes to draw on: those given, or those of a new figure.

    Raises:
      ImportError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{call}: expected matplotlib, got no such package. Install it: pip install "jacobia[plot]".'
        ) from error
    return plt.subplots(layout="constrained")[1]


def is_dark(ax: Any) -> bool:
    """Whether the axes are darker than middle gray: the palest color of a map is then to be its darkest."""
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(ax.get_facecolor()), (0.299, 0.587, 0.114))) < 0.5


def show(ax: Any, image: np.ndarray, shape: tuple[int, int], **kwargs: Any) -> Any:
    """An image of a whole matrix, whatever the number of its cells: the axes count rows and columns."""
    (m, n), is_long = shape, max(shape) > _LONG * min(shape)
    settings = {"interpolation": "nearest", "aspect": "auto" if is_long else "equal"}
    settings |= {"extent": (-0.5, max(n, 1) - 0.5, max(m, 1) - 0.5, -0.5)}
    return ax.imshow(image if image.size else np.zeros((1, 1)), **(settings | kwargs))


def cells(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Equal cells of a matrix: the cell of each entry, shape (nnz,), and where cells begin and end, each way."""
    steps = [max(1, -(-k // _CELLS)) for k in shape]
    bounds = [np.arange(0, k + step, step).clip(max=k) for k, step in zip(shape, steps, strict=True)]
    return rows // steps[0] * (len(bounds[1]) - 1) + cols // steps[1], bounds


def fullness(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How full the cells are, relative to the fullest; those at the ends are cut off."""
    place, bounds = cells(rows, cols, shape)
    heights, widths = map(np.diff, bounds)
    filled = np.bincount(place, minlength=heights.size * widths.size).reshape(heights.size, widths.size)
    filled = filled / np.outer(heights, widths)
    return filled / (filled.max(initial=0) or 1)


def colored(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], colors: np.ndarray) -> np.ndarray:
    """The color of the first entry in each cell; NaN where there is none."""
    place, bounds = cells(rows, cols, shape)
    image = np.full((bounds[0].size - 1, bounds[1].size - 1), np.nan)
    found, first = np.unique(place, return_index=True)
    image.flat[found] = colors[first]
    return image
