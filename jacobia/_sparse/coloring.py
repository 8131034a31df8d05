"""Colorings: which rows and columns of a pattern can be computed together and told apart again.

Knows patterns. Knows nothing of derivatives or of f.
Shapes: M outputs, N inputs, nnz entries, C colors.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jacobia._sparse import files
from jacobia._sparse.pattern import Pattern, digest
from jacobia._sparse.picture import axes_for, colored, show
from jacobia._words import counted

PARTITIONS = ("rows", "columns", "both", "symmetric")
_VERSION = 1


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Coloring:
    """Colors of the rows or columns of a pattern, one seed each. Immutable, and a pytree whose leaves are its arrays.

    `Coloring(pattern, partition, colors)` checks colors that come from elsewhere; `coloring` finds some.

    Attributes:
      pattern: what is colored, shape (M, N).
      partition: "rows", "columns", "both" or "symmetric".
      colors: int32, read-only, 0 to `num_colors` - 1; a line of color -1 is in no seed. Shape (M,) for "rows", (N,) for
        "columns" and "symmetric", (M + N,) for "both": rows, then columns, whose colors go on where those of rows end.
      num_colors: C, the number of seeds. The first `num_row_colors` of them are colors of rows.
      lower_bound: no coloring of this partition has fewer colors. It may not be reachable.
      by_rows: booleans, shape (nnz,). For "both": whether an entry is read from a row color; for "symmetric": whether
        entry (i, j) is read as entry (j, i). None for "rows" and "columns".

    Raises:
      ValueError: the partition is not one of these four, or the colors are not a coloring of the pattern.
    """

    pattern: Pattern
    partition: str
    colors: np.ndarray
    by_rows: np.ndarray | None
    num_row_colors: int
    num_colors: int
    lower_bound: int

    def __init__(self, pattern: Pattern, partition: str, colors: Any):
        check_arguments("Coloring", pattern, partition, PARTITIONS)
        colors = _checked(pattern, partition, colors)
        num_colors, num_row_colors = int(colors.max(initial=-1)) + 1, 0
        if partition in ("rows", "both"):
            num_row_colors = int(colors[: pattern.shape[0]].max(initial=-1)) + 1
        static = (partition, num_row_colors, num_colors, lower_bound(pattern, partition))
        _fill(self, pattern, colors, None, static)
        object.__setattr__(self, "by_rows", _readable(self))

    @property
    def row_colors(self) -> Any:
        """Colors of the rows, 0 to `num_row_colors` - 1 or -1, shape (M,); None if rows have none."""
        if self.partition in ("columns", "symmetric"):
            return None
        return self.colors[: self.pattern.shape[0]]

    @property
    def column_colors(self) -> Any:
        """Colors of the columns, 0 to C - `num_row_colors` - 1 or -1, shape (N,); None if columns have none."""
        if self.partition == "rows":
            return None
        if self.partition != "both":
            return self.colors
        colors = self.colors[self.pattern.shape[0] :]
        return colors - np.int32(self.num_row_colors) * (colors >= 0)  # arithmetic: colors may be traced

    def save(self, path: str | os.PathLike) -> None:
        """Write it and its pattern to a file, for `Coloring.load`."""
        pattern = self.pattern
        arrays = {"rows": pattern.rows, "cols": pattern.cols, "shape": np.array(pattern.shape), "colors": self.colors}
        files.write(path, "coloring", _VERSION, arrays | {"partition": np.array(self.partition)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Coloring":
        """Read what `save` wrote, and check it.

        Raises:
          OSError: there is no such file.
          ValueError: the file is of another kind, newer than this version of the package, or damaged.
        """
        arrays = files.read(path, "coloring", _VERSION, ("rows", "cols", "shape", "colors", "partition"))
        try:
            pattern = Pattern(arrays["rows"], arrays["cols"], tuple(arrays["shape"]))
            return cls(pattern, str(arrays["partition"]), arrays["colors"])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Coloring.load(path={os.fspath(path)!r}): expected a coloring, got a damaged one ({error}). "
                "Write it again with Coloring.save."
            ) from error

    def plot(self, ax: Any = None, **kwargs: Any) -> Any:
        """Plot the pattern, each entry in the color that it is read from; of large patterns an entry of each cell.

        Args:
          ax: the matplotlib axes to draw on; by default those of a new figure.
          **kwargs: for `ax.imshow`.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          TypeError: `ax` is not axes of matplotlib.
        """
        ax = axes_for(ax, "Coloring.plot(ax=...)")
        rows, cols = self.pattern.rows, self.pattern.cols
        image = colored(rows, cols, self.pattern.shape, self._entry_colors())
        settings = {"cmap": _palette(self.num_colors), "vmin": -0.5, "vmax": max(self.num_colors, 1) - 0.5} | kwargs
        show(ax, image, self.pattern.shape, **settings)
        m, n = (counted(k, what, ",") for k, what in zip(self.pattern.shape, ("rows", "columns"), strict=True))
        of = {"rows": m, "both": f"{m} and {n}"}.get(self.partition, n)
        ax.set_xlabel(f"{counted(self.num_colors, 'colors')} for {of}, at least {self.lower_bound}")
        return ax

    def _entry_colors(self) -> np.ndarray:
        # The seed that each entry is read from, shape (nnz,).
        rows, cols = self.pattern.rows, self.pattern.cols
        if self.partition == "rows":
            return self.colors[rows]
        if self.by_rows is None:
            return self.colors[cols]
        by_row = self.colors[rows]
        by_column = self.colors[cols + (self.pattern.shape[0] if self.partition == "both" else 0)]
        return np.where(self.by_rows, by_row, by_column)

    def __repr__(self) -> str:
        count = f"num_colors={self.num_colors}, lower_bound={self.lower_bound}"
        if self.partition == "both":
            count += f", num_row_colors={self.num_row_colors}"
        shape = getattr(self.pattern, "shape", None)  # while JAX looks at a tree, anything may be in its place
        return f"Coloring(partition={self.partition!r}, {count}, shape={shape})"

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Coloring):
            return self is other
        same = self.partition == other.partition and self.pattern == other.pattern
        return same and np.array_equal(self.colors, other.colors)

    @cached_property
    def _digest(self) -> int:
        return digest(repr((hash(self.pattern), self.partition)), self.colors)

    def __hash__(self) -> int:
        return self._digest

    def __reduce__(self) -> tuple:
        return Coloring, (self.pattern, self.partition, self.colors)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        static = (self.partition, self.num_row_colors, self.num_colors, self.lower_bound)
        return (self.pattern, self.colors, self.by_rows), static

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: Any) -> "Coloring":
        pattern, colors, by_rows = leaves  # JAX may put any objects in place of arrays
        return _fill(object.__new__(cls), pattern, colors, by_rows, static)


def _fill(coloring: Coloring, pattern: Any, colors: Any, by_rows: Any, static: tuple) -> Coloring:
    names = ("pattern", "colors", "by_rows", "partition", "num_row_colors", "num_colors", "lower_bound")
    for name, value in zip(names, (pattern, colors, by_rows, *static), strict=True):
        object.__setattr__(coloring, name, value)
    return coloring


def lower_bound(pattern: Pattern, partition: str) -> int:
    """A number of colors that no coloring of this partition can go below."""
    per_row, per_column = (np.bincount(ids, minlength=1) for ids in (pattern.rows, pattern.cols))
    if partition == "rows":
        return int(per_column.max())
    if partition == "columns":
        return int(per_row.max())
    # A color gives one number for each row, or column, that has entries; `different` numbers must be read.
    lines = max(np.count_nonzero(per_row), np.count_nonzero(per_column))
    different = pattern.nnz
    if partition == "symmetric":
        different = np.count_nonzero(pattern.rows <= pattern.cols)
    return int(-(-different // max(1, lines)))


def alone(lines: np.ndarray, colors: np.ndarray, num_lines: int, num_colors: int) -> np.ndarray:
    """Which entries are the only one of their color in their line; booleans, shape (nnz,).

    Args:
      lines: the line of each entry: its row if the colors are of columns; shape (nnz,).
      colors: the color of each entry, 0 to `num_colors` - 1, or -1, which is never alone; shape (nnz,).
    """
    key = lines.astype(np.int64) * (num_colors + 1) + (colors + 1)
    size = num_lines * (num_colors + 1)
    if size <= 4 * len(key) + 10**6:
        once = np.bincount(key, minlength=size)[key] == 1
    else:
        order = np.argsort(key)
        new = np.concatenate([[True], key[order][1:] != key[order][:-1], [True]])
        once = np.empty(len(key), bool)
        once[order] = new[1:] & new[:-1]
    return once & (colors >= 0)


def _palette(num_colors: int) -> Any:
    # As many colors as there are, neighbors far apart.
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if num_colors <= 10:
        return ListedColormap(colormaps["tab10"](np.arange(max(num_colors, 1))))
    wheel = np.arange(num_colors) * 0.618034 % 1  # the golden ratio
    return ListedColormap(colormaps["turbo"](0.05 + 0.9 * wheel))


def _readable(coloring: Coloring) -> np.ndarray | None:
    # `by_rows`: where each entry is read. Raises if an entry can't be read.
    pattern, partition = coloring.pattern, coloring.partition
    m, n = pattern.shape
    row_colors, column_colors = coloring.row_colors, coloring.column_colors
    if partition == "symmetric":
        row_colors = column_colors  # row i is read as column i
    by_column = by_row = None
    if column_colors is not None:
        by_column = alone(pattern.rows, column_colors[pattern.cols], m, coloring.num_colors)
    if row_colors is not None:
        by_row = alone(pattern.cols, row_colors[pattern.rows], n, coloring.num_colors)
    found = by_column if by_row is None else by_row if by_column is None else by_row | by_column
    assert found is not None
    if not found.all():
        entry = int(found.argmin())
        sides = [("column", pattern.cols, pattern.rows, column_colors), ("row", pattern.rows, pattern.cols, row_colors)]
        if partition == "symmetric":
            sides[1] = ("column", *sides[1][1:])
        told = [_hidden(entry, *side) for side in sides if side[3] is not None]
        raise ValueError(
            "Coloring(colors=...): expected every entry to be readable from one color, got entry "
            f"({pattern.rows[entry]}, {pattern.cols[entry]}): {', and '.join(dict.fromkeys(told))}. "
            "Give lines that clash different colors, or write jacobia.coloring(pattern)."
        )
    if by_row is None or by_column is None:
        return None
    by_rows = ~by_column
    by_rows.setflags(write=False)
    return by_rows


def _hidden(entry: int, name: str, ids: np.ndarray, across: np.ndarray, colors: Any) -> str:
    # Why an entry can't be read from the color of its row or column.
    color = colors[ids[entry]]
    if color < 0:
        return f"{name} {ids[entry]} has no color"
    others = ids[(across == across[entry]) & (colors[ids] == color)]
    first, second = sorted((int(ids[entry]), int(others[others != ids[entry]][0])))
    crossing = "row" if name == "column" else "column"
    return f"{name}s {first} and {second} of color {color} both have an entry in {crossing} {across[entry]}"


def _checked(pattern: Pattern, partition: str, colors: Any) -> np.ndarray:
    colors = np.asarray(colors)
    m, n = pattern.shape
    expected = {"rows": m, "both": m + n}.get(partition, n)
    if colors.shape != (expected,):
        what = {"rows": "row", "both": "row, then every column,"}.get(partition, "column")
        raise ValueError(
            f"Coloring(colors=...): expected shape {(expected,)}, got {colors.shape}. "
            f"Give one number for every {what} of a pattern of shape {pattern.shape}."
        )
    if colors.dtype.kind not in "iu" and colors.size:
        raise TypeError(f"Coloring(colors=...): expected integers, got {colors.dtype}. Number the colors from 0.")
    if colors.size and (colors.min() < -1 or colors.max() >= max(expected, 1)):
        raise ValueError(
            f"Coloring(colors=...): expected numbers from -1 (no color) to {expected - 1}, got {colors.min()} to "
            f"{colors.max()}. Number the colors from 0."
        )
    if partition == "both":
        last, first = colors[:m].max(initial=-1), colors[m:][colors[m:] >= 0].min(initial=m + n)
        if first <= last:
            raise ValueError(
                "Coloring(colors=...): expected the colors of columns to start after the last color of rows, got "
                f"{first} for a column and {last} for a row. A row and a column share no seed: add {last + 1} to the "
                "colors of columns."
            )
    colors = np.array(colors, np.int32)
    colors.setflags(write=False)
    return colors


def check_arguments(call: str, pattern: Any, partition: Any, partitions: tuple[str, ...]) -> None:
    """Raise unless `pattern` is a `Pattern` that has a coloring of this partition."""
    if not isinstance(pattern, Pattern):
        of_view = hasattr(type(pattern), "pattern")
        hint = "Make one with Pattern.from_dense, from_scipy, from_bcoo or from_coo"
        raise TypeError(
            f"{call}(pattern=...): expected a Pattern, got {type(pattern).__name__}. "
            f"{f'Write {call}(J.pattern)' if of_view else hint}."
        )
    if partition not in partitions:
        raise ValueError(
            f"{call}(partition={partition!r}): expected one of {', '.join(map(repr, partitions))}, got {partition!r}. "
            "Rows take pullbacks, columns pushforwards."
        )
    if partition != "symmetric":
        return
    m, n = pattern.shape
    if m != n:
        raise ValueError(
            f"{call}(partition='symmetric'): expected a square pattern, got shape {pattern.shape}. "
            "Color rows, columns or both."
        )
    if pattern.T != pattern:
        rows, cols = pattern.rows.astype(np.int64), pattern.cols.astype(np.int64)
        key = rows * n + cols
        i, j = divmod(int(key[~np.isin(key, cols * n + rows)][0]), n)
        raise ValueError(
            f"{call}(partition='symmetric'): expected a symmetric pattern, got entry ({i}, {j}) without ({j}, {i}). "
            "Color rows, columns or both, or add the missing entries."
        )
