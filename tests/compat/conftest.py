"""Models to compare: one of each kind with weights that leave nothing at 0 or 1.

These tests need torch and transformers and run in an environment of their own:
`hatch run compat:test`.
"""

import numpy as np
import pytest
import torch
import transformers

from tricycle_gpt import GPT, GPTConfig

transformers.logging.disable_progress_bar()

TINY = {"vocab_size": 53, "context_window": 24, "embedding_dim": 32, "n_layers": 3, "n_heads": 4}
KINDS = {
    "gpt2": {},
    "gpt2, head apart": {"tied_head": False},
    "llama": {"block": "llama", "tied_head": False},
    "llama, grouped": {"block": "llama", "n_key_value_heads": 2},
    "qwen3": {"block": "llama", "n_key_value_heads": 2, "qk_norm": True},
}


@pytest.fixture(params=KINDS)
def model(request):
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(**TINY, **KINDS[request.param]), rng=rng)
    for parameter in model.parameters():
        parameter.array += np.float32(0.1) * rng.standard_normal(parameter.shape, np.float32)
    return model


@pytest.fixture
def as_transformers(tmp_path):
    """A model folder, read by transformers."""

    def read(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(folder).train()

    torch.manual_seed(0)
    return read
