"""A heap gives its items back in order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe.heap import heap_push, heap_sink
from tricycle_bpe.kernels import helper, kernel


@helper
def smaller(one, other):
    return one < other


@helper
def number_at(heap, i):
    return heap[i]


@helper
def put_number(heap, i, number):
    heap[i] = number


@kernel
def in_order(numbers):
    """Push all numbers, then take one after another from the top."""
    heap, sorted_numbers = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
    for n in range(len(numbers)):
        heap_push(heap, n, numbers[n], smaller, number_at, put_number)
    for k in range(len(numbers)):
        sorted_numbers[k] = heap[0]
        left = len(numbers) - 1 - k
        heap_sink(heap, left, heap[left], smaller, number_at, put_number)
    return sorted_numbers


def test_five_numbers_come_out_from_the_smallest_to_the_largest():
    assert in_order(np.array([3, 1, 4, 1, 5])).tolist() == [1, 1, 3, 4, 5]


@given(st.lists(st.integers(-9, 9)))
def test_any_numbers_come_out_sorted(numbers):
    assert in_order(np.array(numbers, np.int64)).tolist() == sorted(numbers)
