"""MLPs: what each position makes, by itself, of what it has read.

The first layer asks `hidden` questions of a vector; the second says what to add to it for
each answer.  The bend between the two is what makes them more than one layer.

    MLP         down(gelu(up(x)))                 GPT-2's
    GatedMLP    down(silu(gate(x)) · up(x))       Llama's, with three matrices

In the second a gate decides for each question how much its answer counts ("SwiGLU",
Shazeer 2020, GLU Variants Improve Transformer).

The activation and a plain `Linear` after it run as one operation, which needs less memory
(activated_linear.py); another layer in its place (quantised, say) gets the activation's result.
"""

from collections.abc import Callable

import numpy as np

from tricycle_autograd.tensor import Tensor
from tricycle_nn.activated_linear import WITH_LINEAR, swiglu_linear
from tricycle_nn.dropout import Dropout
from tricycle_nn.gelu import gelu
from tricycle_nn.linear import Linear
from tricycle_nn.module import Module
from tricycle_nn.swiglu import swiglu


class MLP(Module):
    """Two linear layers with an activation between them: (..., C) -> (..., C).

    width       C
    hidden      width in between; 4·width if None
    activation  a function of a tensor
    dropout     share of the result's numbers dropped while training
    bias        whether the two layers add a bias
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: Callable[[Tensor], Tensor] = gelu,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        rng: np.random.Generator,
    ):
        hidden = 4 * width if hidden is None else hidden
        self.up = Linear(width, hidden, bias, rng=rng)
        self.activation = activation
        self.down = Linear(hidden, width, bias, rng=rng)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        together = WITH_LINEAR.get(self.activation)
        if together is not None and type(self.down) is Linear:
            return self.dropout(together(x, self.down.weight, self.down.bias))
        return self.dropout(self.down(self.activation(x)))


class GatedMLP(Module):
    """The MLP with a gate, "SwiGLU": (..., C) -> (..., C).

    width    C
    hidden   width in between; if None 8/3·width, rounded up to a multiple of 64: three matrices
             of that size have about as many numbers as the MLP's two
    dropout  share of the result's numbers dropped while training
    bias     whether the three layers add a bias
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        *,
        rng: np.random.Generator,
    ):
        hidden = -(-8 * width // 3 // 64) * 64 if hidden is None else hidden
        self.gate = Linear(width, hidden, bias, rng=rng)
        self.up = Linear(width, hidden, bias, rng=rng)
        self.down = Linear(hidden, width, bias, rng=rng)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.up(x), self.gate(x)
        if type(self.down) is Linear:
            return self.dropout(swiglu_linear(x, gate, self.down.weight, self.down.bias))
        return self.dropout(self.down(swiglu(x, gate)))
