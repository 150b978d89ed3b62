import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tricycle_autograd as tri
from tricycle_autograd import Tensor, check_gradients


def gradient_of(function, values):
    x = Tensor(np.array(values, float), requires_grad=True)
    function(x).backward()
    return x.grad.tolist()


def test_numbers_in_order_take_their_gradients_back():
    x = Tensor(np.array([3.0, 1.0, 2.0]), requires_grad=True)
    y = tri.sort(x)
    assert y.tolist() == [1, 2, 3]
    assert tri.argsort(x).tolist() == [1, 2, 0]
    y.backward(np.array([10.0, 20.0, 30.0]))
    assert x.grad.tolist() == [30, 10, 20]


def test_the_middle_of_no_rows_is_no_numbers():
    assert tri.median(Tensor(np.empty((0, 3))), axis=1).shape == (0,)
    with pytest.raises(ValueError, match="median needs at least one number"):
        tri.median(Tensor(np.empty((3, 0))), axis=1)


def test_the_middle_gets_the_gradient_and_two_in_the_middle_share_it():
    assert tri.median(Tensor([5.0, 1.0, 3.0])).item() == 3
    assert gradient_of(tri.median, [5.0, 1.0, 3.0]) == [0, 0, 1]
    assert tri.median(Tensor([5.0, 1.0, 3.0, 2.0])).item() == 2.5
    assert gradient_of(tri.median, [5.0, 1.0, 3.0, 2.0]) == [0, 0, 0.5, 0.5]
    assert np.isnan(tri.median(Tensor([1.0, np.nan, 2.0])).item())


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (2, 1)])
def test_median_is_numpys(axis):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    for keepdims in (False, True):
        ours = tri.median(Tensor(x), axis, keepdims)
        np.testing.assert_allclose(ours.array, np.median(x, axis, keepdims=keepdims))
    check_gradients(lambda x: tri.median(x, axis), x)


@given(st.lists(st.integers(-3, 3), max_size=7), st.booleans())
def test_sort_and_argsort_are_numpys(values, flat):
    x = np.array(values, float)[:, None]
    axis = None if flat else 0
    np.testing.assert_array_equal(tri.sort(Tensor(x), axis).array, np.sort(x, axis))
    order = np.argsort(x, axis, kind="stable")
    np.testing.assert_array_equal(tri.argsort(Tensor(x), axis).array, order)


def test_no_numbers_have_no_middle():
    with pytest.raises(ValueError, match=r"median needs at least one number, got shape \(0,\)"):
        tri.median(Tensor([]))
