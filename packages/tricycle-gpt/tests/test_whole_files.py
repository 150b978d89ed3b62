"""Files that are whole, or not there: what was there before outlives a kill and a full disk."""

import os

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tricycle_gpt import to_huggingface
from tricycle_gpt.runs import whole_files
from tricycle_gpt.runs.diagnosis import save_batches
from tricycle_gpt.runs.whole_files import replace_text, write_arrays


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
