"""Mean squared error: how far numbers are from the numbers they should be.

    loss = mean((prediction - target)²)

Written in tensor operations alone: one subtraction, one square and one mean are quick enough,
and their gradients, 2·(prediction - target)/size, come by themselves.
"""

from typing import Any

from tricycle_autograd.devices import array_module
from tricycle_autograd.tensor import Tensor


def mean_squared_error(prediction: Tensor, target: Any) -> Tensor:
    """The mean of the squared differences.

    prediction, target   of one shape; the target may be an array
    returns              one number

    Raises ValueError for different shapes: broadcasting here would compare every prediction
    with every target, which is never what was meant.
    """
    if not isinstance(target, Tensor):
        target = array_module(prediction.array).asarray(target)
        target = Tensor(target).astype(prediction.dtype)
    if prediction.shape != target.shape:
        raise ValueError(
            "mean_squared_error expected a target for each prediction, got shapes "
            f"{prediction.shape} and {target.shape}"
        )
    return ((prediction - target) ** 2).mean()
