"""Training windows: each once an epoch, shuffled by the seed, continued from a position."""

import os
import re

import numpy as np
import pytest
from comparing import assert_same, take
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_datasets import Batches, check_ids, windows

LONG = 10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1


def starts_of_epoch(batches, epoch):
    """Where each window of an epoch starts, in the order they come; the token at i must be i."""
    tokens, T = batches.tokens, batches.context_window
    one_by_one = Batches(tokens, 1, T, seed=batches.seed, position=(epoch, 0))
    return [int(inputs[0, 0]) for inputs, _ in take(one_by_one, one_by_one.windows_in(epoch))]


# ---- By hand ----


def test_three_tokens_make_one_lesson_of_two():
    inputs, targets = next(Batches([5, 1, 4], batch_size=1, context_window=2, seed=0))
    assert inputs.tolist() == [[5, 1]]
    assert targets.tolist() == [[1, 4]]


def test_five_tokens_in_windows_of_two():
    # Cut at 0: 10 11 12 and 12 13 14.  Cut at 1: 11 12 13 only, since no token follows 14.
    tokens = [10, 11, 12, 13, 14]
    for epoch in range(20):
        batches = Batches(tokens, 1, 2, seed=0, position=(epoch, 0))
        inputs = sorted(x.tolist()[0] for x, _ in take(batches, batches.windows_in(epoch)))
        assert inputs in ([[10, 11], [12, 13]], [[11, 12]])


def test_the_shuffle_of_a_seed_never_changes():
    # Checkpoints hold a seed and a position; these numbers hold their meaning.
    batches = Batches(np.arange(100), 5, 8, seed=1337)
    assert [next(batches)[0][:, 0].tolist() for _ in range(3)] == [
        [66, 18, 50, 2, 26],
        [74, 42, 10, 90, 58],
        [82, 34, 13, 53, 77],
    ]


# ---- Properties ----

cuts = st.tuples(
    st.integers(2, 300), st.integers(1, 20), st.integers(1, 40), st.integers(-5, 2**70)
).filter(lambda cut: cut[0] > cut[1])  # N tokens, window T, batch B, seed


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts, st.integers(0, 50))
def test_every_window_comes_once_an_epoch(cut, epoch):
    N, T, _, seed = cut
    starts = starts_of_epoch(Batches(np.arange(N), 1, T, seed=seed), epoch)
    phase = min(starts)
    assert 0 <= phase < T
    assert sorted(starts) == list(range(phase, N - T, T))


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts)
def test_batches_hold_the_windows_in_order_across_epochs(cut):
    N, T, B, seed = cut
    tokens = np.arange(N)
    many = take(Batches(tokens, B, T, seed=seed), 3)
    one_by_one = take(Batches(tokens, 1, T, seed=seed), 3 * B)
    rows = [
        (inputs[row : row + 1], targets[row : row + 1])
        for inputs, targets in many
        for row in range(B)
    ]
    assert_same(rows, one_by_one)


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts)
def test_targets_are_the_tokens_that_follow(cut):
    N, T, B, seed = cut
    for inputs, targets in take(Batches(np.arange(N), B, T, seed=seed), 3):
        assert inputs.shape == targets.shape == (B, T)
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(T))


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts, st.integers(0, 20))
def test_continuing_from_a_position_is_the_same_as_never_stopping(cut, done):
    N, T, B, seed = cut
    unbroken = Batches(np.arange(N), B, T, seed=seed)
    take(unbroken, done)
    resumed = Batches(np.arange(N), B, T, seed=seed, position=unbroken.position)
    assert_same(take(resumed, 5), take(unbroken, 5))
    assert resumed.position == unbroken.position


def test_a_position_survives_json():
    batches = Batches(np.arange(50), 4, 3, seed=0)
    take(batches, 7)
    assert [type(number) for number in batches.position] == [int, int]
    resumed = Batches(np.arange(50), 4, 3, seed=0, position=list(batches.position))
    assert_same(take(resumed, 3), take(batches, 3))


def test_setting_the_position_goes_there():
    batches = Batches(np.arange(50), 4, 3, seed=0)
    take(batches, 2)
    position, next_ones = batches.position, take(batches, 9)
    batches.position = position
    assert_same(take(batches, 9), next_ones)
    with pytest.raises(ValueError, match=r"position \(0, 99\) lies beyond the"):
        batches.position = (0, 99)
    assert_same(take(batches, 1), take(Batches(np.arange(50), 4, 3, seed=0), 12)[-1:])


def test_the_position_counts_windows():
    # Phase aside, 21 tokens hold 4 or 5 windows of 4; batches of 3.
    batches = Batches(np.arange(21), 3, 4, seed=0)
    first = batches.windows_in(0)
    assert batches.position == (0, 0)
    next(batches)
    assert batches.position == (0, 3)
    next(batches)
    assert batches.position == (1, 6 - first)


def test_a_finished_epoch_is_the_start_of_the_next():
    batches = Batches(np.arange(11), 1, 10, seed=0)
    next(batches)
    assert batches.position == (1, 0)


def test_a_position_does_not_depend_on_the_batch_size():
    batches = Batches(np.arange(200), 8, 5, seed=3)
    take(batches, 2)
    smaller = Batches(np.arange(200), 4, 5, seed=3, position=batches.position)
    inputs, _ = next(batches)
    halves = [inputs for inputs, _ in take(smaller, 2)]
    np.testing.assert_array_equal(inputs, np.concatenate(halves))


# ---- Ranks ----


def test_two_ranks_take_turns_in_one_batch():
    batch, _ = next(Batches(np.arange(50), 4, 3, seed=0))
    first, _ = next(Batches(np.arange(50), 2, 3, seed=0, rank=0, world=2))
    second, _ = next(Batches(np.arange(50), 2, 3, seed=0, rank=1, world=2))
    assert [*first.tolist(), *second.tolist()] == batch.tolist()


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts, st.integers(1, 5))
def test_the_ranks_of_any_world_share_the_windows_of_one(cut, world):
    N, T, B, seed = cut
    alone = Batches(np.arange(N), B * world, T, seed=seed)
    ranks = [Batches(np.arange(N), B, T, seed=seed, rank=r, world=world) for r in range(world)]
    for _ in range(3):
        inputs, targets = next(alone)
        parts = [next(rank) for rank in ranks]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), inputs)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), targets)
        assert {rank.position for rank in ranks} == {alone.position}


@settings(max_examples=100 * LONG, deadline=None)
@given(cuts, st.integers(1, 5), st.integers(0, 9))
def test_a_checkpoint_of_some_ranks_is_continued_by_any_number(cut, world, done):
    N, T, B, seed = cut
    last = Batches(np.arange(N), B, T, seed=seed, rank=world - 1, world=world)
    take(last, done)
    alone = Batches(np.arange(N), B * world, T, seed=seed)
    take(alone, done)
    resumed = Batches(np.arange(N), B * world, T, seed=seed, position=last.position)
    assert_same(take(resumed, 3), take(alone, 3))


def test_seeds_and_epochs_differ_in_order_and_in_phase():
    batches = Batches(np.arange(10_001), 1, 100, seed=0)
    orders = [starts_of_epoch(batches, epoch) for epoch in range(40)]
    other_seed = starts_of_epoch(Batches(np.arange(10_001), 1, 100, seed=1), 0)
    assert len({tuple(order) for order in [*orders, other_seed]}) == 41
    # 40 draws out of 100 phases: 33 distinct ones are to be expected
    assert len({min(order) for order in orders}) > 20


def test_over_many_epochs_every_token_but_the_first_is_a_target():
    seen = set()
    for epoch in range(60):
        for start in starts_of_epoch(Batches(np.arange(53), 1, 10, seed=0), epoch):
            seen.update(range(start + 1, start + 11))
    assert seen == set(range(1, 53))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "int32", ">i4"])
def test_any_integer_dtype_comes_out_as_contiguous_int64(dtype):
    inputs, targets = next(Batches(np.arange(100).astype(dtype), 4, 8, seed=0))
    for array in (inputs, targets):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(targets, inputs + 1)


def test_a_file_on_disk_gives_the_same_batches_and_is_not_read_whole(tmp_path):
    tokens = np.arange(1000, dtype=np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = Batches(np.load(tmp_path / "tokens.npy", mmap_mode="r"), 4, 16, seed=0)
    assert not mapped.tokens.flags.owndata
    assert_same(take(mapped, 20), take(Batches(tokens, 4, 16, seed=0), 20))
    assert type(next(mapped)[0]) is np.ndarray


def test_what_is_yielded_may_be_changed():
    tokens = np.arange(3)
    batches = Batches(tokens, 1, 2, seed=0)
    inputs, targets = next(batches)
    inputs[:], targets[:] = 7, 7
    assert tokens.tolist() == [0, 1, 2]
    assert next(batches)[0].tolist() == [[0, 1]]


# ---- Evaluation ----


def test_eight_tokens_in_windows_of_three_for_evaluation():
    # 7 targets: two windows of three, and one is left over.
    first, last = windows([0, 1, 2, 3, 4, 5, 6, 7], 3, batch_size=2)
    assert first[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first[1].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert last[0].tolist() == [[6]]
    assert last[1].tolist() == [[7]]


@settings(max_examples=100 * LONG, deadline=None)
@given(st.integers(2, 300), st.integers(1, 400), st.integers(1, 20))
def test_evaluation_sees_every_target_once_and_in_order(N, T, B):
    batches = list(windows(np.arange(N, dtype=np.uint16), T, B))
    targets = np.concatenate([targets.reshape(-1) for _, targets in batches])
    np.testing.assert_array_equal(targets, np.arange(1, N))
    for inputs, targets in batches:
        np.testing.assert_array_equal(inputs + 1, targets)
        assert inputs.shape == targets.shape
        assert inputs.shape[0] <= B
        assert inputs.shape[1] <= T
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.flags.c_contiguous
        assert targets.flags.c_contiguous
    assert all(inputs.shape == (B, T) for inputs, _ in batches[:-2])


# ---- Errors ----


def test_a_text_too_short_says_how_many_tokens_are_needed():
    wanted = (
        "one window of inputs and targets needs at least 65 tokens, got 64: "
        "give a longer text or a shorter context_window"
    )
    with pytest.raises(ValueError, match=re.escape(wanted)):
        Batches(np.arange(64), 12, 64, seed=0)
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        windows([7], 64)
    with pytest.raises(ValueError, match="at least 2 tokens, got 0"):
        windows([], 64)


def test_tokens_must_be_integers():
    wanted = "tokens must be integers, got float32; encode the text with a tokeniser first"
    for make in (lambda tokens: Batches(tokens, 1, 2, seed=0), lambda tokens: windows(tokens, 2)):
        with pytest.raises(TypeError, match=wanted):
            make(np.zeros(10, np.float32))
    with pytest.raises(TypeError, match="got bool"):
        Batches(np.zeros(10, bool), 1, 2, seed=0)
    with pytest.raises(TypeError, match="got <U1"):
        Batches(list("To be, or not"), 1, 2, seed=0)


def test_tokens_must_be_one_row():
    with pytest.raises(ValueError, match=r"tokens must be one row of ids, got shape \(2, 5\)"):
        Batches(np.zeros((2, 5), int), 1, 2, seed=0)
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        windows("To be, or not", 2)


def test_negative_tokens_are_named():
    with pytest.raises(ValueError, match=r"ids go from 0 to .*, got -7 at position 3"):
        Batches(np.array([1, 2, 3, -7, 5]), 1, 2, seed=0)
    with pytest.raises(ValueError, match="got -1 at position 1"):
        windows(np.array([1, -1, 3], np.int8), 2)


def test_an_id_that_int64_cannot_hold_is_named():
    with pytest.raises(ValueError, match="got 9223372036854775808 at position 2"):
        Batches(np.array([1, 2, 2**63], np.uint64), 1, 2, seed=0)


@pytest.mark.parametrize(
    ("arguments", "error", "wanted"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be a whole number, got 2.0"),
        ({"context_window": -3}, ValueError, "context_window must be 1 or more, got -3"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"world": 0}, ValueError, "world must be 1 or more, got 0"),
        ({"rank": -1}, ValueError, "rank must be 0 or more, got -1"),
        (
            {"rank": 2, "world": 2},
            ValueError,
            "rank must be below world, got rank 2 in a ",
        ),
        ({"rank": 0.0}, TypeError, "rank must be a whole number, got 0.0"),
        ({"packing": False}, TypeError, "where documents begin: give TokenShards, got ndarray"),
        ({"position": 5}, ValueError, r"position must be a pair \(epoch, index\), got 5"),
        ({"position": (0, -1)}, ValueError, "the index of position must be 0 or more, got -1"),
        ({"position": (0.5, 1)}, TypeError, "the epoch of position must be a whole number"),
        ({"position": (0, 99)}, ValueError, r"beyond the \d windows of epoch 0: it was saved with"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, wanted):
    right = {"batch_size": 2, "context_window": 3, "seed": 0}
    with pytest.raises(error, match=wanted):
        Batches(np.arange(20), **(right | arguments))


def test_ids_outside_the_vocabulary_are_found():
    check_ids(np.array([[0, 4], [2, 3]]), vocab_size=5)
    check_ids(np.array([], np.uint16), vocab_size=5)
    wanted = "id 5 at position 2 does not fit a vocabulary of 5: ids go from 0 to 4"
    with pytest.raises(ValueError, match=wanted):
        check_ids(np.array([[0, 4], [5, 5]], np.uint16), vocab_size=5)
    with pytest.raises(ValueError, match="id -1 at position 1 does not fit"):
        check_ids([0, -1], vocab_size=5)
    with pytest.raises(TypeError, match="ids must be integers, got float64"):
        check_ids([0.0], vocab_size=5)
