"""Plans: the ways to compute the missing entries of a block, one file each (lines, samples, nonzeros, a waist, …)."""
