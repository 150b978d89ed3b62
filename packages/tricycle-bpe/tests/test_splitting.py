"""The scanners cut where the regular expressions cut, and the classes are tiktoken's."""

import io
import itertools
import random
from functools import cache

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe import Tokeniser, splitting
from tricycle_bpe.encoding import pieces_of
from tricycle_bpe.splitting import (
    PATTERNS,
    TIKTOKENS_SPELLINGS,
    compile_pattern,
    known_pattern,
    piece_ends,
    splitter,
)
from tricycle_bpe.switches import OF_GPT2
from tricycle_bpe.texts import read_in_parts
from tricycle_bpe.unicode_classes import CLASS_OF_LETTER, unicode_classes

CLASSES = {"U": r"[\p{Lu}\p{Lt}]", "l": r"\p{Ll}", "x": r"[\p{Lo}\p{Lm}]", "m": r"\p{M}"}
CLASSES |= {"n": r"\p{N}", "b": r"[^\S\r\n]", "r": r"[\r\n]"}
CLASSES["o"] = r"[^\p{L}\p{M}\p{N}\s]"
EVERY_CHARACTER = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)


cached_splitter = cache(splitter)


def pieces(text: str, pattern: str) -> list[str]:
    return [piece.decode() for piece in pieces_of(text.encode(), cached_splitter(pattern))]


def expected(text: str, pattern: str) -> list[str]:
    ends = piece_ends(text, compile_pattern(pattern))
    return [text[i:j] for i, j in zip([0, *ends], ends)]


def test_a_sentence_in_pieces():
    text = "It's 2024,  no?"
    assert pieces(text, "gpt2") == ["It", "'s", " 2024", ",", " ", " no", "?"]
    assert pieces(text, "cl100k") == ["It", "'s", " ", "202", "4", ",", " ", " no", "?"]
    assert pieces(text, "o200k") == ["It's", " ", "202", "4", ",", " ", " no", "?"]
    assert pieces("hé!", "characters") == ["h", "é", "!"]


def test_ends_of_lines_or_of_the_text_are_not_guessed():
    with pytest.raises(ValueError, match=r"has the flag m, under which \$ and \^ mean another"):
        Tokeniser.train(["a\nb"], 256, pattern=r"(?m)\w+$|\s+|\w+")


def test_words_of_two_cases_are_two_pieces_for_o200k_only():
    assert pieces("camelCase", "o200k") == ["camel", "Case"]
    assert pieces("camelCase", "cl100k") == ["camelCase"]


def test_blanks_at_the_end_are_where_tiktoken_and_hugging_face_differ():
    assert pieces("x\n  ", "cl100k") == ["x", "\n  "]
    assert pieces("x\n  ", "cl100k-huggingface") == ["x", "\n", "  "]


def test_the_classes_are_those_of_tiktoken():
    """If this fails after an update of tiktoken, it has moved to another version of Unicode."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ours = unicode_classes()[[ord(character) for character in EVERY_CHARACTER]]
    for letter, pattern in CLASSES.items():
        # tiktoken drops what its pattern does not match, so what comes back is the class.
        probe = tiktoken.Encoding(
            "probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )
        members = probe.decode(probe.encode_ordinary(EVERY_CHARACTER))
        is_member = np.isin(list(EVERY_CHARACTER), list(members))
        assert np.array_equal(ours == CLASS_OF_LETTER[letter], is_member), letter


@pytest.fixture(scope="module")
def agreed_characters():
    """Characters that the regex package, whose Unicode is newer, puts into the same classes.

    In order, and shuffled.
    """
    ours = unicode_classes()
    agreed = []
    for letter, pattern in CLASSES.items():
        members = regex.findall(pattern, EVERY_CHARACTER)
        agreed += [c for c in members if ours[ord(c)] == CLASS_OF_LETTER[letter]]
    assert len(agreed) > 1_000_000
    in_order = "".join(sorted(agreed))
    random.Random(0).shuffle(agreed)
    return in_order, "".join(agreed)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_character_is_cut_as_by_the_expression(pattern, agreed_characters):
    for text in agreed_characters:
        assert pieces(text, pattern) == expected(text, pattern)


COMMON = st.text("ab AB's'll\n\r\t ,.!/1234éÉ漢\u0301ʰ²\u3000\xa0ǅſ")


@pytest.mark.parametrize("pattern", PATTERNS)
@given(COMMON)
def test_any_text_is_cut_as_by_the_expression(pattern, text):
    assert pieces(text, pattern) == expected(text, pattern)


FRAGMENTS = [*"aZ'./!(09 \n\r\t\x0b", "  ", "\n\n", "'s", "'LL", "'re'", "x'", " '", "word", "Word"]
FRAGMENTS += ["WORDs", "1234", " the", "/\n", "\n/", ".\n  ", "é", "漢", "\u0301", "\u3000", "ſ"]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=20, max_size=100).map("".join))
def test_sixty_four_bytes_at_a_time_is_cut_as_by_the_expression(pattern, text):
    assert pieces(text, pattern) == expected(text, pattern)


@given(COMMON)
def test_possessive_spellings_cut_alike(text):
    for expression, name in {**dict.fromkeys(OF_GPT2, "gpt2"), **TIKTOKENS_SPELLINGS}.items():
        spelled_out = compile_pattern(f"(?:{expression})")  # which has no name
        ends = piece_ends(text, spelled_out)
        assert ends == piece_ends(text, compile_pattern(name))
        assert known_pattern(expression) == name


def test_nothing_is_lost_between_the_matches_of_an_expression():
    assert expected("a1b22", r"\d+") == ["a", "1", "b", "22"]
    assert pieces("é1漢22", r"\d+") == ["é", "1", "漢", "22"]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.lists(st.sampled_from([*"aB!/' \n\r\t1é", "x\ny", ".\nZ", "  \n", "'s"])))
def test_parts_of_a_text_are_cut_like_the_whole(pattern, texts):
    data = "".join(texts).encode()
    parts = list(read_in_parts(io.BytesIO(data), pattern, part_bytes=4))
    assert b"".join(parts) == data
    in_parts = [piece for part in parts for piece in pieces(part.decode(), pattern)]
    assert in_parts == pieces(data.decode(), pattern)


def test_a_text_of_an_unknown_pattern_is_not_cut_into_parts():
    assert list(read_in_parts(io.BytesIO(b"a\nb\nc"), r"\w+", 2)) == [b"a\nb\nc"]
    assert list(read_in_parts(io.BytesIO(b"a\nb\nc"), "gpt2", 3)) == [b"a", b"\nb", b"\nc"]


# ---- What is a pattern ----


def test_tiktokens_names_and_expressions_are_the_fast_ones():
    from tiktoken_ext import openai_public

    patch = pytest.MonkeyPatch()
    for loader in "load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks":
        patch.setattr(openai_public, loader, lambda *_, **__: {})
    names = {"o200k": "o200k", "cl100": "cl100k"}
    for name, make in openai_public.ENCODING_CONSTRUCTORS.items():
        assert known_pattern(make()["pat_str"]) == names.get(name[:5], "gpt2")
        assert known_pattern(name) == names.get(name[:5], "gpt2")
    patch.undo()
    tokens = {bytes([i]): i for i in range(256)}
    one, other = Tokeniser(tokens, [], pattern="cl100k_base"), Tokeniser(tokens, [], None, "cl100k")
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("word", ["gpt4", "llama-3", "o200k_bass", "the"])
def test_a_word_is_no_pattern(word):
    with pytest.raises(ValueError, match=f"no pattern named '{word}'; there are gpt2, cl100k"):
        known_pattern(word)
    with pytest.raises(ValueError, match="no pattern named"):
        Tokeniser.train(["the cat"], 260, pattern=word)


@pytest.mark.parametrize(
    "expression", [r"[a-z&&[^aeiou]]+|.", r"[\w--\d]+", r"[a~~b]", r"[a||b]", r" ?[^(\s|[.,!?])]+"]
)
def test_sets_made_from_sets_are_refused_by_name(expression):
    with pytest.raises(ValueError, match="in a set: sets made from sets mean something else"):
        known_pattern(expression)


def test_a_set_may_hold_anything_that_is_escaped():
    for expression in r"[\[\]&-]+|\s", r"[]a]+", r"[^]a]+", r"[[:alpha:]]+|[^[:alpha:]]", r"\[a&&b":
        assert known_pattern(expression) == expression
        compile_pattern(expression)


def test_ends_and_counts_mean_what_they_mean_to_tiktoken(data_file):
    ranks = {bytes([i]): i for i in range(256)} | {b"12": 256, b"123": 257, b"1234": 258}
    for expression in (
        r"\d{1,3}+|\S+$|^ |\s|\S",
        r"(?:\d\d){1,2}+|\D+$|\D|\d",
        r"\d{2}?|^\D+|\D$|[\s\S]",
    ):
        theirs = tiktoken.Encoding(
            "x", pat_str=expression, mergeable_ranks=ranks, special_tokens={}
        )
        ours = Tokeniser(ranks, None, None, expression, whole_pieces=True)
        for text in "1234 12345\n", "a\n", "  x\n\ny 123412", "a b\n 1":
            assert b"".join(map(theirs.decode_single_token_bytes, theirs.encode(text)))
            assert ours.encode(text) == theirs.encode(text)


def test_a_pattern_that_tries_for_ever_is_ended(monkeypatch):
    monkeypatch.setattr(splitting, "SECONDS_OF_A_TEXT", 0.2)
    slow = Tokeniser({bytes([i]): i for i in range(256)}, [], pattern=r"(?:a+a?)+\1?b|(a)|.")
    with pytest.raises(ValueError, match="took more than 0 seconds for a text of 5,001 characters"):
        slow.encode("a" * 5000 + "c")


def test_the_time_of_other_threads_ends_no_sound_pattern():
    class WithOthersBeside:
        """As a pattern of regex's, which counts the processor time of all threads."""

        pattern = "."

        def finditer(self, text, start, timeout):
            for match in itertools.islice(compile_pattern("gpt2").finditer(text, start), 3):
                yield match
            if match.end() < len(text):
                raise TimeoutError

    text = "some words, and some more of them"
    ends = splitting.piece_ends(text, WithOthersBeside())
    assert ends == splitting.piece_ends(text, compile_pattern("gpt2"))
    assert len(ends) == 8


@pytest.mark.parametrize(
    ("expression", "pieces"),
    [
        (r"(?m)[^\s]+|\s", ["ab^", "\n", "$"]),
        (r"(?m)\$|\^|\w+|\n", ["ab", "^", "\n", "$"]),
        (r"(?m)[]^$]|[a-z]+", ["ab", "^", "$"]),
    ],
)
def test_flag_m_is_harmless_where_nothing_means_the_end_of_a_line(expression, pieces):
    assert compile_pattern(known_pattern(expression)).findall("ab^\n$") == pieces


@pytest.mark.parametrize("expression", [r"(?m)[^\s]+$", r"(?m)^a", r"(?m)[a]|(b$)"])
def test_flag_m_is_refused_where_something_does(expression):
    with pytest.raises(ValueError, match="has the flag m, under which"):
        known_pattern(expression)


@pytest.mark.parametrize(
    "expression", ["(" * 5000, "a" * 30_000 + "+", "(?x) a b", "a{99999999999}"]
)
def test_a_hostile_pattern_is_one_error(expression):
    with pytest.raises(ValueError, match="pattern|regular expression"):
        compile_pattern(known_pattern(expression))
