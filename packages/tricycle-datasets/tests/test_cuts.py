"""Windows from a shard folder: across documents as if it were an array, or each within one."""

import numpy as np
import pytest
from comparing import assert_same, take
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import write_folder

from tricycle_datasets import Batches, TokenShards, windows

# The texts "abcde" and "fg", each ended by the end-of-text token 0.
TEXTS = [1, 2, 3, 4, 5, 0, 6, 7, 0]
_ = -100


def as_lists(batches):
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in batches]


# ---- By hand ----


def test_two_texts_in_windows_of_four_each_within_its_text(tmp_path):
    shards = TokenShards(write_folder(tmp_path / "s", TEXTS, [0, 6], per_file=4))
    expected = [
        ([[1, 2, 3, 4]], [[2, 3, 4, 5]]),
        ([[5, 0, 0, 0]], [[0, _, _, _]]),  # "e" is followed by the end of its text, not by "f"
        ([[6, 7, 0, 0]], [[7, 0, _, _]]),
    ]
    assert as_lists(windows(shards, 4, packing=False)) == expected
    shuffled = Batches(shards, 1, 4, seed=0, packing=False)
    assert shuffled.windows_in(0) == 3
    assert sorted(as_lists(take(shuffled, 3))) == expected
    both = windows(shards, 4, batch_size=2, packing=False)
    assert [inputs.shape for inputs, targets in both] == [(2, 4), (1, 4)]


def test_two_texts_packed(tmp_path):
    shards = TokenShards(write_folder(tmp_path / "s", TEXTS, [0, 6], per_file=4))
    assert as_lists(windows(shards, 4)) == [
        ([[1, 2, 3, 4]], [[2, 3, 4, 5]]),
        ([[5, 0, 6, 7]], [[0, 6, 7, 0]]),
    ]


def test_texts_of_one_token_and_of_none_make_no_window(tmp_path):
    shards = TokenShards(write_folder(tmp_path / "s", [1, 2, 0, 0, 3, 0], [0, 3, 3, 4, 6]))
    found = as_lists(windows(shards, 4, packing=False))
    assert found == [([[1, 2, 0, 0]], [[2, 0, _, _]]), ([[3, 0, 0, 0]], [[0, _, _, _]])]


# ---- Properties ----


@st.composite
def folders(draw):
    """(N tokens, starts of documents, tokens in a file)"""
    n = draw(st.integers(2, 120))
    starts = draw(st.lists(st.integers(0, n), max_size=12))
    return n, sorted([0, *starts]), draw(st.integers(1, 130))


def shards_of(tmp_path_factory, folder):
    """Shards in which the id at i is i."""
    n, starts, per_file = folder
    path = tmp_path_factory.mktemp("s") / "shards"
    return TokenShards(write_folder(path, np.arange(n), starts, per_file=per_file), verify=False)


contexts = st.integers(1, 20)


@given(folders(), contexts, st.integers(1, 9), st.integers(0, 2**40))
def test_packed_batches_of_shards_are_those_of_an_array(tmp_path_factory, folder, T, B, seed):
    shards, array = shards_of(tmp_path_factory, folder), np.arange(folder[0])
    if len(array) > T:
        assert_same(
            take(Batches(shards, B, T, seed=seed), 4), take(Batches(array, B, T, seed=seed), 4)
        )
    assert_same(windows(shards, T, B), windows(array, T, B))


def has_a_lesson(folder):
    n, starts, _ = folder
    return max(np.diff([*starts, n])) > 1


@given(folders().filter(has_a_lesson), contexts, st.integers(0, 2**40), st.integers(0, 9))
def test_within_documents_every_token_but_their_first_is_a_target_once_an_epoch(
    tmp_path_factory, folder, T, seed, epoch
):
    n, starts, _ = folder
    shards = shards_of(tmp_path_factory, folder)
    batches = Batches(shards, 1, T, seed=seed, packing=False, position=(epoch, 0))
    seen = []
    for inputs, targets in take(batches, batches.windows_in(epoch)):
        count = int((targets != -100).sum())
        assert inputs.shape == targets.shape == (1, T)
        np.testing.assert_array_equal(targets[0, :count], inputs[0, :count] + 1)
        assert (inputs[0, count:] == 0).all()
        assert (targets[0, count:] == -100).all()
        documents = np.searchsorted(starts, [inputs[0, 0], targets[0, count - 1]], side="right")
        assert documents[0] == documents[1], "a window holds two documents"
        seen += targets[0, :count].tolist()
    assert batches.position == (epoch + 1, 0)
    assert sorted(seen) == sorted(set(range(n)) - set(starts))
    in_order = [targets[targets != -100] for _, targets in windows(shards, T, 3, packing=False)]
    assert np.concatenate(in_order).tolist() == sorted(seen)


@given(
    folders().filter(has_a_lesson),
    contexts,
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_within_documents_ranks_share_and_positions_continue(
    tmp_path_factory, folder, T, B, world, done
):
    shards = shards_of(tmp_path_factory, folder)
    alone = Batches(shards, B * world, T, seed=7, packing=False)
    take(alone, done)
    ranks = [
        Batches(shards, B, T, seed=7, packing=False, position=alone.position, rank=r, world=world)
        for r in range(world)
    ]
    inputs, targets = next(alone)
    parts = [next(rank) for rank in ranks]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), inputs)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), targets)
    assert {rank.position for rank in ranks} == {alone.position}


# ---- Errors ----


def test_documents_too_short_for_any_window_are_named(tmp_path):
    shards = TokenShards(write_folder(tmp_path / "s", [1, 2, 3], [0, 1, 2]))
    wanted = "packing=False needs a document of two tokens or more, and none has them: 3 tokens lie"
    for make in (
        lambda: Batches(shards, 1, 2, seed=0, packing=False),
        lambda: windows(shards, 2, packing=False),
    ):
        with pytest.raises(ValueError, match=wanted):
            make()


def test_an_array_does_not_say_where_documents_begin():
    with pytest.raises(TypeError, match="needs to know where documents begin: give TokenShards, g"):
        windows([1, 2, 3], 2, packing=False)


def test_shards_too_short_say_how_many_tokens_are_needed(tmp_path):
    shards = TokenShards(write_folder(tmp_path / "s", [1, 2, 3]))
    with pytest.raises(ValueError, match="needs at least 65 tokens, got 3: give a longer text"):
        Batches(shards, 1, 64, seed=0)
    next(Batches(shards, 1, 64, seed=0, packing=False))  # a short window is filled up
