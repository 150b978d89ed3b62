"""The cache of compiled kernels: ours alone, and never stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import tricycle_bpe
from tricycle_bpe import kernels, scanning

pytestmark = pytest.mark.slow  # it starts many processes


def run(code: str, package_folder: Path, cache: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(package_folder), "TRICYCLE_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def test_an_edit_in_another_file_is_seen(tmp_path):
    """numba alone would use the stale kernel: scanning.py itself does not change here."""
    source = Path(tricycle_bpe.__file__).parent
    shutil.copytree(source, tmp_path / "tricycle_bpe", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tricycle_bpe.encoding import pieces_of\n"
        "from tricycle_bpe.splitting import splitter\n"
        "print(pieces_of(b'aaaa', splitter('characters')))"
    )
    first = run(code, tmp_path, tmp_path / "cache")
    assert first.stdout == "[b'a', b'a', b'a', b'a']\n"
    assert "compiling kernels for this machine; this happens once" in first.stderr
    again = run(code, tmp_path, tmp_path / "cache")
    assert (again.stdout, again.stderr) == (first.stdout, "")

    bytes_at = tmp_path / "tricycle_bpe" / "bytes_at.py"
    bytes_at.write_text(
        bytes_at.read_text().replace(
            "byte_at = _loader(8, types.int64, _unsigned)",
            "byte_at = _loader(8, types.int64, lambda b, v: ir.Constant(ir.IntType(64), 0xC3))",
        )
    )
    changed = run(code, tmp_path, tmp_path / "cache")
    assert changed.stdout == "[b'aa', b'aa']\n"


def test_numbas_own_cache_folder_is_left_as_it_was():
    assert str(kernels.CACHE_FOLDER) != numba.config.CACHE_DIR
    assert str(kernels.CACHE_FOLDER) in scanning.scan_gpt2.stats.cache_path


def test_where_nothing_can_be_written_there_is_a_temporary_folder(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRICYCLE_CACHE", str(tmp_path / "file"))
    folder = kernels.cache_folder()
    assert folder.is_dir() and tmp_path not in folder.parents
