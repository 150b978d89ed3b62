"""Cutting elementwise work into pieces that threads share out.

How many pieces there are depends on the size alone, never on the number of threads.
"""

from tricycle_autograd.cpu import cpu_function

PIECE = 16384  # numbers: 64 kB, so that what a piece reads and writes stays in a core's cache


@cpu_function
def n_pieces(size):
    """How many pieces a flat array of `size` numbers is cut into."""
    return (size + PIECE - 1) // PIECE


@cpu_function
def piece(k, size):
    """The k-th of them, as a slice."""
    return slice(k * PIECE, min(size, (k + 1) * PIECE))
