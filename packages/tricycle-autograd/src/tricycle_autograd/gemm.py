"""The matrix product: out = a @ b, in float32, at the speed of the multipliers.

Everything a network learns goes through here, so the product should take no longer than its
2·M·N·K additions and multiplications do.  A core can start two vector instructions a cycle, each
multiplying and adding 16 numbers (8, 4 on smaller processors): 64 operations.  Memory delivers
perhaps two numbers in that time.  The whole art is to use each number that was loaded many times,
at every level of the memory:

    registers   one tile of out, 14 x 32 numbers, while K goes by        gemm_tile.py
    L1 cache    a strip of a: 14 rows, used for every tile beside it
    L2 cache    a block of b: 512 columns, used for every strip of a
    memory      a and b are read, and out is read and written, once for every 512 numbers of K

and the loops, from the outside in:

    depths      K in pieces of at most 512: a strip of a fits L1, a block of b fits L2
    blocks      N in pieces of at most 512 columns; each is packed once for each depth
    heaps       M in heaps of 8 strips, packed when they are first needed
    strips      14 rows
    tiles       32 columns: all of K's piece in one go, in registers

Packing means copying the numbers into the order in which the tiles will read them, 14 rows or 32
columns for each step of K.  Reading is then along one line of memory, and whether a matrix was
transposed, or is a slice of a larger one, no longer matters.  It costs 0.2 ns a number, and each
number is used hundreds of times.

    multiply(out, a, b, add)        in kernels, one thread
    product(out, a, b, add)         from Python, all cores

Same bits for any number of threads, and for any cut of the rows and columns of the result: each
number of it is one sum over k, in pieces that depend on K alone.

Goto & van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008);
Van Zee & van de Geijn, "BLIS: a framework for rapidly instantiating BLAS functionality" (2015).
"""

import numpy as np

from tricycle_autograd.cpu import (
    cpu_function,
    cpu_kernel,
    cpu_routine,
    needs_numba,
    prange,
)

# Plain numbers, known once the processor is: 16, 14 and 32 with AVX-512.
LANES = needs_numba("tricycle_autograd.gemm_tile", "LANES")
TILE_ROWS = needs_numba("tricycle_autograd.gemm_tile", "TILE_ROWS")
TILE_COLUMNS = needs_numba("tricycle_autograd.gemm_tile", "TILE_COLUMNS")
UNROLL = needs_numba("tricycle_autograd.gemm_tile", "UNROLL")

address_of = needs_numba("tricycle_autograd.gemm_tile", "address_of")
copy_vector = needs_numba("tricycle_autograd.gemm_tile", "copy_vector")
load_number = needs_numba("tricycle_autograd.gemm_tile", "load_number")
multiply_panels = needs_numba("tricycle_autograd.gemm_tile", "multiply_panels")
prefetch = needs_numba("tricycle_autograd.gemm_tile", "prefetch")
store_number = needs_numba("tricycle_autograd.gemm_tile", "store_number")
transpose_block = needs_numba("tricycle_autograd.gemm_tile", "transpose_block")

DEPTH = np.int64(512)  # steps of K
BLOCK_COLUMNS = np.int64(512)
HEAP_STRIPS = np.int64(8)

FLOAT_BYTES = np.int64(4)
ZERO = np.float32(0)
LINE_BYTES = np.int64(64)  # of a cache line
ROWS_AHEAD = np.int64(8)  # how far ahead packing calls for its rows: the caches do not guess long strides


@cpu_function
def multiply(out, a, b, add):
    """out (M, N) = a (M, K) @ b (K, N), or += if `add`; float32, for kernels, one thread.

    a and b may be slices or transposed views, of any strides; the rows of `out` are contiguous.
    """
    multiply_at(
        address_of(out),
        out.strides[0],
        address_of(a),
        a.strides[0],
        a.strides[1],
        address_of(b),
        b.strides[0],
        b.strides[1],
        out.shape[0],
        out.shape[1],
        a.shape[1],
        add,
    )


@cpu_routine(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, boolean)"
)
def multiply_at(out, out_row, a, a_row, a_step, b, b_step, b_column, M, N, K, add):
    """multiply, given addresses, and the bytes from one row, column or step of K to the next."""
    if K == 0 and not add:
        fill_with_zeros(out, out_row, M, N)
    if M == 0 or N == 0 or K == 0:
        return
    depth = even_part(K, DEPTH, LANES)
    block = even_part(N, BLOCK_COLUMNS, TILE_COLUMNS)
    heap = HEAP_STRIPS * TILE_ROWS
    # Strips of a are kept if there is a second block of columns to use them for.
    kept_rows = M if N > block else min(heap, M)
    # A vector stored for a strip's last step reaches beyond it if a strip is less than a vector.
    strip_bytes = depth * TILE_ROWS * FLOAT_BYTES + LINE_BYTES
    panel_bytes = depth * TILE_COLUMNS * FLOAT_BYTES
    memory_for_b = block // TILE_COLUMNS * panel_bytes
    memory_for_a = parts(kept_rows, TILE_ROWS) * strip_bytes
    memory = np.empty(memory_for_b + memory_for_a + LINE_BYTES, np.uint8)
    packed_b = round_up(address_of(memory), LINE_BYTES)
    packed_a = packed_b + memory_for_b

    for k in range(0, K, depth):
        steps = min(depth, K - k)
        for j in range(0, N, block):
            columns = min(block, N - j)
            b_here = b + k * b_step + j * b_column
            pack(b_here, b_column, b_step, columns, steps, TILE_COLUMNS, packed_b, panel_bytes)
            for i in range(0, M, heap):
                rows = min(heap, M - i)
                strips = packed_a + (i // TILE_ROWS * strip_bytes if N > block else 0)
                if j == 0:
                    a_here = a + i * a_row + k * a_step
                    pack(a_here, a_row, a_step, rows, steps, TILE_ROWS, strips, strip_bytes)
                multiply_packed(
                    out + i * out_row + j * FLOAT_BYTES,
                    out_row,
                    strips,
                    strip_bytes,
                    packed_b,
                    panel_bytes,
                    rows,
                    columns,
                    round_up(steps, UNROLL),
                    add or k > 0,
                )


@cpu_function
def multiply_packed(out, out_row, a, strip_bytes, b, panel_bytes, rows, columns, steps, add):
    """A block of the result, tile by tile: each strip of a meets all the panels of b."""
    for i in range(0, rows, TILE_ROWS):
        for j in range(0, columns, TILE_COLUMNS):
            multiply_panels(
                steps,
                a + i // TILE_ROWS * strip_bytes,
                b + j // TILE_COLUMNS * panel_bytes,
                out + i * out_row + j * FLOAT_BYTES,
                out_row,
                rows - i,
                columns - j,
                add,
            )


@cpu_routine("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def pack(source, line, step, lines, steps, width, target, panel_bytes):
    """Copy `lines` lines (rows of a, or columns of b) into panels of `width` lines.

    source       address of the first number
    line, step   bytes from a line to the next, and from one step of K to the next
    target       address of the first panel: panel[k, i] is number k of line i, and the lines
                 and steps that are missing in the last ones are zeros
    panel_bytes  from one panel to the next
    """
    if step == FLOAT_BYTES:
        pack_lines(source, line, lines, steps, width, target, panel_bytes)
    elif line == FLOAT_BYTES:
        pack_steps(source, step, lines, steps, width, target, panel_bytes)
    else:
        pack_numbers(source, line, step, lines, steps, width, target, panel_bytes)


@cpu_function
def pack_lines(source, line, lines, steps, width, target, panel_bytes):
    """pack, where the numbers of a line are contiguous: transpose square blocks."""
    for first in range(0, lines, width):
        panel = target + first // width * panel_bytes
        for k in range(0, steps, LANES):
            # From right to left: a block that is wider than what is left of the panel writes
            # into the next step's numbers, before they are written.
            for i in range((width - 1) // LANES * LANES, -1, -LANES):
                transpose_block(
                    source + (first + i) * line + k * FLOAT_BYTES,
                    line,
                    min(width, lines - first) - i,
                    steps - k,
                    panel + (k * width + i) * FLOAT_BYTES,
                    width * FLOAT_BYTES,
                )


@cpu_function
def pack_steps(source, step, lines, steps, width, target, panel_bytes):
    """pack, where the numbers of a step are contiguous: copy."""
    for k in range(round_up(steps, UNROLL)):
        numbers = source + k * step
        if k + ROWS_AHEAD < steps:
            for i in range(0, lines, LINE_BYTES // FLOAT_BYTES):
                prefetch(numbers + ROWS_AHEAD * step + i * FLOAT_BYTES)
        for first in range(0, lines, width):
            panel = target + first // width * panel_bytes + k * width * FLOAT_BYTES
            valid = min(width, lines - first) if k < steps else 0
            for i in range(0, width, LANES):
                copy_vector(numbers + (first + i) * FLOAT_BYTES, panel + i * FLOAT_BYTES, valid - i)


@cpu_function
def pack_numbers(source, line, step, lines, steps, width, target, panel_bytes):
    """pack, where nothing is contiguous: one number after the other."""
    for first in range(0, lines, width):
        panel = target + first // width * panel_bytes
        for k in range(round_up(steps, UNROLL)):
            for i in range(0, width, LANES):
                copy_vector(source, panel + (k * width + i) * FLOAT_BYTES, 0)
            if k < steps:
                for i in range(min(width, lines - first)):
                    number = load_number(source + (first + i) * line + k * step)
                    store_number(panel + (k * width + i) * FLOAT_BYTES, number)


@cpu_function
def fill_with_zeros(out, out_row, M, N):
    """The product where K is 0: a sum of nothing."""
    for i in range(M):
        for j in range(N):
            store_number(out + i * out_row + j * FLOAT_BYTES, ZERO)


@cpu_function
def parts(length, size):
    """How many parts of at most `size` a length has."""
    return (length + size - 1) // size


@cpu_function
def round_up(length, unit):
    """The next multiple of `unit`."""
    return parts(length, unit) * unit


@cpu_function
def even_part(length, largest, unit):
    """The size of parts of a length that are equally long, up to a multiple of `unit`."""
    return round_up(parts(length, parts(length, largest)), unit)


@cpu_kernel(signature="void(float32[:, :], float32[:, :], float32[:, :], boolean, int64, int64)")
def multiply_pieces(out, a, b, add, rows, columns):
    """Cut the result into pieces of so many rows and columns, and share them out."""
    M, N = out.shape
    down = parts(M, rows)
    for piece in prange(down * parts(N, columns)):
        i = piece % down * rows
        j = piece // down * columns
        multiply(out[i : i + rows, j : j + columns], a[i : i + rows], b[:, j : j + columns], add)


def product(out, a, b, add=False):
    M, N = out.shape
    rows = max(-(-M // 2), 1) if M >= N else max(M, 1)
    columns = max(-(-N // 2), 1) if M < N else max(N, 1)
    multiply_pieces(out, a, b, add, rows, columns)
