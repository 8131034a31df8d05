"""Functions that lack a direction, or whose pullback is not linear: planning again, and the errors to raise.

Knows blocks and errors. Knows nothing of plans.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jacobia._run.blueprint import Block
from jacobia._run.directions import said_by_jax
from jacobia._run.point import Linearized


def by_what_exists(origin: Linearized, blocks: Sequence[Block], work: Callable[[], Any]) -> Any:
    """Do work that is planned for the directions that f is known to have.

    A program is assumed to have both directions until an error of JAX shows otherwise. Then the directions are learned,
    once, and the work is planned again. Any other error is raised, and so is JAX's own if nothing new was learned.
    """
    before = [origin.directions(b) for b in blocks]
    try:
        return work()
    except Exception as error:
        if said_by_jax(error) is None or [origin.learn(b) for b in blocks] == before:
            raise
    return work()


def check_linear(origin: Linearized, block: Block) -> None:
    """Check that the pullback of f is linear, before nonzeros or a pattern are read.

    Raises:
      ValueError: it is not linear, so that f has no nonzeros and no pattern to read.
    """
    if not origin.directions(block).linear:
        raise ValueError(
            f"{origin.blue.name}: expected an f with a linear pullback for nonzeros or a pattern, got a custom_vjp "
            "whose pullback is not linear in its cotangent, as far as its program shows. Read J[...], or set "
            'sparsity="dense".'
        )


def refused(origin: Linearized, block: Block) -> Exception:
    """The error to raise where no direction of f gives rows or columns of a block."""
    blue, known = origin.blue, origin.directions(block)
    call = f"{blue.name}(mode={blue.mode!r})"
    if not known.linear:
        return ValueError(
            f"{call}: expected an f with pushforwards, got one with a custom_vjp whose pullback is not linear in its "
            "cotangent (as seen in its program), which has rows only. Set mode='auto' or mode='rev'."
        )
    said = known.missing[0]
    if blue.mode not in ("fwd", "rev") or not (known.pullback or known.pushforward):
        return said.kind(said.says)
    by = "pullbacks" if blue.mode == "rev" else "pushforwards"
    return said.kind(
        f"{call}: expected an f with {by}, got one for which JAX says: {said.says} Set mode='auto' to use whichever "
        "direction f has."
    )
