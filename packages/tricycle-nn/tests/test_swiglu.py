"""SiLU and SwiGLU."""

import numpy as np
import pytest

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import silu, swiglu


def test_silu_of_three_numbers_by_hand():
    # σ(1) = 0.731059 and σ(-1) = 0.268941
    y = silu(Tensor([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(y.array, [-0.268941, 0, 0.731059], atol=1e-6)


def test_swiglu_is_x_times_silu_of_the_gate():
    y = swiglu(Tensor([10.0, 10.0, 10.0]), Tensor([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(y.array, [-2.68941, 0, 7.31059], atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 4)])
def test_kernels_agree_with_the_definitions(shape):
    check_fused(silu, 3 * draw(*shape), keeps=1)
    check_fused(swiglu, draw(*shape), 3 * draw(*shape, seed=1), keeps=2)


def test_more_than_one_piece_agrees_with_the_definitions():
    x, gate = draw(40_001), np.linspace(-30, 30, 40_001)
    for operation, arrays in ((silu, [gate]), (swiglu, [x, gate])):
        double = [Tensor(a, requires_grad=True) for a in arrays]
        single = [Tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
        with definitions_only():
            expected = operation(*double)
        actual = operation(*single)
        np.testing.assert_allclose(actual.array, expected.array, rtol=1e-5, atol=1e-6)
        expected.sum().backward()
        actual.sum().backward()
        for a, b in zip(single, double):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-5, atol=3e-6)


def test_large_gates_open_or_shut():
    gate = Tensor([-1e4, 1e4], requires_grad=True)
    y = swiglu(Tensor([3.0, 3.0]), gate)
    np.testing.assert_allclose(y.array, [0, 3e4], atol=1e-20)
    y.backward([1.0, 1.0])
    np.testing.assert_allclose(gate.grad, [0, 3], atol=1e-20)


def test_the_most_negative_gate_is_shut():
    gate = Tensor([-3e38, -np.inf, -88.0], requires_grad=True)
    y = swiglu(Tensor([1.0, 1.0, 1.0]), gate)
    y.backward([1.0, 1.0, 1.0])
    x = Tensor(gate.array, requires_grad=True)
    silu(x).backward([1.0, 1.0, 1.0])
    for found in (y.array, gate.grad, silu(x).array, x.grad):
        np.testing.assert_allclose(found, [0, 0, 0], atol=1e-35)


def test_nan_goes_through():
    assert np.isnan(silu(Tensor([np.nan, 1.0])).array).tolist() == [True, False]
    y = swiglu(Tensor([np.nan, 1.0, 1.0]), Tensor([1.0, np.nan, 1.0]))
    assert np.isnan(y.array).tolist() == [True, True, False]


def test_an_input_and_a_gate_of_different_shapes_are_refused():
    for call in (swiglu, swiglu.definition):
        with pytest.raises(ValueError) as error:
            call(Tensor(np.zeros((2, 3), np.float32)), Tensor(np.zeros(3, np.float32)))
        assert str(error.value) == (
            "swiglu takes an input and a gate of one shape, got (2, 3) and (3,)"
        )


# ---- On a GPU ----


def test_cuda_kernels_agree_with_the_definitions():
    check_on_cuda(silu, 3 * draw(3, 171))
    check_on_cuda(swiglu, draw(3, 171), 3 * draw(3, 171, seed=1))


def test_gates_that_are_shut_or_wide_open_on_a_gpu():
    gate = np.array([-np.inf, -1e4, 1e4, np.inf, np.nan], np.float32)
    y = silu(Tensor(on_a_gpu(gate))).numpy()
    np.testing.assert_allclose(y, [0, 0, 1e4, np.inf, np.nan], atol=1e-30)
