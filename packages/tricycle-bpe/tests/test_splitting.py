"""The scanners cut where the regular expressions cut, and the classes are tiktoken's."""

import io
import random
from functools import cache

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tricycle_bpe.encoding import pieces_of
from tricycle_bpe.splitting import (
    OTHER_SPELLINGS,
    PATTERNS,
    compile_pattern,
    known_pattern,
    piece_ends,
    splitter,
)
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
    for expression, name in OTHER_SPELLINGS.items():
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
