import tempfile
from pathlib import Path

import numpy as np
import pytest

from tricycle_autograd import kernel_cache
from tricycle_autograd.cpu import cpu_function
from tricycle_autograd.kernel_cache import ProcessState, cache_folder, cache_root, kept_file

TABLE = np.array([1.0, 2.0])


@cpu_function
def look_up(i):
    return TABLE[i]


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path))
    folder = cache_folder({__file__}, set())
    assert folder.parent == tmp_path / "tricycle" / "kernels"
    assert folder.is_dir()
    assert cache_folder({__file__}, set()) == folder
    assert cache_folder({__file__}, {"EPS = 1e-05"}) != folder


def test_a_cache_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(
    monkeypatch, tmp_path
):
    file = tmp_path / "a file, not a folder"
    file.write_text("")
    monkeypatch.setenv("TRICYCLE_CACHE", str(file))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder({__file__}, set())
    assert folder.is_relative_to(tmp_path)
    assert folder.is_dir()
    assert folder.parents[2].stat().st_mode & 0o077 == 0, "others could put code there"
    assert cache_folder({__file__}, set()) == folder


def test_a_cache_folder_that_is_there_and_cannot_be_written_is_replaced_too(monkeypatch, tmp_path):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path / "read-only"))
    theirs = cache_folder({__file__}, set())
    kernel_cache.is_writable.cache_clear()
    real = tempfile.TemporaryFile

    def refused(dir):
        if "read-only" in str(dir):
            raise PermissionError(f"{dir} cannot be written to")
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder({__file__}, set())
    assert folder.name == theirs.name
    assert folder.parents[2].parent == tmp_path, "a new folder of its own"


def test_machine_code_made_with_another_table_lies_in_another_folder(monkeypatch):
    before = look_up.constants()
    assert look_up.constants() == before
    monkeypatch.setitem(globals(), "TABLE", np.array([1.0, 3.0]))
    assert look_up.constants() != before


def test_compiling_is_announced_once_and_the_folder_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path))
    process = ProcessState()
    process.announce_compilation()
    process.announce_compilation()
    said = capsys.readouterr().err
    assert said.count("compiling kernels for this machine; this happens once") == 1
    assert str(tmp_path) in said


def test_without_a_home_kernels_are_kept_until_the_end(monkeypatch, tmp_path, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("TRICYCLE_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = ProcessState()
    monkeypatch.setattr(kernel_cache, "process", process)
    root = cache_root()
    assert root.is_relative_to(tmp_path)
    assert cache_root() == root
    assert "this user has no home, so kernels are kept in" in capsys.readouterr().err
    place = root.parents[1]
    assert place.is_dir()
    process.remove_temporary()
    assert not place.exists()


def test_a_full_disk_is_left_for_another_place_and_said_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TRICYCLE_CACHE", "")
    process = ProcessState()
    assert process.keep_elsewhere("the disk has no room")
    assert process.keep_elsewhere("the disk has no room")
    assert capsys.readouterr().err.count("the disk has no room, so kernels are kept in") == 1
    monkeypatch.setattr(kernel_cache, "has_room", lambda folder: False)
    process = ProcessState()
    assert not process.keep_elsewhere("the disk has no room")
    assert "kept in memory" in capsys.readouterr().err


def test_a_forked_process_leaves_its_parents_folder_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TRICYCLE_CACHE", "")
    process = ProcessState()
    assert process.keep_elsewhere("a test")
    number, folder = process._temporary
    process._temporary = number + 1, folder
    process.remove_temporary()
    assert Path(folder).is_dir()


@pytest.mark.parametrize("damage", [b"", b"tricycle", None])
def test_what_is_kept_and_damaged_is_made_again(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return b"machine code"

    assert kept_file("gpu/a.cubin", make) == b"machine code"
    assert kept_file("gpu/a.cubin", make) == b"machine code"
    assert len(made) == 1
    file = cache_root() / "gpu" / "a.cubin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"X" if damage is None else damage)
    assert kept_file("gpu/a.cubin", make) == b"machine code"
    assert file.read_bytes() == whole
    assert len(made) == 2
