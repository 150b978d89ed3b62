"""Mean squared error: how far numbers are from the numbers they should be."""

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.testing import check_gradients, draw
from tricycle_autograd.testing_device import emulated
from tricycle_nn import mean_squared_error


def test_three_predictions_by_hand():
    # Off by 1, 0 and 2: (1 + 0 + 4) / 3; gradients are 2/3 of the differences.
    prediction = Tensor([2.0, 5.0, 1.0], requires_grad=True)
    loss = mean_squared_error(prediction, [1, 5, 3])
    loss.backward()
    assert abs(loss.item() - 5 / 3) < 1e-6 and loss.dtype == np.float32
    np.testing.assert_allclose(prediction.grad, [2 / 3, 0, -4 / 3], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (3, 4)])
def test_its_gradients_are_slopes_for_both(shape):
    check_gradients(mean_squared_error, draw(*shape), draw(*shape, seed=1))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"a target for each prediction.*\(3, 1\) and \(3,\)"):
        mean_squared_error(Tensor(np.zeros((3, 1), np.float32)), np.zeros(3))


def test_only_the_differences_are_kept_so_that_a_target_may_be_refilled():
    prediction, target = Tensor(np.ones(3, np.float32), requires_grad=True), np.zeros(3, np.float32)
    loss = mean_squared_error(prediction, target)
    target[:] = 9
    loss.backward()
    np.testing.assert_allclose(prediction.grad, [2 / 3] * 3, rtol=1e-6)


def test_a_target_goes_to_the_device_of_the_prediction():
    prediction = Tensor(emulated(np.ones(3, np.float32)))
    loss = mean_squared_error(prediction, np.zeros(3))
    assert (loss.device, loss.dtype, loss.item()) == ("cuda", np.float32, 1)
