"""Jacobians computed where they are read.

A Jacobian is a linear program (`jax.linearize` gives it), and everything is read off it. Open `_jacobian.py`
first: a read is five steps.
"""

from jacobia import _pytree as _pytree
from jacobia._coloring import Coloring
from jacobia._errors import BatchMixingError, IndependenceError, MaterializationError
from jacobia._hessian import Hessian
from jacobia._jacobian import Jacobian
from jacobia._kernels import cache_clear, cache_info
from jacobia._partition import coloring
from jacobia._pattern import Pattern
from jacobia._sparsity import sparsity_pattern
from jacobia._transform import hessian, jacobian, materialize

__version__ = "0.1.0.dev0"

__all__ = [
    "BatchMixingError",
    "Coloring",
    "Hessian",
    "IndependenceError",
    "Jacobian",
    "MaterializationError",
    "Pattern",
    "cache_clear",
    "cache_info",
    "coloring",
    "hessian",
    "jacobian",
    "materialize",
    "sparsity_pattern",
]
