"""Rotary positions: say where a vector stands by turning it.

A head's D numbers are taken as D/2 pairs, and each pair as a point in a plane.  At position p
the i-th pair is turned by the angle

    p · θ^(-2i/D)

the first pairs fast, the last hardly at all, like the hands of a clock.  Turning both vectors
of a dot product by the same angle changes nothing, so the product of a query at position p and
a key at position s depends on the contents and on p - s only: the model sees distances.
(RoFormer, Su et al. 2021.)

Which numbers make a pair is a convention that weights are trained with:

    halves apart     i with i + D/2       Hugging Face's models, GPT-NeoX; the default
    interleaved      2i with 2i + 1       the paper, GPT-J, the original Llama weights

A model that is to read further than it was trained can be told that positions are closer together
than they are (`RotaryScaling`).

The gradient of a turn is the turn back.  Nothing is kept but the angles.

This file: the definition, the operation, its CPU kernels, how the GPU's (rotary.cu) are launched.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tricycle_autograd import concatenate, stack
from tricycle_autograd.arrays import FLOAT32, as_rows, contiguous, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused
from tricycle_autograd.tensor import Tensor, record


@dataclass(frozen=True)
class RotaryScaling:
    """Slower turns, for a model that reads further than the window it was trained with.

    factor          how many times slower
    trained_window  None: all pairs are slowed ("linear", Chen et al., Extending Context Window of
                    Large Language Models via Positional Interpolation, 2023).  Otherwise only those
                    that turn seldom within so many positions: see low and high (Llama 3.1, 2024)
    low, high       pairs that make at most `low` turns in the trained window are slowed wholly,
                    those that make `high` or more not at all, and those between in proportion

    Raises ValueError for numbers that make no sense.
    """

    factor: float
    trained_window: int | None = None
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self):
        fits = self.factor > 0 and (self.trained_window is None or self.trained_window > 0)
        if not (fits and np.isfinite(self.factor) and self.low < self.high < np.inf):
            raise ValueError(
                "RotaryScaling expected a factor and a trained window above 0, and low below high, "
                f"got {self}"
            )

    def slowed(self, frequencies: np.ndarray) -> np.ndarray:
        """The angles by which pairs turn at each position, (D/2,), slowed."""
        if self.trained_window is None:
            return frequencies / self.factor
        turns = self.trained_window * frequencies / (2 * np.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@fused
def rotary(
    x: Tensor,
    positions: Any,
    theta: float = 10000.0,
    interleaved: bool = False,
    scaling: RotaryScaling | None = None,
) -> Tensor:
    """Turn the pairs of numbers in each vector by angles that tell its position.

    x          (..., T, D), with D even
    positions  (T,) integers, of any size and sign
    theta      base of the wavelengths, the longest of which is nearly 2π·theta positions
    scaling    slower turns, for longer texts
    returns    (..., T, D); every vector keeps its length

    Raises ValueError for an odd D, positions of another shape or a theta that is not above 0,
    TypeError for positions that are not integers.
    """
    cos, sin = _turns(x, positions, theta, x.dtype, scaling)  # each (T, D/2)
    half = x.shape[-1] // 2
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    turned = (first * cos - second * sin, first * sin + second * cos)
    if interleaved:
        return stack(turned, axis=-1).reshape(x.shape)
    return concatenate(turned, axis=-1)


def _turns(x, positions, theta, dtype, scaling):
    """cos and sin of each position's angles, (T, D/2), or a clear error."""
    positions = np.asarray(positions)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"rotary expected integer positions, got {positions.dtype}")
    if x.ndim < 2 or x.shape[-1] % 2 or positions.shape != (x.shape[-2],):
        raise ValueError(
            "rotary expected x (..., T, D) with an even D, and positions (T,), got "
            f"{x.shape} and {positions.shape}"
        )
    if not theta > 0:
        raise ValueError(f"rotary expected a theta above 0, got {theta}")
    key = positions.astype(np.int64).tobytes()
    return _turns_of(key, x.shape[-1], float(theta), scaling, dtype, array_module(x.array))


@lru_cache(maxsize=16)
def _turns_of(positions, D, theta, scaling, dtype, module):
    # Every layer asks for the same ones.  Angles are float64: a large position times a small
    # frequency in float32 would be off by whole degrees.
    frequencies = theta ** (-np.arange(0, D, 2) / D)
    if scaling is not None:
        frequencies = scaling.slowed(frequencies)
    angles = np.outer(np.frombuffer(positions, np.int64), frequencies)
    return tuple(module.asarray(turn(angles).astype(dtype)) for turn in (np.cos, np.sin))


@rotary.operation
def rotary_fast(run, x, positions, theta=10000.0, interleaved=False, scaling=None):
    cos, sin = _turns(x, positions, theta, FLOAT32, scaling)  # also for shorter numbers
    shape = x.shape

    def backward(dy):
        return (run.turn(as_rows(contiguous(dy)), cos, -sin, interleaved).reshape(shape),)

    y = run.turn(as_rows(kernel_inputs("rotary", x)), cos, sin, interleaved)
    return record(y.reshape(shape), (x,), backward)


@rotary.kernels("cpu")
class CPU:
    @cpu_kernel
    def turn(x: Any, cos, sin, interleaved):
        """x (N, D) turned; its rows go through the T rows of cos and sin (T, D/2) repeatedly."""
        T = len(cos)
        y = np.empty_like(x)
        for n in prange(len(x)):
            if interleaved:
                turn_neighbours(x[n], cos[n % T], sin[n % T], y[n])
            else:
                turn_halves(x[n], cos[n % T], sin[n % T], y[n])
        return y


@rotary.kernels("cuda")
class GPU:
    FILE = CudaFile(__file__)
    NUMBERS, THREADS, HEADS = 4, 128, 8  # of a thread; of a block; for a thread

    def turn(x: Any, cos, sin, interleaved):
        N, D = x.shape
        T, y = len(cos), empty_like(x)
        heads = N // max(1, T)
        name, wide = ("turn_neighbours", D) if interleaved else ("turn_halves", D // 2)
        threads = T * blocks_for(wide, GPU.NUMBERS)
        grid = (blocks_for(threads, GPU.THREADS), blocks_for(heads, GPU.HEADS))
        kernel = GPU.FILE.get(name, x.dtype, D=D)
        kernel(grid, (GPU.THREADS,), y, x, cos, sin, np.int32(T), np.int32(heads))
        return y


@cpu_function
def turn_halves(x, cos, sin, y):
    """Pairs i, i + D/2 of one vector (D,)."""
    half = cos.size
    for i in range(half):
        y[i] = x[i] * cos[i] - x[half + i] * sin[i]
        y[half + i] = x[i] * sin[i] + x[half + i] * cos[i]


@cpu_function
def turn_neighbours(x, cos, sin, y):
    """Pairs 2i, 2i + 1 of one vector (D,)."""
    for i in range(cos.size):
        y[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i]
        y[2 * i + 1] = x[2 * i] * sin[i] + x[2 * i + 1] * cos[i]
