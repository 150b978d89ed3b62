"""Sums of bfloat16 on the GPU, and where they are made."""

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.additions import add_into, added, assign, sum_of_first
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.devices import move
from tricycle_autograd.testing import draw, on_a_gpu

HALF = np.dtype(ml_dtypes.bfloat16)


def half(*shape, seed=0):
    return draw(*shape, seed=seed).astype(HALF)


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 70), (3, 70)), ((2, 3, 8), (3, 8)), ((2, 3, 5), (5,)), ((3,), (2, 3)), ((), ())],
)
def test_sums_are_rounded_once(a, b):
    a, b = half(*a), half(*b, seed=1)
    with watched_launches() as launches:
        total = added(on_a_gpu(a), on_a_gpu(b))
    assert [launch.name for launch in launches] == ["add"]
    wanted = (a.astype(np.float64) + b.astype(np.float64)).astype(HALF)
    np.testing.assert_array_equal(move(total, "cpu"), wanted)


def test_what_is_not_bfloat16_on_the_gpu_is_not_ours():
    with watched_launches() as launches:
        assert added(np.float32(1), 2) == 3
        assert move(added(on_a_gpu(np.ones(3)), 1), "cpu").tolist() == [2, 2, 2]
        assert added(half(3), half(3)).dtype == HALF
    assert launches == []


def test_a_sum_of_nothing_is_nothing():
    assert added(on_a_gpu(half(0, 3)), on_a_gpu(half(0, 3))).shape == (0, 3)


@pytest.mark.parametrize(("total", "more"), [(HALF, np.float32), (np.float32, HALF), (HALF, HALF)])
def test_a_sum_that_grows_keeps_its_dtype(total, more):
    sums = on_a_gpu(np.array([1, 2], total))
    add_into(sums, on_a_gpu(np.array([0.5, 1], more)))
    assert sums.dtype == total
    assert move(sums, "cpu").tolist() == [1.5, 3]


@pytest.mark.parametrize(("to", "come"), [(HALF, np.float32), (np.float32, HALF)])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 40])
def test_a_copy_to_another_width_is_rounded_to_even(to, come, size):
    numbers = draw(size).astype(come)
    copy = on_a_gpu(np.full(size, 9, to))
    with watched_launches() as launches:
        assign(copy, on_a_gpu(numbers))
    assert [launch.name for launch in launches] in ([], ["narrow" if to is HALF else "widen"])
    np.testing.assert_array_equal(move(copy, "cpu"), numbers.astype(to))


def test_copies_of_one_dtype_and_of_one_number_are_not_ours():
    copy = on_a_gpu(half(5))
    with watched_launches() as launches:
        assign(copy, on_a_gpu(half(5, seed=1)))
        assign(copy[:2], on_a_gpu(half(1)))
    assert launches == []
    np.testing.assert_array_equal(move(copy, "cpu")[2:], half(5, seed=1)[2:])


def test_gradients_of_bfloat16_grow_in_float32():
    total, more = draw(11).astype(np.float32), half(11, seed=1)
    sums = on_a_gpu(total)
    with watched_launches() as launches:
        add_into(sums, on_a_gpu(more))
    assert [launch.name for launch in launches] == ["widen"]
    np.testing.assert_array_equal(move(sums, "cpu"), total + more.astype(np.float32))


@pytest.mark.parametrize(("shape", "n"), [((3, 5), 1), ((2, 3, 8), 2), ((300, 1), 1), ((4, 0), 1)])
def test_a_sum_over_the_first_axes_is_rounded_once(shape, n):
    x = half(*shape)
    wanted = x.astype(np.float32).sum(axis=tuple(range(n)), dtype=np.float64)
    found = move(sum_of_first(on_a_gpu(x), n), "cpu")
    assert found.dtype == HALF
    assert found.shape == shape[n:]
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0.004, atol=1e-3)


def test_parts_of_an_array_are_added_to_where_they_lie():
    whole, more = half(3, 6), half(3, 2, seed=1)
    there = on_a_gpu(whole)
    add_into(there[:, 2:4], on_a_gpu(more))
    wanted = whole.copy()
    wanted[:, 2:4] = (whole[:, 2:4].astype(np.float32) + more.astype(np.float32)).astype(HALF)
    np.testing.assert_array_equal(move(there, "cpu"), wanted)


def test_a_residual_stream_and_its_gradients_are_added_by_our_kernel():
    x, branch = (Tensor(on_a_gpu(half(2, 3, 8, seed=i)), requires_grad=True) for i in range(2))
    positions = Tensor(on_a_gpu(half(3, 8)), requires_grad=True)
    with watched_launches() as launches:
        h = x + positions
        y = h + branch + h
        dy = half(2, 3, 8, seed=9)
        y.backward(on_a_gpu(dy))
    # Three additions, one of the two gradients that h has, and the sum over the texts.
    assert sorted(launch.name for launch in launches) == ["add"] * 4 + ["add_rows"]
    np.testing.assert_array_equal(Tensor(x.grad).numpy(), 2 * dy.astype(np.float32))
    wanted = 2 * dy.astype(np.float32).sum(axis=0)
    np.testing.assert_allclose(Tensor(positions.grad).numpy(), wanted, rtol=0.01)
