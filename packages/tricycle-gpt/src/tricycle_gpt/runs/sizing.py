"""A model sized for the machine, the text and the time: `choose_size`.

Given FLOPs are best spent on about twenty tokens a parameter (Hoffmann et al., Training
Compute-Optimal LLMs, 2022), and a text can be read about four times before another reading teaches
less than new text would, and some more before it teaches nothing (Muennighoff et al., Scaling
Data-Constrained Language Models, 2023).  So, from the smallest size up:

    a few steps are measured             tokens a second
    time · tokens a second               tokens that can be looked at; no more than 8 readings of
                                         the text, nor than 20 a parameter
    fewer than 10 a parameter            too large: the size before it is taken

A size that would be too large at twice the measured efficiency is not even measured.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from tricycle_gpt.config import GPTConfig, TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.command_line import Settings, with_named
from tricycle_gpt.runs.flops import flops_per_token
from tricycle_gpt.runs.plan import plan

READINGS = 8
LEAST, MOST = 10, 20  # tokens a parameter
# Tokens in a batch: more makes a processor no faster.  On a GPU, whose every launch takes its time
# too, as many are tried as the largest that are sold can use.
AT_ONCE = {"cpu": 2048, "cuda": 1 << 16}
LARGEST_STEP = 1 << 19  # tokens: GPT-2's half a million


class Size(NamedTuple):
    """A size of a model, and the learning rate that suits its width."""

    n_layers: int
    embedding_dim: int
    n_heads: int
    context_window: int
    learning_rate: float


SIZES = [
    Size(2, 64, 2, 64, 4e-3),
    Size(3, 96, 3, 128, 4e-3),
    Size(4, 128, 4, 128, 3e-3),
    Size(4, 192, 6, 256, 2.5e-3),
    Size(6, 256, 8, 256, 2e-3),
    Size(6, 384, 6, 256, 1.5e-3),
    Size(8, 512, 8, 512, 1e-3),
    Size(12, 768, 12, 1024, 6e-4),
    Size(24, 1024, 16, 1024, 3e-4),
]


def choose_size(
    vocab_size: int,
    tokens: int | None,
    minutes: float,
    *,
    seed: int = 0,
    besides: int = 0,
    ranks: int = 1,
    device: str = "cpu",
) -> tuple[GPTConfig, TrainingConfig]:
    """Choose a model and a recipe for some minutes of training on this machine.

    tokens   in the training text; None for no limit
    minutes  that the training may take
    seed     for the recipe
    besides  bytes that something else in the process will take
    ranks    that will share each batch; the time is that of one of them alone
    device   where they train: "cpu" or "cuda"; its speed and its memory are measured

    Raises ValueError if not even the smallest size can be trained in the memory that is free, or
    the text is shorter than one of its windows.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    if tokens is not None and tokens <= SIZES[0].context_window:
        raise ValueError(
            f"the text has {tokens} tokens, and the smallest model looks at "
            f"{SIZES[0].context_window + 1} at once: give it more text"
        )
    seconds = 60.0 * minutes
    chosen = None
    flops_per_second = math.inf
    for size in SIZES:
        model = model_of(size, vocab_size)
        parameters, flops = count(model)
        most = MOST * parameters if tokens is None else min(MOST * parameters, READINGS * tokens)
        # As the size before did: this one may be more efficient, but hardly twice.
        could = min(most, 2 * seconds * flops_per_second / flops)
        is_too_short = tokens is not None and tokens <= size.context_window
        if chosen is not None and (is_too_short or could < LEAST * parameters):
            break
        try:
            pace, at_once = measure(model, besides, device)
        except ValueError:
            if chosen is None:
                raise
            break
        looked_at = min(most, int(seconds * pace))
        if chosen is not None and looked_at < LEAST * parameters:
            break
        chosen = model, recipe(size, looked_at, at_once, seed, ranks)
        flops_per_second = pace * flops
    assert chosen is not None  # the smallest one is taken, or was refused by an error
    return chosen


def choose_settings(
    settings: Settings,
    named: Collection[str],
    tokens: int | None,
    *,
    besides: int = 0,
    ranks: int = 1,
    device: str = "cpu",
) -> Settings:
    """A program's settings with a model and a recipe chosen for this machine, by `choose_size`.

    settings  a dataclass with `model`, `training` and `minutes`
    named     what is not for choosing, as "training.steps": see read_command_line_of_run; the
              vocabulary never is

    The other arguments and what is raised are those of `choose_size`.
    """
    asked: Any = settings
    vocabulary, seed = asked.model.vocab_size, asked.training.seed
    model, training = choose_size(
        vocabulary, tokens, asked.minutes, seed=seed, besides=besides, ranks=ranks, device=device
    )
    model = with_named(model, asked.model, "model", {*named, "model.vocab_size"})
    training = with_named(training, asked.training, "training", {*named})
    return dataclasses.replace(asked, model=model, training=training)


def model_of(size: Size, vocab_size: int) -> GPTConfig:
    """A model of that size."""
    return GPTConfig(
        vocab_size=vocab_size,
        context_window=size.context_window,
        embedding_dim=size.embedding_dim,
        n_layers=size.n_layers,
        n_heads=size.n_heads,
    )


def count(model: GPTConfig) -> tuple[int, float]:
    """Parameters, and FLOPs that training takes for each token."""
    network = GPT(model, rng=np.random.default_rng(0))
    return network.n_parameters(), flops_per_token(network)


def measure(model: GPTConfig, besides: int, device: str) -> tuple[float, int]:
    """Tokens a second, and the windows at once, about AT_ONCE tokens, that fit into memory."""
    steps = TrainingConfig(steps=2, batch_size=max(1, AT_ONCE[device] // model.context_window))
    found = plan(model, steps, besides=besides, device=device)
    return found.tokens / found.seconds, found.batch_size


def recipe(size: Size, tokens: int, at_once: int, seed: int, ranks: int = 1) -> TrainingConfig:
    """This many tokens in about a thousand steps of 1,024 tokens or more, which ranks can share."""
    thousandth = 1 << max(10, (tokens // 1000).bit_length() - 1)  # a power of two
    windows = min(thousandth, LARGEST_STEP) // size.context_window
    windows = max(ranks, windows // ranks * ranks)
    batch_size = max(n for n in range(1, at_once + 1) if windows % n == 0)
    steps = max(10, tokens // (windows * size.context_window))
    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        micro_batches=windows // batch_size,
        learning_rate=size.learning_rate,
        final_learning_rate=size.learning_rate / 10,
        evaluate_every=max(1, steps // 8),
        checkpoint_every=max(1, steps // 8),
        log_every=max(1, steps // 50),
        seed=seed,
    )
