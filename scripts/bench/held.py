"""How much memory waits between the forward and the backward pass?

    hatch run bench held.py

Two models of 4 layers, 256 wide, 4 windows of 256 tokens: GPT-2's blocks with dropout, and Llama's
with QK-norm.  Counted are the arrays that numpy allocates for a loss and that are still there
when it has been computed (tracemalloc); a (B, T, C) array is 1.05 MB here.
"""

import tracemalloc

import numpy as np

from tricycle_gpt import GPT, GPTConfig

SIZES = {
    "vocab_size": 512,
    "context_window": 256,
    "embedding_dim": 256,
    "n_layers": 4,
    "n_heads": 4,
}
MODELS = {
    "GPT-2, dropout 0.1": GPTConfig(**SIZES, dropout=0.1),
    "Llama, QK-norm": GPTConfig(**SIZES, block="llama", qk_norm=True),
}
BATCH = 4


def held_bytes(config: GPTConfig) -> int:
    """What a loss keeps for its backward pass."""
    model = GPT(config, rng=np.random.default_rng(0))
    shape = BATCH, config.context_window + 1
    ids = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()  # kernels are loaded, caches are filled
    model.zero_grad()
    tracemalloc.start()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loss.requires_grad
    return held


if __name__ == "__main__":
    for name, config in MODELS.items():
        held = held_bytes(config)
        array = BATCH * config.context_window * config.embedding_dim * 4
        print(f"{name:<20}{held / 1e6:6.1f} MB, {held / array:5.1f} arrays of (B, T, C)")
