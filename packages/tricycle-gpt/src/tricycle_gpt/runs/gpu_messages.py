"""Arrays that lie on the GPUs of several ranks: summed and gathered by NCCL, NVIDIA's library.

A rank hands NCCL addresses, and the GPUs talk to each other without the processor.  As everything
on a GPU, it happens later, in the order of the current stream; nothing here waits for it.

    reduce   one `ncclReduce` for each part, to the rank that it belongs to: together what is called
             a reduce-scatter, of parts that need not be equal
    gather   one `ncclBroadcast` for each part, from its rank; or all parts to one rank

The calls of one method are a group: NCCL starts them together, so no rank waits for its turn.

The order of NCCL's sums is its own, and the same in each run of the same GPUs joined in the same
way: such a run is repeated to the bit, and another machine may round differently.  bfloat16 is
summed as NCCL does that.

NCCL comes with the extra nccl12 or nccl13, and is called through cupy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tricycle_autograd.gpu import current_gpu, current_stream, nccl_library

IDENTITY = 128  # bytes by which ranks find each other: ncclUniqueId
NO_SIGN = 0xFF  # a byte of it is C's `char`, which has a sign on x86 and none on Arm


class GPUMessages:
    """The ranks that train together, as their GPUs see each other.

    rank, size  which one this is, and of how many
    tell_all    gets an array of IDENTITY bytes, which rank 0 has filled, and fills it on the others

    It is made by all ranks at the same time, each with its own GPU the current one: by the thread
    that took the GPU.  Other threads may call it, too.
    """

    def __init__(self, rank: int, size: int, tell_all: Callable[[np.ndarray], None]):
        self.rank, self._nccl, self._gpu = rank, nccl_library(), current_gpu()
        identity = np.zeros(IDENTITY, np.uint8)
        if rank == 0:
            identity[...] = [byte & NO_SIGN for byte in self._nccl.get_unique_id()]
        tell_all(identity)
        try:
            self._ranks = self._nccl.NcclCommunicator(size, tuple(identity.tolist()), rank)
        except OverflowError:  # bytes have a sign here
            signed = tuple(identity.view(np.int8).tolist())
            self._ranks = self._nccl.NcclCommunicator(size, signed, rank)

    def reduce(self, array: Any, parts: Any) -> None:
        """Make this rank's part of a flat array the sum over all ranks; the rest is left alone."""
        how, add = self._kind(array), self._nccl.NCCL_SUM
        with self._together() as stream:
            for owner, (start, end) in enumerate(parts):
                if start < end:
                    place = address(array[start:end])
                    self._ranks.reduce(place, place, end - start, how, add, owner, stream)

    def gather(self, mine: Any, whole: Any, parts: Any, root: int | None = None) -> None:
        """Bring every rank's part together in one flat array, on all ranks or on one.

        The arguments are those of Communicator.gather.
        """
        self._gpu.use()
        if whole is not None:
            whole[slice(*parts[self.rank])] = mine
        how = self._kind(mine)
        with self._together() as stream:
            for owner, (start, end) in enumerate(parts):
                if start == end:
                    continue
                part = mine if whole is None else whole[start:end]
                if root is None:
                    place = address(part)
                    self._ranks.broadcast(place, place, end - start, how, owner, stream)
                elif owner != root and self.rank == owner:
                    self._ranks.send(address(mine), end - start, how, root, stream)
                elif owner != root and self.rank == root:
                    self._ranks.recv(address(part), end - start, how, owner, stream)

    @contextmanager
    def _together(self) -> Iterator[int]:
        """Calls that NCCL starts together; gives the current stream."""
        self._gpu.use()  # a new thread begins with the first one
        self._nccl.groupStart()
        yield current_stream()
        self._nccl.groupEnd()

    def _kind(self, array):
        kinds = {
            "float32": self._nccl.NCCL_FLOAT32,
            "float64": self._nccl.NCCL_FLOAT64,
            "bfloat16": self._nccl.NCCL_BFLOAT16,
            "uint8": self._nccl.NCCL_UINT8,
        }
        if array.dtype.name not in kinds:
            raise TypeError(f"GPUs send {', '.join(kinds)} to each other, not {array.dtype}")
        return kinds[array.dtype.name]


def address(array: Any) -> int:
    """Where an array of the GPU's begins, or of the emulated one's."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
