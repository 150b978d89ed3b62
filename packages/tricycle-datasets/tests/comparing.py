"""For the tests of windows: some batches, and whether they are those."""

import itertools

import numpy as np


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(some, others):
    for (inputs, targets), (other_inputs, other_targets) in zip(some, others, strict=True):
        np.testing.assert_array_equal(inputs, other_inputs)
        np.testing.assert_array_equal(targets, other_targets)
