"""Models in published formats give transformers' numbers: scores, loss, gradients, greedy text.

mini/ in the test data has 13 small models and 16 configs that must not be opened; its README says
how they were made, and expected.npz what transformers 5.24 computes with them.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import from_huggingface, generate
from tricycle_gpt.published import pieces

MODELS = [
    *("gpt2", "gpt2_first", "smollm2", "tinyllama", "llama3.2", "llama_biases", "llama_linear"),
    *("qwen2.5", "qwen3", "qwen3_square", "mistral", "mistral_window", "olmo2"),
]
REFUSED = {  # what the message must name
    "gemma": "norms by 1 [+] weight",
    "gemma2": "soft caps",
    "gemma3": "two rotary bases",
    "gpt_neox": "side by side",
    "llama_dynamic": "'dynamic'",
    "llama_gelu": "hidden_act 'gelu'",
    "llama_partial": "partial_rotary_factor 0.5",
    "llama_quantised": "quantization_config",
    "llama_yarn": "'yarn'",
    "mixtral": "experts",
    "olmo": "LayerNorm without weights",
    "opt": "positions that begin at 2",
    "phi": "for a part of each head",
    "phi3": "longrope",
    "qwen2_window": "use_sliding_window True",
    "qwen3_moe": "experts",
}


@pytest.fixture(scope="module")
def mini():
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: mini/expected.npz is looked for there")
    return Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini"


@pytest.fixture(scope="module")
def expected(mini):
    with np.load(mini / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_numbers_of_transformers(mini, expected, name):
    model, ids = from_huggingface(mini / name), expected[f"{name}/ids"]
    scores = model(ids[None]).numpy()[0, expected[f"{name}/positions"]]
    np.testing.assert_allclose(scores, expected[f"{name}/logits"], rtol=0, atol=1e-4)
    loss = model.loss(ids[None, :-1], ids[None, 1:])
    assert loss.item() == pytest.approx(float(expected[f"{name}/loss"]), abs=1e-5)
    loss.backward()
    gradients = {n: parameter.grad for n, parameter in model.named_parameters()}
    theirs = json.loads((mini / "gradients.json").read_text())[name]
    norms = dict(zip(theirs, expected[f"{name}/gradients"], strict=True))
    found = {n: np.linalg.norm(p.of(gradients)) for n, p in pieces(model.config).items()}
    assert found == pytest.approx(norms, rel=1e-4)
    written = list(generate(model, ids[:24], 16, temperature=0))
    assert written == expected[f"{name}/greedy"].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_both_ways_to_write_a_config_mean_the_same(mini, name, tmp_path):
    for path in (mini / name).glob("*.safetensors*"):
        (tmp_path / path.name).symlink_to(path)
    shutil.copy(mini / name / "config.transformers5.json", tmp_path / "config.json")
    assert from_huggingface(tmp_path).config == from_huggingface(mini / name).config


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_ours_is_refused_by_what_it_has(mini, name, tmp_path):
    config = json.loads((mini / "refuse" / f"{name}.json").read_text())
    del config["_why_refused"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(mini / "tinyllama" / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=REFUSED[name]):
        from_huggingface(tmp_path)
