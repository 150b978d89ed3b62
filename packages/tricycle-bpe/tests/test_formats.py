"""Reading and writing everyone's files, and refusing broken ones with a reason."""

import base64
import contextlib
import json
import random
import tracemalloc

import numpy as np
import pytest
import tokenizers

from tricycle_bpe import Tokeniser, formats
from tricycle_bpe.byte_characters import CHARACTER_OF, from_characters, to_characters
from tricycle_bpe.splitting import PATTERNS

TEXT = "the cat sat on the mat. The other cat isn't there; it's out! 1234 été 漢字\n\n" * 3
SAMPLE = TEXT + "  another text,\r\n with OTHER words\t\tand\u3000blanks 👩\u200d👧\n  \n"


@pytest.fixture(scope="module")
def tokeniser():
    return Tokeniser.train([TEXT], 300, special_tokens=["<|end|>"])


@pytest.fixture
def document(tokeniser, tmp_path):
    """A tokenizer.json as a dictionary, to be spoilt."""
    tokeniser.save(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_text())


@pytest.fixture
def load(tmp_path):
    def write_and_load(document):
        path = tmp_path / "spoilt.json"
        path.write_text(json.dumps(document))
        return Tokeniser.from_huggingface(path)

    return write_and_load


def test_bytes_are_written_as_characters_one_can_see():
    assert to_characters(b" the\n") == "ĠtheĊ"
    assert from_characters("ĠtheĊ") == b" the\n"
    assert from_characters("no blanks") is None
    assert len(set(CHARACTER_OF.values())) == 256


def test_a_rank_file_is_a_line_for_each_token(tmp_path):
    lines = [(bytes([byte]), byte) for byte in range(256)] + [(b"ab", 256), (b"abc", 257)]
    text = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in lines)
    (tmp_path / "tiny.tiktoken").write_bytes(text)
    tokeniser = Tokeniser.from_tiktoken(tmp_path / "tiny.tiktoken", r"\w+", {"<|end|>": 258})
    assert tokeniser.encode("abcab c") == [257, 256, 32, ord("c")]
    assert tokeniser.merges == [(b"a", b"b"), (b"ab", b"c")]
    tokeniser.to_tiktoken(tmp_path / "again.tiktoken")
    assert (tmp_path / "again.tiktoken").read_bytes() == text


def test_gpt2s_own_two_files_are_its_rank_file(data_file, tmp_path):
    two_files = data_file("vocab/vocab.bpe"), data_file("vocab/encoder.json")
    tokeniser = Tokeniser.from_gpt2(*two_files)
    ranks = Tokeniser.from_tiktoken(data_file("vocab/r50k_base.tiktoken"), "gpt2")
    assert tokeniser.vocab == ranks.vocab
    assert tokeniser.merges == ranks.merges
    assert tokeniser.special_tokens == {"<|endoftext|>": 50256}
    assert tokeniser.encode(SAMPLE) == ranks.encode(SAMPLE)
    tokeniser.to_gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    assert (tmp_path / "vocab.bpe").read_text() == two_files[0].read_text()
    assert json.loads((tmp_path / "encoder.json").read_text()) == json.loads(
        two_files[1].read_text()
    )


def test_what_was_written_as_gpt2s_files_is_read_back(tokeniser, tmp_path):
    tokeniser.to_gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    again = Tokeniser.from_gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    assert again.fingerprint() == tokeniser.fingerprint()


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "cl100k-huggingface", "o200k", r"\p{L}+"])
def test_hugging_face_reads_what_we_write(pattern, tmp_path):
    tokeniser = Tokeniser.train([TEXT], 300, pattern=pattern, special_tokens=["<|end|>"])
    tokeniser.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = f"{SAMPLE}<|end|>{SAMPLE}"
    ids = tokeniser.encode(text, allowed_special="all")
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text
    assert Tokeniser.load(tmp_path).pattern == pattern


def test_we_read_what_hugging_face_writes(tmp_path):
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([TEXT], vocab_size=300, special_tokens=["<s>"], show_progress=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokeniser.load(tmp_path)
    assert ours.encode(SAMPLE + "<s>", allowed_special="all") == theirs.encode(SAMPLE + "<s>").ids


def test_merges_may_be_written_as_one_string(document, load, tokeniser):
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    assert load(document).merges == tokeniser.merges


SPOILT = {
    "a WordPiece model": (lambda d: d["model"].update(type="WordPiece"), "'WordPiece' model"),
    "no model": (lambda d: d.pop("model"), "expected a dict in 'model', found None"),
    "no merges": (lambda d: d["model"].update(merges=3), "expected a list in 'merges', found 3"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "model has dropout 0.1"),
    "bytes as <0x41>": (lambda d: d["model"].update(byte_fallback=True), "has byte_fallback"),
    "a normaliser": (
        lambda d: d.update(normalizer={"type": "Lowercase"}),
        "`normalizer` 'Lowercase' changes texts in a way that is not known here; NFC",
    ),
    "another pre-tokeniser": (
        lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
        r"pre-tokeniser \['Whitespace'\] cannot be followed",
    ),
    "no pre-tokeniser": (lambda d: d.update(pre_tokenizer=None), "cannot be followed"),
    "added tokens that are a number": (lambda d: d.update(added_tokens=3), "a list in 'added_tok"),
    "a merge of three": (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "of two tokens"),
    "a merge of nothing": (lambda d: d["model"]["merges"].append(["x", "漢"]), "byte-level chara"),
    "a merge to no token": (lambda d: d["model"]["merges"].append(["q", "q"]), "b'qq' is not in"),
    "an id used by two kinds": (
        lambda d: d["model"]["vocab"].update({"a b": 40}),
        "a token and one of the tokens that no text gets have the same id 40",
    ),
    "an id that is a word": (lambda d: d["model"]["vocab"].update(a="one"), "'a' has the id 'one'"),
    "an id below zero": (lambda d: d["model"]["vocab"].update(a=-1), "b'a' has the id -1; ids go"),
    "an enormous id": (lambda d: d["model"]["vocab"].update(a=10**15), "ids go from 0 to 4194303"),
    "an id used twice": (
        lambda d: d["model"]["vocab"].update(a=40),
        r"two tokens have the same id 40, b'.' and b'.'; give each an id of its own",
    ),
    "an empty special token": (
        lambda d: d["added_tokens"][0].update(content=""),
        "the token with id .* is empty; a token has a byte at least: leave it out",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_document_is_refused_for(what, document, load):
    spoil, message = SPOILT[what]
    spoil(document)
    with pytest.raises(ValueError, match=message):
        load(document)


def test_what_is_not_json_is_refused(tmp_path):
    for wrong in b"{", b"\xff\xfe\x00", b"[" * 100_000:
        (tmp_path / "tokenizer.json").write_bytes(wrong)
        with pytest.raises(ValueError, match="is not JSON"):
            Tokeniser.load(tmp_path)


def test_broken_rank_files_are_refused(tmp_path):
    path = tmp_path / "broken.tiktoken"
    for line, message in {
        b"YQ== 0\nYQ==": "line 2: expected a token in base64 and its rank",
        b"Y!== 0": "line 1: expected a token in base64",
        b"YQ== zero": "expected a token in base64 and its rank",
        b"YQ== 0\nYg== 0": "two tokens have the same id",
        b" 0": "expected a token in base64",
        base64.b64encode(b"a" * 2000) + b" 0": "a token of 2000 bytes is too long",
        b"": "no tokens at all",
    }.items():
        path.write_bytes(line)
        with pytest.raises(ValueError, match=message):
            Tokeniser.from_tiktoken(path, "gpt2")


def test_broken_files_of_gpt2_are_refused(tokeniser, tmp_path):
    merges, ids = tmp_path / "vocab.bpe", tmp_path / "encoder.json"
    tokeniser.to_gpt2(merges, ids)
    ids.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"expected the id of each token, found \[1, 2\]"):
        Tokeniser.from_gpt2(merges, ids)
    tokeniser.to_gpt2(merges, ids)
    merges.write_text("#version: 0.2\nt h e\n")
    with pytest.raises(ValueError, match="expected a merge of two tokens, found 't h e'"):
        Tokeniser.from_gpt2(merges, ids)
    merges.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not text"):
        Tokeniser.from_gpt2(merges, ids)


def test_a_vocabulary_must_fit_together():
    with pytest.raises(
        ValueError, match="joins b'a' and b'b', but b'ab' is not in the voc.* an id"
    ):
        Tokeniser({b"a": 0, b"b": 1}, [(b"a", b"b")])
    with pytest.raises(ValueError, match="two special tokens have the same id 1, '<|x|>' and '<|y"):
        Tokeniser({b"a": 0}, [], {"<|x|>": 1, "<|y|>": 1})


def test_saving_again_replaces_the_file_whole(tokeniser, tmp_path):
    tokeniser.save(tmp_path)
    tokeniser.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Spoil a file a little: change, drop, double or swap some of its bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.randrange(len(data)) for _ in range(2))
        kind = rng.randrange(6)
        if kind == 0:
            data[i] = rng.randrange(256)
        elif kind == 1:
            del data[i : i + rng.randint(1, 20)]
        elif kind == 2:
            data[i:i] = data[j : j + rng.randint(1, 40)]
        elif kind == 3:
            data[i:i] = rng.choice(
                [b"9" * 30, b"null", b"[[[", b'"', b"-1", b"1e400", b"\x00", b" "]
            )
        elif kind == 4:
            data[i], data[j] = data[j], data[i]
        else:
            del data[j:]
        data = data or bytearray(b" ")
    return bytes(data)


def test_mutated_files_load_or_raise_value_errors(tmp_path, thoroughness):
    tokeniser = Tokeniser.train([TEXT], 270, special_tokens=["<|end|>"])
    tokeniser.save(tmp_path)
    tokeniser.to_tiktoken(tmp_path / "ranks")
    tokeniser.to_gpt2(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    merges, ids = tmp_path / "vocab.bpe", tmp_path / "encoder.json"
    readers = {
        "tokenizer.json": Tokeniser.from_huggingface,
        "ranks": lambda path: Tokeniser.from_tiktoken(path, "gpt2"),
        "vocab.bpe": lambda path: Tokeniser.from_gpt2(path, ids),
        "encoder.json": lambda path: Tokeniser.from_gpt2(merges, path),
    }
    rng = random.Random(0)
    tracemalloc.start()
    for _ in range(5000 if thoroughness == 1 else 500_000):
        name = rng.choice(list(readers))
        path = tmp_path / "spoilt"
        path.write_bytes(mutated(whole[name], rng))
        with contextlib.suppress(ValueError):
            readers[name](path).encode("the cat sat", disallowed_special=())
        path.unlink()  # a new file is much quicker to write than an old one
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 500_000_000  # no file makes us ask for more than it holds


def test_arrays_of_ids_decode_as_lists_do(tokeniser):
    ids = tokeniser.encode(SAMPLE)
    for kind in np.uint16, np.int32, np.int64, np.uint32:
        assert tokeniser.decode(np.array(ids, kind)) == SAMPLE
    assert tokeniser.decode(np.array(ids * 2)[::-2]) == tokeniser.decode((ids * 2)[::-2])
    with pytest.raises(ValueError, match="id 999 is not in this vocabulary .* made by another"):
        tokeniser.decode(np.array([1, 999]))
    with pytest.raises(ValueError, match="id -1 is not in this vocabulary"):
        tokeniser.decode(np.array([-1]))
    with pytest.raises(ValueError, match="a row of integers, got an array of float64"):
        tokeniser.decode(np.array([1.0]))


# ---- What tokenizer.json may say ----


def as_hugging_face(document, tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(document))
    return tokenizers.Tokenizer.from_file(str(path))


def test_an_added_token_that_is_not_special_is_found_in_any_text(document, load, tmp_path):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    for i, text in enumerate(["  ", "   ", "cat"]):
        document["added_tokens"].append(
            {"id": 900 + i, "content": text, "normalized": i < 2, **flags}
        )
    ours, theirs = load(document), as_hugging_face(document, tmp_path)
    text = "the  cat   sat     on<|end|>  the cats été"
    ids = ours.encode(text, allowed_special="all")
    assert ids == theirs.encode(text).ids
    assert ours.added_tokens["cat"] in ids
    assert ours.decode(ids) == text
    plain = text.replace("<|end|>", "")
    for found in ours.encode(plain), ours.encode_ordinary(plain), ours.encode_bytes(plain.encode()):
        assert found == theirs.encode(plain).ids
    assert ours.count(plain) == len(theirs.encode(plain).ids)
    cut = plain.encode() + b"\xc3"
    assert ours.decode_bytes(ours.encode_bytes(cut)) == cut
    ours.save(tmp_path)
    again = Tokeniser.load(tmp_path)
    assert again.fingerprint() == ours.fingerprint()
    assert again.encode(text, allowed_special="all") == ids


def test_an_added_token_written_like_a_byte_is_refused(document, load):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    document["added_tokens"].append({"id": 900, "content": "é", **flags})
    with pytest.raises(ValueError, match="added token 'é' is written like the byte that has id"):
        load(document)


def test_added_tokens_that_may_overlap_are_found_one_after_the_other(document, load, tmp_path):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    added = document["added_tokens"]
    added.append({"id": 900, "content": "end|>  ", "normalized": True, **flags})
    text = "the <|end|>  cat end|>  cat"
    found = load(document).encode(text, allowed_special="all")
    assert found == as_hugging_face(document, tmp_path).encode(text).ids
    added[-1] = {"id": 900, "content": "a\nb", "normalized": False, **flags}
    with pytest.raises(ValueError, match="has a line end after a letter or digit"):
        load(document)


def test_a_count_followed_by_a_plus_means_another_thing_there(document, load, tmp_path):
    tiktokens = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    for expression in tiktokens, r"(?:\d{2}+)|[a-z]{1,2}+[a-z]|\d{3}?x|^ |\S+$|\s":
        split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        steps = [split | {"invert": False}, byte_level | {"trim_offsets": True}]
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        ours, theirs = load(document), as_hugging_face(document, tmp_path)
        for text in SAMPLE, "12345 1234567 the\n cats \nx1234x ", "a\n b\n\n":
            assert ours.encode(text) == theirs.encode(text).ids
        ours.to_huggingface(tmp_path / "again.json")
        assert Tokeniser.from_huggingface(tmp_path / "again.json").fingerprint() == (
            ours.fingerprint()
        )


def test_no_split_a_known_pattern_removed_and_an_empty_normaliser_are_read(
    document, load, tmp_path
):
    document["normalizer"] = {"type": "Sequence", "normalizers": []}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": PATTERNS["o200k"]}, "behavior": "Removed"}
    steps = [split | {"invert": True}, byte_level | {"use_regex": False}]
    for pre_tokenizer in steps[1], {"type": "Sequence", "pretokenizers": steps}:
        document["pre_tokenizer"] = pre_tokenizer
        assert (
            load(document).encode(SAMPLE) == as_hugging_face(document, tmp_path).encode(SAMPLE).ids
        )


@pytest.mark.parametrize("name", ["truncation", "padding"])
def test_what_changes_the_number_of_ids_is_refused(document, load, name):
    document[name] = {"max_length": 2}
    with pytest.raises(ValueError, match=f'its `{name}` gives every text .* with "{name}": null'):
        load(document)


def test_a_rank_file_may_lack_single_bytes(tmp_path):
    lines = [(b"a", 0), (b"b", 1), (b"ab", 2), (b"\xff\xfe", 3), (b"ba", 4)]
    text = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in lines)
    (tmp_path / "few.tiktoken").write_bytes(text)
    tokeniser = Tokeniser.from_tiktoken(tmp_path / "few.tiktoken", "gpt2")
    assert tokeniser.merges == [(b"a", b"b"), (b"b", b"a")]
    assert tokeniser.encode("abba") == [2, 4]
    tokeniser.save(tmp_path)
    assert Tokeniser.load(tmp_path).encode("abba") == [2, 4]
    with pytest.raises(ValueError, match="'c' is not in this vocabulary"):
        tokeniser.encode("c")


def test_a_token_and_a_special_one_with_one_id_are_refused_unless_written_alike():
    with pytest.raises(
        ValueError, match="a token and one of the special tokens have the same id 0"
    ):
        Tokeniser({b"a": 0}, [], {"<|x|>": 0})
    assert Tokeniser({b"\xb6": 0}, [], {"¶": 0}).n_vocab == 1


def test_a_file_of_a_gigabyte_is_no_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_FILE", 10)
    for name, read in ("a.json", Tokeniser.from_huggingface), ("b", Tokeniser.from_tiktoken):
        (tmp_path / name).write_bytes(b"YQ== 0\n" * 3)
        with pytest.raises(ValueError, match="has more than 10 bytes, and is no vocabulary"):
            read(tmp_path / name, *["gpt2"] * (name == "b"))
