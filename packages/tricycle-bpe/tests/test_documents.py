"""Documents to shard folders: the ids of each, and the same bytes after any stop."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_bpe import Tokeniser, whole_files
from tricycle_bpe import documents as documents_module
from tricycle_bpe import shards as shards_module

pytestmark = pytest.mark.slow  # it starts many processes

END = "<|endoftext|>"
KILLS = 20 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 4
WORDS = ["one", "two", " three", "\n", " four", "!", "é"]


@pytest.fixture(scope="module")
def tokeniser():
    return Tokeniser.train(["one two three one two\n" * 3], 270, special_tokens=[END])


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Jobs of a few short documents, and no waiting for the disk, hundreds of times."""
    monkeypatch.setattr(documents_module, "JOB_BYTES", 100)
    for module in (documents_module, shards_module, whole_files):
        monkeypatch.setattr(module, "bring_to_disk", lambda _path: None)


def texts(n=60, seed=0):
    """Documents of 0 to 60 words; some are empty."""
    dealer = random.Random(seed)
    return ["".join(dealer.choices(WORDS, k=dealer.choice([0, 3, 20, 60]))) for _ in range(n)]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder):
    """The ids of all shards in a row, the starts of documents, and the index."""
    index = json.loads((folder / "index.json").read_text())
    ids = np.concatenate([np.load(folder / shard["file"]) for shard in index["shards"]])
    return ids.tolist(), np.load(folder / "documents.npy").tolist(), index


class Stop(BaseException):
    """Like Ctrl-C."""


def until(documents, stop):
    """Documents, and a stop before number `stop`."""
    yield from documents[:stop]
    raise Stop


# ---- What is written ----


def test_each_document_ends_with_the_separator_and_counts_its_bytes(tokeniser, tmp_path):
    folder = tokeniser.encode_documents(["one", "", "two é"], tmp_path / "out")
    one, two = ([*tokeniser.encode(text), 0] for text in ("one", "two é"))
    ids, documents, index = read(folder)
    assert ids == one + two
    assert documents == [0, len(one)]
    assert (index["n_documents"], index["n_tokens"]) == (2, len(ids))
    assert index["n_bytes"] == 3 + 6  # é has two
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_separator_documents_follow_each_other(tokeniser, tmp_path):
    folder = tokeniser.encode_documents(["one", "two"], tmp_path / "out", document_separator=None)
    assert read(folder)[0] == tokeniser.encode("one") + tokeniser.encode("two")


def test_what_looks_like_a_special_token_is_ordinary_text(tokeniser, tmp_path):
    ids, _, _ = read(tokeniser.encode_documents([f"one{END}two"], tmp_path / "out"))
    assert ids.count(0) == 1
    assert tokeniser.decode(ids[:-1]) == f"one{END}two"


def test_the_files_are_those_of_encode_file(tokeniser, tmp_path):
    kept = [text for text in texts() if text]
    (tmp_path / "all.txt").write_text(END.join(kept))
    options = {"shard_tokens": 50, "document_separator": END}
    from_file = tokeniser.encode_file(tmp_path / "all.txt", tmp_path / "file", **options)
    from_list = tokeniser.encode_documents(texts(), tmp_path / "list", **options)
    assert bytes_of(from_list) == bytes_of(from_file)


def test_any_number_of_workers_and_parts_of_any_length_give_the_same_bytes(
    tokeniser, tmp_path, monkeypatch
):
    whole = tokeniser.encode_documents(texts(), tmp_path / "1", shard_tokens=70)
    monkeypatch.setattr(documents_module, "PART_BYTES", 40)
    parts = tokeniser.encode_documents(texts(), tmp_path / "3", shard_tokens=70, workers=3)
    assert bytes_of(parts) == bytes_of(whole)


def test_it_ends_after_the_document_that_reaches_the_limit(tokeniser, tmp_path):
    one = len(tokeniser.encode("one")) + 1
    for limit, expected in ((1, 1), (one, 1), (one + 1, 2), (100, 3)):
        out = tmp_path / str(limit)
        tokeniser.encode_documents(["one"] * 3, out, max_tokens=limit)
        assert read(out)[2]["n_documents"] == expected


# ---- Resuming ----


@settings(max_examples=20)
@given(st.data())
def test_stopped_anywhere_any_number_of_times_it_ends_with_the_same_bytes(
    tokeniser, tmp_path_factory, data
):
    place = tmp_path_factory.mktemp("stopped")
    shard_tokens = data.draw(st.integers(10, 300), label="shard_tokens")
    documents = texts(30, seed=data.draw(st.integers(0, 5), label="texts"))
    options = {"shard_tokens": shard_tokens, "workers": data.draw(st.integers(1, 2))}
    for stop in data.draw(st.lists(st.integers(0, 30), max_size=3), label="stops"):
        with pytest.raises(Stop):
            tokeniser.encode_documents(until(documents, stop), place / "out", **options)
        assert not (place / "out").exists()
    tokeniser.encode_documents(documents, place / "out", **options)
    tokeniser.encode_documents(documents, place / "whole", shard_tokens=shard_tokens)
    assert bytes_of(place / "out") == bytes_of(place / "whole")
    assert sorted(path.name for path in place.iterdir()) == ["out", "whole"]


def test_it_encodes_only_what_is_not_yet_on_the_disk(tokeniser, tmp_path, monkeypatch):
    encoded = []
    monkeypatch.setattr(documents_module, "JOB_BYTES", 1)
    original = documents_module.encode

    def counting(tokeniser, job):
        encoded.extend(part.number for part in job)
        return original(tokeniser, job)

    monkeypatch.setattr(documents_module, "encode", counting)
    documents = ["zebras!"] * 100
    per_document = len(tokeniser.encode("zebras!")) + 1
    assert per_document > 5
    options = {"shard_tokens": 10 * per_document + 1}
    with pytest.raises(Stop):
        tokeniser.encode_documents(until(documents, 57), tmp_path / "out", **options)
    encoded.clear()
    tokeniser.encode_documents(documents, tmp_path / "out", **options)
    # Five shards were full, and the last of them ends within document 50.
    assert encoded == list(range(50, 100))


PROGRAM = """
import sys, time
from tricycle_bpe import Tokeniser, documents as module
module.JOB_BYTES = 1000
place = sys.argv[1]
documents = open(place + "/texts", encoding="utf-8", newline="").read().split("|")
def slowly():
    for document in documents:
        time.sleep(0.0005)
        yield document
Tokeniser.load(place).encode_documents(slowly(), place + "/out", shard_tokens=2000, workers=2)
"""


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tokeniser, tmp_path):
    documents = texts(3000)
    tokeniser.save(tmp_path)
    (tmp_path / "texts").write_text("|".join(documents), encoding="utf-8", newline="")
    moments = random.Random(1)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    place = tmp_path / ".out.preparing"
    for kill in range(KILLS):
        process = subprocess.Popen(words)
        wanted = 20 * (kill + 1) // KILLS + moments.randrange(3)
        while not (place / f"{wanted:05}.json").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        assert process.poll() is None, "it had ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(words, check=True)
    whole = tokeniser.encode_documents(documents, tmp_path / "whole", shard_tokens=2000)
    assert bytes_of(tmp_path / "out") == bytes_of(whole)
    assert not place.exists()


def stopped(tokeniser, tmp_path, documents):
    with pytest.raises(Stop):
        tokeniser.encode_documents(until(documents, 50), tmp_path / "out", shard_tokens=40)
    return tmp_path / ".out.preparing"


def test_a_damaged_shard_is_made_again(tokeniser, tmp_path):
    place = stopped(tokeniser, tmp_path, texts())
    shard = place / "shards" / "00002.npy"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    tokeniser.encode_documents(texts(), tmp_path / "out", shard_tokens=40)
    tokeniser.encode_documents(texts(), tmp_path / "whole", shard_tokens=40)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_other_texts_than_before_the_stop_are_refused(tokeniser, tmp_path):
    stopped(tokeniser, tmp_path, texts())
    with pytest.raises(ValueError, match=r"document \d+ is not the one that was there when .*prep"):
        tokeniser.encode_documents(["new", *texts()], tmp_path / "out", shard_tokens=40)
    with pytest.raises(ValueError, match=r"there are 2 documents now, and \d+ or more were there"):
        tokeniser.encode_documents(texts(2), tmp_path / "out", shard_tokens=40)


def test_other_settings_are_refused_unless_it_starts_again(tokeniser, tmp_path):
    place = stopped(tokeniser, tmp_path, texts())
    with pytest.raises(ValueError, match="started differently: shard_tokens was 40, is 50. Remove"):
        tokeniser.encode_documents(texts(), tmp_path / "out", shard_tokens=50)
    tokeniser.encode_documents(texts(), tmp_path / "out", shard_tokens=50, resume=False)
    assert not place.exists()


def test_one_that_waits_for_itself_is_refused(tokeniser, tmp_path):
    def documents():
        yield "one"
        with pytest.raises(FileExistsError, match="this program is writing to .*out.preparing"):
            tokeniser.encode_documents(["two"], tmp_path / "out")
        yield "one"

    folder = tokeniser.encode_documents(documents(), tmp_path / "out")
    assert tokeniser.decode(read(folder)[0]) == f"one{END}one{END}"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("ends_well", [True, False])
def test_of_two_at_once_the_second_waits_for_the_first(tokeniser, tmp_path, ends_well):
    first_is_in, second_waits = threading.Event(), threading.Event()

    def slow_documents():
        yield "one"
        first_is_in.set()
        assert second_waits.wait(60)
        if not ends_well:
            raise RuntimeError("the source is gone")
        yield "one"

    def write_first():
        with contextlib.suppress(RuntimeError):
            tokeniser.encode_documents(slow_documents(), tmp_path / "out")

    class Told(io.StringIO):
        def write(self, text):
            if "another process is writing to" in text:
                second_waits.set()
            return len(text)

    first = threading.Thread(target=write_first)
    first.start()
    assert first_is_in.wait(60)
    with contextlib.redirect_stderr(Told()):
        if ends_well:
            with pytest.raises(FileExistsError, match="out was made by another process, for which"):
                tokeniser.encode_documents(["one", "one"], tmp_path / "out")
        else:
            tokeniser.encode_documents(["one", "one"], tmp_path / "out")
    first.join()
    assert tokeniser.decode(read(tmp_path / "out")[0]) == f"one{END}one{END}"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_says_what_it_takes_and_how_to_go_on(tokeniser, tmp_path, small_files):
    with (
        small_files(1000),
        pytest.raises(OSError, match=r"it takes 4,000 bytes, and [\d,]+ are free\. .*ask for the"),
    ):
        tokeniser.encode_documents(texts(300), tmp_path / "out", shard_tokens=2000)
    tokeniser.encode_documents(texts(300), tmp_path / "out", shard_tokens=2000)
    tokeniser.encode_documents(texts(300), tmp_path / "whole", shard_tokens=2000)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    (tmp_path / "text.txt").write_text("".join(texts(300)))
    with small_files(1000), pytest.raises(OSError, match="begin again: nothing is left of it"):
        tokeniser.encode_file(tmp_path / "text.txt", tmp_path / "shards", shard_tokens=2000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt", "whole"]


def test_an_error_in_writing_a_shard_is_raised_before_the_next(tokeniser, tmp_path, monkeypatch):
    def full(path):
        if path.name == "00001.npy":
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(documents_module, "bring_to_disk", full)
    with pytest.raises(OSError, match="No space left on device"):
        tokeniser.encode_documents(texts(), tmp_path / "out", shard_tokens=40, workers=2)
    monkeypatch.setattr(documents_module, "bring_to_disk", lambda _path: None)
    tokeniser.encode_documents(texts(), tmp_path / "out", shard_tokens=40)
    tokeniser.encode_documents(texts(), tmp_path / "whole", shard_tokens=40)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


# ---- Mistakes ----


@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_no_text_at_all_is_refused_and_leaves_nothing(tokeniser, tmp_path, documents):
    with pytest.raises(ValueError, match="no documents with text in them"):
        tokeniser.encode_documents(documents, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_not_text_is_named(tokeniser, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"document 1 holds half a surrogate pair, .* character 2"):
        tokeniser.encode_documents(["one", "tw\ud800"], out)
    with pytest.raises(TypeError, match=r"document 0 is a bytes, not a text"):
        tokeniser.encode_documents([b"one"], out)
    with pytest.raises(ValueError, match="documents is one string"):
        tokeniser.encode_documents("one", out)


def test_wrong_arguments_are_refused(tokeniser, tmp_path):
    with pytest.raises(FileExistsError, match="exists already; remove it or write to another"):
        tokeniser.encode_documents(["one"], tmp_path)
    with pytest.raises(ValueError, match="'<x>' is not a special token"):
        tokeniser.encode_documents(["one"], tmp_path / "out", document_separator="<x>")
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        tokeniser.encode_documents(["one"], tmp_path / "out", max_tokens=0)
