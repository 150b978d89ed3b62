"""SiLU, and SwiGLU: one half of a layer decides how much of the other half gets through.

    silu(x) = x · σ(x)                      σ(x) = 1 / (1 + exp(-x))
    swiglu(x, gate) = x · silu(gate)

In a feed-forward layer x and gate are two linear images of one input, and the product is what
the next linear layer reads: Llama's  down(up(h) · silu(gate(h))).  Here x is `up`.

With s = σ(gate), the slope of silu is s · (1 + gate · (1 − s)), and

    dx = dy · silu(gate)                    d_gate = dy · x · slope

The inputs are kept; s is recomputed.

Sources: Elfwing, Uchibe & Doya, Sigmoid-Weighted Linear Units (2017); Shazeer, GLU Variants
Improve Transformer (2020).

This file: the definitions, the operations, their CPU kernels.  The GPU's are in swiglu.cu.
"""

from typing import Any

import numpy as np

from tricycle_autograd import sigmoid
from tricycle_autograd.arrays import contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import sigmoid as fast_sigmoid
from tricycle_autograd.cuda import CudaFile
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.pieces import launched_on_flat_arrays, n_pieces, on_flat_arrays, piece


@fused
def silu(x: Tensor) -> Tensor:
    """x · σ(x), for each number of x: also called swish."""
    return x * sigmoid(x)


@fused
def swiglu(x: Tensor, gate: Tensor) -> Tensor:
    """x · silu(gate), for each number of x and its gate.

    x, gate   two tensors of one shape, which is also the result's

    Raises ValueError for different shapes.
    """
    check_shapes(x, gate)
    return x * silu(gate)


@silu.operation
def silu_fast(run, x):
    x_array = kernel_inputs("silu", x)

    def backward(dy):
        return (run.backward(contiguous(dy), x_array),)

    return record(run.forward(x_array), (x,), backward)


@swiglu.operation
def swiglu_fast(run, x, gate):
    check_shapes(x, gate)
    x_array, gate_array = kernel_inputs("swiglu", x, gate)

    def backward(dy):
        return run.backward(contiguous(dy), x_array, gate_array)

    return record(run.forward(x_array, gate_array), (x, gate), backward)


@cpu_kernel
def silu_pieces(y, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        silu_piece(y[part], x[part])


@cpu_kernel
def silu_pieces_backward(dx, dy, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        silu_piece_backward(dx[part], dy[part], x[part])


@cpu_kernel
def swiglu_pieces(y, x, gate):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        swiglu_piece(y[part], x[part], gate[part])


@cpu_kernel
def swiglu_pieces_backward(dx, d_gate, dy, x, gate):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        swiglu_piece_backward(dx[part], d_gate[part], dy[part], x[part], gate[part])


@cpu_kernel
def swiglu_pieces_again(y, d_gate, d, x, gate):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        swiglu_and_slopes(y[part], d_gate[part], d[part], x[part], gate[part])


@silu.kernels("cpu")
class SiluCPU:
    forward = on_flat_arrays(silu_pieces)
    backward = on_flat_arrays(silu_pieces_backward)


@swiglu.kernels("cpu")
class CPU:
    forward = on_flat_arrays(swiglu_pieces)
    backward = on_flat_arrays(swiglu_pieces_backward, results=2)

    def again(d: Any, x, gate):
        """swiglu(x, gate), and from d, its gradient, those of x and gate; d is overwritten."""
        y, d_gate = swiglu_again(d, x, gate)
        return y, d, d_gate


swiglu_again = on_flat_arrays(swiglu_pieces_again, results=2)
FILE = CudaFile(__file__)


@silu.kernels("cuda")
class SiluGPU:
    forward = launched_on_flat_arrays(FILE, "silu")
    backward = launched_on_flat_arrays(FILE, "silu_backward")


@swiglu.kernels("cuda")
class GPU:
    forward = launched_on_flat_arrays(FILE, "swiglu")
    backward = launched_on_flat_arrays(FILE, "swiglu_backward", results=2)

    def again(d: Any, x, gate):
        """As on the CPU."""
        y, d_gate = launched_again(d, x, gate)
        return y, d, d_gate


launched_again = launched_on_flat_arrays(FILE, "swiglu_again", results=2)
ONE = np.float32(1)
# σ is taken as 1e-38 below this; multiplying by something large would make it a visible number.
LOWEST = np.float32(-87)


@cpu_function
def limited(x):
    return LOWEST if x < LOWEST else x


@cpu_function
def silu_piece(y, x):
    for i in range(x.size):
        g = limited(x[i])
        y[i] = g * fast_sigmoid(g)


@cpu_function
def silu_piece_backward(dx, dy, x):
    for i in range(x.size):
        g = limited(x[i])
        s = fast_sigmoid(g)
        dx[i] = dy[i] * s * (ONE + g * (ONE - s))


@cpu_function
def swiglu_piece(y, x, gate):
    for i in range(x.size):
        g = limited(gate[i])
        y[i] = x[i] * g * fast_sigmoid(g)


@cpu_function
def swiglu_piece_backward(dx, d_gate, dy, x, gate):
    for i in range(x.size):
        g = limited(gate[i])
        s = fast_sigmoid(g)
        dx[i] = dy[i] * g * s
        d_gate[i] = dy[i] * x[i] * s * (ONE + g * (ONE - s))


@cpu_function
def swiglu_and_slopes(y, d_gate, d, x, gate):
    """y = swiglu(x, gate), and d, the gradient of it, becomes that of x."""
    for i in range(x.size):
        g = limited(gate[i])
        s = fast_sigmoid(g)
        silu = g * s
        y[i] = x[i] * silu
        d_gate[i] = d[i] * x[i] * s * (ONE + g * (ONE - s))
        d[i] = d[i] * silu


def check_shapes(x, gate):
    """Raise ValueError for shapes that swiglu cannot take."""
    if x.shape != gate.shape:
        raise ValueError(
            f"swiglu takes an input and a gate of one shape, got {x.shape} and {gate.shape}"
        )
