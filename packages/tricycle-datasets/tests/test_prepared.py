"""Prepared data: made once, continued after a stop, and refused for anything else."""

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import threading

import numpy as np
import pytest
from shard_folders import write_folder

from tricycle_datasets import (
    ShardError,
    is_prepared,
    one_at_a_time,
    open_prepared,
    open_source,
    prepare,
    read_record,
)


class Letters:
    """A tokeniser whose ids are the bytes of a text; it may be stopped at a side."""

    def __init__(self, sha256="f" * 64, stop_at=None):
        self.sha256, self.stop_at, self.made = sha256, stop_at, []

    def fingerprint(self):
        return self.sha256

    def save(self, folder):
        (folder / "tokenizer.json").write_text(self.sha256)

    def encode_documents(
        self, documents, out, *, workers, shard_tokens, max_tokens, document_separator
    ):
        if out.name == self.stop_at:
            raise KeyboardInterrupt
        self.made.append(out.name)
        ids, starts = [], []
        for text in documents:
            starts.append(len(ids))
            ids += [*text.encode(), 0]
            if max_tokens is not None and len(ids) >= max_tokens:
                break
        n_bytes = len(ids) - len(starts)
        return write_folder(out, ids, starts, per_file=shard_tokens, n_bytes=n_bytes)


@pytest.fixture
def source(tmp_path):
    lines = [json.dumps({"text": f"text {number}"}) + "\n" for number in range(50)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    return open_source(tmp_path / "texts.jsonl", 0.1)


def test_both_sides_are_encoded_and_the_record_says_what_they_are(source, tmp_path):
    place = tmp_path / "data"
    prepare(source, place, Letters())
    data = open_prepared(place, "f" * 64, source.record)
    for shards, texts in ((data.train, source.training()), (data.validation, source.validation())):
        assert bytes(np.asarray(shards).tolist()).decode() == "".join(f"{t}\0" for t in texts)
    assert data.validation_bytes == sum(len(text) for text in source.validation())
    record = json.loads((place / "data.json").read_text())
    assert data.record == record
    assert record["source"]["sha256"] == source.record["sha256"]
    assert (record["validation_share"], record["split_seed"]) == (0.1, 0)
    assert record["train"]["n_documents"] == 45
    assert record["validation"]["n_documents"] == 5
    assert data.facts() == {
        "train": data.train.digest,
        "validation": data.validation.digest,
        "tokeniser": "f" * 64,
    }


def test_it_continues_where_it_was_stopped(source, tmp_path):
    place = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, place, Letters(stop_at="validation"))
    assert not is_prepared(place)
    assert read_record(place)["source"] == source.record
    again = Letters()
    prepare(source, place, again)
    assert again.made == ["validation"]
    assert is_prepared(place)


def test_a_limit_holds_for_both_sides(source, tmp_path):
    prepare(source, tmp_path / "data", Letters(), max_tokens=100)
    train = read_record(tmp_path / "data")["train"]["n_documents"]
    assert 100 / 8 <= train <= 100 / 7 + 1
    beside = list(source.validation(train))
    assert read_record(tmp_path / "data")["validation"]["n_documents"] == len(beside) < 5


def test_a_folder_started_differently_is_refused(source, tmp_path):
    place = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, place, Letters(stop_at="train"))
    with pytest.raises(ValueError, match=r"data was prepared differently: tokeniser was 'fff"):
        prepare(source, place, Letters("0" * 64))
    with pytest.raises(
        ValueError, match="max_tokens was None, is 5. Ask for the same as then, choose"
    ):
        prepare(source, place, Letters(), max_tokens=5)
    other = open_source(source.record["path"], 0.2, seed=1)
    with pytest.raises(ValueError, match=r"validation_share was 0\.1, is 0\.2; split_seed was 0"):
        prepare(other, place, Letters())
    with open(source.record["path"], "a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(ValueError, match="source was .*, is .*remove that one"):
        prepare(open_source(source.record["path"], 0.1), place, Letters())


def test_finished_data_is_held_to_what_is_asked_for_and_left_as_it_is(source, tmp_path):
    place = tmp_path / "data"
    prepare(source, place, Letters())
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    again = Letters()
    prepare(source, place, again)
    assert again.made == []
    with pytest.raises(ValueError, match=r"validation_share was 0\.1, is 0\.2\. Ask for the same"):
        prepare(open_source(source.record["path"], 0.2), place, Letters())
    with pytest.raises(ValueError, match="max_tokens was None, is 100"):
        prepare(source, place, Letters(), max_tokens=100)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_data_of_another_place_is_the_same_and_other_data_is_refused(source, tmp_path):
    prepare(source, tmp_path / "data", Letters())
    copy = shutil.copy(source.record["path"], tmp_path / "copy.jsonl")
    assert open_prepared(tmp_path / "data", "f" * 64, open_source(copy).record).record
    (tmp_path / "other.txt").write_text("to be\n\nor not")
    with pytest.raises(
        ValueError,
        match=r"data was prepared differently: source was .*texts\.jsonl.*, is .*other\.txt",
    ):
        open_prepared(tmp_path / "data", "f" * 64, open_source(tmp_path / "other.txt").record)


def test_another_tokeniser_and_every_fault_are_refused(source, tmp_path):
    place = tmp_path / "data"
    with pytest.raises(ValueError, match="holds no prepared data: .* make it with prepare"):
        open_prepared(place, "f" * 64)
    prepare(source, place, Letters())
    with pytest.raises(ShardError, match="the ids were made by tokeniser 'letters'"):
        open_prepared(place, "0" * 64)
    shard = place / "train" / "00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"00000\.npy"):
        open_prepared(place, "f" * 64)
    (place / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json is not JSON"):
        is_prepared(place)


def test_of_two_that_prepare_one_folder_one_does_and_the_other_waits(source, tmp_path):
    class Slow(Letters):
        def encode_documents(self, *words, **options):
            first_is_in.set()
            assert second_waits.wait(60)
            return super().encode_documents(*words, **options)

    class Heard(io.StringIO):
        def write(self, text):
            if f"another process prepares {place}: waiting" in text:
                second_waits.set()
            return len(text)

    first_is_in, second_waits, place = threading.Event(), threading.Event(), tmp_path / "data"
    first, second = Slow(), Letters()
    thread = threading.Thread(target=prepare, args=(source, place, first))
    thread.start()
    assert first_is_in.wait(60)
    with contextlib.redirect_stderr(Heard()):
        prepare(source, place, second)
    thread.join()
    assert second_waits.is_set()
    assert (first.made, second.made) == (["train", "validation"], [])
    place.chmod(0o555)  # where nothing may be written, what is finished is taken all the same
    try:
        prepare(source, place, Letters())
    finally:
        place.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_where_there_are_no_locks_nobody_waits(source, tmp_path, monkeypatch, number):
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(one_at_a_time.fcntl, "flock", flock)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            prepare(source, tmp_path / "data", Letters())
    else:
        prepare(source, tmp_path / "data", Letters())
        assert is_prepared(tmp_path / "data")
