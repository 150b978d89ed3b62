"""HellaSwag, LAMBADA and WikiText on a model that really learned, beside transformers' numbers.

scripts/golden_benchmarks.py made tests/golden/stories/golden.json, with a reader, a Llama and
questions of its own; the three sample files beside it are in the benchmarks' public formats.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import GPT, GPTConfig, hellaswag, lambada, quantise, wikitext
from tricycle_gpt.benchmarks import encode_pair, log_likelihoods, rolling_windows

STORIES = Path(__file__).with_name("golden") / "stories"
GOLDEN = json.loads((STORIES / "golden.json").read_text(encoding="utf-8"))


class Frozen:
    """The ids of those texts that were asked about; any other text is an error."""

    def encode(self, text):
        return GOLDEN["ids"][text]


@pytest.fixture(scope="module")
def model():
    """Karpathy's stories260K, from llama2.c's format: sizes, then float32 weights."""
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip(
            "TRICYCLE_TEST_DATA is not set: stories260K/stories260K.bin is looked for there"
        )
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "stories260K" / "stories260K.bin"
    sizes, flat = np.fromfile(path, "<i4", 7), np.fromfile(path, "<f4", offset=28)
    width, hidden, layers, heads, key_heads, vocabulary, window = map(int, sizes)
    config = GPTConfig(
        *(vocabulary, window, width, layers, heads, "llama", key_heads, hidden), norm_eps=1e-5
    )
    model = GPT(config, rng=np.random.default_rng(0))
    size = width // heads * key_heads
    names = ["attention_norm", "q", "k", "v", "attention.projection"]
    names += ["mlp_norm", "mlp.gate", "mlp.down", "mlp.up"]
    shapes = [(width,), (width, width), (size, width), (size, width), (width, width)]
    shapes += [(width,), (hidden, width), (width, hidden), (hidden, width)]
    found, position = {}, vocabulary * width
    for name, shape in zip(names, shapes, strict=True):
        count = layers * int(np.prod(shape))
        found[name] = flat[position : position + count].reshape(layers, *shape)
        position += count
    for name, n in (("q", heads), ("k", key_heads)):
        # llama2.c turns neighbours, (0, 1), (2, 3)…; ours are half a head apart.
        pairs = found[name].reshape(layers, n, -1, 2, width)
        found[name] = pairs.swapaxes(2, 3).reshape(layers, -1, width)
    packed = np.concatenate([found.pop(name) for name in "qkv"], axis=1)
    state = {f"blocks.{i}.attention.query_key_value.weight": packed[i].T for i in range(layers)}
    for name, arrays in found.items():
        state |= {f"blocks.{i}.{name}.weight": arrays[i].T for i in range(layers)}
    state["token_embedding.weight"] = flat[: vocabulary * width].reshape(vocabulary, width)
    state["norm.weight"] = flat[position : position + width]
    model.load_state_dict(state)
    return model


def test_hellaswag_gives_the_numbers_of_transformers(model):
    found, golden = hellaswag(model, Frozen(), STORIES / "hellaswag.jsonl"), GOLDEN["hellaswag"]
    assert found.accuracy == golden["accuracy"]
    assert found.normalised_accuracy == golden["normalised_accuracy"]
    assert found.questions == 6
    first = ("Playing: A little girl named Lily goes to the park with her mom. She", " sees a big")
    text = next(text for text in GOLDEN["ids"] if text.startswith("".join(first)))
    pair = encode_pair(Frozen(), first[0], text[len(first[0]) :])
    ((score, _),) = log_likelihoods(model, [pair])
    assert score == pytest.approx(golden["scores"][0][1], abs=1e-3)


def test_lambada_gives_the_numbers_of_transformers(model):
    found, golden = lambada(model, Frozen(), STORIES / "lambada.jsonl"), GOLDEN["lambada"]
    assert found.accuracy == golden["accuracy"]
    assert 0 < found.accuracy < 1
    assert found.perplexity == pytest.approx(golden["perplexity"], rel=1e-4)


def test_wikitext_gives_the_numbers_of_transformers(model):
    found, golden = wikitext(model, Frozen(), STORIES / "wiki.txt", 1), GOLDEN["wikitext"]
    longest = max(len(ids) for ids in GOLDEN["ids"].values())
    assert longest > model.config.context_window  # an article is read in two windows
    assert found.articles == 2
    assert found.word_perplexity == pytest.approx(golden["word_perplexity"], rel=1e-4)
    assert found.byte_perplexity == pytest.approx(golden["byte_perplexity"], rel=1e-4)
    assert found.bits_per_byte == pytest.approx(golden["bits_per_byte"], rel=1e-4)


def test_weights_of_8_bits_cost_less_than_two_thousandths_of_perplexity(model):
    score, n = {}, 0
    texts = [ids for ids in GOLDEN["ids"].values() if len(ids) > 1]
    for name, kind in (("whole", model), ("8 bits", quantise(model))):
        pairs = [pair for ids in texts for pair in rolling_windows(ids, 1, 512)]
        score[name] = sum(part for part, _ in log_likelihoods(kind, pairs))
        n = sum(len(continuation) for _, continuation in pairs)
    assert n > 1000
    assert np.exp(-score["whole"] / n) < 20  # it has learned: 512 tokens
    assert abs(np.exp((score["whole"] - score["8 bits"]) / n) - 1) < 0.002
