import numpy as np
import pytest

from tricycle_autograd import cpu_math
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange

exp, sigmoid = cpu_math.exp, cpu_math.sigmoid
row_maximum, side_by_side = cpu_math.row_maximum, cpu_math.side_by_side


@cpu_kernel
def all_three(exps, sigmoids, maxima, x):
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            exps[i, j] = exp(x[i, j])
            sigmoids[i, j] = sigmoid(x[i, j])
        maxima[i] = row_maximum(x[i])


def compute(x):
    x = np.asarray(x, np.float32)
    results = [np.empty_like(x), np.empty_like(x), np.empty(len(x), np.float32)]
    all_three(*results, x)
    return results


def units_in_the_last_place(actual, exact):
    return np.abs(actual - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(float)


# ---- By hand ----


def test_values_everybody_knows():
    exps, sigmoids, maxima = compute([[0.0, 1.0, -1.0]])
    assert exps[0, 0] == 1
    assert exps[0, 1] == pytest.approx(2.7182818, rel=2e-7)
    assert sigmoids[0, 0] == 0.5
    assert sigmoids[0, 1] + sigmoids[0, 2] == pytest.approx(1, rel=2e-7)
    assert maxima.tolist() == [1]


# ---- Against float64 ----


def test_exp_is_right_to_two_units_in_the_last_place():
    x = np.linspace(-87, 88, 400_001, dtype=np.float32)[None]
    exact = np.exp(x.astype(np.float64))
    assert units_in_the_last_place(compute(x)[0], exact).max() <= 2


def test_sigmoid_is_right_to_four_units_in_the_last_place():
    x = np.linspace(-80, 80, 400_001, dtype=np.float32)[None]
    precise = x.astype(np.float64)
    sigmoids = compute(x)[1]
    assert units_in_the_last_place(sigmoids, 1 / (1 + np.exp(-precise))).max() <= 4


def test_maxima_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for width in (1, 2, 15, 16, 17, 100):
        x = rng.standard_normal((7, width)).astype(np.float32)
        assert compute(x)[2].tolist() == x.max(axis=1).tolist()
        assert compute(x - 100)[2].tolist() == (x - 100).max(axis=1).tolist()


# ---- Corners ----


def test_the_ends_of_the_range():
    with np.errstate(all="raise"):
        exps, sigmoids, maxima = compute([[-np.inf, -1e30, 1e30, np.inf]])
    np.testing.assert_allclose(exps[0], [1.65e-38, 1.65e-38, 1.65e38, 1.65e38], rtol=0.01)
    np.testing.assert_allclose(sigmoids[0], [0, 0, 1, 1], atol=1e-37)
    assert maxima.tolist() == [np.inf]


def test_nan_goes_through():
    for values in compute([[np.nan, 1.0, 2.0]])[:2]:
        assert np.isnan(values[0, 0])
        assert np.isfinite(values[0, 1:]).all()


# ---- Rows of views ----


@cpu_kernel(signature="void(float32[:, :])")
def double_rows(x):
    for i in prange(x.shape[0]):
        double(side_by_side(x[i]))


@cpu_function
def double(row):
    for j in range(row.size):
        row[j] *= np.float32(2)


def test_a_row_of_a_view_that_is_said_to_be_side_by_side_is_the_same_memory():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    double_rows(x[::2, 1:3])  # rows 0 and 2, columns 1 and 2
    assert x.tolist() == [[0, 2, 4, 3], [4, 5, 6, 7], [8, 18, 20, 11]]
