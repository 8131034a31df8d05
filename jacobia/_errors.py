"""The exception types. Every one of them is also a built-in type that callers may already catch."""


class IndependenceError(ValueError):
    """`strict=True`, and an output leaf does not depend on an input leaf."""


class BatchMixingError(ValueError):
    """With a batch axis: the derivative of one sample depends on another sample."""


class MaterializationError(MemoryError):
    """A result, with the space it takes to compute it, would not fit under `memory_limit`."""
