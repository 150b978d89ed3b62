"""Cutting work into pieces that threads share out.

How many pieces there are depends on the sizes alone, never on the number of threads: that is
why any number of threads gives the same bits.
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


def row_chunks(n_rows: int) -> int:
    """How many pieces a sum over rows is cut into.

    Every row adds to the same sum.  So that threads never share one, each chunk of rows has a
    sum of its own, and these are added in order at the end.
    """
    return max(1, min(64, n_rows // 16))
