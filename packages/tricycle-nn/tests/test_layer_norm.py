"""Layer normalisation: mean zero, variance one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, concatenate, definitions_only
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import LayerNorm, Parameter, add_layer_norm, layer_norm


def normalised(x, weight=None, bias=None, eps=0.0):
    x = np.asarray(x, np.float32)
    weight = np.ones(x.shape[-1], np.float32) if weight is None else weight
    return layer_norm(Tensor(x), Tensor(weight), bias, eps).array


def test_one_vector_by_hand():
    # mean 3, variance ((-2)² + 0² + 2²) / 3 = 8/3, so 1 becomes -2 / √(8/3) = -1.2247
    np.testing.assert_allclose(normalised([1, 3, 5]), [-1.2247449, 0, 1.2247449], rtol=1e-6)
    weight, bias = [2.0, 1.0, 10.0], Tensor([0.5, 0.5, 0.5])
    expected = [-1.9494897, 0.5, 12.747449]
    np.testing.assert_allclose(normalised([1, 3, 5], weight, bias), expected, rtol=1e-6)


def test_eps_is_added_to_the_variance():
    # variance 1, and 1 / √(1 + 3) = 1/2
    np.testing.assert_allclose(normalised([1, 3], eps=3.0), [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 5), (3, 4), (2, 3, 19), (70, 3)])
def test_kernels_agree_with_the_definition(shape):
    # The channels are spread out: nearly constant vectors have slopes too steep to measure.
    x = draw(*shape) + np.arange(shape[-1])
    weight, bias = draw(shape[-1]), draw(shape[-1], seed=1)
    check_fused(layer_norm, x, weight, bias, keeps=4)
    check_fused(layer_norm, x, weight, eps=0.1, keeps=4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 100), st.floats(-100, 100), st.floats(0.1, 100))
def test_results_have_mean_zero_and_variance_one_wherever_the_inputs_lie(n, c, shift, scale):
    y = normalised(draw(n, c) * scale + shift + np.arange(c) * scale)
    assert abs(y.mean(axis=-1)).max() < 1e-3
    assert abs(y.var(axis=-1) - 1).max() < 1e-3


def test_a_large_mean_costs_no_digits():
    x = draw(4, 256)
    np.testing.assert_allclose(normalised(x + 10_000), normalised(x), atol=2e-3)


def test_a_constant_vector_becomes_the_bias_with_a_finite_gradient():
    x = Tensor(np.full((2, 8), 5, np.float32), requires_grad=True)
    weight, bias = Parameter(np.ones(8, np.float32)), Parameter(np.arange(8, dtype=np.float32))
    y = layer_norm(x, weight, bias)
    assert (y.array == np.arange(8)).all()
    y.backward(draw(2, 8))
    assert np.isfinite(x.grad).all()


def test_the_gradient_of_the_input_can_neither_shift_nor_stretch_it():
    x = Tensor(draw(6, 33).astype(np.float32), requires_grad=True)
    layer_norm(x, Tensor(draw(33).astype(np.float32)), eps=0.0).backward(draw(6, 33, seed=1))
    assert abs(x.grad.sum(axis=-1)).max() < 1e-4
    assert abs((x.grad * x.array).sum(axis=-1)).max() < 1e-4


def test_many_rows_sum_into_the_parameters_own_buffers():
    layer = LayerNorm(16)
    x, dy = draw(2000, 16).astype(np.float32), draw(2000, 16, seed=1).astype(np.float32)
    for parameter in layer.parameters():
        parameter.node.buffer = np.full(16, np.nan, np.float32)
    n = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    for times in (1, 2):
        layer(Tensor(x)).backward(dy)
        assert layer.weight.grad is layer.weight.node.buffer
        np.testing.assert_allclose(layer.weight.grad, times * (dy * n).sum(0), 1e-3, 1e-3)
        np.testing.assert_allclose(layer.bias.grad, times * dy.sum(0), 1e-3, 1e-3)


def test_nan_stays_in_its_own_row():
    y = normalised([[1, np.nan, 2], [1, 3, 5]])
    assert np.isnan(y).tolist() == [[True] * 3, [False] * 3]


def test_a_layer_starts_as_plain_normalisation():
    layer = LayerNorm(5, eps=1e-6)
    x = draw(3, 5).astype(np.float32)
    assert np.array_equal(layer(Tensor(x)).array, normalised(x, eps=1e-6))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_shapes_that_do_not_fit_are_explained():
    x, three, four = [Tensor(np.zeros(shape, np.float32)) for shape in ((2, 3), 3, 4)]
    for call in (layer_norm, layer_norm.definition):
        with pytest.raises(ValueError) as error:
            call(x, four)
        assert str(error.value) == (
            "layer_norm of inputs of shape (2, 3) needs a weight of shape (3,), got (4,)"
        )
        with pytest.raises(ValueError, match=r"needs a bias of shape \(3,\), got \(4,\)"):
            call(x, three, four)
        with pytest.raises(ValueError, match="along the last axis, got a single number"):
            call(Tensor(np.float64(1)), three)


def test_float64_gives_float64_and_gradients_too():
    tensors = [Tensor(draw(*shape), requires_grad=True) for shape in ((2, 3), (3,), (3,))]
    y = layer_norm(*tensors)
    y.sum().backward()
    assert {y.dtype, *(tensor.grad.dtype for tensor in tensors)} == {np.dtype(np.float64)}


class Joined:
    """Both results of add_layer_norm side by side, for a check that looks at one."""

    __name__ = "add_layer_norm"
    by_device = add_layer_norm.by_device

    def __call__(self, x, branch, weight, bias=None, eps=1e-5):
        return concatenate(add_layer_norm(x, branch, weight, bias, eps), axis=-1)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 19), (70, 3)])
def test_adding_and_normalising_agrees_with_the_definition(shape):
    x, branch = draw(*shape) + np.arange(shape[-1]), draw(*shape, seed=1)
    weight, bias = draw(shape[-1]), draw(shape[-1], seed=1)
    check_fused(Joined(), x, branch, weight, bias, eps=0.1, keeps=4)
    check_fused(Joined(), x, branch, weight, eps=0.1, keeps=4)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 19), (70, 264), (2, 1601)])
def test_cuda_kernels_agree_with_the_definition(shape):
    x, weight, bias = draw(*shape) + 3, draw(shape[-1]), draw(shape[-1], seed=1)
    check_on_cuda(layer_norm, x, weight, bias)
    check_on_cuda(layer_norm, x, weight, eps=0.1)


def test_cuda_kernels_add_and_normalise_in_one_pass():
    x, branch, weight, bias = draw(5, 768), draw(5, 768, seed=1), draw(768), draw(768, seed=1)
    check_on_cuda(Joined(), x, branch, weight, bias)
    check_on_cuda(Joined(), x[:, :19], branch[:, :19], weight[:19], eps=0.1)


@pytest.mark.parametrize("number", [1000.7, -0.1, 3e7])
def test_a_constant_row_becomes_zeros_on_a_gpu_too(number):
    rows, weight, bias = np.full((2, 770), number), np.full(770, 2.0), np.full(770, 0.5)
    tensors = [Tensor(on_a_gpu(array.astype(np.float32))) for array in (rows, weight, bias)]
    assert (layer_norm(*tensors).numpy() == 0.5).all()


def through_a_block(add_and_normalise, x, branch, weight, bias, dy):
    """The result and all gradients of h + 2 · norm(h) with h = x + branch, as in a block."""
    tensors = [Tensor(array, requires_grad=True) for array in (x, branch, weight, bias)]
    h, n = add_and_normalise(*tensors)
    y = h + 2 * n
    y.backward(dy)
    return [y.array, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("shape", [(1, 5), (40, 33), (2, 100, 64)])
def test_adding_and_normalising_in_one_pass_or_in_two_gives_the_same_bits(shape):
    shapes = (shape, shape, shape[-1:], shape[-1:], shape)
    arrays = [draw(*s, seed=i).astype(np.float32) for i, s in enumerate(shapes)]
    apart = through_a_block(lambda x, b, *rest: (h := x + b, layer_norm(h, *rest)), *arrays)
    together = through_a_block(add_layer_norm, *arrays)
    for one, other in zip(together, apart, strict=True):
        assert one.tobytes() == other.tobytes()


def test_summands_of_different_shapes_are_refused():
    x, branch = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones(3, np.float32))
    for call in (add_layer_norm, add_layer_norm.definition):
        with pytest.raises(ValueError) as error:
            call(x, branch, branch)
        assert str(error.value) == (
            "add_layer_norm adds two tensors of one shape, got (2, 3) and (3,)"
        )


def test_vectors_of_no_numbers_are_no_trouble():
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="empty slice"):
        check_fused(layer_norm, draw(2, 0), draw(0), draw(0))


@pytest.mark.parametrize("number", [1000.7, -0.1, 3e7])
def test_a_constant_row_becomes_zeros_whatever_its_number(number):
    x = Tensor(np.full((2, 768), number, np.float32), requires_grad=True)
    weight, bias = (Tensor(np.full(768, n, np.float32)) for n in (2.0, 0.5))
    assert (layer_norm(x, weight, bias).array == 0.5).all()
    _, y = add_layer_norm(x, Tensor(np.zeros((2, 768), np.float32)), weight, bias)
    assert (y.array == 0.5).all()
    with definitions_only():
        assert (layer_norm(x, weight, bias).array == 0.5).all()


def test_a_row_that_is_nearly_constant_has_the_digits_that_float32_leaves_it():
    x = (1000 + 1e-2 * np.random.default_rng(0).standard_normal((1, 768))).astype(np.float32)
    ones = Tensor(np.ones(768, np.float32))
    right = (x - x.mean(dtype=float)) / np.sqrt(x.var(dtype=float) + 1e-5)
    np.testing.assert_allclose(layer_norm(Tensor(x), ones).array, right, atol=4e-3)
