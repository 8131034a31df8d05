"""One question about a program in each file: what depends on what, what a pass costs, where it is narrow."""
