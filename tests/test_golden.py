"""Whole models against numbers that transformers and PyTorch gave for the same weights.

scripts/golden.py made the files in tests/golden; nothing of theirs is needed here.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tricycle_autograd import definitions_only, no_grad
from tricycle_gpt import GPT, GPTConfig
from tricycle_nn import AdamW, clip_scale, default_groups

FILES = sorted(Path(__file__).with_name("golden").glob("*.json"))
TINY = [file for file in FILES if file.stem.startswith("tiny")]


def load(file):
    """(golden numbers, the model with the weights they are for, inputs, targets)."""
    golden = json.loads(file.read_text(encoding="utf-8"))
    rng = np.random.default_rng(golden["seed"])
    model = GPT(GPTConfig(**golden["config"]), rng=rng)
    for parameter in model.parameters():
        noise = np.float32(golden["noise"])
        parameter.array += noise * rng.standard_normal(parameter.shape, np.float32)
    ids = np.array(golden["ids"])
    return golden, model, ids[:, :-1], ids[:, 1:]


def assert_equal_to_golden(golden, model, inputs, targets):
    """Loss, logits and every gradient."""
    with no_grad():
        logits = model(inputs)
    assert logits.shape == (*inputs.shape, model.config.vocab_size)
    np.testing.assert_allclose(logits.array[:, -1, :12], golden["logits"], rtol=0, atol=1e-4)
    loss = model.loss(inputs, targets)
    assert loss.item() == pytest.approx(golden["loss"], abs=1e-4)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == golden["gradients"].keys()
    for name, expected in golden["gradients"].items():
        assert gradients[name].shape == tuple(expected["shape"]), name
        flat = gradients[name].reshape(-1)
        norm = np.linalg.norm(flat.astype(np.float64))
        assert norm == pytest.approx(expected["norm"], rel=1e-4), name
        where, values = zip(*expected["entries"], strict=True)
        hair = 1e-4 * expected["largest"]
        np.testing.assert_allclose(flat[list(where)], values, rtol=0, atol=hair, err_msg=name)


def test_there_is_a_file_for_each_kind_of_model():
    assert [file.stem for file in FILES] == [
        "gpt2",
        "tiny_gpt2",
        "tiny_gpt2_head_apart",
        "tiny_llama",
        "tiny_qwen3",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_loss_logits_and_gradients_are_transformers(file):
    assert_equal_to_golden(*load(file))


@pytest.mark.parametrize("file", TINY, ids=lambda file: file.stem)
def test_so_are_those_of_the_definitions(file):
    with definitions_only():
        assert_equal_to_golden(*load(file))


@pytest.mark.parametrize("file", TINY, ids=lambda file: file.stem)
def test_ten_steps_of_training_have_torchs_losses(file):
    golden, model, inputs, targets = load(file)
    recipe = golden["recipe"]
    optimiser = AdamW(
        default_groups(model, recipe["weight_decay"]),
        recipe["learning_rate"],
        betas=tuple(recipe["betas"]),
    )
    losses = []
    for _ in range(recipe["steps"]):
        loss = model.loss(inputs, targets)
        loss.backward()
        optimiser.step(grad_scale=clip_scale(model.parameters(), recipe["max_norm"]))
        optimiser.zero_grad()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)
    assert losses[-1] < losses[0] - 0.5


def test_gpt2_knows_next_to_nothing_before_it_has_learnt():
    golden = json.loads(FILES[0].read_text(encoding="utf-8"))
    assert 10.85 < golden["loss"] < 11.15  # ln 50257 = 10.825
