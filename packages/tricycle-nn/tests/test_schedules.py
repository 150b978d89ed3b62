import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_nn import CosineSchedule, LinearSchedule, WarmupStableDecay

# ---- By hand ----


def test_a_cosine_by_hand():
    schedule = CosineSchedule(peak=1.0, floor=0.0, warmup=3, steps=8)
    # Quarters up to the peak at step 3; then 4 steps to the floor, (1 + cos(k·45°)) / 2.
    expected = [0.25, 0.5, 0.75, 1.0, 0.853553, 0.5, 0.146447, 0.0]
    np.testing.assert_allclose([schedule(step) for step in range(8)], expected, atol=1e-6)


def test_a_line_by_hand():
    schedule = LinearSchedule(peak=1.0, floor=0.2, warmup=1, steps=6)
    expected = [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    np.testing.assert_allclose([schedule(step) for step in range(6)], expected, rtol=1e-12)


def test_up_level_and_down_by_hand():
    schedule = WarmupStableDecay(peak=1.0, floor=0.0, warmup=1, steps=7, decay=2)
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert [schedule(step) for step in range(7)] == expected


def test_without_warmup_the_first_step_is_the_peak():
    assert CosineSchedule(3e-4, 0.0, 0, 10)(0) == 3e-4
    assert LinearSchedule(3e-4, 0.0, 0, 10)(0) == 3e-4
    assert WarmupStableDecay(3e-4, 0.0, 0, 10, 4)(0) == 3e-4


# ---- Properties ----


@st.composite
def schedules(draw):
    floor = draw(st.floats(0, 1))
    peak = draw(st.floats(floor, 2))
    warmup = draw(st.integers(0, 50))
    steps = warmup + 2 + draw(st.integers(0, 200))
    kind = draw(st.sampled_from([CosineSchedule, LinearSchedule, WarmupStableDecay]))
    if kind is WarmupStableDecay:
        return kind(peak, floor, warmup, steps, draw(st.integers(1, steps - warmup - 1)))
    return kind(peak, floor, warmup, steps)


@given(schedule=schedules())
def test_the_end_points_are_exact(schedule):
    assert schedule(schedule.warmup) == schedule.peak
    assert schedule(schedule.steps - 1) == schedule.floor
    assert schedule(schedule.steps + 1000) == schedule.floor


@given(schedule=schedules())
def test_it_rises_to_the_peak_and_never_again(schedule):
    rates = [schedule(step) for step in range(schedule.steps)]
    hair = 1e-15  # rounding
    up, down = np.diff(rates[: schedule.warmup + 1]), np.diff(rates[schedule.warmup :])
    assert (up >= -hair).all() and (down <= hair).all()
    assert all(schedule.floor - hair <= rate for rate in rates[schedule.warmup :])


@given(schedule=schedules())
def test_a_step_has_its_rate_however_one_got_there(schedule):
    last = schedule(schedule.steps - 2)
    for step in range(schedule.steps):
        schedule(step)
    assert schedule(schedule.steps - 2) == last


def test_the_level_part_can_be_prolonged_without_changing_what_was():
    short = WarmupStableDecay(1.0, 0.1, warmup=5, steps=50, decay=20)
    long = WarmupStableDecay(1.0, 0.1, warmup=5, steps=500, decay=20)
    assert [short(step) for step in range(30)] == [long(step) for step in range(30)]
    assert [short(step) for step in range(30, 50)] == [long(step) for step in range(480, 500)]


def test_half_way_down_a_cosine_is_half_way_between_peak_and_floor():
    schedule = CosineSchedule(6e-4, 6e-5, warmup=100, steps=1101)
    assert math.isclose(schedule(600), (6e-4 + 6e-5) / 2)


# ---- Errors ----


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule])
def test_a_floor_above_the_peak_is_refused(kind):
    with pytest.raises(ValueError, match="needs 0 <= floor <= peak, got floor 0.2, peak 0.1"):
        kind(0.1, 0.2, 0, 10)
    with pytest.raises(ValueError, match="got floor -0.2, peak 0.1"):
        kind(0.1, -0.2, 0, 10)
    with pytest.raises(ValueError, match="got floor 0.0, peak nan"):
        kind(float("nan"), 0.0, 0, 10)


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule])
def test_a_warmup_that_takes_all_steps_is_refused(kind):
    with pytest.raises(ValueError, match="needs 0 <= warmup < steps, got 10 of 10"):
        kind(0.1, 0.0, 10, 10)
    with pytest.raises(ValueError, match="got -1 of 10"):
        kind(0.1, 0.0, -1, 10)


@pytest.mark.parametrize("decay", [0, 8])
def test_a_decay_that_leaves_no_step_at_the_peak_is_refused(decay):
    message = f"warmup \\+ decay < steps, got decay {decay}, warmup 2, steps 10"
    with pytest.raises(ValueError, match=message):
        WarmupStableDecay(0.1, 0.0, warmup=2, steps=10, decay=decay)


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule])
def test_where_the_last_step_is_the_end_of_the_warmup_it_has_the_peak(kind):
    assert kind(1.0, 0.0, warmup=0, steps=1)(0) == 1
    assert kind(1.0, 0.0, warmup=2, steps=3)(2) == 1
    assert kind(1.0, 0.0, warmup=2, steps=3)(3) == 0
