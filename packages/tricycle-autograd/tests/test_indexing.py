"""Indexing: choosing numbers, once or several times."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import (
    array_shapes,
    arrays,
    basic_indices,
    integer_array_indices,
)

import tricycle_autograd as ours
from tricycle_autograd import Tensor
from tricycle_autograd.indexing import scatter_add
from tricycle_autograd.testing import check_gradients, draw, kept_by
from tricycle_autograd.testing_device import EmulatedArray


def agrees(case, *arrays):
    """case(module, *inputs) is the same with numpy as with ours, and its gradients are slopes."""
    for layout in (np.ascontiguousarray, np.asfortranarray):
        given = [layout(x) for x in arrays]
        expected = np.asarray(case(np, *given))
        tensors = [Tensor(x, requires_grad=True) for x in given]
        result = case(ours, *tensors)
        assert result.shape == expected.shape
        np.testing.assert_array_equal(result.array, expected)
    # The gradient of a choice is exact: 1 for every time that a number was chosen.
    result.backward(np.ones(result.shape))
    np.testing.assert_array_equal(tensors[0].grad, times_chosen(case, arrays[0]))
    check_gradients(lambda *tensors: case(ours, *tensors), *arrays)


def times_chosen(case, x):
    """How often each number of x is in case(np, x), found by giving each a number of its own."""
    numbered = np.arange(1.0, x.size + 1).reshape(x.shape)
    counts = np.bincount(np.asarray(case(np, numbered)).ravel().astype(int), minlength=x.size + 1)
    return counts[1:].reshape(x.shape)


# ---- by hand ----


def test_a_slice_by_hand():
    x = Tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    y = x[1:3]
    assert y.tolist() == [2, 3]
    y.backward([10.0, 20.0])
    assert x.grad.tolist() == [0, 10, 20, 0]


def test_a_number_chosen_twice_receives_both_gradients():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x[[2, 0, 2]]
    assert y.tolist() == [3, 1, 3]
    y.backward([1.0, 10.0, 100.0])
    assert x.grad.tolist() == [10, 0, 101]


def test_rows_chosen_twice_receive_both_gradients():
    table = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    ours.take(table, [1, 1, 0], axis=0).backward([[1.0, 2.0], [10.0, 20.0], [5.0, 6.0]])
    assert table.grad.tolist() == [[5, 6], [11, 22]]


def test_scatter_add_by_hand():
    destination = np.array([[100.0], [200.0], [300.0]])
    scatter_add(destination, np.array([2, 0, 2]), np.array([[1.0], [2.0], [3.0]]))
    assert destination.tolist() == [[102], [200], [304]]
    destination = np.array([[100.0, 0.0], [200.0, 0.0]])
    scatter_add(destination, np.array([1, 1]), np.array([[1.0, 7.0], [2.0, 8.0]]))
    assert destination.tolist() == [[100, 0], [203, 15]]


def test_a_diagonal_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = ours.diagonal(x)
    assert y.tolist() == [1, 4]
    y.backward([10.0, 20.0])
    assert x.grad.tolist() == [[10, 0], [0, 20]]


# ---- as numpy does, with measured slopes ----

MASK = draw(2, 3, 4) > 0


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        (0, 1),
        (0, 1, 2),
        np.s_[::-1],
        np.s_[..., ::-2],
        np.s_[None, :, 1],
        np.s_[:, None, ..., 0],
        np.s_[1:1],
        (),
        ...,
        None,
        np.int64(1),
        np.array(1),
        True,
        False,
        [0, 1, 1],
        [],
        [[0, 1], [1, 1]],
        [True, False],
        (0, [1, 1]),
        ([1, 1], slice(None), [0, 0]),
        (0, slice(None), [1, 1]),
        (slice(None), [1, 1]),
        (slice(None), [-1, 2], slice(None, None, -1)),
        (..., [1, 1]),
        ([1, 1], ..., [0, 2]),
        (None, [1, 1]),
        ([[0], [1]], [0, 2, 2]),
        ([[0], [1]], [0, 2, 2], ...),
        np.zeros((0, 2), int),
        MASK,
        MASK[:, :, 0],
        MASK[:, :, :1].any((1, 2)),
        (slice(None), np.array([True, False, True])),
        ([True, False], [1, 1]),
        (slice(None), np.zeros((3, 4), bool)),
    ],
    ids=str,
)
def test_indices_of_every_kind(index):
    agrees(lambda xp, x: x[index], draw(2, 3, 4))


@given(st.data())
def test_any_basic_index(data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    index = data.draw(basic_indices(shape, allow_newaxis=True))
    agrees(lambda xp, x: x[index], draw(*shape))


@given(st.data())
def test_any_integer_arrays_as_an_index(data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=3))
    n_indexed = data.draw(st.integers(1, len(shape)))
    result = array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)
    index = data.draw(integer_array_indices(shape[:n_indexed], result_shape=result))
    agrees(lambda xp, x: x[index], draw(*shape))
    agrees(lambda xp, x: x[(*index, ...)], draw(*shape))
    if n_indexed < len(shape):
        agrees(lambda xp, x: xp.moveaxis(x, -1, 0)[(slice(None), *index)], draw(*shape))


@given(st.data())
def test_any_mask(data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    mask = data.draw(arrays(bool, shape[: data.draw(st.integers(1, len(shape)))]))
    agrees(lambda xp, x: x[mask], draw(*shape))


@pytest.mark.parametrize(
    "case",
    [
        lambda xp, x: xp.take(x, [1, 1, 23]),
        lambda xp, x: xp.take(x, 1, 0),
        lambda xp, x: xp.take(x, [[1, 1], [-1, 0]], 1),
        lambda xp, x: xp.take(x, [], -1) if xp is ours else xp.take(x, np.array([], int), -1),
        lambda xp, x: xp.take_along_axis(x, np.array([[[0], [3], [3]], [[1], [1], [2]]]), 2),
        lambda xp, x: xp.take_along_axis(x, np.array([[[1, 1, 0, 1]]]), 0),
        lambda xp, x: xp.take_along_axis(x, np.array([[[2, 2]], [[0, 0]]])[..., :1], -2),
        lambda xp, x: xp.tril(x),
        lambda xp, x: xp.tril(x, 1),
        lambda xp, x: xp.triu(x, -1),
        lambda xp, x: xp.triu(x, 9),
    ],
)
def test_choices_as_numpy_makes_them(case):
    x = draw(2, 3, 4)
    np.testing.assert_array_equal(case(ours, Tensor(x)).array, case(np, x))
    check_gradients(lambda x: case(ours, x), x)


@given(st.integers(-5, 5), st.permutations(range(3)), st.integers(-3, 0))
def test_any_diagonal(offset, axes, back):
    agrees(lambda xp, x: xp.diagonal(x, offset, axes[0], axes[1]), draw(2, 3, 4))


def test_an_index_may_be_a_tensor_or_hold_tensors():
    x, ids = draw(3, 4), np.array([2, 0])
    np.testing.assert_array_equal(Tensor(x)[Tensor(ids)].array, x[ids])
    np.testing.assert_array_equal(Tensor(x)[:, Tensor(ids)].array, x[:, ids])
    np.testing.assert_array_equal(Tensor(x)[Tensor(x) > 0].array, x[x > 0])
    np.testing.assert_array_equal(ours.take(Tensor(x), Tensor(ids), 1).array, x[:, ids])


def test_many_repeats_in_a_large_table_add_up_as_add_at_adds_them():
    ids = np.random.default_rng(0).integers(0, 50, (20, 30))
    for width in (1, 7):
        table = Tensor(np.zeros((60, width)), requires_grad=True)
        dy = draw(20, 30, width)
        table[ids].backward(dy)
        expected = np.zeros((60, width))
        np.add.at(expected, ids, dy)
        np.testing.assert_allclose(table.grad, expected, rtol=1e-12)


def test_integers_can_be_indexed_and_have_no_gradient():
    x = Tensor(np.arange(5))
    assert x[[1, 1]].tolist() == [1, 1]
    assert not x[1:].requires_grad


# ---- errors ----


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda x: x[2], "index 2 is out of bounds for axis 0 with size 2"),
        (lambda x: x[:, [0, 3]], "index 3 is out of bounds for axis 1 with size 3"),
        (lambda x: x[[-3]], "index -3 is out of bounds for axis 0 with size 2"),
        (lambda x: x[0, 0, 0], "too many indices"),
        (lambda x: x[[True, False, True]], "boolean index did not match"),
        (lambda x: x[np.array([0.5])], "an index must be integers or booleans, got .* float64"),
        (lambda x: x[Tensor([1.0])], "an index must be integers or booleans, got .* float32"),
        (lambda x: ours.take(x, [6]), "index 6 is out of bounds for axis 0 with size 6"),
        (lambda x: ours.take(x, [3], 1), "index 3 is out of bounds for axis 1 with size 3"),
        (lambda x: ours.take(x, [0.0], 1), "take: indices must be integers, got dtype float64"),
        (lambda x: ours.take(x, [0], 2), r"take: axis 2 is out of range for shape \(2, 3\)"),
        (lambda x: ours.take_along_axis(x, [[3], [0]], 1), "index 3 is out of bounds for axis 1"),
    ],
)
def test_errors_name_the_bounds(wrong, message):
    with pytest.raises(IndexError, match=message):
        wrong(Tensor(np.zeros((2, 3))))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            lambda x: ours.take_along_axis(x, [[0]] * 3, 1),
            r"indices of shape \(3, 1\) do not match",
        ),
        (
            lambda x: ours.take_along_axis(x, [0], 1),
            r"indices of shape \(1,\) do not match \(2, 3\)",
        ),
        (lambda x: ours.tril(x[0]), r"tril: needs at least two axes, got shape \(3,\)"),
        (lambda x: ours.triu(x[0]), r"triu: needs at least two axes, got shape \(3,\)"),
        (lambda x: ours.diagonal(x[0]), r"diagonal: needs at least two axes, got shape \(3,\)"),
        (lambda x: ours.diagonal(x, 0, 1, -1), "needs two different axes"),
        (lambda x: ours.diagonal(x, 0, 1, 2), r"axis 2 is out of range for shape \(2, 3\)"),
    ],
)
def test_errors_name_the_shapes(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(Tensor(np.zeros((2, 3))))


def test_indices_on_the_gpu_are_checked_before_they_could_wrap_around():
    x = Tensor(np.zeros((2, 3)).view(EmulatedArray))
    for index, message in (
        (np.s_[[0, 2]], "index 2 is out of bounds for axis 0 with size 2"),
        (np.s_[..., [-4]], "index -4 is out of bounds for axis 1 with size 3"),
        (np.s_[[0], None, [5]], "index 5 is out of bounds for axis 1 with size 3"),
    ):
        with pytest.raises(IndexError, match=message):
            x[index]


def test_sequences_are_indices_as_in_numpy():
    x = np.arange(9.0).reshape(3, 3)
    for index in (range(2), ([0, 1], (1, 2)), ((), 1), np.bool_(True), True):
        np.testing.assert_array_equal(Tensor(x)[index].array, x[index])


@pytest.mark.parametrize("index", [1.5, np.float64(1.5), "a", (0, 1.5)])
def test_what_is_no_index_is_named(index):
    with pytest.raises(IndexError, match="an index must be integers or booleans, got an array of"):
        Tensor(np.zeros((3, 3)))[index]


# ---- What is kept ----


def test_what_was_indexed_is_not_kept():
    x = Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    assert kept_by(x[1:])[0] == []
    arrays, tensors = kept_by(x[[0, 2]])
    assert ([array.shape for array in arrays], tensors) == ([(2,)], [])


def test_an_index_that_is_refilled_later_was_copied():
    table = Tensor(np.zeros((3, 2), np.float32), requires_grad=True)
    ids = np.zeros(1, int)
    total = 0
    for i in range(3):
        ids[:] = i
        total = total + (table[ids] + ours.take(table, ids, axis=0) + table[(ids,)]).sum()
    total.backward()
    assert table.grad.tolist() == [[3, 3]] * 3


def test_an_index_without_axes_that_is_refilled_later_was_copied():
    x, place = Tensor([1.0, 2.0, 3.0], requires_grad=True), np.array(1)
    y = x[place]
    place[...] = 2
    y.backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_a_mask_that_is_refilled_later_was_copied():
    x, mask = Tensor([1.0, 2.0], requires_grad=True), np.array([True, False])
    y = x[mask]
    mask[:] = [False, True]
    y.backward(np.ones(1))
    assert x.grad.tolist() == [1, 0]


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x[1:],
        lambda x: x[[0, 0]],
        ours.diagonal,
        lambda x: ours.split(x, 2)[0],
        lambda x: ours.take_along_axis(x, [[1], [0]], axis=1),
    ],
)
def test_the_array_that_was_chosen_from_is_not_kept(choose):
    x = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    h = x * 1
    array = weakref.ref(h.array)
    y = choose(h).sum() * 2  # views hold the array too, and are gone after the sum
    del h
    assert array() is None
    y.backward()
    assert x.grad.sum() == y.item()
