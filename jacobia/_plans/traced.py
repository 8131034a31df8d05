"""What has been computed of a call in its trace: a second read is the first one's, and is differentiated once.

For calls whose arrays are traced themselves, and what is computed in their own trace, which both last no longer than
that; what an inner trace computes (a step of a loop, a branch) is not kept. Inner traces may use it all the same.
Knows answers and traces. Chooses nothing, and runs nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, trace_state
from jacobia._plans.request import Answer, Request
from jacobia._plans.ways import key_of
from jacobia._run.point import Linearized
from jacobia._store.gather import along, places

# So many answers of a call are looked through.
_MOST = 16


def answer_in_trace(origin: Linearized, request: Request) -> Answer | None:
    """What an answer of the current trace has of all that is asked for."""
    for made, answer in reversed(origin.in_trace):
        found = _part(origin, made, answer, request)
        if found is not None:
            return found
    return None


def whole_in_trace(origin: Linearized, index: int) -> jax.Array | None:
    """All of a block, `lead + y.shape + x.shape`, where the current trace has computed it."""
    answer = answer_in_trace(origin, Request(index)) if origin.in_trace else None
    if answer is None:
        return None
    block = origin.blue.blocks[index]
    return answer.cube(origin)[0].reshape(origin.lead + block.row_shape + block.column_shape)


def note_in_trace(origin: Linearized, request: Request, answer: Answer) -> None:
    """Let later reads of the same trace have an answer."""
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
