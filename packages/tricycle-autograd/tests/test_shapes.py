"""Shapes: operations that move numbers, and gradients that move back."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import tricycle_autograd as ours
from tricycle_autograd import Tensor
from tricycle_autograd.shapes import unbroadcast
from tricycle_autograd.testing import check_gradients, draw
from tricycle_autograd.testing_device import EmulatedArray

shapes = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


def agrees(case, *arrays):
    """case(module, *inputs) is the same with numpy as with ours, and its gradients are slopes."""
    for layout in (
        np.ascontiguousarray,
        np.asfortranarray,
        lambda x: np.repeat(x, 2, -1)[..., ::2],
    ):
        given = [layout(x).reshape(x.shape) if x.ndim == 0 else layout(x) for x in arrays]
        expected = case(np, *given)
        result = case(ours, *[Tensor(x) for x in given])
        assert result.shape == expected.shape
        np.testing.assert_array_equal(result.array, expected)
    check_gradients(lambda *tensors: case(ours, *tensors), *arrays)


# ---- by hand ----


def test_transpose_and_its_gradient_by_hand():
    x = Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    y = ours.transpose(x)
    assert y.tolist() == [[1, 4], [2, 5], [3, 6]]
    y.backward([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert x.grad.tolist() == [[1, 2, 3], [10, 20, 30]]


def test_a_number_that_was_broadcast_receives_the_sum_of_its_gradients():
    x = Tensor([[1.0], [2.0]], requires_grad=True)
    y = ours.broadcast_to(x, (2, 3))
    assert y.tolist() == [[1, 1, 1], [2, 2, 2]]
    y.backward([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert x.grad.tolist() == [[6], [60]]


def test_unbroadcast_sums_new_axes_away_and_stretched_axes_to_length_one():
    grad = np.arange(12.0).reshape(2, 3, 2)
    assert unbroadcast(grad, (3, 1)).tolist() == [
        [0 + 1 + 6 + 7],
        [2 + 3 + 8 + 9],
        [4 + 5 + 10 + 11],
    ]
    assert unbroadcast(grad, ()).tolist() == 66
    assert unbroadcast(grad, (2, 3, 2)) is grad


def test_a_repeated_number_receives_the_sum_of_its_gradients():
    x = Tensor([5.0, 7.0, 9.0], requires_grad=True)
    y = ours.repeat(x, [1, 0, 2])
    assert y.tolist() == [5, 9, 9]
    y.backward([1.0, 10.0, 100.0])
    assert x.grad.tolist() == [1, 0, 110]


def test_pieces_of_a_split_send_their_gradients_to_their_places():
    x = Tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    first, second = ours.split(x, 2)
    (first * second + first).sum().backward()
    assert x.grad.tolist() == [4, 5, 1, 2]


# ---- as numpy does, with measured slopes ----


@pytest.mark.parametrize(
    "case",
    [
        lambda xp, x: xp.reshape(x, (-1, 4)),
        lambda xp, x: xp.reshape(x, 24),
        lambda xp, x: xp.ravel(x),
        lambda xp, x: x.reshape(4, -1),
        lambda xp, x: x.reshape((4, 6)),
        lambda xp, x: xp.transpose(x),
        lambda xp, x: xp.transpose(x, (2, 0, 1)),
        lambda xp, x: x.transpose(0, -1, 1),
        lambda xp, x: xp.swapaxes(x, 0, -1),
        lambda xp, x: xp.moveaxis(x, 0, -1),
        lambda xp, x: xp.moveaxis(x, [0, 1], [-1, 0]),
        lambda xp, x: xp.expand_dims(x, 1),
        lambda xp, x: xp.expand_dims(x, (0, -1)),
        lambda xp, x: xp.squeeze(xp.expand_dims(x, (0, -1))),
        lambda xp, x: xp.squeeze(xp.expand_dims(x, (0, -1)), -1),
        lambda xp, x: xp.broadcast_to(x, (5, 2, 3, 4)),
        lambda xp, x: xp.flip(x),
        lambda xp, x: xp.flip(x, 1),
        lambda xp, x: xp.flip(x, (0, -1)),
        lambda xp, x: xp.roll(x, 5),
        lambda xp, x: xp.roll(x, -1, 1),
        lambda xp, x: xp.roll(x, (2, -1), (0, -1)),
        lambda xp, x: xp.roll(x, 1, (0, 1)),
        lambda xp, x: xp.tile(x, 2),
        lambda xp, x: xp.tile(x, (2, 1, 3)),
        lambda xp, x: xp.tile(x, (2, 1, 1, 2)),
        lambda xp, x: xp.tile(x, (0, 1)),
        lambda xp, x: xp.repeat(x, 2),
        lambda xp, x: xp.repeat(x, 3, 1),
        lambda xp, x: xp.repeat(x, [0, 2, 1], 1),
        lambda xp, x: xp.repeat(x, 0, -1),
        lambda xp, x: xp.pad(x, 1),
        lambda xp, x: xp.pad(x, (1, 2)),
        lambda xp, x: xp.pad(x, ((1, 2), (0, 1), (3, 0)), constant_values=7),
        lambda xp, x: xp.split(x, 3, 1)[1],
        lambda xp, x: xp.split(x, [1, 3], -1)[2],
        lambda xp, x: xp.split(x, [3, 1, 9], -1)[1],
        lambda xp, x: xp.concatenate([*xp.split(x, 2)[::-1], x]),
        lambda xp, x: xp.stack(xp.split(x, 2, -1), 1),
    ],
)
def test_as_numpy_does(case):
    agrees(case, draw(2, 3, 4))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate_as_numpy_does(axis):
    arrays = [draw(2, 3), draw(2, 3, seed=1)]
    agrees(lambda xp, *x: xp.concatenate(x, axis), *arrays)
    agrees(lambda xp, *x: xp.stack(x, axis), *arrays)


def test_concatenate_of_different_lengths_and_of_rows_without_an_axis():
    arrays = [draw(2, 3), draw(2, 0), draw(2, 1)]
    agrees(lambda xp, *x: xp.concatenate(x, 1), *arrays)
    agrees(lambda xp, *x: xp.concatenate(x, None), *arrays)


@given(shapes, st.data())
def test_any_shape_and_any_order_of_axes(shape, data):
    x = draw(*shape)
    order = data.draw(st.permutations(range(len(shape))))
    agrees(lambda xp, x: xp.transpose(x, order), x)
    agrees(lambda xp, x: xp.reshape(x, [*shape[::-1]]), x)
    agrees(lambda xp, x: xp.ravel(x), x)
    if order:
        axis = order[0] - data.draw(st.sampled_from([0, len(order)]))
        count = data.draw(st.integers(0, 3))
        agrees(lambda xp, x: xp.flip(x, axis), x)
        agrees(lambda xp, x: xp.roll(x, count, axis), x)
        agrees(lambda xp, x: xp.repeat(x, count, axis), x)
        agrees(lambda xp, x: xp.moveaxis(x, axis, order[-1]), x)
        agrees(lambda xp, x: xp.stack([x, x], axis), x)


@given(shapes, st.data())
def test_broadcasting_any_shape(wide, data):
    stretched = data.draw(st.lists(st.booleans(), min_size=len(wide), max_size=len(wide)))
    narrow = [1 if small else n for n, small in zip(wide, stretched)]
    narrow = narrow[data.draw(st.integers(0, len(wide))) :]
    agrees(lambda xp, x: xp.broadcast_to(x, wide), draw(*narrow))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.data())
def test_splitting_anywhere_and_joining_again_changes_nothing(lengths, data):
    x = draw(2, sum(lengths))
    cuts = np.cumsum(lengths)[:-1]
    agrees(lambda xp, x: xp.concatenate(xp.split(x, cuts, 1), 1), x)
    which = data.draw(st.integers(0, len(lengths) - 1))
    agrees(lambda xp, x: xp.split(x, cuts, 1)[which], x)


# ---- properties ----


def test_parts_without_a_gradient_leave_zeros():
    x = Tensor(draw(6), requires_grad=True)
    ours.split(x, 3)[1].sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 0, 0]


def test_a_split_tensor_may_be_used_elsewhere_too():
    x = Tensor(draw(4), requires_grad=True)
    first, second = ours.split(x, 2)
    (first + second + x[:2] * 10).sum().backward()
    assert x.grad.tolist() == [11, 11, 1, 1]


def test_pieces_of_a_split_that_overlap_add_their_gradients():
    x = Tensor(np.zeros(5), requires_grad=True)
    first, nothing, last = ours.split(x, [3, 1])  # [:3], [3:1] and [1:], as in numpy
    assert (first.shape, nothing.shape, last.shape) == ((3,), (0,), (4,))
    (first.sum() + last.sum()).backward()
    assert x.grad.tolist() == [1, 2, 2, 1, 1]


def test_a_split_costs_one_array_for_the_gradients_of_all_its_pieces():
    x = Tensor(np.zeros(100_000), requires_grad=True)
    pieces = ours.split(x, 100)
    out = ours.stack(pieces)
    dy = np.ones(out.shape)
    tracemalloc.start()
    out.backward(dy)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * x.array.nbytes  # and one that the leaf keeps as its own
    np.testing.assert_array_equal(x.grad, 1)


def test_gradients_have_the_dtype_of_their_inputs():
    single = Tensor(np.ones(2, np.float32), requires_grad=True)
    double = Tensor(np.ones(2, np.float64), requires_grad=True)
    for join in (ours.concatenate, ours.stack):
        single.grad = double.grad = None
        out = join([single, double])
        assert out.dtype == np.float64
        out.backward(np.ones(out.shape))
        assert single.grad.dtype == np.float32
        assert double.grad.dtype == np.float64


def test_astype_converts_the_gradient_back_and_leaves_the_tape_for_integers():
    x = Tensor([1.5, 2.5], requires_grad=True)
    y = ours.astype(x, np.float64)
    assert y.dtype == np.float64
    y.backward(np.array([1.0, 2.0]))
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [1, 2]
    whole = x.astype(int)
    assert whole.tolist() == [1, 2]
    assert not whole.requires_grad


def test_integers_keep_their_dtype():
    x = Tensor(np.arange(6, dtype=np.int16))
    for y in (x.reshape(2, 3), ours.tile(x, 2), ours.pad(x, 1), ours.concatenate([x, x])):
        assert y.dtype == np.int16
        assert not y.requires_grad


# ---- errors ----


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            lambda x: x.reshape(4, 2),
            r"reshape: 6 numbers of shape \(2, 3\) do not fit shape \(4, 2\)",
        ),
        (lambda x: x.reshape(-1, 4), r"reshape: 6 numbers of shape \(2, 3\) do not fit"),
        (lambda x: ours.transpose(x, (0,)), r"transpose: axes \(0,\) must name each of the 2 axes"),
        (lambda x: ours.transpose(x, (0, 0)), r"transpose: axes \(0, 0\) name an axis .* twice"),
        (
            lambda x: ours.transpose(x, (0, 2)),
            r"transpose: axis 2 is out of range for shape \(2, 3\)",
        ),
        (lambda x: ours.swapaxes(x, 0, 2), r"swapaxes: axis 2 is out of range for shape \(2, 3\)"),
        (
            lambda x: ours.moveaxis(x, -3, 0),
            r"moveaxis: axis -3 is out of range for shape \(2, 3\)",
        ),
        (
            lambda x: ours.moveaxis(x, (0, 1), 0),
            r"source \(0, 1\) and destination 0 differ in number",
        ),
        (lambda x: ours.expand_dims(x, 3), r"expand_dims: axis 3 is out of range"),
        (lambda x: ours.squeeze(x, 1), r"squeeze: axis 1 of shape \(2, 3\) has length 3, not 1"),
        (lambda x: ours.flip(x, 2), r"flip: axis 2 is out of range for shape \(2, 3\)"),
        (lambda x: ours.roll(x, 1, 2), r"roll: axis 2 is out of range for shape \(2, 3\)"),
        (
            lambda x: ours.broadcast_to(x, (2, 4)),
            r"broadcast_to: shape \(2, 3\) does not stretch to",
        ),
        (lambda x: ours.repeat(x, [1, 2], 1), r"axis 1 of shape \(2, 3\) needs 3 counts, got 2"),
        (lambda x: ours.repeat(x, -1, 1), r"repeats must be integers from 0 up, got -1"),
        (lambda x: ours.repeat(x, 1.5, 1), r"repeats must be integers from 0 up, got 1.5"),
        (lambda x: ours.pad(x, 1, mode="reflect"), r"pad: mode 'reflect' is not supported"),
        (lambda x: ours.pad(x, -1), r"pad: pad_width must not be negative, got -1"),
        (lambda x: ours.pad(x, (1, 2, 3)), r"pad: pad_width \[1, 2, 3\] does not give a pair"),
        (lambda x: ours.split(x, 2, 1), r"split: axis 1 of shape \(2, 3\) does not divide into 2"),
        (lambda x: ours.split(x, 0), r"split: axis 0 of shape \(2, 3\) does not divide into 0"),
        (lambda x: ours.concatenate([]), r"concatenate: needs a list of at least one tensor"),
        (ours.concatenate, r"concatenate: needs a list of at least one tensor"),
        (lambda x: ours.concatenate([x, x.T]), r"shapes \(2, 3\), \(3, 2\) differ outside axis 0"),
        (lambda x: ours.concatenate([x, x], 2), r"concatenate: axis 2 is out of range"),
        (lambda x: ours.stack([x, x.T]), r"stack: shapes \(2, 3\), \(3, 2\) are not all the same"),
        (lambda x: ours.stack([x, x], 3), r"stack: axis 3 is out of range"),
    ],
)
def test_errors_name_the_shapes(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(Tensor(np.zeros((2, 3))))


def test_tensors_on_different_devices_are_not_joined():
    x = Tensor(np.zeros(2))
    elsewhere = Tensor(np.zeros(2).view(EmulatedArray))
    with pytest.raises(ValueError, match="concatenate: its inputs are on different devices"):
        ours.concatenate([x, elsewhere])


def test_what_is_not_a_number_is_refused():
    with pytest.raises(TypeError, match="a tensor holds numbers, got an array of dtype <U32"):
        Tensor([1.0]).astype(str)
    with pytest.raises(TypeError, match="a tensor holds numbers, got an array of dtype complex64"):
        Tensor([1.0]).astype(np.complex64)
    with pytest.raises(TypeError, match="pad: pad_width counts entries in whole numbers, got 1.5"):
        ours.pad(Tensor([1.0]), 1.5)


# ---- Stacks by numpy's names; parts of a leaf ----


STACKS = {
    "hstack": [[(2,), (3,)], [(2, 1), (2, 3)], [(), (2,)]],
    "vstack": [[(3,), (2, 3)], [(2, 3), (1, 3)], [(), ()]],
    "column_stack": [[(2,), (2, 3)], [(2,), (2,)], [(), ()]],
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_are_numpys(name):
    function = getattr(ours, name)
    for shapes in STACKS[name]:
        arrays = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes)]
        np.testing.assert_array_equal(function(arrays).array, getattr(np, name)(arrays))
        check_gradients(lambda *tensors, f=function: f(list(tensors)), *arrays)


def test_at_least_so_many_axes():
    assert ours.atleast_1d(Tensor(1.0)).shape == (1,)
    assert ours.atleast_2d(Tensor(1.0)).shape == (1, 1)
    assert ours.atleast_2d(Tensor([1.0, 2.0])).shape == (1, 2)
    check_gradients(ours.atleast_2d, np.ones(3))


def test_parts_of_a_leaf_may_be_walked_one_by_one():
    x = Tensor(np.arange(4.0), requires_grad=True)
    first, second = ours.split(x, 2)
    (first * 2).sum().backward()
    (second * 3).sum().backward()
    assert x.grad.tolist() == [2, 2, 3, 3]
