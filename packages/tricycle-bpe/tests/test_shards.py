"""Shard folders: ids on disk, whole or not there at all."""

import hashlib
import json

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_bpe import shards as shards_module

END = "<|end|>"


@pytest.fixture(scope="module")
def tokeniser():
    return Tokeniser.train(["one two three one two\n" * 3], 270, special_tokens=[END])


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(f"one two{END}three\none two{END}{END}two")
    return path


def read(folder):
    """The ids of all shards in a row, the starts of documents, and the index."""
    index = json.loads((folder / "index.json").read_text())
    ids = [np.load(folder / shard["file"], mmap_mode="r") for shard in index["shards"]]
    return (
        np.concatenate([*ids, []]).astype(int).tolist(),
        np.load(folder / "documents.npy").tolist(),
        index,
    )


def test_each_document_ends_with_the_separator(tokeniser, corpus, tmp_path):
    folder = tokeniser.encode_file(corpus, tmp_path / "out", document_separator=END)
    ids, documents, index = read(folder)
    texts = ["one two", "three\none two", "two"]
    expected = [tokeniser.encode(text) + [0] for text in texts]
    assert ids == sum(expected, [])
    assert documents == [0, len(expected[0]), len(expected[0]) + len(expected[1])]
    assert index["n_tokens"] == len(ids)
    assert index["n_documents"] == 3
    assert index["dtype"] == "uint16"
    assert index["n_vocab"] == tokeniser.n_vocab
    assert index["tokeniser"]["sha256"] == tokeniser.fingerprint()


def test_without_a_separator_each_file_is_a_document(tokeniser, tmp_path):
    (tmp_path / "texts").mkdir()
    for name, text in {"b.txt": "two", "a.txt": "one", "c.md": "three", "d.txt": ""}.items():
        (tmp_path / "texts" / name).write_text(text)
    ids, documents, _ = read(tokeniser.encode_file(tmp_path / "texts", tmp_path / "out"))
    one = tokeniser.encode("one")
    assert ids == one + tokeniser.encode("two")
    assert documents == [0, len(one), len(ids)]


def test_shards_are_cut_after_the_given_number_of_tokens(tokeniser, corpus, tmp_path):
    whole, _, _ = read(tokeniser.encode_file(corpus, tmp_path / "one", document_separator=END))
    cut, documents, index = read(
        tokeniser.encode_file(corpus, tmp_path / "many", shard_tokens=3, document_separator=END)
    )
    assert cut == whole
    assert [shard["n_tokens"] for shard in index["shards"][:-1]] == [3] * (len(whole) // 3)
    assert [shard["file"] for shard in index["shards"][:2]] == ["00000.npy", "00001.npy"]


def test_the_index_holds_the_hash_of_each_file(tokeniser, corpus, tmp_path):
    folder = tokeniser.encode_file(corpus, tmp_path / "out")
    _, _, index = read(folder)
    for entry in [*index["shards"], index["documents"]]:
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("workers", [1, 3])
def test_parts_and_workers_give_the_ids_of_the_whole(tokeniser, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(shards_module, "PART_BYTES", 50)
    text = "".join(f"one{'!' * (k % 3)}\n{'two' if k % 5 else ' three'} {k}\n" for k in range(200))
    (tmp_path / "long.txt").write_text(text)
    folder = tokeniser.encode_file(tmp_path / "long.txt", tmp_path / "out", workers=workers)
    assert read(folder)[0] == tokeniser.encode(text)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_files(tokeniser, corpus, tmp_path, workers):
    folders = [
        tokeniser.encode_file(corpus, tmp_path / str(k), workers=k, shard_tokens=3)
        for k in (workers, workers + 1)
    ]
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert first == second


def test_a_folder_that_exists_is_left_alone(tokeniser, corpus, tmp_path):
    with pytest.raises(FileExistsError, match="exists already; remove it or write to another"):
        tokeniser.encode_file(corpus, tmp_path)


def test_a_failure_leaves_no_files(tokeniser, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"one \xff two")
    with pytest.raises(ValueError, match="bad.txt is not UTF-8 text: .* position 4"):
        tokeniser.encode_file(tmp_path / "bad.txt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_wrong_arguments_are_refused(tokeniser, corpus, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="dtype uint8 cannot hold ids up to"):
        tokeniser.encode_file(corpus, out, dtype="uint8")
    with pytest.raises(ValueError, match=r"'<x>' is not a special token .* \['<|end|>'\]"):
        tokeniser.encode_file(corpus, out, document_separator="<x>")
    with pytest.raises(ValueError, match="shard_tokens must be at least 1, got 0"):
        tokeniser.encode_file(corpus, out, shard_tokens=0)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        tokeniser.encode_file(corpus, out, workers=0)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder with .txt files"):
        tokeniser.encode_file(tmp_path / "nothing", out)


def test_a_large_vocabulary_needs_four_bytes(corpus, tmp_path):
    vocab = {bytes([byte]): byte for byte in range(256)} | {b"on": 70_000}
    tokeniser = Tokeniser(vocab, [(b"o", b"n")])
    ids, _, index = read(tokeniser.encode_file(corpus, tmp_path / "out"))
    assert index["dtype"] == "uint32"
    assert 70_000 in ids
