"""Progress of what takes longer than a second, by tqdm: off, until `jacobia.config.progress = True` or `progress=True`.

Knows steps and time. Knows nothing of what the steps compute.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_Step = TypeVar("_Step")

# What takes less than so many seconds shows nothing; what takes longer is drawn anew so often.
_DELAY, _TICK = 1.0, 0.2


class Config:
    """Settings of this process.

    Attributes:
      progress: whether whatever takes longer than a second shows a bar, in a terminal or a notebook: chunks, blocks,
        reading large programs, compiling, and computing, which is then waited for. A bool; False by default. A bar in a
        file of output would be noise, so there is none.
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
"""Settings of this process. `config.progress = True` shows a bar for what takes longer than a second (package tqdm)."""


def _tqdm(asked: str) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            f"{asked}: expected the package tqdm, got none. Install it: pip install 'jacobia[progress]'."
        ) from None
    return tqdm


def shown(
    steps: Iterable[_Step],
    total: int,
    size: Callable[[_Step], int],
    what: str,
    progress: bool | None = None,
    done: int = 0,
) -> Iterator[_Step]:
    """The same steps, with a bar.

    Args:
      total: how many units all steps have; `done` of them before the first one.
      size: how many a step has.
      what: what the units are, in the singular.
      progress: None: as `config.progress` says, and after a second.
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
    """Show that this is being done, and for how long, after a second of it."""
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
