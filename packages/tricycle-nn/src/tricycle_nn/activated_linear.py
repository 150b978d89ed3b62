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

`activated_linear(activation)` makes such an operation of any activation of one tensor.

This file: the operation, and its kernels made of those of the two.
"""

from typing import Any

from tricycle_autograd.arrays import as_rows, contiguous, kernel_inputs
from tricycle_autograd.fused import Fused, fused
from tricycle_autograd.tensor import Tensor, record
from tricycle_nn.gelu import gelu
from tricycle_nn.linear import check_shapes, gradients_of_parameters, linear
from tricycle_nn.relu import relu, relu_squared
from tricycle_nn.swiglu import check_shapes as check_gate
from tricycle_nn.swiglu import silu, swiglu


class Together:
    """The kernels of an activation and of linear, on one device, as kernels of the two."""

    def __init__(self, activation: Any, linear: Any):
        self.activation = activation
        self.linear = linear

    def activated(self, inputs):
        """activation(*inputs)."""
        return self.activation.forward(*inputs)

    def forward(self, inputs, w, b=None):
        """activation(*inputs) w + b, (N, out)."""
        return self.linear.sums(self.activated(inputs), w, b)

    def backward(self, dy, inputs, w):
        """activation(*inputs) again, and the gradient of each input, from dy (N, out)."""
        d = self.linear.gradient_of_inputs(dy, w)
        if hasattr(self.activation, "again"):
            return self.activation.again(d, *inputs)
        gradients = self.activation.backward(d, *inputs)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return (self.activated(inputs), *gradients)


def attach_kernels(operation: Fused, activation: Fused) -> None:
    """Give an operation kernels for every device for which both its parts have some."""
    for device, kernels in activation.by_device.items():
        if device in linear.by_device:
            operation.kernels(device)(Together(kernels, linear.by_device[device]))


def activated_linear(activation: Fused) -> Fused:
    """The operation that gives weighted sums of activation(x), and does not keep activation(x).

    activation   a fused operation of one tensor, whose kernels have `forward` and `backward`; and
                 maybe `again`, which makes both its result and its gradient in one pass

    Returns an operation of x, weight and bias, which are as for `linear`.
    """

    def definition(x, weight, bias=None):
        return linear(activation(x), weight, bias)

    definition.__name__ = definition.__qualname__ = f"{activation.__name__}_linear"
    definition.__doc__ = f"Weighted sums of {activation.__name__}(x); arguments as for linear."
    together = fused(definition)

    @together.operation
    def activated_linear_fast(run, x, weight, bias=None):
        return sums_of_activated(together.__name__, run, (x,), weight, bias)

    attach_kernels(together, activation)
    return together


# What an MLP runs for each activation; a new one needs no more than its name here.
WITH_LINEAR: dict[Any, Fused] = {
    activation: activated_linear(activation) for activation in (gelu, relu, relu_squared, silu)
}
gelu_linear = WITH_LINEAR[gelu]


@fused
def swiglu_linear(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted sums of swiglu(x, gate); weight and bias as for linear.

    Raises ValueError for shapes that do not fit.
    """
    return linear(swiglu(x, gate), weight, bias)


@swiglu_linear.operation
def swiglu_linear_fast(run, x, gate, weight, bias=None):
    check_gate(x, gate)
    return sums_of_activated("swiglu_linear", run, (x, gate), weight, bias)


attach_kernels(swiglu_linear, swiglu)


def sums_of_activated(name, run, tensors, weight, bias):
    """linear(activation(*tensors), weight, bias), where the tensors are of one shape."""
    check_shapes(tensors[0], weight, bias)
    inputs = (*tensors, weight) if bias is None else (*tensors, weight, bias)
    arrays = kernel_inputs(name, *inputs)
    rows = [as_rows(array) for array in arrays[: len(tensors)]]  # (N, in) each
    w, *b = arrays[len(tensors) :]
    x_shape, weight_node, has_bias = tensors[0].shape, weight.node, bias is not None
    wanted = any(tensor.node is not None for tensor in tensors)

    def backward(dy):
        dy = as_rows(contiguous(dy))
        if wanted:
            activated, *gradients = run.backward(dy, rows, w)
            gradients = [gradient.reshape(x_shape) for gradient in gradients]
        else:
            activated, gradients = run.activated(rows), [None] * len(rows)
        parameters = gradients_of_parameters(run.linear, activated, dy, w, weight_node, has_bias)
        return (*gradients, *parameters)

    y = run.forward(rows, w, *b)
    return record(y.reshape(*x_shape[:-1], w.shape[1]), inputs, backward)
