"""Initial weights: random, but of a size that keeps signals alive.

A layer adds up `in_features` products.  If its inputs have standard deviation 1 and its
weights s, its outputs have s · √in_features.  Fifty layers with an s twice too large multiply
a signal by 2⁵⁰, and twice too small divide it by that; so s is chosen near 1 / √in_features.

    normal            any standard deviation you name
    uniform           between -bound and bound
    xavier            s = √(2 / (in + out)): a compromise between forward and backward
                      (Glorot & Bengio, 2010)
    kaiming           s = √(2 / in): relu sets half its inputs to zero, so the rest are √2
                      larger (He, Zhang, Ren & Sun, 2015)

Numbers are drawn on the CPU, whatever device the model moves to later, so that a seed gives the
same model everywhere.  Weights have shape (in, out).
"""

import math

import numpy as np

Shape = int | tuple[int, ...]


def normal(rng: np.random.Generator, shape: Shape, std: float) -> np.ndarray:
    """float32 numbers with mean 0 and standard deviation `std`."""
    return _checked(rng).standard_normal(shape, np.float32) * np.float32(std)


def uniform(rng: np.random.Generator, shape: Shape, bound: float) -> np.ndarray:
    """float32 numbers between -bound and bound, all equally likely."""
    return (_checked(rng).random(shape, np.float32) * np.float32(2) - np.float32(1)) * np.float32(
        bound
    )


def xavier(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers for a weight (in, out) with standard deviation √(2 / (in + out))."""
    return normal(rng, shape, math.sqrt(2 / (shape[0] + shape[1])))


def kaiming(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers for a weight (in, out) followed by relu: standard deviation √(2 / in)."""
    return normal(rng, shape, math.sqrt(2 / shape[0]))


def _checked(rng):
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng is the numpy generator that initial weights are drawn from, "
            f"numpy.random.default_rng(0) say; got {type(rng).__name__}"
        )
    return rng
