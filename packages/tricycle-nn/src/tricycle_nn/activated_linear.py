"""An activation and the linear layer after it, as one operation: what lies between is not kept.

The two linear layers of an MLP have an activation between them, whose result is among the largest
arrays of a model: four times as wide as the residual stream.  The second layer needs it again for
the gradient of its weight,

    y = g W + b          g = gelu(x)               d_weight = gᵀ dy        dx = dy Wᵀ · gelu'(x)

but x is kept in any case, for gelu', and the costly part of gelu'(x), a sigmoid, is also that of
gelu(x).  So the backward pass makes g again in the loop that makes dx, almost for nothing, and
the model does without one of its largest arrays in each block.

    gelu_linear       linear(gelu(x), weight, bias)            in GPT-2's MLP
    swiglu_linear     linear(swiglu(x, gate), weight)          in Llama's

This file: the definitions, the operations, their CPU kernels.
"""

import numpy as np

from tricycle_autograd.arrays import as_rows, contiguous, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cpu_math import sigmoid
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.gelu import CPU as GELU
from tricycle_nn.gelu import gelu, gelu_and_slope
from tricycle_nn.linear import (
    check_shapes,
    gradient_of_inputs,
    gradients_of_parameters,
    linear,
    sums,
)
from tricycle_nn.pieces import n_pieces, piece
from tricycle_nn.swiglu import CPU as SWIGLU
from tricycle_nn.swiglu import check_shapes as check_gate
from tricycle_nn.swiglu import limited, swiglu


@fused
def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted sums of gelu(x), for GPT-2's approximation of GELU; arguments as for linear.

    Raises ValueError for shapes that do not fit.
    """
    return linear(gelu(x), weight, bias)


@fused
def swiglu_linear(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted sums of swiglu(x, gate); weight and bias as for linear.

    Raises ValueError for shapes that do not fit.
    """
    return linear(swiglu(x, gate), weight, bias)


@gelu_linear.kernels
def _(x, weight, bias=None):
    check_shapes(x, weight, bias)
    inputs = (x, weight) if bias is None else (x, weight, bias)
    x_array, w, *b = kernel_inputs("gelu_linear", *inputs)
    x_node, weight_node = x.node, weight.node
    rows = as_rows(x_array)  # (N, in)
    activated = np.empty_like(rows)
    GELU.forward_tanh(activated.reshape(-1), rows.reshape(-1))
    y = sums(activated, w, *b)

    def backward(dy):
        dy = contiguous(dy).reshape(y_shape)
        activated, dx = np.empty_like(rows), None
        if x_node is None:
            GELU.forward_tanh(activated.reshape(-1), rows.reshape(-1))
        else:
            dx = gradient_of_inputs(dy, w)
            CPU.gelu_again(activated.reshape(-1), dx.reshape(-1), rows.reshape(-1))
            dx = dx.reshape(x_array.shape)
        return (dx, *gradients_of_parameters(activated, dy, w, weight_node, bias))

    y_shape = y.shape
    return record(y.reshape(*x.shape[:-1], w.shape[1]), inputs, backward)


@swiglu_linear.kernels
def _(x, gate, weight, bias=None):
    check_gate(x, gate)
    check_shapes(x, weight, bias)
    inputs = (x, gate, weight) if bias is None else (x, gate, weight, bias)
    x_array, gate_array, w, *b = kernel_inputs("swiglu_linear", *inputs)
    wanted, weight_node = x.node is not None or gate.node is not None, weight.node
    rows, gates = as_rows(x_array), as_rows(gate_array)  # (N, in)
    activated = np.empty_like(rows)
    SWIGLU.swiglu(activated.reshape(-1), rows.reshape(-1), gates.reshape(-1))
    y = sums(activated, w, *b)

    def backward(dy):
        dy = contiguous(dy).reshape(y_shape)
        activated, dx, d_gate = np.empty_like(rows), None, None
        if not wanted:
            SWIGLU.swiglu(activated.reshape(-1), rows.reshape(-1), gates.reshape(-1))
        else:
            dx, d_gate = gradient_of_inputs(dy, w), np.empty_like(rows)
            arrays = (activated, dx, d_gate, rows, gates)
            CPU.swiglu_again(*[array.reshape(-1) for array in arrays])
            dx, d_gate = dx.reshape(x_array.shape), d_gate.reshape(x_array.shape)
        return (dx, d_gate, *gradients_of_parameters(activated, dy, w, weight_node, bias))

    y_shape = y.shape
    return record(y.reshape(*x.shape[:-1], w.shape[1]), inputs, backward)


class CPU:
    """Flat arrays, in pieces."""

    @staticmethod
    @cpu_kernel
    def gelu_again(activated, d, x):
        """activated = gelu(x); d, the gradient of gelu(x), becomes that of x."""
        for k in prange(n_pieces(x.size)):
            part = piece(k, x.size)
            gelu_and_slope(activated[part], d[part], x[part])

    @staticmethod
    @cpu_kernel
    def swiglu_again(activated, d, d_gate, x, gate):
        """activated = swiglu(x, gate); d, its gradient, becomes that of x."""
        for k in prange(n_pieces(x.size)):
            part = piece(k, x.size)
            swiglu_and_slopes(activated[part], d[part], d_gate[part], x[part], gate[part])


ONE = np.float32(1)


@cpu_function
def swiglu_and_slopes(activated, d, d_gate, x, gate):
    for i in range(x.size):
        g = limited(gate[i])
        s = sigmoid(g)
        silu = g * s
        activated[i] = x[i] * silu
        d_gate[i] = d[i] * x[i] * s * (ONE + g * (ONE - s))
        d[i] = d[i] * silu
