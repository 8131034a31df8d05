"""Values that have been found out and will be needed again: a cache with one owner, a lock and a limit.

Knows nothing of what it holds.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Any

# Most values that are held, for one program at one kind of arguments.
LIMIT = 2048

_MISSING: Any = object()


class Found:
    """Values, by what they are and a key: `found.find("cost", ("rows", 0), compute)`. The oldest are dropped first."""

    __slots__ = ("_lock", "_values", "limit")

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Hashable], Any] = {}

    def get(self, what: str, key: Hashable = None, default: Any = None) -> Any:
        """The value; `default` where it has not been found."""
        return self._values.get((what, key), default)

    def put(self, what: str, key: Hashable, value: Any) -> Any:
        """Hold a value, and give it back."""
        with self._lock:
            self._values[what, key] = value
            self._shrink()
        return value

    def find(self, what: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value; `make` is called if it has not been found. If two threads make it at once, the first one stays."""
        value = self._values.get((what, key), _MISSING)
        if value is not _MISSING:
            return value
        made = make()
        with self._lock:
            made = self._values.setdefault((what, key), made)
            self._shrink()
        return made

    def _shrink(self) -> None:
        while len(self._values) > self.limit:
            self._values.pop(next(iter(self._values)))

    def __len__(self) -> int:
        return len(self._values)
