"""Progress bars (tqdm) for work of more than a second. Off by default.

`jacobia.config.progress = True` or `progress=True` turns them on.
Knows steps and time. Knows nothing of what the steps compute.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

_Step = TypeVar("_Step")

# In seconds: a bar appears after _DELAY, and is redrawn every _TICK.
_DELAY, _TICK = 1.0, 0.2


class Config:
    """Settings of this process.

    Attributes:
      progress: whether work of more than a second shows a bar, in a terminal or a notebook; a bool, False by default.
        Bars are shown for chunks, for blocks, for reading large programs, for compiling and for computing. A read then
        waits for its computation. If the output is a file, there is no bar.
    """

    __slots__ = ("_progress",)

    def __init__(self) -> None:
        self._progress = False

    @property
    def progress(self) -> bool:
        return self._progress

    @progress.setter
    def progress(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"jacobia.config.progress = ...: expected True or False, got {value!r}.")
        if value:
            _tqdm("jacobia.config.progress = True")
        self._progress = value

    def __repr__(self) -> str:
        return f"Config(progress={self._progress})"


config = Config()
"""Settings of this process. `config.progress = True` shows a bar for work of more than a second (package tqdm)."""


def _tqdm(asked: str) -> Any:
    try:
        if find_spec("ipywidgets") is None:  # tqdm.auto would warn in a notebook
            from tqdm import tqdm
        else:
            from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            f"{asked}: expected the package tqdm, got none. Install it: pip install 'jacobia[progress]'."
        ) from None
    return tqdm


def check_progress(call: str, progress: Any) -> None:
    """Raise a `TypeError` unless `progress` is None, True or False."""
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"{call}(progress=...): expected True, False or None, got {progress!r}.")


def shown(
    steps: Iterable[_Step],
    total: int,
    size: Callable[[_Step], int],
    what: str,
    progress: bool | None = None,
    done: int = 0,
) -> Iterator[_Step]:
    """Yield the same steps, and show a bar.

    Args:
      steps: the steps.
      total: the number of units of all steps, with `done` units that were finished before the first step.
      size: the number of units of a step.
      what: the name of a unit, in the singular.
      progress: whether to show the bar. None: as `config.progress` says, and only after a second.
      done: the number of units that are finished already.
    """
    if not (config.progress if progress is None else progress):
        yield from steps
        return
    quiet: dict[str, Any] = {"disable": None, "delay": _DELAY} if progress is None else {}
    with _tqdm("progress=True")(total=total, initial=done, unit=f" {what}", **quiet) as bar:
        for step in steps:
            yield step
            bar.update(size(step))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show `what` and the elapsed time while the body runs, once it has run for a second."""
    if not config.progress:
        yield
        return
    tqdm, over = _tqdm("jacobia.config.progress = True"), threading.Event()

    def tick() -> None:
        if not over.wait(_DELAY):
            with tqdm(desc=what, bar_format="{desc}: {elapsed}", leave=False, disable=None) as bar:
                while not over.wait(_TICK):
                    bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
