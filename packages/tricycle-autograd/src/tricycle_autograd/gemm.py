"""The matrix product: out = a @ b, in float32, at the speed of the multipliers.

Everything that a network learns goes through here, and the product should take no longer than its
2·M·N·K additions and multiplications.  A core starts two vector instructions a cycle, which
multiply and add 16 numbers each (8 or 4 on smaller processors): 64 operations.  In the same time
the main memory delivers one or two numbers.  So the art is to use each number that was loaded many
times, at each level of the memory:

    registers   a tile of out, 14 x 32 numbers, stays while K goes by         gemm_tile.py
    L1 cache    a strip of a, 14 rows, stays for all the tiles beside it
    L2 cache    a block of b, 512 columns, stays for all the strips of a
    memory      out is read and written once for every 512 numbers of K, a and b once

and the loops are, from the outside in:

    depths      K, in equal parts of at most 512: a strip of a fills half of L1
    blocks      N, in equal parts of at most 512 columns: a block of b fills L2
    heaps       M, in heaps of 8 strips, which are packed together
    strips      14 rows of the heap
    tiles       32 columns of the block

a and b are packed first, copied into the order in which the tiles read them (gemm_packing.py).
That costs about 0.2 ns a number, and each number is used hundreds of times, at 0.01 ns.  Where a
has few rows, the rows of b are read where they lie.

    multiply(out, a, b, add)        in kernels, one thread
    product(out, a, b, add)         from Python, all cores

A single row or column is another matter, for then nothing is used twice: see gemm_one_row.py.

For many cores the smaller operand is packed once, by all of them, and the larger is cut into
pieces, which are packed and multiplied independently.  Each number of the result is one sum, in
an order that depends on K alone (of a single row or column: on its shape and layout): the same
bits for any number of threads and for any cut.

Goto & van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008);
Van Zee & van de Geijn, "BLIS: a framework for rapidly instantiating BLAS functionality", ACM
TOMS 41 (2015).
"""

from functools import lru_cache

import numpy as np

from tricycle_autograd.cpu import (
    WITHOUT_NUMBA,
    cpu_function,
    cpu_kernel,
    cpu_routine,
    needs_numba,
    prange,
)
from tricycle_autograd.gemm_one_row import one_row_product
from tricycle_autograd.gemm_packing import (
    FLOAT_BYTES,
    LINE_BYTES,
    pack,
    packed_bytes,
    panel_bytes,
    parts,
    round_up,
)
from tricycle_autograd.modes import count_flops

# Plain numbers, known once the processor is: see gemm_tile.
TILE_ROWS = needs_numba("tricycle_autograd.gemm_tile", "TILE_ROWS")
TILE_COLUMNS = needs_numba("tricycle_autograd.gemm_tile", "TILE_COLUMNS")
UNROLL = needs_numba("tricycle_autograd.gemm_tile", "UNROLL")

address_of = needs_numba("tricycle_autograd.gemm_tile", "address_of")
multiply_panels = needs_numba("tricycle_autograd.gemm_tile", "multiply_panels")
store_number = needs_numba("tricycle_autograd.gemm_tile", "store_number")

DEPTH = np.int64(512)
DEPTH_UNIT = np.int64(16)  # not LANES: where K is cut decides bits, and they are every processor's
BLOCK_COLUMNS = np.int64(512)
HEAP_STRIPS = np.int64(8)
FEW_ROWS = np.int64(128)  # of a: up to here reading b where it lies is faster than packing it
NOT_PACKED = np.int64(0)
NOT_DONE, DONE = np.int64(0), np.int64(1)
NO_MEMORY = "there is no memory to pack the operands of a matrix product"
ZERO = np.float32(0)
FLOAT32 = np.dtype(np.float32)

# Work is cut into one of these numbers of pieces: shares are then even for up to 16 cores.
# Pieces have at least this many rows or columns, or reading the packed operand would dominate.
PIECES = (48, 16, 8, 4, 2)
PIECE_ROWS, PIECE_COLUMNS = 96, 64
WORTH_SHARING = 2**21  # multiplications: about 20 microseconds, when starting threads takes 5
PANELS_AT_ONCE = np.int64(8)  # packed by one thread: at least half a KB of each row of memory

ANY_VIEW = "Array(float32, 2, 'A', True)"  # of any strides; True: also a read-only one


def product(out: np.ndarray, a: np.ndarray, b: np.ndarray, add: bool = False) -> None:
    """out = a @ b, or out += a @ b if `add`, on all cores.

    out   (M, N) float32, its rows or its columns contiguous; not part of a or b
    a, b  (M, K), (K, N) float32, any views

    Raises TypeError for another dtype, ValueError for shapes that do not fit or for an `out` of
    another layout.
    """
    _check_types(out, a, b)
    (M, N), (_, K) = out.shape, a.shape
    if a.shape != (M, K) or b.shape != (K, N):
        raise ValueError(
            f"product: (M, K) times (K, N) goes into (M, N), "
            f"got {a.shape} times {b.shape} into {out.shape}"
        )
    by_rows, by_columns = _has_contiguous_rows(out), _has_contiguous_rows(out.T)
    if not (by_rows or by_columns):
        raise ValueError(
            f"product writes into rows or columns that are contiguous, and out has strides of "
            f"{out.strides} bytes; give it an array of its own and copy from that"
        )
    count_flops(2 * M * N * K)
    if WITHOUT_NUMBA:
        multiply(out, a, b, add)
        return
    # Transposed, columns are rows: out.T = b.T @ a.T.  And one column is one row.
    if not by_rows or (by_columns and N == 1):
        out, a, b, M, N = out.T, b.T, a.T, N, M
    if M == 1 and (b.flags.c_contiguous or b.flags.f_contiguous):
        one_row_product(out[0], np.ascontiguousarray(a[0]), b, add)
    else:
        multiply_in_pieces(out, a, b, add, *_cut(M, N, K))


@cpu_function
def multiply(out, a, b, add):
    """out (M, N) = a (M, K) @ b (K, N), or += if `add`; for kernels, one thread.

    float32; a and b may be any views, and the rows of `out` are contiguous.
    """
    if multiply_arrays(out, a, NOT_PACKED, b, NOT_PACKED, add) == NOT_DONE:
        raise MemoryError(NO_MEMORY)


@multiply.without_numba
def plain_multiply(out, a, b, add):
    out[...] = a @ b + out if add else a @ b


@cpu_function
def multiply_arrays(out, a, packed_a, b, packed_b, add):
    """multiply; packed_a, packed_b and what it returns as for multiply_at."""
    return multiply_at(
        address_of(out),
        out.strides[0],
        address_of(a),
        a.strides[0],
        a.strides[1],
        packed_a,
        address_of(b),
        b.strides[1],
        b.strides[0],
        packed_b,
        out.shape[0],
        out.shape[1],
        a.shape[1],
        add,
    )


@cpu_routine(
    "int64(int64, int64, int64, int64, int64, int64, "
    "int64, int64, int64, int64, int64, int64, int64, boolean)"
)
def multiply_at(
    out, out_row, a, a_row, a_step, packed_a, b, b_column, b_step, packed_b, M, N, K, add
):
    """multiply, of operands that are given by their places in memory.

    out, a, b           addresses of the first numbers
    out_row, ...        bytes from one row, column, or step of K to the next
    packed_a, packed_b  address of the operand, all of it, packed (see pack_share); or NOT_PACKED

    Returns NOT_DONE if there was no memory for it, and otherwise DONE: a routine cannot raise.
    """
    if M == 0 or N == 0:
        return DONE
    if K == 0:
        if not add:
            fill_with_zeros(out, out_row, M, N)
        return DONE
    depth = equal_part(K, DEPTH, DEPTH_UNIT)
    block = equal_part(N, BLOCK_COLUMNS, TILE_COLUMNS)
    heap = HEAP_STRIPS * TILE_ROWS
    read_rows_of_b = b_column == FLOAT_BYTES and M <= FEW_ROWS and K % UNROLL == 0
    for_a = NOT_PACKED if packed_a else packed_bytes(M, depth, TILE_ROWS)
    for_b = NOT_PACKED if packed_b else packed_bytes(block, depth, TILE_COLUMNS)
    try:
        memory = np.empty(for_a + for_b + LINE_BYTES, np.uint8)
    except Exception:  # a MemoryError: numba knows no narrower word
        return NOT_DONE
    own_strips = first_line(memory)
    own_panels = own_strips + for_a

    for k in range(0, K, depth):
        steps = min(depth, K - k)
        strips = (
            packed_a + k // depth * packed_bytes(M, depth, TILE_ROWS) if packed_a else own_strips
        )
        j = np.int64(0)
        while j < N:
            columns = min(block, N - j)
            # Packed panels, unless the rows of b are read where they lie: each panel of the
            # block is then a little further on in the same row.
            panels, next_panel = own_panels, panel_bytes(steps, TILE_COLUMNS)
            next_step = TILE_COLUMNS * FLOAT_BYTES
            b_here = b + j * b_column + k * b_step
            if packed_b:
                panels = packed_b + k // depth * packed_bytes(N, depth, TILE_COLUMNS)
                panels += j // TILE_COLUMNS * next_panel
            elif read_rows_of_b and columns >= TILE_COLUMNS:
                columns -= columns % TILE_COLUMNS  # the rest is packed, in a block of its own
                panels, next_panel, next_step = b_here, TILE_COLUMNS * FLOAT_BYTES, b_step
            else:
                pack(b_here, b_column, b_step, columns, steps, TILE_COLUMNS, own_panels)
            for i in range(0, M, heap):
                rows = min(heap, M - i)
                heap_strips = strips + i // TILE_ROWS * panel_bytes(steps, TILE_ROWS)
                if j == 0 and not packed_a:
                    a_here = a + i * a_row + k * a_step
                    pack(a_here, a_row, a_step, rows, steps, TILE_ROWS, heap_strips)
                multiply_heap(
                    out + i * out_row + j * FLOAT_BYTES,
                    out_row,
                    heap_strips,
                    panels,
                    next_panel,
                    next_step,
                    rows,
                    columns,
                    steps,
                    add or k > 0,
                )
            j += columns
    memory[0] = 0  # numba frees an array after its last use, which is here
    return DONE


@cpu_function
def multiply_heap(out, out_row, strips, panels, next_panel, next_step, rows, columns, steps, add):
    """A heap of strips of a meets a block of panels of b, tile by tile."""
    for i in range(0, rows, TILE_ROWS):
        for j in range(0, columns, TILE_COLUMNS):
            multiply_panels(
                round_up(steps, UNROLL),
                strips + i // TILE_ROWS * panel_bytes(steps, TILE_ROWS),
                panels + j // TILE_COLUMNS * next_panel,
                next_step,
                out + i * out_row + j * FLOAT_BYTES,
                out_row,
                rows - i,
                columns - j,
                add,
            )


@cpu_function
def fill_with_zeros(out, out_row, M, N):
    """The product where K is 0: sums of nothing."""
    for i in range(M):
        for j in range(N):
            store_number(out + i * out_row + j * FLOAT_BYTES, ZERO)


@cpu_kernel(signature=f"void(float32[:, :], {ANY_VIEW}, {ANY_VIEW}, boolean, boolean, int64)")
def multiply_in_pieces(out, a, b, add, cut_rows, n_pieces):
    """Pack one operand, on all cores; then multiply it with each piece of the other.

    cut_rows   whether b is packed and the rows of a are cut, or a is packed and the columns of b
               are cut
    n_pieces   1: the whole product on this core
    """
    if n_pieces == 1:
        multiply(out, a, b, add)
        return
    lines, width = (b.T, TILE_COLUMNS) if cut_rows else (a, TILE_ROWS)
    depth = equal_part(a.shape[1], DEPTH, DEPTH_UNIT)
    n_depths = parts(a.shape[1], depth)
    memory = np.empty(n_depths * packed_bytes(lines.shape[0], depth, width) + LINE_BYTES, np.uint8)
    for share in prange(n_depths * parts(lines.shape[0], PANELS_AT_ONCE * width)):
        pack_share(lines, width, depth, np.int64(share), memory)
    done = np.empty(n_pieces, np.int64)
    for piece in prange(n_pieces):
        done[piece] = multiply_piece(out, a, b, add, cut_rows, np.int64(piece), n_pieces, memory)
    if done.min() == NOT_DONE:  # what a parallel loop raises loses its type
        raise MemoryError(NO_MEMORY)


@cpu_function
def pack_share(lines, width, depth, share, memory):
    """Pack some lines (rows of a or b.T) at one depth: share number `share` of all of them.

    For each depth, one after the other, come all the panels.
    """
    n_lines, K = lines.shape
    shares = parts(n_lines, PANELS_AT_ONCE * width)  # at each depth
    first = share % shares * PANELS_AT_ONCE * width
    k = share // shares * depth
    steps = min(depth, K - k)
    target = first_line(memory) + k // depth * packed_bytes(n_lines, depth, width)
    pack(
        address_of(lines) + first * lines.strides[0] + k * lines.strides[1],
        lines.strides[0],
        lines.strides[1],
        min(PANELS_AT_ONCE * width, n_lines - first),
        steps,
        width,
        target + first // width * panel_bytes(steps, width),
    )


@cpu_function
def multiply_piece(out, a, b, add, cut_rows, piece, n_pieces, memory):
    """A piece of the result: some of its rows (or columns), whole tiles of them; DONE or not."""
    packed = first_line(memory)
    length, width = (out.shape[0], TILE_ROWS) if cut_rows else (out.shape[1], TILE_COLUMNS)
    tiles = parts(length, width)
    first = piece * tiles // n_pieces * width
    end = min((piece + 1) * tiles // n_pieces * width, length)
    if cut_rows:
        return multiply_arrays(out[first:end], a[first:end], NOT_PACKED, b, packed, add)
    return multiply_arrays(out[:, first:end], a, packed, b[:, first:end], NOT_PACKED, add)


@cpu_function
def equal_part(length, largest, unit):
    """The size of the parts of a length: equal, up to a multiple of `unit`."""
    return round_up(parts(length, parts(length, largest)), unit)


@cpu_function
def first_line(memory):
    """The address of the first whole cache line."""
    return round_up(address_of(memory), LINE_BYTES)


@lru_cache
def _cut(M, N, K):
    """How to share out a product: whether to cut rows (or columns), and into how many pieces.

    >>> _cut(4096, 1536, 384)
    (True, 16)
    >>> _cut(384, 384, 4096)
    (True, 4)
    >>> _cut(64, 64, 64)
    (True, 1)
    """
    if M * N * K < WORTH_SHARING:
        return True, 1
    by_rows = _pieces(M, PIECE_ROWS)
    by_columns = _pieces(N, PIECE_COLUMNS)
    cut_rows = by_rows > by_columns or (by_rows == by_columns and M >= N)
    return cut_rows, max(by_rows, by_columns)


def _pieces(length, least):
    """The largest of the numbers of pieces that leaves at least `least` to each."""
    return next((n for n in PIECES if n * least <= length), 1)


def _has_contiguous_rows(array):
    return array.strides[1] == array.itemsize or array.shape[1] < 2


def _check_types(*arrays):
    for name, array in zip(("out", "a", "b"), arrays):
        if array.dtype != FLOAT32:
            raise TypeError(f"product multiplies float32 arrays, and {name} is {array.dtype}")
        if array.ndim != 2:
            raise ValueError(f"product multiplies matrices, and {name} has shape {array.shape}")
