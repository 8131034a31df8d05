"""A linear program applied to seeds: which directions it has, and compiled kernels for so many seeds at a point."""
