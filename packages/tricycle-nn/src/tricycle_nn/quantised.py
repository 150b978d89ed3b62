"""Weights of 8 or 4 bits: a quarter of the memory, or a sixth, and of the time to read it.

Writing a text one token at a time takes every weight once for each token, and the time is that of
reading them.  So a matrix is kept as small whole numbers, and 32 of them, a block of one output's
weights, share what turns them back:

    8 bits    weight ≈ scale · number             number from -127 to 127
    4 bits    weight ≈ scale · number + least     number from 0 to 15

which is off by at most half a scale.  Blocks keep a large weight from making others coarse: with
one scale for a whole output, SmolLM2-135M loses 0.0135 nats of 3.62, with blocks of 8 bits nothing
that can be measured.  `scale` and `least` are float16: 6 % more bytes, or 25 % for both beside
numbers of 4 bits.  Inputs stay float32: each whole number is turned into a float on its way to the
multiplication, in a register (group_sums.py).

For reading only: no gradient flows through whole numbers.  The blocks are those of llama.cpp's
types Q8_0 and Q4_1, in another order, so that weights of such a file come back as they were.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous
from tricycle_autograd.cpu import cpu_function, cpu_kernel, needs_numba, prange
from tricycle_autograd.cpu_math import row_sum
from tricycle_autograd.gemm import (
    DEPTH,
    DEPTH_UNIT,
    NOT_DONE,
    NOT_PACKED,
    PANELS_AT_ONCE,
    TILE_ROWS,
    address_of,
    equal_part,
    first_line,
    multiply_arrays,
    pack_share,
)
from tricycle_autograd.gemm_packing import LINE_BYTES, packed_bytes, parts
from tricycle_autograd.modes import is_recording
from tricycle_autograd.tensor import Tensor, wrap
from tricycle_nn.linear import Linear
from tricycle_nn.module import Module

BLOCK = 32  # inputs whose weights share a scale
GROUP = 32  # outputs whose numbers lie side by side
LARGEST = {8: 127, 4: 15}
FEW_ROWS = 8  # up to here each row uses the numbers as they are; above they become floats once
PIECE_NUMBERS = 2**17  # of few rows in a piece of work, about
FLOATS = 2**17  # in a piece of many rows, about: 512 KB
MOST_PIECES = 48
TOO_LARGE = np.float32(2**15)  # float16 ends at 65504, and 4 bits go from one end to the other
BYTES, HALVES = "Array(uint8, 3, 'C', True)", "Array(uint16, 3, 'C', True)"
SIGNATURE = (
    f"void(float32[:, ::1], Array(float32, 2, 'C', True), {BYTES}, {HALVES}, {HALVES}, int64)"
)

sum_group_8 = needs_numba("tricycle_autograd.group_sums", "sum_group_8")
sum_group_4 = needs_numba("tricycle_autograd.group_sums", "sum_group_4")
unpack_group_8 = needs_numba("tricycle_autograd.group_sums", "unpack_group_8")
unpack_group_4 = needs_numba("tricycle_autograd.group_sums", "unpack_group_4")


class QuantisedMatrix:
    """A matrix of whole numbers, in blocks that have a scale each.

    weight   (out, in) float32: each output's weights are a row
    bits     8 or 4, of a number

    numbers  (G, in, 32) int8, or (G, in, 16) uint8 with output o of a group in the lower half of
             a byte and o + 16 in the upper; G groups of 32 outputs, the last filled up with zeros
    scales   (G, blocks, 32) float16
    least    the same of 4 bits; (0, 0, 0) of 8

    Raises ValueError for another number of bits, and for a weight that holds infinities, NaN or
    numbers too large for a float16 scale.
    """

    def __init__(self, weight: np.ndarray, bits: int = 8):
        if bits not in LARGEST:
            raise ValueError(f"weights are kept in 8 or 4 bits, got {bits}")
        self.bits, self.shape = bits, weight.shape
        blocks = _in_blocks(weight)
        low, high = blocks.min(axis=2), blocks.max(axis=2)  # (G, blocks, 32)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("weights that are not finite cannot be written as whole numbers")
        if max(-low.min(), high.max()) > TOO_LARGE:
            raise ValueError(
                f"weights up to {max(-low.min(), high.max()):.3g} are too large for the float16 "
                f"scales of whole numbers, which want at most {TOO_LARGE:.0f}"
            )
        if bits == 8:
            self.scales = _scales(np.maximum(-low, high), LARGEST[8])
            self.least = np.zeros((0, 0, 0), np.float16)
            whole = np.rint(blocks / _steps(self.scales))
            numbers = whole.clip(-LARGEST[8], LARGEST[8]).astype(np.int8)
        else:
            self.least = _at_most(low)
            from_least = self.least.astype(np.float32)
            self.scales = _scales(high - from_least, LARGEST[4])
            whole = np.rint((blocks - from_least[:, :, None]) / _steps(self.scales))
            fours = whole.clip(0, LARGEST[4]).astype(np.uint8)
            numbers = fours[..., :16] | fours[..., 16:] << 4
        G, n_blocks, _, width = numbers.shape
        numbers = numbers.reshape(G, n_blocks * BLOCK, width)[:, : weight.shape[1]]
        self.numbers, self.scales, self.least = map(
            np.ascontiguousarray, (numbers, self.scales, self.least)
        )

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.numbers.nbytes + self.scales.nbytes + self.least.nbytes

    def rows(self, which: Any = slice(None)) -> np.ndarray:
        """Some rows, or all, as float32 again: (..., in)."""
        wanted = np.arange(self.shape[0])[which]
        group, o = wanted // GROUP, wanted % GROUP
        if self.bits == 8:
            numbers = self.numbers[group, :, o].astype(np.float32)
        else:
            pairs = self.numbers[group, :, o % 16]
            numbers = np.where((o < 16)[..., None], pairs & 15, pairs >> 4).astype(np.float32)
        weight = numbers * self._for_inputs(self.scales, group, o)
        return weight + self._for_inputs(self.least, group, o) if self.bits == 4 else weight

    def _for_inputs(self, of_blocks, group, o):
        """Those outputs' numbers of each block, once for each of its inputs."""
        chosen = of_blocks[group, :, o].astype(np.float32)
        return np.repeat(chosen, BLOCK, axis=-1)[..., : self.shape[1]]

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """x (N, in) times the rows: (N, out), in float32 or float64 as x is."""
        if x.dtype == np.float64:
            return x @ self.rows().T
        n_groups, x = len(self.numbers), contiguous(x)
        y = np.empty((len(x), n_groups * GROUP), np.float32)
        n_numbers, n_outputs = n_groups * GROUP * self.shape[1], self.shape[0]
        scales, least = self.scales.view(np.uint16), self.least.view(np.uint16)
        numbers = self.numbers.view(np.uint8)
        if len(x) <= FEW_ROWS:
            n_pieces = max(1, min(n_numbers // PIECE_NUMBERS, n_groups, MOST_PIECES))
            few_rows(y, x, numbers, scales, least, n_pieces)
        else:
            n_pieces = max(1, min(parts(n_numbers, FLOATS), n_groups))
            many_rows(y, x, numbers, scales, least, n_pieces)
        return y if y.shape[1] == n_outputs else np.ascontiguousarray(y[:, :n_outputs])


class QuantisedLinear(Module):
    """A Linear layer whose weight was turned into whole numbers.

    linear  the layer it is made from, which is left as it is
    bits    8 or 4, of a weight
    """

    def __init__(self, linear: Linear, bits: int = 8):
        self.matrix = QuantisedMatrix(linear.weight.array.T, bits)
        self.bias = None if linear.bias is None else linear.bias.array

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out).  Raises RuntimeError where a gradient is wanted."""
        y = quantised_outputs(x, self.matrix)
        return y if self.bias is None else wrap(y.array + self.bias)


def quantised_outputs(x: Tensor, matrix: QuantisedMatrix) -> Tensor:
    """x (..., in) times the rows of a matrix of whole numbers: (..., out).

    Raises RuntimeError while recording an x that wants a gradient, ValueError for shapes that
    do not fit, and TypeError for an x that is neither float32 nor float64.
    """
    if is_recording() and x.requires_grad:
        raise RuntimeError(
            "no gradient flows through quantised weights; train the model they were made from, and "
            "run this one under no_grad()"
        )
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"quantised weights expected float32 or float64 inputs, got {x.dtype}; convert them "
            "with .astype('float32')"
        )
    n_outputs, n_inputs = matrix.shape
    if x.ndim == 0 or x.shape[-1] != n_inputs:
        raise ValueError(
            f"quantised weights expected inputs (..., {n_inputs}), got shape {x.shape}"
        )
    return wrap(matrix.outputs(as_rows(x.array)).reshape(*x.shape[:-1], n_outputs))


# ---- Writing weights as whole numbers ----


def _in_blocks(weight):
    """(out, in) as (G, blocks, 32 inputs, 32 outputs): outputs filled up with zeros, and a block
    with numbers that it has already, so that they change neither end of it."""
    n_outputs, n_inputs = weight.shape
    more = (0, -n_outputs % GROUP), (0, -n_inputs % BLOCK)
    weight = np.pad(np.pad(weight, (more[0], (0, 0))), ((0, 0), more[1]), mode="edge")
    G, blocks = len(weight) // GROUP, weight.shape[1] // BLOCK
    return weight.reshape(G, GROUP, blocks, BLOCK).transpose(0, 2, 3, 1)


def _at_most(numbers):
    """The largest float16 that are not above float32 numbers."""
    nearest = _as_float16(numbers)
    return np.where(nearest > numbers, np.nextafter(nearest, np.float16(-np.inf)), nearest)


def _scales(widths, largest):
    """float16 scales with which whole numbers up to the largest are never off by more than half."""
    scales = _as_float16(widths / np.float32(largest))
    too_small = scales.astype(np.float32) * np.float32(largest + 0.5) < widths
    return np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)


def _as_float16(numbers):
    """The nearest, infinite where they are too large."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float16)


def _steps(scales):
    """What weights are divided by, seen for each input of a block; 1 where all are equal."""
    return np.where(scales > 0, scales, np.float16(1)).astype(np.float32)[:, :, None]


# ---- Kernels ----


@cpu_kernel(signature=SIGNATURE)
def few_rows(out, x, numbers, scales, least, n_pieces):
    """out (N, G · 32) = x (N, in) times each group; see QuantisedMatrix."""
    n_groups = numbers.shape[0]
    x_sums = _block_sums(x)
    for piece in prange(n_pieces):
        first, end = piece * n_groups // n_pieces, (piece + 1) * n_groups // n_pieces
        for g in range(first, end):
            for i in range(x.shape[0]):  # a group's numbers are in the cache for the second row
                mine = out[i, g * GROUP : (g + 1) * GROUP]
                if least.size:
                    _sum_fours(mine, x[i], x_sums[i], numbers[g], scales[g], least[g])
                else:
                    _sum_bytes(mine, x[i], numbers[g], scales[g])


@cpu_kernel(signature=SIGNATURE)
def many_rows(out, x, numbers, scales, least, n_pieces):
    """The same, where it pays to turn each piece of the numbers into floats first."""
    n_groups, n_inputs = numbers.shape[:2]
    n_rows = x.shape[0]
    depth = equal_part(n_inputs, DEPTH, DEPTH_UNIT)
    size = parts(n_inputs, depth) * packed_bytes(n_rows, depth, TILE_ROWS) + LINE_BYTES
    packed = np.empty(size, np.uint8)
    for share in prange(parts(n_inputs, depth) * parts(n_rows, PANELS_AT_ONCE * TILE_ROWS)):
        pack_share(x, TILE_ROWS, depth, np.int64(share), packed)
    done = np.empty(n_pieces, np.int64)
    for piece in prange(n_pieces):
        first, end = piece * n_groups // n_pieces, (piece + 1) * n_groups // n_pieces
        weights = np.empty((n_inputs, (end - first) * GROUP), np.float32)
        for g in range(first, end):
            mine = weights[:, (g - first) * GROUP : (g - first + 1) * GROUP]
            if least.size:
                _unpack_fours(mine, numbers[g], scales[g], least[g])
            else:
                _unpack_bytes(mine, numbers[g], scales[g])
        mine = out[:, first * GROUP : end * GROUP]
        done[piece] = multiply_arrays(mine, x, first_line(packed), weights, NOT_PACKED, False)
    if done.min() == NOT_DONE:  # what a parallel loop raises loses its type
        raise MemoryError("there is no memory to multiply with quantised weights")


@cpu_function
def _block_sums(x):
    """(N, in) -> (N, blocks): the sum of each block of a row."""
    n_inputs = x.shape[1]
    sums = np.empty((x.shape[0], (n_inputs + BLOCK - 1) // BLOCK), np.float32)
    for i in range(sums.shape[0]):
        for block in range(sums.shape[1]):
            sums[i, block] = row_sum(x[i, block * BLOCK : min((block + 1) * BLOCK, n_inputs)])
    return sums


@cpu_function
def _sum_bytes(out, x, numbers, scales):
    """One group of numbers of 8 bits: out (32,) from x (in,)."""
    at = address_of(out), address_of(x), 0, address_of(numbers), address_of(scales)
    sum_group_8(at[0], at[1], 0, at[3], at[4], 0, x.size)


@cpu_function
def _sum_fours(out, x, x_sums, numbers, scales, least):
    """One group of numbers of 4 bits; x_sums are those of the blocks of x."""
    sum_group_4(
        address_of(out),
        address_of(x),
        address_of(x_sums),
        address_of(numbers),
        address_of(scales),
        address_of(least),
        x.size,
    )


@cpu_function
def _unpack_bytes(out, numbers, scales):
    """out (in, 32), a slice of wider rows."""
    for first in range(0, out.shape[0], BLOCK):
        unpack_group_8(
            address_of(out),
            out.strides[0],
            address_of(numbers),
            address_of(scales),
            0,
            first,
            min(first + BLOCK, out.shape[0]),
        )


@cpu_function
def _unpack_fours(out, numbers, scales, least):
    """out (in, 32), a slice of wider rows."""
    for first in range(0, out.shape[0], BLOCK):
        unpack_group_4(
            address_of(out),
            out.strides[0],
            address_of(numbers),
            address_of(scales),
            address_of(least),
            first,
            min(first + BLOCK, out.shape[0]),
        )


# As numpy has it, where there is no compiler, and to try kernels against.


def plain_weights(numbers, scales, least=None):
    """A group's numbers and scales, as kernels have them, as float32: (in, 32)."""
    n_inputs, width = numbers.shape
    if width == GROUP:
        whole = numbers.view(np.int8)
    else:
        whole = np.concatenate([numbers & 15, numbers >> 4], axis=1)
    of_inputs = np.arange(n_inputs) // BLOCK
    weights = whole * scales.view(np.float16).astype(np.float32)[of_inputs]
    if least is None:
        return weights
    return weights + least.view(np.float16).astype(np.float32)[of_inputs]


@_sum_bytes.without_numba
def plain_sum_bytes(out, x, numbers, scales):
    out[...] = x @ plain_weights(numbers, scales)


@_sum_fours.without_numba
def plain_sum_fours(out, x, x_sums, numbers, scales, least):
    out[...] = x @ plain_weights(numbers, scales, least)


@_unpack_bytes.without_numba
def plain_unpack_bytes(out, numbers, scales):
    out[...] = plain_weights(numbers, scales)


@_unpack_fours.without_numba
def plain_unpack_fours(out, numbers, scales, least):
    out[...] = plain_weights(numbers, scales, least)


@many_rows.without_numba
def plain_many_rows(out, x, numbers, scales, least, n_pieces):
    for g in range(len(numbers)):
        weights = plain_weights(numbers[g], scales[g], least[g] if least.size else None)
        out[:, g * GROUP : (g + 1) * GROUP] = x @ weights
