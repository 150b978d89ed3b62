import numpy as np
import pytest

from tricycle_autograd.axes import normalise_axes, normalise_axis


def test_axes_are_counted_from_the_front():
    assert normalise_axis("sum", -1, (2, 3)) == 1
    assert normalise_axis("sum", 0, (2, 3)) == 0
    assert normalise_axes("sum", (-1, 0), (2, 3)) == (1, 0)
    assert normalise_axes("sum", -2, (2, 3)) == (0,)


def test_an_axis_that_is_not_there_is_named():
    message = r"sum: axis 2 is out of range for shape \(2, 3\), which has 2 axes"
    with pytest.raises(np.exceptions.AxisError, match=message):
        normalise_axis("sum", 2, (2, 3))


def test_an_axis_named_twice_is_an_error():
    with pytest.raises(
        ValueError, match=r"sum: axes \(1, -1\) name an axis of shape \(2, 3\) twice"
    ):
        normalise_axes("sum", (1, -1), (2, 3))
