import numpy as np
import pytest

from tricycle_autograd import cpu_math
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange

exp, sigmoid = cpu_math.exp, cpu_math.sigmoid
row_maximum, side_by_side = cpu_math.row_maximum, cpu_math.side_by_side
row_sum, dot, log = cpu_math.row_sum, cpu_math.dot, cpu_math.log
dot_int8, sum_of_squares = cpu_math.dot_int8, cpu_math.sum_of_squares


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


# ---- Sums in one order ----


@cpu_kernel
def sums_of_rows(x, y, whole, sums, dots, squares, dots_int8, logs):
    for i in prange(x.shape[0]):
        sums[i] = row_sum(x[i])
        dots[i] = dot(x[i], y[i])
        squares[i] = sum_of_squares(x[i])
        dots_int8[i] = dot_int8(whole[i], x[i])
        logs[i] = log(x[i, 0])


def sums_of(x, y=None, whole=None):
    y = x if y is None else y
    whole = np.ones(x.shape, np.int8) if whole is None else whole
    sums, dots, squares, dots_int8, logs = (
        np.empty(len(x), np.float32),
        np.empty(len(x), np.float32),
        np.empty(len(x)),
        np.empty(len(x), np.float32),
        np.empty(len(x), np.float32),
    )
    sums_of_rows(x, y, whole, sums, dots, squares, dots_int8, logs)
    return sums, dots, squares, dots_int8, logs


def in_the_order_of_row_sums(terms):
    """32 sums side by side, then a tree: the docstring of row_sums.py in numpy."""
    padded = np.zeros((-(-len(terms) // 32) or 1) * 32, np.float32)
    padded[: len(terms)] = terms
    sums = np.zeros(32, np.float32)
    for block in padded.reshape(-1, 32):
        sums = sums + block
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return sums[0]


def test_sums_that_a_person_can_check():
    x, whole = np.array([[1, 2, 3]], np.float32), np.array([[4, -5, 6]], np.int8)
    assert [float(found[0]) for found in sums_of(x, 2 * x, whole)] == [6, 28, 14, 12, 0]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 16, 31, 32, 33, 63, 64, 65, 100, 768, 1000])
def test_sums_have_one_order_for_every_length(length):
    rng = np.random.default_rng(length)
    x, y = rng.standard_normal((2, 3, length)).astype(np.float32)
    whole = rng.integers(-127, 128, x.shape).astype(np.int8)
    sums, dots, squares, dots_int8, _ = sums_of(x, y, whole)
    assert sums.tolist() == [in_the_order_of_row_sums(row) for row in x]
    exact = x.astype(np.float64)
    np.testing.assert_allclose(dots, (exact * y).sum(axis=1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dots_int8, (exact * whole).sum(axis=1), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(squares, (exact**2).sum(axis=1), rtol=1e-14)


def test_nothing_beyond_the_end_of_a_row_is_read():
    x = np.full((1, 40), np.nan, np.float32)
    x[0, :37] = 1
    assert sums_of(np.ascontiguousarray(x[:, :37]))[0] == 37
    rows = np.full((2, 37), np.nan, np.float32)
    rows[0] = 1  # what follows in memory is not a number
    assert sums_of(rows)[0][0] == 37


def test_a_sum_of_nothing_is_zero():
    @cpu_kernel
    def sum_of_nothing(x, out):
        for i in prange(1):
            out[i] = row_sum(x[:0])

    out = np.ones(1, np.float32)
    sum_of_nothing(np.full(5, np.nan, np.float32), out)
    assert out[0] == 0


def test_rows_with_gaps_are_refused_when_a_kernel_is_compiled():
    @cpu_kernel
    def sum_of_gaps(x, out):
        for i in prange(1):
            out[i] = row_sum(x[::2])

    with pytest.raises(Exception, match="expected a contiguous row of float32, got"):
        sum_of_gaps(np.ones(4, np.float32), np.ones(1, np.float32))


def test_log_is_right_to_one_unit_in_the_last_place():
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-87, 88, 10_000)).astype(np.float32)[:, None]
    x[:200, 0] = 1 + np.arange(200, dtype=np.float32) / 1e5
    logs = sums_of(x)[4]
    exact = np.log(x[:, 0].astype(np.float64))
    assert units_in_the_last_place(logs, exact).max() <= 1


def test_log_of_what_has_none():
    x = np.array([[0], [np.inf], [-1], [np.nan], [1e-45]], np.float32)
    logs = sums_of(x)[4]
    np.testing.assert_allclose(logs, [-np.inf, np.inf, np.nan, np.nan, -103.27893], rtol=1e-6)
