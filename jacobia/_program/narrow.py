"""The narrowest cut of a program: the fewest elements through which its outputs depend on its inputs.

Knows values, their sources and their sizes. Knows nothing of what the values mean.

References:
  Ford, Fulkerson, "Maximal flow through a network", Canadian J. Math. 8 (1956), doi:10.4153/CJM-1956-045-5: the
    narrowest cut is as wide as the largest flow.
  Even, "An algorithm for determining whether the connectivity of a graph is at least k", SIAM J. Comput. 4 (1975):
    vertex cuts, by splitting each vertex in two.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np


class Value:
    """A value of a program. It moves if it depends on the moving inputs: `sources` are the moving values it is made of.

    `sources` is None for a value that does not move.
    """

    __slots__ = ("aval", "sources")

    def __init__(self, aval: Any, sources: list["Value"] | None = None):
        # A value without elements does not move.
        self.aval, self.sources = aval, sources if getattr(aval, "size", 0) else None


class Step(NamedTuple):
    """One equation of a program without calls."""

    eqn: Any
    ins: list  # `Value`s, or arrays (literals and constants)
    outs: list[Value]


class Flat(NamedTuple):
    """A program without calls."""

    inputs: list[Value]  # those that do not move
    moving: list[Value]  # those that do
    steps: list[Step]
    outs: list[Value]


def moves(v: Any) -> bool:
    """Whether this is a `Value` that depends on the moving inputs."""
    return isinstance(v, Value) and v.sources is not None


def moving(values: Sequence) -> list[Value]:
    """The values among these that move."""
    return [v for v in values if moves(v)]


def narrowest(program: Flat, most: int, never: Collection[Value] = (), ends: Sequence[Value] = ()) -> list[Value]:
    """The narrowest cut between the moving inputs and the outputs; of several, the one next to the inputs.

    Args:
      most: if the cut has more elements, an empty list is returned.
      never: values that may not be in the cut.
      ends: more values that, like the outputs, must be in the cut or behind it.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    # Each value is an edge between two nodes, with its size as capacity.
    made = [v for step in program.steps for v in moving(step.outs)]
    inputs, wide = moving(program.moving), most + 1
    values = inputs + made
    place = {v: 2 * k for k, v in enumerate(values)}
    source, sink = 2 * len(values), 2 * len(values) + 1
    edges = [(source, place[v]) for v in inputs]
    edges += [(place[u] + 1, place[v]) for v in made for u in v.sources or ()]
    edges += [(place[v] + 1, sink) for v in dict.fromkeys([*moving(program.outs), *ends])]
    sizes = [wide if v in never else min(v.aval.size, wide) for v in values]
    heads, tails = np.asarray([(p, p + 1) for p in place.values()] + edges, np.int32).T
    widths = np.asarray(sizes + [wide] * len(edges), np.int32)
    graph = csr_array((widths, (heads, tails)), (sink + 1, sink + 1))
    found = maximum_flow(graph, source, sink)
    if found.flow_value > most:
        return []
    left = csr_array(graph - found.flow)
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return [v for v, p in place.items() if reached[p] and not reached[p + 1]]
