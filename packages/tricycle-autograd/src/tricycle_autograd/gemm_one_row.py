"""One row times a matrix: out (N) = a (K) @ b (K, N).  A model that writes token by token.

Each number of b is used once, so the time is that of reading b from memory, 10 to 30 GB a second
for one core, and packing it first would take several times as long.  b is read in the order in
which it lies, and summed in one of two ways:

    rows of b contiguous       out += a[k] · b[k], four rows at a time, while out stays in cache
    columns of b contiguous    out[j] = a · b[:, j], one sum after the other

Here loops over rows are enough: the compiler makes vector instructions of them.  Each core reads a
stretch of b from one end to the other: some rows, whose sum is added to the others' in the end, or
some columns.  How many stretches there are depends on the shape alone, and so do the bits.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot, multiply_add

MATRIX = "Array(float32, 2, 'C', True)"  # numba's type of a contiguous one, also a read-only one
ROW = "Array(float32, 1, 'C', True)"
PIECE_NUMBERS = 2**17  # of b in a piece, about: 0.5 MB
LEAST_ROWS, MOST_SUMS = 32, 16  # rows of b in a piece, and pieces, whose sums are added in the end
ZERO, ONE = np.float32(0), np.float32(1)


def one_row_product(out: np.ndarray, a: np.ndarray, b: np.ndarray, add: bool) -> None:
    """out (N) = a (K) @ b (K, N), or += if `add`; all contiguous, b by rows or by columns."""
    K, N = b.shape
    wanted = max(1, K * N // PIECE_NUMBERS)
    if b.flags.c_contiguous:
        sum_rows(out, a, b, add, min(wanted, MOST_SUMS, max(1, K // LEAST_ROWS)))
    else:
        sum_columns(out, a, b.T, add, min(wanted, N))


@cpu_kernel(signature=f"void(float32[::1], {ROW}, {MATRIX}, boolean, int64)")
def sum_rows(out, a, b, add, n_pieces):
    sums = np.empty((n_pieces, out.size), np.float32)
    for piece in prange(n_pieces):
        first, end = piece * a.size // n_pieces, (piece + 1) * a.size // n_pieces
        add_rows(sums[piece], a, b, np.int64(first), np.int64(end))
    if not add:
        out[:] = ZERO
    for piece in range(n_pieces):
        add_scaled(out, ONE, sums[piece])


@cpu_function
def add_rows(out, a, b, first, end):
    """out = the sum of the rows `first` to `end` of b, each times its number of a."""
    out[:] = ZERO
    fours = first + (end - first) // 4 * 4
    for k in range(first, fours, 4):
        x0, x1, x2, x3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
        for j in range(out.size):
            first_two = multiply_add(x1, b1[j], multiply_add(x0, b0[j], out[j]))
            out[j] = multiply_add(x3, b3[j], multiply_add(x2, b2[j], first_two))
    for k in range(fours, end):
        add_scaled(out, a[k], b[k])


@cpu_function
def add_scaled(out, x, row):
    for j in range(out.size):
        out[j] = multiply_add(x, row[j], out[j])


@cpu_kernel(signature=f"void(float32[::1], {ROW}, {MATRIX}, boolean, int64)")
def sum_columns(out, a, columns, add, n_pieces):
    for piece in prange(n_pieces):
        first, end = piece * out.size // n_pieces, (piece + 1) * out.size // n_pieces
        for j in range(first, end):
            total = dot(a, columns[j])
            out[j] = out[j] + total if add else total
