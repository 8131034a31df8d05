"""Answers computed in the trace of a call: a second read in that trace reuses the answer of the first.

Only for calls whose own arrays are traced, and only answers made in the trace of those arrays: call and answers end
with the trace. What an inner trace computes (a step of a loop, a branch) is not kept, but an inner trace may use what
the outer one computed.
Knows answers and traces. Knows nothing of plans: it chooses nothing and runs nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, trace_state
from jacobia._plans.request import Answer, Request
from jacobia._plans.ways import key_of
from jacobia._run.point import Linearized
from jacobia._store.gather import along, places

# The number of answers kept for one call: each read looks through all of them.
_MOST = 16


def answer_in_trace(origin: Linearized, request: Request) -> Answer | None:
    """The answer to a request, taken from what the trace of the call has already computed; None: it has not."""
    for made, answer in reversed(origin.in_trace):
        found = _part(origin, made, answer, request)
        if found is not None:
            return found
    return None


def whole_in_trace(origin: Linearized, index: int) -> jax.Array | None:
    """All of a block, `lead + y.shape + x.shape`, if the trace of the call has computed it; else None."""
    answer = answer_in_trace(origin, Request(index)) if origin.in_trace else None
    if answer is None:
        return None
    block = origin.blue.blocks[index]
    return answer.cube(origin)[0].reshape(origin.lead + block.row_shape + block.column_shape)


def note_in_trace(origin: Linearized, request: Request, answer: Answer) -> None:
    """Keep an answer for later reads in the same trace."""
    if origin.traced and origin.made_in == trace_state():
        origin.in_trace = (*origin.in_trace[-_MOST + 1 :], (request, answer))


def _part(origin: Linearized, made: Request, answer: Answer, asked: Request) -> Answer | None:
    if (made.kind, made.block) != (asked.kind, asked.block) or asked.pairs is not None:
        return None
    if made.kind != "lines":
        return answer
    if answer.samples is not None and key_of(asked.samples) != key_of(answer.samples):
        return None
    way = "columns" if answer.turned else answer.way
    numbers = asked.lines(way)
    if answer.numbers is None or key_of(numbers) == key_of(answer.numbers):
        return answer
    if numbers is None or isinstance(numbers, Tracer) or isinstance(answer.numbers, Tracer):
        return None
    if not np.isin(numbers, answer.numbers).all():
        return None
    lines = along(jnp, answer.cube(origin)[0], places(numbers, answer.numbers), 1 if way == "rows" else 2)
    return Answer(asked.block, way, numbers, lines, samples=answer.samples)
