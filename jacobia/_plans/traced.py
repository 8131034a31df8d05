"""What has been computed of a call in its trace: a second read is the first one's, and is differentiated once.

For calls whose arrays are traced themselves, and what is computed in their own trace, which both last no longer than
that; what an inner trace computes (a step of a loop, a branch) is not kept. Inner traces may use it all the same.
Knows answers and traces. Chooses nothing, and runs nothing.
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
