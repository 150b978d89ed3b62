"""Gradient clipping: when the gradient is too long, shorten it, keep its direction.

The norm is taken over all parameters together.  Gradients are read-only, so clipping is a
number to multiply them by, which `optimiser.step(grad_scale=…)` does on its way: one pass over
memory less.  Source: Pascanu et al., On the difficulty of training recurrent networks (2012).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tricycle_autograd.arrays import contiguous, empty, in_float32
from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_autograd.cpu_math import sum_of_squares
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import move
from tricycle_autograd.fused import fused_update
from tricycle_autograd.memory import joined
from tricycle_autograd.profiling import profiled
from tricycle_autograd.tensor import Tensor
from tricycle_nn.optimiser import flattened

CHUNK = 65536  # numbers summed by one thread at a time; the chunks' sums are added in order


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """The length of the gradient: √(sum of squares) over all parameters that have one."""
    gradients = (parameter.grad for parameter in parameters)
    return sum_of_all_squares(g for g in gradients if g is not None) ** 0.5


def sum_of_all_squares(arrays: Iterable[Any]) -> float:
    """The sum of the squares of every number in some arrays, all on one device."""
    total: Any = 0.0
    with profiled("gradient_norm"):
        for flat in joined(contiguous(array) for array in arrays if array.size):
            total = total + sum_of_flat_squares(in_float32(flat))
    return float(total)  # the one number that leaves the device


@fused_update
def sum_of_flat_squares(flat):
    """The sum of the squares of a flat array (N,), in float64; nothing is changed."""
    precise = flat.astype(np.float64)
    return (precise * precise).sum()


@sum_of_flat_squares.operation
def sum_of_flat_squares_fast(run, flat):
    return run.sum(*flattened("sum_of_flat_squares", flat))


def clip_scale(parameters: Iterable[Tensor], max_norm: float) -> float:
    """What to multiply the gradients by so that their norm is at most `max_norm`; 1 if it is.

    Raises ValueError for a `max_norm` that is not above 0.
    """
    return scale_for_norm(gradient_norm(parameters), max_norm)


def scale_for_norm(norm: float, max_norm: float) -> float:
    """`clip_scale` where the norm is known already."""
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    # Not `max_norm / norm if norm > max_norm`: a norm of NaN must not turn into a scale of 1.
    return 1.0 if norm <= max_norm else max_norm / norm


@sum_of_flat_squares.kernels("cpu")
class CPU:
    """Chunks by any thread; their sums in order."""

    def sum(flat: Any):
        return CPU.sums_of_chunks(flat).sum()

    @cpu_kernel
    def sums_of_chunks(flat: Any):
        """flat (N,) -> the sum of squares of each chunk, in float64."""
        chunks = (flat.size + CHUNK - 1) // CHUNK
        sums = np.empty(chunks)
        for chunk in prange(chunks):
            sums[chunk] = sum_of_squares(flat[chunk * CHUNK : min(flat.size, (chunk + 1) * CHUNK)])
        return sums


@sum_of_flat_squares.kernels("cuda")
class GPU:
    """A chunk a block (clipping.cu); the CPU adds up their sums in order."""

    FILE = CudaFile(__file__)

    def sum(flat: Any):
        chunks = blocks_for(flat.size, CHUNK)
        sums = empty(chunks, np.float64, like=flat)
        kernel = GPU.FILE.get("sums_of_chunks", flat.dtype, CHUNK=CHUNK)
        kernel((chunks,), (256,), sums, flat, np.int64(flat.size))
        return move(sums, "cpu").sum()
