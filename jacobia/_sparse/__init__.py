"""Sparsity patterns and colorings: which entries of a matrix can be nonzero, and which columns can share a seed.

Knows arrays of numbers. Knows nothing of programs, of functions or of derivatives.
"""
