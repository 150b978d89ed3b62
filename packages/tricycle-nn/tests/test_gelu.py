"""GELU, exact and approximate."""

import math

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import gelu

BOTH = pytest.mark.parametrize("approximate", ["tanh", "none"])


def test_three_numbers_by_hand():
    # Φ(1) = 0.841345 and Φ(-1) = 0.158655
    x = Tensor([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(gelu(x, "none").array, [-0.158655, 0, 0.841345], atol=1e-6)
    # √(2/π) · 1.044715 = 0.833562, (1 + tanh 0.833562) / 2 = 0.841192
    np.testing.assert_allclose(gelu(x).array, [-0.158808, 0, 0.841192], atol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 4)])
def test_kernels_agree_with_the_definition(shape, approximate):
    check_fused(gelu, 2 * draw(*shape), approximate=approximate, keeps=1)


@BOTH
def test_more_than_one_piece_agrees_with_the_definition(approximate):
    x = np.linspace(-12, 12, 40_001)
    double = Tensor(x, requires_grad=True)
    single = Tensor(x.astype(np.float32), requires_grad=True)
    expected, actual = gelu.definition(double, approximate), gelu(single, approximate)
    np.testing.assert_allclose(actual.array, expected.array, rtol=1e-6, atol=1e-6)
    expected.sum().backward()
    actual.sum().backward()
    np.testing.assert_allclose(single.grad, double.grad, rtol=2e-6, atol=2e-6)


def test_the_exact_kernel_is_right_to_a_few_units_in_the_last_place_even_in_the_tail():
    x = np.linspace(-9, 9, 5001).astype(np.float32)
    exact = [float(v) * 0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x]
    y = gelu(Tensor(x), "none").array
    assert abs(y / np.where(x == 0, 1, exact) - 1)[x != 0].max() < 6e-6
    assert abs(y / np.where(x == 0, 1, exact) - 1)[(abs(x) < 2) & (x != 0)].max() < 6e-7


def test_the_approximation_is_off_by_less_than_0_0005():
    x = Tensor(np.linspace(-6, 6, 1001, dtype=np.float32))
    difference = abs(gelu(x).array - gelu(x, "none").array).max()
    assert 0.0003 < difference < 0.0005


@BOTH
def test_huge_numbers_pass_or_vanish_without_overflow(approximate):
    x = Tensor([-np.inf, -1e30, -50.0, 50.0, 1e30, np.inf], requires_grad=True)
    y = gelu(x, approximate)
    np.testing.assert_allclose(y.array, [0, 0, 0, 50, 1e30, np.inf], atol=1e-20)
    y.backward(np.ones(6, np.float32))
    np.testing.assert_allclose(x.grad, [0, 0, 0, 1, 1, 1], atol=1e-20)


@BOTH
def test_nan_goes_through(approximate):
    x = Tensor([np.nan, 1.0], requires_grad=True)
    y = gelu(x, approximate)
    y.backward([1.0, 1.0])
    assert np.isnan(y.array).tolist() == np.isnan(x.grad).tolist() == [True, False]


@BOTH
def test_an_empty_array_stays_empty(approximate):
    assert gelu(Tensor(np.zeros((0, 3), np.float32)), approximate).shape == (0, 3)


def test_an_unknown_approximation_is_refused():
    for call in (gelu, gelu.definition):
        with pytest.raises(ValueError) as error:
            call(Tensor([1.0]), approximate="erf")
        assert str(error.value) == 'gelu is approximated by "tanh" or by "none", got \'erf\''


# ---- On a GPU ----


@BOTH
@pytest.mark.parametrize("shape", [(), (3, 7), (2, 3, 176)])
def test_cuda_kernels_agree_with_the_definition(shape, approximate):
    check_on_cuda(gelu, 3 * draw(*shape), approximate=approximate)


@BOTH
def test_cuda_kernels_are_right_far_from_zero_and_for_no_number(approximate):
    x = np.array([-np.inf, -1e30, -30, -0.0, 30, 1e30, np.inf, np.nan], np.float32)
    there = Tensor(on_a_gpu(x), requires_grad=True)
    y = gelu(there, approximate)
    y.backward(on_a_gpu(np.ones(8, np.float32)))
    np.testing.assert_allclose(
        y.numpy(), [0, 0, 0, 0, 30, 1e30, np.inf, np.nan], rtol=1e-6, atol=1e-20
    )
    slopes = Tensor(there.grad).numpy()
    np.testing.assert_allclose(slopes, [0, 0, 0, 0.5, 1, 1, 1, np.nan], atol=1e-6)


def test_a_gpu_moves_no_more_memory_than_asked_for():
    x = on_a_gpu(draw(64, 256).astype(np.float32))
    with watched_launches() as launches:
        gelu(Tensor(x))
    (launch,) = launches
    assert launch.report.asked["reads"] == launch.report.moved["reads"] == x.nbytes
    assert launch.report.asked["writes"] == launch.report.moved["writes"] == x.nbytes
