"""Published tokenizer.json files: the ids that `tokenizers` gives, for every kind of pipeline.

TRICYCLE_TEST_DATA has small files in the forms of 18 published ones; the others are made here.
"""

import copy
import json
import random
import warnings

import pytest
import tokenizers

from tricycle_bpe import Tokeniser
from tricycle_bpe.splitting import PATTERNS
from tricycle_bpe.switches import AFTER_DIGITS, ONE_BY_ONE

MINI = "mini/tokenizers"
NAMES = (
    *("gpt2", "llama3", "qwen2.5", "qwen3.5", "smollm2", "starcoder2", "deepseek_v3", "phi4"),
    *("gpt_neox", "tekken", "gpt_oss", "gpt4o", "roberta_like", "minicpm5", "ling"),
    *("deepseek_coder", "laguna", "falcon"),
)
ODD = (
    "ſKıİßŉǅ\u0345\u0301\u0327\u093c\u0e33\u200d\ufe0f½²Ⅷ٣५一ー々〇。，！￥あ가힣\u2003\u00a0\u0085\u2028"
    "\x1c\x1f_'`~$^+=<>|&€🎉"
)
RANDOM_TEXTS = 600  # in a run of CI, all kinds together


@pytest.fixture(scope="module")
def expected(data_file):
    return json.loads(data_file(f"{MINI}/expected.json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:this vocabulary lacks")
def test_a_published_kind_gives_the_ids_of_hugging_face(name, expected, data_file):
    ours = Tokeniser.from_huggingface(data_file(f"{MINI}/{name}.json"))
    right = expected["files"][name]
    for text, ids, decoded in zip(expected["texts"], right["ids"], right["decoded"]):
        assert ours.encode(text, allowed_special="all") == ids, text
        assert ours.decode(ids) == decoded
    assert [*ours.around[0], *ours.around[1]] == right["added"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:this vocabulary lacks")
def test_random_texts_get_the_ids_of_hugging_face(
    name, expected, data_file, tmp_path, thoroughness
):
    path = data_file(f"{MINI}/{name}.json")
    ours, theirs = Tokeniser.from_huggingface(path), tokenizers.Tokenizer.from_file(str(path))
    pool = [c for text in expected["texts"] for c in text] + list(ODD)
    words = [*ours.special_tokens, *ours.added_tokens, *expected["texts"]]
    rng = random.Random(f"{name} 3")
    n = RANDOM_TEXTS // len(NAMES) if thoroughness == 1 else 10_000
    for _ in range(n):
        text = random_text(rng, pool, words)
        there = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == there, text
    ours.save(tmp_path)
    again = Tokeniser.load(tmp_path)
    assert again.fingerprint() == ours.fingerprint()
    assert again.encode(text, allowed_special="all") == there
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert written.encode(text, add_special_tokens=False).ids == there


def random_text(rng, pool, words):
    return "".join(
        rng.choice(pool) if rng.random() < 0.93 else rng.choice(words)[:12]
        for _ in range(rng.randint(1, 40))
    )


# ---- Made here ----

TEXT = "the cat sat on the mat. The other cat isn't there; it's out! 1234 été 漢字\n\n" * 3
SAMPLE = "the  cat 12½ isn't\r\n e\u0301t\xe9 (out!) 漢字3 <|end|>  <mask> cats cat\n"


@pytest.fixture
def document(tmp_path):
    Tokeniser.train([TEXT], 290, special_tokens=["<|end|>"]).save(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))


@pytest.fixture
def both(tmp_path):
    """Ours and theirs, of a document."""

    def read(document):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(document), "utf-8")
        return Tokeniser.from_huggingface(path), tokenizers.Tokenizer.from_file(str(path))

    return read


def byte_level(use_regex=False, blank=False):
    return {
        "type": "ByteLevel",
        "add_prefix_space": blank,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def regex_split(expression, behaviour="Isolated", invert=False):
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": invert}


ROWS = {
    "digits, GPT-2": [{"type": "Digits", "individual_digits": True}, byte_level(True)],
    "a blank in front": [byte_level(True, blank=True)],
    "punctuation": [{"type": "Punctuation", "behavior": "Isolated"}, byte_level(True)],
    "two splits": [regex_split(r"\p{N}{1,3}"), regex_split(PATTERNS["o200k"]), byte_level()],
    "a text is split at": [
        {"type": "Split", "pattern": {"String": "t."}, "behavior": "Removed", "invert": False},
        byte_level(True),
    ],
    "numbers removed": [regex_split(r"\p{N}", "Removed"), byte_level()],
    "joined": [regex_split(r"\s", "MergedWithNext"), byte_level()],
    "after the bytes": [byte_level(True), {"type": "Digits", "individual_digits": False}],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_steps_gives_the_ids_of_hugging_face(name, document, both):
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": ROWS[name]}
    document["normalizer"] = {"type": "NFC"}
    ours, theirs = both(document)
    rng = random.Random(2)
    for _ in range(100):
        text = "".join(rng.choices(SAMPLE, k=rng.randint(1, 60)))
        assert ours.encode(text) == theirs.encode(text).ids, text
    assert copy.copy(ours).encode(SAMPLE, "all") == theirs.encode(SAMPLE).ids
    cut_off = SAMPLE.encode()[:-4] + b"\xc3"
    assert ours.encode_bytes(cut_off)[:5] == ours.encode(SAMPLE, "all")[:5]


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip", "normalized"])
def test_an_added_token_has_conditions(flag, document, both):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {flag: True}
    for i, text in enumerate(["<mask>", "cat", "e\u0301t"]):
        document["added_tokens"].append({"id": 900 + i, "content": text, "special": False, **flags})
    document["normalizer"] = {"type": "NFC"}
    ours, theirs = both(document)
    assert sum(ours.rules.flags["cat"]) == 1
    rng = random.Random(3)
    for _ in range(200):
        parts = ["<mask>", "cat", "s", " ", "\n", "e\u0301t", "\xe9t", "_", "<|end|>", "\u3000"]
        text = "".join(rng.choices(parts, k=rng.randint(1, 12)))
        assert ours.encode(text, "all") == theirs.encode(text).ids, text


def without_bytes(document, lost, unknown=None):
    """The document with a vocabulary that lacks some bytes."""
    model = document["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if not set(token) & lost}
    model["merges"] = [pair for pair in model["merges"] if not set("".join(pair)) & lost]
    model["unk_token"] = unknown
    return document


@pytest.mark.parametrize("unknown", [None, "<|end|>"])
@pytest.mark.parametrize("whole", [False, True])
def test_bytes_that_are_missing_are_dropped_or_unknown_and_it_is_said_once(
    unknown, whole, document, both
):
    document["model"]["ignore_merges"] = whole
    ours, theirs = both(without_bytes(document, set("cé3!"), unknown))
    with pytest.warns(UserWarning, match="this vocabulary lacks 4 of the 256 bytes; where .* once"):
        assert ours.encode("cat!") == theirs.encode("cat!").ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in SAMPLE, TEXT, "ccc", "c", "the cat the c33 the":
            assert ours.encode(text, "all") == theirs.encode(text).ids, text


def test_an_unknown_token_that_cannot_be_followed_is_refused(document, both):
    document = without_bytes(document, {"c"}, "<|no|>")
    with pytest.raises(ValueError, match=r"its unk_token '<\|no\|>' is not in the vocabulary"):
        both(document)


def test_an_entry_that_no_text_gets_is_decoded_and_kept(document, both, tmp_path):
    document["model"]["vocab"]["two words"] = 999
    ours, _ = both(document)
    assert ours.decode([999]) == "two words"
    assert 999 not in ours.encode("two words")
    ours.save(tmp_path)
    assert Tokeniser.load(tmp_path).decode([999]) == "two words"


POST = {
    "a template": (
        {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
        }
    ),
    "RoBERTa's": {"type": "RobertaProcessing", "sep": ["<|end|>", 0], "cls": ["<|end|>", 0]},
    "BERT's": {"type": "BertProcessing", "sep": ["<|end|>", 0], "cls": ["<|end|>", 0]},
}


@pytest.mark.parametrize("name", POST)
def test_what_is_put_around_a_text_is_kept_and_offered(name, document, both, tmp_path):
    node = POST[name] | ({"trim_offsets": True, "add_prefix_space": False} if "R" in name else {})
    document["post_processor"] = {"type": "Sequence", "processors": [byte_level(), node]}
    ours, theirs = both(document)
    before, after = ours.around
    assert [*before, *ours.encode("the cat"), *after] == theirs.encode("the cat").ids
    ours.save(tmp_path / "saved")
    assert Tokeniser.load(tmp_path / "saved").around == ((0,), (0,))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"type": "Other"}, "`post_processor` 'Other' is not known here; TemplateProcessing, Bert"),
        ({"type": "BertProcessing"}, "`post_processor` .* is not as it should be"),
        ({"type": "BertProcessing", "cls": ["a", "b"], "sep": []}, "has 'b' for an id"),
        (
            {"type": "BertProcessing", "cls": ["<|end|>", 0], "sep": ["<|end|>", 10**12]},
            "puts the id 1000000000000 around a text, which no token has",
        ),
        (
            {"type": "BertProcessing", "cls": ["<|end|>", -5], "sep": ["<|end|>", 0]},
            "puts the id -5 around a text, which no token has",
        ),
        ({"type": "TemplateProcessing", "single": [], "special_tokens": {}}, "has no text in it"),
        (
            {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "B"}}],
                "special_tokens": {},
            },
            "has another text than A",
        ),
    ],
)
def test_a_post_processor_that_is_not_known_is_refused(node, message, document, both):
    document["post_processor"] = node
    with pytest.raises(ValueError, match=message):
        both(document)


def test_long_texts_are_cut_in_parts_only_where_that_is_safe(document, both):
    assert both(document)[0].pattern_of_parts == "gpt2"
    document["normalizer"] = {"type": "NFC"}
    assert both(document)[0].pattern_of_parts == "gpt2"
    apart = AFTER_DIGITS[ONE_BY_ONE]
    for name, safe in ("digits, GPT-2", apart), ("a blank in front", ""), ("two splits", ""):
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": ROWS[name]}
        assert both(document)[0].pattern_of_parts == safe
    document["pre_tokenizer"] = ROWS["digits, GPT-2"][1]
    for text, safe in ("<end>", "gpt2"), ("end", ""):  # end\n: the newline is the token's
        flags = {"rstrip": True, "lstrip": False, "normalized": False, "single_word": False}
        document["added_tokens"] = [{"id": 900, "content": text, "special": True, **flags}]
        assert both(document)[0].pattern_of_parts == safe
