"""Checkpoints: whole or not there, checked to the byte, never pickled."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import CheckpointError, load_checkpoint, load_newest_checkpoint, save_checkpoint
from tricycle_gpt.runs.checkpoint import list_checkpoints

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"


def save(folder, step, **options):
    rng = np.random.default_rng(step)
    parameters = {"a.weight": rng.standard_normal((3, 4)).astype(np.float32)}
    optimiser = {"steps_taken": np.array(step), "0.0.first_moment": np.ones((3, 4), np.float32)}
    return save_checkpoint(folder, step, parameters, optimiser, {"position": [1, 2]}, **options)


def test_what_was_saved_is_loaded(tmp_path):
    path = save(tmp_path, 7)
    found = load_checkpoint(path)
    assert path.name == "step-00000007"
    assert found.step == 7
    assert found.state["position"] == [1, 2]
    expected = np.random.default_rng(7).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(found.parameters["a.weight"], expected)
    assert found.optimiser["steps_taken"] == 7


def test_the_newest_is_found_and_old_ones_go(tmp_path):
    for step in (5, 20, 30, 100):
        save(tmp_path, step, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000020",
        "step-00000030",
        "step-00000100",
    ]
    assert load_newest_checkpoint(tmp_path).step == 100


def test_a_later_damaged_one_does_not_push_out_the_one_just_written(tmp_path):
    damaged = save(tmp_path, 20, keep=1)
    (damaged / "state.json").write_text("{}")
    save(tmp_path, 11, keep=1)
    assert load_newest_checkpoint(tmp_path).step == 11


def test_what_killed_processes_left_goes(tmp_path):
    for step in (3, 8):
        (tmp_path / f"step-{step:08d}.tmp").mkdir()
    save(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_no_checkpoint_is_none(tmp_path):
    assert load_newest_checkpoint(tmp_path) is None
    assert load_newest_checkpoint(tmp_path / "nothing") is None


def test_a_half_written_folder_does_not_count_and_is_written_over(tmp_path):
    path = save(tmp_path, 5)
    shutil.copytree(path, tmp_path / "step-00000009.tmp")
    (tmp_path / "step-00000009.tmp" / "MANIFEST.json").unlink()
    assert load_newest_checkpoint(tmp_path).step == 5
    save(tmp_path, 9)
    assert load_newest_checkpoint(tmp_path).step == 9


def test_every_flipped_bit_and_every_cut_is_noticed_and_the_one_before_is_used(tmp_path, capsys):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    rng = np.random.default_rng(0)
    for trial in range(6000 if LONG else 600):  # a cut for every five flipped bits
        file = newest / rng.choice(sorted(os.listdir(newest)))
        whole = file.read_bytes()
        position = int(rng.integers(len(whole)))
        if trial % 6 == 0:
            file.write_bytes(whole[:position])
        else:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
        try:
            found = load_newest_checkpoint(tmp_path)
        finally:
            file.write_bytes(whole)
        # Damage inside the manifest's layout (a blank that became a tab) changes no meaning.
        if found.step == 2:
            assert file.name == "MANIFEST.json"
            assert json.loads(bytes(damaged))["files"] == json.loads(whole)["files"]
        else:
            assert found.step == 1
    assert "passing over a damaged checkpoint" in capsys.readouterr().err


def test_damage_is_described(tmp_path):
    path = save(tmp_path, 1)
    (path / "optimiser.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimiser\.safetensors is missing"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        load_newest_checkpoint(tmp_path)


def test_another_version_is_named(tmp_path):
    manifest = save(tmp_path, 1) / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="step-00000001 has version 2, expected 1"):
        load_checkpoint(manifest.parent)


def test_one_that_the_disk_cannot_give_back_is_passed_over(tmp_path, monkeypatch, capsys):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    real = Path.open

    def unreadable(path, *words, **options):
        if path == newest / "optimiser.safetensors":
            raise OSError(5, "Input/output error", str(path))
        return real(path, *words, **options)

    monkeypatch.setattr(Path, "open", unreadable)
    assert load_newest_checkpoint(tmp_path).step == 1
    assert "step-00000002 cannot be read: [Errno 5] Input/output error" in capsys.readouterr().err


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    save(tmp_path, 4)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "3", "4"]
    save(tmp_path, 5)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4", "5"]
    with pytest.raises(ValueError, match="keep must be at least 1, the new checkpoint itself; got"):
        save(tmp_path, 6, keep=0)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)
    calls, real = [], os.fsync

    def failing(number):
        def fsync(descriptor):
            calls.append(descriptor)
            if len(calls) == number:
                raise OSError(28, "No space left on device")
            return real(descriptor)

        return fsync

    for number in range(1, 6):  # three files, the manifest, the folder
        calls.clear()
        monkeypatch.setattr(os, "fsync", failing(number))
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2)
        monkeypatch.setattr(os, "fsync", real)
        assert load_newest_checkpoint(tmp_path).step == 1
    save(tmp_path, 2)
    assert load_newest_checkpoint(tmp_path).step == 2
