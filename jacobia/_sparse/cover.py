"""Entries at pairs of a row and a column, such as those of a mask: the fewest rows and columns that hold them all.

Knows numbers of rows and columns. Knows nothing of derivatives or of what is remembered.
"""

from typing import NamedTuple

import numpy as np


class Cross(NamedTuple):
    """Rows and columns, sorted, that together hold all requested entries."""

    rows: np.ndarray
    columns: np.ndarray


def cross(rows: np.ndarray, columns: np.ndarray) -> Cross:
    """The fewest rows and columns that hold the entries (rows[k], columns[k]).

    References:
      König, "Gráfok és mátrixok", Matematikai és Fizikai Lapok 38 (1931): a bipartite graph has a vertex cover as small
        as its largest matching, found by following alternating paths from the rows that are not matched.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_bipartite_matching

    own, row = np.unique(rows, return_inverse=True)
    other, column = np.unique(columns, return_inverse=True)
    m, n, row, column = len(own), len(other), row.reshape(-1), column.reshape(-1)
    entries = csr_array((np.ones(len(row), np.int32), (row, column)), (m, n))
    match = maximum_bipartite_matching(entries, perm_type="column")  # of each row; -1: none
    matched, free = np.flatnonzero(match >= 0), np.flatnonzero(match < 0)
    # Edges from a source to the unmatched rows, from a row along its entries, from a column back along its match.
    start = m + n
    tails = np.concatenate([np.full(len(free), start), row, m + match[matched]])
    heads = np.concatenate([free, m + column, matched])
    graph = csr_array((np.ones(len(tails), np.int32), (tails, heads)), (start + 1, start + 1))
    reached = np.zeros(start + 1, bool)
    reached[breadth_first_order(graph, start, return_predecessors=False)] = True
    return Cross(own[~reached[:m]], other[reached[m:start]])
