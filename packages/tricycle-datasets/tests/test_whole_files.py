"""Files that are whole or not there, and a hash of them."""

import hashlib
import os

import pytest

from tricycle_datasets.whole_files import give_name, sha256_of, write_whole


def test_a_file_is_written_and_an_old_one_replaced(tmp_path):
    for data in b"one", b"", b"three\n":
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_fails_on_the_way_to_the_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_says_for_how_many_bytes_there_is_no_room(tmp_path, small_files):
    write_whole(tmp_path / "file", b"old")
    with small_files(1000), pytest.raises(OSError, match=r"it takes 1,001 bytes, .*as it was") as e:
        write_whole(tmp_path / "file", bytes(1001))
    assert e.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_given_the_name_of_another(tmp_path):
    (tmp_path / "part").write_bytes(b"new")
    (tmp_path / "file").write_bytes(b"old")
    give_name(tmp_path / "part", tmp_path / "file")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
