"""Train four small models for 200 steps, and print the sha256 of each one's weights.

    python one_digest.py [FOLDER [BLOCK OPTIMISER]...]

GPT-2's block and Llama's, moved by AdamW and by Muon, with dropout.  The digests are equal on every
processor that has fused multiply-add, for any width of its registers, any number of threads, and
if a run was killed and resumed: digests.txt beside this file has them.  In FOLDER the runs are
kept, and resumed from their newest checkpoints; a block and an optimiser choose one of the four,
two more another.

The sizes are odd on purpose: rows that end within a register, a summed dimension that is cut in
two (576), grouped queries, weights that Muon moves in three parts.
"""

import hashlib
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from tricycle_gpt import GPT, GPTConfig, TrainingConfig, train

STEPS, BATCH = 200, 2
SIZES = {
    "vocab_size": 301,
    "context_window": 42,
    "embedding_dim": 144,
    "n_layers": 1,
    "n_heads": 4,
    "dropout": 0.1,
}
BLOCKS = {
    "gpt2": {"block": "gpt2"},
    "llama": {"block": "llama", "n_key_value_heads": 2, "qk_norm": True, "hidden_dim": 520},
}
OPTIMISERS = ("adamw", "muon")


class Text:
    """Batches from a text of made-up words, which know their position."""

    def __init__(self):
        rng = np.random.default_rng(1)
        words = [rng.integers(0, 301, rng.integers(2, 9)) for _ in range(40)]
        self.ids = np.concatenate([words[i] for i in rng.integers(0, len(words), 4000)])
        self.position = (0, 0)

    def __iter__(self):
        length = SIZES["context_window"]
        while True:
            rng = np.random.default_rng([2, self.position[1]])
            starts = rng.integers(0, len(self.ids) - length, BATCH)
            self.position = (0, self.position[1] + 1)
            windows = np.stack([self.ids[start : start + length + 1] for start in starts])
            yield windows[:, :-1], windows[:, 1:]


def digest(block: str, optimiser: str, folder: str | Path) -> str:
    """Train a model in `folder`, or go on with it; the digest of its weights."""
    model = GPT(GPTConfig(**SIZES, **BLOCKS[block]), rng=np.random.default_rng(0))
    config = TrainingConfig(
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=5e-3,
        warmup=20,
        optimiser=optimiser,
        checkpoint_every=25,
        evaluate_every=0,
    )
    result = train(model, Text(), config, folder, resume=True)
    if not result.finished:  # by a signal, which may have meant this program
        raise SystemExit(f"{block} {optimiser}: interrupted after {result.steps} of {STEPS} steps")
    sha = hashlib.sha256()
    for name, array in sorted(model.state_dict().items()):
        assert np.isfinite(array).all(), f"{name} is not finite"
        sha.update(name.encode() + array.tobytes())
    return sha.hexdigest()


def main(folder: str | None = None, *chosen: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        pairs = zip(chosen[::2], chosen[1::2], strict=True)
        for block, optimiser in pairs if chosen else product(BLOCKS, OPTIMISERS):
            run = Path(folder or temporary, f"{block}-{optimiser}")
            print(f"{block} {optimiser} {digest(block, optimiser, run)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
