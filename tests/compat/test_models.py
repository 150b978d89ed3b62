"""Whole models beside those of transformers, with the same weights."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from tricycle_autograd import no_grad
from tricycle_gpt import GPT, PRESETS, from_huggingface, to_huggingface
from tricycle_gpt.huggingface import pieces

THEIR_SIZES = {
    "vocab_size": 53,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
THEIR_LLAMA = {
    **THEIR_SIZES,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 24,
}
THEIRS = {
    "GPT2LMHeadModel": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **THEIR_SIZES | {"tie_word_embeddings": True},
            n_positions=24,
            n_embd=32,
            n_layer=3,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ),
    "LlamaForCausalLM": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**THEIR_LLAMA)
    ),
    "Qwen3ForCausalLM": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**THEIR_LLAMA)
    ),
}


def spelt_out(config):
    """A config with the values that it left to be derived; a folder always has them."""
    return dataclasses.replace(
        config, hidden_dim=config.mlp_width, n_key_value_heads=config.key_value_heads
    )


def draw_ids(model, batch_size, length):
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (batch_size, length + 1))
    return ids[:, :-1], ids[:, 1:]


def assert_equal(ours, theirs, inputs, targets):
    """Logits and loss to 1e-4, every gradient to 1e-4 of its largest entry."""
    logits = theirs(torch.from_numpy(inputs)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(targets).flatten()
    )
    loss.backward()
    with no_grad():
        ours_logits = ours(inputs).numpy()
    np.testing.assert_allclose(ours_logits, logits.detach().numpy(), rtol=0, atol=1e-4)
    ours_loss = ours.loss(inputs, targets)
    assert ours_loss.item() == pytest.approx(loss.item(), abs=1e-4)

    ours_loss.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    compared = pieces(ours.config)
    parameters = dict(theirs.named_parameters())
    assert parameters.keys() == compared.keys()
    for name, parameter in parameters.items():
        expected = parameter.grad.numpy()
        hair = 1e-4 * np.abs(expected).max()
        found = compared[name].of(gradients)
        np.testing.assert_allclose(found, expected, rtol=0, atol=hair, err_msg=name)


def test_our_folder_read_by_transformers_is_the_same_model(model, as_transformers, tmp_path):
    theirs = as_transformers(to_huggingface(model, tmp_path))
    assert_equal(model, theirs, *draw_ids(model, 2, 24))


@pytest.mark.parametrize("name", THEIRS)
def test_their_folder_read_by_us_is_the_same_model(name, tmp_path):
    torch.manual_seed(0)
    theirs = THEIRS[name]().train()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    assert type(theirs).__name__ == name
    ours = from_huggingface(tmp_path)
    assert_equal(ours, theirs, *draw_ids(ours, 2, 24))


def test_a_folder_that_went_through_transformers_comes_back_bit_for_bit(
    model, as_transformers, tmp_path
):
    as_transformers(to_huggingface(model, tmp_path / "ours")).save_pretrained(tmp_path / "theirs")
    back = from_huggingface(tmp_path / "theirs")
    assert spelt_out(back.config) == spelt_out(model.config)
    for (name, before), (_, after) in zip(
        model.named_parameters(), back.named_parameters(), strict=True
    ):
        assert before.numpy().tobytes() == after.numpy().tobytes(), name


def test_gpt2_with_its_124_million_parameters(as_transformers, tmp_path):
    model = GPT(PRESETS["gpt2"], rng=np.random.default_rng(0))
    assert model.n_parameters() == 124_439_808
    theirs = as_transformers(to_huggingface(model, tmp_path))
    inputs, targets = draw_ids(model, 1, 64)
    assert 10.85 < model.loss(inputs, targets).item() < 11.15
    assert_equal(model, theirs, inputs, targets)
