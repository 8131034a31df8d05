"""The samples of a batch, followed through a program as one axis of each array, and the program of one sample."""
