"""Llama 3.1's slowed rotary positions, found again from what each pair's turns are divided by.

A GGUF file does not name the scaling: it holds a factor dₖ for every frequency fₖ.  With a scaling
by F, for a model trained on windows of w tokens (rotary.py in tricycle_nn),

    1/dₖ  =  sₖ + (1 − sₖ)/F        sₖ  =  clip((w·fₖ/2π − low)/(high − low), 0, 1)

So F is the largest of the dₖ; and from the pairs between, whose sₖ is neither 0 nor 1, follows a
straight line sₖ = a·fₖ − b.  With Llama's own low = 1 and high = 4 one such pair gives w.  Where
the line belongs to others, each w has a low and a high that make the same turns, and the one with
high = 4 is taken.  Where no pair is between, any w will do that parts them in the same place.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tricycle_nn import RotaryScaling

LARGEST_WINDOW = 1 << 40
NEAR = 1e-4  # to 0 or 1: not told from it


def scaling_of(factors: np.ndarray, frequencies: np.ndarray) -> RotaryScaling | None:
    """The scaling that divides frequencies by such factors, to 1 in 100,000; None if none does.

    factors, frequencies  (D/2,) of each pair, the fastest first
    """
    d, f = np.asarray(factors, np.float64), frequencies
    largest = float(np.float32(d.max(initial=1.0)))
    if d.shape != f.shape or not (d > 0).all() or not 1 <= largest < np.inf:
        return None
    largest = float(str(np.float32(largest)))  # the number that a float32 stands for
    for window, low, high in _candidates(d, f, largest):
        if not (1 <= window < LARGEST_WINDOW and 0 <= low < high):
            continue
        scaling = RotaryScaling(largest, round(window), low, high)
        if np.allclose(f / scaling.slowed(f), d, rtol=1e-5):
            return scaling
    return None


def _candidates(d, f, factor) -> Iterator[tuple[float, float, float]]:
    """Windows, with their low and high, that may have given these factors; likely ones first."""
    if factor == 1:
        yield 1, 1.0, 4.0
        return
    s = (1 / d - 1 / factor) / (1 - 1 / factor)
    between = np.flatnonzero((s > NEAR) & (s < 1 - NEAR))
    kept, slowed = np.flatnonzero(s >= 1 - NEAR), np.flatnonzero(s <= NEAR)
    for k in between:
        yield 2 * np.pi * (1 + 3 * s[k]) / f[k], 1.0, 4.0
    if not between.size:  # at least 4 turns for the slowest that is kept, at most 1 for the others
        least = 2 * np.pi * 4 / f[kept[-1]] if kept.size else 1.0
        most = 2 * np.pi / f[slowed[0]] if slowed.size else least
        for window in (2.0 ** np.ceil(np.log2(least)), np.ceil(least), np.floor(most)):
            yield float(window), 1.0, 4.0
    # The line through two pairs: those farthest apart between, or those next to the only one, or,
    # where there is none, those around the place where it would be.
    inside = [*kept[-1:], *between, *slowed[:1]]
    ends = between[[0, -1]].tolist() if between.size > 1 else inside
    for fast, slow in pairwise(ends):
        a = (s[fast] - s[slow]) / (f[fast] - f[slow])
        b = a * f[fast] - s[fast]
        high = 4.0  # then low = 4b/(1 + b), and w = 2π·a·(high − low)
        low = high * b / (1 + b)
        window = 2 * np.pi * a * (high - low)
        # A window is a whole number: the line is kept by moving both ends with it.
        share = round(window) / window if window >= 1 else 1.0
        yield float(window), float(low * share), float(high * share)
