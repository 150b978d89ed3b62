"""Sampling: from the scores of all tokens to one of them.

Between the model's scores and a token stand the dials:

    temperature  divides the scores: below 1 more predictable, above 1 wilder, 0 takes the best
    top_k        only the k best tokens may be drawn
    top_p        only the best tokens that together have probability p may be drawn
                 (Holtzman et al., The Curious Case of Neural Text Degeneration, 2019)

A new dial is a field of `Dials` and a line in `choose`: `generate` and the apps take it from here.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dials:
    """How tokens are drawn.  ValueError for values out of range."""

    temperature: float = 1.0
    """Below 1 is more predictable, above 1 wilder, 0 always takes the likeliest token."""
    top_k: int | None = None
    """Choose among this many of the likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""
    seed: int = 0
    """The same seed writes the same text."""

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or above, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


def dials_in(settings: Any) -> dict[str, Any]:
    """The dials among an app's settings, as arguments for `generate`.

    settings   a Dials with more fields, say: a class of arguments that is made from it
    """
    return {field.name: getattr(settings, field.name) for field in fields(Dials)}


def choose(scores: np.ndarray, dials: Dials, rng: np.random.Generator) -> int:
    """Draw a token from its scores (V,).  Temperature 0 takes the best, the first of equals.

    A score of -inf is never drawn, and only scores of +inf are where there are any.  Raises
    FloatingPointError for scores that are NaN, and where all are -inf.
    """
    if np.isnan(scores).any():
        raise FloatingPointError(
            "the model's scores are not numbers: its weights are damaged (not finite)"
        )
    best = scores.max()
    if best == -np.inf:
        raise FloatingPointError("every token has the score -inf: there is none to be drawn")
    if dials.temperature == 0:
        return int(np.argmax(scores))
    scores = scores.astype(np.float64)
    if best == np.inf:
        scores = np.where(scores == np.inf, 0.0, -np.inf)
    with np.errstate(over="ignore"):  # as far below the best as a float can say: probability 0
        probabilities = np.exp((scores - scores.max()) / dials.temperature)
    order = np.argsort(-probabilities, kind="stable")  # best first
    if dials.top_k is not None:
        order = order[: dials.top_k]
    if dials.top_p is not None:
        cumulative = np.cumsum(probabilities[order])
        # The token that crosses the line still belongs.
        order = order[: np.searchsorted(cumulative, dials.top_p * cumulative[-1]) + 1]
    kept = np.cumsum(probabilities[order])
    return int(order[np.searchsorted(kept, rng.random() * kept[-1], side="right")])
