"""Short text for people: counts, bytes, arrays. Never computes.

Knows numbers, shapes and dtypes. Knows nothing of views.
"""

import re
from typing import Any

import numpy as np


def counted(count: int, what: str, spec: str = "") -> str:
    """A count, formatted by `spec`, with its noun: "1 row" or "3 rows". `what` is the plural of the noun."""
    one = what.removesuffix("es") if what.endswith("sses") else re.sub("ies$", "ys", what).removesuffix("s")
    return f"{count:{spec}} {one if count == 1 else what}"


def readable(nbytes: int) -> str:
    """A number of bytes in readable units, such as "1.5 MB": powers of 1000."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return counted(nbytes, "bytes")


def array_word(dtype: Any, shape: tuple[int, ...]) -> str:
    """The dtype and shape of an array in one word, such as `f32[1000,784]`."""
    name = np.dtype(dtype).name
    for long, short in (("bfloat", "bf"), ("float", "f"), ("complex", "c"), ("uint", "u"), ("int", "i")):
        if name.startswith(long):
            name = short + name.removeprefix(long)
            break
    return f"{name}[{','.join(map(str, shape))}]"
