"""What is known of a function at shapes where it was called before, for as long as the function lives.

Knows functions and shapes. Holds no array, and no function alive.
"""

import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from jax.tree_util import tree_leaves, tree_structure

from jacobia._call.arguments import is_predicate
from jacobia._program.fingerprint import Identity
from jacobia._view.entry import Entry

# Abstract inputs remembered per function, the oldest go first; and functions, the least recently used go first.
_INPUTS, _FUNCTIONS = 64, 1024
# Combinations of arguments remembered per function, the oldest go first.
_OPTIONS = 64


class Entries:
    """Abstract inputs → what is known of f there; bounded, the oldest go first."""

    def __init__(self) -> None:
        self.known: OrderedDict[Hashable, Entry] = OrderedDict()

    def get(self, key: Hashable) -> Entry | None:
        return self.known.get(key)

    def put(self, key: Hashable, entry: Entry) -> None:
        self.known[key] = entry
        while len(self.known) > _INPUTS:
            self.known.popitem(last=False)


_functions: OrderedDict[int, tuple[weakref.ref, dict]] = OrderedDict()
_functions_lock = threading.Lock()


def entries_of(f: Callable, options: Hashable) -> Entries:
    # By the identity of f, and no longer than f lives. A bound method lives as long as its object.
    owner, name = (f.__self__, f.__func__) if isinstance(f, types.MethodType) else (f, None)
    place = id(owner)
    try:
        ref = weakref.ref(owner, lambda _: _functions.pop(place, None))
    except TypeError:
        return Entries()  # cannot be watched: its entries live as long as this transform
    with _functions_lock:
        known = _functions.get(place)
        if known is None or known[0]() is not owner:
            known = _functions[place] = (ref, {})
        _functions.move_to_end(place)
        while len(_functions) > _FUNCTIONS:
            _functions.popitem(last=False)
        entries = known[1].setdefault((name, options), Entries())
        while len(known[1]) > _OPTIONS:  # one may hold a large pattern
            known[1].pop(next(iter(known[1])))
        return entries


def where_key(where: Any) -> Hashable:
    if where is None or is_predicate(where):
        return None if where is None else Identity(where)
    return tree_structure(where), tuple(tree_leaves(where))
