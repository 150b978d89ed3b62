"""Softmax and its logarithm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.testing import check_fused, check_on_cuda, draw
from tricycle_autograd.testing_device import emulated, emulated_cupy
from tricycle_nn import log_softmax, softmax

INF = np.inf
BOTH = pytest.mark.parametrize("operation", [softmax, log_softmax])


def of(operation, x, axis=-1):
    return operation(Tensor(np.asarray(x, np.float32)), axis).array


def test_odds_of_one_to_three_by_hand():
    x = [0.0, np.log(3)]
    np.testing.assert_allclose(of(softmax, x), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(of(log_softmax, x), np.log([0.25, 0.75]), rtol=1e-6)


def test_equal_scores_give_equal_probabilities():
    assert of(softmax, [5.0] * 4).tolist() == [0.25] * 4
    np.testing.assert_allclose(of(log_softmax, [5.0] * 4), [-np.log(4)] * 4, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", [(7,), (1, 5), (3, 1), (2, 3, 19), (70, 3)])
def test_kernels_agree_with_the_definition(shape, operation):
    check_fused(operation, 2 * draw(*shape), keeps=1)


@BOTH
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_kernels_agree_with_the_definition_along_any_axis(axis, operation):
    check_fused(operation, 2 * draw(3, 4, 5), keeps=1, axis=axis)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 70), st.floats(-1e4, 1e4), st.floats(0.0, 1e4))
def test_probabilities_sum_to_one_wherever_the_scores_lie(n, c, shift, scale):
    x = draw(n, c) * scale + shift
    y = of(softmax, x)
    assert (y >= 0).all()
    assert abs(y.sum(axis=-1) - 1).max() < 1e-5
    log_y = of(log_softmax, x)
    assert np.isfinite(log_y).all()
    np.testing.assert_allclose(np.exp(log_y), y, rtol=1e-3, atol=1e-6)


@BOTH
def test_adding_a_number_to_all_scores_changes_nothing(operation):
    x = draw(5, 9).astype(np.float32)
    np.testing.assert_allclose(of(operation, x + 64), of(operation, x), atol=1e-5)


@BOTH
def test_gradients_along_the_axis_sum_to_zero(operation):
    x = Tensor(draw(5, 9).astype(np.float32), requires_grad=True)
    operation(x).backward(draw(5, 9, seed=1))
    assert abs(x.grad.sum(axis=-1)).max() < 1e-5


def test_scores_of_ten_thousand_are_no_trouble():
    assert of(softmax, [1e4, -1e4, 0]).tolist() == [1, 0, 0]
    assert of(log_softmax, [1e4, -1e4, 0]).tolist() == [0, -2e4, -1e4]


def both_ways(operation, x, dy):
    """(value, gradient) by the kernels, then by the definition."""
    for call in (operation, operation.definition):
        tensor = Tensor(np.asarray(x, np.float32), requires_grad=True)
        with np.errstate(invalid="ignore"):  # numpy would warn of the NaNs that some tests make
            y = call(tensor)
            y.backward(dy)
        yield y.array, tensor.grad


def test_minus_infinity_means_never():
    for y, dx in both_ways(softmax, [-INF, 0.0, 0.0], [1.0, 2.0, 4.0]):
        assert y.tolist() == [0, 0.5, 0.5]
        assert dx.tolist() == [0, -0.5, 0.5]
    for y, dx in both_ways(log_softmax, [-INF, 0.0, 0.0], [0.0, 2.0, 4.0]):
        np.testing.assert_allclose(y, [-INF, -np.log(2), -np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(dx, [0, -1, 1], atol=1e-6)


def test_nothing_to_choose_from_gives_zeros_and_finite_gradients():
    nothing = [-INF, -INF, -INF]
    for y, dx in both_ways(softmax, nothing, [1.0, 2.0, 4.0]):
        assert y.tolist() == [0, 0, 0]
        assert dx.tolist() == [0, 0, 0]
    for y, dx in both_ways(log_softmax, nothing, [1.0, 2.0, 4.0]):
        assert y.tolist() == nothing
        assert np.isfinite(dx).all()


@BOTH
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_and_infinity_spoil_their_row_and_no_other(place, operation):
    for bad in (np.nan, INF):
        x = np.zeros((2, 3), np.float32)
        x[0, place] = bad
        for y, _ in both_ways(operation, x, np.ones((2, 3), np.float32)):
            assert np.isnan(y[0, place])
            assert np.isfinite(y[1]).all()


@BOTH
def test_no_rows_are_no_trouble(operation):
    assert of(operation, np.zeros((0, 3))).shape == (0, 3)


@BOTH
def test_an_axis_that_is_not_there_is_refused(operation):
    for call in (operation, operation.definition):
        with pytest.raises(ValueError) as error:
            call(Tensor(np.zeros((2, 3))), axis=2)
        assert str(error.value) == (
            f"{operation.__name__} along axis 2, but its input has shape (2, 3)"
        )
    with pytest.raises(ValueError, match=r"along axis -1, but its input has shape \(\)"):
        operation(Tensor(1.0))


@pytest.mark.parametrize("operation", [softmax, log_softmax])
def test_rows_of_no_numbers_are_no_trouble(operation):
    check_fused(operation, draw(2, 0))


@BOTH
def test_float64_runs_the_definition_gradients_too(operation):
    x = Tensor(np.array([0.0, np.log(3)]), requires_grad=True)
    y = operation(x)
    y.backward(np.array([1.0, 0.0]))
    expected = {"softmax": [3 / 16, -3 / 16], "log_softmax": [3 / 4, -3 / 4]}
    assert y.dtype == x.grad.dtype == np.float64
    np.testing.assert_allclose(x.grad, expected[operation.__name__], rtol=1e-12)


@BOTH
def test_float16_is_refused_by_name(operation):
    message = rf"^{operation.__name__} has kernels for float32 on cpu, x is float16"
    with pytest.raises(TypeError, match=message):
        operation(Tensor(np.ones(3, np.float16)))


# ---- On a GPU ----


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (5, 70), (2, 1030)])  # the last is a block's
def test_cuda_kernels_agree_with_the_definition(operation, shape):
    check_on_cuda(operation, draw(*shape))


@BOTH
def test_cuda_kernels_work_along_any_axis(operation):
    check_on_cuda(operation, draw(3, 9, 2), axis=1)


def test_cuda_kernels_know_scores_that_mean_never():
    x = Tensor(emulated(np.array([[-INF, 0, -INF, np.log(3)], [-INF] * 4], np.float32)))
    expected = np.array([[0, 0.25, 0, 0.75], [0] * 4])
    np.testing.assert_allclose(softmax(x).numpy(), expected, rtol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_softmax(x).numpy(), np.log(expected), rtol=1e-6)


@BOTH
def test_cuda_kernels_ask_for_what_memory_moves(operation):
    array = emulated_cupy.empty((3, 1024), np.float32)
    array[...] = emulated(draw(3, 1024))
    x = Tensor(array, requires_grad=True)
    with watched_launches() as launches:
        operation(x).backward(emulated_cupy.zeros_like(array))
    assert [launch.name.removeprefix("log_") for launch in launches] == ["forward", "backward"]
    for _, _, _, report in launches:
        assert report.asked.total() >= 0.95 * report.moved.total()
