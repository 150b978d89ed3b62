"""Encoding, decoding, special tokens and saving."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe import StreamDecoder, Tokeniser, Tokenizer, encoding, remembering

TEXT = "the cat sat on the mat. The other cat isn't there; it's out! 1234 été 漢字 👩‍👩‍👧\n\n" * 3


@pytest.fixture(scope="module")
def tokeniser():
    return Tokeniser.train([TEXT], 320, special_tokens=["<|end|>", "<|end|>x"])


def test_characters_are_numbered_in_order():
    tokeniser = Tokeniser.characters("hello")
    assert tokeniser.n_vocab == 4
    assert tokeniser.encode("hole") == [1, 3, 2, 0]
    assert tokeniser.decode([1, 3, 2, 0]) == "hole"


def test_a_character_without_an_id_is_an_error():
    with pytest.raises(
        ValueError, match="'x' is not in this vocabulary of 4 tokens, .*; use a tokeniser that has"
    ):
        Tokeniser.characters("hello").encode("hex")


def test_characters_survive_saving(tmp_path):
    tokeniser = Tokeniser.characters("höla 漢\n")
    tokeniser.save(tmp_path)
    again = Tokeniser.load(tmp_path)
    assert again.encode("la\n漢ö") == tokeniser.encode("la\n漢ö") == [4, 2, 0, 6, 5]
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("la\n漢ö").ids == [4, 2, 0, 6, 5]


def test_both_spellings_are_one_class():
    assert Tokenizer is Tokeniser


@given(st.text())
def test_decoding_gives_back_any_text(tokeniser, text):
    assert tokeniser.decode(tokeniser.encode_ordinary(text)) == text


@pytest.fixture(scope="module")
def hugging_faces(tokeniser, tmp_path_factory):
    path = tmp_path_factory.mktemp("hugging face") / "tokenizer.json"
    tokeniser.to_huggingface(path)
    return tokenizers.Tokenizer.from_file(str(path))


@given(st.text())
def test_ids_equal_those_of_hugging_face(tokeniser, hugging_faces, text):
    assert tokeniser.encode(text, allowed_special="all") == hugging_faces.encode(text).ids


def test_saved_and_loaded_is_the_same(tokeniser, tmp_path):
    tokeniser.save(tmp_path / "made" / "on the way")
    again = Tokeniser.load(tmp_path / "made" / "on the way")
    assert again.fingerprint() == tokeniser.fingerprint()
    assert again.encode(TEXT) == tokeniser.encode(TEXT)


def test_loading_from_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json in .*; make one with"):
        Tokeniser.load(tmp_path)


def test_special_tokens_in_a_text_are_an_error_unless_allowed(tokeniser):
    with pytest.raises(ValueError, match="contains the special token '<|end|>'"):
        tokeniser.encode("a <|end|>")
    assert tokeniser.encode("<|end|>", allowed_special={"<|end|>"}, disallowed_special=()) == [0]
    assert tokeniser.encode("<|end|>x", allowed_special="all") == [1]
    assert 0 not in tokeniser.encode("<|end|>", disallowed_special=())
    assert tokeniser.encode("<|end|>", disallowed_special=()) == tokeniser.encode_ordinary(
        "<|end|>"
    )


def test_rules_for_special_tokens_are_sets(tokeniser):
    for rule in {"allowed_special": "<|end|>"}, {"disallowed_special": "<|end|>"}:
        with pytest.raises(ValueError, match="'all' or a set of special tokens, got '<|end|>'"):
            tokeniser.encode("a", **rule)


def test_valid_utf8_has_the_ids_of_its_text(tokeniser):
    assert tokeniser.encode_utf8(TEXT.encode()).tolist() == tokeniser.encode_ordinary(TEXT)
    assert tokeniser.encode_utf8(b"<|end|>").tolist() == tokeniser.encode_ordinary("<|end|>")


def test_bytes_are_not_a_text(tokeniser):
    with pytest.raises(TypeError, match="expected a text .*, got bytes; bytes: encode_bytes"):
        tokeniser.encode(b"a", disallowed_special=())


def test_one_string_is_not_a_batch(tokeniser):
    with pytest.raises(ValueError, match="texts is one string; pass a list"):
        tokeniser.encode_batch("abc")


def test_many_threads_may_encode_at_once(tokeniser):
    texts = [f"{TEXT[k:]} {k} {'the cat ' * k}" for k in range(60)] * 3
    expected = [tokeniser.encode(text) for text in texts]
    fresh = copy.copy(tokeniser)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.encode, texts)) == expected


def test_the_table_of_remembered_pieces_grows_and_is_emptied_when_it_is_full(
    tokeniser, monkeypatch
):
    monkeypatch.setattr(remembering, "FEWEST_ROWS", 1 << 4)
    monkeypatch.setattr(remembering, "MOST_ROWS", 1 << 10)
    monkeypatch.setattr(remembering, "PIECES_AT_ONCE", 100)
    monkeypatch.setattr(remembering, "LONG_ROWS", 1 << 6)
    monkeypatch.setattr(remembering, "ARENA_WORDS", 1 << 9)
    small = copy.copy(tokeniser)
    words = [f"{chr(97 + k % 26) * (k % 50)}{k}" for k in range(3000)]
    for text in " ".join(words), " ".join(words[::-1]):
        assert small.encode(text) == tokeniser.encode(text)


def test_a_copy_encodes_alike(tokeniser):
    again = copy.deepcopy(tokeniser)
    assert again.fingerprint() == tokeniser.fingerprint()
    assert again.encode(TEXT) == tokeniser.encode(TEXT)


def test_lone_surrogates_become_the_replacement_character(tokeniser):
    assert tokeniser.decode(tokeniser.encode("a\ud800b")) == "a\ufffdb"
    assert tokeniser.encode("\ud83d\ude00") == tokeniser.encode("😀")


def test_an_unknown_id_is_an_error(tokeniser):
    with pytest.raises(
        ValueError,
        match=f"id 999 is not in this vocabulary of {tokeniser.n_vocab} tokens; was it made by",
    ):
        tokeniser.decode([1, 999])


def test_batches_and_counts_agree_with_single_texts(tokeniser):
    texts = ["the cat", "", TEXT]
    assert tokeniser.encode_batch(texts, workers=2) == [tokeniser.encode(text) for text in texts]
    assert [tokeniser.count(text) for text in texts] == [len(tokeniser.encode(t)) for t in texts]
    assert tokeniser.decode_batch(tokeniser.encode_batch(texts)) == texts
    assert tokeniser.encode_to_numpy(TEXT).tolist() == tokeniser.encode(TEXT)


@given(st.text())
def test_a_stream_decoder_gives_the_same_text_and_no_half_characters(tokeniser, text):
    decoder = StreamDecoder(tokeniser)
    parts = [decoder.push(i) for i in tokeniser.encode_ordinary(text)] + [decoder.finish()]
    assert "".join(parts) == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_an_unfinished_character_comes_out_at_the_end(tokeniser):
    decoder = StreamDecoder(tokeniser)
    assert decoder.push(tokeniser.vocab[b"\xc3"]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.push(tokeniser.vocab[b"a"]) == "a"


def test_importing_the_package_is_silent_and_starts_no_compiler():
    code = "import tricycle_bpe, sys; assert 'numba' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""


class Tensor:
    """As PyTorch's: an array of it, its numbers one by one, and each of them as an index."""

    def __init__(self, numbers, on_gpu=False):
        self.numbers, self.on_gpu = numbers, on_gpu

    def __array__(self, dtype=None, copy=None):
        if self.on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.array(self.numbers, dtype)

    def __iter__(self):
        return (Tensor(number) for number in self.numbers)

    def __index__(self):
        return self.numbers

    def tolist(self):
        return self.numbers


def test_ids_may_come_in_anything(tokeniser):
    ids = tokeniser.encode("the cat")
    rows = [tuple(ids), iter(ids), np.array(ids, np.uint16), Tensor(ids), Tensor(ids, on_gpu=True)]
    for row in [*rows, list(Tensor(ids)), list(np.array(ids)), dict.fromkeys(ids, 0).keys()]:
        assert tokeniser.decode(row) == "the cat"
    assert tokeniser.decode([]) == tokeniser.decode(np.array([])) == ""


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (5, "expected a row of ids, such as"),
        (None, "expected a row of ids, such as"),
        ("the cat", "expected a row of ids, such as"),
        ([1, 2.0], "found 2.0 at place 1"),
        ([1, "a"], "found 'a' at place 1"),
        ([[1, 2]], r"found \[1, 2\] at place 0; several rows: decode_batch"),
        (np.array([[1]]), r"array of int64 of shape \(1, 1\); several rows: decode_batch"),
        (np.array([1.0]), "array of float64"),
        (np.array(1), r"of shape \(\)"),
        ([1, -1], r"id -1 is not in this vocabulary .* stands at place 1"),
    ],
)
def test_what_is_no_row_of_ids_is_named(tokeniser, ids, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tokeniser.decode(ids)


def test_what_is_no_text_is_named(tokeniser):
    for encode in tokeniser.encode, tokeniser.encode_ordinary, tokeniser.count:
        with pytest.raises(TypeError, match=r"expected a text \(str\), got NoneType"):
            encode(None)
    with pytest.raises(TypeError, match="got bytes; bytes: encode_bytes"):
        tokeniser.encode(b"the")
    for workers in 1, 2:
        with pytest.raises(
            ValueError, match=r"text 1: the text contains the special token '<\|end"
        ):
            tokeniser.encode_batch(["a", "<|end|>"], workers)
    with pytest.raises(ValueError, match="list 2: id 999 is not in this vocabulary"):
        tokeniser.decode_batch([[1], [], [999]])


def test_a_strict_stream_goes_on_after_an_error(tokeniser):
    decoder = StreamDecoder(tokeniser, "strict")
    (half,) = tokeniser.encode_bytes(b"\xe2")
    a, b = tokeniser.encode("a") + tokeniser.encode("b")
    assert decoder.push(half) == ""
    with pytest.raises(UnicodeDecodeError):
        decoder.push(a)
    assert decoder.push(b) == "ab"
    decoder.push(half)
    with pytest.raises(UnicodeDecodeError):
        decoder.finish()
    assert decoder.push(a) == "a"


def test_the_order_of_merges_and_whole_pieces_are_in_the_fingerprint():
    vocab = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    merges = [(b"a", b"b"), (b"b", b"c")]
    made = [
        Tokeniser(vocab, merges),
        Tokeniser(vocab, merges[::-1]),
        Tokeniser(vocab, merges, whole_pieces=True),
        Tokeniser(vocab, merges, added_tokens={"<x>": 259}),
        Tokeniser(vocab, merges, {"<x>": 259}),
        Tokeniser(vocab, merges, pattern="cl100k"),
    ]
    assert len({tokeniser.fingerprint() for tokeniser in made}) == len(made)
    assert made[0].encode("abc") != made[1].encode("abc")


def test_what_many_threads_remembered_is_not_kept_for_ever(tokeniser, monkeypatch):
    monkeypatch.setattr(encoding, "KEPT_BYTES", 60_000_000)
    encoder = tokeniser._encoder
    used = [encoding.PiecesSeen() for _ in range(8)]
    encoder._free.clear()
    for seen in used:
        encoder._keep(seen)
    assert 1 <= len(encoder._free) < 4
    assert sum(seen.n_bytes() for seen in encoder._free) <= 60_000_000
