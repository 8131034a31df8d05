"""Blocks of a view one after the other, and arrays on disk that are made of them."""
