"""Any data by one word: the same documents each time, in two sides that never meet."""

import hashlib
import json
import lzma
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_hub import FIRST, SECOND, hub, numbered  # noqa: F401 (a fixture)

from tricycle_datasets import is_validation, open_source
from tricycle_datasets import source as source_module


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def both(source):
    return list(source.training()), list(source.validation())


# ---- Two sides ----


def test_a_few_documents_are_joined_and_cut_once(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name} one.\n\n{name} two.")
    training, validation = both(open_source(tmp_path, 0.2))
    joined = "\n\n".join(f"{name} one.\n\n{name} two." for name in "abc")
    assert training[0] + validation[0] == joined
    assert validation == ["c two."]


@pytest.mark.parametrize(("n", "kept"), [(20, 1), (30, 2), (100, 5), (399, 20)])
def test_of_some_documents_the_share_asked_for_is_kept_and_one_at_least(tmp_path, n, kept):
    texts = numbered(0, n)
    training, validation = both(open_source(write_lines(tmp_path / "a.jsonl", texts)))
    assert len(validation) == kept
    assert sorted(training + validation) == sorted(texts)
    assert training == [text for text in texts if text in training]


def test_of_many_documents_each_has_its_side_by_its_hash(tmp_path):
    texts = numbered(0, 1000)
    source = open_source(write_lines(tmp_path / "a.jsonl", texts), 0.05, seed=3)
    expected = [text for text in texts if is_validation(text, 0.05, seed=3)]
    assert 20 < len(expected) < 100
    assert both(source) == ([text for text in texts if text not in expected], expected)


@given(n=st.integers(20, 60), copies=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_text_that_comes_twice_is_on_one_side(tmp_path_factory, n, copies, seed):
    path = write_lines(tmp_path_factory.mktemp("copies") / "a.jsonl", numbered(0, n) * copies)
    training, validation = both(open_source(path, 0.1, seed=seed))
    assert not set(training) & set(validation)
    assert validation


def test_validation_beside_a_part_of_the_training_text_comes_from_before_its_end(tmp_path):
    texts = [*numbered(0, 300), "", *numbered(300, 600)]
    source = open_source(write_lines(tmp_path / "a.jsonl", texts), 0.1)
    training = [text for text in source.training() if text]
    end = texts.index(training[200])  # the first that is not used
    expected = [text for text in texts[:end] if text and text not in training]
    assert list(source.validation(beside=200)) == expected
    assert list(source.validation()) != expected
    assert list(source.validation(beside=0)) == list(source.validation())[:1]


def test_the_beginning_ends_with_the_document_that_fills_it(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", ["éa"] * 10 + numbered(0, 30)))
    training = list(source.training())
    for n_bytes, count in ((0, 1), (3, 1), (4, 2), (10**6, len(training))):
        assert list(source.beginning(n_bytes)) == training[:count]


# ---- What it was ----


def test_the_record_has_the_sha256_of_a_file_and_of_a_folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("two")
    (tmp_path / "one.txt").write_text("one")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    file = open_source(tmp_path / "one.txt").record
    assert file == {"path": str(tmp_path / "one.txt"), "files": 1, "bytes": 3, "sha256": one}
    folder = open_source(tmp_path)
    lines = f"{two}  b/two.md\n{one}  one.txt\n".encode()
    assert (folder.record["files"], folder.record["bytes"]) == (2, 6)
    assert folder.record["sha256"] == hashlib.sha256(lines).hexdigest()
    assert not folder.is_hub
    assert open_source(None).record == {"name": "shakespeare"}
    assert len(next(open_source(None).training())) > 1_000_000


def test_compressed_lines_with_another_field_are_read(tmp_path):
    with lzma.open(tmp_path / "a.jsonl.xz", "wt") as file:
        file.writelines(json.dumps({"content": text}) + "\n" for text in numbered(0, 30))
    source = open_source(tmp_path / "a.jsonl.xz", field="content")
    assert sorted(sum(both(source), [])) == sorted(numbered(0, 30))
    assert source.record["field"] == "content"


def test_a_dataset_of_the_hub_stays_at_its_commit(hub, monkeypatch):  # noqa: F811
    here = partial(source_module.hub_documents, endpoint=hub.url)
    monkeypatch.setattr(source_module, "hub_documents", here)
    monkeypatch.setattr(source_module, "FEW", 5)
    source = open_source("hub:poets/works", 0.2)
    assert source.is_hub
    assert source.record["commit"] == FIRST
    hub.branches["main"] = SECOND
    assert sorted(sum(both(source), [])) == sorted(numbered(0, 12))
    again = open_source("hub:poets/works", 0.2, record=source.record)
    assert again.record == source.record
    assert open_source("hub:poets/works").record["commit"] == SECOND


def test_a_file_named_as_a_dataset_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fineweb").mkdir()
    (tmp_path / "fineweb" / "a.txt").write_text("to be\n\nor not")
    assert both(open_source("fineweb", 0.4)) == (["to be\n\n"], ["or not"])


# ---- Mistakes ----


def test_mistakes_are_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder at .*there are fineweb, fine"):
        open_source(tmp_path / "nothing")
    (tmp_path / "a.pdf").write_text("%PDF")
    with pytest.raises(ValueError, match=r"cannot tell how to read .*a\.pdf"):
        open_source(tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="validation must be a fraction between 0 and 1, got 1"):
        open_source(None, 1.0)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="a folder of ids of one side only"):
        open_source(tmp_path)


def test_documents_that_are_all_alike_cannot_be_parted(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", ["the same"] * 30))
    message = (
        r"no document of a\.jsonl is left to train on: they are all the same, or validation=0\."
    )
    with pytest.raises(ValueError, match=message):
        source.training()
    source = open_source(write_lines(tmp_path / "b.jsonl", map(str, range(20))), 0.98)
    with pytest.raises(ValueError, match=r"or validation=0\.98 is too large a share"):
        source.training()


def test_a_share_that_keeps_no_document_is_refused(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", numbered(0, 500)), 1e-9)
    assert len(list(source.training())) == 500
    with pytest.raises(
        ValueError, match="validation=1e-09 of a.jsonl is not one document with text"
    ):
        list(source.validation())
