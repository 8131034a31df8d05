"""Gram matrices and norms, computed from lines or nonzeros of a view. The results are not stored."""
