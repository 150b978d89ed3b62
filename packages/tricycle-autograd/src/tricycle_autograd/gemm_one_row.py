"""One row times a matrix: out (N) = a (K) @ b (K, N).  A model that writes token by token.

Each number of b is used once, so the time is that of reading b from memory, 10 to 30 GB a second
for one core, and packing it first would take several times as long.  b is read in the order in
which it lies, and summed in one of two ways:

    rows of b contiguous       out += a[k] · b[k], four rows at a time, while out stays in cache
    columns of b contiguous    out[j] = a · b[:, j], one sum after the other

Here plain loops are enough: the compiler makes vector instructions of them.  Pieces of the result
are shared out to the cores by its length alone, so the bits do not depend on their number.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange

MATRIX = "Array(float32, 2, 'C', True)"  # numba's type of a contiguous one, also a read-only one
ROW = "Array(float32, 1, 'C', True)"
PIECE_NUMBERS = 2**17  # of b in a piece, about: 0.5 MB
LEAST_COLUMNS = 256  # of rows cut into pieces: 1 KB in one go
ZERO = np.float32(0)


def one_row_product(out: np.ndarray, a: np.ndarray, b: np.ndarray, add: bool) -> None:
    """out (N) = a (K) @ b (K, N), or += if `add`; all contiguous, b by rows or by columns."""
    K, N = b.shape
    wanted = K * N // PIECE_NUMBERS
    if b.flags.c_contiguous:
        sum_rows(out, a, b, add, max(1, min(wanted, N // LEAST_COLUMNS)))
    else:
        sum_columns(out, a, b.T, add, max(1, min(wanted, N)))


@cpu_kernel(signature=f"void(float32[::1], {ROW}, {MATRIX}, boolean, int64)")
def sum_rows(out, a, b, add, n_pieces):
    for piece in prange(n_pieces):
        first, end = piece * out.size // n_pieces, (piece + 1) * out.size // n_pieces
        add_rows(out[first:end], a, b, np.int64(first), np.int64(end), add)


@cpu_function
def add_rows(out, a, b, first, end, add):
    """Columns `first` to `end` of a @ b, where rows are contiguous."""
    if not add:
        out[:] = ZERO
    fours = a.size // 4 * 4
    for k in range(0, fours, 4):
        x0, x1, x2, x3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1 = b[k][first:end], b[k + 1][first:end]
        b2, b3 = b[k + 2][first:end], b[k + 3][first:end]
        for j in range(out.size):
            out[j] += (x0 * b0[j] + x1 * b1[j]) + (x2 * b2[j] + x3 * b3[j])
    for k in range(fours, a.size):
        add_scaled(out, a[k], b[k][first:end])


@cpu_function
def add_scaled(out, x, row):
    for j in range(out.size):
        out[j] += x * row[j]


@cpu_kernel(signature=f"void(float32[::1], {ROW}, {MATRIX}, boolean, int64)")
def sum_columns(out, a, columns, add, n_pieces):
    for piece in prange(n_pieces):
        first, end = piece * out.size // n_pieces, (piece + 1) * out.size // n_pieces
        for j in range(first, end):
            total = dot(a, columns[j])
            out[j] = out[j] + total if add else total


@cpu_function
def dot(a, b):
    total = ZERO
    for k in range(a.size):
        total += a[k] * b[k]
    return total
