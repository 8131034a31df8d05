"""Entries: what is known of a function at the abstract inputs of earlier calls. They live as long as the function.

Knows functions and shapes. Knows nothing of derivatives. Keeps no function alive, and no array of a call.
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

# Limits: abstract inputs per function (the oldest is dropped first), and functions (the least recently used first).
_INPUTS, _FUNCTIONS = 64, 1024
# Limit: combinations of options per function. The oldest is dropped first.
_OPTIONS = 64


class Entries:
    """Abstract input → `Entry` of f there. Bounded: the oldest is dropped first."""

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
    # Found by the identity of f, and kept only while f lives. For a bound method, the owner is its object: the method
    # object itself is made anew at each access.
    owner, name = (f.__self__, f.__func__) if isinstance(f, types.MethodType) else (f, None)
    place = id(owner)
    try:
        ref = weakref.ref(owner, lambda _: _functions.pop(place, None))
    except TypeError:
        return Entries()  # no weak references to f: its entries live as long as the transform
    with _functions_lock:
        known = _functions.get(place)
        if known is None or known[0]() is not owner:
            known = _functions[place] = (ref, {})
        _functions.move_to_end(place)
        while len(_functions) > _FUNCTIONS:
            _functions.popitem(last=False)
        entries = known[1].setdefault((name, options), Entries())
        while len(known[1]) > _OPTIONS:  # options may hold a large pattern
            known[1].pop(next(iter(known[1])))
        return entries


def where_key(where: Any) -> Hashable:
    if where is None or is_predicate(where):
        return None if where is None else Identity(where)
    return tree_structure(where), tuple(tree_leaves(where))
