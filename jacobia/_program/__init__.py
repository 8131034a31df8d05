"""The linear program of a Jacobian, and what can be read off it.

`walk` runs an interpreter over a program. `columns/` walks it with the columns of every intermediate, and computes all
nonzeros at once; `axis/` follows the samples of a batch; each file of `readings/` answers one question.
"""
