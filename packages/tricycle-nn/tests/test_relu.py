"""relu and its square."""

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import relu, relu_squared

BOTH = pytest.mark.parametrize("operation", [relu, relu_squared])


def test_five_numbers_by_hand():
    x = Tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    y = relu(x)
    assert y.tolist() == [0, 0, 0, 0.5, 3]
    y.backward([1.0, 2.0, 3.0, 4.0, 5.0])
    assert x.grad.tolist() == [0, 0, 0, 4, 5]


def test_five_squares_by_hand():
    x = Tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    y = relu_squared(x)
    assert y.tolist() == [0, 0, 0, 0.25, 9]
    y.backward([1.0, 2.0, 3.0, 4.0, 5.0])
    assert x.grad.tolist() == [0, 0, 0, 4, 30]


@BOTH
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 4)])
def test_kernels_agree_with_the_definition(shape, operation):
    check_fused(operation, draw(*shape), keeps=1)


@BOTH
def test_more_than_one_piece_agrees_with_the_definition(operation):
    x = draw(40_001).astype(np.float32)
    a, b = [Tensor(x, requires_grad=True) for _ in range(2)]
    expected, actual = operation.definition(a), operation(b)
    assert np.array_equal(actual.array, expected.array)
    expected.sum().backward()
    actual.sum().backward()
    assert np.array_equal(b.grad, a.grad)


@BOTH
def test_nan_goes_through_and_infinities_do_as_positive_and_negative_numbers(operation):
    for call in (operation, operation.definition):
        x = Tensor([np.nan, -np.inf, np.inf], requires_grad=True)
        y = call(x)
        np.testing.assert_array_equal(y.array, [np.nan, 0, np.inf])
        with np.errstate(invalid="ignore"):  # 0 · ∞, in the slope of the definition's square
            y.backward([1.0, 1.0, 0.0])
        assert x.grad[1] == 0


@BOTH
def test_an_empty_array_stays_empty(operation):
    assert operation(Tensor(np.zeros((0, 3), np.float32))).shape == (0, 3)


# ---- On a GPU ----


@BOTH
def test_cuda_kernels_agree_with_the_definition(operation):
    check_on_cuda(operation, draw(3, 171))


@BOTH
def test_no_number_goes_through_cuda_kernels(operation):
    x = Tensor(on_a_gpu(np.array([np.nan, 0, -1], np.float32)), requires_grad=True)
    y = operation(x)
    y.backward(on_a_gpu(np.ones(3, np.float32)))
    np.testing.assert_array_equal(y.numpy(), [np.nan, 0, 0])
    assert Tensor(x.grad).numpy()[1:].tolist() == [0, 0]
