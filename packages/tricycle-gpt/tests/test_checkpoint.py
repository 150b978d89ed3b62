"""Checkpoints: whole or not there, checked to the byte, never pickled."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import CheckpointError, load_checkpoint, load_newest_checkpoint, save_checkpoint
from tricycle_gpt.runs import checkpoint, whole_files
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


@pytest.mark.parametrize("place", ["parameters", "optimiser"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_saved_and_replaces_nothing(tmp_path, place, bad):
    save(tmp_path, 1, keep=1)
    arrays = {"parameters": {"w": np.ones(3)}, "optimiser": {"m": np.ones(3), "n": np.array(1)}}
    name = next(iter(arrays[place]))
    arrays[place][name][1] = bad
    with pytest.raises(FloatingPointError, match=f"after step 2 .* not finite in {name}, so no"):
        save_checkpoint(tmp_path, 2, **arrays, state={}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_may_be_read_by_those_whom_the_umask_lets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {mode}


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_save_reads_the_new_checkpoint_and_no_other(tmp_path, monkeypatch, keep_best):
    read = []
    real = checkpoint._fingerprint
    monkeypatch.setattr(checkpoint, "_fingerprint", lambda path: read.append(path) or real(path))
    for step in range(1, 9):
        read.clear()
        save(tmp_path, step, keep=5, keep_best=keep_best)
        assert {path.parent.name for path in read} == {f"step-{step:08d}.tmp"}
    damaged = tmp_path / "step-00000006" / "parameters.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    read.clear()
    save(tmp_path, 9, keep=5)
    assert damaged in read  # it was touched, so it is looked at again, and does not count
    assert len(list_checkpoints(tmp_path)) == 6


def test_a_full_disk_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def interrupted_at(line, function):
    """Call a function with Ctrl-C before the so-manieth line of ours; whether it came so far."""
    ours, left = (checkpoint.__file__, whole_files.__file__), [line]

    def trace(frame, event, _):
        if frame.f_code.co_filename not in ours:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
def test_a_save_under_ctrl_c_is_whole_or_absent_wherever_it_comes(tmp_path, monkeypatch, again):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of saves need not reach the disk
    line, outcomes = 1, set()
    while True:
        folder = tmp_path / str(line)
        save(folder, 1)
        if not interrupted_at(line, lambda f=folder: save(f, 1 if again else 2)):
            break
        for path in list_checkpoints(folder):
            checkpoint.verify(path)
        outcomes.add(load_newest_checkpoint(folder).step)
        save(folder, 3, keep=1)  # and what was left behind is in nobody's way
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
        line += 1 if LONG else 5
    assert outcomes == ({1} if again else {1, 2})
    assert line > 100


def test_a_full_disk_says_what_a_checkpoint_takes_and_what_to_do(tmp_path, small_files):
    save(tmp_path, 1)
    with (
        small_files(1),
        pytest.raises(OSError, match=r"it takes [\d,]+ bytes, and .*keep fewer \(--training.keep"),
    ):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_old_one_that_cannot_be_removed_ends_nothing(tmp_path, monkeypatch, capsys):
    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as disk:
        disk.setattr(checkpoint, "_remove", lambda path: (_ for _ in ()).throw(OSError(5, "EIO")))
        save(tmp_path, 2, keep=1)
    assert "an old checkpoint could not be removed" in capsys.readouterr().err
    save(tmp_path, 3, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def rewrite(path, name, content):
    """Put other content into a checkpoint's file, and a manifest that agrees with it."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"][name] = checkpoint._fingerprint(path / name)
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"[]"),
        ("state.json", b"{}"),
        ("state.json", b'{"step": "2"}'),
        ("state.json", b'{"step": -1}'),
        ("state.json", b"\xff\xfe"),
        ("state.json", b"[" * 100_000),
        ("parameters.safetensors", b""),
        ("parameters.safetensors", b"no arrays"),
        ("optimiser.safetensors", b"\xff" * 100),
    ],
)
def test_one_that_agrees_with_itself_and_holds_nonsense_is_passed_over(
    tmp_path, capsys, name, content
):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    rewrite(path, name, content)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)
    assert load_newest_checkpoint(tmp_path).step == 1
    assert name in capsys.readouterr().err
    save(tmp_path, 3, keep=1, keep_best=True)
    assert load_newest_checkpoint(tmp_path).step == 3


def test_a_manifest_names_our_files_and_no_others(tmp_path):
    (tmp_path / "outside").write_text("of the checkpoint")
    path = save(tmp_path / "checkpoints", 1)
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["../../outside"] = {"size": 17, "sha256": "0"}
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="lists files that are not ours: ../../outside"):
        load_checkpoint(path)
