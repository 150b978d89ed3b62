"""Model folders as other programs read them, against what transformers gave for each pattern.

scripts/golden_exports.py made the file; tests/compat/test_exports.py asks transformers itself.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_bpe.splitting import PATTERNS
from tricycle_gpt import GPT, GPTConfig, find_weights, from_gguf, read_gguf, to_gguf, to_huggingface

GOLDEN = json.loads(
    (Path(__file__).parent / "golden/exports/tokens.json").read_text(encoding="utf-8")
)


def test_every_pattern_is_there_with_and_without_an_end_of_text_token():
    found = {(case["pattern"], tuple(case["special_tokens"])) for case in GOLDEN["cases"]}
    assert found == {(name, end) for name in PATTERNS for end in ((), ("<|endoftext|>",))}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_our_ids_are_those_that_transformers_reads_from_the_folder(case, tmp_path):
    tokeniser = Tokeniser.train(
        [GOLDEN["learned_from"]],
        GOLDEN["vocab_size"],
        pattern=case["pattern"],
        special_tokens=case["special_tokens"],
    )
    sizes = {"context_window": 24, "embedding_dim": 16, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(tokeniser.n_vocab, **sizes), rng=np.random.default_rng(0))
    to_huggingface(model, tmp_path, tokeniser)
    again = Tokeniser.load(tmp_path)
    for text, ids in zip(GOLDEN["texts"], case["ids"], strict=True):
        assert again.encode(text, allowed_special="all") == ids
        assert again.decode(ids) == text
    for name, expected in case["files"].items():
        assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == expected


# ---- GGUF files ----


def speaking(n_tokens):
    sizes = {"context_window": 24, "embedding_dim": 32, "n_layers": 1, "n_heads": 2}
    return GPT(GPTConfig(n_tokens, **sizes, block="llama"), rng=np.random.default_rng(0))


def in_file(tokeniser, path, n_more=0):
    """The settings of a GGUF file that has a tokeniser, and the tokeniser that is read from it."""
    model = speaking(tokeniser.n_vocab + n_more)
    to_gguf(model, path, "F32", tokeniser)
    settings = read_gguf(path).settings
    return settings, Tokeniser.from_gguf(settings)


@pytest.mark.parametrize(("pattern", "name"), [("gpt2", "gpt-2"), ("cl100k-huggingface", "dbrx")])
def test_a_gguf_file_has_the_tokeniser_it_is_written_with(pattern, name, tmp_path):
    end = ["<|endoftext|>"]
    ours = Tokeniser.train([GOLDEN["learned_from"]], 300, pattern=pattern, special_tokens=end)
    settings, again = in_file(ours, tmp_path / "model.gguf", n_more=3)
    assert settings["tokenizer.ggml.pre"] == name
    assert settings["tokenizer.ggml.eos_token_id"] == ours.special_tokens["<|endoftext|>"]
    assert list(settings["tokenizer.ggml.tokens"])[-3:] == ["[PAD300]", "[PAD301]", "[PAD302]"]
    assert list(settings["tokenizer.ggml.token_type"][-4:]) == [1, 5, 5, 5]
    assert again.special_tokens == ours.special_tokens
    for text in GOLDEN["texts"]:
        ids = ours.encode(text, allowed_special="all")
        assert again.encode(text, allowed_special="all") == ids
        assert again.decode(ids) == text


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5", "llama3"])
def test_a_published_tokeniser_goes_through_a_gguf_file(name, tmp_path):
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip(
            f"TRICYCLE_TEST_DATA is not set: mini/tokenizers/{name}.json is looked for there"
        )
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini" / "tokenizers" / f"{name}.json"
    ours = Tokeniser.open(path)
    settings, again = in_file(ours, tmp_path / "model.gguf")
    assert settings["tokenizer.ggml.add_bos_token"] == bool(len(ours.around[0]))
    assert (again.special_tokens, again.added_tokens) == (ours.special_tokens, ours.added_tokens)
    assert [list(side) for side in again.around] == [list(side) for side in ours.around]
    for text in GOLDEN["texts"]:
        ids = ours.encode(text, allowed_special="all", disallowed_special=())
        assert again.encode(text, allowed_special="all", disallowed_special=()) == ids


@pytest.mark.parametrize("pattern", ["cl100k", "characters"])
def test_a_tokeniser_that_gguf_files_have_no_name_for_is_refused(pattern, tmp_path):
    ours = Tokeniser.train([GOLDEN["learned_from"]], 260, pattern=pattern)
    with pytest.raises(ValueError, match=r"have no name for \(gpt-2, smollm, dbrx, llama-bpe, q"):
        to_gguf(speaking(300), tmp_path / "model.gguf", "F32", ours)
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_has_the_ends_the_template_and_no_more_tokens_than_its_model(tmp_path):
    tokens = ["<|im_start|>", "<|im_end|>", "<|eom|>", "<|endoftext|>"]
    ours = Tokeniser.train([GOLDEN["learned_from"]], 300, special_tokens=tokens)
    start, turn, message, end = (ours.special_tokens[token] for token in tokens)
    model = speaking(310)
    model.begin_id, model.chat_template = start, "{{ messages }}"
    model.end_ids = (turn, message, end)
    path = to_gguf(model, tmp_path / "model.gguf", "F32", ours)
    again, found = from_gguf(path), find_weights(path)
    assert again.end_ids == found.end_ids == (turn, message, end)
    assert again.known_ids.tolist() == [True] * 300 + [False] * 10
    model.end_ids = (turn, message, end, 5)
    with pytest.raises(ValueError, match="4 tokens end a text .*, and a GGUF file has names for 3"):
        to_gguf(model, path, "F32", ours)
    assert again.begin_id == found.begin_id == start
    assert again.chat_template == found.template == "{{ messages }}"
    with pytest.raises(ValueError, match="the tokeniser has 300 tokens and the model knows 299"):
        to_gguf(speaking(299), path, "F32", ours)
