"""Lazy Jacobians and Hessians for JAX: `jacobian(f)(x)` is computed only where it is read.

A Jacobian is a linear program (`jax.linearize` gives it), and everything else is read off that program. To read the
code, start with `_read/block.py`, or follow the ten files that README.md names.
"""

from jacobia import scipy
from jacobia._derived.curvature import empirical_fisher, ggn
from jacobia._derived.divergence import divergence
from jacobia._derived.estimates import estimate_diagonal, estimate_trace
from jacobia._derived.laplacian import laplacian, value_and_laplacian
from jacobia._derived.sparsity import sparsity_pattern
from jacobia._derived.value import value_and_hessian, value_and_jacobian
from jacobia._errors import BatchMixingError, IndependenceError, MaterializationError
from jacobia._progress import config
from jacobia._run.kernels import cache_clear, cache_info
from jacobia._sparse.coloring import Coloring
from jacobia._sparse.partition import coloring
from jacobia._sparse.pattern import Pattern
from jacobia._stream.saved import Saved, SavedCSR
from jacobia._stream.saved import open_saved as _open_saved
from jacobia._transform import hessian, jacobian
from jacobia._view import pytree as _pytree  # noqa: F401  # registers views
from jacobia._view.hessian import Hessian
from jacobia._view.jacobian import Jacobian
from jacobia._view.operator import Operator, operator
from jacobia._view.tree import materialize
from jacobia._view.triplets import Triplets, triplets

open = _open_saved

__version__ = "0.1.0"  # pyproject.toml reads the version from here

__all__ = [  # without `open`: `from jacobia import *` would hide that of Python
    "BatchMixingError",
    "Coloring",
    "Hessian",
    "IndependenceError",
    "Jacobian",
    "MaterializationError",
    "Operator",
    "Pattern",
    "Saved",
    "SavedCSR",
    "Triplets",
    "cache_clear",
    "cache_info",
    "coloring",
    "config",
    "divergence",
    "empirical_fisher",
    "estimate_diagonal",
    "estimate_trace",
    "ggn",
    "hessian",
    "jacobian",
    "laplacian",
    "materialize",
    "operator",
    "scipy",
    "sparsity_pattern",
    "triplets",
    "value_and_hessian",
    "value_and_jacobian",
    "value_and_laplacian",
]
