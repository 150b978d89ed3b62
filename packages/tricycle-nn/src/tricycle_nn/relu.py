"""relu and its square: let positive numbers through, and nothing else.

    relu(x) = x where x > 0, else 0             its slope: 1, else 0
    relu_squared(x) = relu(x)²                  its slope: 2 · relu(x)

Two linear layers on top of each other are one linear layer.  Any bend between them changes
that, and this is the simplest.  At 0 itself relu has no slope; like everyone, we say 0.

NaN goes through, forwards and backwards: an error must stay visible.  x is kept.

Source of the square: So et al., Primer: Searching for Efficient Transformers (2021).

This file: the definitions, the operations, their CPU kernels.  The GPU's are in relu.cu.
"""

import numpy as np

from tricycle_autograd import where
from tricycle_autograd.arrays import contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.pieces import launched_on_flat_arrays, n_pieces, on_flat_arrays, piece


@fused
def relu(x: Tensor) -> Tensor:
    """Each number of x where it is positive, else 0."""
    return where(x <= 0, 0.0, x)


@fused
def relu_squared(x: Tensor) -> Tensor:
    """The square of each number of x where it is positive, else 0."""
    return where(x <= 0, 0.0, x) ** 2


@relu.operation
def relu_fast(run, x):
    x_array = kernel_inputs("relu", x)

    def backward(dy):
        return (run.backward(contiguous(dy), x_array),)

    return record(run.forward(x_array), (x,), backward)


@relu_squared.operation
def relu_squared_fast(run, x):
    x_array = kernel_inputs("relu_squared", x)

    def backward(dy):
        return (run.backward(contiguous(dy), x_array),)

    return record(run.forward(x_array), (x,), backward)


@cpu_kernel
def relu_pieces(y, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        relu_piece(y[part], x[part])


@cpu_kernel
def relu_pieces_backward(dx, dy, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        relu_piece_backward(dx[part], dy[part], x[part])


@cpu_kernel
def relu_squared_pieces(y, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        relu_squared_piece(y[part], x[part])


@cpu_kernel
def relu_squared_pieces_backward(dx, dy, x):
    for k in prange(n_pieces(x.size)):
        part = piece(k, x.size)
        relu_squared_piece_backward(dx[part], dy[part], x[part])


@relu.kernels("cpu")
class CPU:
    forward = on_flat_arrays(relu_pieces)
    backward = on_flat_arrays(relu_pieces_backward)


@relu_squared.kernels("cpu")
class SquaredCPU:
    forward = on_flat_arrays(relu_squared_pieces)
    backward = on_flat_arrays(relu_squared_pieces_backward)


FILE = CudaFile(__file__)


@relu.kernels("cuda")
class GPU:
    forward = launched_on_flat_arrays(FILE, "relu")
    backward = launched_on_flat_arrays(FILE, "relu_backward")


@relu_squared.kernels("cuda")
class SquaredGPU:
    forward = launched_on_flat_arrays(FILE, "relu_squared")
    backward = launched_on_flat_arrays(FILE, "relu_squared_backward")


ZERO = np.float32(0)
TWO = np.float32(2)


@cpu_function
def relu_piece(y, x):
    for i in range(x.size):
        y[i] = ZERO if x[i] <= ZERO else x[i]


@cpu_function
def relu_piece_backward(dx, dy, x):
    for i in range(x.size):
        dx[i] = ZERO if x[i] <= ZERO else dy[i]


@cpu_function
def relu_squared_piece(y, x):
    for i in range(x.size):
        y[i] = ZERO if x[i] <= ZERO else x[i] * x[i]


@cpu_function
def relu_squared_piece_backward(dx, dy, x):
    for i in range(x.size):
        dx[i] = ZERO if x[i] <= ZERO else dy[i] * x[i] * TWO
