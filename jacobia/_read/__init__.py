"""A read before it runs, and again: what was chosen for a key is remembered, explained, and measured."""
