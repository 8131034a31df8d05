"""Reads of a view: how a key is read, explained and measured, and how the next read of its kind repeats it."""
