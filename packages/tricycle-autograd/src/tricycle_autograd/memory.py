"""Arenas: parameters and their gradients in two flat blocks of memory.

An optimiser does the same few operations to every number of a model.  Kept in one flat
array, the parameters are updated by one loop, however many there are, and checked, counted
or sent elsewhere in one piece.  So an arena gives each tensor a window on a flat array of
values and another on a flat array of gradients:

    values      | embedding ........ | weight .... | bias . | weight .... |
    gradients   | embedding ........ | weight .... | bias . | weight .... |

The windows start at multiples of 64 bytes, a cache line; on the GPU of 256, which matrix products
count on, and a matrix has room for zero rows there, up to a multiple of 64 (`with_zero_rows`).
The padding stays zero.  Both flat arrays are on the device, and of the dtype, of the tensors, which
agree on these; but gradients of bfloat16 tensors are float32, so that those of many batches add up.
A backward pass writes its gradients straight into the windows (see tape.gradient_destination).
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from tricycle_autograd.additions import assign
from tricycle_autograd.devices import array_module, device_of
from tricycle_autograd.tensor import Tensor

ALIGNMENT = 64  # bytes: one cache line, and the widest vector
ON_GPU = 256  # bytes: what cuBLASLt takes for granted of the best
ROWS = 64  # a matrix on the GPU has room for a multiple of them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names for two of its settings
LARGEST_KEPT = 32 << 20  # bytes of one array: more glibc does not allow
MOST_KEPT = 1 << 30  # bytes of free memory at the end of the heap
DTYPES = ("float32", "float64", "bfloat16")  # of what is learned


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


def flat_zeros(size: int, dtype: Any, like: Any) -> Any:
    """A flat array of zeros on the device where the array `like` is; on the cpu aligned_zeros."""
    if device_of(like) == "cpu":
        return aligned_zeros(size, dtype)
    return array_module(like).zeros(size, dtype)


class Arena:
    """Flat arrays that a list of leaf tensors keeps its values and gradients in.

    tensors    leaves of one dtype (float32, float64 or bfloat16) on one device, each listed once
    values     (size,) the numbers of all of them, in order, with padding
    gradients  (size,) their gradients; only the windows of tensors that have one are valid

    Raises ValueError for a tensor listed twice, TypeError for another dtype, and for tensors that
    differ in dtype or device.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        self.tensors = list(tensors)
        if len({id(tensor) for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("a parameter is listed twice; give each one to an optimiser once")
        for tensor in self.tensors:
            _check_leaf(tensor)
        _check_alike(self.tensors)
        like: Any = self.tensors[0].array if self.tensors else np.empty(0, np.float32)
        alignment = ALIGNMENT if device_of(like) == "cpu" else ON_GPU
        per_window = alignment // like.dtype.itemsize
        sizes = [-(-_room(tensor) // per_window) * per_window for tensor in self.tensors]
        self.starts = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.values = flat_zeros(self.starts[-1], like.dtype, like)
        exact = like.dtype if like.dtype.itemsize > 2 else np.float32
        self.gradients = flat_zeros(self.starts[-1], exact, like)
        self.value_windows = self.windows(self.values)
        self.gradient_windows = self.windows(self.gradients)
        self.places = {
            id(window): (flat, i)
            for flat, windows in (
                (self.values, self.value_windows),
                (self.gradients, self.gradient_windows),
            )
            for i, window in enumerate(windows)
        }
        _arena_of.update(dict.fromkeys(self.places, self))
        self.adopt()

    def __reduce__(self):
        # Windows of a copy would each have memory of their own, and no step would move a tensor:
        # pickle and deepcopy make a new arena, of the tensors that travel with it.
        return Arena, (self.tensors,)

    def __copy__(self):
        return self  # a second one would take the tensors away

    def windows(self, flat: Any) -> list[Any]:
        """One view for each tensor on a flat array of the arena's size."""
        return [
            flat[start : start + tensor.size].reshape(tensor.shape)
            for start, tensor in zip(self.starts, self.tensors, strict=False)
        ]

    def adopt(self) -> None:
        """Bring every tensor (back) home, keeping its numbers and its gradient.

        A tensor may have been given another array since: by `model.to()`, by hand, or by
        another arena.  Raises TypeError for one of another dtype or on another device, ValueError
        for one of another shape.
        """
        for tensor, value, gradient in zip(
            self.tensors, self.value_windows, self.gradient_windows, strict=True
        ):
            if tensor.array is not value:
                _check_leaf(tensor)
                self._check_replacement(tensor, value)
                assign(value, tensor.array)
                tensor.array = value
            node: Any = tensor.node  # not None: these are leaves
            if node.buffer is not gradient:
                if node.grad is not None:
                    assign(gradient, node.grad)
                    node.grad = gradient
                node.buffer = gradient

    def _check_replacement(self, tensor, value):
        if _kind(tensor.array) != _kind(value):
            dtype, device = _kind(value)
            raise TypeError(
                f"an optimiser of {dtype} parameters on {device} got {tensor.dtype} on "
                f'{tensor.device}; bring the model back with model.to("{device}", "{dtype}"), or '
                "make a new optimiser for it"
            )
        if tensor.shape != value.shape:
            raise ValueError(
                f"a parameter of shape {value.shape} was given an array of shape "
                f"{tensor.shape}; make a new optimiser for parameters of another shape"
            )

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


# The windows on values and gradients of all arenas there are, by their id.  It stays theirs: an
# arena holds its windows as long as it lives, and leaves this dictionary when it dies.
_arena_of: WeakValueDictionary[int, Arena] = WeakValueDictionary()


def with_zero_rows(array: Any) -> Any:
    """A matrix (V, C) that is a window on the GPU with the zeros behind it, its rows a multiple of
    64; any other array as it is."""
    flat, start, _, _ = _place(array)
    if flat is None or array.ndim != 2 or device_of(array) == "cpu":
        return array
    rows, columns = _up_to_rows(len(array)), array.shape[1]
    return flat[start : start + rows * columns].reshape(rows, columns)


def _room(tensor):
    """How many numbers a tensor's window has room for."""
    if tensor.ndim != 2 or tensor.device == "cpu":
        return tensor.size
    return _up_to_rows(len(tensor.array)) * tensor.shape[1]


def _up_to_rows(n):
    return -(-n // ROWS) * ROWS


def joined(arrays: Iterable[Any]) -> Iterator[Any]:
    """Windows on arenas, flat: those that follow each other as one array, in the order they come.

    Between two windows lies padding, which is zeros.  An array that is not a window, or has
    no neighbour, comes flattened, by itself.  For loops over all numbers of a model that do not
    care where a parameter ends: to start a kernel for each would take longer than the kernels.
    """
    flat, start, end, following = None, 0, 0, 0  # what is being joined, and where the next starts
    for array in arrays:
        home, first, last, next_start = _place(array)
        if home is not None and home is flat and first == following:
            end, following = last, next_start
            continue
        if flat is not None:
            yield flat[start:end]
        flat, start, end, following = home, first, last, next_start
        if flat is None:
            yield array.reshape(-1)
    if flat is not None:
        yield flat[start:end]


def _place(array):
    """The flat array that a window is on, its start and end, and the next window's start.

    The flat array is None for an array that is not a window.
    """
    arena = _arena_of.get(id(array))
    if arena is None:
        return None, 0, 0, 0
    flat, i = arena.places[id(array)]
    start = arena.starts[i]
    return flat, start, start + array.size, arena.starts[i + 1]


def _kind(array):
    return array.dtype.name, device_of(array)


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
    if tensor.dtype.name not in DTYPES or not tensor.dtype.isnative:
        raise TypeError(
            f"an optimiser moves parameters of {', '.join(DTYPES)}, got {tensor.dtype} on "
            f'{tensor.device}; bring the model there with model.to("{tensor.device}", "float32")'
        )


def _check_alike(tensors):
    kinds = sorted({_kind(tensor.array) for tensor in tensors})
    if len(kinds) > 1:
        given = " and ".join(f"{dtype} on {device}" for dtype, device in kinds)
        raise TypeError(
            f"the parameters of a group have one dtype and one device, got {given}; bring the "
            'model there with model.to("cpu", "float32"), or make a group of each kind'
        )
