"""Blocks of a view, computed one after the other, and arrays on disk that are written block by block."""
