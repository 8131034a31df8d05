"""Random programs, read in random ways, compared with `jax.jacfwd` and `jax.jacrev`.

To run more programs than the tests do: `python -m tests.fuzz --programs 1000 --seed 0`.
"""
