"""Activations without kernels: by hand, and against measured slopes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import Tensor, check_gradients
from tricycle_autograd.testing import draw
from tricycle_nn import elu, hard_sigmoid, leaky_relu, mish, selu, softplus

ALL = [elu, hard_sigmoid, leaky_relu, mish, selu, softplus]


def value(function, *numbers, **options):
    return function(Tensor(np.array(numbers)), **options).tolist()


def test_elu_has_slope_one_at_zero():
    x = Tensor(np.zeros(1), requires_grad=True)
    elu(x).sum().backward()
    assert x.grad.tolist() == [1]


def test_values_by_hand():
    assert value(leaky_relu, -2.0, 3.0) == [-0.02, 3]
    assert value(leaky_relu, -2.0, slope=0.5) == [-1]
    assert value(elu, -np.log(2), 3.0) == pytest.approx([-0.5, 3])
    assert value(elu, -1e3, 1e3, alpha=2.0) == [-2, 1e3]
    assert value(selu, 1.0, -np.inf) == pytest.approx([1.0507, -1.7581], abs=1e-4)
    assert value(softplus, 0.0, 1e3, -1e3) == pytest.approx([np.log(2), 1e3, 0])
    # softplus(0) = ln 2, and tanh(ln 2) = (2 − 1/2) / (2 + 1/2) = 3/5
    assert value(mish, 0.0, 1e3) == [0, 1e3]
    assert value(mish, np.log(3)) == pytest.approx([np.log(3) * 15 / 17])  # tanh(ln 4) = 15/17
    assert value(hard_sigmoid, -4.0, -3.0, 0.0, 1.5, 9.0) == [0, 0, 0.5, 0.75, 1]


@pytest.mark.parametrize("function", ALL)
def test_slopes_are_the_measured_ones(function):
    x = 2 * draw(3, 5)
    check_gradients(function, x[np.abs(x) > 0.01])
    assert function(Tensor(np.ones(2, np.float32))).dtype == np.float32


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_any_number_has_a_value_and_a_slope(number):
    for function in ALL:
        x = Tensor(np.array([number], np.float32), requires_grad=True)
        y = function(x)
        y.backward(np.ones(1))
        assert np.isfinite(y.array).all()
        assert np.isfinite(x.grad).all()
