"""Rotary positions: say where a vector stands by turning it."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.testing import check_fused, check_on_cuda, draw
from tricycle_autograd.testing_device import emulated, emulated_cupy
from tricycle_nn import RotaryScaling, rotary


def turned(x, positions, **options):
    return rotary(Tensor(np.asarray(x, np.float32)), np.asarray(positions), **options).array


# ---- By hand ----


def test_one_pair_is_turned_by_its_position_in_radians():
    x = [[1.0, 0.0]] * 3  # points on the first axis, at positions 0, 1 and -1
    expected = [[1, 0], [np.cos(1), np.sin(1)], [np.cos(1), -np.sin(1)]]
    np.testing.assert_allclose(turned(x, [0, 1, -1]), expected, atol=1e-7)


def test_the_second_pair_of_four_numbers_turns_a_hundred_times_slower():
    # θ^(-2/4) = 1/100.  The pairs of (1, 2, 0, 0) are (1, 0) and (2, 0).
    y = turned([[1.0, 2.0, 0.0, 0.0]], [1])
    expected = [np.cos(1), 2 * np.cos(0.01), np.sin(1), 2 * np.sin(0.01)]
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)
    # Interleaved, the pairs are neighbours: (1, 0) and (2, 0) again.
    y = turned([[1.0, 0.0, 2.0, 0.0]], [1], interleaved=True)
    expected = [np.cos(1), np.sin(1), 2 * np.cos(0.01), 2 * np.sin(0.01)]
    np.testing.assert_allclose(y[0], expected, rtol=1e-6)


def test_both_layouts_are_those_of_other_programs():
    # transformers 5: apply_rotary_pos_emb of Llama and of GPT-J, of sin(0.7·n) at positions 0, 3.
    x = np.sin(0.7 * np.arange(8)).reshape(2, 4)
    llama = [-0.2086390, -0.3211562, 0.9101270, -0.9925325]
    gptj = [-0.2821332, 0.3945463, -0.8417144, -1.0081539]
    np.testing.assert_allclose(turned(x, [0, 3])[1], llama, atol=1e-6)
    np.testing.assert_allclose(turned(x, [0, 3], interleaved=True)[1], gptj, atol=1e-6)


# ---- The definition ----


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 2), (5, 4), (2, 3, 4, 6), (0, 3, 2)])
def test_kernels_agree_with_the_definition(shape, interleaved):
    positions = np.arange(shape[-2]) + 7
    options = {"positions": positions, "theta": 50.0, "interleaved": interleaved}
    check_fused(rotary, draw(*shape), **options, keeps=2)  # the angles


# ---- Properties ----


@settings(max_examples=30, deadline=None)
@given(st.integers(-(2**40), 2**40), st.booleans())
def test_every_vector_keeps_its_length(position, interleaved):
    x = draw(3, 8)
    y = turned(x, [position, 0, -position], interleaved=interleaved)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(0, 5000), st.booleans())
def test_products_depend_on_the_distance_alone(p, s, shift, interleaved):
    q, k = draw(2, 1, 8)

    def product(p, s):
        q_turned = turned(q, [p], interleaved=interleaved)
        k_turned = turned(k, [s], interleaved=interleaved)
        return (q_turned * k_turned).sum()

    np.testing.assert_allclose(product(p + shift, s + shift), product(p, s), atol=1e-5)


def test_far_positions_are_exact():
    # In float32 the angle of position 10⁷ would be off by up to half a radian.
    position = 10_000_001
    np.testing.assert_allclose(
        turned([[1.0, 0.0]], [position]), [[np.cos(position), np.sin(position)]], atol=1e-6
    )


# ---- Errors ----


def test_what_cannot_be_is_named():
    x = Tensor(np.zeros((2, 3, 4), np.float32))
    for run in (rotary, rotary.definition):
        with pytest.raises(ValueError, match=r"positions \(T,\), got \(2, 3, 4\) and \(2,\)"):
            run(x, np.arange(2))
        with pytest.raises(ValueError, match=r"an even D.*got \(3, 5\)"):
            run(Tensor(np.zeros((3, 5), np.float32)), np.arange(3))
        with pytest.raises(TypeError, match="integer positions, got float64"):
            run(x, np.arange(3) / 2)


def test_vectors_of_no_numbers_are_no_trouble():
    check_fused(rotary, draw(2, 3, 0), positions=np.arange(3))


def test_a_theta_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="rotary expected a theta above 0, got 0"):
        rotary(Tensor(np.zeros((1, 2), np.float32)), np.arange(1), theta=0)


# ---- On a GPU ----


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 2), (3, 3, 17, 6), (2, 70, 32)])
def test_cuda_kernels_agree_with_the_definition(shape, interleaved):
    positions = np.arange(shape[-2]) * 3 - 7
    check_on_cuda(rotary, draw(*shape), positions=positions, interleaved=interleaved)


def test_angles_are_precise_where_numbers_are_short():
    # bfloat16 knows no position past 256: 12345 would be 12352, half a turn off.
    x = np.array([[1.0, 0.0]], ml_dtypes.bfloat16)
    y = rotary(Tensor(emulated(x)), np.array([12345])).numpy()
    np.testing.assert_allclose(y, [[np.cos(12345), np.sin(12345)]], atol=2**-9)


@pytest.mark.parametrize("interleaved", [False, True])
def test_cuda_kernels_ask_for_what_memory_moves(interleaved):
    x = emulated_cupy.empty((3, 16, 64), ml_dtypes.bfloat16)
    x[...] = emulated(draw(3, 16, 64).astype(x.dtype))
    with watched_launches() as launches:
        rotary(Tensor(x), np.arange(16), interleaved=interleaved)
    (launch,) = launches
    assert launch.report.asked.total() >= 0.95 * launch.report.moved.total()


# ---- Slower turns ----


def test_linear_scaling_puts_positions_closer_together():
    x = draw(5, 8)
    found = rotary(Tensor(x), 4 * np.arange(5), scaling=RotaryScaling(4)).array
    np.testing.assert_allclose(found, rotary(Tensor(x), np.arange(5)).array, atol=1e-12)


def test_llama_3s_scaling_slows_the_slow_pairs_alone():
    # In a window of 2π · 100 positions a pair makes 100 · frequency turns: 100, 2, 1 and a tenth.
    scaling = RotaryScaling(8, trained_window=2 * np.pi * 100, low=1, high=3)
    found = scaling.slowed(np.array([1, 0.02, 0.01, 0.001]))
    # Two turns are half the way from 1 to 3: half of it is slowed.
    expected = [1, 0.02 * (0.5 + 0.5 / 8), 0.01 / 8, 0.001 / 8]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scaled_turns_have_a_gradient():
    options = {"positions": np.arange(3), "scaling": RotaryScaling(2, 4)}
    check_fused(rotary, draw(2, 3, 4), **options)


@pytest.mark.parametrize(
    "numbers", [{"factor": 0}, {"factor": np.inf}, {"factor": 2, "trained_window": 0}, {"high": 1}]
)
def test_scaling_that_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError, match="a factor and a trained window above 0, and low below"):
        RotaryScaling(**{"factor": 2, **numbers})
