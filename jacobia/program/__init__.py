"""The linear program of a Jacobian, and what can be read off it.

`walk` runs an interpreter over a program; each other file is one reading of it.
"""
