"""Families: all that a new kind of model needs is a block and a Family."""

from dataclasses import replace

import numpy as np
import pytest

from tricycle_gpt import (
    FAMILIES,
    GPT,
    Family,
    GPTConfig,
    add_family,
    from_huggingface,
    to_huggingface,
)
from tricycle_nn import AdamW, LayerNorm, TransformerBlock

SIZES = {"vocab_size": 23, "context_window": 16, "embedding_dim": 16, "n_layers": 2, "n_heads": 2}


class OnlyAttention(TransformerBlock):
    """GPT-2's block without its MLP."""

    def forward(self, x, cache=None):
        return x + self.attention(self.attention_norm(x), cache=cache)


@pytest.fixture
def attention_only():
    """A family of our own, as CONTRIBUTING.md tells it."""

    def make_block(config, *, rng):
        return OnlyAttention(config.embedding_dim, config.n_heads, hidden=1, rng=rng)

    family = add_family(replace(FAMILIES["gpt2"], name="attention", make_block=make_block))
    yield family
    del FAMILIES["attention"]


def test_a_new_family_is_found_by_its_name_and_learns(attention_only):
    model = GPT(GPTConfig(block="attention", **SIZES), rng=np.random.default_rng(0))
    assert isinstance(model.norm, LayerNorm)
    ids = np.arange(16)[None] % 5
    optimiser = AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0] / 2


def test_both_families_write_what_they_read(tmp_path):
    for block in ("gpt2", "llama", "olmo2"):
        model = GPT(GPTConfig(block=block, **SIZES), rng=np.random.default_rng(0))
        again = from_huggingface(to_huggingface(model, tmp_path / block))
        assert again.config.family is model.config.family


def test_the_first_format_that_fits_is_written():
    llama = FAMILIES["llama"]
    config = GPTConfig(block="llama", **SIZES)
    assert llama.format_of(config).model_type == "llama"
    assert llama.format_of(replace(config, qk_norm=True)).model_type == "qwen3"
    assert llama.format_of(replace(config, query_key_value_bias=True)).model_type == "qwen2"
    assert llama.format_of(replace(config, sliding_window=8)).model_type == "mistral"
    assert llama.format_of(replace(config, mlp_bias=True)).model_type == "llama"
    with pytest.raises(ValueError, match="its formats are llama, qwen2, qwen3, mistral"):
        llama.format_of(replace(config, qk_norm=True, sliding_window=8))


def test_a_family_that_is_not_there_is_named():
    with pytest.raises(ValueError, match='"gpt2" or "llama" or "olmo2", got \'gpt3\''):
        GPTConfig(block="gpt3")


def test_two_families_of_one_name_are_refused():
    with pytest.raises(ValueError, match="there is a family 'gpt2' already"):
        add_family(FAMILIES["gpt2"])


def test_a_model_without_a_format_is_refused_when_it_is_asked_for():
    homeless: Family = replace(FAMILIES["gpt2"], formats=())
    with pytest.raises(ValueError, match="cannot be written as a model folder; its formats are"):
        homeless.format_of(GPTConfig(**SIZES))


def test_every_kind_learns(model):
    ids = np.arange(16)[None] % 5
    optimiser = AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        losses.append(loss.item())
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0] / 2
