"""How a view shows itself: as one line, as HTML in a notebook, in treescope. Nothing is computed or waited for.

Knows what is remembered, and explanations of plans. Knows nothing of any particular plan.
Shapes: M rows, N columns of the view as a matrix.
"""

import html
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jacobia._plans.mirror import own_image, store_of
from jacobia._read.block import LiveBlock
from jacobia._read.considered import explain
from jacobia._store.lines import Store, alive
from jacobia._words import array_word, counted, readable

# The picture of the known rows and columns: at most _CELLS cells each way, in an area of _WIDTH x _HEIGHT pixels, with
# sides of at least _LEAST pixels.
_CELLS = 120
_WIDTH, _HEIGHT, _LEAST = 200, 140, 14
_NAME = 80  # characters of the name of f
_BAND = 2  # thinner bands, in pixels, would be invisible


class _Known(NamedTuple):
    text: str
    nbytes: int


def line(J: LiveBlock) -> str:
    """The view on one line: its dtype and shape, what is known of it, the bytes of that, and the device."""
    return _joined(J, _told(J))


def _joined(J: LiveBlock, told: Iterable[str]) -> str:
    return f"{type(J).__name__}({', '.join(told)})"


def _told(J: LiveBlock) -> Iterator[str]:
    yield array_word(J._layout.block.dtype, J._layout.shape)
    if J._origin.traced:
        yield "traced"
        return
    known = _known(J)
    yield known.text
    if known.nbytes:
        yield readable(known.nbytes)
    if where := _where(J):
        yield where


def _known(J: LiveBlock) -> _Known:
    origin = J._origin
    if 0 in J._layout.shape:
        return _Known("empty", 0)
    if isinstance(_input(J), jax.ShapeDtypeStruct):
        return _Known("a shape alone", 0)
    if not origin.lock.acquire(blocking=False):  # a display must not wait for a kernel
        return _Known("being read by another thread", 0)
    try:
        store = origin.stores.get(J._index)  # which a view has once something is read of it
        if store is None:
            return _Known("nothing known", 0)
        return _Known(_words(J, store), store.nbytes)
    finally:
        origin.lock.release()


def _words(J: LiveBlock, store: Store) -> str:
    if store.complete:
        return "all known"
    if alive(store.nonzeros):
        return "all nonzeros known"
    parts = [f"{what} {known}/{lines.count}" for what, lines in _lines(J, store) if (known := lines.known())]
    samples = [p.samples for p in store.patches.values() if p.samples]
    if samples:
        count = len(samples[0]) if len(samples) == 1 else len(set().union(*samples))
        parts.append(f"lines of {count}/{math.prod(J._layout.lead)} samples")
    if alive(store.diagonal):
        parts.append("diagonal")
    return (", ".join(parts) or "nothing") + " known"


def _lines(J: LiveBlock, store: Store) -> list[tuple[str, Any]]:
    # The remembered lines with their names in this view: the rows of a transpose are columns of the block.
    if own_image(J._origin.blue, J._index):
        return [("rows and columns", store.rows)]
    names = ("columns", "rows") if J._layout.turn else ("rows", "columns")
    return list(zip(names, (store.rows, store.columns), strict=True))


def _where(J: LiveBlock) -> str:
    if (spread := J._origin.blue.spread) is not None:
        return f"{counted(spread.size, 'devices')} over {spread.axis!r}"
    leaf = _input(J)
    if getattr(leaf, "is_deleted", bool)():
        return "point deleted"
    devices = leaf.devices() if hasattr(leaf, "devices") else ()
    if len(devices) > 1:
        return f"{len(devices)} devices"
    return "".join(f"{d.platform}:{d.id}" for d in devices)


def _input(J: LiveBlock) -> Any:
    # The leaf of the point that the columns belong to.
    return J._origin.leaves[J._origin.blue.positions[J._layout.block.ins[0]]]


# Notebooks


def page(J: LiveBlock) -> str:
    """The view as self-contained HTML, without scripts or files, in the colors of the notebook."""
    if J._origin.traced or not J._origin.lock.acquire(blocking=False):
        return _page(J, [], "", "")
    try:
        nbytes = math.prod(J._layout.shape) * J._layout.block.dtype.itemsize
        facts = [
            ("memory", f"{readable(_known(J).nbytes)} now, {readable(nbytes)} for all of it"),
            ("device", _where(J)),
        ]
        details, store = "", store_of(J._origin, J._index)
        if alive(store.full) or not store.complete:  # otherwise the mirror knows all, and explaining would transpose it
            plan, details = _plan(J)
            facts.insert(1, ("J[...]", plan))
        return _page(J, facts, _picture(J, store), details)
    finally:
        J._origin.lock.release()


def _plan(J: LiveBlock) -> tuple[str, str]:
    # What J[...] would do or raise, and the table of plans.
    try:
        told = explain(J, ...)
        if told.way != "none":
            J._origin.check_alive()
    except Exception as error:  # shown instead of the plan: a display must not raise
        return f"raises: {error}", ""
    plan = f"raises: {told.refused}" if told.refused else told.to_do()
    return plan, f"<details><summary>explain</summary>{told.details()}</details>"


def _page(J: LiveBlock, facts: list[tuple[str, str]], picture: str, details: str) -> str:
    word, known, *_ = told = list(_told(J))
    name = "" if J._origin.source is None else f' <span class="jacobia-of">{html.escape(_name(J))}</span>'
    rows = "".join(
        f"<tr><th>{html.escape(what)}</th><td>{html.escape(text)}</td></tr>"
        for what, text in [("known", known.removesuffix(" known")), *facts]
        if text
    )
    return (
        f"<div>{_STYLE}<pre class='jacobia-text'>{html.escape(_joined(J, told))}</pre>"
        f"<div class='jacobia-view' style='display:none'>"
        f"<div class='jacobia-head'><b>{type(J).__name__}</b> <code>{html.escape(word)}</code>{name}</div>"
        f"<div class='jacobia-body'>{picture}<table>{rows}</table></div>{details}</div></div>"
    )


def _name(J: LiveBlock) -> str:
    # A name of f may hold anything, and asking for the name may run code of the user's.
    transform = J._origin.source[0]
    try:
        name = str(transform.__name__)
    except Exception:
        name = transform._options.name
    return "".join(c if c.isprintable() else "?" for c in name[:_NAME])


def _picture(J: LiveBlock, store: Store) -> str:
    """An SVG picture of the matrix, with the known rows and columns as bands."""
    block = J._layout.block
    m, n = math.prod(block.row_shape), math.prod(block.column_shape)
    if store.complete or alive(store.nonzeros):
        rows, columns = np.ones(1), np.zeros(1)
    else:
        rows, columns = (lines.shares(_CELLS) for lines in (store.rows, store.columns))
    if J._layout.turn:
        (m, rows), (n, columns) = (n, columns), (m, rows)
    if not m or not n:
        return ""
    scale = min(_WIDTH / n, _HEIGHT / m)
    wide, high = max(_LEAST, round(n * scale)), max(_LEAST, round(m * scale))
    bands = "".join(
        f'<rect x="{x:.5g}" y="{y:.5g}" width="{w:.5g}" height="{h:.5g}" fill-opacity="{share:.2g}"/>'
        for x, y, w, h, share in (
            *((0, min(high * a, high - _BAND), wide, max(high * (b - a), _BAND), s) for a, b, s in _runs(rows)),
            *((min(wide * a, wide - _BAND), 0, max(wide * (b - a), _BAND), high, s) for a, b, s in _runs(columns)),
        )
    )
    return (
        f'<svg width="{wide + 2}" height="{high + 2}" viewBox="-1 -1 {wide + 2} {high + 2}" role="img" '
        f'aria-label="what is known of {counted(m, "rows")} and {counted(n, "columns")}">'
        f'<rect class="jacobia-frame" width="{wide}" height="{high}"/>{bands}</svg>'
    )


def _runs(shares: np.ndarray) -> Iterator[tuple[float, float, float]]:
    # Merge neighboring cells of about the same known share into a band from a to b, fractions of the side. The smallest
    # share is drawn at opacity 0.4, so that it is visible.
    levels = np.where(shares > 0, 0.4 + 0.6 * np.round(shares * 4) / 4, 0)
    starts = np.flatnonzero(np.diff(levels, prepend=-1))
    for a, b in zip(starts, [*starts[1:], levels.size], strict=True):
        if levels[a]:
            yield a / levels.size, b / levels.size, float(levels[a])


# An untrusted notebook drops the style, and so shows the text instead of the HTML.
_STYLE = """<style>
.jacobia-text{display:none}
.jacobia-view{display:block!important;font-size:13px;line-height:1.5;
color:var(--jp-content-font-color1,var(--vscode-editor-foreground,inherit))}
.jacobia-view code,.jacobia-view pre{background:none;color:inherit}
.jacobia-of{opacity:.65;margin-left:.5em}
.jacobia-body{display:flex;gap:14px;align-items:flex-start;margin:4px 0}
.jacobia-view table{border-collapse:collapse;margin:0;background:none;color:inherit;font-size:inherit}
.jacobia-view th,.jacobia-view td{padding:0 10px 0 0;text-align:left!important;vertical-align:top;border:0;
background:none;font-weight:normal;white-space:normal;max-width:none}
.jacobia-view th{opacity:.65}
.jacobia-view tr{background:none!important;border:0}
.jacobia-view svg{flex:none;fill:var(--jp-brand-color1,#3572b0)}
.jacobia-frame{fill:none;stroke:var(--jp-border-color1,currentColor);stroke-opacity:.6}
.jacobia-view summary{cursor:pointer;opacity:.65}
.jacobia-view details>div{white-space:pre-wrap}
</style>"""


def in_treescope(J: LiveBlock, path: str | None) -> Any:
    """The line as a treescope node. treescope then shows the HTML of the object beneath it."""
    from treescope import rendering_parts as parts

    return parts.build_one_line_tree_node(line(J), path)
