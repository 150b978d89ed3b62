"""Layer normalisation: shift and scale each vector to mean zero and variance one.

For one vector x of length C, with a learned weight and bias for each channel,

    r = 1 / √(variance(x) + eps)        a single number
    n = (x − mean(x)) · r               the normalised vector
    y = n · weight + bias

Going backwards, n reacts to x in three ways: directly, through the mean and through r.
Written with g = dy · weight, the three together are

    dx = r · (g − mean(g) − n · mean(g · n))

The two subtractions take out of g whatever would shift or stretch x: a change that the
normalisation undoes.  The others sum over all vectors:

    d_weight = Σ dy · n          d_bias = Σ dy

Only mean and r are kept, besides x itself: two numbers for each vector; n is recomputed.
A constant vector has variance 0 and becomes zeros: eps keeps r finite.

Source: Ba, Kiros & Hinton, "Layer Normalization" (2016).

This file: the definition, the operation, its CPU kernels, the layer.
"""

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot, row_sum
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.module import Module, Parameter
from tricycle_nn.pieces import row_chunks


@fused
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Shift and scale each vector along the last axis to mean zero and variance one.

    x       (..., C)
    weight  (C,), multiplies the result
    bias    (C,), is added to it, or None
    eps     is added to the variance
    returns (..., C)

    Raises ValueError for shapes that do not fit.
    """
    _check_shapes(x, weight, bias)
    centred = x - x.mean(axis=-1, keepdims=True)
    r = ((centred * centred).mean(axis=-1, keepdims=True) + eps) ** -0.5
    y = centred * r * weight
    return y if bias is None else y + bias


@layer_norm.kernels
def _(x, weight, bias=None, eps=1e-5):
    _check_shapes(x, weight, bias)
    inputs = (x, weight) if bias is None else (x, weight, bias)
    x_array, w, *b = kernel_inputs("layer_norm", *inputs)
    rows = as_rows(x_array)  # (N, C)
    y, mean, r = CPU.forward(rows, w, b[0] if b else np.zeros_like(w), np.float32(eps))

    def backward(dy):
        dy = contiguous(dy).reshape(rows.shape)
        dx, *sums = CPU.backward(dy, rows, w, mean, r, row_chunks(len(rows)))
        d_weight, d_bias = [chunks.sum(axis=0) for chunks in sums]
        return (dx.reshape(x_array.shape), d_weight, d_bias)[:n_inputs]

    n_inputs = len(inputs)
    return record(y.reshape(x.shape), inputs, backward)


class CPU:
    """Rows are independent, so threads share them out; channels stay in one loop."""

    @staticmethod
    @cpu_kernel
    def forward(x, weight, bias, eps):
        N, C = x.shape
        y, mean, r = np.empty_like(x), np.empty(N, np.float32), np.empty(N, np.float32)
        for n in prange(N):
            mean[n], r[n] = normalise_row(y[n], x[n], weight, bias, eps)
        return y, mean, r

    @staticmethod
    @cpu_kernel
    def backward(dy, x, weight, mean, r, chunks):
        """dx, and what each chunk of rows adds to d_weight and to d_bias, (chunks, C) each."""
        N, C = x.shape
        dx = np.empty_like(x)
        d_weight = np.zeros((chunks, C), np.float32)
        d_bias = np.zeros((chunks, C), np.float32)
        for k in prange(chunks):
            for n in range(N * k // chunks, N * (k + 1) // chunks):
                backward_row(dx[n], d_weight[k], d_bias[k], dy[n], x[n], weight, mean[n], r[n])
        return dx, d_weight, d_bias


@cpu_function
def normalise_row(y, x, weight, bias, eps):
    """y = weight n + bias, n being one row (C,) normalised; returns its mean and 1 / deviation."""
    C = len(x)
    mean = row_sum(x) / np.float32(C)
    # A second pass: mean(x²) − mean(x)² would lose its digits where the mean is large.
    for c in range(C):
        y[c] = x[c] - mean
    r = np.float32(1) / np.sqrt(dot(y, y) / np.float32(C) + eps)
    for c in range(C):
        y[c] = y[c] * r * weight[c] + bias[c]
    return mean, r


@cpu_function
def backward_row(dx, d_weight, d_bias, dy, x, weight, mean, r):
    """Write one row's dx (C,), and add its part to d_weight and d_bias (C,)."""
    C = len(x)
    for c in range(C):
        n = (x[c] - mean) * r
        dx[c] = dy[c] * weight[c] * n  # g · n, for now
        d_weight[c] += dy[c] * n
        d_bias[c] += dy[c]
    mean_g, mean_gn = dot(dy, weight) / np.float32(C), row_sum(dx) / np.float32(C)
    for c in range(C):
        n = (x[c] - mean) * r
        dx[c] = r * (dy[c] * weight[c] - mean_g - n * mean_gn)


def _check_shapes(x, weight, bias):
    channels = x.shape[-1:]
    if not channels:
        raise ValueError("layer_norm normalises vectors along the last axis, got a single number")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != channels:
            raise ValueError(
                f"layer_norm of inputs of shape {x.shape} needs a {name} of shape {channels}, "
                f"got {parameter.shape}"
            )


class LayerNorm(Module):
    """`layer_norm` with a learned weight, which starts at one, and bias, which starts at zero."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = Parameter(np.ones(width, np.float32))
        self.bias = Parameter(np.zeros(width, np.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)
