"""The plans for a request, in order of preference: the first plan whose result fits in memory runs.

A new way is one more file in this folder, and one line here.
Knows every plan, and which lines a store lacks. Knows nothing of kernels.
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

# A matrix of at most _SMALL entries, of which one in _HARDLY_SPARSE or more can be nonzero, is computed as a dense
# matrix: the kernel for its lines compiles in a fraction of the time.
_SMALL, _HARDLY_SPARSE = 64 * 64, 2


def plans(origin: Linearized, request: Request) -> Iterator[Plan]:
    """The plans for a request for one block. Its store may already hold a part of the answer."""
    return _PLANS[request.kind](origin, request)


def plans_in_trace(origin: Linearized, request: Request) -> Iterator[Plan]:
    """The plans for a request inside a trace, where no store is used and the numbers of lines may be traced."""
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
            why = "the block is small and hardly sparse: a kernel for its lines compiles faster"
            yield small(origin, request, pattern, why)
        yield from accumulated(origin, request)


def _diagonal(origin: Linearized, request: Request) -> Iterator[Plan]:
    if not (origin.remembers and alive(store_of(origin, request.block).diagonal)):
        yield from out_of_nonzeros(origin, request)
    yield from diagonals(origin, request)


_PLANS = {"lines": _lines, "nonzeros": _nonzeros, "diagonal": _diagonal}


def _missing(origin: Linearized, request: Request) -> Request | None:
    # The rows that a read by rows would compute, and the columns that a read by columns would compute. None where no
    # requested row or no requested column is missing: then the known lines cover the request.
    store, found = store_of(origin, request.block), []
    for of, numbers in ((store.rows, request.rows), (store.columns, request.columns)):
        missing = None if numbers is None and not of.pieces else of.missing(numbers)
        if missing is not None and not missing.size:
            return None
        found.append(None if missing is None or missing.size == of.count else missing)
    return Request(request.block, *found)


def there_is_room(plans: Iterator[Plan]) -> tuple[list[Plan], str]:
    """The plans with the one that would run moved to the front, and the reason where none would run (else "")."""
    found = list(plans)
    refused = []
    for k, plan in enumerate(found):
        error = refusal(plan.check)
        if error is None:
            return [plan, *found[:k], *found[k + 1 :]], ""
        refused.append(error)
    return found, str(refused[0])


def refusal(check: Callable[[], None]) -> MaterializationError | None:
    """The error of a check that something does not fit in memory; None: it fits."""
    try:
        check()
    except MaterializationError as error:
        return error
    return None


def run(origin: Linearized, indices: Sequence[int], plans: Callable[[], Iterator[Plan]]) -> tuple[Plan, list[Answer]]:
    """Run the first plan whose result fits in memory, by a direction that f has.

    Raises:
      MaterializationError: no plan fits; the error is that of the first plan.
    """

    def work() -> tuple[Plan, list[Answer]]:
        refused = []
        for plan in plans():
            error = refusal(plan.check)
            if error is None:
                return plan, plan.run()  # an error raised by f is no reason to try another plan
            refused.append(error)
        raise refused[0]

    return by_what_exists(origin, [origin.blue.blocks[k] for k in indices], work)


def fulfil(origin: Linearized, request: Request) -> tuple[Plan, list[Answer]]:
    """Compute what the store of a block lacks for a request, and put it into the store."""
    plan, answers = run(origin, [request.block], lambda: plans(origin, request))
    put(origin, answers)
    return plan, answers


def compute(origin: Linearized, request: Request) -> Answer:
    """Compute a request for a block, whatever the store holds; within one trace, only once."""
    found = answer_in_trace(origin, request)
    if found is None:
        answers = run(origin, [request.block], lambda: plans_in_trace(origin, request))[1]
        note(origin, answers)
        note_in_trace(origin, request, found := answers[0])
    return found


def compute_all(origin: Linearized, index: int) -> jax.Array:
    """Compute all of a block, as an array `(*lead, M, N)`, as `compute` does."""
    cube, _ = compute(origin, Request(index)).cube(origin)
    return cube.reshape(origin.lead + origin.blue.counts[index])


# Several blocks of one call, in one kernel call


def fulfil_together(origin: Linearized, requests: Sequence[Request]) -> None:
    """Compute what the stores of several blocks lack for these requests, and put it into the stores."""
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
    """Compute requests for several blocks inside a trace; no store is used."""
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
