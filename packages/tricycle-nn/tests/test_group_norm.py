import numpy as np
import pytest

from tricycle_autograd import Tensor, check_gradients
from tricycle_autograd.testing import draw
from tricycle_nn import group_norm, layer_norm


def test_two_groups_by_hand():
    x = Tensor([[1.0, 3.0, 10.0, 30.0]])
    np.testing.assert_allclose(group_norm(x, 2, eps=0.0).array, [[-1, 1, -1, 1]], rtol=1e-6)
    weight, bias = Tensor([1.0, 2.0, 3.0, 4.0]), Tensor([0.0, 0.0, 0.0, 1.0])
    expected = [[-1, 2, -3, 5]]
    np.testing.assert_allclose(group_norm(x, 2, weight, bias, 0.0).array, expected, rtol=1e-6)


def test_one_group_of_vectors_is_layer_norm():
    x, weight = draw(4, 6), draw(6, seed=1)
    ours = group_norm(Tensor(x), 1, Tensor(weight)).array
    np.testing.assert_allclose(ours, layer_norm(Tensor(x), Tensor(weight)).array, rtol=1e-12)


def test_every_group_of_every_sample_has_mean_zero_and_variance_one():
    y = group_norm(Tensor(draw(2, 3, 5, 6)), 3, eps=0.0).array.reshape(2, 15, 3, 2)
    np.testing.assert_allclose(y.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(1, 3)), 1, rtol=1e-12)


def test_gradients():
    check_gradients(
        lambda x, w, b: group_norm(x, 2, w, b), draw(2, 3, 4), draw(4, seed=1), draw(4, seed=2)
    )


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(2, 5\) and 2 groups"):
        group_norm(Tensor(draw(2, 5)), 2)
    with pytest.raises(ValueError, match=r"needs a bias of shape \(4,\), got \(3,\)"):
        group_norm(Tensor(draw(2, 4)), 2, bias=Tensor(draw(3)))
