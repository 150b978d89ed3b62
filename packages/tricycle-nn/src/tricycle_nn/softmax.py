"""Softmax: turn scores into probabilities.

    softmax(x)[c] = exp(x[c]) / Σ exp(x[k])             log_softmax = log of that

Adding a number to all scores changes nothing, so the largest is subtracted first: every
exponential is then at most 1, one of them is 1, and scores of ±10,000 are no trouble.

For y = softmax(x) the gradient is, along the axis,

    softmax:      dx = y · (dy − Σ dy · y)
    log_softmax:  dx = dy − exp(y) · Σ dy               y = log_softmax(x)

Both need y alone, so y is what is kept.

A score of -inf means "never": probability 0.  Where all scores are -inf there is nothing to
choose from, and all probabilities are 0 (their logarithms -inf), with gradients that are finite.

This file: the definitions, the operations, their CPU kernels, how the GPU's (softmax.cu) are
launched.
"""

from typing import Any

import numpy as np

from tricycle_autograd import exp, log, where
from tricycle_autograd.arrays import contiguous, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import EXP_MIN, dot, row_maximum, row_sum
from tricycle_autograd.cpu_math import exp as fast_exp
from tricycle_autograd.cpu_math import log as log_of_one
from tricycle_autograd.cuda import WARP, CudaFile, blocks_for
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record


@fused
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Positive numbers that sum to one along an axis, in the proportions of exp(x).

    Raises ValueError for an axis that x does not have.
    """
    _check_axis("softmax", x, axis)
    e = exp(x - _largest(x, axis))
    return e / _or_one(e.sum(axis=axis, keepdims=True))


@fused
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """The logarithm of softmax(x), without ever computing the logarithm of a tiny number.

    Raises ValueError for an axis that x does not have.
    """
    _check_axis("log_softmax", x, axis)
    shifted = x - _largest(x, axis)
    return shifted - log(_or_one(exp(shifted).sum(axis=axis, keepdims=True)))


def _largest(x, axis):
    """The largest number along the axis, as a constant; 0 where it is -inf or there are none."""
    if x.size == 0:
        return 0.0
    largest = x.detach().max(axis=axis, keepdims=True)
    return where(largest == -np.inf, 0.0, largest)


def _or_one(total):
    """A sum of exponentials, the largest of which is 1; or 1 where all of them are 0."""
    return where(total == 0, 1.0, total)


@softmax.operation
def softmax_fast(run, x, axis=-1):
    return _along_rows("softmax", run, x, axis)


@log_softmax.operation
def log_softmax_fast(run, x, axis=-1):
    return _along_rows("log_softmax", run, x, axis)


def _along_rows(name, run, x, axis):
    """Run kernels that work on rows along any axis, by moving that axis to the end."""
    _check_axis(name, x, axis)
    array = kernel_inputs(name, x)
    moveaxis = array_module(array).moveaxis
    array = moveaxis(array, axis, -1)
    shape, C = array.shape, array.shape[-1]
    y = run.forward(contiguous(array).reshape(array.size // max(1, C), C))  # no rows of nothing

    def backward(dy):
        dx = run.backward(contiguous(moveaxis(dy, axis, -1)).reshape(y.shape), y)
        return (moveaxis(dx.reshape(shape), -1, axis),)

    return record(moveaxis(y.reshape(shape), -1, axis), (x,), backward)


@softmax.kernels("cpu")
class CPU:
    """Rows (N, C) are independent, so threads share them out."""

    @cpu_kernel
    def forward(x: Any):
        y = np.empty_like(x)
        for n in prange(len(x)):
            softmax_row(y[n], x[n])
        return y

    @cpu_kernel
    def backward(dy: Any, y):
        dx = np.empty_like(y)
        for n in prange(len(y)):
            softmax_row_backward(dx[n], dy[n], y[n])
        return dx


@log_softmax.kernels("cpu")
class LogCPU:
    @cpu_kernel
    def forward(x: Any):
        y = np.empty_like(x)
        for n in prange(len(x)):
            log_softmax_row(y[n], x[n])
        return y

    @cpu_kernel
    def backward(dy: Any, y):
        dx = np.empty_like(y)
        for n in prange(len(y)):
            log_softmax_row_backward(dx[n], dy[n], y[n])
        return dx


FILE = CudaFile(__file__)
LONG = 1024  # numbers in a row that is a block's; others are a warp's
THREADS, MANY_THREADS = 128, 512  # in a block


def on_rows(name, *arrays):
    """A result like the arrays (N, C), from a kernel of softmax.cu."""
    N, C = arrays[0].shape
    result = empty_like(arrays[0])
    lanes, threads = (WARP, THREADS) if C <= LONG else (MANY_THREADS, MANY_THREADS)
    grid, block = (blocks_for(N * lanes, threads),), (threads,)
    kernel = FILE.get(name, result.dtype, LANES=lanes)
    kernel(grid, block, result, *arrays, np.int32(N), np.int32(C))
    return result


@softmax.kernels("cuda")
class GPU:
    def forward(x: Any):
        return on_rows("forward", x)

    def backward(dy: Any, y):
        return on_rows("backward", dy, y)


@log_softmax.kernels("cuda")
class LogGPU:
    def forward(x: Any):
        return on_rows("log_forward", x)

    def backward(dy: Any, y):
        return on_rows("log_backward", dy, y)


ZERO = np.float32(0)
ONE = np.float32(1)


@cpu_function
def exp_or_zero(x):
    """e^x, and exactly 0 for the very negative: the fast exp stops at e^-87."""
    return ZERO if x < EXP_MIN else fast_exp(x)


@cpu_function
def finite_maximum(x):
    largest = row_maximum(x)
    return ZERO if largest == -np.inf else largest


@cpu_function
def softmax_row(y, x):
    largest = finite_maximum(x)
    for c in range(x.size):
        y[c] = exp_or_zero(x[c] - largest)
    total = row_sum(y)
    scale = ONE if total == ZERO else ONE / total
    for c in range(x.size):
        y[c] *= scale


@cpu_function
def softmax_row_backward(dx, dy, y):
    total = dot(dy, y)
    for c in range(y.size):
        dx[c] = y[c] * (dy[c] - total)


@cpu_function
def log_softmax_row(y, x):
    largest = finite_maximum(x)
    for c in range(x.size):
        y[c] = exp_or_zero(x[c] - largest)
    total = row_sum(y)
    shift = ZERO if total == ZERO else log_of_one(total)
    for c in range(x.size):
        y[c] = (x[c] - largest) - shift


@cpu_function
def log_softmax_row_backward(dx, dy, y):
    total = row_sum(dy)
    for c in range(y.size):
        dx[c] = dy[c] - exp_or_zero(y[c]) * total


def _check_axis(name, x, axis):
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name} along axis {axis}, but its input has shape {x.shape}")
