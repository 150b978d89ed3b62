"""What the runs of shakespeare.py share: the text and its split; and nanoGPT's settings."""

import hashlib
import os
from pathlib import Path

import numpy as np

from tricycle_datasets import load_tinyshakespeare, split_text

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
PEAK, FLOOR, WARMUP, STEPS = 1e-3, 1e-4, 100, 2000
BETAS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.99), 0.1, 1.0


def load_ids() -> tuple[np.ndarray, np.ndarray, int, str]:
    """(training ids, validation ids, vocabulary size, a hash of all that)."""
    folder = os.environ.get("TRICYCLE_TEST_DATA")
    text = (
        (Path(folder) / "tinyshakespeare.txt").read_text("ascii")
        if folder
        else load_tinyshakespeare()
    )
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    training, validation = (
        np.array([number[character] for character in part])
        for part in split_text(text, 0.1, at="character")
    )
    digest = hashlib.sha256(training.tobytes() + b"|" + validation.tobytes()).hexdigest()
    return training, validation, len(characters), digest
