"""What is computed from lines and nonzeros of a view: Gram matrices and norms. Nothing of it is remembered."""
