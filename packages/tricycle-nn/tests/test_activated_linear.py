"""An activation and the linear layer after it, as one operation."""

import numpy as np
import pytest

from tricycle_autograd import Tensor, exp
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, kept_by
from tricycle_nn import Linear, gelu, linear, relu, relu_squared, silu, swiglu
from tricycle_nn.activated_linear import WITH_LINEAR, gelu_linear, swiglu_linear
from tricycle_nn.mlp import MLP, GatedMLP

SHAPES = [(3,), (1, 3), (5, 3), (2, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_agree_with_the_definitions(shape):
    weight, bias = draw(3, 4, seed=1), draw(4, seed=2)
    for together in WITH_LINEAR.values():
        check_fused(together, 2 * draw(*shape), weight, keeps=2)
        check_fused(together, 2 * draw(*shape), weight, bias, keeps=2)
    check_fused(swiglu_linear, draw(*shape), 3 * draw(*shape, seed=3), weight, keeps=3)
    check_fused(swiglu_linear, draw(*shape), 3 * draw(*shape, seed=3), weight, bias, keeps=3)


def test_each_activation_has_its_operation():
    names = [together.__name__ for together in WITH_LINEAR.values()]
    assert names == ["gelu_linear", "relu_linear", "relu_squared_linear", "silu_linear"]


def test_two_numbers_by_hand():
    # gelu(1) = 0.841192; silu(1) = 0.731059
    ones, weight, bias = Tensor([1.0, 1.0]), Tensor([[1.0], [10.0]]), Tensor([0.5])
    np.testing.assert_allclose(gelu_linear(ones, weight, bias).array, [9.753112], rtol=1e-5)
    np.testing.assert_allclose(swiglu_linear(ones, ones, weight).array, [8.041649], rtol=1e-5)


def in_two_steps(operation, *arrays):
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    y = operation(*tensors)
    y.backward(draw(*y.shape, seed=9).astype(np.float32))
    return [y.array, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("activation", [gelu, relu, relu_squared, silu, swiglu])
def test_it_is_the_two_operations_one_after_the_other(activation):
    x, gate = draw(70, 300).astype(np.float32), draw(70, 300, seed=1).astype(np.float32)
    weight, bias = draw(300, 90, seed=2).astype(np.float32), draw(90, seed=3).astype(np.float32)
    if activation is not swiglu:
        arrays, together = (x, weight, bias), WITH_LINEAR[activation]
        apart = in_two_steps(lambda x, w, b: linear(activation(x), w, b), *arrays)
    else:
        arrays, together = (x, gate, weight), swiglu_linear
        apart = in_two_steps(lambda x, gate, w: linear(swiglu(x, gate), w), *arrays)
    for expected, actual in zip(apart, in_two_steps(together, *arrays), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_a_weight_learns_also_where_its_input_does_not():
    x, gate = draw(5, 3).astype(np.float32), draw(5, 3, seed=1).astype(np.float32)
    weight = Tensor(draw(3, 4, seed=2).astype(np.float32), requires_grad=True)
    dy = np.ones((5, 4), np.float32)
    gelu_linear(Tensor(x), weight).backward(dy)
    expected = gelu(Tensor(x)).array.T @ dy
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-5, atol=1e-6)
    weight.grad = None
    swiglu_linear(Tensor(x), Tensor(gate), weight).backward(dy)
    expected = swiglu(Tensor(x), Tensor(gate)).array.T @ dy
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_the_backward_pass_leaves_what_the_caller_holds():
    x, gate = (Tensor(draw(5, 3, seed=i).astype(np.float32), requires_grad=True) for i in (0, 1))
    weight = Tensor(draw(3, 4, seed=2).astype(np.float32), requires_grad=True)
    dy = draw(5, 4, seed=3).astype(np.float32)
    held = [array.copy() for array in (x.array, gate.array, weight.array, dy)]
    for operation, inputs in ((gelu_linear, (x,)), (swiglu_linear, (x, gate))):
        operation(*inputs, weight).backward(dy)
    for before, after in zip(held, (x.array, gate.array, weight.array, dy), strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_mlp_keeps_no_activated_numbers():
    """Of what lies behind the down layer, only what it was given is kept for the way back."""
    rng = np.random.default_rng(0)
    for mlp, kept in (
        (MLP(8, 32, rng=rng), 1),
        (MLP(8, 32, activation=relu, rng=rng), 1),
        (GatedMLP(8, 32, rng=rng), 2),
    ):
        arrays, tensors = kept_by(mlp(Tensor(draw(5, 8).astype(np.float32))))
        assert sum(array.shape == (5, 32) for array in arrays) == kept
        assert not tensors


class Doubled(Linear):
    """A layer with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 2


def test_another_layer_or_activation_is_used_as_it_is():
    rng = np.random.default_rng(0)
    x = Tensor(draw(5, 8).astype(np.float32))
    for mlp in (MLP(8, 32, rng=rng), GatedMLP(8, 32, rng=rng)):
        before, down = mlp(x).array, mlp.down
        mlp.down = Doubled(32, 8, bias=down.bias is not None, rng=rng)
        mlp.down.weight, mlp.down.bias = down.weight, down.bias
        np.testing.assert_array_equal(mlp(x).array, 2 * before)
    mlp = MLP(8, 32, activation=exp, rng=rng)
    np.testing.assert_array_equal(mlp(x).array, mlp.down(exp(mlp.up(x))).array)


def test_errors_say_what_does_not_fit():
    three, four = Tensor(np.ones(3, np.float32)), Tensor(np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match="inputs with 4 features in the last axis, got shape"):
        gelu_linear(three, four)
    with pytest.raises(ValueError, match="inputs with 4 features in the last axis, got shape"):
        swiglu_linear(three, three, four)
    with pytest.raises(ValueError, match="an input and a gate of one shape"):
        swiglu_linear(three, four, four)


@pytest.mark.parametrize("together", WITH_LINEAR.values(), ids=lambda op: op.__name__)
def test_cuda_kernels_agree_with_the_definitions(together):
    check_on_cuda(together, 2 * draw(5, 19), draw(19, 7), draw(7))


def test_cuda_kernels_of_swiglu_linear_agree_with_the_definition():
    check_on_cuda(swiglu_linear, draw(2, 3, 19), 3 * draw(2, 3, 19, seed=3), draw(19, 7))
