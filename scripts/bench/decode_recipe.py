"""What the processes of cpu_decode.py share: models, prompt."""

from dataclasses import replace

import numpy as np

from tricycle_gpt import GPTConfig

PROMPT, TOKENS = 32, 64
CONFIGURATIONS = {
    "gpt2": replace(GPTConfig(), vocab_size=50304),
    "shakespeare": GPTConfig(
        vocab_size=1024, context_window=256, embedding_dim=384, n_layers=6, n_heads=6
    ),
}


def prompt_of(config: GPTConfig) -> np.ndarray:
    return np.random.default_rng(1).integers(0, config.vocab_size, PROMPT)
