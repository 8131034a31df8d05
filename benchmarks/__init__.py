"""Benchmarks of jacobia: `python -m benchmarks --help`."""
