"""What the processes of cpu_step.py share: models, batches, data, recipe."""

import os
from dataclasses import replace

import numpy as np

from tricycle_gpt import GPTConfig

LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 3e-4, (0.9, 0.95), 0.1, 1.0

SMALL = GPTConfig(vocab_size=65, context_window=64, embedding_dim=128, n_layers=4, n_heads=4)
MIDDLE = GPTConfig(vocab_size=1024, context_window=256, embedding_dim=384, n_layers=6, n_heads=6)
GPT2 = replace(GPTConfig(), vocab_size=50304)
LLAMA = replace(MIDDLE, block="llama", n_key_value_heads=2)

# The model, the batch, and how many steps one block of a turn has.
CONFIGURATIONS = {
    "a": (SMALL, 12, 20),
    "b": (MIDDLE, 16, 2),
    "c": (GPT2, 1, 1),
    "d": (LLAMA, 16, 2),
}


def describe(config: GPTConfig, batch: int) -> str:
    return (
        f"{config.block}, {config.n_layers} layers, {config.n_heads} heads, "
        f"{config.embedding_dim} wide, context {config.context_window}, batch {batch}, "
        f"vocabulary {config.vocab_size}, dropout {config.dropout}"
    )


def draw_batch(config: GPTConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets (B, T): the speed does not depend on what they say."""
    ids = np.random.default_rng(0).integers(
        0, config.vocab_size, (batch, config.context_window + 1), dtype=np.int64
    )
    return ids[:, :-1].copy(), ids[:, 1:].copy()


def peak_memory() -> float:
    """The most memory this process has had in use (VmHWM: resident pages), in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak_memory() -> None:
    """Let peak_memory() count from what is in use now (see proc(5), clear_refs)."""
    with open(f"/proc/{os.getpid()}/clear_refs", "w") as clear:
        clear.write("5")
