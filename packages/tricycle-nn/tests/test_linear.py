"""Linear: weighted sums."""

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import Linear, Parameter, linear


def test_two_features_by_hand():
    # 1·3 + 2·5 = 13 and 1·4 + 2·6 = 16, plus the bias
    x, weight, bias = Tensor([1.0, 2.0]), Tensor([[3.0, 4.0], [5.0, 6.0]]), Tensor([0.5, -1.0])
    assert linear(x, weight).tolist() == [13.0, 16.0]
    assert linear(x, weight, bias).tolist() == [13.5, 15.0]


def test_gradients_of_two_features_by_hand():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    weight, bias = Parameter([[3.0, 4.0], [5.0, 6.0]]), Parameter([0.0, 0.0])
    linear(x, weight, bias).backward([[1.0, 10.0]])
    assert x.grad.tolist() == [[43.0, 65.0]]  # 3 + 40, 5 + 60
    assert weight.grad.tolist() == [[1.0, 10.0], [2.0, 20.0]]
    assert bias.grad.tolist() == [1.0, 10.0]


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 7), (2, 3, 5), (70, 3), (2, 1, 1, 4)])
@pytest.mark.parametrize("outputs", [1, 6])
def test_kernels_agree_with_the_definition(shape, outputs):
    x, weight, bias = draw(*shape), draw(shape[-1], outputs), draw(outputs)
    check_fused(linear, x, weight, bias, keeps=2)
    check_fused(linear, x, weight, keeps=2)


def test_many_rows_agree_with_numpy():
    x, weight, bias = [draw(*s).astype(np.float32) for s in ((1000, 65), (65, 33), (33,))]
    inputs = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    dy = draw(1000, 33, seed=1).astype(np.float32)
    linear(*inputs).backward(dy)
    for tensor, expected in zip(inputs, (dy @ weight.T, x.T @ dy, dy.sum(axis=0))):
        np.testing.assert_allclose(tensor.grad, expected, rtol=1e-4, atol=1e-4)


def test_no_rows_give_no_outputs_and_zero_gradients():
    weight, bias = Parameter(draw(3, 2).astype(np.float32)), Parameter([1.0, 2.0])
    y = linear(Tensor(np.zeros((0, 3), np.float32)), weight, bias)
    assert y.shape == (0, 2)
    y.backward(np.zeros((0, 2), np.float32))
    assert not weight.grad.any() and not bias.grad.any()


def test_a_gradient_is_first_written_and_then_added_to_the_weights_own_buffer():
    x = Tensor(draw(4, 3).astype(np.float32))
    layer, plain = [Linear(3, 2, rng=np.random.default_rng(0)) for _ in range(2)]
    buffers = [np.full(p.shape, np.nan, np.float32) for p in layer.parameters()]
    for parameter, buffer in zip(layer.parameters(), buffers):
        parameter.node.buffer = buffer
    for times in (1, 2):
        layer(x).sum().backward()
        plain.zero_grad()
        plain(x).sum().backward()
        for parameter, buffer, once in zip(layer.parameters(), buffers, plain.parameters()):
            assert parameter.grad is buffer
            np.testing.assert_allclose(buffer, times * once.grad, rtol=1e-6)


def test_an_input_that_wants_no_gradient_gets_none():
    x, weight = Tensor([[1.0, 2.0]]), Parameter([[1.0], [1.0]])
    linear(x, weight).backward([[1.0]])
    assert x.grad is None and weight.grad is not None
    x, weight = Tensor([[1.0, 2.0]], requires_grad=True), Tensor([[1.0], [1.0]])
    linear(x, weight).backward([[1.0]])
    assert x.grad is not None and weight.grad is None


def test_nan_comes_out_where_it_went_in():
    y = linear(Tensor([[np.nan, 1.0], [1.0, 1.0]]), Tensor([[1.0], [1.0]]))
    assert np.isnan(y.array).tolist() == [[True], [False]]


def test_a_layer_starts_with_outputs_as_large_as_its_inputs():
    layer = Linear(400, 300, rng=np.random.default_rng(0))
    assert layer.weight.shape == (400, 300) and not layer.bias.array.any()
    y = layer(Tensor(draw(50, 400).astype(np.float32)))
    assert abs(y.array.std() - 1) < 0.05


def test_a_layer_without_bias_has_one_parameter():
    layer = Linear(4, 3, bias=False, rng=np.random.default_rng(0))
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer(Tensor(np.ones((2, 4), np.float32))).shape == (2, 3)


def both_ways(call):
    """The message of the error that a call ends in, with kernels and by its definition."""
    with pytest.raises(ValueError) as fast:
        call()
    with definitions_only(), pytest.raises(ValueError) as defined:
        call()
    assert str(fast.value) == str(defined.value)
    return str(fast.value)


def test_shapes_that_do_not_fit_are_explained():
    def zeros(*shape):
        return Tensor(np.zeros(shape, np.float32))

    assert both_ways(lambda: linear(zeros(8, 1024, 512), zeros(768, 3))) == (
        "linear expected inputs with 768 features in the last axis, got shape (8, 1024, 512)"
    )
    assert both_ways(lambda: linear(zeros(), zeros(7, 3))) == (
        "linear expected inputs with 7 features in the last axis, got shape ()"
    )
    assert both_ways(lambda: linear(zeros(2, 7), zeros(7, 3), zeros(7))) == (
        "linear expected a bias of shape (3,), got (7,)"
    )
    assert both_ways(lambda: linear(zeros(2, 7), zeros(7))) == (
        "linear expected a weight of shape (in, out), got (7,)"
    )


def test_numpys_default_dtype_simply_works_beside_a_layers_float32():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    x = Tensor(draw(5, 3), requires_grad=True)
    y = layer(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.array, x.array @ layer.weight.array + layer.bias.array)
    y.backward(np.ones((5, 2)))
    assert (x.grad.dtype, layer.weight.grad.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(layer.bias.grad, [5, 5])


def test_vectors_of_no_numbers_give_the_bias():
    y = linear(Tensor(np.zeros((2, 0), np.float32)), Tensor(np.zeros((0, 3), np.float32)))
    assert y.tolist() == [[0, 0, 0]] * 2
    check_fused(linear, draw(2, 0), draw(0, 3), draw(3))


def test_an_array_is_not_taken_for_a_tensor():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"linear works on tensors, got ndarray; .*Tensor\(array\)"):
        layer(np.zeros((1, 3), np.float32))


def test_a_layer_of_no_size_is_refused():
    with pytest.raises(ValueError, match="Linear needs sizes from 1 up, got 0, 2"):
        Linear(0, 2, rng=np.random.default_rng(0))


# ---- On a GPU ----


@pytest.mark.parametrize("shape", [(37,), (2, 20, 37)])
def test_cuda_kernels_agree_with_the_definition(shape):
    check_on_cuda(linear, draw(*shape), draw(37, 70), draw(70))
    check_on_cuda(linear, draw(*shape), draw(37, 70), None)


def test_a_gpu_adds_a_weights_gradient_over_micro_batches_in_float32():
    half = ml_dtypes.bfloat16
    weight = Tensor(on_a_gpu(draw(3, 8).astype(half)), requires_grad=True)
    weight.node.buffer = on_a_gpu(np.zeros((3, 8), np.float32))
    x, dy = draw(5, 3).astype(half), draw(5, 8).astype(half)
    for _ in range(100):
        linear(Tensor(on_a_gpu(x)), weight).backward(on_a_gpu(dy))
    wanted = 100 * x.astype(np.float64).T @ dy.astype(np.float64)
    np.testing.assert_allclose(Tensor(weight.grad).numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_a_gpu_moves_no_more_memory_for_a_bias_than_its_sum_needs():
    dy = on_a_gpu(draw(64, 512).astype(ml_dtypes.bfloat16))
    with watched_launches() as launches:
        linear.by_device["cuda"].sum_rows(dy)
    assert launches[0].report.asked["reads"] == launches[0].report.moved["reads"] == dy.nbytes
