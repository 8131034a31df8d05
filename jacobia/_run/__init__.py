"""A linear program at a point: the directions that f has, sweeps of seeds through it, and their compiled kernels."""
