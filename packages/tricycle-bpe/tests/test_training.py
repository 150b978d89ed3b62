"""Training gives Hugging Face's merges, and the lesson's."""

import json
import os
import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe import Tokeniser, counting, merges, training
from tricycle_bpe.byte_characters import to_characters


def trained_by_hugging_face(texts, vocab_size, special_tokens=(), min_frequency=0):
    """Train with the `tokenizers` package; return its vocabulary and merges."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    other.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=byte_level.alphabet(),
        min_frequency=min_frequency,
        show_progress=False,
    )
    other.train_from_iterator(texts, trainer)
    model = json.loads(other.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def as_hugging_face_writes(tokeniser):
    vocab = {to_characters(token): i for token, i in tokeniser.vocab.items()}
    pairs = [(to_characters(left), to_characters(right)) for left, right in tokeniser.merges]
    return vocab | tokeniser.special_tokens, pairs


def test_low_lower_lowest():
    tokeniser = Tokeniser.train(["low low lower"], vocab_size=259, pattern=r"\w+", ties="bytes")
    assert tokeniser.merges == [(b"l", b"o"), (b"lo", b"w"), (b"e", b"r")]
    assert tokeniser.vocab[b"low"] == 257
    assert tokeniser.encode("lower low") == [257, 258, 32, 257]


def test_special_tokens_come_first_as_hugging_face_has_them():
    tokeniser = Tokeniser.train(["ab"], vocab_size=258, special_tokens=["<|end|>"])
    assert tokeniser.special_tokens == {"<|end|>": 0}
    assert tokeniser.vocab[b"!"] == 1
    assert tokeniser.vocab[b"ab"] == 257


def test_special_tokens_come_last_when_ids_begin_with_the_bytes():
    tokeniser = Tokeniser.train(["ab"], 258, special_tokens=["<|end|>"], ties="bytes")
    assert tokeniser.vocab[b"!"] == ord("!")
    assert tokeniser.vocab[b"ab"] == 256
    assert tokeniser.special_tokens == {"<|end|>": 257}


@given(st.lists(st.text("ab c'é\n", max_size=60), max_size=5), st.integers(256, 300))
def test_merges_equal_those_of_hugging_face(texts, vocab_size):
    tokeniser = Tokeniser.train(texts, vocab_size)
    assert as_hugging_face_writes(tokeniser) == trained_by_hugging_face(texts, vocab_size)


@given(st.lists(st.text("a", max_size=40), max_size=8), st.integers(256, 275))
def test_repeated_characters_merge_as_with_hugging_face(texts, vocab_size):
    tokeniser = Tokeniser.train(texts, vocab_size)
    assert as_hugging_face_writes(tokeniser) == trained_by_hugging_face(texts, vocab_size)


@given(st.lists(st.text("aab", max_size=30), min_size=1), st.integers(1, 5))
def test_rare_pairs_are_left_alone_as_with_hugging_face(texts, min_frequency):
    tokeniser = Tokeniser.train(texts, 280, min_frequency=min_frequency)
    expected = trained_by_hugging_face(texts, 280, min_frequency=min_frequency)
    assert as_hugging_face_writes(tokeniser) == expected


@pytest.mark.parametrize("special", ["¶", "č", "|", "user", "the", "us", "Ġuser", "<|end|>"])
@pytest.mark.parametrize("ties", ["huggingface", "bytes"])
def test_special_tokens_are_never_made_by_ordinary_text(special, ties, tmp_path):
    text = "user the user | öäü the\r\n" * 50 + special * 50
    tokeniser = Tokeniser.train([text], 280, special_tokens=[special], ties=ties)
    own = tokeniser.special_tokens[special]
    ids = tokeniser.encode_ordinary(text + special)
    assert own not in ids
    assert own not in tokeniser.vocab.values()
    assert tokeniser.decode(ids) == text + special
    assert tokeniser.encode(special, allowed_special="all") == [own]
    assert tokeniser.decode([own]) == special
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tokens that Hugging Face cannot tell apart
        tokeniser.save(tmp_path)
    again = Tokeniser.load(tmp_path)
    assert again.fingerprint() == tokeniser.fingerprint()
    assert again.encode_ordinary(text) == tokeniser.encode_ordinary(text)
    if special not in ("¶", "č", "|"):
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        plain = text.replace(special, "")
        assert theirs.encode(plain).ids == tokeniser.encode(plain)


def test_a_special_token_that_is_written_like_a_byte_is_said_when_it_is_saved(tmp_path):
    tokeniser = Tokeniser.train(["the cat"], 262, special_tokens=["¶"])
    with pytest.warns(UserWarning, match=r"'¶' is written in a file as the token b'\\xb6' is"):
        tokeniser.save(tmp_path)


def test_fewer_tokens_than_asked_for_are_said():
    with pytest.warns(UserWarning, match="1,000,000 tokens were asked for and 258 made: no oth"):
        tokeniser = Tokeniser.train(["abab"], 1_000_000)
    assert tokeniser.n_vocab == 258


def test_the_name_of_a_file_is_not_taken_for_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("abab")
    with pytest.raises(ValueError, match=r"text 0 is 'book.txt', the name of a file, .* pass Path"):
        Tokeniser.train(["book.txt"], 258)
    with pytest.raises(ValueError, match=r"text 1 is '/.*, the name of a file"):
        Tokeniser.train(["a text", str(tmp_path / "book.txt")], 258)
    with pytest.raises(ValueError, match=r"text 0 is 'boook.txt', the name of a file that is not"):
        Tokeniser.train(["boook.txt"], 258)
    assert Tokeniser.train(["see book.txt", "book"], 258).n_vocab == 258
    with os.scandir(tmp_path) as entries:
        assert b"ab" in Tokeniser.train(list(entries), 258).vocab


def test_words_chosen_to_meet_in_one_slot_do_not():
    """With the hash as it was, without a key, all of these had the same 44 bits."""
    bits, mix = (1 << 64) - 1, 0x9E3779B97F4A7C15
    start, undo = 8 * 0xC2B2AE3D27D4EB4F & bits, pow(mix, -1, 1 << 64)
    words = [(start ^ k * undo & bits).to_bytes(8, "little") for k in range(20_000)]
    for k, word in enumerate(words):
        assert (int.from_bytes(word, "little") ^ start) * mix & bits == k  # its low 20 bits dropped
    counter = counting.PieceCounter()
    ends = np.arange(8, 8 * len(words) + 1, 8)
    counter.add(b"".join(words), lambda _text, _n, _room: iter([ends]))
    rows = counter.rows
    home = rows[:, 0] & len(rows) - 1
    displaced = (np.arange(len(rows)) - home)[rows[:, 1] > 0] % len(rows)
    assert len(displaced) == len(words)
    assert displaced.mean() < 3  # half full: 0.5 expected, and thousands in one slot


CORPORA = {
    "English": lambda: ["the quick brown fox jumps over the lazy dog, isn't it? "] * 9,
    "code": lambda: [Path(training.__file__).read_text()],
    "many scripts": lambda: ["été naïve привет мир 漢字仮名 नमस्ते שלום 👩\u200d👧 12 ½ "] * 5,
    "repeated characters": lambda: ["a" * k + " " + "ab" * k + " " + "-" * k for k in range(60)],
    "random letters": lambda: [random_letters()],
    "one word": lambda: ["banana"],
}


def random_letters() -> str:
    rng = random.Random(0)
    return "".join(rng.choices("abcdefgh  ", k=20_000))


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("vocab_size", [257, 280, 400, 1000, 3000])
def test_six_corpora_at_five_sizes_merge_as_with_hugging_face(name, vocab_size):
    texts = CORPORA[name]()
    tokeniser = Tokeniser.train(texts, vocab_size)
    assert as_hugging_face_writes(tokeniser) == trained_by_hugging_face(texts, vocab_size)


@pytest.mark.parametrize("vocab_size", [1024, 8192])
def test_tinyshakespeare_merges_as_with_hugging_face(vocab_size, data_file):
    texts = [data_file("tinyshakespeare.txt").read_text()]
    tokeniser = Tokeniser.train(texts, vocab_size, special_tokens=["<|endoftext|>"])
    expected = trained_by_hugging_face(texts, vocab_size, ["<|endoftext|>"])
    assert as_hugging_face_writes(tokeniser) == expected


@given(st.lists(st.text("ab c", max_size=50), max_size=6))
def test_any_number_of_workers_learns_the_same(texts):
    one, three = (Tokeniser.train(texts, 270, workers=n) for n in (1, 3))
    assert one.merges == three.merges
    assert one.vocab == three.vocab


def test_training_needs_at_least_one_worker():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        Tokeniser.train(["a"], 300, workers=0)


@given(st.lists(st.text("abcd ", max_size=30)), st.integers(0, 30))
def test_merges_equal_those_of_the_lesson(texts, n_merges):
    tokeniser = Tokeniser.train(texts, 256 + n_merges, pattern=r"\w+|\s+", ties="bytes")
    pieces = [piece.encode() for text in texts for piece in re.findall(r"\w+|\s+", text)]
    lesson = merges.train(pieces, n_merges)
    spelling = merges.vocabulary(lesson)
    learned = [(spelling[left], spelling[right]) for left, right in lesson]
    if len({left + right for left, right in learned}) == n_merges:  # no string was made twice
        assert tokeniser.merges == learned


def test_a_rotten_vocab_size_is_refused():
    with pytest.raises(ValueError, match="vocab_size 256 is too small: .* need 257"):
        Tokeniser.train(["a"], 256, special_tokens=["<|end|>"])


def test_an_enormous_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size 1000000000 is too large: ids go up to"):
        Tokeniser.train(["a"], 10**9)


def test_special_tokens_are_a_list():
    with pytest.raises(ValueError, match="special_tokens must be a list, got the string '<|end|>'"):
        Tokeniser.train(["a"], 300, special_tokens="<|end|>")


def test_one_string_instead_of_a_list_is_refused():
    with pytest.raises(ValueError, match="texts is one string"):
        Tokeniser.train("hello", 300)


def test_texts_must_be_strings_or_paths():
    with pytest.raises(ValueError, match="strings or paths, found a int"):
        Tokeniser.train([1], 300)


def test_unknown_ties_are_refused():
    with pytest.raises(ValueError, match="'huggingface' or 'bytes', got 'random'"):
        Tokeniser.train(["a"], 300, ties="random")


def test_a_broken_pattern_is_refused():
    with pytest.raises(ValueError, match="neither a known name .* nor a regular expression"):
        Tokeniser.train(["a"], 300, pattern="(")


def test_files_and_folders_are_read(tmp_path):
    (tmp_path / "one.txt").write_text("abab abab")
    (tmp_path / "two.txt").write_text("abc abc")
    from_folder = Tokeniser.train(tmp_path, 262)
    from_files = Tokeniser.train([tmp_path / "one.txt", tmp_path / "two.txt"], 262)
    from_texts = Tokeniser.train(["abab abab", "abc abc"], 262)
    assert from_folder.merges == from_files.merges == from_texts.merges


def test_learning_in_steps_learns_the_same(monkeypatch):
    text = "".join(random.Random(1).choices("abcd ", k=5000))
    at_once = Tokeniser.train([text], 400)
    monkeypatch.setattr(training, "MERGES_AT_ONCE", 1)
    assert Tokeniser.train([text], 400).merges == at_once.merges


def test_learning_shows_how_many_merges_are_done(monkeypatch):
    shown = []
    monkeypatch.setattr(training.Progress, "update", lambda bar, n: shown.append((bar.what, n)))
    Tokeniser.train(["abcd " * 10, "abcd"], 600)  # after four merges there are no pairs left
    assert shown[:2] == [("reading", 50), ("reading", 4)]
    assert sum(n for what, n in shown if what == "learning merges") == 4


def test_an_error_in_a_worker_ends_the_training():
    def texts():
        for _ in range(100):
            yield "one two"
        yield 3

    with pytest.raises(ValueError, match="texts must hold strings or paths, found a int"):
        Tokeniser.train(texts(), 300, workers=2)


def test_a_text_that_a_worker_cannot_count_ends_the_training(monkeypatch):
    def fail(counter, text, split):
        raise MemoryError

    monkeypatch.setattr(counting.PieceCounter, "add", fail)
    with pytest.raises(MemoryError):
        Tokeniser.train(["one"] * 100, 300, workers=2)


def test_what_is_learned_does_not_depend_on_the_key_of_the_tables(monkeypatch):
    text = "the cat sat on the mat; the rat sat on that hat " * 50
    learned = []
    for key in (1, 2**63 + 12345, 2**64 - 1):
        monkeypatch.setattr(training, "HASH_KEY", np.uint64(key))
        learned.append(Tokeniser.train([text], vocab_size=320).merges)
    assert learned[0] == learned[1] == learned[2]
    assert len(learned[0]) > 10
