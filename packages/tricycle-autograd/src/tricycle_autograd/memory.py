"""Arenas: parameters and their gradients in two flat blocks of memory.

An optimiser does the same few operations to every number of a model.  Kept in one flat
array, the parameters are updated by one loop, however many there are, and checked, counted
or sent elsewhere in one piece.  So an arena gives each tensor a window on a flat array of
values and another on a flat array of gradients:

    values      | embedding ........ | weight .... | bias . | weight .... |
    gradients   | embedding ........ | weight .... | bias . | weight .... |

The windows start at multiples of 64 bytes, a cache line; the padding stays zero.  A backward
pass writes its gradients straight into the windows (see tape.gradient_destination).
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor

ALIGNMENT = 64  # bytes: one cache line, and the widest vector
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for two of its settings
LARGEST_KEPT = 32 << 20  # bytes of one array: more glibc does not allow
MOST_KEPT = 1 << 30  # bytes of free memory at the end of the heap


def keep_freed_memory() -> None:
    """Have the C library keep the memory of arrays that were freed, for those that come next.

    A training step frees all that its forward pass made, and the next step needs as much again.
    By itself glibc gives most of it back to the system in between, which then clears each page of
    it anew: measured, a third of a step of nanoGPT's small model.  It concerns the whole process,
    and is left alone where the user has settings of his own (MALLOC_TRIM_THRESHOLD_ and the like)
    or where the C library is another one.
    """
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if os.name != "posix" or any(name in os.environ for name in own):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def give_back_freed_memory() -> None:
    """Return to the system what was kept: before counting how much memory something takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def aligned_zeros(size: int, dtype=np.float32) -> np.ndarray:
    """A flat array of zeros that starts at a multiple of 64 bytes."""
    itemsize = np.dtype(dtype).itemsize
    block = np.zeros(size * itemsize + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size * itemsize].view(dtype)


class Arena:
    """Flat arrays that a list of leaf tensors keeps its values and gradients in.

    tensors    float32 leaves on the cpu, each listed once
    values     (size,) the numbers of all of them, in order, with padding
    gradients  (size,) their gradients; only the windows of tensors that have one are valid

    Raises ValueError for a tensor listed twice, TypeError for another dtype or device.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        self.tensors = list(tensors)
        if len({id(tensor) for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("a parameter is listed twice; give each one to an optimiser once")
        for tensor in self.tensors:
            _check_leaf(tensor)
        per_window = ALIGNMENT // np.dtype(np.float32).itemsize
        sizes = [-(-tensor.size // per_window) * per_window for tensor in self.tensors]
        self.starts = [0, *np.cumsum(sizes).tolist()]
        self.values = aligned_zeros(self.starts[-1])
        self.gradients = aligned_zeros(self.starts[-1])
        self.value_windows = self.windows(self.values)
        self.gradient_windows = self.windows(self.gradients)
        self.adopt()

    def windows(self, flat: np.ndarray) -> list[np.ndarray]:
        """One view for each tensor on a flat array of the arena's size."""
        return [
            flat[start : start + tensor.size].reshape(tensor.shape)
            for start, tensor in zip(self.starts, self.tensors, strict=False)
        ]

    def adopt(self) -> None:
        """Bring every tensor (back) home, keeping its numbers and its gradient.

        A tensor may have been given another array since: by `model.to()`, by hand, or by
        another arena.
        """
        for tensor, value, gradient in zip(
            self.tensors, self.value_windows, self.gradient_windows, strict=True
        ):
            if tensor.array is not value:
                _check_leaf(tensor)
                if tensor.shape != value.shape:
                    raise ValueError(
                        f"a parameter of shape {value.shape} was given an array of shape "
                        f"{tensor.shape}; make a new optimiser for parameters of another shape"
                    )
                value[...] = tensor.array
                tensor.array = value
            node: Any = tensor.node  # not None: these are leaves
            if node.buffer is not gradient:
                if node.grad is not None:
                    gradient[...] = node.grad
                    node.grad = gradient
                node.buffer = gradient

    def runs_with_gradient(self) -> list[tuple[int, int]]:
        """Start and end of each stretch of tensors that have a gradient: usually one, the whole."""
        runs: list[tuple[int, int]] = []
        for i, tensor in enumerate(self.tensors):
            if tensor.grad is None:
                continue
            if runs and runs[-1][1] == self.starts[i]:
                runs[-1] = (runs[-1][0], self.starts[i + 1])
            else:
                runs.append((self.starts[i], self.starts[i + 1]))
        return runs


def joined(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Windows on arenas, flat: those that follow each other as one array, in the order they come.

    Between two windows lies padding, which is zeros.  An array that is no window, or stands alone,
    comes flat and for itself.  For loops over all numbers of a model that do not care where a
    parameter ends: to start a kernel for each would take longer than the kernels.
    """
    window, start, end = None, 0, 0  # what is being joined: its last array, and addresses
    for array in arrays:
        address = array.__array_interface__["data"][0]
        if window is not None and array.base is window.base and 0 <= address - end < ALIGNMENT:
            window, end = array, address + array.nbytes
            continue
        if window is not None:
            yield _stretch(window.base, start, end)
        window = array if _is_window(array) else None
        start, end = address, address + array.nbytes
        if window is None:
            yield array.reshape(-1)
    if window is not None:
        yield _stretch(window.base, start, end)


def _is_window(array):
    """Whether an array lies in a block of aligned_zeros, its numbers in order."""
    block = array.base
    is_block = isinstance(block, np.ndarray) and block.ndim == 1 and block.dtype == np.uint8
    return is_block and array.dtype == np.float32 and array.flags.c_contiguous


def _stretch(block, start, end):
    first = block.__array_interface__["data"][0]
    return block[start - first : end - first].view(np.float32)


def _check_leaf(tensor):
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"an optimiser looks after Parameters, got a {type(tensor).__name__}; "
            "pass model.parameters()"
        )
    if tensor.node is None or tensor.node.backward is not None:
        raise TypeError(
            "an optimiser looks after leaves: Parameters, or Tensors made with "
            "requires_grad=True, not results of operations"
        )
    if tensor.dtype != np.float32 or type(tensor.array) is not np.ndarray:
        raise TypeError(
            f"optimisers keep float32 parameters on the cpu, got {tensor.dtype} on "
            f'{tensor.device}; bring the model there with model.to("cpu", "float32")'
        )
