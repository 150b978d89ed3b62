"""Several processes that train one model together: how they find each other, and talk.

`mpiexec -n 4 python program.py` starts one program four times, as ranks 0 to 3.  Each has a
`Communicator` whose methods are called by all ranks, and wait until all have called them:

    wait     for each other, and no more
    sum      numbers: all ranks get the sum; `any`: whether something holds on one of them
    reduce   arrays: the sums of an array's parts, each part's at the rank that it belongs to
    gather   arrays: every rank's part of an array, brought together

*Same bits.*  Sums are made in the order of the ranks, whichever message comes first, so that a
run with n ranks can be repeated to the bit.  MPI's own sums do not promise that.

*Balance.*  In `reduce` and `gather` each rank sends and receives 1/n of the array from each of the
others: (n − 1)/n of the array in all, and that is the least there is.

*Ending together.*  Where one rank fails, the others would wait for it for ever: `communicate` ends
them all.  Ranks that fail alike let rank 0 tell what happened.

*GPUs.*  Arrays on GPUs are summed and gathered by NCCL (gpu_messages.py), all others, and numbers,
by MPI.

MPI comes by mpi4py (the extra `mpi`), which looks for an MPI library when it is first imported.
A process that mpiexec did not start is `Alone`, and needs neither.
"""

import atexit
import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tricycle_autograd.arrays import in_float32
from tricycle_autograd.devices import device_of
from tricycle_autograd.threads import VARIABLE, allowed_cores
from tricycle_gpt.runs.gpu_messages import GPUMessages

LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")  # set by MPICH, PMIx, Open MPI
LOOKS = 200  # at messages on their way, before this rank sleeps between two of them
PAUSE = 5e-5  # seconds of that sleep at first; it doubles up to LONGEST_PAUSE
LONGEST_PAUSE = 2e-3
GRACE = 2.0  # seconds in which rank 0 may tell of an error that all ranks have

Parts = Sequence[tuple[int, int]]


class Communicator:
    """The ranks that train together, as one of them sees it.

    world  mpi4py's communicator

    rank, size  which one this is, and of how many
    neighbours  how many of them run on this machine
    sent        bytes sent to others by `reduce` and `gather` so far, NCCL's not counted

    place       its number among those

    Parts are (start, end) of a flat array, one pair for each rank; they may be empty.  Arrays are
    all numpy's, or each on its rank's own GPU.
    """

    _gpus: GPUMessages | None = None

    def __init__(self, world: Any):
        self._world = world
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self.neighbours, self.place = 1, 0
        self.sent = 0

    @property
    def gpus(self) -> GPUMessages:
        """How GPUs talk; all ranks ask for it first at the same time, each with its GPU taken."""
        if self._gpus is None:
            tell_all = partial(self._world.Bcast, root=0)
            self._gpus = GPUMessages(self.rank, self.size, tell_all)
        return self._gpus

    def sum(self, numbers: ArrayLike) -> np.ndarray:
        """The sum over all ranks of some numbers, in float64: the same bits on each rank."""
        mine = np.array(numbers, np.float64, order="C")
        everyone = np.empty((self.size, *mine.shape))
        _wait([self._world.Iallgather(mine, everyone)])
        return _sum_in_order(everyone)

    def any(self, condition: bool) -> bool:
        """Whether it holds on any rank: all get the same answer."""
        return bool(self.sum([condition])[0])

    def wait(self) -> None:
        """Wait here until every rank has come here."""
        _wait([self._world.Ibarrier()])

    def reduce(self, array: np.ndarray, parts: Parts) -> None:
        """Make this rank's part of a flat array the sum over all ranks; the rest is left alone.

        Other threads may run meanwhile, but none that talks to other ranks.
        """
        if device_of(array) == "cuda":
            self.gpus.reduce(array, parts)
            return
        start, end = parts[self.rank]
        received = np.empty((self.size, end - start), array.dtype)
        received[self.rank] = array[start:end]
        others = [r for r in range(self.size) if r != self.rank]
        outgoing = {r: array[slice(*parts[r])] for r in others}
        self._exchange(outgoing, {r: received[r] for r in others})
        array[start:end] = _sum_in_order(received)

    def gather(
        self, mine: np.ndarray, whole: np.ndarray | None, parts: Parts, root: int | None = None
    ) -> None:
        """Bring every rank's part together in one flat array, on all ranks or on one.

        mine   this rank's part
        whole  where all parts go, each to its place; None on a rank that gets nothing
        root   the only rank that gets it; all do if not given
        """
        if device_of(mine) == "cuda":
            self.gpus.gather(mine, whole, parts, root)
            return
        getters = range(self.size) if root is None else [root]
        outgoing = {r: mine for r in getters if r != self.rank}
        incoming = {}
        if whole is not None:
            incoming = {r: whole[slice(*parts[r])] for r in range(self.size) if r != self.rank}
            whole[slice(*parts[self.rank])] = mine
        self._exchange(outgoing, incoming)

    def _exchange(self, outgoing: dict[int, np.ndarray], incoming: dict[int, np.ndarray]) -> None:
        """Send and receive arrays, by rank."""
        requests = [self._world.Irecv(_for_mpi(a), r) for r, a in incoming.items() if a.size]
        requests += [self._world.Isend(_for_mpi(a), r) for r, a in outgoing.items() if a.size]
        self.sent += sum(a.nbytes for a in outgoing.values())
        _wait(requests)


class Alone(Communicator):
    """One process: the sum of what it has is what it has."""

    def __init__(self) -> None:
        self.rank, self.size, self.neighbours, self.place, self.sent = 0, 1, 1, 0, 0

    def sum(self, numbers: ArrayLike) -> np.ndarray:
        """The numbers themselves."""
        return np.asarray(numbers, np.float64)

    def wait(self) -> None:
        """Nothing: there is nothing to wait for."""

    def reduce(self, array: np.ndarray, parts: Parts) -> None:
        """Nothing: the array is its own sum."""

    def gather(
        self, mine: np.ndarray, whole: np.ndarray | None, parts: Parts, root: int | None = None
    ) -> None:
        """Put the only part in its place."""
        if whole is not None:
            whole[slice(*parts[0])] = mine


def _wait(requests):
    """Until all are done.  MPI's own waiting keeps a core busy, which others may need: sleep
    longer the longer it takes."""
    looks, pause = 0, PAUSE
    while not all(request.Test() for request in requests):
        looks += 1
        if looks > LOOKS:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _for_mpi(array):
    """The array; or, as MPI does not know bfloat16, its bits as whole numbers."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _sum_in_order(rows):
    total = in_float32(rows[0]).copy()
    for row in rows[1:]:
        total += in_float32(row)
    return total


def texts_of_all(communicator: Communicator, text: str) -> list[str]:
    """What each rank has to say, in the order of the ranks: every rank gets the list."""
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = np.zeros(communicator.size)
    sizes[communicator.rank] = len(mine)
    ends = np.cumsum(communicator.sum(sizes)).astype(int).tolist()
    parts = list(zip([0, *ends], ends, strict=False))
    whole = np.empty(ends[-1], np.uint8)
    communicator.gather(mine, whole, parts)
    return [whole[start:end].tobytes().decode() for start, end in parts]


@contextmanager
def communicate() -> Iterator[Communicator]:
    """Run a block as one of the ranks that mpiexec started, or alone.

    An error in the block ends this rank, and every other with it, once its message is written.
    The kernels of ranks that share a machine share its cores, unless TRICYCLE_NUM_THREADS says
    otherwise.

    Raises ImportError, saying what to install, where mpiexec started a program without mpi4py.
    """
    if not any(name in os.environ for name in LAUNCHED):
        yield Alone()
        return
    communicator = connect()
    try:
        yield communicator
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            _end_all_ranks(communicator)
        raise


def connect() -> Communicator:
    """Meet the other ranks; those of one machine share its cores from now on."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            "mpiexec started this program, and to talk to its other ranks it needs mpi4py; install "
            "it with the extra: tricycle-gpt[mpi]"
        ) from error
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise RuntimeError(
            "this MPI library lets only the main thread send, and gradients are sent by another "
            "one; use one built with thread support (`MPI_THREAD_SERIALIZED` or more)"
        )
    check_launcher(MPI.COMM_WORLD)
    communicator = Communicator(MPI.COMM_WORLD)
    neighbours = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    communicator.neighbours, communicator.place = neighbours.Get_size(), neighbours.Get_rank()
    if VARIABLE not in os.environ and "NUMBA_NUM_THREADS" not in os.environ:
        os.environ[VARIABLE] = str(cores_of_one(neighbours))
    return communicator


def check_launcher(world: Any) -> None:
    """Raise RuntimeError unless MPI sees the ranks that the launcher says it started.

    A launcher of one MPI and a library of another would make n runs of one rank each, all in one
    folder.
    """
    for name in LAUNCHED:
        rank, size = os.environ.get(name), os.environ.get(name.replace("RANK", "SIZE"))
        if rank is None:
            continue
        if int(rank) != world.Get_rank() or int(size or world.Get_size()) != world.Get_size():
            raise RuntimeError(
                f"this is rank {rank} of {size or 'several'} to its launcher, and rank "
                f"{world.Get_rank()} of {world.Get_size()} to the MPI library that mpi4py found: "
                "mpiexec belongs to another MPI. Use the mpiexec of that library, or name the "
                "library of this mpiexec in MPI4PY_LIBMPI (the path of its libmpi.so)"
            )


def cores_of_one(neighbours: Any) -> int:
    """How many threads each rank of one machine may have.

    Ranks that may run on the same cores divide them; a launcher that binds each rank to cores of
    its own has divided them already.
    """
    cores, _ = allowed_cores()
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    everyone = np.empty(neighbours.Get_size(), np.int64)
    neighbours.Allgather(np.array([zlib.crc32(repr(mine).encode())], np.int64), everyone)
    sharing = int((everyone == everyone[neighbours.Get_rank()]).sum())
    return max(1, cores // sharing)


def _end_all_ranks(communicator):
    """Have the interpreter end every rank when it ends this one: after printing its error, but
    before `MPI_Finalize`, which would wait for the others."""
    if communicator.size == 1:
        return
    if communicator.rank:
        time.sleep(GRACE)
        print(f"rank {communicator.rank} of {communicator.size} failed:", file=sys.stderr)

    def abort():
        sys.stderr.flush()
        time.sleep(0.2)  # the launcher passes on what was said
        communicator._world.Abort(1)

    atexit.register(abort)
