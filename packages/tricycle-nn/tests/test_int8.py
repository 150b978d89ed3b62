"""Weights of one byte: near the ones they were made from, and for reading only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import Tensor, no_grad
from tricycle_nn import Linear
from tricycle_nn.int8 import FEW_ROWS, Int8Linear, Int8Matrix, int8_outputs


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def test_the_largest_weight_of_an_output_becomes_127():
    matrix = Int8Matrix(np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32))
    assert matrix.numbers.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert matrix.scales.tolist() == [np.float32(2 / 127), 0.0]
    np.testing.assert_allclose(matrix.rows()[0], [1.0, -2.0, 0.5], atol=2 / 127 / 2)


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_each_weight_is_off_by_at_most_half_a_scale(n_outputs, n_inputs, seed):
    weight = np.random.default_rng(seed).standard_normal((n_outputs, n_inputs), np.float32)
    matrix = Int8Matrix(weight)
    assert (abs(matrix.rows() - weight) <= matrix.scales[:, None] * 0.5001).all()
    assert abs(matrix.numbers).max() <= 127


@pytest.mark.parametrize("n_rows", [1, 3, FEW_ROWS, FEW_ROWS + 1, 50])
@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(1, 1), (7, 33), (1500, 64), (300, 1000)])
def test_products_are_those_of_the_rows_as_floats(n_rows, n_outputs, n_inputs):
    matrix = Int8Matrix(draw(n_outputs, n_inputs))
    x = draw(n_inputs, n_rows).T  # not contiguous
    expected = x.astype(np.float64) @ matrix.rows().astype(np.float64).T
    np.testing.assert_allclose(matrix.outputs(x), expected, atol=2e-5 * n_inputs)
    assert matrix.outputs(x).tobytes() == matrix.outputs(x).tobytes()


def test_a_layer_does_nearly_what_the_one_it_was_made_from_does():
    linear = Linear(64, 48, rng=np.random.default_rng(0))
    linear.bias.array[...] = draw(48)
    layer, x = Int8Linear(linear), Tensor(draw(2, 5, 64))
    y, expected = layer(x).array, linear(x).array
    assert y.shape == (2, 5, 48)
    assert abs(y - expected).max() < 0.02 * abs(expected).max()
    assert layer.parameters() == []


def test_a_matrix_may_lie_any_way_round_in_memory():
    weight = draw(20, 30)
    assert (Int8Matrix(weight).numbers == Int8Matrix(np.asfortranarray(weight)).numbers).all()
    assert Int8Matrix(np.asfortranarray(weight)).numbers.flags.c_contiguous


def test_gradients_are_refused():
    layer = Int8Linear(Linear(4, 3, rng=np.random.default_rng(0)))
    x = Tensor(draw(2, 4), requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient flows through int8 weights; train the"):
        layer(x)
    with no_grad():
        assert layer(x).shape == (2, 3)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected inputs \(\.\.\., 4\), got shape \(2, 5\)"):
        int8_outputs(Tensor(draw(2, 5)), Int8Matrix(draw(3, 4)))


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite cannot be written as whole numbers"):
        Int8Matrix(np.array([[1.0, np.nan]], np.float32))


def test_float64_stays_float64_and_float16_is_refused():
    matrix, x = Int8Matrix(draw(7, 33)), np.random.default_rng(0).standard_normal((3, 33))
    y = int8_outputs(Tensor(x), matrix)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.array, x @ matrix.rows().astype(np.float64).T, rtol=1e-12)
    with pytest.raises(TypeError, match=r"int8 weights expected float32 or float64 .* float16"):
        int8_outputs(Tensor(x.astype(np.float16)), matrix)
