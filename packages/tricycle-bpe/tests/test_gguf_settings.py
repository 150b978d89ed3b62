"""Tokenisers in GGUF files, from their settings; and Mistral's tekken.json."""

import base64
import json

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_bpe.gguf_settings import BY_NAME, QWEN2, QWEN35, TEKKEN
from tricycle_bpe.steps_in_json import pipeline_in

TEXT = "the cat sat on the mat. The other cat isn't there; it's out! 1234 été 漢字\n\n" * 3
SAMPLE = "the  cat 12½ isn't\r\n e\u0301t\xe9 (out!) 漢字3 <|end|> cats cat\n"


@pytest.fixture
def document(tmp_path):
    Tokeniser.train([TEXT], 290, special_tokens=["<|end|>"]).save(tmp_path)
    return json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))


@pytest.fixture
def settings(document):
    """What a GGUF file of the same tokeniser would say."""
    tokens = list(document["model"]["vocab"])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3] + [1] * (len(tokens) - 1), np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.chat_template": "{{ messages }}",
    }


def test_the_ids_are_those_of_the_same_tokeniser_in_json(settings, document, tmp_path):
    digits = {"type": "Digits", "individual_digits": True}
    steps = [digits, document["pre_tokenizer"]]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (tmp_path / "same.json").write_text(json.dumps(document), "utf-8")
    ours, same = Tokeniser.from_gguf(settings), Tokeniser.from_huggingface(tmp_path / "same.json")
    assert ours.encode(SAMPLE, "all") == same.encode(SAMPLE, "all")
    assert ours.special_tokens == {"<|end|>": 0}
    assert ours.chat_template == "{{ messages }}"
    assert ours.around == ((), ())


def test_a_token_that_begins_each_text_is_offered(settings):
    assert Tokeniser.from_gguf(settings | {"tokenizer.ggml.add_bos_token": True}).around[0] == (0,)
    llama = settings | {"tokenizer.ggml.pre": "llama-bpe"}  # adds one unless the file says no
    assert Tokeniser.from_gguf(llama).around == ((0,), ())
    assert Tokeniser.from_gguf(llama | {"tokenizer.ggml.add_bos_token": False}).around == ((), ())


@pytest.mark.parametrize("name", BY_NAME)
def test_every_known_way_of_cutting_can_be_followed(name, settings):
    ours = Tokeniser.from_gguf(settings | {"tokenizer.ggml.pre": name})
    assert ours.decode(ours.encode_ordinary("the cat, 1234")) == "the cat, 1234"


MINI = {"qwen2": "qwen2.5", "qwen35": "qwen3.5", "tekken": "tekken", "deepseek-v3": "deepseek_v3"}
MINI |= {"minicpm5": "minicpm5", "llama-bpe": "llama3", "gpt-4o": "gpt_oss", "smollm": "smollm2"}


@pytest.mark.parametrize("name", MINI)
def test_a_way_of_cutting_is_that_of_the_published_file(name, data_file):
    path = data_file(f"mini/tokenizers/{MINI[name]}.json")
    steps = {"type": "Sequence", "pretokenizers": list(BY_NAME[name].steps)}
    theirs = pipeline_in(json.loads(path.read_text("utf-8"))["pre_tokenizer"])
    ours = pipeline_in(steps)
    assert ours.pattern == theirs.pattern.replace("\r", r"\r").replace("\n", r"\n")
    assert [(step.func, step.args) for step in ours.steps] == [
        (step.func, step.args) for step in theirs.steps
    ]


def test_patterns_are_made_from_ours():
    assert r"\p{N}|" in QWEN2 and "{1,3}" not in QWEN2 + QWEN35 + TEKKEN
    assert r"[^\s\p{L}\p{M}\p{N}]" in QWEN35 and "'s" not in TEKKEN


SPOILT = {
    "SentencePiece": ({"tokenizer.ggml.model": "llama"}, "is 'llama': it has a SentencePiece tok"),
    "WordPiece": ({"tokenizer.ggml.model": "bert"}, "it has a WordPiece tokeniser, and only byte"),
    "no model": ({"tokenizer.ggml.model": 3}, "is '3': it has another tokeniser"),
    "another name": ({"tokenizer.ggml.pre": "viking"}, "'viking' is not known here; gpt-2, phi-2"),
    "no tokens": ({"tokenizer.ggml.tokens": 3}, r"a list of texts in .*tokens, found 3"),
    "no merges": ({"tokenizer.ggml.merges": "a b"}, r"a list of texts in .*merges, found 'a b'"),
    "few types": ({"tokenizer.ggml.token_type": [1]}, "tokens and 1 types of tokens"),
    "a token twice": ({"tokenizer.ggml.tokens": ["a", "a"]}, "'a' has two ids, the second is 1"),
    "a number": ({"tokenizer.ggml.tokens": ["a", 7]}, "expected texts in .*, found 7"),
    "no beginning": (
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": -1},
        "bos_token_id -1 is not one of its ids",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_settings_that_cannot_be_read_are_refused_for(what, settings):
    spoilt, message = SPOILT[what]
    if "tokenizer.ggml.tokens" in spoilt:
        settings.pop("tokenizer.ggml.token_type")
    with pytest.raises(ValueError, match=message):
        Tokeniser.from_gguf(settings | spoilt)


@pytest.mark.parametrize("types", [3, True, None, [1.0], ["a"], np.ones(290, np.float32)])
def test_types_of_tokens_that_are_no_whole_numbers_are_refused(types, settings):
    with pytest.raises(ValueError, match=r"expected whole numbers in `tokenizer.ggml.token_type`"):
        Tokeniser.from_gguf(settings | {"tokenizer.ggml.token_type": types})


# ---- tekken.json ----


def tekken_of(tokens, **other):
    rows = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode()}
        for i, token in enumerate(tokens)
    ]
    config = {
        "pattern": TEKKEN,
        "default_vocab_size": 10 + len(tokens) - 1,
        "default_num_special_tokens": 10,
    }
    return {"config": config, "vocab": rows, **other}


def test_a_tekken_file_has_its_special_tokens_first(tmp_path):
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"not in use"]
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(tekken_of(tokens)))
    ours = Tokeniser.load(tmp_path)
    assert ours.encode("abc ab") == [267, 10 + 32, 266]
    assert ours.n_vocab == 268
    assert ours.special_tokens["<s>"] == 1 and ours.special_tokens["[TOOL_CALLS]"] == 9
    listed = [{"rank": 0, "token_str": "<unk>"}, {"rank": 4, "token_str": "[INST]"}]
    path.write_text(json.dumps(tekken_of(tokens, special_tokens=listed)))
    ours = Tokeniser.from_tekken(path)
    assert ours.encode("[INST]ab", "all") == [4, 266]
    assert ours.special_tokens["<SPECIAL_9>"] == 9


def test_broken_tekken_files_are_refused(tmp_path):
    path = tmp_path / "tekken.json"
    good = tekken_of([b"a", b"b"])
    for spoilt, message in (
        (good | {"config": 3}, "expected a dict in 'config', found 3"),
        (good | {"special_tokens": 5}, "expected a list in 'special_tokens', found 5"),
        (tekken_of([b"a", b"a", b"b"]), "its token b'a' has two ranks, one is 1"),
        (tekken_of([b"a" * 1025, b"b"]), "has 1,025 bytes: too many to find its parts"),
        (good | {"vocab": [{"rank": 0, "token_bytes": "?"}]}, "a token in base64, found '?'"),
        (good | {"config": good["config"] | {"default_num_special_tokens": -1}}, "-1 special tok"),
    ):
        path.write_text(json.dumps(spoilt))
        with pytest.raises(ValueError, match=message):
            Tokeniser.from_tekken(path)
