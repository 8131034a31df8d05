"""What has been computed of a call in one trace: a second read there is the first one's, and is differentiated once.

For calls whose arrays are traced themselves, which last no longer than the trace. Knows answers and traces. Chooses
nothing, and runs nothing.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobia._compat import Tracer, trace_state
from jacobia._plans.request import Answer, Request
from jacobia._run.point import Linearized
from jacobia._store.gather import along

# So many answers of a call are looked through.
_MOST = 16


def answer_in_trace(origin: Linearized, request: Request) -> Answer | None:
    """What an answer of the current trace has of all that is asked for."""
    if origin.in_trace is None or origin.in_trace[0] != trace_state():
        return None
    for made, answer in reversed(origin.in_trace[1]):
        found = _part(origin, made, answer, request)
        if found is not None:
            return found
    return None


def whole_in_trace(origin: Linearized, index: int) -> jax.Array | None:
    """All of a block, `lead + y.shape + x.shape`, where the current trace has computed it."""
    answer = None if origin.in_trace is None else answer_in_trace(origin, Request(index))
    if answer is None:
        return None
    block = origin.blue.blocks[index]
    return answer.cube(origin)[0].reshape(origin.lead + block.row_shape + block.column_shape)


def note_in_trace(origin: Linearized, request: Request, answer: Answer) -> None:
    """Let later reads of the same trace have an answer."""
    if not origin.traced:
        return
    state = trace_state()
    before = origin.in_trace[1] if origin.in_trace is not None and origin.in_trace[0] == state else ()
    origin.in_trace = state, (*before[-_MOST + 1 :], (request, answer))


def _part(origin: Linearized, made: Request, answer: Answer, asked: Request) -> Answer | None:
    if (made.kind, made.block) != (asked.kind, asked.block) or asked.pairs is not None:
        return None
    if made.kind != "lines":
        return answer
    if not (answer.samples is None or _same(asked.samples, answer.samples)):
        return None
    numbers = asked.lines("columns" if answer.turned else answer.way)
    if answer.numbers is None or _same(numbers, answer.numbers):
        return answer
    if numbers is None or isinstance(numbers, Tracer) or isinstance(answer.numbers, Tracer):
        return None
    if not np.isin(numbers, answer.numbers).all():
        return None
    m, n = origin.blue.counts[answer.block]
    by_rows = answer.way == "rows"
    samples = math.prod(origin.lead) if answer.samples is None else len(answer.samples)
    lines = answer.array.reshape((samples, -1, n) if by_rows else (samples, m, -1))
    places = np.searchsorted(answer.numbers, numbers)
    return answer._replace(numbers=numbers, array=along(jnp, lines, places, 1 if by_rows else 2))


def _same(a: Any, b: Any) -> bool:
    # Numbers that are traced may be any, and are the same only as the same object.
    if a is None or b is None or isinstance(a, Tracer) or isinstance(b, Tracer):
        return a is b
    return np.array_equal(a, b)
