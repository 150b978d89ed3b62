"""Expressions of a tokenizer.json mean what they mean to Hugging Face, or are refused by name."""

import json
import random

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from tricycle_bpe import Tokeniser, splitting
from tricycle_bpe.added_tokens import Flags, cut_by_flags
from tricycle_bpe.rules import Rules
from tricycle_bpe.splitting import pattern_in_json
from tricycle_bpe.steps import BEHAVIOURS, split

TEXT = (
    "camelCaseWord 1234567 x² ½ c1\u0301_\u200d-aF9 'S it's\n\nb\r\n{a} ab\n  é\U0001f600 K ſ [a]\n"
)
EXPRESSIONS = [
    r"(?=[A-Z])",
    r"(?=(\d{3})+(?!\d))",
    r"\d*",
    r"|a",
    r"x*",
    r"^",
    r"$",
    r"\n^|^\w",
    r"\w+",
    r"\W",
    r"[^\w\s]+",
    r"\b",
    r"\B.",
    r"\h+|\H",
    r"[\h_]+",
    r"\Ac|\n\z",
    r"b\n\Z|\n\Z",
    r"\x41|\x{1F600}|\u00e9",
    r"{a}|a{,2}|a{e}",
    r"(?i)[ks]|c",
    r"(?i:'s|'ll)",
    r"[[:alpha:]]+|[[:digit:]]",
    r"\p{^L}+",
    r"[]a]",
    r"(?<=a|1)\w",
    r"(?>a|ab)b?",
    r"a?+a",
    r"\d{2}+|\d{2}?",
    r"a",
    r"gpt2",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_cuts_as_hugging_face_cuts(expression):
    rng = random.Random(0)
    texts = [TEXT, *("".join(rng.choices(TEXT, k=rng.randint(1, 30))) for _ in range(60))]
    for behaviour in BEHAVIOURS:
        name = "".join("_" + c.lower() if c.isupper() else c for c in behaviour).removeprefix("_")
        for invert in False, True:
            theirs = pre_tokenizers.Split(tokenizers.Regex(expression), name, invert=invert)
            ours = split(pattern_in_json(expression), behaviour, invert)
            for text in texts:
                assert ours(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], text
    again = pattern_in_json(pattern_in_json(expression))  # as when it is saved and read again
    assert split(again)(TEXT) == split(pattern_in_json(expression))(TEXT)


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("(?m).", r"'\(\?m\)'"),
        ("(?s).+", r"'\(\?s\)'"),
        ("a(?i)b|c", r"'\(\?i\)'"),
        (r"a\Kb", r"'\\\\K'"),
        (r"\R", r"'\\\\R'"),
        (r"\p{Word}", r"'\\\\p{Word}'"),
        (r"\xe9", r"'\\\\xe9'"),
        (r"(a)\1", r"'\\\\1'"),
        (r"[\W]", r"'\\\\W'"),
        (r"[[:punct:]]", r"'\[:punct:\]'"),
        ("(?i:ß)", "'ß in any case'"),
        ("(?i:st)", "'st in any case'"),
        ("(?<n>a)", r"'\(\?<n'"),
        ("(*FAIL)", r"'\(\*FA'"),
    ],
)
def test_what_may_mean_another_thing_is_refused_by_name(expression, what):
    with pytest.raises(ValueError, match=f"has (?:{what}), which is not known to mean the same"):
        pattern_in_json(expression)


def test_no_name_is_taken_for_a_pattern_in_a_file():
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    for word in "gpt2", "o200k", "a":
        assert Tokeniser(bytes_alone, [], pattern=pattern_in_json(word)).pattern == f"(?:{word})"


def test_many_slow_pieces_are_one_slow_text(monkeypatch):
    monkeypatch.setattr(splitting, "SECONDS_OF_A_TEXT", 0.04)
    slow = {"Regex": r"(?:a|aa|aaa)+b|x"}
    row = [
        {"type": "Split", "pattern": {"Regex": "c"}, "behavior": "Removed"},
        {"type": "Split", "pattern": slow, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
    ]
    rules = Rules(pre_tokeniser=document_of(row))
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    ours = Tokeniser(bytes_alone, [], pattern=slow["Regex"], rules=rules)
    text = ("a" * 19 + "c") * 1000
    with pytest.raises(
        ValueError, match="took more than 0 seconds for a text of 20,000 characters, beg"
    ):
        ours.encode(text)  # each piece takes a millisecond or more, and there are a thousand


def document_of(row):
    return json.dumps({"type": "Sequence", "pretokenizers": row})


def test_halves_of_surrogate_pairs_are_joined_before_any_step():
    row = [{"type": "Punctuation", "behavior": "Isolated"}, {"type": "ByteLevel"}]
    rules = Rules(pre_tokeniser=document_of(row))
    ours = Tokeniser({bytes([byte]): byte for byte in range(256)}, [], rules=rules)
    assert (
        ours.encode("\ud83d\ude00")
        == ours.encode_ordinary("\ud83d\ude00")
        == [*" \U0001f600".encode()]
    )


def test_a_token_may_begin_in_the_blanks_that_another_took():
    flags = {"<a>": Flags(rstrip=True)}
    tokens = {"<a>": "<a>", "  b": "  b", " ": " "}
    assert [token for _, token in cut_by_flags("<a>   b", tokens, flags)][:2] == ["<a>", " "]


@pytest.mark.parametrize(
    ("expression", "text", "wanted"),
    [
        (r"(?i:['’](?:s|t|re))| ?\p{L}+", "it’S don't", ["it", "’S", " don", "'t"]),
        (r"(?i)\w+", "x² AB", ["x²", " ", "AB"]),
        (r"\p{Bengali}+|\p{Upper}", "aকখB", ["a", "কখ", "B"]),
    ],
)
def test_signs_without_a_case_may_stand_where_case_is_ignored(expression, text, wanted):
    theirs = pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    known = pattern_in_json(expression)
    assert split(known)(text) == wanted == [piece for piece, _ in theirs.pre_tokenize_str(text)]
    assert pattern_in_json(known) == known  # saved, and read again


@pytest.mark.parametrize("expression", [r"(?i:\p{Lu})", r"(?i:\x73s)", r"(?i:s(?:s))", r"(?i:é)"])
def test_what_ignores_case_in_two_ways_is_refused(expression):
    with pytest.raises(ValueError, match="is not known to mean the same here"):
        pattern_in_json(expression)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"\w+|\W+", r"has '\\\\w', which means one thing to tiktoken and another to Hugging Face"),
        (r"[^\s\w]+|\S", r"has '\\\\w', which means one thing"),
        (r"(?s).", "is not known to mean the same here as to Hugging Face"),
    ],
)
def test_a_pattern_that_cannot_be_saved_is_told_before_training_and_refused_after(pattern, message):
    with pytest.warns(UserWarning, match=f"can be used but not saved: .*{message}"):
        Tokeniser.train(["x² y²"], 257, pattern=pattern)
    made = Tokeniser({bytes([i]): i for i in range(256)}, [], {}, pattern)
    with pytest.raises(ValueError, match=message):
        made.save("nowhere")
