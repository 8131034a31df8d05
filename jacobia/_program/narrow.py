"""The narrowest cut of a program: the fewest elements that everything its outputs learn of its inputs goes through.

Knows values, what each is made of, and sizes. Knows nothing of what the values mean.

References:
  Ford, Fulkerson, "Maximal flow through a network", Canadian J. Math. 8 (1956), doi:10.4153/CJM-1956-045-5: the
    narrowest cut is as wide as the largest flow.
  Even, "An algorithm for determining whether the connectivity of a graph is at least k", SIAM J. Comput. 4 (1975):
    cuts of vertices, each of which is split in two.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np


class Value:
    """A value of a program that is read. `sources`: those moving values that it is made of; None: it does not move."""

    __slots__ = ("aval", "sources")

    def __init__(self, aval: Any, sources: list["Value"] | None = None):
        # What has no elements does not move.
        self.aval, self.sources = aval, sources if getattr(aval, "size", 0) else None


class Step(NamedTuple):
    """One equation of a program without calls."""

    eqn: Any
    ins: list  # values, or arrays
    outs: list[Value]


class Flat(NamedTuple):
    """A program without calls."""

    inputs: list[Value]  # that do not move
    moving: list[Value]
    steps: list[Step]
    outs: list[Value]


def moves(v: Any) -> bool:
    """Whether it is a value that depends on the moving inputs."""
    return isinstance(v, Value) and v.sources is not None


def moving(values: Sequence) -> list[Value]:
    """Those of some values that move."""
    return [v for v in values if moves(v)]


def narrowest(program: Flat, most: int, never: Collection[Value] = (), ends: Sequence[Value] = ()) -> list[Value]:
    """The narrowest cut between the moving inputs and the outputs; of several, the one next to the inputs.

    Args:
      most: of a cut with more elements nothing is returned.
      never: values that no cut may hold.
      ends: values beyond which no cut may be, besides the outputs.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    # Each value is an edge between two nodes.
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
