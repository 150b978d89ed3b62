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

The gradient of a turn is the turn back.  Nothing is kept but the angles.

This file: the definition, the operation, its CPU kernels, how the GPU's (rotary.cu) are launched.
"""

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


@fused
def rotary(x: Tensor, positions: Any, theta: float = 10000.0, interleaved: bool = False) -> Tensor:
    """Turn the pairs of numbers in each vector by angles that tell its position.

    x          (..., T, D), with D even
    positions  (T,) integers, of any size and sign
    theta      base of the wavelengths, the longest of which is nearly 2π·theta positions
    returns    (..., T, D); every vector keeps its length

    Raises ValueError for an odd D, positions of another shape or a theta that is not above 0,
    TypeError for positions that are not integers.
    """
    cos, sin = _turns(x, positions, theta, x.dtype)  # each (T, D/2)
    half = x.shape[-1] // 2
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x[..., :half], x[..., half:]
    turned = (first * cos - second * sin, first * sin + second * cos)
    if interleaved:
        return stack(turned, axis=-1).reshape(x.shape)
    return concatenate(turned, axis=-1)


def _turns(x, positions, theta, dtype):
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
    return _turns_of(key, x.shape[-1], float(theta), dtype, array_module(x.array))


@lru_cache(maxsize=16)
def _turns_of(positions, D, theta, dtype, module):
    # Every layer asks for the same ones.  Angles are float64: a large position times a small
    # frequency in float32 would be off by whole degrees.
    frequencies = theta ** (-np.arange(0, D, 2) / D)
    angles = np.outer(np.frombuffer(positions, np.int64), frequencies)
    return tuple(module.asarray(turn(angles).astype(dtype)) for turn in (np.cos, np.sin))


@rotary.operation
def rotary_fast(run, x, positions, theta=10000.0, interleaved=False):
    cos, sin = _turns(x, positions, theta, FLOAT32)  # also for shorter numbers
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
