"""Checkpoints written beside the training: whole, loud when they fail, never in its way."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tricycle_gpt import load_newest_checkpoint
from tricycle_gpt.runs import checkpoint_writer, whole_files
from tricycle_gpt.runs.checkpoint import list_checkpoints, save_checkpoint
from tricycle_gpt.runs.checkpoint_writer import CheckpointWriter

ARRAYS = {"a.weight": np.ones((3, 4), np.float32)}


def save(folder, step, **options):
    state = {"validation_loss": options.pop("loss", None)}
    return save_checkpoint(folder, step, ARRAYS, ARRAYS, state, **options)


def steps_in(folder):
    return [int(path.name[5:]) for path in list_checkpoints(folder)]


def test_what_was_given_is_on_the_disk_when_the_block_ends(tmp_path):
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for step in (1, 2, 3):
            writer.save(step, ARRAYS, ARRAYS, {})
    assert steps_in(tmp_path) == [2, 3]
    assert load_newest_checkpoint(tmp_path).step == 3


def test_saving_returns_while_the_disk_is_still_slow(tmp_path, monkeypatch):
    gate, ended = threading.Event(), []

    def slow(*words, **options):
        ended.append(gate.wait(30))

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    writer = CheckpointWriter(tmp_path)
    writer.save(1, ARRAYS, ARRAYS, {})
    assert ended == []
    gate.set()
    writer.wait()
    assert ended == [True]


def test_a_save_that_failed_is_raised_at_the_next_call(tmp_path):
    (tmp_path / "file").write_text("in the way")
    writer = CheckpointWriter(tmp_path / "file")
    writer.save(1, ARRAYS, ARRAYS, {})
    with pytest.raises(OSError, match="file"):
        writer.wait()
    writer.check()  # told once


def test_the_best_one_is_kept_however_old(tmp_path):
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 2.5)):
        save(tmp_path, step, loss=loss, keep=2, keep_best=True)
    assert steps_in(tmp_path) == [2, 4, 5]
    save(tmp_path, 6, loss=0.5, keep=2, keep_best=True)
    assert steps_in(tmp_path) == [5, 6]


def test_a_loss_that_is_no_number_is_not_the_best(tmp_path):
    for step, loss in ((1, float("nan")), (2, 1.0), (3, 2.0), (4, float("nan"))):
        save(tmp_path, step, loss=loss, keep=1, keep_best=True)
    assert steps_in(tmp_path) == [2, 4]


def test_a_damaged_one_is_not_the_best(tmp_path):
    (save(tmp_path, 1, loss=0.1, keep_best=True) / "parameters.safetensors").write_bytes(b"")
    for step in (2, 3, 4):
        save(tmp_path, step, loss=float(step), keep=1, keep_best=True)
    assert steps_in(tmp_path) == [2, 4]


PLACES = {
    "fsync": (os, "fsync"),
    "rename": (Path, "rename"),
    "open": (Path, "open"),
    "arrays": (whole_files, "save_file"),
    "mkdir": (Path, "mkdir"),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_at_any_call_leaves_a_good_checkpoint(place, number, tmp_path, monkeypatch):
    owner, name = PLACES[place]
    real = getattr(owner, name)
    for failing in range(1, 30):
        folder = tmp_path / str(failing)
        save(folder, 1, keep=1)
        calls = []

        def sometimes(*words, failing=failing, calls=calls, **options):
            calls.append(name)
            if len(calls) == failing:
                raise OSError(number, os.strerror(number))
            return real(*words, **options)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, sometimes)
            try:
                save(folder, 2, keep=1)
                error = None
            except OSError as raised:
                error = raised
        # No error: it is the old one that could not be removed.
        assert load_newest_checkpoint(folder).step in ((1, 2) if error else (2,))
        assert not error or error.errno == number
        assert not list(folder.glob("*.tmp")) or place == "rename"
        save(folder, 3, keep=1)
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
        if len(calls) < failing:
            break
    assert failing > 1
    assert error is None


def test_what_safetensors_makes_of_a_full_disk_is_an_oserror(tmp_path, monkeypatch):
    def full(*words, **options):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(whole_files, "save_file", full)
    with pytest.raises(OSError, match="could not be written: No space left"):
        save(tmp_path, 1)


@pytest.mark.parametrize(
    ("number", "times", "fails"),
    [(errno.EIO, 1, False), (errno.EIO, 2, True), (errno.ENOSPC, 1, True)],
)
def test_an_error_that_may_pass_is_tried_once_more(tmp_path, monkeypatch, number, times, fails):
    left = [OSError(number, os.strerror(number))] * times
    real = whole_files.save_file

    def unreliable(*words, **options):
        if left:
            raise left.pop()
        return real(*words, **options)

    monkeypatch.setattr(whole_files, "save_file", unreliable)
    writer = CheckpointWriter(tmp_path)
    writer.save(1, ARRAYS, ARRAYS, {})
    if fails:
        with pytest.raises(OSError, match=os.strerror(number)):
            writer.wait()
    else:
        writer.wait()
    assert steps_in(tmp_path) == ([] if fails else [1])
