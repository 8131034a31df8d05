"""Ways to compute what is missing of a block. Each is one file: lines, samples, nonzeros, a waist, colors, products."""
