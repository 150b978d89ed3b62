"""Activations that people look for and our own models do without.

Each is its definition and nothing else: a line of tensor operations, right in any dtype, with the
gradient that follows from it.  Kernels are for the ones that models here are made of: gelu, relu
and relu_squared, silu and swiglu.

    leaky_relu(x) = x, or slope · x below 0        elu(x) = x, or alpha · (e^x − 1) below 0
    selu(x) = λ · elu(x, α), whose λ and α keep mean 0 and variance 1 from layer to layer
    softplus(x) = log(1 + e^x), a smooth relu      mish(x) = x · tanh(softplus(x))
    hard_sigmoid(x) = x / 6 + 1/2, kept between 0 and 1

Sources: Maas et al., Rectifier Nonlinearities Improve Neural Network Acoustic Models (2013);
Clevert et al., ELU (2015); Klambauer et al., `Self-Normalizing Neural Networks` (2017); Misra, Mish
(2019); Howard et al., Searching for MobileNetV3 (2019) for hard_sigmoid.
"""

from tricycle_autograd import clip, expm1, minimum, softplus, tanh, where
from tricycle_autograd.tensor import Tensor

__all__ = ["elu", "hard_sigmoid", "leaky_relu", "mish", "selu", "softplus"]

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """Each number of x where it is positive, else `slope` times it."""
    return where(x <= 0, slope * x, x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Each number of x where it is positive, else alpha · (e^x − 1), which ends at -alpha."""
    # Of the smaller of x and 0, so that e^x of a large x, which is not wanted, is not infinite.
    return where(x < 0, alpha * expm1(minimum(x, 0)), x)


def selu(x: Tensor) -> Tensor:
    """elu with the scale and alpha that keep numbers near mean 0 and variance 1."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


def mish(x: Tensor) -> Tensor:
    """x · tanh(softplus(x)): like silu, a little steeper."""
    return x * tanh(softplus(x))


def hard_sigmoid(x: Tensor) -> Tensor:
    """Three straight lines near a sigmoid: 0 up to -3, then x / 6 + 1/2, and 1 from 3 on."""
    return clip(x / 6 + 0.5, 0, 1)
