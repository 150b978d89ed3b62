"""Programs on several ranks, for tests: they are started by mpiexec, and train a small model."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from tricycle_gpt import GPT, Communicator, GPTConfig, TrainingConfig, communicate, train
from tricycle_gpt.runs.step import divisors

__all__ = [
    "GPT",
    "TEXT",
    "Communicator",
    "Windows",
    "communicate",
    "ends_badly",
    "gradients_of_step",
    "on_ranks",
    "recipe",
    "say",
    "small",
    "start_ranks",
    "train",
    "train_small",
]

MPIEXEC = Path(sys.executable).with_name("mpiexec")  # PyPI's mpich puts it there
PRELUDE = f"""
import signal, sys, numpy as np
sys.path.insert(0, {os.path.dirname(__file__)!r})
from ranks import *
"""
TEXT = np.random.default_rng(0).permutation(np.tile(np.arange(23), 40))


def start_ranks(n, program, *words):
    """A program on n ranks."""
    return subprocess.Popen(
        [MPIEXEC, "-n", str(n), sys.executable, "-c", PRELUDE + program, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRICYCLE_NUM_THREADS": "1"},
    )


def on_ranks(n, program, *words):
    """What a program says on n ranks, which all end well."""
    process = start_ranks(n, program, *words)
    said, complained = process.communicate(timeout=1200)  # ranks that wait take a core
    assert process.returncode == 0, complained
    return said


def say(ranks, *words):
    """Print on rank 0: what several ranks print at once may come out mixed."""
    if ranks.rank == 0:
        print(*words, flush=True)


def ends_badly(process, timeout=600):
    """What it said to standard error when it ended by itself, and not well."""
    try:
        _, complained = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode != 0
    return complained


class Windows:
    """A rank's part of each batch from a fixed text, with a position that all share.

    short  window i counts its first 1 + 5 i mod `length` targets alone, as where documents end
    """

    def __init__(self, windows, ranks, length=16, short=False):
        self.windows, self.ranks, self.length, self.position = windows, ranks, length, (0, 0)
        self.short = short

    def __iter__(self):
        while True:
            first = self.position[1] + self.ranks.rank * self.windows
            rngs = [np.random.default_rng([3, i]) for i in range(first, first + self.windows)]
            starts = [rng.integers(len(TEXT) - self.length) for rng in rngs]
            self.position = (0, self.position[1] + self.windows * self.ranks.size)
            block = np.stack([TEXT[s : s + self.length + 1] for s in starts])
            inputs, targets = block[:, :-1], block[:, 1:].copy()
            if self.short:
                counted = 1 + 5 * np.arange(first, first + self.windows) % self.length
                targets[np.arange(self.length) >= counted[:, None]] = -100
            yield inputs, targets


def gradients_of_step(model, stream, n, ranks, summing=nullcontext):
    """A step's gradients from n batches of this rank, as `train` finds them; its part of the loss.

    summing  a dealt optimiser's, where there are several ranks
    """
    batches, total = [next(stream) for _ in range(n)], 0.0
    for i, divisor in enumerate(divisors(batches, ranks)):
        loss = model.loss(*batches[i]) / divisor
        with summing() if i + 1 == n else nullcontext():
            loss.backward()
        total += loss.item()
    return total


def recipe(**changes):
    fast = {"steps": 20, "batch_size": 6, "micro_batches": 2, "warmup": 2, "learning_rate": 1e-2}
    return TrainingConfig(**{**fast, "checkpoint_every": 10, "evaluate_every": 10, **changes})


def small(**changes):
    sizes = {"vocab_size": 23, "context_window": 16, "embedding_dim": 32, "n_layers": 3}
    return GPT(GPTConfig(**{**sizes, "n_heads": 2, **changes}), rng=np.random.default_rng(0))


def train_small(folder, ranks, model=None, **changes):
    config = recipe(**changes)
    windows, _ = config.share(ranks.size)
    return train(
        model or small(),
        Windows(windows, ranks),
        config,
        folder,
        validation=TEXT[:150],
        validation_bytes=400,
        communicator=ranks,
    )
