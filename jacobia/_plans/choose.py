"""The plans for a request, in order: the first one runs, the next one where there is no room for the first.

A further way is one more file, and a line here.
Knows every plan, and stores only as far as something is missing in them. Knows no kernel.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax

from jacobia._errors import MaterializationError
from jacobia._plans.colors import by_colors, pattern_of
from jacobia._plans.diagonal import diagonals
from jacobia._plans.lines import lines, lines_of_all
from jacobia._plans.mirror import reflected, store_of
from jacobia._plans.nonzeros import accumulated
from jacobia._plans.of_all import nonzeros_of_all
from jacobia._plans.on_diagonal import out_of_nonzeros
from jacobia._plans.pairs import pairs
from jacobia._plans.picked import picked
from jacobia._plans.plan import Plan, known
from jacobia._plans.recall import nonzeros_known, recall
from jacobia._plans.request import Answer, Request
from jacobia._plans.samples import few_samples
from jacobia._plans.take import note, put
from jacobia._plans.traced import answer_in_trace, note_in_trace
from jacobia._plans.whole import at_once
from jacobia._run.missing import by_what_exists
from jacobia._run.point import Linearized
from jacobia._store.lines import alive

# A matrix of so few entries, of which every second one can be nonzero, is computed as a dense one: the kernel of its
# lines takes a part of the time to compile.
_SMALL, _HARDLY_SPARSE = 64 * 64, 2


def plans(origin: Linearized, request: Request) -> Iterator[Plan]:
    """What could be done for one block, of which something may be remembered."""
    return _PLANS[request.kind](origin, request)


def plans_in_trace(origin: Linearized, request: Request) -> Iterator[Plan]:
    """The same as part of a trace, where nothing is remembered and numbers may be traced."""
    return (_lines_in_trace if request.kind == "lines" else _PLANS[request.kind])(origin, request)


def _lines(origin: Linearized, request: Request) -> Iterator[Plan]:
    few = few_samples(origin, request)
    if few is not None:
        yield few
        return
    if store_of(origin, request.block).whole() is not None:
        yield known(origin, request, "all of it is known")
        return
    yield from recall(origin, request)
    missing = _missing(origin, request)
    if missing is None:
        yield known(origin, request, "everything asked for is known")
        return
    yield from pairs(origin, request, missing)
    yield from _computing(origin, missing, request)


def _lines_in_trace(origin: Linearized, request: Request) -> Iterator[Plan]:
    few = few_samples(origin, request, remembers=False)
    if few is not None:
        yield few
    else:
        yield from _computing(origin, request, request)


def _computing(origin: Linearized, missing: Request, asked: Request) -> Iterator[Plan]:
    if missing.asks == "all":
        yield from at_once(origin, missing)
    yield from lines(origin, missing, asked)


def _nonzeros(origin: Linearized, request: Request) -> Iterator[Plan]:
    if origin.remembers and alive(store_of(origin, request.block).nonzeros):
        yield known(origin, request, "all of its nonzeros are known")
    elif origin.blue.sparsity == "dense":
        yield nonzeros_of_all(origin, request, pattern_of(origin, request.block), 'sparsity="dense"')
    elif origin.blue.sparsity != "auto":
        yield from by_colors(origin, request)
    else:
        pattern, size = pattern_of(origin, request.block), math.prod(origin.blue.counts[request.block])
        if origin.remembers and store_of(origin, request.block).whole() is not None:
            yield nonzeros_of_all(origin, request, pattern, "")
        elif not origin.lead and 0 < size <= min(_SMALL, _HARDLY_SPARSE * pattern.nnz):
            small = picked if origin.compiles else nonzeros_of_all
            yield small(origin, request, pattern, "it is small and hardly sparse, so that lines compile sooner")
        yield from accumulated(origin, request)


def _diagonal(origin: Linearized, request: Request) -> Iterator[Plan]:
    if not (origin.remembers and alive(store_of(origin, request.block).diagonal)):
        yield from out_of_nonzeros(origin, request)
    yield from diagonals(origin, request)


_PLANS = {"lines": _lines, "nonzeros": _nonzeros, "diagonal": _diagonal}


def _missing(origin: Linearized, request: Request) -> Request | None:
    # What a read by rows would compute, and what one by columns would; None where either is nothing.
    store, found = store_of(origin, request.block), []
    for of, numbers in ((store.rows, request.rows), (store.columns, request.columns)):
        count = of.num_missing(numbers)
        if not count:
            return None
        found.append(None if count == of.count else of.missing(numbers))
    return Request(request.block, *found)


def there_is_room(plans: Iterator[Plan]) -> tuple[list[Plan], str]:
    """Some plans, the one that would run first of all, and why none would, if so."""
    found = list(plans)
    refused = []
    for k, plan in enumerate(found):
        error = _refusal(plan)
        if error is None:
            return [plan, *found[:k], *found[k + 1 :]], ""
        refused.append(error)
    return found, str(refused[0])


def _refusal(plan: Plan) -> MaterializationError | None:
    try:
        plan.check()
    except MaterializationError as error:
        return error
    return None


def run(origin: Linearized, indices: Sequence[int], plans: Callable[[], Iterator[Plan]]) -> tuple[Plan, list[Answer]]:
    """Run the first plan that there is room for, by the directions that f has.

    Raises:
      MaterializationError: of the first plan, where there is room for none.
    """

    def work() -> tuple[Plan, list[Answer]]:
        refused = []
        for plan in plans():
            error = _refusal(plan)
            if error is None:
                return plan, plan.run()  # what f raises is no reason to try another one
            refused.append(error)
        raise refused[0]

    return by_what_exists(origin, [origin.blue.blocks[k] for k in indices], work)


def fulfil(origin: Linearized, request: Request) -> tuple[Plan, list[Answer]]:
    """Compute what is missing of a block, and remember it."""
    plan, answers = run(origin, [request.block], lambda: plans(origin, request))
    put(origin, answers)
    return plan, answers


def compute(origin: Linearized, request: Request) -> Answer:
    """What is asked for of a block, computed whatever is remembered of other points; once in a trace."""
    found = answer_in_trace(origin, request)
    if found is None:
        answers = run(origin, [request.block], lambda: plans_in_trace(origin, request))[1]
        note(origin, answers)
        note_in_trace(origin, request, found := answers[0])
    return found


def compute_all(origin: Linearized, index: int) -> jax.Array:
    """All of a block, `(*lead, M, N)`, the same way."""
    cube, _ = compute(origin, Request(index)).cube(origin)
    return cube.reshape(origin.lead + origin.blue.counts[index])


# Several blocks of one call, in one kernel call


def fulfil_together(origin: Linearized, requests: Sequence[Request]) -> None:
    """Compute what is missing of some blocks, and remember it."""
    missing, asked, images = [], [], set()
    for request in requests:
        if store_of(origin, request.block).whole() is not None:
            continue
        if reflected(origin.blue, request, asked) is not None:
            images.add(request.block)
        elif nonzeros_known(origin, request.block):
            fulfil(origin, request)
        elif (part := _missing(origin, request)) is not None:
            missing.append(part)
            asked.append(request)
    if len(asked) == 1 and not images:
        fulfil(origin, asked[0])
    elif asked:
        put(origin, _run_together(origin, missing, asked, frozenset(images)))


def compute_together(origin: Linearized, requests: Sequence[Request]) -> list[Answer]:
    """What is asked for of some blocks, as part of a trace; nothing is remembered."""
    own = [k for k, r in enumerate(requests) if reflected(origin.blue, r, requests[:k]) is None]
    if len(own) == 1:
        answers = [compute(origin, requests[own[0]])]
    else:
        missing = [requests[k] for k in own]
        note(origin, answers := _run_together(origin, missing, missing, frozenset()))
        for request, answer in zip(missing, answers, strict=False):
            note_in_trace(origin, request, answer)
    found = dict(zip(own, answers, strict=False))
    for k, request in enumerate(requests):
        if k not in found:
            image = reflected(origin.blue, request, requests[:k])
            answer = found[next(n for n in own if requests[n] is image)]
            found[k] = answer._replace(turned=not answer.turned)
    return [found[k] for k in range(len(requests))]


def _run_together(
    origin: Linearized, missing: Sequence[Request], asked: Sequence[Request], images: frozenset[int]
) -> list[Answer]:
    return run(origin, [r.block for r in missing], lambda: lines_of_all(origin, missing, asked, images))[1]
