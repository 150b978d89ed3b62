"""Evaluation: how surprised is the model by text it has never seen?

    loss           mean of −ln p(token), in nats per token
    perplexity     e^loss: as unsure as if choosing between this many tokens
    bits per byte  the whole surprise in bits, divided by the bytes of the text

Loss and perplexity depend on how long the tokens are; bits per byte do not, and so can compare
models with different tokenisers.  It is also the size to which the model, used for
compression, could squeeze each byte.

A text is only a sample of what might have been written, so loss and bits come with a margin: 95
times in 100 the interval ± margin holds the truth about such text.  Tokens near each other are
surprising together, so windows, not tokens, are taken as the independent draws: with n_i tokens
of mean loss l_i in window i of m, the standard error of the mean L is
sqrt(m/(m-1) Σ (n_i (l_i − L))²) / Σ n_i, and the margin 1.96 of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tricycle_autograd import no_grad
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_nn import dropout_off

IGNORED = -100  # a target that is not counted


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    loss           nats per token
    perplexity     e^loss
    bits_per_byte  bits per byte of text, or None where the bytes were not given
    tokens         tokens predicted
    margin         half the width of loss's 95% interval; None for a single window
    bits_margin    the same of bits_per_byte
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    margin: float | None = None
    bits_margin: float | None = None


def evaluate(
    model: GPT,
    ids: Any,
    *,
    n_bytes: int | None = None,
    batch_size: int = 16,
    max_windows: int | None = None,
    communicator: Communicator | None = None,
) -> Evaluation:
    """Measure a model on a text, cut into windows of the context's length.

    ids          (N,) integers, at least two: the text; an array, or what can be cut like one and
                 lies on the disk, such as tricycle_datasets.TokenShards.  Of conversations
                 (`Answers`) only what counts is predicted.  Windows follow each other without
                 overlap; every token but the first is predicted exactly once, from the tokens
                 before it in its window
    n_bytes      the text's length in bytes, for bits per byte
    max_windows  look at this many windows only, spread evenly over the text
    communicator ranks that share the work; each gets the whole answer, the same as one alone has

    Dropout is off while it runs.  Raises ValueError for a text of fewer than two tokens, for one of
    which nothing counts, for n_bytes, batch_size or max_windows below 1.
    """
    ids = ids if hasattr(ids, "ndim") else np.asarray(ids)
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"evaluation needs a text of at least two tokens, got shape {ids.shape}")
    limits = {"n_bytes": n_bytes, "batch_size": batch_size, "max_windows": max_windows}
    for name, number in limits.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    length = model.config.context_window
    chosen = _windows_that_count(ids, length)
    if max_windows is not None and max_windows < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_windows).astype(int)]

    ranks = communicator or Alone()
    losses, tokens = np.zeros((2, len(chosen)))
    with no_grad(), dropout_off():
        for i in range(ranks.rank * batch_size, len(chosen), ranks.size * batch_size):
            inputs, targets = windows(ids, length, chosen[i : i + batch_size])
            tokens[i : i + batch_size] = (targets != IGNORED).sum(axis=1)
            hidden = model.hidden(inputs)  # (B, T, C)
            for j in np.flatnonzero(tokens[i : i + batch_size]):
                losses[i + j] = model.loss_of(hidden[j], targets[j]).item()
    # Each window's numbers stand on one rank, and are 0 on the others.
    losses, tokens = ranks.sum([losses, tokens])

    count = int(tokens.sum())
    loss = float((losses * tokens).sum() / count)
    margin = interval_margin(losses, tokens)
    bits = bits_margin = None
    if n_bytes is not None:
        # Where only some windows were looked at, each token stands for its share of the bytes.
        bits_in_a_nat = (len(ids) - 1) / n_bytes / math.log(2)
        bits = loss * bits_in_a_nat
        bits_margin = None if margin is None else margin * bits_in_a_nat
    perplexity = math.exp(loss) if loss < 700 else math.inf  # a float ends at e^709
    return Evaluation(loss, perplexity, bits, count, margin, bits_margin)


def _windows_that_count(ids, length):
    """The numbers of the windows in which anything is predicted."""
    counted = getattr(ids, "counted", None)
    n_windows = -(-(len(ids) - 1) // length)
    if counted is None:
        return np.arange(n_windows)
    found = np.logical_or.reduceat(counted[1:], np.arange(n_windows) * length)
    if not found.any():
        raise ValueError(
            f"of the {len(ids):,} tokens to measure none counts: there is no answer among them"
        )
    return np.flatnonzero(found)


def interval_margin(losses: np.ndarray, tokens: np.ndarray) -> float | None:
    """Half the width of the 95% interval of a mean loss, from each window's loss and tokens."""
    m = len(losses)
    if m < 2:
        return None
    mean = (losses * tokens).sum() / tokens.sum()
    squares = ((tokens * (losses - mean)) ** 2).sum()
    return float(1.96 * math.sqrt(m / (m - 1) * squares) / tokens.sum())


def windows(ids: Any, length: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of a text's windows as inputs and targets (windows, length), the last one filled up.

    chosen  (windows,) their numbers, from 0

    What fills it up has the target -100, which the loss leaves out, and so has what does not count
    where ids say so by `counted`.
    """
    counted = getattr(ids, "counted", None)
    inputs = np.zeros((len(chosen), length), np.int64)
    targets = np.full((len(chosen), length), IGNORED, np.int64)
    for row, start in enumerate((chosen * length).tolist()):
        block = ids[start : start + length + 1]
        inputs[row, : len(block) - 1] = block[:-1]
        targets[row, : len(block) - 1] = block[1:]
        if counted is not None:
            targets[row, : len(block) - 1][~counted[start + 1 : start + length + 1]] = IGNORED
    return inputs, targets
