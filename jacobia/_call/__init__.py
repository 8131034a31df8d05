"""From a function and its arguments to a traced program, and from a point to its linearization."""
