"""Linear: every output is a weighted sum of all inputs, plus a bias.

For rows x (N, in), weight W (in, out) and bias b (out,),

    y = x W + b

One output y[n, o] = Σ x[n, i] W[i, o] + b[o] uses row n of x, and column o of W.  Collecting
for each input and each weight all the outputs that it went into gives the gradients:

    dx = dy Wᵀ            d_weight = xᵀ dy            d_bias = Σ dy, over rows

Two more products of the same cost: backward takes twice the time of forward.  x is kept for
them.  d_weight is written, or added, straight to where the optimiser wants it.

This file: the definition, the operation, its CPU kernels, what it runs on the GPU (products, and
sums in linear.cu), the layer.
"""

from typing import Any

import numpy as np

from tricycle_autograd import cublaslt
from tricycle_autograd.arrays import as_rows, contiguous, empty, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.fused import fused
from tricycle_autograd.gemm import product
from tricycle_autograd.tape import gradient_destination
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.initialisers import normal
from tricycle_nn.module import Module
from tricycle_nn.parameter import Parameter
from tricycle_nn.pieces import numbers_at_once, row_blocks, row_chunks, sum_of_blocks


@fused
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted sums of the numbers along the last axis.

    x       (..., in)
    weight  (in, out)
    bias    (out,), or None
    returns (..., out)

    Raises ValueError for shapes that do not fit.
    """
    check_shapes(x, weight, bias)
    y = x @ weight
    return y if bias is None else y + bias


@linear.operation
def linear_fast(run, x, weight, bias=None):
    """The operation: two products more on the way back; x and weight are kept."""
    check_shapes(x, weight, bias)
    inputs = (x, weight) if bias is None else (x, weight, bias)
    x_array, w, *b = kernel_inputs("linear", *inputs)
    x_shape, x_node, weight_node = x.shape, x.node, weight.node
    rows, has_bias = as_rows(x_array), bias is not None  # (N, in)

    def backward(dy):
        dy = as_rows(contiguous(dy))
        dx = None if x_node is None else run.gradient_of_inputs(dy, w).reshape(x_shape)
        return (dx, *gradients_of_parameters(run, rows, dy, w, weight_node, has_bias))

    y = run.sums(rows, w, *b)
    return record(y.reshape(*x_shape[:-1], w.shape[1]), inputs, backward)


def gradients_of_parameters(run, x, dy, w, weight_node, has_bias):
    """What a backward returns for the weight and, if there is one, the bias.

    run     linear's kernels
    x, dy   (N, in) and (N, out)
    """
    destination, add, d_weight = None, False, None
    if weight_node is not None:
        destination, add, d_weight = gradient_destination(weight_node, w)
    d_bias = run.gradients_of_parameters(destination, add, x, dy, has_bias)
    return (d_weight, d_bias) if has_bias else (d_weight,)


@linear.kernels("cpu")
class CPU:
    """Rows x (N, in), w (in, out), b (out,), dy (N, out)."""

    def sums(x: Any, w, b=None):
        """x w + b, (N, out)."""
        y = np.empty((len(x), w.shape[1]), np.float32)
        if b is not None and len(x) == 1:
            y[0] = b
        elif b is not None:
            fill_rows(y, b)
        product(y, x, w, b is not None)
        return y

    def gradient_of_inputs(dy: Any, w):
        """dy wᵀ, (N, in)."""
        dx = np.empty((len(dy), len(w)), np.float32)
        product(dx, dy, w.T)
        return dx

    def gradients_of_parameters(d_weight: Any, add, x, dy, has_bias):
        """Write xᵀ dy to d_weight (in, out), or add it; returns d_bias (out,).

        d_weight   None where it is not wanted
        has_bias   whether d_bias is; None is returned if not
        """
        if d_weight is not None:
            product(d_weight, x.T, dy, add)
        return sum_chunks(dy).sum(axis=0) if has_bias else None


@linear.kernels("cuda")
class GPU:
    """The same by cuBLASLt.  d_weight may be float32 where x and dy are bfloat16; d_bias is."""

    FILE = CudaFile(__file__)
    WARPS = 8  # in a block, as linear.cu has it

    def sums(x: Any, w, b=None):
        """As on the CPU."""
        y = empty((len(x), w.shape[1]), x.dtype, like=x)
        cublaslt.product(y, x, w, bias=b)
        return y

    def gradient_of_inputs(dy: Any, w):
        """As on the CPU."""
        dx = empty((len(dy), len(w)), dy.dtype, like=dy)
        cublaslt.product(dx, dy, w.T)
        return dx

    def gradients_of_parameters(d_weight: Any, add, x, dy, has_bias):
        """As on the CPU."""
        if d_weight is not None:
            cublaslt.product(d_weight, x.T, dy, add)
        return GPU.sum_rows(dy) if has_bias else None

    def sum_rows(dy: Any):
        """The sum of the rows of dy (N, C): (C,), float32."""
        N, C = dy.shape
        blocks = row_blocks(N)
        partial = empty((blocks, C), np.float32, like=dy)
        grid = (blocks_for(C, WARP * numbers_at_once(dy.dtype)), blocks)
        kernel = GPU.FILE.get("sum_rows", dy.dtype, C=C)
        kernel(grid, (GPU.WARPS * WARP,), partial, dy, np.int32(N))
        return sum_of_blocks(GPU.FILE, partial, dy.dtype, C=C)


@cpu_kernel
def fill_rows(y, bias):
    """Every row of y (N, C) becomes the bias (C,), for a product to add to."""
    for n in prange(len(y)):
        fill_row(y[n], bias)


@cpu_kernel
def sum_chunks(x):
    """The sum of each chunk of the rows of x (N, C): (chunks, C)."""
    N, C = x.shape
    chunks = row_chunks(N)
    sums = np.empty((chunks, C), np.float32)
    for k in prange(chunks):
        sum_rows(sums[k], x[N * k // chunks : N * (k + 1) // chunks])
    return sums


@cpu_function
def fill_row(y, bias):
    for c in range(len(bias)):
        y[c] = bias[c]


@cpu_function
def sum_rows(total, x):
    """total (C,): the sum of the rows of x."""
    N, C = x.shape
    total[:] = np.float32(0)
    quads = N - N % 4
    for n in range(0, quads, 4):  # four rows at a time: the total is read and written less often
        for c in range(C):
            total[c] += (x[n, c] + x[n + 1, c]) + (x[n + 2, c] + x[n + 3, c])
    for n in range(quads, N):
        for c in range(C):
            total[c] += x[n, c]


def check_shapes(x, weight, bias):
    """Raise ValueError for shapes that linear cannot take."""
    if weight.ndim != 2:
        raise ValueError(f"linear expected a weight of shape (in, out), got {weight.shape}")
    features, outputs = weight.shape
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(
            f"linear expected inputs with {features} features in the last axis, got shape {x.shape}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"linear expected a bias of shape ({outputs},), got {bias.shape}")


class Linear(Module):
    """`linear` with a learned weight and bias.

    in_features, out_features  sizes of the last axis before and after
    bias                       whether to add a bias, which starts at zero
    rng                        where the initial weights are drawn from: normal, with standard
                               deviation 1/√in_features, so that outputs are as large as inputs

    Raises ValueError for sizes below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: np.random.Generator
    ):
        if min(in_features, out_features) < 1:
            raise ValueError(f"Linear needs sizes from 1 up, got {in_features}, {out_features}")
        self.weight = Parameter(normal(rng, (in_features, out_features), in_features**-0.5))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
