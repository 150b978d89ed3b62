"""RMS normalisation: a root-mean-square of one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, concatenate
from tricycle_autograd.testing import check_fused, check_on_cuda, draw
from tricycle_nn import RMSNorm, add_rms_norm, rms_norm


def normalised(x, eps=0.0):
    x = np.asarray(x, np.float32)
    return rms_norm(Tensor(x), Tensor(np.ones(x.shape[-1], np.float32)), eps).array


def test_one_vector_by_hand():
    # mean(3², 4²) = 12.5, and √12.5 = 3.5355
    np.testing.assert_allclose(normalised([3, 4]), [0.84852814, 1.1313708], rtol=1e-6)
    y = rms_norm(Tensor([3.0, 4.0]), Tensor([10.0, 0.0]), 0.0)
    np.testing.assert_allclose(y.array, [8.4852814, 0], rtol=1e-6)


def test_eps_is_added_to_the_mean_of_the_squares():
    # mean(1², 1²) = 1, and 1 / √(1 + 3) = 1/2
    np.testing.assert_allclose(normalised([1, 1], eps=3.0), [0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 5), (3, 2), (2, 3, 19), (70, 3)])
def test_kernels_agree_with_the_definition(shape):
    check_fused(rms_norm, draw(*shape) + 0.5, draw(shape[-1]), keeps=3)
    check_fused(rms_norm, draw(*shape), draw(shape[-1]), eps=0.1, keeps=3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 100), st.floats(0.01, 1000))
def test_results_have_a_root_mean_square_of_one_whatever_the_size_of_the_inputs(n, c, scale):
    y = normalised(draw(n, c) * scale)
    assert abs((y * y).mean(axis=-1) - 1).max() < 1e-4


def test_a_vector_of_zeros_stays_zero_with_a_finite_gradient():
    x = Tensor(np.zeros((1, 8), np.float32), requires_grad=True)
    y = rms_norm(x, Tensor(np.ones(8, np.float32)))
    assert not y.array.any()
    y.backward(np.ones((1, 8), np.float32))
    assert np.isfinite(x.grad).all()


def test_many_rows_sum_into_the_weights_own_buffer():
    layer = RMSNorm(16)
    x, dy = draw(2000, 16).astype(np.float32), draw(2000, 16, seed=1).astype(np.float32)
    layer.weight.node.buffer = np.full(16, np.nan, np.float32)
    once = (dy * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)).sum(0)
    for times in (1, 2):
        layer(Tensor(x)).backward(dy)
        assert layer.weight.grad is layer.weight.node.buffer
        np.testing.assert_allclose(layer.weight.grad, times * once, 1e-3, 1e-3)


def test_nan_stays_in_its_own_row():
    y = normalised([[1, np.nan, 2], [1, 3, 5]])
    assert np.isnan(y).tolist() == [[True] * 3, [False] * 3]


def test_a_layer_starts_as_plain_normalisation():
    x = draw(3, 5).astype(np.float32)
    assert np.array_equal(RMSNorm(5, eps=1e-6)(Tensor(x)).array, normalised(x, eps=1e-6))


def test_shapes_that_do_not_fit_are_explained():
    for call in (rms_norm, rms_norm.definition):
        with pytest.raises(ValueError) as error:
            call(Tensor(np.zeros((2, 3), np.float32)), Tensor(np.zeros(4, np.float32)))
        assert str(error.value) == (
            "rms_norm of inputs of shape (2, 3) needs a weight of shape (3,), got (4,)"
        )
        with pytest.raises(ValueError, match="along the last axis, got a single number"):
            call(Tensor(np.float64(1)), Tensor(np.zeros(1)))


def test_float64_gives_float64_and_gradients_too():
    x, weight = Tensor(draw(2, 3), requires_grad=True), Tensor(draw(3), requires_grad=True)
    y = rms_norm(x, weight)
    y.sum().backward()
    assert {y.dtype, x.grad.dtype, weight.grad.dtype} == {np.dtype(np.float64)}


class Joined:
    """Both results of add_rms_norm side by side, for a check that looks at one."""

    __name__ = "add_rms_norm"
    by_device = add_rms_norm.by_device

    def __call__(self, x, branch, weight, eps=1e-5):
        return concatenate(add_rms_norm(x, branch, weight, eps), axis=-1)


@pytest.mark.parametrize("shape", [(7,), (3, 2), (2, 3, 19), (70, 3)])
def test_adding_and_normalising_agrees_with_the_definition(shape):
    arrays = draw(*shape) + 0.5, draw(*shape, seed=1), draw(shape[-1])
    check_fused(Joined(), *arrays, keeps=3)
    check_fused(Joined(), *arrays, eps=0.1, keeps=3)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 19), (5, 768), (70, 100)])
def test_cuda_kernels_agree_with_the_definition(shape):
    check_on_cuda(rms_norm, draw(*shape) + 0.5, draw(shape[-1]))


@pytest.mark.parametrize("shape", [(3, 19), (2, 5, 264)])
def test_cuda_kernels_add_and_normalise_in_one_pass(shape):
    check_on_cuda(Joined(), draw(*shape) + 0.5, draw(*shape, seed=1), draw(shape[-1]))


def through_a_block(add_and_normalise, x, branch, weight, dy):
    """The result and all gradients of h + 2 · norm(h) with h = x + branch, as in a block."""
    tensors = [Tensor(array, requires_grad=True) for array in (x, branch, weight)]
    h, n = add_and_normalise(*tensors)
    y = h + 2 * n
    y.backward(dy)
    return [y.array, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("shape", [(1, 5), (40, 33), (2, 100, 64)])
def test_adding_and_normalising_in_one_pass_or_in_two_gives_the_same_bits(shape):
    arrays = [draw(*shape, seed=i).astype(np.float32) for i in (0, 1)]
    arrays += [draw(shape[-1]).astype(np.float32), draw(*shape, seed=2).astype(np.float32)]
    apart = through_a_block(lambda x, b, w: (h := x + b, rms_norm(h, w)), *arrays)
    together = through_a_block(add_rms_norm, *arrays)
    for one, other in zip(together, apart, strict=True):
        assert one.tobytes() == other.tobytes()


def test_what_waits_at_the_input_is_added_and_left_as_it_was():
    x, dy = draw(5, 8).astype(np.float32), draw(5, 8, seed=1).astype(np.float32)
    held = dy.copy()
    alone, twice = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
    weight = Tensor(np.ones(8, np.float32))
    rms_norm(alone, weight).backward(dy)
    (rms_norm(twice, weight) + twice).backward(dy)
    np.testing.assert_array_equal(twice.grad, dy + alone.grad)
    np.testing.assert_array_equal(dy, held)


def test_summands_of_different_shapes_are_refused():
    x, branch = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones(3, np.float32))
    for call in (add_rms_norm, add_rms_norm.definition):
        with pytest.raises(ValueError) as error:
            call(x, branch, branch)
        assert str(error.value) == (
            "add_rms_norm adds two tensors of one shape, got (2, 3) and (3,)"
        )


def test_vectors_of_no_numbers_are_no_trouble():
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="empty slice"):
        check_fused(rms_norm, draw(2, 0), draw(0))
