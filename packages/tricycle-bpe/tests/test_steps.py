"""Steps from a piece of text to smaller pieces, one at a time and in a row."""

import json
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tricycle_bpe.encoding import pieces_of
from tricycle_bpe.rules import Reader, Rules
from tricycle_bpe.splitting import PATTERNS, splitter, splitter_within
from tricycle_bpe.steps import (
    BEHAVIOURS,
    blank_in_front,
    bytes_as_characters,
    cut,
    digits,
    punctuation,
    split,
)
from tricycle_bpe.steps_in_json import WHOLE_TEXT, forms_in, pipeline_in

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def test_five_things_may_become_of_a_match():
    found = {how: cut("-a--b", [(0, 1), (2, 3), (3, 4)], how) for how in BEHAVIOURS}
    assert found == {
        "Isolated": ["-", "a", "-", "-", "b"],
        "Contiguous": ["-", "a", "--", "b"],
        "MergedWithPrevious": ["-", "a-", "-", "b"],
        "MergedWithNext": ["-a", "-", "-b"],
        "Removed": ["a", "b"],
    }
    assert cut("-a--b", [(0, 1), (2, 3), (3, 4)], "Removed", invert=True) == ["-", "-", "-"]


def test_each_step_by_hand():
    assert split(r"\d+")("a12b") == ["a", "12", "b"]
    assert digits(one_by_one=True)("a1½Ⅷb") == ["a", "1", "½", "Ⅷ", "b"]
    assert digits(one_by_one=False)("a1½Ⅷb") == ["a", "1½Ⅷ", "b"]
    assert punctuation("Contiguous")("so… $5!") == ["so", "…", " ", "$", "5", "!"]
    assert blank_in_front("a") == blank_in_front(" a") == [" a"]
    assert bytes_as_characters(" é") == ["ĠÃ©"]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("invert", [False, True])
def test_a_split_is_that_of_hugging_face(behaviour, invert):
    theirs = pre_tokenizers.Split(
        tokenizers.Regex(r"\d+|,"), behaviour_of_python(behaviour), invert=invert
    )
    ours = split(r"\d+|,", behaviour, invert)
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice("ab,1 2") for _ in range(rng.randint(1, 12)))
        assert ours(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], text


def behaviour_of_python(behaviour):
    """As the package's constructors call it: merged_with_next."""
    return "".join("_" + c.lower() if c.isupper() else c for c in behaviour).removeprefix("_")


def test_the_last_pattern_is_kept_apart_for_its_kernel():
    known = {"type": "Split", "pattern": {"Regex": PATTERNS["o200k"]}, "behavior": "Isolated"}
    row = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, known, BYTE_LEVEL]}
    pipeline = pipeline_in(row)
    assert (len(pipeline.steps), pipeline.pattern) == (1, "o200k")
    assert pipeline.by_character and not pipeline.in_characters
    removed = known | {"behavior": "Removed", "invert": True}
    assert pipeline_in(row | {"pretokenizers": [removed, BYTE_LEVEL]}).pattern == "o200k"
    joined = known | {"behavior": "MergedWithNext"}
    assert pipeline_in(row | {"pretokenizers": [joined, BYTE_LEVEL]}).pattern == WHOLE_TEXT
    after = pipeline_in(row | {"pretokenizers": [BYTE_LEVEL, {"type": "Digits"}]})
    assert after.in_characters and after.pattern == WHOLE_TEXT


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_are_split_by_a_kernel_as_texts_of_their_own(pattern):
    rng = random.Random(1)
    whole = splitter(pattern)
    room = np.empty(7, np.int64)  # so small that it is handed over often
    for _ in range(300):
        words = [
            rng.choice(["a  ", "It's", "\n\n", " x1234", "é", "12", "/\n", "AbC"]) for _ in "123"
        ]
        texts = ["".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 5))]
        data = "".join(texts).encode()
        within = splitter_within(pattern, np.cumsum([len(text.encode()) for text in texts]))
        found = [e for ends in within(padded_bytes(data), len(data), room) for e in ends.tolist()]
        apart = [piece for text in texts for piece in pieces_of(text.encode(), whole)]
        assert found == np.cumsum([len(piece) for piece in apart]).tolist(), texts


def padded_bytes(data):
    return np.frombuffer(data + bytes(64), np.uint8)


def test_a_text_is_normalised_and_then_cut():
    rules = Rules(
        normaliser='{"type": "NFKC"}',
        pre_tokeniser=json.dumps(
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits"},
                    {"type": "Split", "pattern": {"Regex": PATTERNS["o200k"]}},
                    BYTE_LEVEL,
                ],
            }
        ),
    )
    reader = Reader(rules, "o200k")
    assert reader.normalise("e\u0301 ½") == "é 1⁄2"
    assert pieces_of(*reader.prepare("a  12 b")) == [b"a", b"  ", b"12", b" b"]
    assert reader.prepare("")[0] == b""


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (None, r"its pre-tokeniser \[\] cannot be followed here; expected one ByteLevel"),
        ({"type": "Metaspace"}, r"cannot be followed here \(it is of a SentencePiece tokeniser\)"),
        ({"type": "BertPreTokenizer"}, r"\(it is of a WordPiece tokeniser\)"),
        ({"type": "Digits"}, r"expected one ByteLevel"),
        ({"kind": "Digits"}, "expected a pre-tokeniser with a type, found {'kind'"),
        ({"type": "Sequence"}, "expected a list in 'pre.*s', found None"),
        ([{"type": "Split"}, BYTE_LEVEL], "expected a Regex or a String in 'pattern', found None"),
        (
            [{"type": "Split", "pattern": {"Regex": "("}}, BYTE_LEVEL],
            "neither a known name .* nor a regular expression",
        ),
        (
            [{"type": "Punctuation", "behavior": "Sideways"}, BYTE_LEVEL],
            "expected one of Isolated, .* in '.*', found 'Sideways'",
        ),
        (
            [{"type": "Digits", "individual_digits": 1}, BYTE_LEVEL],
            "expected true or false in 'individual_digits', found 1",
        ),
        ([{"type": "Digits"}] * 40, "its pre-tokeniser has more than 32 steps"),
    ],
)
def test_steps_that_are_not_known_are_refused_by_name(node, message):
    if isinstance(node, list):
        node = {"type": "Sequence", "pretokenizers": node}
    with pytest.raises(ValueError, match=message):
        pipeline_in(node)


def test_normalisers_that_are_not_known_are_refused_by_name():
    row = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFC"}]}
    assert forms_in(row) == ("NFD", "NFC")
    with pytest.raises(ValueError, match=r"`normalizer` 'Replace' .* \(it is of a SentencePiece"):
        forms_in({"type": "Replace"})
    with pytest.raises(ValueError, match="`normalizer` 'Lowercase' .* here; NFC, NFD, NFKC, NFKD"):
        forms_in({"type": "Lowercase"})
    deep = {"type": "NFC"}
    for _ in range(20):
        deep = {"type": "Sequence", "normalizers": [deep]}
    with pytest.raises(ValueError, match="expected a list in 'norm.*s'"):
        forms_in(deep)
