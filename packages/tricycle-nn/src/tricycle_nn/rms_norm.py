"""RMS normalisation: scale each vector to a root-mean-square of one.

For one vector x of length C, and a learned weight for each channel,

    r = 1 / √(mean(x²) + eps)           a single number
    y = x · r · weight

It is layer_norm without the mean and the bias, and works as well in practice.  Its gradients
follow from the chain rule through r: with g = dy · weight,

    dx       = r · (g − x · r² · mean(g · x))
    d_weight = Σ dy · x · r, over all vectors

Only r is kept, besides x itself: one number for each vector.  A vector of zeros stays zero.

In a transformer a norm reads the residual stream just after something was added to it.
`add_rms_norm` does both in one pass over memory; and on the way back the gradient that waits at
the sum is added in the loop that makes dx, instead of in a pass of its own.

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019).

This file: the definitions, the operations, their CPU kernels, how the GPU's (rms_norm.cu) are
launched, the layer.
"""

from typing import Any

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, empty, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import dot
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.module import Module
from tricycle_nn.parameter import Parameter
from tricycle_nn.pieces import add_row, row_blocks, row_chunks, sum_of_blocks, sum_of_chunks


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


@fused
def add_rms_norm(
    x: Tensor, branch: Tensor, weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """h = x + branch, and rms_norm(h, weight, eps): what a residual stream goes through.

    x, branch  (..., C), of one shape
    weight     (C,)
    returns    h and the normalised h, (..., C) each

    Raises ValueError for shapes that do not fit.
    """
    check_branch("add_rms_norm", x, branch)
    h = x + branch
    return h, rms_norm(h, weight, eps)


@rms_norm.operation
def rms_norm_fast(run, x, weight, eps=1e-5):
    _check_shapes(x, weight)
    x_array, w = kernel_inputs("rms_norm", x, weight)
    rows = as_rows(x_array)  # (N, C)
    y, r = run.forward(rows, w, float(eps))
    return _recorded(run, x, weight, rows, w, y, r)


@add_rms_norm.operation
def add_rms_norm_fast(run, x, branch, weight, eps=1e-5):
    check_branch("add_rms_norm", x, branch)
    _check_shapes(x, weight)
    x_array, branch_array, w = kernel_inputs("add_rms_norm", x, branch, weight)
    sums, y, r = run.add_forward(as_rows(x_array), as_rows(branch_array), w, float(eps))
    h = record(sums.reshape(x.shape), (x, branch), both_get_it)
    return h, _recorded(run, h, weight, sums, w, y, r)


def both_get_it(dy):
    """The backward of a sum of two: each of them gets the sum's gradient."""
    return dy, dy


def _recorded(run, x, weight, rows, w, y, r):
    """The tensor of the results y of x's rows."""
    shape = x.shape

    def backward(dy, waiting):
        waiting = None if waiting is None else as_rows(contiguous(waiting))
        dx, d_weight = run.backward(as_rows(contiguous(dy)), rows, w, r, waiting)
        return dx.reshape(shape), d_weight

    return record(y.reshape(shape), (x, weight), backward, takes_waiting=True)


@rms_norm.kernels("cpu")
@add_rms_norm.kernels("cpu")
class CPU:
    """Rows are independent, so threads share them out; channels stay in one loop."""

    @cpu_kernel
    def forward(x: Any, weight, eps):
        N = len(x)
        y, r = np.empty_like(x), np.empty(N, np.float32)
        for n in prange(N):
            r[n] = normalise_row(y[n], x[n], weight, np.float32(eps))
        return y, r

    @cpu_kernel
    def add_forward(x: Any, branch, weight, eps):
        """h = x + branch, too."""
        N = len(x)
        h, y, r = np.empty_like(x), np.empty_like(x), np.empty(N, np.float32)
        for n in prange(N):
            add_row(h[n], x[n], branch[n])
            r[n] = normalise_row(y[n], h[n], weight, np.float32(eps))
        return h, y, r

    @cpu_kernel
    def backward(dy: Any, x, weight, r, waiting):
        """dx plus what waits there, (N, C) or None; and d_weight, from chunks of rows in order."""
        N, C = x.shape
        chunks = row_chunks(N)
        dx, sums = np.empty_like(x), np.zeros((chunks, C), np.float32)
        for k in prange(chunks):
            for n in range(N * k // chunks, N * (k + 1) // chunks):
                backward_row(dx[n], sums[k], dy[n], x[n], weight, r[n])
                if waiting is not None:
                    add_row(dx[n], waiting[n], dx[n])
        return dx, sum_of_chunks(sums)


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


@rms_norm.kernels("cuda")
@add_rms_norm.kernels("cuda")
class GPU:
    """A warp takes a row at a time.  d_weight is float32, whatever the rows are."""

    FILE = CudaFile(__file__)
    WARPS = 4  # in a block, as rms_norm.cu has it

    def forward(x: Any, weight, eps):
        return GPU._normalise(None, x, None, weight, eps)

    def add_forward(x: Any, branch, weight, eps):
        """h = x + branch, too."""
        h = empty_like(x)
        return h, *GPU._normalise(h, x, branch, weight, eps)

    def _normalise(h: Any, x, branch, weight, eps):
        N, C = x.shape
        y, r = empty_like(x), empty(N, np.float32, like=x)
        kernel = GPU.FILE.get("forward", x.dtype, C=C)
        grid, block = (blocks_for(N, GPU.WARPS),), (GPU.WARPS * WARP,)
        kernel(grid, block, h, y, r, x, branch, weight, np.float32(eps), np.int32(N))
        return y, r

    def backward(dy: Any, x, weight, r, waiting):
        """dx plus what waits there, (N, C) or None; and d_weight, from blocks of rows in order."""
        N, C = x.shape
        blocks = row_blocks(N)
        dx, partial = empty_like(x), empty((blocks, C), np.float32, like=x)
        kernel = GPU.FILE.get("backward", x.dtype, C=C)
        given = (dx, partial, dy, x, waiting, weight, r)
        kernel((blocks,), (GPU.WARPS * WARP,), *given, np.int32(N))
        return dx, sum_of_blocks(GPU.FILE, partial, x.dtype, C=C)


def check_branch(name, x, branch):
    """Raise ValueError for two summands of different shapes."""
    if x.shape != branch.shape:
        raise ValueError(f"{name} adds two tensors of one shape, got {x.shape} and {branch.shape}")


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

    def after_adding(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch, and the norm of that: see `add_rms_norm`."""
        return add_rms_norm(x, branch, self.weight, self.eps)
