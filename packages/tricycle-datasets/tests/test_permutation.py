"""The keyed permutation: complete, repeatable, and as even as chance."""

import hashlib
import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_datasets.permutation import shuffled

LONG = 10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1


def test_seven_cards_shuffled():
    # One permutation, looked at once: it must stay this one, for positions in checkpoints.
    order = shuffled(np.arange(7), 7, "a key")
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4, 5, 6]
    assert order.tolist() == [4, 5, 6, 3, 1, 2, 0]


@settings(max_examples=200 * LONG, deadline=None)
@given(st.integers(1, 3000), st.text())
def test_nothing_is_lost_and_nothing_comes_twice(n, key):
    np.testing.assert_array_equal(np.sort(shuffled(np.arange(n), n, key)), np.arange(n))


@settings(max_examples=100 * LONG, deadline=None)
@given(st.integers(1, 2**62), st.data())
def test_any_index_may_be_asked_for_alone_whatever_the_size(n, data):
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = shuffled(indices, n, "key")
    assert together.min() >= 0
    assert together.max() < n
    for index, there in zip(indices, together):
        assert shuffled(np.array([index]), n, "key")[0] == there


def test_every_order_of_four_cards_is_about_equally_likely():
    # 24 orders, 4,800 keys: 200 each, give or take 14; six times that is beyond chance.
    orders = [tuple(shuffled(np.arange(4), 4, f"key {k}").tolist()) for k in range(4800)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert np.abs(counts - 200).max() < 6 * 14


def test_every_place_is_equally_likely_for_every_card():
    n, keys = 101, 2000
    places = np.stack([shuffled(np.arange(n), n, f"key {k}") for k in range(keys)])
    counts = np.stack([np.bincount(places[:, card], minlength=n) for card in range(n)])
    # chi squared with (n - 1)² degrees of freedom, divided by them, is 1 ± √2 / (n - 1)
    expected = keys / n
    chi_squared = ((counts - expected) ** 2 / expected).sum() / (n - 1) ** 2
    assert abs(chi_squared - 1) < 6 * 2**0.5 / (n - 1)


def test_neighbours_do_not_stay_neighbours():
    n = 100_000
    places = shuffled(np.arange(n), n, "key")
    # In a random order, a given pair lies next to each other with chance 2 / n: about 2 pairs.
    assert (np.abs(np.diff(places)) == 1).sum() < 15
    assert abs(np.corrcoef(np.arange(n), places)[0, 1]) < 6 / n**0.5


def test_a_large_permutation_is_the_same_on_every_machine():
    places = shuffled(np.arange(0, 10**12, 10**9), 10**12, "key")
    assert (
        hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()
        == "4dcef3d51a2dbb6b2eee08117d09056767ed25b1ae652329dfa4b8fce3a5b2e8"
    )
