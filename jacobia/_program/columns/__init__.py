"""A program walked with structured intermediates: for each element the columns it has entries in, and their values.

`slots` is the form of an intermediate, `rules` the table of operations, `accumulate` the walk. Open `slots` first.
"""
