"""The exception types. Every one of them is also a built-in type that callers may already catch."""


class IndependenceError(ValueError):
    """`strict=True`, and an output leaf does not depend on an input leaf."""


class BatchMixingError(ValueError):
    """With a batch axis: the derivative of one sample depends on another sample."""


class MaterializationError(MemoryError):
    """A result and the memory to compute it would exceed `memory_limit`, or it has more than 2**31 - 1 elements."""
