"""GELU: let each number through by the chance that a random number is smaller.

    gelu(x) = x · Φ(x)          Φ(x) = (1 + erf(x / √2)) / 2

Φ is the normal distribution: near 0 for very negative x, 1/2 at 0, near 1 for large x.  So it
is a smooth relu.  GPT-2 uses an approximation of it that needs only tanh, the default here:

    gelu(x) ≈ x · (1 + tanh u) / 2 = x · sigmoid(2u)          u = √(2/π) · (x + 0.044715 x³)

Their derivatives are, with s = sigmoid(2u) and the normal density φ = Φ' = exp(-x²/2) / √(2π),

    tanh:   s + x · s · (1 − s) · 2u'          u' = √(2/π) · (1 + 3 · 0.044715 x²)
    exact:  Φ(x) + x · φ(x)

Only x is kept.

Source: Hendrycks & Gimpel, Gaussian Error Linear Units (2016).

This file: the definition, the operation, its CPU kernels.  The GPU's are in gelu.cu.
"""

import math
from typing import Any

import numpy as np

from tricycle_autograd import erf, tanh
from tricycle_autograd.arrays import contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import exp, multiply_add, sigmoid
from tricycle_autograd.cuda import CudaFile
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.pieces import launched_on_flat_arrays, n_pieces, on_flat_arrays, piece

CUBE = 0.044715


@fused
def gelu(x: Tensor, approximate: str = "tanh") -> Tensor:
    """x times the chance that a normal random number is smaller than x, for each number.

    approximate   "tanh" for GPT-2's approximation (off by 5e-4 at most), "none" for exact

    Raises ValueError for any other `approximate`.
    """
    _check_approximate(approximate)
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + CUBE * x**3)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


@gelu.operation
def gelu_fast(run, x, approximate="tanh"):
    _check_approximate(approximate)
    if approximate == "tanh":
        forward, kernel_backward = run.forward, run.backward
    else:
        forward, kernel_backward = run.forward_exact, run.backward_exact
    x_array = kernel_inputs("gelu", x)

    def backward(dy):
        return (kernel_backward(contiguous(dy), x_array),)

    return record(forward(x_array), (x,), backward)


@cpu_kernel
def tanh_pieces(y, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        gelu_tanh(y[part], x[part])


@cpu_kernel
def tanh_pieces_backward(dx, dy, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        gelu_tanh_backward(dx[part], dy[part], x[part])


@cpu_kernel
def tanh_pieces_again(y, d, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        gelu_and_slope(y[part], d[part], x[part])


@cpu_kernel
def exact_pieces(y, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        gelu_exact(y[part], x[part])


@cpu_kernel
def exact_pieces_backward(dx, dy, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        gelu_exact_backward(dx[part], dy[part], x[part])


@gelu.kernels("cpu")
class CPU:
    """By GPT-2's approximation, and exactly."""

    forward = on_flat_arrays(tanh_pieces)
    backward = on_flat_arrays(tanh_pieces_backward)
    forward_exact = on_flat_arrays(exact_pieces)
    backward_exact = on_flat_arrays(exact_pieces_backward)

    def again(d: Any, x):
        """gelu(x), and from d, its gradient, that of x; d is overwritten."""
        return tanh_again(d, x), d


tanh_again = on_flat_arrays(tanh_pieces_again)
FILE = CudaFile(__file__)


@gelu.kernels("cuda")
class GPU:
    """The same, in gelu.cu."""

    forward = launched_on_flat_arrays(FILE, "forward")
    backward = launched_on_flat_arrays(FILE, "backward")
    forward_exact = launched_on_flat_arrays(FILE, "forward_exact")
    backward_exact = launched_on_flat_arrays(FILE, "backward_exact")

    def again(d: Any, x):
        """As on the CPU."""
        return launched_again(d, x), d


launched_again = launched_on_flat_arrays(FILE, "again")
ONE = np.float32(1)
HALF = np.float32(0.5)
# 2u = SLOPE · (x + 0.044715 x³)
SLOPE = np.float32(2 * math.sqrt(2 / math.pi))
SLOPE_CUBE = np.float32(2 * math.sqrt(2 / math.pi) * CUBE)
SLOPE_CUBE_3 = np.float32(2 * math.sqrt(2 / math.pi) * CUBE * 3)
# Beyond ±10 the gate is 0 or 1.  Stopping there keeps x³ from overflowing.
LIMIT = np.float32(10)


@cpu_function
def limited(x):
    x = -LIMIT if x < -LIMIT else x
    return LIMIT if x > LIMIT else x


@cpu_function
def larger(x, t):
    """The larger of two numbers, or NaN: what the gate is to let through."""
    return x if x > t else t


@cpu_function
def twice_u(t):
    return t * multiply_add(SLOPE_CUBE * t, t, SLOPE)


@cpu_function
def slope(t, s):
    """gelu'(t), with s = sigmoid(2u)."""
    return multiply_add(t * s * (ONE - s), multiply_add(SLOPE_CUBE_3 * t, t, SLOPE), s)


@cpu_function
def gelu_tanh(y, x):
    for i in range(x.size):
        t = limited(x[i])
        y[i] = larger(x[i], t) * sigmoid(twice_u(t))


@cpu_function
def gelu_tanh_backward(dx, dy, x):
    for i in range(x.size):
        t = limited(x[i])
        s = sigmoid(twice_u(t))
        dx[i] = dy[i] * slope(t, s)


@cpu_function
def gelu_and_slope(y, d, x):
    """y = gelu(x), and d, the gradient of it, becomes that of x: see activated_linear.py."""
    for i in range(x.size):
        t = limited(x[i])
        s = sigmoid(twice_u(t))
        y[i] = larger(x[i], t) * s
        d[i] = d[i] * slope(t, s)


@cpu_function
def gelu_exact(y, x):
    for i in range(x.size):
        t = limited(x[i])
        tail = normal_tail(abs(t)) * exp(-HALF * t * t)
        y[i] = larger(x[i], t) * (ONE - tail if t > 0 else tail)


@cpu_function
def gelu_exact_backward(dx, dy, x):
    for i in range(x.size):
        t = limited(x[i])
        e = exp(-HALF * t * t)
        tail = normal_tail(abs(t)) * e
        dx[i] = dy[i] * ((ONE - tail if t > 0 else tail) + t * e * DENSITY_AT_0)


DENSITY_AT_0 = np.float32(1 / math.sqrt(2 * math.pi))
# normal_tail(x) is k · p(k − 1/2) with k = 1 / (1 + x/√8).  The polynomial p, of degree 8, was
# fitted for the smallest relative error over 0 <= x <= 13 (4e-8; rounding makes it 3e-7).
K = np.float32(math.sqrt(1 / 8))
P0 = np.float32(0.25539568)
P1 = np.float32(0.34358048)
P2 = np.float32(0.27946973)
P3 = np.float32(0.07286978)
P4 = np.float32(-0.08593658)
P5 = np.float32(-0.05148368)
P6 = np.float32(0.04767004)
P7 = np.float32(0.02404962)
P8 = np.float32(-0.02942357)


@cpu_function
def normal_tail(x):
    """(1 − Φ(x)) · exp(x²/2) for x >= 0: the tail of the normal distribution, levelled out."""
    k = ONE / (ONE + K * x)
    q = k - HALF
    p = P8
    p = multiply_add(p, q, P7)
    p = multiply_add(p, q, P6)
    p = multiply_add(p, q, P5)
    p = multiply_add(p, q, P4)
    p = multiply_add(p, q, P3)
    p = multiply_add(p, q, P2)
    p = multiply_add(p, q, P1)
    p = multiply_add(p, q, P0)
    return k * p


def _check_approximate(approximate):
    if approximate not in ("tanh", "none"):
        raise ValueError(f'gelu is approximated by "tanh" or by "none", got {approximate!r}')
