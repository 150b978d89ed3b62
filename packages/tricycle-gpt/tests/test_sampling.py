"""Sampling: what each dial does to which tokens are drawn."""

from dataclasses import dataclass

import numpy as np
import pytest

from tricycle_gpt import Dials, dials_in
from tricycle_gpt.sampling import choose

SCORES = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def drawn(**dials):
    rng = np.random.default_rng(0)
    tokens = [choose(SCORES, Dials(**dials), rng) for _ in range(4000)]
    return np.bincount(tokens, minlength=4) / 4000


def test_tokens_are_drawn_as_often_as_they_are_likely():
    np.testing.assert_allclose(drawn(), [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_temperature_0_takes_the_best_and_low_ones_nearly_always():
    np.testing.assert_array_equal(drawn(temperature=0), [1, 0, 0, 0])
    # 0.5² : 0.3² : 0.15² : 0.05²
    np.testing.assert_allclose(drawn(temperature=0.5), [0.685, 0.247, 0.062, 0.007], atol=0.03)


def test_the_coldest_temperature_there_is_still_draws_the_best():
    np.testing.assert_array_equal(drawn(temperature=5e-324), [1, 0, 0, 0])


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(FloatingPointError, match="scores are not numbers"):
        choose(np.array([0.0, np.nan]), Dials(), np.random.default_rng(0))


def test_top_k_keeps_the_best_k():
    np.testing.assert_allclose(drawn(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    np.testing.assert_allclose(drawn(top_p=0.7), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_array_equal(drawn(top_p=0.4), [1, 0, 0, 0])


def test_dials_together_keep_what_each_of_them_keeps():
    np.testing.assert_array_equal(drawn(top_k=3, top_p=0.4), [1, 0, 0, 0])


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or above, got -1"),
        ({"temperature": float("nan")}, "temperature must be 0 or above, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_dials_out_of_range_are_refused(dials, message):
    with pytest.raises(ValueError, match=message):
        Dials(**dials)


def test_an_apps_settings_hold_dials_among_others():
    @dataclass(frozen=True)
    class Arguments(Dials):
        prompt: str = ""
        temperature: float = 0.8

    found = dials_in(Arguments(prompt="a", top_k=3))
    assert Dials(**found) == Dials(temperature=0.8, top_k=3)


def test_a_score_without_end_is_taken_and_scores_without_bottom_are_not():
    rng = np.random.default_rng(0)
    scores = np.array([0.0, np.inf, 5.0, np.inf, -np.inf], np.float32)
    for dials in (Dials(), Dials(top_k=3), Dials(top_p=0.9), Dials(temperature=0)):
        assert choose(scores, dials, rng) in (1, 3)
    assert choose(np.array([-np.inf, 1.0, -np.inf], np.float32), Dials(), rng) == 1
    for temperature in (0.0, 1.0):
        with pytest.raises(FloatingPointError, match="every token has the score -inf"):
            choose(np.full(3, -np.inf, np.float32), Dials(temperature=temperature), rng)
