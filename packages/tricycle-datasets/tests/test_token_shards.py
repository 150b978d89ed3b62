"""Token shards: a folder as one long row, and a name for everything that can be wrong with it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import IDS, STARTS, contents, save, write_folder

from tricycle_datasets import Batches, ShardError, TokenShards
from tricycle_datasets.shard_files import ShardFile

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"


@pytest.fixture
def folder(tmp_path):
    """50 ids in files of 20, 20 and 10; five documents, one of which is empty."""
    return write_folder(tmp_path / "shards", IDS, STARTS)


# ---- By hand ----


def test_seven_ids_in_files_of_three(tmp_path):
    ids = [5, 1, 4, 2, 9, 3, 8]
    shards = TokenShards(write_folder(tmp_path / "s", ids, [0, 4], per_file=3, n_vocab=10))
    assert len(list((tmp_path / "s").glob("0*.npy"))) == 3
    assert len(shards) == 7
    assert shards.shape == (7,)
    assert shards.n_vocab == 10
    assert shards.tokeniser == {"name": "letters", "sha256": "f" * 64}
    assert shards.document_starts.tolist() == [0, 4]
    assert shards[2] == 4
    assert shards[-1] == 8
    assert shards[2:4].tolist() == [4, 2]  # from the first file into the second
    assert shards[1:].tolist() == [1, 4, 2, 9, 3, 8]  # from the first into the third
    assert shards[3:3].tolist() == []
    assert shards[[6, 0, -2]].tolist() == [8, 5, 3]
    assert shards[np.array([[0, 1], [5, 6]])].tolist() == [[5, 1], [3, 8]]
    assert shards[2:4].dtype == shards.dtype == np.uint16
    assert np.asarray(shards, np.int64).tolist() == ids
    assert repr(shards).endswith("s': 7 ids below 10, 2 documents)")


# ---- Properties ----

places = st.integers(-60, 60)


@given(
    st.integers(1, 60),
    st.tuples(places, places, st.integers(-3, 3).filter(bool)),
    st.lists(st.integers(-50, 49), max_size=9),
)
def test_it_reads_as_an_array_does(tmp_path_factory, per_file, cut, some):
    path = tmp_path_factory.mktemp("s") / "shards"
    shards = TokenShards(write_folder(path, per_file=per_file, dtype="uint32"), verify=False)
    np.testing.assert_array_equal(shards[slice(*cut)], IDS[slice(*cut)])
    np.testing.assert_array_equal(shards[some], IDS[np.array(some, int)])
    np.testing.assert_array_equal(np.asarray(shards), IDS)


def test_what_is_read_may_be_changed(folder):
    shards = TokenShards(folder)
    shards[:][:] = 7
    shards[3:9][:] = 7
    np.testing.assert_array_equal(shards[:], IDS)


def test_many_files_are_not_kept_open(tmp_path):
    path = write_folder(tmp_path / "shards", np.arange(300), per_file=1)
    program = (
        "import resource, sys, numpy as np; from tricycle_datasets import TokenShards\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "shards = TokenShards(sys.argv[1])\n"
        "for _ in range(2): assert shards[:].tolist() == list(range(300))"
    )
    assert subprocess.run([sys.executable, "-c", program, path]).returncode == 0


def test_verifying_takes_constant_memory(tmp_path):
    ids = np.zeros(20_000_000, np.uint16)
    path = write_folder(tmp_path / "shards", ids, per_file=len(ids))
    tracemalloc.start()
    shards = TokenShards(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shards) == 20_000_000
    assert peak < 10e6


def test_the_digest_is_that_of_all_it_holds(tmp_path):
    one = TokenShards(write_folder(tmp_path / "one", IDS, STARTS))
    same = TokenShards(write_folder(tmp_path / "same", IDS, STARTS))
    other = TokenShards(write_folder(tmp_path / "other", IDS[::-1], STARTS))
    assert one.digest == same.digest != other.digest


# ---- Damage ----


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_of_1000_damaged_folders_none_is_read_silently_and_none_ends_the_process(tmp_path, seed):
    # In a process of its own, so that the end of it would be seen.
    program = Path(__file__).with_name("shard_folders.py")
    command = [sys.executable, program, tmp_path / "shards", "1000", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout)
    assert came["named"] + came["harmless"] == 1000
    assert came["named"] > 700  # the others are, for example, damage to an index already read


def edit_index(**changes):
    def edit(folder):
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(index | changes))

    return edit


def edit_shard(**changes):
    def edit(folder):
        index = json.loads((folder / "index.json").read_text())
        index["shards"][1] |= changes
        (folder / "index.json").write_text(json.dumps(index))

    return edit


def replace(name, array):
    """Another array in the place of a file, with its sha256 in the index."""

    def edit(folder):
        index = json.loads((folder / "index.json").read_text())
        about = save(folder / name, array)
        for entry in [*index["shards"], index["documents"]]:
            if entry["file"] == name:
                entry |= about
        (folder / "index.json").write_text(json.dumps(index))

    return edit


def bytes_of(name, change):
    def edit(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def too_large(at):
    ids = IDS[20:40].astype(np.uint16)
    ids[at] = 300
    return ids


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (
            lambda f: (f / "index.json").unlink(),
            "index.json is missing, so .* is not a shard folder",
        ),
        (lambda f: (f / "00001.npy").unlink(), "00001.npy is missing, but index.json names it: co"),
        (lambda f: (f / "documents.npy").unlink(), "documents.npy is missing, but index.json name"),
        (lambda f: shutil.copy(f / "00002.npy", f / "00003.npy"), "holds 00003.npy, which index.j"),
        (bytes_of("index.json", lambda b: b[:-9]), "index.json is not JSON .*: copy it again, or "),
        (bytes_of("index.json", lambda b: b"\xff" + b), "index.json is not JSON .'utf-8' codec ca"),
        (bytes_of("index.json", lambda b: b"[1]"), r"format is \[1\], wanted 'tricycle-shards'"),
        (edit_index(format="other"), "index.json is not the index .* format is 'other', wanted 't"),
        (edit_index(version=2), "index.json has version 2, and this program reads version 1: use "),
        (edit_index(version=True), "index.json has version True, and this program reads version 1"),
        (edit_index(n_tokens=0), "shards is empty: no tokens; prepare it again, from more text"),
        (edit_index(n_tokens=51), "n_tokens should be the sum of all: 50, it is 51; copy it again"),
        (edit_index(n_vocab="x"), "n_vocab should be a whole number of 1 or more, it is 'x'; copy"),
        (edit_index(dtype="int8"), "index.json: dtype should be 'uint16' or 'uint32', it is 'int8"),
        (edit_index(dtype="uint32"), "00000.npy holds numbers of dtype '<u2', but .* says uint32"),
        (edit_index(shards=[]), "index.json: shards should be a list of files, it is "),
        (edit_index(documents=None), "each file should be a record of file and sha256, it is None"),
        (edit_index(tokeniser="gpt2"), "tokeniser should be a record of name and sha256, it is 'g"),
        (edit_index(n_documents=4), "documents.npy says 5 numbers, but index.json says 4: prepare"),
        (edit_index(n_vocab=200), "00000.npy holds id .*, which does not fit the vocabulary of 20"),
        (edit_shard(file="../00001.npy"), "file of shard 1 should be '00001.npy', it is '../00001"),
        (edit_shard(n_tokens=21), "n_tokens should be the sum of all: 51, it is 50"),
        (edit_shard(sha256="0" * 64), "00001.npy is damaged: its sha256 is .* says 000.*; copy it"),
        (bytes_of("00001.npy", lambda b: b""), "00001.npy is cut short: its 0 bytes do not hold a"),
        (bytes_of("00001.npy", lambda b: b[:-1]), "00001.npy is cut short: it has 167 bytes, and "),
        (bytes_of("00001.npy", lambda b: b + b"\0"), "00001.npy is longer than it should be: it h"),
        (bytes_of("00001.npy", lambda b: b[:1] + b), "00001.npy does not begin as a .npy file .ve"),
        (bytes_of("00001.npy", lambda b: b[:-2] + b"\1\1"), "00001.npy is damaged: its sha256"),
        (replace("00001.npy", IDS[20:40].astype(np.int16)), "holds numbers of dtype '<i2', but in"),
        (replace("00001.npy", IDS[20:39].astype(np.uint16)), "00001.npy says 19 numbers, but inde"),
        (replace("00001.npy", too_large(7)), "00001.npy holds id 300, which does not fit the voca"),
        (replace("documents.npy", np.array([0, 9, 8, 8, 30])), "documents should begin at 0 and t"),
        (replace("documents.npy", np.array([1, 7, 8, 8, 30])), "they begin at .1, 7, 8. … 30; pre"),
        (replace("documents.npy", np.array([0, 7, 8, 8, 51])), "and then in order, up to 50; they"),
    ],
)
def test_a_fault_is_named_before_the_first_step(folder, fault, wanted):
    TokenShards(folder)
    fault(folder)
    with pytest.raises(ShardError, match=wanted) as caught:
        TokenShards(folder)
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_another_tokeniser_is_named(folder):
    assert len(TokenShards(folder, tokeniser_sha256="f" * 64)) == 50
    wanted = "made by tokeniser 'letters' with sha256 fff.*, and the one wanted has eee.*: prepare"
    with pytest.raises(ShardError, match=wanted.replace(": ", "; ")):
        TokenShards(folder, tokeniser_sha256="e" * 64)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at .*shards"):
        TokenShards(tmp_path / "shards")


def test_unverified_damage_is_named_when_an_id_cannot_be(tmp_path):
    folder = write_folder(tmp_path / "shards", too_large(7), n_vocab=300)
    shards = TokenShards(folder, verify=False)
    assert shards[:7].tolist() == IDS[20:27].tolist()
    with pytest.raises(ShardError, match="00000.npy holds id 300, which does not fit the vocab"):
        shards[:8]
    with pytest.raises(ShardError, match="00000.npy holds id 300"):
        shards[[7]]


@pytest.mark.parametrize("index", [50, -51, [0, 50], [-51]])
def test_an_index_outside_is_named(folder, index):
    with pytest.raises(IndexError, match="index (50|-51) lies outside of 50 tokens"):
        TokenShards(folder)[index]


@pytest.mark.parametrize("index", [1.0, "a", [True, False], None])
def test_an_index_of_another_kind_is_named(folder, index):
    with pytest.raises(IndexError, match="indexed by integers, slices and integer arrays, got"):
        TokenShards(folder)[index]


# ---- Change while in use ----


def in_place(content):
    return lambda path: path.write_bytes(content(path.read_bytes()))


def another_file(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (in_place(lambda content: content[:130]), "00001.npy changed while .* .size 168 became 13"),
        (in_place(lambda content: b""), "00001.npy changed while .* .size 168 became 0, changed"),
        (in_place(lambda content: content + b"\0"), "00001.npy changed while .* became 169, "),
        (in_place(lambda content: content[::-1]), "00001.npy changed while it was in use .changed"),
        (another_file, "00001.npy changed while it was in use .*inode .*: nothing more is read fr"),
        (Path.unlink, "00001.npy was removed while it was in use: put it back, and start again fr"),
    ],
)
def test_a_file_that_changes_while_in_use_is_named(folder, change, wanted):
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # as old as files usually are
    shards = TokenShards(folder)
    change(folder / "00001.npy")
    assert shards[:20].tolist() == IDS[:20].tolist()  # the other files are what they were
    for where in (25, slice(19, 21), [0, 39]):
        with pytest.raises(ShardError, match=wanted):
            shards[where]


def test_a_read_that_brings_too_little_is_no_read(folder):
    file = ShardFile.open(folder / "00001.npy", "uint16", 20, "")
    np.testing.assert_array_equal(file.read(3, 20), IDS[23:40])
    with pytest.raises(ShardError, match="00001.npy ended 2 bytes too early: copy it again"):
        file.read(3, 21)


def test_batches_stop_at_a_file_that_changed(folder):
    os.utime(folder / "00002.npy", (1e9, 1e9))
    batches = Batches(TokenShards(folder), 8, 5, seed=0)
    next(batches)
    whole = contents(folder)["00002.npy"]
    (folder / "00002.npy").write_bytes(whole[:-2])
    with pytest.raises(ShardError, match=re.escape("00002.npy changed while it was in use")):
        next(batches)
