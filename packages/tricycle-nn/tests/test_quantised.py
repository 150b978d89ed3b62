"""Weights of 8 and 4 bits: near the ones they were made from, and for reading only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import Tensor, no_grad
from tricycle_nn import Linear
from tricycle_nn.quantised import (
    FEW_ROWS,
    QuantisedLinear,
    QuantisedMatrix,
    plain_weights,
    quantised_outputs,
)


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def row_of(*numbers):
    return np.array([numbers], np.float32)


def test_the_largest_weight_of_a_block_becomes_127():
    matrix = QuantisedMatrix(np.array([[127.0, -254.0, 60.0], [0.0, 0.0, 0.0]], np.float32))
    assert matrix.numbers[0, :, :2].T.tolist() == [[64, -127, 30], [0, 0, 0]]
    assert matrix.scales[0, 0, :2].tolist() == [2.0, 0.0]
    assert matrix.rows().tolist() == [[128, -254, 60], [0, 0, 0]]


def test_four_bits_go_from_the_least_of_a_block_to_the_largest():
    matrix = QuantisedMatrix(row_of(-3.0, 27.0, 8.0, 10.2), bits=4)
    assert matrix.numbers[0, :, 0].tolist() == [0, 15, 6, 7]  # 5.5 and 6.6 steps of 2
    assert (matrix.scales[0, 0, 0], matrix.least[0, 0, 0]) == (2, -3)
    assert matrix.rows().tolist() == [[-3, 27, 9, 11]]


def test_two_outputs_that_are_16_apart_share_a_byte():
    weight = np.zeros((17, 2), np.float32)
    weight[0], weight[16] = (0, 15), (0, 30)
    matrix = QuantisedMatrix(weight, bits=4)
    assert matrix.numbers.shape == (1, 2, 16)
    assert matrix.numbers[0, :, 0].tolist() == [0, 0xFF]
    assert matrix.rows()[[0, 16]].tolist() == [[0, 15], [0, 30]]


def test_a_large_weight_makes_only_its_own_block_coarse():
    weight = np.full((1, 64), 0.001, np.float32)
    weight[0, 3] = 10
    error = abs(QuantisedMatrix(weight).rows() - weight)[0]
    assert error[:32].max() == np.float32(0.001)
    assert error[32:].max() < 1e-6


@pytest.mark.parametrize("bits", [8, 4])
@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(-8, 3))
def test_each_weight_is_off_by_at_most_half_a_scale(bits, n_outputs, n_inputs, seed, power):
    weight = np.random.default_rng(seed).standard_normal((n_outputs, n_inputs), np.float32)
    weight *= np.float32(10.0**power)  # down to where float16 has few digits
    matrix = QuantisedMatrix(weight, bits)
    scales = matrix._for_inputs(matrix.scales, *divmod(np.arange(n_outputs), 32))
    rounding = 3e-7 * abs(weight).max()
    assert (abs(matrix.rows() - weight) <= scales * 0.5 + rounding).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_were_written_so_before_come_back_exactly(bits):
    once = QuantisedMatrix(draw(40, 96), bits)
    again = QuantisedMatrix(once.rows(), bits)
    assert np.array_equal(again.rows(), once.rows())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("n_rows", [1, 3, FEW_ROWS, FEW_ROWS + 1, 50])
@pytest.mark.parametrize(("n_outputs", "n_inputs"), [(1, 1), (7, 33), (1500, 64), (300, 1000)])
def test_products_are_those_of_the_rows_as_floats(bits, n_rows, n_outputs, n_inputs):
    matrix = QuantisedMatrix(draw(n_outputs, n_inputs), bits)
    x = draw(n_inputs, n_rows).T  # not contiguous
    expected = x.astype(np.float64) @ matrix.rows().astype(np.float64).T
    found = matrix.outputs(x)
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-6 * n_inputs)
    assert matrix.outputs(x).tobytes() == found.tobytes()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_has_the_same_bits_among_few_others_as_alone(bits):
    matrix, x = QuantisedMatrix(draw(70, 100), bits), draw(FEW_ROWS, 100)
    alone = np.concatenate([matrix.outputs(x[i : i + 1]) for i in range(FEW_ROWS)])
    assert matrix.outputs(x).tobytes() == alone.tobytes()


@pytest.mark.parametrize("bits", [8, 4])
def test_every_float16_is_read_by_kernels_as_numpy_reads_it(bits):
    scales = np.arange(2**16, dtype=np.uint16)
    scales = scales[np.isfinite(scales.view(np.float16))].reshape(-1, 1, 32)
    matrix = QuantisedMatrix(np.zeros((scales.size, 1), np.float32), bits)
    matrix.scales = scales.view(np.float16)
    matrix.numbers[...] = 1 if bits == 8 else 0x11
    if bits == 4:
        matrix.least = matrix.scales[::-1].copy()
    for n_rows in (1, FEW_ROWS + 1):
        found = matrix.outputs(np.ones((n_rows, 1), np.float32))[-1]
        assert np.array_equal(found, matrix.rows()[:, 0])


def test_a_group_as_kernels_read_it_is_the_rows():
    for bits in (8, 4):
        matrix = QuantisedMatrix(draw(32, 40), bits)
        least = matrix.least[0] if bits == 4 else None
        assert np.array_equal(
            plain_weights(matrix.numbers[0], matrix.scales[0], least).T, matrix.rows()
        )


def test_memory_is_a_quarter_and_a_sixth_of_float32():
    weight = np.zeros((64, 64), np.float32)
    assert QuantisedMatrix(weight).nbytes == 64 * 64 * (1 + 2 / 32)
    assert QuantisedMatrix(weight, 4).nbytes == 64 * 64 * (1 / 2 + 4 / 32)


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (4, 0.2)])
def test_a_layer_does_nearly_what_the_one_it_was_made_from_does(bits, near):
    linear = Linear(64, 48, rng=np.random.default_rng(0))
    linear.bias.array[...] = draw(48)
    layer, x = QuantisedLinear(linear, bits), Tensor(draw(2, 5, 64))
    y, expected = layer(x).array, linear(x).array
    assert y.shape == (2, 5, 48)
    assert abs(y - expected).max() < near * abs(expected).max()
    assert layer.parameters() == []


def test_a_matrix_may_lie_any_way_round_in_memory():
    weight = draw(20, 30)
    matrix, other = QuantisedMatrix(weight), QuantisedMatrix(np.asfortranarray(weight))
    assert (matrix.numbers == other.numbers).all()
    assert other.numbers.flags.c_contiguous


def test_gradients_are_refused():
    layer = QuantisedLinear(Linear(4, 3, rng=np.random.default_rng(0)))
    x = Tensor(draw(2, 4), requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient flows through quantised weights; train"):
        layer(x)
    with no_grad():
        assert layer(x).shape == (2, 3)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected inputs \(\.\.\., 4\), got shape \(2, 5\)"):
        quantised_outputs(Tensor(draw(2, 5)), QuantisedMatrix(draw(3, 4)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (row_of(1.0, np.nan), "not finite cannot be written as whole numbers"),
        (row_of(1.0, -np.inf), "not finite cannot be written as whole numbers"),
        (row_of(-1e9, 1e9), r"weights up to 1.*e\+.* are too large for the float16 scales"),
    ],
)
def test_weights_that_float16_scales_cannot_hold_are_refused(bits, weight, said):
    with pytest.raises(ValueError, match=said):
        QuantisedMatrix(weight, bits)


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="weights are kept in 8 or 4 bits, got 5"):
        QuantisedMatrix(draw(3, 4), bits=5)


def test_float64_stays_float64_and_float16_is_refused():
    matrix, x = QuantisedMatrix(draw(7, 33)), np.random.default_rng(0).standard_normal((3, 33))
    y = quantised_outputs(Tensor(x), matrix)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.array, x @ matrix.rows().astype(np.float64).T, rtol=1e-12)
    with pytest.raises(
        TypeError, match=r"quantised weights expected float32 or float64 .* float16"
    ):
        quantised_outputs(Tensor(x.astype(np.float16)), matrix)
