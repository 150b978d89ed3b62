"""The table of derivatives: by hand, against numpy, against measured slopes."""

import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor, check_gradients

ANY_NUMBER = ["square", "arctan", "sinh", "cosh", "arcsinh", "cbrt", "exp2", "reciprocal"]
WITHIN_ONE = ["tan", "arcsin", "arccos", "arctanh"]
ABOVE_ONE = ["arccosh", "log2", "log10"]
FLAT = ["floor", "ceil", "trunc", "round"]
TWO = ["arctan2", "hypot", "logaddexp", "remainder", "fmod"]
SHAPES = [(), (1,), (7,), (3, 5), (2, 1, 3), (0, 2)]


def numbers(shape, low, high, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def gradients(function, *values):
    leaves = [Tensor(np.array(value, np.float64), requires_grad=True) for value in values]
    function(*leaves).sum().backward()
    return [leaf.grad.tolist() for leaf in leaves]


def test_what_is_left_falls_by_as_many_as_were_taken():
    # 0.1 goes nine times into 1.0 here, and leaves 0.09999: it is a little more than a tenth.
    assert gradients(tri.remainder, 1.0, 0.1) == [1, -9]
    assert gradients(tri.fmod, 1.0, 0.1) == [1, -9]
    assert gradients(tri.fmod, -1.0, 0.1) == [1, 9]
    assert gradients(tri.remainder, -1.0, 0.1) == [1, 10]


def test_slopes_that_a_person_knows():
    assert gradients(tri.square, [3.0]) == [[6]]
    assert gradients(tri.reciprocal, [2.0]) == [[-0.25]]
    assert gradients(tri.cbrt, [8.0]) == [[pytest.approx(1 / 12)]]
    assert gradients(tri.exp2, [3.0]) == [[pytest.approx(8 * np.log(2))]]
    assert gradients(tri.log2, [1.0]) == [[pytest.approx(1 / np.log(2))]]
    assert gradients(tri.log10, [10.0]) == [[pytest.approx(0.1 / np.log(10))]]
    assert gradients(tri.tan, [np.pi / 4]) == [[pytest.approx(2)]]
    assert gradients(tri.arcsin, [0.0]) == [[1]]
    assert gradients(tri.arccos, [0.0]) == [[-1]]
    assert gradients(tri.arctan, [1.0]) == [[pytest.approx(0.5)]]
    assert gradients(tri.sinh, [0.0]) == [[1]]
    assert gradients(tri.cosh, [0.0]) == [[0]]
    assert gradients(tri.arcsinh, [0.0]) == [[1]]
    assert gradients(tri.arccosh, [np.sqrt(2)]) == [[pytest.approx(1)]]
    assert gradients(tri.arctanh, [0.5]) == [[pytest.approx(4 / 3)]]
    assert gradients(tri.softplus, [0.0]) == [[0.5]]
    assert gradients(tri.round, [1.6]) == [[0]]


def test_slopes_of_two_that_a_person_knows():
    assert gradients(tri.arctan2, [0.0], [2.0]) == [[0.5], [0]]
    assert gradients(tri.hypot, [3.0], [4.0]) == [[pytest.approx(0.6)], [pytest.approx(0.8)]]
    assert gradients(tri.logaddexp, [1.0], [1.0]) == [[pytest.approx(0.5)]] * 2
    assert gradients(tri.remainder, [-7.0], [3.0]) == [[1], [3]]  # -7 = -3 · 3 + 2
    assert gradients(tri.fmod, [-7.0], [3.0]) == [[1], [2]]  # -7 = -2 · 3 - 1
    assert gradients(tri.mod, [7.0], [3.0]) == [[1], [-2]]
    assert gradients(tri.floor_divide, [7.0], [3.0]) == [[0], [0]]
    assert gradients(lambda x: x % 3, [7.0]) == [[1]]


def test_where_numbers_end_slopes_do_not():
    assert gradients(tri.hypot, [0.0], [0.0]) == [[0], [0]]
    assert gradients(tri.arctan2, [0.0], [0.0]) == [[0], [0]]
    assert gradients(tri.logaddexp, [-np.inf], [-np.inf]) == [[0], [0]]
    assert gradients(tri.logaddexp, [np.inf], [0.0]) == [[1], [0]]
    assert gradients(tri.softplus, [1e4, -1e4]) == [[1, 0]]
    assert gradients(tri.arctan, [1e300]) == [[0]]
    assert tri.softplus(Tensor([1e4])).tolist() == [1e4]
    assert gradients(tri.nan_to_num, [1.0, np.nan, np.inf]) == [[1, 0, 0]]
    assert tri.nan_to_num(Tensor([np.nan, np.inf]), nan=7, posinf=9).tolist() == [7, 9]


def test_questions_have_no_gradient():
    x = Tensor([1.0, np.inf, np.nan], requires_grad=True)
    assert tri.isnan(x).tolist() == [False, False, True]
    assert tri.isinf(x).tolist() == [False, True, False]
    assert tri.isfinite(x).tolist() == [True, False, False]
    assert not tri.isnan(x).requires_grad


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [(n, -2, 2) for n in ANY_NUMBER + FLAT]
    + [(n, -0.9, 0.9) for n in WITHIN_ONE]
    + [(n, 1.1, 3) for n in ABOVE_ONE],
)
def test_a_function_of_one_number_is_numpys_and_its_slope_the_measured_one(name, low, high):
    function = getattr(tri, name)
    for shape in SHAPES:
        x = numbers(shape, low, high)
        value = function(Tensor(x))
        np.testing.assert_array_equal(value.array, getattr(np, name)(x))
        assert function(Tensor(x.astype("f"))).dtype == np.float32
    x = numbers((3, 5), low, high)
    check_gradients(function, x[np.abs(x) > 0.1])
    assert function.__name__ == name
    assert function.__doc__


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers_is_numpys_and_broadcasts(name):
    function = getattr(tri, name)
    for left, right in (((), (3,)), ((2, 1), (1, 3)), ((4, 1, 2), (3, 2)), ((0, 2), (1, 2))):
        x, y = numbers(left, 1, 5), numbers(right, 0.3, 0.8, seed=1)
        value = function(Tensor(x), Tensor(y))
        np.testing.assert_array_equal(value.array, getattr(np, name)(x, y))
        if x.size:
            check_gradients(function, x, y)
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    function(x, 2.0).sum().backward()
    assert x.grad.dtype == np.float32


def test_shapes_that_do_not_fit_are_named_with_the_function():
    with pytest.raises(ValueError, match=r"hypot: shapes \(2,\) and \(3,\)"):
        tri.hypot(Tensor(np.ones(2)), Tensor(np.ones(3)))
