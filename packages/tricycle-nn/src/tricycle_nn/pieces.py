"""Cutting work into pieces that threads share out.

How many pieces there are depends on the sizes alone, never on the number of threads: that is
why any number of threads gives the same bits.

    n_pieces, piece               of a flat array
    on_flat_arrays                what an elementwise kernel needs around it
    launched_on_flat_arrays       the same for one on a GPU (flat.cuh)
    add_row                       two rows, one number at a time
    row_chunks, sum_of_chunks     of rows that all add to one sum
    row_blocks, sum_of_blocks     the same on a GPU (row_sums.cuh)

Every elementwise kernel writes the loop over its pieces itself.  It cannot come from one place:
numba keeps machine code by the file and the name of the function that it compiled, so that what
one loop made of several helpers would be taken for one another's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.arrays import empty, empty_like
from tricycle_autograd.cpu import cpu_function
from tricycle_autograd.cuda import CudaFile, blocks_for

PIECE = 16384  # numbers: 64 kB, so that what a piece reads and writes stays in a core's cache


@cpu_function
def n_pieces(size):
    """How many pieces a flat array of `size` numbers is cut into."""
    return (size + PIECE - 1) // PIECE


@cpu_function
def piece(k, size):
    """The k-th of them, as a slice."""
    return slice(k * PIECE, min(size, (k + 1) * PIECE))


def on_flat_arrays(kernel: Callable, results: int = 1) -> Callable:
    """Arrays of one shape in, new arrays of that shape out, by a kernel that works on flat ones.

    kernel   called as kernel(*results, *inputs), flat arrays of float32; it fills the results
    results  how many there are

    Returns a function of the inputs, contiguous arrays, that returns the result or a tuple of
    them.  One compilation of the kernel serves arrays with any number of axes.
    """

    def run(*inputs: Any) -> Any:
        new = [np.empty(inputs[0].shape, np.float32) for _ in range(results)]
        kernel(*[array.reshape(-1) for array in (*new, *inputs)])
        return new[0] if results == 1 else tuple(new)

    run.__name__ = run.__qualname__ = kernel.__name__
    return run


def launched_on_flat_arrays(file: CudaFile, name: str, results: int = 1) -> Callable:
    """`on_flat_arrays` for an elementwise kernel of a .cu file, on contiguous arrays of one dtype.

    The kernel takes results, inputs and their size.
    """

    def run(*inputs: Any) -> Any:
        new = [empty_like(inputs[0]) for _ in range(results)]
        launch_on_flat_arrays(file, name, *new, *inputs)
        return new[0] if results == 1 else tuple(new)

    run.__name__ = run.__qualname__ = name
    return run


def launch_on_flat_arrays(file: CudaFile, name: str, first: Any, *others: Any) -> None:
    """Launch an elementwise kernel, a thread for every 16 bytes of its first argument.

    The kernel takes these arguments and the size of the first.
    """
    blocks = blocks_for(first.size, FLAT_THREADS * numbers_at_once(first.dtype))
    kernel = file.get(name, first.dtype)
    kernel((blocks,), (FLAT_THREADS,), first, *others, np.int64(first.size))


FLAT_THREADS = 256  # in a block


def numbers_at_once(dtype: Any) -> int:
    """How many a thread reads or writes at once: 16 bytes, WIDTH in numbers.cuh."""
    return 16 // dtype.itemsize


@cpu_function
def add_row(total, a, b):
    """total = a + b, rows (C,) of which total may be one."""
    for c in range(len(total)):
        total[c] = a[c] + b[c]


@cpu_function
def row_chunks(n_rows):
    """How many pieces a sum over rows is cut into.

    Every row adds to the same sum.  So that threads never share one, each chunk of rows has a
    sum of its own, and these are added in order at the end.
    """
    return max(1, min(64, n_rows // 16))


@cpu_function
def sum_of_chunks(sums):
    """The rows of sums (chunks, C), added one after another: (C,)."""
    total = sums[0].copy()
    for k in range(1, len(sums)):
        for c in range(len(total)):
            total[c] += sums[k, c]
    return total


def row_blocks(n_rows: int) -> int:
    """How many blocks of threads sum rows on a GPU: enough for the largest ones there are."""
    return min(512, blocks_for(n_rows, 16))


def sum_of_blocks(file: CudaFile, partial: Any, dtype: Any, **constants: int) -> Any:
    """The rows of partial (blocks, columns), added one after another: (columns,), float32.

    file, dtype, constants   as the kernel was got that wrote them: its file has `add_up`, too
    """
    blocks, columns = partial.shape
    total = empty(columns, np.float32, like=partial)
    kernel = file.get("add_up", dtype, **constants)
    kernel((blocks_for(columns, 128),), (128,), total, partial, np.int32(blocks), np.int32(columns))
    return total
