"""Patterns that differ in a few settings have one kernel, which cuts as each expression says."""

import json
import random

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tricycle_bpe import Tokeniser
from tricycle_bpe.encoding import pieces_of
from tricycle_bpe.splitting import (
    PATTERNS,
    compile_pattern,
    kernel_for,
    known_pattern,
    pattern_in_json,
    piece_ends,
    splitter,
)
from tricycle_bpe.steps_in_json import pipeline_in
from tricycle_bpe.switches import (
    AFTER,
    AFTER_DIGITS,
    BEFORE,
    CASED,
    IN_RUNS,
    NEWLINES,
    NOWHERE,
    ONE_BY_ONE,
    PLAIN,
    SLASHES,
    WITH_MARKS,
    Kernel,
    Switches,
    every_setting,
    expression,
    our_spelling,
    spellings,
)

QWEN2 = expression(Switches(1, PLAIN, BEFORE, NEWLINES))
QWEN35 = expression(Switches(1, WITH_MARKS, BEFORE, NEWLINES))
TEKKEN = expression(Switches(1, CASED, NOWHERE, SLASHES))
EVERY = [*map(expression, every_setting()), *AFTER_DIGITS.values()]
ODD = [
    *"aZ'./!(09 \n\r\t\x0b",
    "  ",
    "\n\n",
    "'s",
    "'LL",
    "'lL",
    "'re'",
    "x'",
    " '",
    "word",
    "WORDs",
]
ODD += [
    "1234",
    " the",
    "/\n",
    "\n/",
    ".\n  ",
    "é",
    "漢",
    "\u3000",
    "ſ",
    "½",
    "٣",
    " 12",
    "  3",
    "🎉",
]
ODD += ["e\u0301", "\u0301", "ʰ", "ǅ", "\x85"]


def pieces(text, pattern):
    return [piece.decode() for piece in pieces_of(text.encode(), splitter(pattern))]


def expected(text, pattern):
    ends = piece_ends(text, compile_pattern(pattern))
    return [text[i:j] for i, j in zip([0, *ends], ends)]


def test_what_a_switch_changes():
    assert pieces("12345 a", QWEN2) == ["1", "2", "3", "4", "5", " a"]
    assert pieces("e\u0301a", QWEN2) == ["e", "\u0301a"]
    assert pieces("e\u0301a", QWEN35) == ["e\u0301a"]
    assert pieces("it's camelCase", TEKKEN) == ["it", "'s", " camel", "Case"]
    assert pieces("x  12", AFTER_DIGITS[ONE_BY_ONE]) == ["x", "  ", "1", "2"]
    assert pieces("x  12", AFTER_DIGITS[IN_RUNS]) == ["x", "  ", "12"]
    assert pieces("x  12", "gpt2") == ["x", " ", " 12"]


def test_the_named_patterns_are_settings_too():
    kernels = {name: kernel_for(name) for name in PATTERNS}
    assert kernels == {
        "gpt2": Kernel("gpt2", (0,)),
        "cl100k": Kernel("words", (3, PLAIN, BEFORE, NEWLINES, True)),
        "cl100k-huggingface": Kernel("words", (3, PLAIN, BEFORE, NEWLINES, False)),
        "o200k": Kernel("words", (3, CASED, AFTER, SLASHES, False)),
        "characters": Kernel("characters"),
    }
    assert known_pattern(expression(Switches(3, CASED, AFTER, SLASHES))) == "o200k"
    assert known_pattern(QWEN2) == pattern_in_json(QWEN2) == QWEN2
    assert kernel_for(r"\p{L}+|.") is None


def test_every_setting_cuts_as_its_expression(thoroughness):
    rng = random.Random(0)
    for pattern in EVERY:
        for _ in range(12 * thoroughness):
            text = "".join(rng.choices(ODD, k=rng.choice((3, 8, 40, 90))))
            assert pieces(text, pattern) == expected(text, pattern), pattern


def test_every_spelling_means_the_same():
    rng = random.Random(1)
    texts = ["".join(rng.choices(ODD, k=30)) for _ in range(4)]
    for switches in every_setting():
        right = [expected(text, expression(switches)) for text in texts]
        for written in rng.sample([*spellings(switches)], 2):
            assert our_spelling(written) == expression(switches)
            compiled = compile_pattern(f"(?:{written})")  # which has no kernel
            for text, cut in zip(texts, right):
                ends = piece_ends(text, compiled)
                assert [text[i:j] for i, j in zip([0, *ends], ends)] == cut, written


@pytest.mark.parametrize("one_by_one", [False, True])
def test_digits_before_gpt2s_pattern_are_one_expression(one_by_one, tmp_path):
    row = [
        {"type": "Digits", "individual_digits": one_by_one},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    pattern = AFTER_DIGITS[ONE_BY_ONE if one_by_one else IN_RUNS]
    node = {"type": "Sequence", "pretokenizers": row}
    assert pipeline_in(node) == ((), pattern, False, True)
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    Tokeniser(bytes_alone, [], pattern=pattern).save(tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert written["pre_tokenizer"] == node
    assert Tokeniser.load(tmp_path).pattern == pattern

    theirs = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=one_by_one),
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS["gpt2"]), "isolated"),
        ]
    )
    rng = random.Random(2)
    for _ in range(200):
        text = "".join(rng.choices(ODD, k=rng.randint(1, 40)))
        assert pieces(text, pattern) == [piece for piece, _ in theirs.pre_tokenize_str(text)]
