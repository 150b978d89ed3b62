import tempfile

import numpy as np

from tricycle_autograd.cpu import cpu_function
from tricycle_autograd.kernel_cache import ProcessState, cache_folder

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

    def refused(dir):
        raise PermissionError(f"{dir} cannot be written to")

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
