"""Packing: an operand of the matrix product, copied into the order in which it will be read.

A tile reads 14 rows of a, or 32 columns of b (the *lines* of an operand), and at each *step* of
the summed dimension one number of each.  So lines are packed in panels of that width: first the
first number of each line, then the second of each, and so on.

    a's rows     0 1 2 3        panel    0 4 8 . | 1 5 9 . | 2 6 10 . | 3 7 11 .
                 4 5 6 7
                 8 9 10 11               (three lines in a panel of width 4: the rest is zeros)

Then reading is along one line of memory, every byte of every cache line is used, and it no longer
matters whether an operand was transposed, or is a slice of a larger array.  Lines and steps that
are missing at the edges are zeros, which change no sum.

Places are given as addresses and distances in bytes, int64.
"""

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_routine, needs_numba

# Plain numbers, known once the processor is: see gemm_tile.
LANES = needs_numba("tricycle_autograd.gemm_tile", "LANES")
UNROLL = needs_numba("tricycle_autograd.gemm_tile", "UNROLL")

copy_vector = needs_numba("tricycle_autograd.gemm_tile", "copy_vector")
load_number = needs_numba("tricycle_autograd.gemm_tile", "load_number")
prefetch = needs_numba("tricycle_autograd.gemm_tile", "prefetch")
store_number = needs_numba("tricycle_autograd.gemm_tile", "store_number")
transpose_block = needs_numba("tricycle_autograd.gemm_tile", "transpose_block")

FLOAT_BYTES = np.int64(4)
LINE_BYTES = np.int64(64)  # of a cache line
# How far ahead pack_steps calls for its numbers: processors do not guess such long jumps.
STEPS_AHEAD = np.int64(8)


@cpu_routine("void(int64, int64, int64, int64, int64, int64, int64)")
def pack(source, line, step, lines, steps, width, target):
    """Copy `lines` lines of `steps` numbers into panels of `width` lines.

    source       address of the first number
    line, step   bytes from a line to the next, and from a step to the next
    target       address of the first panel; for the distance between them see panel_bytes
    """
    if step == FLOAT_BYTES:
        pack_lines(source, line, lines, steps, width, target)
    elif line == FLOAT_BYTES:
        pack_steps(source, step, lines, steps, width, target)
    else:
        pack_numbers(source, line, step, lines, steps, width, target)


@cpu_function
def pack_lines(source, line, lines, steps, width, target):
    """pack, where the numbers of a line are neighbours: transpose square blocks."""
    for first in range(0, lines, width):
        panel = target + first // width * panel_bytes(steps, width)
        for k in range(0, steps, LANES):
            # From right to left: a block that is wider than what is left of the panel writes
            # over its edge, into the next step's numbers, before they are written.  What it
            # writes there does not matter: the next panel's lines, where there are any, so that
            # the block is whole and needs no masks.
            for i in range((width - 1) // LANES * LANES, -1, -LANES):
                transpose_block(
                    source + (first + i) * line + k * FLOAT_BYTES,
                    line,
                    lines - first - i,
                    steps - k,
                    panel + (k * width + i) * FLOAT_BYTES,
                    width * FLOAT_BYTES,
                )


@cpu_function
def pack_steps(source, step, lines, steps, width, target):
    """pack, where the numbers of a step are neighbours: copy them."""
    panels, next_panel = parts(lines, width), panel_bytes(steps, width)  # once: divisions are slow
    for k in range(round_up(steps, UNROLL)):
        numbers, place = source + k * step, target + k * width * FLOAT_BYTES
        valid = lines if k < steps else 0  # not of this panel alone: see pack_lines
        if k + STEPS_AHEAD < steps:
            for i in range(0, lines, LINE_BYTES // FLOAT_BYTES):
                prefetch(numbers + STEPS_AHEAD * step + i * FLOAT_BYTES)
        for _ in range(panels):
            for i in range(0, width, LANES):
                copy_vector(numbers + i * FLOAT_BYTES, place + i * FLOAT_BYTES, valid - i)
            numbers += width * FLOAT_BYTES
            place += next_panel
            valid -= width


@cpu_function
def pack_numbers(source, line, step, lines, steps, width, target):
    """pack, where nothing is a neighbour: one number after the other."""
    for first in range(0, lines, width):
        panel = target + first // width * panel_bytes(steps, width)
        for k in range(round_up(steps, UNROLL)):
            for i in range(0, width, LANES):
                copy_vector(source, panel + (k * width + i) * FLOAT_BYTES, 0)
            if k < steps:
                for i in range(min(width, lines - first)):
                    number = load_number(source + (first + i) * line + k * step)
                    store_number(panel + (k * width + i) * FLOAT_BYTES, number)


@cpu_function
def panel_bytes(steps, width):
    """The distance between panels: a cache line more than their numbers take.

    Packing stores whole vectors, also at the end of a panel that is less than a vector wide; and
    panels should not all start at the same place of a cache.
    """
    return round_up(steps, LANES) * width * FLOAT_BYTES + LINE_BYTES


@cpu_function
def packed_bytes(lines, steps, width):
    """The size of all panels of so many lines."""
    return parts(lines, width) * panel_bytes(steps, width)


@cpu_function
def parts(length, size):
    """How many parts of at most `size` a length has."""
    return (length + size - 1) // size


@cpu_function
def round_up(length, unit):
    """The next multiple of `unit`."""
    return parts(length, unit) * unit
