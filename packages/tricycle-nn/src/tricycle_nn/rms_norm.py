"""RMS normalisation: scale each vector to a root-mean-square of one.

For one vector x of length C, and a learned weight for each channel,

    r = 1 / √(mean(x²) + eps)           a single number
    y = x · r · weight

It is layer_norm without the mean and the bias, and works as well in practice.  Its gradients
follow from the chain rule through r: with g = dy · weight,

    dx       = r · (g − x · r² · mean(g · x))
    d_weight = Σ dy · x · r, over all vectors

Only r is kept, besides x itself: one number for each vector.  A vector of zeros stays zero.

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019).

This file: the definition, the operation, its CPU kernels, the layer.
"""

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.module import Module, Parameter
from tricycle_nn.pieces import row_chunks


@fused
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Scale each vector along the last axis to a root-mean-square of one.

    x       (..., C)
    weight  (C,), multiplies the result
    eps     is added to the mean of the squares
    returns (..., C)

    Raises ValueError for shapes that do not fit.
    """
    _check_shapes(x, weight)
    r = ((x * x).mean(axis=-1, keepdims=True) + eps) ** -0.5
    return x * r * weight


@rms_norm.kernels
def _(x, weight, eps=1e-5):
    _check_shapes(x, weight)
    x_array, w = kernel_inputs("rms_norm", x, weight)
    rows = as_rows(x_array)  # (N, C)
    y, r = CPU.forward(rows, w, np.float32(eps))

    def backward(dy):
        dy = contiguous(dy).reshape(rows.shape)
        dx, d_weight = CPU.backward(dy, rows, w, r, row_chunks(len(rows)))
        return dx.reshape(x_array.shape), d_weight.sum(axis=0)

    return record(y.reshape(x.shape), (x, weight), backward)


class CPU:
    """Rows are independent, so threads share them out; channels stay in one loop."""

    @staticmethod
    @cpu_kernel
    def forward(x, weight, eps):
        N = len(x)
        y, r = np.empty_like(x), np.empty(N, np.float32)
        for n in prange(N):
            r[n] = normalise_row(y[n], x[n], weight, eps)
        return y, r

    @staticmethod
    @cpu_kernel
    def backward(dy, x, weight, r, chunks):
        """dx, and what each chunk of rows adds to d_weight, (chunks, C)."""
        N, C = x.shape
        dx = np.empty_like(x)
        d_weight = np.zeros((chunks, C), np.float32)
        for k in prange(chunks):
            for n in range(N * k // chunks, N * (k + 1) // chunks):
                backward_row(dx[n], d_weight[k], dy[n], x[n], weight, r[n])
        return dx, d_weight


@cpu_function
def normalise_row(y, x, weight, eps):
    """y = weight x / rms(x), for one row (C,); returns r = 1 / rms(x)."""
    C = len(x)
    r = np.float32(1) / np.sqrt(dot(x, x) / np.float32(C) + eps)
    for c in range(C):
        y[c] = x[c] * r * weight[c]
    return r


@cpu_function
def backward_row(dx, d_weight, dy, x, weight, r):
    """Write one row's dx (C,), and add its part to d_weight (C,)."""
    C = len(x)
    for c in range(C):
        dx[c] = dy[c] * weight[c]  # g, for now
        d_weight[c] += dy[c] * x[c] * r
    # Two factors of r on each side: r³ could overflow where x is tiny and eps zero.
    back = r * (r * (dot(dx, x) / np.float32(C)))
    for c in range(C):
        dx[c] = r * (dx[c] - x[c] * back)


def _check_shapes(x, weight):
    channels = x.shape[-1:]
    if not channels:
        raise ValueError("rms_norm normalises vectors along the last axis, got a single number")
    if weight.shape != channels:
        raise ValueError(
            f"rms_norm of inputs of shape {x.shape} needs a weight of shape {channels}, "
            f"got {weight.shape}"
        )


class RMSNorm(Module):
    """`rms_norm` with a learned weight, which starts at one."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = Parameter(np.ones(width, np.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
