"""Files that are whole, or not there: what was there before outlives a kill and a full disk."""

import os

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tricycle_gpt import to_huggingface
from tricycle_gpt.runs import whole_files
from tricycle_gpt.runs.diagnosis import save_batches
from tricycle_gpt.runs.whole_files import (
    or_else_say,
    read_arrays,
    replace_text,
    replacing,
    write_arrays,
)


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_text_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, place):
    path = tmp_path / "config.toml"
    replace_text(path, "steps = 5\n")

    def full(*words, **options):
        raise OSError(28, "No space left on device")

    owner = os if place == "fsync" else type(path)
    monkeypatch.setattr(owner, place, full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "steps = 6\n")
    monkeypatch.undo()
    assert path.read_text() == "steps = 5\n"
    replace_text(path, "steps = 6\n")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("config.toml", "steps = 6\n")]


def test_a_file_that_is_not_finished_is_removed_and_the_one_before_stays(tmp_path):
    path = tmp_path / "loss.png"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as new:
        new.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("loss.png", b"before")]
    with replacing(path) as new:
        new.write_bytes(b"after")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("loss.png", b"after")]


def test_every_file_of_a_model_folder_is_whole_or_as_before(tmp_path, monkeypatch, make_tiny):
    to_huggingface(make_tiny(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*words, **options):
        raise OSError(28, "No space left on device")

    for name in before:
        write = type(tmp_path).replace
        monkeypatch.setattr(
            type(tmp_path),
            "replace",
            lambda p, q, n=name, w=write: full() if q.name == n else w(p, q),
        )
        with pytest.raises(OSError, match="No space left"):
            to_huggingface(make_tiny(n_layers=1), tmp_path)
        monkeypatch.undo()
        assert (tmp_path / name).read_bytes() == before[name]
        to_huggingface(make_tiny(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before.keys()


def test_a_full_disk_leaves_every_file_of_a_folder_and_says_what_it_takes(
    tmp_path, make_tiny, small_files
):
    to_huggingface(make_tiny(seed=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = make_tiny(seed=2)
    with (
        small_files(5000),
        pytest.raises(OSError, match=rf"it takes {4 * model.n_parameters():,} bytes, and .*Make r"),
    ):
        to_huggingface(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_run_can_do_without_is_said_to_be_missing(tmp_path, small_files, capsys):
    with small_files(100), or_else_say("sample.txt"):
        replace_text(tmp_path / "sample.txt", "words " * 100)
    assert capsys.readouterr().err.startswith("warning: no sample.txt: [Errno 27] File too large")
    assert not list(tmp_path.iterdir())


def test_arrays_lie_in_their_order_whatever_the_memory_has(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    write_arrays(tmp_path / "a.safetensors", {"a": array, "b": np.array(3)})
    found = load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(found["a"], array)
    assert found["b"] == 3


def test_what_safetensors_makes_of_a_full_disk_is_an_oserror_everywhere(
    tmp_path, monkeypatch, make_tiny
):
    to_huggingface(make_tiny(seed=1), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*words, **options):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(whole_files, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors.* could not be written: No space left"):
        to_huggingface(make_tiny(seed=2), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    ids = np.ones((2, 4), int)
    with pytest.raises(OSError, match=r"bad\.safetensors could not be written: No space left"):
        save_batches(tmp_path / "bad.safetensors", [(ids, ids)], 0)


def test_arrays_of_every_dtype_are_read_as_they_were_written(tmp_path):
    half = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    arrays = {"half": half, "single": np.arange(3, dtype=np.float32), "whole": np.array(7)}
    write_arrays(tmp_path / "a.safetensors", arrays)
    found = read_arrays(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
