"""Weights of one byte: a quarter of the memory, and of the time to read it.

Writing a text one token at a time takes every weight once for each token, and the time is that
of reading them.  So a matrix (in, out) is kept as whole numbers from -127 to 127 and one scale for
each output,

    weight[i, o] ≈ numbers[o, i] · scale[o]          scale[o] = max_i |weight[i, o]| / 127

which is off by at most half a scale.  Vectors stay float32: each number is turned into a float on
its way to the multiplication, in a register.

For reading only: no gradient flows through whole numbers.  Dettmers et al., LLM.int8() (2022) has
the scheme, with more care for outliers, and what it costs: little.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous
from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_autograd.cpu_math import dot_int8
from tricycle_autograd.gemm import product
from tricycle_autograd.modes import is_recording
from tricycle_autograd.tensor import Tensor, wrap
from tricycle_nn.linear import Linear
from tricycle_nn.module import Module

LARGEST = 127
FEW_ROWS = 8  # up to here each row reads the numbers anew; above they become floats once
PIECE_NUMBERS = 2**17  # in a piece of work, about: 128 KB
BLOCK_OUTPUTS = 1024  # that become floats at once


class Int8Matrix:
    """A matrix of whole numbers with a scale for each row.

    weight   (out, in) float32: each output's weights are a row
    numbers  (out, in) int8
    scales   (out,) float32

    Raises ValueError for a weight that holds infinities or NaN.
    """

    def __init__(self, weight: np.ndarray):
        largest = np.abs(weight).max(axis=1, initial=0.0)
        if not np.isfinite(largest).all():
            raise ValueError("weights that are not finite cannot be written as whole numbers")
        self.scales = (largest / LARGEST).astype(np.float32)
        steps = np.where(self.scales > 0, self.scales, 1)[:, None]
        self.numbers = np.rint(weight / steps).astype(np.int8, order="C")

    def rows(self, which: Any = slice(None)) -> np.ndarray:
        """Some rows, or all, as float32 again."""
        return self.numbers[which] * self.scales[which][..., None]

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """x (N, in) times the rows: (N, out), in float32 or float64 as x is."""
        if x.dtype == np.float64:
            return x @ self.rows().T
        y = np.empty((len(x), len(self.scales)), np.float32)
        if len(x) <= FEW_ROWS:
            n_pieces = max(1, min(self.numbers.size // PIECE_NUMBERS, len(self.scales)))
            for row, out in zip(contiguous(x), y, strict=True):
                one_row(out, row, self.numbers, self.scales, n_pieces)
        else:
            for start in range(0, len(self.scales), BLOCK_OUTPUTS):
                some = slice(start, start + BLOCK_OUTPUTS)
                product(y[:, some], x, self.rows(some).T)
        return y


class Int8Linear(Module):
    """A Linear layer whose weight was turned into whole numbers.

    linear  the layer it is made from, which is left as it is
    """

    def __init__(self, linear: Linear):
        self.matrix = Int8Matrix(linear.weight.array.T)
        self.bias = None if linear.bias is None else linear.bias.array

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out).  Raises RuntimeError where a gradient is wanted."""
        y = int8_outputs(x, self.matrix)
        return y if self.bias is None else wrap(y.array + self.bias)


def int8_outputs(x: Tensor, matrix: Int8Matrix) -> Tensor:
    """x (..., in) times the rows of a matrix of whole numbers: (..., out).

    Raises RuntimeError while recording an x that wants a gradient, ValueError for shapes that
    do not fit, and TypeError for an x that is neither float32 nor float64.
    """
    if is_recording() and x.requires_grad:
        raise RuntimeError(
            "no gradient flows through int8 weights; train the model they were made from, and "
            "run this one under no_grad()"
        )
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"int8 weights expected float32 or float64 inputs, got {x.dtype}; convert them with "
            ".astype('float32')"
        )
    n_outputs, n_inputs = matrix.numbers.shape
    if x.ndim == 0 or x.shape[-1] != n_inputs:
        raise ValueError(f"int8 weights expected inputs (..., {n_inputs}), got shape {x.shape}")
    return wrap(matrix.outputs(as_rows(x.array)).reshape(*x.shape[:-1], n_outputs))


@cpu_kernel
def one_row(out, x, numbers, scales, n_pieces):
    """out (out,) = numbers (out, in) · x (in,), each times its scale."""
    for piece in prange(n_pieces):
        first, end = piece * out.size // n_pieces, (piece + 1) * out.size // n_pieces
        for o in range(first, end):
            out[o] = dot_int8(numbers[o], x) * scales[o]
