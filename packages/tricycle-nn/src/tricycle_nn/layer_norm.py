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
A constant vector has variance 0 and becomes zeros: eps keeps r finite.  A mean in float32 is off
by its last digit, which would be taken for the deviation of such a vector, and so the kernel takes
the mean of what is left once more where that is very little.

`add_layer_norm` adds a branch to the residual stream and normalises the sum in one pass; see
rms_norm.py for it, and for the gradient that waits at the sum.

Source: Ba, Kiros & Hinton, "Layer Normalization" (2016).

This file: the definitions, the operations, their CPU kernels, how the GPU's (layer_norm.cu) are
launched, the layer.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, empty, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot, row_sum
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.module import Module
from tricycle_nn.parameter import Parameter
from tricycle_nn.pieces import add_row, row_blocks, row_chunks, sum_of_blocks, sum_of_chunks
from tricycle_nn.rms_norm import both_get_it, check_branch

NEARLY_CONSTANT = np.float32(1e-6)  # variance beside the square of the mean


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


@fused
def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """h = x + branch, and layer_norm(h, weight, bias, eps): what a residual stream goes through.

    x, branch     (..., C), of one shape
    weight, bias  (C,), as for layer_norm
    returns       h and the normalised h, (..., C) each

    Raises ValueError for shapes that do not fit.
    """
    check_branch("add_layer_norm", x, branch)
    h = x + branch
    return h, layer_norm(h, weight, bias, eps)


@layer_norm.operation
def layer_norm_fast(run, x, weight, bias=None, eps=1e-5):
    _check_shapes(x, weight, bias)
    parameters = (weight,) if bias is None else (weight, bias)
    x_array, w, *b = kernel_inputs("layer_norm", x, *parameters)
    rows = as_rows(x_array)  # (N, C)
    y, mean, r = run.forward(rows, w, b[0] if b else None, float(eps))
    return _recorded(run, x, parameters, rows, w, y, mean, r)


@add_layer_norm.operation
def add_layer_norm_fast(run, x, branch, weight, bias=None, eps=1e-5):
    check_branch("add_layer_norm", x, branch)
    _check_shapes(x, weight, bias)
    parameters = (weight,) if bias is None else (weight, bias)
    x_array, branch_array, w, *b = kernel_inputs("add_layer_norm", x, branch, *parameters)
    given = (as_rows(x_array), as_rows(branch_array), w, b[0] if b else None)
    sums, y, mean, r = run.add_forward(*given, float(eps))
    h = record(sums.reshape(x.shape), (x, branch), both_get_it)
    return h, _recorded(run, h, parameters, sums, w, y, mean, r)


def _recorded(run, x, parameters, rows, w, y, mean, r):
    """The tensor of the results y of x's rows."""
    shape, wanted = x.shape, 1 + len(parameters)

    def backward(dy, waiting):
        waiting = None if waiting is None else as_rows(contiguous(waiting))
        dx, *sums = run.backward(as_rows(contiguous(dy)), rows, w, mean, r, waiting)
        return (dx.reshape(shape), *sums)[:wanted]

    return record(y.reshape(shape), (x, *parameters), backward, takes_waiting=True)


@layer_norm.kernels("cpu")
@add_layer_norm.kernels("cpu")
class CPU:
    """Rows are independent, so threads share them out; channels stay in one loop."""

    def forward(x: Any, weight, bias, eps):
        return normalise_rows(x, weight, zeros_for(bias, weight), eps)

    def add_forward(x: Any, branch, weight, bias, eps):
        """h = x + branch, too."""
        return add_and_normalise_rows(x, branch, weight, zeros_for(bias, weight), eps)

    @cpu_kernel
    def backward(dy: Any, x, weight, mean, r, waiting):
        """dx plus what waits there, (N, C) or None; d_weight and d_bias, (C,) each.

        Those two are sums of chunks of rows, in their order.
        """
        N, C = x.shape
        chunks = row_chunks(N)
        dx = np.empty_like(x)
        weights, biases = np.zeros((chunks, C), np.float32), np.zeros((chunks, C), np.float32)
        for k in prange(chunks):
            for n in range(N * k // chunks, N * (k + 1) // chunks):
                backward_row(dx[n], weights[k], biases[k], dy[n], x[n], weight, mean[n], r[n])
                if waiting is not None:
                    add_row(dx[n], waiting[n], dx[n])
        return dx, sum_of_chunks(weights), sum_of_chunks(biases)


def zeros_for(bias, weight):
    return np.zeros_like(weight) if bias is None else bias


@cpu_kernel
def normalise_rows(x, weight, bias, eps):
    N = len(x)
    y, mean, r = np.empty_like(x), np.empty(N, np.float32), np.empty(N, np.float32)
    for n in prange(N):
        mean[n], r[n] = normalise_row(y[n], x[n], weight, bias, np.float32(eps))
    return y, mean, r


@cpu_kernel
def add_and_normalise_rows(x, branch, weight, bias, eps):
    N = len(x)
    h, y = np.empty_like(x), np.empty_like(x)
    mean, r = np.empty(N, np.float32), np.empty(N, np.float32)
    for n in prange(N):
        add_row(h[n], x[n], branch[n])
        mean[n], r[n] = normalise_row(y[n], h[n], weight, bias, np.float32(eps))
    return h, y, mean, r


@cpu_function
def normalise_row(y, x, weight, bias, eps):
    """y = weight n + bias, n being one row (C,) normalised; returns its mean and 1 / deviation."""
    C = len(x)
    mean = row_sum(x) / np.float32(C)
    # A second pass: mean(x²) − mean(x)² would lose its digits where the mean is large.
    for c in range(C):
        y[c] = x[c] - mean
    variance = dot(y, y) / np.float32(C)
    if variance < NEARLY_CONSTANT * mean * mean:
        mean += row_sum(y) / np.float32(C)
        for c in range(C):
            y[c] = x[c] - mean
        variance = dot(y, y) / np.float32(C)
    r = np.float32(1) / np.sqrt(variance + eps)
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


@layer_norm.kernels("cuda")
@add_layer_norm.kernels("cuda")
class GPU:
    """A warp takes a row at a time.  d_weight and d_bias are float32, whatever the rows are."""

    FILE = CudaFile(__file__)
    WARPS = 4  # in a block, as layer_norm.cu has it

    def forward(x: Any, weight, bias, eps):
        return GPU._normalise(None, x, None, weight, bias, eps)

    def add_forward(x: Any, branch, weight, bias, eps):
        """h = x + branch, too."""
        h = empty_like(x)
        return h, *GPU._normalise(h, x, branch, weight, bias, eps)

    def _normalise(h: Any, x, branch, weight, bias, eps):
        N, C = x.shape
        y = empty_like(x)
        mean, r = empty(N, np.float32, like=x), empty(N, np.float32, like=x)
        kernel = GPU.FILE.get("forward", x.dtype, C=C)
        given = (h, y, mean, r, x, branch, weight, bias, np.float32(eps), np.int32(N))
        kernel((blocks_for(N, GPU.WARPS),), (GPU.WARPS * WARP,), *given)
        return y, mean, r

    def backward(dy: Any, x, weight, mean, r, waiting):
        """dx plus what waits there, (N, C) or None; d_weight and d_bias, (C,) each."""
        N, C = x.shape
        blocks = row_blocks(N)
        dx, partial = empty_like(x), empty((blocks, 2 * C), np.float32, like=x)
        kernel = GPU.FILE.get("backward", x.dtype, C=C)
        given = (dx, partial, dy, x, waiting, weight, mean, r, np.int32(N))
        kernel((blocks,), (GPU.WARPS * WARP,), *given)
        sums = sum_of_blocks(GPU.FILE, partial, x.dtype, C=C)
        return dx, sums[:C], sums[C:]


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

    def after_adding(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch, and the norm of that: see `add_layer_norm`."""
        return add_layer_norm(x, branch, self.weight, self.bias, self.eps)
