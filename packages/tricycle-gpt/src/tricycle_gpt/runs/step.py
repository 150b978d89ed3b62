"""What a step is made of: batches, each of which weighs as many tokens as it counts.

A large batch fits in little memory as several smaller ones, one after the other or side by side on
several ranks, whose gradients are added up.  The loss of each is the mean over its own tokens, so
the mean over the whole step is

    loss  =  Σ  nᵢ / n · lossᵢ        nᵢ tokens count in batch i, n in all of them on all ranks

Where documents end inside windows some batches count fewer tokens than others (targets of -100).
"""

import math
from collections.abc import Sequence

import numpy as np

from tricycle_gpt.evaluation import IGNORED
from tricycle_gpt.runs.distributed import Communicator

Batch = tuple[np.ndarray, np.ndarray]


def divisors(batches: Sequence[Batch], communicator: Communicator) -> list[float]:
    """What to divide each batch's mean loss by, for them to add up to the mean of the step: n / nᵢ.

    batches       (inputs, targets), (B, T) integers each: this rank's part of one step
    communicator  the ranks that have the other parts

    A divisor and not a factor, because n / nᵢ is exactly the number of batches where all count
    alike, as they do where all windows are full.  For a batch in which no token counts it is
    infinite.
    """
    counts = [int(np.count_nonzero(np.asarray(targets) != IGNORED)) for _, targets in batches]
    total = float(communicator.sum(sum(counts)))
    return [total / count if count else math.inf for count in counts]
