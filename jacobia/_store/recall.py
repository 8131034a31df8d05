"""Lines out of nonzeros that are remembered: put into the store, and not computed again.

Knows patterns and stores. Knows nothing of derivatives.
"""

import numpy as np

from jacobia._run.point import Linearized
from jacobia._sparse.pattern import Pattern
from jacobia._store.lines import Store, aligned


def recall(origin: Linearized, index: int, store: Store, rows: np.ndarray | None, columns: np.ndarray | None) -> None:
    """Make what is wanted of a block (None: all) known, where its nonzeros are and dense lines fit into memory.

    Of many samples nothing is recalled.
    """
    data = store.nonzeros
    if data is None or data.is_deleted() or origin.lead or store.whole() is not None:
        return
    block, pattern, data = origin.blue.blocks[index], store.pattern, np.asarray(data)
    if rows is None and columns is None:
        if _fits(origin, pattern.shape[0], pattern.shape[1], data):
            full = _dense_rows(pattern, data, np.arange(pattern.shape[0]))
            store.set_whole(origin.placed(full.reshape(block.row_shape + block.column_shape)))
    elif rows is not None:
        rows = store.rows.missing(rows)
        if rows.size and _fits(origin, rows.size, pattern.shape[1], data):
            lines = _dense_rows(pattern, data, rows)
            store.rows.put(rows, origin.placed(lines.reshape(-1, *block.column_shape)))
    else:
        columns = store.columns.missing(columns)
        if columns.size and _fits(origin, columns.size, pattern.shape[0], data):
            as_rows = store.mirror is not None  # over there
            lines = _dense_rows(pattern.T, data[pattern.by_column], columns, last=not as_rows)
            shape = (-1, *block.row_shape) if as_rows else (*block.row_shape, -1)
            store.columns.put(columns, origin.placed(lines.reshape(shape)))


def _fits(origin: Linearized, lines: int, length: int, data: np.ndarray) -> bool:
    # Otherwise it is left to the computation to say what does not fit, and what to write instead.
    need = lines * length * data.itemsize
    limit = origin.limit(need)
    return limit is None or need <= limit


def _dense_rows(pattern: Pattern, data: np.ndarray, rows: np.ndarray, last: bool = False) -> np.ndarray:
    # (R, N), or (N, R) with the axis of rows last.
    first, count = pattern.indptr[rows], pattern.indptr[rows + 1] - pattern.indptr[rows]
    place = np.repeat(np.arange(len(rows)), count)
    entry = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    shape, at = (len(rows), pattern.shape[1]), (place, pattern.cols[entry])
    out = aligned(shape[::-1] if last else shape, data.dtype)
    out[...] = 0
    out[at[::-1] if last else at] = data[entry]
    return out
